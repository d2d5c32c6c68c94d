//! How the node is doing, for members, operators and `tidemark doctor`.
//!
//! Owns: putting it together.
//! Does not own: what is told (`repair`, `flow`, `admission`, `history`, the journal), judging it.

use super::Inner;
use std::sync::atomic::Ordering;
use tidemark_proto::v1;

impl Inner {
    pub(super) fn status(&self) -> v1::StatusReply {
        v1::StatusReply { health: Some(self.health()), ..self.repair.status() }
    }

    fn health(&self) -> v1::NodeHealth {
        let journal = self.parts.journal.usage();
        let away = self.history.away();
        v1::NodeHealth {
            time_ms: self.clock.now().as_unix_ms(),
            shards_down: self.router.local.iter().filter(|shard| !shard.is_up()).count() as u32,
            memory_bytes: self.admission.memory_used_bytes(),
            memory_budget_bytes: self.admission.memory_budget_bytes(),
            in_flight_bytes: self.admission.in_flight_bytes() as u64,
            in_flight_limit_bytes: self.admission.in_flight_limit_bytes() as u64,
            journal_bytes: journal.disk_bytes,
            journal_limit_bytes: journal.limit_bytes.unwrap_or(0),
            disk_free_bytes: journal.free_bytes,
            disk_reserve_bytes: journal.min_free_bytes,
            store_away_ms: away.as_ref().map_or(0, |away| away.since.elapsed().as_millis() as u64),
            store_away: away.map(|away| away.why).unwrap_or_default(),
            shard_count: self.rules.shards.get(),
            replication: u32::from(self.replication.get()),
            gossip_dropped: self.repair.gossip_dropped(),
            recovering: !self.recovered.load(Ordering::Relaxed),
        }
    }
}
