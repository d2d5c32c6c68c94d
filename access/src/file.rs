//! The file of tokens.
//!
//! Owns: its form (TOML), reading it, and changing it: one change at a time, written beside it and moved into its place.
//! Does not own: what is in force at a moment (`keyring`).
//!
//! It has hashes only: who reads it cannot call with what they find. Revoked tokens stay in it, so that lists show them, until
//! somebody takes them out by hand.

use crate::caller::Sites;
use crate::token::{Scope, TokenHash, TokenId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use tidemark_rollup::canonical;
use tidemark_rollup::time::EventTime;

/// At most so many tokens.
pub const MAX_TOKENS: usize = 100_000;

/// Why the file cannot be used. Mend it, or name another one.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read or written.
    #[error("cannot {what} the tokens in {}: {error}", file.display())]
    Io {
        /// read, or write.
        what: &'static str,
        /// Which file.
        file: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// It is no file of tokens.
    #[error("{} is no file of tokens: {message}", file.display())]
    Malformed {
        /// Which file.
        file: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// There is no such token.
    #[error("there is no token {id} in {}: `tidemark token list` shows those there are", file.display())]
    Unknown {
        /// Which one.
        id: String,
        /// Which file.
        file: PathBuf,
    },
}

/// All tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenFile {
    /// In the order in which they were made.
    #[serde(default, rename = "token")]
    pub tokens: Vec<Entry>,
}

/// A token, as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// By which it is known.
    pub id: TokenId,
    /// What it is called, by whoever made it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Sites, or `*` for all.
    pub sites: BTreeSet<String>,
    /// What it may be used for.
    pub scopes: BTreeSet<Scope>,
    /// SHA-256 of its text, in hexadecimal digits.
    pub sha256: String,
    /// When it was made, RFC 3339.
    pub made: String,
    /// When it ends, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
    /// When it was revoked, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<String>,
}

impl Entry {
    /// Where it is for.
    ///
    /// # Errors
    /// Where a site cannot be one.
    pub fn at(&self) -> Result<Sites, String> {
        if self.sites.contains("*") {
            return Ok(Sites::All);
        }
        let canonical = |site: &String| match canonical::site(site) {
            Ok(site) => Ok(site.into_owned()),
            Err(_) => Err(format!("{site:?} is no site")),
        };
        self.sites.iter().map(canonical).collect::<Result<_, _>>().map(Sites::Named)
    }

    pub(crate) fn hash(&self) -> Result<TokenHash, String> {
        TokenHash::from_hex(&self.sha256).ok_or_else(|| format!("sha256 of {} is none", self.id))
    }

    /// When it ends.
    ///
    /// # Errors
    /// Where the time is none.
    pub fn expires_at(&self) -> Result<Option<EventTime>, String> {
        let read = |text: &String| EventTime::parse_rfc3339(text).map_err(|error| error.to_string());
        self.expires.as_ref().map(read).transpose()
    }
}

impl TokenFile {
    /// Reads it.
    ///
    /// # Errors
    /// Where it is not there, or is something else.
    pub fn read(file: &Path) -> Result<Self, FileError> {
        let text = std::fs::read_to_string(file);
        Self::of(file, &text.map_err(|error| FileError::Io { what: "read", file: file.to_owned(), error })?)
    }

    /// Reads its text.
    ///
    /// # Errors
    /// Where it is something else.
    pub fn of(file: &Path, text: &str) -> Result<Self, FileError> {
        let malformed = |message: String| FileError::Malformed { file: file.to_owned(), message };
        let read: Self = toml::from_str(text).map_err(|error| malformed(error.to_string()))?;
        if read.tokens.len() > MAX_TOKENS {
            return Err(malformed(format!("it has more than {MAX_TOKENS} tokens")));
        }
        let mut ids = BTreeSet::new();
        for entry in &read.tokens {
            let checked = entry.hash().and(entry.expires_at().map(drop)).and(entry.at().map(drop));
            checked.map_err(malformed)?;
            if !ids.insert(&entry.id) {
                return Err(malformed(format!("{} is in it twice", entry.id)));
            }
        }
        Ok(read)
    }

