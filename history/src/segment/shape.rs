//! Whether a footer can be given to the `parquet` crate.
//!
//! Owns: the fields that the crate reads, and what each has to be.
//! Does not own: walking over bytes (`thrift`), what is in a footer (`footer`, by the crate).
//!
//! The crate reads a field that it knows as what it should be, whatever the bytes say that it is; it makes room for as many columns as a
//! group of columns says that it has; and it counts to whatever a list of flags claims. Footers have checksums, so damage is found before. This is for
//! one that somebody made: it costs work and memory in proportion to its bytes.

use super::thrift::{BINARY, BOOLS, BYTE, DOUBLE, I16, I32, I64, LIST, Reader, STRUCT};

/// So many groups of columns are in a schema at most, one inside the other perhaps. Ours have one: all columns.
const MAX_GROUPS: u32 = 16;

/// What a field has to be.
enum Is {
    Wire(u8),
    Flag,
    /// How many columns a group of columns has.
    Children,
    Struct(&'static [(i64, Is)]),
    List(&'static Is),
}

const INT: Is = Is::Wire(I32);
const LONG: Is = Is::Wire(I64);
const TEXT: Is = Is::Wire(BINARY);

// By the names of Parquet's format: https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift
const FILE_META_DATA: Is = Is::Struct(&[
    (1, INT),
    (2, Is::List(&SCHEMA_ELEMENT)),
    (3, LONG),
    (4, Is::List(&ROW_GROUP)),
    (5, Is::List(&KEY_VALUE)),
    (6, TEXT),
    (7, Is::List(&Is::Struct(&[(1, EMPTY)]))),
]);
const EMPTY: Is = Is::Struct(&[]);
const SCHEMA_ELEMENT: Is = Is::Struct(&[
    (1, INT),
    (2, INT),
    (3, INT),
    (4, TEXT),
    (5, Is::Children),
    (6, INT),
    (7, INT),
    (8, INT),
    (9, INT),
    (10, LOGICAL_TYPE),
]);
const LOGICAL_TYPE: Is = Is::Struct(&[
    (1, EMPTY),
    (2, EMPTY),
    (3, EMPTY),
    (4, EMPTY),
    (5, Is::Struct(&[(1, INT), (2, INT)])),
    (6, EMPTY),
    (7, TIME),
    (8, TIME),
    (10, Is::Struct(&[(1, Is::Wire(BYTE)), (2, Is::Flag)])),
    (11, EMPTY),
    (12, EMPTY),
    (13, EMPTY),
    (14, EMPTY),
    (15, EMPTY),
    (16, Is::Struct(&[(1, Is::Wire(BYTE))])),
    (17, Is::Struct(&[(1, TEXT)])),
    (18, Is::Struct(&[(1, TEXT), (2, INT)])),
]);
const TIME: Is = Is::Struct(&[(1, Is::Flag), (2, Is::Struct(&[(1, EMPTY), (2, EMPTY), (3, EMPTY)]))]);
const ROW_GROUP: Is = Is::Struct(&[
    (1, Is::List(&COLUMN_CHUNK)),
    (2, LONG),
    (3, LONG),
    (4, Is::List(&Is::Struct(&[(1, INT), (2, Is::Flag), (3, Is::Flag)]))),
    (5, LONG),
    (6, LONG),
    (7, Is::Wire(I16)),
]);
const COLUMN_CHUNK: Is =
    Is::Struct(&[(1, TEXT), (2, LONG), (3, COLUMN_META_DATA), (4, LONG), (5, INT), (6, LONG), (7, INT)]);
const COLUMN_META_DATA: Is = Is::Struct(&[
    (1, INT),
    (2, Is::List(&INT)),
    (3, Is::List(&TEXT)),
    (4, INT),
    (5, LONG),
    (6, LONG),
    (7, LONG),
    (8, Is::List(&KEY_VALUE)),
    (9, LONG),
    (10, LONG),
    (11, LONG),
    (12, STATISTICS),
    (13, Is::List(&Is::Struct(&[(1, INT), (2, INT), (3, INT)]))),
    (14, LONG),
    (15, INT),
    (16, Is::Struct(&[(1, LONG), (2, Is::List(&LONG)), (3, Is::List(&LONG))])),
    (17, Is::Struct(&[(1, BOUNDING_BOX), (2, Is::List(&INT))])),
]);
const REAL: Is = Is::Wire(DOUBLE);
const BOUNDING_BOX: Is =
    Is::Struct(&[(1, REAL), (2, REAL), (3, REAL), (4, REAL), (5, REAL), (6, REAL), (7, REAL), (8, REAL)]);
const KEY_VALUE: Is = Is::Struct(&[(1, TEXT), (2, TEXT)]);
const STATISTICS: Is = Is::Struct(&[
    (1, TEXT),
    (2, TEXT),
    (3, LONG),
    (4, LONG),
    (5, TEXT),
    (6, TEXT),
    (7, Is::Flag),
    (8, Is::Flag),
    (9, LONG),
]);

/// Whether a footer's metadata are what they have to be, and nothing else.
pub(super) fn is_footer(bytes: &[u8]) -> bool {
    let mut check = Check { reader: Reader::new(bytes), children: 0, groups: 0 };
    let is_whole = check.field(STRUCT, &FILE_META_DATA, 0).is_some() && check.reader.rest().is_empty();
    is_whole && check.groups <= MAX_GROUPS && check.children <= bytes.len() as u64
}

struct Check<'a> {
    reader: Reader<'a>,
    /// Of all groups of columns.
    children: u64,
    groups: u32,
}

impl Check<'_> {
    fn field(&mut self, wire: u8, is: &Is, depth: u32) -> Option<()> {
        match is {
            Is::Flag => BOOLS.contains(&wire).then_some(()),
            Is::Wire(expected) if wire == *expected => self.reader.skip(wire, depth),
            Is::Children if wire == I32 => {
                let children = u64::try_from(self.reader.int()?).ok()?;
                self.children = self.children.saturating_add(children);
                self.groups += u32::from(children > 0);
                Some(())
            }
            Is::Struct(fields) if wire == STRUCT => self.fields(fields, depth + 1),
            Is::List(of) if wire == LIST => {
                let (element, len) = self.reader.list_head()?;
                (0..len).try_for_each(|_| self.field(element, of, depth + 1))
            }
            Is::Wire(_) | Is::Children | Is::Struct(_) | Is::List(_) => None,
        }
    }

