//! Distinct visitors.
//!
//! Owns: a mergeable set of 64-bit hashes that counts its members: exactly up to [`EXACT_MAX`], by HyperLogLog
//! beyond.
//! Does not own: hashing visitors.
//!
//! Invariants:
//! * The value is a function of the set of hashes inserted: order, repetition and the way of merging do not matter.
//! * Small sets stay small: one hash needs no heap, registers exist only beyond `EXACT_MAX` hashes.
//!
//! Sources: Flajolet et al., "HyperLogLog" (2007), for the registers; Ertl, "New cardinality estimation algorithms
//! for HyperLogLog sketches" (2017), algorithm 6, for the estimate, which needs no bias tables and no threshold.

use crate::wire::{put_varint, take_varint};
use smallvec::{SmallVec, smallvec};

/// Up to so many hashes are kept as they are, and counted exactly: as many as take the room of the registers.
pub const EXACT_MAX: usize = REGISTERS / size_of::<u64>();
/// Bits of a hash that choose the register.
const PRECISION: u32 = 14;
/// How many registers there are: one byte each.
const REGISTERS: usize = 1 << PRECISION;
/// The largest value of a register.
const MAX_RANK: usize = 64 - PRECISION as usize + 1;
/// So many hashes are in one piece with their number, of 32 bytes.
const NEAR_MAX: usize = 3;
/// Standard error of the estimate: 1.04 / sqrt(2^14).
pub const STANDARD_ERROR: f64 = 0.0081;

/// A set of hashes that counts its members.
#[derive(Debug, Default, PartialEq, Eq)]
pub enum Unique {
    /// Nobody.
    #[default]
    Empty,
    /// One hash.
    One(u64),
    /// 2 to [`EXACT_MAX`] hashes, ascending.
    // Boxed to keep the enum at 16 bytes: a rollup has one for each row, and nearly all hold one hash.
    Exact(Box<SmallVec<[u64; NEAR_MAX]>>),
    /// More: the registers.
    Registers(Box<[u8; REGISTERS]>),
}

const _: () = assert!(size_of::<Unique>() == 16);
const _: () = assert!(size_of::<SmallVec<[u64; NEAR_MAX]>>() == 32);

/// By hand: `SmallVec`'s own copies one by one, into room for the next power of two.
impl Clone for Unique {
    fn clone(&self) -> Self {
        match self {
            Self::Empty => Self::Empty,
            Self::One(hash) => Self::One(*hash),
            Self::Exact(hashes) => Self::Exact(Box::new(SmallVec::from_slice(hashes))),
            Self::Registers(registers) => Self::Registers(registers.clone()),
        }
    }
}

impl Unique {
    /// Adds a hash. Its high bits must be as good as its low ones.
    pub fn insert(&mut self, hash: u64) {
        match self {
            Self::Registers(registers) => observe(registers, hash),
            Self::Empty => *self = Self::One(hash),
            Self::One(only) if *only == hash => {}
            Self::One(only) => {
                *self = Self::Exact(Box::new(smallvec![hash.min(*only), hash.max(*only)]));
            }
            Self::Exact(hashes) => {
                let Err(at) = hashes.binary_search(&hash) else { return };
                if hashes.len() < EXACT_MAX {
                    hashes.insert(at, hash);
                } else {
                    let mut registers = registers_of(hashes);
                    observe(&mut registers, hash);
                    *self = Self::Registers(registers);
                }
            }
        }
    }

    /// Adds everything that `other` holds.
    pub fn merge(&mut self, other: &Self) {
        match (&mut *self, other) {
            (_, Self::Empty) => {}
            (_, Self::One(hash)) => self.insert(*hash),
            (Self::Registers(mine), Self::Registers(theirs)) => {
                for (mine, theirs) in mine.iter_mut().zip(theirs.iter()) {
                    *mine = (*mine).max(*theirs);
                }
            }
            (Self::Registers(mine), Self::Exact(hashes)) => {
                hashes.iter().for_each(|&hash| observe(mine, hash))
            }
            (Self::Empty, _) => *self = other.clone(),
            (Self::One(_) | Self::Exact(_), Self::Registers(theirs)) => {
                let mut registers = theirs.clone();
                self.exact().iter().for_each(|&hash| observe(&mut registers, hash));
                *self = Self::Registers(registers);
            }
            (Self::One(_) | Self::Exact(_), Self::Exact(theirs)) => {
                *self = Self::from_ascending(union(self.exact(), theirs))
            }
        }
    }

