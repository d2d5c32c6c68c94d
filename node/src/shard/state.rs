//! What a shard's actor knows and does.
//!
//! Owns: counting beside the journal, which buckets are in memory, and how they stand to what is committed.
//! Does not own: messages (`actor`), flushing (`crate::flush`).
//!
//! Invariants:
//! * A block is acknowledged only when the journal has it, or commits cover it.
//! * What is in memory is a function of blocks: when the journal loses one that was counted already (a full disk), the
//!   shard is made anew before it does anything else.
//! * A bucket that is evicted although no commit covers it is not counted into until commits do: the journal has it all.

mod view;

use super::Delivery;
use super::actor::{Eviction, Flushing, Receipts, Usage, ViewRequest};
use super::parts::ShardParts;
use crate::admission::Permit;
use crate::committed::Committed;
use crate::planted::Bug;
use crate::quotas::SiteUsage;
use crate::rebuild::{rebuilt, uncovered};
use crate::shard::ApplyError;
use crate::told::Told;
use ractor::RpcReplyPort;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tidemark_proto::v1;
use tidemark_rollup::block::BlockId;
use tidemark_rollup::bucket::Bucket;
use tidemark_rollup::census::Census;
use tidemark_rollup::coverage::Coverage;
use tidemark_rollup::member::NodeId;
use tidemark_rollup::scan::{DimensionOfBucket, take_census};
use tidemark_rollup::shard::{Applied, Arrival, Relation, Shard};
use tidemark_rollup::sharding::ShardId;
use tidemark_rollup::time::BucketStart;
use tidemark_shell::work;
use tokio::sync::mpsc;

pub(super) struct State {
    shard: Shard,
    parts: Arc<ShardParts>,
    /// Who waits for a view, and who did and went.
    asked: mpsc::UnboundedReceiver<ViewRequest>,
    /// Buckets that were evicted while only the journal has them.
    in_journal: BTreeSet<BucketStart>,
    /// What was known to be committed when buckets were evicted last. Who knows less would not find them anywhere.
    evicted_at: u64,
    /// How many blocks the journal could not keep after they had been counted here.
    lost: Arc<AtomicU64>,
    /// How many of these are counted no more.
    dropped: u64,
    /// The shard is others': what comes in is journaled, and not kept in memory.
    is_released: bool,
    /// Blocks that commits had something of when the shard was made: of other buckets they may have to be counted yet.
    committed_in_part: Coverage,
    /// Whether these are all: a node that starts without its store makes its shards before it can tell.
    knows_committed: bool,
}

impl State {
    pub(super) fn new(
        id: ShardId,
        parts: Arc<ShardParts>,
        asked: mpsc::UnboundedReceiver<ViewRequest>,
    ) -> Self {
        let shard = Shard::new(id, parts.rules.clone()).sharing(&parts.rooms);
        Self {
            shard,
            parts,
            asked,
            in_journal: BTreeSet::new(),
            evicted_at: 0,
            lost: Arc::default(),
            dropped: 0,
            is_released: false,
            committed_in_part: Coverage::default(),
            knows_committed: false,
        }
    }

