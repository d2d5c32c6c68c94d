//! What a day's new segments are made from.
//!
//! Owns: which rows of which segments are taken over, rows that are counted anew from raw events, and holding those of some
//! shards at a time.
//! Does not own: what is made of them (`make`), which segments count (the callers).

use super::CompactError;
use super::layout::of_site;
use super::objects::Objects;
use crate::segment::{Footer, Selection};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use tidemark_proto::v1;
use tidemark_rollup::block::BlockId;
use tidemark_rollup::bucket::Bucket;
use tidemark_rollup::coverage::Coverage;
use tidemark_rollup::event::TimeRules;
use tidemark_rollup::rows::{FactsRow, RollupPart, SegmentRows};
use tidemark_rollup::scan::Folds;
use tidemark_rollup::schema::Schema;
use tidemark_rollup::shard::{Shard, ShardRules};
use tidemark_rollup::sharding::ShardId;
use tidemark_rollup::table::SiteFacts;
use tidemark_rollup::time::BucketStart;
use tidemark_shell::work;

/// Buckets' raw events in memory at once: each may take some hundred megabytes.
const RAW_PARALLEL: usize = 2;

/// Inputs of one schema: they become segments of it.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) schema: Arc<Schema>,
    pub(crate) rollups: Vec<Rollup>,
    pub(crate) raw: Vec<Raw>,
    /// Rows that `raw` makes, about.
    pub(crate) raw_rows: u64,
}

impl Group {
    pub(crate) fn new(schema: Arc<Schema>) -> Self {
        Self { schema, rollups: Vec::new(), raw: Vec::new(), raw_rows: 0 }
    }
}

/// Rows of a rollup segment that are taken over.
#[derive(Clone, Debug)]
pub(crate) struct Rollup {
    pub(crate) footer: Footer,
    pub(crate) rows: u64,
    /// No two of them select the same row.
    pub(crate) picks: Vec<Pick>,
    /// Whether a row is of a day.
    pub(crate) of_days: bool,
    /// Whether to do without it where it is damaged.
    pub(crate) optional: bool,
}

/// What is taken over.
#[derive(Clone, Debug)]
pub(crate) struct Pick {
    pub(crate) selection: Selection,
    /// Of facts only the repeated events, which raw events do not tell.
    pub(crate) duplicates_only: bool,
}

impl Rollup {
    /// All of a segment.
    pub(crate) fn whole(footer: Footer, rows: u64, of_days: bool) -> Self {
        let selection = Selection::everything(footer.schema());
        Self {
            footer,
            rows,
            picks: vec![Pick { selection, duplicates_only: false }],
            of_days,
            optional: false,
        }
    }
}

/// Raw events of a bucket that are counted anew.
#[derive(Clone, Debug)]
pub(crate) struct Raw {
    pub(crate) bucket: BucketStart,
    pub(crate) segments: Vec<v1::Segment>,
    /// The blocks that must be there.
    pub(crate) coverage: BTreeMap<ShardId, Coverage>,
    /// Only rows of this site; of all where not set.
    pub(crate) site: Option<Arc<str>>,
}

/// Facts by site, bucket (or the first of the day) and shard.
pub(crate) type Facts = BTreeMap<(String, BucketStart, ShardId), SiteFacts>;

/// Rollups of some shards.
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    /// By bucket.
    pub(crate) buckets: Vec<Arc<Bucket>>,
    pub(crate) facts: Facts,
    /// Of whole days, cut already.
    pub(crate) days: Vec<Arc<Bucket>>,
    pub(crate) day_facts: Facts,
}

impl Loaded {
    fn add(&mut self, part: Part) {
        let (buckets, facts) = match part.of_days {
            true => (&mut self.days, &mut self.day_facts),
            false => (&mut self.buckets, &mut self.facts),
        };
        buckets.extend(part.buckets);
        for (key, more) in part.facts {
            facts.entry(key).or_default().merge(&more);
        }
    }
}

#[derive(Default)]
struct Part {
    of_days: bool,
    buckets: Vec<Arc<Bucket>>,
    facts: Vec<((String, BucketStart, ShardId), SiteFacts)>,
}

/// Reads inputs.
#[derive(Clone, Debug)]
pub(crate) struct Loader {
    pub(crate) objects: Objects,
    /// Distinct values per site, dimension and bucket.
    pub(crate) limit: u32,
    /// Objects read at once.
    pub(crate) parallel: usize,
}

impl Loader {
    /// What a group has of some shards.
    pub(crate) async fn load(&self, group: &Group, shards: &Range<u32>) -> Result<Loaded, CompactError> {
        let mut loaded = Loaded::default();
        let picks =
            group.rollups.iter().flat_map(|rollup| rollup.picks.iter().map(move |pick| (rollup, pick)));
        let picks: Vec<(Rollup, Pick)> = picks
            .map(|(rollup, pick)| (Rollup { picks: Vec::new(), ..rollup.clone() }, pick.clone()))
            .collect();
        let rollups = stream::iter(picks).map(|(rollup, pick)| self.rollup(rollup, pick, shards.clone()));
        let mut rollups = rollups.buffered(self.parallel);
        while let Some(part) = rollups.try_next().await? {
            loaded.add(part);
        }
        let raw = stream::iter(group.raw.clone()).map(|raw| self.raw(raw, &group.schema, shards.clone()));
        let mut raw = raw.buffered(RAW_PARALLEL);
        while let Some(part) = raw.try_next().await? {
            loaded.add(part);
        }
        Ok(loaded)
    }

