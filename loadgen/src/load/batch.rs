//! Events that are sent together.
//!
//! Owns: how many events a batch may have, when each of them was due, and a batch as rows.
//! Does not own: when a batch is sent, and what becomes of it (`sender`).

use super::measured::Timeline;
use super::run::Form;
use super::traffic::{Made, Names};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use tidemark_proto::v1;
use tidemark_rollup::block::MAX_BLOCK_EVENTS;

/// Events of a batch of blocks: 64 shards get full blocks, of 1,000 events, of it. With two shards and more no profile makes a block
/// that is too large for a node; where there is one shard, it takes names that are far from the default.
const MOST_IN_BLOCKS: u64 = MAX_BLOCK_EVENTS as u64;
/// Events of a batch of rows, which is one message: with the longest names it stays below the 4 MiB that a node takes.
const MOST_IN_ROWS: u64 = 8_192;

/// How many events a batch may have. One that is sent twice travels as rows.
pub(super) fn most_events(form: Form, is_sent_twice: bool) -> u64 {
    match form {
        Form::Blocks if !is_sent_twice => MOST_IN_BLOCKS,
        Form::Blocks | Form::Rows => MOST_IN_ROWS,
    }
}

/// Makes the events of a batch anew.
pub(super) type Rows = Arc<dyn Fn() -> Vec<v1::Event> + Send + Sync>;

/// When events were due that follow one another evenly, since the beginning.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moments {
    first: Duration,
    step: Duration,
}

impl Moments {
    /// Of so many events, from the first one's moment to the last one's.
    pub(super) fn between(first: Duration, last: Duration, count: u64) -> Self {
        let steps = count.saturating_sub(1).max(1);
        Self { first, step: last.saturating_sub(first).div_f64(steps as f64) }
    }

    /// When the event at this place was due.
    pub(super) fn at(self, place: u64) -> Duration {
        self.first + self.step.mul_f64(place as f64)
    }
}

/// Events that are sent together.
pub(super) struct Batch {
    pub(super) made: Arc<Vec<Made>>,
    pub(super) due: Moments,
}

impl Batch {
    pub(super) fn count(&self) -> u64 {
        self.made.len() as u64
    }

    /// Its events by the parts of the time in which they were due: a batch that had to wait may be of several.
    pub(super) fn parts(&self, timeline: &Timeline) -> Vec<Range<u64>> {
        let (mut parts, mut begin) = (Vec::new(), 0);
        let part_of = |place| timeline.part_of(self.due.at(place));
        while begin < self.count() {
            let part = part_of(begin);
            let end = (begin..self.count()).find(|&place| part_of(place) != part).unwrap_or(self.count());
            parts.push(begin..end);
            begin = end;
        }
        parts
    }

    /// As rows, as often as they are wanted.
    pub(super) fn rows(&self, names: &Arc<Names>) -> Rows {
        let (made, names) = (Arc::clone(&self.made), Arc::clone(names));
        Arc::new(move || made.iter().map(|made| made.to_event(&names)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::profile::{MAX_URLS, Profile};
    use crate::load::traffic::Traffic;
    use prost::Message as _;
    use tidemark_proto::MAX_BATCH_BYTES;
    use tidemark_rollup::canonical::KeepParams;
    use tidemark_rollup::event::TimeRules;
    use tidemark_rollup::sharding::ShardCount;
    use tidemark_rollup::split::{Rules, split};
    use tidemark_rollup::time::EventTime;

    const NOW: EventTime = EventTime::from_unix_ms(1_700_000_000_000);

    /// Nearly every URL is another one, and names are long.
    fn extreme() -> Profile {
        Profile {
            sites: 1_000,
            urls: MAX_URLS / 10,
            url_exponent: 0.0,
            new_visitors: 1.0,
            referrers: 60_000,
            countries: 250,
            load_ms_median: 1e6,
            ..Profile::default()
        }
    }

    /// The largest batch of such events.
    fn largest(form: Form, profile: &Profile) -> v1::EventBatch {
        let (names, traffic) = (Names::new(profile, &"r".repeat(40)), Traffic::new(profile, 7, 0));
        let made = (0..most_events(form, false)).map(|number| traffic.event(number, false, NOW)).collect();
        let batch = Batch { made: Arc::new(made), due: Moments::between(Duration::ZERO, Duration::ZERO, 1) };
        v1::EventBatch {
            producer: vec![7; 16].into(),
            seq: u64::MAX,
            sealed_at_ms: NOW.as_unix_ms(),
            events: batch.rows(&Arc::new(names))(),
        }
    }

    #[test]
    fn the_largest_batch_of_rows_is_small_enough_for_a_node() {
        let bytes = largest(Form::Rows, &extreme()).encoded_len();
        assert!(bytes < MAX_BATCH_BYTES, "{bytes} bytes");
    }

    #[test]
    fn the_largest_block_is_small_enough_for_a_node_although_there_are_few_shards() {
        for (shards, profile) in [(1, Profile::default()), (2, extreme())] {
            let shards = ShardCount::new(shards).unwrap();
            let (keep_params, times) = (KeepParams::default(), TimeRules::default());
            let rules = Rules { schema: None, keep_params: &keep_params, times, shards };
            let split = split(&largest(Form::Blocks, &profile), &rules, NOW).unwrap();
            let bytes: Vec<usize> = split.blocks.iter().map(v1::Block::encoded_len).collect();
            assert!(bytes.iter().all(|&bytes| bytes < MAX_BATCH_BYTES), "{bytes:?} bytes");
        }
    }

    #[test]
    fn events_of_a_batch_that_waited_belong_to_the_seconds_in_which_they_were_due() {
        let second = Duration::from_secs(1);
        let made = Made { url: 0, values: [0; 5], visitor: 1, load_ms: 1, engaged_ms: 1, time: NOW };
        let batch = |count: u64, from: Duration, to| Batch {
            made: Arc::new(vec![made; count as usize]),
            due: Moments::between(from, to, count),
        };
        let timeline = Timeline::of(10 * second);
        let half = Duration::from_millis(500);
        assert_eq!(batch(5, half, 5 * half).parts(&timeline), [0..1, 1..3, 3..5]);
        assert_eq!(batch(3, half, half).parts(&timeline).first(), Some(&(0..3)));
        assert_eq!(batch(1, second, second).due.at(0), second);
    }
}
