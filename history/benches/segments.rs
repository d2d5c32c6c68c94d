//! The figures of segments, on one thread.
//!
//! `cargo bench -p tidemark-history` prints them; `docs/figures.md` says what they mean and what they were where.
//! One bucket of made-up traffic: 1,000,000 rows of 50 sites with 200 URLs each (Zipf 1.1), the default schema with all nine
//! dimensions, one to three visitors per row, a load time for four events of five.
#![allow(missing_docs, clippy::unwrap_used)]

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use rand_distr::{Distribution as _, LogNormal, Zipf};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidemark_history::segment::{Footer, RowGroup, Selection, Written, read_raw, write_raw, write_rollup};
use tidemark_proto::v1;
use tidemark_rollup::bucket::Bucket;
use tidemark_rollup::canonical::KeepParams;
use tidemark_rollup::event::TimeRules;
use tidemark_rollup::rows::{RollupPart, SegmentRows};
use tidemark_rollup::scan::Folds;
use tidemark_rollup::schema::Schema;
use tidemark_rollup::shard::{Shard, ShardRules};
use tidemark_rollup::sharding::ShardCount;
use tidemark_rollup::split::{Rules, split};
use tidemark_rollup::time::EventTime;

const SITES: usize = 50;
const URLS: usize = 200;
const START_MS: i64 = 1_700_000_400_000;

fn main() {
    let rows = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(1_000_000);
    let (bucket, blocks) = traffic(rows);
    let part = RollupPart {
        shard: ShardCount::new(1).unwrap().shard(0).unwrap(),
        bucket: &bucket,
        start: bucket.start(),
    };
    let (of, laid_out) = best(|| SegmentRows::of(&Arc::new(Schema::default()), &[part], &Folds::default()));
    let shards = ShardCount::new(1).unwrap();
    let group = RowGroup { shards: &[part.shard], rows: &laid_out };
    let (write, written) = best(|| write_rollup(&[group], 300, shards).unwrap());
    let size = written.bytes.len();
    println!("{} rows of {} URLs", laid_out.len(), laid_out.urls.len());
    println!("lay out rows         {of:>8.2?}");
    println!(
        "write                {write:>8.2?}  {:.1} bytes/row, footer {} bytes",
        size as f64 / laid_out.len() as f64,
        written.footer_bytes
    );
    columns(&written);
    reads(&written);
    raw(&blocks);
}

/// A bucket of so many rows, about, and the blocks it is of.
fn traffic(rows: usize) -> (Arc<Bucket>, Vec<v1::Block>) {
    let shards = ShardCount::new(1).unwrap();
    let rules = ShardRules {
        schema: Arc::new(Schema::default()),
        shards,
        times: TimeRules::default(),
        dimension_values: 10_000,
    };
    let mut shard = Shard::new(shards.shard(0).unwrap(), rules.clone());
    let mut traffic = Traffic::new();
    let mut blocks = Vec::new();
    for seq in 0..rows as u64 / 1000 {
        let events = (0..1000).flat_map(|_| traffic.row()).collect();
        let batch =
            v1::EventBatch { producer: vec![1; 16].into(), seq, sealed_at_ms: START_MS + 60_000, events };
        let keep_params = KeepParams::default();
        let rules =
            Rules { schema: Some(&rules.schema), keep_params: &keep_params, times: rules.times, shards };
        for block in split(&batch, &rules, EventTime::from_unix_ms(START_MS + 60_000)).unwrap().blocks {
            shard.apply(&block).unwrap();
            blocks.push(block);
        }
    }
    let bucket = shard.buckets().next().unwrap();
    (Arc::clone(bucket), blocks)
}

struct Traffic {
    rng: StdRng,
    urls: Zipf<f64>,
    referrers: Zipf<f64>,
    countries: Zipf<f64>,
    load_ms: LogNormal<f64>,
}

impl Traffic {
    fn new() -> Self {
        Self {
            rng: StdRng::seed_from_u64(42),
            urls: Zipf::new(URLS as f64, 1.1).unwrap(),
            referrers: Zipf::new(500.0, 1.1).unwrap(),
            countries: Zipf::new(80.0, 1.3).unwrap(),
            load_ms: LogNormal::new(6.0, 0.8).unwrap(),
        }
    }

    fn pick(&mut self, texts: &[&str]) -> String {
        texts[self.rng.random_range(0..texts.len())].to_owned()
    }

    /// The events of one row: one to three visitors.
    fn row(&mut self) -> Vec<v1::Event> {
        let site = self.rng.random_range(0..SITES);
        let url = self.urls.sample(&mut self.rng) as usize;
        let referrer = self.referrers.sample(&mut self.rng) as usize;
        let mut dimensions = vec![
            ("referrer", format!("www.referrer-{referrer}.example")),
            ("channel", ["search", "social", "link", "direct", "mail"][referrer % 5].to_owned()),
            ("country", format!("C{}", self.countries.sample(&mut self.rng))),
            ("device", self.pick(&["mobile", "mobile", "desktop", "tablet"])),
            ("browser", self.pick(&["chrome", "chrome", "safari", "firefox", "edge", "other"])),
            ("section", format!("section-{}", url % 12)),
            ("visitor_type", self.pick(&["new", "returning"])),
            ("status", if self.rng.random_range(0..20) == 0 { "4xx" } else { "2xx" }.to_owned()),
        ];
        if self.rng.random_range(0..10) == 0 {
            dimensions.push(("campaign", format!("campaign-{}", self.rng.random_range(0..20))));
        }
        (0..self.rng.random_range(1..=3)).map(|_| self.event(site, url, &dimensions)).collect()
    }

