//! What of a message was cut, in words.

use std::fmt;

/// What is handed on of a larger one, in bytes (contract §4).
pub const CUT_BODY_BYTES: usize = 64 * 1024;

/// The header that says, in words, what of a message was cut. Never seen outside of `amqp`: what comes in with a header
/// of this name loses it.
pub const MARK: &str = "cancel-cut";

/// What the mark begins with where the body was cut; its length and SHA-256 follow.
pub const BODY_CUT: &str = "the body has ";

/// What was wrong with a message that was cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cut {
    Property(&'static str),
    RoutingKey,
    HeaderNameNotText,
    HeaderOfUnknownType,
    HeadersTooDeep,
    HeadersNotWhole,
    ReservedHeader,
    PropertiesNotWhole,
    PropertiesUnknown,
    HeaderFrameTooLarge,
}

/// One sentence without a full stop. No values: they come from outside.
impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cut::Property(name) => write!(f, "the property {name} is not UTF-8"),
            Cut::RoutingKey => f.write_str("the routing key is not UTF-8"),
            Cut::HeaderNameNotText => f.write_str("the name of a header is not UTF-8"),
            Cut::HeaderOfUnknownType => f.write_str("a header has an unknown type"),
            Cut::HeadersTooDeep => f.write_str("the headers are nested more than 8 deep"),
            Cut::HeadersNotWhole => f.write_str("the headers are not whole"),
            Cut::ReservedHeader => write!(f, "the header {MARK} is reserved"),
            Cut::PropertiesNotWhole => f.write_str("the properties are not whole"),
            Cut::PropertiesUnknown => f.write_str("there are properties that AMQP 0-9-1 does not know"),
            Cut::HeaderFrameTooLarge => f.write_str("the properties are larger than a frame"),
        }
    }
}

/// What is known of a body that was cut. Its text is what people and later steps read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CutBody {
    /// Its length.
    pub bytes: u64,
    /// Its digest.
    pub sha256: [u8; 32],
}

impl fmt::Display for CutBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{BODY_CUT}{} bytes (SHA-256 ", self.bytes)?;
        self.sha256.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        write!(f, "), of which the first {CUT_BODY_BYTES} are kept")
    }
}
