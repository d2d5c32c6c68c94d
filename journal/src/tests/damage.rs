//! What is left after bytes were changed behind the journal's back.

use super::*;
use crate::Damage;
use crate::disk::{QUARANTINE, file_path};
use crate::index::Location;
use proptest::prelude::*;
use std::fs;
use std::ops::Range;
use std::path::PathBuf;
use tempfile::{TempDir, tempdir};

/// A closed journal of so many blocks in files of so many bytes, and where they are.
fn written(blocks: u64, segment_bytes: u64) -> (TempDir, Vec<Location>) {
    let dir = tempdir().unwrap();
    let (journal, _) = open(config(dir.path(), segment_bytes));
    let outcomes: Vec<_> =
        (0..blocks).map(|seq| append_later(&journal, seq, &[1], 20 + seq as usize % 7)).collect();
    outcomes.iter().for_each(|outcome| outcome.recv_timeout(PATIENCE).unwrap().unwrap());
    let places = journal.blocks(shard(2)).iter().map(|entry| entry.at).collect();
    (dir, places)
}

fn path(dir: &TempDir, at: &Location) -> PathBuf {
    file_path(dir.path(), at.file)
}

fn flip(path: &PathBuf, at: u64) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at as usize] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_torn_end_is_cut_off_wherever_it_is_torn() {
    let (dir, places) = written(5, 1 << 20);
    let last = places[4];
    let whole = fs::read(path(&dir, &last)).unwrap();
    for end in last.offset..last.offset + u64::from(last.bytes) {
        fs::write(path(&dir, &last), &whole[..end as usize]).unwrap();
        let (journal, recovered) = open(config(dir.path(), 1 << 20));
        assert_eq!(live(&journal), [0, 1, 2, 3], "{end}");
        let cut: Vec<u64> = recovered.cut.iter().map(|cut| cut.bytes).collect();
        let expected = if end == last.offset { vec![] } else { vec![end - last.offset] };
        assert_eq!((cut, recovered.damaged), (expected, vec![]), "{end}");
        assert_eq!(path(&dir, &last).metadata().unwrap().len(), last.offset, "it is off the file");
        drop(journal);
        assert_eq!(open(config(dir.path(), 1 << 20)).1.cut, [], "and not found again");
    }
}

#[test]
fn an_end_of_zeros_is_a_torn_one() {
    let (dir, places) = written(3, 1 << 20);
    let mut bytes = fs::read(path(&dir, &places[0])).unwrap();
    bytes.extend_from_slice(&[0; 5000]);
    fs::write(path(&dir, &places[0]), bytes).unwrap();
    let (journal, recovered) = open(config(dir.path(), 1 << 20));
    assert_eq!((live(&journal), recovered.cut[0].bytes, recovered.damaged), (vec![0, 1, 2], 5000, vec![]));
}

#[test]
fn a_file_that_got_no_further_than_its_header_goes() {
    for len in 0..=32 {
        let (dir, places) = written(3, 1 << 20);
        let header = fs::read(path(&dir, &places[0])).unwrap()[..len].to_vec();
        fs::write(file_path(dir.path(), 2), header).unwrap();
        let (journal, recovered) = open(config(dir.path(), 1 << 20));
        assert_eq!((live(&journal), recovered.damaged.len()), (vec![0, 1, 2], 0));
        assert_eq!(recovered.cut.len(), usize::from((1..32).contains(&len)), "{len}");
        assert_eq!(files(dir.path()), ["journal-0000000001.log"]);
        append(&journal, 3, &[1], 10).unwrap();
        assert_eq!(live(&journal), [0, 1, 2, 3]);
    }
}

