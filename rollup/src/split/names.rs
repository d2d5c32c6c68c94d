//! Names of dimensions and values.
//!
//! Owns: the few names of a batch, which nearly every event has in the same order.
//! Does not own: what is done with what has no name here (`split`).

use crate::block::MAX_BLOCK_COLUMNS;
use crate::dictionary::Dictionary;
use tidemark_proto::v1::Reason;

/// A name as this batch's blocks have it.
#[derive(Clone, Copy)]
pub(super) struct Name {
    /// None where there are as many names as a block can have; that stays so.
    pub(super) id: Option<u32>,
    /// Whether the schema has it, where one is known.
    pub(super) is_known: bool,
}

/// Names in the order they came, each with an id.
#[derive(Default)]
pub(super) struct Names<'a> {
    dictionary: Dictionary,
    /// By place in an event: the name that the last event had there.
    last: Vec<(&'a [u8], Name)>,
}

impl<'a> Names<'a> {
    /// The id of a name, unless there are as many as a block can have.
    pub(super) fn id(&mut self, name: &str) -> Option<u32> {
        match self.dictionary.find(name) {
            None if self.dictionary.len() >= MAX_BLOCK_COLUMNS => None,
            Some(id) => Some(id),
            None => Some(self.dictionary.intern(name)),
        }
    }

    /// The name that an event has at this place, mostly the same as the event before has there.
    ///
    /// # Errors
    /// `invalid_utf8` where it is no text.
    pub(super) fn at(
        &mut self,
        place: usize,
        name: &'a [u8],
        is_known: impl Fn(&str) -> bool,
    ) -> Result<Name, Reason> {
        if let Some((_, found)) = self.last.get(place).filter(|(last, _)| *last == name) {
            return Ok(*found);
        }
        let text = super::text(name)?;
        let found = Name { id: self.id(text), is_known: is_known(text) };
        let last = &mut self.last;
        if place < last.len() {
            last[place] = (name, found);
        } else if place < MAX_BLOCK_COLUMNS {
            // Where a place was left out, the name is kept at another one, and found there by nobody.
            last.push((name, found));
        }
        Ok(found)
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.dictionary.len()
    }

    /// The names in the order of their ids.
    pub(super) fn iter(&self) -> impl Iterator<Item = &str> {
        self.dictionary.iter()
    }
}
