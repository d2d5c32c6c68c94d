//! One bucket against its raw events.
//!
//! Owns: what is compared of a bucket: blocks, rows, facts, visitors.
//! Does not own: reading either side (`mod`), comparing rows (`compare`).
//!
//! A site's rows may be in segments of several schemas. Compared are the dimensions and measures that all of them have:
//! what only some have was counted of a part of the events, and nothing tells which.

use super::compare::{BySite, Sides, compare_facts};
use super::recount::SecondCount;
use super::report::{At, Difference, Differs, Report};
use crate::compact::CompactError;
use crate::compact::cuts::folds_of;
use crate::compact::load::Recount;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tidemark_proto::v1;
use tidemark_rollup::block::BlockId;
use tidemark_rollup::bucket::Bucket;
use tidemark_rollup::coverage::Coverage;
use tidemark_rollup::event::MAX_KIND_BYTES;
use tidemark_rollup::rows::{RollupPart, SegmentRows};
use tidemark_rollup::schema::{Measure, Schema, Source};
use tidemark_rollup::shard::ShardRules;
use tidemark_rollup::sharding::{ShardCount, ShardId};
use tidemark_rollup::time::BucketStart;

/// What is stored of a bucket under one schema.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub(super) schema: Arc<Schema>,
    pub(super) rollups: Vec<Arc<Bucket>>,
    pub(super) facts: BySite,
}

/// A bucket, or what one commit has of it.
pub(super) struct Unit {
    pub(super) bucket: BucketStart,
    pub(super) stored: Vec<Stored>,
    pub(super) blocks: Vec<v1::Block>,
    /// What commits say.
    pub(super) coverage: BTreeMap<ShardId, Coverage>,
    /// Rules but for the schema.
    pub(super) rules: ShardRules,
}

impl Unit {
    /// Counts the blocks anew, and compares.
    pub(super) fn verify(self) -> Report {
        let at = At::Bucket(self.bucket);
        let mut report = Report { buckets: 1, blocks: self.blocks.len() as u64, ..Report::default() };
        self.compare_blocks(&mut report);
        let mut recomputed_facts = None;
        for (schema, sites) in self.classes() {
            match self.verify_class(&schema, sites.as_ref(), &mut report) {
                Ok(facts) => recomputed_facts = Some(facts),
                Err(error) => {
                    report.add(Difference::of(at, Differs::Object, "raw events", error));
                    return report;
                }
            }
        }
        let recomputed = recomputed_facts.unwrap_or_default();
        report.events += recomputed.values().map(|facts| facts.counted).sum::<u64>();
        let mut stored = BySite::new();
        for (site, facts) in self.stored.iter().flat_map(|stored| &stored.facts) {
            stored.entry(site.clone()).or_default().merge(facts);
        }
        compare_facts(at, &stored, &recomputed, false, &mut report);
        report
    }

    fn compare_blocks(&self, report: &mut Report) {
        let at = At::Bucket(self.bucket);
        let mut found: BTreeMap<ShardId, Coverage> = BTreeMap::new();
        for block in &self.blocks {
            match BlockId::of(block, self.rules.shards) {
                Ok(id) if found.entry(id.shard).or_default().insert(id.producer, id.seq) => {}
                Ok(id) => report.add(Difference::of(at, Differs::Blocks, format!("{id} twice"), "once")),
                Err(error) => report.add(Difference::of(at, Differs::Blocks, error, "no such block")),
            }
        }
        let shards: BTreeSet<ShardId> = found.keys().chain(self.coverage.keys()).copied().collect();
        let nothing = Coverage::default();
        for shard in shards {
            let archived = found.get(&shard).unwrap_or(&nothing);
            let covered = self.coverage.get(&shard).unwrap_or(&nothing);
            if archived != covered && !(archived.is_empty() && covered.is_empty()) {
                let covered = format!("{} blocks of shard {shard} covered", covered.len());
                let archived = format!("{} archived", archived.len());
                report.add(Difference::of(at, Differs::Blocks, covered, archived));
            }
        }
    }

