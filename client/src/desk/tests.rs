use super::*;
use bytes::Bytes;
use proptest::prelude::*;

const MS: Duration = Duration::from_millis(1);

fn config() -> DeskConfig {
    DeskConfig {
        line: LineLimits { blocks: 2, bytes: 1 << 20 },
        timeout: 1_000 * MS,
        retry_for: 5_000 * MS,
        backoff: Backoff::default(),
        disk: None,
    }
}

fn with_disk(window: usize) -> DeskConfig {
    DeskConfig { disk: Some(DiskRules { after: 2_000 * MS, window }), ..config() }
}

fn block(seq: u64, shard: u32) -> v1::Block {
    v1::Block { seq, shard, event_count: 10, columns: Bytes::from_static(b"columns"), ..Default::default() }
}

fn key(seq: u64, shard: u32) -> Key {
    Key { batch: seq, shard, seq }
}

/// Two shards: `a` owns 0 and `b` owns 1, each has the other's copy.
fn routes() -> Arc<Routes> {
    let node = |address: &str| v1::Member { address: address.to_owned(), ..Default::default() };
    let owners = |writers| v1::Owners { writers, settled: 2 };
    let reply = v1::PlacementReply {
        shard_count: 2,
        replication: 2,
        nodes: vec![node("a:1"), node("b:1"), node("c:1")],
        owners: vec![owners(vec![0, 1]), owners(vec![1, 0])],
    };
    Arc::new(Routes::of(&reply, &[], None).unwrap())
}

struct World {
    desk: Desk,
    now: Instant,
}

impl World {
    fn new(config: DeskConfig) -> Self {
        let now = Instant::now();
        Self { desk: Desk::new(config, routes(), 1, now), now }
    }

    fn take(&mut self, block: v1::Block) {
        self.desk.take(block.seq, block, 7, self.now);
    }

    /// Lets time pass; what is done then, in words.
    fn after(&mut self, by: Duration) -> Vec<String> {
        self.now += by;
        self.desk.advance(self.now);
        self.desk.actions().iter().map(words).collect()
    }

    fn acknowledge(&mut self, from: &str, seq: u64, shard: u32) {
        let ack = v1::BlockAck { seq, shard, accepted: 10, ..Default::default() };
        self.desk.answered(from, ack, self.now);
    }

    fn refuse(&mut self, from: &str, seq: u64, shard: u32, reason: RefusalReason, retry_after_ms: u32) {
        let refused =
            v1::Refusal { reason: reason.into(), retry_after_ms, message: "no".to_owned(), limit: None };
        self.desk.answered(
            from,
            v1::BlockAck { seq, shard, refused: Some(refused), ..Default::default() },
            self.now,
        );
    }

    fn broke(&mut self, address: &str) {
        self.desk.broke(address, "gone", self.now);
    }
}

fn words(action: &Action) -> String {
    let name = |key: &Key| format!("{}/{}", key.seq, key.shard);
    match action {
        Action::Send { address, block, again } => {
            format!(
                "send {} {address}{}",
                name(&key(block.seq, block.shard)),
                if *again { " again" } else { "" }
            )
        }
        Action::Hang { address } => format!("hang {address}"),
        Action::Keep { key, .. } => format!("keep {}", name(key)),
        Action::Kept { .. } => "kept".to_owned(),
        Action::Trim { key } => format!("trim {}", name(key)),
        Action::Settled { key, fate: Fate::Acknowledged { .. }, .. } => format!("acknowledged {}", name(key)),
        Action::Settled { key, fate: Fate::Undelivered(why), .. } => {
            let why = match why {
                Why::Refused { .. } => "refused",
                Why::GivenUp { .. } => "given up",
                Why::Spooled => "spooled",
                Why::Unreadable(_) => "unreadable",
                Why::Abandoned => "abandoned",
            };
            format!("{why} {}", name(key))
        }
    }
}

#[test]
fn blocks_go_straight_to_the_first_owner_of_their_shard() {
    let mut world = World::new(config());
    world.take(block(0, 0));
    world.take(block(0, 1));
    assert_eq!(world.after(MS), ["send 0/0 a:1", "send 0/1 b:1"]);
    world.acknowledge("a:1", 0, 0);
    assert_eq!(world.after(MS), ["acknowledged 0/0"]);
}

