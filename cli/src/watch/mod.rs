//! `tidemark watch`: a question left open, on the terminal or into a pipe.
//!
//! Owns: the flags, subscribing as the model asks, the terminal, and what goes into a pipe.
//! Does not own: what keys do (`model`), the screen (`draw`), resuming (`tidemark-client`).

mod draw;
mod model;

use crate::output;
use crate::query::{QueryOptions, as_table, in_words, print_csv};
use crate::show::answer::Asked;
use clap::Args;
use model::{Connection, Effect, Key, Model, row_key};
use ratatui::crossterm::event::{self, KeyCode, KeyEventKind, KeyModifiers};
use std::time::Duration;
use tidemark_client::{Event, Subscription};
use tidemark_coordinator::{answer_to_json, change_to_json};
use tidemark_proto::v1;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

/// How long the thread that reads keys goes without looking whether it is still needed.
const LOOK: Duration = Duration::from_millis(100);
/// Keys that may wait.
const KEYS: usize = 64;

/// A question left open.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  tidemark watch --site example.com --by url --measure views,visitors --top 20 --versus week
  tidemark watch --site example.com --measure active --since 5m --every 200ms
  tidemark watch --site example.com --by url --json | jq .

On a terminal, ? shows the keys. Into a pipe go tables, or one line of JSON (--json) or a table of CSV (--csv) for each update.")]
pub(crate) struct WatchOptions {
    #[command(flatten)]
    query: QueryOptions,

    /// How soon a change shows at the latest, 100ms to 60s
    #[arg(long, value_name = "DURATION", value_parser = every, default_value = "1s")]
    every: Duration,
}

fn every(text: &str) -> Result<Duration, String> {
    let every = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    let possible = (Duration::from_millis(100)..=Duration::from_secs(60)).contains(&every);
    possible.then_some(every).ok_or_else(|| format!("{text} is not between 100ms and 60s"))
}

/// Watches until the user has seen enough.
pub(crate) async fn run(options: &WatchOptions) -> anyhow::Result<()> {
    let on_screen = output::terminal_size().is_some() && !options.query.json && !options.query.csv;
    let watching = Watching { options, asked: options.query.asked() };
    match on_screen {
        true => watching.on_screen().await,
        false => watching.to_pipe().await,
    }
}

struct Watching<'a> {
    options: &'a WatchOptions,
    asked: Asked,
}

impl Watching<'_> {
    fn subscribe(&self, questions: Vec<v1::Query>) -> anyhow::Result<Subscription> {
        let mut seed = [0; 8];
        getrandom::fill(&mut seed)?;
        let at = &self.options.query.at;
        let seed = u64::from_le_bytes(seed);
        let dial = self.options.query.reach.dial([at])?;
        Subscription::new(vec![at.clone()], questions, self.options.every, seed)
            .map(|subscription| subscription.through(dial))
            .map_err(|error| in_words(error, at))
    }

    async fn to_pipe(&self) -> anyhow::Result<()> {
        let (json, csv) = (self.options.query.json, self.options.query.csv);
        let mut subscription = self.subscribe(vec![self.options.query.question()])?;
        let (mut is_first, mut was_complete) = (true, true);
        loop {
            let event = tokio::select! {
                biased;
                stop = tokio::signal::ctrl_c() => return Ok(stop?),
                event = subscription.next() => event.map_err(|error| in_words(error, &self.options.query.at))?,
            };
            match event {
                Event::Connected { .. } => {}
                Event::Lost { at, because, retry_in } => {
                    output::note(&format!("{at} is away ({because}); trying again in {retry_in:.1?}"));
                }
                Event::Answer { question, is_change, .. } => {
                    let Some(answer) = subscription.answer(question) else { continue };
                    let change = subscription.last_change().filter(|_| is_change);
                    let complete = answer.facts.as_ref().is_some_and(|facts| facts.complete);
                    // That it is no longer complete, or is again, is worth an update without any row.
                    if change.is_some_and(is_heartbeat) && complete == was_complete {
                        continue;
                    }
                    was_complete = complete;
                    let is_read = match change {
                        Some(change) if json => {
                            let line = serde_json::json!({ "change": change_to_json(change) });
                            output::print_more(&format!("{line}\n"))?
                        }
                        None if json => {
                            let line = serde_json::json!({ "answer": answer_to_json(answer) });
                            output::print_more(&format!("{line}\n"))?
                        }
                        _ if csv => print_csv(answer)?,
                        _ => {
                            let gap = if is_first { "" } else { "\n" };
                            output::print_more(&format!("{gap}{}", as_table(answer, &self.asked)))?
                        }
                    };
                    if !is_read {
                        return Ok(());
                    }
                    is_first = false;
                }
            }
        }
    }

    async fn on_screen(&self) -> anyhow::Result<()> {
        let mut model = Model::new(self.options.query.question());
        if model.question.measures.is_empty() {
            model.question.measures = vec!["views".to_owned()];
        }
        let mut subscription = self.subscribe(model.questions())?;
        // From here on the terminal is the screen's; a panic gives it back as well.
        let mut terminal = ratatui::try_init()?;
        let watched = self.watch(&mut terminal, &mut model, &mut subscription).await;
        ratatui::restore();
        watched
    }

    async fn watch(
        &self,
        terminal: &mut ratatui::DefaultTerminal,
        model: &mut Model,
        subscription: &mut Subscription,
    ) -> anyhow::Result<()> {
        let mut keys = keys();
        // Ended from outside, it gives the terminal back as well.
        let (mut terminate, mut hang_up) = (signal(SignalKind::terminate())?, signal(SignalKind::hangup())?);
        let mut ticks = interval(Duration::from_secs(1));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let asked = Asked { groups: model.question.group_by.len(), ..self.asked.clone() };
            terminal.draw(|frame| draw::draw(frame, model, &asked))?;
            let effect = tokio::select! {
                biased;
                _ = terminate.recv() => Effect::Quit,
                _ = hang_up.recv() => Effect::Quit,
                key = keys.recv() => match key {
                    Some(Some(key)) => model.key(key),
                    // The size is another one.
                    Some(None) => Effect::Draw,
                    None => Effect::Quit,
                },
                event = subscription.next() => match event {
                    Ok(event) => heard(model, subscription, event),
                    // A key made the question one that cannot be: the last one that could be goes on.
                    Err(error) if model.go_back() => {
                        model.message = Some(in_words(error, &self.options.query.at).to_string());
                        Effect::Ask
                    }
                    Err(error) => return Err(in_words(error, &self.options.query.at)),
                },
                _ = ticks.tick() => {
                    model.tick();
                    Effect::Draw
                }
            };
            match effect {
                Effect::Draw => {}
                Effect::Ask => *subscription = self.subscribe(model.questions())?,
                Effect::Quit => return Ok(()),
            }
        }
    }
}

