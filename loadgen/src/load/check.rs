//! Whether a cluster counts what was sent.
//!
//! Owns: what is asked, and what counts as a difference.
//! Does not own: what was sent (`sent`).
//!
//! Counts have to be exact: by bucket, by URL (all of them), by each value of each dimension. Visitors have to be within four
//! standard errors, and percentiles within the relative error, that the cluster itself promises with its answer.

use super::sent::{Count, OfSite, Sent};
use super::traffic::{DIMENSIONS, Names};
use futures::StreamExt as _;
use futures::future::{BoxFuture, FutureExt as _};
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;
use tidemark_client::{ClientError, QueryClient};
use tidemark_proto::v1;
use tidemark_rollup::time::BucketStart;
use tokio::time::Instant;

/// URLs of one question: as many as a filter takes.
const URLS: usize = 1_000;
/// Questions at a time.
const ASKED: usize = 4;
/// How many differences of each kind (bucket, url, a dimension) are kept; more are counted.
const MAX_OF_A_KIND: usize = 20;
/// How far estimates of visitors may be off, in standard errors.
const STANDARD_ERRORS: f64 = 4.0;
/// A question that is refused or answered in part is asked again after this.
const AGAIN: Duration = Duration::from_millis(250);
/// As many as a question may ask for.
const LIMIT: u32 = 10_000;

/// What was compared, and what differs.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    /// Events that were sent and acknowledged,
    pub sure: u64,
    /// and those that may be counted or not, because nobody said.
    pub unsure: u64,
    /// Numbers of the cluster that were compared.
    pub compared: u64,
    /// Of these, how many differ.
    pub differing: u64,
    /// The first twenty of each kind: of buckets, of URLs, of each dimension.
    pub differences: Vec<Difference>,
}

/// A number that is not as it should be.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Difference {
    /// Of which site,
    pub site: String,
    /// and of what in it: `url=/a`, `bucket=2026-11-28T10:00:00Z`.
    pub of: String,
    /// Which measure.
    pub measure: &'static str,
    /// What the cluster says; nothing where it does not know it.
    pub cluster: Option<f64>,
    /// What was sent: at least this,
    pub at_least: f64,
    /// and at most this.
    pub at_most: f64,
}

impl Difference {
    fn kind(&self) -> &str {
        self.of.split('=').next().unwrap_or_default()
    }
}

impl Verdict {
    /// Whether the cluster counts what was sent.
    pub fn is_equal(&self) -> bool {
        self.differing == 0
    }

    fn compare(&mut self, difference: Difference) {
        self.compared += 1;
        let bounds = difference.at_least..=difference.at_most;
        if !bounds.contains(&difference.cluster.unwrap_or(0.0)) {
            self.differing += 1;
            self.keep(difference);
        }
    }

    fn keep(&mut self, difference: Difference) {
        let like = self.differences.iter().filter(|kept| kept.kind() == difference.kind()).count();
        if like < MAX_OF_A_KIND {
            self.differences.push(difference);
        }
    }

    fn merge(&mut self, other: Self) {
        self.compared += other.compared;
        self.differing += other.differing;
        other.differences.into_iter().for_each(|difference| self.keep(difference));
    }
}

/// Why it cannot be said.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// Mend the question, or ask a cluster with the default dimensions and measures.
    #[error("the cluster cannot be asked: {0}")]
    Client(#[from] ClientError),
    /// Some shards do not answer; see `tidemark members`.
    #[error("the cluster answers only in part after {waited:?}: {missing}")]
    Partial {
        /// How long it was asked.
        waited: Duration,
        /// What is missing.
        missing: String,
    },
}

/// Asks the cluster for all that was sent and compares; asks again for so long where it answers in part or is away.
///
/// # Errors
/// Where it does not answer in whole in this time.
pub async fn check(
    client: &QueryClient,
    names: &Names,
    sent: &Sent,
    within: Duration,
) -> Result<Verdict, CheckError> {
    let deadline = Instant::now() + within;
    let total = sent.total();
    let mut verdict = Verdict { sure: total.sure, unsure: total.unsure, ..Verdict::default() };
    let site = |(&number, sent)| {
        let verdict = Verdict::default();
        Asked { client, names, number, sent, deadline, within, verdict }.check().boxed()
    };
    let sites: Vec<BoxFuture<'_, _>> = sent.sites().iter().map(site).collect();
    let mut checked = futures::stream::iter(sites).buffer_unordered(ASKED);
    while let Some(of_site) = checked.next().await {
        verdict.merge(of_site?);
    }
    Ok(verdict)
}

