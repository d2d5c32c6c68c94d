//! A schema in a few bytes: enough to tell whether two schemas can live in one cluster.
//!
//! Owns: the hashes of names and of what they mean, their form as bytes, and whether two outlines agree.
//! Does not own: schemas (`schema`), what follows from a disagreement (membership).
//!
//! Two outlines agree where no name that both have means something else. What only one of them has is no disagreement: so a dimension
//! or a measure can be added member by member.

use crate::schema::{MAX_DIMENSIONS, MAX_MEASURES, Schema};
use xxhash_rust::xxh3::xxh3_64;

/// At most so many names.
const MAX_NAMES: usize = MAX_DIMENSIONS + MAX_MEASURES;
const NAME_BYTES: usize = 8;

/// The names of a schema and what they mean, as hashes.
#[derive(Clone, Debug, Default)]
pub struct Outline {
    /// Ascending.
    names: Vec<Named>,
    /// What the hashes are of, where that is known: of one's own schema. In the order of `names`.
    spelled: Vec<String>,
}

/// A dimension or a measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Named {
    name: u32,
    /// All that makes it what it is: that it is a dimension, or what is measured and how.
    definition: u32,
}

/// Two outlines are equal where their hashes are, whether or not it is known what those are of.
impl PartialEq for Outline {
    fn eq(&self, other: &Self) -> bool {
        self.names == other.names
    }
}

impl Eq for Outline {}

impl Outline {
    /// The outline of a schema.
    pub(crate) fn of(schema: &Schema) -> Self {
        let dimensions = schema.dimensions().iter().map(|name| (name.as_str(), name.clone()));
        let measures = schema.measures().iter().map(|measure| (measure.name.as_str(), measure.to_string()));
        let mut all: Vec<(Named, String)> = dimensions
            .chain(measures)
            .map(|(name, definition)| (Named { name: hash(name), definition: hash(&definition) }, definition))
            .collect();
        all.sort_unstable();
        let (names, spelled) = all.into_iter().unzip();
        Self { names, spelled }
    }

    /// As bytes, eight for each name.
    pub fn to_bytes(&self) -> Vec<u8> {
        let names = self.names.iter();
        names.flat_map(|named| [named.name.to_le_bytes(), named.definition.to_le_bytes()].concat()).collect()
    }

    /// The outline in these bytes. `None` where they are none, or more than a schema can have.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (chunks, rest) = bytes.as_chunks::<NAME_BYTES>();
        let names = chunks.iter().map(|chunk| {
            let [n0, n1, n2, n3, d0, d1, d2, d3] = *chunk;
            let (name, definition) = ([n0, n1, n2, n3], [d0, d1, d2, d3]);
            Named { name: u32::from_le_bytes(name), definition: u32::from_le_bytes(definition) }
        });
        let names: Vec<Named> = names.collect();
        let possible = rest.is_empty() && (1..=MAX_NAMES).contains(&names.len()) && names.is_sorted();
        possible.then_some(Self { names, spelled: Vec::new() })
    }

    /// A number that differs where outlines do.
    pub fn fingerprint(&self) -> u64 {
        xxh3_64(&self.to_bytes())
    }

    /// Whether no name that both have means something else in the other one.
    pub fn agrees_with(&self, other: &Self) -> bool {
        self.first_conflict(other).is_none()
    }

    /// What this outline says, as a schema spells it, of the first name that means something else in the other one. Empty where it is not
    /// known how it is spelled; `None` where the two agree.
    pub fn conflict(&self, other: &Self) -> Option<&str> {
        self.first_conflict(other).map(|at| self.spelled.get(at).map_or("", String::as_str))
    }

    fn first_conflict(&self, other: &Self) -> Option<usize> {
        self.names.iter().position(|named| {
            let knows = other.names.iter().any(|theirs| theirs.name == named.name);
            // Two names of one schema can have one hash: neither of them stands for the other.
            knows && !other.names.contains(named) && !self.shares_a_twin(other, *named)
        })
    }

    /// Whether another name of the same hash is in both.
    fn shares_a_twin(&self, other: &Self, named: Named) -> bool {
        self.names.iter().any(|twin| twin.name == named.name && other.names.contains(twin))
    }
}

