//! What a query needs of a segment.
//!
//! Owns: the want, what of it depends on the segment's own time, and the selection that it becomes.
//! Does not own: which shards and buckets count (`keep`).

use super::keep::Filter;
use crate::segment::Selection;
use std::hash::{Hash, Hasher};
use tidemark_rollup::schema::Measure;
use tidemark_rollup::sharding::ShardId;
use tidemark_rollup::time::BucketStart;

/// What a query needs of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Want {
    /// Of this site; of all where not set.
    pub site: Option<String>,
    /// Of these URLs, ascending; of all where not set. Facts have no URL: they come anyway.
    pub urls: Option<Vec<String>>,
    /// Of URLs that begin so.
    pub url_prefix: Option<String>,
    /// Buckets from this one on; of days, the day that it is in and later ones.
    pub from: BucketStart,
    /// Buckets before this one; of days, those that begin before it.
    pub to: BucketStart,
    /// Dimensions to read. One query should always name them in one order: another one is another part to a cache.
    pub dimensions: Vec<String>,
    /// Measures to read; the same holds.
    pub measures: Vec<Measure>,
    /// Whether rows need their URL. Without, rows of all URLs are merged and take little room.
    pub with_urls: bool,
    /// Whether rows are needed.
    pub rows: bool,
    /// Whether facts are needed.
    pub facts: bool,
}

impl Want {
    /// The same of other buckets.
    pub(super) fn at(&self, (from, to): (BucketStart, BucketStart)) -> Self {
        Self { from, to, ..self.clone() }
    }

    /// What is read where only rows that `filter` lets through count: it asks for the shard of a row, which is its URL's.
    pub(super) fn selection(&self, filter: Option<&Filter>, shards: Option<Vec<ShardId>>) -> Selection {
        Selection {
            sites: self.site.clone().map(|site| vec![site]),
            urls: self.urls.clone(),
            url_prefix: self.url_prefix.clone(),
            from: self.from,
            to: self.to,
            dimensions: self.dimensions.clone(),
            measures: self.measures.clone(),
            with_urls: self.with_urls || filter.is_some(),
            shards,
            facts: self.facts,
            rows: self.rows,
        }
    }

    /// All but the times.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        let Self { site, urls, url_prefix, from: _, to: _, dimensions, measures, with_urls, rows, facts } =
            self;
        *site == other.site
            && *urls == other.urls
            && *url_prefix == other.url_prefix
            && *dimensions == other.dimensions
            && *measures == other.measures
            && (*with_urls, *rows, *facts) == (other.with_urls, other.rows, other.facts)
    }

    /// Hashes all but the times.
    pub(super) fn hash_likeness<H: Hasher>(&self, state: &mut H) {
        let Self { site, urls, url_prefix, from: _, to: _, dimensions, measures, with_urls, rows, facts } =
            self;
        (site, urls, url_prefix, dimensions, with_urls, rows, facts).hash(state);
        measures.len().hash(state);
        for Measure { name, source, event_kind } in measures {
            (name, std::mem::discriminant(source), source.value(), event_kind).hash(state);
        }
    }

    /// Bytes on the heap, about.
    pub(super) fn heap_bytes(&self) -> usize {
        let texts =
            |texts: &[String]| -> usize { texts.iter().map(|text| text.len() + size_of::<String>()).sum() };
        let one = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        one(&self.site)
            + one(&self.url_prefix)
            + self.urls.as_deref().map_or(0, texts)
            + texts(&self.dimensions)
            // The names within are short.
            + self.measures.len() * 2 * size_of::<Measure>()
    }
}

impl Hash for Want {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.from, self.to).hash(state);
        self.hash_likeness(state);
    }
}
