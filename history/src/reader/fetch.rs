//! Bytes of segments, from the disk or from the store.
//!
//! Owns: where bytes come from, trying again, and how many are held at once.
//! Does not own: which bytes are needed (`load`), whether they are good.

use super::disk::Disk;
use super::error::ReadError;
use super::piece::{Piece, object_of};
use crate::retry::{Retry, retry};
use crate::store::Store;
use bytes::Bytes;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tidemark_proto::v1;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// At least so many KiB may be under way at once.
const LEAST_KIB: u64 = 32 << 10;

/// Fetches bytes of segments.
#[derive(Debug)]
pub(super) struct Fetcher {
    store: Store,
    retry: Retry,
    disk: Option<Arc<Disk>>,
    /// KiB under way: asked for, or held and not decoded yet.
    room: Arc<Semaphore>,
    room_kib: u32,
    fetches: AtomicU64,
    fetched_bytes: AtomicU64,
}

/// Whether the disk may be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// The disk, then the store.
    Nearest,
    /// The store alone: what the disk had was no good.
    Store,
}

/// Bytes that were fetched. While it is there, it takes up room.
#[derive(Debug)]
pub(super) struct Fetched {
    /// As they were asked for.
    pub(super) parts: Vec<Bytes>,
    /// Those that the disk did not have.
    fresh: Vec<(Piece, Bytes)>,
    _room: Option<OwnedSemaphorePermit>,
}

impl Fetcher {
    /// `room_bytes` may be under way at once, or one larger fetch.
    pub(super) fn new(store: Store, retry: Retry, disk: Option<Disk>, room_bytes: u64) -> Self {
        let most = (Semaphore::MAX_PERMITS as u64).min(u64::from(u32::MAX));
        let room_kib = (room_bytes / 1024).max(LEAST_KIB).min(most) as u32;
        Self {
            store,
            retry,
            disk: disk.map(Arc::new),
            room: Arc::new(Semaphore::new(room_kib as usize)),
            room_kib,
            fetches: AtomicU64::new(0),
            fetched_bytes: AtomicU64::new(0),
        }
    }

    pub(super) fn disk(&self) -> Option<&Disk> {
        self.disk.as_deref()
    }

    /// How often the store was asked, and how many bytes it gave.
    pub(super) fn fetched(&self) -> (u64, u64) {
        (self.fetches.load(Ordering::Relaxed), self.fetched_bytes.load(Ordering::Relaxed))
    }

    /// These ranges of a segment.
    pub(super) async fn fetch(
        &self,
        segment: &v1::Segment,
        ranges: &[Range<u64>],
        source: Source,
    ) -> Result<Fetched, ReadError> {
        let room = self.room_for(ranges).await;
        let object = object_of(segment);
        let mut parts = match (&self.disk, source) {
            (Some(disk), Source::Nearest) => read_disk(disk, object, ranges).await,
            (Some(disk), Source::Store) => {
                discard(disk, object, ranges).await;
                vec![None; ranges.len()]
            }
            (None, _) => vec![None; ranges.len()],
        };
        let missing: Vec<Range<u64>> = ranges
            .iter()
            .zip(&parts)
            .filter(|(_, part)| part.is_none())
            .map(|(range, _)| range.clone())
            .collect();
        let mut fresh = Vec::new();
        if !missing.is_empty() {
            let mut came = self.ask_store(&segment.path, &missing).await?.into_iter();
            for (part, range) in parts.iter_mut().zip(ranges).filter(|(part, _)| part.is_none()) {
                *part = came.next();
                fresh.extend(part.clone().map(|part| (Piece::new(object, range), part)));
            }
        }
        Ok(Fetched { parts: parts.into_iter().flatten().collect(), fresh, _room: room })
    }

    /// Keeps on disk what was fetched. What was asked of it must have been verified; columns between may not be.
    pub(super) fn keep(&self, fetched: &mut Fetched) {
        let Some(disk) = &self.disk else { return };
        fetched.fresh.drain(..).for_each(|(piece, bytes)| disk.save(piece, bytes));
    }

    async fn room_for(&self, ranges: &[Range<u64>]) -> Option<OwnedSemaphorePermit> {
        let bytes: u64 = ranges.iter().map(|range| range.end.saturating_sub(range.start)).sum();
        let kib = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX).clamp(1, self.room_kib);
        // It is never closed.
        Arc::clone(&self.room).acquire_many_owned(kib).await.ok()
    }

    async fn ask_store(&self, path: &str, ranges: &[Range<u64>]) -> Result<Vec<Bytes>, ReadError> {
        let settings =
            Retry { seed: xxh3_64_with_seed(path.as_bytes(), self.retry.seed), ..self.retry.clone() };
        let ask = || {
            self.fetches.fetch_add(1, Ordering::Relaxed);
            self.store.get_ranges(path, ranges)
        };
        let parts = retry(&settings, std::future::pending(), ask)
            .await
            .map_err(|error| ReadError::of(path, error))?;
        let bytes = parts.iter().map(|part| part.len() as u64).sum();
        self.fetched_bytes.fetch_add(bytes, Ordering::Relaxed);
        Ok(parts)
    }
}

/// What the disk has of these ranges.
async fn read_disk(disk: &Arc<Disk>, object: u128, ranges: &[Range<u64>]) -> Vec<Option<Bytes>> {
    let found: Vec<Option<(Piece, Range<u64>)>> =
        ranges.iter().map(|range| Some((disk.find(object, range)?, range.clone()))).collect();
    if found.iter().all(Option::is_none) {
        return vec![None; ranges.len()];
    }
    let disk = Arc::clone(disk);
    let read = move || {
        let found = found.into_iter();
        found.map(|found| found.and_then(|(piece, range)| disk.read(&piece, &range))).collect()
    };
    tidemark_shell::work::run(read).await
}

/// Deletes what the disk has of these ranges.
async fn discard(disk: &Arc<Disk>, object: u128, ranges: &[Range<u64>]) {
    let (disk, ranges) = (Arc::clone(disk), ranges.to_vec());
    tidemark_shell::work::run(move || disk.discard(object, &ranges)).await;
}
