//! Writes the seeds: small inputs that are whole, so that a fuzzer begins beyond magic numbers and lengths.
//!
//! Owns: what is in `seeds/`: made by the project's own encoders, or lines of its made-up log.
//! Does not own: corpora, which grow from them and are nobody's to keep.
//!
//! What is made depends on nothing else: running it again changes nothing.

use bytes::Bytes;
use prost::Message as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tidemark_access::token::{RANDOM_BYTES, Token};
use tidemark_fuzz::counting::{NOW, blocks_of, shards};
use tidemark_fuzz::frames::Frame;
use tidemark_fuzz::pages::Page;
use tidemark_history::segment::fuzzing::{Holds, UnpackedPage, pages, read_column};
use tidemark_history::segment::{Footer, RowGroup, Written, write_raw, write_rollup};
use tidemark_journal::fuzzing as journal;
use tidemark_membership::fuzzing::{Ear, HEAD_BYTES};
use tidemark_proto::v1;
use tidemark_rollup::block::{BlockId, ProducerId};
use tidemark_rollup::coverage::Coverage;
use tidemark_rollup::event::TimeRules;
use tidemark_rollup::rows::{RollupPart, SegmentRows};
use tidemark_rollup::scan::Folds;
use tidemark_rollup::schema::Schema;
use tidemark_rollup::shard::{Shard, ShardRules};
use tidemark_rollup::sharding::ShardCount;
use tidemark_rollup::time::BucketStart;
use v1::event::{DimensionsEntry, ValuesEntry};

const EVENTS: [&str; 6] = [
    r#"[{"site":"a.example","url":"/a","time":"2026-11-18T10:05:00.5Z","kind":"share","visitor":"v","dimensions":{"device":"mobile","country":null},"values":{"load_ms":2.0,"bytes":3e3}},7]"#,
    "{\"site\":\"a.example\",\"url\":\"https://a.example/\\u00e9?utm_source=x#y\"}\r\n\n{\"url\":1}\n{\n",
    "{\n  \"site\": \"a.example\",\n  \"url\": \"/\",\n  \"time\": 0,\n  \"x\": [[{}]]\n}\n",
    r#" [ ] "#,
    r#"[{"time":-1.5e3},{"values":{"bytes":9223372036854775808}},{"dimensions":[]},null,"\ud83d\ude00"]"#,
    r#"[{"site":"a.example","url":"/","kind":"engage","values":{"engaged_ms":15000}},[],{"time":1795000200000}]"#,
];
const POSTS: [&str; 5] = [
    r#"{"site":"a.example","sent":1795000200000,"id":"x1","later":1,"events":[{"kind":"share","url":"/\u00e9","referrer":"https://www.google.com/search?q=x","time":"2026-11-18T10:05:00Z","visitor":"v","userAgent":"Mozilla/5.0 (Linux; Android 10; K) Chrome/122.0.0.0 Mobile Safari/537.36","address":"[2001:db8::1]:443","dimensions":{"section":"news","country":null},"values":{"load_ms":12},"new":{}}]}"#,
    r#"{"site":"a.example","events":[{"url":"/a"},7,{"url":1},{"values":{"x":0.5}},{"time":"noon"},{"url":null}]}"#,
    r#"{"site":"A.Example.","events":[{"url":"https://a.example/p/../a?utm_campaign=spring&utm_medium=letter&x=1#top","values":{"bytes":-1}}]}"#,
    "?site=a.example&url=%2Fa%3Fb&kind=share&d.section=news&v.load_ms=12&x=y",
    "?site=a.example&id=1&referrer=https%3A%2F%2Ft.co%2F&v.load_ms=soon",
];
const QUESTIONS: [&str; 7] = [
    r#"{"site":"example.com","from":"-24h","granularity":"1h","measures":["views","visitors","load_ms.p95"],"groupBy":["url"],"filters":[{"dimension":"device","in":["mobile","tablet"]}],"orderBy":"views","limit":10,"versus":"7d"}"#,
    r#"{"site":"*","from":"2026-11-18T00:00:00Z","to":"2026-11-19T00:00:00+01:00","group_by":["site","device"],"filters":[{"dimension":"url","prefix":"/a"},{"dimension":"country","not_in":[""]}],"versus":"week"}"#,
    r#"{"site":"a.example","measures":["active"],"to":"now"}"#,
    r#"{"filters":[{},{"equals":1}],"limit":"ten"}"#,
    "?site=a.example&measures=views,visitors&groupBy=url&from=-1h&limit=10&filter=device=mobile,tablet",
    "?site=*&granularity=5m&filter=url^=/news/&filter=device!=tv&filter=campaign=&versus=300s",
    "?site=a%20b&order_by=views&to=1795000200000",
];
const CLICK: &str = r#"{"a": "Mozilla\/5.0 (iPad; CPU OS 6_0 like Mac OS X) Safari\/8536.25", "c": "US", "nk": 1, "r": "http:\/\/T.co\/xyz", "u": "http:\/\/www.nasa.gov\/a?b=1&utm_source=x", "t": 1356999059, "cy": "San Angelo", "ll": [ 31.467600, -100.436699 ] }"#;
const LINES: [&str; 3] = [
    r#"2001:db8::1 - frank [12/Mar/2024:10:00:01 -0730] "GET /say/\"hello\"?q=\" HTTP/1.1" 304 -"#,
    r#"h i - [01/Jan/2001:00:00:00 +0000] "x [12/Mar/2024:10:00:01 +0000] "GET http://a/?utm_source=y HTTP/1.0" 200 1 "-" "curl/8" 0.0456 "x""#,
    "\t\r",
];

