//! The tokens that are in force.
//!
//! Owns: finding out whose a token is, and following the file: what is made counts, and what is revoked or over ends, within
//! two seconds.
//! Does not own: the file's form (`file`), what a token allows (`caller`).

use crate::caller::Grant;
use crate::file::{FileError, TokenFile};
use crate::token::{MAX_TOKEN_BYTES, Token, TokenHash, TokenId};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tidemark_rollup::time::{Clock, EventTime};
use tidemark_shell::work;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// How often the file is looked at.
pub const LOOK: Duration = Duration::from_secs(1);

/// Why a token counts for nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refused {
    /// There is no token, or nothing that can be one.
    Missing,
    /// Nobody has such a token.
    Unknown,
    /// It was revoked.
    Revoked,
    /// Its time is up.
    Expired,
}

/// The tokens.
#[derive(Debug)]
pub struct Keyring {
    keys: RwLock<HashMap<TokenId, Key>>,
}

#[derive(Clone, Debug)]
struct Key {
    hash: TokenHash,
    expires: Option<EventTime>,
    revoked: bool,
    grant: Arc<Grant>,
}

impl Keyring {
    /// Reads the file and follows it, for as long as somebody has the value. Needs a runtime.
    ///
    /// # Errors
    /// Where the file cannot be used now.
    pub fn open(file: &Path, clock: Arc<dyn Clock>) -> Result<Arc<Self>, FileError> {
        let read = TokenFile::read(file)?;
        let keyring = Arc::new(Self { keys: RwLock::default() });
        keyring.take(&read, clock.now());
        let weak = Arc::downgrade(&keyring);
        tokio::spawn(follow(file.to_owned(), read, clock, move || weak.upgrade()));
        Ok(keyring)
    }

    /// Whose this text is.
    ///
    /// # Errors
    /// Where it counts for nothing. Why is for us to know: only who has shown a token that was one is to be told what became of it.
    pub fn check(&self, text: &str, now: EventTime) -> Result<Arc<Grant>, Refused> {
        if text.is_empty() || text.len() > MAX_TOKEN_BYTES {
            return Err(Refused::Missing);
        }
        let token = Token::parse(text).ok_or(Refused::Unknown)?;
        let key = self.keys.read().unwrap_or_else(PoisonError::into_inner).get(token.id()).cloned();
        // Also where there is none: how long it takes tells nothing.
        let is_it = key.as_ref().map_or(TokenHash::NONE, |key| key.hash).is(&token.hash());
        match key.filter(|_| is_it) {
            None => Err(Refused::Unknown),
            Some(key) if key.revoked => Err(Refused::Revoked),
            Some(key) if key.expires.is_some_and(|expires| expires <= now) => Err(Refused::Expired),
            Some(key) => Ok(key.grant),
        }
    }

    /// Takes what the file says for what counts.
    fn take(&self, file: &TokenFile, now: EventTime) {
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        let mut next = HashMap::with_capacity(file.tokens.len());
        for entry in &file.tokens {
            // Entries were checked when the file was read.
            let (Ok(sites), Ok(hash), Ok(expires)) = (entry.at(), entry.hash(), entry.expires_at()) else {
                continue;
            };
            let (id, scopes) = (entry.id.clone(), entry.scopes.clone());
            let same =
                |key: &Key| key.hash.is(&hash) && key.grant.sites == sites && key.grant.scopes == scopes;
            let grant = match keys.get(&id).filter(|key| same(key)) {
                Some(key) => Arc::clone(&key.grant),
                None => Arc::new(Grant { id: id.clone(), scopes, sites, ended: CancellationToken::new() }),
            };
            next.insert(id, Key { hash, expires, revoked: entry.revoked.is_some(), grant });
        }
        for (id, key) in &*keys {
            if next.get(id).is_none_or(|next| !Arc::ptr_eq(&next.grant, &key.grant)) {
                key.grant.ended.cancel();
            }
        }
        *keys = next;
        drop(keys);
        self.end(now);
    }

    /// Ends what is revoked or over.
    fn end(&self, now: EventTime) {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        let over = |key: &&Key| key.revoked || key.expires.is_some_and(|expires| expires <= now);
        keys.values().filter(over).for_each(|key| key.grant.ended.cancel());
    }
}

