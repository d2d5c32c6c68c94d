//! The demo's display: what is read right now.
//!
//! Owns: asking every second and drawing the answer in place, or printing a line now and then where nothing can be drawn.
//! Does not own: answers (they come from the coordinator, as everybody's do).

use super::SITE;
use super::cluster::Addresses;
use super::traffic::Progress;
use crate::output::{print, terminal_size};
use crate::show::facts;
use crate::show::grid::clean;
use crate::show::number::{age, percentage, thousands};
use console::{Alignment, pad_str};
use std::time::Duration;
use tidemark_client::{ClientError, QueryClient};
use tidemark_proto::v1;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, interval_at};
use tokio_util::sync::CancellationToken;
use v1::value::Kind;

/// How often the table is drawn.
const DRAW_EVERY: Duration = Duration::from_secs(1);
/// How often a line is printed, where there is no terminal.
const PRINT_EVERY: Duration = Duration::from_secs(5);
/// Lines of the terminal that the first lines and the cursor take.
const LINES_TAKEN: usize = 14;
/// Lines of the table beside its rows: header, rule, total, status.
const FRAME_LINES: usize = 4;
/// At least and at most so many rows are drawn.
const ROWS: std::ops::RangeInclusive<usize> = 3..=20;
/// Columns are as wide as these, also where the terminal is wider.
const MAX_WIDTH: usize = 100;
/// Width of a column of numbers.
const NUMBER_WIDTH: usize = 11;

/// Shows what is going on until `shutdown`.
pub(super) async fn show(
    addresses: &Addresses,
    progress: watch::Receiver<Progress>,
    shutdown: &CancellationToken,
) -> anyhow::Result<()> {
    let client = QueryClient::connect(&format!("http://{}", addresses.coordinator)).await?;
    let mut ticks = match terminal_size() {
        Some(_) => interval(DRAW_EVERY),
        // There is nothing to tell in the first moment.
        None => interval_at(Instant::now() + 2 * DRAW_EVERY, PRINT_EVERY),
    };
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut painter = Painter::default();
    while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
        let rows = terminal_size().map_or(1, |(lines, _)| rows_that_fit(lines));
        let Some(asked) = shutdown.run_until_cancelled(Snapshot::ask(&client, rows)).await else { break };
        let progress = *progress.borrow();
        match terminal_size() {
            Some((_, columns)) => print(&painter.paint(&frame(&asked, progress, columns)))?,
            None => print(&format!("{}\n", line(&asked, progress)))?,
        }
    }
    Ok(())
}

fn rows_that_fit(lines: usize) -> usize {
    lines.saturating_sub(LINES_TAKEN + FRAME_LINES).clamp(*ROWS.start(), *ROWS.end())
}

/// What was read in the last half hour.
#[derive(Clone, Debug, Default)]
struct Snapshot {
    top: Vec<Read>,
    all: Read,
    facts: v1::Facts,
}

/// How much a page was read.
#[derive(Clone, Debug, Default, PartialEq)]
struct Read {
    url: String,
    views: u64,
    visitors: u64,
    load_p95_ms: Option<u64>,
}

impl Snapshot {
    async fn ask(client: &QueryClient, rows: usize) -> Result<Self, ClientError> {
        let question = v1::Query {
            site: SITE.to_owned(),
            from: "-30m".to_owned(),
            measures: ["views", "visitors", "load_ms.p95"].map(str::to_owned).to_vec(),
            ..v1::Query::default()
        };
        let by_url = v1::Query { group_by: vec!["url".to_owned()], limit: rows as u32, ..question.clone() };
        let (top, all) = tokio::try_join!(client.query(by_url), client.query(question))?;
        Ok(Self {
            top: top.rows.iter().map(Read::of).collect(),
            all: all.rows.first().map(Read::of).unwrap_or_default(),
            facts: all.facts.unwrap_or_default(),
        })
    }
}

impl Read {
    /// A row with or without a URL before the numbers.
    fn of(row: &v1::Row) -> Self {
        let mut read = Self::default();
        let mut numbers = Vec::new();
        for value in &row.values {
            match &value.kind {
                Some(Kind::Text(url)) => read.url = url.clone(),
                Some(Kind::Integer(number)) => numbers.push(Some(*number)),
                Some(Kind::Number(number)) => numbers.push(Some(*number as u64)),
                None => numbers.push(None),
            }
        }
        let number = |at: usize| numbers.get(at).copied().flatten();
        clean(&mut read.url);
        Self {
            views: number(0).unwrap_or(0),
            visitors: number(1).unwrap_or(0),
            load_p95_ms: number(2),
            ..read
        }
    }

    fn line(&self, name: &str, width: usize) -> String {
        let load = self.load_p95_ms.map_or_else(|| "-".to_owned(), |ms| format!("{} ms", thousands(ms)));
        columns([name, &thousands(self.views), &thousands(self.visitors), &load], width)
    }
}

/// A line of a text and three numbers.
fn columns([text, first, second, third]: [&str; 4], width: usize) -> String {
    let text_width = width.saturating_sub(3 * NUMBER_WIDTH).max(1);
    let text = pad_str(text, text_width, Alignment::Left, Some("…"));
    format!("{text}{first:>NUMBER_WIDTH$}{second:>NUMBER_WIDTH$}{third:>NUMBER_WIDTH$}")
}