#[test]
fn damage_in_the_middle_costs_what_it_touches_and_is_set_aside_once() {
    for damaged in [0, 2, 8, 9] {
        let (dir, places) = written(10, 500);
        assert!(places[9].file > places[0].file);
        let place = places[damaged];
        let is_last = damaged == 9;
        let before = fs::read(path(&dir, &place)).unwrap();
        flip(&path(&dir, &place), place.offset + 30);
        let (journal, recovered) = open(config(dir.path(), 500));
        let left: Vec<u64> = (0..10).filter(|&seq| seq != damaged as u64).collect();
        assert_eq!(live(&journal), left);
        assert_eq!(
            (recovered.cut.len(), recovered.damaged.len()),
            (usize::from(is_last), usize::from(!is_last))
        );
        for Damage { file, offset, bytes, set_aside } in recovered.damaged.clone() {
            assert_eq!((file, offset, bytes), (path(&dir, &place), place.offset, u64::from(place.bytes)));
            let name = format!("journal-{:010}.log-{}", place.file, place.offset);
            assert_eq!(set_aside, Some(dir.path().join(QUARANTINE).join(name)));
            let mut copy = fs::read(set_aside.unwrap()).unwrap();
            copy[30] ^= 1;
            assert_eq!(copy, before[offset as usize..(offset + bytes) as usize]);
        }
        drop(journal);
        let again = open(config(dir.path(), 500)).1;
        assert_eq!(again.damaged, recovered.damaged);
        let copies = fs::read_dir(dir.path().join(QUARANTINE)).map_or(0, Iterator::count);
        assert_eq!(copies, again.damaged.len());
    }
}

#[test]
fn a_damaged_end_of_an_older_file_is_damage() {
    let (dir, places) = written(10, 500);
    let last_of_first = places.iter().rposition(|at| at.file == 1).unwrap();
    flip(&path(&dir, &places[last_of_first]), places[last_of_first].offset);
    let (journal, recovered) = open(config(dir.path(), 500));
    assert_eq!((live(&journal).len(), recovered.cut.len(), recovered.damaged.len()), (9, 0, 1));
}

#[test]
fn a_block_that_is_damaged_while_the_journal_is_open_is_not_read() {
    let dir = tempdir().unwrap();
    let (journal, _) = open(config(dir.path(), 1 << 20));
    append(&journal, 1, &[1], 100).unwrap();
    let entry = journal.blocks(shard(2))[0];
    for at in [0, 20, 100, u64::from(entry.record_bytes()) - 1] {
        flip(&file_path(dir.path(), 1), entry.at.offset + at);
        let error = journal.read(&entry).unwrap_err();
        assert!(matches!(error, crate::ReadError::Damaged { .. }), "{at}: {error}");
        flip(&file_path(dir.path(), 1), entry.at.offset + at);
    }
    journal.read(&entry).unwrap();
}

#[test]
fn of_two_copies_in_the_files_the_first_counts() {
    let (dir, places) = written(3, 1 << 20);
    fs::copy(path(&dir, &places[0]), file_path(dir.path(), 7)).unwrap();
    let (journal, recovered) = open(config(dir.path(), 1 << 20));
    assert_eq!((live(&journal), recovered.blocks), (vec![0, 1, 2], 3));
    assert!(journal.blocks(shard(2)).iter().all(|entry| entry.at.file == 1));
    assert_eq!(files(dir.path()).len(), 1, "the copy is of no use");
}

#[test]
fn files_of_other_names_are_left_alone() {
    let (dir, _) = written(1, 1 << 20);
    fs::write(dir.path().join("journal-1.log"), "mine").unwrap();
    assert_eq!(live(&open(config(dir.path(), 1 << 20)).0), [0]);
    assert_eq!(fs::read(dir.path().join("journal-1.log")).unwrap(), b"mine");
}

/// Something done to a file; positions are parts of its length, in 1/65536.
#[derive(Clone, Debug)]
enum Harm {
    Truncate { at: u16 },
    Flip { at: u16, bits: u8 },
    Insert { at: u16, garbage: Vec<u8> },
    Overwrite { at: u16, garbage: Vec<u8> },
}

fn any_harm() -> impl Strategy<Value = Harm> {
    let garbage = || {
        prop_oneof![
            prop::collection::vec(any::<u8>(), 1..200),
            prop::collection::vec(Just(0), 1..200),
            Just(crate::record::MARKER.repeat(9)),
        ]
    };
    prop_oneof![
        1 => any::<u16>().prop_map(|at| Harm::Truncate { at }),
        3 => (any::<u16>(), 1_u8..).prop_map(|(at, bits)| Harm::Flip { at, bits }),
        2 => (any::<u16>(), garbage()).prop_map(|(at, garbage)| Harm::Insert { at, garbage }),
        2 => (any::<u16>(), garbage()).prop_map(|(at, garbage)| Harm::Overwrite { at, garbage }),
    ]
}

