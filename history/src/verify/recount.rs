//! The independent second count of distinct visitors.
//!
//! Owns: counting them from blocks by the crate `hyperloglogplus`, which shares nothing with our own sketches, and how far
//! the two may be apart.
//! Does not own: our own count (`tidemark_rollup::measure::unique`).

use super::report::{At, Difference, Differs, Report};
use bytes::Bytes;
use hyperloglogplus::{HyperLogLog as _, HyperLogLogPlus};
use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasherDefault, DefaultHasher};
use tidemark_proto::v1;
use tidemark_rollup::block::{BlockError, BlockId, DecodedBlock};
use tidemark_rollup::coverage::Coverage;
use tidemark_rollup::measure::MeasureColumn;
use tidemark_rollup::measure::unique::Unique;
use tidemark_rollup::rows::SegmentRows;
use tidemark_rollup::schema::{Measure, Schema, Source};
use tidemark_rollup::sharding::{ShardCount, ShardId};
use tidemark_rollup::time::{BucketStart, EventTime};

/// The second count's standard error is 0.41 %, and next to none for small sets.
const PRECISION: u8 = 16;
/// How far the counts may be apart, where ours is exact.
const EXACT_SHARE: f64 = 0.03;
/// Where ours is an estimate too. Five times the standard error of both together: chance exceeds it once in 10^7 buckets.
const ESTIMATED_SHARE: f64 = 0.05;
const FEW: f64 = 2.0;

/// Equal input, equal count.
type Hll = HyperLogLogPlus<u64, BuildHasherDefault<DefaultHasher>>;

/// Distinct visitors by site and measure.
pub(super) struct SecondCount {
    bucket: BucketStart,
    shards: ShardCount,
    measures: Vec<Measure>,
    sites: HashMap<Bytes, Vec<Hll>>,
    decoded: DecodedBlock,
    seen: HashMap<ShardId, Coverage>,
}

impl SecondCount {
    pub(super) fn new(bucket: BucketStart, shards: ShardCount, schema: &Schema) -> Self {
        let uniques = schema.measures().iter().filter(|measure| measure.source == Source::Unique);
        let measures = uniques.cloned().collect();
        let decoded = DecodedBlock::default();
        Self { bucket, shards, measures, sites: HashMap::new(), decoded, seen: HashMap::new() }
    }

    pub(super) fn add(&mut self, block: &v1::Block) -> Result<(), BlockError> {
        let id = BlockId::of(block, self.shards)?;
        let is_new = self.seen.entry(id.shard).or_default().insert(id.producer, id.seq);
        if self.measures.is_empty() || !is_new {
            return Ok(());
        }
        self.decoded.read(block, self.shards)?;
        for event in self.decoded.to_events() {
            let bucket = BucketStart::containing(EventTime::from_unix_ms(event.time_ms));
            if event.visitor_hash == 0 || bucket != self.bucket {
                continue;
            }
            let counts = self.sites.entry(event.site).or_insert_with(|| {
                self.measures
                    .iter()
                    .filter_map(|_| Hll::new(PRECISION, BuildHasherDefault::default()).ok())
                    .collect()
            });
            for (measure, count) in self.measures.iter().zip(counts) {
                let kind = measure.event_kind.as_ref();
                if kind.is_none_or(|kind| kind.as_bytes() == &event.kind[..]) {
                    count.insert(&event.visitor_hash);
                }
            }
        }
        Ok(())
    }

    /// Compares with what is stored of some sites; of all where none are given.
    pub(super) fn compare(
        mut self,
        stored: &SegmentRows,
        sites: Option<&BTreeSet<String>>,
        report: &mut Report,
    ) {
        let at = At::Bucket(self.bucket);
        for (site, name) in stored.sites.iter().enumerate() {
            if sites.is_some_and(|sites| !sites.contains(name)) {
                continue;
            }
            let mut counts = self.sites.remove(name.as_bytes()).unwrap_or_default();
            for (at_measure, measure) in self.measures.iter().enumerate() {
                let ours = visitors(stored, site as u32, measure);
                let theirs = counts.get_mut(at_measure).map_or(0.0, |count| count.count());
                if !agree(&ours, theirs) {
                    let differs = Differs::Visitors(measure.name.clone());
                    let theirs = format!("about {theirs:.0}");
                    report.add(Difference::of(at, differs, ours.count(), theirs).on(name));
                }
            }
        }
    }
}

fn agree(ours: &Unique, theirs: f64) -> bool {
    let share = if ours.is_estimated() { ESTIMATED_SHARE } else { EXACT_SHARE };
    let ours = ours.count() as f64;
    (ours - theirs).abs() <= share * ours.max(theirs) + FEW
}

/// A site's visitors, over all of its rows.
fn visitors(rows: &SegmentRows, site: u32, measure: &Measure) -> Unique {
    let mut all = Unique::default();
    let column = rows.schema.measures().iter().position(|known| known == measure);
    let Some(MeasureColumn::Uniques(values)) = column.map(|at| &rows.measures[at]) else { return all };
    let of = rows.site.partition_point(|&of| of < site)..rows.site.partition_point(|&of| of <= site);
    of.filter_map(|row| values.get(row)).for_each(|value| all.merge(value));
    all
}