    fn event(&mut self, site: usize, url: usize, dimensions: &[(&'static str, String)]) -> v1::Event {
        let mut values = vec![
            ("bytes", self.rng.random_range(500..200_000)),
            ("engaged_ms", self.rng.random_range(0..60_000)),
        ];
        if self.rng.random_range(0..5) > 0 {
            values.push(("load_ms", self.load_ms.sample(&mut self.rng) as i64));
        }
        let entry = |&(key, ref value): &(&'static str, String)| v1::event::DimensionsEntry {
            key: Bytes::from_static(key.as_bytes()),
            value: value.clone().into(),
        };
        v1::Event {
            site: Bytes::from(format!("site-{site}.example.com")),
            url: Bytes::from(format!("/articles/2026/some-words-of-a-title-{}", site * URLS + url)),
            time_ms: START_MS + self.rng.random_range(0..60_000),
            kind: Bytes::from_static(b"view"),
            visitor: Bytes::new(),
            visitor_hash: self.rng.random(),
            dimensions: dimensions.iter().map(entry).collect(),
            values: values
                .into_iter()
                .map(|(key, value)| v1::event::ValuesEntry { key: Bytes::from_static(key.as_bytes()), value })
                .collect(),
        }
    }
}

/// What each column takes.
fn columns(written: &Written) {
    let tail = written.bytes.slice(written.bytes.len() - written.footer_bytes as usize..);
    let metadata = parquet::file::metadata::ParquetMetaDataReader::decode_metadata(&tail[..tail.len() - 8]);
    for group in metadata.unwrap().row_groups() {
        let sizes = group.columns().iter().map(|column| {
            let bytes = column.compressed_size() as f64 / group.num_rows() as f64;
            format!("{} {bytes:.2}", column.column_path())
        });
        println!("  bytes/row: {}", sizes.collect::<Vec<_>>().join(", "));
    }
}

fn reads(written: &Written) {
    let segment = written.to_segment("segment");
    let tail = written.bytes.slice(written.bytes.len() - written.footer_bytes as usize..);
    let (parse, footer) = best(|| Footer::parse(&segment, &tail).unwrap());
    println!("parse the footer     {parse:>8.2?}  {} bytes kept", footer.heap_bytes());
    let everything = Selection::everything(footer.schema());
    let one_site = Selection { sites: Some(vec!["site-7.example.com".to_owned()]), ..everything.clone() };
    let url = "/articles/2026/some-words-of-a-title-1450".to_owned();
    let one_url = Selection { urls: Some(vec![url]), ..one_site.clone() };
    let views: Vec<_> =
        everything.measures.iter().filter(|measure| measure.name == "views").cloned().collect();
    let top_urls =
        Selection { dimensions: Vec::new(), measures: views.clone(), facts: false, ..one_site.clone() };
    let by_country = Selection {
        dimensions: vec!["country".to_owned()],
        measures: views,
        facts: false,
        with_urls: false,
        ..one_site.clone()
    };
    let absent = Selection { urls: Some(vec!["/nowhere".to_owned()]), facts: false, ..one_site.clone() };
    for (name, selection) in [
        ("read everything", everything),
        ("read one site", one_site),
        ("  its URLs and views", top_urls),
        ("  its countries and views", by_country),
        ("  one URL of it", one_url),
        ("  a URL it has not", absent),
    ] {
        let (took, (rows, fetched)) = best(|| {
            let plan = footer.plan(&selection);
            let blooms = fetch(written, &plan.bloom_ranges());
            let plan = plan.apply_blooms(blooms).unwrap();
            let ranges = plan.ranges();
            let bytes: u64 = ranges.iter().map(|range| range.end - range.start).sum();
            (plan.read(fetch(written, &ranges)).unwrap(), bytes)
        });
        println!("{name:<28} {took:>8.2?}  {} rows, {fetched} bytes fetched", rows.len());
    }
}

fn fetch(written: &Written, ranges: &[Range<u64>]) -> Vec<Bytes> {
    ranges.iter().map(|range| written.bytes.slice(range.start as usize..range.end as usize)).collect()
}

fn raw(blocks: &[v1::Block]) {
    let (write, written) = best(|| write_raw(blocks).unwrap());
    let events: u32 = blocks.iter().map(|block| block.event_count).sum();
    let wire: usize = blocks.iter().map(|block| block.columns.len()).sum();
    println!(
        "write raw            {write:>8.2?}  {} blocks, {events} events, {:.1} bytes/event of {:.1} on the wire",
        blocks.len(),
        written.bytes.len() as f64 / f64::from(events),
        wire as f64 / f64::from(events)
    );
    let segment = written.to_segment("raw");
    let (read, _) = best(|| read_raw(&segment, &written.bytes).unwrap());
    println!("read raw             {read:>8.2?}");
}

fn best<T>(mut run: impl FnMut() -> T) -> (Duration, T) {
    let mut best: Option<(Duration, T)> = None;
    for _ in 0..3 {
        let started = Instant::now();
        let value = run();
        let took = started.elapsed();
        if best.as_ref().is_none_or(|(known, _)| took < *known) {
            best = Some((took, value));
        }
    }
    best.unwrap()
}
