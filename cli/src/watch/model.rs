//! What `tidemark watch` shows, and what keys do to it.
//!
//! Owns: the question as keys have changed it, the answers at hand, what is selected, and what follows from a key.
//! Does not own: asking (`super`), drawing (`draw`), the terminal.

use crate::query::condition;
use std::collections::{BTreeMap, BTreeSet};
use tidemark_proto::v1;
use tidemark_rollup::active::ACTIVE;
use v1::value::Kind;

/// What `g` goes through.
const GROUPS: [&str; 6] = ["url", "referrer", "country", "device", "channel", ""];
/// What `+` and `-` go through.
const RANGES: [&str; 8] = ["-5m", "-30m", "-1h", "-6h", "-1d", "-7d", "-30d", "-364d"];
/// Rows that have a sparkline at most.
const TRENDS: usize = 40;
/// A row that changed is marked for so many ticks.
const MARKED: u64 = 2;

/// A key, as far as it means something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Up,
    Down,
    PageUp,
    PageDown,
    Enter,
    Back,
    Escape,
    Char(char),
}

/// What has to be done after a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// Nothing but drawing.
    Draw,
    /// The questions are others now.
    Ask,
    Quit,
}

/// Whether a coordinator is there, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Connection {
    Connecting,
    Connected { at: String },
    Lost { at: String, because: String },
}

#[derive(Debug)]
pub(super) struct Model {
    pub(super) question: v1::Query,
    pub(super) connection: Connection,
    pub(super) answer: Option<v1::Answer>,
    /// By row of the answer, its numbers of the last hour.
    pub(super) trends: BTreeMap<String, Vec<u64>>,
    pub(super) selected: usize,
    /// The row that was moved to: the selection goes where it goes.
    chosen: Option<String>,
    pub(super) is_paused: bool,
    pub(super) shows_help: bool,
    /// A condition being typed.
    pub(super) input: Option<String>,
    /// What went wrong with the last key.
    pub(super) message: Option<String>,
    /// Rows that changed, and when.
    changed: BTreeMap<String, u64>,
    tick: u64,
    /// The rows whose trends are asked for.
    trends_of: BTreeSet<String>,
    /// Conditions that the command line gave; these stay.
    given: usize,
    /// The last question that was answered.
    answered: Option<v1::Query>,
}

impl Model {
    pub(super) fn new(question: v1::Query) -> Self {
        let given = question.filters.len();
        Self {
            question,
            connection: Connection::Connecting,
            answer: None,
            trends: BTreeMap::new(),
            selected: 0,
            chosen: None,
            is_paused: false,
            shows_help: false,
            input: None,
            message: None,
            changed: BTreeMap::new(),
            tick: 0,
            trends_of: BTreeSet::new(),
            given,
            answered: None,
        }
    }

    /// The question, and the one for trends where there are any: always the second.
    pub(super) fn questions(&self) -> Vec<v1::Query> {
        [Some(self.question.clone()), self.trend_question()].into_iter().flatten().collect()
    }

