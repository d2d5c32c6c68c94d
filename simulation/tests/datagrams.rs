//! Datagrams between hosts.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use common::idle;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tidemark_simulation::{HostContext, HostId, Quality, World};

type Received = Arc<Mutex<Vec<u32>>>;
const COUNT: u32 = 2000;

/// A host that notes numbers, and one that sends them, 100 a second.
fn two(seed: u64, quality: Quality) -> (World, HostId, HostId, Received) {
    let (mut world, received) = (World::new(seed), Received::default());
    let (to, from) = (world.add_host("to"), world.add_host("from"));
    world.set_link(to, from, quality);
    let noted = Arc::clone(&received);
    world.start(to, |context| async move {
        let socket = context.datagrams(9).unwrap();
        assert!(context.datagrams(9).is_err(), "the port is in use");
        loop {
            let (bytes, from) = socket.receive().await.unwrap();
            assert_eq!(from.to_string(), "10.0.0.2:8");
            noted.lock().unwrap().push(u32::from_le_bytes(bytes.as_ref().try_into().unwrap()));
        }
    });
    world.start(from, |context: HostContext| async move {
        let socket = context.datagrams(8).unwrap();
        for number in 0..COUNT {
            socket.send(&number.to_le_bytes(), "10.0.0.1:9".parse().unwrap()).unwrap();
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        idle(context).await;
    });
    (world, to, from, received)
}

fn received(seed: u64, quality: Quality) -> Vec<u32> {
    let (mut world, _, _, received) = two(seed, quality);
    world.run_for(Duration::from_secs(25));
    received.lock().unwrap().clone()
}

fn share(count: usize) -> f64 {
    count as f64 / f64::from(COUNT)
}

#[test]
fn on_a_good_network_all_arrive_once_and_in_order() {
    assert_eq!(received(1, Quality::default()), (0..COUNT).collect::<Vec<_>>());
}

#[test]
fn losses_repetitions_and_stragglers_come_as_often_as_was_said() {
    let lossy = received(2, Quality { loss: 0.2, ..Quality::default() });
    assert!((0.76..0.84).contains(&share(lossy.len())), "{}", lossy.len());

    let twice = received(3, Quality { duplicates: 0.1, ..Quality::default() });
    assert!((1.08..1.12).contains(&share(twice.len())), "{}", twice.len());

    let latency = Duration::from_millis(1)..Duration::from_millis(30);
    let late = received(4, Quality { stragglers: 0.1, latency, ..Quality::default() });
    let overtaken = late.windows(2).filter(|pair| pair[0] > pair[1]).count();
    assert!((0.05..0.6).contains(&share(overtaken)), "{overtaken}");
    assert_eq!(late.len(), COUNT as usize);
}

#[test]
fn while_a_way_is_cut_they_are_lost_and_the_other_way_is_not() {
    for (one_way, expected) in [(false, 1900), (true, 2000)] {
        let (mut world, to, from, received) = two(5, Quality::default());
        world.run_for(Duration::from_secs(1));
        match one_way {
            false => world.cut(&[from], &[to]),
            true => world.cut_one_way(&[to], &[from]),
        }
        world.run_for(Duration::from_secs(1));
        world.heal();
        world.run_for(Duration::from_secs(20));
        assert_eq!(received.lock().unwrap().len(), expected);
    }
}

#[test]
fn who_does_not_read_has_room_for_some() {
    let (mut world, to, _, received) = two(6, Quality::default());
    world.run_for(Duration::from_millis(50));
    world.pause(to, Duration::from_secs(10));
    world.run_for(Duration::from_secs(25));
    let received = received.lock().unwrap();
    assert!((1250..1265).contains(&received.len()), "{}", received.len());
}
