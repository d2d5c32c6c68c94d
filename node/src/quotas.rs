//! How much of this node one site may use.
//!
//! Owns: the quotas of sites, and what is left of them.
//! Does not own: what all sites together may use (`admission`), measuring shards (`chores::memory`), counting rates and telling who is
//! over (`tidemark_rollup`).
//!
//! A batch or block is refused whole, so that what is sent again is the same: its identity stands for its events. Nothing of it was
//! taken off any allowance then. Each node has quotas of its own, for what senders bring to it; what other nodes pass on was judged
//! there.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tidemark_rollup::quota::{OverQuota, Quota};
use tidemark_rollup::rates::{Multiples, Rate, Rates};
use tidemark_rollup::time::{BucketStart, EventTime};

/// How much may come at once after a pause.
const BURST_SECONDS: u32 = 2;
/// Of so many sites is known what they sent lately; all others share one allowance.
const MAX_SITES: usize = 100_000;

/// How much of a node one site may use. 0 is no limit.
#[derive(Clone, Debug, Default)]
pub struct SiteQuotas {
    /// Events a second, in bursts of twice as many.
    pub events_per_second: u64,
    /// Bytes of batches and blocks a second, in bursts of twice as many.
    pub bytes_per_second: u64,
    /// URLs in a bucket that is open, in the shards that the node has.
    pub urls: u64,
    /// Rows in a bucket that is open, in the shards that the node has: combinations of a URL and values of dimensions.
    pub rows: u64,
    /// Sites that may use several times that.
    pub times: Multiples,
}

const fn quota(setting: &'static str, unit: &'static str) -> Quota {
    Quota { setting, unit, of: "node", again: "send the same again" }
}

const RATE: Quota = quota("site_rate", "events a second");
const BYTES: Quota = quota("site_bytes", "bytes a second");
const URLS: Quota = quota("site_urls", "URLs in five minutes");
const ROWS: Quota = quota("site_rows", "rows in five minutes");

/// How much of a bucket a site has in some shards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SiteUsage {
    /// Distinct URLs.
    pub urls: u64,
    /// Combinations of a URL and values of dimensions.
    pub rows: u64,
}

impl SiteUsage {
    /// Adds what another shard has.
    pub(crate) fn add(&mut self, other: Self) {
        self.urls += other.urls;
        self.rows += other.rows;
    }
}

/// The quotas, and what is left of them.
#[derive(Debug)]
pub(crate) struct Quotas {
    events: Rates<String>,
    bytes: Rates<String>,
    urls: u64,
    rows: u64,
    times: Multiples,
    /// Sites with too much in an open bucket, and when that closes.
    full: RwLock<Arc<BTreeMap<String, (OverQuota, EventTime)>>>,
}

impl Quotas {
    pub(crate) fn new(quotas: SiteQuotas) -> Self {
        let rates = |per_second| Rates::new(Rate::new(per_second, BURST_SECONDS), MAX_SITES);
        Self {
            events: rates(quotas.events_per_second),
            bytes: rates(quotas.bytes_per_second),
            urls: quotas.urls,
            rows: quotas.rows,
            times: quotas.times,
            full: RwLock::default(),
        }
    }

    /// Whether there is any.
    pub(crate) fn are_set(&self) -> bool {
        self.events.rate().is_some() || self.bytes.rate().is_some() || self.limit_size()
    }

    /// Whether shards have to be measured by site.
    pub(crate) fn limit_size(&self) -> bool {
        self.urls > 0 || self.rows > 0
    }

    /// Takes a batch or block of `size_bytes` off the allowances of its sites, of each of which it has so many events.
    ///
    /// # Errors
    /// Where a site has none left. Nothing was taken off then.
    pub(crate) fn take(
        &self,
        by_site: &BTreeMap<Cow<'_, str>, u32>,
        size_bytes: usize,
        now: EventTime,
    ) -> Result<(), OverQuota> {
        for site in by_site.keys() {
            self.judge(site, now)?;
        }
        let events: u32 = by_site.values().sum();
        for (site, &of_site) in by_site {
            let times = f64::from(self.times.of(site).get());
            let share = f64::from(of_site) / f64::from(events.max(1));
            self.events.charge(&**site, f64::from(of_site) / times, now);
            self.bytes.charge(&**site, size_bytes as f64 * share / times, now);
        }
        Ok(())
    }

    fn judge(&self, site: &str, now: EventTime) -> Result<(), OverQuota> {
        let full = Arc::clone(&self.full.read().unwrap_or_else(PoisonError::into_inner));
        if let Some((over, until)) = full.get(site).filter(|(_, until)| now < *until) {
            return Err(OverQuota { retry_after: until.since(now), ..over.clone() });
        }
        let times = self.times.of(site);
        RATE.check(&self.events, times, site, now)?;
        BYTES.check(&self.bytes, times, site, now)
    }

    /// Says what sites have in open buckets.
    pub(crate) fn measured(&self, usage: BTreeMap<(BucketStart, String), SiteUsage>) {
        let mut full = BTreeMap::new();
        for ((bucket, site), SiteUsage { urls, rows }) in usage {
            let times = self.times.of(&site);
            let judged = [(URLS, urls, self.urls), (ROWS, rows, self.rows)];
            let over = judged.into_iter().find(|&(_, used, limit)| is_over(used, limit, times));
            if let Some((quota, used, limit)) = over {
                let over = quota.over(&site, limit * u64::from(times.get()), used, Duration::ZERO);
                full.insert(site, (over, bucket.end()));
            }
        }
        *self.full.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(full);
    }
}