    /// How many distinct hashes there are: exact up to [`EXACT_MAX`], estimated beyond.
    pub fn count(&self) -> u64 {
        match self {
            Self::Empty => 0,
            Self::One(_) => 1,
            Self::Exact(hashes) => hashes.len() as u64,
            Self::Registers(registers) => estimate(registers).round() as u64,
        }
    }

    /// Whether [`count`](Self::count) estimates.
    pub fn is_estimated(&self) -> bool {
        matches!(self, Self::Registers(_))
    }

    /// Bytes on the heap.
    pub fn heap_bytes(&self) -> usize {
        match self {
            Self::Empty | Self::One(_) => 0,
            Self::Exact(hashes) => {
                let beside = if hashes.spilled() { hashes.capacity() * size_of::<u64>() } else { 0 };
                size_of_val(&**hashes) + beside
            }
            Self::Registers(_) => REGISTERS,
        }
    }

    /// Appends the set's bytes: equal sets have equal bytes.
    ///
    /// A varint n up to [`EXACT_MAX`] and n hashes, ascending, 8 bytes little-endian each; or one more than that and all
    /// registers; or two more than that, a varint n, and n times the distance to the next set register (varint) and its value (a byte), where that
    /// is shorter.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let Self::Registers(registers) = self else {
            let hashes = self.exact();
            put_varint(hashes.len() as u64, out);
            hashes.iter().for_each(|hash| out.extend(hash.to_le_bytes()));
            return;
        };
        let set = registers.iter().filter(|&&rank| rank > 0).count();
        // Distances take one or two bytes; two and the value at most.
        if set * 3 >= REGISTERS {
            put_varint(ENCODED_DENSE, out);
            out.extend(registers.iter());
            return;
        }
        put_varint(ENCODED_SPARSE, out);
        put_varint(set as u64, out);
        let mut next = 0;
        for (slot, &rank) in registers.iter().enumerate().filter(|&(_, &rank)| rank > 0) {
            put_varint((slot - next) as u64, out);
            out.push(rank);
            next = slot + 1;
        }
    }

    /// Reads what [`encode`](Self::encode) wrote; `None` for anything else.
    pub fn decode(mut input: &[u8]) -> Option<Self> {
        let tag = take_varint(&mut input)?;
        let decoded = match tag {
            ENCODED_DENSE => {
                let (registers, rest) = input.split_at_checked(REGISTERS)?;
                input = rest;
                let registers: Box<[u8; REGISTERS]> =
                    registers.to_vec().into_boxed_slice().try_into().ok()?;
                Self::Registers(registers)
            }
            ENCODED_SPARSE => Self::Registers(decode_sparse(&mut input)?),
            len => {
                let len = usize::try_from(len).ok().filter(|&len| len <= EXACT_MAX)?;
                let (hashes, rest) = input.split_at_checked(len * 8)?;
                input = rest;
                let hashes: Vec<u64> =
                    hashes.as_chunks::<8>().0.iter().map(|&hash| u64::from_le_bytes(hash)).collect();
                if !hashes.is_sorted_by(|a, b| a < b) {
                    return None;
                }
                Self::from_ascending(hashes)
            }
        };
        let valid = match &decoded {
            Self::Registers(registers) => registers.iter().all(|&rank| usize::from(rank) <= MAX_RANK),
            _ => true,
        };
        (input.is_empty() && valid).then_some(decoded)
    }

    /// Adds hashes in any order, none of which are left.
    fn take_in(&mut self, more: &mut Vec<u64>) {
        if let Self::Registers(registers) = self {
            more.drain(..).for_each(|hash| observe(registers, hash));
            return;
        }
        more.sort_unstable();
        more.dedup();
        *self = Self::from_ascending(union(self.exact(), more));
        more.clear();
        if let Self::Registers(_) = self {
            // Nothing waits for it any more.
            more.shrink_to_fit();
        }
    }

    fn exact(&self) -> &[u64] {
        match self {
            Self::One(hash) => std::slice::from_ref(hash),
            Self::Exact(hashes) => hashes,
            Self::Empty | Self::Registers(_) => &[],
        }
    }

    fn from_ascending(hashes: Vec<u64>) -> Self {
        match hashes.len() {
            0 => Self::Empty,
            1 => Self::One(hashes[0]),
            // Also where the list has room for more.
            len if len <= NEAR_MAX => Self::Exact(Box::new(SmallVec::from_slice(&hashes))),
            len if len <= EXACT_MAX => Self::Exact(Box::new(hashes.into())),
            _ => Self::Registers(registers_of(&hashes)),
        }
    }
}

