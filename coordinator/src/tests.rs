//! The coordinator over real sockets, with fake nodes that hold real shards.

mod events;
mod fake_node;
mod grpc;
mod http_client;
mod limit;
mod pages;
mod queries;
mod world;
