//! Answers as people read them.
//!
//! Owns: how numbers, tables and facts are written for a person.
//! Does not own: where text goes (`output`), answers for programs (`--json`).

pub(crate) mod answer;
pub(crate) mod facts;
pub(crate) mod grid;
pub(crate) mod number;
