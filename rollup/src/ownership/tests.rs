use super::*;
use crate::placement::Replication;

const SHARDS: u32 = 16;

fn id(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

fn node(name: &str, state: MemberState) -> Member {
    Member { state, incarnation: Incarnation(1), ..Member::node(id(name), format!("{name}:1")) }
}

fn ids(names: &[&str]) -> BTreeSet<NodeId> {
    names.iter().map(|name| id(name)).collect()
}

struct World {
    ownership: Ownership,
    members: Vec<Member>,
    missing: Vec<NodeId>,
    replication: Replication,
}

impl World {
    fn new(me: &str, replication: u8, members: Vec<Member>) -> Self {
        let ownership = Ownership::new(id(me), ShardCount::new(SHARDS).unwrap());
        let missing = Vec::new();
        let mut world =
            Self { ownership, members, missing, replication: Replication::new(replication).unwrap() };
        world.update();
        world
    }

    fn update(&mut self) -> Changes {
        let view = View::new(self.members.clone()).unwrap().with_missing(self.missing.clone());
        let placement = Placement::of(&view, ShardCount::new(SHARDS).unwrap(), self.replication);
        self.ownership.update(&view, &placement)
    }

    fn set(&mut self, name: &str, change: impl Fn(&mut Member)) -> Changes {
        self.members.iter_mut().filter(|member| member.id == id(name)).for_each(change);
        self.update()
    }

    fn compare_all(&mut self) {
        for (with, shards) in self.ownership.to_compare() {
            self.compared(&with, &shards);
        }
    }

    fn compared(&mut self, with: &NodeId, shards: &[ShardId]) {
        let comparison = self.ownership.begin(with, shards);
        self.ownership.compared(&comparison, &shards.iter().copied().collect());
    }
}

use MemberState::{Active, Joining, Leaving};

#[test]
fn a_node_alone_is_ready_at_once() {
    let world = World::new("a", 2, vec![node("a", Joining)]);
    assert_eq!(world.ownership.counts(), (16, 16));
    assert!(world.ownership.has_joined(&BTreeSet::new()));
}

#[test]
fn who_took_itself_for_alone_while_it_joined_has_nothing_ready_when_others_show_up() {
    let mut world = World::new("a", 2, vec![node("a", Joining)]);
    world.members.extend([node("b", Active), node("c", Active), node("d", Joining)]);
    world.update();
    let (owned, ready) = world.ownership.counts();
    assert!(owned > 0 && ready == 0, "{ready} of {owned} are ready");
    assert!(!world.ownership.has_joined(&BTreeSet::new()));
    let due = world.ownership.to_compare();
    assert_eq!(due.keys().map(NodeId::as_str).collect::<Vec<_>>(), ["b", "c", "d"]);
    world.compare_all();
    assert_eq!(world.ownership.counts(), (owned, owned));
    assert!(world.ownership.has_joined(&BTreeSet::new()));
}

#[test]
fn who_joins_where_all_others_are_in_doubt_waits_until_they_are_back_or_given_up() {
    let doubtful = Member { doubtful: true, ..node("b", Active) };
    let mut world = World::new("a", 2, vec![node("a", Joining), doubtful]);
    assert_eq!(world.ownership.counts().1, 0);
    world.set("b", |member| member.doubtful = false);
    assert_eq!(world.ownership.counts().1, 0, "it is back");
    world.set("b", |member| member.doubtful = true);
    assert_eq!(world.ownership.counts().1, 0);
    world.members.pop();
    world.update();
    assert_eq!(world.ownership.counts(), (16, 16), "it is given up");
}

#[test]
fn who_hears_of_some_others_late_while_it_joins_compares_with_them_as_well() {
    let mut world = World::new("a", 2, vec![node("a", Joining), node("b", Active)]);
    world.compare_all();
    assert!(world.ownership.has_joined(&BTreeSet::new()));
    world.members.push(node("c", Active));
    world.update();
    assert_eq!(world.ownership.counts().1, 0);
    assert!(!world.ownership.has_joined(&BTreeSet::new()));
    world.compare_all();
    assert!(world.ownership.has_joined(&BTreeSet::new()));
}

#[test]
fn who_began_alone_and_meets_active_nodes_owes_comparing_with_them() {
    let mut world = World::new("a", 2, vec![node("a", Joining)]);
    world.set("a", |me| me.state = Active);
    assert_eq!(world.ownership.counts(), (16, 16));
    world.members.extend([node("b", Active), node("c", Active)]);
    world.update();
    assert_eq!(world.ownership.owed(), ids(&["b", "c"]));
    let (owned, ready) = world.ownership.counts();
    assert!(owned > 0 && owned == ready, "it answers, and says that something may be missing");
    world.compare_all();
    assert!(world.ownership.owed().is_empty());
}

/// `a` and `b`, both active, and `a` has compared with everybody.
fn settled_pair(replication: u8) -> World {
    let mut world = World::new("a", replication, vec![node("a", Joining), node("b", Active)]);
    world.compare_all();
    world.set("a", |me| me.state = Active);
    assert!(world.ownership.owed().is_empty());
    world
}

#[test]
fn who_asked_while_it_joined_is_no_stranger_and_who_did_not_is_one() {
    let mut world = settled_pair(2);
    world.members.push(node("c", Joining));
    world.update();
    world.ownership.was_asked_by(&id("c"), Incarnation(1));
    world.set("c", |c| (c.state, c.incarnation) = (Active, Incarnation(2)));
    assert!(world.ownership.owed().is_empty(), "it joined in the usual way");
    world.set("c", |c| (c.state, c.incarnation) = (Leaving, Incarnation(3)));
    assert!(world.ownership.owed().is_empty(), "it goes on");

    world.members.push(node("d", Joining));
    world.update();
    world.set("d", |d| (d.state, d.incarnation) = (Active, Incarnation(2)));
    assert_eq!(world.ownership.owed(), ids(&["d"]), "it was seen joining and heard nothing itself");
}

#[test]
fn a_stranger_does_not_undo_what_is_being_compared_with_others() {
    let mut world = settled_pair(2);
    world.members.push(node("c", Joining));
    world.update();
    let due = world.ownership.to_compare()[&id("c")].clone();
    let begun = world.ownership.begin(&id("c"), &due);
    world.members.push(node("d", Active));
    world.update();
    world.ownership.compared(&begun, &due.iter().copied().collect());
    let left = world.ownership.to_compare();
    assert!(left.get(&id("c")).is_none_or(|left| due.iter().all(|done| !left.contains(done))), "{left:?}");
    assert!(!due.is_empty() && due.iter().all(|shard| left[&id("d")].contains(shard)), "{left:?}");
}

#[test]
fn what_a_former_life_asked_does_not_count_for_a_later_one() {
    let mut world = settled_pair(2);
    world.members.push(node("c", Joining));
    world.update();
    world.ownership.was_asked_by(&id("c"), Incarnation(1));
    world.set("c", |c| (c.state, c.incarnation) = (Active, Incarnation(2)));
    world.compare_all();
    let all: Vec<ShardId> = ShardCount::new(SHARDS).unwrap().shards().collect();
    let begun = world.ownership.begin(&id("c"), &all);
    world.set("c", |c| c.doubtful = true);
    world.set("c", |c| (c.doubtful, c.incarnation) = (false, Incarnation(9)));
    assert_eq!(world.ownership.owed(), ids(&["c"]), "it was started again, and began alone");
    let due = world.ownership.to_compare();
    assert_eq!(due[&id("c")].len(), world.ownership.counts().0);
    // What was under way with the one before says nothing.
    world.ownership.compared(&begun, &all.iter().copied().collect());
    assert_eq!(world.ownership.owed(), ids(&["c"]));
    world.compare_all();
    assert!(world.ownership.owed().is_empty());

    world.set("c", |c| c.doubtful = true);
    world.ownership.was_asked_by(&id("c"), Incarnation(20));
    world.set("c", |c| (c.doubtful, c.incarnation) = (false, Incarnation(21)));
    assert!(world.ownership.owed().is_empty(), "it was started again, and asked");
}

#[test]
fn shards_that_are_only_left_to_others_owe_as_well_and_no_joiner_is_waited_for() {
    let mut world = settled_pair(1);
    // `a` holds what `c` is to have, until it has it.
    world.members.push(node("c", Joining));
    world.update();
    world.members.push(node("d", Active));
    world.update();
    let owned = world.ownership.counts().0;
    let due = world.ownership.to_compare();
    assert_eq!(due[&id("d")].len(), owned, "all that it is written to for");
    world.compared(&id("d"), &due[&id("d")]);
    assert!(world.ownership.owed().is_empty());
    assert_eq!(world.ownership.counts(), (owned, owned));
}

#[test]
fn a_stranger_that_is_missing_is_owed_until_it_is_back_and_one_that_left_no_more() {
    let mut world = settled_pair(2);
    world.members.push(node("c", Active));
    world.update();
    world.set("c", |c| c.doubtful = true);
    assert_eq!(world.ownership.owed(), ids(&["c"]));
    world.members.pop();
    world.missing.push(id("c"));
    world.update();
    assert_eq!(world.ownership.owed(), ids(&["c"]), "nobody else may have what it took");
    world.set("a", |me| (me.state, me.incarnation) = (Joining, Incarnation(9)));
    world.compare_all();
    world.set("a", |me| (me.state, me.incarnation) = (Active, Incarnation(10)));
    assert_eq!(world.ownership.counts(), (16, 16));
    assert_eq!(world.ownership.owed(), ids(&["c"]), "given up and begun anew, it lacks that as before");
    let mut left = World { ownership: world.ownership.clone(), members: world.members.clone(), ..world };
    left.missing.clear();
    left.update();
    assert!(left.ownership.owed().is_empty(), "it left, and hands over what it has before");

    let mut world = left;
    world.members.push(node("c", Active));
    world.update();
    world.members.pop();
    world.missing.push(id("c"));
    world.update();
    world.missing.clear();
    world.members.push(Member { incarnation: Incarnation(7), ..node("c", Joining) });
    world.update();
    assert_eq!(world.ownership.owed(), ids(&["c"]), "it is back");
    world.compare_all();
    assert!(world.ownership.owed().is_empty());
}

#[test]
fn who_asked_and_was_started_again_before_it_was_active_is_a_stranger_when_it_begins_alone() {
    let mut world = settled_pair(2);
    world.members.push(Member { incarnation: Incarnation(100), ..node("c", Joining) });
    world.update();
    world.ownership.was_asked_by(&id("c"), Incarnation(100));
    world.set("c", |c| (c.state, c.incarnation) = (Active, Incarnation(501)));
    assert_eq!(world.ownership.owed(), ids(&["c"]));
}

#[test]
fn a_node_is_met_up_to_the_incarnation_that_follows_from_what_is_known_of_it() {
    let mut world = settled_pair(2);
    let met = |world: &World| world.ownership.met().get(&id("c").key()).copied();
    assert_eq!(met(&world), None);
    world.members.push(Member { incarnation: Incarnation(100), ..node("c", Joining) });
    world.update();
    assert_eq!(met(&world), Some(Incarnation(100)), "what it becomes has to be heard of first");
    world.ownership.was_asked_by(&id("c"), Incarnation(100));
    assert_eq!(met(&world), Some(Incarnation(101)), "it may become active");
    world.set("c", |c| (c.state, c.incarnation) = (Active, Incarnation(101)));
    assert_eq!(met(&world), Some(Incarnation(102)), "it may leave");
    world.members.pop();
    world.update();
    assert_eq!(met(&world), Some(Incarnation(102)), "it has left");
    world.members.push(Member { incarnation: Incarnation(500), ..node("c", Joining) });
    world.update();
    assert_eq!(met(&world), Some(Incarnation(500)), "it is back, and asks anew");
}

#[test]
fn who_is_first_seen_in_doubt_is_a_stranger_when_it_is_not() {
    let mut world = settled_pair(2);
    world.members.push(Member { doubtful: true, ..node("c", Active) });
    world.update();
    assert!(!world.ownership.met().contains_key(&id("c").key()));
    world.set("c", |c| c.doubtful = false);
    assert_eq!(world.ownership.owed(), ids(&["c"]));
}

#[test]
fn a_shard_that_is_given_is_ready_when_it_was_compared_with_everybody() {
    let mut world = World::new("a", 1, vec![node("a", Joining), node("b", Active), node("c", Active)]);
    let (owned, ready) = world.ownership.counts();
    assert!(owned > 0 && ready == 0, "{owned}");
    let due = world.ownership.to_compare();
    assert_eq!(due.keys().map(NodeId::as_str).collect::<Vec<_>>(), ["b", "c"]);
    world.compared(&id("b"), &due[&id("b")]);
    assert_eq!(world.ownership.counts().1, 0);
    world.compared(&id("c"), &due[&id("c")]);
    assert_eq!(world.ownership.counts().1, owned);
    assert!(world.ownership.has_joined(&BTreeSet::new()));
}

#[test]
fn who_was_given_up_is_ready_for_nothing_and_keeps_its_readiness_otherwise() {
    let mut world = World::new("a", 2, vec![node("a", Joining), node("b", Active)]);
    world.compare_all();
    world.set("a", |me| (me.state, me.incarnation) = (Active, Incarnation(2)));
    assert_eq!(world.ownership.counts(), (16, 16));
    world.set("a", |me| (me.state, me.incarnation) = (Joining, Incarnation(3)));
    assert_eq!(world.ownership.counts(), (16, 0));
    assert_eq!(world.ownership.life(), Incarnation(3));
}

#[test]
fn a_kept_shard_stays_ready_and_is_compared_again_when_its_owners_change() {
    let mut world = World::new("a", 2, vec![node("a", Joining), node("b", Active)]);
    world.compare_all();
    world.set("a", |me| me.state = Active);
    assert!(world.ownership.to_compare().is_empty());
    world.members.push(node("c", Joining));
    let changes = world.update();
    assert_eq!(changes, Changes::default());
    assert_eq!(world.ownership.counts(), (16, 16));
    let due = world.ownership.to_compare();
    assert!(!due[&id("c")].is_empty());
    world.compare_all();
    assert!(world.ownership.to_compare().is_empty());
}

#[test]
fn what_is_taken_and_given_again_is_compared_anew() {
    let mut world = World::new("a", 1, vec![node("a", Joining), node("b", Active)]);
    world.compare_all();
    world.set("a", |me| me.state = Active);
    let before = world.ownership.counts().0;
    world.members.push(node("c", Active));
    let taken = world.update().taken;
    assert!(!taken.is_empty());
    assert!(taken.iter().all(|&shard| !world.ownership.is_ready(shard)));
    world.members.pop();
    assert_eq!(world.update().given, taken);
    assert_eq!(world.ownership.counts(), (before, before - taken.len()));
    world.compare_all();
    assert_eq!(world.ownership.counts(), (before, before));
}

#[test]
fn who_is_given_up_does_not_hold_up_the_others() {
    let mut world = World::new("a", 2, vec![node("a", Joining), node("b", Active), node("c", Active)]);
    let due = world.ownership.to_compare();
    world.compared(&id("b"), &due[&id("b")]);
    assert!(!world.ownership.has_joined(&BTreeSet::new()));
    world.set("c", |member| member.doubtful = true);
    assert!(world.ownership.has_joined(&BTreeSet::new()));
}

#[test]
fn who_joins_with_blocks_hands_them_to_the_other_owners_first() {
    let mut world = World::new("a", 2, vec![node("a", Joining), node("b", Active), node("c", Active)]);
    let holds: BTreeSet<ShardId> = ShardCount::new(SHARDS).unwrap().shards().collect();
    world.compare_all();
    assert!(!world.ownership.has_joined(&holds));
    for (to, shards) in world.ownership.to_hand_over(&holds) {
        world.ownership.handed(&to, shards);
    }
    assert!(world.ownership.has_joined(&holds));
    let foreign = holds.iter().find(|shard| !world.ownership.is_writer(**shard)).unwrap();
    assert!(world.ownership.can_release(*foreign));
}

#[test]
fn who_leaves_hands_over_all_it_holds() {
    let mut world = World::new("a", 1, vec![node("a", Joining), node("b", Active)]);
    world.compare_all();
    world.set("a", |me| me.state = Active);
    let holds: BTreeSet<ShardId> =
        ShardCount::new(SHARDS).unwrap().shards().filter(|&shard| world.ownership.is_writer(shard)).collect();
    assert!(world.ownership.to_hand_over(&holds).is_empty());
    world.ownership.begin_to_leave();
    world.set("a", |me| me.state = Leaving);
    assert!(!world.ownership.has_left(&holds));
    let due = world.ownership.to_hand_over(&holds);
    assert_eq!(due[&id("b")].len(), holds.len());
    world.ownership.handed(&id("b"), due[&id("b")].clone());
    assert!(world.ownership.has_left(&holds));
}

#[test]
fn a_comparison_that_began_before_a_shard_was_taken_and_given_again_does_not_count() {
    let mut world = World::new("a", 1, vec![node("a", Joining), node("b", Active)]);
    let due = world.ownership.to_compare()[&id("b")].clone();
    let begun = world.ownership.begin(&id("b"), &due);
    world.members.push(node("c", Active));
    let taken = world.update().taken;
    world.members.pop();
    assert_eq!(world.update().given, taken);
    world.ownership.compared(&begun, &due.iter().copied().collect());
    assert!(!taken.is_empty() && taken.iter().all(|&shard| !world.ownership.is_ready(shard)));
    world.compare_all();
    assert!(taken.iter().all(|&shard| world.ownership.is_ready(shard)));
}

#[test]
fn who_leaves_waits_for_whoever_takes_the_place_of_an_owner_that_was_just_given_up() {
    let mut world = World::new("a", 1, vec![node("a", Active), node("b", Active), node("c", Active)]);
    world.compare_all();
    let holds: BTreeSet<ShardId> =
        ShardCount::new(SHARDS).unwrap().shards().filter(|&shard| world.ownership.is_writer(shard)).collect();
    world.set("b", |member| member.doubtful = true);
    world.set("a", |me| me.state = Leaving);
    for (to, shards) in world.ownership.to_hand_over(&holds) {
        world.ownership.handed(&to, shards);
    }
    assert!(!world.ownership.has_left(&holds), "some of it would have gone to b");
    world.members.retain(|member| member.id != id("b"));
    world.update();
    for (to, shards) in world.ownership.to_hand_over(&holds) {
        world.ownership.handed(&to, shards);
    }
    assert!(world.ownership.has_left(&holds));
}

#[test]
fn the_last_node_leaves_without_handing_over() {
    let mut world = World::new("a", 2, vec![node("a", Active)]);
    world.set("a", |me| me.state = Leaving);
    let holds: BTreeSet<ShardId> = ShardCount::new(SHARDS).unwrap().shards().collect();
    assert!(world.ownership.has_left(&holds));
}

#[test]
fn who_left_stays_met_and_who_is_missing_does_not() {
    let mut world = World::new("a", 2, vec![node("a", Joining), node("b", Active), node("c", Active)]);
    let keys = |names: &[&str]| names.iter().map(|name| id(name).key()).collect::<BTreeSet<u64>>();
    let met = |world: &World| world.ownership.met().keys().copied().collect::<BTreeSet<u64>>();
    world.members.truncate(1);
    world.missing = vec![id("c")];
    world.update();
    assert_eq!(met(&world), keys(&["a", "b"]));
    for passing in 0..3_000 {
        let name = format!("passing-{passing}");
        world.members.push(node(&name, Joining));
        world.update();
        let met = met(&world);
        assert!(met.contains(&id("a").key()) && met.contains(&id(&name).key()));
        assert!(met.len() <= 1_026, "{}", met.len());
        world.members.pop();
    }
}
