//! Whose facts agree with one's own without being the same.
//!
//! Owns: the fingerprints of such facts, as far as they were told, and how many are remembered.
//! Does not own: whether facts agree (`facts`), who tells them when (`refusal`).

use std::collections::VecDeque;

/// Of how many other facts it is remembered that they agree. A cluster has two sorts of members while one is being changed into the
/// other; whoever is forgotten tells again.
const MAX_REMEMBERED: usize = 16;

/// Fingerprints of facts that agree, those first that were heard of last.
#[derive(Debug, Default)]
pub(crate) struct Agreeing(VecDeque<u64>);

impl Agreeing {
    /// Whether facts of this fingerprint are known to agree.
    pub(crate) fn includes(&mut self, fingerprint: u64) -> bool {
        let at = self.0.iter().position(|known| *known == fingerprint);
        if let Some(at) = at.filter(|at| *at > 0) {
            self.0.remove(at);
            self.0.push_front(fingerprint);
        }
        at.is_some()
    }

    /// Remembers that facts of this fingerprint agree. Whether that is new.
    pub(crate) fn remember(&mut self, fingerprint: u64) -> bool {
        if self.includes(fingerprint) {
            return false;
        }
        self.0.push_front(fingerprint);
        self.0.truncate(MAX_REMEMBERED);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fingerprint_that_was_not_heard_for_longest_is_forgotten_first() {
        let mut agreeing = Agreeing::default();
        assert!((0..16).all(|fingerprint| agreeing.remember(fingerprint)));
        assert!(agreeing.includes(0) && !agreeing.remember(3));
        assert!(agreeing.remember(16));
        assert!(!agreeing.includes(1) && agreeing.includes(0) && agreeing.includes(16));
        assert_eq!(agreeing.0.len(), MAX_REMEMBERED);
    }
}