async fn follow(
    file: PathBuf,
    mut known: TokenFile,
    clock: Arc<dyn Clock>,
    keyring: impl Fn() -> Option<Arc<Keyring>>,
) {
    let mut complained: Option<String> = None;
    loop {
        sleep(LOOK).await;
        let Some(keyring) = keyring() else { return };
        let reading = file.clone();
        match work::run(move || TokenFile::read(&reading)).await {
            Ok(read) if read == known => keyring.end(clock.now()),
            Ok(read) => {
                tracing::info!(file = %file.display(), tokens = read.tokens.len(), "the tokens have changed");
                keyring.take(&read, clock.now());
                (known, complained) = (read, None);
            }
            Err(error) => {
                keyring.end(clock.now());
                if complained.as_ref() != Some(&error.to_string()) {
                    tracing::warn!(%error, "the tokens cannot be read; going on with those from before");
                    complained = Some(error.to_string());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::Entry;
    use crate::token::{RANDOM_BYTES, Scope};
    use std::sync::atomic::{AtomicI64, Ordering};

    #[derive(Debug)]
    struct Moment(AtomicI64);

    impl Clock for Moment {
        fn now(&self) -> EventTime {
            EventTime::from_unix_ms(self.0.load(Ordering::SeqCst))
        }
    }

    fn add(file: &Path, byte: u8, expires: Option<&str>) -> Token {
        let token = Token::of(&[byte; RANDOM_BYTES]);
        let entry = Entry {
            id: token.id().clone(),
            name: String::new(),
            sites: ["A.example".to_owned()].into(),
            scopes: [Scope::Query].into(),
            sha256: token.hash().to_hex(),
            made: "2026-11-28T10:00:00Z".to_owned(),
            expires: expires.map(str::to_owned),
            revoked: None,
        };
        TokenFile::change(file, |tokens| {
            tokens.tokens.push(entry);
            Ok(())
        })
        .unwrap();
        token
    }

    #[tokio::test(start_paused = true)]
    async fn tokens_count_from_when_they_are_made_until_they_are_revoked_or_over() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tokens.toml");
        let start = EventTime::parse_rfc3339("2026-11-28T10:00:00Z").unwrap();
        let clock = Arc::new(Moment(AtomicI64::new(start.as_unix_ms())));
        let first = add(&file, 1, None);
        let keyring = Keyring::open(&file, clock.clone()).unwrap();
        let now = || clock.now();
        let grant = keyring.check(first.text(), now()).unwrap();
        assert!(grant.sites.include("a.example"));

        let second = add(&file, 2, Some("2026-11-28T11:00:00Z"));
        assert_eq!(keyring.check(second.text(), now()).unwrap_err(), Refused::Unknown);
        sleep(LOOK * 2).await;
        let over = keyring.check(second.text(), now()).unwrap();
        // The first one is the same as before, for those who have it.
        assert!(Arc::ptr_eq(&grant, &keyring.check(first.text(), now()).unwrap()));

        clock.0.fetch_add(3_600_000, Ordering::SeqCst);
        assert_eq!(keyring.check(second.text(), now()).unwrap_err(), Refused::Expired);
        over.ended.cancelled().await;

        let id = first.id().to_string();
        TokenFile::change(&file, |tokens| tokens.revoke(&file, &id, now())).unwrap();
        grant.ended.cancelled().await;
        assert_eq!(keyring.check(first.text(), now()).unwrap_err(), Refused::Revoked);
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_that_cannot_be_read_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tokens.toml");
        let clock = Arc::new(Moment(AtomicI64::new(0)));
        let token = add(&file, 1, None);
        let keyring = Keyring::open(&file, clock.clone()).unwrap();
        std::fs::write(&file, "[[token").unwrap();
        sleep(LOOK * 2).await;
        assert!(keyring.check(token.text(), clock.now()).is_ok());
        std::fs::write(&file, "").unwrap();
        sleep(LOOK * 2).await;
        assert_eq!(keyring.check(token.text(), clock.now()).unwrap_err(), Refused::Unknown);
    }

    #[tokio::test]
    async fn another_secret_under_a_known_id_is_unknown() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tokens.toml");
        let clock = Arc::new(Moment(AtomicI64::new(0)));
        let token = add(&file, 1, None);
        let keyring = Keyring::open(&file, clock.clone()).unwrap();
        let mut random = [1; RANDOM_BYTES];
        random[RANDOM_BYTES - 1] = 2;
        let other = Token::of(&random);
        assert_eq!(other.id(), token.id());
        assert_eq!(keyring.check(other.text(), clock.now()).unwrap_err(), Refused::Unknown);
        assert_eq!(keyring.check("", clock.now()).unwrap_err(), Refused::Missing);
        assert_eq!(keyring.check("tmk_x", clock.now()).unwrap_err(), Refused::Unknown);
    }
}
