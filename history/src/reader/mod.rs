//! Parts of rollup segments, brought to queries as rollups.
//!
//! Owns: fetching no more of a segment than a query needs and no byte twice, and what is remembered of it.
//! Does not own: which segments count (`catalog`), what segments look like (`segment`), answering (`tidemark_rollup::scan`).
//!
//! ```text
//! rollups(segment, Want, Keep) ─> footer ──> part ──> without the buckets that memory answers for
//!                                 memory     memory                    memory.rs
//!                                 one at a time asks, the rest waits   flight.rs
//!                                 disk, store                          fetch.rs, disk.rs
//!                                 parse, decode                        load.rs
//! ```
//!
//! Invariants:
//! * A rollup that comes out holds exactly the rows that are wanted and kept, whatever the caches held before.
//! * Nothing is decoded before its checksum matches, wherever it comes from. A bad copy is fetched again once, past all
//!   caches; what the disk had of it is deleted.
//! * Memory, disk, bytes under way and work at once all have limits.
//!
//! Where only some of a segment's rows are kept, the part that is loaded is known by exactly which: it is cached like others,
//! because a node that shares a segment with others asks for the same rows of it again and again.

mod disk;
mod error;
mod fetch;
mod flight;
mod keep;
mod load;
mod lru;
mod memory;
mod piece;
mod shards;
mod want;

pub use error::ReadError;
pub use keep::Keep;
pub use shards::ShardSet;
pub use want::Want;

use crate::retry::Retry;
use crate::segment::{Plan, SegmentError};
use crate::store::Store;
use bytes::Bytes;
use disk::Disk;
use fetch::{Fetcher, Source};
use flight::Flights;
use load::{Opened, Part, Recipe, check_whole};
use memory::{Memory, PartKey, Question, SegmentKey};
use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tidemark_proto::v1;
use tidemark_rollup::bucket::Bucket;
use tidemark_rollup::sharding::ShardCount;
use tokio::sync::Semaphore;

/// A segment of up to so many bytes is fetched whole: a request to an object store takes as long as they do.
const SMALL_BYTES: u64 = 256 << 10;
/// Bloom filters are asked where they may save so many bytes.
const WORTH_A_BLOOM_BYTES: u64 = 512 << 10;

/// How a [`Reader`] reads.
#[derive(Clone, Debug)]
pub struct ReaderConfig {
    /// Where fetched bytes are kept; none: nowhere, which is right for a store that is a local folder.
    pub disk_dir: Option<PathBuf>,
    /// How many bytes may be kept there. One piece takes a quarter of them at most.
    pub disk_bytes: u64,
    /// How many bytes footers and loaded parts may take in memory. One part takes a quarter of them at most; larger ones are
    /// loaded for each query anew. As much as a quarter of it may be under way from the store beside that.
    pub memory_bytes: u64,
    /// Distinct values per site, dimension and bucket that rows of five minutes were made under.
    pub limit: u32,
    /// How many shards the cluster has.
    pub shards: ShardCount,
    /// When to ask the store again. It should give up before queries do.
    pub retry: Retry,
}

/// How much a [`Reader`] did, and holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Parts that were in memory.
    pub hits: u64,
    /// Parts that were not.
    pub misses: u64,
    /// Byte ranges that came from the disk.
    pub disk_hits: u64,
    /// Requests to the store, those that failed included.
    pub fetches: u64,
    /// Bytes that came from the store.
    pub fetched_bytes: u64,
    /// Bytes held in memory.
    pub memory_bytes: u64,
    /// Bytes held on disk.
    pub disk_bytes: u64,
}

/// Reads rollup segments. Cheap to clone; clones share everything.
#[derive(Clone)]
pub struct Reader(Arc<Inner>);

/// A segment's footer; with it all bytes of a small segment, where they had to be fetched for it.
type WithBytes = (Arc<Opened>, Option<Bytes>);

struct Inner {
    fetcher: Fetcher,
    memory: Memory,
    openings: Flights<SegmentKey, Result<WithBytes, ReadError>>,
    loads: Flights<PartKey, Result<Part, ReadError>>,
    processors: Arc<Semaphore>,
    limit: u32,
    shards: ShardCount,
    hits: AtomicU64,
    misses: AtomicU64,
}

impl Reader {
    /// A reader of `store`'s segments. Of a disk that cannot be used it makes no use.
    pub async fn open(store: Store, config: ReaderConfig) -> Self {
        let disk = match config.disk_dir {
            Some(folder) => {
                let open = move || Disk::open(&folder, config.disk_bytes);
                tidemark_shell::work::run(open).await
            }
            None => None,
        };
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self(Arc::new(Inner {
            fetcher: Fetcher::new(store, config.retry, disk, config.memory_bytes / 4),
            memory: Memory::new(config.memory_bytes),
            openings: Flights::new(),
            loads: Flights::new(),
            processors: Arc::new(Semaphore::new(processors)),
            limit: config.limit,
            shards: config.shards,
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        }))
    }