    fn fields(&mut self, fields: &[(i64, Is)], depth: u32) -> Option<()> {
        let mut before = 0;
        while let Some((id, wire)) = self.reader.field_head(before, depth)? {
            match fields.iter().find(|(of, _)| *of == id) {
                Some((_, is)) => self.field(wire, is, depth)?,
                // A later version's. The crate passes over it as this does.
                None => self.reader.skip(wire, depth)?,
            }
            before = id;
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A footer with these elements in its schema, and then these fields.
    fn footer(elements: &[&[u8]], fields: &[u8]) -> Vec<u8> {
        let list = [0x29, (elements.len() as u8) << 4 | STRUCT];
        [&list[..], &elements.concat(), fields, &[0]].concat()
    }

    /// A group of columns named "a" that says it has so many: field 4 is text, field 5 a number.
    fn group(children: &[u8]) -> Vec<u8> {
        [&[0x48, 1, b'a', 0x15][..], children, &[0]].concat()
    }

    #[test]
    fn a_group_that_claims_more_columns_than_there_are_bytes_is_refused() {
        let [two, many] = [&[4][..], &[0xFE, 0xFF, 0xFF, 0xFF, 0x0F]].map(group);
        let column = &[0x15, 4, 0x38, 1, b'b', 0];
        assert!(is_footer(&footer(&[&two, column, column], &[])));
        assert!(!is_footer(&footer(&[&many, column, column], &[])));
        let one = group(&[2]);
        let nested = vec![&one[..]; 14];
        assert!(is_footer(&footer(&nested, &[])), "some groups in groups");
        let list = [0x29, 0xF0 | STRUCT, 100];
        let deep = [&list[..], &one.repeat(100), &[0]].concat();
        assert!(!is_footer(&deep), "the crate would go down a hundred levels");
    }

    #[test]
    fn a_field_that_is_not_what_it_should_be_is_refused_and_one_of_a_later_version_is_not() {
        let column = &[0x15, 4, 0x38, 1, b'b', 0][..];
        for (fields, expected) in [
            // The number of rows, as a number and as text.
            (&[0x16, 2][..], true),
            (&[0x18, 1, b'x'], false),
            // Fields with numbers that Parquet does not have yet: text, and a list of flags.
            (&[0x08, 0xC8, 1, 1, b'x'], true),
            (&[0x09, 0xC8, 1, 0x31], false),
            // Numbers that are 3, the number of rows, and 65,539, which would be 3 in 16 bits.
            (&[0x06, 6, 2], true),
            (&[0x08, 0x86, 0x80, 8, 1, b'x'], false),
        ] {
            assert_eq!(is_footer(&footer(&[column], fields)), expected, "{fields:?}");
        }
        assert!(!is_footer(&[&footer(&[column], &[])[..], &[0]].concat()), "something is after it");
        // A row group with a column of which field 17, statistics of places, is a struct, and is text.
        let of_column = |field: &[u8]| {
            [&[0x29, 0x1C][..], column, &[0x29, 0x1C, 0x19, 0x1C, 0x3C], field, &[0, 0, 0, 0]].concat()
        };
        assert!(is_footer(&of_column(&[0x0C, 34, 0])));
        assert!(!is_footer(&of_column(&[0x08, 34, 1, b'x'])));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            is_footer(&bytes);
        }
    }
}