/// The lines of the table, none wider than the terminal.
fn frame(asked: &Result<Snapshot, ClientError>, progress: Progress, terminal_columns: usize) -> Vec<String> {
    // The last column stays free: some terminals wrap a line that fills it.
    let width = terminal_columns.saturating_sub(1).clamp(1, MAX_WIDTH);
    let mut lines = match asked {
        Ok(snapshot) => {
            let header = columns(["Pages, last 30 minutes", "views", "visitors", "load p95"], width);
            let mut lines = vec![header, "─".repeat(width)];
            lines.extend(snapshot.top.iter().map(|read| read.line(&read.url, width)));
            lines.push(snapshot.all.line("all pages", width));
            lines
        }
        Err(error) => vec![format!("The question was not answered: {error}")],
    };
    lines.push(format!("{} · Ctrl-C ends the demo", status(asked, progress)));
    let fit = |line: String| console::truncate_str(&line, width, "…").into_owned();
    lines.into_iter().map(fit).collect()
}

fn status(asked: &Result<Snapshot, ClientError>, progress: Progress) -> String {
    let facts = asked.as_ref().ok().map(|snapshot| &snapshot.facts);
    let completeness = facts.map_or_else(|| "no answer".to_owned(), facts::completeness);
    if progress.past < 1.0 {
        let share = percentage((progress.past * 100.0).floor() / 100.0);
        return format!("filling in the last 30 minutes: {share} · {completeness}");
    }
    let fresh = facts.and_then(|facts| facts.freshness_ms).map(|ms| format!(", newest {} ago", age(ms)));
    format!("{} views sent · {completeness}{}", thousands(progress.events), fresh.unwrap_or_default())
}

/// The same in one line.
fn line(asked: &Result<Snapshot, ClientError>, progress: Progress) -> String {
    match asked {
        Ok(Snapshot { top, all, .. }) => {
            let load = all.load_p95_ms.map_or_else(|| "-".to_owned(), |ms| format!("{} ms", thousands(ms)));
            let first = top.first();
            let first = first.map(|read| format!("; most read: {} ({})", read.url, thousands(read.views)));
            format!(
                "last 30 minutes: {} views, {} visitors, load p95 {load}{}; {}",
                thousands(all.views),
                thousands(all.visitors),
                first.unwrap_or_default(),
                status(asked, progress),
            )
        }
        Err(error) => format!("the question was not answered: {error}"),
    }
}

/// Draws frames over one another. What did not change is written again, in one piece, so that nothing flickers.
#[derive(Debug, Default)]
struct Painter {
    drawn: usize,
}

impl Painter {
    fn paint(&mut self, lines: &[String]) -> String {
        let mut text = String::from("\r");
        if self.drawn > 0 {
            text.push_str(&format!("\x1b[{}A", self.drawn));
        }
        for line in lines {
            text.push_str(line);
            // Clears what an earlier, longer line left.
            text.push_str("\x1b[K\n");
        }
        // And what an earlier, longer frame left.
        text.push_str("\x1b[J");
        self.drawn = lines.len();
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(url: &str, views: u64) -> Read {
        Read { url: url.to_owned(), views, visitors: views / 2, load_p95_ms: Some(182) }
    }

    fn snapshot(rows: usize) -> Snapshot {
        let long = "/culture/2024/festival-exhibition-10042/with/a/name/that/is/longer/than/the/column";
        Snapshot {
            top: vec![read(long, 12_345); rows],
            all: read("", 361_204),
            facts: v1::Facts { complete: true, freshness_ms: Some(120), ..v1::Facts::default() },
        }
    }

    #[test]
    fn the_table_and_the_first_lines_fit_a_terminal_of_80_by_24() {
        let rows = rows_that_fit(24);
        let lines = frame(&Ok(snapshot(rows)), Progress { events: 361_204, past: 1.0 }, 80);
        assert!(lines.len() + LINES_TAKEN <= 24, "{} lines", lines.len());
        assert!(lines.iter().all(|line| console::measure_text_width(line) < 80));
        assert_eq!(
            lines[0],
            "Pages, last 30 minutes                              views   visitors   load p95"
        );
        assert_eq!(
            lines[2],
            "/culture/2024/festival-exhibition-10042/with/…     12,345      6,172     182 ms"
        );
        assert_eq!(
            lines[lines.len() - 2],
            "all pages                                         361,204    180,602     182 ms"
        );
        assert_eq!(
            lines[lines.len() - 1],
            "361,204 views sent · complete, newest 120 ms ago · Ctrl-C ends the demo"
        );
    }

    #[test]
    fn a_large_terminal_shows_more_rows_and_a_tiny_one_still_some() {
        assert_eq!((rows_that_fit(10), rows_that_fit(24), rows_that_fit(60)), (3, 6, 20));
        assert!(
            frame(&Ok(snapshot(3)), Progress::default(), 20)
                .iter()
                .all(|line| console::measure_text_width(line) < 20)
        );
    }

    #[test]
    fn a_frame_is_drawn_over_the_one_before() {
        let mut painter = Painter::default();
        assert_eq!(painter.paint(&["a".into(), "b".into()]), "\ra\x1b[K\nb\x1b[K\n\x1b[J");
        assert_eq!(painter.paint(&["c".into()]), "\r\x1b[2Ac\x1b[K\n\x1b[J");
        assert!(painter.paint(&["d".into()]).starts_with("\r\x1b[1A"));
    }

    #[test]
    fn without_a_terminal_a_line_says_the_most_important() {
        assert_eq!(
            line(
                &Ok(Snapshot { top: vec![read("/", 9)], ..snapshot(0) }),
                Progress { events: 1_000, past: 0.427 }
            ),
            "last 30 minutes: 361,204 views, 180,602 visitors, load p95 182 ms; most read: / (9); \
             filling in the last 30 minutes: 42 % · complete"
        );
    }
}