    /// Counts a block at once and tells when the journal has it: many blocks share one write.
    pub(super) fn apply(
        &mut self,
        block: v1::Block,
        delivery: Option<Delivery>,
        admitted: Permit,
        told: Told<Result<Applied, ApplyError>>,
    ) {
        let knows_all =
            |of: &Delivery| self.parts.owners.borrow().are_all_among(self.shard.id(), &of.writers);
        if !self.parts.planted.has(Bug::SkipOwnersCheck) && !delivery.as_ref().is_none_or(knows_all) {
            return told.tell(Err(ApplyError::OwnersDiffer));
        }
        // Asked first: what is counted and then cannot be kept makes the shard anew.
        if let Err(full) = self.parts.journal.accepting() {
            return told.tell(Err(ApplyError::Journal(full.into())));
        }
        let arrival = match &delivery {
            Some(Delivery { again: false, .. }) => Arrival::Sent,
            _ => Arrival::Copied,
        };
        match self.count(&block, arrival) {
            Err(error) => told.tell(Err(error)),
            Ok((id, applied)) => {
                if self.parts.changes.is_heard() {
                    self.parts.changes.note(self.shard.last_sites());
                }
                let lost = Arc::clone(&self.lost);
                let buckets = applied.buckets.clone();
                let mut told = Some(told);
                if self.parts.planted.has(Bug::AcknowledgeBeforeJournal)
                    && let Some(told) = told.take()
                {
                    told.tell(Ok(applied.clone()));
                }
                let done = move |kept: Result<(), tidemark_journal::AppendError>| {
                    if kept.is_err() {
                        // Before it is told: the sender's next copy must find the shard made anew.
                        lost.fetch_add(1, Ordering::SeqCst);
                    }
                    if let Some(told) = told {
                        told.tell(kept.map(|()| applied).map_err(ApplyError::Journal));
                    }
                    drop(admitted);
                };
                self.parts.remembered(id.shard).note_appended(id);
                // A repeated block too: its first copy may still be on its way, or have failed.
                self.parts.journal.append(id, buckets, block, Box::new(done));
            }
        }
    }

    fn count(&mut self, block: &v1::Block, arrival: Arrival) -> Result<(BlockId, Applied), ApplyError> {
        if !self.knows_committed && self.parts.committed.borrow().is_read() {
            self.learn_committed();
        }
        let remembered = self.parts.remembered(self.shard.id());
        let id = BlockId::of(block, self.parts.rules.shards)?;
        if !remembered.begin(id) {
            return Err(ApplyError::Quarantined);
        }
        // A commit has a block bucket by bucket: what of it is in other buckets counts, if it was not counted here.
        let applied = match self.committed_in_part.contains(id.producer, id.seq) {
            true => {
                let committed = Arc::clone(&self.parts.committed.borrow());
                let has = |start: BucketStart| {
                    // What cannot be told yet is of a day that was compacted: its blocks are committed long since.
                    let coverage = committed.coverage(start, id.shard);
                    coverage.map_or(true, |of| of.is_some_and(|of| of.contains(id.producer, id.seq)))
                };
                // What is left out for these commits is found by nobody who does not know them.
                self.evicted_at = self.evicted_at.max(committed.version());
                self.shard.apply_beside(block, arrival, &has)
            }
            false => self.shard.apply_beside(block, arrival, &|_| false),
        };
        remembered.end();
        let mut applied = applied?;
        let is_elsewhere = |start: &&BucketStart| self.is_released || self.in_journal.contains(start);
        for start in applied.buckets.iter().filter(is_elsewhere) {
            self.shard.forget(*start);
        }
        if applied.repeated && self.is_committed(id, &applied.buckets) {
            applied.buckets.clear();
        }
        Ok((id, applied))
    }

    fn is_committed(&self, id: BlockId, buckets: &[BucketStart]) -> bool {
        let committed = self.parts.committed.borrow();
        let covers = |&start: &BucketStart| {
            let coverage = committed.coverage(start, id.shard);
            coverage
                .is_ok_and(|coverage| coverage.is_some_and(|coverage| coverage.contains(id.producer, id.seq)))
        };
        buckets.iter().all(covers)
    }

    /// Tells which blocks the journal has, when it has all that were counted.
    pub(super) fn holds(&self, asker: Option<NodeId>, reply: RpcReplyPort<Option<Coverage>>) {
        let id = self.shard.id();
        let is_owner = |asker: &NodeId| self.parts.owners.borrow().placement.is_writer(id, asker);
        if asker.as_ref().is_some_and(|asker| !is_owner(asker)) {
            let _ = reply.send(None);
            return;
        }
        let journal = self.parts.journal.clone();
        let tell = move || {
            let mut held = Coverage::default();
            for entry in journal.blocks(id) {
                held.insert(entry.id.producer, entry.id.seq);
            }
            let _ = reply.send(Some(held));
        };
        match self.parts.remembered(id).last_appended() {
            Some(last) => self.parts.journal.barrier(last, Box::new(move |_| tell())),
            None => tell(),
        }
    }