    fn trend_question(&self) -> Option<v1::Query> {
        let measure = self.order_measure();
        let has_steps = !matches!(self.question.granularity.as_str(), "" | "all");
        if has_steps || measure == ACTIVE || self.question.group_by.len() > 1 {
            return None;
        }
        let mut filters = self.question.filters.clone();
        if let [group] = self.question.group_by.as_slice() {
            if self.trends_of.is_empty() {
                return None;
            }
            let r#in = self.trends_of.iter().cloned().collect();
            filters.push(v1::Filter { dimension: group.clone(), r#in, ..v1::Filter::default() });
        }
        Some(v1::Query {
            from: "-1h".into(),
            to: String::new(),
            granularity: "5m".into(),
            measures: vec![measure],
            filters,
            order_by: String::new(),
            versus: String::new(),
            ..self.question.clone()
        })
    }

    fn order_measure(&self) -> String {
        let first = || self.question.measures.first().cloned().unwrap_or_else(|| "views".to_owned());
        if self.question.order_by.is_empty() { first() } else { self.question.order_by.clone() }
    }

    /// Takes a newer answer; `changed` are the rows that are new or others. Whether trends of other rows are to be asked for.
    pub(super) fn answered(&mut self, answer: &v1::Answer, changed: impl Iterator<Item = String>) -> Effect {
        if self.is_paused {
            return Effect::Draw;
        }
        if self.answered.as_ref() != Some(&self.question) {
            self.answered = Some(self.question.clone());
        }
        self.changed.extend(changed.map(|row| (row, self.tick)));
        self.answer = Some(answer.clone());
        let of_chosen = |chosen: &String| answer.rows.iter().position(|row| row_key(row) == *chosen);
        let at = self.chosen.as_ref().and_then(of_chosen).unwrap_or(self.selected);
        self.selected = at.min(answer.rows.len().saturating_sub(1));
        if self.question.group_by.len() != 1 || !matches!(self.question.granularity.as_str(), "" | "all") {
            return Effect::Draw;
        }
        let shown: BTreeSet<String> = answer.rows.iter().take(TRENDS).map(row_key).collect();
        // Rows come and go at the end of the list all the time: it is asked anew where the first ones are others.
        let first = answer.rows.iter().take(TRENDS / 2).map(row_key);
        if first.clone().all(|row| self.trends_of.contains(&row)) {
            return Effect::Draw;
        }
        self.trends_of = shown;
        Effect::Ask
    }

    /// Asks again what was answered last, where that is something else.
    pub(super) fn go_back(&mut self) -> bool {
        match self.answered.take().filter(|answered| *answered != self.question) {
            Some(answered) => {
                self.question = answered;
                self.ask();
                true
            }
            None => false,
        }
    }

    /// Takes newer trends.
    pub(super) fn trended(&mut self, answer: &v1::Answer) {
        let mut trends: BTreeMap<String, BTreeMap<String, u64>> = BTreeMap::new();
        let mut times = BTreeSet::new();
        for row in &answer.rows {
            let texts = texts(row);
            let Some((time, group)) = texts.split_first() else { continue };
            let number = row.values.get(texts.len()).map(number).unwrap_or_default();
            times.insert((*time).to_owned());
            trends.entry(group.join("\u{1f}")).or_default().insert((*time).to_owned(), number);
        }
        let series = |of: BTreeMap<String, u64>| -> Vec<u64> {
            times.iter().map(|time| of.get(time).copied().unwrap_or(0)).collect()
        };
        self.trends = trends.into_iter().map(|(row, of)| (row, series(of))).collect();
    }

    /// Time goes by: marks fade.
    pub(super) fn tick(&mut self) {
        self.tick += 1;
        let tick = self.tick;
        self.changed.retain(|_, at| tick - *at < MARKED);
    }

    pub(super) fn is_marked(&self, row: &v1::Row) -> bool {
        self.changed.contains_key(&row_key(row))
    }

    pub(super) fn key(&mut self, key: Key) -> Effect {
        self.message = None;
        if self.input.is_some() {
            return self.typed(key);
        }
        let (before, effect) = (self.selected, self.command(key));
        if self.selected != before {
            let row = self.answer.as_ref().and_then(|answer| answer.rows.get(self.selected));
            // At the top it stays at the top.
            self.chosen = row.filter(|_| self.selected > 0).map(row_key);
        }
        effect
    }

    fn command(&mut self, key: Key) -> Effect {
        let last = self.answer.as_ref().map_or(0, |answer| answer.rows.len().saturating_sub(1));
        match key {
            Key::Char('q') => return Effect::Quit,
            Key::Escape if self.shows_help => self.shows_help = false,
            Key::Escape => return Effect::Quit,
            Key::Char('?') => self.shows_help = !self.shows_help,
            Key::Up | Key::Char('k') => self.selected = self.selected.saturating_sub(1),
            Key::Down | Key::Char('j') => self.selected = (self.selected + 1).min(last),
            Key::PageUp => self.selected = self.selected.saturating_sub(10),
            Key::PageDown => self.selected = (self.selected + 10).min(last),
            Key::Char('p') => self.is_paused = !self.is_paused,
            Key::Char('/') => self.input = Some(String::new()),
            Key::Char('g') => return self.next_group(),
            Key::Char('s') => return self.order_by_next(),
            Key::Char(digit @ '1'..='9') => return self.order_by(digit as usize - '1' as usize),
            Key::Char('+' | '=') => return self.range(true),
            Key::Char('-') => return self.range(false),
            Key::Enter => return self.filter_by_selected(),
            Key::Back => return self.drop_condition(),
            Key::Char(_) => {}
        }
        Effect::Draw
    }

    fn typed(&mut self, key: Key) -> Effect {
        let Some(input) = &mut self.input else { return Effect::Draw };
        match key {
            Key::Char(letter) => input.push(letter),
            Key::Back => _ = input.pop(),
            Key::Escape => self.input = None,
            Key::Enter => {
                let text = self.input.take().unwrap_or_default();
                match condition::parse(&text) {
                    Ok(filter) => {
                        self.question.filters.push(filter);
                        return self.ask();
                    }
                    Err(why) => self.message = Some(why),
                }
            }
            Key::Up | Key::Down | Key::PageUp | Key::PageDown => {}
        }
        Effect::Draw
    }

    fn ask(&mut self) -> Effect {
        self.answer = None;
        self.trends.clear();
        self.trends_of.clear();
        self.changed.clear();
        (self.selected, self.chosen) = (0, None);
        Effect::Ask
    }

    fn next_group(&mut self) -> Effect {
        let now = self.question.group_by.first().map_or("", String::as_str);
        let at = GROUPS.iter().position(|group| *group == now).unwrap_or(GROUPS.len() - 1);
        let next = GROUPS[(at + 1) % GROUPS.len()];
        self.question.group_by =
            [next].iter().filter(|group| !group.is_empty()).map(|&group| group.to_owned()).collect();
        self.ask()
    }

    fn order_by(&mut self, at: usize) -> Effect {
        let Some(measure) = self.question.measures.get(at) else {
            self.message = Some(format!("there is no measure {}", at + 1));
            return Effect::Draw;
        };
        self.question.order_by.clone_from(measure);
        self.ask()
    }

    fn order_by_next(&mut self) -> Effect {
        let now = self.order_measure();
        let at = self.question.measures.iter().position(|measure| *measure == now).unwrap_or(0);
        self.order_by((at + 1) % self.question.measures.len().max(1))
    }

    fn range(&mut self, longer: bool) -> Effect {
        if !self.question.to.is_empty() && self.question.to != "now" {
            self.message = Some("the end of the range is fixed: leave --to-time out to change it".to_owned());
            return Effect::Draw;
        }
        let now = if self.question.from.is_empty() { "-1h" } else { self.question.from.as_str() };
        let at = RANGES.iter().position(|range| *range == now).unwrap_or(2);
        let next = if longer { (at + 1).min(RANGES.len() - 1) } else { at.saturating_sub(1) };
        self.question.from = RANGES[next].to_owned();
        self.ask()
    }

    fn filter_by_selected(&mut self) -> Effect {
        let row = self.answer.as_ref().and_then(|answer| answer.rows.get(self.selected));
        let has_time = !matches!(self.question.granularity.as_str(), "" | "all");
        let value = row.and_then(|row| texts(row).get(usize::from(has_time)).map(|text| (*text).to_owned()));
        let (Some(value), Some(dimension)) = (value, self.question.group_by.first().cloned()) else {
            self.message = Some("there is no value to filter by: press g to group".to_owned());
            return Effect::Draw;
        };
        self.question.filters.push(v1::Filter { dimension, r#in: vec![value], ..v1::Filter::default() });
        self.ask()
    }

    fn drop_condition(&mut self) -> Effect {
        if self.question.filters.len() <= self.given {
            self.message = Some("there is no condition to take back".to_owned());
            return Effect::Draw;
        }
        self.question.filters.pop();
        self.ask()
    }
}

/// What tells a row from others.
pub(super) fn row_key(row: &v1::Row) -> String {
    texts(row).join("\u{1f}")
}

fn texts(row: &v1::Row) -> Vec<&str> {
    let text = |value: &'_ v1::Value| matches!(value.kind, Some(Kind::Text(_)));
    let values = row.values.iter().take_while(|value| text(value));
    values
        .map(|value| match &value.kind {
            Some(Kind::Text(text)) => text.as_str(),
            Some(Kind::Integer(_) | Kind::Number(_)) | None => "",
        })
        .collect()
}

fn number(value: &v1::Value) -> u64 {
    match &value.kind {
        Some(Kind::Integer(integer)) => *integer,
        Some(Kind::Number(number)) => *number as u64,
        Some(Kind::Text(_)) | None => 0,
    }
}

#[cfg(test)]
#[path = "model_tests.rs"]
mod tests;