    /// What `want` asks for of a rollup segment, as far as `keep` lets it count: a rollup per bucket, or per day, that has
    /// rows or facts, ascending. They may hold more sites or URLs in their dictionaries than rows.
    ///
    /// Of a segment of days, `keep.whole` must have none of its shards in any bucket of the days that are wanted.
    ///
    /// # Errors
    /// See [`ReadError`]; each names the segment.
    pub async fn rollups(
        &self,
        segment: &v1::Segment,
        want: &Want,
        keep: &Keep,
    ) -> Result<Vec<Arc<Bucket>>, ReadError> {
        let (opened, bytes) = self.0.opened(segment).await?;
        let Some(times) = opened.times(want) else { return Ok(Vec::new()) };
        let Some(kept) = opened.kept(keep, times) else { return Ok(Vec::new()) };
        let question = Question { segment, want, times, filter: kept.filter.as_ref() };
        let part = self.0.part(&opened, &question, bytes).await?;
        Ok(part.iter().filter(|bucket| !kept.leaves_out(bucket.start())).cloned().collect())
    }

    /// What it did so far, and holds now.
    pub fn usage(&self) -> Usage {
        let inner = &self.0;
        let (fetches, fetched_bytes) = inner.fetcher.fetched();
        let disk = inner.fetcher.disk();
        Usage {
            hits: inner.hits.load(Ordering::Relaxed),
            misses: inner.misses.load(Ordering::Relaxed),
            disk_hits: disk.map_or(0, Disk::hits),
            fetches,
            fetched_bytes,
            memory_bytes: inner.memory.bytes(),
            disk_bytes: disk.map_or(0, Disk::bytes),
        }
    }

    /// Waits until all that was fetched so far is on the disk, or will not be.
    pub async fn settled(&self) {
        if let Some(disk) = self.0.fetcher.disk() {
            disk.settled().await;
        }
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("usage", &self.usage()).finish_non_exhaustive()
    }
}

impl Inner {
    /// A segment's footer, out of memory where it is there.
    async fn opened(&self, segment: &v1::Segment) -> Result<WithBytes, ReadError> {
        match self.memory.opened(segment) {
            Some(opened) => Ok((opened, None)),
            None => self.openings.join(SegmentKey::of(segment), self.open(segment)).await,
        }
    }

    async fn open(&self, segment: &v1::Segment) -> Result<WithBytes, ReadError> {
        // Another one may just have been done with it.
        if let Some(opened) = self.memory.opened(segment) {
            return Ok((opened, None));
        }
        let (opened, bytes) = match self.open_from(segment, Source::Nearest).await {
            Err(error) if error.is_damage() => self.open_from(segment, Source::Store).await?,
            other => other?,
        };
        self.memory.hold_opened(segment, &opened);
        Ok((opened, bytes))
    }

    async fn open_from(&self, segment: &v1::Segment, source: Source) -> Result<WithBytes, ReadError> {
        let body = segment.size_bytes.checked_sub(segment.footer_bytes);
        let body = body.ok_or_else(|| unreadable(segment, "its footer is larger than it"))?;
        let range = if is_small(segment) { 0..segment.size_bytes } else { body..segment.size_bytes };
        let mut fetched = self.fetcher.fetch(segment, std::slice::from_ref(&range), source).await?;
        let bytes = fetched.parts.pop().unwrap_or_default();
        let (wanted, shards, of) = (segment.clone(), self.shards, bytes.clone());
        let opened = self.work(move || Opened::read(&wanted, &of, shards)).await?;
        self.fetcher.keep(&mut fetched);
        Ok((Arc::new(opened), is_small(segment).then_some(bytes)))
    }

    /// A part, out of memory where it is there; `bytes` are all of the segment's where they are at hand.
    async fn part(
        &self,
        opened: &Arc<Opened>,
        question: &Question<'_>,
        bytes: Option<Bytes>,
    ) -> Result<Part, ReadError> {
        if let Some(part) = self.memory.part(question) {
            self.hits.fetch_add(1, Ordering::Relaxed);
            return Ok(part);
        }
        self.misses.fetch_add(1, Ordering::Relaxed);
        self.loads.join(question.to_key(), self.load(opened, question, bytes)).await
    }

