//! Two members without a network.

use super::*;
use crate::config::ClusterKey;
use crate::facts::tests::facts;
use tidemark_rollup::member::{MemberState, Role};

fn protocol(name: &str, port: u16, seeds: &[&str], now: Instant) -> Protocol {
    let config = MembershipConfig {
        id: NodeId::new(name).unwrap(),
        role: Role::Node,
        zone: None,
        address: format!("{name}:1"),
        gossip: SocketAddr::from(([10, 0, 0, 1], port)),
        seeds: seeds.iter().map(ToString::to_string).collect(),
        facts: facts(),
        key: ClusterKey::of("secret"),
        timing: Timing::default(),
        folder: None,
        version: String::new(),
    };
    Protocol::new(&config, Incarnation(1), Vec::new(), [port as u8; 32], now)
}

/// Carries messages to and fro until there are none; says what each was commanded.
fn exchange(a: &mut Protocol, b: &mut Protocol, now: Now) -> (Vec<Command>, Vec<Command>) {
    let (mut of_a, mut of_b) = (Vec::new(), Vec::new());
    loop {
        let (new_a, new_b) = (a.take_commands(now.instant), b.take_commands(now.instant));
        if new_a.is_empty() && new_b.is_empty() {
            return (of_a, of_b);
        }
        let sent = |commands: &[Command]| {
            commands
                .iter()
                .filter_map(|command| match command {
                    Command::Send { envelope, .. } => Some(envelope.clone()),
                    _ => None,
                })
                .collect::<Vec<_>>()
        };
        let (to_b, to_a) = (sent(&new_a), sent(&new_b));
        to_b.iter().for_each(|envelope| b.receive(envelope, a.own().gossip, now));
        to_a.iter().for_each(|envelope| a.receive(envelope, b.own().gossip, now));
        of_a.extend(new_a);
        of_b.extend(new_b);
    }
}

#[tokio::test]
async fn a_new_identity_is_kept_and_published_before_anything_is_sent_under_it() {
    let now = Now { instant: Instant::now(), unix_ms: 1 };
    let mut a = protocol("a", 1, &["10.0.0.1:2"], now.instant);
    let mut b = protocol("b", 2, &[], now.instant);
    a.tick(now);
    exchange(&mut a, &mut b, now);
    assert_eq!(a.view().members().len(), 2);
    assert!(a.set_state(MemberState::Active, None, now.instant));
    let commands = a.take_commands(now.instant);
    let at = |is: fn(&Command) -> bool| commands.iter().position(is).unwrap();
    let sent = at(|command| matches!(command, Command::Send { .. }));
    assert!(at(|command| matches!(command, Command::Keep(Incarnation(2)))) < sent);
    assert!(at(|command| matches!(command, Command::Publish(_))) < sent);
}

proptest::proptest! {
    #[test]
    fn packets_that_nobody_meant_never_panic(kind in 0_u8..9, bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300)) {
        let now = Now { instant: Instant::now(), unix_ms: 1 };
        let mut a = protocol("a", 1, &[], now.instant);
        let head = facts().fingerprint().to_le_bytes();
        if let Some(envelope) = Envelope::decode(&[&head[..], &[kind], &bytes].concat()) {
            a.receive(&envelope, SocketAddr::from(([10, 0, 0, 1], 9)), now);
            a.take_commands(now.instant);
        }
    }
}
