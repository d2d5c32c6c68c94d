//! What a placement promises, for any view.

use super::*;
use proptest::prelude::*;

fn member(name: u32) -> Member {
    Member::node(NodeId::new(format!("n{name}")).unwrap(), format!("h{name}:1"))
}

fn view(names: impl IntoIterator<Item = u32>) -> View {
    View::new(names.into_iter().map(member).collect()).unwrap()
}

fn replication(owners: u8) -> Replication {
    Replication::new(owners).unwrap()
}

fn count(shards: u32) -> ShardCount {
    ShardCount::new(shards).unwrap()
}

/// The least number of shards that gives each node 64.
fn shards_for(nodes: u32) -> ShardCount {
    count((64 * nodes).next_power_of_two())
}

fn ids<'a>(members: impl Iterator<Item = &'a Member>) -> Vec<&'a str> {
    members.map(|member| member.id.as_str()).collect()
}

/// Owned shards of each node: the standard deviation and the largest, both over the mean.
fn unevenness(placement: &Placement) -> (f64, f64) {
    let owned: Vec<f64> =
        placement.nodes().iter().map(|node| placement.shards_of(&node.id).count() as f64).collect();
    let mean = owned.iter().sum::<f64>() / owned.len() as f64;
    let variance = owned.iter().map(|owned| (owned - mean).powi(2)).sum::<f64>() / owned.len() as f64;
    (variance.sqrt() / mean, owned.iter().copied().fold(0.0, f64::max) / mean)
}

#[test]
fn nobody_owns_anything_in_an_empty_view() {
    let placement = Placement::of(&View::default(), ShardCount::DEFAULT, Replication::DEFAULT);
    assert!(placement.shards().all(|shard| placement.writers(shard).next().is_none()));
    assert_eq!(placement.shards().count(), 64);
}

#[test]
fn a_coordinator_owns_nothing() {
    let front = Member { role: crate::member::Role::Coordinator, ..member(7) };
    let placement =
        Placement::of(&View::new(vec![member(1), front]).unwrap(), count(8), Replication::DEFAULT);
    assert!(placement.shards().all(|shard| ids(placement.writers(shard)) == ["n1"]));
}

#[test]
fn a_joining_node_is_written_to_beside_those_that_are_read_from() {
    let joining = Member { state: MemberState::Joining, ..member(3) };
    let mut members = vec![member(1), member(2)];
    let before = Placement::of(&View::new(members.clone()).unwrap(), count(64), replication(1));
    members.push(joining);
    let during = Placement::of(&View::new(members.clone()).unwrap(), count(64), replication(1));
    members[2].state = MemberState::Active;
    let after = Placement::of(&View::new(members).unwrap(), count(64), replication(1));
    let mut moved = 0;
    for shard in before.shards() {
        assert_eq!(ids(during.readers(shard)), ids(before.readers(shard)));
        assert_eq!(ids(during.target(shard)), ids(after.target(shard)));
        let both: BTreeSet<&str> =
            ids(before.readers(shard)).into_iter().chain(ids(after.readers(shard))).collect();
        assert_eq!(ids(during.writers(shard)).into_iter().collect::<BTreeSet<_>>(), both);
        moved += usize::from(both.len() == 2);
    }
    assert!((8..40).contains(&moved), "{moved}");
}

#[test]
fn a_leaving_node_is_read_from_and_written_to_beside_those_that_take_over() {
    let leaving = Member { state: MemberState::Leaving, ..member(1) };
    let placement = Placement::of(&View::new(vec![leaving, member(2)]).unwrap(), count(64), replication(1));
    for shard in placement.shards() {
        assert_eq!(ids(placement.target(shard)), ["n2"]);
        let expected: &[&str] = match ids(placement.readers(shard))[..] {
            ["n1"] => &["n1", "n2"],
            _ => &["n2"],
        };
        assert_eq!(ids(placement.writers(shard)), expected);
    }
}

#[test]
fn who_was_given_up_a_moment_ago_is_asked_last_and_still_written_to() {
    let doubtful = |name| Member { doubtful: true, ..member(name) };
    let sure = Placement::of(&view([1, 2]), count(64), Replication::DEFAULT);
    let unsure =
        Placement::of(&View::new(vec![doubtful(1), member(2)]).unwrap(), count(64), Replication::DEFAULT);
    for shard in sure.shards() {
        assert_eq!(ids(unsure.readers(shard)), ["n2", "n1"]);
        assert_eq!(ids(unsure.writers(shard)), ids(sure.writers(shard)));
    }
}

