//! Top lists in two passes: where commits have a part of the range, from memory, and from history in one; and of groups that are in
//! many shards.

use super::world::{Cluster, NOW_MS, PATIENCE, batch, event};
use std::time::Duration;
use tidemark_proto::v1;
use tidemark_proto::v1::cluster_client::ClusterClient;
use tidemark_proto::v1::value::Kind;
use tidemark_rollup::answer::answer;
use tidemark_rollup::partial::Partial;
use tidemark_rollup::query::Query;
use tidemark_rollup::schema::Schema;
use tidemark_rollup::time::EventTime;

/// Page `n` of 60 has `n` views and visitors, so many minutes ago.
fn visits(minutes: i64) -> Vec<v1::Event> {
    let visit = |page: u64, visitor: u64| v1::Event {
        time_ms: NOW_MS - minutes * 60_000,
        visitor_hash: page << 32 | visitor | 1 << 63,
        ..event(&format!("/{page}"))
    };
    (1..=60).flat_map(|page| (0..page).map(move |visitor| visit(page, visitor))).collect()
}

/// For the five first URLs of two hours.
fn query(measures: &[&str]) -> Query {
    let wire = v1::Query {
        site: "example.com".into(),
        from: "-2h".into(),
        group_by: vec!["url".to_owned()],
        measures: measures.iter().map(|&measure| measure.to_owned()).collect(),
        limit: 5,
        ..v1::Query::default()
    };
    Query::parse(&wire, &Schema::default(), EventTime::from_unix_ms(NOW_MS)).unwrap()
}

/// As node `a` knows them.
async fn top(cluster: &Cluster, measures: &[&str]) -> Partial {
    let query = query(measures);
    let request = v1::PartialRequest {
        query: Some(query.to_wire()),
        shards: (0..8).collect(),
        shard_count: 8,
        as_of_ms: NOW_MS,
        ..v1::PartialRequest::default()
    };
    let mut client = ClusterClient::connect(cluster.url(0)).await.unwrap();
    let reply = client.query_partial(request).await.unwrap().into_inner();
    assert_eq!(reply.answered.len(), 8);
    Partial::from_wire(reply.partial.unwrap(), &query).unwrap()
}

/// What an answer shows of it.
fn rows(partial: Partial, measures: &[&str]) -> Vec<v1::Row> {
    answer(partial, &query(measures), EventTime::from_unix_ms(NOW_MS)).rows
}

