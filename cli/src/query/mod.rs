//! `tidemark query`: asks a coordinator and prints the answer.
//!
//! Owns: the flags, the question they make, and errors in terms of flags.
//! Does not own: what can be asked (the coordinator says), how an answer looks (`show`).

pub(crate) mod condition;

use crate::failure::Misuse;
use crate::output;
use crate::reach::ReachOptions;
use crate::settings::values;
use crate::show::answer::{self, Asked};
use crate::show::facts;
use clap::Args;
use tidemark_client::{ClientError, QueryClient};
use tidemark_coordinator::{answer_to_csv, answer_to_json};
use tidemark_proto::v1;
use tidemark_rollup::time::Granularity;

/// Where a coordinator is unless one is named.
pub(crate) const DEFAULT_COORDINATOR: &str = "http://127.0.0.1:8100";

/// A question.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  tidemark query --site example.com --by url --measure views,visitors,load_ms.p95 --top 10
  tidemark query --site example.com --by country --where device=mobile,tablet --versus 7d
  tidemark query --site example.com --granularity 1h --where 'url^=/news/' --since 1d")]
pub(crate) struct QueryOptions {
    /// Site to ask about; * for all
    #[arg(long, value_name = "SITE")]
    site: String,

    /// What a row is for: url, site or dimensions, separated by commas; without it one row for everything
    #[arg(long, value_name = "FIELD", value_delimiter = ',')]
    by: Vec<String>,

    /// What to show, separated by commas [default: views]
    ///
    /// A distribution takes one of .p50 .p95 .p99 .max .mean .count: load_ms.p95.
    #[arg(long, value_name = "MEASURE", value_delimiter = ',')]
    measure: Vec<String>,

    /// From so long ago until now, as a number and s, m, h, d or w [default: 1h]
    #[arg(
        long,
        value_name = "LENGTH",
        value_parser = values::offset,
        conflicts_with_all = ["from", "to_time"]
    )]
    since: Option<String>,

    /// First moment: RFC 3339, or a time ago like -2h; rounded down to the granularity
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    from: Option<String>,

    /// First moment after the range, likewise; rounded up to the granularity [default: now]
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    to_time: Option<String>,

    /// Width of the steps of time: 5m, 1h, 1d, or all for one step
    #[arg(long, value_name = "WIDTH", value_parser = granularity, default_value = "all")]
    granularity: String,

    /// Only events with these values: device=mobile,tablet; or device!=bot, or url^=/news/ for a prefix
    ///
    /// Repeated for several conditions, all of which must hold. campaign= is for events without a campaign.
    #[arg(long = "where", value_name = "CONDITION", value_parser = condition::parse)]
    conditions: Vec<v1::Filter>,

    /// Measure whose largest values come first [default: the first measure]
    #[arg(long, value_name = "MEASURE")]
    order_by: Option<String>,

    /// Rows per step of time, up to 10000 [default: 1000]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    top: Option<u32>,

    /// Compare with the same range so much earlier: 7d and the like, or week, month (28d), year (364d), which fall on the same weekday
    ///
    /// Of what has not ended yet, only the part is compared that has.
    #[arg(long, value_name = "LENGTH", value_parser = versus)]
    versus: Option<String>,

    /// Where the coordinator is
    #[arg(
        long,
        value_name = "URL",
        value_parser = values::server,
        default_value = DEFAULT_COORDINATOR,
        env = "TIDEMARK_AT"
    )]
    pub(crate) at: String,

    #[command(flatten)]
    pub(crate) reach: ReachOptions,

    /// Print the answer as JSON, as POST /v1/query does
    #[arg(long)]
    pub(crate) json: bool,

    /// Print the answer as CSV, and the facts about it to standard error
    #[arg(long, conflicts_with = "json")]
    pub(crate) csv: bool,
}

fn granularity(text: &str) -> Result<String, String> {
    text.parse::<Granularity>()
        .map(|granularity| granularity.name().to_owned())
        .map_err(|error| error.to_string())
}

fn versus(text: &str) -> Result<String, String> {
    match text {
        "week" | "month" | "year" => Ok(text.to_owned()),
        text => values::offset(text),
    }
}

/// Asks, and prints the answer.
pub(crate) async fn run(options: &QueryOptions) -> anyhow::Result<()> {
    let answer = ask(&options.at, &options.reach, options.question()).await?;
    if options.json {
        return Ok(output::print(&format!("{}\n", answer_to_json(&answer)))?);
    }
    if options.csv {
        return print_csv(&answer).map(|_| ());
    }
    Ok(output::print(&as_table(&answer, &options.asked()))?)
}

/// A table, and the facts below it.
pub(crate) fn as_table(answer: &v1::Answer, asked: &Asked) -> String {
    let table = answer::table(answer, asked, output::terminal_width());
    let facts = answer.facts.clone().unwrap_or_default();
    let line = facts::line(&facts);
    // Bold red where the terminal has it; the words say it anyhow.
    let line = if facts.complete { line } else { console::style(line).red().bold().to_string() };
    format!("{table}\n{line}\n")
}

/// CSV to standard output; what it is worth to standard error, so that an answer that is not complete never looks so.
///
/// Whether anybody still reads it.
pub(crate) fn print_csv(answer: &v1::Answer) -> anyhow::Result<bool> {
    output::note(&facts::line(&answer.facts.clone().unwrap_or_default()));
    Ok(output::print_more(&String::from_utf8_lossy(&answer_to_csv(answer)))?)
}

