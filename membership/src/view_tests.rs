//! Tests of the roster.

use super::*;
use crate::identity::Phase;
use crate::identity::tests::node;

const JOINING: Phase = Phase::Is(MemberState::Joining);
const ACTIVE: Phase = Phase::Is(MemberState::Active);
const LEAVING: Phase = Phase::Is(MemberState::Leaving);
const PATIENCE: Patience = Patience { silent: Duration::from_millis(1600), doubt: Duration::from_secs(1) };

fn id(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

fn known(name: &str) -> Known {
    Known { id: id(name), gossip: node(name, 0, ACTIVE).gossip }
}

fn roster(remembered: &[&str]) -> (Roster, Instant) {
    let now = Instant::now();
    let remembered = remembered.iter().map(|name| known(name)).collect();
    (Roster::new(node("me", 1, ACTIVE), remembered, PATIENCE, now), now)
}

fn said(roster: &mut Roster) -> Vec<String> {
    roster.take_changes().iter().map(ToString::to_string).collect()
}

fn missing(roster: &Roster) -> Vec<NodeId> {
    roster.view().missing().to_vec()
}

#[tokio::test]
async fn a_node_that_was_given_up_is_doubtful_then_missing_and_is_so_until_it_is_active() {
    let (mut roster, now) = roster(&[]);
    roster.up(&node("a", 1, ACTIVE));
    roster.down(&node("a", 1, ACTIVE), now);
    assert!(roster.view().member(&id("a")).unwrap().doubtful);
    assert_eq!(roster.next(), Some(now + PATIENCE.doubt));
    roster.tick(now + PATIENCE.doubt);
    assert_eq!((roster.view().member(&id("a")), missing(&roster)), (None, vec![id("a")]));
    roster.up(&node("a", 2, JOINING));
    assert_eq!(missing(&roster), [id("a")]);
    roster.renamed(&node("a", 3, ACTIVE));
    assert!(missing(&roster).is_empty());
    assert_eq!(
        said(&mut roster),
        [
            "a (a:7100) joined; it is active",
            "a was given up: it did not answer for 1.6 s; its shards move in 1 s unless it comes back",
            "a is missing: it did not come back, and may hold what nobody else has",
            "a is back; it is joining",
            "a is active",
            "a is missing no more: it is active again",
        ]
    );
}

#[tokio::test]
async fn a_node_that_comes_back_while_it_is_doubted_never_leaves_the_view() {
    let (mut roster, now) = roster(&[]);
    roster.up(&node("a", 1, ACTIVE));
    roster.down(&node("a", 1, ACTIVE), now);
    roster.renamed(&node("a", 2, JOINING));
    roster.up(&node("a", 2, JOINING));
    roster.tick(now + PATIENCE.doubt * 2);
    let view = roster.view();
    let member = view.member(&id("a")).unwrap();
    assert_eq!((member.doubtful, member.state), (false, MemberState::Joining));
    assert!(view.missing().is_empty());
}

#[tokio::test]
async fn who_left_is_neither_doubtful_nor_missing() {
    let (mut roster, now) = roster(&["b"]);
    roster.up(&node("a", 1, LEAVING));
    roster.renamed(&node("a", 2, Phase::Gone));
    roster.down(&node("a", 2, Phase::Gone), now);
    roster.tick(now + JOIN_GRACE);
    assert_eq!((roster.view().members().len(), missing(&roster)), (1, vec![id("b")]));
    roster.left(&id("b"));
    assert!(missing(&roster).is_empty());
    assert_eq!(roster.take_known(), Some(vec![]));
}

#[tokio::test]
async fn who_crashes_while_it_is_leaving_is_missing() {
    let (mut roster, now) = roster(&[]);
    roster.up(&node("a", 1, LEAVING));
    roster.down(&node("a", 1, LEAVING), now);
    roster.tick(now + PATIENCE.doubt);
    assert_eq!(missing(&roster), [id("a")]);
}

#[tokio::test]
async fn a_coordinator_that_crashes_is_not_missing() {
    let (mut roster, now) = roster(&[]);
    let coordinator = Identity { role: Role::Coordinator, ..node("c", 1, ACTIVE) };
    roster.up(&coordinator);
    roster.down(&coordinator, now);
    roster.tick(now + PATIENCE.doubt);
    assert_eq!((roster.view().members().len(), missing(&roster)), (1, vec![]));
    assert_eq!(said(&mut roster)[1], "c was given up: it did not answer for 1.6 s");
}

#[tokio::test]
async fn who_is_remembered_is_missing_only_if_it_does_not_come_within_the_grace() {
    let (mut roster, now) = roster(&["a", "b", "me"]);
    roster.up(&node("a", 1, JOINING));
    roster.tick(now + JOIN_GRACE / 2);
    assert!(missing(&roster).is_empty());
    roster.tick(now + JOIN_GRACE);
    assert_eq!(missing(&roster), [id("b")]);
}

#[tokio::test]
async fn only_so_many_nodes_are_remembered() {
    let (mut roster, _) = roster(&[]);
    for at in 0..MAX_REMEMBERED + 5 {
        roster.up(&node(&format!("n{at}"), 1, ACTIVE));
    }
    assert_eq!(roster.take_known().unwrap().len(), MAX_REMEMBERED);
    assert_eq!(said(&mut roster).iter().filter(|line| line.starts_with("more than 10000")).count(), 1);
}

#[tokio::test]
async fn a_member_is_not_among_the_others_in_its_own_view() {
    let (mut roster, now) = roster(&[]);
    roster.up(&node("me", 9, ACTIVE));
    roster.down(&node("me", 9, ACTIVE), now);
    assert_eq!(roster.view().members(), [node("me", 1, ACTIVE).member(false)]);
}