    /// Schemas to compare under, each with its sites; all sites where there is only one.
    fn classes(&self) -> Vec<(Arc<Schema>, Option<BTreeSet<String>>)> {
        if let [only] = self.stored.as_slice() {
            return vec![(Arc::clone(&only.schema), None)];
        }
        // Sites of which nothing is stored belong to all schemas: they are in none of the other classes.
        let mut schemas_of: BTreeMap<&str, BTreeSet<usize>> = BTreeMap::new();
        for (at, stored) in self.stored.iter().enumerate() {
            for site in stored.rollups.iter().flat_map(|rollup| rollup.sites()) {
                schemas_of.entry(site).or_default().insert(at);
            }
        }
        let mut classes: BTreeMap<BTreeSet<usize>, BTreeSet<String>> = BTreeMap::new();
        let all = (0..self.stored.len()).collect();
        let unknown =
            self.sites().into_iter().filter(|site| !schemas_of.contains_key(site.as_str())).collect();
        classes.insert(all, unknown);
        for (site, schemas) in schemas_of {
            classes.entry(schemas).or_default().insert(site.to_owned());
        }
        let schema = |of: &BTreeSet<usize>| shared(of.iter().map(|&at| &*self.stored[at].schema));
        classes.retain(|_, sites| !sites.is_empty());
        classes.iter().map(|(of, sites)| (Arc::new(schema(of)), Some(sites.clone()))).collect()
    }

    /// The sites that the blocks have events of.
    fn sites(&self) -> BTreeSet<String> {
        let rules = ShardRules { schema: Arc::new(shared(std::iter::empty())), ..self.rules.clone() };
        let recount = Recount::new(self.bucket, rules, 0..self.rules.shards.get()).add(&self.blocks);
        let made = recount.map(Recount::finish).unwrap_or_default();
        made.values().flat_map(|bucket| bucket.sites()).map(str::to_owned).collect()
    }

    fn verify_class(
        &self,
        schema: &Arc<Schema>,
        sites: Option<&BTreeSet<String>>,
        report: &mut Report,
    ) -> Result<BySite, CompactError> {
        let shards: ShardCount = self.rules.shards;
        let rules = ShardRules { schema: Arc::clone(schema), ..self.rules.clone() };
        let made = Recount::new(self.bucket, rules, 0..shards.get()).add(&self.blocks)?.finish();
        let made: Vec<Arc<Bucket>> = made.into_values().collect();
        // Beyond the limit names depend on the order that events came in; where all agree, they do not.
        let folds = folds_of(&made, self.rules.dimension_values);
        let Some(shard) = shards.shard(0) else { return Ok(BySite::new()) };
        let lay_out = |rollups: &mut dyn Iterator<Item = &Arc<Bucket>>| {
            let parts: Vec<RollupPart<'_>> =
                rollups.map(|bucket| RollupPart { shard, bucket, start: self.bucket }).collect();
            SegmentRows::of(schema, &parts, &folds)
        };
        let stored = lay_out(&mut self.stored.iter().flat_map(|stored| &stored.rollups));
        let recomputed = lay_out(&mut made.iter());
        Sides { at: At::Bucket(self.bucket), stored: &stored, recomputed: &recomputed, sites }
            .compare(report);
        let unreadable = |source| CompactError::Block { bucket: self.bucket, source };
        let mut second = SecondCount::new(self.bucket, shards, schema);
        self.blocks.iter().try_for_each(|block| second.add(block)).map_err(unreadable)?;
        second.compare(&stored, sites, report);
        let mut facts = BySite::new();
        for bucket in &made {
            for site in bucket.sites() {
                let of = bucket.facts(site).cloned().unwrap_or_default();
                facts.entry(site.to_owned()).or_default().merge(&of);
            }
        }
        Ok(facts)
    }
}

/// What all of these schemas have. A schema must have a measure: where they share none, it is one that no event feeds.
fn shared<'a>(schemas: impl Iterator<Item = &'a Schema> + Clone) -> Schema {
    let mut rest = schemas;
    let first = rest.next();
    let has_all = |has: &dyn Fn(&Schema) -> bool| rest.clone().all(has);
    let dimensions = first.iter().flat_map(|first| first.dimensions());
    let dimensions = dimensions.filter(|name| has_all(&|other| other.dimension_index(name).is_some()));
    let dimensions: Vec<String> = dimensions.cloned().collect();
    let measures = first.iter().flat_map(|first| first.measures());
    let measures = measures.filter(|measure| has_all(&|other| other.measures().contains(measure)));
    let measures: Vec<Measure> = measures.cloned().collect();
    let fallback = || {
        let name =
            (0..).map(|n| format!("none{n}")).find(|name| !dimensions.contains(name)).unwrap_or_default();
        Measure { name, source: Source::Count, event_kind: Some("-".repeat(MAX_KIND_BYTES + 1)) }
    };
    let measures = if measures.is_empty() { vec![fallback()] } else { measures };
    match Schema::new(dimensions, measures) {
        Ok(shared) => shared,
        Err(error) => unreachable!("a part of a valid schema is valid: {error}"),
    }
}
