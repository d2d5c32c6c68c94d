//! Questions left open at a coordinator.
//!
//! Owns: the stream, going on at the next coordinator where it breaks or is silent, and the answers as they are now.
//! Does not own: how a change is applied (`tidemark_rollup::change`), and what an answer means.

use crate::backoff::Backoff;
use crate::error::{ClientError, root_cause};
use crate::queries;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use std::time::Duration;
use tidemark_proto::MAX_MEMBER_MESSAGE_BYTES;
use tidemark_proto::v1;
use tidemark_proto::v1::analytics_client::AnalyticsClient;
use tidemark_rollup::change::{ChangeError, apply};
use tidemark_shell::link::Dial;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_stream::StreamExt as _;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Code, Streaming};
use v1::update::Kind;

/// A coordinator sends something every ten seconds at least. One of which nothing is heard for so long is given up.
const SILENCE: Duration = Duration::from_secs(25);

/// A quarter of a second at least, since a delay is never under half of what it is at most; and five seconds at most.
const BACKOFF: Backoff = Backoff { first: Duration::from_millis(500), most: Duration::from_secs(5) };

/// Questions left open, and their answers as they are now.
///
/// One stream has all of the questions, 32 at most. Where it breaks, or nothing comes for 25 seconds, the next coordinator is
/// asked after a quarter of a second to five seconds, and each question continues from the answer it has. In memory there are one
/// answer for each question, and the last change.
#[derive(Debug)]
pub struct Subscription {
    at: Vec<String>,
    /// Which of them is asked.
    asked: usize,
    questions: Vec<Question>,
    every_ms: u32,
    state: State,
    /// In a row, without an update in between.
    failures: u32,
    random: StdRng,
    last_change: Option<v1::Change>,
    dial: Dial,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A coordinator took the questions.
    Connected {
        /// Its address.
        at: String,
    },
    /// The stream broke, or there was none. Answers stay as they are meanwhile.
    Lost {
        /// The coordinator's address.
        at: String,
        /// What happened.
        because: String,
        /// How long until the next coordinator is asked.
        retry_in: Duration,
    },
    /// A question has another answer now.
    Answer {
        /// Its position among the questions.
        question: usize,
        /// Whether a change came, and not a whole answer.
        is_change: bool,
        /// Rows that came as new ones: all of a whole answer. After resuming some of them can be as they were.
        added: usize,
        /// Rows with other numbers.
        changed: usize,
        /// Rows that are not in the answer any more, as far as the change names them.
        gone: usize,
    },
}

#[derive(Debug)]
struct Question {
    query: v1::Query,
    answer: Option<v1::Answer>,
    /// Of the last update; "" to begin anew.
    resume: String,
    /// An answer has to come first: there is none that a change could be applied to.
    begins: bool,
}

/// What is waited for. It is kept here and not in `next`, which may be cancelled at any time.
#[derive(Debug)]
enum State {
    Pausing { until: Instant },
    Opening(AbortOnDropHandle<Result<Streaming<v1::Update>, ClientError>>),
    Open { stream: Box<Streaming<v1::Update>>, silent_at: Instant },
}

/// Why a coordinator's stream is of no more use.
#[derive(Debug, thiserror::Error)]
enum Loss {
    #[error(transparent)]
    Call(#[from] ClientError),
    #[error("nothing came for {SILENCE:?}")]
    Silent,
    #[error("the coordinator ended the stream")]
    Ended,
    #[error("an update came that is of none of the questions")]
    Stray,
    #[error("question {question} begins anew: {error}")]
    Misfit { question: usize, error: ChangeError },
}

impl Subscription {
    /// The same with TLS, for coordinators at `https://host:port`, a token, or both.
    pub fn through(self, dial: Dial) -> Self {
        Self { dial, ..self }
    }

    /// Prepares to ask `questions` at the coordinators `at`, each `http://host:port`; the first one is asked first. A change shows
    /// after `every` at the latest, 100 ms to 60 s; zero means a second. `seed` is random, so that many who lost a coordinator
    /// together do not come back together.
    ///
    /// # Errors
    /// Where an address is none, or there is no address.
    pub fn new(
        at: Vec<String>,
        questions: Vec<v1::Query>,
        every: Duration,
        seed: u64,
    ) -> Result<Self, ClientError> {
        if at.is_empty() {
            return Err(ClientError::Address { address: String::new() });
        }
        for address in &at {
            queries::endpoint(address)?;
        }
        let question = |query| Question { query, answer: None, resume: String::new(), begins: true };
        Ok(Self {
            at,
            asked: 0,
            questions: questions.into_iter().map(question).collect(),
            // Rounded up: zero would mean a second. What is out of bounds the coordinator refuses.
            every_ms: u32::try_from(every.as_nanos().div_ceil(1_000_000)).unwrap_or(u32::MAX),
            state: State::Pausing { until: Instant::now() },
            failures: 0,
            random: StdRng::seed_from_u64(seed),
            last_change: None,
            dial: Dial::default(),
        })
    }

    /// Waits for something to happen. Cancel-safe: nothing is lost where the future is dropped.
    ///
    /// # Errors
    /// Where asking again would not help, as with a question that cannot be. Whoever calls again asks again, after a pause.
    pub async fn next(&mut self) -> Result<Event, ClientError> {
        loop {
            match self.step().await {
                Ok(Some(event)) => return Ok(event),
                Ok(None) => {}
                Err(loss) => return self.lose(loss),
            }
        }
    }

