//! Sets of sequence numbers, kept small.
//!
//! Owns: what is in a set, and what two sets have in common.
//! Does not own: whose numbers they are (`coverage`).
//!
//! Numbers are kept by chunks of 64. Chunks that are full are kept as runs, of any length; one that has some of its numbers has a bit for
//! each. So a producer that gives a shard's blocks consecutive numbers costs 16 or 32 bytes, however many there are, and one whose batches reach
//! the shard now and then costs 16 bytes for 64 batches, whichever of them did.
//!
//! Invariant: parts are ascending and disjoint, runs do not touch, and no part that is no run is full or empty: equal sets are equal
//! values.

use smallvec::SmallVec;
use std::iter::from_fn;

/// Set in the number of a run's first chunk. Chunks have numbers below 2^58.
const RUN: u64 = 1 << 63;
const ALL: u64 = u64::MAX;

/// A set of sequence numbers.
///
/// What a producer usually has, a run and the chunk after it, is in place: sets are kept for as long as the process runs, while what is
/// beside them on the heap comes and goes, and each on its own might keep a page.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Numbers(SmallVec<[Part; 2]>);

/// One chunk that has some of its numbers, or a run of full ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Part {
    /// The number of the first chunk, with [`RUN`] where it is a run.
    first: u64,
    /// The bits of the chunk, or the number of the run's last one.
    rest: u64,
}

/// Consecutive chunks that are alike in each of two sets: they have these bits in the one and those in the other. Where it is more than one
/// chunk, all of them or none are set.
struct Alike {
    first: u64,
    last: u64,
    mine: u64,
    theirs: u64,
}

impl Part {
    /// Consecutive chunks with these bits. Of more than one chunk all are set.
    const fn new(first: u64, last: u64, bits: u64) -> Self {
        match bits {
            ALL => Self { first: first | RUN, rest: last },
            _ => Self { first, rest: bits },
        }
    }

    const fn is_run(self) -> bool {
        self.first & RUN != 0
    }

    const fn first(self) -> u64 {
        self.first & !RUN
    }

    const fn last(self) -> u64 {
        if self.is_run() { self.rest } else { self.first }
    }

    const fn bits(self) -> u64 {
        if self.is_run() { ALL } else { self.rest }
    }

    /// What is left of a part after a chunk.
    fn after(self, chunk: u64) -> Option<Self> {
        (chunk < self.last()).then(|| Self::new(chunk + 1, self.last(), ALL))
    }
}

const fn place(seq: u64) -> (u64, u64) {
    (seq / 64, 1 << (seq % 64))
}

impl Numbers {
    /// Adds a number. `false` where it was there already.
    pub(super) fn insert(&mut self, seq: u64) -> bool {
        let (chunk, bit) = place(seq);
        let at = self.position(chunk);
        match self.0.get_mut(at).filter(|part| part.first() <= chunk) {
            Some(part) if part.bits() & bit != 0 => return false,
            Some(part) => {
                *part = Part::new(chunk, chunk, part.bits() | bit);
                if part.is_run() {
                    self.join_around(at);
                }
            }
            None => self.0.insert(at, Part::new(chunk, chunk, bit)),
        }
        true
    }

    pub(super) fn contains(&self, seq: u64) -> bool {
        let (chunk, bit) = place(seq);
        let part = self.0.get(self.position(chunk)).filter(|part| part.first() <= chunk);
        part.is_some_and(|part| part.bits() & bit != 0)
    }

