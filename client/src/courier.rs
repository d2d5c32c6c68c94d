//! Brings blocks to nodes.
//!
//! Owns: the one task of a producer that everything goes through: it carries out what the desk decides, over lines and on disk.
//! Does not own: the decisions (`desk`), who is told (`ledger`).
//!
//! All its queues are bounded by the blocks that the producer may have in memory.

use crate::desk::{Action, Desk, Key};
use crate::ledger::{Ledger, Told};
use crate::line::{Epoch, Line, Report, Said};
use crate::routes::Routes;
use crate::spool::Spool;
use crate::ticket::Outcome;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tidemark_proto::v1;
use tidemark_rollup::block::ProducerId;
use tidemark_shell::link::Links;
use tidemark_shell::work;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::Instant;

/// Acknowledgements that wait to be looked at; lines wait beyond that.
const REPORTS: usize = 256;

/// What the producer wants.
#[derive(Debug)]
pub(crate) enum Command {
    /// These blocks brought, and whoever waits told what became of them. The producer has taken the room for them.
    Bring { batch: u64, blocks: Vec<v1::Block>, begun: Outcome, told: Told },
    /// More sequence numbers, from `next` on.
    Reserve { next: u64 },
    /// An end: at `deadline`, or when all is brought. `done` is told then.
    Close { deadline: Instant, done: oneshot::Sender<()> },
}

/// What the courier and the producer share.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shared {
    /// Numbers below may be used.
    pub(crate) reserved: Arc<AtomicU64>,
    /// A caller found no room.
    pub(crate) pressed: Arc<Notify>,
}

/// How lines are opened.
#[derive(Debug)]
pub(crate) struct LineRules {
    pub(crate) links: Arc<Links>,
    pub(crate) capacity: usize,
    pub(crate) timeout: Duration,
}

#[derive(Debug)]
pub(crate) struct Courier {
    producer: ProducerId,
    desk: Desk,
    ledger: Ledger,
    rules: LineRules,
    lines: BTreeMap<Arc<str>, Line>,
    next_epoch: Epoch,
    reports: (mpsc::Sender<Report>, mpsc::Receiver<Report>),
    routes: watch::Receiver<Arc<Routes>>,
    spool: Option<Spool>,
    kept: (mpsc::UnboundedSender<Kept>, mpsc::UnboundedReceiver<Kept>),
    shared: Shared,
    closing: Option<(Instant, oneshot::Sender<()>)>,
}

type Kept = (Key, Result<(), String>);

impl Courier {
    pub(crate) fn new(
        producer: ProducerId,
        desk: Desk,
        ledger: Ledger,
        rules: LineRules,
        routes: watch::Receiver<Arc<Routes>>,
        spool: Option<Spool>,
        shared: Shared,
    ) -> Self {
        Self {
            producer,
            desk,
            ledger,
            rules,
            lines: BTreeMap::new(),
            next_epoch: 0,
            reports: mpsc::channel(REPORTS),
            routes,
            spool,
            kept: mpsc::unbounded_channel(),
            shared,
            closing: None,
        }
    }

