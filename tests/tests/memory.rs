//! A node's memory, as the system sees it, whatever arrives.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what cannot be here is a failed test")]
#![cfg(target_os = "linux")]

use futures::future::join_all;
use serde_json::json;
use std::time::Duration;
use tidemark_proto::v1::RefusalReason;
use tidemark_tests::PATIENCE;
use tidemark_tests::processes::{Single, run};
use tidemark_tests::rows::Sender;
use tokio::time::{Instant, sleep};

const BUDGET_MIB: u64 = 256;

/// The most that the process has had in use so far.
fn peak_bytes(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
}

/// Sends new URLs as fast as they are taken, and on for a while once they are refused; how many events were counted, and how often the
/// memory budget was the reason why not.
async fn flood(mut sender: Sender) -> (u64, u64) {
    let (mut counted, mut refused) = (0, 0);
    let mut until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        let batch = sender.batch(2_000);
        sender.send_one(batch);
        let ack = sender.ack().await;
        counted += u64::from(ack.accepted);
        let Some(refusal) = ack.refused else { continue };
        assert_eq!(refusal.reason(), RefusalReason::Overloaded, "{}", refusal.message);
        let limit = refusal.limit.unwrap();
        if limit.setting == "memory_budget" {
            assert_eq!(limit.limit, BUDGET_MIB << 20);
            if refused == 0 {
                until = until.min(Instant::now() + Duration::from_secs(3));
            }
            refused += 1;
        }
        sleep(Duration::from_millis(u64::from(refusal.retry_after_ms))).await;
    }
    (counted, refused)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_flooded_refuses_before_its_process_has_more_memory_than_its_budget() {
    let single = Single::start(&["--memory-budget", "256MiB", "--in-flight-bytes", "8MiB"]).await;
    let sites = ["a.example", "b.example", "c.example", "d.example"];
    let mut floods = Vec::new();
    for (at, site) in sites.into_iter().enumerate() {
        let sender = Sender::open(single.node(), site, at as u8 + 1).await.with_distinct_urls();
        floods.push(tokio::spawn(flood(sender)));
    }
    let mut counted = Vec::new();
    for flood in floods {
        let (of_site, refused) = flood.await.unwrap();
        assert!(refused > 0, "the budget is never reached: {of_site} were counted");
        counted.push(of_site);
    }
    let peak = peak_bytes(single.process.id());
    println!("{:?} events of URLs of their own; at most {} MiB", counted, peak >> 20);
    assert!(peak <= BUDGET_MIB << 20, "{} MiB", peak >> 20);
    assert!(peak > BUDGET_MIB << 19, "half of it is not used: {} MiB", peak >> 20);
    for (site, counted) in sites.into_iter().zip(counted) {
        assert_eq!(single.views(site).await, counted);
    }
    assert_eq!(single.process.terminate().await, Some(0));
}

/// Threads of the process that serve connections or do work which blocks.
fn threads(process: u32) -> usize {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let names = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.filter(|name| name.trim() == "tokio-rt-worker").count()
}

// Each thread keeps memory that only it uses again: with more of them for each rush, a process under load only grows.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_asked_for_history_by_many_at_once_has_no_more_threads_for_it_than_its_limit() {
    let settings = ["--keep", "0s", "--settle", "1s", "--cache-memory", "1MiB", "--max-queries", "256"];
    let single = Single::start(&settings).await;
    let (to, http) = (single.node(), single.http());
    let load = ["loadgen", "--to", &to, "--rate", "4000", "--for", "2s", "--run", "past", "--sites", "1"];
    let output = run(&[&load[..], &["--late", "1", "--late-by", "1h"]].concat()).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let site = "site-0.past.example";
    let from_history = async || {
        let answer =
            http.query(json!({ "site": site, "from": "-2h", "to": "now", "groupBy": ["url"] })).await;
        answer["facts"]["fromHistory"].as_u64().unwrap_or_else(|| panic!("{answer}"))
    };
    let deadline = Instant::now() + PATIENCE;
    while from_history().await < 8 {
        assert!(Instant::now() < deadline, "hardly anything is committed");
        sleep(Duration::from_millis(100)).await;
    }

    let cores = std::thread::available_parallelism().unwrap().get();
    let limit = cores + (4 * cores).max(8);
    for _ in 0..3 {
        join_all((0..100).map(|_| from_history())).await;
        let threads = threads(single.process.id());
        assert!(threads <= limit, "{threads}, {limit} at most");
    }
    assert_eq!(single.process.terminate().await, Some(0));
}
