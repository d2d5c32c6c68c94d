//! Worlds: time, pauses, clocks, the store, and that all of it repeats.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use common::*;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tidemark_history::faults::Faults;
use tidemark_history::store::Created;
use tidemark_proto::v1::MembersRequest;
use tidemark_simulation::{HostContext, HostId, Quality, World, repeatable};
use tokio::time::{Instant, interval, sleep};

const LIMIT: Duration = Duration::from_secs(60);

/// Hosts that serve, call one another by turns, and send datagrams.
fn chatty(seed: u64, hosts: usize, every: Duration) -> World {
    let mut world = World::new(seed);
    world.set_quality(Quality { loss: 0.05, duplicates: 0.02, stragglers: 0.05, ..Quality::default() });
    for number in 0..hosts {
        let host = world.add_host(&format!("h{number}"));
        world.start(host, chat(hosts, every));
    }
    world
}

fn chat(
    hosts: usize,
    every: Duration,
) -> impl FnOnce(HostContext) -> futures::future::BoxFuture<'static, ()> {
    move |context| {
        Box::pin(async move {
            tokio::spawn(serve(Counts::default())(context.clone()));
            let socket = context.datagrams(PORT).unwrap();
            let links: Vec<_> =
                (1..=hosts).map(|number| link(&context, &format!("10.0.0.{number}"))).collect();
            let mut ticks = interval(every);
            for turn in 0_u64.. {
                tokio::select! {
                    biased;
                    _ = ticks.tick() => {}
                    Ok((bytes, _)) = socket.receive() => context.note(format_args!("got {bytes:?}")),
                }
                let peer = (context.seed().wrapping_add(turn) % hosts as u64) as usize;
                let address = format!("10.0.0.{}:{PORT}", peer + 1).parse().unwrap();
                if turn % 2 == 0 {
                    socket.send(&turn.to_le_bytes(), address).unwrap();
                } else {
                    let mut request = tonic::Request::new(MembersRequest::default());
                    request.set_timeout(Duration::from_secs(1));
                    let reply = admin(&links[peer]).members(request).await;
                    context.note(format_args!("{:?}", reply.map(|reply| reply.into_inner().missing)));
                }
            }
        })
    }
}

/// A short life with all sorts of events.
fn life(seed: u64) -> (u64, Vec<String>) {
    repeatable(seed, || {
        let every = Duration::from_millis(150);
        let mut world = chatty(seed, 5, every);
        let hosts: Vec<HostId> = world.hosts().collect();
        for _ in 0..20 {
            let (one, other) = (hosts[world.draw() as usize % 5], hosts[world.draw() as usize % 5]);
            match world.draw() % 6 {
                0 => world.cut(&[one], &[other]),
                1 => world.heal(),
                2 => world.pause(one, Duration::from_millis(1700)),
                3 => world.slow(one, Duration::from_millis(50)),
                4 if world.is_running(one) => world.crash(one),
                _ if !world.is_running(one) => world.restart(one, chat(5, every)),
                _ => world.skew(one, 77),
            }
            world.run_for(Duration::from_millis(800));
        }
        (world.hash(), world.trace())
    })
}

#[test]
fn the_same_seed_gives_the_same_life_and_another_one_another() {
    let lives = (1..6).map(|seed| {
        let (hash, trace) = life(seed);
        assert!(trace.len() > 300, "{}", trace.len());
        let (again, trace_again) = life(seed);
        let differs = trace.iter().zip(&trace_again).find(|(one, other)| one != other);
        assert_eq!(differs, None, "seed {seed}");
        assert_eq!(hash, again, "seed {seed}");
        hash
    });
    let different: BTreeSet<u64> = lives.collect();
    assert_eq!(different.len(), 5);
}

#[test]
fn two_minutes_of_eight_hosts_that_do_nothing_take_no_time_either() {
    let began = std::time::Instant::now();
    let mut world = World::new(1);
    for number in 0..8 {
        let host = world.add_host(&format!("h{number}"));
        world.start(host, idle);
    }
    world.run_for(Duration::from_secs(120));
    eprintln!("120 s of 8 idle hosts took {:?}", began.elapsed());
}

#[test]
fn two_minutes_of_eight_hosts_take_no_time() {
    let began = std::time::Instant::now();
    let mut world = chatty(1, 8, Duration::from_millis(500));
    world.run_for(Duration::from_secs(120));
    let took = began.elapsed();
    eprintln!("120 s of 8 hosts took {took:?}; {} lines", world.trace().len());
    assert!(took < Duration::from_secs(20), "{took:?}");
}

