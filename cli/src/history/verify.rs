//! `tidemark verify`: counts raw events anew and compares.

use super::{Range, Tool, open};
use crate::output;
use crate::show::grid::{Align, Grid};
use clap::Args;
use serde_json::json;
use tidemark_history::verify::{Difference, Report, Verifier};

/// What to verify.
#[derive(Clone, Debug, Args)]
pub(crate) struct VerifyOptions {
    #[command(flatten)]
    pub(crate) range: Range,

    #[command(flatten)]
    pub(crate) tool: Tool,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Verifies, prints what was found, and fails where anything differs.
pub(crate) async fn run(options: &VerifyOptions) -> anyhow::Result<()> {
    let (from, to) = options.range.buckets()?;
    let (store, catalog) = open(&options.tool.store, options.tool.cluster.shards).await?;
    let verifier = Verifier::new(store, catalog, &options.tool.compactor_settings("verify")?);
    let report = verifier.verify(from, to).await?;
    let text = if options.json { json_of(&report) } else { text_of(&report, output::terminal_width()) };
    output::print(&text)?;
    if !report.is_equal() {
        anyhow::bail!("{} differences", report.different);
    }
    if report.buckets == 0 {
        anyhow::bail!("nothing was compared: no bucket of the range has rows and raw events");
    }
    Ok(())
}

fn text_of(report: &Report, max_width: Option<usize>) -> String {
    let mut text = String::new();
    if !report.differences.is_empty() {
        let column = |name: &str| (name.to_owned(), Align::Left);
        let mut grid = Grid::new(["where", "what", "of", "stored", "counted anew"].map(column).to_vec());
        for difference in &report.differences {
            grid.push(vec![
                difference.at.to_string(),
                difference.differs.to_string(),
                whose(difference),
                difference.stored.clone(),
                difference.recomputed.clone(),
            ]);
        }
        text += &grid.draw(max_width);
        text.push('\n');
        if report.different > report.differences.len() as u64 {
            text += &format!("and {} more\n", report.different - report.differences.len() as u64);
        }
    }
    text += &format!(
        "{}: {} buckets and {} days, {} rows, {} values, from {} events in {} blocks\n",
        if report.is_equal() { "EQUAL" } else { "DIFFERENT" },
        report.buckets,
        report.days,
        report.rows,
        report.cells,
        report.events,
        report.blocks,
    );
    if report.without_raw > 0 {
        text += &format!(
            "{} buckets could not be verified: their raw events are no longer kept\n",
            report.without_raw
        );
    }
    if report.without_rows > 0 {
        text += &format!(
            "{} buckets were verified in rows of days only: their five-minute rows are no longer kept\n",
            report.without_rows
        );
    }
    text
}

fn whose(difference: &Difference) -> String {
    let dimensions = difference.dimensions.iter().map(|(name, value)| format!(" {name}={value}"));
    format!("{}{}{}", difference.site, difference.url, dimensions.collect::<String>())
}

fn json_of(report: &Report) -> String {
    let differences: Vec<_> = report
        .differences
        .iter()
        .map(|difference| {
            let dimensions: serde_json::Map<String, serde_json::Value> =
                difference.dimensions.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
            json!({
                "at": difference.at.to_string(),
                "what": difference.differs.to_string(),
                "site": difference.site,
                "url": difference.url,
                "dimensions": dimensions,
                "stored": difference.stored,
                "recomputed": difference.recomputed,
            })
        })
        .collect();
    let all = json!({
        "equal": report.is_equal(),
        "buckets": report.buckets,
        "days": report.days,
        "rows": report.rows,
        "values": report.cells,
        "events": report.events,
        "blocks": report.blocks,
        "withoutRaw": report.without_raw,
        "withoutRows": report.without_rows,
        "different": report.different,
        "differences": differences,
    });
    format!("{all:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemark_history::verify::{At, Differs};
    use tidemark_rollup::time::BucketStart;

    #[test]
    fn a_difference_is_a_row_of_the_table() {
        let difference = Difference {
            at: At::Bucket(BucketStart::from_unix_seconds(300).unwrap()),
            site: "s.de".to_owned(),
            url: "/a".to_owned(),
            dimensions: vec![("device".to_owned(), "mobile".to_owned())],
            differs: Differs::Measure("views".to_owned()),
            stored: "3".to_owned(),
            recomputed: "4".to_owned(),
        };
        let report = Report { buckets: 1, differences: vec![difference], different: 3, ..Report::default() };
        let text = text_of(&report, None);
        for part in
            ["bucket 1970-01-01T00:05:00Z", "views", "s.de/a device=mobile", "and 2 more", "DIFFERENT"]
        {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
    }
}
