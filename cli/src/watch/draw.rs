//! The screen of `tidemark watch`.
//!
//! Owns: where everything stands, and colours.
//! Does not own: what there is to show (`model`), how numbers are written (`show`).

use super::model::{Connection, Model, row_key};
use crate::show::answer::Asked;
use crate::show::answer::{Cells, cells};
use crate::show::facts;
use crate::show::grid::Align;
use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style, Stylize as _};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Cell, Clear, Paragraph, Row, Sparkline, Table, TableState, Wrap};
use tidemark_proto::v1;

const KEYS: &str = "? help  q quit  Enter filter  ⌫ back  / condition  g group  s sort  +- range  p pause";
const HELP: [&str; 11] = [
    "↑ ↓ j k, PageUp PageDown   move",
    "Enter                      only the selected row's value",
    "Backspace                  take the last condition back",
    "/                          type a condition: device=mobile,tablet  url^=/news/",
    "g                          group by the next dimension",
    "s, 1 to 9                  order by the next measure, or by this one",
    "+ -                        a longer or a shorter range",
    "p                          stand still",
    "?                          this",
    "q, Esc, Ctrl-C             quit",
    "A row that has just changed is bold; ▁▃▇ is its last hour.",
];
/// Steps of a sparkline.
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// Columns of a sparkline in the table: an hour of five minutes.
const TREND: u16 = 13;
/// Room that texts have at least where there is not enough for all.
const LEAST_TEXT: u16 = 12;
/// Between columns.
const SPACING: u16 = 2;
/// Where it says how many columns there is no room for.
const HIDDEN: u16 = 3;

/// Draws everything.
pub(super) fn draw(frame: &mut Frame<'_>, model: &Model, asked: &Asked) {
    let big = model.question.group_by.is_empty() && !model.trends.is_empty();
    let [title, body, chart, below, keys] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Min(3),
        Constraint::Length(if big { 8 } else { 0 }),
        Constraint::Length(1),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    frame.render_widget(Paragraph::new(title_line(model)), title);
    match &model.answer {
        Some(answer) if !answer.rows.is_empty() => draw_table(frame, body, model, answer, asked),
        Some(_) => frame.render_widget(Paragraph::new("No events match. What comes shows here.").dim(), body),
        None => frame.render_widget(Paragraph::new("Asking …").dim(), body),
    }
    if big {
        draw_chart(frame, chart, model);
    }
    frame.render_widget(Paragraph::new(facts_line(model)), below);
    frame.render_widget(Paragraph::new(keys_line(model)), keys);
    if model.shows_help {
        draw_help(frame);
    }
}

fn title_line(model: &Model) -> Line<'static> {
    let question = &model.question;
    let from = if question.from.is_empty() { "-1h" } else { question.from.as_str() };
    let mut spans = vec![
        Span::from(format!(" {} ", question.site)).bold().reversed(),
        Span::from(format!(
            " {from} until {}",
            if question.to.is_empty() { "now" } else { question.to.as_str() }
        )),
    ];
    let by = question.group_by.join(", ");
    spans.push(if by.is_empty() {
        Span::from(" · all together")
    } else {
        Span::from(format!(" · by {by}"))
    });
    for filter in &question.filters {
        spans.push(Span::from(format!(" · {}", condition(filter))).cyan());
    }
    let (text, color) = match &model.connection {
        Connection::Connecting => (" · connecting".to_owned(), Color::Yellow),
        Connection::Connected { .. } if model.is_paused => (" · PAUSED".to_owned(), Color::Yellow),
        Connection::Connected { .. } => (" · live".to_owned(), Color::Green),
        Connection::Lost { at, because } => {
            (format!(" · {at} IS AWAY ({because}); reconnecting, what you see is old"), Color::Red)
        }
    };
    spans.push(Span::from(text).fg(color).bold());
    Line::from(spans)
}

