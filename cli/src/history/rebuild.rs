//! `tidemark rebuild`: counts a site's raw events anew under the present schema.

use super::{Range, Tool, open};
use crate::output;
use crate::settings::values;
use clap::Args;
use std::sync::Arc;
use tidemark_history::compact::Compactor;
use tidemark_node::clock::SystemClock;

/// What to rebuild.
#[derive(Clone, Debug, Args)]
pub(crate) struct RebuildOptions {
    /// Site, or * for all sites
    ///
    /// All sites of whole days also mend what is damaged of these days, but for raw events.
    #[arg(long, value_name = "SITE", value_parser = values::site_or_all)]
    site: String,

    #[command(flatten)]
    pub(crate) range: Range,

    #[command(flatten)]
    pub(crate) tool: Tool,
}

/// Rebuilds, and says what holds now.
pub(crate) async fn run(options: &RebuildOptions) -> anyhow::Result<()> {
    let (from, to) = options.range.buckets()?;
    let tool = &options.tool;
    let schema = tool.cluster.schema()?;
    let (store, catalog) = open(&tool.store, tool.cluster.shards).await?;
    let compactor =
        Compactor::new(store, catalog, tool.compactor_settings("rebuild")?, Arc::new(SystemClock));
    let site = Some(options.site.as_str()).filter(|site| *site != "*");
    let text = match compactor.rebuild(site, from, to, &schema).await? {
        Some(rebuilt) => format!(
            "rebuilt {} buckets; {} holds now, and nodes take it up within five minutes\n",
            rebuilt.buckets,
            rebuilt.record.path()
        ),
        None => "nothing is committed in that range: there is nothing to rebuild\n".to_owned(),
    };
    Ok(output::print(&text)?)
}
