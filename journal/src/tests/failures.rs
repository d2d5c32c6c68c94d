//! What a disk that fails costs: the blocks at hand, and no other.

use super::disk::{Plan, TestDisk};
use super::*;
use crate::disk::file_path;
use crate::{Full, SyncPolicy};
use std::sync::Arc;
use tempfile::{TempDir, tempdir};

const FILE_HEADER: u64 = crate::record::FILE_HEADER_BYTES as u64;
/// The record of a block with 100 bytes of columns.
const RECORD: u64 = 184;

fn journal(segment_bytes: u64) -> (TempDir, TestDisk, Journal) {
    let (dir, disk) = (tempdir().unwrap(), TestDisk::default());
    let journal = reopen(&disk, config(dir.path(), segment_bytes)).0;
    (dir, disk, journal)
}

fn reopen(disk: &TestDisk, config: JournalConfig) -> (Journal, Recovered) {
    Journal::open_on(config, ShardCount::DEFAULT, Arc::new(disk.clone()), Duration::ZERO).unwrap()
}

/// The number of the file of each live block.
fn file_numbers(journal: &Journal) -> Vec<u32> {
    journal.blocks(shard(2)).iter().map(|entry| entry.at.file).collect()
}

#[test]
fn writes_that_are_short_are_continued() {
    let (_dir, disk, journal) = journal(1000);
    disk.change(|plan| plan.short_writes = Some(7));
    for seq in 0..5 {
        append(&journal, seq, &[1], 300).unwrap();
    }
    assert_eq!(live(&journal), [0, 1, 2, 3, 4]);
}

#[test]
fn a_disk_that_fills_up_at_any_byte_costs_only_the_batch() {
    for room in 0..200 {
        let (dir, disk, journal) = journal(1 << 20);
        append(&journal, 0, &[1], 100).unwrap();
        disk.change(|plan| plan.room = Some(room));
        let outcome = append(&journal, 1, &[1], 100);
        assert_eq!(outcome.is_ok(), room >= RECORD, "{room}: {outcome:?}");
        disk.change(|plan| plan.room = None);
        append(&journal, 2, &[1], 100).unwrap();
        let expected: &[u64] = if outcome.is_ok() { &[0, 1, 2] } else { &[0, 2] };
        assert_eq!(live(&journal), expected);
        assert_eq!(files(dir.path()).len(), 1, "the same file goes on");
        drop(journal);
        let (journal, recovered) = reopen(&disk, config(dir.path(), 1 << 20));
        assert_eq!((live(&journal).as_slice(), recovered.cut, recovered.damaged), (expected, vec![], vec![]));
    }
}

#[test]
fn a_disk_that_is_full_for_a_new_file_leaves_none_behind() {
    for room in 0..FILE_HEADER {
        let (dir, disk, journal) = journal(1 << 20);
        disk.change(|plan| plan.room = Some(room));
        let error = append(&journal, 1, &[1], 100).unwrap_err();
        assert!(matches!(error, AppendError::Write { .. }), "{error}");
        assert!(files(dir.path()).is_empty());
        disk.change(|plan| plan.room = None);
        append(&journal, 1, &[1], 100).unwrap();
        assert_eq!(live(&journal), [1]);
    }
}

#[test]
fn an_end_that_cannot_be_cut_off_is_left_and_reported() {
    let (dir, disk, journal) = journal(1 << 20);
    append(&journal, 0, &[1], 100).unwrap();
    disk.change(|plan| (plan.room, plan.fail_truncates) = (Some(50), true));
    append(&journal, 1, &[1], 100).unwrap_err();
    disk.change(|plan| (plan.room, plan.fail_truncates) = (None, false));
    append(&journal, 2, &[1], 100).unwrap();
    assert_eq!(file_numbers(&journal), [1, 2]);
    drop(journal);
    let (journal, recovered) = reopen(&disk, config(dir.path(), 1 << 20));
    assert_eq!(live(&journal), [0, 2]);
    assert_eq!((recovered.cut.len(), recovered.damaged.len()), (0, 1));
    assert_eq!((recovered.damaged[0].bytes, &recovered.damaged[0].file), (50, &file_path(dir.path(), 1)));
}

