//! How much one sender, one site or one asker may use of something.
//!
//! Owns: the allowance of each, and what is left of it.
//! Does not own: who they are, what is counted, the reply to whoever has none left (edges, nodes, coordinators).
//!
//! Each has an allowance that fills at its rate up to a burst (a token bucket). Something is taken while there is any, and takes all
//! its amount off it, below zero if need be: so a large post is never out of reach, and is paid for afterwards. Who has as much as
//! possible is as good as unknown, so that is who is forgotten when the table is full.

use crate::time::EventTime;
use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// The rate of one, and how much may come at once after a pause.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    per_second: f64,
    burst: f64,
}

impl Rate {
    /// So much a second, and what `burst_seconds` of that are at once. `None` where `per_second` is 0, which is no limit.
    pub fn new(per_second: u64, burst_seconds: u32) -> Option<Self> {
        let per_second = per_second as f64;
        (per_second > 0.0).then(|| Self { per_second, burst: per_second * f64::from(burst_seconds) })
    }

    /// How much a second.
    pub fn per_second(self) -> u64 {
        self.per_second as u64
    }
}

#[derive(Clone, Copy, Debug)]
struct Allowance {
    left: f64,
    at: EventTime,
}

impl Allowance {
    fn full(rate: Rate, now: EventTime) -> Self {
        Self { left: rate.burst, at: now }
    }

    /// How long until something can be taken, where nothing can be now.
    fn wait(&self, rate: Rate) -> Result<(), Duration> {
        if self.left > 0.0 {
            return Ok(());
        }
        // Until a whole one is there again.
        let seconds = (1.0 - self.left) / rate.per_second;
        Err(Duration::from_secs_f64(seconds.min(3_600.0)))
    }

    /// Fills up to `now`. A clock that was set back fills nothing.
    fn fill(&mut self, rate: Rate, now: EventTime) {
        let passed_ms = now.as_unix_ms().saturating_sub(self.at.as_unix_ms()).max(0);
        self.left = (self.left + rate.per_second * passed_ms as f64 / 1_000.0).min(rate.burst);
        self.at = now;
    }
}

/// Sites that may use several times what others may.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Multiples(HashMap<String, NonZeroU32>);

impl Multiples {
    /// Of these sites.
    pub fn new(of: impl IntoIterator<Item = (String, NonZeroU32)>) -> Self {
        Self(of.into_iter().collect())
    }

    /// How many times what others may: 1 where nothing is said of the site.
    pub fn of(&self, site: &str) -> NonZeroU32 {
        self.0.get(site).copied().unwrap_or(NonZeroU32::MIN)
    }
}

/// The allowances of all who sent lately; at most so many.
#[derive(Debug)]
pub struct Rates<K> {
    rate: Option<Rate>,
    most: usize,
    table: Mutex<Table<K>>,
}

#[derive(Debug)]
struct Table<K> {
    known: HashMap<K, Allowance>,
    /// Shared by all who do not fit: a flood from ever new addresses is one client.
    others: Option<Allowance>,
    swept: EventTime,
}

/// How often the table is looked through for those who can be forgotten.
const SWEEP_EVERY_MS: i64 = 1_000;

impl<K: Hash + Eq> Rates<K> {
    /// Of at most `most` at a time.
    pub fn new(rate: Option<Rate>, most: usize) -> Self {
        let table = Table { known: HashMap::new(), others: None, swept: EventTime::EPOCH };
        Self { rate, most, table: Mutex::new(table) }
    }

    /// The rate of each; `None` where there is no limit.
    pub fn rate(&self) -> Option<Rate> {
        self.rate
    }

    /// Takes `amount` off the allowance of `who`.
    ///
    /// # Errors
    /// How long until there is some again. Nothing was taken off.
    pub fn take<Q>(&self, who: &Q, amount: f64, now: EventTime) -> Result<(), Duration>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        self.with(who, now, |allowance, rate| {
            allowance.wait(rate)?;
            allowance.left -= amount;
            Ok(())
        })
    }

    /// Whether something can be taken now; nothing is.
    ///
    /// # Errors
    /// How long until something can be.
    pub fn check<Q>(&self, who: &Q, now: EventTime) -> Result<(), Duration>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        self.with(who, now, |allowance, rate| allowance.wait(rate))
    }

    /// Takes `amount` off whether or not there is any: what was used already.
    pub fn charge<Q>(&self, who: &Q, amount: f64, now: EventTime)
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        // There is nothing that could fail.
        _ = self.with(who, now, |allowance, _| {
            allowance.left -= amount;
            Ok(())
        });
    }

    fn with<Q>(
        &self,
        who: &Q,
        now: EventTime,
        act: impl FnOnce(&mut Allowance, Rate) -> Result<(), Duration>,
    ) -> Result<(), Duration>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        let Some(rate) = self.rate else { return Ok(()) };
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let allowance = table.of(who, rate, self.most, now);
        allowance.fill(rate, now);
        act(allowance, rate)
    }

    /// How many are known.
    #[cfg(test)]
    fn known(&self) -> usize {
        self.table.lock().unwrap().known.len()
    }
}