#[test]
fn without_a_settled_node_nobody_is_read_from() {
    let joining = |name| Member { state: MemberState::Joining, ..member(name) };
    let placement =
        Placement::of(&View::new(vec![joining(1), joining(2)]).unwrap(), count(8), Replication::DEFAULT);
    assert!(placement.shards().all(|shard| placement.readers(shard).count() == 0));
    assert!(placement.shards().all(|shard| placement.writers(shard).count() == 2));
}

/// Over many sets of names: how often shards are spread worse than promised, and how badly. `cargo test -p tidemark-rollup
/// evenness -- --nocapture` prints it.
#[test]
fn the_evenness_of_placements_is_as_written_down() {
    for (owners, worst_deviation, worst_load) in [(1, 0.17, 1.45), (2, 0.10, 1.3), (3, 0.10, 1.3)] {
        let (mut deviations, mut load, mut over) = (Vec::new(), 0.0_f64, 0);
        for nodes in 3..=16 {
            for first in 0..40 {
                let view = view((0..nodes).map(|node| first * 1000 + node));
                let (deviation, largest) =
                    unevenness(&Placement::of(&view, shards_for(nodes), replication(owners)));
                over += usize::from(deviation > 0.1);
                deviations.push(deviation);
                load = load.max(largest);
            }
        }
        let worst = deviations.iter().copied().fold(0.0, f64::max);
        let mean = deviations.iter().sum::<f64>() / deviations.len() as f64;
        println!(
            "R={owners}: deviation mean {mean:.3}, worst {worst:.3}, over 10 % in {over} of {}, largest {load:.2}",
            deviations.len()
        );
        assert!(worst < worst_deviation && load < worst_load, "R={owners}: {worst} {load}");
    }
}

proptest! {
    #[test]
    fn a_node_that_goes_moves_only_its_own_shards(
        mut names in prop::collection::btree_set(0_u32..1000, 2..16),
        owners in 1_u8..4,
    ) {
        let before = Placement::of(&view(names.iter().copied()), count(256), replication(owners));
        let gone = format!("n{}", names.pop_first().unwrap());
        let after = Placement::of(&view(names), count(256), replication(owners));
        for shard in before.shards() {
            let (was, is) = (ids(before.writers(shard)), ids(after.writers(shard)));
            let left: Vec<&str> = was.iter().copied().filter(|&id| id != gone).collect();
            // Those who stay move up in their order, and whoever is new comes last.
            prop_assert_eq!(&is[..left.len()], &left[..]);
            prop_assert!(is.len() <= left.len() + usize::from(was.contains(&gone.as_str())));
        }
    }

    #[test]
    fn with_zones_a_node_that_goes_moves_only_its_own_shards_and_owners_stand_apart(
        mut zones in prop::collection::btree_map(0_u32..1000, 0_u8..4, 4..12),
        owners in 1_u8..4,
    ) {
        let of = |zones: &std::collections::BTreeMap<u32, u8>| {
            let member = |(&name, zone): (&u32, &u8)| Member { zone: Some(format!("z{zone}").parse().unwrap()), ..member(name) };
            Placement::of(&View::new(zones.iter().map(member).collect()).unwrap(), count(64), replication(owners))
        };
        let before = of(&zones);
        let distinct: BTreeSet<u8> = zones.values().copied().collect();
        for shard in before.shards() {
            let used: BTreeSet<_> = before.writers(shard).map(|node| node.zone.clone()).collect();
            prop_assert_eq!(used.len(), distinct.len().min(usize::from(owners)));
            prop_assert_eq!(before.writers(shard).count(), usize::from(owners));
        }
        let gone = format!("n{}", zones.pop_first().unwrap().0);
        let after = of(&zones);
        for shard in before.shards() {
            let was: BTreeSet<&str> = ids(before.writers(shard)).into_iter().collect();
            let is: BTreeSet<&str> = ids(after.writers(shard)).into_iter().collect();
            match was.contains(gone.as_str()) {
                true => prop_assert!(was.difference(&is).count() == 1),
                false => prop_assert_eq!(was, is),
            }
        }
    }

    #[test]
    fn shards_of_two_owners_are_spread_evenly(first in 0_u32..100_000, nodes in 3_u32..=16, owners in 2_u8..4) {
        let placement = Placement::of(&view(first..first + nodes), shards_for(nodes), replication(owners));
        let (deviation, largest) = unevenness(&placement);
        prop_assert!(deviation < 0.10 && largest < 1.3, "deviation {} largest {}", deviation, largest);
    }
}
