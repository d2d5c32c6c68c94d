//! A whole cluster without I/O, and a naive second implementation to hold it against.

// Each test file uses a part of it.
#![allow(unreachable_pub, missing_docs, dead_code, clippy::unwrap_used, clippy::type_complexity)]

use bytes::Bytes;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tidemark_proto::v1;
use tidemark_rollup::answer::answer;
use tidemark_rollup::bucket::Bucket;
use tidemark_rollup::canonical::KeepParams;
use tidemark_rollup::census::Census;
use tidemark_rollup::dictionary::hash_text;
use tidemark_rollup::event::{TimeRules, visitor_hash};
use tidemark_rollup::lanes::LaneRules;
use tidemark_rollup::partial::Partial;
use tidemark_rollup::query::{Field, Query, SiteSelection};
use tidemark_rollup::scan::{
    DistinctCounts, Folds, ScanContext, Scanned, scan, scan_facts, scan_order, scan_order_uncut,
    scan_winners, shown, take_census, urls_alone, winners,
};
use tidemark_rollup::schema::Schema;
use tidemark_rollup::shard::{Shard, ShardRules};
use tidemark_rollup::sharding::ShardCount;
use tidemark_rollup::split::{Rules, Split, split_with};
use tidemark_rollup::time::EventTime;

pub const NOW_MS: i64 = 1_431_857_100_000; // 2015-05-17T10:05:00Z

pub fn now() -> EventTime {
    EventTime::from_unix_ms(NOW_MS)
}

/// An event that is good, as tests spell it.
#[derive(Clone, Debug)]
pub struct Plain {
    pub site: String,
    pub url: String,
    pub time_ms: i64,
    pub kind: String,
    pub visitor: Option<u32>,
    pub dimensions: BTreeMap<&'static str, String>,
    pub values: BTreeMap<&'static str, u32>,
}

pub fn to_wire(event: &Plain) -> v1::Event {
    let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    v1::Event {
        site: bytes(&event.site),
        url: bytes(&event.url),
        time_ms: event.time_ms,
        kind: bytes(&event.kind),
        visitor: event.visitor.map(|visitor| bytes(&format!("v{visitor}"))).unwrap_or_default(),
        visitor_hash: 0,
        dimensions: event
            .dimensions
            .iter()
            .map(|(name, value)| v1::event::DimensionsEntry { key: bytes(name), value: bytes(value) })
            .collect(),
        values: event
            .values
            .iter()
            .map(|(name, &value)| v1::event::ValuesEntry { key: bytes(name), value: i64::from(value) })
            .collect(),
    }
}

pub fn batch(producer: u8, seq: u64, events: Vec<v1::Event>) -> v1::EventBatch {
    v1::EventBatch { producer: vec![producer; 16].into(), seq, sealed_at_ms: NOW_MS, events }
}

pub fn batches(events: &[Plain], size: usize) -> Vec<v1::EventBatch> {
    let chunks = events.chunks(size.max(1)).enumerate();
    chunks
        .map(|(seq, chunk)| batch(1 + (seq % 2) as u8, seq as u64, chunk.iter().map(to_wire).collect()))
        .collect()
}

/// A cluster of pure parts: shards, spread over nodes.
pub struct Cluster {
    pub shards: Vec<Shard>,
    nodes: usize,
    rules: ShardRules,
    pub lanes: LaneRules,
}

impl Cluster {
    pub fn new(nodes: usize, shards: u32, dimension_values: u32) -> Self {
        let rules = ShardRules {
            schema: Arc::new(Schema::default()),
            shards: ShardCount::new(shards).unwrap(),
            times: TimeRules::default(),
            dimension_values,
        };
        let shards = rules.shards.shards().map(|id| Shard::new(id, rules.clone())).collect();
        Self { shards, nodes, rules, lanes: LaneRules::default() }
    }

    pub fn split(&self, batch: &v1::EventBatch) -> Split {
        let keep_params = KeepParams::default();
        let rules = Rules {
            schema: Some(&self.rules.schema),
            keep_params: &keep_params,
            times: self.rules.times,
            shards: self.rules.shards,
        };
        split_with(self.lanes, batch, &rules, now()).unwrap()
    }

    pub fn apply(&mut self, block: &v1::Block) {
        self.shards[block.shard as usize].apply(block).unwrap();
    }

