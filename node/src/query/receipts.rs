//! What else a node is asked of its history: receipts, censuses and sites.

use super::Queries;
use crate::committed::Committed;
use crate::shard::{ShardError, ShardHandle};
use crate::sources::{keep, sources};
use futures::StreamExt as _;
use futures::future::join_all;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tidemark_history::day::DayStart;
use tidemark_history::reader::{ReadError, Want};
use tidemark_proto::v1;
use tidemark_rollup::bucket::Bucket;
use tidemark_rollup::census::Census;
use tidemark_rollup::query::Query;
use tidemark_rollup::scan::{DimensionOfBucket, take_census};
use tidemark_rollup::schema::Schema;
use tidemark_rollup::sharding::ShardId;
use tidemark_rollup::table::SiteFacts;
use tidemark_rollup::time::{BucketStart, EventTime};

/// Segments that are read at a time.
const READS: usize = 16;

/// Buckets, and names of dimensions.
type Wanted<'a> = (BTreeSet<BucketStart>, BTreeSet<&'a str>);

type Receipts = BTreeMap<(BucketStart, String), SiteFacts>;

impl Queries {
    /// What happened to events of these shards, from `from` up to but not including `to`.
    pub(crate) async fn receipts(
        &self,
        shards: &[ShardHandle],
        site: Option<&str>,
        from: BucketStart,
        to: BucketStart,
        schema: &Schema,
    ) -> Result<v1::ReceiptsReply, ShardError> {
        let mut receipts = Receipts::new();
        let mut gaps = BTreeSet::new();
        let (committed, of_shards) = self.receipts_of_shards(shards, from, to).await?;
        for (start, name, facts) in of_shards {
            receipts.entry((start, name)).or_default().merge(&facts);
        }
        match committed.history() {
            None => _ = gaps.insert("history cannot be read yet".to_owned()),
            Some(history) => {
                let question = v1::Query {
                    site: site.unwrap_or("*").to_owned(),
                    from: from.time().to_string(),
                    to: to.time().to_string(),
                    ..v1::Query::default()
                };
                if let Ok(query) = Query::parse(&question, schema, EventTime::MAX) {
                    let owned: Vec<ShardId> = shards.iter().map(ShardHandle::id).collect();
                    let keep = keep(&owned, std::iter::empty());
                    let found = sources(&query, schema, history, &BTreeSet::new(), &keep);
                    gaps.extend(found.gaps);
                    let reads = found.sources.into_iter().map(|source| {
                        let want = Want { rows: false, facts: true, ..(*source.want).clone() };
                        let keep = &keep;
                        async move { self.history.reader.rollups(&source.segment, &want, keep).await }
                    });
                    let mut reads = futures::stream::iter(reads).buffer_unordered(READS);
                    while let Some(read) = reads.next().await {
                        match read {
                            Ok(rollups) => {
                                rollups.iter().for_each(|rollup| add(&mut receipts, rollup, from, to))
                            }
                            Err(error) => _ = gaps.insert(error.to_string()),
                        }
                    }
                }
            }
        }
        receipts.retain(|(_, name), _| site.is_none_or(|site| site == name));
        Ok(v1::ReceiptsReply {
            receipts: receipts
                .into_iter()
                .map(|((start, site), facts)| to_wire(start, site, &facts))
                .collect(),
            gaps: gaps.into_iter().collect(),
        })
    }

    /// What shards have beyond what is committed, and what that is: both of one moment.
    async fn receipts_of_shards(
        &self,
        shards: &[ShardHandle],
        from: BucketStart,
        to: BucketStart,
    ) -> Result<(Arc<Committed>, Vec<(BucketStart, String, SiteFacts)>), ShardError> {
        loop {
            let committed = self.history.committed();
            let asked =
                shards.iter().map(|shard| shard.receipts(from, to, Arc::clone(&committed), self.timeout));
            let told: Vec<_> = join_all(asked).await.into_iter().collect::<Result<_, _>>()?;
            let unknown: BTreeSet<DayStart> =
                told.iter().filter_map(|told| told.as_ref().err()).flatten().copied().collect();
            if unknown.is_empty() {
                return Ok((committed, told.into_iter().flatten().flatten().collect()));
            }
            for day in unknown {
                if let Err(error) = self.history.with_day(day).await {
                    if let Some(left_out) = self.seldom.untold_day.due() {
                        tracing::warn!(%error, %day, left_out, "what is committed of a day cannot be told");
                    }
                    return Err(ShardError::NoReply { waited: self.timeout });
                }
            }
        }
    }

