//! A report of the flow in JSON.
//!
//! Owns: its form: the names of the wire in camel case; conditions are `fine`, `questionable` and `on_fire`.
//! Does not own: what is in it (`flow`).

use serde::ser::SerializeStruct as _;
use serde::{Serialize, Serializer};
use tidemark_proto::v1;

/// A report.
pub(crate) struct FlowJson<'a>(pub(crate) &'a v1::Flow);

impl Serialize for FlowJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(flow) = self;
        let mut json = serializer.serialize_struct("Flow", 5)?;
        json.serialize_field("timeMs", &flow.time_ms)?;
        json.serialize_field("stages", &flow.stages.iter().map(StageJson::of).collect::<Vec<_>>())?;
        json.serialize_field("members", &flow.members.iter().map(MemberJson::of).collect::<Vec<_>>())?;
        json.serialize_field("missing", &flow.missing)?;
        json.serialize_field("placement", &flow.placement.as_ref().map(PlacementJson::of))?;
        json.end()
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct StageJson<'a> {
    name: &'a str,
    count: u64,
    unit: &'a str,
    per_second: f64,
    lag_ms: Option<u64>,
    condition: &'static str,
    explanation: &'a str,
    parts: Vec<PartJson<'a>>,
}

#[derive(Serialize)]
struct PartJson<'a> {
    name: &'a str,
    count: u64,
}

fn parts(parts: &[v1::StagePart]) -> Vec<PartJson<'_>> {
    parts.iter().map(|part| PartJson { name: &part.name, count: part.count }).collect()
}

impl<'a> StageJson<'a> {
    fn of(stage: &'a v1::Stage) -> Self {
        Self {
            name: &stage.name,
            count: stage.count,
            unit: &stage.unit,
            per_second: stage.per_second,
            lag_ms: stage.lag_ms,
            condition: match stage.condition() {
                v1::Condition::Unspecified => "unspecified",
                v1::Condition::Fine => "fine",
                v1::Condition::Questionable => "questionable",
                v1::Condition::OnFire => "on_fire",
            },
            explanation: &stage.explanation,
            parts: parts(&stage.parts),
        }
    }
}

#[derive(Serialize)]
struct MemberJson<'a> {
    id: &'a str,
    address: &'a str,
    role: &'a str,
    state: &'a str,
    zone: &'a str,
    incarnation: u64,
    version: &'a str,
    doubtful: bool,
    status: Option<StatusJson<'a>>,
}

impl<'a> MemberJson<'a> {
    fn of(member: &'a v1::Member) -> Self {
        Self {
            id: &member.id,
            address: &member.address,
            role: &member.role,
            state: &member.state,
            zone: &member.zone,
            incarnation: member.incarnation,
            version: &member.version,
            doubtful: member.doubtful,
            status: member.status.as_ref().map(StatusJson::of),
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct StatusJson<'a> {
    shards_owned: u32,
    shards_ready: u32,
    blocks_behind: u64,
    journal_blocks: u64,
    oldest_uncommitted_s: u32,
    flow: Option<NodeFlowJson<'a>>,
}

impl<'a> StatusJson<'a> {
    fn of(status: &'a v1::StatusReply) -> Self {
        Self {
            shards_owned: status.shards_owned,
            shards_ready: status.shards_ready,
            blocks_behind: status.blocks_behind,
            journal_blocks: status.journal_blocks,
            oldest_uncommitted_s: status.oldest_uncommitted_s,
            flow: status.flow.as_ref().map(NodeFlowJson::of),
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct NodeFlowJson<'a> {
    received_events: u64,
    counted_events: u64,
    duplicate_events: u64,
    rejected_events: Vec<PartJson<'a>>,
    journaled_blocks: u64,
    journal_lag_ms: u64,
    journal_refuses: &'a str,
    flushed_buckets: u64,
    oldest_unflushed_s: u32,
    flush_failures: u64,
    committed_buckets: u64,
    newest_committed_s: u32,
    verifies: bool,
    verified_buckets: u64,
    differing_buckets: u64,
    newest_verified_s: u32,
    oldest_unverified_s: u32,
}

impl<'a> NodeFlowJson<'a> {
    fn of(flow: &'a v1::NodeFlow) -> Self {
        Self {
            received_events: flow.received_events,
            counted_events: flow.counted_events,
            duplicate_events: flow.duplicate_events,
            rejected_events: parts(&flow.rejected_events),
            journaled_blocks: flow.journaled_blocks,
            journal_lag_ms: flow.journal_lag_ms,
            journal_refuses: &flow.journal_refuses,
            flushed_buckets: flow.flushed_buckets,
            oldest_unflushed_s: flow.oldest_unflushed_s,
            flush_failures: flow.flush_failures,
            committed_buckets: flow.committed_buckets,
            newest_committed_s: flow.newest_committed_s,
            verifies: flow.verifies,
            verified_buckets: flow.verified_buckets,
            differing_buckets: flow.differing_buckets,
            newest_verified_s: flow.newest_verified_s,
            oldest_unverified_s: flow.oldest_unverified_s,
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PlacementJson<'a> {
    shard_count: u32,
    replication: u32,
    nodes: Vec<MemberJson<'a>>,
    owners: Vec<OwnersJson<'a>>,
}

#[derive(Serialize)]
struct OwnersJson<'a> {
    writers: &'a [u32],
    settled: u32,
}

impl<'a> PlacementJson<'a> {
    fn of(placement: &'a v1::PlacementReply) -> Self {
        let owners = placement.owners.iter();
        Self {
            shard_count: placement.shard_count,
            replication: placement.replication,
            nodes: placement.nodes.iter().map(MemberJson::of).collect(),
            owners: owners.map(|of| OwnersJson { writers: &of.writers, settled: of.settled }).collect(),
        }
    }
}
