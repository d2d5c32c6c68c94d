//! Tidemark's wire contract: the messages and services of package `tidemark.v1`.
//!
//! Owns: the `.proto` files, the code made from them, and the names that enums have outside the wire.
//! Does not own: what the messages mean and how they are checked (`tidemark-rollup`).
//!
//! Without the feature `grpc` only messages are built: no runtime and no socket.
#![forbid(unsafe_code)]

#[cfg(feature = "grpc")]
pub mod codec;
pub mod encoded;
mod names;

/// Messages, clients and servers of package `tidemark.v1`.
#[allow(missing_docs, clippy::all, unreachable_pub)]
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/tidemark.v1.rs"));
    #[cfg(feature = "grpc")]
    include!(concat!(env!("OUT_DIR"), "/servers/tidemark.v1.rs"));
}

/// The encoded `FileDescriptorSet` of all files, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Size limit of one encoded `EventBatch` or `Block`, and of a body of `POST /v1/events`: 4 MiB.
pub const MAX_BATCH_BYTES: usize = 4 << 20;

/// Size limit of one gRPC message from outside. Above `MAX_BATCH_BYTES`, so that a batch that is somewhat too
/// large is refused by name and the stream goes on; beyond this one the stream ends.
pub const MAX_MESSAGE_BYTES: usize = 16 << 20;

/// Metadata of a status by which a member says that it cannot answer because of its schema: it lacks this name, or means something
/// else by it. Another member may well answer, and the same one once it runs with another schema.
pub const SCHEMA_METADATA: &str = "tidemark-schema";

/// Size limit of one gRPC message between members (partials of large groups).
pub const MAX_MEMBER_MESSAGE_BYTES: usize = 256 << 20;
