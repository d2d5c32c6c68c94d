//! A cluster that behaves as it is told.
//!
//! Owns: nodes that count blocks by identity, each in a mood, and the placement they tell; over TCP, or within the process, where
//! time may be paused.
//! Does not own: what real nodes do.
#![allow(clippy::unwrap_used, dead_code, missing_docs, unreachable_pub)]

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt as _, stream};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tidemark_client::Parts;
use tidemark_proto::encoded::EncodedBatch;
use tidemark_proto::v1;
use tidemark_proto::v1::RefusalReason;
use tidemark_proto::v1::admin_server::{Admin, AdminServer};
use tidemark_proto::v1::ingest_server::{Ingest, IngestServer};
use tidemark_rollup::sharding::{ShardCount, page_hash};
use tidemark_rollup::time::EventTime;
use tidemark_shell::link::{AddressError, Connect, Link, LinkError};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::{ReceiverStream, WatchStream};
use tonic::{Request, Response, Status, Streaming};
use tower::ServiceExt as _;

pub const SHARDS: u32 = 4;
pub const NOW: EventTime = EventTime::from_unix_ms(1_700_000_000_000);
pub const SITE: &str = "example.com";
/// How long anything may take on a loaded machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How a node behaves.
#[derive(Clone, Debug, PartialEq)]
pub enum Mood {
    Well,
    /// Connections are refused, and open ones break.
    Away,
    /// Takes blocks and says nothing.
    Hang,
    /// Acknowledges each block so much later.
    Slow(Duration),
    /// Counts a block, and the line breaks before it says so.
    LoseAcks,
    Refuse(RefusalReason, u32),
    /// Ends the line after each block it acknowledged.
    HangUp,
}

/// A block that came, counted or not.
#[derive(Clone, Debug, PartialEq)]
pub struct Came {
    pub node: String,
    pub shard: u32,
    pub seq: u64,
    pub after: Duration,
}

#[derive(Debug)]
struct State {
    started: Instant,
    moods: BTreeMap<String, watch::Sender<Mood>>,
    placement: watch::Sender<v1::PlacementReply>,
    /// Events by identity.
    counted: Mutex<BTreeMap<(Bytes, u32, u64), u32>>,
    came: Mutex<Vec<Came>>,
}

#[derive(Clone, Debug)]
pub struct Cluster(Arc<State>);

#[derive(Clone)]
struct Node {
    cluster: Cluster,
    address: String,
}

impl Cluster {
    /// Nodes that own the shards in turn, each with the next one's copy.
    pub fn of(addresses: &[&str]) -> Self {
        let moods = addresses.iter().map(|&address| (address.to_owned(), watch::Sender::new(Mood::Well)));
        Self(Arc::new(State {
            started: Instant::now(),
            moods: moods.collect(),
            placement: watch::Sender::new(placement(addresses)),
            counted: Mutex::default(),
            came: Mutex::default(),
        }))
    }

    /// The same over TCP, on ports that the system picks; with their addresses.
    pub async fn listening(nodes: usize) -> (Self, Vec<String>) {
        let mut listeners = Vec::new();
        for _ in 0..nodes {
            listeners
                .push(tokio::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap());
        }
        let addresses: Vec<String> =
            listeners.iter().map(|listener| listener.local_addr().unwrap().to_string()).collect();
        let cluster = Self::of(&addresses.iter().map(String::as_str).collect::<Vec<_>>());
        for (listener, address) in listeners.into_iter().zip(&addresses) {
            let node = Node { cluster: cluster.clone(), address: address.clone() };
            let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
            let server = tonic::transport::Server::builder()
                .add_service(IngestServer::new(node.clone()))
                .add_service(AdminServer::new(node));
            tokio::spawn(server.serve_with_incoming(incoming));
        }
        (cluster, addresses)
    }

    pub fn parts(&self, seed: u64) -> Parts {
        Parts { connect: Arc::new(self.clone()), seed }
    }

    pub fn set(&self, address: &str, mood: Mood) {
        self.0.moods[address].send_replace(mood);
    }

    pub fn set_all(&self, mood: &Mood) {
        self.0.moods.values().for_each(|of| _ = of.send_replace(mood.clone()));
    }

    pub fn place(&self, placement: v1::PlacementReply) {
        self.0.placement.send_replace(placement);
    }

    pub fn came(&self) -> Vec<Came> {
        self.0.came.lock().unwrap().clone()
    }

    /// Events that are counted, each block once.
    pub fn events(&self) -> u64 {
        self.0.counted.lock().unwrap().values().map(|&events| u64::from(events)).sum()
    }

