//! Events in.
//!
//! Owns: a producer of blocks and a sender of rows, which go on until they are told to stop and then bring what is left.
//! Does not own: which events, and what became of them (`ledger`).

use super::ask::link;
use super::ledger::{Batch, SharedLedger};
use super::members::{NODE_PORT, Setup};
use crate::context::HostContext;
use futures::stream;
use std::sync::Arc;
use std::time::Duration;
use tidemark_client::{Parts, Producer, ProducerConfig};
use tidemark_proto::v1;
use tidemark_proto::v1::ingest_client::IngestClient;
use tidemark_rollup::block::ProducerId;
use tokio::task::JoinSet;
use tokio::time::{interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

/// How often a batch of blocks is made, and how many events it has.
const BLOCKS_EVERY: Duration = Duration::from_millis(200);
const EVENTS: u64 = 5;
/// The same of rows.
const ROWS_EVERY: Duration = Duration::from_millis(500);
const ROWS: u64 = 4;
/// After so many batches a producer ends and another one begins.
const RENEW_AFTER: u64 = 60;
/// How long an acknowledgement may take.
const TIMEOUT: Duration = Duration::from_secs(4);
/// Longer than any simulation.
const FOR_EVER: Duration = Duration::from_secs(3600);
/// Waits between tries.
const PAUSE: Duration = Duration::from_millis(150);

/// Sends blocks by the Rust client.
pub(crate) async fn produce(
    context: HostContext,
    setup: Arc<Setup>,
    ledger: SharedLedger,
    stop: CancellationToken,
) {
    let mut lives = 0_u64;
    let mut producer = connect(&context, &setup, lives).await;
    let (mut ticks, mut batches) = (interval(BLOCKS_EVERY), 0_u64);
    let (mut bringing, mut ending) = (JoinSet::new(), JoinSet::new());
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            _ = ticks.tick() => {}
        }
        let now = context.clock().now();
        let (events, batch) = ledger.lock().make(EVENTS, now);
        match producer.try_send(events, now) {
            Ok(ticket) => {
                let (context, ledger) = (context.clone(), ledger.clone());
                bringing.spawn(async move {
                    let outcome = ticket.await;
                    match outcome.is_delivered() && outcome.accepted == batch.len() as u64 {
                        true => ledger.lock().acknowledge(&batch),
                        false => context.note(format_args!("could not bring {outcome:?}")),
                    }
                });
            }
            Err(error) => {
                context.note(format_args!("cannot send: {error}"));
                ledger.lock().take_back(&batch);
            }
        }
        if let Err(error) = producer.settle_ready().await {
            context.note(format_args!("lost something: {error}"));
        }
        batches += 1;
        if batches == RENEW_AFTER {
            (batches, lives) = (0, lives + 1);
            let before = std::mem::replace(&mut producer, connect(&context, &setup, lives).await);
            ending.spawn(before.finish());
        }
    }
    ending.spawn(producer.finish());
    while let Some(ended) = ending.join_next().await {
        context.note(format_args!("a producer ends: {ended:?}"));
    }
    while bringing.join_next().await.is_some() {}
    finished(&context, &ledger).await
}

async fn finished(context: &HostContext, ledger: &SharedLedger) {
    context.note(format_args!("has brought everything"));
    ledger.lock().finished += 1;
    std::future::pending().await
}

async fn connect(context: &HostContext, setup: &Setup, life: u64) -> Producer {
    let mut addresses = setup.nodes.iter().map(|node| format!("http://{node}:{NODE_PORT}"));
    let config = ProducerConfig {
        more_addresses: addresses.by_ref().skip(1).collect(),
        timeout: TIMEOUT,
        retry_for: FOR_EVER,
        ..ProducerConfig::new(format!("http://{}:{NODE_PORT}", setup.nodes[0]))
    };
    let life = if setup.defect.reuses_numbers { 0 } else { life };
    let id = ProducerId::from_u128(u128::from(context.seed()) << 64 | u128::from(life));
    loop {
        let parts = Parts { connect: context.connect(), seed: context.seed() ^ life };
        match Producer::connect_with(config.clone(), id, parts).await {
            Ok(producer) => return producer,
            Err(error) => context.note(format_args!("finds no node: {error}")),
        }
        sleep(PAUSE).await;
    }
}

/// Sends rows as a plain client does: to any node, and to another one where that fails.
pub(crate) async fn send_rows(
    context: HostContext,
    setup: Arc<Setup>,
    ledger: SharedLedger,
    stop: CancellationToken,
) {
    let producer = ProducerId::from_u128(u128::from(context.seed())).to_wire();
    let (mut ticks, mut sending) = (interval(ROWS_EVERY), JoinSet::new());
    for seq in 0_u64.. {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            _ = ticks.tick() => {}
        }
        let now = context.clock().now();
        let (events, batch) = ledger.lock().make(ROWS, now);
        let rows = v1::EventBatch { producer: producer.clone(), seq, sealed_at_ms: now.as_unix_ms(), events };
        sending.spawn(bring(context.clone(), Arc::clone(&setup), ledger.clone(), rows, batch));
    }
    while sending.join_next().await.is_some() {}
    finished(&context, &ledger).await
}

async fn bring(
    context: HostContext,
    setup: Arc<Setup>,
    ledger: SharedLedger,
    rows: v1::EventBatch,
    batch: Batch,
) {
    for turn in rows.seq as usize.. {
        let node = &setup.nodes[turn % setup.nodes.len()];
        match timeout(TIMEOUT, send(&context, node, rows.clone())).await {
            Ok(Ok(ack)) if ack.refused.is_none() => {
                let events = u64::from(ack.accepted) + ack.rejected.len() as u64;
                if events != batch.len() as u64 || !ack.rejected.is_empty() {
                    ledger.lock().violated(format!("a batch of {} rows got {ack:?}", batch.len()));
                }
                return ledger.lock().acknowledge(&batch);
            }
            Ok(Ok(ack)) => {
                if let Some(refused) = ack.refused.filter(|refused| refused.retry_after_ms == 0) {
                    return ledger.lock().violated(format!("rows were refused for good: {refused:?}"));
                }
            }
            Ok(Err(_)) | Err(_) => {}
        }
        sleep(PAUSE).await;
    }
}

async fn send(
    context: &HostContext,
    node: &str,
    rows: v1::EventBatch,
) -> Result<v1::BatchAck, tonic::Status> {
    let mut client = IngestClient::new(link(context, node, NODE_PORT));
    let mut acks = client.send_rows(stream::iter([rows])).await?.into_inner();
    acks.message().await?.ok_or_else(|| tonic::Status::unavailable("no acknowledgement"))
}
