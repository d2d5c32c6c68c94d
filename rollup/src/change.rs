//! From one answer to the next.
//!
//! Owns: what changes between two answers to the same question, putting that into practice, and tokens by which an answer is
//! recognised later, by whoever answers then.
//! Does not own: when to answer again (`tidemark-coordinator`), the answers (`answer`).
//!
//! A row's key is its time and groups: the leading texts of the row, since numbers are never texts. Rows that stay as they are
//! keep their order among themselves, because the order of an answer follows from its rows alone.
//!
//! A token says nothing about who gave it: it has a digest of the rows, by class of their keys. Whoever has a newer answer sees
//! by it which classes have changed, and sends these anew.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use prost::Message as _;
use std::collections::{HashMap, HashSet};
use std::hash::{Hash, Hasher};
use tidemark_proto::v1;
use v1::value::Kind;
use xxhash_rust::xxh3::xxh3_64;

/// Rows fall into so many classes at most: a token has 8 bytes for each.
pub const MAX_CLASSES: u32 = 32;

/// The form of tokens. Another one is not recognised, and begins anew.
const TOKEN_FORM: u8 = 1;

/// A change that does not fit the answer. Ask anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the change is not one of this answer: subscribe anew")]
pub struct ChangeError;

/// What turns `old` into `new`, both of them answers to the same question.
pub fn diff(old: &v1::Answer, new: &v1::Answer) -> v1::Change {
    let mut before: HashMap<Key<'_>, &v1::Row> = old.rows.iter().map(|row| (Key::of(row), row)).collect();
    let mut change = v1::Change { facts: new.facts.clone(), ..v1::Change::default() };
    for (at, row) in new.rows.iter().enumerate() {
        let placed = || v1::PlacedRow { at: at as u32, row: Some(row.clone()) };
        match before.remove(&Key::of(row)) {
            None => change.added.push(placed()),
            Some(was) if was != row => change.changed.push(placed()),
            Some(_) => {}
        }
    }
    // In the order of the old answer.
    let gone = old.rows.iter().filter(|row| before.contains_key(&Key::of(row)));
    change.gone.extend(gone.map(|row| v1::Row { values: Key::of(row).0.to_vec() }));
    change
}

/// Turns `answer` into the next one.
///
/// # Errors
/// Where the change does not fit; the answer is left as it was.
pub fn apply(answer: &mut v1::Answer, change: v1::Change) -> Result<(), ChangeError> {
    let v1::Change { added, changed, gone, replaced, facts } = change;
    let (classes, of) = match &replaced {
        None => (HashSet::new(), 1),
        Some(replaced) if replaced.of == 0 => return Err(ChangeError),
        Some(replaced) => (replaced.classes.iter().copied().collect(), replaced.of),
    };
    let leaving: HashSet<Key<'_>> =
        gone.iter().chain(changed.iter().filter_map(|placed| placed.row.as_ref())).map(Key::of).collect();
    let stays = |row: &&v1::Row| {
        let key = Key::of(row);
        !leaving.contains(&key) && (classes.is_empty() || !classes.contains(&key.class(of)))
    };
    let staying: Vec<v1::Row> = answer.rows.iter().filter(stays).cloned().collect();
    let mut placed: Vec<v1::PlacedRow> = added.into_iter().chain(changed).collect();
    placed.sort_by_key(|placed| placed.at);
    let len = staying.len() + placed.len();
    let (mut staying, mut rows) = (staying.into_iter(), Vec::with_capacity(len));
    for placed in placed {
        while rows.len() < placed.at as usize {
            rows.push(staying.next().ok_or(ChangeError)?);
        }
        if rows.len() != placed.at as usize {
            return Err(ChangeError);
        }
        rows.push(placed.row.ok_or(ChangeError)?);
    }
    rows.extend(staying);
    answer.rows = rows;
    answer.facts = facts;
    Ok(())
}

/// By what a question is known in tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint(u64);

impl Fingerprint {
    /// Of a question as it was asked: relative times stay relative.
    pub fn of(question: &v1::Query) -> Self {
        Self(xxh3_64(&question.encode_to_vec()))
    }
}

