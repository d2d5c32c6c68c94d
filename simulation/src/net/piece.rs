//! Pieces of calls.
//!
//! Owns: what a call is made of on its way, and how a trace shows it.
//! Does not own: their order (`net/connection`).

use bytes::Bytes;
use http::HeaderMap;
use std::fmt;
use tonic::Status;
use xxhash_rust::xxh3::xxh3_64;

/// A piece of a call.
#[derive(Debug)]
pub(crate) enum Piece {
    Request(Box<http::request::Parts>),
    Response(Box<http::response::Parts>),
    Data(Bytes),
    Trailers(HeaderMap),
    End,
    /// The call is over before its end.
    Reset(Status),
}

impl fmt::Display for Piece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Request(head) => write!(f, "request {} {}", head.method, head.uri),
            Self::Response(head) => write!(f, "response {}", head.status.as_u16()),
            Self::Data(bytes) => write!(f, "data of {} B {:016x}", bytes.len(), xxh3_64(bytes)),
            Self::Trailers(trailers) => write!(f, "trailers {trailers:?}"),
            Self::End => f.write_str("end"),
            Self::Reset(status) => write!(f, "reset: {}", status.message()),
        }
    }
}
