//! Wires that lose and delay packets.
//!
//! Owns: what becomes of every packet between hosts whose network is laid over another one (VXLAN), and checksums that the
//! kernel left to a network card.
//! Does not own: hosts and their addresses below (`netns`).
//!
//! Where `tc netem` would do this, the kernel has to have it; this takes a UDP socket. Each host has a VXLAN device whose other
//! end is that socket, and so every packet goes through here.

use super::Net;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tidemark_history::retry::SplitMix64;
use tokio::net::UdpSocket;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Where all wires end: a host of the network below.
const VXLAN_PORT: u16 = 4789;
const VXLAN_HEADER: usize = 8;
const ETHERNET_HEADER: usize = 14;

/// What wires do to packets, in each direction.
#[derive(Clone, Copy, Debug)]
pub struct Badness {
    /// So many of a thousand packets are lost.
    pub lost_per_mille: u64,
    /// All others are late by this.
    pub delay: Duration,
}

/// What went over wires so far.
#[derive(Debug, Default)]
pub struct Traffic {
    carried: AtomicU64,
    lost: AtomicU64,
}

impl Traffic {
    /// Packets that arrived, and packets that were lost.
    pub fn counts(&self) -> (u64, u64) {
        (self.carried.load(Ordering::Relaxed), self.lost.load(Ordering::Relaxed))
    }
}

/// Bad wires between hosts of a network; good as new, that is without any, when dropped.
#[derive(Debug)]
pub struct Wires {
    /// What went over them.
    pub traffic: Arc<Traffic>,
    ended: oneshot::Receiver<()>,
    _stop: DropGuard,
}

impl Wires {
    /// Lays wires between the first `hosts` hosts of a network, all of them meeting at the one that follows.
    pub fn lay(net: &Net, hosts: usize, badness: Badness, seed: u64) -> Self {
        let middle = Net::plain_ip(hosts);
        for at in 0..hosts {
            let host = net.host(at);
            let mac = format!("02:54:44:00:00:{at:02x}");
            host.ip(&format!(
                "link add name wire0 address {mac} type vxlan id 77 remote {middle} dstport {VXLAN_PORT}"
            ));
            // One packet at a time; and room for the headers below.
            host.ip("link set dev wire0 gso_max_segs 1 mtu 1400");
            host.ip(&format!("addr add {}/24 dev wire0", Self::ip(at)));
            host.ip("link set wire0 up");
        }
        let (stop, traffic) = (CancellationToken::new(), Arc::default());
        let carried = carry(hosts, badness, SplitMix64::new(seed), Arc::clone(&traffic), stop.clone());
        let ended = net.host(hosts).run(carried);
        Self { traffic, ended, _stop: stop.drop_guard() }
    }

    /// A host's address at the end of its wire.
    pub fn ip(at: usize) -> String {
        format!("10.78.0.{}", at + 1)
    }

    /// Whether packets are carried still.
    pub fn are_up(&mut self) -> bool {
        matches!(self.ended.try_recv(), Err(oneshot::error::TryRecvError::Empty))
    }
}

async fn carry(
    hosts: usize,
    badness: Badness,
    mut random: SplitMix64,
    traffic: Arc<Traffic>,
    stop: CancellationToken,
) {
    let socket = UdpSocket::bind(("0.0.0.0", VXLAN_PORT)).await.unwrap();
    let ends: Vec<SocketAddr> =
        (0..hosts).map(|at| format!("{}:{VXLAN_PORT}", Net::plain_ip(at)).parse().unwrap()).collect();
    let mut on_its_way: VecDeque<(Instant, SocketAddr, Vec<u8>)> = VecDeque::new();
    let mut buffer = vec![0; 65_536];
    loop {
        let due = on_its_way.front().map(|(due, ..)| *due);
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                let (_, to, packet) = on_its_way.pop_front().expect("one is due");
                // A full buffer on the way loses packets, as everywhere.
                let _ = socket.try_send_to(&packet, to);
                traffic.carried.fetch_add(1, Ordering::Relaxed);
            }
            received = socket.recv_from(&mut buffer) => {
                // Whom nobody hears says so here.
                let Ok((length, from)) = received else { continue };
                let mut packet = buffer[..length].to_vec();
                fill_in_checksum(&mut packet);
                for &to in ends_of(&packet, &ends).iter().filter(|to| to.ip() != from.ip()) {
                    if random.next() % 1_000 < badness.lost_per_mille {
                        traffic.lost.fetch_add(1, Ordering::Relaxed);
                    } else {
                        on_its_way.push_back((Instant::now() + badness.delay, to, packet.clone()));
                    }
                }
            }
        }
    }
}

/// Where a packet goes: to the host that has this hardware address, or to all.
fn ends_of<'a>(packet: &[u8], ends: &'a [SocketAddr]) -> &'a [SocketAddr] {
    match packet.get(VXLAN_HEADER..VXLAN_HEADER + 6) {
        Some(&[0x02, 0x54, 0x44, 0, 0, at]) if usize::from(at) < ends.len() => {
            std::slice::from_ref(&ends[usize::from(at)])
        }
        Some(&[first, ..]) if first & 1 == 1 => ends,
        _ => &[],
    }
}

/// The checksum of TCP and UDP inside. The kernel leaves it to the card that sends the packet; there is none here.
fn fill_in_checksum(packet: &mut [u8]) {
    let frame = packet.get_mut(VXLAN_HEADER..).unwrap_or_default();
    let Some((ethernet, ip)) = frame.split_at_mut_checked(ETHERNET_HEADER) else { return };
    if ethernet[12..] != [0x08, 0x00] || ip.len() < 20 {
        return;
    }
    let header = usize::from(ip[0] & 0x0f) * 4;
    let total = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
    let is_fragment = u16::from_be_bytes([ip[6], ip[7]]) & 0x3fff != 0;
    let at = match ip[9] {
        6 => 16,
        17 => 6,
        _ => return,
    };
    if is_fragment || total > ip.len() || total < header + at + 2 {
        return;
    }
    let pseudo = sum(&ip[12..20]) + u32::from(ip[9]) + (total - header) as u32;
    let inner = &mut ip[header..total];
    inner[at..at + 2].fill(0);
    let mut all = pseudo + sum(inner);
    while all > 0xffff {
        all = (all & 0xffff) + (all >> 16);
    }
    let checksum = !(all as u16);
    // In UDP, 0 says that there is none.
    let checksum = if checksum == 0 { 0xffff } else { checksum };
    inner[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
}

fn sum(bytes: &[u8]) -> u32 {
    let words =
        bytes.chunks(2).map(|word| u32::from(word[0]) << 8 | word.get(1).map_or(0, |&low| u32::from(low)));
    words.sum()
}
