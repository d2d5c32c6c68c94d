//! What came of a run, for people and programs.
//!
//! Owns: the summary, the JSON and the page. Does not own: what was measured (`measured`).

mod html;
mod json;
mod text;

pub use html::html;
pub use json::json;
pub use text::text;

use super::measured::Latencies;
use std::time::Duration;

/// The shares that are told of each latency.
const SHARES: [(&str, f64); 4] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999)];

/// The latencies that are told, by name; those that there were none of are left out.
fn told(latencies: &Latencies) -> Vec<(&'static str, Duration)> {
    let shares = SHARES.into_iter().filter_map(|(name, share)| Some((name, latencies.quantile(share)?)));
    shares.chain(latencies.max().map(|max| ("max", max))).collect()
}

fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}
