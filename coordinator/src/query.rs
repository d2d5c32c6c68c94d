//! From a question to its answer.
//!
//! Owns: how many questions are answered at once, checking a question, and counting how it ended.
//! Does not own: asking the nodes (`rounds`; one of them: `round`; whom: `asking`, after how long: `pace`), values beyond the
//! limit (`limit`), putting replies together (`merge`), what is missing (`missing`).

mod asking;
mod kept;
mod limit;
mod merge;
mod missing;
mod pace;
mod round;
mod rounds;

use crate::config::CoordinatorConfig;
use crate::fanout::Deadline;
use crate::metrics::{CoordinatorMetrics, QueryOutcome};
use crate::peers::Peers;
use crate::quotas::{Quotas, Turn};
use futures::FutureExt as _;
pub(crate) use kept::Kept;
use pace::Pace;
use rounds::Rounds;
use std::num::NonZeroUsize;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;
use tidemark_access::token::Scope;
use tidemark_access::{Access, Caller, Forbidden};
use tidemark_proto::v1;
use tidemark_rollup::partial::TooManyRows;
use tidemark_rollup::query::{Query, QueryError, SiteSelection};
use tidemark_rollup::quota::OverQuota;
use tidemark_rollup::schema::Schema;
use tidemark_rollup::time::{Clock, EventTime};
use tidemark_shell::work;
use tidemark_telemetry::seldom::Seldom;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// When to come back after [`AskError::Busy`]: queries take milliseconds, so that a place is free soon.
pub(crate) const BUSY_RETRY: Duration = Duration::from_millis(200);

