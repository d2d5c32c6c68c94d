//! Gossip: datagrams, messages past the seal around them, and time that passes between them.
//!
//! Owns: what has to be so of an input.
//! Does not own: what is called.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::net::SocketAddr;
use std::time::Duration;
use tidemark_fuzz::frames;
use tidemark_membership::fuzzing::Ear;

/// Longer than any conversation of the seeds.
const MAX_FRAMES: usize = 64;

fuzz_target!(|input: &[u8]| {
    let mut member = Ear::new("a", 1).expect("a name");
    for frame in frames::of(input).take(MAX_FRAMES) {
        // The sender is one of a few, the member itself and its seed among them.
        let from = SocketAddr::from(([10, 0, 0, 1], u16::from(frame.tag >> 4)));
        match frame.tag & 0xF {
            0 => _ = member.datagram(frame.body, from),
            1 => _ = member.sealed(frame.body, from),
            2 => {
                let ms = frame.body.first_chunk().map_or(100, |&ms| u16::from_le_bytes(ms));
                member.pass(Duration::from_millis(u64::from(ms)));
            }
            3 => member.become_state(frame.body.first() == Some(&1)),
            _ => _ = member.message(frame.body, from),
        }
        assert!(member.sends().len() < 10_000);
        assert!(member.members() <= 1 + input.len());
    }
});
