//! What reading small segments costs. `cargo bench -p tidemark-history --bench reader`
#![allow(clippy::unwrap_used, clippy::expect_used, dead_code, reason = "a benchmark may stop where it is")]

#[path = "../../rollup/tests/common/mod.rs"]
mod common;
#[path = "../tests/reader/made.rs"]
mod made;

use crate::made::{LIMIT, Made, all, config, keep_all, of_site, path, small};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tidemark_history::reader::{Reader, Want};
use tidemark_history::segment::{Footer, Selection};
use tidemark_history::store::Store;

fn main() {
    let segments: Vec<_> = (0..1000).map(|n| small(&path(n))).collect();
    let folder = TempDir::new().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let local = object_store::local::LocalFileSystem::new_with_prefix(folder.path()).unwrap();
        let store = Store::of(std::sync::Arc::new(local));
        for made in &segments {
            store.put(&made.segment.path, made.bytes.clone()).await.unwrap();
        }
        println!("{} bytes each, {} row groups", segments[0].bytes.len(), segments[0].groups.len());
        stages(&segments[0]);
        let keep = keep_all(segments[0].shards);
        let want_all = all();
        let want_site = Want { dimensions: vec!["country".to_owned()], ..of_site("site1.com") };
        for (name, want) in [("all of it", &want_all), ("one site by country", &want_site)] {
            let reader = Reader::open(store.clone(), config(segments[0].shards)).await;
            for round in ["first", "another want", "cached"] {
                let other = Want { facts: false, ..want.clone() };
                let asked = if round == "first" { &other } else { want };
                let (started, cpu) = (Instant::now(), cpu());
                for made in &segments {
                    assert!(!reader.rollups(&made.segment, asked, &keep).await.unwrap().is_empty());
                }
                let (took, cpu) = (started.elapsed() / 1000, (self::cpu() - cpu) / 1000);
                println!("{name}, {round}: {took:?}, of processors {cpu:?}");
            }
            println!("{:?}", reader.usage());
        }
    });
}

/// Time of all processors so far, of this process.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/schedstat").ok();
    let tasks = std::fs::read_dir("/proc/self/task").ok().into_iter().flatten().flatten();
    let of = |text: String| text.split(' ').next().and_then(|ns| ns.parse().ok()).unwrap_or(0_u64);
    let all: u64 =
        tasks.filter_map(|task| std::fs::read_to_string(task.path().join("schedstat")).ok()).map(of).sum();
    Duration::from_nanos(all.max(stat.map_or(0, of)))
}

/// Where the time goes that is not the reader's own.
fn stages(made: &Made) {
    let tail = made.bytes.slice(made.bytes.len() - made.segment.footer_bytes as usize..);
    let footer = each("parse the footer", || Footer::parse(&made.segment, &tail).unwrap());
    let everything = Selection::everything(footer.schema());
    let plan = each("plan", || footer.plan(&everything));
    let ranges = plan.ranges();
    let parts =
        || ranges.iter().map(|range| made.bytes.slice(range.start as usize..range.end as usize)).collect();
    let rows = each("read", || plan.read(parts()).unwrap());
    each("to rollups", || rows.to_buckets(made.shards, Some(LIMIT), None));
}

fn each<T>(what: &str, run: impl Fn() -> T) -> T {
    let started = Instant::now();
    (0..1000).for_each(|_| drop(run()));
    println!("  {what}: {:?}", started.elapsed() / 1000);
    run()
}