fn main() -> io::Result<()> {
    texts()?;
    let events = (0..40).map(event).collect::<Vec<_>>();
    let blocks = rows(&events)?;
    commits()?;
    segments(&blocks)?;
    raw(&blocks)?;
    files(&blocks)?;
    gossip()
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds")
}

fn write(target: &str, name: impl ToString, seed: &[u8]) -> io::Result<()> {
    let folder = folder().join(target);
    fs::create_dir_all(&folder)?;
    fs::write(folder.join(name.to_string()), seed)
}

fn texts() -> io::Result<()> {
    for (target, texts) in [("events_json", &EVENTS[..]), ("edge_post", &POSTS), ("query_json", &QUESTIONS)] {
        for (at, text) in texts.iter().enumerate() {
            write(target, at, text.as_bytes())?;
        }
    }
    let sample = fs::read_to_string(folder().join("../../tests/data/sample-combined.log"))?;
    for (at, line) in LINES.into_iter().chain(sample.lines().take(8)).enumerate() {
        write("log_lines", at, format!("\0{line}").as_bytes())?;
    }
    write("log_lines", "click", format!("\x03{CLICK}").as_bytes())?;
    write("log_lines", "heartbeat", b"\x01{\"_heartbeat_\": 1356999060}")?;
    let token = Token::of(&[7; RANDOM_BYTES]);
    write("token", "token", token.text().as_bytes())?;
    write("token", "hash", token.hash().to_hex().as_bytes())?;
    let entry = format!(
        "[[token]]\nid = \"{}\"\nname = \"edge \\\"one\\\"\\n\"\nsites = [\"a.example\", \"*\"]\nscopes = [\"ingest\", \"query\"]\n\
         sha256 = \"{}\"\nmade = \"2026-11-28T10:00:00Z\"\nexpires = \"2027-11-28T10:00:00+01:00\"\n",
        token.id(),
        token.hash().to_hex(),
    );
    write("token", "file", entry.as_bytes())
}

