//! How much of this coordinator questions about one site may take.
//!
//! Owns: the quotas of sites, and what is left of them.
//! Does not own: what all questions together may take (`query`), counting rates and telling who is over (`tidemark_rollup`).
//!
//! What a question costs is known when it is answered: the rows of rollups that nodes looked at. So one is answered while anything is
//! left, and is paid for afterwards. Subscriptions are not counted: nodes read only what is new for them, and `max_subscriptions`
//! bounds them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tidemark_rollup::quota::{OverQuota, Quota};
use tidemark_rollup::rates::{Multiples, Rate, Rates};
use tidemark_rollup::time::EventTime;

/// How much may be looked at at once after a pause.
const BURST_SECONDS: u32 = 10;
/// Of so many sites is known what was asked lately; all others share one allowance.
const MAX_SITES: usize = 100_000;
/// When to come back where too many questions are being answered: those take milliseconds.
const RETRY: Duration = Duration::from_millis(200);

/// How much of a coordinator questions about one site may take. 0 is no limit.
#[derive(Clone, Debug, Default)]
pub struct SiteQuotas {
    /// Questions that are answered at the same time.
    pub queries: u32,
    /// Rows of rollups that nodes look at for them in a second, in bursts of ten times as many.
    pub rows_per_second: u64,
    /// Sites that may take several times that.
    pub times: Multiples,
}

const fn quota(setting: &'static str, unit: &'static str) -> Quota {
    Quota { setting, unit, of: "coordinator", again: "ask again" }
}

const SCAN: Quota = quota("site_scan", "rows looked at a second");
const QUERIES: Quota = quota("site_queries", "queries at a time");

/// The quotas, and what is left of them.
#[derive(Debug)]
pub(crate) struct Quotas {
    queries: u32,
    rows: Rates<String>,
    times: Multiples,
    /// Questions that are being answered, by site; as many sites as there are questions.
    running: Mutex<HashMap<String, u32>>,
}

/// A question's place among those about its site, given back when dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    quotas: Arc<Quotas>,
    site: String,
}

impl Quotas {
    pub(crate) fn new(quotas: SiteQuotas) -> Self {
        Self {
            queries: quotas.queries,
            rows: Rates::new(Rate::new(quotas.rows_per_second, BURST_SECONDS), MAX_SITES),
            times: quotas.times,
            running: Mutex::default(),
        }
    }

    /// A place for a question about `site`.
    ///
    /// # Errors
    /// Where the site has too many, or those before looked at too much.
    pub(crate) fn admit(self: &Arc<Self>, site: &str, now: EventTime) -> Result<Turn, OverQuota> {
        let times = self.times.of(site);
        SCAN.check(&self.rows, times, site, now)?;
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let of_site = running.entry(site.to_owned()).or_default();
        let (limit, used) = (u64::from(self.queries) * u64::from(times.get()), u64::from(*of_site));
        if self.queries > 0 && used >= limit {
            return Err(QUERIES.over(site, limit, used, RETRY));
        }
        *of_site += 1;
        Ok(Turn { quotas: Arc::clone(self), site: site.to_owned() })
    }

    /// Takes what a question cost off its site's allowance.
    pub(crate) fn charge(&self, site: &str, rows: u64, now: EventTime) {
        self.rows.charge(site, rows as f64 / f64::from(self.times.of(site).get()), now);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut running = self.quotas.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(of_site) = running.get_mut(&self.site) {
            *of_site -= 1;
            if *of_site == 0 {
                running.remove(&self.site);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroU32;

    const NOW: EventTime = EventTime::from_unix_ms(1_700_000_000_000);

    fn quotas(queries: u32, rows_per_second: u64) -> Arc<Quotas> {
        let times = Multiples::new([("large.example".to_owned(), NonZeroU32::new(3).unwrap())]);
        Arc::new(Quotas::new(SiteQuotas { queries, rows_per_second, times }))
    }

    #[test]
    fn a_site_with_enough_questions_is_told_so_and_others_are_answered() {
        let quotas = quotas(2, 0);
        let mut turns: Vec<Turn> = (0..2).map(|_| quotas.admit("a.example", NOW).unwrap()).collect();
        let over = quotas.admit("a.example", NOW).unwrap_err();
        assert_eq!(
            over.to_string(),
            "site a.example is over its quota site_queries of this coordinator: 2 queries at a time, and 2 are possible; \
             ask again in 200ms"
        );
        turns.extend((0..6).map(|_| quotas.admit("large.example", NOW).unwrap()));
        assert!(quotas.admit("large.example", NOW).is_err());
        turns.clear();
        assert!(quotas.admit("a.example", NOW).is_ok());
        assert!(quotas.running.lock().unwrap().is_empty(), "who asks nothing is not remembered");
    }

    #[test]
    fn what_was_looked_at_is_paid_for_afterwards() {
        let quotas = quotas(0, 1_000);
        assert!(quotas.admit("a.example", NOW).is_ok());
        quotas.charge("a.example", 11_000, NOW);
        let over = quotas.admit("a.example", NOW).unwrap_err();
        assert_eq!((over.quota, over.limit, over.used), (SCAN, 1_000, 2_001));
        assert!(quotas.admit("b.example", NOW).is_ok());
        assert!(quotas.admit("a.example", NOW.plus(over.retry_after)).is_ok());
    }
}
