//! Calls between hosts: what gets through, what breaks, and when.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use common::*;
use futures::stream;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tidemark_proto::v1::*;
use tidemark_shell::link::Link;
use tidemark_simulation::{HostContext, HostId, Quality, World, WorldConfig};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Code, Status};

const SERVER: &str = "10.0.0.1";
const LIMIT: Duration = Duration::from_secs(60);

/// A server and a client.
fn two(seed: u64) -> (World, HostId, HostId, Counts) {
    two_with(WorldConfig::new(seed))
}

fn two_with(config: WorldConfig) -> (World, HostId, HostId, Counts) {
    let (mut world, counts) = (World::with(config), Counts::default());
    let (server, client) = (world.add_host("server"), world.add_host("client"));
    world.start(server, serve(counts.clone()));
    world.start(client, idle);
    (world, server, client, counts)
}

/// A call, and how long it took.
async fn ask(link: Link) -> (Result<MembersReply, Status>, Duration) {
    let began = Instant::now();
    let reply = admin(&link).members(MembersRequest::default()).await;
    (reply.map(tonic::Response::into_inner), began.elapsed())
}

fn asked(world: &mut World, client: HostId) -> (Result<MembersReply, Status>, Duration) {
    world.call(client, LIMIT, |context| ask(link(&context, SERVER))).unwrap()
}

#[test]
fn a_call_is_answered_after_two_ways_there_and_back() {
    let latency = Duration::from_millis(30)..Duration::from_millis(30);
    let quality = Quality { latency, ..Quality::default() };
    let (mut world, _, client, _) = two_with(WorldConfig { quality, ..WorldConfig::new(1) });
    let (reply, took) = asked(&mut world, client);
    assert_eq!(reply.unwrap().missing, ["server"]);
    let ms = took.as_millis();
    assert!((120..200).contains(&ms), "{ms}");
}

#[test]
fn an_error_of_the_service_arrives_as_it_is() {
    let (mut world, _, client, _) = two(1);
    let call = |context: HostContext| async move {
        admin(&link(&context, SERVER)).receipts(ReceiptsRequest::default()).await.unwrap_err()
    };
    let status = world.call(client, LIMIT, call).unwrap();
    assert_eq!((status.code(), status.message()), (Code::FailedPrecondition, "a toy has none"));
}

#[test]
fn a_handler_that_panics_resets_its_call_alone() {
    let (mut world, _, client, _) = two(1);
    let call = |context: HostContext| async move {
        let link = link(&context, SERVER);
        let status = admin(&link).drain(DrainRequest::default()).await.unwrap_err();
        (status.code(), ask(link).await.0.is_ok())
    };
    assert_eq!(world.call(client, LIMIT, call).unwrap(), (Code::Unknown, true));
}

#[test]
fn many_messages_go_both_ways_in_order() {
    let (mut world, _, client, counts) = two(2);
    let echo = |context: HostContext| async move {
        let batches = stream::iter((0..1000).map(batch));
        let mut acks = ingest(&link(&context, SERVER)).send_rows(batches).await.unwrap().into_inner();
        let mut seqs = Vec::new();
        while let Some(ack) = acks.message().await.unwrap() {
            seqs.push(ack.seq);
        }
        seqs
    };
    let seqs = world.call(client, LIMIT, echo).unwrap();
    assert_eq!(seqs, (0..1000).collect::<Vec<u64>>());
    assert_eq!(counts.broken.load(Ordering::Relaxed), 0);
}

/// Counts what a watch brings within the time, and says how it ended.
async fn watched(link: Link, time: Duration) -> (u32, Option<Status>) {
    let mut stream = admin(&link).watch_placement(PlacementRequest {}).await.unwrap().into_inner();
    let mut count = 0;
    let reading = async {
        loop {
            match stream.message().await {
                Ok(Some(_)) => count += 1,
                Ok(None) => return None,
                Err(status) => return Some(status),
            }
        }
    };
    let ended = tokio::time::timeout(time, reading).await.ok().flatten();
    (count, ended)
}

#[test]
fn a_server_streams_for_as_long_as_somebody_reads() {
    let (mut world, _, client, _) = two(3);
    let watch = |context: HostContext| watched(link(&context, SERVER), Duration::from_secs(10));
    let (count, ended) = world.call(client, LIMIT, watch).unwrap();
    assert!((95..=100).contains(&count), "{count}");
    assert!(ended.is_none());
}

