//! The names that enums of the wire have in JSON, metrics and on the command line.

use crate::v1::{IgnoredWhy, Reason, RefusalReason};

fn lower_without(prefix: &str, name: &str) -> String {
    name.strip_prefix(prefix).unwrap_or(name).to_ascii_lowercase()
}

impl Reason {
    /// Every reason an event can be rejected for.
    pub const ALL: [Self; 13] = [
        Self::MissingSite,
        Self::BadSite,
        Self::MissingUrl,
        Self::BadUrl,
        Self::UrlTooLong,
        Self::KindTooLong,
        Self::FromFuture,
        Self::TooLate,
        Self::NegativeValue,
        Self::ValueTooLarge,
        Self::InvalidUtf8,
        Self::Unreadable,
        Self::SiteNotAllowed,
    ];

    /// The reason's name outside the wire: `too_late`.
    pub fn name(self) -> String {
        lower_without("REASON_", self.as_str_name())
    }
}

impl RefusalReason {
    /// The name outside the wire: `overloaded`.
    pub fn name(self) -> String {
        lower_without("REFUSAL_REASON_", self.as_str_name())
    }
}

impl IgnoredWhy {
    /// Everything that a field can be left out for.
    pub const ALL: [Self; 3] = [Self::UnknownDimension, Self::DimensionTooLong, Self::UnknownValue];

    /// The name outside the wire: `unknown_dimension`.
    pub fn name(self) -> String {
        lower_without("IGNORED_WHY_", self.as_str_name())
    }
}