impl Harm {
    /// Does it, and says which of the former bytes it touched. An insertion touches what lies on both sides of it.
    fn apply(&self, bytes: &mut Vec<u8>) -> Range<usize> {
        let position = |at: u16| usize::from(at) * bytes.len() / 65536;
        match self {
            Self::Truncate { at } => {
                let (at, len) = (position(*at), bytes.len());
                bytes.truncate(at);
                at..len
            }
            Self::Flip { at, bits } => {
                let at = position(*at);
                bytes[at] ^= bits;
                at..at + 1
            }
            Self::Insert { at, garbage } => {
                let at = position(*at);
                bytes.splice(at..at, garbage.iter().copied());
                at..at
            }
            Self::Overwrite { at, garbage } => {
                let at = position(*at);
                let end = bytes.len().min(at + garbage.len());
                bytes[at..end].copy_from_slice(&garbage[..end - at]);
                at..end
            }
        }
    }
}

/// Whether the harm touches the record. What is inserted right before or after one does not.
fn touches(harm: &Range<usize>, at: &Location) -> bool {
    let record = at.offset as usize..at.offset as usize + at.bytes as usize;
    harm.start.max(record.start) < harm.end.min(record.end)
        || (harm.is_empty() && record.start < harm.start && harm.start < record.end)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn every_record_that_is_not_touched_is_recovered_and_nothing_is_invented(
        harms in prop::collection::vec((0_u32..4, any_harm()), 1..4),
        segment_bytes in prop_oneof![Just(400_u64), Just(1 << 20)],
    ) {
        let (dir, places) = written(12, segment_bytes);
        let mut touched = vec![false; 12];
        let mut harmed = Vec::new();
        for (file, harm) in harms {
            let file = 1 + file % places[11].file;
            if harmed.contains(&file) {
                // A second harm would be told in positions of the first one's result.
                continue;
            }
            harmed.push(file);
            let mut bytes = fs::read(file_path(dir.path(), file)).unwrap();
            let range = harm.apply(&mut bytes);
            fs::write(file_path(dir.path(), file), bytes).unwrap();
            for (at, touched) in places.iter().zip(&mut touched) {
                *touched |= at.file == file && touches(&range, at);
            }
        }
        let (journal, recovered) = open(config(dir.path(), segment_bytes));
        let left = live(&journal);
        let reported: Vec<&PathBuf> =
            recovered.cut.iter().map(|cut| &cut.file).chain(recovered.damaged.iter().map(|damage| &damage.file)).collect();
        for (seq, (at, touched)) in places.iter().zip(&touched).enumerate() {
            let found = left.contains(&(seq as u64));
            prop_assert!(found || *touched, "block {} is lost", seq);
            // A file that was cut between two records does not show it.
            let len = file_path(dir.path(), at.file).metadata().map_or(0, |file| file.len());
            let beyond = len <= at.offset;
            prop_assert!(found || beyond || reported.contains(&&path(&dir, at)), "the loss of {} is not told", seq);
        }
        let mut in_order = left.clone();
        in_order.sort_unstable();
        in_order.dedup();
        prop_assert_eq!(&left, &in_order);
        // It goes on, and a second look finds the same.
        append(&journal, 99, &[1], 10).unwrap();
        drop(journal);
        let (journal, _) = open(config(dir.path(), segment_bytes));
        prop_assert_eq!(live(&journal), left.into_iter().chain([99]).collect::<Vec<_>>());
    }

    #[test]
    fn files_of_bytes_nobody_meant_are_opened(contents in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..100), 1..4)) {
        let dir = tempdir().unwrap();
        for (number, bytes) in contents.iter().enumerate() {
            fs::write(file_path(dir.path(), number as u32), bytes).unwrap();
        }
        let (journal, recovered) = open(config(dir.path(), 1 << 20));
        prop_assert!(live(&journal).is_empty());
        let told: u64 = recovered.cut.iter().map(|cut| cut.bytes).chain(recovered.damaged.iter().map(|damage| damage.bytes)).sum();
        prop_assert_eq!(told, contents.iter().map(|bytes| bytes.len() as u64).sum::<u64>());
    }
}
