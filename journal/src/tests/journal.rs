//! What a journal promises while nothing goes wrong.

use super::disk::TestDisk;
use super::*;
use crate::{OpenError, ReadError, SyncPolicy, Usage};
use std::sync::Arc;
use tempfile::tempdir;

fn open_on(disk: &TestDisk, config: JournalConfig) -> Journal {
    Journal::open_on(config, ShardCount::DEFAULT, Arc::new(disk.clone()), Duration::ZERO).unwrap().0
}

#[test]
fn what_is_kept_is_there_after_opening_again() {
    let dir = tempdir().unwrap();
    let (journal, recovered) = open(config(&dir.path().join("a/b"), 1000));
    assert_eq!((recovered.blocks, recovered.bytes), (0, 0));
    for seq in [5, 3, 4, 9, 1] {
        append(&journal, seq, &[1, 2], 300).unwrap();
    }
    assert_eq!(live(&journal), [5, 3, 4, 9, 1]);
    drop(journal);
    let (journal, recovered) = open(config(&dir.path().join("a/b"), 1000));
    assert_eq!((recovered.blocks, recovered.cut.len(), recovered.damaged.len()), (5, 0, 0));
    assert_eq!(live(&journal), [5, 3, 4, 9, 1]);
    assert_eq!(journal.blocks_of(shard(2), bucket(2)).len(), 5);
    assert_eq!(journal.buckets(), [(bucket(1), shard(2), 5), (bucket(2), shard(2), 5)]);
}

#[test]
fn what_is_queued_together_is_synced_together() {
    let (dir, disk) = (tempdir().unwrap(), TestDisk::default());
    let journal = open_on(&disk, config(dir.path(), 1 << 20));
    disk.change(|plan| plan.hold_syncs = true);
    let first = append_later(&journal, 0, &[1], 100);
    disk.wait_until(|plan| plan.syncs == 1);
    let others: Vec<_> = (1..=100).map(|seq| append_later(&journal, seq, &[1], 100)).collect();
    assert!(first.try_recv().is_err(), "not kept before it is synced");
    assert!(live(&journal).is_empty());
    disk.change(|plan| plan.hold_syncs = false);
    for outcome in std::iter::once(first).chain(others) {
        outcome.recv_timeout(PATIENCE).unwrap().unwrap();
    }
    let plan = disk.plan();
    // The header, the first block, all others.
    assert_eq!((plan.syncs, plan.writes, plan.dir_syncs), (2, 3, 1));
}

#[test]
fn a_full_file_is_followed_by_another_and_large_blocks_get_their_own() {
    let (dir, disk) = (tempdir().unwrap(), TestDisk::default());
    let journal = open_on(&disk, config(dir.path(), 1000));
    for (seq, bytes) in [(0, 300), (1, 300), (2, 300), (3, 5000), (4, 300)] {
        append(&journal, seq, &[1], bytes).unwrap();
    }
    let file_of: Vec<u32> = journal.blocks(shard(2)).iter().map(|entry| entry.at.file).collect();
    assert_eq!(file_of, [1, 1, 2, 3, 4]);
    assert_eq!(disk.plan().dir_syncs, 4, "each file's entry is made durable");
    assert_eq!(live(&journal), [0, 1, 2, 3, 4]);
    let on_disk: u64 =
        files(dir.path()).iter().map(|name| dir.path().join(name).metadata().unwrap().len()).sum();
    assert_eq!((journal.usage().disk_bytes, journal.usage().files), (on_disk, 4));
}

#[test]
fn a_second_opener_is_refused_until_the_first_closes() {
    let dir = tempdir().unwrap();
    let (journal, _) = open(config(dir.path(), 1000));
    let error = Journal::open(config(dir.path(), 1000), ShardCount::DEFAULT).err().unwrap();
    assert!(matches!(error, OpenError::InUse { .. }), "{error}");
    assert!(error.to_string().contains("in use"), "{error}");
    journal.close();
    open(config(dir.path(), 1000));
}

#[test]
fn a_journal_of_another_count_of_shards_is_refused() {
    let dir = tempdir().unwrap();
    append(&open(config(dir.path(), 1000)).0, 1, &[1], 10).unwrap();
    let error = Journal::open(config(dir.path(), 1000), ShardCount::new(16).unwrap()).err().unwrap();
    assert!(matches!(error, OpenError::ShardCount { found: 64, given: 16, .. }), "{error}");
    assert_eq!(live(&open(config(dir.path(), 1000)).0), [1], "and nothing is lost");
}

