//! What `.proto` files say of what they declare.
//!
//! Owns: finding the comment of a declaration. Does not own: how it is shown.

use prost_types::FileDescriptorProto;
use std::collections::BTreeMap;

/// Numbers of fields in `descriptor.proto`, of which the path to a declaration is made.
pub(crate) const MESSAGE: i32 = 4;
pub(crate) const ENUM: i32 = 5;
pub(crate) const SERVICE: i32 = 6;
/// Within a message, an enum or a service.
pub(crate) const FIELD: i32 = 2;
const SYNTAX: i32 = 12;

/// The comments of one file, by the path of what they stand before.
pub(crate) struct Comments(BTreeMap<Vec<i32>, String>);

impl Comments {
    pub(crate) fn of(file: &FileDescriptorProto) -> Self {
        let locations = file.source_code_info.iter().flat_map(|info| &info.location);
        let said = locations.filter_map(|at| Some((at.path.clone(), at.leading_comments.clone()?)));
        Self(said.map(|(path, text)| (path, tidy(&text))).collect())
    }

    /// What stands before the declaration at `path`; "" where nothing does.
    pub(crate) fn at(&self, path: &[i32]) -> &str {
        self.0.get(path).map_or("", String::as_str)
    }

    /// What the file begins with.
    pub(crate) fn file(&self) -> &str {
        self.at(&[SYNTAX])
    }
}

/// Without the space after the slashes, on one line.
fn tidy(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
