//! What events of `tidemark loadgen` are like: the flags.
//!
//! Owns: the flags. Does not own: their bounds (`tidemark_loadgen::load::profile`).

use crate::settings::values;
use clap::Args;
use std::time::Duration;
use tidemark_loadgen::load::profile::{Profile, Viral};

/// What events are like.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "What events are like")]
pub(super) struct TrafficOptions {
    /// Sites
    #[arg(long, value_name = "N", default_value_t = Profile::default().sites)]
    sites: u32,

    /// URLs of all sites together
    #[arg(long, value_name = "N", default_value_t = Profile::default().urls)]
    urls: u32,

    /// How much more popular URLs get more: the second one gets 2^-N of the first one's events
    #[arg(long, value_name = "N", default_value_t = Profile::default().url_exponent)]
    url_exponent: f64,

    /// Visitors who come again and again
    #[arg(long, value_name = "N", default_value_t = Profile::default().visitors)]
    visitors: u64,

    /// Share of events by visitors who were never seen before
    #[arg(long, value_name = "SHARE", default_value_t = Profile::default().new_visitors)]
    new_visitors: f64,

    /// Hosts that link to the sites
    #[arg(long, value_name = "N", default_value_t = Profile::default().referrers)]
    referrers: u32,

    /// Countries
    #[arg(long, value_name = "N", default_value_t = Profile::default().countries)]
    countries: u32,

    /// Median of the load times, in milliseconds
    #[arg(long, value_name = "N", default_value_t = Profile::default().load_ms_median)]
    load_ms_median: f64,

    /// Standard deviation of their logarithm
    #[arg(long, value_name = "N", default_value_t = Profile::default().load_ms_sigma)]
    load_ms_sigma: f64,

    /// Share of events that are told of late
    #[arg(long, value_name = "SHARE", default_value_t = Profile::default().late)]
    late: f64,

    /// By how much at most
    #[arg(long, value_name = "DURATION", value_parser = values::duration, default_value = "30min")]
    late_by: Duration,

    /// Share of batches that are sent a second time
    #[arg(long, value_name = "SHARE", default_value_t = Profile::default().duplicates)]
    duplicates: f64,

    /// One URL takes this share of all events for a while
    #[arg(long, value_name = "SHARE", num_args = 0..=1, default_missing_value = "0.5")]
    viral: Option<f64>,

    /// When that begins
    #[arg(long, value_name = "DURATION", value_parser = values::duration, default_value = "10s", requires = "viral")]
    viral_after: Duration,

    /// How long it lasts
    #[arg(long, value_name = "DURATION", value_parser = values::duration, default_value = "1min", requires = "viral")]
    viral_for: Duration,
}

impl TrafficOptions {
    pub(super) fn profile(&self) -> Profile {
        let viral = |share| Viral { share, after: self.viral_after, lasts: self.viral_for };
        Profile {
            sites: self.sites,
            urls: self.urls,
            url_exponent: self.url_exponent,
            visitors: self.visitors,
            new_visitors: self.new_visitors,
            referrers: self.referrers,
            countries: self.countries,
            load_ms_median: self.load_ms_median,
            load_ms_sigma: self.load_ms_sigma,
            late: self.late,
            late_by: self.late_by,
            duplicates: self.duplicates,
            viral: self.viral.map(viral),
        }
    }
}
