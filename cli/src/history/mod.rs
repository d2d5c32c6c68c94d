//! Commands on history: `rebuild`, `verify`, `receipt`, `retain` and `segments`.
//!
//! Owns: which range and which store they are about, and what several of them need.
//! Does not own: what they do (`tidemark_history`, and the nodes for receipts).
//!
//! All but `receipt` work on the store itself: no node has to run.

pub(crate) mod rebuild;
pub(crate) mod receipt;
pub(crate) mod retain;
pub(crate) mod segments;
pub(crate) mod verify;

use crate::failure::Misuse;
use crate::serve::random_seed;
use crate::settings::history::StoreSettings;
use crate::settings::{ClusterSettings, Sources};
use clap::Args;
use std::sync::Arc;
use tidemark_history::catalog::{Catalog, CatalogSettings};
use tidemark_history::compact::CompactorSettings;
use tidemark_history::probe::join_cluster;
use tidemark_history::store::Store;
use tidemark_node::clock::SystemClock;
use tidemark_rollup::member::NodeId;
use tidemark_rollup::sharding::ShardCount;
use tidemark_rollup::time::{BucketStart, Clock as _, EventTime};

/// A range of five-minute buckets.
#[derive(Clone, Debug, Args)]
pub(crate) struct Range {
    /// First moment of the range: RFC 3339, or a time ago like -2d. Rounded down to five minutes
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    from: String,

    /// End of the range, which is not in it, spelled alike. Rounded up to five minutes
    #[arg(long, value_name = "TIME", default_value = "now", allow_hyphen_values = true)]
    to: String,
}

impl Range {
    /// The first bucket, and the first one after the range.
    ///
    /// # Errors
    /// Where a time cannot be read, or the range is empty.
    pub(crate) fn buckets(&self) -> Result<(BucketStart, BucketStart), Misuse> {
        let now = SystemClock.now();
        let read = |flag: &str, text: &str| {
            EventTime::parse(text, now).map_err(|error| Misuse::new(format!("{flag}: {error}")))
        };
        let (from, to) = (read("--from", &self.from)?, read("--to", &self.to)?);
        let last = BucketStart::containing(to);
        let to = if last.time() < to { last.next() } else { last };
        let from = BucketStart::containing(from);
        if from >= to {
            return Err(Misuse::new("the range is empty: --from has to be before --to".to_owned()));
        }
        Ok((from, to))
    }
}

/// What counting anew goes by: the settings of the cluster's nodes. Their file will do.
#[derive(Clone, Debug, Args)]
pub(crate) struct Tool {
    #[command(flatten)]
    pub(crate) sources: Sources,

    #[command(flatten)]
    pub(crate) store: StoreSettings,

    #[command(flatten)]
    pub(crate) cluster: ClusterSettings,
}

impl Tool {
    fn compactor_settings(&self, writer: &str) -> anyhow::Result<CompactorSettings> {
        let writer = NodeId::new(writer)?;
        Ok(CompactorSettings::new(self.cluster.shards, self.cluster.dimension_values, writer, random_seed()?))
    }
}

/// Opens the store of a cluster with so many shards, and reads what is committed.
async fn open(settings: &StoreSettings, shards: ShardCount) -> anyhow::Result<(Store, Arc<Catalog>)> {
    let location = settings.location();
    if let tidemark_history::store::Location::Folder(folder) = &location
        && !folder.exists()
    {
        // Opening would make it, and nothing would seem to be wrong.
        anyhow::bail!("there is no history in {}: say where it is with --store or --data", folder.display());
    }
    let store = Store::open(&location)?;
    join_cluster(&store, shards).await?;
    let catalog = Catalog::load(store.clone(), CatalogSettings::new(random_seed()?)).await?;
    Ok((store, Arc::new(catalog)))
}
