//! Disks of hosts: what a journal on them keeps.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use common::idle;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tidemark_journal::{AppendError, Journal, JournalConfig, SyncPolicy};
use tidemark_proto::v1;
use tidemark_rollup::block::{BlockId, ProducerId};
use tidemark_rollup::sharding::ShardCount;
use tidemark_rollup::time::BucketStart;
use tidemark_simulation::{DiskFaults, HostContext, HostId, World};

const LIMIT: Duration = Duration::from_secs(60);
const SHARDS: ShardCount = ShardCount::DEFAULT;

fn block(seq: u64) -> (BlockId, v1::Block) {
    let producer = ProducerId::from_u128(1);
    let id = BlockId { producer, shard: SHARDS.shard(2).unwrap(), seq };
    let columns = vec![seq as u8; 300].into();
    let (producer, shard) = (producer.to_wire(), 2);
    (id, v1::Block { producer, shard, seq, sealed_at_ms: 5, event_count: 1, columns })
}

async fn append(journal: &Journal, seq: u64) -> Result<(), AppendError> {
    let (told, outcome) = tokio::sync::oneshot::channel();
    let (id, block) = block(seq);
    let buckets = vec![BucketStart::from_unix_seconds(300).unwrap()];
    journal.append(id, buckets, block, Box::new(|result| _ = told.send(result)));
    outcome.await.unwrap()
}

fn config(context: &HostContext, sync: SyncPolicy) -> JournalConfig {
    let dir = context.folder().join("journal");
    JournalConfig { sync, segment_bytes: 4000, ..JournalConfig::new(dir) }
}

fn live(journal: &Journal) -> Vec<u64> {
    let entries = journal.blocks(SHARDS.shard(2).unwrap());
    for entry in &entries {
        assert_eq!(journal.read(entry).unwrap(), block(entry.id.seq).1);
    }
    entries.iter().map(|entry| entry.id.seq).collect()
}

fn recovered(world: &mut World, host: HostId) -> Vec<u64> {
    world.restart(host, idle);
    let read = |context: HostContext| async move {
        live(&context.open_journal(config(&context, SyncPolicy::Always), SHARDS).unwrap().0)
    };
    world.call(host, LIMIT, read).unwrap()
}

/// A world with a host that appends, several blocks at a time; and which were acknowledged.
fn appending(seed: u64, sync: SyncPolicy) -> (World, HostId, Arc<Mutex<Vec<u64>>>) {
    let (mut world, kept) = (World::new(seed), Arc::new(Mutex::new(Vec::new())));
    let host = world.add_host("host");
    let noted = Arc::clone(&kept);
    world.start(host, move |context| async move {
        let journal = context.open_journal(config(&context, sync), SHARDS).unwrap().0;
        for first in (0..).step_by(5) {
            let batch = (first..first + 5).map(|seq| append(&journal, seq));
            for (seq, outcome) in (first..).zip(futures::future::join_all(batch).await) {
                if outcome.is_ok() {
                    noted.lock().unwrap().push(seq);
                }
            }
        }
    });
    (world, host, kept)
}

#[test]
fn what_was_acknowledged_survives_any_crash_when_it_is_synced_always() {
    for seed in 0..30 {
        let (mut world, host, kept) = appending(seed, SyncPolicy::Always);
        world.run_for(Duration::from_millis(200 + 10 * seed));
        world.crash(host);
        let kept = kept.lock().unwrap().clone();
        assert!(kept.len() > 50);
        let found = recovered(&mut world, host);
        assert_eq!(found[..kept.len()], kept, "seed {seed}");
    }
}

#[test]
fn what_was_not_synced_survives_the_process_and_not_always_the_power() {
    let interval = SyncPolicy::Interval(Duration::from_secs(1));
    let mut lost = 0;
    for seed in 0..20 {
        for power in [false, true] {
            let (mut world, host, kept) = appending(seed, interval);
            world.run_for(Duration::from_millis(1500 + 7 * seed / 10 * 10));
            if power {
                world.lose_power(host)
            } else {
                world.kill(host)
            }
            let kept = kept.lock().unwrap().len();
            let found = recovered(&mut world, host).len();
            assert!(power || found >= kept, "seed {seed}: {found} of {kept}");
            assert!(found > 50, "what was synced a second ago is there");
            lost += kept.saturating_sub(found);
        }
    }
    assert!(lost > 0);
}

#[test]
fn a_full_disk_refuses_blocks_until_there_is_room() {
    let mut world = World::new(1);
    let host = world.add_host("host");
    world.start(host, idle);
    let open = |context: HostContext| async move {
        let config = JournalConfig { min_free_bytes: 0, ..config(&context, SyncPolicy::Always) };
        context.open_journal(config, SHARDS).unwrap().0
    };
    let journal = world.call(host, LIMIT, open).unwrap();
    world.set_disk(host, DiskFaults { capacity_bytes: Some(1000), ..DiskFaults::default() });
    let clone = journal.clone();
    let fill = move |_| async move {
        let mut count = 0;
        while append(&clone, count).await.is_ok() {
            count += 1;
        }
        (count, append(&clone, 10).await.unwrap_err())
    };
    let (count, error) = world.call(host, LIMIT, fill).unwrap();
    assert!((1..3).contains(&count) && matches!(error, AppendError::Full(_)), "{count}: {error}");
    world.set_disk(host, DiskFaults::default());
    world.run_for(Duration::from_millis(300));
    let append = |_| async move { append(&journal, 10).await.is_ok() };
    assert!(world.call(host, LIMIT, append).unwrap());
}

#[test]
fn a_disk_that_fails_at_times_costs_what_it_failed_and_no_other() {
    for seed in 0..10 {
        let (mut world, host, kept) = appending(seed, SyncPolicy::Always);
        world.set_disk(host, DiskFaults { failing_writes: 0.1, failing_syncs: 0.1, ..DiskFaults::default() });
        world.run_for(Duration::from_millis(500));
        world.lose_power(host);
        world.set_disk(host, DiskFaults::default());
        let found = recovered(&mut world, host);
        let kept = kept.lock().unwrap();
        assert!(kept.len() > 20 && kept.iter().all(|seq| found.contains(seq)), "seed {seed}");
    }
}
