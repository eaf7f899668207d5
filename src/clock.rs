//! The one place where the time of day and chance are read. Everything else takes them as arguments.

use std::sync::Arc;

use jiff::Timestamp;

use crate::domain::retry::Jitter;

/// Where `now` comes from: the machine's clock, or a test's.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Timestamp + Send + Sync>);

impl Clock {
    /// The machine's clock.
    #[allow(clippy::disallowed_methods, reason = "this is the one place that reads it")]
    pub fn system() -> Clock {
        Clock(Arc::new(Timestamp::now))
    }

    /// A clock that says what `read` says.
    pub fn from_fn(read: impl Fn() -> Timestamp + Send + Sync + 'static) -> Clock {
        Clock(Arc::new(read))
    }

    /// The time now.
    pub fn now(&self) -> Timestamp {
        (self.0)()
    }
}

/// Where chance comes from: the machine's random source, or a test's.
#[derive(Clone)]
pub struct JitterSource(Arc<dyn Fn() -> Jitter + Send + Sync>);

impl JitterSource {
    /// The machine's random source.
    pub fn system() -> JitterSource {
        JitterSource(Arc::new(|| Jitter::new(rand::random::<f64>())))
    }

    /// JitterSource that fall as `roll` says.
    pub fn from_fn(roll: impl Fn() -> Jitter + Send + Sync + 'static) -> JitterSource {
        JitterSource(Arc::new(roll))
    }

    /// A new one.
    pub fn draw(&self) -> Jitter {
        (self.0)()
    }
}
