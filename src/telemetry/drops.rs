//! A log that nobody reads holds nothing up: lines wait in memory for their reader, up to a bound; beyond it they are
//! dropped, and counted.

use std::io::Write;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::MissedTickBehavior;
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};

use super::events;

/// How many lines wait for a slow reader; more are dropped.
const LINES_MAX: usize = 10_000;

/// How often it is looked whether lines were dropped.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long the last lines may take to be written when all ends. The appender has bounds of its own below this, but one
/// of its branches prints to standard output, which may be the same pipe that nobody reads.
const FLUSH_MAX: Duration = Duration::from_millis(1500);

/// Writes lines to `writer` from a thread of its own.
pub(super) fn lossy(writer: impl Write + Send + 'static) -> (NonBlocking, WorkerGuard) {
    lossy_beyond(LINES_MAX, writer)
}

pub(super) fn lossy_beyond(
    lines_max: usize,
    writer: impl Write + Send + 'static,
) -> (NonBlocking, WorkerGuard) {
    NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(lines_max)
        .thread_name("log-lines")
        .finish(writer)
}

/// Keeps lines going to their reader; when it is dropped, the last of them are written, if somebody reads.
#[derive(Debug)]
pub(super) struct Writing {
    dropped: ErrorCounter,
    looking: AbortHandle,
    guard: Option<WorkerGuard>,
}

impl Writing {
    /// Tells from now on of lines that are dropped. The subscriber must be there already, and a runtime.
    pub(super) fn begin(dropped: ErrorCounter, guard: WorkerGuard) -> Writing {
        let looking = tokio::spawn(look(dropped.clone())).abort_handle();
        Writing { dropped, looking, guard: Some(guard) }
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.looking.abort();
        let dropped = self.dropped.dropped_lines();
        if dropped > 0 {
            events::log_lines_dropped(dropped, "since the start");
        }
        let guard = self.guard.take();
        let (done, written) = mpsc::channel::<()>();
        thread::spawn(move || {
            drop(guard);
            drop(done);
        });
        // Either they are written, or nobody reads: in both cases there is nothing left to do.
        let _ = written.recv_timeout(FLUSH_MAX);
    }
}

/// Tells how many lines were dropped, when no more are.
pub(super) async fn look(dropped: ErrorCounter) {
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut told, mut seen) = (0, 0);
    loop {
        ticks.tick().await;
        let now = dropped.dropped_lines();
        if now > told && now == seen {
            events::log_lines_dropped(now - told, "until now");
            // A line that says so can be dropped itself; then it is said again.
            match dropped.dropped_lines() {
                after if after == now => told = now,
                after => {
                    told += 1;
                    seen = after;
                }
            }
        } else {
            seen = now;
        }
    }
}