fn condition(filter: &v1::Filter) -> String {
    let name = &filter.dimension;
    match &filter.prefix {
        Some(prefix) => format!("{name}^={prefix}"),
        None if filter.not_in.is_empty() => format!("{name}={}", filter.r#in.join(",")),
        None => format!("{name}!={}", filter.not_in.join(",")),
    }
}

fn draw_table(frame: &mut Frame<'_>, area: Rect, model: &Model, answer: &v1::Answer, asked: &Asked) {
    let Cells { mut titles, mut rows } = cells(answer, asked);
    let mut has_trends = !model.question.group_by.is_empty() && !model.trends.is_empty();
    let width = |column: usize| -> u16 {
        let texts = rows.iter().map(|row| row[column].chars().count());
        texts.chain([titles[column].0.chars().count()]).max().unwrap_or(0).min(60) as u16
    };
    let mut widths: Vec<Constraint> = (0..titles.len())
        .map(|column| match titles[column].1 {
            Align::Left => Constraint::Min(width(column).min(LEAST_TEXT)),
            Align::Right => Constraint::Length(width(column)),
        })
        .collect();
    // Whole columns go where there is no room: a number that is cut reads as another number.
    let all = widths.len();
    let (shown, keeps_trends) = fitting(&widths, has_trends, area.width);
    has_trends = keeps_trends;
    widths.truncate(shown);
    titles.truncate(shown);
    rows.iter_mut().for_each(|row| row.truncate(shown));
    if shown < all {
        widths.push(Constraint::Length(HIDDEN));
    }
    if has_trends {
        widths.push(Constraint::Length(TREND));
    }
    let aligned = |text: &str, align: Align| {
        let text = Line::from(text.to_owned());
        match align {
            Align::Left => text,
            Align::Right => text.alignment(Alignment::Right),
        }
    };
    let mut header: Vec<Cell<'_>> =
        titles.iter().map(|(title, align)| Cell::from(aligned(title, *align))).collect();
    if shown < all {
        header.push(Cell::from(format!("+{}", all - shown)));
    }
    if has_trends {
        header.push(Cell::from("last hour"));
    }
    let drawn = rows.iter().zip(&answer.rows).map(|(texts, row)| {
        let mut cells: Vec<Cell<'_>> = texts
            .iter()
            .zip(&titles)
            .map(|(text, (title, align))| Cell::from(aligned(text, *align)).style(trend_style(title, text)))
            .collect();
        if has_trends {
            let trend = model.trends.get(&row_key(row)).map(|of| sparkline(of)).unwrap_or_default();
            cells.push(Cell::from(trend).style(Style::new().cyan()));
        }
        let style =
            if model.is_marked(row) { Style::new().add_modifier(Modifier::BOLD) } else { Style::new() };
        Row::new(cells).style(style)
    });
    let table = Table::new(drawn, widths)
        .header(Row::new(header).style(Style::new().dim()))
        .column_spacing(SPACING)
        .row_highlight_style(Style::new().reversed());
    let mut state = TableState::default().with_selected(Some(model.selected));
    frame.render_stateful_widget(table, area, &mut state);
}

/// How many columns there is room for, and whether there is for sparklines beside them.
fn fitting(widths: &[Constraint], has_trends: bool, room: u16) -> (usize, bool) {
    let least = |constraint: &Constraint| match constraint {
        Constraint::Min(width) | Constraint::Length(width) => width + SPACING,
        _ => SPACING,
    };
    let of = |shown: usize| widths[..shown].iter().map(least).sum::<u16>();
    if of(widths.len()) + if has_trends { TREND + SPACING } else { 0 } <= room + SPACING {
        return (widths.len(), has_trends);
    }
    if of(widths.len()) <= room + SPACING {
        return (widths.len(), false);
    }
    let fits = |shown: &usize| of(*shown) + HIDDEN <= room;
    ((1..widths.len()).rev().find(fits).unwrap_or(1), false)
}

/// What went up is green, what went down is red; the sign says it, too.
fn trend_style(title: &str, text: &str) -> Style {
    match (title, text.chars().next()) {
        ("change", Some('+')) => Style::new().green(),
        ("change", Some('-' | '−')) if text.len() > 1 => Style::new().red(),
        _ => Style::new(),
    }
}

fn sparkline(of: &[u64]) -> String {
    let most = of.iter().copied().max().unwrap_or(0).max(1);
    let bar = |&number: &u64| match number {
        0 => ' ',
        number => BARS[((number * (BARS.len() as u64 - 1)).div_ceil(most) as usize).min(BARS.len() - 1)],
    };
    of[of.len().saturating_sub(TREND.into())..].iter().map(bar).collect()
}

fn draw_chart(frame: &mut Frame<'_>, area: Rect, model: &Model) {
    let Some(trend) = model.trends.values().next() else { return };
    // Each step several columns wide, so that an hour fills the screen.
    let wide = (usize::from(area.width.saturating_sub(2)) / trend.len().max(1)).max(1);
    let columns: Vec<u64> = trend.iter().flat_map(|&number| std::iter::repeat_n(number, wide)).collect();
    let block =
        Block::bordered().title(" the last hour, in steps of five minutes; the last one is running ").dim();
    frame.render_widget(Sparkline::default().block(block).data(&columns).style(Style::new().cyan()), area);
}

fn facts_line(model: &Model) -> Line<'static> {
    let Some(answer) = &model.answer else { return Line::default() };
    let facts = answer.facts.clone().unwrap_or_default();
    let line = Line::from(format!(" {}", facts::line(&facts)));
    if facts.complete { line.dim() } else { line.red().bold() }
}

