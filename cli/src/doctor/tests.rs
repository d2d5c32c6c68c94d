//! Each check, with what it finds and what it does not.

use super::checks;
use super::finding::{Finding, Severity};
use super::gather::{Certificate, CoordinatorSays, NodeSays, Observed, names};
use super::report;
use std::time::Duration;
use tidemark_proto::v1;
use tidemark_rollup::time::EventTime;

const NOW_MS: i64 = 1_700_000_000_000;
const NOW_S: u32 = 1_700_000_000;

fn node(id: &str) -> v1::Member {
    let health = v1::NodeHealth {
        time_ms: NOW_MS,
        memory_bytes: 50,
        memory_budget_bytes: 100,
        in_flight_limit_bytes: 100,
        journal_bytes: 10,
        journal_limit_bytes: 100,
        disk_free_bytes: Some(1000),
        disk_reserve_bytes: 100,
        shard_count: 2,
        replication: 2,
        ..v1::NodeHealth::default()
    };
    let status = v1::StatusReply {
        shards_owned: 2,
        shards_ready: 2,
        flow: Some(v1::NodeFlow::default()),
        health: Some(health),
        ..v1::StatusReply::default()
    };
    v1::Member {
        id: id.into(),
        address: format!("{id}:7100"),
        role: "node".into(),
        state: "active".into(),
        version: "0.1.0".into(),
        status: Some(status),
        ..v1::Member::default()
    }
}

fn health(observed: &mut Observed) -> &mut v1::NodeHealth {
    status(observed).health.as_mut().unwrap()
}

fn status(observed: &mut Observed) -> &mut v1::StatusReply {
    member(observed).status.as_mut().unwrap()
}

fn member(observed: &mut Observed) -> &mut v1::Member {
    &mut observed.node.as_mut().unwrap().after.members[0]
}

fn report_of(observed: &mut Observed) -> &mut v1::Flow {
    observed.coordinators[0].report.as_mut().unwrap()
}

fn facts(observed: &mut Observed) -> &mut v1::Facts {
    &mut observed.answer.as_mut().unwrap().as_mut().unwrap().0
}

/// Two nodes and a coordinator, with nothing wrong.
fn healthy() -> Observed {
    let coordinator = v1::Member {
        id: "front".into(),
        address: "front:8100".into(),
        role: "coordinator".into(),
        state: "active".into(),
        version: "0.1.0".into(),
        ..v1::Member::default()
    };
    let members = vec![node("a"), node("b"), coordinator];
    let owners = v1::Owners { writers: vec![0, 1], settled: 2 };
    let placement = v1::PlacementReply {
        shard_count: 2,
        replication: 2,
        nodes: members[..2].to_vec(),
        owners: vec![owners; 2],
    };
    let reply = v1::MembersReply { members: members.clone(), missing: Vec::new() };
    let stage = v1::Stage { name: "counted".into(), ..v1::Stage::default() };
    let flow = v1::Flow {
        time_ms: NOW_MS,
        stages: vec![v1::Stage { condition: v1::Condition::Fine.into(), ..stage }],
        members: members.clone(),
        placement: Some(placement.clone()),
        ..v1::Flow::default()
    };
    Observed {
        now: EventTime::from_unix_ms(NOW_MS),
        watched_for: Duration::from_secs(6),
        to: "http://a:7100".into(),
        node: Ok(NodeSays {
            before: reply.clone(),
            after: reply,
            placement,
            asked_at_ms: NOW_MS,
            uncertainty: Duration::from_millis(10),
        }),
        views: vec![("b".into(), names(&members))],
        coordinators: vec![CoordinatorSays { name: "front".into(), report: Ok(flow) }],
        answer: Some(Ok((v1::Facts { complete: true, late: 50, rejected: 5, ..v1::Facts::default() }, 1000))),
        certificates: vec![Certificate {
            subject: "a".into(),
            not_after: EventTime::from_unix_ms(NOW_MS).plus(Duration::from_secs(15 * 86_400)),
        }],
    }
}

/// What is found once `change` has happened to a healthy cluster.
fn found(change: impl FnOnce(&mut Observed)) -> Vec<(Severity, &'static str, String)> {
    let mut observed = healthy();
    change(&mut observed);
    let findings = checks::all(&observed);
    for Finding { what, remedy, .. } in &findings {
        assert!(what.ends_with('.') && !remedy.is_empty(), "{what:?} {remedy:?}");
    }
    findings.into_iter().map(|finding| (finding.severity, finding.check, finding.subject)).collect()
}

