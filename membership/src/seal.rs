//! The seal of datagrams: who has the cluster's key can make one and open it, nobody else.
//!
//! Owns: the form of a datagram, `version | start (16) | counter (8) | XChaCha20-Poly1305 of the message`, and why one is dropped.
//! Does not own: what a message says (`message`).
//!
//! Invariants:
//! * No nonce is used twice: a start is drawn for each life of a member, and its counter only grows.
//! * A datagram is opened once: see `replay`.

use crate::config::ClusterKey;
use crate::replay::{Start, Windows};
use chacha20poly1305::aead::{Aead as _, Payload};
use chacha20poly1305::{KeyInit as _, XChaCha20Poly1305, XNonce};

/// The form of datagrams and of what they say. A member that speaks another one is not understood.
/// 2: members tell outlines of their schemas.
const VERSION: u8 = 2;
const START_BYTES: usize = 16;
const NONCE_BYTES: usize = 24;
/// What sealing adds.
pub(crate) const SEAL_BYTES: usize = 1 + NONCE_BYTES + 16;
/// The largest datagram: it passes every network whole.
pub(crate) const MAX_SEALED_BYTES: usize = 1400;

const _: () = assert!(MAX_SEALED_BYTES <= tidemark_shell::datagrams::MAX_DATAGRAM_BYTES);

/// Why a datagram was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Dropped {
    TooLarge,
    Version,
    Seal,
    Replay,
    Facts,
    Undecodable,
    Rejected,
}

impl Dropped {
    pub(crate) const ALL: [Self; 7] = [
        Self::TooLarge,
        Self::Version,
        Self::Seal,
        Self::Replay,
        Self::Facts,
        Self::Undecodable,
        Self::Rejected,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::TooLarge => "too_large",
            Self::Version => "version",
            Self::Seal => "seal",
            Self::Replay => "replay",
            Self::Facts => "facts",
            Self::Undecodable => "undecodable",
            Self::Rejected => "rejected",
        }
    }
}

/// Seals datagrams of one life of a member.
pub(crate) struct Sealer {
    cipher: XChaCha20Poly1305,
    start: Start,
    counter: u64,
}

impl Sealer {
    pub(crate) fn new(key: &ClusterKey, start: Start) -> Self {
        Self { cipher: XChaCha20Poly1305::new(&key.0.into()), start, counter: 0 }
    }

    /// The message, sealed; `None` where it is too large to be sent.
    pub(crate) fn seal(&mut self, message: &[u8]) -> Option<Vec<u8>> {
        if message.len() + SEAL_BYTES > MAX_SEALED_BYTES {
            return None;
        }
        let mut nonce = [0; NONCE_BYTES];
        nonce[..START_BYTES].copy_from_slice(&self.start);
        nonce[START_BYTES..].copy_from_slice(&self.counter.to_le_bytes());
        // Not even a member that sends a datagram every nanosecond gets there.
        self.counter = self.counter.checked_add(1)?;
        let payload = Payload { msg: message, aad: &[VERSION] };
        let sealed = self.cipher.encrypt(&XNonce::from(nonce), payload).ok()?;
        Some([&[VERSION][..], &nonce, &sealed].concat())
    }
}

/// Opens datagrams.
pub(crate) struct Opener {
    cipher: XChaCha20Poly1305,
    windows: Windows,
}

impl Opener {
    pub(crate) fn new(key: &ClusterKey) -> Self {
        Self { cipher: XChaCha20Poly1305::new(&key.0.into()), windows: Windows::default() }
    }

    /// The message in a datagram that comes for the first time.
    pub(crate) fn open(&mut self, datagram: &[u8]) -> Result<Vec<u8>, Dropped> {
        if datagram.len() > MAX_SEALED_BYTES {
            return Err(Dropped::TooLarge);
        }
        let (&[VERSION], sealed) = datagram.split_at_checked(1).ok_or(Dropped::Version)? else {
            return Err(Dropped::Version);
        };
        let (nonce, sealed) = sealed.split_first_chunk::<NONCE_BYTES>().ok_or(Dropped::Seal)?;
        let payload = Payload { msg: sealed, aad: &[VERSION] };
        let message = self.cipher.decrypt(&XNonce::from(*nonce), payload).map_err(|_| Dropped::Seal)?;
        let (mut start, mut counter) = ([0; START_BYTES], [0; 8]);
        start.copy_from_slice(&nonce[..START_BYTES]);
        counter.copy_from_slice(&nonce[START_BYTES..]);
        match self.windows.admits(start, u64::from_le_bytes(counter)) {
            true => Ok(message),
            false => Err(Dropped::Replay),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pair() -> (Sealer, Opener) {
        let key = ClusterKey::of("secret");
        (Sealer::new(&key, [7; 16]), Opener::new(&key))
    }

    #[test]
    fn a_datagram_of_a_known_start_and_counter_has_these_bytes() {
        let hex: String =
            pair().0.seal(b"tidemark").unwrap().iter().map(|byte| format!("{byte:02x}")).collect();
        // Version, start, counter, sealed message. A change of these is a change of the wire.
        let expected = concat!(
            "02",
            "07070707070707070707070707070707",
            "0000000000000000",
            "3fa3b66a910be7488a8ccab6c650a756f7e20e4018e5ad64"
        );
        assert_eq!(hex, expected);
    }

    #[test]
    fn a_datagram_opens_once_and_only_with_its_key() {
        let (mut sealer, mut opener) = pair();
        let sealed = sealer.seal(b"hello").unwrap();
        assert_eq!(sealed.len(), 5 + SEAL_BYTES);
        assert_eq!(Opener::new(&ClusterKey::of("other")).open(&sealed), Err(Dropped::Seal));
        assert_eq!(opener.open(&sealed).as_deref(), Ok(&b"hello"[..]));
        assert_eq!(opener.open(&sealed), Err(Dropped::Replay));
        assert_ne!(sealer.seal(b"hello").unwrap(), sealed);
    }

    #[test]
    fn what_is_too_large_is_neither_sent_nor_opened() {
        let (mut sealer, mut opener) = pair();
        assert!(sealer.seal(&[0; MAX_SEALED_BYTES - SEAL_BYTES]).is_some());
        assert!(sealer.seal(&[0; MAX_SEALED_BYTES - SEAL_BYTES + 1]).is_none());
        assert_eq!(opener.open(&[1; MAX_SEALED_BYTES + 1]), Err(Dropped::TooLarge));
        assert_eq!(opener.open(&[]), Err(Dropped::Version));
        assert_eq!(opener.open(&[VERSION - 1; 100]), Err(Dropped::Version));
        assert_eq!(opener.open(&[VERSION; 10]), Err(Dropped::Seal));
    }

    proptest! {
        #[test]
        fn what_was_sealed_opens(message in proptest::collection::vec(any::<u8>(), 0..1300)) {
            let (mut sealer, mut opener) = pair();
            prop_assert_eq!(opener.open(&sealer.seal(&message).unwrap()), Ok(message));
        }

        #[test]
        fn one_changed_bit_breaks_the_seal(at in any::<proptest::sample::Index>(), bit in 0_u8..8) {
            let (mut sealer, mut opener) = pair();
            let mut sealed = sealer.seal(b"some message").unwrap();
            let at = at.index(sealed.len());
            sealed[at] ^= 1_u8 << bit;
            prop_assert!(opener.open(&sealed).is_err());
        }

        #[test]
        fn bytes_that_nobody_meant_do_not_open(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(pair().1.open(&bytes).is_err());
        }
    }
}
