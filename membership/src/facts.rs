//! What members have to agree on, as datagrams carry it.
//!
//! Owns: the facts' fingerprint and form on the wire, whether two members' facts agree, and where they do not, in words.
//! Does not own: what follows from a difference (`refusal`).

use crate::config::{ClusterFacts, MAX_CLUSTER_BYTES};
use crate::identity::is_plain;
use serde::{Deserialize, Serialize};
use tidemark_rollup::outline::Outline;
use tidemark_rollup::placement::Replication;
use tidemark_rollup::sharding::ShardCount;
use xxhash_rust::xxh3::xxh3_64;

/// The one fact that members may have different values of and still agree.
const SCHEMA: &str = "schema";

/// The facts as bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Wire {
    cluster: String,
    shards: u32,
    replication: u8,
    /// Eight bytes for each name.
    schema: Vec<u8>,
}

impl From<ClusterFacts> for Wire {
    fn from(facts: ClusterFacts) -> Self {
        Self {
            cluster: facts.cluster,
            shards: facts.shards.get(),
            replication: facts.replication.get(),
            schema: facts.schema.to_bytes(),
        }
    }
}

/// Bytes that are no facts.
#[derive(Debug, thiserror::Error)]
#[error("no facts of a cluster")]
struct NoFacts;

impl TryFrom<Wire> for ClusterFacts {
    type Error = NoFacts;

    fn try_from(wire: Wire) -> Result<Self, NoFacts> {
        let named = !wire.cluster.is_empty() && is_plain(&wire.cluster, MAX_CLUSTER_BYTES);
        let shards = ShardCount::new(wire.shards);
        let schema = Outline::from_bytes(&wire.schema);
        match (named, shards, Replication::new(wire.replication), schema) {
            (true, Some(shards), Some(replication), Some(schema)) => {
                Ok(Self { cluster: wire.cluster, shards, replication, schema })
            }
            _ => Err(NoFacts),
        }
    }
}

impl ClusterFacts {
    /// A number that differs where facts do: what every datagram carries.
    pub(crate) fn fingerprint(&self) -> u64 {
        let mut text = format!("{}\0{}\0{}\0", self.cluster, self.shards.get(), self.replication);
        text.push_str(&self.schema.fingerprint().to_string());
        xxh3_64(text.as_bytes())
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        // Only a writer that is full fails, and a vector never is.
        postcard::to_stdvec(&Wire::from(self.clone())).unwrap_or_default()
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        postcard::from_bytes::<Wire>(bytes).ok()?.try_into().ok()
    }

    /// The first fact in which `theirs` do not agree with these, and both values. Facts that agree need not be the same: a name that only
    /// one of two schemas has is no difference.
    pub(crate) fn difference(&self, theirs: &Self) -> Option<Difference> {
        let facts = [
            ("cluster", self.cluster.clone(), theirs.cluster.clone()),
            ("shard count", self.shards.get().to_string(), theirs.shards.get().to_string()),
            ("replication", self.replication.to_string(), theirs.replication.to_string()),
        ];
        let differs = facts.into_iter().find(|(_, ours, theirs)| ours != theirs);
        let differs = differs.map(|(fact, ours, theirs)| Difference { fact, ours, theirs });
        differs.or_else(|| self.difference_of_schemas(theirs))
    }

    fn difference_of_schemas(&self, theirs: &Self) -> Option<Difference> {
        let ours = self.schema.conflict(&theirs.schema)?;
        let name = ours.split('=').next().unwrap_or_default();
        let (ours, theirs) = (format!("one with {ours}"), format!("one where {name} means something else"));
        Some(Difference { fact: SCHEMA, ours, theirs })
    }
}

/// A fact that two members do not agree on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Which.
    pub fact: &'static str,
    /// What this member says.
    pub ours: String,
    /// What the other one says.
    pub theirs: String,
}

impl Difference {
    /// Whether it is the schemas that do not agree. Unlike the other facts, two that both agree with a third need not agree with each
    /// other.
    pub(crate) fn is_of_schemas(&self) -> bool {
        self.fact == SCHEMA
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;
    use tidemark_rollup::schema::{Measure, Schema};

    pub(crate) fn facts() -> ClusterFacts {
        ClusterFacts {
            cluster: "test".into(),
            shards: ShardCount::new(64).unwrap(),
            replication: Replication::DEFAULT,
            schema: Schema::default().outline(),
        }
    }

    /// The same facts, but that some measures more are counted.
    pub(crate) fn with_measures(lines: &[&str]) -> ClusterFacts {
        let mut measures = Schema::default().measures().to_vec();
        measures.extend(lines.iter().map(|line| line.parse::<Measure>().unwrap()));
        let schema = Schema::new(Schema::default().dimensions().to_vec(), measures).unwrap();
        ClusterFacts { schema: schema.outline(), ..facts() }
    }

    #[test]
    fn the_fact_that_differs_is_named_with_both_values() {
        let theirs = ClusterFacts { shards: ShardCount::new(32).unwrap(), ..facts() };
        assert_ne!(theirs.fingerprint(), facts().fingerprint());
        let difference = facts().difference(&theirs).unwrap();
        assert_eq!((difference.fact, &*difference.ours, &*difference.theirs), ("shard count", "64", "32"));
        assert_eq!(facts().difference(&facts()), None);
    }

    #[test]
    fn a_measure_more_is_no_difference_and_one_that_means_something_else_is_named() {
        let (fewer, more) = (facts(), with_measures(&["likes=count(like)"]));
        assert_ne!(fewer.fingerprint(), more.fingerprint());
        assert_eq!((fewer.difference(&more), more.difference(&fewer)), (None, None));
        let difference = more.difference(&with_measures(&["likes=count(love)"])).unwrap();
        assert!(difference.is_of_schemas());
        assert_eq!(
            (&*difference.ours, &*difference.theirs),
            ("one with likes=count(like)", "one where likes means something else")
        );
    }

    #[test]
    fn facts_come_back_from_their_bytes() {
        assert_eq!(ClusterFacts::from_bytes(&facts().to_bytes()), Some(facts()));
    }

    proptest! {
        #[test]
        fn bytes_that_nobody_meant_are_no_facts_or_valid_ones(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            if let Some(facts) = ClusterFacts::from_bytes(&bytes) {
                prop_assert!(is_plain(&facts.cluster, MAX_CLUSTER_BYTES));
            }
        }
    }
}
