//! The index of a rollup segment: what Parquet's own footer does not say.
//!
//! Owns: its text form in the footer's key-value metadata, and that it is consistent in itself.
//! Does not own: whether it fits the rest of the footer (`footer`).

use super::error::Flaw;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use prost::Message as _;
use std::sync::Arc;
use tidemark_proto::v1;
use tidemark_rollup::schema::{Measure, Schema};
use tidemark_rollup::sharding::{ShardCount, ShardId};
use tidemark_rollup::time::BUCKET_SECONDS;

/// The metadata key.
pub(super) const KEY: &str = "tidemark.index";

/// The text of an index: base64, as metadata values are text.
pub(super) fn to_text(index: &v1::SegmentIndex) -> String {
    STANDARD.encode(index.encode_to_vec())
}

/// What an index says of the whole segment.
#[derive(Clone, Debug)]
pub(super) struct Head {
    pub(super) schema: Arc<Schema>,
    pub(super) shards: ShardCount,
    pub(super) row_seconds: u32,
}

/// Reads what [`to_text`] wrote.
pub(super) fn from_text(text: &str) -> Result<(Head, Vec<v1::RowGroupIndex>), Flaw> {
    let bytes = STANDARD.decode(text).map_err(|_| "its index is no base64")?;
    let index = v1::SegmentIndex::decode(&bytes[..]).map_err(|_| "its index is no message")?;
    if index.row_seconds == 0 || !index.row_seconds.is_multiple_of(BUCKET_SECONDS) {
        return Err("its rows stand for no whole number of buckets".into());
    }
    let shards = ShardCount::new(index.shard_count).ok_or("its number of shards is no power of two")?;
    let measures: Result<Vec<Measure>, _> = index.measures.iter().map(|line| line.parse()).collect();
    let measures = measures.map_err(|error| error.to_string())?;
    let schema = Schema::new(index.dimensions, measures).map_err(|error| error.to_string())?;
    for group in &index.row_groups {
        check(group, shards)?;
    }
    Ok((Head { schema: Arc::new(schema), shards, row_seconds: index.row_seconds }, index.row_groups))
}

/// Sites must ascend, and their rows must follow one another: whoever reads one site's rows reads no other's.
fn check(group: &v1::RowGroupIndex, shards: ShardCount) -> Result<(), Flaw> {
    let mut row = 0_u64;
    let mut previous: Option<&str> = None;
    for site in &group.sites {
        if u64::from(site.first) != row || previous.is_some_and(|previous| *previous >= *site.site) {
            return Err("the sites of its index overlap".into());
        }
        row += u64::from(site.facts) + u64::from(site.rows);
        previous = Some(&site.site);
    }
    if row > u64::from(u32::MAX) {
        return Err("a row group has too many rows".into());
    }
    let (runs, rest) = group.shards.as_chunks::<2>();
    let mut next = 0;
    for &[first, last] in runs {
        if first < next || last < first || last >= shards.get() {
            return Err("the shards of its index are malformed".into());
        }
        next = last + 1;
    }
    if rest.is_empty() { Ok(()) } else { Err("the shards of its index are malformed".into()) }
}

/// Shards as runs: per run its first and its last.
pub(super) fn shard_runs(shards: &[ShardId]) -> Vec<u32> {
    let mut numbers: Vec<u32> = shards.iter().map(|shard| shard.get()).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let runs = numbers.chunk_by(|a, b| a + 1 == *b);
    runs.flat_map(|run| [run[0], run[run.len() - 1]]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shards(count: u32) -> ShardCount {
        ShardCount::new(count).unwrap()
    }

    #[test]
    fn neighbouring_shards_are_one_run() {
        let of = |numbers: &[u32]| -> Vec<ShardId> {
            numbers.iter().map(|&number| shards(64).shard(number).unwrap()).collect()
        };
        assert_eq!(shard_runs(&of(&[7, 3, 4, 5, 9, 9])), [3, 5, 7, 7, 9, 9]);
        assert!(shard_runs(&[]).is_empty());
    }

    #[test]
    fn an_index_that_contradicts_itself_is_refused() {
        let site =
            |site: &str, first, facts, rows| v1::SiteRows { site: site.to_owned(), first, facts, rows };
        let group = |sites: Vec<v1::SiteRows>, shards: &[u32]| v1::RowGroupIndex {
            sites,
            shards: shards.to_vec(),
            ..v1::RowGroupIndex::default()
        };
        assert!(
            check(&group(vec![site("a", 0, 1, 4), site("b", 5, 0, 1)], &[0, 2, 3, 3]), shards(4)).is_ok()
        );
        for bad in [
            group(vec![site("a", 1, 1, 4)], &[]),
            group(vec![site("b", 0, 1, 4), site("a", 5, 0, 1)], &[]),
            group(vec![site("a", 0, u32::MAX, 1)], &[]),
            group(vec![], &[0, 4]),
            group(vec![], &[2, 1]),
            group(vec![], &[0, 2, 2, 3]),
            group(vec![], &[0]),
        ] {
            assert!(check(&bad, shards(4)).is_err(), "{bad:?}");
        }
    }
}
