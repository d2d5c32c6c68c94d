use super::*;
use proptest::prelude::*;
use tidemark_proto::SCHEMA_METADATA;
use tidemark_rollup::member::{Member, NodeId, View};
use tidemark_rollup::placement::Replication;
use tidemark_rollup::sharding::ShardCount;
use tonic::{Code, Status};

const MS: Duration = Duration::from_millis(1);

/// A plan over the nodes of these numbers.
fn plan(nodes: &[usize], shards: u32, replication: u8) -> Plan {
    let member = |at: &usize| Member::node(NodeId::new(format!("n{at}")).unwrap(), format!("h{at}:1"));
    let view = View::new(nodes.iter().map(member).collect()).unwrap();
    Plan::of(&Arc::new(view), ShardCount::new(shards).unwrap(), Replication::new(replication).unwrap())
}

/// 100 ms before a hedge, ten seconds for all.
fn asking(plan: &Plan) -> (Asking, Instant) {
    let now = Instant::now();
    (Asking::all(plan, Waiting { hedge_after: 100 * MS, until: now + 10_000 * MS }), now)
}

fn gone() -> Failure {
    Failure::new("gone")
}

fn unfit() -> Failure {
    let mut status = Status::failed_precondition("the schema of node n2 has no measure likes yet");
    status.metadata_mut().insert(SCHEMA_METADATA, "likes".parse().unwrap());
    status.into()
}

/// The shards of requests, together.
fn shards_of<'a>(asks: impl IntoIterator<Item = &'a Ask>) -> Vec<u32> {
    let mut shards: Vec<u32> = asks.into_iter().flat_map(|ask| ask.shards.clone()).collect();
    shards.sort_unstable();
    shards
}

fn lost(asking: &Asking, now: Instant) -> BTreeMap<u32, Lost> {
    asking.lost(now, &"silent".into())
}

fn counts() -> Verdict {
    Verdict::Counts { instead_of: Vec::new() }
}

#[test]
fn the_first_reader_of_each_shard_is_asked_in_one_request_per_node() {
    let plan = plan(&[0, 1, 2], 64, 2);
    let (mut asking, now) = asking(&plan);
    let asks = asking.step(now);
    assert_eq!(asks.len(), 3);
    assert_eq!(shards_of(&asks), (0..64).collect::<Vec<_>>());
    for ask in &asks {
        assert!(ask.shards.iter().all(|&shard| plan.readers(shard)[0] == ask.peer));
        assert_eq!(ask.why, Why::First);
        assert_eq!(asking.replied(ask.call, &ask.shards), counts());
    }
    assert!(asking.is_settled() && lost(&asking, now).is_empty());
}

#[test]
fn who_is_slow_is_hedged_when_the_time_has_come_and_not_before() {
    let plan = plan(&[0, 1, 2], 64, 2);
    let (mut asking, now) = asking(&plan);
    let asks = asking.step(now);
    for ask in &asks[1..] {
        asking.replied(ask.call, &ask.shards);
    }
    assert_eq!(asking.wake_at(now), Some(now + 100 * MS));
    assert_eq!(asking.step(now + 99 * MS), []);
    let hedges = asking.step(now + 100 * MS);
    assert_eq!(shards_of(&hedges), asks[0].shards);
    for hedge in &hedges {
        assert_eq!(hedge.why, Why::Hedge(asks[0].call));
        assert!(hedge.shards.iter().all(|&shard| plan.readers(shard)[1] == hedge.peer));
        assert_eq!(asking.replied(hedge.call, &hedge.shards), counts());
    }
    assert!(asking.is_settled());
    assert_eq!(asking.replied(asks[0].call, &asks[0].shards), Verdict::Dropped);
}

#[test]
fn a_hedge_waits_no_longer_than_half_of_the_time_that_is_left() {
    let plan = plan(&[0, 1], 1, 2);
    let now = Instant::now();
    for (hedge_after, left, expected) in [(100, 60, 30), (1, 1000, 20), (1, 10, 5)] {
        let waiting = Waiting { hedge_after: hedge_after * MS, until: now + left * MS };
        let mut asking = Asking::all(&plan, waiting);
        asking.step(now);
        assert_eq!(asking.wake_at(now), Some(now + expected * MS));
    }
}

