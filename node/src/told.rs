//! Saying once what became of something.
//!
//! Owns: that whoever waits is told, also where whoever was to say it ends without a word.
//! Does not own: what there is to say.
//!
//! What becomes of a block is known on whichever thread finds it out: the journal's, a shard's, that of a connection. A call made there
//! costs less than a task for each block that waits for it.

/// A call that is made exactly once: with what there is to say, or with nothing where this is dropped before.
pub(crate) struct Told<T>(Option<Call<T>>);

type Call<T> = Box<dyn FnOnce(Option<T>) + Send>;

impl<T> Told<T> {
    /// Makes this call. It is made on any thread, so it must neither block nor panic.
    pub(crate) fn by(call: impl FnOnce(Option<T>) + Send + 'static) -> Self {
        Self(Some(Box::new(call)))
    }

    /// Says it.
    pub(crate) fn tell(mut self, what: T) {
        if let Some(call) = self.0.take() {
            call(Some(what));
        }
    }
}

impl<T> Drop for Told<T> {
    fn drop(&mut self) {
        if let Some(call) = self.0.take() {
            call(None);
        }
    }
}

impl<T> std::fmt::Debug for Told<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Told")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn it_is_told_once_and_also_where_nobody_says_it() {
        let (heard, hearing) = mpsc::channel();
        let told = || {
            let heard = heard.clone();
            Told::by(move |what: Option<u32>| heard.send(what).unwrap())
        };
        told().tell(5);
        drop(told());
        drop(heard);
        assert_eq!(hearing.iter().collect::<Vec<_>>(), [Some(5), None]);
    }
}