async fn until_committed(cluster: &Cluster) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    // A row for each page of two buckets; the running one is not committed.
    while cluster.metric("tidemark_committed_rows_total").is_none_or(|rows| rows < 120) {
        assert!(tokio::time::Instant::now() < deadline, "nothing is committed");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Two buckets that are committed, and a running one.
async fn filled(keep: Duration) -> Cluster {
    let change = |config: &mut crate::NodeConfig| {
        config.settle = Duration::from_millis(100);
        config.keep = keep;
    };
    let cluster = Cluster::of(&["a"], change).await;
    for (seq, minutes) in [(1, 60), (2, 30), (3, 0)] {
        cluster.rows(0, vec![batch(seq, visits(minutes))]).await;
    }
    until_committed(&cluster).await;
    cluster
}

#[tokio::test]
async fn what_memory_has_of_committed_buckets_answers_as_history_does() {
    let (in_memory, in_history) = (filled(Duration::from_secs(86_400)).await, filled(Duration::ZERO).await);
    for measures in [&["views"][..], &["views", "visitors"], &["visitors", "views", "load_ms.p95"]] {
        let from_memory = top(&in_memory, measures).await;
        assert!(from_memory.facts.rollups_from_memory > 0 && from_memory.facts.gaps.is_empty());
        assert_eq!(from_memory.facts.rollups_from_history, 0, "memory has all");
        assert_eq!(from_memory.len(), 5);
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let from_history = loop {
            let top = top(&in_history, measures).await;
            if top.facts.rollups_from_history > 0 {
                break top;
            }
            assert!(tokio::time::Instant::now() < deadline, "nothing goes out of memory");
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        assert_eq!(rows(from_memory, measures), rows(from_history, measures));
    }
}

#[tokio::test]
async fn what_goes_out_of_memory_is_answered_from_history_at_once() {
    let cluster = filled(Duration::ZERO).await;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let top = top(&cluster, &["views", "visitors"]).await;
        let facts = top.facts.clone();
        let rows = rows(top, &["views", "visitors"]);
        // A third of it in each bucket.
        assert_eq!(rows[0].values[1].kind, Some(Kind::Integer(180)), "{facts:?}");
        if facts.rollups_from_history > 0 {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "nothing goes out of memory");
    }
}

#[tokio::test]
async fn where_memory_was_made_anew_without_what_is_committed_history_is_read_however_long_memory_keeps() {
    let cluster = filled(Duration::from_secs(86_400)).await;
    // Made from the journal, which has the running bucket alone.
    cluster.nodes[0].shards.iter().for_each(crate::shard::ShardHandle::panic);
    cluster.views_become(3 * 1_830).await;
    let top = top(&cluster, &["views", "visitors"]).await;
    assert!(top.facts.rollups_from_history > 0, "{:?}", top.facts);
    assert_eq!(rows(top, &["views", "visitors"])[0].values[1].kind, Some(Kind::Integer(180)));
}

/// The five referrers with the most views in two hours; the others have fewer.
fn referrers(measures: &[&str]) -> Query {
    let wire = v1::Query { group_by: vec!["referrer".to_owned()], ..query(measures).to_wire() };
    Query::parse(&wire, &Schema::default(), EventTime::from_unix_ms(NOW_MS)).unwrap()
}

/// In each of these buckets: 20 pages in all shards, each with a referrer of its own that has 50 views, and with five that have three
/// views on each page. Together they are the first, on the pages of any half of the shards they are not.
async fn filled_with_referrers(cluster: &Cluster, minutes: &[i64]) {
    for (seq, minutes) in (1..).zip(minutes) {
        let visit = |page: u64, referrer: u64, visitor: u64| v1::Event {
            time_ms: NOW_MS - minutes * 60_000,
            visitor_hash: page << 48 | referrer << 32 | visitor | 1 << 63,
            dimensions: vec![v1::event::DimensionsEntry {
                key: "referrer".into(),
                value: format!("r{referrer}.example").into(),
            }],
            ..event(&format!("/{page}"))
        };
        let of_page = |page: u64| {
            let own = (0..50).map(move |visitor| visit(page, 100 + page, visitor));
            let shared = (1..=5).flat_map(move |referrer| (0..3).map(move |of| visit(page, referrer, of)));
            own.chain(shared)
        };
        cluster.rows(0, vec![batch(seq, (0..20).flat_map(of_page).collect())]).await;
    }
}

/// What of these shards answers.
async fn part(cluster: &Cluster, query: &Query, shards: std::ops::Range<u32>) -> (Partial, usize) {
    let request = v1::PartialRequest {
        query: Some(query.to_wire()),
        shards: shards.collect(),
        shard_count: 8,
        as_of_ms: NOW_MS,
        ..v1::PartialRequest::default()
    };
    let mut client = ClusterClient::connect(cluster.url(0)).await.unwrap();
    let reply = client.query_partial(request).await.unwrap().into_inner();
    (Partial::from_wire(reply.partial.unwrap(), query).unwrap(), reply.answered.len())
}

/// Clusters without commits, and with.
async fn both_with_referrers() -> [Cluster; 2] {
    let without = Cluster::of(&["a"], |_| {}).await;
    filled_with_referrers(&without, &[1, 0]).await;
    let with = Cluster::of(&["a"], |config| config.settle = Duration::from_millis(100)).await;
    filled_with_referrers(&with, &[60, 30, 0]).await;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while with.metric("tidemark_commits_total").is_none_or(|commits| commits == 0) {
        assert!(tokio::time::Instant::now() < deadline, "nothing is committed");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    [without, with]
}

#[tokio::test]
async fn groups_that_are_in_many_shards_are_cut_where_all_shards_are_asked_for_at_once_and_only_there() {
    for cluster in both_with_referrers().await {
        for measures in [&["views", "visitors"][..], &["views", "visitors", "load_ms.p95"]] {
            let query = referrers(measures);
            let (whole, _) = part(&cluster, &query, 0..8).await;
            assert_eq!(whole.len(), 5, "what is not among the first is not sent");
            let (mut halves, _) = part(&cluster, &query, 0..4).await;
            let (others, _) = part(&cluster, &query, 4..8).await;
            assert!(halves.len().min(others.len()) > 5, "what is small here may be large there");
            halves.merge(&others);
            assert_eq!(whole.facts, halves.facts);
            let now = EventTime::from_unix_ms(NOW_MS);
            let (of_whole, of_halves) = (answer(whole, &query, now).rows, answer(halves, &query, now).rows);
            let first = of_whole.iter().map(|row| row.values[0].kind.clone());
            let shared = (1..=5).map(|referrer| Some(Kind::Text(format!("r{referrer}.example"))));
            assert_eq!(first.collect::<Vec<_>>(), shared.collect::<Vec<_>>());
            assert_eq!(of_whole, of_halves);
        }
        // What is as dear as the rest does not order first.
        let (by_visitors, _) = part(&cluster, &referrers(&["visitors", "views"]), 0..8).await;
        assert_eq!(by_visitors.len(), 25);
    }
}

#[tokio::test]
async fn nothing_is_cut_where_a_shard_is_silent() {
    for cluster in both_with_referrers().await {
        let shard = cluster.nodes[0].shards[3].clone();
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while shard.is_up() {
            assert!(tokio::time::Instant::now() < deadline, "the shard is still up");
            shard.panic();
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let (left, answered) = part(&cluster, &referrers(&["views", "visitors"]), 0..8).await;
        assert_eq!(answered, 7);
        assert!(left.len() > 5, "who has the shard may have more of any of them");
    }
}
