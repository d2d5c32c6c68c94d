//! A run as one page that needs nothing else: no script, no other file.
//!
//! Owns: the plots, which are SVG. Does not own: numbers (`json`, `text`).

use super::{SHARES, milliseconds};
use crate::load::measured::{Latencies, Measured};
use crate::load::run::RunReport;
use std::fmt::Write as _;

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 220.0;
const LEFT: f64 = 64.0;
const BOTTOM: f64 = 28.0;
const TOP: f64 = 12.0;
const COLORS: [&str; 4] = ["#2a7", "#27a", "#c63", "#a26"];

/// One line of a plot: its name, and a value for each point; none where there is no value.
struct Line<'a> {
    name: &'a str,
    values: Vec<Option<f64>>,
}

/// The page.
pub fn html(report: &RunReport) -> String {
    let parts = report.timeline.parts();
    let part_s = report.timeline.part().as_secs_f64();
    let rate =
        |of: &dyn Fn(&Measured) -> u64| parts.iter().map(|part| Some(of(part) as f64 / part_s)).collect();
    let rates = [
        Line { name: "offered", values: rate(&|part| part.due) },
        Line { name: "acknowledged", values: rate(&|part| part.accepted) },
    ];
    let mut body = String::new();
    let title = format!("tidemark loadgen, run {}", report.options.run);
    // Writing to a string cannot fail.
    let _ = write!(body, "<h1>{}</h1><pre>{}</pre>", escape(&title), escape(&super::text(report)));
    plot(&mut body, "Events per second, by when they were due", &rates, &over_time(parts.len(), part_s));
    latencies(&mut body, "From due to acknowledged", report, |measured| measured.acknowledged.clone());
    if report.total().answers().count() > 0 {
        latencies(&mut body, "Queries, from due to answered", report, Measured::answers);
    }
    let settings = serde_json::to_string_pretty(&report.options).unwrap_or_default();
    let _ = write!(body, "<details><summary>Settings</summary><pre>{}</pre></details>", escape(&settings));
    format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>{}</title><style>{STYLE}</style><body>{body}</body></html>\n",
        escape(&title)
    )
}

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:900px;margin:2em auto;padding:0 1em;\
color:#222;background:#fff}svg{width:100%;height:auto;font-size:12px}pre{overflow-x:auto}\
@media(prefers-color-scheme:dark){body{color:#ddd;background:#161616}}";

fn latencies(out: &mut String, of: &str, report: &RunReport, which: impl Fn(&Measured) -> Latencies) {
    let parts: Vec<Latencies> = report.timeline.parts().iter().map(&which).collect();
    let lines = SHARES.map(|(name, share)| Line {
        name,
        values: parts.iter().map(|part| part.quantile(share).map(milliseconds)).collect(),
    });
    plot(
        out,
        &format!("{of}, milliseconds over time"),
        &lines,
        &over_time(parts.len(), report.timeline.part().as_secs_f64()),
    );
    // Evenly by orders of magnitude from the top: 0, 90, 99, 99.9 %...
    let shares: Vec<f64> = (0..=80).map(|step| 1.0 - 10_f64.powf(-f64::from(step) / 20.0)).collect();
    let all = which(report.total());
    let values = shares.iter().map(|&share| all.quantile(share).map(milliseconds)).collect();
    let labels = [("0 %", 0.0), ("90 %", 0.25), ("99 %", 0.5), ("99.9 %", 0.75), ("99.99 %", 1.0)];
    let labels: Vec<(String, f64)> = labels.map(|(name, at)| (name.to_owned(), at)).into();
    plot(
        out,
        &format!("{of}, milliseconds by percentile"),
        &[Line { name: "all of the run", values }],
        &labels,
    );
}

/// Five moments along the axis.
fn over_time(parts: usize, part_s: f64) -> Vec<(String, f64)> {
    let total = parts.saturating_sub(1).max(1) as f64 * part_s;
    [0.0, 0.25, 0.5, 0.75, 1.0].map(|at| (format!("{:.0} s", total * at), at)).into()
}

/// Lines over one axis, from 0 to a round number over the highest value.
fn plot(out: &mut String, title: &str, lines: &[Line<'_>], labels: &[(String, f64)]) {
    let highest = lines.iter().flat_map(|line| line.values.iter().flatten()).copied().fold(0.0, f64::max);
    let top = round_above(highest);
    let x = |at: f64| LEFT + (WIDTH - LEFT - 16.0) * at;
    let y = |value: f64| HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * value / top;
    let _ = write!(
        out,
        "<h2>{}</h2><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">",
        escape(title),
        escape(title)
    );
    for step in 0..=4 {
        let value = top * f64::from(step) / 4.0;
        let (left, right, at) = (x(0.0), x(1.0), y(value));
        let _ = write!(
            out,
            "<path d=\"M{left:.1} {at:.1}H{right:.1}\" stroke=\"#8885\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"currentColor\">{}</text>",
            left - 6.0,
            at + 4.0,
            number(value)
        );
    }
    for (label, at) in labels {
        let _ = write!(
            out,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{}\" fill=\"currentColor\">{}</text>",
            x(*at),
            HEIGHT - 8.0,
            if *at < 1.0 { "middle" } else { "end" },
            escape(label)
        );
    }
    for (line, color) in lines.iter().zip(COLORS) {
        let last = line.values.len().saturating_sub(1).max(1) as f64;
        let (mut path, mut pen) = (String::new(), 'M');
        for (at, value) in line.values.iter().enumerate() {
            match value {
                // Where there is no value the line is interrupted, and not drawn at 0.
                None => pen = 'M',
                Some(value) => {
                    let _ = write!(path, "{pen}{:.1} {:.1}", x(at as f64 / last), y(*value));
                    pen = 'L';
                }
            }
        }
        let _ = write!(
            out,
            "<path d=\"{path}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"2\" stroke-linecap=\"round\"/>"
        );
    }
    out.push_str("</svg><p>");
    for (line, color) in lines.iter().zip(COLORS) {
        let _ = write!(out, "<span style=\"color:{color}\">&#9632;</span> {} &nbsp; ", escape(line.name));
    }
    out.push_str("</p>");
}

/// 1, 2 or 5 times a power of ten, at least this.
fn round_above(value: f64) -> f64 {
    if value <= 0.0 {
        return 1.0;
    }
    let power = 10_f64.powf(value.log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .map(|times| times * power)
        .into_iter()
        .find(|&round| round >= value)
        .unwrap_or(value)
}

fn number(value: f64) -> String {
    match value {
        value if value >= 1e6 => format!("{} M", value / 1e6),
        value if value >= 1e4 => format!("{} k", value / 1e3),
        value => format!("{}", (value * 1e4).round() / 1e4),
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_end_at_a_round_number_over_the_highest_value() {
        assert_eq!([0.0, 0.7, 1.0, 3.0, 51.0].map(round_above), [1.0, 1.0, 1.0, 5.0, 100.0]);
        assert_eq!([250.0, 20_000.0, 2_500_000.0].map(number), ["250", "20 k", "2.5 M"]);
    }

    #[test]
    fn a_line_is_interrupted_where_there_is_no_value_and_names_cannot_break_the_page() {
        let mut out = String::new();
        let line = Line { name: "<b>", values: vec![Some(1.0), None, Some(1.0)] };
        plot(&mut out, "a \"title\"", &[line], &[]);
        assert_eq!(out.matches('M').count() - 5, 2, "{out}");
        assert!(out.contains("&lt;b&gt;") && out.contains("aria-label=\"a &quot;title&quot;\""), "{out}");
    }
}