    /// What each node answers, merged over its shards and sent over the wire.
    fn partials(&self, query: &Query, folds: &Folds, reversed: bool) -> (Partial, DistinctCounts) {
        let share = self.rules.dimension_values / self.rules.shards.get();
        let context = ScanContext { folds: folds.clone(), share };
        let mut merged = Partial::new(query);
        let mut distinct = DistinctCounts::default();
        let mut nodes: Vec<usize> = (0..self.nodes).collect();
        if reversed {
            nodes.reverse();
        }
        for node in nodes {
            let mine = self.shards.iter().skip(node).step_by(self.nodes);
            // What nodes scan: open buckets as they are, and what is shown of closed ones.
            let seen = |bucket: &Arc<Bucket>| match bucket.start().as_unix_seconds() / 300 % 2 {
                0 => Arc::clone(bucket),
                _ => shown(bucket, query),
            };
            let buckets: Vec<Vec<_>> = mine.map(|shard| shard.buckets().map(seen).collect()).collect();
            let shards = buckets.iter().map(Vec::as_slice);
            let Scanned { mut partial, distinct: of_node } =
                match reversed && query.groups_stay_in_one_shard() {
                    true => scan_as_a_node_does(shards, query, &context),
                    false => scan(shards, query, &context),
                };
            distinct.merge(&of_node);
            if query.groups_stay_in_one_shard() {
                partial.keep_first(query);
            }
            let wire = partial.checked().unwrap().to_wire();
            merged.merge(&Partial::from_wire(wire, query).unwrap());
        }
        (merged, distinct)
    }

    /// How many rows are looked at for the answer.
    pub fn rows_scanned(&self, query: &Query) -> u64 {
        self.partials(query, &Folds::default(), false).0.facts.rows_scanned
    }

    /// The answer, as a coordinator would make it.
    pub fn answer(&self, query: &Query, reversed: bool) -> v1::Answer {
        let limit = self.rules.dimension_values;
        let share = limit / self.rules.shards.get();
        let (first, distinct) = self.partials(query, &Folds::default(), reversed);
        let over: Vec<_> = distinct
            .bounds(self.rules.shards.get(), share)
            .filter(|&(_, bound)| bound > u64::from(limit))
            .map(|(of, _)| of.clone())
            .collect();
        let mut censuses = vec![Census::default(); over.len()];
        for shard in &self.shards {
            let buckets: Vec<_> = shard.buckets().cloned().collect();
            for (mine, theirs) in censuses.iter_mut().zip(take_census(&buckets, &over)) {
                mine.merge(&theirs, limit);
            }
        }
        let mut folds = Folds::default();
        for (of, census) in over.into_iter().zip(&censuses) {
            if let Some(max_kept) = census.max_kept_hash(limit) {
                folds.insert(of, max_kept);
            }
        }
        let merged = if folds.is_empty() { first } else { self.partials(query, &folds, reversed).0 };
        answer(merged, query, now())
    }
}

/// Gives the cluster all events, in blocks of this size.
pub fn fill(cluster: &mut Cluster, events: &[Plain], size: usize, order: &[prop::sample::Index]) {
    let mut blocks: Vec<v1::Block> =
        batches(events, size).iter().flat_map(|batch| cluster.split(batch).blocks).collect();
    // Some come twice, and all in another order.
    let again: Vec<v1::Block> =
        order.iter().filter(|_| !blocks.is_empty()).map(|index| index.get(&blocks).clone()).collect();
    blocks.extend(again);
    for (from, to) in order.iter().zip(order.iter().rev()) {
        let (from, to) = (from.index(blocks.len().max(1)), to.index(blocks.len().max(1)));
        if !blocks.is_empty() {
            blocks.swap(from, to);
        }
    }
    blocks.iter().for_each(|block| cluster.apply(block));
}

