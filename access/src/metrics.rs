//! What was refused, by reason.
//!
//! Owns: the counter. Its labels are ours alone: nothing a caller says becomes one.

use crate::caller::Forbidden;
use crate::keyring::Refused;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

/// Why a call was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[allow(non_camel_case_types, reason = "the names are the labels")]
pub enum Reason {
    /// There was no token.
    no_token,
    /// There is no such token.
    unknown_token,
    /// It was revoked.
    revoked_token,
    /// Its time is up.
    expired_token,
    /// It is not for that.
    wrong_scope,
    /// It is not for that site, or not for all.
    wrong_site,
    /// The call is for members.
    no_member,
}

impl From<Refused> for Reason {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Missing => Self::no_token,
            Refused::Unknown => Self::unknown_token,
            Refused::Revoked => Self::revoked_token,
            Refused::Expired => Self::expired_token,
        }
    }
}

impl From<Forbidden> for Reason {
    fn from(forbidden: Forbidden) -> Self {
        match forbidden {
            Forbidden::Scope(_) => Self::wrong_scope,
            Forbidden::Site | Forbidden::AllSites => Self::wrong_site,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    reason: Reason,
}

/// Calls that were refused.
#[derive(Clone, Debug, Default)]
pub struct AccessMetrics {
    refused: Family<Labels, Counter>,
}

impl AccessMetrics {
    /// Registers them. To be done once for each registry.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let help = "Calls that were refused because of who made them";
        registry.sub_registry_with_prefix("tidemark").register(
            "access_refused",
            help,
            metrics.refused.clone(),
        );
        metrics
    }

    /// Notes a refusal.
    pub fn refused(&self, reason: impl Into<Reason>) {
        self.refused.get_or_create(&Labels { reason: reason.into() }).inc();
    }
}
