//! Settings of how much one site may use.
//!
//! Owns: the flags, their defaults and their help.
//! Does not own: what they mean for nodes (`tidemark_node::quotas`) and coordinators (`tidemark_coordinator::quotas`).

use super::values::{self, Bytes};
use clap::Args;
use std::num::NonZeroU32;
use tidemark_rollup::rates::Multiples;

/// What a site may bring to a node.
#[derive(Clone, Debug, Args)]
pub(crate) struct IngestQuotas {
    /// Events a second of one site that this node takes in, in bursts of up to twice as many; 0 is no limit
    ///
    /// Each node counts what senders bring to it. A batch or block with a site that is over is refused whole as over_quota, with
    /// the time to wait: who sends for many sites sends each apart, so that none waits for another.
    #[arg(long, value_name = "COUNT", default_value_t = 0, help_heading = "Limits of each site")]
    pub(crate) site_rate: u64,

    /// Bytes a second of one site that this node takes in, in bursts of up to twice as many; 0 is no limit
    #[arg(long, value_name = "SIZE", value_parser = values::size, default_value = "0B", help_heading = "Limits of each site")]
    pub(crate) site_bytes: Bytes,

    /// URLs of one site in five minutes, counted over the shards that this node has; 0 is no limit
    ///
    /// Measured each second. A site that has as many is told to wait until the five minutes are over. How many values a dimension may
    /// have is limited by --dimension-values.
    #[arg(long, value_name = "COUNT", default_value_t = 0, help_heading = "Limits of each site")]
    pub(crate) site_urls: u64,

    /// Rows of one site in five minutes, counted over the shards that this node has; 0 is no limit
    ///
    /// A row is a URL with one combination of values of the dimensions, and takes 80 to 184 bytes: this bounds the memory of a
    /// site. Measured each second, and told as with --site-urls.
    #[arg(long, value_name = "COUNT", default_value_t = 0, help_heading = "Limits of each site")]
    pub(crate) site_rows: u64,
}

impl IngestQuotas {
    pub(crate) fn quotas(&self, times: &SiteTimes) -> tidemark_node::quotas::SiteQuotas {
        tidemark_node::quotas::SiteQuotas {
            events_per_second: self.site_rate,
            bytes_per_second: self.site_bytes.0,
            urls: self.site_urls,
            rows: self.site_rows,
            times: times.multiples(),
        }
    }
}

/// What questions about a site may take of a coordinator.
#[derive(Clone, Debug, Args)]
pub(crate) struct QueryQuotas {
    /// Queries about one site at a time; further ones are told to come back; 0 is no limit
    ///
    /// Queries about all sites (*) count as those of one.
    #[arg(long, value_name = "COUNT", default_value_t = 0, help_heading = "Limits of each site")]
    pub(crate) site_queries: u32,

    /// Rows a second that nodes look at for queries about one site, in bursts of up to ten times as many; 0 is no limit
    ///
    /// A query is answered while anything is left, and is paid for afterwards.
    #[arg(long, value_name = "COUNT", default_value_t = 0, help_heading = "Limits of each site")]
    pub(crate) site_scan: u64,
}

impl QueryQuotas {
    pub(crate) fn quotas(&self, times: &SiteTimes) -> tidemark_coordinator::quotas::SiteQuotas {
        tidemark_coordinator::quotas::SiteQuotas {
            queries: self.site_queries,
            rows_per_second: self.site_scan,
            times: times.multiples(),
        }
    }
}

/// Sites that may use more than others.
#[derive(Clone, Debug, Args)]
pub(crate) struct SiteTimes {
    /// Sites that may use several times what the limits of each site say, as site=times, separated by commas
    #[arg(
        long,
        value_name = "SITE=TIMES",
        value_parser = times,
        value_delimiter = ',',
        help_heading = "Limits of each site"
    )]
    pub(crate) site_times: Vec<(String, NonZeroU32)>,
}

impl SiteTimes {
    fn multiples(&self) -> Multiples {
        Multiples::new(self.site_times.iter().cloned())
    }
}

/// Parses `site=times`.
fn times(text: &str) -> Result<(String, NonZeroU32), String> {
    let (site, times) = text.split_once('=').ok_or("write site=times, like example.com=20")?;
    let site = tidemark_rollup::canonical::site(site).map_err(|_| format!("{site:?} is no site"))?;
    let times = times.parse().map_err(|_| format!("{times:?} is no whole number above 0"))?;
    Ok((site.into_owned(), times))
}
