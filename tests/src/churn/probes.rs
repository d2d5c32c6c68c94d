//! Asking all the time.
//!
//! Owns: a question asked of each coordinator again and again, the answers with their times, and what must hold of them.
//! Does not own: what is done to the cluster meanwhile.

use super::Spawn;
use super::load::{SITE, Tally};
use crate::http::Http;
use futures::FutureExt as _;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Questions that one coordinator has not answered yet; then asking waits.
const OPEN: usize = 4;
/// How long a question waits for its answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// One question and what came of it.
#[derive(Clone, Debug)]
pub struct Probe {
    /// Which coordinator was asked.
    pub coordinator: usize,
    /// When.
    pub asked: Instant,
    /// When the answer was there.
    pub answered: Instant,
    /// Whether it was an answer and said that it is complete.
    pub complete: bool,
    /// Views that it told.
    pub views: u64,
    /// What was acknowledged before asking,
    pub acknowledged: u64,
    /// and what was sent by the time of the answer.
    pub sent: u64,
    /// Why it is not complete.
    pub why: String,
}

/// Coordinators that are asked.
#[derive(Debug)]
pub struct Probes {
    tally: Arc<Tally>,
    every: Duration,
    all: Arc<Mutex<Vec<Probe>>>,
    asked: Vec<Arc<AtomicBool>>,
    stop: CancellationToken,
    _stop: DropGuard,
}

/// How questions were answered.
#[derive(Clone, Copy, Debug)]
pub struct Success {
    /// How many count.
    pub asked: usize,
    /// How many of these were answered completely.
    pub complete: usize,
}

impl Success {
    /// In percent.
    pub fn percent(&self) -> f64 {
        self.complete as f64 / self.asked.max(1) as f64 * 100.0
    }
}

impl Probes {
    /// To ask coordinators this often.
    pub fn new(tally: &Arc<Tally>, every: Duration) -> Self {
        let stop = CancellationToken::new();
        let (all, guard) = (Arc::default(), stop.clone().drop_guard());
        Self { tally: Arc::clone(tally), every, all, asked: Vec::new(), stop, _stop: guard }
    }

    /// Begins to ask a coordinator, `host:port`. They are numbered in this order.
    pub fn add(&mut self, address: &str, spawn: Spawn<'_>) {
        let is_asked = Arc::new(AtomicBool::new(true));
        let asker = Asker {
            coordinator: self.asked.len(),
            address: address.to_owned(),
            tally: Arc::clone(&self.tally),
            all: Arc::clone(&self.all),
        };
        spawn(ask_all_the_time(asker, self.every, Arc::clone(&is_asked), self.stop.clone()).boxed());
        self.asked.push(is_asked);
    }

    /// Asks a coordinator no more, or again.
    pub fn ask(&self, coordinator: usize, is_asked: bool) {
        self.asked[coordinator].store(is_asked, Ordering::SeqCst);
    }

    /// Stops asking.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// All answers so far, in the order in which they came.
    pub fn all(&self) -> Vec<Probe> {
        self.all.lock().unwrap().clone()
    }

    /// How many complete answers there are so far.
    pub fn complete(&self) -> usize {
        self.all.lock().unwrap().iter().filter(|probe| probe.complete).count()
    }

    /// When the first question that was asked of a coordinator after this moment had its complete answer.
    pub fn first_complete(&self, coordinator: usize, after: Instant) -> Option<Instant> {
        first_complete(&self.all.lock().unwrap(), coordinator, after)
    }

