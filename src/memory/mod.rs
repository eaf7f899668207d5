//! What this process remembers beyond one step: bounded, and lost with the process, which is why nothing but
//! comfort may depend on it.

mod delays;
mod letters;
mod moves;
mod ordered;
mod told;

pub use delays::{Delays, Going};
pub use letters::{Begun, Letters};
pub use moves::{Moves, Moving};
pub use ordered::Ordered;
pub use told::Told;