impl<K: Hash + Eq> Table<K> {
    fn of<Q>(&mut self, who: &Q, rate: Rate, most: usize, now: EventTime) -> &mut Allowance
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        if !self.known.contains_key(who) {
            if self.known.len() >= most {
                self.sweep(rate, now);
            }
            if self.known.len() >= most {
                return self.others.get_or_insert_with(|| Allowance::full(rate, now));
            }
            // Only who is new costs a copy of the name.
            self.known.insert(who.to_owned(), Allowance::full(rate, now));
        }
        let Self { known, others, .. } = self;
        match known.get_mut(who) {
            Some(allowance) => allowance,
            None => others.get_or_insert_with(|| Allowance::full(rate, now)),
        }
    }

    fn sweep(&mut self, rate: Rate, now: EventTime) {
        let since_ms = now.as_unix_ms().saturating_sub(self.swept.as_unix_ms());
        if (0..SWEEP_EVERY_MS).contains(&since_ms) {
            return;
        }
        self.swept = now;
        self.known.retain(|_, allowance| {
            allowance.fill(rate, now);
            allowance.left < rate.burst
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn at(ms: i64) -> EventTime {
        EventTime::from_unix_ms(1_700_000_000_000 + ms)
    }

    fn rates(per_second: u64, burst_seconds: u32, most: usize) -> Rates<u32> {
        Rates::new(Rate::new(per_second, burst_seconds), most)
    }

    #[test]
    fn a_burst_is_taken_and_then_as_much_as_the_rate_says() {
        let rates = rates(10, 2, 100);
        let taken = (0..100).filter(|_| rates.take(&1, 1.0, at(0)).is_ok()).count();
        assert_eq!(taken, 20);
        let taken = (0..1_000).filter(|&tenth| rates.take(&1, 1.0, at(10 * tenth)).is_ok()).count();
        assert!((99..=101).contains(&taken), "{taken}");
    }

    #[test]
    fn others_notice_nothing_of_one_who_floods() {
        let rates = rates(10, 2, 100);
        while rates.take(&1, 1.0, at(0)).is_ok() {}
        assert_eq!(rates.take(&2, 20.0, at(0)), Ok(()));
    }

    #[test]
    fn a_large_post_is_taken_once_and_paid_for_afterwards() {
        let rates = rates(10, 2, 100);
        assert_eq!(rates.take(&1, 120.0, at(0)), Ok(()));
        let wait = rates.take(&1, 1.0, at(0)).unwrap_err();
        assert_eq!(wait, Duration::from_millis(10_100));
        assert!(rates.take(&1, 1.0, at(9_900)).is_err());
        assert_eq!(rates.take(&1, 1.0, at(10_100)), Ok(()));
    }

    #[test]
    fn a_full_table_forgets_who_is_at_rest_and_takes_the_others_for_one() {
        let rates = rates(10, 2, 3);
        (1..=3).for_each(|who| rates.take(&who, 5.0, at(0)).unwrap());
        // All three are known; the next ones share what one may send.
        (4..=23).for_each(|who| rates.take(&who, 1.0, at(0)).unwrap());
        assert!(rates.take(&24, 1.0, at(0)).is_err());
        assert_eq!(rates.take(&1, 1.0, at(0)), Ok(()), "who is known goes on");
        assert_eq!(rates.known(), 3);
        assert_eq!(rates.take(&25, 1.0, at(2_000)), Ok(()));
        assert_eq!(rates.known(), 1, "the three had rested");
    }

    #[test]
    fn without_a_rate_there_is_no_limit() {
        let rates = rates(0, 2, 1);
        assert!((0..10_000).all(|who| rates.take(&who, 1_000.0, at(0)).is_ok()));
        assert_eq!(rates.known(), 0);
    }

    proptest! {
        #[test]
        fn whatever_the_clock_does_no_more_is_taken_than_burst_and_rate_allow(steps in prop::collection::vec(-500..2_000_i64, 1..200)) {
            let rates = rates(5, 2, 4);
            let (mut now, mut forward, mut taken) = (0, 0, 0_i64);
            for step in steps {
                now += step;
                forward += step.max(0);
                taken += i64::from(rates.take(&1, 1.0, at(now)).is_ok());
            }
            prop_assert!(taken * 1_000 <= 10_000 + 1_000 + 5 * forward, "{taken} within {forward} ms");
        }
    }
}
