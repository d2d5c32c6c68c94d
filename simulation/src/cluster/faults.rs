//! Does to a cluster what a schedule says.
//!
//! Owns: which seat is which host, and what a trouble means for them; since when answers may lag behind.
//! Does not own: when (`run`), what is checked (`ledger`, `finish`).

use super::ledger::SharedLedger;
use super::members::{self, DRAIN_TIMEOUT, Left, Setup};
use super::schedule::Trouble;
use crate::net::{HostId, Quality};
use crate::world::World;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How long after a cut or a pause a node may not know yet that it was given up.
const CONFUSED_FOR: Duration = Duration::from_secs(10);

/// A node's place in a cluster.
pub(crate) struct Seat {
    pub(crate) host: HostId,
    /// Tells the process to leave.
    leave: CancellationToken,
    /// How long leaving took the process.
    left: Left,
    /// It was started once at least.
    has_begun: bool,
    /// It was told to leave since it was started last.
    is_leaving: bool,
    /// Its journal may have had enough of a disk that failed.
    had_bad_disk: bool,
}

/// A cluster in a world.
pub(crate) struct Cluster {
    pub(crate) world: World,
    pub(crate) setup: Arc<Setup>,
    pub(crate) ledger: SharedLedger,
    pub(crate) seats: Vec<Seat>,
    pub(crate) coordinators: Vec<HostId>,
    pub(crate) prober: HostId,
}

impl Cluster {
    pub(crate) fn new(
        world: World,
        setup: Arc<Setup>,
        ledger: SharedLedger,
        (nodes, coordinators, prober): (Vec<HostId>, Vec<HostId>, HostId),
    ) -> Self {
        let seat = |host| Seat {
            host,
            leave: CancellationToken::new(),
            left: Left::default(),
            has_begun: false,
            is_leaving: false,
            had_bad_disk: false,
        };
        let seats = nodes.into_iter().map(seat).collect();
        Self { world, setup, ledger, seats, coordinators, prober }
    }

    pub(crate) fn apply(&mut self, what: &Trouble) {
        match what {
            Trouble::Kill(node) => self.crash(*node, false),
            Trouble::LosePower(node) => self.crash(*node, true),
            Trouble::LoseAllPower => (0..self.seats.len()).for_each(|node| self.crash(node, true)),
            Trouble::Start(node) => self.start(*node),
            Trouble::StartAll => self.start_crashed(),
            Trouble::Pause(node, time) => {
                self.confuse(*time);
                self.world.pause(self.seats[*node].host, *time);
            }
            Trouble::Slow(node, every) => {
                self.confuse(Duration::ZERO);
                self.world.slow(self.seats[*node].host, *every);
            }
            Trouble::Isolate(node) => {
                self.confuse(FOR_LONG);
                self.world.isolate(self.seats[*node].host);
            }
            Trouble::Cut(nodes) => {
                self.confuse(FOR_LONG);
                let (these, those) = self.split(nodes);
                self.world.cut(&these, &those);
            }
            Trouble::CutOneWay(nodes) => {
                self.confuse(FOR_LONG);
                let (these, those) = self.split(nodes);
                self.world.cut_one_way(&these, &those);
            }
            Trouble::Heal => self.world.heal(),
            Trouble::Ways(quality) => {
                self.confuse(FOR_LONG);
                self.world.set_quality(quality.clone());
            }
            Trouble::WaysOf(node, quality) => {
                self.confuse(FOR_LONG);
                let host = self.seats[*node].host;
                let others: Vec<HostId> = self.world.hosts().filter(|&other| other != host).collect();
                others.into_iter().for_each(|other| self.world.set_link(host, other, quality.clone()));
            }
            Trouble::Skew(node, ahead_ms) => self.world.skew(self.seats[*node].host, *ahead_ms),
            Trouble::Store(Some(node), faults) => {
                self.world.set_store(self.seats[*node].host, faults.clone());
            }
            Trouble::Store(None, faults) => {
                for seat in &self.seats {
                    self.world.set_store(seat.host, faults.clone());
                }
            }
            Trouble::Disk(node, faults) => {
                self.seats[*node].had_bad_disk = true;
                self.world.set_disk(self.seats[*node].host, faults.clone());
            }
            Trouble::Leave(node) => self.leave(*node),
            Trouble::KillCoordinator(one) => {
                if self.world.is_running(self.coordinators[*one]) {
                    self.world.kill(self.coordinators[*one]);
                }
            }
            Trouble::StartCoordinator(one) => self.start_coordinator(*one),
        }
    }

