//! `tidemark loadgen`: load by the clock, measured and proved.
//!
//! Owns: the flags, searching for the highest rate, and what is printed and written.
//! Does not own: the load (`tidemark_loadgen::load`), the view while it runs (`live`).

mod live;
mod traffic;

use crate::failure::Misuse;
use crate::members::DEFAULT_NODE;
use crate::output;
use crate::query::DEFAULT_COORDINATOR;
use crate::reach::ReachOptions;
use crate::serve::random_producer;
use crate::settings::values;
use crate::shutdown;
use anyhow::Context as _;
use clap::{Args, ValueEnum};
use serde_json::json;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tidemark_client::BatchConfig;
use tidemark_loadgen::load::report;
use tidemark_loadgen::load::run::{Form, RunError, RunOptions, RunReport, run as run_load};
use tidemark_loadgen::load::schedule::{Schedule, Shape};
use tidemark_loadgen::load::search::{Search, holds};
use tidemark_node::clock::SystemClock;
use tokio_util::sync::CancellationToken;
use traffic::TrafficOptions;

/// No higher rate is looked for.
const MOST: f64 = 1e8;

/// What load to make.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  tidemark loadgen --rate 20000 --for 1min --verify
  tidemark loadgen --ramp 1000..100000 --for 2min --queries 20 --subscribers 50 --html run.html
  tidemark loadgen --find-max 25ms --rate 10000 --for 10s
  tidemark loadgen --rate 50000 --for 90s --viral 0.5 --verify

Events are due by the clock, whether or not the ones before are acknowledged; latencies count from when they were due. It ends with 1 \
where not everything that was due is acknowledged, or, with --verify, where the cluster does not count what was sent.")]
pub(crate) struct LoadgenOptions {
    /// Nodes to send to, separated by commas; one of a cluster is enough
    #[arg(long, value_name = "URL", value_parser = values::server, value_delimiter = ',', default_value = DEFAULT_NODE, env = "TIDEMARK_TO")]
    to: Vec<String>,

    /// Coordinator to ask
    #[arg(long, value_name = "URL", value_parser = values::server, default_value = DEFAULT_COORDINATOR, env = "TIDEMARK_AT")]
    at: String,

    #[command(flatten)]
    reach: ReachOptions,

    /// Events per second
    #[arg(long, value_name = "RATE", value_parser = rate, default_value = "1000")]
    rate: f64,

    /// How long; with --find-max, each rate
    #[arg(long = "for", value_name = "DURATION", value_parser = values::timeout, default_value = "30s")]
    duration: Duration,

    /// From one rate to another, evenly: FROM..TO
    #[arg(long, value_name = "RATES", value_parser = ramp, conflicts_with_all = ["steps", "spike", "find_max"])]
    ramp: Option<(f64, f64)>,

    /// One rate after another, separated by commas
    #[arg(long, value_name = "RATES", value_parser = rate, value_delimiter = ',', conflicts_with_all = ["spike", "find_max"])]
    steps: Vec<f64>,

    /// This rate for the third fifth of the time, --rate otherwise
    #[arg(long, value_name = "RATE", value_parser = rate, conflicts_with = "find_max")]
    spike: Option<f64>,

    /// Find the highest rate, from --rate on, at which 99 of 100 acknowledgements take no longer than this
    #[arg(long, value_name = "DURATION", value_parser = values::timeout)]
    find_max: Option<Duration>,