/// The newest bucket of a shard is open and scanned apart from the others.
fn scan_as_a_node_does<'a>(
    shards: impl Iterator<Item = &'a [Arc<Bucket>]> + Clone,
    query: &Query,
    context: &ScanContext,
) -> Scanned {
    let mut order = Scanned::new_order(query);
    for (at, buckets) in shards.clone().enumerate() {
        let buckets: Vec<&Bucket> = buckets.iter().map(Arc::as_ref).collect();
        let (closed, open) = buckets.split_at(buckets.len().saturating_sub(1));
        let mut found = scan_order(closed, Some(scan_order_uncut(open, query, context)), query, context);
        let urls: Option<Vec<_>> = open.iter().map(|bucket| urls_alone(bucket, query)).collect();
        if let Some(urls) = urls.filter(|_| at % 2 == 0) {
            let buckets: Vec<&Bucket> = closed.iter().copied().chain(urls.iter().map(Arc::as_ref)).collect();
            let by_copies = scan_order(&buckets, Some(scan_facts(open, query, context)), query, context);
            assert_eq!(by_copies.partial.facts, found.partial.facts);
            // What they come to is compared by who asks.
            found = by_copies;
        }
        order.merge(&found);
    }
    let (mut winners, facts, distinct) = winners(order, query);
    if query.is_answered_by_its_order() {
        winners.facts = facts;
        return Scanned { partial: winners, distinct };
    }
    let mut partial = Partial::new(query);
    for buckets in shards {
        let buckets: Vec<&Bucket> = buckets.iter().map(Arc::as_ref).collect();
        let (closed, open) = buckets.split_at(buckets.len().saturating_sub(1));
        partial.merge(&scan_winners(open, &winners, query, context));
        partial.merge(&scan_winners(closed, &winners, query, context));
    }
    partial.facts = facts;
    Scanned { partial, distinct }
}

pub fn parse(query: &v1::Query) -> Query {
    parse_at(query, now())
}

/// The query, asked at this moment.
pub fn parse_at(query: &v1::Query, as_of: EventTime) -> Query {
    Query::parse(query, &Schema::default(), as_of).unwrap()
}

/// The rows of an answer as text, so that tests can compare and print them.
pub fn rows(answer: &v1::Answer) -> Vec<Vec<String>> {
    use v1::value::Kind;
    let cell = |value: &v1::Value| match &value.kind {
        None => "-".to_owned(),
        Some(Kind::Text(text)) => format!("{text:?}"),
        Some(Kind::Integer(integer)) => integer.to_string(),
        Some(Kind::Number(number)) => format!("{number:.6}"),
    };
    answer.rows.iter().map(|row| row.values.iter().map(cell).collect()).collect()
}

/// What fields of events read as beside all other events, where only the `limit` smallest hashes of a dimension keep names.
pub struct Fields<'a> {
    values: BTreeMap<(&'a str, i64, &'a str), BTreeSet<(u64, &'a str)>>,
    limit: u32,
}

fn bucket_of(event: &Plain) -> i64 {
    event.time_ms - event.time_ms.rem_euclid(300_000)
}

impl<'a> Fields<'a> {
    pub fn of(events: &'a [Plain], limit: u32) -> Self {
        let mut values: BTreeMap<(&str, i64, &str), BTreeSet<(u64, &str)>> = BTreeMap::new();
        for event in events {
            for (dimension, value) in &event.dimensions {
                if !value.is_empty() {
                    let set = values.entry((&event.site, bucket_of(event), dimension)).or_default();
                    set.insert((hash_text(value), value));
                }
            }
        }
        Self { values, limit }
    }

    pub fn field(&self, event: &Plain, field: &Field) -> String {
        match field {
            Field::Site => event.site.clone(),
            Field::Url => event.url.clone(),
            Field::Dimension(name) => {
                let value = event.dimensions.get(name.as_str()).cloned().unwrap_or_default();
                let set = self.values.get(&(event.site.as_str(), bucket_of(event), name.as_str()));
                let rank = set.and_then(|set| set.iter().position(|&(_, known)| known == value));
                let is_other = rank.is_some_and(|rank| rank >= self.limit as usize);
                if is_other { "(other)".to_owned() } else { value }
            }
        }
    }

    /// The events that a query is about, whatever their time, each with its groups.
    pub fn selected(
        &self,
        events: &'a [Plain],
        query: &Query,
    ) -> impl Iterator<Item = (&'a Plain, Vec<String>)> {
        let fits = |event: &&Plain| {
            let site_fits = match &query.site {
                SiteSelection::One(site) => event.site == *site,
                SiteSelection::All => true,
            };
            site_fits
                && query.filters.iter().all(|filter| filter.test.passes(&self.field(event, &filter.field)))
        };
        let of = |event| (event, query.group_by.iter().map(|by| self.field(event, by)).collect());
        events.iter().filter(fits).map(of)
    }
}