    pub(super) fn lacking(&self, of: &Coverage) -> Coverage {
        of.without(self.shard.coverage())
    }

    /// Takes all buckets out of memory. Their blocks stay known, and in the journal until commits cover them.
    pub(super) fn release(&mut self) {
        self.is_released = true;
        let starts: Vec<BucketStart> = self.shard.buckets().map(|bucket| bucket.start()).collect();
        starts.into_iter().for_each(|start| _ = self.shard.forget(start));
        self.parts.in_journal.fetch_sub(self.in_journal.len(), Ordering::Relaxed);
        self.in_journal.clear();
    }

    /// Takes the shard into memory again.
    pub(super) async fn restore(&mut self) {
        if std::mem::take(&mut self.is_released) {
            self.rebuild().await;
        }
    }

    /// Makes the shard from the journal and from what it knows of commits.
    pub(super) async fn rebuild(&mut self) {
        let id = self.shard.id();
        self.dropped = self.lost.load(Ordering::SeqCst);
        if let Some(block) = self.parts.remembered(id).set_unfinished_aside() {
            self.parts.metrics.block_quarantined();
            tracing::error!(%block, "the shard failed while counting this block; set it aside, its events are not counted");
        }
        self.parts.in_journal.fetch_sub(self.in_journal.len(), Ordering::Relaxed);
        self.in_journal.clear();
        let parts = Arc::clone(&self.parts);
        // The semaphore is never closed.
        let _turn = parts.rebuilding.acquire().await;
        let parts = Arc::clone(&self.parts);
        // A block of the journal may make it fail: then this fails as well, and the block is set aside.
        self.shard = work::run(move || rebuilt(id, &parts)).await;
        self.learn_committed();
        // What commits have was left out: who knows less of them would find it nowhere.
        self.evicted_at = self.parts.committed.borrow().version();
        if self.is_released {
            self.release();
        }
    }

    /// Looks which blocks commits have something of.
    fn learn_committed(&mut self) {
        let committed = Arc::clone(&self.parts.committed.borrow());
        self.knows_committed = committed.is_read();
        self.committed_in_part = committed.known(self.shard.id());
    }

    /// Makes the shard anew where it counts blocks that the journal does not have.
    pub(super) async fn drop_what_the_journal_lost(&mut self) {
        if self.lost.load(Ordering::SeqCst) != self.dropped {
            tracing::warn!(shard = %self.shard.id(), "the journal could not keep blocks; making the shard anew without them");
            self.rebuild().await;
        }
    }

    pub(super) fn take_census(&self, of: &[DimensionOfBucket]) -> Vec<Census> {
        let asked: BTreeSet<BucketStart> = of.iter().map(|of| of.bucket).collect();
        let buckets: Vec<Arc<Bucket>> =
            asked.iter().filter_map(|&start| self.shard.bucket(start).cloned()).collect();
        take_census(&buckets, of)
    }

    pub(super) fn sites(&self) -> Vec<String> {
        let names = self.shard.buckets().flat_map(|bucket| bucket.sites());
        let distinct: BTreeSet<&str> = names.filter(|name| !name.is_empty()).collect();
        distinct.into_iter().map(str::to_owned).collect()
    }

    pub(super) fn usage(&self, by_site_from: Option<BucketStart>) -> Usage {
        let measured =
            self.shard.buckets().filter(|bucket| by_site_from.is_some_and(|from| bucket.start() >= from));
        let by_site = measured.flat_map(|bucket| {
            let sizes =
                bucket.site_sizes().map(|(site, urls, rows)| (site.to_owned(), SiteUsage { urls, rows }));
            sizes.map(|(site, usage)| (bucket.start(), site, usage))
        });
        let sizes = self.shard.heap_bytes_by_bucket().map(|(start, bytes)| (start, bytes as u64));
        let buckets: Vec<_> = sizes.collect();
        let in_buckets: u64 = buckets.iter().map(|(_, bytes)| bytes).sum();
        Usage {
            rollup_bytes: in_buckets + self.shard.heap_bytes_beside() as u64,
            rows: self.shard.row_count() as u64,
            buckets,
            by_site: by_site.collect(),
        }
    }

