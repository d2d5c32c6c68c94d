//! What can go wrong between a client and a cluster.

use std::time::Duration;
use tidemark_proto::v1::RefusalReason;
use tidemark_rollup::split::BatchError;
use tonic::{Code, Status};

/// Why a client's call failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Give `http://host:port`.
    #[error("{address:?} is no address: give http://host:port")]
    Address {
        /// What was given.
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
}
