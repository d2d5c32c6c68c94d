//! Every condition, from numbers at its limit.

use super::*;

const NOW_S: u32 = 1_800_000_000;

fn node(id: &str, change: impl FnOnce(&mut v1::StatusReply, &mut v1::NodeFlow)) -> v1::Member {
    let (mut status, mut flow) = (v1::StatusReply::default(), v1::NodeFlow::default());
    flow.verifies = true;
    change(&mut status, &mut flow);
    status.flow = Some(flow);
    v1::Member { id: id.into(), role: "node".into(), status: Some(status), ..v1::Member::default() }
}

fn flow(members: Vec<v1::Member>) -> v1::Flow {
    let placement = Some(v1::PlacementReply { replication: 2, ..v1::PlacementReply::default() });
    v1::Flow { time_ms: i64::from(NOW_S) * 1000, members, placement, ..v1::Flow::default() }
}

fn stage_lately(flow: &v1::Flow, lately: &Lately, name: &str) -> v1::Stage {
    stages(flow, lately).into_iter().find(|stage| stage.name == name).unwrap()
}

fn stage(flow: &v1::Flow, name: &str) -> v1::Stage {
    stage_lately(flow, &Lately::default(), name)
}

/// The condition of a stage of one node, and what its explanation has to name.
fn check(
    name: &str,
    change: impl FnOnce(&mut v1::StatusReply, &mut v1::NodeFlow),
    condition: v1::Condition,
    says: &str,
) {
    let stage = stage(&flow(vec![node("n1", change)]), name);
    assert_eq!(stage.condition(), condition, "{name}: {}", stage.explanation);
    assert!(stage.explanation.contains(says), "{says} is not in: {}", stage.explanation);
}

fn changed(count: u64) -> Change {
    Change { count, per_second: count as f64 / 10.0 }
}

/// What was received lately, of which so much was rejected, repeated and refused.
fn lately(received: u64, rejected: u64, duplicate: u64, refused: u64) -> Lately {
    Lately {
        received: changed(received),
        rejected: changed(rejected),
        duplicate: changed(duplicate),
        counted: changed(received - rejected - duplicate - refused),
        ..Lately::default()
    }
}

#[test]
fn a_cluster_that_just_started_is_fine_at_every_stage_and_says_what_each_is() {
    let stages = stages(&flow(vec![node("n1", |_, _| {})]), &Lately::default());
    let names: Vec<&str> = stages.iter().map(|stage| &*stage.name).collect();
    let expected =
        ["received", "rejected", "duplicate", "counted", "journaled", "flushed", "committed", "verified"];
    assert_eq!(names, expected);
    for stage in &stages {
        assert_eq!(stage.condition(), Fine, "{stage:?}");
        assert!(stage.explanation.ends_with('.') && stage.explanation.len() > 20, "{stage:?}");
    }
}

#[test]
fn counts_are_sums_over_nodes_in_parts_and_commits_are_what_all_know() {
    let member = |id: &str, events, buckets| {
        node(id, |_, flow| {
            flow.received_events = events;
            flow.committed_buckets = buckets;
            flow.rejected_events = vec![v1::StagePart { name: "too_late".into(), count: events / 10 }];
        })
    };
    let flow = flow(vec![member("n1", 100, 7), member("n2", 50, 6)]);
    let received = stage_lately(&flow, &lately(30, 0, 0, 0), "received");
    assert_eq!((received.count, received.per_second, received.unit.as_str()), (150, 3.0, "events"));
    assert_eq!(
        received.parts.iter().map(|part| (&*part.name, part.count)).collect::<Vec<_>>(),
        [("n1", 100), ("n2", 50)]
    );
    assert_eq!(stage(&flow, "committed").count, 7);
    let rejected = stage(&flow, "rejected");
    assert_eq!((rejected.count, &*rejected.parts[0].name, rejected.parts[0].count), (15, "too_late", 15));
}