/// A second implementation, by plain sets and lists over all events. Measures: views, visitors, bytes, load_ms.p95.
pub fn naive(events: &[Plain], query: &Query, limit: u32) -> Vec<Vec<String>> {
    let fields = Fields::of(events, limit);
    let has_ended = |start_ms: i64| start_ms + 300_000 <= query.as_of.as_unix_ms();
    #[derive(Default)]
    struct Cells {
        views: u64,
        visitors: BTreeSet<u64>,
        bytes: u64,
        load_ms: Vec<u64>,
    }
    let mut groups: BTreeMap<(u32, Vec<String>), [Cells; 2]> = BTreeMap::new();
    for (event, key) in fields.selected(events, query) {
        let offsets = [Some(std::time::Duration::ZERO), query.versus];
        for (period, offset) in offsets.into_iter().enumerate() {
            let Some(offset) = offset else { continue };
            let shown_at = EventTime::from_unix_ms(bucket_of(event)).plus(offset);
            if !(query.from..query.to).contains(&shown_at) {
                continue;
            }
            if period == 1 && !has_ended(shown_at.as_unix_ms()) {
                continue;
            }
            let cells = &mut groups.entry((query.step_of(shown_at), key.clone())).or_default()[period];
            cells.views += u64::from(event.kind == "view");
            cells
                .visitors
                .extend(event.visitor.map(|visitor| visitor_hash(format!("v{visitor}").as_bytes())));
            cells.bytes += event.values.get("bytes").map_or(0, |&bytes| u64::from(bytes));
            cells.load_ms.extend(event.values.get("load_ms").map(|&load_ms| u64::from(load_ms)));
        }
    }
    let mut rows: Vec<(u32, u64, Vec<String>, Vec<String>)> = Vec::new();
    for ((step, key), mut cells) in groups {
        let mut texts = Vec::new();
        if query.granularity.name() != "all" {
            texts.push(format!("{:?}", EventTime::from_unix_ms(i64::from(step) * 1000).to_string()));
        }
        texts.extend(key.iter().map(|text| format!("{text:?}")));
        let views = cells[0].views;
        for (period, cells) in cells.iter_mut().take(1 + usize::from(query.versus.is_some())).enumerate() {
            if period == 1 && !has_ended(i64::from(step) * 1000) {
                texts.extend(["-"; 4].map(str::to_owned));
                continue;
            }
            cells.load_ms.sort_unstable();
            let rank = (0.95 * cells.load_ms.len() as f64).ceil() as usize;
            let p95 = rank.checked_sub(1).map_or("-".to_owned(), |at| cells.load_ms[at].to_string());
            texts.extend([
                cells.views.to_string(),
                cells.visitors.len().to_string(),
                cells.bytes.to_string(),
                p95,
            ]);
        }
        rows.push((step, views, key, texts));
    }
    rows.sort_by(|a, b| a.0.cmp(&b.0).then(b.1.cmp(&a.1)).then(a.2.cmp(&b.2)));
    let mut taken: BTreeMap<u32, usize> = BTreeMap::new();
    rows.retain(|row| {
        let taken = taken.entry(row.0).or_default();
        *taken += 1;
        *taken <= query.limit
    });
    rows.into_iter().map(|row| row.3).collect()
}

/// Any good event of the last hours or of a day ago.
pub fn plain() -> impl Strategy<Value = Plain> {
    let time = prop_oneof![
        4 => 0_i64..7_200_000,
        1 => 86_400_000_i64..88_200_000,
    ];
    let dimensions = (prop::option::of(0_u32..4), prop::option::of(0_u32..12));
    let values = (prop::option::of(0_u32..5000), prop::option::of(0_u32..300));
    (0_u32..3, 0_u32..7, time, 0_u32..6, prop::option::of(0_u32..15), dimensions, values).prop_map(
        |(site, url, ago, kind, visitor, (device, country), (bytes, load_ms))| Plain {
            site: format!("site{}.com", site / 2),
            url: format!("/page/{url}"),
            time_ms: NOW_MS - ago,
            kind: if kind == 0 { "share" } else { "view" }.to_owned(),
            visitor,
            dimensions: BTreeMap::from_iter(
                device
                    .map(|device| ("device", format!("device{device}")))
                    .into_iter()
                    .chain(country.map(|country| ("country", format!("country{country}")))),
            ),
            values: BTreeMap::from_iter(
                bytes
                    .map(|bytes| ("bytes", bytes))
                    .into_iter()
                    .chain(load_ms.map(|load_ms| ("load_ms", load_ms))),
            ),
        },
    )
}