fn keys_line(model: &Model) -> Line<'static> {
    match (&model.input, &model.message) {
        (Some(input), _) => {
            Line::from(vec![Span::from(" condition: ").bold(), Span::from(input.clone()), Span::from("▏")])
        }
        (None, Some(message)) => Line::from(format!(" {message}")).yellow(),
        (None, None) => Line::from(format!(" {KEYS}")).dim(),
    }
}

fn draw_help(frame: &mut Frame<'_>) {
    let area = frame.area();
    let (width, height) = (area.width.min(84), area.height.min(HELP.len() as u16 + 2));
    let area = Rect::new((area.width - width) / 2, (area.height - height) / 2, width, height);
    frame.render_widget(Clear, area);
    let text: Vec<Line<'_>> = HELP.iter().map(|&line| Line::from(line)).collect();
    frame.render_widget(
        Paragraph::new(text).wrap(Wrap { trim: false }).block(Block::bordered().title(" keys ")),
        area,
    );
}

#[cfg(test)]
mod tests {
    use super::super::model::Key;
    use super::*;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use v1::value::Kind;

    fn screen(model: &Model, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        let asked = Asked { groups: model.question.group_by.len(), versus: "7d".into(), ..Asked::default() };
        terminal.draw(|frame| draw(frame, model, &asked)).unwrap();
        let buffer = terminal.backend().buffer().clone();
        let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
        (0..height).map(line).collect::<Vec<String>>().join("\n")
    }

    fn model(complete: bool) -> Model {
        let mut model = Model::new(v1::Query {
            site: "example.com".into(),
            measures: vec!["views".into()],
            group_by: vec!["url".into()],
            versus: "7d".into(),
            ..v1::Query::default()
        });
        model.connection = Connection::Connected { at: "http://here".into() };
        let value = |kind| v1::Value { kind: Some(kind) };
        let row = |url: &str, now, then| v1::Row {
            values: vec![
                value(Kind::Text(url.into())),
                value(Kind::Integer(now)),
                value(Kind::Integer(then)),
            ],
        };
        let missing = (!complete).then(|| v1::Missing {
            node: "n2".into(),
            reason: "did not answer within 2s".into(),
            ..v1::Missing::default()
        });
        let facts = v1::Facts {
            complete,
            shards_asked: 8,
            shards_answered: if complete { 8 } else { 4 },
            freshness_ms: Some(120),
            missing: missing.into_iter().collect(),
            ..v1::Facts::default()
        };
        let answer = v1::Answer {
            columns: vec!["url".into(), "views".into(), "versus.views".into()],
            rows: vec![row("/", 1200, 1000), row("/news/", 30, 60)],
            facts: Some(facts),
        };
        model.answered(&answer, std::iter::empty());
        model
    }