#[test]
fn a_full_line_holds_up_its_own_blocks_only_and_goes_on_in_order() {
    let mut world = World::new(config());
    (0..4).for_each(|seq| world.take(block(seq, 0)));
    world.take(block(9, 1));
    assert_eq!(world.after(MS), ["send 0/0 a:1", "send 1/0 a:1", "send 9/1 b:1"]);
    world.acknowledge("a:1", 1, 0);
    assert_eq!(world.after(MS), ["acknowledged 1/0", "send 2/0 a:1"]);
}

#[test]
fn blocks_of_a_broken_line_go_to_the_next_owner_and_nothing_new_goes_to_the_broken_one() {
    let mut world = World::new(config());
    world.take(block(0, 0));
    world.after(MS);
    world.broke("a:1");
    world.take(block(1, 0));
    assert_eq!(world.after(Duration::ZERO), ["send 1/0 b:1"]);
    assert_eq!(world.after(50 * MS), ["send 0/0 b:1 again"]);
}

#[test]
fn one_block_finds_out_whether_a_line_is_back_while_the_others_go_elsewhere() {
    let mut world = World::new(config());
    world.take(block(0, 0));
    world.after(MS);
    world.broke("a:1");
    world.after(50 * MS);
    world.take(block(1, 0));
    world.take(block(2, 0));
    assert_eq!(world.after(MS), ["send 1/0 a:1", "send 2/0 b:1"]);
    world.acknowledge("a:1", 1, 0);
    world.take(block(3, 0));
    world.take(block(4, 0));
    assert_eq!(world.after(MS), ["acknowledged 1/0", "send 3/0 a:1", "send 4/0 a:1"]);
}

#[test]
fn who_has_no_room_is_asked_again_later_and_who_reaches_no_owner_is_passed_by() {
    for (reason, next) in [
        (RefusalReason::Overloaded, "a:1"),
        (RefusalReason::OwnersDiffer, "b:1"),
        (RefusalReason::OwnerUnavailable, "b:1"),
    ] {
        let mut world = World::new(config());
        world.take(block(0, 0));
        world.after(MS);
        world.refuse("a:1", 0, 0, reason, 300);
        assert!(world.after(299 * MS).is_empty());
        assert_eq!(world.after(MS), [format!("send 0/0 {next} again")]);
    }
}

#[test]
fn a_refusal_for_good_ends_the_block() {
    let mut world = World::new(config());
    world.take(block(0, 0));
    world.after(MS);
    world.refuse("a:1", 0, 0, RefusalReason::Malformed, 0);
    assert_eq!(world.after(MS), ["refused 0/0"]);
    assert!(world.desk.is_empty());
}

#[test]
fn a_line_on_which_nothing_is_heard_is_hung_up_and_a_block_that_waits_alone_moves_alone() {
    let mut world = World::new(config());
    world.take(block(0, 0));
    world.take(block(1, 0));
    world.after(Duration::ZERO);
    assert!(world.after(900 * MS).is_empty());
    world.acknowledge("a:1", 1, 0);
    // The node answers for others: only this block goes elsewhere, after its pause.
    assert_eq!(world.after(100 * MS), ["acknowledged 1/0"]);
    assert_eq!(world.after(50 * MS), ["send 0/0 b:1 again"]);
    world.acknowledge("b:1", 0, 0);
    world.take(block(2, 0));
    world.after(Duration::ZERO);
    assert_eq!(world.after(1_000 * MS), ["hang a:1"]);
}

#[test]
fn a_new_placement_moves_what_waits() {
    let mut world = World::new(config());
    (0..3).for_each(|seq| world.take(block(seq, 0)));
    assert_eq!(world.after(MS), ["send 0/0 a:1", "send 1/0 a:1"]);
    let node = |address: &str| v1::Member { address: address.to_owned(), ..Default::default() };
    let owners = v1::Owners { writers: vec![1], settled: 1 };
    let reply = v1::PlacementReply {
        shard_count: 2,
        replication: 1,
        nodes: vec![node("a:1"), node("d:1")],
        owners: vec![owners.clone(), owners],
    };
    world.desk.set_routes(Arc::new(Routes::of(&reply, &[], None).unwrap()));
    assert_eq!(world.after(MS), ["send 2/0 d:1"]);
}