    /// Changes it, or makes it where it is not there. Others who change it meanwhile wait.
    ///
    /// # Errors
    /// Where it cannot be read or written, or `change` says so; it stays as it was then.
    pub fn change<T>(
        file: &Path,
        change: impl FnOnce(&mut Self) -> Result<T, FileError>,
    ) -> Result<T, FileError> {
        let io = |what| move |error| FileError::Io { what, file: file.to_owned(), error };
        let lock = file.with_extension("lock");
        let mut options = std::fs::OpenOptions::new();
        let lock = options.create(true).truncate(false).write(true).open(lock).map_err(io("write"))?;
        lock.lock().map_err(io("write"))?;
        let mut tokens = match file.exists() {
            true => Self::read(file)?,
            false => Self::default(),
        };
        let changed = change(&mut tokens)?;
        tokens.write(file).map_err(io("write"))?;
        Ok(changed)
    }

    fn write(&self, file: &Path) -> std::io::Result<()> {
        let text = toml::to_string(self).map_err(std::io::Error::other)?;
        let beside = file.with_extension("new");
        let mut options = std::fs::OpenOptions::new();
        options.create(true).truncate(true).write(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut open = options.open(&beside)?;
        open.write_all(HEAD.as_bytes())?;
        open.write_all(text.as_bytes())?;
        open.sync_all()?;
        std::fs::rename(&beside, file)
    }

    /// Revokes a token.
    ///
    /// # Errors
    /// Where there is none of that id.
    pub fn revoke(&mut self, file: &Path, id: &str, now: EventTime) -> Result<(), FileError> {
        let found = self.tokens.iter_mut().find(|entry| entry.id.to_string() == id);
        let entry = found.ok_or_else(|| FileError::Unknown { id: id.to_owned(), file: file.to_owned() })?;
        entry.revoked.get_or_insert_with(|| now.to_string());
        Ok(())
    }
}

const HEAD: &str = "# Tokens of Tidemark, by their hashes. Changed with `tidemark token`.\n\n";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::{RANDOM_BYTES, Token};
    use proptest::prelude::*;

    fn entry(byte: u8) -> Entry {
        let token = Token::of(&[byte; RANDOM_BYTES]);
        Entry {
            id: token.id().clone(),
            name: "edge \"one\"\n".to_owned(),
            sites: ["a.example".to_owned()].into(),
            scopes: [Scope::Ingest, Scope::Query].into(),
            sha256: token.hash().to_hex(),
            made: "2026-11-28T10:00:00Z".to_owned(),
            expires: Some("2027-11-28T10:00:00Z".to_owned()),
            revoked: None,
        }
    }

    #[test]
    fn what_is_written_is_read_and_changes_come_one_after_another() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tokens.toml");
        std::thread::scope(|scope| {
            for byte in 1..=8 {
                let file = &file;
                scope.spawn(move || {
                    TokenFile::change(file, |tokens| {
                        tokens.tokens.push(entry(byte));
                        Ok(())
                    })
                    .unwrap();
                });
            }
        });
        let read = TokenFile::read(&file).unwrap();
        assert_eq!(read.tokens.len(), 8);
        let id = entry(3).id.to_string();
        let now = EventTime::from_unix_ms(1_800_000_000_000);
        TokenFile::change(&file, |tokens| tokens.revoke(&file, &id, now)).unwrap();
        let read = TokenFile::read(&file).unwrap();
        assert_eq!(read.tokens.iter().filter(|entry| entry.revoked.is_some()).count(), 1);
        assert!(matches!(
            TokenFile::change(&file, |tokens| tokens.revoke(&file, "none", now)),
            Err(FileError::Unknown { .. })
        ));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn what_is_wrong_in_a_file_is_named() {
        let good = toml::to_string(&TokenFile { tokens: vec![entry(1)] }).unwrap();
        for (from, to, hint) in [
            ("a.example", "a b", "is no site"),
            ("ingest", "write", "unknown variant"),
            ("sha256 = \"", "sha256 = \"x", "sha256"),
            ("2027-11-28T10:00:00Z", "soon", "soon"),
            ("made", "maid", "unknown field"),
            ("id = \"01", "id = \"zz", "no token's id"),
        ] {
            let error = TokenFile::of(Path::new("t"), &good.replace(from, to)).expect_err(to).to_string();
            assert!(error.contains(hint), "{to}: {error}");
        }
        let twice = format!("{good}\n{good}");
        assert!(TokenFile::of(Path::new("t"), &twice).expect_err("twice").to_string().contains("twice"));
    }

    proptest! {
        #[test]
        fn any_text_is_a_file_or_an_error(text in "(\\[\\[token\\]\\]\n)?((id|sites|scopes|sha256|made) = [\"\\[a-f0-9\\]*,]{0,20}\n){0,6}") {
            let _ = TokenFile::of(Path::new("t"), &text);
        }
    }
}