/// Every kind of column, and now and then something that does not count.
fn event(at: i64) -> v1::Event {
    let text = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    let pick = |choices: &[&str]| text(choices[at as usize % choices.len()]);
    let dimension = |key: &str, value| DimensionsEntry { key: text(key), value };
    let value = |key: &str, value| ValuesEntry { key: text(key), value };
    v1::Event {
        site: pick(&["a.example", "b.example", "A.example"]),
        url: pick(&["/", "/a", "/a/../b", "https://a.example/caf\u{e9}?utm_campaign=spring&x=1#top"]),
        time_ms: NOW.as_unix_ms() - at * 10_000,
        kind: pick(&["", "view", "engage", "share"]),
        visitor: pick(&["", "v1", "v2", "v3", "v4"]),
        visitor_hash: 0x0123_4567_89AB_CDEF ^ at as u64,
        dimensions: vec![
            dimension("device", pick(&["mobile", "desktop", ""])),
            dimension("planet", pick(&["mars"])),
        ],
        values: vec![value("load_ms", at * at * 10), value("bytes", 1 << (at % 42))],
    }
}

fn batch(seq: u64, events: Vec<v1::Event>) -> v1::EventBatch {
    v1::EventBatch { producer: vec![0xAB; 16].into(), seq, sealed_at_ms: NOW.as_unix_ms(), events }
}

/// Batches, and their blocks for clusters of one shard.
fn rows(events: &[v1::Event]) -> io::Result<Vec<v1::Block>> {
    let mut blocks = Vec::new();
    for (seq, some) in events.chunks(8).enumerate() {
        let batch = batch(seq as u64 + 1, some.to_vec());
        let split = blocks_of(&batch, shards(1)).expect("a batch that can be split");
        if seq < 3 {
            write("rows", seq, &batch.encode_to_vec())?;
            write("block", seq, &split.blocks[0].encode_to_vec())?;
        }
        blocks.extend(split.blocks);
    }
    for name in ["block-v1.bin", "block-v1-all-names.bin"] {
        let golden = fs::read(folder().join("../../rollup/tests/golden").join(name))?;
        write("block", name, &golden)?;
    }
    // What `arbitrary` makes of bytes is not ours to say: these are long enough to be something.
    for (target, length) in [("rows_made", 300), ("block_columns", 400)] {
        for seed in 1..=3_u32 {
            let bytes = (0..length).map(|at: u32| (at ^ seed).wrapping_mul(2_654_435_761) >> 17);
            let bytes: Vec<u8> = bytes.map(|number| number as u8).collect();
            write(target, seed, &bytes)?;
        }
    }
    Ok(blocks)
}

fn bucket() -> BucketStart {
    BucketStart::containing(NOW)
}

fn segment(path: &str) -> v1::Segment {
    v1::Segment {
        path: path.to_owned(),
        size_bytes: 100,
        rows: 3,
        checksum: 1,
        footer_bytes: 20,
        footer_checksum: 2,
    }
}

fn commits() -> io::Result<()> {
    let mut blocks = Coverage::default();
    for seq in [1, 2, 3, 9] {
        blocks.insert(ProducerId::from_u128(7), seq);
    }
    let coverage = vec![v1::ShardCoverage { shard: 1, coverage: Some(blocks.to_wire()) }];
    let seconds = bucket().as_unix_seconds();
    let commit = v1::Commit {
        bucket_start_s: seconds,
        shard_count: 4,
        writer: "n1".into(),
        attempt: 7,
        committed_at_ms: NOW.as_unix_ms(),
        rollup: Some(segment("rollup/5m/2026-11-18/10-30/n1-0000000000000007.parquet")),
        raw: Some(segment("raw/2026-11-18/10-30/n1-0000000000000007.parquet")),
        coverage: coverage.clone(),
        sites: vec!["a.example".into()],
    };
    let start = seconds - seconds % 86_400;
    let replaced = v1::ReplacedBucket { bucket_start_s: seconds, through: 2, raw: vec![] };
    let day = v1::ReplacedDay {
        day_start_s: start,
        buckets: vec![replaced],
        five_minutes: vec![],
        days: vec![],
        coverage: Some(segment("coverage/2026-11-18/0000000000000007")),
    };
    let replacement = v1::Replacement {
        writer: "n1".into(),
        attempt: 7,
        shard_count: 4,
        days: vec![day],
        ..v1::Replacement::default()
    };
    let of_bucket = v1::BucketCoverage { bucket_start_s: seconds, shards: coverage };
    let covered = v1::DayCoverage { buckets: vec![of_bucket] };
    use tidemark_history::record::{RecordKind, encode};
    let raw = |record: Bytes| [&[0][..], &record].concat();
    write("commit", "commit-record", &raw(encode(RecordKind::Commit, &commit)))?;
    write("commit", "replacement-record", &raw(encode(RecordKind::Replacement, &replacement)))?;
    write("commit", "commit", &[&[1][..], &commit.encode_to_vec()].concat())?;
    write("commit", "replacement", &[&[2][..], &replacement.encode_to_vec()].concat())?;
    write("commit", "coverage", &[&[3][..], &covered.encode_to_vec()].concat())
}

