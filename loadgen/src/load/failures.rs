//! Why things failed in a run, and how often.
//!
//! Owns: reasons in words with their counts, in bounded memory.
//! Does not own: what counts as a failure (`sender`, `asking`), and how it is shown (`report`).

use serde::Serialize;
use std::collections::BTreeMap;
use tidemark_client::Why;

/// Different reasons that are kept apart; more of them count together,
const MOST: usize = 20;
/// as these.
const OTHERS: &str = "other reasons";
/// Characters of a reason.
const LONGEST: usize = 200;
/// Numbers of so many digits are left out of reasons: they are sizes, which differ from one message to the next. Ports are shorter.
const DIGITS: usize = 6;

/// Reasons, and how often each was given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Reasons(BTreeMap<String, u64>);

impl Reasons {
    /// Adds one.
    pub fn add(&mut self, reason: &str) {
        self.add_all(reason, 1);
    }

    /// Adds so many of one reason.
    pub fn add_all(&mut self, reason: &str, count: u64) {
        let reason = shortened(reason);
        let has_room = self.0.len() < MOST || self.0.contains_key(&reason);
        *self.0.entry(if has_room { reason } else { OTHERS.to_owned() }).or_default() += count;
    }

    /// Adds those of another one.
    pub fn merge(&mut self, other: &Self) {
        other.0.iter().for_each(|(reason, &count)| self.add_all(reason, count));
    }

    /// How many there are.
    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }

    /// All of them, the one that was given most often first.
    pub fn most_often_first(&self) -> Vec<(&str, u64)> {
        let mut all: Vec<(&str, u64)> =
            self.0.iter().map(|(reason, &count)| (reason.as_str(), count)).collect();
        all.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
        all
    }
}

/// Without long numbers, and not too long itself.
fn shortened(reason: &str) -> String {
    let (mut out, mut rest) = (String::new(), reason);
    while let Some(begin) = rest.find(|char: char| char.is_ascii_digit()) {
        let (before, number) = rest.split_at(begin);
        let end = number.find(|char: char| !char.is_ascii_digit()).unwrap_or(number.len());
        out.push_str(before);
        out.push_str(if end < DIGITS { &number[..end] } else { "N" });
        rest = &number[end..];
    }
    out.push_str(rest);
    match out.char_indices().nth(LONGEST) {
        None => out,
        Some((end, _)) => format!("{}...", &out[..end]),
    }
}

/// Why things failed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Failures {
    /// Blocks that were given up or refused; of rows, batches. Batches that were never sent, and second copies, count here too.
    pub blocks: Reasons,
    /// Events that were rejected.
    pub rejected: Reasons,
    /// Queries that failed.
    pub queries: Reasons,
    /// How subscribers were lost.
    pub subscribers: Reasons,
}

impl Failures {
    /// Adds those of another part of the run.
    pub fn merge(&mut self, other: &Self) {
        self.blocks.merge(&other.blocks);
        self.rejected.merge(&other.rejected);
        self.queries.merge(&other.queries);
        self.subscribers.merge(&other.subscribers);
    }
}

/// Why a block was not brought, without what is another in each one.
pub(super) fn of_block(why: &Why) -> String {
    match why {
        Why::Refused { reason, message } => format!("refused ({}): {message}", reason.name()),
        Why::GivenUp { last, .. } => format!("given up: {last}"),
        Why::Spooled | Why::Unreadable(_) | Why::Abandoned => why.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn reasons_that_differ_in_their_numbers_alone_count_together_and_ports_are_kept() {
        let mut reasons = Reasons::default();
        reasons.add("refused (overloaded): the budget of 4294967296 bytes is used up (4294990001)");
        reasons.add("refused (overloaded): the budget of 4294967296 bytes is used up (4295000000)");
        reasons.add("nobody answers at http://127.0.0.1:65535");
        let expected = [
            ("refused (overloaded): the budget of N bytes is used up (N)", 2),
            ("nobody answers at http://127.0.0.1:65535", 1),
        ];
        assert_eq!(reasons.most_often_first(), expected);
    }

    #[test]
    fn reasons_beyond_those_that_are_kept_apart_count_together_and_none_is_lost() {
        let (mut reasons, mut merged) = (Reasons::default(), Reasons::default());
        for number in 0..100 {
            reasons.add(&format!("reason {number}"));
            merged.merge(&reasons);
        }
        assert_eq!((reasons.0.len(), reasons.total()), (MOST + 1, 100));
        assert_eq!(reasons.most_often_first().first(), Some(&(OTHERS, 80)));
        assert_eq!((merged.0.len(), merged.total()), (MOST + 1, 5_050));
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let mut reasons = Reasons::default();
        reasons.add(&"\u{e9}".repeat(1_000));
        let (reason, _) = reasons.most_often_first()[0];
        assert_eq!((reason.chars().count(), reason.ends_with("\u{e9}...")), (LONGEST + 3, true));
    }

    #[test]
    fn blocks_that_were_given_up_for_one_reason_are_one_reason_however_long_each_waited() {
        let given_up =
            |ms| of_block(&Why::GivenUp { waited: Duration::from_millis(ms), last: "hung up".into() });
        assert_eq!((given_up(1), given_up(2)), ("given up: hung up".to_owned(), given_up(1)));
    }
}
