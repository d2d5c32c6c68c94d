//! Posts that came lately, so that one that is sent again counts once.
//!
//! Owns: the names of the last posts that had one, and what became of them.
//! Does not own: the names, which senders give.
//!
//! A browser that lost the reply sends the same post again. Only memory has the names: a post that is sent again across a restart of
//! the edge, or to another edge, counts twice.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

/// What is known of a post's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// It is new, and now it is on its way.
    New,
    /// The same is on its way: nobody can say yet whether it counts.
    OnItsWay,
    /// It counted.
    Counted,
}

/// The last so many names.
#[derive(Debug)]
pub(crate) struct Recent {
    most: usize,
    names: Mutex<Names>,
}

#[derive(Debug, Default)]
struct Names {
    counted: HashMap<u64, bool>,
    order: VecDeque<u64>,
}

impl Recent {
    /// Remembers at most `most`.
    pub(crate) fn new(most: usize) -> Self {
        Self { most: most.max(1), names: Mutex::default() }
    }

    /// Takes note of a name that comes.
    pub(crate) fn come(&self, name: u64) -> Seen {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        match names.counted.get(&name) {
            Some(true) => return Seen::Counted,
            Some(false) => return Seen::OnItsWay,
            None => {}
        }
        if names.order.len() >= self.most
            && let Some(oldest) = names.order.pop_front()
        {
            names.counted.remove(&oldest);
        }
        names.order.push_back(name);
        names.counted.insert(name, false);
        Seen::New
    }

    /// Takes note of what became of it: where it did not count, it is new when it comes again.
    fn end(&self, name: u64, counted: bool) {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        if !counted {
            names.counted.remove(&name);
            names.order.retain(|other| *other != name);
        } else if let Some(known) = names.counted.get_mut(&name) {
            *known = true;
        }
    }
}

/// Takes note of what becomes of a post, when this is dropped.
#[derive(Debug)]
pub(crate) struct Pending {
    recent: Arc<Recent>,
    name: u64,
    counted: bool,
}

impl Pending {
    /// Of a post that is new.
    pub(crate) fn new(recent: &Arc<Recent>, name: u64) -> Self {
        Self { recent: Arc::clone(recent), name, counted: false }
    }

    /// It counts.
    pub(crate) fn counts(mut self) {
        self.counted = true;
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.recent.end(self.name, self.counted);
    }
}

/// A site's post by this name.
pub(crate) fn name(site: &str, id: &str) -> u64 {
    xxhash_rust::xxh3::xxh3_64_with_seed(id.as_bytes(), xxhash_rust::xxh3::xxh3_64(site.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_post_that_comes_again_is_known_once_it_counted_and_new_where_it_did_not() {
        let recent = Arc::new(Recent::new(10));
        assert_eq!(recent.come(1), Seen::New);
        let pending = Pending::new(&recent, 1);
        assert_eq!(recent.come(1), Seen::OnItsWay);
        pending.counts();
        assert_eq!(recent.come(1), Seen::Counted);
        assert_eq!(recent.come(2), Seen::New);
        drop(Pending::new(&recent, 2));
        assert_eq!(recent.come(2), Seen::New);
    }

    #[test]
    fn only_the_last_names_are_remembered() {
        let recent = Recent::new(3);
        for post in 0..100 {
            assert_eq!(recent.come(post), Seen::New);
            recent.end(post, true);
        }
        assert_eq!(recent.names.lock().unwrap().order.len(), 3);
        assert_eq!(recent.come(99), Seen::Counted);
        assert_eq!(recent.come(0), Seen::New);
    }

    #[test]
    fn the_same_name_on_two_sites_is_two() {
        assert_ne!(name("a.example", "x"), name("b.example", "x"));
    }
}
