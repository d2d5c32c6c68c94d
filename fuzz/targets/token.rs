//! The text of a token, and the file that tokens are kept in.
//!
//! Owns: what has to be so of an input.
//! Does not own: what is called.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::path::Path;
use tidemark_access::file::TokenFile;
use tidemark_access::token::{Scope, Token, TokenHash, TokenId};
use tidemark_fuzz as _;

fuzz_target!(|text: &str| {
    if let Some(token) = Token::parse(text) {
        assert_eq!(token.text(), text);
        assert_eq!(TokenId::parse(&token.id().to_string()).as_ref(), Some(token.id()));
        assert!(TokenHash::from_hex(&token.hash().to_hex()) == Some(token.hash()));
    }
    if let Some(hash) = TokenHash::from_hex(text) {
        assert_eq!(hash.to_hex(), text.to_ascii_lowercase());
    }
    if let Ok(scope) = text.parse::<Scope>() {
        assert_eq!(scope.name(), text);
    }
    let file = Path::new("tokens.toml");
    if let Ok(tokens) = TokenFile::of(file, text) {
        let written = toml::to_string(&tokens).expect("what was read can be written");
        assert_eq!(TokenFile::of(file, &written).expect("what was written can be read"), tokens);
    }
});
