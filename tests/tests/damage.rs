//! Damage: answers that lack something say what, others are complete, and what is restored is there again.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what cannot be here is a failed test")]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tidemark_history::compact::Compactor;
use tidemark_history::day::DayStart;
use tidemark_history::store::{Location, Store};
use tidemark_rollup::time::{Clock as _, EventTime};
use tidemark_tests::history_support::{
    Counts, DAY, Damaged, Harm, MINUTE, Stream, advance, ask, ask_in_steps, ask_until, assert_sound, by_hand,
    catalog, files, noon, quick, until_all_is_history, verify,
};
use tidemark_tests::in_process::{Cluster, TestClock};
use tidemark_tests::processes::{Process, free_port, run};

const SHARDS: u32 = 4;

/// Three days of history in a folder: the first is compacted, the third has not ended. The node is stopped.
struct Site {
    cluster: Cluster,
    clock: Arc<TestClock>,
    stream: Stream,
    days: [DayStart; 3],
}

impl Site {
    async fn new() -> Self {
        let clock = noon();
        let mut cluster = Cluster::start(1, SHARDS, clock.clone(), |node, coordinator| {
            quick(node, coordinator);
            node.keep = Duration::ZERO;
            node.times.accept_late = 7 * DAY;
        })
        .await;
        let now = clock.now();
        let mut stream = Stream::connect(&cluster.url(0), 1, &clock).await;
        let ages = [40 * MINUTE, 50 * MINUTE, DAY, DAY + 10 * MINUTE, 2 * DAY, 2 * DAY + 10 * MINUTE];
        for _ in 0..5 {
            stream.send(120, &ages).await;
        }
        stream.acknowledged().await;
        until_all_is_history(&cluster, (now.minus(3 * DAY), now), &stream.all()).await;
        cluster.until("all is flushed", |cluster| cluster.metric("tidemark_unflushed_buckets") == 0).await;
        cluster.stop_node(0).await;
        let days = [2, 1, 0].map(|ago| DayStart::containing(now.minus(ago * DAY)));
        let site = Self { cluster, clock, stream, days };
        let store = site.store();
        let settings = by_hand(SHARDS);
        let compactor = Compactor::new(store.clone(), catalog(&store).await, settings, site.clock.clone());
        compactor.compact(days[0]).await.unwrap().expect("there is something to compact");
        assert_sound(&store, SHARDS, site.stream.len()).await;
        site
    }

    fn folder(&self) -> PathBuf {
        self.cluster.folder.path().join("history")
    }

    fn store(&self) -> Store {
        Store::open(&Location::Folder(self.folder())).unwrap()
    }

    /// The first object whose path begins so.
    fn object(&self, prefix: &str) -> String {
        let all = files(&self.folder());
        all.iter()
            .find(|path| path.starts_with(prefix))
            .unwrap_or_else(|| panic!("{prefix}: {all:?}"))
            .clone()
    }

    fn harm(&self, path: &str, harm: Harm) -> Damaged {
        Damaged::new(self.folder().join(path), harm)
    }

    async fn start(&mut self) {
        self.cluster.start_node(0).await;
    }

    async fn stop(&mut self) {
        self.cluster.stop_node(0).await;
    }

    fn counts(&self, day: DayStart) -> Counts {
        self.stream.counts(day.time(), day.end())
    }

    /// What each day answers, in days and in steps of five minutes, has to be right, but for `damaged`, which says that
    /// `path` is at fault.
    async fn assert_only(&self, damaged: &[DayStart], granularity: Option<&str>, path: &str) {
        for day in self.days {
            for step in ["1d", "5m"] {
                let views = ask_in_steps(&self.cluster.http, day.time(), day.end(), step).await;
                if damaged.contains(&day) && granularity.is_none_or(|only| only == step) {
                    views.assert_honest(&self.counts(day));
                    assert!(!views.is_complete(), "{path}: {day} in {step}: {}", views.facts);
                    assert!(views.missing().contains(path), "{path}: {day} in {step}: {}", views.facts);
                } else {
                    views.assert_right(&self.counts(day));
                }
            }
        }
    }

    async fn assert_verify_names(&self, path: &str) {
        let report = verify(&self.store(), SHARDS).await;
        let told: Vec<String> = report.differences.iter().map(ToString::to_string).collect();
        assert!(!report.is_equal() && told.iter().any(|told| told.contains(path)), "{path}: {told:#?}");
    }