/// The token of an answer to the question of this fingerprint.
pub fn token(question: Fingerprint, answer: &v1::Answer) -> String {
    let of = (answer.rows.len() as u32).clamp(1, MAX_CLASSES).next_power_of_two();
    let mut bytes = vec![TOKEN_FORM, of as u8];
    bytes.extend(question.0.to_le_bytes());
    digests(&answer.rows, of).iter().for_each(|digest| bytes.extend(digest.to_le_bytes()));
    URL_SAFE_NO_PAD.encode(bytes)
}

/// What turns the answer that `token` was given for into `new`; `None` where it was given for another question, or is none.
pub fn resume(token: &str, question: Fingerprint, new: &v1::Answer) -> Option<v1::Change> {
    let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
    let (head, digests_then) = bytes.split_at_checked(10)?;
    let of = u32::from(head[1]);
    let of_this_question = head[0] == TOKEN_FORM && head[2..] == question.0.to_le_bytes();
    if !of_this_question || !(1..=MAX_CLASSES).contains(&of) || digests_then.len() != 8 * of as usize {
        return None;
    }
    let now = digests(&new.rows, of);
    let pairs = digests_then.chunks_exact(8).zip(&now).enumerate();
    let differing = pairs.filter(|(_, (then, now))| **then != now.to_le_bytes());
    let classes: Vec<u32> = differing.map(|(class, _)| class as u32).collect();
    let rows = new.rows.iter().enumerate().filter(|(_, row)| classes.contains(&Key::of(row).class(of)));
    Some(v1::Change {
        added: rows.map(|(at, row)| v1::PlacedRow { at: at as u32, row: Some(row.clone()) }).collect(),
        replaced: Some(v1::Replaced { of, classes }),
        facts: new.facts.clone(),
        ..v1::Change::default()
    })
}

/// Per class a digest of its rows, in whatever order they come.
fn digests(rows: &[v1::Row], of: u32) -> Vec<u64> {
    let mut digests = vec![0_u64; of as usize];
    let mut bytes = Vec::new();
    for row in rows {
        bytes.clear();
        // A vector takes any length.
        let _ = row.encode(&mut bytes);
        let digest = &mut digests[Key::of(row).class(of) as usize];
        *digest = digest.wrapping_add(xxh3_64(&bytes));
    }
    digests
}

/// A row's time and groups.
#[derive(Clone, Copy, PartialEq)]
struct Key<'a>(&'a [v1::Value]);

impl<'a> Key<'a> {
    fn of(row: &'a v1::Row) -> Self {
        let is_text = |value: &v1::Value| matches!(value.kind, Some(Kind::Text(_)));
        let len = row.values.iter().position(|value| !is_text(value)).unwrap_or(row.values.len());
        Self(&row.values[..len])
    }

    fn texts(self) -> impl Iterator<Item = &'a str> {
        self.0.iter().map(|value| match &value.kind {
            Some(Kind::Text(text)) => text.as_str(),
            Some(Kind::Integer(_) | Kind::Number(_)) | None => "",
        })
    }

    /// FNV-1a, which other languages have in five lines.
    fn class(self, of: u32) -> u32 {
        let mut hash = 0x811C_9DC5_u32;
        for text in self.texts() {
            for byte in text.bytes().chain([0x1F]) {
                hash = (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
            }
        }
        hash % of
    }
}

// A key has texts alone.
impl Eq for Key<'_> {}

