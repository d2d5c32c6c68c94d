//! Load that proves the counts: in both forms, through a node that is killed, and where they are not what was sent.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what cannot be here is a failed test")]

use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use tidemark_loadgen::load::measured::Measured;
use tidemark_loadgen::load::profile::{Profile, Viral};
use tidemark_loadgen::load::report;
use tidemark_loadgen::load::run::{Form, RunOptions, RunReport, run};
use tidemark_loadgen::load::schedule::{Schedule, Shape};
use tidemark_node::clock::SystemClock;
use tidemark_rollup::block::ProducerId;
use tidemark_rollup::placement::Replication;
use tidemark_rollup::time::Clock as _;
use tidemark_tests::in_process::Cluster;
use tidemark_tests::processes::{Process, free_port, run as run_program};
use tokio_util::sync::CancellationToken;

const SHARDS: u32 = 16;

/// Little traffic, of which much is awkward.
fn profile() -> Profile {
    let viral = Viral { share: 0.5, after: Duration::from_secs(1), lasts: Duration::from_secs(1) };
    Profile {
        sites: 3,
        urls: 3_000,
        visitors: 2_000,
        late: 0.1,
        duplicates: 0.2,
        viral: Some(viral),
        ..Profile::default()
    }
}

fn options(cluster: &Cluster, nodes: usize, form: Form) -> RunOptions {
    RunOptions {
        nodes: (0..nodes).map(|node| cluster.url(node)).collect(),
        coordinator: Some(format!("http://{}", cluster.http_address)),
        ..options_of(form)
    }
}

/// The same for nobody in particular.
fn options_of(form: Form) -> RunOptions {
    RunOptions {
        nodes: Vec::new(),
        coordinator: None,
        dial: Default::default(),
        profile: profile(),
        schedule: Schedule {
            shape: Shape::Ramp { from: 500.0, to: 2_500.0 },
            duration: Duration::from_secs(4),
        },
        seed: 7,
        run: format!("{form:?}").to_lowercase(),
        producers: ids(),
        form,
        linger: Duration::from_millis(20),
        queries_per_second: 10.0,
        subscribers: 3,
        keeps_sent: true,
        retry_for: Duration::from_secs(30),
    }
}

/// Identities that no run before had.
fn ids() -> Vec<ProducerId> {
    let now = SystemClock.now().as_unix_ms() as u128;
    (0..2).map(|number| ProducerId::from_u128(now << 8 | number)).collect()
}

async fn run_load(options: RunOptions) -> RunReport {
    run(options, Arc::new(SystemClock), CancellationToken::new(), |_| {}).await.unwrap()
}

