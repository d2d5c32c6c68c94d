//! Who may do what.
//!
//! Owns: tokens and the file with their hashes, which calls need what, and the layer that asks for it before a call is served.
//! Does not own: certificates and handshakes (`tidemark-shell`), which sites a call is about (its handler asks [`Caller`]).
//!
//! ```text
//! request -> layer -- what does the path need? (paths)
//!              |  '-- who is it? another member (TLS), or a token -> keyring <- tokens' file
//!              v
//!           handler -- may the caller do this for this site? (caller)
//! ```
//!
//! A process that has no tokens' file is open to whoever reaches it, and listens on loopback alone: the program sees to that.
#![forbid(unsafe_code)]

pub mod caller;
pub mod file;
pub mod keyring;
pub mod layer;
pub mod metrics;
pub mod paths;
pub mod token;

pub use caller::{Caller, Forbidden};
pub use layer::Access;