    pub fn blocks(&self) -> usize {
        self.0.counted.lock().unwrap().len()
    }

    /// Numbers of blocks that are counted.
    pub fn seqs(&self) -> Vec<u64> {
        let mut seqs: Vec<u64> = self.0.counted.lock().unwrap().keys().map(|&(_, _, seq)| seq).collect();
        seqs.sort_unstable();
        seqs.dedup();
        seqs
    }

    /// The same by shard.
    pub fn seqs_by_shard(&self) -> BTreeMap<u32, Vec<u64>> {
        let mut by_shard = BTreeMap::<u32, Vec<u64>>::new();
        for &(_, shard, seq) in self.0.counted.lock().unwrap().keys() {
            by_shard.entry(shard).or_default().push(seq);
        }
        by_shard.values_mut().for_each(|seqs| seqs.sort_unstable());
        by_shard
    }

    pub fn producers(&self) -> usize {
        let counted = self.0.counted.lock().unwrap();
        counted.keys().map(|(producer, ..)| producer).collect::<std::collections::BTreeSet<_>>().len()
    }

    fn mood(&self, address: &str) -> watch::Receiver<Mood> {
        self.0.moods[address].subscribe()
    }

    fn count(&self, block: &v1::Block) -> v1::BlockAck {
        let key = (block.producer.clone(), block.shard, block.seq);
        let before = self.0.counted.lock().unwrap().insert(key, block.event_count);
        let duplicate = before.unwrap_or(0);
        v1::BlockAck { accepted: block.event_count, duplicate, ..named(block) }
    }
}

fn named(block: &v1::Block) -> v1::BlockAck {
    v1::BlockAck {
        producer: block.producer.clone(),
        shard: block.shard,
        seq: block.seq,
        ..Default::default()
    }
}

pub fn placement(addresses: &[&str]) -> v1::PlacementReply {
    let nodes = addresses.len() as u32;
    let member = |&address: &&str| v1::Member {
        id: address.to_owned(),
        address: address.to_owned(),
        ..Default::default()
    };
    let owners = (0..SHARDS).map(|shard| {
        let mut writers = vec![shard % nodes, (shard + 1) % nodes];
        writers.dedup();
        v1::Owners { settled: writers.len() as u32, writers }
    });
    v1::PlacementReply {
        shard_count: SHARDS,
        replication: 2,
        nodes: addresses.iter().map(member).collect(),
        owners: owners.collect(),
    }
}

/// Within the process.
impl Connect for Cluster {
    fn connect(&self, address: &str) -> Result<Link, AddressError> {
        if !self.0.moods.contains_key(address) {
            return Err(AddressError(address.to_owned()));
        }
        let node = Node { cluster: self.clone(), address: address.to_owned() };
        let routes = tonic::service::Routes::new(IngestServer::new(node.clone()))
            .add_service(AdminServer::new(node.clone()))
            .prepare();
        let call = move |request: http::Request<tonic::body::Body>| {
            let (routes, away) = (routes.clone(), *node.cluster.mood(&node.address).borrow() == Mood::Away);
            async move {
                let refused = LinkError::new("connection refused");
                match away {
                    true => Err(refused),
                    false => routes.oneshot(request).await.map_err(|never| match never {}),
                }
            }
        };
        Ok(Link::new(tower::service_fn(call)))
    }
}

#[async_trait::async_trait]
impl Ingest for Node {
    type SendRowsStream = BoxStream<'static, Result<v1::BatchAck, Status>>;
    type SendBlocksStream = BoxStream<'static, Result<v1::BlockAck, Status>>;

    async fn send_rows(
        &self,
        _: Request<Streaming<EncodedBatch>>,
    ) -> Result<Response<Self::SendRowsStream>, Status> {
        Err(Status::unimplemented("rows"))
    }

    async fn send_blocks(
        &self,
        request: Request<Streaming<v1::Block>>,
    ) -> Result<Response<Self::SendBlocksStream>, Status> {
        let (node, blocks) = (self.clone(), request.into_inner());
        let (acks, outgoing) = mpsc::channel(64);
        tokio::spawn(node.serve(blocks, acks));
        Ok(Response::new(ReceiverStream::new(outgoing).boxed()))
    }
}