#[test]
fn what_a_node_fails_to_answer_or_is_not_ready_for_is_asked_of_the_next_at_once() {
    let plan = plan(&[0, 1, 2], 64, 3);
    let (mut asking, now) = asking(&plan);
    let asks = asking.step(now);
    asking.failed(asks[0].call, gone());
    let next = asking.step(now);
    assert_eq!(shards_of(&next), asks[0].shards);
    for ask in &next {
        assert_eq!(ask.why, Why::Next);
        assert!(ask.shards.iter().all(|&shard| plan.readers(shard)[1] == ask.peer));
        // Ready for the first of them alone.
        asking.replied(ask.call, &ask.shards[..1]);
    }
    let last = asking.step(now);
    assert_eq!(shards_of(&last).len(), asks[0].shards.len() - next.len());
    assert!(last.iter().all(|ask| ask.shards.iter().all(|&shard| plan.readers(shard)[2] == ask.peer)));
}

#[test]
fn whose_schema_does_not_fit_is_not_asked_again_and_where_nobodys_does_there_is_nothing_to_wait_for() {
    let plan = plan(&[0, 1], 1, 2);
    let (mut asking, now) = asking(&plan);
    let first = asking.step(now);
    asking.failed(first[0].call, unfit());
    let next = asking.step(now);
    assert_eq!((next[0].why, &next[0].peer), (Why::Next, &plan.readers(0)[1]));
    asking.failed(next[0].call, gone());
    assert_eq!(asking.step(now), []);
    assert!(!asking.is_settled(), "who failed may be back");
    // It alone is asked anew.
    let again = asking.step(now + 50 * MS);
    assert_eq!((again.len(), &again[0].peer), (1, &plan.readers(0)[1]));
    asking.failed(again[0].call, unfit());
    assert_eq!(asking.step(now + 50 * MS), []);
    assert!(asking.is_settled() && asking.refusal().is_none());
    let reason = "the schema of node n2 has no measure likes yet".into();
    let lost = lost(&asking, now + 50 * MS);
    assert_eq!(lost[&0], Lost::Failed { peer: Arc::clone(&plan.readers(0)[1]), reason });
}

#[test]
fn where_all_readers_failed_they_are_asked_anew_after_pauses_that_grow() {
    let plan = plan(&[0, 1], 1, 2);
    let (mut asking, mut now) = asking(&plan);
    for pause in [50, 100, 200, 400, 400] {
        for reader in plan.readers(0) {
            let asks = asking.step(now);
            assert_eq!(&asks[0].peer, reader);
            asking.failed(asks[0].call, gone());
        }
        assert_eq!(asking.step(now), []);
        assert_eq!(asking.wake_at(now), Some(now + pause * MS));
        now += pause * MS;
    }
    assert_eq!(asking.step(now).len(), 1);
}

#[test]
fn who_was_not_ready_is_asked_again_although_another_reader_hangs() {
    let plan = plan(&[0, 1], 1, 2);
    let (mut asking, now) = asking(&plan);
    asking.step(now);
    let hedge = asking.step(now + 100 * MS).remove(0);
    asking.replied(hedge.call, &[]);
    assert_eq!(asking.step(now + 100 * MS), []);
    let again = asking.step(now + 150 * MS);
    assert_eq!((again.len(), &again[0].peer), (1, &hedge.peer));
}

