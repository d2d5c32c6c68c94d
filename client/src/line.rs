//! A line to a node: one stream of blocks and their acknowledgements.
//!
//! Owns: the stream and the task that reads it.
//! Does not own: which blocks go over it, and how long an acknowledgement may take (`desk`).

use crate::error::root_cause;
use std::sync::Arc;
use std::time::Duration;
use tidemark_proto::v1;
use tidemark_proto::v1::ingest_client::IngestClient;
use tidemark_shell::link::{AddressError, Link};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;

/// Tells lines to one node apart.
pub(crate) type Epoch = u64;

/// What a line has to say.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) address: Arc<str>,
    pub(crate) epoch: Epoch,
    pub(crate) said: Said,
}

#[derive(Debug)]
pub(crate) enum Said {
    Answered(v1::BlockAck),
    /// The last thing it says.
    Broke(String),
}

/// An open line, or one that is being opened. Ends with this value.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) epoch: Epoch,
    blocks: mpsc::Sender<v1::Block>,
    _task: AbortOnDropHandle<()>,
}

impl Line {
    /// Opens a line that holds up to `capacity` blocks which are not on the wire yet.
    pub(crate) fn open(
        link: Result<Link, AddressError>,
        address: Arc<str>,
        epoch: Epoch,
        capacity: usize,
        timeout: Duration,
        reports: mpsc::Sender<Report>,
    ) -> Self {
        let (blocks, outgoing) = mpsc::channel(capacity);
        let task = tokio::spawn(async move {
            let teller = Teller { address, epoch, reports };
            let why = match link {
                Ok(link) => run(link, outgoing, timeout, &teller).await,
                Err(error) => error.to_string(),
            };
            teller.say(Said::Broke(why)).await;
        });
        Self { epoch, blocks, _task: AbortOnDropHandle::new(task) }
    }

    /// Puts a block on the line. `false` where it takes none.
    pub(crate) fn send(&self, block: v1::Block) -> bool {
        self.blocks.try_send(block).is_ok()
    }
}

struct Teller {
    address: Arc<str>,
    epoch: Epoch,
    reports: mpsc::Sender<Report>,
}

impl Teller {
    async fn say(&self, said: Said) {
        let report = Report { address: Arc::clone(&self.address), epoch: self.epoch, said };
        // Nobody listens where the producer is gone; this task ends with it.
        _ = self.reports.send(report).await;
    }
}

/// Runs until the line breaks; tells why it did.
async fn run(link: Link, outgoing: mpsc::Receiver<v1::Block>, timeout: Duration, teller: &Teller) -> String {
    let mut client = IngestClient::new(link);
    let call = client.send_blocks(ReceiverStream::new(outgoing));
    let mut acks = match tokio::time::timeout(timeout, call).await {
        Ok(Ok(acks)) => acks.into_inner(),
        Ok(Err(status)) => return root_cause(&status),
        Err(_) => return "the node did not answer in time".to_owned(),
    };
    loop {
        match acks.message().await {
            Ok(Some(ack)) => teller.say(Said::Answered(ack)).await,
            Ok(None) => return "the node ended the line".to_owned(),
            Err(status) => return root_cause(&status),
        }
    }
}
