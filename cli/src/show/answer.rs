//! An answer as a table.
//!
//! Owns: the columns of the table, how each kind of value is written, and how two ranges are compared.
//! Does not own: what the numbers mean, the facts under the table (`facts`).

use super::grid::{Align, Grid};
use super::number::{self, Unit};
use tidemark_proto::v1;
use v1::value::Kind;

/// What a group is called whose value is not set.
const NO_VALUE: &str = "(none)";
/// What stands where there is no number.
const NO_NUMBER: &str = "-";
/// How an answer calls the numbers of the range compared with.
const VERSUS: &str = "versus.";

/// What the question was, as far as the table has to know.
#[derive(Clone, Debug, Default)]
pub(crate) struct Asked {
    /// How many columns are groups.
    pub(crate) groups: usize,
    /// How wide the steps are, where there are any.
    pub(crate) granularity: String,
    /// How much earlier the range compared with is.
    pub(crate) versus: String,
}

/// The answer as a table, at most `max_width` wide where that is possible.
pub(crate) fn table(answer: &v1::Answer, asked: &Asked, max_width: Option<usize>) -> String {
    if answer.rows.is_empty() {
        return "No events match.\n".to_owned();
    }
    let Cells { titles, rows } = cells(answer, asked);
    let mut grid = Grid::new(titles);
    rows.into_iter().for_each(|row| grid.push(row));
    grid.draw(max_width)
}

/// The texts of a table.
pub(crate) struct Cells {
    /// Of each column.
    pub(crate) titles: Vec<(String, Align)>,
    /// Of each row, by column.
    pub(crate) rows: Vec<Vec<String>>,
}

/// The answer as texts.
pub(crate) fn cells(answer: &v1::Answer, asked: &Asked) -> Cells {
    let columns = columns(&answer.columns, asked);
    let texts = |row: &v1::Row| columns.iter().map(|column| column.text(&row.values)).collect();
    Cells {
        titles: columns.iter().map(|column| (column.title.clone(), column.align())).collect(),
        rows: answer.rows.iter().map(texts).collect(),
    }
}

/// A column of the table, and where in the answer it is from.
struct Column {
    title: String,
    content: Content,
}

enum Content {
    Time { at: usize, is_day: bool },
    Group { at: usize },
    Number { at: usize, unit: Unit },
    Change { now: usize, then: usize },
}

fn columns(names: &[String], asked: &Asked) -> Vec<Column> {
    let has_time = names.first().is_some_and(|name| name == "time");
    let first_number = usize::from(has_time) + asked.groups;
    let mut columns = Vec::new();
    for (at, name) in names.iter().enumerate() {
        let column = |content| Column { title: name.clone(), content };
        match at {
            0 if has_time => {
                let time = Content::Time { at, is_day: asked.granularity == "1d" };
                columns.push(Column { title: "time (UTC)".to_owned(), content: time });
            }
            at if at < first_number => columns.push(column(Content::Group { at })),
            _ if name.starts_with(VERSUS) => {}
            at => {
                let unit = Unit::of(name);
                columns.push(column(Content::Number { at, unit }));
                let versus = format!("{VERSUS}{name}");
                if let Some(then) = names.iter().position(|name| *name == versus) {
                    let before = Content::Number { at: then, unit };
                    columns.push(Column { title: format!("{} before", asked.versus), content: before });
                    columns.push(Column {
                        title: "change".to_owned(),
                        content: Content::Change { now: at, then },
                    });
                }
            }
        }
    }
    columns
}

impl Column {
    fn align(&self) -> Align {
        match self.content {
            Content::Time { .. } | Content::Group { .. } => Align::Left,
            Content::Number { .. } | Content::Change { .. } => Align::Right,
        }
    }

    fn text(&self, values: &[v1::Value]) -> String {
        let value = |at: usize| values.get(at).and_then(|value| value.kind.as_ref());
        match self.content {
            Content::Time { at, is_day } => time(value(at), is_day),
            Content::Group { at } => group(value(at)),
            Content::Number { at, unit } => number(value(at), unit),
            Content::Change { now, then } => match (as_float(value(now)), as_float(value(then))) {
                (Some(now), Some(then)) => number::change(now, then),
                (Some(_), None) => "new".to_owned(),
                (None, _) => NO_NUMBER.to_owned(),
            },
        }
    }
}