#[test]
fn timers_fire_in_order_and_at_their_time() {
    let mut world = World::new(1);
    let host = world.add_host("host");
    world.start(host, idle);
    let fired = world.call(host, LIMIT, |_| async {
        let fired = Mutex::new(Vec::new());
        let began = Instant::now();
        let timer = |ms| {
            let fired = &fired;
            async move {
                sleep(Duration::from_millis(ms)).await;
                fired.lock().unwrap().push((ms, began.elapsed().as_millis()));
            }
        };
        futures::future::join_all([37, 3, 1200, 4, 11].map(timer)).await;
        fired.into_inner().unwrap()
    });
    assert_eq!(fired.unwrap(), [(3, 3), (4, 4), (11, 11), (37, 37), (1200, 1200)]);
}

#[test]
fn a_paused_hosts_timers_fire_when_it_goes_on_and_its_clock_has_jumped() {
    let mut world = World::new(1);
    let (host, seen) = (world.add_host("host"), Arc::new(Mutex::new(Vec::new())));
    let noted = Arc::clone(&seen);
    world.start(host, |context| async move {
        let (clock, began) = (context.clock(), context.clock().now().as_unix_ms());
        loop {
            sleep(Duration::from_millis(500)).await;
            noted.lock().unwrap().push(clock.now().as_unix_ms() - began);
        }
    });
    world.run_for(Duration::from_millis(700));
    world.pause(host, Duration::from_secs(2));
    world.run_for(Duration::from_millis(1900));
    assert_eq!(*seen.lock().unwrap(), [500]);
    world.run_for(Duration::from_millis(700));
    assert_eq!(*seen.lock().unwrap(), [500, 2700, 3200]);
}

#[test]
fn a_slow_host_acts_at_times_only() {
    let mut world = World::new(1);
    let (host, seen) = (world.add_host("host"), Arc::new(Mutex::new(Vec::new())));
    world.slow(host, Duration::from_millis(200));
    let noted = Arc::clone(&seen);
    world.start(host, |context| async move {
        let (clock, began) = (context.clock(), context.clock().now().as_unix_ms());
        loop {
            sleep(Duration::from_millis(50)).await;
            noted.lock().unwrap().push(clock.now().as_unix_ms() - began);
        }
    });
    world.run_for(Duration::from_secs(2));
    let seen = seen.lock().unwrap();
    assert!((8..22).contains(&seen.len()), "{seen:?}");
}

#[test]
fn a_clock_may_be_wrong_and_put_right() {
    let mut world = World::new(1);
    let host = world.add_host("host");
    world.start(host, idle);
    let ahead = |world: &mut World| {
        let truth = world.now().as_unix_ms();
        let shown = world.call(host, LIMIT, |context| async move { context.clock().now().as_unix_ms() });
        shown.unwrap() - truth
    };
    assert_eq!(ahead(&mut world), 0);
    world.skew(host, -3500);
    assert_eq!(ahead(&mut world), -3500);
    world.skew(host, 0);
    assert_eq!(ahead(&mut world), 0);
}

#[test]
fn hosts_share_a_store_that_one_of_them_may_be_cut_off_from() {
    let mut world = World::new(1);
    let hosts = [world.add_host("a"), world.add_host("b")];
    hosts.iter().for_each(|&host| world.start(host, idle));
    // Objects that differ: to find one's own again is to have written it.
    let write = |path: &'static str| {
        move |context: HostContext| async move {
            matches!(context.store().create(path, context.name().to_owned().into()).await, Ok(Created::Yes))
        }
    };
    assert!(world.call(hosts[0], LIMIT, write("x")).unwrap());
    assert!(!world.call(hosts[1], LIMIT, write("x")).unwrap(), "it exists");
    world.set_store(hosts[1], Faults { away: true, ..Faults::default() });
    assert!(!world.call(hosts[1], LIMIT, write("y")).unwrap());
    assert!(world.call(hosts[0], LIMIT, write("y")).unwrap());
}

#[test]
fn a_process_whose_main_task_ends_is_gone_with_all_its_tasks() {
    let mut world = World::new(1);
    let host = world.add_host("host");
    let alive = Arc::new(());
    let held = Arc::clone(&alive);
    world.start(host, |context| async move {
        tokio::spawn(async move {
            let _held = held;
            idle(context).await;
        });
        sleep(Duration::from_secs(1)).await;
    });
    assert!(world.run_until(LIMIT, |world| !world.is_running(host)));
    assert_eq!(world.elapsed(), Duration::from_secs(1) + Duration::from_millis(10));
    assert_eq!(Arc::strong_count(&alive), 1);
}

#[test]
#[should_panic = "as planned"]
fn a_panic_of_a_main_task_ends_the_world() {
    let mut world = World::new(1);
    let host = world.add_host("host");
    world.start(host, |_| async { panic!("as planned") });
    world.run_for(Duration::from_secs(1));
}

#[test]
fn a_call_that_takes_too_long_is_given_up() {
    let mut world = World::new(1);
    let host = world.add_host("host");
    world.start(host, idle);
    assert_eq!(world.call(host, Duration::from_secs(1), idle), None);
    assert_eq!(world.elapsed(), Duration::from_secs(1));
}
