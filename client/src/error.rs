//! What can go wrong between a client and a cluster.
//!
//! Owns: the errors by operation, and what to do about each.
//! Does not own: what becomes of single blocks (`ticket::Why`).

use crate::ticket::Why;
use std::path::PathBuf;
use std::time::Duration;
use tidemark_journal::{OpenError, ReadError};
use tidemark_proto::v1;
use tidemark_proto::v1::RefusalReason;
use tidemark_rollup::block::ProducerId;
use tidemark_rollup::split::BatchError;
use tonic::{Code, Status};

/// Why a client's call failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Give `http://host:port`.
    #[error("{address:?} is no address: give http://host:port or https://host:port")]
    Address {
        /// What was given.
        address: String,
    },
    /// Say whom to believe.
    #[error("{address} is secured, and there is nobody to believe: give the CA's certificate")]
    NoTls {
        /// Where.
        address: String,
    },
    /// Start the member, or name another one.
    #[error("nobody answers at {address}: {message}")]
    Unreachable {
        /// Where.
        address: String,
        /// What happened.
        message: String,
    },
    /// Change the question as the message says.
    #[error("{0}")]
    InvalidQuery(String),
    /// Ask again later.
    #[error("{0}")]
    Busy(String),
    /// The events cannot be put into blocks. Nothing was sent.
    #[error("the events cannot be sent: {0}")]
    Batch(#[from] BatchError),
    /// Nothing of the block is counted, and sending it again does not help.
    #[error("a block was refused ({}): {message}", reason.name())]
    Refused {
        /// Why.
        reason: RefusalReason,
        /// In words.
        message: String,
    },
    /// Some blocks may be counted and some not. The same events sent again by this producer would count again.
    #[error("{blocks} blocks were not acknowledged within {waited:?}: {last}")]
    Unacknowledged {
        /// How many.
        blocks: usize,
        /// How long was tried.
        waited: Duration,
        /// What went wrong last.
        last: String,
    },
    /// See to the spool's folder as the message says.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// Report it.
    #[error("the cluster answered {code:?}: {message}")]
    Other {
        /// The gRPC code.
        code: Code,
        /// In words.
        message: String,
    },
}

impl ClientError {
    pub(crate) fn of(address: &str, status: &Status) -> Self {
        let message = status.message().to_owned();
        match status.code() {
            Code::InvalidArgument => Self::InvalidQuery(message),
            Code::ResourceExhausted => Self::Busy(message),
            Code::Unavailable | Code::Cancelled | Code::DeadlineExceeded => {
                Self::Unreachable { address: address.to_owned(), message }
            }
            code => Self::Other { code, message },
        }
    }

    /// Of a block that could not be brought.
    pub(crate) fn of_block(why: Why) -> Self {
        match why {
            Why::Refused { reason, message } => Self::Refused { reason, message },
            Why::GivenUp { waited, last } => Self::Unacknowledged { blocks: 1, waited, last },
            Why::Spooled | Why::Unreadable(_) | Why::Abandoned => {
                Self::Unacknowledged { blocks: 1, waited: Duration::ZERO, last: why.to_string() }
            }
        }
    }
}

/// Why a batch was not taken. Nothing of it was; the events are given back.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// Send the same events again later.
    #[error("the producer is full: {blocks} blocks are not acknowledged, and {waited:?} made no room")]
    Full {
        /// The events.
        events: Vec<v1::Event>,
        /// Blocks that are in memory.
        blocks: usize,
        /// How long the call waited for room.
        waited: Duration,
    },
    /// Mend the batch: it can never be put into blocks.
    #[error("the events cannot be sent: {error}")]
    Batch {
        /// The events.
        events: Vec<v1::Event>,
        /// Why.
        error: BatchError,
    },
    /// Send the same events again later; if it goes on, see to the disk of the spool.
    #[error("sequence numbers are used up, and the spool's disk does not take a reservation of more")]
    Numbers {
        /// The events.
        events: Vec<v1::Event>,
    },
    /// The producer's task has ended, with its runtime. Make another producer.
    #[error("the producer has ended")]
    Ended {
        /// The events.
        events: Vec<v1::Event>,
    },
}

impl From<SendError> for ClientError {
    fn from(error: SendError) -> Self {
        match error {
            SendError::Batch { error, .. } => Self::Batch(error),
            SendError::Full { blocks, waited, .. } => {
                Self::Unacknowledged { blocks, waited, last: "there is no room for more".to_owned() }
            }
            SendError::Numbers { .. } | SendError::Ended { .. } => {
                Self::Other { code: Code::Aborted, message: error.to_string() }
            }
        }
    }
}

impl SendError {
    /// The events, which were not taken.
    pub fn into_events(self) -> Vec<v1::Event> {
        match self {
            Self::Full { events, .. }
            | Self::Batch { events, .. }
            | Self::Numbers { events }
            | Self::Ended { events } => events,
        }
    }

    pub(crate) fn events_mut(&mut self) -> &mut Vec<v1::Event> {
        match self {
            Self::Full { events, .. }
            | Self::Batch { events, .. }
            | Self::Numbers { events }
            | Self::Ended { events } => events,
        }
    }
}

/// Why a spool cannot be opened. Nothing in it was changed.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// Which numbers were used is not known, and a number used twice would lose events.
    #[error(
        "{} is damaged or of another program: put it back from a copy, or give the producer another folder and keep this one \
         for its blocks",
        file.display()
    )]
    Sequence {
        /// The file.
        file: PathBuf,
    },
    /// Likewise.
    #[error(
        "{} has blocks, and its file `sequence` is gone: put it back, or give the producer another folder",
        dir.display()
    )]
    NoSequence {
        /// The spool's folder.
        dir: PathBuf,
    },
    /// The folder was put together from two.
    #[error("{} has blocks of producer {found}, and is of producer {ours}: give the producer another folder", dir.display())]
    Foreign {
        /// The spool's folder.
        dir: PathBuf,
        /// Whose blocks are there.
        found: ProducerId,
        /// Whose they should be.
        ours: ProducerId,
    },
    /// See to the disk or to the rights on the folder.
    #[error("cannot {act} {}: {source}", path.display())]
    Io {
        /// What was tried.
        act: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// As its message says.
    #[error("the spool cannot be opened: {0}")]
    Open(#[from] OpenError),
    /// See to the disk; the file can be put aside, which loses its blocks.
    #[error("a block of the spool cannot be read: {0}")]
    Read(ReadError),
}

/// The innermost cause: "connection refused" says more than "transport error".
pub(crate) fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    match cause.downcast_ref::<Status>() {
        Some(status) => status.message().to_owned(),
        None => cause.to_string(),
    }
}
