//! Who is active, where memory knows all of the window and where it does not.

use super::world::{Cluster, NOW_MS, PATIENCE, batch, event};
use std::collections::BTreeSet;
use std::time::Duration;
use tidemark_proto::v1;
use tidemark_proto::v1::cluster_client::ClusterClient;
use tidemark_proto::v1::value::Kind;
use tidemark_rollup::answer::answer;
use tidemark_rollup::partial::Partial;
use tidemark_rollup::query::Query;
use tidemark_rollup::schema::Schema;
use tidemark_rollup::time::EventTime;

/// A visitor for each page, so long ago.
fn visits(pages: usize, ago: Duration) -> Vec<v1::Event> {
    let visit = |page: usize| v1::Event {
        time_ms: NOW_MS - ago.as_millis() as i64,
        visitor_hash: page as u64 + 1,
        ..event(&format!("/{page}"))
    };
    (0..pages).map(visit).collect()
}

/// A number of the whole site as node `a` knows it, so long after the time that stands still, and what is missing.
async fn ask(cluster: &Cluster, measure: &str, after: Duration) -> (u64, BTreeSet<String>) {
    let mut client = ClusterClient::connect(cluster.url(0)).await.unwrap();
    let as_of = EventTime::from_unix_ms(NOW_MS).plus(after);
    let wire =
        v1::Query { site: "example.com".into(), measures: vec![measure.to_owned()], ..v1::Query::default() };
    let query = Query::parse(&wire, &Schema::default(), as_of).unwrap();
    let request = v1::PartialRequest {
        query: Some(query.to_wire()),
        shards: (0..8).collect(),
        shard_count: 8,
        as_of_ms: as_of.as_unix_ms(),
        ..v1::PartialRequest::default()
    };
    let partial = client.query_partial(request).await.unwrap().into_inner().partial.unwrap();
    let partial = Partial::from_wire(partial, &query).unwrap();
    let gaps = partial.facts.gaps.clone();
    let number = answer(partial, &query, as_of).rows.first().map_or(0, |row| match row.values[0].kind {
        Some(Kind::Integer(number)) => number,
        _ => panic!("{measure} is no integer"),
    });
    (number, gaps)
}

#[tokio::test]
async fn a_gap_is_told_where_only_commits_have_a_part_of_the_window_and_no_longer() {
    // 22:13:20. What happened 250 seconds ago is of a bucket that has ended and is committed soon.
    let cluster = Cluster::of(&["a"], |config| config.settle = Duration::from_millis(100)).await;
    cluster.rows(0, vec![batch(1, visits(100, Duration::from_secs(250)))]).await;
    cluster.rows(0, vec![batch(2, visits(40, Duration::from_secs(5)))]).await;
    let now = Duration::ZERO;
    assert_eq!(ask(&cluster, "active", now).await, (100, BTreeSet::new()));

    // The bucket at 22:10 is running: its blocks, of eight shards at most, stay in the journal.
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let rows = cluster.metric("tidemark_committed_rows_total");
        // Other metrics' names begin alike.
        let blocks = ["tidemark_journal_blocks ", "tidemark_journal_blocks{"];
        let blocks = blocks.into_iter().find_map(|line_start| cluster.metric(line_start));
        if rows == Some(100) && blocks.is_some_and(|blocks| blocks <= 8) {
            break;
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "{rows:?} rows are committed, {blocks:?} blocks are left"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(
        ask(&cluster, "active", now).await,
        (100, BTreeSet::new()),
        "memory has all that is committed"
    );
    assert_eq!(ask(&cluster, "active", Duration::from_secs(55)).await, (40, BTreeSet::new()), "by itself");
    assert_eq!(ask(&cluster, "active", Duration::from_secs(310)).await, (0, BTreeSet::new()));

    // Made anew from the journal, the shards know of the bucket before only by its commits.
    cluster.nodes[0].shards.iter().for_each(|shard| shard.panic());
    let gap = |minutes: u32| {
        let text = "active: some visitors of the last five minutes are only in history; complete again in";
        BTreeSet::from([format!("{text} {minutes}m")])
    };
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let found = ask(&cluster, "active", now).await;
        if found == (40, gap(2)) {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "{found:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(ask(&cluster, "active", Duration::from_secs(90)).await, (40, gap(1)));
    assert_eq!(
        ask(&cluster, "active", Duration::from_secs(100)).await,
        (40, BTreeSet::new()),
        "22:15 has passed"
    );
    assert_eq!(ask(&cluster, "visitors", now).await, (100, BTreeSet::new()), "history has them all the same");
}