    /// The share of complete answers, apart from questions that were open at some time between one of these moments and the
    /// first complete answer after it, or until it was `window` ago.
    pub fn success(&self, disruptions: &[Instant], window: Duration) -> (Success, Vec<Probe>) {
        let all = self.all();
        let in_window = |probe: &Probe| {
            disruptions.iter().any(|&from| {
                let first = first_complete(&all, probe.coordinator, from);
                let until = first.map_or(from + window, |first| first.min(from + window));
                probe.answered >= from && probe.asked <= until
            })
        };
        let counted: Vec<&Probe> = all.iter().filter(|probe| !in_window(probe)).collect();
        let failed: Vec<Probe> =
            counted.iter().filter(|probe| !probe.complete).map(|&probe| probe.clone()).collect();
        (Success { asked: counted.len(), complete: counted.len() - failed.len() }, failed)
    }

    /// Complete answers that cannot be: with less than what was acknowledged before asking, or more than was sent.
    pub fn wrong(&self) -> Vec<Probe> {
        let is_wrong =
            |probe: &Probe| probe.complete && !(probe.acknowledged..=probe.sent).contains(&probe.views);
        self.all().into_iter().filter(is_wrong).collect()
    }

    /// Complete answers of a coordinator with less than one that was there before the question.
    pub fn gone_back(&self) -> Vec<(Probe, u64)> {
        let all: Vec<Probe> = self.all().into_iter().filter(|probe| probe.complete).collect();
        let mut gone_back = Vec::new();
        for (at, probe) in all.iter().enumerate() {
            let before = all[..at]
                .iter()
                .filter(|before| before.coordinator == probe.coordinator && before.answered < probe.asked);
            match before.map(|before| before.views).max() {
                Some(most) if most > probe.views => gone_back.push((probe.clone(), most)),
                _ => {}
            }
        }
        gone_back
    }
}

fn first_complete(all: &[Probe], coordinator: usize, after: Instant) -> Option<Instant> {
    let of =
        all.iter().filter(|probe| probe.coordinator == coordinator && probe.complete && probe.asked >= after);
    of.map(|probe| probe.answered).min()
}

#[derive(Clone)]
struct Asker {
    coordinator: usize,
    address: String,
    tally: Arc<Tally>,
    all: Arc<Mutex<Vec<Probe>>>,
}

async fn ask_all_the_time(asker: Asker, every: Duration, is_asked: Arc<AtomicBool>, stop: CancellationToken) {
    let http = Http::new(&asker.address);
    let open = Arc::new(Semaphore::new(OPEN));
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while !stop.is_cancelled() {
        ticks.tick().await;
        let permit = Arc::clone(&open).acquire_owned().await.unwrap();
        if is_asked.load(Ordering::SeqCst) {
            let (asker, http) = (asker.clone(), http.clone());
            tokio::spawn(async move {
                asker.ask(&http).await;
                drop(permit);
            });
        }
    }
    // Its runtime may end with it: the answers are still to come.
    let _ = open.acquire_many(OPEN as u32).await;
}

impl Asker {
    async fn ask(&self, http: &Http) {
        let question = json!({"site": SITE, "from": "-2h", "to": "now"}).to_string();
        let (acknowledged, asked) = (self.tally.acknowledged(), Instant::now());
        let asking = async { http.try_post("/v1/query", question).await?.text().await };
        let text = match tokio::time::timeout(ANSWER_WITHIN, asking).await {
            Ok(text) => text.map_err(|error| format!("{error:?}")),
            Err(_) => Err("no answer in time".to_owned()),
        };
        let (answered, sent) = (Instant::now(), self.tally.sent());
        let answer: Value = match text {
            Ok(text) => serde_json::from_str(&text).unwrap_or(Value::String(text)),
            Err(error) => Value::String(error),
        };
        let complete = answer["facts"]["complete"] == true;
        let views = answer["rows"][0][0].as_u64().unwrap_or(0);
        let why = match &answer["facts"]["missing"] {
            _ if complete => String::new(),
            Value::Null => answer.to_string(),
            missing => missing.to_string(),
        };
        let probe = Probe {
            coordinator: self.coordinator,
            asked,
            answered,
            complete,
            views,
            acknowledged,
            sent,
            why,
        };
        self.all.lock().unwrap().push(probe);
    }
}