    /// Connections that events go over
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256), default_value_t = 2)]
    producers: u32,

    /// Send blocks, made here, or rows, which a node makes blocks of
    #[arg(long, value_enum, value_name = "FORM", default_value = "blocks")]
    form: FormName,

    /// How long an event waits for others, to be sent with them; 1ms to 1s
    ///
    /// The default is that of our client. Longer makes larger blocks, which cost the cluster less; latencies count it.
    #[arg(long, value_name = "DURATION", value_parser = values::duration, default_value = default_linger())]
    linger: Duration,

    /// Queries per second beside the events, of the kinds that a dashboard asks
    #[arg(long, value_name = "RATE", value_parser = rate_or_none, default_value = "0")]
    queries: f64,

    /// Subscribers beside the events, of fifty different questions
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=10_000), default_value_t = 0)]
    subscribers: u32,

    #[command(flatten)]
    traffic: TrafficOptions,

    /// The same seed makes the same events
    #[arg(long, value_name = "N", default_value_t = 42)]
    seed: u64,

    /// In the name of each site, so that runs do not count into one another; random where not given, also of each rate of --find-max
    #[arg(long, value_name = "NAME", value_parser = run_name)]
    run: Option<String>,

    /// Ask the cluster afterwards and compare every count with what was sent; takes some 40 bytes of memory for each event
    #[arg(long, conflicts_with = "find_max")]
    verify: bool,

    /// How long a block is sent again, and how long acknowledgements and answers are waited for at the end
    #[arg(long, value_name = "DURATION", value_parser = values::timeout, default_value = "60s")]
    retry_for: Duration,

    /// Write a page with plots of latency over time and by percentile
    #[arg(long, value_name = "FILE", conflicts_with = "find_max")]
    html: Option<PathBuf>,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum FormName {
    Blocks,
    Rows,
}

fn default_linger() -> String {
    humantime::format_duration(BatchConfig::default().age).to_string()
}

fn rate(text: &str) -> Result<f64, String> {
    let rate: Option<f64> = text.replace('_', "").parse().ok();
    let possible = rate.filter(|rate| (0.01..=MOST).contains(rate));
    possible.ok_or_else(|| format!("{text:?} is no rate: give 0.01 to 100000000 per second"))
}

fn rate_or_none(text: &str) -> Result<f64, String> {
    if text == "0" { Ok(0.0) } else { rate(text) }
}

fn ramp(text: &str) -> Result<(f64, f64), String> {
    let (from, to) = text
        .split_once("..")
        .ok_or_else(|| format!("{text:?} is no ramp: give FROM..TO, like 1000..50000"))?;
    Ok((rate(from)?, rate(to)?))
}

fn run_name(text: &str) -> Result<String, String> {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let possible = (1..=40).contains(&text.len()) && text.bytes().all(is_plain);
    possible
        .then(|| text.to_owned())
        .ok_or_else(|| format!("{text:?} is no name: give up to 40 of a-z, 0-9 and -"))
}

/// Makes load and tells how it went.
pub(crate) async fn run(options: &LoadgenOptions) -> anyhow::Result<()> {
    let stop = shutdown::on_signal()?;
    match options.find_max {
        Some(p99) => find_max(options, p99, stop).await,
        None => {
            let report = run_once(options, options.shape(), options.run.clone(), stop).await?;
            if let Some(path) = &options.html {
                let write = std::fs::write(path, report::html(&report));
                write.with_context(|| format!("cannot write {}", path.display()))?;
            }
            match options.json {
                true => output::print(&format!("{}\n", report::json(&report)))?,
                false => output::print(&report::text(&report))?,
            }
            verdict(&report)
        }
    }
}

fn verdict(report: &RunReport) -> anyhow::Result<()> {
    let total = report.total();
    match &report.verdict {
        Some(verdict) if !verdict.is_equal() => {
            anyhow::bail!("{} of {} numbers differ from what was sent", verdict.differing, verdict.compared)
        }
        _ if !report.is_good() => {
            let left = total.due.saturating_sub(total.accepted + total.rejected);
            anyhow::bail!("{left} of {} events that were due are not acknowledged", total.due)
        }
        _ => Ok(()),
    }
}

