//! Tokens.
//!
//! Owns: their text, their names and scopes, and the hash that is all that is kept of them.
//! Does not own: where hashes are kept (`file`), which token is in force (`keyring`).
//!
//! A token is `tmk_<id>_<secret>`. The id is no secret: lists show it, and it is what a token is revoked by. The secret is 256 random
//! bits, so that a plain SHA-256 is enough to keep: there is nothing to guess.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};
use std::fmt;
use subtle::ConstantTimeEq as _;

/// What all tokens begin with, so that who finds one knows what it is.
const PREFIX: &str = "tmk_";
/// Random bytes of an id.
const ID_BYTES: usize = 6;
/// Random bytes of a secret.
const SECRET_BYTES: usize = 32;
/// Random bytes that a token is made of.
pub const RANDOM_BYTES: usize = ID_BYTES + SECRET_BYTES;
/// No token is longer than this; longer texts are not looked at.
pub const MAX_TOKEN_BYTES: usize = 128;

/// What a token may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Sending events.
    Ingest,
    /// Asking, and receipts.
    Query,
    /// Members, metrics, and what is about the cluster as a whole.
    Admin,
}

impl Scope {
    /// All there are.
    pub const ALL: [Self; 3] = [Self::Ingest, Self::Query, Self::Admin];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ingest => "ingest",
            Self::Query => "query",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Scope {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|scope| scope.name() == text);
        known.ok_or_else(|| format!("{text:?} is no scope: give ingest, query or admin"))
    }
}

/// The part of a token that is no secret: twelve hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TokenId(String);

impl TokenId {
    /// Reads one; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        (digits && text.len() == 2 * ID_BYTES).then(|| Self(text.to_owned()))
    }
}

impl TryFrom<String> for TokenId {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text)
            .ok_or_else(|| format!("{text:?} is no token's id: it has twelve hexadecimal digits"))
    }
}

impl From<TokenId> for String {
    fn from(id: TokenId) -> Self {
        id.0
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is kept of a token.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    /// The hash of no token.
    pub const NONE: Self = Self([0; 32]);

    /// Of a token's text.
    pub fn of(text: &str) -> Self {
        Self(Sha256::digest(text.as_bytes()).into())
    }

    /// Whether they are the same, in a time that does not depend on where they differ.
    pub fn is(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }

    /// As hexadecimal digits.
    pub fn to_hex(self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Reads those; `None` for anything else.
    pub fn from_hex(text: &str) -> Option<Self> {
        let mut hash = [0; 32];
        if text.len() != 64 || !text.is_ascii() {
            return None;
        }
        for (at, byte) in hash.iter_mut().enumerate() {
            *byte = u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok()?;
        }
        Some(Self(hash))
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenHash")
    }
}

/// A token as its owner has it. Not printed but by [`text`](Self::text).
pub struct Token {
    id: TokenId,
    text: String,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({})", self.id)
    }
}

impl Token {
    /// Of random bytes, which nobody else has.
    pub fn of(random: &[u8; RANDOM_BYTES]) -> Self {
        let (id, secret) = random.split_at(ID_BYTES);
        let id = TokenId(id.iter().map(|byte| format!("{byte:02x}")).collect());
        let text = format!("{PREFIX}{id}_{}", URL_SAFE_NO_PAD.encode(secret));
        Self { id, text }
    }

    /// Reads a token; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() > MAX_TOKEN_BYTES {
            return None;
        }
        let (id, secret) = text.strip_prefix(PREFIX)?.split_once('_')?;
        let id = TokenId::parse(id)?;
        let secret = URL_SAFE_NO_PAD.decode(secret).ok()?;
        (secret.len() == SECRET_BYTES).then(|| Self { id, text: text.to_owned() })
    }

    /// Its id.
    pub fn id(&self) -> &TokenId {
        &self.id
    }

    /// The whole of it: a secret.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// What is kept of it.
    pub fn hash(&self) -> TokenHash {
        TokenHash::of(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_token_is_read_as_it_is_written_and_never_printed() {
        let token = Token::of(&[7; RANDOM_BYTES]);
        let read = Token::parse(token.text()).unwrap();
        assert_eq!((read.id(), read.hash()), (token.id(), token.hash()));
        assert_eq!(token.id().to_string(), "070707070707");
        assert!(!format!("{token:?}{:?}", token.hash()).contains(&token.text()[20..]));
        assert_eq!(TokenHash::from_hex(&token.hash().to_hex()), Some(token.hash()));
    }

    #[test]
    fn what_is_nearly_a_token_is_none() {
        let text = Token::of(&[7; RANDOM_BYTES]).text().to_owned();
        for wrong in [
            "",
            "tmk_",
            "tmk_070707070707_",
            &text[1..],
            &text[..text.len() - 1],
            &format!("{text}A"),
            &text.replace("tmk_07", "tmk_0G"),
            &text.replace('B', "/"),
            &"tmk_070707070707_".repeat(100),
        ] {
            assert!(Token::parse(wrong).is_none(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_token_or_none(text in "(tmk_)?[0-9a-f]{0,13}_?[A-Za-z0-9_-]{0,50}|.{0,60}") {
            if let Some(token) = Token::parse(&text) {
                prop_assert_eq!(token.text(), text);
            }
        }
    }
}