fn is_found(severity: Severity, check: &'static str, subject: &str, change: impl FnOnce(&mut Observed)) {
    assert_eq!(found(change), [(severity, check, subject.to_owned())]);
}

use Severity::{Critical, Warning};

#[test]
fn nothing_is_found_in_a_healthy_cluster() {
    assert_eq!(found(|_| {}), []);
    let observed = healthy();
    assert_eq!(
        report::text(&observed, &[]),
        "2 nodes, 1 coordinator, 2 shards, 2 owners each.\nHealthy: nothing was found.\n"
    );
}

#[test]
fn who_is_not_there_is_found() {
    is_found(Warning, "node-missing", "c", |of| of.node.as_mut().unwrap().after.missing = vec!["c".into()]);
    let two = found(|of| of.node.as_mut().unwrap().after.missing = vec!["c".into(), "d".into()]);
    let both = ["c", "d"].map(|id| (Critical, "node-missing", id.to_owned()));
    assert_eq!(two, both);
    is_found(Warning, "node-slow", "a", |of| member(of).status = None);
    is_found(Warning, "node-not-active", "a", |of| member(of).state = "joining".into());
    let silent = found(|of| {
        member(of).doubtful = true;
        report_of(of).members[0].doubtful = true;
        of.views.clear();
    });
    let checks: Vec<&str> = silent.iter().map(|(_, check, _)| *check).collect();
    assert_eq!(checks, ["member-silent", "owners-too-few"]);
    let gone = found(|of| of.node = Err("connection refused".into()));
    assert_eq!(gone, [(Critical, "node-unreachable", "http://a:7100".to_owned())]);
}

#[test]
fn members_that_do_not_agree_are_found() {
    is_found(Warning, "versions-differ", "cluster", |of| member(of).version = "0.2.0".into());
    is_found(Critical, "settings-differ", "cluster", |of| health(of).shard_count = 4);
    is_found(Critical, "settings-differ", "cluster", |of| {
        report_of(of).placement.as_mut().unwrap().replication = 3;
    });
    is_found(Warning, "views-differ", "b", |of| _ = of.views[0].1.remove("a"));
    is_found(Critical, "coordinator-sees-others", "front", |of| report_of(of).members.clear());
    is_found(Critical, "coordinator-unreachable", "front", |of| {
        of.coordinators[0].report = Err("refused".into())
    });
    for (reason, is_bad) in [("seal", true), ("facts", true), ("version", true), ("replay", false)] {
        let part = |count| vec![v1::StagePart { name: reason.into(), count }];
        let found = found(|of| {
            health(of).gossip_dropped = part(5);
            let before = &mut of.node.as_mut().unwrap().before.members[0];
            before.status.as_mut().unwrap().health.as_mut().unwrap().gossip_dropped = part(4);
        });
        assert_eq!(!found.is_empty(), is_bad, "{reason}: {found:?}");
    }
    // Long ago is not now.
    let part = vec![v1::StagePart { name: "seal".into(), count: 5 }];
    assert_eq!(
        found(|of| {
            health(of).gossip_dropped = part.clone();
            let before = &mut of.node.as_mut().unwrap().before.members[0];
            before.status.as_mut().unwrap().health.as_mut().unwrap().gossip_dropped = part;
        }),
        []
    );
}

#[test]
fn shards_without_their_owners_are_found() {
    is_found(Warning, "replication-not-met", "cluster", |of| {
        of.node.as_mut().unwrap().placement.owners[0].settled = 1;
    });
    is_found(Critical, "owners-too-few", "cluster", |of| {
        let says = of.node.as_mut().unwrap();
        says.after.members.remove(1);
        says.placement.owners.iter_mut().for_each(|owners| owners.writers.truncate(1));
        report_of(of).members.remove(1);
        of.views.clear();
    });
}

#[test]
fn shards_that_do_not_answer_are_found() {
    is_found(Critical, "shards-down", "a", |of| health(of).shards_down = 1);
    is_found(Warning, "shards-not-ready", "a", |of| status(of).shards_ready = 1);
    is_found(Warning, "recovering", "a", |of| {
        health(of).recovering = true;
        status(of).shards_ready = 0;
    });
}

