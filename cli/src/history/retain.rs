//! `tidemark retain`: what of history is no longer kept.

use super::{Tool, open};
use crate::output;
use crate::settings::history::RetentionSettings;
use clap::Args;
use std::sync::Arc;
use tidemark_history::compact::Compactor;
use tidemark_history::retention::{Expiry, GARBAGE_AFTER, plan};
use tidemark_node::clock::SystemClock;
use tidemark_rollup::time::Clock as _;

/// What to do.
#[derive(Clone, Debug, Args)]
pub(crate) struct RetainOptions {
    #[command(flatten)]
    pub(crate) tool: Tool,

    #[command(flatten)]
    pub(crate) retention: RetentionSettings,

    /// Do what is listed
    ///
    /// Without it, nothing is changed. What a day loses is replaced at once and deleted a day later, so that nobody who is
    /// reading it is interrupted.
    #[arg(long)]
    delete: bool,
}

/// Lists, and with `--delete` deletes.
pub(crate) async fn run(options: &RetainOptions) -> anyhow::Result<()> {
    let tool = &options.tool;
    let retention = options.retention.retention();
    let (store, catalog) = open(&tool.store, tool.cluster.shards).await?;
    let expired = plan(&catalog.current(), SystemClock.now(), &retention);
    let compactor = Compactor::new(store, catalog, tool.compactor_settings("retain")?, Arc::new(SystemClock));
    let garbage = match options.delete {
        true => {
            compactor.expire(&retention).await?;
            compactor.collect_garbage(GARBAGE_AFTER).await?
        }
        false => compactor.garbage(GARBAGE_AFTER).await?,
    };
    let mut text: String = expired.iter().map(line_of).collect();
    garbage.paths.iter().for_each(|path| text += &format!("{path}\n"));
    let done = if options.delete { "no longer kept" } else { "would no longer be kept" };
    let deleted = if options.delete { "deleted" } else { "would be deleted" };
    text += &format!(
        "{} days have something that is {done}; {} objects of {} bytes that nothing needs {deleted}\n",
        expired.len(),
        garbage.paths.len(),
        garbage.bytes
    );
    Ok(output::print(&text)?)
}

fn line_of(expiry: &Expiry) -> String {
    let kinds = [
        (expiry.five_minutes, "rows of five minutes"),
        (expiry.raw, "raw events"),
        (expiry.all, "everything"),
    ];
    let kinds: Vec<&str> =
        kinds.into_iter().filter(|(is_expired, _)| *is_expired).map(|(_, name)| name).collect();
    format!("{}: {}\n", expiry.day, kinds.join(", "))
}