#[test]
fn after_a_failed_sync_the_file_is_never_synced_nor_written_again() {
    let (dir, disk, journal) = journal(1 << 20);
    append(&journal, 0, &[1], 100).unwrap();
    let len = file_path(dir.path(), 1).metadata().unwrap().len();
    disk.change(|plan| plan.fail_syncs = true);
    let error = append(&journal, 1, &[1], 100).unwrap_err();
    assert!(matches!(error, AppendError::Sync { .. }), "{error}");
    let syncs = disk.plan().syncs;
    disk.change(|plan| plan.fail_syncs = false);
    append(&journal, 2, &[1], 100).unwrap();
    assert_eq!(disk.plan().syncs, syncs + 1, "that of the new file");
    assert_eq!(file_numbers(&journal), [1, 2]);
    assert_eq!(file_path(dir.path(), 1).metadata().unwrap().len(), len, "cut to what was kept");
    drop(journal);
    let (journal, recovered) = reopen(&disk, config(dir.path(), 1 << 20));
    assert_eq!((live(&journal), recovered.cut, recovered.damaged), (vec![0, 2], vec![], vec![]));
}

#[test]
fn a_batch_over_several_files_keeps_what_was_synced_before_the_error() {
    let (_dir, disk, journal) = journal(1);
    disk.change(|plan| plan.hold_syncs = true);
    let first = append_later(&journal, 0, &[1], 100);
    disk.wait_until(|plan| plan.syncs == 1);
    let batch: Vec<_> = (1..=5).map(|seq| append_later(&journal, seq, &[1], 100)).collect();
    // Room for the rest of the first file, and for two and a half.
    disk.change(|plan| (plan.hold_syncs, plan.room) = (false, Some(2 * (FILE_HEADER + RECORD) + 100)));
    first.recv_timeout(PATIENCE).unwrap().unwrap();
    let outcomes: Vec<bool> =
        batch.iter().map(|outcome| outcome.recv_timeout(PATIENCE).unwrap().is_ok()).collect();
    assert_eq!(outcomes, [true, true, false, false, false]);
    assert_eq!(live(&journal), [0, 1, 2]);
    assert_eq!(journal.usage().queued_bytes, 0);
}

#[test]
fn a_failed_sync_after_an_interval_loses_nothing_that_was_acknowledged() {
    let (dir, disk) = (tempdir().unwrap(), TestDisk::default());
    let sync = SyncPolicy::Interval(Duration::from_millis(1));
    let (journal, _) = reopen(&disk, JournalConfig { sync, ..config(dir.path(), 1 << 20) });
    disk.change(|plan| plan.fail_syncs = true);
    append(&journal, 0, &[1], 100).unwrap();
    disk.wait_until(|plan| plan.failed_syncs == 1);
    disk.change(|plan| plan.fail_syncs = false);
    append(&journal, 1, &[1], 100).unwrap();
    assert_eq!(live(&journal), [0, 1]);
    assert_eq!(file_numbers(&journal), [1, 2]);
}

#[test]
fn blocks_are_refused_while_others_need_the_space_and_taken_when_it_is_back() {
    let (dir, disk) = (tempdir().unwrap(), TestDisk::default());
    let (journal, _) = reopen(&disk, JournalConfig { min_free_bytes: 1000, ..config(dir.path(), 1 << 20) });
    let free = |bytes| disk.change(|plan: &mut Plan| plan.free_bytes = Some(bytes));
    free(1500);
    append(&journal, 0, &[1], 100).unwrap();
    free(999);
    let full = Full::Disk { free_bytes: 999, min_free_bytes: 1000 };
    assert_eq!(journal.usage().accepting, Err(full.clone()));
    let error = append(&journal, 1, &[1], 100).unwrap_err();
    assert!(matches!(&error, AppendError::Full(found) if *found == full), "{error}");
    append(&journal, 0, &[1], 100).unwrap();
    free(1500);
    assert_eq!(journal.usage().accepting, Ok(()));
    append(&journal, 1, &[1], 100).unwrap();
}