#[test]
fn a_reply_that_overlaps_counts_only_where_more_shards_count_with_it() {
    let plan = plan(&[0, 1, 2], 64, 3);
    let (mut asking, now) = asking(&plan);
    let asks = asking.step(now);
    let hedges = asking.step(now + 100 * MS);
    let slow = &asks[0];
    let mut of_slow = hedges.iter().filter(|hedge| hedge.why == Why::Hedge(slow.call));
    let (first, second) = (of_slow.next().unwrap(), of_slow.next().unwrap());
    assert_eq!(asking.replied(first.call, &first.shards), counts());
    // The slow reply has the other hedge's shards as well, so nothing is left to wait for.
    let instead = Verdict::Counts { instead_of: vec![first.call] };
    assert_eq!(asking.replied(slow.call, &slow.shards), instead);
    assert_eq!(asking.replied(second.call, &second.shards), Verdict::Dropped);
    assert!(slow.shards.iter().all(|shard| !lost(&asking, now).contains_key(shard)));
}

#[test]
fn what_only_a_dropped_reply_had_is_asked_for_again() {
    let plan = plan(&[0, 1], 2, 2);
    let (mut asking, now) = asking(&plan);
    let asks = asking.step(now);
    let hedges = asking.step(now + 100 * MS);
    assert_eq!((asks.len(), hedges.len()), (2, 2), "a shard each: {:?}", asks);
    // One node asked for both shards at once would overlap with the others; take it to be asked so.
    let both: BTreeMap<u32, Arc<Peer>> = [0, 1].map(|shard| (shard, Arc::clone(&asks[0].peer))).into();
    let mut asking = Asking::again(&plan, &both, Waiting { hedge_after: 100 * MS, until: now + 10_000 * MS });
    let slow = asking.step(now).remove(0);
    assert_eq!(slow.shards, [0, 1]);
    let hedge = asking.step(now + 100 * MS).remove(0);
    assert_eq!(asking.replied(hedge.call, &[0]), counts());
    // Not ready for shard 1, so it does not make up for the hedge.
    assert_eq!(asking.replied(slow.call, &[0]), Verdict::Dropped);
    assert_eq!(asking.step(now + 101 * MS), []);
    let again = asking.step(now + 151 * MS);
    assert_eq!(shards_of(&again), [1]);
}

#[test]
fn a_node_that_just_became_a_reader_is_asked_at_once() {
    let (before, after) = (plan(&[0], 4, 1), plan(&[1], 4, 1));
    let (mut asking, now) = asking(&before);
    let asks = asking.step(now);
    asking.failed(asks[0].call, gone());
    assert_eq!(asking.step(now), []);
    asking.follow(&after);
    let next = asking.step(now);
    assert_eq!((shards_of(&next), &next[0].peer.id), (vec![0, 1, 2, 3], &after.readers(0)[0].id));
}

#[test]
fn shards_without_a_reader_wait_for_one() {
    let (mut asking, now) = asking(&plan(&[], 4, 2));
    assert_eq!((asking.step(now), asking.wake_at(now)), (Vec::new(), None));
    assert_eq!(lost(&asking, now)[&3], Lost::NoReader);
    asking.follow(&plan(&[7], 4, 2));
    assert_eq!(shards_of(&asking.step(now)), [0, 1, 2, 3]);
}

#[test]
fn a_question_is_refused_where_all_nodes_refuse_it_or_one_has_too_many_rows() {
    let refusal = |text: &str| Failure::from(Status::new(Code::FailedPrecondition, text));
    let plan = plan(&[0, 1], 2, 2);
    // All that is asked for is refused, but for the first request, which fails as told.
    let refuse_all = |asking: &mut Asking, now: Instant, first: Failure| {
        let (mut pending, mut failure) = (asking.step(now), Some(first));
        while let Some(ask) = pending.pop() {
            assert_eq!(asking.refusal(), None);
            asking.failed(ask.call, failure.take().unwrap_or_else(|| refusal("no")));
            pending.extend(asking.step(now));
        }
    };
    let (mut refused, now) = asking(&plan);
    refuse_all(&mut refused, now, refusal("no"));
    assert_eq!(refused.refusal().map(|refusal| &refusal.message[..]), Some("no"));

    let (mut mixed, now) = asking(&plan);
    refuse_all(&mut mixed, now, gone());
    assert_eq!(mixed.refusal(), None);

    let (mut large, now) = asking(&plan);
    let asks = large.step(now);
    let too_many = tidemark_rollup::partial::TooManyRows.to_string();
    large.failed(asks[0].call, Failure::from(Status::invalid_argument(too_many)));
    assert!(large.refusal().is_some());
}

