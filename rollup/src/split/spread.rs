//! Giving the events of viral URLs to lanes.
//!
//! Owns: which events of a batch go to which lane.
//! Does not own: from how many events on a URL has lanes, and what they are called (`lanes`).

use super::{BatchReader, RawPage, ReadPage};
use crate::lanes::{LANES, LaneRules, can_be_spread, lane_of};
use crate::sharding::page_hash;
use crate::time::{BucketStart, EventTime};
use std::collections::BTreeMap;

impl BatchReader<'_> {
    /// Gives the events of each URL that has too many for one shard to the URL's lanes in turn, beginning in each bucket with lane 0.
    ///
    /// Whether it has too many is decided by all events of the batch, also by those that do not count: that may depend on who splits it.
    pub(super) fn spread_over_lanes(&mut self, lanes: LaneRules, batch_events: usize) {
        let Some(from) = lanes.spread_from(batch_events, self.rules.shards) else { return };
        let counts = std::mem::take(&mut self.page_events);
        // By page: its first lane; they follow one another.
        let mut first_lanes: BTreeMap<u32, u32> = BTreeMap::new();
        for page in (0..).zip(&counts).filter(|&(_, &events)| events >= from).map(|(page, _)| page) {
            if let Some(first) = self.add_lanes(page) {
                first_lanes.insert(page, first);
            }
        }
        if first_lanes.is_empty() {
            return;
        }
        let mut turns: BTreeMap<(u32, BucketStart), u32> = BTreeMap::new();
        for event in &mut self.events {
            if let Some(first) = first_lanes.get(&event.page) {
                let bucket = BucketStart::containing(EventTime::from_unix_ms(event.time_ms));
                let turn = turns.entry((event.page, bucket)).or_default();
                event.page = first + *turn % LANES;
                *turn += 1;
            }
        }
    }

    fn add_lanes(&mut self, page: u32) -> Option<u32> {
        let read = *self.pages[page as usize].read.as_ref().ok()?;
        let (site, url) = (self.texts.get(read.site).to_owned(), self.texts.get(read.url).to_owned());
        if !can_be_spread(&url) {
            return None;
        }
        let first = self.pages.len() as u32;
        for lane in 0..LANES {
            let name = lane_of(&url, lane);
            let shard = self.rules.shards.shard_of(page_hash(&site, &name));
            let read = Ok(ReadPage { url: self.texts.intern(&name), shard, ..read });
            // No event names a lane, so nobody looks for it.
            self.pages.push(RawPage { hash: 0, site: &[], url: &[], read });
        }
        Some(first)
    }
}
