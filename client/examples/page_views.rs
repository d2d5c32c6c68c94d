//! Sends a thousand page views, waits until each is on the disks of its owners, asks for them, and stays subscribed until the
//! answer has them all.
//!
//! ```sh
//! tidemark node --single
//! cargo run -p tidemark-client --example page_views -- http://127.0.0.1:7100 http://127.0.0.1:8100
//! ```
//!
//! A third argument is a folder for what cannot be brought: started again with it, the program first sends what an earlier run
//! left there.

use std::error::Error;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tidemark_client::{Event, Producer, ProducerConfig, QueryClient, SpoolConfig, Subscription};
use tidemark_proto::v1;
use tidemark_proto::v1::value::Kind;
use tidemark_rollup::block::ProducerId;
use tidemark_rollup::time::EventTime;

const SITE: &str = "example.com";
const VIEWS: u64 = 1_000;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (node, coordinator, spool) =
        match &arguments[..] {
            [node, coordinator] => (node, coordinator, None),
            [node, coordinator, folder] => (node, coordinator, Some(SpoolConfig::new(folder))),
            _ => return Err(
                "give a node, a coordinator, and a folder for what cannot be brought, if there is to be one"
                    .into(),
            ),
        };
    send(node, spool).await?;
    ask(coordinator).await?;
    watch(coordinator).await
}

/// Sends the views as one batch. The producer makes blocks of it and brings each to its owners, again and again if need be.
async fn send(node: &str, spool: Option<SpoolConfig>) -> Result<(), Box<dyn Error>> {
    let mut config = ProducerConfig::new(node);
    config.spool = spool;
    // Blocks are told apart by it: it is new with each producer, or that of the folder.
    let mut id = [0; 16];
    getrandom::fill(&mut id)?;
    let mut producer = Producer::connect(config, ProducerId::from_u128(u128::from_le_bytes(id))).await?;
    if producer.found().events > 0 {
        println!("{} events of an earlier run are sent, too", producer.found().events);
    }

    let views = (0..VIEWS).map(|number| v1::Event {
        site: SITE.into(),
        url: format!("/articles/{}", number % 3).into(),
        visitor: format!("visitor {}", number % 50).into(),
        ..v1::Event::default()
    });
    let ticket = producer.send_within(views.collect(), now()?, Duration::from_secs(10)).await?;
    let outcome = ticket.await;
    println!(
        "{} of {} events are counted, {} rejected",
        outcome.accepted,
        outcome.events,
        outcome.rejected_events()
    );
    for undelivered in &outcome.undelivered {
        println!("{} events are not: {}", undelivered.events, undelivered.why);
    }
    // What is in memory when a producer is dropped is lost; this waits for it, and keeps the rest in the folder.
    producer.close(Duration::from_secs(10)).await;
    Ok(())
}

async fn ask(coordinator: &str) -> Result<(), Box<dyn Error>> {
    let answer = QueryClient::connect(coordinator).await?.query(question()).await?;
    show(&answer);
    Ok(())
}

/// Shows each new answer until all views of one run are in it.
async fn watch(coordinator: &str) -> Result<(), Box<dyn Error>> {
    let at = vec![coordinator.to_owned()];
    let mut subscription = Subscription::new(at, vec![question()], Duration::from_secs(1), 7)?;
    loop {
        match subscription.next().await? {
            Event::Connected { at } => println!("subscribed at {at}"),
            Event::Lost { at, because, retry_in } => {
                println!("{at} is lost ({because}), again in {retry_in:?}")
            }
            Event::Answer { question, .. } => {
                let Some(answer) = subscription.answer(question) else { continue };
                show(answer);
                let views: u64 = answer.rows.iter().filter_map(|row| integer(row.values.get(1)?)).sum();
                if views >= VIEWS {
                    return Ok(());
                }
            }
        }
    }
}

/// Views and visitors by URL, of the last hour.
fn question() -> v1::Query {
    v1::Query {
        site: SITE.to_owned(),
        group_by: vec!["url".to_owned()],
        measures: vec!["views".to_owned(), "visitors".to_owned()],
        ..v1::Query::default()
    }
}

fn show(answer: &v1::Answer) {
    for row in &answer.rows {
        let texts: Vec<String> = row.values.iter().map(text).collect();
        println!("{}", texts.join("  "));
    }
    let facts = answer.facts.clone().unwrap_or_default();
    match facts.complete {
        true => println!("complete"),
        false => println!("PARTIAL: {} of {} shards answered", facts.shards_answered, facts.shards_asked),
    }
}

fn text(value: &v1::Value) -> String {
    match &value.kind {
        Some(Kind::Text(text)) => text.clone(),
        Some(Kind::Integer(integer)) => integer.to_string(),
        Some(Kind::Number(number)) => number.to_string(),
        None => "-".to_owned(),
    }
}

fn integer(value: &v1::Value) -> Option<u64> {
    match value.kind {
        Some(Kind::Integer(integer)) => Some(integer),
        _ => None,
    }
}

#[allow(clippy::disallowed_methods, reason = "a program of its own asks the system for the time")]
fn now() -> Result<EventTime, Box<dyn Error>> {
    Ok(EventTime::from_unix_ms(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis().try_into()?))
}
