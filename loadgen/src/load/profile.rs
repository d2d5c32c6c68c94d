//! What made-up traffic is like.
//!
//! Owns: the settings of it, their defaults and their bounds.
//! Does not own: when events happen (`schedule`), and making them (`traffic`).

use super::schedule::seconds;
use serde::Serialize;
use std::time::Duration;

/// At most so many URLs are kept in memory.
pub const MAX_URLS: u32 = 10_000_000;

/// What made-up traffic is like. The defaults are those of a publisher's hour.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Profile {
    /// Sites, 1 to 1,000.
    pub sites: u32,
    /// URLs of all sites together, at least one each; at most [`MAX_URLS`].
    pub urls: u32,
    /// Exponent of the URLs' popularity: the second one gets 2^-exponent of the first one's events. 0 is uniform.
    pub url_exponent: f64,
    /// Visitors who come again and again.
    pub visitors: u64,
    /// Share of events by visitors who were never seen before, 0 to 1.
    pub new_visitors: f64,
    /// Hosts that link to the sites, 1 to 60,000.
    pub referrers: u32,
    /// Countries, 1 to 250.
    pub countries: u32,
    /// Median of the load times, milliseconds: they are distributed log-normally.
    pub load_ms_median: f64,
    /// Standard deviation of their natural logarithm.
    pub load_ms_sigma: f64,
    /// Share of events that are told of late, 0 to 1,
    pub late: f64,
    /// and by how much at most.
    #[serde(rename = "lateByS", serialize_with = "seconds")]
    pub late_by: Duration,
    /// Share of batches that are sent a second time, as a sender does that missed the acknowledgement, 0 to 1.
    pub duplicates: f64,
    /// One URL that everybody wants for a while.
    pub viral: Option<Viral>,
}

/// One URL that everybody wants for a while.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Viral {
    /// Its share of all events meanwhile, 0 to 1.
    pub share: f64,
    /// How long after the beginning it starts,
    #[serde(rename = "afterS", serialize_with = "seconds")]
    pub after: Duration,
    /// and how long it lasts.
    #[serde(rename = "lastsS", serialize_with = "seconds")]
    pub lasts: Duration,
}

impl Default for Viral {
    /// Half of all events for a minute, from ten seconds on.
    fn default() -> Self {
        Self { share: 0.5, after: Duration::from_secs(10), lasts: Duration::from_secs(60) }
    }
}

impl Default for Profile {
    fn default() -> Self {
        Self {
            sites: 50,
            urls: 200_000,
            url_exponent: 1.1,
            visitors: 1_000_000,
            new_visitors: 0.3,
            referrers: 200,
            countries: 60,
            load_ms_median: 400.0,
            load_ms_sigma: 0.8,
            late: 0.01,
            late_by: Duration::from_secs(30 * 60),
            duplicates: 0.001,
            viral: None,
        }
    }
}

/// A setting that cannot be: of the profile, or of the run.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{setting} is {value}: give {bounds}")]
pub struct ProfileError {
    /// Its name.
    pub setting: &'static str,
    /// What it is.
    pub value: String,
    /// What it could be.
    pub bounds: &'static str,
}

impl Profile {
    /// Whether traffic can be made of it.
    ///
    /// # Errors
    /// Names the first setting that is out of bounds.
    pub fn check(&self) -> Result<(), ProfileError> {
        let viral = self.viral.map_or(0.0, |viral| viral.share);
        let settings = [
            ("sites", f64::from(self.sites), 1.0..=1_000.0, "1 to 1,000"),
            (
                "urls",
                f64::from(self.urls),
                f64::from(self.sites)..=f64::from(MAX_URLS),
                "one per site to 10,000,000",
            ),
            ("url-exponent", self.url_exponent, 0.0..=10.0, "0 to 10"),
            ("visitors", self.visitors as f64, 1.0..=1e12, "1 to 10^12"),
            ("new-visitors", self.new_visitors, 0.0..=1.0, "0 to 1"),
            ("referrers", f64::from(self.referrers), 1.0..=60_000.0, "1 to 60,000"),
            ("countries", f64::from(self.countries), 1.0..=250.0, "1 to 250"),
            ("load-ms-median", self.load_ms_median, 1.0..=1e6, "1 to 1,000,000"),
            ("load-ms-sigma", self.load_ms_sigma, 0.0..=3.0, "0 to 3"),
            ("late", self.late, 0.0..=1.0, "0 to 1"),
            ("duplicates", self.duplicates, 0.0..=1.0, "0 to 1"),
            ("viral", viral, 0.0..=1.0, "0 to 1"),
        ];
        match settings.into_iter().find(|(_, value, bounds, _)| !bounds.contains(value)) {
            None => Ok(()),
            Some((setting, value, _, bounds)) => {
                Err(ProfileError { setting, value: value.to_string(), bounds })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_out_of_bounds_is_named_with_what_it_could_be() {
        assert_eq!(Profile::default().check(), Ok(()));
        let profile = Profile { urls: 10, ..Profile::default() };
        let error = profile.check().unwrap_err().to_string();
        assert_eq!(error, "urls is 10: give one per site to 10,000,000");
        let viral = Some(Viral { share: f64::NAN, ..Viral::default() });
        let error = Profile { viral, ..Profile::default() }.check().unwrap_err();
        assert_eq!(error.setting, "viral");
    }
}
