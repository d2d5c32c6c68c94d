//! Defects that can be switched on, so that it can be shown again and again that tests find them.
//!
//! Owns: their list. Without the feature `planted-bugs` there are none, and asking costs nothing.
//! Does not own: what each does: that stands where it would have been a mistake.

/// A defect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// Takes blocks although their sender does not know all owners.
    SkipOwnersCheck,
    /// Acknowledges a block before the journal has it.
    AcknowledgeBeforeJournal,
    /// Acknowledges a block when one owner has it.
    AcknowledgeAfterOne,
    /// Trims the journal before the commit is made.
    TrimBeforeCommit,
    /// Takes a commit that somebody else made first for its own.
    IgnoreConflict,
    /// Commits what is in the journal without asking what commits cover.
    SkipCoverageCheck,
    /// Answers for a shard as soon as it is given.
    ReadyAtOnce,
    /// Compares with other owners and does not pull what it lacks.
    DropRepair,
    /// Leaves without handing over.
    LeaveAtOnce,
}

impl Bug {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::SkipOwnersCheck,
        Self::AcknowledgeBeforeJournal,
        Self::AcknowledgeAfterOne,
        Self::TrimBeforeCommit,
        Self::IgnoreConflict,
        Self::SkipCoverageCheck,
        Self::ReadyAtOnce,
        Self::DropRepair,
        Self::LeaveAtOnce,
    ];
}

/// The defect of a node, if it has one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Planted {
    #[cfg(feature = "planted-bugs")]
    bug: Option<Bug>,
}

impl Planted {
    /// A node with this defect.
    #[cfg(feature = "planted-bugs")]
    pub const fn bug(bug: Bug) -> Self {
        Self { bug: Some(bug) }
    }

    /// Whether the node has this defect.
    #[cfg(feature = "planted-bugs")]
    pub(crate) fn has(self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    /// Whether the node has this defect: never.
    #[cfg(not(feature = "planted-bugs"))]
    #[allow(clippy::unused_self, reason = "with the feature it is used")]
    pub(crate) const fn has(self, _: Bug) -> bool {
        false
    }
}
