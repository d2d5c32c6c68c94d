//! What is wrong.

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Severity {
    /// Something does not work now, or events may be lost.
    Critical,
    /// Works, but not as it should, or not for long.
    Warning,
}

impl Severity {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::Warning => "warning",
        }
    }
}

/// Something that is wrong, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Finding {
    pub(super) severity: Severity,
    /// Which check found it: a word that stays the same, for programs.
    pub(super) check: &'static str,
    /// Whom it is about: a member, or the cluster.
    pub(super) subject: String,
    /// What is wrong, a sentence.
    pub(super) what: String,
    /// What to do, a sentence.
    pub(super) remedy: String,
}

impl Finding {
    pub(super) fn critical(
        check: &'static str,
        subject: impl Into<String>,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        let (subject, what, remedy) = (subject.into(), what.into(), remedy.into());
        Self { severity: Severity::Critical, check, subject, what, remedy }
    }

    pub(super) fn warning(
        check: &'static str,
        subject: impl Into<String>,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { severity: Severity::Warning, ..Self::critical(check, subject, what, remedy) }
    }
}
