//! Asking many nodes at once.
//!
//! Owns: the deadline, gathering replies until it, and why a node's reply is not there.
//! Does not own: what is asked (`sites`, `readiness`), asking one node after another (`query::round`), connections
//! (`peers`).

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use std::error::Error as _;
use std::future::Future;
use std::time::Duration;
use tidemark_proto::SCHEMA_METADATA;
use tidemark_rollup::partial::TooManyRows;
use tidemark_shell::link::AddressError;
use tokio::time::{Instant, timeout_at};
use tonic::{Code, Request, Status};

/// Longest reason in bytes: reasons come from nodes and go into every answer.
const MAX_REASON_BYTES: usize = 200;

/// Nodes are told that we wait so much longer than we do, so that it is we who say how long it took.
const MARGIN: Duration = Duration::from_millis(100);

/// When waiting ends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline {
    start: Instant,
    allowed: Duration,
}

impl Deadline {
    pub(crate) fn after(allowed: Duration) -> Self {
        Self { start: Instant::now(), allowed }
    }

    pub(crate) fn at(self) -> Instant {
        self.start + self.allowed
    }

    /// Half of the time that is left: for a round that another one has to follow.
    pub(crate) fn half(self) -> Self {
        Self::after(self.left() / 2)
    }

    pub(crate) fn left(self) -> Duration {
        self.at().saturating_duration_since(Instant::now())
    }

    /// `message` as a request that tells the node how long anybody waits.
    pub(crate) fn request<T>(self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(self.left() + MARGIN);
        request
    }

    /// What became of a node that this deadline was over for.
    pub(crate) fn failure(self) -> Failure {
        Failure::new(format!("did not answer within {:?}", self.allowed))
    }
}

/// Why there is no reply from a node.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    /// For the facts of an answer.
    pub(crate) reason: String,
    /// Set where the node did answer, and will not do what it was asked for.
    pub(crate) refusal: Option<Refusal>,
    /// Set where the node's schema does not fit the question: asking it again is of no use, asking another one may be.
    pub(crate) is_unfit: bool,
}

/// A node's "no" to a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) code: Code,
    pub(crate) message: String,
}

impl Refusal {
    /// Whether the question has more groups than a node may hold: no other node's reply makes up for that.
    pub(crate) fn is_too_many_rows(&self) -> bool {
        self.message.contains(&TooManyRows.to_string())
    }
}

impl Failure {
    pub(crate) fn new(reason: impl Into<String>) -> Self {
        let mut reason = reason.into();
        reason.truncate(reason.floor_char_boundary(MAX_REASON_BYTES));
        Self { reason, refusal: None, is_unfit: false }
    }
}

impl From<AddressError> for Failure {
    fn from(error: AddressError) -> Self {
        Self::new(error.to_string())
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        let message = status.message();
        match status.code() {
            // Only what the connection says has a source; the rest comes from the node itself.
            Code::Unavailable if status.source().is_some() => {
                Self::new(format!("cannot be reached: {}", root_cause(&status)))
            }
            // tonic cancels what its own time limit ends.
            Code::DeadlineExceeded | Code::Cancelled => Self::new("did not answer in time"),
            Code::FailedPrecondition if status.metadata().contains_key(SCHEMA_METADATA) => {
                Self { is_unfit: true, ..Self::new(message) }
            }
            code @ (Code::InvalidArgument | Code::FailedPrecondition | Code::ResourceExhausted) => Self {
                refusal: Some(Refusal { code, message: message.to_owned() }),
                ..Self::new(format!("refuses: {message}"))
            },
            code => Self::new(format!("failed ({code:?}): {}", root_cause(&status))),
        }
    }
}

/// The innermost error: "connection refused" says more than "transport error".
fn root_cause(status: &Status) -> String {
    let mut cause = None;
    let mut next = status.source();
    while let Some(error) = next {
        cause = Some(error.to_string());
        next = error.source();
    }
    cause.unwrap_or_else(|| status.message().to_owned())
}

/// Makes all `calls` at once and waits for their replies until `deadline`, or until the replies are `enough`. One reply per
/// call, in their order.
pub(crate) async fn ask_all<F, T>(
    calls: impl Iterator<Item = F>,
    deadline: Deadline,
    enough: impl Fn(&[Option<Result<T, Failure>>]) -> bool,
) -> Vec<Result<T, Failure>>
where
    F: Future<Output = Result<T, Failure>>,
{
    let calls = calls.enumerate().map(|(at, call)| async move { (at, call.await) });
    let mut pending: FuturesUnordered<_> = calls.collect();
    let mut replies: Vec<_> = (0..pending.len()).map(|_| None).collect();
    while !enough(&replies)
        && let Ok(Some((at, reply))) = timeout_at(deadline.at(), pending.next()).await
    {
        replies[at] = Some(reply);
    }
    replies.into_iter().map(|reply| reply.unwrap_or_else(|| Err(deadline.failure()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::{pending, ready};

    #[tokio::test]
    async fn replies_come_in_the_order_of_the_calls_and_a_late_one_is_a_failure() {
        let deadline = Deadline::after(Duration::from_millis(20));
        let calls = (0..3).map(|call| async move {
            match call {
                1 => pending().await,
                call => ready(Ok(call)).await,
            }
        });
        let replies = ask_all(calls, deadline, |_| false).await;
        assert_eq!((replies[0].as_ref().ok(), replies[2].as_ref().ok()), (Some(&0), Some(&2)));
        let reason = &replies[1].as_ref().unwrap_err().reason;
        assert_eq!(reason, "did not answer within 20ms");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_enough_is_not_waited_beyond() {
        let calls = (0..2).map(|call| async move { if call == 1 { pending().await } else { Ok(call) } });
        let start = Instant::now();
        let replies =
            ask_all(calls, Deadline::after(Duration::from_secs(1)), |replies| replies[0].is_some()).await;
        assert!(replies[0].is_ok() && replies[1].is_err());
        assert_eq!(start.elapsed(), Duration::ZERO);
    }

    #[test]
    fn a_refusal_for_too_many_rows_is_told_from_an_overloaded_node() {
        let refusal = |status: Status| Failure::from(status).refusal.unwrap();
        assert!(refusal(Status::invalid_argument(TooManyRows.to_string())).is_too_many_rows());
        assert!(!refusal(Status::resource_exhausted("too many queries")).is_too_many_rows());
        assert!(Failure::from(Status::internal("x")).refusal.is_none());
    }

    #[test]
    fn a_node_whose_schema_lacks_a_name_fails_and_does_not_refuse_the_question() {
        let mut status = Status::failed_precondition("the schema of node n2 has no measure likes yet");
        assert!(Failure::from(status.clone()).refusal.is_some());
        status.metadata_mut().insert(SCHEMA_METADATA, "likes".parse().unwrap());
        let failure = Failure::from(status);
        assert!(failure.refusal.is_none() && failure.is_unfit);
        assert_eq!(failure.reason, "the schema of node n2 has no measure likes yet");
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let failure = Failure::new("é".repeat(MAX_REASON_BYTES));
        assert_eq!(failure.reason.len(), MAX_REASON_BYTES);
        assert_eq!(
            Failure::new("x".to_owned() + &"é".repeat(MAX_REASON_BYTES)).reason.len(),
            MAX_REASON_BYTES - 1
        );
    }
}