/// One site that is asked for.
struct Asked<'a> {
    client: &'a QueryClient,
    names: &'a Names,
    number: u32,
    sent: &'a OfSite,
    deadline: Instant,
    within: Duration,
    verdict: Verdict,
}

impl Asked<'_> {
    async fn check(mut self) -> Result<Verdict, CheckError> {
        if self.sent.buckets.is_empty() {
            return Ok(self.verdict);
        }
        self.check_buckets().await?;
        self.check_dimensions().await?;
        self.check_urls().await?;
        Ok(self.verdict)
    }

    async fn check_buckets(&mut self) -> Result<(), CheckError> {
        let measures = ["views", "visitors", "load_ms.p50", "load_ms.p95", "load_ms.p99"];
        let answer = self.ask(v1::Query { granularity: "5m".into(), ..self.query(&measures) }).await?;
        let rows: BTreeMap<String, &v1::Row> =
            answer.rows.iter().map(|row| (row.values.first().map(key).unwrap_or_default(), row)).collect();
        let errors = answer.facts.as_ref().map(|facts| facts.errors.clone()).unwrap_or_default();
        for (start, sent) in &self.sent.buckets {
            let time = start.time().to_string();
            let row = rows.get(&time);
            let value = |at: usize| row.and_then(|row| row.values.get(at)).and_then(number);
            let of = format!("bucket={time}");
            self.compare(&of, "views", value(1), bounds(sent.events));
            // What may or may not be counted would blur the others.
            if sent.events.unsure > 0 {
                continue;
            }
            let visitors = sent.visitors.len() as f64;
            let slack = visitors * STANDARD_ERRORS * errors.get("visitors").copied().unwrap_or(0.0);
            self.compare(&of, "visitors", value(2), (visitors - slack, visitors + slack));
            let mut sorted = sent.load_ms.clone();
            sorted.sort_unstable();
            for (at, (name, share)) in
                (3..).zip([("load_ms.p50", 0.5), ("load_ms.p95", 0.95), ("load_ms.p99", 0.99)])
            {
                let error = errors.get("load_ms").copied().unwrap_or(0.0);
                self.compare(&of, name, value(at), percentile_bounds(&sorted, share, error));
            }
        }
        let beyond = rows.iter().filter(|(time, row)| {
            let is_sent = self.sent.buckets.keys().any(|start| start.time().to_string() == **time);
            !is_sent && row.values.get(1).and_then(number).unwrap_or(0.0) > 0.0
        });
        let beyond: Vec<(String, Option<f64>)> = beyond
            .map(|(time, row)| (format!("bucket={time}"), row.values.get(1).and_then(number)))
            .collect();
        beyond.into_iter().for_each(|(of, value)| self.compare(&of, "views", value, (0.0, 0.0)));
        Ok(())
    }

    async fn check_dimensions(&mut self) -> Result<(), CheckError> {
        for (at, dimension) in DIMENSIONS.into_iter().enumerate() {
            let mut counted = self.counts(dimension, Vec::new()).await?;
            for (position, value) in self.names.values(at).enumerate() {
                let sent = self.sent.values[at].get(&(position as u16)).copied().unwrap_or_default();
                self.compare(&format!("{dimension}={value}"), "views", counted.remove(value), bounds(sent));
            }
            for (value, views) in counted {
                self.compare(&format!("{dimension}={value}"), "views", Some(views), (0.0, 0.0));
            }
        }
        Ok(())
    }

    async fn check_urls(&mut self) -> Result<(), CheckError> {
        let names = self.names;
        let all: Vec<(u32, &str)> = names.urls_of(self.number).collect();
        for part in all.chunks(URLS) {
            let wanted = part.iter().map(|&(_, url)| url.to_owned()).collect();
            let filter = v1::Filter { dimension: "url".into(), r#in: wanted, ..v1::Filter::default() };
            let mut counted = self.counts("url", vec![filter]).await?;
            for &(number, url) in part {
                let sent = self.sent.urls.get(&number).copied().unwrap_or_default();
                // The total shows URLs that were never sent; asking for what nobody sent shows nothing.
                if sent != Count::default() || counted.contains_key(url) {
                    self.compare(&format!("url={url}"), "views", counted.remove(url), bounds(sent));
                }
            }
        }
        Ok(())
    }

    /// Views by the values of a dimension.
    async fn counts(
        &self,
        dimension: &str,
        filters: Vec<v1::Filter>,
    ) -> Result<BTreeMap<String, f64>, CheckError> {
        let query = v1::Query { group_by: vec![dimension.to_owned()], filters, ..self.query(&["views"]) };
        let answer = self.ask(query).await?;
        let row = |row: &v1::Row| Some((key(row.values.first()?), number(row.values.get(1)?)?));
        Ok(answer.rows.iter().filter_map(row).collect())
    }

    fn query(&self, measures: &[&str]) -> v1::Query {
        let buckets = &self.sent.buckets;
        let time =
            |start: Option<BucketStart>| start.map_or_else(String::new, |start| start.time().to_string());
        v1::Query {
            site: self.names.site(self.number).to_owned(),
            from: time(buckets.keys().next().copied()),
            to: time(buckets.keys().next_back().map(|last| last.next())),
            measures: measures.iter().map(|&measure| measure.to_owned()).collect(),
            limit: LIMIT,
            ..v1::Query::default()
        }
    }

    /// Asks until the answer is complete.
    async fn ask(&self, query: v1::Query) -> Result<v1::Answer, CheckError> {
        loop {
            let is_late = Instant::now() + AGAIN >= self.deadline;
            match self.client.query(query.clone()).await {
                Ok(answer) if answer.facts.as_ref().is_some_and(|facts| facts.complete) => return Ok(answer),
                Ok(answer) if is_late => {
                    let missing = answer.facts.unwrap_or_default().missing;
                    let missing: Vec<String> =
                        missing.into_iter().map(|of| format!("{}: {}", of.node, of.reason)).collect();
                    return Err(CheckError::Partial { waited: self.within, missing: missing.join("; ") });
                }
                Err(error @ ClientError::InvalidQuery(_)) => return Err(error.into()),
                Err(error) if is_late => return Err(error.into()),
                _ => tokio::time::sleep(AGAIN).await,
            }
        }
    }

    fn compare(
        &mut self,
        of: &str,
        measure: &'static str,
        cluster: Option<f64>,
        (at_least, at_most): (f64, f64),
    ) {
        let site = self.names.site(self.number).to_owned();
        self.verdict.compare(Difference { site, of: of.to_owned(), measure, cluster, at_least, at_most });
    }
}