/// From so many hashes on, putting one where it belongs among them costs more than letting it wait.
const WAITS_FROM: usize = 16;
/// So many wait for a set, at most: if no two are the same, it is too large to be exact then.
const WAIT_MAX: usize = 2 * EXACT_MAX;
/// Of a set that is not that large, so many times as many as it has: room is for what comes anew, and what comes again has none for long.
const WAIT_SHARE: usize = 4;

/// Hashes on their way into large sets of a column, which take many at once: one by one, each would move half of those that are
/// there. The sets have all of them only when the column is finished.
#[derive(Debug, Default)]
pub struct Waiting {
    /// By row: one more than where in `by_slot` what waits for it is; 0 where nothing ever did.
    slots: Vec<u32>,
    /// Rows, and what waits for each.
    by_slot: Vec<(u32, Vec<u64>)>,
}

impl Waiting {
    /// Adds a hash to the set of this row, now or later.
    pub(crate) fn insert(&mut self, sets: &mut [Unique], row: u32, hash: u64) {
        match &mut sets[row as usize] {
            Unique::Exact(hashes) if hashes.len() >= WAITS_FROM => self.wait(sets, row, &[hash]),
            set => set.insert(hash),
        }
    }

    /// Adds what `other` holds to the set of this row, now or later.
    pub(crate) fn merge(&mut self, sets: &mut [Unique], row: u32, other: &Unique) {
        match (&mut sets[row as usize], other) {
            (_, Unique::One(hash)) => self.insert(sets, row, *hash),
            (Unique::Exact(hashes), Unique::Exact(others)) if hashes.len() >= WAITS_FROM => {
                self.wait(sets, row, others);
            }
            (set, other) => set.merge(other),
        }
    }

    /// Adds what all `others` hold to the set of this row, now or later.
    pub(crate) fn merge_into_one(&mut self, sets: &mut [Unique], row: u32, others: &[Unique]) {
        let mut hashes = Vec::new();
        for other in others {
            match other {
                Unique::One(hash) => hashes.push(*hash),
                other => self.merge(sets, row, other),
            }
            if hashes.len() == WAIT_MAX {
                sets[row as usize].take_in(&mut hashes);
            }
        }
        match &mut sets[row as usize] {
            _ if hashes.is_empty() => {}
            // Of many tables with little each, what is there already is not to be gone through each time.
            Unique::Exact(there) if there.len() >= WAITS_FROM => self.wait(sets, row, &hashes),
            set => set.take_in(&mut hashes),
        }
    }

