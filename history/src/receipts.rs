//! Receipts: what became of the events of each site and bucket.
//!
//! Owns: reading them from facts of segments.
//! Does not own: facts of open buckets (`tidemark_rollup::shard`).

use crate::catalog::{Catalog, Day};
use crate::compact::day::is_expired;
use crate::compact::objects::Objects;
use crate::compact::{CompactError, ObjectError};
use crate::day::DayStart;
use crate::segment::Selection;
use crate::store::Store;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use std::collections::BTreeMap;
use tidemark_proto::v1;
use tidemark_rollup::rows::SegmentRows;
use tidemark_rollup::sharding::ShardCount;
use tidemark_rollup::table::SiteFacts;
use tidemark_rollup::time::BucketStart;

/// Segments read at once.
const PARALLEL: usize = 8;

/// What became of a site's events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Receipt {
    /// What became of them.
    pub facts: SiteFacts,
    /// Whether these are facts of the whole day that begins with the bucket: those of its buckets are no longer kept.
    pub of_day: bool,
}

/// Receipts by bucket and site.
pub type Receipts = BTreeMap<(BucketStart, String), Receipt>;

/// What became of a site's events (all sites', where none is named) in committed buckets from `from` up to but not including
/// `to`. Of a day whose five-minute rows are no longer kept, there is one receipt per site, under its first bucket, if any
/// moment of the day is asked for.
///
/// # Errors
/// Where a segment cannot be read.
pub async fn receipts(
    store: &Store,
    catalog: &Catalog,
    shards: ShardCount,
    site: Option<&str>,
    (from, to): (BucketStart, BucketStart),
) -> Result<Receipts, CompactError> {
    let objects = Objects::new(store.clone(), shards, u64::from(from.as_unix_seconds()));
    let history = catalog.current();
    let days = history.all_days();
    let days = days.filter(|day| day.start().time() < to.time() && day.start().end() > from.time());
    let wanted: Vec<(v1::Segment, bool)> = days.flat_map(|day| segments(day, from, to)).collect();
    let read = stream::iter(wanted).map(|(segment, of_day)| {
        let objects = &objects;
        async move {
            let footer = objects.footer(&segment).await?;
            let everything = Selection::everything(footer.schema());
            let (from, to) = if of_day { (everything.from, everything.to) } else { (from, to) };
            let sites = site.map(|site| vec![site.to_owned()]);
            let selection = Selection { sites, rows: false, from, to, ..everything };
            Ok::<_, ObjectError>((objects.rows(&footer, &selection).await?, of_day))
        }
    });
    let mut read = read.buffer_unordered(PARALLEL);
    let mut receipts = Receipts::new();
    while let Some((rows, of_day)) = read.try_next().await? {
        add(&mut receipts, &rows, of_day);
    }
    Ok(receipts)
}

/// The segments with facts of these buckets, and whether they are facts of days.
fn segments(day: &Day, from: BucketStart, to: BucketStart) -> Vec<(v1::Segment, bool)> {
    let of_day = is_expired(day);
    let holds = day.replacement();
    let replaced = holds.map(|holds| if of_day { &holds.day.days } else { &holds.day.five_minutes });
    let replaced = replaced.into_iter().flatten().map(|segment| (segment.clone(), of_day));
    let commits = day.commits().filter(|commit| from <= commit.bucket() && commit.bucket() < to);
    let open = commits.filter_map(|commit| Some((commit.message().rollup.clone()?, false)));
    replaced.chain(open).collect()
}

fn add(receipts: &mut Receipts, rows: &SegmentRows, of_day: bool) {
    for row in &rows.facts {
        let start = match of_day {
            true => BucketStart::containing(DayStart::of(row.bucket).time()),
            false => row.bucket,
        };
        let receipt = receipts.entry((start, rows.sites[row.site as usize].clone())).or_default();
        receipt.facts.merge(&row.facts);
        receipt.of_day |= of_day;
    }
}