fn bounds(count: Count) -> (f64, f64) {
    (count.sure as f64, (count.sure + count.unsure) as f64)
}

/// Where the percentile may be: the smallest value that this share of all does not exceed, off by the relative error.
fn percentile_bounds(sorted: &[u32], share: f64, error: f64) -> (f64, f64) {
    let Some(last) = sorted.len().checked_sub(1) else { return (0.0, 0.0) };
    let rank = (share * sorted.len() as f64).ceil() as usize;
    let value = f64::from(sorted[rank.saturating_sub(1).min(last)]);
    (value * (1.0 - error), value * (1.0 + error))
}

fn key(value: &v1::Value) -> String {
    match &value.kind {
        Some(v1::value::Kind::Text(text)) => text.clone(),
        _ => String::new(),
    }
}

fn number(value: &v1::Value) -> Option<f64> {
    match value.kind {
        Some(v1::value::Kind::Integer(integer)) => Some(integer as f64),
        Some(v1::value::Kind::Number(number)) => Some(number),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_may_be_off_by_its_error_alone() {
        let sorted: Vec<u32> = (1..=100).map(|value| value * 10).collect();
        assert_eq!(percentile_bounds(&sorted, 0.5, 0.0), (500.0, 500.0));
        assert_eq!(percentile_bounds(&sorted, 0.99, 0.1), (891.0, 1_089.0));
        assert_eq!(percentile_bounds(&[], 0.5, 0.1), (0.0, 0.0));
    }

    #[test]
    fn what_nobody_answered_for_may_be_counted_or_not_and_nothing_else() {
        let count = Count { sure: 10, unsure: 3 };
        let mut verdict = Verdict::default();
        for cluster in [Some(10.0), Some(13.0), Some(14.0), None] {
            let (at_least, at_most) = bounds(count);
            verdict.compare(Difference {
                site: "s".into(),
                of: "all".into(),
                measure: "views",
                cluster,
                at_least,
                at_most,
            });
        }
        assert_eq!((verdict.compared, verdict.differing, verdict.is_equal()), (4, 2, false));
    }
}