    async fn rollup(&self, rollup: Rollup, pick: Pick, shards: Range<u32>) -> Result<Part, CompactError> {
        let count = self.objects.shards;
        let wanted = shards.clone().filter_map(|shard| count.shard(shard)).collect();
        let selection = Selection { shards: Some(wanted), ..pick.selection };
        let mut rows = match self.objects.rows(&rollup.footer, &selection).await {
            Err(error) if rollup.optional && error.is_damage() => {
                tracing::warn!(%error, "a damaged segment is left out");
                return Ok(Part::default());
            }
            other => other?,
        };
        let limit = (!rollup.of_days).then_some(self.limit);
        Ok(work::run_apart(move || {
            rows.facts.retain(|facts| shards.contains(&facts.shard.get()));
            if pick.duplicates_only {
                only_duplicates(&mut rows.facts);
            }
            let keep = |_: BucketStart, shard: ShardId| shards.contains(&shard.get());
            let buckets = rows.to_buckets(count, limit, Some(&keep)).into_iter().map(Arc::new).collect();
            Part { of_days: rollup.of_days, buckets, facts: named(&rows) }
        })
        .await)
    }

    async fn raw(&self, raw: Raw, schema: &Arc<Schema>, shards: Range<u32>) -> Result<Part, CompactError> {
        let mut recount = Recount::new(raw.bucket, self.rules(schema), shards);
        for segment in &raw.segments {
            let blocks = self.objects.blocks(segment).await?;
            recount = work::run_apart(move || recount.add(&blocks)).await?;
        }
        work::run_apart(move || part_of_site(&raw, recount)).await
    }

    /// What blocks of the archive are counted by: their events were judged when they were counted first.
    pub(crate) fn rules(&self, schema: &Arc<Schema>) -> ShardRules {
        ShardRules {
            schema: Arc::clone(schema),
            shards: self.objects.shards,
            times: TimeRules { accept_late: Duration::MAX },
            dimension_values: self.limit,
        }
    }
}

fn only_duplicates(facts: &mut Vec<FactsRow>) {
    for row in facts.iter_mut() {
        row.facts = SiteFacts { duplicate: row.facts.duplicate, ..SiteFacts::default() };
    }
    facts.retain(|row| row.facts.duplicate > 0);
}

fn named(rows: &SegmentRows) -> Vec<((String, BucketStart, ShardId), SiteFacts)> {
    let name = |row: &FactsRow| (rows.sites[row.site as usize].clone(), row.bucket, row.shard);
    rows.facts.iter().map(|row| (name(row), row.facts.clone())).collect()
}

/// A bucket's rollups, made from its blocks, of some shards.
pub(crate) struct Recount {
    bucket: BucketStart,
    rules: ShardRules,
    shards: Range<u32>,
    made: BTreeMap<ShardId, Shard>,
}

impl Recount {
    pub(crate) fn new(bucket: BucketStart, rules: ShardRules, shards: Range<u32>) -> Self {
        Self { bucket, rules, shards, made: BTreeMap::new() }
    }

    /// Counts these blocks, each once.
    pub(crate) fn add(mut self, blocks: &[v1::Block]) -> Result<Self, CompactError> {
        for block in blocks.iter().filter(|block| self.shards.contains(&block.shard)) {
            let unreadable = |source| CompactError::Block { bucket: self.bucket, source };
            let id = BlockId::of(block, self.rules.shards).map_err(unreadable)?;
            let shard = self.made.entry(id.shard).or_insert_with(|| Shard::new(id.shard, self.rules.clone()));
            shard.restore(block, &|of| of == self.bucket).map_err(unreadable)?;
        }
        Ok(self)
    }

    /// The rollups by shard; each knows the blocks that it covers.
    pub(crate) fn finish(self) -> BTreeMap<ShardId, Arc<Bucket>> {
        let bucket = self.bucket;
        self.made.into_iter().filter_map(|(id, mut shard)| Some((id, shard.forget(bucket)?))).collect()
    }
}

fn part_of_site(raw: &Raw, recount: Recount) -> Result<Part, CompactError> {
    let (rules, shards) = (recount.rules.clone(), recount.shards.clone());
    let made = recount.finish();
    let expected = raw.coverage.iter().filter(|(shard, _)| shards.contains(&shard.get()));
    let nothing = Coverage::default();
    for (&shard, coverage) in expected {
        if !made.get(&shard).map_or(&nothing, |bucket| bucket.coverage()).includes(coverage) {
            return Err(CompactError::RawIncomplete { bucket: raw.bucket, shard });
        }
    }
    let mut part = Part::default();
    for (shard, bucket) in made {
        let laid_out = RollupPart { shard, bucket: &bucket, start: raw.bucket };
        let rows = SegmentRows::of(&rules.schema, &[laid_out], &Folds::default());
        let rows = match &raw.site {
            None => rows,
            Some(site) => of_site(&rows, site),
        };
        part.facts.extend(named(&rows));
        let buckets = rows.to_buckets(rules.shards, Some(rules.dimension_values), None);
        part.buckets.extend(buckets.into_iter().map(Arc::new));
    }
    Ok(part)
}
