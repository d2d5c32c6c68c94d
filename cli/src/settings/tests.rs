//! Settings from files, and files together with flags.

use crate::command_line::{self, Command, SERVING};
use crate::settings::coordinator::CoordinatorSettings;
use crate::settings::file::{self, FileError};
use crate::settings::node::NodeSettings;
use clap::{ArgMatches, FromArgMatches as _};
use std::collections::BTreeSet;
use tidemark_coordinator::CoordinatorConfig;
use tidemark_node::NodeConfig;

const EXAMPLE: &str = include_str!("../../../deploy/tidemark.toml");
const COORDINATOR_EXAMPLE: &str = include_str!("../../../deploy/coordinator.toml");

/// A value that is not the default, for every setting of every serving command, as the file has it and as text.
const VALUES: &[(&str, &str, &str)] = &[
    ("id", r#""n1""#, "n1"),
    ("listen", r#""127.0.0.1:7200""#, "127.0.0.1:7200"),
    ("zone", r#""rack-7""#, "rack-7"),
    ("seeds", r#"["h:1", "g:2"]"#, "h:1 g:2"),
    ("gossip", r#""127.0.0.1:7300""#, "127.0.0.1:7300"),
    ("advertise", r#""10.0.0.1:7200""#, "10.0.0.1:7200"),
    ("cluster", r#""east""#, "east"),
    ("cluster_key", r#""sixteen characters""#, "sixteen characters"),
    ("replication", "3", "3"),
    ("min_owners", "2", "2"),
    ("drain_timeout", r#""5s""#, "5s"),
    ("peer_bytes", r#""9MiB""#, "9MiB"),
    ("tls", r#""certs""#, "certs"),
    ("tokens", r#""tokens.toml""#, "tokens.toml"),
    ("ca", r#""ca.crt""#, "ca.crt"),
    ("token_file", r#""token""#, "token"),
    ("single", "true", "true"),
    ("http", r#""127.0.0.1:8200""#, "127.0.0.1:8200"),
    ("shards", "16", "16"),
    ("dimensions", r#"["country"]"#, "country"),
    ("measures", r#"["a=count(x)", "b=sum(v, x)"]"#, "a=count(x) b=sum(v, x)"),
    ("dimension_values", "5", "5"),
    ("keep_params", r#"["*:id"]"#, "*:id"),
    ("accept_late", r#""1h 30m""#, "1h 30m"),
    ("in_flight_bytes", r#""8MiB""#, "8MiB"),
    ("memory_budget", r#""1GiB""#, "1GiB"),
    ("store", r#""s3://bucket/prefix""#, "s3://bucket/prefix"),
    ("data", r#""there""#, "there"),
    ("sync", r#""interval""#, "interval"),
    ("journal_limit", r#""2GiB""#, "2GiB"),
    ("keep", r#""1h""#, "1h"),
    ("settle", r#""3s""#, "3s"),
    ("cache_disk", r#""5GiB""#, "5GiB"),
    ("cache_memory", r#""6MiB""#, "6MiB"),
    ("compact_after", r#""2h""#, "2h"),
    ("verify_every", r#""off""#, "off"),
    ("keep_five_minutes", r#""10days""#, "10days"),
    ("keep_raw", r#""20days""#, "20days"),
    ("keep_days", r#""300days""#, "300days"),
    ("forward_timeout", r#""1s""#, "1s"),
    ("query_timeout", r#""500ms""#, "500ms"),
    ("ingest_timeout", r#""9s""#, "9s"),
    ("max_queries", "3", "3"),
    ("max_subscriptions", "5", "5"),
    ("max_posts", "4", "4"),
    ("max_connections", "5", "5"),
    ("log", r#""warn,tidemark_node=debug""#, "warn,tidemark_node=debug"),
    ("log_format", r#""json""#, "json"),
    ("otlp", r#""http://127.0.0.1:4318""#, "http://127.0.0.1:4318"),
    ("otlp_one_in", "7", "7"),
    ("rate", "7", "7"),
    ("seed", "9", "9"),
    ("to", r#"["http://h:1", "http://g:2"]"#, "http://h:1 http://g:2"),
    ("spool", r#""there""#, "there"),
    ("spool_limit", r#""2GiB""#, "2GiB"),
    ("batch_age", r#""5ms""#, "5ms"),
    ("sites", r#"["a.example", "b.example=*"]"#, "a.example b.example=*"),
    ("geo", r#""countries.mmdb""#, "countries.mmdb"),
    ("visitor", r#""none""#, "none"),
    ("visitor_key", r#""sixteen characters""#, "sixteen characters"),
    ("do_not_track", r#""ignore""#, "ignore"),
    ("trusted_proxies", "1", "1"),
    ("address_rate", "2", "2"),
    ("site_rate", "3", "3"),
    ("site_bytes", r#""1MiB""#, "1MiB"),
    ("site_urls", "8", "8"),
    ("site_rows", "9", "9"),
    ("site_queries", "2", "2"),
    ("site_scan", "12", "12"),
    ("site_times", r#"["a.example=20", "b.example=3"]"#, "a.example=20 b.example=3"),
    ("max_body", r#""1MiB""#, "1MiB"),
];

fn serving(name: &str) -> clap::Command {
    command_line::command().find_subcommand(name).unwrap().clone()
}

fn raw(matches: &ArgMatches, id: &str) -> String {
    let values = matches.get_raw(id).unwrap();
    values.map(|value| value.to_str().unwrap()).collect::<Vec<_>>().join(" ")
}

pub(crate) fn node_settings(text: &str, flags: &[&str]) -> NodeSettings {
    let command = file::with_defaults_from(serving("node"), text, &BTreeSet::new()).unwrap();
    let matches = command.try_get_matches_from([&["node"], flags].concat()).unwrap();
    NodeSettings::from_arg_matches(&matches).unwrap()
}

fn node_config(text: &str, flags: &[&str]) -> NodeConfig {
    let settings = node_settings(text, flags);
    settings.node_config(settings.listen).unwrap()
}

fn error(command: &str, text: &str) -> FileError {
    file::with_defaults_from(serving(command), text, &BTreeSet::new())
        .err()
        .unwrap_or_else(|| panic!("{text} is accepted"))
}

#[test]
fn every_setting_is_a_key_of_the_file() {
    for name in SERVING {
        let command = serving(name);
        for arg in file::settings(&command) {
            let id = arg.get_id().as_str();
            let (_, in_file, text) =
                VALUES.iter().find(|(key, ..)| *key == id).unwrap_or_else(|| panic!("{id}"));
            let from_file =
                file::with_defaults_from(command.clone(), &format!("{id} = {in_file}"), &BTreeSet::new())
                    .unwrap();
            let matches = from_file.try_get_matches_from([name]).unwrap();
            assert_eq!(raw(&matches, id), *text, "{name} {id}");
        }
    }
}

#[test]
fn the_file_goes_before_the_default_and_the_flag_before_the_file() {
    let file = "shards = 16\ndimensions = [\"country\"]\nsingle = true\n";
    let config = node_config(file, &[]);
    assert_eq!((config.shards.get(), config.schema.dimensions()), (16, &["country".to_owned()][..]));
    assert_eq!(config.max_queries, NodeConfig::new(config.id, config.listen, config.data).max_queries);

    let config = node_config(file, &["--shards", "8", "--dimensions", "device,status"]);
    assert_eq!((config.shards.get(), config.schema.dimensions().len()), (8, 2));
    assert!(node_settings(file, &[]).single);
    assert!(!node_settings(file, &["--single=false"]).single);
}

#[test]
fn an_empty_list_in_the_file_is_an_empty_list() {
    assert!(node_config("dimensions = []", &[]).schema.dimensions().is_empty());
}

#[test]
fn a_key_that_is_no_setting_is_named_together_with_those_that_are() {
    let message = error("node", "accept_lat = \"48h\"").to_string();
    assert!(message.starts_with("accept_lat is no setting; these are: "), "{message}");
    assert!(message.contains(" accept_late,") && !message.contains("config"), "{message}");
    // Settings of another command are unknown, too.
    assert!(matches!(error("coordinator", "accept_late = \"48h\""), FileError::UnknownKey { .. }));
    assert!(matches!(error("node", "[node]\nshards = 8"), FileError::UnknownKey { .. }));
    assert!(matches!(error("node", "config = \"other.toml\""), FileError::UnknownKey { .. }));
}

#[test]
fn a_value_that_cannot_be_is_named_with_its_key_and_with_what_can() {
    for (text, expected) in [
        (r#"accept_late = "48""#, r#"accept_late = "48": "48" is no length of time"#),
        ("accept_late = 48", r#"accept_late = 48: give a text in quotes, like "48h""#),
        (r#"shards = "64""#, r#"shards = "64": give a whole number, without quotes, like 64"#),
        ("shards = 63", "shards = 63: \"63\" is no number of shards: give a power of two"),
        ("max_queries = 0", "max_queries = 0: "),
        ("max_queries = -1", "max_queries = -1: "),
        (r#"single = "yes""#, r#"single = "yes": give true or false"#),
        (r#"dimensions = "country""#, r#"dimensions = "country": give an array"#),
        ("dimensions = [1]", "dimensions = [1]: every element has to be a text in quotes"),
        (r#"measures = ["views"]"#, r#"measures = ["views"]: "views" is no measure: write name=count(kind)"#),
        (r#"seeds = ["10.0.0.2"]"#, "is no address: write host:port"),
        ("replication = 0", "is no number of owners: give 1 to 7"),
        (r#"cluster_key = "short""#, "is too short"),
        (r#"listen = "localhost""#, "is no address to listen on"),
        (r#"memory_budget = "4G""#, "is no size"),
        (r#"log = "loud=very""#, "is no log filter"),
        ("listen = 2015-05-17", "give a text in quotes"),
    ] {
        let message = error("node", text).to_string();
        assert!(message.contains(expected), "{text}: {message}");
        assert!(message.starts_with(text.split(' ').next().unwrap()), "{message}");
        assert_eq!(message.lines().count(), 1, "{message}");
    }
}

#[test]
fn a_file_that_is_no_toml_is_an_error_that_shows_where() {
    let message = error("node", "shards = \n").to_string();
    assert!(message.contains("line 1"), "{message}");
}

fn coordinator_config(text: &str, flags: &[&str]) -> CoordinatorConfig {
    let command = file::with_defaults_from(serving("coordinator"), text, &BTreeSet::new()).unwrap();
    let matches = command.try_get_matches_from([&["coordinator"], flags].concat()).unwrap();
    CoordinatorSettings::from_arg_matches(&matches).unwrap().config().unwrap()
}

/// The settings that an example file has, with and without a mark before them.
fn mentioned(example: &str) -> BTreeSet<&str> {
    let keys = example.lines().filter_map(|line| line.trim_start_matches("# ").split_once(" = "));
    keys.map(|(key, _)| key).collect()
}

#[test]
fn the_example_files_set_defaults_and_mention_every_setting() {
    let debug = |config: NodeConfig| format!("{config:?}");
    assert_eq!(debug(node_config(EXAMPLE, &[])), debug(node_config("", &[])));
    let from_file = coordinator_config(COORDINATOR_EXAMPLE, &[]);
    let default = coordinator_config("", &["--seeds", "127.0.0.1:7100"]);
    assert_eq!(format!("{from_file:?}"), format!("{default:?}"));
    for (name, example) in [("node", EXAMPLE), ("coordinator", COORDINATOR_EXAMPLE)] {
        let command = serving(name);
        let settings: BTreeSet<&str> = file::settings(&command).map(|arg| arg.get_id().as_str()).collect();
        assert_eq!(mentioned(example), settings, "{name}");
    }
}

#[test]
fn what_the_example_file_leaves_out_is_valid_where_the_mark_is_removed() {
    let uncommented: String = EXAMPLE
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(rest) if rest.split_once(" = ").is_some_and(|(key, _)| !key.contains(' ')) => {
                format!("{rest}\n")
            }
            _ => format!("{line}\n"),
        })
        .collect();
    let config = node_config(&uncommented, &[]);
    assert_eq!((config.id.as_str(), config.store.is_some()), ("n1", true));
}

#[test]
fn an_address_for_http_needs_a_coordinator_to_listen_there() {
    let error = node_settings("http = \"127.0.0.1:8100\"", &[]).coordinator_config().unwrap_err();
    assert!(error.to_string().contains("--single"), "{error}");
    let single = node_settings("", &["--single", "--http", "127.0.0.1:1", "--query-timeout", "7s"]);
    let coordinator = single.coordinator_config().unwrap().unwrap();
    assert_eq!((coordinator.http.port(), coordinator.query_timeout.as_secs()), (1, 7));
    assert_eq!(single.node_config(single.listen).unwrap().query_timeout.as_secs(), 7);
}

#[test]
fn a_coordinator_needs_a_node_to_begin_with() {
    let parse = |flags: &[&str]| {
        let words = [&["tidemark", "coordinator"], flags].concat();
        let words: Vec<_> = words.into_iter().map(Into::into).collect();
        match command_line::parse(&words).unwrap().command {
            Command::Coordinator(settings) => settings,
            other => panic!("{other:?}"),
        }
    };
    assert!(parse(&[]).config().unwrap_err().to_string().contains("--seeds"));
    assert_eq!(parse(&["--seeds", "h:1,g:2"]).config().unwrap().replication.get(), 2);
}

#[test]
fn measures_and_dimensions_share_one_set_of_names() {
    let settings = node_settings("", &["--dimensions", "views"]);
    let error = settings.node_config(settings.listen).unwrap_err();
    assert!(error.to_string().contains("\"views\" is taken"), "{error}");
}

#[test]
fn verifying_can_be_switched_off_by_word_and_by_zero() {
    for text in ["off", "0s"] {
        assert_eq!(node_config(&format!("verify_every = \"{text}\""), &[]).verify_every, None, "{text}");
    }
    assert_eq!(node_config("", &["--verify-every", "2m"]).verify_every.unwrap().as_secs(), 120);
    assert!(error("node", "verify_every = \"seldom\"").to_string().contains("or off"));
}