    /// Damages an object in several ways while the node is stopped, and restores it.
    async fn go_through(
        &mut self,
        path: &str,
        harms: &[Harm],
        damaged: &[DayStart],
        granularity: Option<&str>,
    ) {
        for &harm in harms {
            let harmed = self.harm(path, harm);
            self.assert_verify_names(path).await;
            self.start().await;
            self.assert_only(damaged, granularity, path).await;
            self.stop().await;
            harmed.restore();
            self.start().await;
            self.assert_only(&[], None, path).await;
            self.stop().await;
        }
        assert_sound(&self.store(), SHARDS, self.stream.len()).await;
    }
}

const ALL: [Harm; 3] = [Harm::Truncate, Harm::Flip, Harm::Delete];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_segment_makes_answers_about_its_bucket_partial_and_no_others() {
    let mut site = Site::new().await;
    let day = site.days[1];
    let path = site.object(&format!("rollup/5m/{day}/"));
    site.go_through(&path, &ALL, &[day], None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_segment_of_a_compacted_day_makes_answers_that_read_it_partial_and_no_others() {
    let mut site = Site::new().await;
    let day = site.days[0];
    // Segments of single buckets are in folders below; what replaces them is not.
    let of_day = files(&site.folder())
        .into_iter()
        .find(|path| path.strip_prefix(&format!("rollup/5m/{day}/")).is_some_and(|name| !name.contains('/')));
    site.go_through(&of_day.unwrap(), &ALL, &[day], Some("5m")).await;
    let path = site.object(&format!("rollup/1d/{day}/"));
    site.go_through(&path, &ALL, &[day], Some("1d")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_raw_segment_leaves_answers_complete_and_is_found_by_verifying() {
    let mut site = Site::new().await;
    let path = site.object(&format!("raw/{}/", site.days[1]));
    site.go_through(&path, &ALL, &[], None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_commit_makes_answers_about_its_bucket_partial_and_no_others() {
    let mut site = Site::new().await;
    let day = site.days[1];
    let path = site.object(&format!("commits/{day}/"));
    // Of a bucket's only commit nobody knows once it is deleted.
    site.go_through(&path, &[Harm::Truncate, Harm::Flip], &[day], None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_replacement_may_be_of_any_day_and_makes_all_answers_partial() {
    let mut site = Site::new().await;
    let (path, days) = (site.object("replacements/"), site.days);
    site.go_through(&path, &[Harm::Truncate, Harm::Flip], &days, None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_coverage_of_a_day_matters_to_late_events_and_is_named_by_answers_about_its_day() {
    let mut site = Site::new().await;
    let day = site.days[0];
    let path = site.object(&format!("coverage/{day}/"));
    // Segments answer alone.
    site.go_through(&path, &ALL, &[], None).await;

    let harmed = site.harm(&path, Harm::Flip);
    site.start().await;
    site.stream.send(40, &[2 * DAY]).await;
    site.stream.acknowledged().await;
    site.assert_only(&[day], None, &path).await;
    let (from, to) = (site.clock.now().minus(3 * DAY), site.clock.now());
    let views = ask(&site.cluster.http, from, to).await;
    views.assert_honest(&site.stream.all());
    assert!(!views.is_complete() && views.missing().contains(&path), "{}", views.facts);
    harmed.restore();
    ask_until("it is complete", &site.cluster.http, (from, to), &site.stream.all(), |views| {
        views.is_complete()
    })
    .await;
    until_all_is_history(&site.cluster, (from, to), &site.stream.all()).await;
    site.stop().await;
    assert_sound(&site.store(), SHARDS, site.stream.len()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_damaged_and_restored_under_a_running_node_is_noticed_without_a_restart() {
    let mut site = Site::new().await;
    let [_, yesterday, today] = site.days;
    site.start().await;
    let segment = site.object(&format!("rollup/5m/{today}/"));
    let harmed = site.harm(&segment, Harm::Delete);
    site.assert_only(&[today], None, &segment).await;
    harmed.restore();
    site.assert_only(&[], None, &segment).await;

    let commit = site.object(&format!("commits/{yesterday}/"));
    let harmed = site.harm(&commit, Harm::Delete);
    let range = (yesterday.time(), yesterday.end());
    let expected = site.counts(yesterday);
    let names_it = |views: &tidemark_tests::history_support::Views| views.missing().contains(&commit);
    ask_until("the commit is missed", &site.cluster.http, range, &expected, names_it).await;
    harmed.restore();
    ask_until("the commit is back", &site.cluster.http, range, &expected, |views| views.is_complete()).await;
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_verify_exits_with_one_and_names_what_is_damaged() {
    let site = Site::new().await;
    let folder = site.folder();
    let shards = SHARDS.to_string();
    let arguments = [
        "verify",
        "--from",
        "2026-03-01T00:00:00Z",
        "--to",
        "2026-03-11T00:00:00Z",
        "--store",
        folder.to_str().unwrap(),
        "--shards",
        &shards,
        "--json",
    ];
    let sound = run(&arguments).await;
    assert_eq!(sound.status.code(), Some(0), "{}", String::from_utf8_lossy(&sound.stderr));
    let prefixes = [
        format!("rollup/5m/{}/", site.days[1]),
        format!("raw/{}/", site.days[1]),
        format!("commits/{}/", site.days[1]),
        "replacements/".to_owned(),
        format!("coverage/{}/", site.days[0]),
    ];
    for prefix in prefixes {
        let path = site.object(&prefix);
        let harmed = site.harm(&path, Harm::Flip);
        let output = run(&arguments).await;
        assert_eq!(output.status.code(), Some(1), "{path}");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains(&path), "{path}: {text}");
        harmed.restore();
    }
}

/// Damages the middle of the newest file of a journal that has something in it.
fn harm_journal(folder: &std::path::Path) -> Damaged {
    let all = files(folder);
    let longest = all.iter().max_by_key(|path| std::fs::metadata(folder.join(path)).unwrap().len());
    Damaged::new(folder.join(longest.unwrap()), Harm::Flip)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_journal_costs_the_block_that_is_damaged_and_says_so() {
    let clock = noon();
    let mut cluster = Cluster::start(1, SHARDS, clock.clone(), quick).await;
    let mut stream = Stream::connect(&cluster.url(0), 1, &clock).await;
    for _ in 0..50 {
        stream.send(40, &[Duration::ZERO]).await;
    }
    stream.acknowledged().await;
    cluster.stop_node(0).await;
    let journal = cluster.folder.path().join("n0").join("journal");
    harm_journal(&journal);
    cluster.start_node(0).await;
    let (from, to): (EventTime, EventTime) = (clock.now().minus(DAY), clock.now().plus(MINUTE));
    let deadline = tokio::time::Instant::now() + 2 * MINUTE;
    let views = loop {
        // Shards answer when they have read the journal.
        let views = ask(&cluster.http, from, to).await;
        if views.is_complete() || tokio::time::Instant::now() > deadline {
            break views;
        }
    };
    let (found, sent) = (views.by_url.values().sum::<u64>(), stream.len());
    // A block has a shard's part of forty events.
    assert!(found < sent && found + 40 >= sent, "{found} of {sent} events are there");
    assert!(files(&journal).iter().any(|path| path.contains("quarantine")), "{:?}", files(&journal));
    assert!(cluster.metric("tidemark_journal_blocks_lost_total") > 0, "no metric tells of it");
    // It works on.
    let before = found;
    stream.send(40, &[Duration::ZERO]).await;
    stream.acknowledged().await;
    let views = ask(&cluster.http, from, to).await;
    assert_eq!(views.by_url.values().sum::<u64>(), before + 40);
    advance(&clock, 10 * MINUTE);
    cluster.until("all is flushed", |cluster| cluster.metric("tidemark_commits_total") > 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_whose_journal_is_damaged_logs_which_file_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().to_str().unwrap();
    let [listen, http] = [0, 1].map(|_| format!("127.0.0.1:{}", free_port()));
    let arguments =
        ["node", "--single", "--listen", &listen, "--http", &http, "--data", data, "--shards", "4"];
    let node = Process::start(&arguments, "coordinator is listening").await.unwrap();
    let clock = TestClock::at(tidemark_node::clock::SystemClock.now());
    let mut stream = Stream::connect(&format!("http://{listen}"), 1, &clock).await;
    for _ in 0..20 {
        stream.send(40, &[Duration::ZERO]).await;
    }
    stream.acknowledged().await;
    // Kept from being flushed.
    node.kill().await;
    harm_journal(&folder.path().join("journal"));
    let node = Process::start(&arguments, "set damaged bytes of the journal aside").await.unwrap();
    node.kill().await;
}