    #[test]
    fn a_small_terminal_has_the_table_what_it_is_worth_and_the_keys() {
        let screen = screen(&model(true), 80, 10);
        for text in [
            "example.com",
            "by url",
            "live",
            "/news/",
            "1,200",
            "+20",
            "complete",
            "newest event 120 ms ago",
            "q quit",
        ] {
            assert!(screen.contains(text), "{text}:\n{screen}");
        }
    }

    #[test]
    fn every_number_is_whole_or_its_column_is_not_there_and_that_is_said() {
        let mut model = model(true);
        let measures = ["views", "visitors", "load_ms.p95", "bytes"];
        model.question.measures = measures.iter().map(|&name| name.to_owned()).collect();
        let numbers = |base: u64| (1..=4).map(move |n| v1::Value { kind: Some(Kind::Integer(base * n)) });
        let url = v1::Value { kind: Some(Kind::Text("/a/long/way/to/a/page/of/its/own".into())) };
        let values = [url].into_iter().chain(numbers(123_456)).chain(numbers(234_567)).collect();
        let mut columns: Vec<String> = vec!["url".into()];
        columns.extend(model.question.measures.clone());
        columns.extend(model.question.measures.iter().map(|name| format!("versus.{name}")));
        let answer = v1::Answer { columns, rows: vec![v1::Row { values }], ..v1::Answer::default() };
        model.answered(&answer, std::iter::empty());
        model.trends.insert("/a/long/way/to/a/page/of/its/own".into(), vec![1, 2, 3]);
        let asked = Asked { groups: 1, versus: "7d".into(), ..Asked::default() };
        let whole: Vec<String> = cells(&answer, &asked).rows.remove(0).split_off(1);
        for width in [20, 40, 60, 80, 100, 130, 200] {
            let screen = screen(&model, width, 10);
            let row = screen.lines().nth(2).unwrap();
            // After the URL, which may be cut, come the first of the numbers, as they are.
            let (mut rest, mut shown) = (row, 0);
            for number in &whole {
                let Some(at) = rest.find(number.as_str()) else { break };
                assert_eq!(rest[..at].chars().filter(char::is_ascii_digit).count(), 0, "{width}:\n{screen}");
                (rest, shown) = (&rest[at + number.len()..], shown + 1);
            }
            let digits = |text: &str| text.chars().any(|letter| letter.is_ascii_digit());
            assert!(!digits(rest), "{width}: {rest:?} of\n{screen}");
            let says = format!("+{}", whole.len() - shown);
            assert!(shown == whole.len() || screen.contains(&says), "{width}: {says} of\n{screen}");
        }
    }

    #[test]
    fn what_is_missing_and_who_is_away_is_said() {
        let mut model = model(false);
        model.connection =
            Connection::Lost { at: "http://here".into(), because: "connection refused".into() };
        let screen = screen(&model, 150, 10);
        assert!(screen.contains("PARTIAL ANSWER") && screen.contains("n2 did not answer"), "{screen}");
        assert!(screen.contains("http://here IS AWAY (connection refused)"), "{screen}");
    }

    #[test]
    fn trends_stand_beside_their_rows() {
        let mut model = model(true);
        model.trends.insert("/".into(), vec![0, 1, 8]);
        let screen = screen(&model, 80, 10);
        assert!(screen.contains("last hour") && screen.contains(" ▂█"), "{screen}");
    }

    #[test]
    fn help_and_a_condition_being_typed_are_drawn_in_any_size() {
        let mut model = model(true);
        model.key(Key::Char('?'));
        assert!(screen(&model, 100, 30).contains("take the last condition back"));
        model.key(Key::Char('/'));
        model.key(Key::Char('x'));
        assert!(screen(&model, 100, 30).contains("condition: x"));
        for (width, height) in [(1, 1), (10, 3), (20, 5), (400, 100)] {
            screen(&model, width, height);
        }
    }
}
