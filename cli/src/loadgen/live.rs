//! How a run goes, while it runs.
//!
//! Owns: a few lines at the end of the terminal, on stderr. Does not own: the numbers (`tidemark_loadgen::load::run::Watched`).

use ratatui::backend::CrosstermBackend;
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Style};
use ratatui::text::Line;
use ratatui::widgets::{Gauge, Paragraph, Sparkline};
use ratatui::{Frame, Terminal, TerminalOptions, Viewport};
use std::io::IsTerminal as _;
use std::time::Duration;
use tidemark_loadgen::load::measured::{Latencies, Timeline};
use tidemark_loadgen::load::run::Watched;
use tidemark_loadgen::load::schedule::Schedule;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const LINES: u16 = 7;
const EVERY: Duration = Duration::from_millis(250);

/// Shows the run until `over`, where stderr is a terminal.
pub(super) fn show(watched: Watched, schedule: Schedule, over: CancellationToken) -> Option<JoinHandle<()>> {
    if !std::io::stderr().is_terminal() {
        return None;
    }
    let backend = CrosstermBackend::new(std::io::stderr());
    // A terminal that does not say where its cursor is gets none.
    let options = TerminalOptions { viewport: Viewport::Inline(LINES) };
    let mut terminal = Terminal::with_options(backend, options).ok()?;
    Some(tokio::spawn(async move {
        loop {
            let (timeline, elapsed) = (watched.timeline(), watched.elapsed());
            if terminal.draw(|frame| draw(frame, &timeline, elapsed, &schedule)).is_err() {
                return;
            }
            if over.run_until_cancelled(tokio::time::sleep(EVERY)).await.is_none() {
                break;
            }
        }
        // The report takes its place.
        let area = terminal.get_frame().area();
        _ = terminal.clear();
        _ = terminal.set_cursor_position(area.as_position());
    }))
}

fn draw(frame: &mut Frame<'_>, timeline: &Timeline, elapsed: Duration, schedule: &Schedule) {
    let rows = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Length(2),
        Constraint::Length(3),
    ]);
    let [progress, rates, spark, latencies] = rows.areas(frame.area());
    let part = (elapsed.as_secs_f64() / schedule.duration.as_secs_f64()).clamp(0.0, 1.0);
    let label = match elapsed < schedule.duration {
        true => format!("{:.0} of {:.0} s", elapsed.as_secs_f64(), schedule.duration.as_secs_f64()),
        false => "waiting for what is on its way".to_owned(),
    };
    frame.render_widget(
        Gauge::default().ratio(part).label(label).gauge_style(Style::new().fg(Color::Cyan)),
        progress,
    );

    let (total, part_s) = (timeline.total(), timeline.part().as_secs_f64());
    // The part before the running one: that is whole.
    let last = timeline.parts().iter().rev().nth(1);
    let acknowledged = last.map_or(0.0, |part| part.accepted as f64 / part_s);
    let on_its_way = total.due.saturating_sub(total.accepted + total.rejected + total.undelivered);
    let now = format!(
        "due {:.0}/s  acknowledged {acknowledged:.0}/s  on its way {on_its_way}  undelivered {}",
        schedule.rate_at(elapsed),
        total.undelivered
    );
    frame.render_widget(Line::raw(now), rates);
    let width = usize::from(spark.width);
    let whole = &timeline.parts()[..timeline.parts().len().saturating_sub(1)];
    let recent: Vec<u64> = whole.iter().rev().take(width).rev().map(|part| part.accepted).collect();
    frame.render_widget(Sparkline::default().data(recent).style(Style::new().fg(Color::Green)), spark);

    let mut lines =
        vec![Line::raw(latency("acknowledged, last second", last.map(|part| &part.acknowledged)))];
    lines.push(Line::raw(latency("acknowledged, all so far", Some(&total.acknowledged))));
    if total.answers().count() + total.failed_queries + total.updates > 0 {
        let answered = latency("queries", Some(&total.answers()));
        lines.push(Line::raw(format!(
            "{answered}  failed {}  updates {}",
            total.failed_queries, total.updates
        )));
    }
    frame.render_widget(Paragraph::new(lines), latencies);
}

fn latency(of: &str, latencies: Option<&Latencies>) -> String {
    let milliseconds = |share: f64| {
        let found = latencies.and_then(|latencies| latencies.quantile(share));
        found.map_or("-".to_owned(), |found| format!("{:.1} ms", found.as_secs_f64() * 1e3))
    };
    format!("{of:<26} p50 {}  p99 {}  p99.9 {}", milliseconds(0.5), milliseconds(0.99), milliseconds(0.999))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ratatui::backend::TestBackend;
    use tidemark_loadgen::load::schedule::Shape;

    #[test]
    fn the_view_tells_the_last_whole_second_and_everything_so_far() {
        let duration = Duration::from_secs(10);
        let mut timeline = Timeline::of(duration);
        for second in 0..3 {
            timeline.note(Duration::from_secs(second), |part| {
                part.due += 100;
                part.accepted += if second < 2 { 100 } else { 40 };
                part.acknowledged.add_all(Duration::from_millis(2), 100);
            });
        }
        let schedule = Schedule { shape: Shape::Constant { rate: 100.0 }, duration };
        let mut terminal = Terminal::new(TestBackend::new(90, LINES)).unwrap();
        terminal.draw(|frame| draw(frame, &timeline, Duration::from_millis(2_500), &schedule)).unwrap();
        let drawn = terminal.backend().to_string();
        for part in ["of 10 s", "due 100/s  acknowledged 100/s  on its way 60", "p50 2.0 ms  p99 2.0 ms"] {
            assert!(drawn.contains(part), "{part:?} is not in\n{drawn}");
        }
    }
}