#[test]
fn what_is_lost_says_what_happened_last() {
    let plan = plan(&[0, 1], 1, 2);
    let (first, second) = (&plan.readers(0)[0], &plan.readers(0)[1]);
    let (mut asking, now) = asking(&plan);
    let ask = asking.step(now).remove(0);
    let failed =
        |peer: &Arc<Peer>, reason: &str| Lost::Failed { peer: Arc::clone(peer), reason: reason.into() };
    assert_eq!(lost(&asking, now)[&0], failed(first, "silent"));
    asking.failed(ask.call, gone());
    let next = asking.step(now).remove(0);
    assert_eq!(lost(&asking, now)[&0], failed(first, "gone"));
    assert_eq!(lost(&asking, now + 100 * MS)[&0], failed(second, "silent"));
    asking.replied(next.call, &[]);
    let Lost::Failed { peer, reason } = lost(&asking, now).remove(&0).unwrap() else { panic!() };
    assert_eq!(&peer, second);
    assert!(reason.contains("not ready"), "{reason}");
}

/// What happens to a round.
#[derive(Clone, Debug)]
enum Event {
    /// One of the requests under way is answered, for these of its shards.
    Reply(prop::sample::Index, u64),
    Fail(prop::sample::Index),
    /// The schema of who is asked does not fit.
    Unfit(prop::sample::Index),
    Refuse(prop::sample::Index),
    Pass(u64),
    /// Another view, of these nodes.
    View(u8),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    use prop::sample::Index;
    let event = prop_oneof![
        3 => (any::<Index>(), any::<u64>()).prop_map(|(at, shards)| Event::Reply(at, shards)),
        2 => any::<Index>().prop_map(|at| Event::Reply(at, u64::MAX)),
        2 => any::<Index>().prop_map(Event::Fail),
        1 => any::<Index>().prop_map(Event::Unfit),
        1 => any::<Index>().prop_map(Event::Refuse),
        4 => (1_u64..150).prop_map(Event::Pass),
        1 => any::<u8>().prop_map(Event::View),
    ];
    prop::collection::vec(event, 0..120)
}

/// A round, and what must be true of it.
struct Model {
    asking: Asking,
    plan: Plan,
    now: Instant,
    pending: Vec<Ask>,
    counting: BTreeMap<Call, Vec<u32>>,
    /// Who said of which shards that its schema does not fit.
    unfit: BTreeSet<(Arc<Peer>, u32)>,
}

impl Model {
    fn nodes(mask: u8) -> Vec<usize> {
        (0..5).filter(|at| mask & (1 << at) != 0).collect()
    }

    fn new(mask: u8, shards: u32, replication: u8) -> Self {
        let plan = plan(&Self::nodes(mask), shards, replication);
        let (asking, now) = asking(&plan);
        let (pending, counting, unfit) = (Vec::new(), BTreeMap::new(), BTreeSet::new());
        Self { asking, plan, now, pending, counting, unfit }
    }

    fn counted(&self) -> BTreeSet<u32> {
        self.counting.values().flatten().copied().collect()
    }