impl Hash for Key<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.texts().for_each(|text| text.hash(state));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(text: &str) -> v1::Value {
        v1::Value { kind: Some(Kind::Text(text.to_owned())) }
    }

    fn row(url: &str, views: Option<u64>) -> v1::Row {
        v1::Row { values: vec![text(url), v1::Value { kind: views.map(Kind::Integer) }] }
    }

    /// Rows in the order of an answer: by number, then by key.
    fn answer(rows: &[(u8, u64)]) -> v1::Answer {
        let distinct: std::collections::BTreeMap<u8, u64> = rows.iter().copied().collect();
        let mut rows: Vec<(u8, u64)> = distinct.into_iter().collect();
        rows.sort_by_key(|&(key, views)| (std::cmp::Reverse(views), key));
        v1::Answer {
            columns: vec!["url".into(), "views".into()],
            facts: Some(v1::Facts { late: rows.len() as u64, ..v1::Facts::default() }),
            rows: rows
                .iter()
                .map(|(key, views)| row(&format!("/{key}"), (*views > 0).then_some(*views)))
                .collect(),
        }
    }

    fn rows() -> impl Strategy<Value = Vec<(u8, u64)>> {
        prop::collection::vec((0..60_u8, 0..4_u64), 0..80)
    }

    proptest! {
        #[test]
        fn all_changes_applied_to_the_first_answer_give_the_last_one(all in prop::collection::vec(rows(), 1..6)) {
            let answers: Vec<v1::Answer> = all.iter().map(|rows| answer(rows)).collect();
            let mut held = answers[0].clone();
            for pair in answers.windows(2) {
                apply(&mut held, diff(&pair[0], &pair[1])).unwrap();
                prop_assert_eq!(&held, &pair[1]);
            }
        }

        #[test]
        fn a_token_continues_from_its_answer_to_any_other(then in rows(), now in rows()) {
            let question = Fingerprint(7);
            let (mut held, now) = (answer(&then), answer(&now));
            let change = resume(&token(question, &held), question, &now).unwrap();
            prop_assert!(change.added.len() <= now.rows.len());
            apply(&mut held, change).unwrap();
            prop_assert_eq!(held, now);
        }

        #[test]
        fn any_change_is_applied_or_an_error_that_leaves_the_answer(
            rows in rows(), at in prop::collection::vec((0..90_u32, any::<bool>()), 0..9), of in 0..3_u32,
        ) {
            let before = answer(&rows);
            let placed = |&(at, there): &(u32, bool)| v1::PlacedRow { at, row: there.then(|| row("/x", None)) };
            let change = v1::Change {
                added: at.iter().map(placed).collect(),
                replaced: Some(v1::Replaced { of, classes: vec![1] }),
                ..v1::Change::default()
            };
            let mut held = before.clone();
            if apply(&mut held, change).is_err() {
                prop_assert_eq!(held, before);
            }
        }

        #[test]
        fn any_text_is_a_token_or_none(text in ".{0,40}", bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            resume(&text, Fingerprint(1), &answer(&[(1, 1)]));
            resume(&URL_SAFE_NO_PAD.encode(bytes), Fingerprint(1), &answer(&[(1, 1)]));
        }
    }

    #[test]
    fn of_what_stays_the_same_nothing_is_sent_again() {
        let rows: Vec<(u8, u64)> = (0..200).map(|key| (key, 3)).collect();
        let (before, mut rows_now) = (answer(&rows), rows);
        rows_now[7].1 = 4;
        let now = answer(&rows_now);
        let change = diff(&before, &now);
        assert_eq!((change.added.len(), change.changed.len(), change.gone.len()), (0, 1, 0));
        assert_eq!(change.changed[0].at, 0);

        let resumed = resume(&token(Fingerprint(1), &before), Fingerprint(1), &now).unwrap();
        assert_eq!(resumed.replaced.unwrap().classes.len(), 1);
        assert!(resumed.added.len() < 20, "{}", resumed.added.len());
    }

    #[test]
    fn a_token_of_another_question_begins_anew() {
        let answer = answer(&[(1, 1)]);
        let question = |site: &str| Fingerprint::of(&v1::Query { site: site.into(), ..v1::Query::default() });
        let token = token(question("a.com"), &answer);
        assert!(resume(&token, question("a.com"), &answer).is_some());
        assert_eq!(resume(&token, question("b.com"), &answer), None);
        assert_eq!(resume("", question("a.com"), &answer), None);
    }

    #[test]
    fn classes_are_as_published() {
        // FNV-1a of "a" and a byte 0x1f, by another implementation.
        assert_eq!(Key::of(&row("a", None)).class(u32::MAX), 0x3224_DB49);
    }
}
