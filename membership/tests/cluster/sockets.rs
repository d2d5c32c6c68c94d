//! The same over real sockets.

use crate::net::{id, node};
use std::sync::Arc;
use std::time::Duration;
use tidemark_membership::{Membership, MembershipMetrics, Parts};
use tidemark_rollup::member::MemberState;
use tidemark_rollup::time::{Clock, EventTime};
use tokio::net::UdpSocket;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

struct Since(Instant);

impl Clock for Since {
    fn now(&self) -> EventTime {
        EventTime::from_unix_ms(1_790_000_000_000).plus(self.0.elapsed())
    }
}

async fn start(name: &str, seed: Option<String>) -> (Membership, CancellationToken, String) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut config = node(name).config;
    config.gossip = socket.local_addr().unwrap();
    config.seeds = seed.into_iter().collect();
    let (own, shutdown) = (format!("localhost:{}", config.gossip.port()), CancellationToken::new());
    let meter = MembershipMetrics::default().of(&config.id);
    let parts = Parts { clock: Arc::new(Since(Instant::now())), datagrams: Arc::new(socket), meter, seed: 7 };
    (Membership::start(config, parts, shutdown.clone()).unwrap(), shutdown, own)
}

async fn sees(membership: &Membership, is_so: impl Fn(&[tidemark_rollup::member::Member]) -> bool) {
    let mut view = membership.view();
    let seen = view.wait_for(|view| is_so(view.members()));
    tokio::time::timeout(Duration::from_secs(20), seen).await.unwrap().unwrap();
}

#[tokio::test]
async fn three_members_meet_over_udp_by_a_name_and_notice_a_leave_and_a_crash() {
    let (a, _keep_a, seed) = start("a", None).await;
    let (b, b_stops, _) = start("b", Some(seed.clone())).await;
    let (c, _keep_c, _) = start("c", Some(seed)).await;
    for membership in [&a, &b, &c] {
        sees(membership, |members| members.len() == 3).await;
    }
    b.set_state(MemberState::Active).await;
    sees(&c, |members| {
        members.iter().any(|member| member.id == id("b") && member.state == MemberState::Active)
    })
    .await;
    b_stops.cancel();
    sees(&a, |members| members.len() == 2).await;
    assert_eq!(a.view().borrow().missing(), [id("b")]);
    sees(&c, |members| members.len() == 2).await;
    c.leave().await;
    sees(&a, |members| members.len() == 1).await;
    assert_eq!(a.view().borrow().missing(), [id("b")]);
}