    fn step(&mut self) {
        for ask in self.asking.step(self.now) {
            assert!(!ask.shards.is_empty() && ask.shards.is_sorted_by(|a, b| a < b));
            for shard in &ask.shards {
                assert!(!self.counted().contains(shard), "asks for what counts");
                assert!(self.plan.readers(*shard).contains(&ask.peer), "asks who does not read it");
                let unfit = self.unfit.contains(&(Arc::clone(&ask.peer), *shard));
                assert!(!unfit, "asks whose schema does not fit");
                let mut same = self.pending.iter().filter(|other| other.peer == ask.peer);
                assert!(!same.any(|other| other.shards.contains(shard)), "asks twice at the same time");
            }
            self.pending.push(ask);
        }
        assert!(self.asking.wake_at(self.now).is_none_or(|at| at > self.now), "would spin");
        let lost: BTreeSet<u32> = lost(&self.asking, self.now).into_keys().collect();
        let counted = self.counted();
        assert!(lost.is_disjoint(&counted));
        assert_eq!(lost.len() + counted.len(), self.plan.shards().count());
        let hopeless = |shard: &u32| {
            let readers = self.plan.readers(*shard);
            let fits = |reader: &Arc<Peer>| !self.unfit.contains(&(Arc::clone(reader), *shard));
            let asked = !self.asking.shards[shard].in_flight.is_empty();
            !readers.is_empty() && !readers.iter().any(fits) && !asked
        };
        assert_eq!(self.asking.is_settled(), lost.iter().all(hopeless));
    }

    fn reply(&mut self, at: usize, mask: u64) {
        let ask = self.pending.swap_remove(at);
        let answered: Vec<u32> =
            ask.shards.iter().copied().filter(|shard| mask & (1 << shard) != 0).collect();
        let before = self.counted().len();
        if let Verdict::Counts { instead_of } = self.asking.replied(ask.call, &answered) {
            for other in instead_of {
                self.counting.remove(&other).expect("counted");
            }
            self.counting.insert(ask.call, answered);
            let sum: usize = self.counting.values().map(Vec::len).sum();
            assert_eq!(sum, self.counted().len(), "a shard counts twice");
            assert!(sum > before, "fewer shards count");
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Pass(ms) => self.now += ms as u32 * MS,
            Event::View(mask) => {
                self.plan = plan(&Self::nodes(mask), self.plan.shard_count(), self.plan.replication().get());
                self.asking.follow(&self.plan);
            }
            _ if self.pending.is_empty() => {}
            Event::Reply(at, mask) => self.reply(at.index(self.pending.len()), mask),
            Event::Fail(at) => {
                let ask = self.pending.swap_remove(at.index(self.pending.len()));
                self.asking.failed(ask.call, gone());
            }
            Event::Unfit(at) => {
                let ask = self.pending.swap_remove(at.index(self.pending.len()));
                self.unfit.extend(ask.shards.iter().map(|&shard| (Arc::clone(&ask.peer), shard)));
                self.asking.failed(ask.call, unfit());
            }
            Event::Refuse(at) => {
                let ask = self.pending.swap_remove(at.index(self.pending.len()));
                self.asking.failed(ask.call, Failure::from(Status::resource_exhausted("busy")));
            }
        }
        self.step();
    }
}

proptest! {
    #[test]
    fn whatever_happens_a_shard_counts_once_and_all_count_once_nodes_are_well_again(
        mask in 1_u8..32, bits in 0_u32..5, replication in 1_u8..4, events in events(),
    ) {
        let mut model = Model::new(mask, 1 << bits, replication);
        model.step();
        events.into_iter().for_each(|event| model.happen(event));
        // From here on the nodes of this view answer whatever they are asked; those that hang go on hanging.
        model.happen(Event::View(mask));
        model.pending.clear();
        for _ in 0..200 {
            while !model.pending.is_empty() {
                model.reply(0, u64::MAX);
                model.step();
            }
            if model.asking.is_settled() {
                break;
            }
            let Some(at) = model.asking.wake_at(model.now) else { break };
            model.now = at;
            model.step();
        }
        // Where all readers of a shard hang, or their schemas do not fit, there is nobody left to ask.
        let hang = |shard: &u32| {
            let (number, shard) = (*shard, &model.asking.shards[shard]);
            shard.readers.iter().all(|reader| {
                let asked = |call: &Call| model.asking.requests[call.0].peer == *reader;
                model.unfit.contains(&(Arc::clone(reader), number)) || shard.in_flight.iter().any(asked)
            })
        };
        prop_assert!(lost(&model.asking, model.now).keys().all(hang));
    }
}
