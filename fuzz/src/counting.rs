//! What happens to blocks and batches of rows, as far as a node gets without I/O.
//!
//! Owns: reading, counting and asking, and what has to be so of each step.
//! Does not own: any of the steps.

use std::sync::{Arc, LazyLock};
use std::time::Duration;
use tidemark_proto::encoded::EncodedBatch;
use tidemark_proto::v1;
use tidemark_rollup::answer::answer;
use tidemark_rollup::block::{BlockId, DecodedBlock};
use tidemark_rollup::canonical::KeepParams;
use tidemark_rollup::event::TimeRules;
use tidemark_rollup::partial::Partial;
use tidemark_rollup::query::Query;
use tidemark_rollup::scan::{Folds, ScanContext, scan};
use tidemark_rollup::schema::Schema;
use tidemark_rollup::shard::{Shard, ShardRules};
use tidemark_rollup::sharding::ShardCount;
use tidemark_rollup::split::{Rules, Split, split, split_encoded};
use tidemark_rollup::time::EventTime;

/// When everything comes.
pub const NOW: EventTime = EventTime::from_unix_ms(1_795_000_200_000);

static SCHEMA: LazyLock<Arc<Schema>> = LazyLock::new(Arc::default);
static KEEP: LazyLock<KeepParams> = LazyLock::new(KeepParams::default);
/// The top pages of each site, with a measure of each kind.
static QUESTION: LazyLock<Query> = LazyLock::new(|| {
    let texts = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
    let question = v1::Query {
        site: "*".to_owned(),
        from: "1970-01-01T00:00:00Z".to_owned(),
        measures: texts(&["views", "visitors", "load_ms.p95", "bytes"]),
        group_by: texts(&["site", "url", "device"]),
        limit: 10,
        ..v1::Query::default()
    };
    Query::parse(&question, &SCHEMA, NOW).expect("a question that can be asked")
});

/// A cluster of so many shards.
pub fn shards(count: u32) -> ShardCount {
    ShardCount::new(count).expect("a power of two")
}

/// What a node splits by.
fn rules_of_node(shards: ShardCount) -> Rules<'static> {
    Rules { schema: Some(&SCHEMA), keep_params: &KEEP, times: TimeRules::default(), shards }
}

/// Splits a batch as a node does that was given rows.
pub fn blocks_of(batch: &v1::EventBatch, shards: ShardCount) -> Option<Split> {
    split(batch, &rules_of_node(shards), NOW).ok()
}

/// Splits a batch as a producer does, which knows no schema.
pub fn blocks_of_producer(batch: &v1::EventBatch, shards: ShardCount) -> Option<Split> {
    let times = TimeRules { accept_late: Duration::MAX };
    split(batch, &Rules { schema: None, keep_params: &KEEP, times, shards }, NOW).ok()
}

/// Splits a batch whose events are encoded, and these events once they are read, which gives the same.
pub fn split_either_way(encoded: &EncodedBatch, batch: &v1::EventBatch) {
    let rules = rules_of_node(shards(16));
    let (encoded, read) = (split_encoded(encoded, &rules, NOW), split(batch, &rules, NOW));
    let parts = |split: Split| (split.blocks, split.rejected, split.ignored);
    assert_eq!(encoded.map(parts), read.map(parts));
}

/// Splits a batch whose events may be any bytes: each of them is in a block or rejected.
pub fn take_encoded(encoded: &EncodedBatch) {
    let Ok(split) = split_encoded(encoded, &rules_of_node(shards(16)), NOW) else { return };
    let in_blocks: u32 = split.blocks.iter().map(|block| block.event_count).sum();
    assert_eq!(in_blocks as usize + split.rejected.len(), encoded.events.len());
}

/// Takes a batch as a node does.
pub fn take_batch(batch: &v1::EventBatch) {
    let Some(split) = blocks_of(batch, shards(16)) else { return };
    let again = blocks_of(batch, shards(16)).expect("what could be split can be split");
    assert_eq!((&split.blocks, &split.rejected), (&again.blocks, &again.rejected));
    let mut in_blocks = 0;
    for block in &split.blocks {
        let events = take_block(block, shards(16)).expect("what was split can be read");
        in_blocks += events.len();
    }
    assert_eq!(in_blocks + split.rejected.len(), batch.events.len());
    come_back_the_same(batch);
}

/// What is canonical already stays as it is.
fn come_back_the_same(batch: &v1::EventBatch) {
    let Some(split) = blocks_of(batch, shards(1)) else { return };
    let [block] = &split.blocks[..] else { return };
    let mut events = take_block(block, shards(1)).expect("what was split can be read");
    if events.is_empty() {
        return;
    }
    let again = v1::EventBatch { events: events.clone(), ..batch.clone() };
    let again = blocks_of(&again, shards(1)).expect("what was split can be split");
    assert!(again.rejected.is_empty(), "{:?} of {events:?}", again.rejected);
    let mut read = take_block(&again.blocks[0], shards(1)).expect("what was split can be read");
    [&mut events, &mut read].into_iter().for_each(sort);
    assert_eq!(events, read);
}

fn sort(events: &mut Vec<v1::Event>) {
    for event in &mut *events {
        event.dimensions.sort_by(|a, b| a.key.cmp(&b.key));
        event.values.sort_by(|a, b| a.key.cmp(&b.key));
    }
    events.sort_by_cached_key(|event| format!("{event:?}"));
}

/// Reads a block, counts it twice, and asks for what is in it. The events, where it can be read.
pub fn take_block(block: &v1::Block, shards: ShardCount) -> Option<Vec<v1::Event>> {
    let mut decoded = DecodedBlock::default();
    decoded.read(block, shards).ok()?;
    let events = decoded.to_events();
    assert_eq!((decoded.len(), events.len()), (block.event_count as usize, events.len()));
    assert!(decoded.sites().count() < usize::MAX);
    decoded.read(block, shards).expect("what could be read can be read");
    assert_eq!(decoded.to_events(), events);
    if let Ok(id) = BlockId::of(block, shards) {
        count(block, id, shards);
    }
    Some(events)
}

fn count(block: &v1::Block, id: BlockId, shards: ShardCount) {
    let rules = ShardRules {
        schema: Arc::clone(&SCHEMA),
        shards,
        times: TimeRules::default(),
        dimension_values: 100,
    };
    let mut shard = Shard::new(id.shard, rules);
    let first = shard.apply(block).expect("what can be read can be counted");
    assert!(!first.repeated && first.counted <= block.event_count && first.duplicate == 0);
    let rows = shard.row_count();
    let again = shard.apply(block).expect("what was counted can come again");
    // A block of nothing has no bucket that could know it.
    let is_known = !first.buckets.is_empty();
    assert_eq!((again.repeated, again.counted, again.duplicate), (is_known, 0, first.counted));
    assert_eq!(shard.row_count(), rows);
    ask(&shard);
}

/// Asks the shard; what it answers means the same on the wire.
fn ask(shard: &Shard) {
    let buckets: Vec<_> = shard.buckets().cloned().collect();
    let context = ScanContext { folds: Folds::default(), share: 100 };
    let scanned = scan([&buckets[..]].into_iter(), &QUESTION, &context);
    let Ok(partial) = scanned.partial.checked() else { return };
    let wire = partial.to_wire();
    let read = Partial::from_wire(wire.clone(), &QUESTION).expect("what was written can be read");
    assert_eq!(read.to_wire(), wire);
    assert!(answer(partial, &QUESTION, NOW).rows.len() <= 10);
}
