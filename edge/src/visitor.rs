//! Who a visitor is, without keeping who they are.
//!
//! Owns: the hash that stands for a visitor, and the salts it is made with.
//! Does not own: addresses and user agents, which come in and are not kept.
//!
//! Invariants:
//! * Without the salt nobody can find out whose hash it is, and the salt of a day is gone when the day is over.
//! * The salt of a day is the same after a restart, as long as the folder lasts.

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use std::fs;
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tidemark_rollup::time::EventTime;

const MS_PER_DAY: i64 = 86_400_000;
const SALT_BYTES: usize = 32;
/// The file of the day's salt, in the edge's folder.
const FILE: &str = "salt";

/// How visitors are told apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VisitorMode {
    /// By address and user agent, with another salt each day (of UTC): who comes back tomorrow is somebody else.
    Daily {
        /// What days' salts are made of, so that several edges have the same. Without it each edge draws its own at random, and
        /// nobody can make it again.
        key: Option<String>,
    },
    /// By address and user agent, with this key for ever: who comes back is known again, to whoever has the key.
    Fixed {
        /// The key; the same on all edges.
        key: String,
    },
    /// Not at all: only visitors that events name count.
    None,
}

/// Draws random bytes.
pub type Entropy = Arc<dyn Fn(&mut [u8]) -> io::Result<()> + Send + Sync>;

/// Hashes visitors.
pub(crate) struct Visitors {
    mode: VisitorMode,
    entropy: Entropy,
    file: PathBuf,
    today: Mutex<Option<Salt>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Salt {
    /// Days since the Unix epoch.
    day: i64,
    bytes: [u8; SALT_BYTES],
}

impl Visitors {
    /// With the salt that is in `folder`, where it is of today.
    pub(crate) fn new(mode: VisitorMode, folder: &Path, entropy: Entropy) -> Self {
        let file = folder.join(FILE);
        let today = Mutex::new(read(&file));
        Self { mode, entropy, file, today }
    }

    /// The hash of a visitor of a site; 0, which is nobody, where visitors are not told apart.
    ///
    /// # Errors
    /// Where a salt has to be drawn and the system has no randomness.
    pub(crate) fn hash(&self, site: &str, address: IpAddr, agent: &[u8], now: EventTime) -> io::Result<u64> {
        let salt = match &self.mode {
            VisitorMode::None => return Ok(0),
            VisitorMode::Fixed { key } => keyed(key.as_bytes(), &[b"tidemark visitors"]),
            VisitorMode::Daily { key: Some(key) } => {
                keyed(key.as_bytes(), &[b"tidemark day", &day_of(now).to_be_bytes()])
            }
            VisitorMode::Daily { key: None } => self.salt(now)?,
        };
        let address = match address.to_canonical() {
            IpAddr::V4(address) => u128::from(address.to_bits()),
            IpAddr::V6(address) => address.to_bits(),
        };
        let hash = keyed(&salt, &[site.as_bytes(), &address.to_be_bytes(), agent]);
        let [first, ..] = hash.as_chunks::<8>().0 else { return Ok(0) };
        Ok(u64::from_be_bytes(*first).max(1))
    }

    /// Forgets the salt of a day that is over, also where nobody comes.
    pub(crate) fn turn(&self, now: EventTime) {
        let mut today = self.today.lock().unwrap_or_else(PoisonError::into_inner);
        if today.is_some_and(|salt| !is_of(salt.day, now)) {
            *today = None;
            if let Err(error) = fs::remove_file(&self.file).or_else(absent_is_fine) {
                tracing::warn!(file = %self.file.display(), %error, "the salt of a day that is over cannot be deleted");
            }
        }
    }