/// A segment of two row groups.
fn rollup(blocks: &[v1::Block]) -> Written {
    let schema = Arc::<Schema>::default();
    let rules = ShardRules {
        schema: Arc::clone(&schema),
        shards: shards(1),
        times: TimeRules::default(),
        dimension_values: 100,
    };
    let of = |blocks: &[v1::Block]| {
        let id = shards(1).shard(0).expect("a shard");
        let mut shard = Shard::new(id, rules.clone());
        blocks.iter().for_each(|block| _ = shard.apply(block).expect("a block that counts"));
        let parts: Vec<_> =
            shard.buckets().map(|bucket| RollupPart { shard: id, bucket, start: self::bucket() }).collect();
        SegmentRows::of(&schema, &parts, &Folds::default())
    };
    let (first, second) = blocks.split_at(blocks.len() / 2);
    let id = [shards(1).shard(0).expect("a shard")];
    let rows = [of(first), of(second)];
    let groups: Vec<_> = rows.iter().map(|rows| RowGroup { shards: &id, rows }).collect();
    write_rollup(&groups, 300, shards(1)).expect("rows that can be written")
}

fn segments(blocks: &[v1::Block]) -> io::Result<()> {
    let written = rollup(blocks);
    let (columns, footer) = written.bytes.split_at(written.bytes.len() - written.footer_bytes as usize);
    fs::create_dir_all(folder())?;
    fs::write(folder().join("columns.bin"), columns)?;
    let rows = (written.rows as u16).to_le_bytes();
    for asked in [0, 1, 6] {
        write("segment_footer", asked, &[&rows[..], &[asked], footer].concat())?;
    }
    let segment = written.to_segment("rollup/5m/2026-11-18/10-30/n1-1.parquet");
    let footer = Footer::parse(&segment, &written.bytes.slice(columns.len()..)).expect("a footer");
    let mut known: Vec<Vec<u8>> = Vec::new();
    for column in pages(&footer, &written.bytes) {
        known.extend(seeds_of(&column));
    }
    known.sort();
    known.dedup();
    for (at, seed) in known.iter().enumerate() {
        write("segment_column", at, seed)?;
    }
    Ok(())
}

/// A column read as what it can be read as.
fn seeds_of(column: &[UnpackedPage]) -> Vec<Vec<u8>> {
    let mut packed = Vec::new();
    let mut frames = Vec::new();
    for page in column {
        let page = Page {
            is_dictionary: page.is_dictionary,
            encoding: page.encoding,
            len: page.len as u16,
            body: &page.body,
        };
        page.pack(&mut packed);
        page.frame(&mut frames);
    }
    let rows: u32 = column.iter().filter(|page| !page.is_dictionary).map(|page| page.len).sum();
    let all = 0..rows;
    // From the second row on: one, and then four.
    let wanted = if rows > 12 { &[1, 1, 3, 2][..] } else { &[0, 0][..] };
    let kinds = [
        (1, false, Holds::Integers(8)),
        (9, true, Holds::Integers(8)),
        (3, false, Holds::Texts),
        (11, true, Holds::Texts),
        (13, true, Holds::Uniques),
        (14, true, Holds::Distributions),
    ];
    let fits = kinds.into_iter().filter(|&(_, nullable, holds)| {
        read_column(packed.clone().into(), 1 << 20, nullable, holds, std::slice::from_ref(&all)).is_some()
    });
    let seed = fits.map(|(tag, ..)| {
        let mut seed = Vec::new();
        Frame { tag, body: wanted }.encode(&mut seed);
        seed.extend(&frames);
        seed
    });
    seed.collect()
}

