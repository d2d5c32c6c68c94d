//! Keeps what a member remembers, beside the way of gossip: a slow disk must not make others think that it is gone.
//!
//! Owns: when files are written.
//! Does not own: the files (`remembered`).

use crate::remembered::{Folder, Known};
use tidemark_rollup::member::Incarnation;
use tokio::sync::watch;

/// What is to be kept.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    pub(crate) incarnation: Incarnation,
    pub(crate) members: Vec<Known>,
}

/// Writes each latest value, until nobody sends any more.
pub(crate) async fn keep(folder: Folder, mut kept: watch::Receiver<Kept>) {
    let mut last = kept.borrow_and_update().clone();
    while kept.changed().await.is_ok() {
        let next = kept.borrow_and_update().clone();
        let incarnation = (next.incarnation > last.incarnation).then_some(next.incarnation);
        let members = (next.members != last.members).then(|| next.members.clone());
        last = next;
        let folder = folder.clone();
        let written = tidemark_shell::work::run(move || {
            incarnation.map_or(Ok(()), |incarnation| folder.keep_incarnation(incarnation))?;
            members.map_or(Ok(()), |members| folder.keep_members(&members))
        });
        if let Err(error) = written.await {
            tracing::warn!("cannot keep what membership remembers: {error}");
        }
    }
}
