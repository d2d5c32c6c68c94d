//! A table: text on the left, numbers on the right.
//!
//! Owns: the look of all tables, and how one is made to fit a terminal.
//! Does not own: what is in them.

use comfy_table::{CellAlignment, ContentLineStyle, LineStyle, Table, TableStyle};
use console::{measure_text_width, truncate_str};

/// A rule under the header, and nothing else.
const STYLE: TableStyle = TableStyle::new()
    .header_lines(ContentLineStyle::none())
    .header_separator(LineStyle::none().fill('─').junction('─'))
    .content_lines(ContentLineStyle::none());

/// Texts are not cut shorter than this.
const SHORTEST_TEXT: usize = 16;

/// How a column is aligned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Align {
    /// Text; may be cut where there is no room.
    Left,
    /// Numbers; never cut.
    Right,
}

/// A table of texts.
#[derive(Clone, Debug)]
pub(crate) struct Grid {
    columns: Vec<(String, Align)>,
    rows: Vec<Vec<String>>,
}

impl Grid {
    /// An empty table of these columns.
    pub(crate) fn new(columns: Vec<(String, Align)>) -> Self {
        Self { columns, rows: Vec::new() }
    }

    /// Adds a row, with a text per column.
    pub(crate) fn push(&mut self, row: Vec<String>) {
        self.rows.push(row);
    }

    /// The table as text, a line per row, at most `max_width` wide where that is possible.
    pub(crate) fn draw(mut self, max_width: Option<usize>) -> String {
        self.rows.iter_mut().flatten().for_each(clean);
        if let Some(max_width) = max_width {
            self.fit(max_width);
        }
        let mut table = Table::new();
        table.load_style(STYLE);
        if self.columns.iter().any(|(name, _)| !name.is_empty()) {
            table.set_header(self.columns.iter().map(|(name, _)| name));
        }
        table.add_rows(&self.rows);
        for (at, (_, align)) in self.columns.iter().enumerate() {
            let Some(column) = table.column_mut(at) else { continue };
            // With the space that stands for the line between columns, two spaces part them.
            column.set_padding((1, 0));
            if *align == Align::Right {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        let lines = table.lines().map(|line| format!("{}\n", line.trim_end()));
        lines.collect()
    }

    /// Cuts the widest text column as far as is needed.
    fn fit(&mut self, max_width: usize) {
        let widths: Vec<usize> = (0..self.columns.len()).map(|at| self.width(at)).collect();
        // A space before the first, two between any others.
        let width = widths.iter().map(|width| width + 2).sum::<usize>().saturating_sub(1);
        let texts = (0..widths.len()).filter(|&at| self.columns[at].1 == Align::Left);
        if let Some(widest) = texts.max_by_key(|&at| widths[at])
            && width > max_width
        {
            let room = widths[widest].saturating_sub(width - max_width).max(SHORTEST_TEXT);
            for row in &mut self.rows {
                row[widest] = truncate_str(&row[widest], room, "…").into_owned();
            }
        }
    }

    fn width(&self, at: usize) -> usize {
        let texts = self.rows.iter().map(|row| row[at].as_str()).chain([self.columns[at].0.as_str()]);
        texts.map(measure_text_width).max().unwrap_or(0)
    }
}

/// Replaces control characters: values come from visitors, and terminals obey what is printed.
pub(crate) fn clean(text: &mut String) {
    if text.contains(char::is_control) {
        *text = text.replace(char::is_control, "\u{fffd}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid() -> Grid {
        let mut grid = Grid::new(vec![("url".into(), Align::Left), ("views".into(), Align::Right)]);
        grid.push(vec!["/a/rather/long/address".into(), "1".into()]);
        grid.push(vec!["/b".into(), "1,234".into()]);
        grid
    }

    #[test]
    fn texts_are_on_the_left_and_numbers_on_the_right() {
        let expected = "
 url                     views
──────────────────────────────
 /a/rather/long/address      1
 /b                      1,234
";
        assert_eq!(grid().draw(None), expected[1..]);
    }

    #[test]
    fn a_narrow_terminal_cuts_texts_and_not_numbers() {
        let drawn = grid().draw(Some(28));
        assert!(drawn.lines().all(|line| measure_text_width(line) <= 28), "{drawn}");
        assert!(drawn.contains("/a/rather/long/addr…") && drawn.contains("1,234"), "{drawn}");
        let drawn = grid().draw(Some(5));
        assert!(drawn.contains("/a/rather/long/…"), "{drawn}");
    }

    #[test]
    fn what_a_visitor_sent_cannot_command_the_terminal() {
        let mut grid = Grid::new(vec![("referrer".into(), Align::Left)]);
        grid.push(vec!["\u{1b}[2Jgone\n".into()]);
        assert!(grid.draw(None).contains("\u{fffd}[2Jgone\u{fffd}"));
    }
}
