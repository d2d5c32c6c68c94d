//! The coordinator before fake nodes that hold real shards: over real sockets (`world`), and over none, in a time that only
//! passes while everybody waits (`still`).

mod events;
mod fake_node;
mod flow;
mod grpc;
mod http_client;
mod limit;
mod moods;
mod owners;
mod pages;
mod queries;
mod still;
mod subscriptions;
mod world;
