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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::failures::Failures;
    use crate::load::measured::Timeline;
    use crate::load::profile::Profile;
    use crate::load::run::{Form, RunOptions, RunReport};
    use crate::load::schedule::{Schedule, Shape};
    use tidemark_rollup::block::ProducerId;

    /// A run of a second in which something of each kind failed.
    fn failed() -> RunReport {
        let duration = Duration::from_secs(1);
        let options = RunOptions {
            nodes: Vec::new(),
            coordinator: None,
            dial: Default::default(),
            profile: Profile::default(),
            schedule: Schedule { shape: Shape::Constant { rate: 100.0 }, duration },
            seed: 1,
            run: "r".to_owned(),
            producers: vec![ProducerId::from_u128(1)],
            form: Form::Blocks,
            linger: Duration::from_millis(50),
            queries_per_second: 1.0,
            subscribers: 1,
            keeps_sent: false,
            retry_for: duration,
        };
        let (mut timeline, mut failures) = (Timeline::of(duration), Failures::default());
        timeline.note(Duration::ZERO, |part| {
            (part.due, part.sent, part.undelivered, part.rejected) = (100, 100, 90, 10);
            (part.failed_queries, part.lost_subscribers, part.returned_subscribers) = (1, 3, 2);
        });
        failures.blocks.add_all("refused (overloaded): <wait>", 9);
        failures.rejected.add_all("too_late", 10);
        failures.queries.add("nobody answers");
        failures.subscribers.add_all("the stream ended", 3);
        RunReport { options, timeline, failures, retries: 0, took: duration, verdict: None }
    }

    #[test]
    fn why_something_failed_is_in_the_text_the_json_and_the_page() {
        let report = failed();
        let (text, json, html) = (text(&report), json(&report), html(&report));
        for told in [
            "failed:\n  9 times: refused (overloaded): <wait>\n",
            "rejected:\n  10 times: too_late\n",
            "queries failed:\n  1 times: nobody answers\n",
            "lost 3 times, came back 2 times",
            "lost:\n  3 times: the stream ended\n",
        ] {
            assert!(text.contains(told), "{told:?} is not in\n{text}");
            let told = told.replace('<', "&lt;").replace('>', "&gt;");
            assert!(html.contains(&told), "{told:?} is not in\n{html}");
        }
        let expected = serde_json::json!({
            "blocks": { "refused (overloaded): <wait>": 9 },
            "rejected": { "too_late": 10 },
            "queries": { "nobody answers": 1 },
            "subscribers": { "the stream ended": 3 },
        });
        assert_eq!((&json["failures"], &json["subscribers"]["returned"]), (&expected, &2.into()));
        assert_eq!(json["options"]["producers"], 1);
    }
}
