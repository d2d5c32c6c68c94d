//! What is kept of a question that is asked again and again.
//!
//! Owns: the nodes' last replies, and whether any of them has changed since the last answer.
//! Does not own: which replies count (`asking`), when to ask again (`crate::subscriptions`).

use super::asking::Ask;
use super::round::Reply;
use super::rounds::{Gathered, Piece};
use crate::plan::Plan;
use std::collections::HashMap;
use std::sync::Arc;
use tidemark_proto::v1;
use tidemark_rollup::member::View;
use tidemark_rollup::query::Query;

/// Replies of the nodes that counted in the last answer.
#[derive(Default)]
pub(crate) struct Kept {
    /// What they answer: times are absolute here, and move on.
    range: Option<Query>,
    pieces: HashMap<(String, Vec<u32>), Piece>,
    /// What the last answer was made of.
    last: Option<Made>,
}

/// All that an answer follows from, beside the question.
#[derive(PartialEq)]
struct Made {
    /// By shards asked for: who replied, and with which version.
    versions: Vec<(Vec<u32>, String, u64, Vec<String>)>,
    view: Arc<View>,
}

impl Kept {
    /// Forgets replies to another question: the range has moved on.
    pub(super) fn is_about(&mut self, query: &Query) {
        // `active` is of another moment each time; nodes see to that by their version.
        let range = Query { as_of: query.from, ..query.clone() };
        if self.range.as_ref() != Some(&range) {
            *self = Self { range: Some(range), ..Self::default() };
        }
    }

    /// The node's last reply to the same.
    pub(super) fn find(&self, ask: &Ask, folds: &[v1::Fold]) -> Option<Piece> {
        // A cut is agreed upon anew each time.
        let same = folds.is_empty().then_some((ask.peer.address.clone(), ask.shards.clone()))?;
        self.pieces.get(&same).cloned()
    }

    /// Keeps the replies that an answer is made of. Whether that will be another answer than the last one.
    pub(super) fn note(&mut self, gathered: &Gathered, plan: &Plan) -> bool {
        self.pieces.clear();
        let mut versions = Vec::new();
        for Reply { peer, asked, content, .. } in &gathered.pieces {
            let reply = &content.reply;
            versions.push((asked.clone(), peer.address.clone(), reply.version, reply.missing_nodes.clone()));
            if reply.version != 0 {
                self.pieces.insert((peer.address.clone(), asked.clone()), content.clone());
            }
        }
        versions.sort_unstable();
        let all_tell = versions.iter().all(|(.., version, _)| *version != 0) && gathered.lost.is_empty();
        let made = all_tell.then(|| Made { versions, view: Arc::clone(plan.view()) });
        let is_new = made.is_none() || made != self.last;
        self.last = made;
        is_new
    }
}