impl Node {
    async fn serve(self, mut blocks: Streaming<v1::Block>, acks: mpsc::Sender<Result<v1::BlockAck, Status>>) {
        let mut mood = self.cluster.mood(&self.address);
        let mut held = Vec::new();
        loop {
            let now = mood.borrow_and_update().clone();
            if now == Mood::Away {
                _ = acks.send(Err(Status::unavailable("killed"))).await;
                return;
            }
            if now != Mood::Hang {
                for block in std::mem::take(&mut held) {
                    if !self.answer(block, &now, &acks).await {
                        return;
                    }
                }
            }
            let block = tokio::select! {
                biased;
                _ = mood.changed() => continue,
                block = blocks.message() => block,
                () = acks.closed() => return,
            };
            let Ok(Some(block)) = block else { return };
            let (node, after) = (self.address.clone(), self.cluster.0.started.elapsed());
            let came = Came { node, shard: block.shard, seq: block.seq, after };
            self.cluster.0.came.lock().unwrap().push(came);
            if now == Mood::Hang {
                held.push(block);
            } else if !self.answer(block, &now, &acks).await {
                return;
            }
        }
    }

    /// Whether the line goes on.
    async fn answer(
        &self,
        block: v1::Block,
        mood: &Mood,
        acks: &mpsc::Sender<Result<v1::BlockAck, Status>>,
    ) -> bool {
        let ack = match mood {
            Mood::Refuse(reason, retry_after_ms) => {
                let (reason, retry_after_ms) = ((*reason).into(), *retry_after_ms);
                let refused =
                    Some(v1::Refusal { reason, retry_after_ms, message: "as told".to_owned(), limit: None });
                v1::BlockAck { refused, ..named(&block) }
            }
            Mood::Well | Mood::Away | Mood::Hang | Mood::Slow(_) | Mood::LoseAcks | Mood::HangUp => {
                self.cluster.count(&block)
            }
        };
        match mood {
            Mood::LoseAcks => return false,
            Mood::Slow(by) => {
                let (acks, by) = (acks.clone(), *by);
                tokio::spawn(async move {
                    tokio::time::sleep(by).await;
                    _ = acks.send(Ok(ack)).await;
                });
            }
            _ => return acks.send(Ok(ack)).await.is_ok() && *mood != Mood::HangUp,
        }
        true
    }
}

#[async_trait::async_trait]
impl Admin for Node {
    type WatchPlacementStream = BoxStream<'static, Result<v1::PlacementReply, Status>>;

    async fn placement(
        &self,
        _: Request<v1::PlacementRequest>,
    ) -> Result<Response<v1::PlacementReply>, Status> {
        Ok(Response::new(self.cluster.0.placement.borrow().clone()))
    }

    async fn watch_placement(
        &self,
        _: Request<v1::PlacementRequest>,
    ) -> Result<Response<Self::WatchPlacementStream>, Status> {
        let placements = WatchStream::new(self.cluster.0.placement.subscribe()).map(Ok);
        let mut mood = self.cluster.mood(&self.address);
        let away = async move { _ = mood.wait_for(|mood| *mood == Mood::Away).await };
        let killed = stream::once(async { Err(Status::unavailable("killed")) });
        Ok(Response::new(placements.take_until(Box::pin(away)).chain(killed).boxed()))
    }

    async fn members(&self, _: Request<v1::MembersRequest>) -> Result<Response<v1::MembersReply>, Status> {
        Err(Status::unimplemented("members"))
    }

    async fn drain(&self, _: Request<v1::DrainRequest>) -> Result<Response<v1::DrainReply>, Status> {
        Err(Status::unimplemented("drain"))
    }

    async fn receipts(&self, _: Request<v1::ReceiptsRequest>) -> Result<Response<v1::ReceiptsReply>, Status> {
        Err(Status::unimplemented("receipts"))
    }
}

/// Views of so many pages, which spread over the shards.
pub fn events(count: u64) -> Vec<v1::Event> {
    (0..count).map(|page| event(&format!("/{page}"))).collect()
}

pub fn event(url: &str) -> v1::Event {
    v1::Event {
        site: Bytes::from_static(SITE.as_bytes()),
        url: Bytes::copy_from_slice(url.as_bytes()),
        visitor_hash: 1,
        ..Default::default()
    }
}

/// Views of two pages of this shard, in turn: one alone would be viral, and spread over shards.
pub fn events_of(shard: u32, count: usize) -> Vec<v1::Event> {
    let shards = ShardCount::new(SHARDS).unwrap();
    let urls = (0..).map(|page| format!("/{page}"));
    let of_shard = urls.filter(|url| shards.shard_of(page_hash(SITE, url)).get() == shard);
    let two: Vec<v1::Event> = of_shard.take(2).map(|url| event(&url)).collect();
    two.into_iter().cycle().take(count).collect()
}

/// Waits for something, looking often.
pub async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "not yet: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
