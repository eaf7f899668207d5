//! What an inquiry's reply shows to be true.

/// What a look showed, as one word: the header `cancel-evidence`, and `reason.evidence` of an outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Shown {
    /// placeholder
    Unanswered,
}