#[test]
fn without_nodes_nothing_is_taken_in() {
    let nobody = stage(&flow(Vec::new()), "received");
    assert_eq!(nobody.condition(), OnFire);
    assert!(nobody.explanation.contains("start nodes"), "{}", nobody.explanation);
    assert_eq!(stage(&flow(Vec::new()), "journaled").lag_ms, None);
}

#[test]
fn a_node_that_does_not_answer_is_questionable_where_its_numbers_lack() {
    let silent = v1::Member { status: None, ..node("n2", |_, _| {}) };
    let received = stage(&flow(vec![node("n1", |_, _| {}), silent]), "received");
    assert_eq!(received.condition(), Questionable);
    assert!(received.explanation.starts_with("n2 did not say"), "{}", received.explanation);
}

#[test]
fn refused_and_rejected_events_are_judged_by_their_share_of_what_was_received_lately() {
    let flow = flow(vec![node("n1", |_, flow| {
        flow.rejected_events = vec![v1::StagePart { name: "bad_url".into(), count: 5 }];
    })]);
    for (share, condition) in
        [(0, Fine), (10, Fine), (11, Questionable), (100, Questionable), (101, OnFire), (1000, OnFire)]
    {
        let rejected = stage_lately(&flow, &lately(1000, share, 0, 0), "rejected");
        assert_eq!(rejected.condition(), condition, "{share} of 1000 rejected");
        assert!(rejected.explanation.contains("bad_url"), "{}", rejected.explanation);
        let received = stage_lately(&flow, &lately(1000, 0, 0, share), "received");
        assert_eq!(received.condition(), condition, "{share} of 1000 refused");
    }
    assert!(stage_lately(&flow, &lately(1000, 25, 0, 0), "rejected").explanation.starts_with("2.5 %"));
}

#[test]
fn repeated_events_are_questionable_only_where_they_are_the_most() {
    let flow = flow(vec![node("n1", |_, _| {})]);
    assert_eq!(stage_lately(&flow, &lately(1000, 0, 500, 0), "duplicate").condition(), Fine);
    assert_eq!(stage_lately(&flow, &lately(1000, 0, 501, 0), "duplicate").condition(), Questionable);
}

#[test]
fn as_many_nodes_missing_as_a_shard_has_owners_are_on_fire_and_fewer_questionable() {
    let missing = |missing: &[&str], doubtful| {
        let member = v1::Member { doubtful, ..node("n3", |_, _| {}) };
        let missing = missing.iter().map(|&id| id.to_owned()).collect();
        stage(&v1::Flow { missing, ..flow(vec![member]) }, "counted")
    };
    assert_eq!(missing(&[], false).condition(), Fine);
    assert_eq!(missing(&["n1"], false).condition(), Questionable);
    assert_eq!(missing(&["n1", "n2"], false).condition(), OnFire);
    // One that was given up a moment ago counts, and once.
    assert_eq!(missing(&["n1"], true).condition(), OnFire);
    assert_eq!(missing(&["n3"], true).condition(), Questionable);
    assert!(missing(&["n1", "n2"], false).explanation.contains("n1 and n2"));
}

#[test]
fn a_node_that_is_not_ready_for_all_it_owns_is_questionable() {
    let unready = |status: &mut v1::StatusReply, _: &mut _| {
        (status.shards_owned, status.shards_ready, status.blocks_behind) = (20, 15, 12);
    };
    check("counted", unready, Questionable, "n1 still compares 5 shards");
    check("counted", |status, _| (status.shards_owned, status.shards_ready) = (20, 20), Fine, "events");
}