fn is_over(used: u64, limit: u64, times: NonZeroU32) -> bool {
    limit > 0 && used >= limit.saturating_mul(u64::from(times.get()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(ms: i64) -> EventTime {
        EventTime::from_unix_ms(1_700_000_000_000 + ms)
    }

    fn quotas(of: SiteQuotas) -> Quotas {
        let times = Multiples::new([("large.example".to_owned(), NonZeroU32::new(20).unwrap())]);
        Quotas::new(SiteQuotas { times, ..of })
    }

    fn take(quotas: &Quotas, site: &str, events: u32, now: EventTime) -> Result<(), OverQuota> {
        quotas.take(&[(site.into(), events)].into(), 100 * events as usize, now)
    }

    #[test]
    fn a_site_over_its_rate_is_told_which_by_how_much_and_until_when_and_others_notice_nothing() {
        let quotas = quotas(SiteQuotas { events_per_second: 10, ..SiteQuotas::default() });
        assert_eq!(take(&quotas, "a.example", 30, at(0)), Ok(()));
        let over = take(&quotas, "a.example", 1, at(0)).unwrap_err();
        assert_eq!((over.quota, over.limit, over.used), (RATE, 10, 21));
        assert_eq!(over.retry_after, Duration::from_millis(1_100));
        assert_eq!(
            over.to_string(),
            "site a.example is over its quota site_rate of this node: 21 events a second, and 10 are possible; send the same \
             again in 1.1s"
        );
        assert_eq!(take(&quotas, "b.example", 20, at(0)), Ok(()));
        assert_eq!(take(&quotas, "a.example", 1, at(1_100)), Ok(()));
    }

    #[test]
    fn a_batch_with_one_site_that_is_over_takes_nothing_off_the_others() {
        let quotas = quotas(SiteQuotas { events_per_second: 10, ..SiteQuotas::default() });
        assert_eq!(take(&quotas, "a.example", 30, at(0)), Ok(()));
        let both = [("a.example".into(), 1), ("b.example".into(), 1_000)].into();
        assert_eq!(quotas.take(&both, 0, at(0)).unwrap_err().site, "a.example");
        assert_eq!(take(&quotas, "b.example", 1, at(0)), Ok(()));
    }

    #[test]
    fn a_site_may_have_several_times_the_quota() {
        let quotas = quotas(SiteQuotas { events_per_second: 10, ..SiteQuotas::default() });
        let taken = (0..1_000).take_while(|_| take(&quotas, "large.example", 1, at(0)).is_ok()).count();
        assert_eq!(taken, 400);
        assert_eq!(take(&quotas, "large.example", 1, at(0)).unwrap_err().limit, 200);
    }

    #[test]
    fn bytes_are_limited_too_and_divided_by_the_events_of_each_site() {
        let quotas = quotas(SiteQuotas { bytes_per_second: 1_000, ..SiteQuotas::default() });
        assert_eq!(
            quotas.take(&[("a.example".into(), 9), ("b.example".into(), 1)].into(), 4_000, at(0)),
            Ok(())
        );
        assert_eq!(take(&quotas, "a.example", 1, at(0)).unwrap_err().quota, BYTES);
        assert_eq!(take(&quotas, "b.example", 1, at(0)), Ok(()), "400 of 2,000 bytes are used");
    }

    #[test]
    fn a_site_with_too_many_urls_in_a_bucket_waits_until_that_closes() {
        let quotas = quotas(SiteQuotas { urls: 100, rows: 1_000, ..SiteQuotas::default() });
        let bucket = BucketStart::containing(at(0));
        let has = |site: &str, urls, rows| ((bucket, site.to_owned()), SiteUsage { urls, rows });
        quotas.measured(
            [has("a.example", 100, 100), has("b.example", 99, 999), has("large.example", 1_999, 1)].into(),
        );
        let over = take(&quotas, "a.example", 1, at(0)).unwrap_err();
        assert_eq!((over.quota, over.limit, over.used), (URLS, 100, 100));
        assert_eq!(at(0).plus(over.retry_after), bucket.end());
        assert_eq!(take(&quotas, "b.example", 1, at(0)), Ok(()));
        assert_eq!(take(&quotas, "large.example", 1, at(0)), Ok(()));
        assert_eq!(take(&quotas, "a.example", 1, bucket.end()), Ok(()));
        quotas.measured([has("b.example", 1, 1_000)].into());
        assert_eq!(take(&quotas, "a.example", 1, at(0)), Ok(()));
        assert_eq!(take(&quotas, "b.example", 1, at(0)).unwrap_err().quota, ROWS);
    }

    #[test]
    fn without_quotas_nothing_is_refused() {
        let quotas = quotas(SiteQuotas::default());
        assert!(!quotas.are_set());
        assert!((0..100).all(|_| take(&quotas, "a.example", 1_000_000, at(0)).is_ok()));
    }
}
