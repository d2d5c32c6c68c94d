//! How a command fails.
//!
//! Owns: the difference between what the caller can change (exit code 2) and everything else (exit code 1).
//! Does not own: the errors themselves.

use std::fmt;

/// What the caller asked for cannot be: a setting or a question. They can change it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Misuse(String);

impl Misuse {
    /// Says what is wrong and what would be valid.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

impl fmt::Display for Misuse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Misuse {}

/// The exit code for a failed command: 2 where the caller asked for something that cannot be, else 1.
pub(crate) fn exit_code(error: &anyhow::Error) -> u8 {
    if error.is::<Misuse>() { 2 } else { 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_caller_can_change_ends_with_2_and_all_else_with_1() {
        assert_eq!(exit_code(&Misuse::new("no such measure").into()), 2);
        assert_eq!(exit_code(&anyhow::anyhow!("nobody answers")), 1);
    }
}