    fn salt(&self, now: EventTime) -> io::Result<[u8; SALT_BYTES]> {
        let mut today = self.today.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(salt) = today.filter(|salt| is_of(salt.day, now)) {
            return Ok(salt.bytes);
        }
        let mut bytes = [0; SALT_BYTES];
        (self.entropy)(&mut bytes)?;
        let salt = Salt { day: day_of(now), bytes };
        *today = Some(salt);
        if let Err(error) = write(&self.file, &salt) {
            // Visitors are told apart all the same, until a restart.
            tracing::warn!(file = %self.file.display(), %error, "the day's salt cannot be kept: a restart will draw another one");
        }
        Ok(bytes)
    }
}

fn absent_is_fine(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

fn day_of(now: EventTime) -> i64 {
    now.as_unix_ms().div_euclid(MS_PER_DAY)
}

/// Whether a salt of `day` is good `now`. A clock that is set back over midnight by a little does not draw another one.
fn is_of(day: i64, now: EventTime) -> bool {
    let today = day_of(now);
    let early = today + 1 == day && now.as_unix_ms().rem_euclid(MS_PER_DAY) > MS_PER_DAY - 3_600_000;
    day == today || early
}

/// HMAC-SHA-256. Each part is preceded by its length, so that no two lists of parts are the same bytes.
fn keyed(key: &[u8], parts: &[&[u8]]) -> [u8; SALT_BYTES] {
    // A key may have any length.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { return [0; SALT_BYTES] };
    for part in parts {
        mac.update(&(part.len() as u64).to_be_bytes());
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

/// The salt that a file holds; `None` where there is none, or it is no salt.
fn read(file: &Path) -> Option<Salt> {
    let bytes = fs::read(file).ok()?;
    let (day, bytes) = bytes.split_first_chunk::<8>()?;
    Some(Salt { day: i64::from_be_bytes(*day), bytes: bytes.try_into().ok()? })
}

/// Puts the file in the place of the one of yesterday; only its owner may read it.
fn write(file: &Path, salt: &Salt) -> io::Result<()> {
    let new = file.with_extension("new");
    fs::remove_file(&new).or_else(absent_is_fine)?;
    let mut out = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    out.write_all(&salt.day.to_be_bytes())?;
    out.write_all(&salt.bytes)?;
    out.sync_all()?;
    fs::rename(&new, file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;
    use std::sync::atomic::{AtomicU8, Ordering};

    const DAY: EventTime = EventTime::from_unix_ms(20_000 * MS_PER_DAY);
    const ADDRESS: &str = "203.0.113.7";

    /// Draws another text of bytes each time.
    fn entropy() -> Entropy {
        let next = AtomicU8::new(1);
        Arc::new(move |bytes| {
            bytes.fill(next.fetch_add(1, Ordering::Relaxed));
            Ok(())
        })
    }

    fn daily(folder: &Path, entropy: &Entropy) -> Visitors {
        Visitors::new(VisitorMode::Daily { key: None }, folder, Arc::clone(entropy))
    }

    fn at(visitors: &Visitors, site: &str, address: &str, agent: &str, now: EventTime) -> u64 {
        visitors.hash(site, address.parse().unwrap(), agent.as_bytes(), now).unwrap()
    }

    fn later(ms: i64) -> EventTime {
        EventTime::from_unix_ms(DAY.as_unix_ms() + ms)
    }

    #[test]
    fn a_visitor_is_the_same_all_day_and_somebody_else_tomorrow_on_another_site_or_from_elsewhere() {
        let folder = tempfile::tempdir().unwrap();
        let visitors = daily(folder.path(), &entropy());
        let today = at(&visitors, "a.example", ADDRESS, "agent", DAY);
        assert_eq!(at(&visitors, "a.example", ADDRESS, "agent", later(MS_PER_DAY - 1)), today);
        for other in [
            at(&visitors, "b.example", ADDRESS, "agent", DAY),
            at(&visitors, "a.example", "203.0.113.8", "agent", DAY),
            at(&visitors, "a.example", ADDRESS, "another", DAY),
            at(&visitors, "a.example", ADDRESS, "agent", later(MS_PER_DAY)),
        ] {
            assert_ne!(other, today);
            assert_ne!(other, 0);
        }
    }

    #[test]
    fn a_restart_keeps_the_salt_in_a_file_of_its_owner_alone_and_it_is_gone_when_the_day_is_over() {
        let (folder, entropy) = (tempfile::tempdir().unwrap(), entropy());
        let file = folder.path().join(FILE);
        let before = at(&daily(folder.path(), &entropy), "a.example", ADDRESS, "agent", DAY);
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        let restarted = daily(folder.path(), &entropy);
        assert_eq!(at(&restarted, "a.example", ADDRESS, "agent", DAY), before);
        restarted.turn(later(MS_PER_DAY - 1));
        assert!(file.exists());
        restarted.turn(later(MS_PER_DAY));
        assert!(!file.exists());
        assert_ne!(at(&restarted, "a.example", ADDRESS, "agent", DAY), before, "nobody can make it again");
    }

    #[test]
    fn a_file_that_is_no_salt_and_a_folder_that_is_not_there_cost_no_event() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(FILE), "short").unwrap();
        assert_ne!(at(&daily(folder.path(), &entropy()), "a.example", ADDRESS, "agent", DAY), 0);
        assert_ne!(
            at(&daily(&folder.path().join("absent"), &entropy()), "a.example", ADDRESS, "agent", DAY),
            0
        );
    }

    #[test]
    fn a_clock_that_is_set_back_a_little_over_midnight_draws_no_other_salt() {
        let folder = tempfile::tempdir().unwrap();
        let visitors = daily(folder.path(), &entropy());
        let midnight = at(&visitors, "a.example", ADDRESS, "agent", DAY);
        visitors.turn(later(-1_000));
        assert_eq!(at(&visitors, "a.example", ADDRESS, "agent", later(-1_000)), midnight);
    }

    #[test]
    fn with_a_key_several_edges_know_the_same_visitors_by_the_day_or_for_ever() {
        let key = "sixteen characters".to_owned();
        let folder = tempfile::tempdir().unwrap();
        let of = |mode: VisitorMode, now| {
            at(&Visitors::new(mode, folder.path(), entropy()), "a.example", ADDRESS, "agent", now)
        };
        let daily = VisitorMode::Daily { key: Some(key.clone()) };
        assert_eq!(of(daily.clone(), DAY), of(daily.clone(), later(5)));
        assert_ne!(of(daily.clone(), DAY), of(daily, later(MS_PER_DAY)));
        let fixed = VisitorMode::Fixed { key };
        assert_eq!(of(fixed.clone(), DAY), of(fixed, later(400 * MS_PER_DAY)));
        assert_eq!(of(VisitorMode::None, DAY), 0);
    }
}