fn raw(blocks: &[v1::Block]) -> io::Result<()> {
    for some in [1, 3] {
        let written = write_raw(&blocks[..some]).expect("blocks that can be written");
        write("segment_raw", some, &[&[some as u8][..], &written.bytes].concat())?;
    }
    let golden = fs::read(folder().join("../../history/tests/golden/raw-v1.parquet"))?;
    let segment = fs::read(folder().join("../../history/tests/golden/raw-v1.bin"))?;
    let rows = v1::Segment::decode(&segment[..]).expect("the golden commit").rows as u8;
    write("segment_raw", "golden", &[&[rows][..], &golden].concat())
}

/// Frames of a journal's file.
fn files(blocks: &[v1::Block]) -> io::Result<()> {
    let body = |seq: u64, block: &v1::Block| {
        let id = BlockId {
            producer: ProducerId::from_u128(7),
            shard: ShardCount::DEFAULT.shard(0).expect("a shard"),
            seq,
        };
        let mut record = Vec::new();
        journal::append(&mut record, 1, id, &[bucket()], block);
        record.split_off(16)
    };
    let mut seed = Vec::new();
    Frame { tag: 0, body: &[] }.encode(&mut seed);
    for (seq, block) in blocks.iter().take(3).enumerate() {
        Frame { tag: 1, body: &body(seq as u64, block) }.encode(&mut seed);
    }
    write("journal", "whole", &seed)?;
    Frame { tag: 3, body: &[200, 0] }.encode(&mut seed);
    write("journal", "damaged", &seed)?;
    let mut torn = Vec::new();
    let mut record = journal::header(1, ShardCount::DEFAULT, 9).to_vec();
    journal::append_framed(&mut record, 9, &body(1, &blocks[0]));
    record.pop();
    Frame { tag: 2, body: &record }.encode(&mut torn);
    Frame { tag: 1, body: &body(2, &blocks[1]) }.encode(&mut torn);
    write("journal", "torn", &torn)
}

/// What one member hears of another, from meeting to parting.
fn gossip() -> io::Result<()> {
    let member = |name, port| Ear::new(name, port).expect("a name");
    let (mut a, mut b) = (member("a", 1), member("b", 2));
    let mut seed = Vec::new();
    for round in 0..12 {
        let step = Duration::from_millis(100);
        (a.pass(step), b.pass(step));
        Frame { tag: 2, body: &100_u16.to_le_bytes() }.encode(&mut seed);
        if round == 6 {
            a.become_state(false);
            Frame { tag: 3, body: &[0] }.encode(&mut seed);
            b.become_state(true);
        }
        let (of_a, of_b) = (a.sends(), b.sends());
        of_a.iter().for_each(|(_, message)| _ = b.sealed(message, a.address()));
        for (_, message) in of_b {
            Frame { tag: 0x24, body: &message[HEAD_BYTES..] }.encode(&mut seed);
            a.sealed(&message, b.address());
        }
        if round % 3 == 2 {
            write("gossip", round, &seed)?;
        }
    }
    // Every other kind of message, of bodies that are nearly right.
    let mut seed = Vec::new();
    for kind in 2..8_u8 {
        Frame { tag: 0x24, body: &[&[kind, 1, b'a', 9, 0][..], &[10, 0, 0, 1, 2]].concat() }
            .encode(&mut seed);
        Frame { tag: 0x21, body: &[&[7; 8][..], &[kind, 1, b'c', 14, 4], b"test", &[64, 2, 7]].concat() }
            .encode(&mut seed);
    }
    write("gossip", "kinds", &seed)
}