    /// Runs until it is closed, or the producer is dropped.
    pub(crate) async fn run(mut self, mut commands: mpsc::UnboundedReceiver<Command>) {
        loop {
            self.load().await;
            self.desk.advance(Instant::now());
            self.perform();
            if self.closed().await {
                return;
            }
            let due =
                self.desk.next_due().into_iter().chain(self.closing.as_ref().map(|closing| closing.0)).min();
            let due = async move {
                match due {
                    Some(due) => tokio::time::sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                Some(report) = self.reports.1.recv() => {
                    self.listen(report);
                    // Acknowledgements come many at a time; what follows from them is done once for all.
                    for _ in 0..REPORTS {
                        let Ok(report) = self.reports.1.try_recv() else { break };
                        self.listen(report);
                    }
                }
                Some((key, outcome)) = self.kept.1.recv() => self.desk.kept(key, outcome, Instant::now()),
                Ok(()) = self.routes.changed() => {
                    let routes = Arc::clone(&self.routes.borrow_and_update());
                    self.desk.set_routes(routes);
                }
                () = self.shared.pressed.notified() => self.desk.press(),
                command = commands.recv() => match command {
                    Some(command) => self.obey(command).await,
                    // Dropped. Whoever holds a ticket is told so by its end.
                    None => return,
                },
                () = due => {}
            }
        }
    }

    async fn obey(&mut self, command: Command) {
        match command {
            Command::Bring { batch, blocks, begun, told } => {
                self.ledger.begin(batch, blocks.len(), begun, told);
                let now = Instant::now();
                for block in blocks {
                    let bytes = block.columns.len();
                    self.desk.take(batch, block, bytes, now);
                }
            }
            Command::Reserve { next } => {
                let Some(spool) = self.spool.clone() else { return };
                // Where the disk fails, the producer asks again with its next batch.
                if let Ok(reserved) = work::run(move || spool.reserve(next)).await {
                    self.shared.reserved.store(reserved, Ordering::Release);
                }
            }
            Command::Close { deadline, done } => self.closing = Some((deadline, done)),
        }
    }

    fn listen(&mut self, report: Report) {
        let now = Instant::now();
        match report.said {
            Said::Answered(ack) => {
                if ProducerId::from_wire(&ack.producer) == Some(self.producer) {
                    self.desk.answered(&report.address, ack, now);
                }
            }
            Said::Broke(why) => {
                let current = self.lines.get(&report.address).is_some_and(|line| line.epoch == report.epoch);
                if current {
                    self.lines.remove(&report.address);
                    self.desk.broke(&report.address, &why, now);
                }
            }
        }
    }

    /// Does what the desk has decided, and what it decides for that.
    fn perform(&mut self) {
        loop {
            let actions = self.desk.actions();
            if actions.is_empty() {
                return;
            }
            actions.into_iter().for_each(|action| self.act(action));
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Send { address, block, again } => {
                if again {
                    self.ledger.sent_again();
                }
                self.send(&address, block);
            }
            Action::Hang { address } => _ = self.lines.remove(&address),
            Action::Keep { key, block } => {
                let kept = self.kept.0.clone();
                // Nobody listens any more where the producer is dropped.
                let done = move |outcome| _ = kept.send((key, outcome));
                match &self.spool {
                    Some(spool) => spool.append(block, done),
                    None => done(Err("there is no spool".to_owned())),
                }
            }
            Action::Kept { key, bytes, events } => self.ledger.kept(key, bytes, events),
            Action::Trim { key } => {
                if let Some(spool) = &self.spool {
                    spool.trim(key);
                }
            }
            Action::Settled { key, events, bytes, on_disk, fate } => {
                self.ledger.settle(key, events, bytes, on_disk, fate);
            }
        }
    }

    fn send(&mut self, address: &Arc<str>, block: v1::Block) {
        if !self.lines.contains_key(address) {
            self.next_epoch += 1;
            let LineRules { links, capacity, timeout } = &self.rules;
            let (link, reports) = (links.to(address), self.reports.0.clone());
            let line = Line::open(link, Arc::clone(address), self.next_epoch, *capacity, *timeout, reports);
            self.lines.insert(Arc::clone(address), line);
        }
        if !self.lines.get(address).is_some_and(|line| line.send(block)) {
            // It has ended and is about to say so, or the node does not read what was given up on it.
            self.lines.remove(address);
            self.desk.broke(address, "the line takes no more blocks", Instant::now());
        }
    }

    /// Reads what is to be sent again from disk.
    async fn load(&mut self) {
        let wanted = self.desk.wanted();
        if let Some(spool) = self.spool.clone().filter(|_| !wanted.is_empty()) {
            let read = move || wanted.into_iter().map(|key| (key, spool.read(key))).collect::<Vec<_>>();
            for (key, block) in work::run(read).await {
                self.desk.loaded(key, block, Instant::now());
            }
        }
    }

    /// Whether it is over; then everybody has been told.
    async fn closed(&mut self) -> bool {
        let Some((deadline, _)) = &self.closing else { return false };
        let (now, over) = (Instant::now(), self.desk.is_empty());
        if !over && now >= *deadline && !self.desk.is_closing() {
            self.desk.close(now);
            self.perform();
        }
        if !over && !self.desk.is_put_away() {
            return false;
        }
        self.desk.leave();
        self.perform();
        if let Some(spool) = self.spool.take() {
            work::run(move || spool.close()).await;
        }
        if let Some((_, done)) = self.closing.take() {
            // Whoever does not wait for it any more does not want to know.
            _ = done.send(());
        }
        true
    }
}