#[test]
fn without_a_disk_a_block_is_given_up_when_its_time_is_over_and_not_before() {
    let mut world = World::new(config());
    world.take(block(0, 0));
    let mut all = Vec::new();
    for _ in 0..4_990 {
        let done = world.after(MS);
        for sent in done.iter().filter(|done| done.starts_with("send")) {
            world.broke(sent.split(' ').nth(2).unwrap());
        }
        all.extend(done);
    }
    assert!(all.iter().all(|done| done.starts_with("send")), "{all:?}");
    // Back-off doubles: three nodes, some ten attempts each at most.
    assert!((5..30).contains(&all.len()), "{all:?}");
    let end: Vec<String> =
        (0..1_500).flat_map(|_| world.after(MS)).filter(|done| done.starts_with("given")).collect();
    assert_eq!(end, ["given up 0/0"]);
    assert!(world.desk.is_empty());
}

#[test]
fn what_waits_too_long_goes_to_disk_once_and_is_trimmed_when_it_is_acknowledged() {
    let mut world = World::new(with_disk(1));
    world.take(block(0, 0));
    world.after(MS);
    world.broke("a:1");
    world.after(100 * MS);
    assert!(world.after(1_800 * MS).contains(&"hang b:1".to_owned()));
    assert!(world.after(100 * MS).contains(&"keep 0/0".to_owned()));
    world.desk.kept(key(0, 0), Ok(()), world.now);
    assert!(world.after(MS).contains(&"kept".to_owned()));
    world.acknowledge("c:1", 0, 0);
    assert_eq!(world.after(MS), ["trim 0/0", "acknowledged 0/0"]);
    assert!(world.desk.is_empty());
}

#[test]
fn what_is_acknowledged_while_it_is_written_is_trimmed_when_it_is_there() {
    let mut world = World::new(with_disk(1));
    world.take(block(0, 0));
    world.after(MS);
    world.desk.close(world.now);
    assert_eq!(world.after(MS), ["keep 0/0"]);
    world.acknowledge("a:1", 0, 0);
    assert_eq!(world.after(MS), ["acknowledged 0/0"]);
    assert!(!world.desk.is_put_away());
    world.desk.kept(key(0, 0), Ok(()), world.now);
    assert_eq!(world.after(MS), ["trim 0/0"]);
    assert!(world.desk.is_put_away() && world.desk.is_empty());
}

#[test]
fn callers_without_room_and_no_acknowledgement_have_everything_put_on_disk_oldest_first() {
    let mut world = World::new(with_disk(1));
    (0..4).for_each(|seq| world.take(block(seq, 0)));
    world.after(MS);
    world.desk.press();
    assert!(world.after(100 * MS).is_empty());
    assert_eq!(world.after(100 * MS), ["keep 0/0", "keep 1/0", "keep 2/0", "keep 3/0"]);
    (0..4).for_each(|seq| world.desk.kept(key(seq, 0), Ok(()), world.now));
    // Two are on their way still; of those that rest, one may stay in memory.
    assert!(world.desk.wanted().is_empty());
    world.acknowledge("a:1", 0, 0);
    world.acknowledge("a:1", 1, 0);
    world.after(MS);
    assert_eq!(world.desk.wanted(), [key(2, 0)]);
    world.desk.loaded(key(2, 0), Ok(block(2, 0)), world.now);
    assert_eq!(world.after(MS), ["send 2/0 a:1"]);
}

#[test]
fn a_disk_that_is_full_keeps_what_it_has_and_the_rest_stays_in_memory() {
    let mut world = World::new(with_disk(0));
    (0..3).for_each(|seq| world.take(block(seq, 0)));
    world.after(MS);
    world.broke("a:1");
    world.desk.press();
    let kept: Vec<String> =
        world.after(300 * MS).into_iter().filter(|done| done.starts_with("keep")).collect();
    assert_eq!(kept, ["keep 0/0", "keep 1/0", "keep 2/0"]);
    world.desk.kept(key(0, 0), Ok(()), world.now);
    world.desk.kept(key(1, 0), Err("full".to_owned()), world.now);
    world.desk.kept(key(2, 0), Err("full".to_owned()), world.now);
    let asked: Vec<String> = (0..20)
        .flat_map(|_| world.after(50 * MS))
        .filter(|done| done.starts_with("keep") || done.starts_with("given"))
        .collect();
    assert_eq!(asked, ["keep 1/0", "keep 2/0"], "asked again after a second");
    world.desk.kept(key(1, 0), Err("full".to_owned()), world.now);
    world.desk.kept(key(2, 0), Err("full".to_owned()), world.now);
    world.desk.close(world.now);
    world.after(MS);
    world.desk.kept(key(1, 0), Ok(()), world.now);
    world.desk.kept(key(2, 0), Err("full".to_owned()), world.now);
    assert!(world.after(MS).contains(&"given up 2/0".to_owned()));
    world.desk.leave();
    assert_eq!(world.after(MS), ["spooled 0/0", "spooled 1/0"]);
}

