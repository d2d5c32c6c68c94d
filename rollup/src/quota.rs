//! How a site that is over a quota of its own is told.
//!
//! Owns: what a quota is called, and what is said of one that is used up.
//! Does not own: which quotas there are and what is counted (nodes, coordinators), counting rates (`rates`).

use crate::rates::{Rate, Rates};
use crate::time::EventTime;
use std::num::NonZeroU32;
use std::time::Duration;
use tidemark_proto::v1;
use tidemark_proto::v1::RefusalReason;

/// A quota that each site has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// The setting that says how much it is.
    pub setting: &'static str,
    /// What is counted, as in "10 events a second".
    pub unit: &'static str,
    /// Whose it is: "node" or "coordinator".
    pub of: &'static str,
    /// What to do after a while, as in "ask again".
    pub again: &'static str,
}

/// What a site is over, and when it may go on. Nothing of what it wanted was done, or counted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "site {site} is over its quota {} of this {}: {used} {}, and {limit} are possible; {} in {:?}",
    quota.setting,
    quota.of,
    quota.unit,
    quota.again,
    Duration::from_millis(retry_after.as_millis() as u64)
)]
pub struct OverQuota {
    /// Who.
    pub site: String,
    /// Of what.
    pub quota: Quota,
    /// How much is possible, in the quota's unit.
    pub limit: u64,
    /// How much it was.
    pub used: u64,
    /// When to come back.
    pub retry_after: Duration,
}

impl Quota {
    /// A site is over it.
    pub fn over(self, site: &str, limit: u64, used: u64, retry_after: Duration) -> OverQuota {
        OverQuota { site: site.to_owned(), quota: self, limit, used, retry_after }
    }

    /// Whether a site, which may use so many times what others may, has something left of its rate. Takes nothing.
    ///
    /// # Errors
    /// Where it has not.
    pub fn check(
        self,
        rates: &Rates<String>,
        times: NonZeroU32,
        site: &str,
        now: EventTime,
    ) -> Result<(), OverQuota> {
        rates.check(site, now).map_err(|retry_after| {
            let limit = rates.rate().map_or(0, Rate::per_second).saturating_mul(u64::from(times.get()));
            let too_much = (retry_after.as_secs_f64() * limit as f64).round() as u64;
            self.over(site, limit, limit.saturating_add(too_much), retry_after)
        })
    }
}

impl From<OverQuota> for v1::Refusal {
    fn from(over: OverQuota) -> Self {
        let limit = v1::Limit { setting: over.quota.setting.to_owned(), limit: over.limit, used: over.used };
        Self {
            reason: RefusalReason::OverQuota.into(),
            // 0 would say that coming back is of no use.
            retry_after_ms: u32::try_from(over.retry_after.as_millis()).unwrap_or(u32::MAX).max(1),
            message: over.to_string(),
            limit: Some(limit),
        }
    }
}