    /// Everything is well from now on, and whoever has not left for good is started.
    pub(crate) fn heal(&mut self) {
        self.confuse(Duration::ZERO);
        self.world.heal();
        self.world.set_quality(Quality::default());
        for node in 0..self.seats.len() {
            self.apply(&Trouble::WaysOf(node, Quality::default()));
            self.apply(&Trouble::Slow(node, Duration::ZERO));
            self.apply(&Trouble::Skew(node, 0));
            self.apply(&Trouble::Store(Some(node), Default::default()));
            let host = self.seats[node].host;
            self.world.set_disk(host, Default::default());
            if std::mem::take(&mut self.seats[node].had_bad_disk) && self.world.is_running(host) {
                self.crash(node, false);
            }
        }
        (0..self.coordinators.len()).for_each(|one| self.start_coordinator(one));
        self.start_crashed();
    }

    /// Nodes that are to be members when all is well.
    pub(crate) fn expected(&self) -> Vec<HostId> {
        let present = self.seats.iter().filter(|seat| seat.has_begun && !seat.has_left(&self.world));
        present.map(|seat| seat.host).collect()
    }

    /// Whether a node is on its way out.
    pub(crate) fn is_anybody_leaving(&self) -> bool {
        self.seats.iter().any(|seat| seat.is_leaving && self.world.is_running(seat.host))
    }

    /// Starts who has begun, does not run and did not leave, having handed over.
    pub(crate) fn start_crashed(&mut self) {
        for node in 0..self.seats.len() {
            if self.seats[node].has_begun && !self.seats[node].has_left(&self.world) {
                self.start(node);
            }
        }
    }

    pub(crate) fn start(&mut self, node: usize) {
        let seat = &mut self.seats[node];
        if self.world.is_running(seat.host) {
            return;
        }
        (seat.has_begun, seat.is_leaving) = (true, false);
        (seat.leave, seat.left) = (CancellationToken::new(), Left::default());
        let (setup, leave, left) = (Arc::clone(&self.setup), seat.leave.clone(), Arc::clone(&seat.left));
        self.world.start(seat.host, |context| members::node(context, setup, leave, left));
    }

    pub(crate) fn start_coordinator(&mut self, one: usize) {
        let (host, setup) = (self.coordinators[one], Arc::clone(&self.setup));
        if !self.world.is_running(host) {
            self.world.start(host, |context| members::coordinator(context, setup));
        }
    }

    pub(crate) fn crash(&mut self, node: usize, loses_power: bool) {
        let host = self.seats[node].host;
        match self.world.is_running(host) {
            true if loses_power => self.world.lose_power(host),
            true => self.world.kill(host),
            false => {}
        }
    }

    /// Has a node leave, if others stay.
    fn leave(&mut self, node: usize) {
        let stays = |seat: &&Seat| self.world.is_running(seat.host) && !seat.is_leaving;
        if self.seats.iter().filter(stays).count() < 2 || !self.world.is_running(self.seats[node].host) {
            return;
        }
        self.seats[node].is_leaving = true;
        self.seats[node].leave.cancel();
    }

    fn split(&self, nodes: &[usize]) -> (Vec<HostId>, Vec<HostId>) {
        let these: Vec<HostId> = nodes.iter().map(|&node| self.seats[node].host).collect();
        let those = self.world.hosts().filter(|host| !these.contains(host)).collect();
        (these, those)
    }

    /// Answers may lag behind for so long, and a while longer.
    fn confuse(&mut self, time: Duration) {
        let until = self.world.elapsed() + time + CONFUSED_FOR;
        self.ledger.lock().confuse_until(until);
    }
}

/// Until it is known when it ends.
const FOR_LONG: Duration = Duration::from_secs(10);

impl Seat {
    /// Whether it left and handed over all that it had, and was not started again.
    fn has_left(&self, world: &World) -> bool {
        let took = self.left.load(Ordering::Relaxed);
        took > 0 && Duration::from_millis(took) < DRAIN_TIMEOUT && !world.is_running(self.host)
    }
}