/// What an event of the subscription does to the model.
fn heard(model: &mut Model, subscription: &Subscription, event: Event) -> Effect {
    match event {
        Event::Connected { at } => model.connection = Connection::Connected { at },
        Event::Lost { at, because, .. } => model.connection = Connection::Lost { at, because },
        Event::Answer { question, is_change, .. } => {
            let Some(answer) = subscription.answer(question) else { return Effect::Draw };
            if question > 0 {
                model.trended(answer);
                return Effect::Draw;
            }
            let change = subscription.last_change().filter(|_| is_change);
            let rows = change.into_iter().flat_map(|change| change.added.iter().chain(&change.changed));
            return model.answered(answer, rows.filter_map(|placed| placed.row.as_ref()).map(row_key));
        }
    }
    Effect::Draw
}

/// Sent so that somebody is known to be there.
fn is_heartbeat(change: &v1::Change) -> bool {
    change.added.is_empty()
        && change.changed.is_empty()
        && change.gone.is_empty()
        && change.replaced.is_none()
}

/// Keys as they are pressed; `None` where only the size is another one. Ends with Ctrl-C, and when nobody listens any more.
fn keys() -> mpsc::Receiver<Option<Key>> {
    let (sender, receiver) = mpsc::channel(KEYS);
    // Reading a terminal blocks.
    std::thread::spawn(move || {
        while !sender.is_closed() {
            match event::poll(LOOK) {
                Ok(true) => {}
                Ok(false) => continue,
                Err(_) => return,
            }
            let key = match event::read() {
                Ok(event::Event::Key(key)) if key.kind != KeyEventKind::Release => {
                    if key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c') {
                        return;
                    }
                    match key_of(key.code) {
                        Some(key) => Some(key),
                        None => continue,
                    }
                }
                Ok(event::Event::Resize(..)) => None,
                Ok(_) => continue,
                Err(_) => return,
            };
            if sender.blocking_send(key).is_err() {
                return;
            }
        }
    });
    receiver
}

fn key_of(code: KeyCode) -> Option<Key> {
    Some(match code {
        KeyCode::Up => Key::Up,
        KeyCode::Down => Key::Down,
        KeyCode::PageUp => Key::PageUp,
        KeyCode::PageDown => Key::PageDown,
        KeyCode::Enter => Key::Enter,
        KeyCode::Backspace => Key::Back,
        KeyCode::Esc => Key::Escape,
        KeyCode::Char(letter) => Key::Char(letter),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_often_is_between_a_tenth_of_a_second_and_a_minute() {
        assert_eq!(every("200ms"), Ok(Duration::from_millis(200)));
        for text in ["50ms", "2m", "soon"] {
            assert!(every(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_change_without_rows_is_no_update_for_a_pipe() {
        assert!(is_heartbeat(&v1::Change { facts: Some(v1::Facts::default()), ..v1::Change::default() }));
        let gone = vec![v1::Row::default()];
        assert!(!is_heartbeat(&v1::Change { gone, ..v1::Change::default() }));
    }
}