async fn cluster(nodes: usize) -> Cluster {
    Cluster::start(nodes, SHARDS, Arc::new(SystemClock), |node, _| node.replication = Replication::DEFAULT)
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocks_and_rows_of_a_run_are_counted_as_they_were_sent() {
    let cluster = cluster(2).await;
    for form in [Form::Blocks, Form::Rows] {
        let report = run_load(options(&cluster, 2, form)).await;
        let total = report.total();
        assert_eq!(
            (total.due, total.sent, total.accepted),
            (6_000, 6_000, 6_000),
            "{}",
            report::text(&report)
        );
        assert!(report.is_good(), "{}", report::text(&report));
        let verdict = report.verdict.as_ref().unwrap();
        assert_eq!((verdict.sure, verdict.unsure), (6_000, 0));
        // More than one number for each URL that was visited.
        assert!(verdict.compared > 500, "{verdict:?}");
        assert!(total.duplicates > 0 && total.updates > 0, "{}", report::text(&report));
        assert_eq!((total.answers().count() + total.failed_queries, total.acknowledged.count()), (40, 6_000));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_is_counted_exactly_although_a_node_is_lost_meanwhile() {
    let mut cluster = cluster(3).await;
    let options = options(&cluster, 3, Form::Blocks);
    let (begun, beginning) = tokio::sync::oneshot::channel();
    let report = tokio::spawn(async move {
        let on_start = |watched| _ = begun.send(watched);
        run(options, Arc::new(SystemClock), CancellationToken::new(), on_start).await.unwrap()
    });
    let watched = beginning.await.unwrap();
    cluster.until("a third is counted", |_| watched.timeline().total().accepted > 2_000).await;
    cluster.lose_node(1).await;
    let report = report.await.unwrap();
    let verdict = report.verdict.as_ref().unwrap();
    assert!(report.is_good(), "{}", report::text(&report));
    assert_eq!((verdict.sure, verdict.unsure), (6_000, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_is_ended_early_is_proved_as_far_as_it_went() {
    let cluster = cluster(1).await;
    let schedule = Schedule { shape: Shape::Constant { rate: 500.0 }, duration: Duration::from_secs(3_600) };
    let options = RunOptions { schedule, ..options(&cluster, 1, Form::Blocks) };
    let stop = CancellationToken::new();
    let (begun, beginning) = tokio::sync::oneshot::channel();
    let ended = stop.clone();
    let report = tokio::spawn(async move {
        run(options, Arc::new(SystemClock), ended, |watched| _ = begun.send(watched)).await.unwrap()
    });
    let watched = beginning.await.unwrap();
    cluster.until("some are counted", |_| watched.timeline().total().accepted > 300).await;
    stop.cancel();
    let report = report.await.unwrap();
    let (total, per_second) = (report.total(), report.offered_per_second());
    assert!(report.is_good() && total.due > 300 && total.due < 30_000, "{}", report::text(&report));
    assert!((100.0..510.0).contains(&per_second), "{per_second} are due per second");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_wait_for_others_for_as_long_as_they_may_linger_and_that_is_part_of_their_latency() {
    let cluster = cluster(1).await;
    let linger = Duration::from_millis(300);
    let options = RunOptions {
        schedule: Schedule { shape: Shape::Constant { rate: 200.0 }, duration: Duration::from_millis(1_200) },
        linger,
        queries_per_second: 0.0,
        subscribers: 0,
        ..options(&cluster, 1, Form::Blocks)
    };
    let report = run_load(options).await;
    let waited = |share| report.total().acknowledged.quantile(share).unwrap();
    assert!(report.is_good(), "{}", report::text(&report));
    assert!(waited(1.0) >= linger && waited(0.5) >= linger / 4, "{}", report::text(&report));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_cluster_counts_beyond_what_was_sent_is_told() {
    let cluster = cluster(1).await;
    let short = |seed| RunOptions {
        schedule: Schedule { shape: Shape::Constant { rate: 500.0 }, duration: Duration::from_secs(1) },
        seed,
        queries_per_second: 0.0,
        subscribers: 0,
        run: "twice".to_owned(),
        ..options(&cluster, 1, Form::Blocks)
    };
    assert!(run_load(short(1)).await.is_good());
    // The same sites again: what is counted is not what this run sent.
    let report = run_load(short(2)).await;
    assert!(!report.is_good());
    let verdict = report.verdict.as_ref().unwrap();
    let differing = |of: &str| verdict.differences.iter().any(|difference| difference.of.starts_with(of));
    assert!(verdict.differing > 10 && differing("bucket=") && differing("country="), "{verdict:?}");
    assert!(report::text(&report).contains("NOT VERIFIED"), "{}", report::text(&report));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_says_why_things_failed_while_its_node_was_away_and_that_subscribers_came_back() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data").to_str().unwrap().to_owned();
    let [listen, http] = [0, 1].map(|_| format!("127.0.0.1:{}", free_port()));
    let arguments = ["node", "--single", "--listen", &listen, "--http", &http, "--data", &data];
    let node = Process::start(&arguments, "coordinator is listening").await.unwrap();
    let options = RunOptions {
        nodes: vec![format!("http://{listen}")],
        coordinator: Some(format!("http://{http}")),
        schedule: Schedule { shape: Shape::Constant { rate: 500.0 }, duration: Duration::from_secs(15) },
        keeps_sent: false,
        retry_for: Duration::from_secs(1),
        ..options_of(Form::Blocks)
    };
    let (begun, beginning) = tokio::sync::oneshot::channel();
    let run = tokio::spawn(async move {
        let on_start = |watched| _ = begun.send(watched);
        run(options, Arc::new(SystemClock), CancellationToken::new(), on_start).await.unwrap()
    });
    let watched = beginning.await.unwrap();
    let until = async |what: &str, is: &dyn Fn(&Measured) -> bool| {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(14);
        while !is(watched.timeline().total()) {
            assert!(tokio::time::Instant::now() < deadline, "{what}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    until("subscribers are updated", &|total| total.updates >= 3).await;
    node.kill().await;
    until("blocks are given up", &|total| total.undelivered > 0 && total.failed_queries > 0).await;
    let node = Process::start(&arguments, "coordinator is listening").await.unwrap();
    let report = run.await.unwrap();
    let (total, failures, text) = (report.total(), &report.failures, report::text(&report));
    assert!(!report.is_good() && failures.blocks.total() > 0, "{text}");
    assert!(
        failures.blocks.most_often_first().iter().any(|(why, _)| why.starts_with("given up: ")),
        "{text}"
    );
    assert_eq!(failures.queries.total(), total.failed_queries, "{text}");
    assert_eq!((total.lost_subscribers, failures.subscribers.total()), (3, 3), "{text}");
    assert_eq!(total.returned_subscribers, 3, "{text}");
    assert!(text.contains("lost 3 times, came back 3 times"), "{text}");
    assert_eq!(node.terminate().await, Some(0));
}

#[tokio::test]
async fn loadgen_prints_json_writes_a_page_and_ends_with_1_where_counts_differ() {
    let folder = tempfile::tempdir().unwrap();
    let (data, page) = (folder.path().join("data"), folder.path().join("run.html"));
    let (data, page) = (data.to_str().unwrap(), page.to_str().unwrap());
    let arguments = ["node", "--single", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--data", data];
    let node = Process::start(&arguments, "coordinator is listening").await.unwrap();
    let (to, at) = (node.address("the node serves"), node.address("coordinator is listening"));
    let base =
        ["loadgen", "--to", &to, "--at", &at, "--rate", "400", "--for", "2s", "--run", "r", "--urls", "500"];
    let with = |more: &[&'static str]| base.iter().copied().chain(more.iter().copied()).collect::<Vec<_>>();
    let mut first = with(&["--verify", "--json"]);
    first.extend(["--html", page]);
    let output = run_program(&first).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    let told = (json["due"].as_u64(), json["accepted"].as_u64(), json["verdict"]["differing"].as_u64());
    assert_eq!(told, (Some(800), Some(800), Some(0)), "{json}");
    assert!(json["acknowledgedMs"]["p99"].as_f64() <= json["acknowledgedMs"]["max"].as_f64(), "{json}");
    let html = std::fs::read_to_string(page).unwrap();
    assert!(
        html.matches("<svg").count() == 3
            && ["<script", "src=", "href="].iter().all(|other| !html.contains(other)),
        "{html}"
    );

    let second = run_program(&with(&["--verify", "--seed", "2"])).await;
    let (out, err) = (String::from_utf8_lossy(&second.stdout), String::from_utf8_lossy(&second.stderr));
    assert_eq!(second.status.code(), Some(1), "{out} {err}");
    assert!(out.contains("NOT VERIFIED") && err.contains("differ from what was sent"), "{out} {err}");
    for (flag, value, message) in [("--late", "2", "give 0 to 1"), ("--linger", "2s", "give 1ms to 1s")] {
        let misuse = run_program(&with(&[flag, value])).await;
        let err = String::from_utf8_lossy(&misuse.stderr);
        assert!(misuse.status.code() == Some(2) && err.contains(message), "{err}");
    }

    let highest = run_program(&[
        "loadgen",
        "--to",
        &to,
        "--at",
        &at,
        "--find-max",
        "1us",
        "--rate",
        "1",
        "--for",
        "1s",
    ])
    .await;
    assert_eq!(highest.status.code(), Some(1), "{}", String::from_utf8_lossy(&highest.stderr));
    assert!(String::from_utf8_lossy(&highest.stderr).contains("no rate that was tried holds"));
    assert_eq!(node.terminate().await, Some(0));
}