#[test]
fn a_journal_that_refuses_is_on_fire_and_one_that_lags_is_so_after_a_while() {
    check(
        "journaled",
        |_, flow| flow.journal_refuses = "the disk is full".into(),
        OnFire,
        "the disk is full",
    );
    for (ms, condition) in [(1000, Fine), (1001, Questionable), (10_000, Questionable), (10_001, OnFire)] {
        check("journaled", |_, flow| flow.journal_lag_ms = ms, condition, "");
    }
    let slow = flow(vec![node("n1", |_, _| {}), node("n2", |_, flow| flow.journal_lag_ms = 5000)]);
    let slow = stage(&slow, "journaled");
    assert_eq!(slow.lag_ms, Some(5000));
    assert!(slow.explanation.contains("5 s for the disk of n2"), "{}", slow.explanation);
}

#[test]
fn a_bucket_that_is_due_for_two_minutes_is_questionable_and_for_ten_on_fire() {
    for (seconds, condition) in
        [(0, Fine), (120, Fine), (121, Questionable), (600, Questionable), (601, OnFire)]
    {
        check("flushed", |_, flow| flow.oldest_unflushed_s = NOW_S - seconds, condition, "");
    }
    check("flushed", |_, _| {}, Fine, "none is due");
    let late = flow(vec![node("n1", |_, flow| flow.oldest_unflushed_s = NOW_S - 900)]);
    let late = stage(&late, "flushed");
    assert_eq!(late.lag_ms, Some(900_000));
    assert!(late.explanation.contains("due on n1 for 15 min"), "{}", late.explanation);
}

#[test]
fn flushes_that_failed_lately_are_questionable() {
    let lately = Lately { flush_failures: changed(3), ..Lately::default() };
    let stage = stage_lately(&flow(vec![node("n1", |_, _| {})]), &lately, "flushed");
    assert_eq!(stage.condition(), Questionable);
    assert!(stage.explanation.starts_with("3 flushes failed"), "{}", stage.explanation);
}

#[test]
fn a_node_that_lacks_commits_of_others_is_questionable() {
    let apart = |seconds| {
        let member = |id, newest| node(id, |_, flow| flow.newest_committed_s = newest);
        stage(&flow(vec![member("n1", NOW_S), member("n2", NOW_S - seconds)]), "committed")
    };
    assert_eq!(apart(600).condition(), Fine);
    assert_eq!(apart(900).condition(), Questionable);
    assert!(apart(900).explanation.starts_with("n2 lacks commits"), "{}", apart(900).explanation);
}

#[test]
fn commits_lag_only_while_something_waits_to_be_committed() {
    let lag = |journal_blocks, newest| {
        let member = node("n1", |status, flow| {
            (status.journal_blocks, flow.newest_committed_s) = (journal_blocks, newest);
        });
        stage(&flow(vec![member]), "committed").lag_ms
    };
    assert_eq!(lag(1, NOW_S - 200), Some(200_000));
    assert_eq!(lag(0, NOW_S - 200), None);
    assert_eq!(lag(1, 0), None);
}

#[test]
fn a_bucket_that_differs_is_on_fire_whatever_else() {
    let differs = |_: &mut _, flow: &mut v1::NodeFlow| {
        (flow.verified_buckets, flow.differing_buckets, flow.oldest_unverified_s) = (9, 1, 1);
    };
    check("verified", differs, OnFire, "1 committed buckets differ");
}

#[test]
fn verifying_is_fine_while_nothing_waits_for_long_and_where_it_is_switched_off() {
    let hours = |hours: u32| NOW_S - hours * 3600;
    check("verified", |_, _| {}, Fine, "No commit was old enough");
    check("verified", |_, flow| flow.verified_buckets = 3, Fine, "3 commits were counted anew");
    check("verified", |_, flow| flow.oldest_unverified_s = hours(6), Fine, "");
    check("verified", |_, flow| flow.oldest_unverified_s = hours(7), Questionable, "waited for 7 h");
    check("verified", |_, flow| flow.verifies = false, Fine, "switched off");
    let off = flow(vec![node("n1", |_, flow| flow.verifies = false)]);
    assert_eq!(stage(&off, "verified").lag_ms, None);
}