/// A stream of batches that stays open; whoever holds the sender can send.
async fn open_echo(link: Link) -> (mpsc::UnboundedSender<EventBatch>, tonic::Streaming<BatchAck>) {
    let (sender, batches) = mpsc::unbounded_channel();
    sender.send(batch(1)).unwrap();
    let batches = UnboundedReceiverStream::new(batches);
    let mut acks = ingest(&link).send_rows(batches).await.unwrap().into_inner();
    acks.message().await.unwrap().unwrap();
    (sender, acks)
}

/// Opens a stream, and after what the driver does says with what it ended.
fn break_stream(world: &mut World, client: HostId, break_it: impl FnOnce(&mut World)) -> (Status, Duration) {
    let open = |context: HostContext| open_echo(link(&context, SERVER));
    let (sender, mut acks) = world.call(client, LIMIT, open).unwrap();
    break_it(world);
    let broken = world.call(client, LIMIT, move |_| async move {
        let began = Instant::now();
        let status = acks.message().await.unwrap_err();
        drop(sender);
        (status, began.elapsed())
    });
    broken.unwrap()
}

#[test]
fn a_cut_breaks_streams_on_both_ends_after_four_seconds_and_new_calls_pass_once_it_heals() {
    for one_way in [false, true] {
        let (mut world, server, client, counts) = two(4);
        let (status, took) = break_stream(&mut world, client, |world| match one_way {
            false => world.cut(&[server], &[client]),
            true => world.cut_one_way(&[server], &[client]),
        });
        assert_eq!(status.code(), Code::Unavailable, "{status}");
        assert!((3900..4300).contains(&took.as_millis()), "{took:?}");
        world.run_for(Duration::from_millis(20));
        assert_eq!((counts.begun.load(Ordering::Relaxed), counts.over.load(Ordering::Relaxed)), (1, 1));

        let (refused, took) = asked(&mut world, client);
        assert_eq!((refused.unwrap_err().code(), took.as_millis()), (Code::Unavailable, 1000));
        world.heal();
        assert!(asked(&mut world, client).0.is_ok());
    }
}

#[test]
fn a_short_cut_only_delays_and_nothing_is_lost_or_overtakes() {
    let (mut world, server, client, _) = two(5);
    let open = |context: HostContext| open_echo(link(&context, SERVER));
    let (sender, mut acks) = world.call(client, LIMIT, open).unwrap();
    (2..100).for_each(|seq| sender.send(batch(seq)).unwrap());
    world.run_for(Duration::from_millis(10));
    world.cut(&[server], &[client]);
    (100..200).for_each(|seq| sender.send(batch(seq)).unwrap());
    world.run_for(Duration::from_secs(3));
    (200..300).for_each(|seq| sender.send(batch(seq)).unwrap());
    world.heal();
    (300..400).for_each(|seq| sender.send(batch(seq)).unwrap());
    drop(sender);
    let read = world.call(client, LIMIT, move |_| async move {
        let mut seqs = Vec::new();
        while let Some(ack) = acks.message().await.unwrap() {
            seqs.push(ack.seq);
        }
        seqs
    });
    assert_eq!(read.unwrap(), (2..400).collect::<Vec<u64>>());
}

#[test]
fn a_killed_server_resets_its_calls_and_refuses_others_until_it_is_started_again() {
    let (mut world, server, client, counts) = two(6);
    let (status, took) = break_stream(&mut world, client, |world| world.kill(server));
    assert_eq!(status.code(), Code::Unavailable);
    assert!(took < Duration::from_millis(50), "{took:?}");
    let (refused, took) = asked(&mut world, client);
    assert!(refused.unwrap_err().message().contains("refused"));
    assert!(took < Duration::from_millis(50), "{took:?}");
    world.restart(server, serve(counts));
    assert!(asked(&mut world, client).0.is_ok());
}

#[test]
fn a_server_without_power_is_found_out_by_keep_alive_and_does_not_answer() {
    let (mut world, server, client, counts) = two(7);
    let (status, took) = break_stream(&mut world, client, |world| world.lose_power(server));
    assert_eq!(status.code(), Code::Unavailable);
    assert!((3900..4300).contains(&took.as_millis()), "{took:?}");
    let (unanswered, took) = asked(&mut world, client);
    assert!(unanswered.unwrap_err().message().contains("timed out"));
    assert_eq!(took.as_millis(), 1000);
    world.restart(server, serve(counts));
    assert!(asked(&mut world, client).0.is_ok());
}

#[test]
fn a_server_that_starts_again_knows_no_connection_of_before() {
    let (mut world, server, client, counts) = two(8);
    let (_, took) = break_stream(&mut world, client, |world| {
        world.lose_power(server);
        world.restart(server, serve(counts));
    });
    assert!(took < Duration::from_millis(300), "{took:?}");
}