fn hash(text: &str) -> u32 {
    xxh3_64(text.as_bytes()) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::Measure;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn schema(dimensions: &[&str], measures: &[&str]) -> Schema {
        let measures = measures.iter().map(|line| line.parse::<Measure>().unwrap()).collect();
        Schema::new(dimensions.iter().map(ToString::to_string).collect(), measures).unwrap()
    }

    #[test]
    fn what_only_one_schema_has_is_no_disagreement() {
        let old = schema(&["country"], &["views=count(view)"]).outline();
        let new = schema(&["colour", "country"], &["likes=count(like)", "views=count(view)"]).outline();
        assert!(old.agrees_with(&new) && new.agrees_with(&old));
        assert_ne!((&old, old.fingerprint()), (&new, new.fingerprint()));
    }

    #[test]
    fn the_order_of_names_makes_no_difference() {
        let one = schema(&["a", "b"], &["x=count(x)", "y=count(y)"]).outline();
        let other = schema(&["b", "a"], &["y=count(y)", "x=count(x)"]).outline();
        assert_eq!((&one, one.fingerprint()), (&other, other.fingerprint()));
    }

    #[test]
    fn a_name_that_means_something_else_is_told_as_its_own_schema_spells_it() {
        let ours = schema(&["country"], &["likes=count(like)"]).outline();
        for theirs in [
            schema(&["country"], &["likes=count(love)"]),
            schema(&["likes"], &["views=count(view)"]),
            schema(&[], &["likes=sum(like)"]),
        ] {
            let theirs = Outline::from_bytes(&theirs.outline().to_bytes()).unwrap();
            assert_eq!(ours.conflict(&theirs), Some("likes=count(like)"));
            assert_eq!(theirs.conflict(&ours), Some(""));
        }
    }

    #[test]
    fn the_largest_schema_takes_768_bytes_and_one_name_more_is_none() {
        let dimensions: Vec<String> = (0..MAX_DIMENSIONS).map(|at| format!("d{at}")).collect();
        let measures = (0..MAX_MEASURES).map(|at| format!("m{at}=count()").parse().unwrap());
        let mut bytes = Schema::new(dimensions, measures.collect()).unwrap().outline().to_bytes();
        assert_eq!(bytes.len(), 768);
        assert!(Outline::from_bytes(&bytes).is_some());
        bytes.extend([255; 8]);
        assert_eq!(Outline::from_bytes(&bytes), None);
    }

    prop_compose! {
        /// Some of few names, each with one of few meanings.
        fn any_meanings()(
            meanings in proptest::collection::btree_map(0_u8..8, 0_u8..3, 1..8),
        ) -> BTreeMap<u8, u8> {
            meanings
        }
    }

    fn outline(meanings: &BTreeMap<u8, u8>) -> Outline {
        let dimensions = meanings.iter().filter(|(_, meaning)| **meaning == 0);
        let measures = meanings.iter().filter(|(_, meaning)| **meaning > 0);
        let measures = measures.map(|(name, meaning)| format!("n{name}=count(k{meaning})").parse().unwrap());
        let measures = measures.chain(["views=count(view)".parse().unwrap()]).collect();
        Schema::new(dimensions.map(|(name, _)| format!("n{name}")).collect(), measures).unwrap().outline()
    }

    proptest! {
        #[test]
        fn outlines_agree_where_no_name_of_both_means_something_else(a in any_meanings(), b in any_meanings()) {
            let differ = a.iter().any(|(name, meaning)| b.get(name).is_some_and(|theirs| theirs != meaning));
            prop_assert_eq!(outline(&a).agrees_with(&outline(&b)), !differ);
            prop_assert_eq!(outline(&b).agrees_with(&outline(&a)), !differ);
        }

        #[test]
        fn an_outline_comes_back_from_its_bytes(meanings in any_meanings()) {
            let outline = outline(&meanings);
            prop_assert_eq!(Outline::from_bytes(&outline.to_bytes()), Some(outline));
        }

        #[test]
        fn bytes_that_nobody_meant_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..800)) {
            if let Some(outline) = Outline::from_bytes(&bytes) {
                prop_assert_eq!(outline.to_bytes(), bytes);
            }
        }
    }
}
