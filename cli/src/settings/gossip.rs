//! Settings of membership: who belongs together, and how members find one another.
//!
//! Owns: the flags, their defaults and their help, and the addresses that follow from them.
//! Does not own: gossip itself (`tidemark_membership`).

use super::{ClusterSettings, values};
use crate::failure::Misuse;
use clap::Args;
use std::net::{IpAddr, SocketAddr};
use tidemark_membership::{ClusterFacts, ClusterKey};
use tidemark_rollup::member::NodeId;
use tidemark_rollup::placement::Replication;

/// Name of a cluster that is not given another one.
const DEFAULT_CLUSTER: &str = "tidemark";

/// How a member finds the others.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Membership")]
pub(crate) struct GossipSettings {
    /// Members to begin with, each as host:port, separated by commas
    ///
    /// Some members are enough, and the same list can be given to all: whoever is met tells of the others. Host names are
    /// looked up again and again. Without seeds a node begins a cluster of its own, which others can join.
    #[arg(long, value_name = "HOST:PORT", value_parser = values::host_port, value_delimiter = ',')]
    pub(crate) seeds: Vec<String>,

    /// Address for gossip (UDP), IP:PORT [default: the port of --listen, or of --http for a coordinator]
    #[arg(long, value_name = "ADDRESS", value_parser = values::listen)]
    pub(crate) gossip: Option<SocketAddr>,

    /// Address at which others reach this member, IP:PORT [default: where it listens]
    ///
    /// Has to be given where it listens on every interface (0.0.0.0). Gossip is reached at the same IP.
    #[arg(long, value_name = "ADDRESS", value_parser = values::listen)]
    pub(crate) advertise: Option<SocketAddr>,

    /// Name of the cluster, the same on all members: keeps clusters of one network apart
    #[arg(long, value_name = "NAME", value_parser = values::node_id, default_value = DEFAULT_CLUSTER)]
    pub(crate) cluster: NodeId,

    /// Secret text that seals gossip, the same on all members [default: follows from the name of the cluster]
    ///
    /// Who does not have it can neither join nor listen. Without one, everybody can who knows the cluster's name. At least 16
    /// characters; better given in the environment or the file than as a flag, which others on the machine can see.
    #[arg(long, value_name = "TEXT", value_parser = values::cluster_key, hide_env_values = true)]
    pub(crate) cluster_key: Option<String>,

    /// How many nodes own each shard, the same on all members
    ///
    /// One less than that may fail at a time without anything being lost or missing. Each more costs about what the first does.
    #[arg(long, value_name = "COUNT", value_parser = values::replication, default_value = Replication::DEFAULT.to_string())]
    pub(crate) replication: Replication,
}

impl GossipSettings {
    /// What all members have to agree on.
    ///
    /// # Errors
    /// Where the schema cannot be.
    pub(crate) fn facts(&self, cluster: &ClusterSettings) -> Result<ClusterFacts, Misuse> {
        Ok(ClusterFacts {
            cluster: self.cluster.to_string(),
            shards: cluster.shards,
            replication: self.replication,
            schema: cluster.schema()?.outline(),
        })
    }

    /// Whether gossip of a member that listens here is sealed with a secret.
    ///
    /// # Errors
    /// Where it can be heard beyond this machine, and is not.
    pub(crate) fn check(&self, listens: SocketAddr) -> Result<(), Misuse> {
        let gossip = self.gossip.unwrap_or(listens);
        if gossip.ip().is_loopback() || self.cluster_key.is_some() {
            return Ok(());
        }
        Err(Misuse::new(format!(
            "gossip at {gossip} is open to a network, and everybody who knows the cluster's name could join: \
             give --cluster-key, better as TIDEMARK_CLUSTER_KEY"
        )))
    }

    /// What seals gossip.
    pub(crate) fn key(&self) -> ClusterKey {
        match &self.cluster_key {
            Some(text) => ClusterKey::of(text),
            None => ClusterKey::of(&format!("the key of cluster {}", self.cluster)),
        }
    }

    /// Where others reach a member that listens here.
    ///
    /// # Errors
    /// Where that cannot be told.
    pub(crate) fn advertised(&self, listens: SocketAddr) -> Result<SocketAddr, Misuse> {
        match self.advertise {
            Some(advertise) if advertise.port() == 0 => Ok(SocketAddr::new(advertise.ip(), listens.port())),
            Some(advertise) => Ok(advertise),
            None if !listens.ip().is_unspecified() => Ok(listens),
            None if self.seeds.is_empty() => Ok(crate::serve::reachable(listens)),
            None => Err(Misuse::new(format!(
                "advertise is not set: {listens} is every interface, and others need one address to reach this member at; \
                 give --advertise IP:{}",
                listens.port()
            ))),
        }
    }

    /// Where gossip listens, beside a port that is open; and whether another port will do.
    pub(crate) fn listens(&self, beside: SocketAddr, beside_was_any: bool) -> (SocketAddr, bool) {
        match self.gossip {
            Some(gossip) => (gossip, false),
            None => (beside, beside_was_any),
        }
    }

    /// Where others reach gossip that listens on this port.
    pub(crate) fn advertised_gossip(advertised: SocketAddr, gossip: SocketAddr) -> SocketAddr {
        let ip: IpAddr = if gossip.ip().is_unspecified() { advertised.ip() } else { gossip.ip() };
        SocketAddr::new(if ip.is_unspecified() { advertised.ip() } else { ip }, gossip.port())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::tests::node_settings;

    fn gossip(flags: &[&str]) -> GossipSettings {
        node_settings("", flags).gossip
    }

    #[test]
    fn who_listens_everywhere_and_looks_for_others_has_to_say_where_it_is() {
        let everywhere = "0.0.0.0:7100".parse().unwrap();
        let error = gossip(&["--seeds", "h:1"]).advertised(everywhere).unwrap_err();
        assert!(error.to_string().contains("--advertise IP:7100"), "{error}");
        let said = gossip(&["--seeds", "h:1", "--advertise", "10.0.0.1:0"]).advertised(everywhere).unwrap();
        assert_eq!(said.to_string(), "10.0.0.1:7100");
        assert_eq!(gossip(&[]).advertised(everywhere).unwrap().to_string(), "127.0.0.1:7100");
    }

    #[test]
    fn gossip_is_beside_the_services_unless_it_is_said_to_be_elsewhere() {
        let beside: SocketAddr = "127.0.0.1:7100".parse().unwrap();
        assert_eq!(gossip(&[]).listens(beside, true), (beside, true));
        let elsewhere = gossip(&["--gossip", "0.0.0.0:7200"]).listens(beside, true);
        assert_eq!(elsewhere, ("0.0.0.0:7200".parse().unwrap(), false));
        let reached = GossipSettings::advertised_gossip("10.0.0.1:7100".parse().unwrap(), elsewhere.0);
        assert_eq!(reached.to_string(), "10.0.0.1:7200");
    }

    #[test]
    fn clusters_of_other_names_have_other_keys_and_a_key_goes_before_the_name() {
        let key = |flags: &[&str]| gossip(flags).key();
        assert!(key(&[]) != key(&["--cluster", "other"]));
        let secret = ["--cluster-key", "sixteen characters"];
        assert!(key(&secret) == key(&[&secret[..], &["--cluster", "other"]].concat()));
    }
}
