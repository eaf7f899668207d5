//! What this process remembers beyond one step: bounded, and lost with the process, which is why nothing but
//! comfort may depend on it.

mod letters;
mod ordered;

pub use letters::{Begun, Letters};
pub use ordered::Ordered;
