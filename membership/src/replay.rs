//! Which datagrams of a sender were seen.
//!
//! Owns: one sliding window per life of a sender.
//! Does not own: seals (`seal`).
//!
//! A datagram counts once, if it is among the latest 128 of its sender. Only so many senders are remembered, the latest ones:
//! a datagram of one that was forgotten, or of before this member began, passes; what it says is then old to `foca`, whose
//! incarnations only grow.

use std::collections::BTreeMap;

/// Tells one life of a sender from all others.
pub(crate) type Start = [u8; 16];

/// How many senders are remembered.
pub(crate) const MAX_SENDERS: usize = 1024;

/// The latest datagrams of a sender. Bit `n` stands for the one `n` before the latest.
#[derive(Clone, Copy, Debug)]
struct Window {
    latest: u64,
    seen: u128,
    used: u64,
}

impl Window {
    fn admits(&mut self, number: u64) -> bool {
        if number > self.latest {
            let step = number - self.latest;
            self.seen =
                u32::try_from(step).ok().and_then(|step| self.seen.checked_shl(step)).unwrap_or(0) | 1;
            self.latest = number;
            return true;
        }
        let back = self.latest - number;
        let bit = u32::try_from(back).ok().and_then(|back| 1_u128.checked_shl(back)).unwrap_or(0);
        let fresh = bit != 0 && self.seen & bit == 0;
        self.seen |= bit;
        fresh
    }
}

/// The windows of all senders.
#[derive(Debug, Default)]
pub(crate) struct Windows {
    windows: BTreeMap<Start, Window>,
    /// By when they were used.
    order: BTreeMap<u64, Start>,
    uses: u64,
}

impl Windows {
    /// Whether this is the first time; from now on it is not. Ask only for datagrams whose seal is good.
    pub(crate) fn admits(&mut self, start: Start, number: u64) -> bool {
        self.uses += 1;
        let new = Window { latest: number, seen: 0, used: self.uses };
        let window = self.windows.entry(start).or_insert(new);
        let fresh = window.admits(number);
        self.order.remove(&window.used);
        window.used = self.uses;
        self.order.insert(self.uses, start);
        if self.windows.len() > MAX_SENDERS
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.windows.remove(&oldest);
        }
        fresh
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn what_is_older_than_the_window_is_refused() {
        let mut windows = Windows::default();
        assert!(windows.admits([0; 16], 1000));
        assert!(windows.admits([0; 16], 1000 - 127));
        assert!(!windows.admits([0; 16], 1000 - 128));
        assert!(windows.admits([0; 16], u64::MAX));
        assert!(!windows.admits([0; 16], 1001));
    }

    #[test]
    fn senders_do_not_stand_in_one_anothers_way_and_only_so_many_are_remembered() {
        let mut windows = Windows::default();
        for sender in 0..=MAX_SENDERS as u64 + 10 {
            let mut start = [0; 16];
            start[..8].copy_from_slice(&sender.to_le_bytes());
            assert!(windows.admits(start, 0));
            assert!(windows.admits([255; 16], sender), "one that is used is not forgotten");
        }
        assert_eq!((windows.windows.len(), windows.order.len()), (MAX_SENDERS, MAX_SENDERS));
        assert!(!windows.admits([255; 16], 3));
    }

    proptest! {
        #[test]
        fn no_number_passes_twice_and_recent_ones_pass_once(numbers in proptest::collection::vec(0_u64..400, 1..400)) {
            let (mut windows, mut seen, mut latest) = (Windows::default(), BTreeSet::new(), 0);
            for number in numbers {
                let recent = seen.is_empty() || number + 128 > latest;
                latest = latest.max(number);
                let fresh = seen.insert(number);
                prop_assert_eq!(windows.admits([1; 16], number), fresh && recent);
            }
        }
    }
}