async fn run_once(
    options: &LoadgenOptions,
    shape: Shape,
    run: Option<String>,
    stop: CancellationToken,
) -> anyhow::Result<RunReport> {
    let run = match run {
        Some(run) => run,
        None => random_name()?,
    };
    let load = RunOptions {
        dial: options.reach.dial(options.to.iter().chain([&options.at]))?,
        nodes: options.to.clone(),
        coordinator: Some(options.at.clone()),
        profile: options.traffic.profile(),
        schedule: Schedule { shape, duration: options.duration },
        seed: options.seed,
        run,
        producers: (0..options.producers).map(|_| random_producer()).collect::<anyhow::Result<_>>()?,
        form: match options.form {
            FormName::Blocks => Form::Blocks,
            FormName::Rows => Form::Rows,
        },
        linger: options.linger,
        queries_per_second: options.queries,
        subscribers: options.subscribers,
        keeps_sent: options.verify,
        retry_for: options.retry_for,
    };
    let over = CancellationToken::new();
    let schedule = load.schedule.clone();
    let mut view = None;
    let on_start = |watched| view = live::show(watched, schedule, over.clone());
    let report = run_load(load, Arc::new(SystemClock), stop, on_start).await;
    over.cancel();
    if let Some(view) = view {
        // It has nothing to say that the report does not.
        _ = view.await;
    }
    report.map_err(|error| match error {
        RunError::Profile(error) => Misuse::new(format!("--{error}")).into(),
        error => error.into(),
    })
}

fn random_name() -> anyhow::Result<String> {
    let mut bytes = [0; 4];
    getrandom::fill(&mut bytes).context("the system has no randomness")?;
    Ok(format!("r{:08x}", u32::from_be_bytes(bytes)))
}

async fn find_max(options: &LoadgenOptions, p99: Duration, stop: CancellationToken) -> anyhow::Result<()> {
    let mut search = Search::new(options.rate, MOST);
    let mut trials = Vec::new();
    while let Some(rate) = search.next_rate().filter(|_| !stop.is_cancelled()) {
        // A name that is given is that of all trials: what is there already is asked for, and added to.
        let report = run_once(options, Shape::Constant { rate }, options.run.clone(), stop.clone()).await?;
        if stop.is_cancelled() {
            break;
        }
        let holds = holds(&report, p99);
        search.note(rate, holds);
        let found = report.total().acknowledged.quantile(0.99).unwrap_or_default();
        let says = if holds { "holds" } else { "does not hold" };
        output::note(&format!("{rate:>12.0} events/s  p99 {:>9.2} ms  {says}", found.as_secs_f64() * 1e3));
        trials.push(json!({ "ratePerS": rate, "holds": holds, "report": report::json(&report) }));
    }
    if options.json {
        output::print(&format!("{}\n", json!({ "heldPerS": search.held(), "trials": trials })))?;
    }
    match search.held() {
        Some(held) => {
            if !options.json {
                output::print(&format!(
                    "{held:.0} events/s hold p99 of {}\n",
                    humantime::format_duration(p99)
                ))?;
            }
            Ok(())
        }
        None => anyhow::bail!("no rate that was tried holds p99 of {}", humantime::format_duration(p99)),
    }
}

impl LoadgenOptions {
    fn shape(&self) -> Shape {
        match (self.ramp, self.spike) {
            (Some((from, to)), _) => Shape::Ramp { from, to },
            (None, Some(peak)) => Shape::Spike { rate: self.rate, peak },
            (None, None) if !self.steps.is_empty() => Shape::Steps { rates: self.steps.clone() },
            (None, None) => Shape::Constant { rate: self.rate },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_ramps_and_names_that_cannot_be_say_what_could_be() {
        assert_eq!((rate("20_000"), rate_or_none("0")), (Ok(20_000.0), Ok(0.0)));
        assert_eq!(ramp("100..2000"), Ok((100.0, 2_000.0)));
        for bad in ["", "0", "-1", "inf", "nan", "many"] {
            assert!(rate(bad).unwrap_err().contains("per second"), "{bad}");
        }
        assert!(ramp("100").unwrap_err().contains("FROM..TO"));
        assert_eq!(run_name("r-1"), Ok("r-1".to_owned()));
        assert!(run_name("R.1").is_err());
    }
}