#[derive(Clone, Debug)]
enum Step {
    Take(u32),
    Pass(u64),
    Answer { which: usize, how: u8 },
    Break(usize),
    Kept(bool),
    Press,
    Move,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..2_u32).prop_map(Step::Take),
        4 => (1..1_500_u64).prop_map(Step::Pass),
        6 => (any::<usize>(), 0..5_u8).prop_map(|(which, how)| Step::Answer { which, how }),
        1 => any::<usize>().prop_map(Step::Break),
        3 => any::<bool>().prop_map(Step::Kept),
        1 => Just(Step::Press),
        1 => Just(Step::Move),
    ];
    prop::collection::vec(step, 1..120)
}

proptest! {
    #[test]
    fn whatever_happens_each_block_ends_once_and_nothing_is_stuck(steps in steps(), disk in any::<bool>()) {
        let mut world = World::new(if disk { with_disk(2) } else { config() });
        let (mut taken, mut ended) = (0_u64, BTreeMap::<Key, u32>::new());
        let (mut room, mut sent, mut writing) = (0_i64, Vec::<(String, Key)>::new(), Vec::new());
        let nodes = ["a:1", "b:1", "c:1"];
        let mut settle = |world: &mut World, sent: &mut Vec<(String, Key)>, writing: &mut Vec<Key>, room: &mut i64| {
            for key in world.desk.wanted() {
                world.desk.loaded(key, Ok(block(key.seq, key.shard)), world.now);
            }
            world.desk.advance(world.now);
            for action in world.desk.actions() {
                match action {
                    Action::Send { address, block, .. } => sent.push((address.to_string(), key(block.seq, block.shard))),
                    Action::Keep { key, .. } => writing.push(key),
                    Action::Kept { .. } => *room -= 1,
                    Action::Settled { key, on_disk, .. } => {
                        *ended.entry(key).or_default() += 1;
                        *room -= i64::from(!on_disk);
                    }
                    Action::Trim { .. } | Action::Hang { .. } => {}
                }
            }
        };
        for step in steps {
            match step {
                Step::Take(shard) => {
                    world.take(block(taken, shard));
                    taken += 1;
                    room += 1;
                }
                Step::Pass(ms) => world.now += ms as u32 * MS,
                Step::Answer { which, how } if !sent.is_empty() => {
                    let (from, key) = sent[which % sent.len()].clone();
                    match how {
                        0 => world.refuse(&from, key.seq, key.shard, RefusalReason::Overloaded, 10),
                        1 => world.refuse(&from, key.seq, key.shard, RefusalReason::OwnersDiffer, 10),
                        2 => world.refuse(&from, key.seq, key.shard, RefusalReason::Malformed, 0),
                        _ => world.acknowledge(&from, key.seq, key.shard),
                    }
                }
                Step::Answer { .. } => {}
                Step::Break(which) => world.broke(nodes[which % 3]),
                Step::Kept(fine) => {
                    if let Some(key) = writing.pop() {
                        world.desk.kept(key, if fine { Ok(()) } else { Err("full".to_owned()) }, world.now);
                    }
                }
                Step::Press => world.desk.press(),
                Step::Move => world.desk.set_routes(routes()),
            }
            settle(&mut world, &mut sent, &mut writing, &mut room);
            prop_assert!(room >= 0);
        }
        // Everybody is well from here on.
        for _ in 0..400 {
            sent.retain(|(_, key)| world.desk.parcels.contains_key(key));
            for (from, key) in std::mem::take(&mut sent) {
                world.acknowledge(&from, key.seq, key.shard);
            }
            for key in std::mem::take(&mut writing) {
                world.desk.kept(key, Ok(()), world.now);
            }
            world.now += 50 * MS;
            settle(&mut world, &mut sent, &mut writing, &mut room);
        }
        prop_assert!(world.desk.is_empty(), "{:?}", world.desk);
        prop_assert_eq!(room, 0);
        prop_assert_eq!(ended.len() as u64, taken);
        prop_assert!(ended.values().all(|&times| times == 1), "{ended:?}");
        prop_assert!(world.desk.delayed.is_empty() && world.desk.deadlines.is_empty() && world.desk.looks.is_empty());
        prop_assert!(world.desk.lines.states.values().all(|line| line.blocks == 0 && line.parked.is_empty()));
    }
}