#[test]
fn a_journal_of_a_later_version_is_refused_and_left_as_it_is() {
    let dir = tempdir().unwrap();
    append(&open(config(dir.path(), 1000)).0, 1, &[1], 10).unwrap();
    let path = crate::disk::file_path(dir.path(), 1);
    let before = std::fs::read(&path).unwrap();
    let mut later = before.clone();
    later[8] = 9;
    let crc = crc32c::crc32c(&later[..28]).to_le_bytes();
    later[28..32].copy_from_slice(&crc);
    std::fs::write(&path, &later).unwrap();
    let error = Journal::open(config(dir.path(), 1000), ShardCount::DEFAULT).err().unwrap();
    assert!(matches!(error, OpenError::Version { version: 9, .. }), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), later);
}

#[test]
fn many_may_append_and_trim_at_once() {
    let dir = tempdir().unwrap();
    let (journal, _) = open(config(dir.path(), 5000));
    std::thread::scope(|scope| {
        for number in 0..4 {
            let journal = journal.clone();
            scope.spawn(move || {
                for seq in 0..200 {
                    let (done, outcome) = done();
                    let buckets = vec![bucket(1), bucket(2 + seq as u32 % 3)];
                    journal.append(id(1, number, seq), buckets, block(1, number, seq, 200), done);
                    outcome.recv_timeout(PATIENCE).unwrap().unwrap();
                    // Odd ones are covered in both buckets, even ones in one.
                    journal.trim(shard(number), bucket(1), &covering(&[(1, seq)]));
                    if seq % 2 == 1 {
                        journal.trim(shard(number), bucket(2 + seq as u32 % 3), &covering(&[(1, seq)]));
                    }
                }
            });
        }
    });
    let left = |journal: &Journal, number| -> Vec<u64> {
        journal.blocks(shard(number)).iter().map(|entry| entry.id.seq).filter(|seq| seq % 2 == 0).collect()
    };
    let even: Vec<u64> = (0..200).step_by(2).collect();
    assert_eq!((journal.usage().blocks, journal.usage().queued_bytes), (400, 0));
    assert!((0..4).all(|number| left(&journal, number) == even));
    drop(journal);
    let (journal, recovered) = open(config(dir.path(), 5000));
    assert_eq!((recovered.cut, recovered.damaged), (vec![], vec![]));
    assert!((0..4).all(|number| left(&journal, number) == even));
}

#[test]
fn a_barrier_waits_for_the_block_if_that_is_on_its_way() {
    let (dir, disk) = (tempdir().unwrap(), TestDisk::default());
    let journal = open_on(&disk, config(dir.path(), 1 << 20));
    disk.change(|plan| plan.hold_syncs = true);
    let first = append_later(&journal, 1, &[1], 100);
    let (waits, kept) = done();
    journal.barrier(id(1, 2, 1), waits);
    let (unknown, at_once) = done();
    journal.barrier(id(1, 2, 77), unknown);
    at_once.try_recv().unwrap().unwrap();
    assert!(kept.try_recv().is_err());
    disk.change(|plan| plan.hold_syncs = false);
    for outcome in [first, kept] {
        outcome.recv_timeout(PATIENCE).unwrap().unwrap();
    }
    let (known, at_once) = done();
    journal.barrier(id(1, 2, 1), known);
    at_once.try_recv().unwrap().unwrap();
}

#[test]
fn a_block_that_fails_fails_its_barrier_and_its_copies_and_may_be_appended_again() {
    let (dir, disk) = (tempdir().unwrap(), TestDisk::default());
    let journal = open_on(&disk, config(dir.path(), 1 << 20));
    disk.change(|plan| (plan.hold_syncs, plan.fail_syncs) = (true, true));
    let first = append_later(&journal, 1, &[1], 100);
    let (waits, barrier) = done();
    journal.barrier(id(1, 2, 1), waits);
    let copy = append_later(&journal, 1, &[1], 100);
    disk.change(|plan| plan.hold_syncs = false);
    for outcome in [first, barrier, copy] {
        let error = outcome.recv_timeout(PATIENCE).unwrap().unwrap_err();
        assert!(matches!(error, AppendError::Sync { .. }), "{error}");
    }
    disk.change(|plan| plan.fail_syncs = false);
    append(&journal, 1, &[1], 100).unwrap();
    assert_eq!(live(&journal), [1]);
}

#[test]
fn a_block_that_is_kept_is_not_written_again() {
    let (dir, disk) = (tempdir().unwrap(), TestDisk::default());
    let journal = open_on(&disk, config(dir.path(), 1 << 20));
    append(&journal, 1, &[1], 100).unwrap();
    // Others on the disk may take and free room meanwhile.
    let usage = || Usage { free_bytes: None, ..journal.usage() };
    let before = usage();
    append(&journal, 1, &[1], 100).unwrap();
    assert_eq!(usage(), before);
    assert_eq!(disk.plan().syncs, 1);
}

#[test]
fn a_block_without_buckets_takes_no_room() {
    let dir = tempdir().unwrap();
    let (journal, _) = open(config(dir.path(), 1000));
    append(&journal, 1, &[], 100).unwrap();
    assert_eq!((journal.usage().blocks, journal.usage().disk_bytes), (0, 0));
}