#[test]
fn the_disk_is_not_asked_for_every_block_and_what_is_taken_meanwhile_counts() {
    let (dir, disk) = (tempdir().unwrap(), TestDisk::default());
    disk.change(|plan| plan.free_bytes = Some(1000));
    let (config, shards) = (config(dir.path(), 1 << 20), ShardCount::DEFAULT);
    let (journal, _) = Journal::open_on(config, shards, Arc::new(disk.clone()), PATIENCE).unwrap();
    let taken = (0..10).filter(|&seq| append(&journal, seq, &[1], 100).is_ok()).count();
    assert_eq!((taken, disk.plan().asked_for_space), (5, 1), "five records of 184 bytes");
}

#[test]
fn the_limit_is_kept_and_trimming_makes_room() {
    let (dir, disk) = (tempdir().unwrap(), TestDisk::default());
    let (journal, _) = reopen(&disk, JournalConfig { limit_bytes: Some(900), ..config(dir.path(), 1 << 20) });
    let taken = (0..10).take_while(|&seq| append(&journal, seq, &[1], 100).is_ok()).count();
    assert_eq!((taken, journal.usage().blocks), (4, 4));
    let error = append(&journal, 9, &[1], 100).unwrap_err();
    assert!(matches!(error, AppendError::Full(Full::Limit { limit_bytes: 900, .. })), "{error}");
    assert!(journal.usage().disk_bytes <= 900);
    // The file that is written to goes too, or a small limit would be reached for good.
    journal.trim(shard(2), bucket(1), &covering(&[(1, 0), (1, 1), (1, 2), (1, 3)]));
    while journal.usage().files > 0 {
        std::thread::yield_now();
    }
    append(&journal, 9, &[1], 100).unwrap();
    assert_eq!(live(&journal), [9]);
}

#[test]
fn a_file_that_cannot_be_deleted_goes_at_the_next_opening() {
    let (dir, disk, journal) = journal(1);
    append(&journal, 0, &[1], 100).unwrap();
    append(&journal, 1, &[1], 100).unwrap();
    disk.change(|plan| plan.fail_removes = true);
    journal.trim(shard(2), bucket(1), &covering(&[(1, 0)]));
    assert_eq!((live(&journal), files(dir.path()).len()), (vec![1], 2));
    disk.change(|plan| plan.fail_removes = false);
    drop(journal);
    // It is back, as all that is trimmed may be.
    let (journal, _) = reopen(&disk, config(dir.path(), 1));
    assert_eq!(live(&journal), [0, 1]);
    journal.trim(shard(2), bucket(1), &covering(&[(1, 0)]));
    assert_eq!((live(&journal), files(dir.path()).len()), (vec![1], 1));
}

#[test]
fn a_sector_that_cannot_be_read_costs_the_records_in_it() {
    let (dir, disk, journal) = journal(1 << 20);
    for seq in 0..40 {
        append(&journal, seq, &[1], 1000).unwrap();
    }
    drop(journal);
    disk.change(|plan| plan.bad_page = Some(4));
    let (journal, recovered) = reopen(&disk, config(dir.path(), 1 << 20));
    disk.change(|plan| plan.bad_page = None);
    let lost = 40 - live(&journal).len();
    assert!((4..=6).contains(&lost), "{lost}");
    assert_eq!((recovered.cut.len(), recovered.damaged.len()), (0, 1));
}

#[test]
fn an_end_that_cannot_be_read_is_not_taken_for_a_torn_one() {
    let (dir, disk, journal) = journal(1 << 20);
    for seq in 0..4 {
        append(&journal, seq, &[1], 1100).unwrap();
    }
    drop(journal);
    disk.change(|plan| plan.bad_page = Some(1));
    let (journal, recovered) = reopen(&disk, config(dir.path(), 1 << 20));
    assert_eq!((recovered.cut.len(), recovered.damaged.len()), (0, 1));
    drop(journal);
    disk.change(|plan| plan.bad_page = None);
    assert_eq!(
        live(&reopen(&disk, config(dir.path(), 1 << 20)).0),
        [0, 1, 2, 3],
        "it was readable after all"
    );
}