/// Steps start on whole minutes, so that `2015-05-17 10:05` says it all.
fn time(value: Option<&Kind>, is_day: bool) -> String {
    let Some(Kind::Text(text)) = value else { return NO_VALUE.to_owned() };
    match text.split_once('T') {
        Some((day, _)) if is_day => day.to_owned(),
        Some((day, clock)) => format!("{day} {}", clock.get(..5).unwrap_or(clock)),
        None => text.clone(),
    }
}

fn group(value: Option<&Kind>) -> String {
    match value {
        Some(Kind::Text(text)) if !text.is_empty() => text.clone(),
        Some(Kind::Text(_)) | None => NO_VALUE.to_owned(),
        Some(value) => number(Some(value), Unit::Count),
    }
}

fn number(value: Option<&Kind>, unit: Unit) -> String {
    match value {
        None => NO_NUMBER.to_owned(),
        Some(Kind::Text(text)) => text.clone(),
        Some(&Kind::Integer(integer)) => number::integer(integer, unit),
        Some(&Kind::Number(decimal)) => number::decimal(decimal, unit),
    }
}

fn as_float(value: Option<&Kind>) -> Option<f64> {
    match value? {
        Kind::Text(_) => None,
        &Kind::Integer(integer) => Some(integer as f64),
        &Kind::Number(number) => Some(number),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(columns: &[&str], rows: Vec<Vec<Option<Kind>>>) -> v1::Answer {
        let value = |kind| v1::Value { kind };
        let row = |kinds: Vec<Option<Kind>>| v1::Row { values: kinds.into_iter().map(value).collect() };
        v1::Answer {
            columns: columns.iter().map(|&column| column.to_owned()).collect(),
            rows: rows.into_iter().map(row).collect(),
            facts: None,
        }
    }

    fn text(text: &str) -> Option<Kind> {
        Some(Kind::Text(text.to_owned()))
    }

    fn int(integer: u64) -> Option<Kind> {
        Some(Kind::Integer(integer))
    }

    #[test]
    fn an_answer_is_a_table_with_units_and_names_for_what_is_not_set() {
        let answer = answer(
            &["device", "views", "bytes", "load_ms.p95", "load_ms.mean"],
            vec![
                vec![text("mobile"), int(12_345), int(3 << 20), int(1_180), Some(Kind::Number(153.74))],
                vec![text(""), int(9), int(0), None, None],
            ],
        );
        let expected = "
 device   views    bytes  load_ms.p95  load_ms.mean
───────────────────────────────────────────────────
 mobile  12,345  3.0 MiB     1,180 ms      153.7 ms
 (none)       9      0 B            -             -
";
        assert_eq!(table(&answer, &Asked { groups: 1, ..Asked::default() }, None), expected[1..]);
    }

    #[test]
    fn a_comparison_has_the_number_then_and_the_change_beside_each_number() {
        let answer = answer(
            &["time", "url", "views", "load_ms.p95", "versus.views", "versus.load_ms.p95"],
            vec![
                vec![text("2015-05-17T10:05:00Z"), text("/a"), int(1_200), int(180), int(1_000), int(200)],
                vec![text("2015-05-17T10:10:00Z"), text("/b"), int(3), None, int(0), None],
            ],
        );
        let asked = Asked { groups: 1, granularity: "5m".into(), versus: "7d".into() };
        let expected = "
 time (UTC)        url  views  7d before  change  load_ms.p95  7d before  change
────────────────────────────────────────────────────────────────────────────────
 2015-05-17 10:05  /a   1,200      1,000  +20.0%       180 ms     200 ms  -10.0%
 2015-05-17 10:10  /b       3          0     new            -          -       -
";
        assert_eq!(table(&answer, &asked, None), expected[1..]);
    }

    #[test]
    fn days_have_no_time_of_day() {
        let answer = answer(&["time", "views"], vec![vec![text("2015-05-17T00:00:00Z"), int(1)]]);
        let drawn = table(&answer, &Asked { granularity: "1d".into(), ..Asked::default() }, None);
        assert!(drawn.contains(" 2015-05-17  "), "{drawn}");
    }

    #[test]
    fn no_rows_are_said_in_words() {
        assert_eq!(table(&answer(&["views"], Vec::new()), &Asked::default(), None), "No events match.\n");
    }
}