#[test]
fn a_connection_whose_opening_nobody_waited_for_is_opened_anew_by_the_next_call() {
    let (mut world, server, client, _) = two(10);
    world.cut(&[server], &[client]);
    let give_up = |context: HostContext| async move {
        let link = link(&context, SERVER);
        let asked = tokio::time::timeout(Duration::from_millis(500), ask(link.clone())).await;
        assert!(asked.is_err(), "there was no way, and less time than a connection may take");
        link
    };
    let link = world.call(client, LIMIT, give_up).unwrap();
    world.heal();
    let (reply, took) = world.call(client, LIMIT, |_| ask(link)).unwrap();
    assert!(reply.is_ok() && took < Duration::from_secs(1), "{took:?}: {reply:?}");
}

#[test]
fn a_killed_client_breaks_its_calls_at_the_server() {
    let (mut world, _, client, counts) = two(9);
    let open = |context: HostContext| open_echo(link(&context, SERVER));
    let open = world.call(client, LIMIT, open).unwrap();
    world.kill(client);
    world.run_for(Duration::from_millis(50));
    assert_eq!((counts.begun.load(Ordering::Relaxed), counts.over.load(Ordering::Relaxed)), (1, 1));
    drop(open);
}

#[test]
fn a_client_without_power_is_found_out_by_keep_alive() {
    let (mut world, _, client, counts) = two(9);
    let open = |context: HostContext| open_echo(link(&context, SERVER));
    let open = world.call(client, LIMIT, open).unwrap();
    world.lose_power(client);
    world.run_for(Duration::from_millis(3800));
    assert_eq!(counts.over.load(Ordering::Relaxed), 0);
    world.run_for(Duration::from_millis(400));
    assert_eq!(counts.over.load(Ordering::Relaxed), 1);
    drop(open);
}

#[test]
fn what_a_process_sent_before_it_ended_arrives() {
    for seed in 0..20 {
        let (mut world, server, client, _) = two(seed);
        let last = |context: HostContext| async move {
            let link = link(&context, "10.0.0.2");
            admin(&link).members(MembersRequest::default()).await.is_ok()
        };
        let counts = Counts::default();
        world.kill(client);
        // It answers one call and is gone.
        world.start(client, |context| async move {
            let clock = context.clock();
            tokio::spawn(serve(counts.clone())(context));
            let asked = clock.now();
            while counts.begun.load(Ordering::Relaxed) == 0 && clock.now() < asked.plus(LIMIT) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
        world.run_for(Duration::from_millis(20));
        assert_eq!(world.call(server, LIMIT, last), Some(true), "seed {seed}");
    }
}

#[test]
fn a_pause_shorter_than_keep_alive_only_delays() {
    let (mut world, server, client, _) = two(10);
    world.run_for(Duration::from_millis(50));
    world.pause(server, Duration::from_secs(3));
    let (reply, took) = asked(&mut world, client);
    assert!(reply.is_ok());
    assert!((2990..3200).contains(&took.as_millis()), "{took:?}");
}

#[test]
fn a_longer_pause_breaks_the_stream_on_both_ends() {
    let (mut world, server, client, counts) = two(11);
    let (status, took) =
        break_stream(&mut world, client, |world| world.pause(server, Duration::from_secs(6)));
    assert_eq!(status.code(), Code::Unavailable);
    assert!((3900..4300).contains(&took.as_millis()), "{took:?}");
    assert_eq!(counts.over.load(Ordering::Relaxed), 0);
    world.run_for(Duration::from_secs(3));
    assert_eq!(counts.over.load(Ordering::Relaxed), 1);
}

#[test]
fn a_deadline_ends_the_call_and_the_handler() {
    let (mut world, _, client, counts) = two(12);
    let call = |context: HostContext| async move {
        let mut request = tonic::Request::new(PlacementRequest {});
        request.set_timeout(Duration::from_millis(500));
        let began = Instant::now();
        let status = admin(&link(&context, SERVER)).placement(request).await.unwrap_err();
        (status.code(), began.elapsed().as_millis())
    };
    // As over TCP: the code is not `DeadlineExceeded`.
    assert_eq!(world.call(client, LIMIT, call).unwrap(), (Code::Cancelled, 500));
    world.run_for(Duration::from_millis(30));
    assert_eq!((counts.begun.load(Ordering::Relaxed), counts.over.load(Ordering::Relaxed)), (1, 1));
}

#[test]
fn what_is_no_address_is_an_error() {
    let (mut world, _, client, _) = two(13);
    let connect = |context: HostContext| async move { context.connect().connect("nowhere").is_err() };
    assert!(world.call(client, LIMIT, connect).unwrap());
}