/// Why a question is not answered.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum AskError {
    /// Correct the field.
    #[error(transparent)]
    Invalid(#[from] QueryError),
    /// Use a token that is for it.
    #[error(transparent)]
    Forbidden(#[from] Forbidden),
    /// Ask the same a moment later.
    #[error("{max} queries are being answered already: ask again in a moment")]
    Busy { max: NonZeroUsize },
    /// Ask when the site has something left.
    #[error(transparent)]
    OverQuota(#[from] OverQuota),
    /// Narrow the range, filter, or group by less.
    #[error(transparent)]
    TooManyRows(#[from] TooManyRows),
    /// Do what the nodes say.
    #[error("every node refuses: {message}")]
    Refused { code: tonic::Code, message: String },
    /// Report it: the coordinator is at fault.
    #[error("the answer could not be put together; the coordinator's log says why")]
    Failed,
}

impl AskError {
    const fn outcome(&self) -> QueryOutcome {
        match self {
            Self::Invalid(_)
            | Self::Forbidden(_)
            | Self::Busy { .. }
            | Self::OverQuota(_)
            | Self::TooManyRows(_)
            | Self::Refused { .. } => QueryOutcome::Refused,
            Self::Failed => QueryOutcome::Failed,
        }
    }
}

/// Answers questions. Everything it needs to know is in the question and on the nodes; that it knows how fast nodes were
/// lately only makes it faster.
pub(crate) struct Queries {
    peers: Arc<Peers>,
    clock: Arc<dyn Clock>,
    schema: Arc<Schema>,
    shard_count: u32,
    dimension_values: u32,
    timeout: Duration,
    max_queries: NonZeroUsize,
    busy: Seldom,
    panicked: Seldom,
    permits: Arc<Semaphore>,
    quotas: Arc<Quotas>,
    pace: Pace,
    metrics: CoordinatorMetrics,
    access: Access,
}

impl Queries {
    pub(crate) fn new(
        config: &CoordinatorConfig,
        peers: Arc<Peers>,
        clock: Arc<dyn Clock>,
        metrics: CoordinatorMetrics,
        access: Access,
    ) -> Self {
        Self {
            peers,
            clock,
            access,
            schema: Arc::clone(&config.schema),
            shard_count: config.shards.get(),
            dimension_values: config.dimension_values,
            timeout: config.query_timeout,
            max_queries: config.max_queries,
            busy: Seldom::default(),
            panicked: Seldom::default(),
            permits: Arc::new(Semaphore::new(config.max_queries.get())),
            quotas: Arc::new(Quotas::new(config.site_quotas.clone())),
            pace: Pace::default(),
            metrics,
        }
    }

    /// Answers `question`, within `patience` where the caller has less of it than is configured.
    pub(crate) async fn ask(
        &self,
        question: &v1::Query,
        caller: &Caller,
        patience: Option<Duration>,
    ) -> Result<v1::Answer, AskError> {
        let start = Instant::now();
        let answer = self.answer(question, caller, patience).await;
        let outcome = match &answer {
            Ok(answer) if answer.facts.as_ref().is_some_and(|facts| facts.complete) => QueryOutcome::Complete,
            Ok(_) => QueryOutcome::Partial,
            Err(error) => error.outcome(),
        };
        self.metrics.query_ended(outcome, start.elapsed());
        answer
    }

    async fn answer(
        &self,
        question: &v1::Query,
        caller: &Caller,
        patience: Option<Duration>,
    ) -> Result<v1::Answer, AskError> {
        let query = Arc::new(self.check(question)?);
        self.check_caller(&query, caller)?;
        let site = query.site.name();
        let turn = self.quotas.admit(site, self.clock.now())?;
        let permit = self.admit()?;
        let measures = self.meanings(&query);
        let gathered = self.rounds(&query, &measures, self.deadline(patience), None).run().await?;
        self.quotas.charge(site, gathered.rows_scanned(), self.clock.now());
        self.merged(gathered, Arc::clone(&query), Some((permit, turn))).await
    }

    /// Answers `question` as [`ask`](Self::ask) does, which was asked before and will be again: nodes that have nothing new since
    /// what is `kept` do not send it again. `None` where nobody has.
    pub(crate) async fn ask_again(
        &self,
        question: &v1::Query,
        kept: &mut Kept,
    ) -> Result<Option<v1::Answer>, AskError> {
        let query = Arc::new(self.check(question)?);
        kept.is_about(&query);
        let measures = self.meanings(&query);
        let gathered = self.rounds(&query, &measures, self.deadline(None), Some(kept)).run().await?;
        match kept.note(&gathered, &self.peers.plan()) {
            true => self.merged(gathered, query, None).await.map(Some),
            false => Ok(None),
        }
    }

    /// What is meant by the query's measures, as the schema spells them. `active` means the same everywhere.
    fn meanings(&self, query: &Query) -> Vec<String> {
        let measures = query.columns.iter().filter_map(|column| self.schema.measure(&column.name));
        measures.map(ToString::to_string).collect()
    }

    fn rounds<'a>(
        &'a self,
        query: &'a Arc<Query>,
        measures: &'a [String],
        deadline: Deadline,
        kept: Option<&'a Kept>,
    ) -> Rounds<'a> {
        Rounds {
            peers: &self.peers,
            query,
            measures,
            shard_count: self.shard_count,
            limit: self.dimension_values,
            deadline,
            pace: &self.pace,
            metrics: &self.metrics,
            kept,
        }
    }

    async fn merged(
        &self,
        gathered: rounds::Gathered,
        query: Arc<Query>,
        place: Option<(OwnedSemaphorePermit, Turn)>,
    ) -> Result<v1::Answer, AskError> {
        self.metrics.shards_missing(gathered.lost.len());
        let (plan, clock) = (self.peers.plan(), Arc::clone(&self.clock));
        let merging = work::run_on(gathered.bytes(), move || {
            // The place rides along: who asked may be gone, the work is not.
            let _place = place;
            merge::answer(&plan, gathered, &query, clock.as_ref())
        });
        // A question that makes merging panic must not take down the connection, and the questions beside it.
        let merged = AssertUnwindSafe(merging).catch_unwind().await.map_err(|_| {
            if let Some(left_out) = self.panicked.due() {
                tracing::error!(left_out, "merging an answer panicked");
            }
            AskError::Failed
        });
        Ok(merged??)
    }

    /// The question as it is understood now.
    pub(crate) fn check(&self, question: &v1::Query) -> Result<Query, QueryError> {
        Query::parse(question, &self.schema, self.clock.now())
    }

    /// Whether this caller may ask this.
    pub(crate) fn check_caller(&self, query: &Query, caller: &Caller) -> Result<(), Forbidden> {
        let judged = match &query.site {
            SiteSelection::One(site) => caller.may(Scope::Query, site),
            SiteSelection::All => caller.may_for_all(Scope::Query),
        };
        judged.inspect_err(|forbidden| self.access.refused(*forbidden))
    }

    pub(crate) fn now(&self) -> EventTime {
        self.clock.now()
    }

    /// A place among the questions being answered.
    pub(crate) fn admit(&self) -> Result<OwnedSemaphorePermit, AskError> {
        let permit = Arc::clone(&self.permits).try_acquire_owned();
        permit.map_err(|_| {
            if let Some(left_out) = self.busy.due() {
                tracing::warn!(
                    max_queries = self.max_queries,
                    left_out,
                    "a query is refused: so many are asked already"
                );
            }
            AskError::Busy { max: self.max_queries }
        })
    }

    pub(crate) fn deadline(&self, patience: Option<Duration>) -> Deadline {
        Deadline::after(patience.map_or(self.timeout, |patience| patience.min(self.timeout)))
    }
}