#[test]
fn a_journal_that_is_full_or_not_trimmed_is_found() {
    is_found(Critical, "journal-full", "a", |of| {
        status(of).flow.as_mut().unwrap().journal_refuses = "the journal's disk is full".into();
    });
    is_found(Warning, "journal-near-limit", "a", |of| health(of).journal_bytes = 90);
    let old = |of: &mut Observed, age_s: u32| {
        status(of).oldest_uncommitted_s = NOW_S - age_s;
        status(of).flow.as_mut().unwrap().oldest_unflushed_s = NOW_S - age_s;
        status(of).journal_blocks = 7;
    };
    is_found(Warning, "journal-not-trimmed", "a", |of| old(of, 3600));
    assert_eq!(found(|of| old(of, 600)), []);
}

#[test]
fn limits_that_are_near_are_found_and_those_that_are_not_are_not() {
    is_found(Critical, "store-away", "a", |of| health(of).store_away = "timed out".into());
    is_found(Warning, "memory-near-limit", "a", |of| health(of).memory_bytes = 90);
    is_found(Warning, "in-flight-near-limit", "a", |of| health(of).in_flight_bytes = 90);
    is_found(Warning, "disk-near-full", "a", |of| health(of).disk_free_bytes = Some(799));
    for change in [
        |of: &mut Observed| health(of).memory_bytes = 89,
        |of: &mut Observed| health(of).in_flight_bytes = 89,
        |of: &mut Observed| health(of).disk_free_bytes = Some(800),
        |of: &mut Observed| health(of).disk_free_bytes = None,
        |of: &mut Observed| {
            health(of).journal_bytes = 1_000_000;
            health(of).journal_limit_bytes = 0;
        },
    ] {
        assert_eq!(found(change), []);
    }
}

#[test]
fn clocks_that_are_apart_are_found_beyond_what_the_question_took() {
    is_found(Warning, "clocks-apart", "a", |of| health(of).time_ms += 2011);
    is_found(Warning, "clocks-apart", "a", |of| health(of).time_ms -= 3_600_000);
    assert_eq!(found(|of| health(of).time_ms += 2010), []);
}

#[test]
fn what_answers_lack_and_what_became_of_events_is_found() {
    is_found(Critical, "partial-answers", "cluster", |of| facts(of).complete = false);
    is_found(Critical, "no-answer", "cluster", |of| of.answer = Some(Err("too many queries".into())));
    is_found(Warning, "events-rejected", "cluster", |of| facts(of).rejected = 20);
    is_found(Warning, "events-late", "cluster", |of| facts(of).late = 100);
    for (condition, severity) in [(v1::Condition::Questionable, Warning), (v1::Condition::OnFire, Critical)] {
        is_found(severity, "way-of-events", "counted", |of| {
            let stage = &mut report_of(of).stages[0];
            stage.set_condition(condition);
            stage.explanation = "Something is slow.".into();
        });
    }
}

#[test]
fn certificates_are_found_two_weeks_before_their_end_and_after_it() {
    let ends = |of: &mut Observed, left_s: i64| {
        of.certificates[0].not_after = EventTime::from_unix_ms(NOW_MS + left_s * 1000);
    };
    is_found(Warning, "certificate-ends", "a", |of| ends(of, 13 * 86_400));
    is_found(Critical, "certificate-ended", "a", |of| ends(of, -1));
    assert_eq!(found(|of| ends(of, 15 * 86_400)), []);
}

#[test]
fn the_worst_comes_first_in_text_and_json() {
    let mut observed = healthy();
    health(&mut observed).memory_bytes = 100;
    health(&mut observed).shards_down = 1;
    let findings = checks::all(&observed);
    let text = report::text(&observed, &findings);
    let critical = text.find("CRITICAL shards-down: a\n").unwrap();
    assert!(critical < text.find("WARNING memory-near-limit: a\n").unwrap(), "{text}");
    assert_eq!(text.matches("To do: ").count(), 2);
    let json: serde_json::Value = serde_json::from_str(&report::json(&observed, &findings)).unwrap();
    assert_eq!((&json["healthy"], json["members"].as_array().unwrap().len()), (&false.into(), 3));
    assert_eq!(json["findings"][0]["check"], "shards-down");
    assert_eq!(json["findings"][1]["severity"], "warning");
}