    /// How many there are; `u64::MAX` where it is all.
    pub(super) fn len(&self) -> u64 {
        let of = |part: &Part| match part.is_run() {
            true => (part.last() - part.first() + 1).saturating_mul(64),
            false => u64::from(part.bits().count_ones()),
        };
        self.0.iter().map(of).fold(0, u64::saturating_add)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn union(&self, other: &Self) -> Self {
        self.combined(other, |mine, theirs| mine | theirs)
    }

    pub(super) fn without(&self, other: &Self) -> Self {
        self.combined(other, |mine, theirs| mine & !theirs)
    }

    pub(super) fn includes(&self, other: &Self) -> bool {
        self.beside(other).all(|alike| alike.theirs & !alike.mine == 0)
    }

    pub(super) fn is_disjoint(&self, other: &Self) -> bool {
        self.beside(other).all(|alike| alike.mine & alike.theirs == 0)
    }

    /// Bytes on the heap.
    pub(super) fn heap_bytes(&self) -> usize {
        if self.0.spilled() { self.0.capacity() * size_of::<Part>() } else { 0 }
    }

    /// The numbers as inclusive ranges, ascending, that do not touch.
    pub(super) fn ranges(&self) -> Vec<(u64, u64)> {
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        let mut add = |start: u64, end: u64| match ranges.last_mut() {
            Some(last) if last.1.checked_add(1) == Some(start) => last.1 = end,
            _ => ranges.push((start, end)),
        };
        for part in &self.0 {
            let base = part.first() * 64;
            if part.is_run() {
                add(base, part.last() * 64 + 63);
                continue;
            }
            let mut bits = part.bits();
            while bits != 0 {
                let start = bits.trailing_zeros();
                let ones = (bits >> start).trailing_ones();
                add(base + u64::from(start), base + u64::from(start + ones - 1));
                // It is not all ones, or it would be a run.
                bits &= !(((1 << ones) - 1) << start);
            }
        }
        ranges
    }

    /// Adds a range that begins after all numbers of the set.
    pub(super) fn append(&mut self, start: u64, end: u64) {
        let ((first, _), (last, _)) = (place(start), place(end));
        let (from_start, to_end) = (ALL << (start % 64), ALL >> (63 - end % 64));
        if first == last {
            return self.append_bits(first, from_start & to_end);
        }
        self.append_bits(first, from_start);
        if first + 1 < last {
            self.push(Part::new(first + 1, last - 1, ALL));
        }
        self.append_bits(last, to_end);
    }

    fn append_bits(&mut self, chunk: u64, bits: u64) {
        let goes_on = self.0.last().filter(|part| part.last() == chunk && !part.is_run()).copied();
        if goes_on.is_some() {
            self.0.pop();
        }
        self.push(Part::new(chunk, chunk, goes_on.map_or(0, Part::bits) | bits));
    }

    /// Position of the first part that ends at or after a chunk.
    fn position(&self, chunk: u64) -> usize {
        // Nearly always that of the newest number, or the next one.
        match self.0.last() {
            Some(part) if part.last() < chunk => self.0.len(),
            Some(part) if part.first() <= chunk => self.0.len() - 1,
            _ => self.0.partition_point(|part| part.last() < chunk),
        }
    }

    /// A chunk has become full: it may touch runs on both sides.
    fn join_around(&mut self, at: usize) {
        let next = self.0.get(at + 1).filter(|next| next.is_run() && next.first() == self.0[at].last() + 1);
        if let Some(next) = next.copied() {
            self.0[at].rest = next.rest;
            self.0.remove(at + 1);
        }
        let before = at.checked_sub(1).and_then(|before| self.0.get(before));
        if before.is_some_and(|before| before.is_run() && before.last() + 1 == self.0[at].first()) {
            self.0[at - 1].rest = self.0[at].rest;
            self.0.remove(at);
        }
    }

    /// Adds a part after all others.
    fn push(&mut self, part: Part) {
        match self.0.last_mut() {
            Some(last) if last.is_run() && part.is_run() && last.last() + 1 == part.first() => {
                last.rest = part.rest
            }
            _ => self.0.push(part),
        }
    }

    fn combined(&self, other: &Self, combine: impl Fn(u64, u64) -> u64) -> Self {
        let mut combined = Self::default();
        for Alike { first, last, mine, theirs } in self.beside(other) {
            match combine(mine, theirs) {
                0 => {}
                bits => combined.push(Part::new(first, last, bits)),
            }
        }
        combined
    }

    /// Both sets side by side, ascending, without the chunks that neither has something of.
    fn beside(&self, other: &Self) -> impl Iterator<Item = Alike> {
        let (mut mine, mut theirs) = (self.0.iter().copied(), other.0.iter().copied());
        let (mut my_next, mut their_next) = (mine.next(), theirs.next());
        from_fn(move || {
            let first = my_next.iter().chain(&their_next).map(|part| part.first()).min()?;
            // Up to where one of them ends or begins.
            let end = |part: &Part| if part.first() == first { part.last() } else { part.first() - 1 };
            let last = my_next.iter().chain(&their_next).map(end).min()?;
            let bits_of = |next: &mut Option<Part>, rest: &mut dyn Iterator<Item = Part>| {
                let Some(part) = next.filter(|part| part.first() == first) else { return 0 };
                *next = part.after(last).or_else(|| rest.next());
                part.bits()
            };
            Some(Alike {
                first,
                last,
                mine: bits_of(&mut my_next, &mut mine),
                theirs: bits_of(&mut their_next, &mut theirs),
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// Some runs of several chunks, some numbers on their own.
    fn numbers() -> impl Strategy<Value = BTreeSet<u64>> {
        let range = prop_oneof![
            3 => (0_u64..700, 0_u64..200),
            2 => (0_u64..700, 0_u64..3),
            1 => (0_u64..11, Just(63_u64)).prop_map(|(chunk, more)| (chunk * 64, more)),
        ];
        prop::collection::vec(range, 0..8)
            .prop_map(|ranges| ranges.iter().flat_map(|&(start, more)| start..=start + more).collect())
    }

    fn set(numbers: impl IntoIterator<Item = u64>) -> Numbers {
        let mut set = Numbers::default();
        numbers.into_iter().for_each(|number| assert!(set.insert(number)));
        set
    }

    fn appended(ranges: &[(u64, u64)]) -> Numbers {
        let mut set = Numbers::default();
        ranges.iter().for_each(|&(start, end)| set.append(start, end));
        set
    }

    #[test]
    fn a_million_consecutive_numbers_are_two_parts_whatever_their_order() {
        let ascending = set(7..1_000_007);
        assert_eq!(ascending.0.len(), 3, "the first chunk, the run, the last chunk");
        assert_eq!(set((7..1_000_007).rev()), ascending);
        assert_eq!(set(0..1_000_000).0.len(), 1, "which is a multiple of 64");
    }

    #[test]
    fn numbers_here_and_there_cost_sixteen_bytes_for_sixty_four() {
        let every_third = set((0..64_000).map(|number| number * 3));
        assert_eq!(every_third.0.len(), 3_000);
        assert!(every_third.heap_bytes() < 2 * 3_000 * 16);
    }

    #[test]
    fn the_ends_of_the_number_range_are_ordinary_numbers() {
        let mut ends = Numbers::default();
        for seq in [u64::MAX, 0, u64::MAX - 1] {
            assert!(!ends.contains(seq) && ends.insert(seq) && ends.contains(seq));
            assert!(!ends.insert(seq));
        }
        assert_eq!((ends.ranges(), ends.len()), (vec![(0, 0), (u64::MAX - 1, u64::MAX)], 3));
        let whole = appended(&[(0, u64::MAX)]);
        assert_eq!((whole.ranges(), whole.len(), whole.0.len()), (vec![(0, u64::MAX)], u64::MAX, 1));
        assert!(whole.contains(u64::MAX) && whole.includes(&ends) && whole.without(&whole).is_empty());
        assert_eq!(whole.without(&ends).ranges(), [(1, u64::MAX - 2)]);
        assert_eq!(whole.without(&ends).union(&ends), whole);
    }

    proptest! {
        #[test]
        fn a_set_holds_exactly_what_was_put_into_it_in_any_order(of in numbers(), seed in any::<u64>()) {
            let mut shuffled: Vec<u64> = of.iter().copied().collect();
            shuffled.sort_by_key(|number| (number ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let mut mine = set(shuffled);
            for number in 0..1_000 {
                prop_assert_eq!(mine.contains(number), of.contains(&number));
            }
            prop_assert_eq!(mine.len(), of.len() as u64);
            prop_assert_eq!(&mine, &set(of.iter().copied()), "equal sets are equal values");
            prop_assert_eq!(&appended(&mine.ranges()), &mine);
            prop_assert!(mine.ranges().windows(2).all(|pair| pair[0].1 + 1 < pair[1].0));
            prop_assert!(of.iter().all(|&number| !mine.insert(number)));
        }

        #[test]
        fn sets_behave_as_sets(a in numbers(), b in numbers()) {
            let (mine, theirs) = (set(a.iter().copied()), set(b.iter().copied()));
            prop_assert_eq!(mine.includes(&theirs), a.is_superset(&b));
            prop_assert_eq!(mine.is_disjoint(&theirs), a.is_disjoint(&b));
            prop_assert_eq!(mine.union(&theirs), set(a.union(&b).copied()));
            prop_assert_eq!(mine.without(&theirs), set(a.difference(&b).copied()));
        }
    }
}