    async fn load(
        &self,
        opened: &Arc<Opened>,
        question: &Question<'_>,
        bytes: Option<Bytes>,
    ) -> Result<Part, ReadError> {
        if let Some(part) = self.memory.part(question) {
            return Ok(part);
        }
        let load = Load { inner: self, segment: question.segment, opened, question };
        let loaded = match (is_small(question.segment), bytes) {
            (true, Some(bytes)) => load.whole(bytes).await,
            (true, None) => load.small(Source::Nearest).await,
            (false, _) => load.large(Source::Nearest).await,
        };
        let part = match loaded {
            Err(error) if error.is_damage() && is_small(question.segment) => {
                load.small(Source::Store).await?
            }
            Err(error) if error.is_damage() => load.large(Source::Store).await?,
            other => other?,
        };
        self.memory.hold_part(question, &part);
        Ok(part)
    }

    /// Does what keeps a processor busy, on as many of them at once as there are.
    async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, SegmentError> + Send + 'static,
    ) -> Result<T, ReadError> {
        // It is never closed.
        let permit = Arc::clone(&self.processors).acquire_owned().await.ok();
        let done = tidemark_shell::work::run(move || {
            let done = work();
            // Not when the caller stops to wait: then the processor is still busy.
            drop(permit);
            done
        });
        Ok(done.await?)
    }
}

/// A part on its way.
struct Load<'a> {
    inner: &'a Inner,
    segment: &'a v1::Segment,
    opened: &'a Arc<Opened>,
    question: &'a Question<'a>,
}

impl Load<'_> {
    /// Of a small segment, whose bytes are at hand and verified.
    async fn whole(&self, bytes: Bytes) -> Result<Part, ReadError> {
        let recipe = self.recipe(self.plan());
        self.inner.work(move || recipe.read_whole(&bytes)).await
    }

    /// Of a small segment.
    async fn small(&self, source: Source) -> Result<Part, ReadError> {
        let plan = self.plan();
        if plan.is_empty() {
            return Ok(Part::default());
        }
        let (recipe, segment) = (self.recipe(plan), self.segment.clone());
        let whole = 0..segment.size_bytes;
        let mut fetched = self.inner.fetcher.fetch(&segment, std::slice::from_ref(&whole), source).await?;
        let bytes = fetched.parts.pop().unwrap_or_default();
        let read = move || check_whole(&segment, &bytes).and_then(|()| recipe.read_whole(&bytes));
        let part = self.inner.work(read).await?;
        self.inner.fetcher.keep(&mut fetched);
        Ok(part)
    }

    /// Of a large segment.
    async fn large(&self, source: Source) -> Result<Part, ReadError> {
        let plan = self.large_plan(source).await?;
        if plan.is_empty() {
            return Ok(Part::default());
        }
        let mut fetched = self.inner.fetcher.fetch(self.segment, &plan.ranges(), source).await?;
        let (recipe, parts) = (self.recipe(plan), std::mem::take(&mut fetched.parts));
        let part = self.inner.work(move || recipe.read(parts)).await?;
        self.inner.fetcher.keep(&mut fetched);
        Ok(part)
    }

    fn plan(&self) -> Plan {
        self.opened.plan(&self.question.want.at(self.question.times), self.question.filter)
    }

    /// Without the row groups that bloom filters rule out, where they are worth their own fetch.
    async fn large_plan(&self, source: Source) -> Result<Plan, ReadError> {
        let (opened, want) = (Arc::clone(self.opened), self.question.want.at(self.question.times));
        let filter = self.question.filter.cloned();
        let plan = self.inner.work(move || Ok(opened.plan(&want, filter.as_ref()))).await?;
        let blooms = plan.bloom_ranges();
        let (data, of_blooms) = (total(&plan.ranges()), total(&blooms));
        if blooms.is_empty() || data < WORTH_A_BLOOM_BYTES.max(2 * of_blooms) {
            return Ok(plan);
        }
        let mut fetched = self.inner.fetcher.fetch(self.segment, &blooms, source).await?;
        let parts = std::mem::take(&mut fetched.parts);
        let plan = self.inner.work(move || plan.apply_blooms(parts)).await?;
        self.inner.fetcher.keep(&mut fetched);
        Ok(plan)
    }

    fn recipe(&self, plan: Plan) -> Recipe {
        let filter = self.question.filter.cloned();
        Recipe { opened: Arc::clone(self.opened), plan, filter, limit: self.inner.limit }
    }
}

fn is_small(segment: &v1::Segment) -> bool {
    segment.size_bytes <= SMALL_BYTES
}

fn total(ranges: &[Range<u64>]) -> u64 {
    ranges.iter().map(|range| range.end.saturating_sub(range.start)).sum()
}

fn unreadable(segment: &v1::Segment, what: &str) -> ReadError {
    let (path, what) = (segment.path.clone(), what.to_owned());
    ReadError::Damaged(SegmentError::Unreadable { path, what })
}
