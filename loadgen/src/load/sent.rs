//! What a run sent, so that the cluster's counts can be proved.
//!
//! Owns: counts of what was acknowledged, and of what may be counted or not.
//! Does not own: asking the cluster (`check`).
//!
//! It takes about 40 bytes for each event (a visitor's hash and a load time, kept exactly), and is kept only where it is asked for.

use super::traffic::{DIMENSIONS, Made, Names};
use hashbrown::{HashMap, HashSet};
use std::collections::BTreeMap;
use tidemark_rollup::time::BucketStart;

/// So many events are counted for certain, and so many more may be: those whose block was given up without an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Acknowledged as counted.
    pub sure: u64,
    /// Neither acknowledged nor refused.
    pub unsure: u64,
}

impl Count {
    fn add(&mut self, is_sure: bool) {
        match is_sure {
            true => self.sure += 1,
            false => self.unsure += 1,
        }
    }
}

/// Of one site.
#[derive(Debug, Default)]
pub struct OfSite {
    /// By URL's number.
    pub urls: HashMap<u32, Count>,
    /// By dimension, by position of the value.
    pub values: [HashMap<u16, Count>; DIMENSIONS.len()],
    /// By bucket.
    pub buckets: BTreeMap<BucketStart, OfBucket>,
}

/// Of one site's bucket.
#[derive(Debug, Default)]
pub struct OfBucket {
    /// Events.
    pub events: Count,
    /// Visitors of those that are counted for certain.
    pub visitors: HashSet<u64>,
    /// Load times of these, in milliseconds.
    pub load_ms: Vec<u32>,
}

/// What was sent, by site.
#[derive(Debug, Default)]
pub struct Sent {
    sites: BTreeMap<u32, OfSite>,
}

impl Sent {
    /// Notes events that are counted for certain, or not.
    pub fn note(&mut self, names: &Names, events: &[Made], is_sure: bool) {
        for made in events {
            let site = self.sites.entry(made.site(names)).or_default();
            site.urls.entry(made.url).or_default().add(is_sure);
            for (of, &value) in site.values.iter_mut().zip(&made.values) {
                of.entry(value).or_default().add(is_sure);
            }
            let bucket = site.buckets.entry(BucketStart::containing(made.time)).or_default();
            bucket.events.add(is_sure);
            if is_sure {
                bucket.visitors.insert(made.visitor);
                bucket.load_ms.push(u32::try_from(made.load_ms).unwrap_or(u32::MAX));
            }
        }
    }

    /// Adds what another producer sent.
    pub fn merge(&mut self, other: Self) {
        let add = |mine: &mut Count, theirs: Count| {
            mine.sure += theirs.sure;
            mine.unsure += theirs.unsure;
        };
        for (number, theirs) in other.sites {
            let mine = self.sites.entry(number).or_default();
            theirs.urls.into_iter().for_each(|(url, count)| add(mine.urls.entry(url).or_default(), count));
            for (mine, theirs) in mine.values.iter_mut().zip(theirs.values) {
                theirs.into_iter().for_each(|(value, count)| add(mine.entry(value).or_default(), count));
            }
            for (start, theirs) in theirs.buckets {
                let mine = mine.buckets.entry(start).or_default();
                add(&mut mine.events, theirs.events);
                mine.visitors.extend(theirs.visitors);
                mine.load_ms.extend(theirs.load_ms);
            }
        }
    }

    /// By site's number.
    pub fn sites(&self) -> &BTreeMap<u32, OfSite> {
        &self.sites
    }

    /// All of them together.
    pub fn total(&self) -> Count {
        let buckets = self.sites.values().flat_map(|site| site.buckets.values());
        buckets.fold(Count::default(), |total, bucket| Count {
            sure: total.sure + bucket.events.sure,
            unsure: total.unsure + bucket.events.unsure,
        })
    }
}