#[test]
fn a_bucket_named_twice_is_one() {
    let dir = tempdir().unwrap();
    let (journal, _) = open(config(dir.path(), 1000));
    append(&journal, 1, &[4, 3, 4], 100).unwrap();
    assert_eq!(journal.buckets(), [(bucket(3), shard(2), 1), (bucket(4), shard(2), 1)]);
}

#[test]
fn reading_goes_on_for_what_is_left_after_trimming_and_says_what_is_gone() {
    let dir = tempdir().unwrap();
    let (journal, _) = open(config(dir.path(), 1));
    for seq in 0..3 {
        append(&journal, seq, &[1], 100).unwrap();
    }
    let entries = journal.blocks(shard(2));
    journal.trim(shard(2), bucket(1), &covering(&[(1, 0), (1, 2)]));
    assert_eq!(live(&journal), [1]);
    assert!(matches!(journal.read(&entries[0]), Err(ReadError::Trimmed { .. })));
    journal.close();
    assert_eq!(live(&journal), [1], "also when it is closed");
    assert_eq!(files(dir.path()), ["journal-0000000002.log"]);
}

#[test]
fn an_interval_is_synced_later_and_by_closing() {
    let (dir, disk) = (tempdir().unwrap(), TestDisk::default());
    let hour = JournalConfig {
        sync: SyncPolicy::Interval(Duration::from_secs(3600)),
        ..config(dir.path(), 1 << 20)
    };
    let journal = open_on(&disk, hour);
    for seq in 0..10 {
        append(&journal, seq, &[1], 100).unwrap();
    }
    assert_eq!(disk.plan().syncs, 0);
    assert_eq!(live(&journal).len(), 10);
    journal.close();
    assert_eq!(disk.plan().syncs, 1);
}

#[test]
fn an_interval_is_synced_when_it_is_over_although_nothing_more_comes() {
    let (dir, disk) = (tempdir().unwrap(), TestDisk::default());
    let short =
        JournalConfig { sync: SyncPolicy::Interval(Duration::from_millis(1)), ..config(dir.path(), 1 << 20) };
    let journal = open_on(&disk, short);
    append(&journal, 1, &[1], 100).unwrap();
    disk.wait_until(|plan| plan.syncs >= 1);
}

#[test]
fn an_interval_is_synced_before_the_next_file_begins() {
    let (dir, disk) = (tempdir().unwrap(), TestDisk::default());
    let hour =
        JournalConfig { sync: SyncPolicy::Interval(Duration::from_secs(3600)), ..config(dir.path(), 1) };
    let journal = open_on(&disk, hour);
    for seq in 0..5 {
        append(&journal, seq, &[1], 100).unwrap();
    }
    assert_eq!(disk.plan().syncs, 4);
}

#[test]
fn after_closing_appends_fail_and_what_was_queued_is_kept() {
    let (dir, disk) = (tempdir().unwrap(), TestDisk::default());
    let journal = open_on(&disk, config(dir.path(), 1 << 20));
    let queued: Vec<_> = (0..20).map(|seq| append_later(&journal, seq, &[1], 100)).collect();
    journal.close();
    journal.close();
    assert!(queued.iter().all(|outcome| outcome.try_recv().unwrap().is_ok()));
    assert!(matches!(append(&journal, 99, &[1], 100), Err(AppendError::Closed)));
}

#[test]
fn the_last_handle_may_go_in_a_done() {
    let dir = tempdir().unwrap();
    let (journal, _) = open(config(dir.path(), 1000));
    let (sender, receiver) = channel();
    let held = journal.clone();
    let end: Done = Box::new(move |outcome| {
        drop(held);
        sender.send(outcome).unwrap();
    });
    journal.append(id(1, 2, 1), vec![bucket(1)], block(1, 2, 1, 10), end);
    drop(journal);
    receiver.recv_timeout(PATIENCE).unwrap().unwrap();
}

#[test]
fn a_done_that_panics_leaves_nobody_waiting() {
    let (dir, disk) = (tempdir().unwrap(), TestDisk::default());
    let journal = open_on(&disk, config(dir.path(), 1 << 20));
    disk.change(|plan| plan.hold_syncs = true);
    let panics: Done = Box::new(|_| panic!("on purpose"));
    journal.append(id(1, 2, 1), vec![bucket(1)], block(1, 2, 1, 10), panics);
    disk.wait_until(|plan| plan.syncs == 1);
    let queued = append_later(&journal, 2, &[1], 10);
    disk.change(|plan| plan.hold_syncs = false);
    assert!(matches!(queued.recv_timeout(PATIENCE).unwrap(), Err(AppendError::Closed)));
    assert!(matches!(append(&journal, 3, &[1], 10), Err(AppendError::Closed)));
}
