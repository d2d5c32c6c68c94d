//! A journal that is driven step by step, as simulations do.

use super::disk::TestDisk;
use super::*;
use crate::{Disk, Pump, SyncPolicy};
use std::sync::{Arc, Mutex};
use tempfile::{TempDir, tempdir};

fn open_driven(config: JournalConfig, disk: &TestDisk) -> (Journal, Recovered, Pump) {
    Journal::open_driven(config, ShardCount::DEFAULT, Arc::new(disk.clone())).unwrap()
}

fn driven() -> (TempDir, TestDisk, Journal, Pump) {
    let (dir, disk) = (tempdir().unwrap(), TestDisk::default());
    let (journal, _, pump) = open_driven(config(dir.path(), 1 << 20), &disk);
    (dir, disk, journal, pump)
}

fn reopened(dir: &TempDir) -> Vec<u64> {
    let (journal, _, _pump) = open_driven(config(dir.path(), 1 << 20), &TestDisk::default());
    live(&journal)
}

#[test]
fn it_writes_when_it_is_stepped_and_keeps_what_it_acknowledged() {
    let (dir, _, journal, pump) = driven();
    let outcomes: Vec<_> = (0..3).map(|seq| append_later(&journal, seq, &[1], 100)).collect();
    assert!(outcomes.iter().all(|outcome| outcome.try_recv().is_err()));
    assert!(pump.step());
    outcomes.iter().for_each(|outcome| outcome.try_recv().unwrap().unwrap());
    drop(journal);
    drop(pump);
    assert_eq!(reopened(&dir), [0, 1, 2]);
}

#[test]
fn what_is_queued_and_not_stepped_is_lost_with_the_last_handle() {
    let (dir, _, journal, pump) = driven();
    let kept = append_later(&journal, 0, &[1], 100);
    pump.step();
    kept.try_recv().unwrap().unwrap();
    let lost = append_later(&journal, 1, &[1], 100);
    drop(journal);
    assert!(matches!(lost.try_recv().unwrap(), Err(AppendError::Closed)));
    assert!(!pump.step());
    assert_eq!(reopened(&dir), [0]);
}

#[test]
fn what_is_queued_is_lost_with_the_pump_although_a_done_holds_the_journal() {
    let (dir, _, journal, pump) = driven();
    let (done, outcome) = done();
    let held = journal.clone();
    let done = Box::new(move |result| {
        done(result);
        drop(held);
    });
    journal.append(id(1, 2, 0), vec![bucket(1)], block(1, 2, 0, 100), done);
    drop(journal);
    drop(pump);
    assert!(matches!(outcome.try_recv().unwrap(), Err(AppendError::Closed)));
    assert!(reopened(&dir).is_empty());
}

#[test]
fn closing_writes_what_is_queued_and_frees_the_folder() {
    let (dir, _, journal, pump) = driven();
    let outcome = append_later(&journal, 0, &[1], 100);
    journal.close();
    outcome.try_recv().unwrap().unwrap();
    assert!(!pump.step());
    assert!(matches!(append_later(&journal, 1, &[1], 100).try_recv().unwrap(), Err(AppendError::Closed)));
    assert_eq!(reopened(&dir), [0]);
}

#[test]
fn a_crash_between_writing_and_syncing_acknowledged_nothing() {
    let (dir, disk, journal, pump) = driven();
    // A disk that is gone from the sync on.
    disk.change(|plan| (plan.fail_syncs, plan.fail_truncates, plan.fail_removes) = (true, true, true));
    let outcome = append_later(&journal, 0, &[1], 100);
    pump.step();
    assert!(matches!(outcome.try_recv().unwrap(), Err(AppendError::Sync { .. })));
    drop((journal, pump));
    // It may be there or not: nobody was told that it is kept. This disk has it.
    assert_eq!(reopened(&dir), [0]);
}

