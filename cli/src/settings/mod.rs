//! Settings: what can be set, where it may be set, and what a value has to look like.
//!
//! Owns: the settings of every serving command, and the rule that each is a flag, a key of the `--config` file and an
//! environment variable of the same words. A flag goes before the environment, that before the file, and that before the
//! default.
//! Does not own: what settings do (`tidemark_node`, `tidemark_coordinator`, `tidemark_edge`).
//!
//! Lists have one form as well: separated by commas or the flag repeated; in the file, an array. A list that is set
//! replaces the default as a whole.

pub(crate) mod access;
pub(crate) mod coordinator;
pub(crate) mod edge;
pub(crate) mod file;
pub(crate) mod gossip;
pub(crate) mod history;
pub(crate) mod node;
pub(crate) mod quotas;
#[cfg(test)]
mod tests;
pub(crate) mod values;

use crate::failure::Misuse;
use clap::Args;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use tidemark_rollup::census;
use tidemark_rollup::schema::{DEFAULT_DIMENSIONS, DEFAULT_MEASURES, Schema};
use tidemark_rollup::sharding::ShardCount;
use values::Measures;

/// Where settings come from, and where the log goes.
#[derive(Clone, Debug, Args)]
pub(crate) struct Sources {
    /// TOML file with settings: keys are the flags' names with underscores
    ///
    /// Flags and environment variables go before it. A key that is no setting is an error.
    #[arg(long, value_name = "FILE", help_heading = "Program")]
    pub(crate) config: Option<PathBuf>,
}

/// What all members of a cluster have to agree on.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "What is counted (the same on all members)")]
pub(crate) struct ClusterSettings {
    /// Number of shards of the cluster, a power of two
    ///
    /// Fixed when a cluster is created. More spread better over many nodes and cores; each costs a few kilobytes per site
    /// and five minutes.
    #[arg(
        long,
        value_name = "COUNT",
        value_parser = values::shard_count,
        default_value = ShardCount::DEFAULT.get().to_string()
    )]
    pub(crate) shards: ShardCount,

    /// Dimensions that events can be filtered and grouped by, separated by commas
    ///
    /// At most 32. Each more makes more rows of the same events, in memory and in every scan. Dimensions of events that are
    /// not named here are ignored.
    #[arg(long, value_name = "NAME", value_delimiter = ',', default_value = DEFAULT_DIMENSIONS.join(","))]
    pub(crate) dimensions: Vec<String>,

    /// Measures that are kept, each as name=count(kind), name=sum(value), name=unique(visitor) or name=distribution(value)
    ///
    /// Separated by commas; at most 64. The last three take a kind of event as a second word: sum(engaged_ms, engage).
    /// Counts and sums cost 8 bytes per row, uniques and distributions up to some kilobytes per row.
    #[arg(
        long,
        value_name = "MEASURE",
        value_parser = values::measures,
        default_value = DEFAULT_MEASURES.join(", ")
    )]
    pub(crate) measures: Vec<Measures>,

    /// Distinct values per site, dimension and five minutes that keep their names; others count under (other)
    ///
    /// More shows more of the long tail; fewer bounds the memory that one site can take, and the cost of agreeing on which
    /// values are beyond.
    #[arg(
        long,
        value_name = "COUNT",
        value_parser = clap::value_parser!(u32).range(1..),
        default_value = census::DEFAULT_LIMIT.to_string()
    )]
    pub(crate) dimension_values: u32,
}

impl ClusterSettings {
    /// The schema.
    ///
    /// # Errors
    /// Where dimensions and measures do not go together.
    pub(crate) fn schema(&self) -> Result<Arc<Schema>, Misuse> {
        let measures = self.measures.iter().flat_map(|Measures(measures)| measures.iter().cloned());
        let schema = Schema::new(self.dimensions.clone(), measures.collect());
        schema.map(Arc::new).map_err(|error| Misuse::new(format!("dimensions and measures: {error}")))
    }
}

/// What is logged.
#[derive(Clone, Debug, Args)]
pub(crate) struct LogSettings {
    /// What is logged, to stderr: error, warn, info, debug or trace, also by module
    ///
    /// info,tidemark_node=debug shows more of one part. More than info costs speed.
    #[arg(
        long,
        value_name = "FILTER",
        value_parser = values::log_filter,
        default_value = "info",
        help_heading = "Program"
    )]
    pub(crate) log: String,

    #[command(flatten)]
    pub(crate) form: LogForm,
}

/// Where spans go.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Program")]
pub(crate) struct TraceSettings {
    /// Collector of spans, which speaks OTLP over HTTP, like http://127.0.0.1:4318 [default: none]
    ///
    /// A span is a call: a question and what comes of it on other members, a post, a batch of blocks, repair. None is per event.
    #[arg(long, value_name = "URL", value_parser = values::collector)]
    pub(crate) otlp: Option<String>,

    /// Of traces that begin here, one in so many is collected
    ///
    /// More of them show more and cost more. Those that begin elsewhere are collected where their traceparent says so.
    #[arg(long, value_name = "COUNT", default_value_t = ONE_TRACE_IN)]
    pub(crate) otlp_one_in: NonZeroUsize,
}

/// How many traces there are to one that is collected.
const ONE_TRACE_IN: NonZeroUsize = NonZeroUsize::MIN.saturating_add(99);

/// How it is logged.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct LogForm {
    /// Form of the log: text for people, json for programs, one object per line
    ///
    /// An object has timestamp, level, target and fields; the sentence is the field message.
    #[arg(long, value_name = "FORM", value_enum, default_value_t = LogFormat::Text, help_heading = "Program")]
    pub(crate) log_format: LogFormat,
}

/// The form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum LogFormat {
    /// A line of text.
    Text,
    /// A JSON object.
    Json,
}