    /// Which values dimensions have in committed segments, of these shards.
    pub(crate) async fn census_of_history(
        &self,
        shards: &[ShardHandle],
        of: &Arc<Vec<DimensionOfBucket>>,
    ) -> Result<Vec<Census>, ReadError> {
        let committed = self.history.committed();
        let Some(history) = committed.history() else { return Ok(vec![Census::default(); of.len()]) };
        let owned: Vec<ShardId> = shards.iter().map(ShardHandle::id).collect();
        let keep = keep(&owned, std::iter::empty());
        let mut wants: BTreeMap<(DayStart, &str), Wanted<'_>> = BTreeMap::new();
        for of in of.iter() {
            let (buckets, dimensions) = wants.entry((DayStart::of(of.bucket), &of.site)).or_default();
            buckets.insert(of.bucket);
            dimensions.insert(&of.dimension);
        }
        let mut reads = Vec::new();
        for ((day, site), (buckets, dimensions)) in wants {
            let (Some(day), Some(&first), Some(&last)) = (history.day(day), buckets.first(), buckets.last())
            else {
                continue;
            };
            let want = Arc::new(Want {
                site: Some(site.to_owned()),
                urls: None,
                url_prefix: None,
                from: first,
                to: last.next(),
                dimensions: dimensions.into_iter().map(str::to_owned).collect(),
                measures: Vec::new(),
                with_urls: false,
                rows: true,
                facts: false,
            });
            let compacted = day.replacement().into_iter().flat_map(|holds| &holds.day.five_minutes);
            let commits = buckets.iter().flat_map(|&bucket| day.bucket(bucket).commits);
            let flushed = commits.filter_map(|commit| commit.message().rollup.as_ref());
            reads.extend(compacted.chain(flushed).map(|segment| (segment.clone(), Arc::clone(&want))));
        }
        let keep = &keep;
        let mut reads = futures::stream::iter(reads)
            .map(|(segment, want)| async move { self.history.reader.rollups(&segment, &want, keep).await })
            .buffer_unordered(READS);
        let mut all = vec![Census::default(); of.len()];
        while let Some(rollups) = reads.next().await {
            let (rollups, of) = (rollups?, Arc::clone(of));
            let censuses = self.compute(move || take_census(&rollups, &of)).await;
            for (mine, theirs) in all.iter_mut().zip(&censuses) {
                mine.merge(theirs, self.parts.rules.dimension_values);
            }
        }
        Ok(all)
    }

    /// The sites that commits name.
    pub(crate) fn sites_of_history(&self) -> BTreeSet<String> {
        let committed = self.history.committed();
        let mut sites = committed.history().map(|history| history.sites().named).unwrap_or_default();
        sites.remove("");
        sites
    }
}

fn add(receipts: &mut Receipts, rollup: &Bucket, from: BucketStart, to: BucketStart) {
    if !(from..to).contains(&rollup.start()) {
        return;
    }
    for site in rollup.sites() {
        if let Some(facts) = rollup.facts(site) {
            receipts.entry((rollup.start(), site.to_owned())).or_default().merge(facts);
        }
    }
}

fn to_wire(start: BucketStart, site: String, facts: &SiteFacts) -> v1::Receipt {
    let rejected = facts.rejected.iter();
    v1::Receipt {
        site,
        bucket_start_s: start.as_unix_seconds(),
        counted: facts.counted,
        duplicate: facts.duplicate,
        rejected: rejected
            .map(|(&reason, &events)| v1::RejectedCount { reason: reason.into(), events })
            .collect(),
        late: facts.late,
    }
}