#[test]
fn a_barrier_has_it_write_at_once() {
    let (_dir, _, journal, _pump) = driven();
    let written = append_later(&journal, 0, &[1], 100);
    let (done, passed) = done();
    journal.barrier(id(1, 2, 0), done);
    // As in a node: it blocks the only thread there is.
    passed.recv_timeout(PATIENCE).unwrap().unwrap();
    written.try_recv().unwrap().unwrap();
}

#[test]
fn a_done_may_append_and_wait_behind_itself() {
    let (_dir, _, journal, pump) = driven();
    let (inner, outer) = (Arc::new(Mutex::new(None)), journal.clone());
    let slot = Arc::clone(&inner);
    let done = Box::new(move |_| {
        let (done, passed) = done();
        append_unheard(&outer, 1);
        outer.barrier(id(1, 2, 9), done);
        *slot.lock().unwrap() = Some(passed);
    });
    journal.append(id(1, 2, 0), vec![bucket(1)], block(1, 2, 0, 100), done);
    pump.step();
    inner.lock().unwrap().take().unwrap().try_recv().unwrap().unwrap();
    assert_eq!(journal.usage().blocks, 1);
}

#[test]
fn an_interval_is_measured_with_the_disks_clock() {
    let (dir, disk) = (tempdir().unwrap(), TestDisk::default());
    let interval = SyncPolicy::Interval(Duration::from_secs(3600));
    let settings = JournalConfig { sync: interval, ..config(dir.path(), 1 << 20) };
    let (journal, _, pump) = open_driven(settings, &disk);
    let outcome = append_later(&journal, 0, &[1], 100);
    pump.step();
    outcome.try_recv().unwrap().unwrap();
    assert_eq!(disk.plan().syncs, 0);
    disk.change(|plan| plan.passed = Duration::from_secs(3600));
    pump.step();
    assert_eq!(disk.plan().syncs, 1);
}

#[test]
fn a_file_without_live_blocks_goes_with_the_next_step() {
    let (dir, _, journal, pump) = driven();
    let outcome = append_later(&journal, 0, &[1], 100);
    pump.step();
    outcome.try_recv().unwrap().unwrap();
    journal.trim(shard(2), bucket(1), &covering(&[(1, 0)]));
    assert_eq!(files(dir.path()).len(), 1);
    pump.step();
    assert!(files(dir.path()).is_empty());
}

#[test]
fn salts_are_the_disks() {
    let contents = |salt| {
        let (dir, disk) = (tempdir().unwrap(), TestDisk::default());
        disk.change(|plan| plan.salt = Some(salt));
        let (journal, _, pump) = open_driven(config(dir.path(), 1 << 20), &disk);
        append_unheard(&journal, 0);
        pump.step();
        std::fs::read(dir.path().join(&files(dir.path())[0])).unwrap()
    };
    assert_eq!(contents(7), contents(7));
    assert_ne!(contents(7), contents(8));
    let disk: &dyn Disk = &crate::disk::RealDisk;
    assert_ne!(disk.draw_salt().unwrap(), disk.draw_salt().unwrap());
}

fn append_unheard(journal: &Journal, seq: u64) {
    journal.append(id(1, 2, seq), vec![bucket(1)], block(1, 2, seq, 100), Box::new(|_| {}));
}

#[test]
fn a_block_lags_from_when_it_is_queued_until_it_is_told_what_became_of_it() {
    let (_dir, disk, journal, pump) = driven();
    assert_eq!(journal.progress(), Progress { kept: 0, lag: Duration::ZERO });
    let _first = append_later(&journal, 0, &[1], 100);
    disk.change(|plan| plan.passed += Duration::from_secs(2));
    let _second = append_later(&journal, 1, &[1], 100);
    disk.change(|plan| plan.passed += Duration::from_secs(1));
    let queued = journal.progress();
    assert!(queued.kept == 0 && (3..4).contains(&queued.lag.as_secs()), "{queued:?}");
    pump.step();
    assert_eq!(journal.progress(), Progress { kept: 2, lag: Duration::ZERO });
}