    fn wait(&mut self, sets: &mut [Unique], row: u32, hashes: &[u64]) {
        if self.slots.len() < sets.len() {
            self.slots.resize(sets.len(), 0);
        }
        let slot = &mut self.slots[row as usize];
        if *slot == 0 {
            self.by_slot.push((row, Vec::new()));
            *slot = self.by_slot.len() as u32;
        }
        let (_, waiting) = &mut self.by_slot[*slot as usize - 1];
        waiting.extend_from_slice(hashes);
        let set = &mut sets[row as usize];
        if waiting.len() >= WAIT_MAX.min(WAIT_SHARE * set.exact().len()) {
            set.take_in(waiting);
        }
    }

    /// Adds all that wait.
    pub(crate) fn finish(&mut self, sets: &mut [Unique]) {
        self.slots.clear();
        for (row, mut waiting) in self.by_slot.drain(..) {
            sets[row as usize].take_in(&mut waiting);
        }
    }
}

const ENCODED_DENSE: u64 = EXACT_MAX as u64 + 1;
const ENCODED_SPARSE: u64 = EXACT_MAX as u64 + 2;

fn decode_sparse(input: &mut &[u8]) -> Option<Box<[u8; REGISTERS]>> {
    let set = take_varint(input)?;
    let mut registers = Box::new([0; REGISTERS]);
    let mut next = 0_usize;
    for _ in 0..set {
        let slot = next.checked_add(usize::try_from(take_varint(input)?).ok()?)?;
        let (&rank, rest) = input.split_first()?;
        *input = rest;
        *registers.get_mut(slot)? = rank;
        next = slot + 1;
    }
    Some(registers)
}

fn union(a: &[u64], b: &[u64]) -> Vec<u64> {
    let mut merged = Vec::with_capacity(a.len() + b.len());
    let (mut a, mut b) = (a.iter().copied().peekable(), b.iter().copied().peekable());
    loop {
        let next = match (a.peek(), b.peek()) {
            (Some(x), Some(y)) => *x.min(y),
            (Some(x), None) => *x,
            (None, Some(y)) => *y,
            (None, None) => return merged,
        };
        merged.push(next);
        a.next_if_eq(&next);
        b.next_if_eq(&next);
    }
}

fn registers_of(hashes: &[u64]) -> Box<[u8; REGISTERS]> {
    let mut registers = Box::new([0; REGISTERS]);
    hashes.iter().for_each(|&hash| observe(&mut registers, hash));
    registers
}

fn observe(registers: &mut [u8; REGISTERS], hash: u64) {
    let slot = (hash >> (64 - PRECISION)) as usize;
    // The guard bit bounds the rank where all remaining bits are zero.
    let rank = ((hash << PRECISION) | (1 << (PRECISION - 1))).leading_zeros() as u8 + 1;
    registers[slot] = registers[slot].max(rank);
}

/// Ertl's improved estimator.
fn estimate(registers: &[u8; REGISTERS]) -> f64 {
    let mut histogram = [0_u32; MAX_RANK + 1];
    registers.iter().for_each(|&rank| histogram[usize::from(rank)] += 1);
    let m = REGISTERS as f64;
    let mut z = m * tau(1.0 - f64::from(histogram[MAX_RANK]) / m);
    for &count in histogram[1..MAX_RANK].iter().rev() {
        z = 0.5 * (z + f64::from(count));
    }
    z += m * sigma(f64::from(histogram[0]) / m);
    m * m / (2.0 * std::f64::consts::LN_2 * z)
}

fn sigma(mut x: f64) -> f64 {
    if x == 1.0 {
        return f64::INFINITY;
    }
    let (mut y, mut z) = (1.0, x);
    loop {
        x *= x;
        let previous = z;
        z += x * y;
        y += y;
        if z == previous {
            return z;
        }
    }
}

fn tau(mut x: f64) -> f64 {
    if x == 0.0 || x == 1.0 {
        return 0.0;
    }
    let (mut y, mut z) = (1.0, 1.0 - x);
    loop {
        x = x.sqrt();
        let previous = z;
        y *= 0.5;
        z -= (1.0 - x).powi(2) * y;
        if z == previous {
            return z / 3.0;
        }
    }
}

#[cfg(test)]
mod tests;