/// Asks the coordinator at `at`.
///
/// # Errors
/// In words for whoever typed the question.
async fn ask(at: &String, reach: &ReachOptions, question: v1::Query) -> anyhow::Result<v1::Answer> {
    let dial = reach.dial([at])?;
    let client = QueryClient::connect_with(at, &dial).await.map_err(|error| in_words(error, at))?;
    client.query(question).await.map_err(|error| in_words(error, at))
}

pub(crate) fn in_words(error: ClientError, at: &str) -> anyhow::Error {
    match error {
        ClientError::InvalidQuery(message) => Misuse::new(in_flags(&message)).into(),
        ClientError::Unreachable { message, .. } => anyhow::anyhow!(
            "no coordinator answers at {at} ({message}): start one with `tidemark demo` or `tidemark node --single`, \
             or say where it is with --at"
        ),
        error => error.into(),
    }
}

/// Names the flag in place of the field: `measures[1]: ...` becomes `--measure: ...`.
fn in_flags(message: &str) -> String {
    let Some((field, rest)) = message.split_once(": ") else { return message.to_owned() };
    let flag = match field.split('[').next().unwrap_or(field) {
        "site" => "--site",
        "from" => "--from",
        "to" => "--to-time",
        "granularity" => "--granularity",
        "measures" => "--measure",
        "groupBy" => "--by",
        name if name.starts_with("filters") => "--where",
        "orderBy" => "--order-by",
        "limit" => "--top",
        "versus" => "--versus",
        _ => return message.to_owned(),
    };
    format!("{flag}: {rest}")
}

impl QueryOptions {
    /// The question.
    pub(crate) fn question(&self) -> v1::Query {
        let text = |option: &Option<String>| option.clone().unwrap_or_default();
        let since = self.since.as_ref().map(|since| format!("-{since}"));
        v1::Query {
            site: self.site.clone(),
            from: since.unwrap_or_else(|| text(&self.from)),
            to: text(&self.to_time),
            granularity: self.granularity.clone(),
            measures: self.measure.clone(),
            group_by: self.by.clone(),
            filters: self.conditions.clone(),
            order_by: text(&self.order_by),
            limit: self.top.unwrap_or_default(),
            versus: text(&self.versus),
        }
    }

    /// The same as far as tables have to know.
    pub(crate) fn asked(&self) -> Asked {
        Asked {
            groups: self.by.len(),
            granularity: self.granularity.clone(),
            versus: self.versus.clone().unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command_line::{Command, CommandLine};
    use clap::Parser as _;

    fn options(line: &str) -> Result<QueryOptions, clap::Error> {
        let words = ["tidemark", "query"].into_iter().chain(line.split(' '));
        match CommandLine::try_parse_from(words)?.command {
            Command::Query(options) => Ok(options),
            other => panic!("{other:?} is no query"),
        }
    }

    #[test]
    fn every_flag_is_part_of_the_question() {
        let line = "--site example.com --by url,device --measure views,load_ms.p95 --since 2h --granularity 5m \
                    --where device=mobile --where url^=/a --order-by load_ms.p95 --top 10 --versus 7d";
        let question = options(line).unwrap().question();
        let expected = v1::Query {
            site: "example.com".into(),
            from: "-2h".into(),
            to: String::new(),
            granularity: "5m".into(),
            measures: vec!["views".into(), "load_ms.p95".into()],
            group_by: vec!["url".into(), "device".into()],
            filters: vec![
                v1::Filter {
                    dimension: "device".into(),
                    r#in: vec!["mobile".into()],
                    ..v1::Filter::default()
                },
                v1::Filter { dimension: "url".into(), prefix: Some("/a".into()), ..v1::Filter::default() },
            ],
            order_by: "load_ms.p95".into(),
            limit: 10,
            versus: "7d".into(),
        };
        assert_eq!(question, expected);
    }

    #[test]
    fn fixed_times_take_the_place_of_since() {
        let question = options("--site s.de --from -2h --to-time 2015-05-18T00:00:00Z").unwrap().question();
        assert_eq!((question.from.as_str(), question.to.as_str()), ("-2h", "2015-05-18T00:00:00Z"));
        assert!(options("--site s.de --since 1h --from -2h").is_err());
        assert!(options("--site s.de --since yesterday").is_err());
    }

    #[test]
    fn an_error_names_the_flag_instead_of_the_field() {
        assert_eq!(in_flags("measures[1]: \"x\" is no measure"), "--measure: \"x\" is no measure");
        assert_eq!(in_flags("filters[0].dimension: is none"), "--where: is none");
        assert_eq!(in_flags("too many rows: ask for less"), "too many rows: ask for less");
    }

    #[test]
    fn an_error_in_the_question_ends_with_2_and_a_missing_coordinator_with_1() {
        let at = "http://127.0.0.1:8100";
        let invalid = in_words(ClientError::InvalidQuery("limit: is too large".into()), at);
        assert_eq!(
            (crate::failure::exit_code(&invalid), invalid.to_string().as_str()),
            (2, "--top: is too large")
        );
        let address = at.to_owned();
        let unreachable = in_words(ClientError::Unreachable { address, message: "refused".into() }, at);
        assert_eq!(crate::failure::exit_code(&unreachable), 1);
        assert!(unreachable.to_string().contains("tidemark demo"));
    }
}