    pub(super) fn flushing(&mut self, start: BucketStart) -> Flushing {
        let bucket = self.shard.bucket(start).cloned().filter(|_| !self.in_journal.contains(&start));
        Flushing { bucket, duplicates: self.shard.take_duplicates(start) }
    }

    pub(super) fn keep_duplicates(&mut self, start: BucketStart, by_site: BTreeMap<String, u64>) {
        self.shard.add_duplicates(start, by_site);
    }

    pub(super) fn evict(&mut self, eviction: Eviction) {
        self.shard.forget_slices(eviction.slices_before);
        self.shard.let_go_of_the_absent(eviction.now);
        let committed = Arc::clone(&self.parts.committed.borrow());
        let id = self.shard.id();
        let covered = |bucket: &Bucket| {
            let coverage = committed.coverage(bucket.start(), id);
            coverage
                .is_ok_and(|coverage| coverage.is_some_and(|coverage| coverage.includes(bucket.coverage())))
        };
        let before = self.in_journal.len();
        let last = eviction.committed_before.max(eviction.any_before);
        let old: Vec<Arc<Bucket>> =
            self.shard.buckets().take_while(|bucket| bucket.start() < last).cloned().collect();
        for bucket in old {
            let start = bucket.start();
            if start < eviction.committed_before && covered(&bucket) {
                self.shard.forget(start);
                self.evicted_at = committed.version();
            } else if start < eviction.any_before {
                self.shard.forget(start);
                self.in_journal.insert(start);
            }
        }
        // What commits cover by now is theirs to answer.
        let journal = &self.parts.journal;
        self.in_journal.retain(|&start| !journal.blocks_of(id, start).is_empty());
        self.parts.in_journal.fetch_add(self.in_journal.len(), Ordering::Relaxed);
        self.parts.in_journal.fetch_sub(before, Ordering::Relaxed);
    }

    pub(super) fn receipts(&mut self, from: BucketStart, to: BucketStart, committed: &Committed) -> Receipts {
        let mut receipts: BTreeMap<(BucketStart, String), _> = BTreeMap::new();
        let id = self.shard.id();
        let mut parted = Shard::new(id, self.parts.rules.clone());
        let mut unknown = Vec::new();
        let starts: Vec<BucketStart> = self.shard.buckets().map(|bucket| bucket.start()).collect();
        for start in
            starts.into_iter().chain(self.in_journal.clone()).filter(|start| (from..to).contains(start))
        {
            let coverage = match committed.coverage(start, id) {
                Ok(coverage) => coverage.unwrap_or_default(),
                Err(day) => {
                    unknown.push(day);
                    continue;
                }
            };
            let remainder = self.shard.relation(start, &coverage) == Relation::Remainder;
            match self.shard.bucket(start).filter(|_| remainder) {
                Some(bucket) => {
                    for site in bucket.sites() {
                        let facts = bucket.facts(site).cloned().unwrap_or_default();
                        receipts.insert((start, site.to_owned()), facts);
                    }
                }
                None => {
                    for block in uncovered(&self.parts, id, start, &coverage) {
                        // What cannot be read is reported where it is first met.
                        let _ = parted.restore(&block, &|of| of == start);
                    }
                }
            }
        }
        if !unknown.is_empty() {
            return Err(unknown);
        }
        for (start, site, facts) in parted.receipts(from, to) {
            receipts.insert((start, site), facts);
        }
        for (start, site, events) in self.shard.duplicates(from, to) {
            receipts.entry((start, site.to_owned())).or_default().duplicate += events;
        }
        Ok(receipts.into_iter().map(|((start, site), facts)| (start, site, facts)).collect())
    }
}
