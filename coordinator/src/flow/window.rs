//! How fast things go: what nodes told a while ago beside what they tell now.
//!
//! Owns: which samples are kept, and differences between them. Pure: times are arguments.
//! Does not own: what follows from them (`judge`).
//!
//! Counters are compared within one life of a node only, so that one that starts again does not count as going backwards.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;
use tidemark_proto::v1;
use tokio::time::Instant;

/// "Lately" is so long.
const WIDTH: Duration = Duration::from_secs(10);
/// Samples that are older say nothing about now.
const OLDEST: Duration = Duration::from_secs(60);
/// More often than samples are taken; the limit on memory.
const MAX_SAMPLES: usize = 64;

/// A node's name, and which of its lives it is.
type Life = (String, u64);

#[derive(Debug)]
struct Sample {
    at: Instant,
    nodes: BTreeMap<Life, v1::NodeFlow>,
}

/// What nodes told, over the last seconds.
#[derive(Debug, Default)]
pub(super) struct Window {
    samples: VecDeque<Sample>,
}

/// What happened lately.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Lately {
    pub(super) received: Change,
    pub(super) rejected: Change,
    pub(super) duplicate: Change,
    pub(super) counted: Change,
    pub(super) journaled: Change,
    pub(super) flushed: Change,
    pub(super) flush_failures: Change,
    pub(super) committed: Change,
    pub(super) verified: Change,
}

/// How much a counter went up, over all nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Change {
    pub(super) count: u64,
    pub(super) per_second: f64,
}

impl Change {
    fn add(&mut self, before: u64, after: u64, seconds: f64) {
        let count = after.saturating_sub(before);
        self.count += count;
        self.per_second += count as f64 / seconds;
    }
}

impl Window {
    /// Takes in what nodes tell at a moment.
    pub(super) fn push(&mut self, at: Instant, members: &[v1::Member]) {
        let told = members.iter().filter_map(|member| {
            let flow = member.status.as_ref()?.flow.clone()?;
            Some(((member.id.clone(), member.incarnation), flow))
        });
        self.samples.retain(|sample| at.saturating_duration_since(sample.at) <= OLDEST);
        self.samples.push_back(Sample { at, nodes: told.collect() });
        // The newest one that is old enough is the first that is needed.
        let is_old = |sample: &Sample| at.saturating_duration_since(sample.at) >= WIDTH;
        while self.samples.len() > MAX_SAMPLES || self.samples.get(1).is_some_and(is_old) {
            self.samples.pop_front();
        }
    }

    /// What happened since the first sample.
    pub(super) fn lately(&self) -> Lately {
        let mut lately = Lately::default();
        let Some(last) = self.samples.back() else { return lately };
        for (life, now) in &last.nodes {
            let first = self.samples.iter().find_map(|sample| Some((sample.at, sample.nodes.get(life)?)));
            let Some((at, before)) = first.filter(|(at, _)| *at < last.at) else { continue };
            lately.add(before, now, (last.at - at).as_secs_f64());
        }
        // All nodes know of the same commits.
        let newest = |sample: &Sample| sample.nodes.values().map(|node| node.committed_buckets).max();
        if let Some(first) = self.samples.front().filter(|first| first.at < last.at)
            && let (Some(before), Some(after)) = (newest(first), newest(last))
        {
            lately.committed.add(before, after, (last.at - first.at).as_secs_f64());
        }
        lately
    }
}

impl Lately {
    fn add(&mut self, before: &v1::NodeFlow, now: &v1::NodeFlow, seconds: f64) {
        let rejected = |of: &v1::NodeFlow| of.rejected_events.iter().map(|part| part.count).sum();
        self.received.add(before.received_events, now.received_events, seconds);
        self.rejected.add(rejected(before), rejected(now), seconds);
        self.duplicate.add(before.duplicate_events, now.duplicate_events, seconds);
        self.counted.add(before.counted_events, now.counted_events, seconds);
        self.journaled.add(before.journaled_blocks, now.journaled_blocks, seconds);
        self.flushed.add(before.flushed_buckets, now.flushed_buckets, seconds);
        self.flush_failures.add(before.flush_failures, now.flush_failures, seconds);
        self.verified.add(before.verified_buckets, now.verified_buckets, seconds);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(life: u64, received_events: u64) -> v1::Member {
        let flow = Some(v1::NodeFlow { received_events, ..v1::NodeFlow::default() });
        let status = Some(v1::StatusReply { flow, ..v1::StatusReply::default() });
        v1::Member { id: "n1".into(), incarnation: life, status, ..v1::Member::default() }
    }

    fn after(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[tokio::test]
    async fn lately_is_the_last_ten_seconds() {
        let (mut window, start) = (Window::default(), Instant::now());
        assert_eq!(window.lately(), Lately::default());
        // A thousand at once, then ten a second.
        window.push(start, &[node(1, 0)]);
        (1..=30).for_each(|second| window.push(after(start, second), &[node(1, 1000 + 10 * second)]));
        assert_eq!(window.lately().received, Change { count: 100, per_second: 10.0 });
        assert_eq!(window.samples.len(), 11);
    }

    #[tokio::test]
    async fn a_node_that_started_again_did_not_go_backwards() {
        let (mut window, start) = (Window::default(), Instant::now());
        window.push(start, &[node(1, 5000)]);
        window.push(after(start, 1), &[node(2, 100)]);
        assert_eq!(window.lately().received.count, 0);
        window.push(after(start, 2), &[node(2, 130)]);
        assert_eq!(window.lately().received, Change { count: 30, per_second: 30.0 });
    }

    #[tokio::test]
    async fn who_asks_now_and_then_is_told_of_the_time_between() {
        let (mut window, start) = (Window::default(), Instant::now());
        window.push(start, &[node(1, 0)]);
        window.push(after(start, 30), &[node(1, 60)]);
        assert_eq!(window.lately().received, Change { count: 60, per_second: 2.0 });
        // After more than a minute nothing is known of lately.
        window.push(after(start, 300), &[node(1, 600)]);
        assert_eq!(window.lately().received, Change::default());
    }
}