    /// The answer to a question as it is now; `None` until the first one came, or where there is no such question.
    pub fn answer(&self, question: usize) -> Option<&v1::Answer> {
        self.questions.get(question)?.answer.as_ref()
    }

    /// The change that came last, or `None` where it was an answer.
    pub fn last_change(&self) -> Option<&v1::Change> {
        self.last_change.as_ref()
    }

    /// Waits for what the state waits for; `None` where that is nothing to tell of.
    async fn step(&mut self) -> Result<Option<Event>, Loss> {
        match &mut self.state {
            State::Pausing { until } => {
                sleep_until(*until).await;
                let request = self.request();
                let opening = tokio::spawn(open(self.at[self.asked].clone(), self.dial.clone(), request));
                self.state = State::Opening(AbortOnDropHandle::new(opening));
                Ok(None)
            }
            State::Opening(opening) => {
                let opened = opening.await.map_err(|error| ClientError::Other {
                    code: Code::Internal,
                    message: error.to_string(),
                })?;
                self.state = State::Open { stream: Box::new(opened?), silent_at: Instant::now() + SILENCE };
                Ok(Some(Event::Connected { at: self.at[self.asked].clone() }))
            }
            State::Open { stream, silent_at } => {
                let came = timeout_at(*silent_at, stream.next()).await.map_err(|_| Loss::Silent)?;
                let update =
                    came.ok_or(Loss::Ended)?.map_err(|status| call_failed(&self.at[self.asked], &status))?;
                *silent_at = Instant::now() + SILENCE;
                self.take(update).map(Some)
            }
        }
    }

    fn request(&self) -> v1::SubscribeRequest {
        let subscription = |question: &Question| v1::Subscription {
            query: Some(question.query.clone()),
            every_ms: self.every_ms,
            resume: question.resume.clone(),
        };
        v1::SubscribeRequest { subscriptions: self.questions.iter().map(subscription).collect() }
    }

    fn take(&mut self, update: v1::Update) -> Result<Event, Loss> {
        let number = update.subscription as usize;
        let (question, kind) = self.questions.get_mut(number).zip(update.kind).ok_or(Loss::Stray)?;
        let event = match kind {
            Kind::Answer(answer) => {
                let added = answer.rows.len();
                question.answer = Some(answer);
                question.begins = false;
                self.last_change = None;
                Event::Answer { question: number, is_change: false, added, changed: 0, gone: 0 }
            }
            Kind::Change(change) => {
                question.change(change.clone()).map_err(|error| Loss::Misfit { question: number, error })?;
                let (added, changed, gone) = (change.added.len(), change.changed.len(), change.gone.len());
                self.last_change = Some(change);
                Event::Answer { question: number, is_change: true, added, changed, gone }
            }
        };
        question.resume = update.resume;
        self.failures = 0;
        Ok(event)
    }

    /// Turns to the next coordinator, after a pause.
    fn lose(&mut self, loss: Loss) -> Result<Event, ClientError> {
        if let Loss::Misfit { question, .. } = loss
            && let Some(question) = self.questions.get_mut(question)
        {
            question.resume.clear();
            question.begins = true;
        }
        self.failures = self.failures.saturating_add(1);
        let retry_in = BACKOFF.delay(self.failures, &mut self.random);
        self.state = State::Pausing { until: Instant::now() + retry_in };
        let next = (self.asked + 1) % self.at.len();
        let at = self.at[std::mem::replace(&mut self.asked, next)].clone();
        match loss {
            Loss::Call(error) if !passes(&error) => Err(error),
            loss => Ok(Event::Lost { at, because: loss.to_string(), retry_in }),
        }
    }
}

impl Question {
    fn change(&mut self, change: v1::Change) -> Result<(), ChangeError> {
        match &mut self.answer {
            Some(answer) if !self.begins => apply(answer, change),
            _ => Err(ChangeError),
        }
    }
}

async fn open(
    at: String,
    dial: Dial,
    request: v1::SubscribeRequest,
) -> Result<Streaming<v1::Update>, ClientError> {
    let opening = async {
        let link = queries::open(&at, &dial).await?;
        let mut client = AnalyticsClient::new(link).max_decoding_message_size(MAX_MEMBER_MESSAGE_BYTES);
        let reply = client.subscribe(request).await.map_err(|status| call_failed(&at, &status))?;
        Ok(reply.into_inner())
    };
    let silent = |_| ClientError::Unreachable { address: at.clone(), message: Loss::Silent.to_string() };
    timeout(SILENCE, opening).await.map_err(silent)?
}

/// Where a connection broke, its cause says more than the status made of it.
fn call_failed(at: &str, status: &tonic::Status) -> ClientError {
    match ClientError::of(at, status) {
        ClientError::Other { code: Code::Unknown | Code::Internal, .. } => {
            ClientError::Unreachable { address: at.to_owned(), message: root_cause(status) }
        }
        error => error,
    }
}

/// Whether the same may succeed later, or elsewhere.
fn passes(error: &ClientError) -> bool {
    match error {
        ClientError::Address { .. } | ClientError::InvalidQuery(_) => false,
        ClientError::Other { code, .. } => !matches!(
            code,
            // Too large for this client, not known to the other side, or not allowed.
            Code::OutOfRange | Code::Unimplemented | Code::Unauthenticated | Code::PermissionDenied
        ),
        _ => true,
    }
}
