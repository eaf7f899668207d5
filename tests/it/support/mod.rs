//! Gets one broker for all tests, runs each in a runtime of its own, and leaves nothing behind.

pub(crate) mod amqp10;
mod broker;
pub(crate) mod certificates;
pub(crate) mod process;
pub(crate) mod proxy;
pub(crate) mod raw;
pub(crate) mod road;
pub(crate) mod stage;

use std::future::Future;
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use libtest_mimic::{Arguments, Failed, Trial};
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};

pub(crate) use broker::Broker;

/// How long one test may take. None should come near it: what takes longer waits for something that never comes. The
/// long forms of some (`make confirms`) say in `TEST_MAX_S` what they need.
const TEST_MAX: Duration = Duration::from_secs(300);

/// How long the tasks that a test left running may take to notice that it is over.
const LEFTOVERS_MAX: Duration = Duration::from_secs(5);

/// Tests wait more than they compute, so more of them run at once than there are cores.
const TESTS_AT_ONCE: usize = 8;

/// What every test is given.
pub(crate) struct Context {
    broker: Arc<Broker>,
    prefix: String,
}

impl Context {
    /// The address of the broker, with user and password, for what connects by itself.
    #[allow(dead_code, reason = "the tests of the harness connect through it")]
    pub(crate) fn amqp_url(&self) -> &str {
        self.broker.url()
    }

    /// Where all names of this test start: `t-` and eight hexadecimal digits, fresh in each run.
    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The broker, for tests that operate it or ask its management API. Neither is there for every broker.
    pub(crate) fn broker(&self) -> &Broker {
        &self.broker
    }

    /// A connection of the test's own, bounded in time.
    pub(crate) async fn connect(&self) -> Result<lapin::Connection> {
        self.broker.connect().await
    }

    /// Another prefix on the same broker, for a test that needs two topologies.
    pub(crate) fn another(&self) -> Self {
        Self::new(&self.broker)
    }

    /// Names what is to be deleted when the test is over, however it ends. Better told before it is declared than after;
    /// what was never declared is no mistake.
    ///
    /// # Panics
    ///
    /// When a name does not start with the prefix of this test: what is not ours, we do not delete.
    pub(crate) fn on_cleanup(
        &self,
        queues: impl IntoIterator<Item = String>,
        exchanges: impl IntoIterator<Item = String>,
    ) {
        self.broker.own(&self.prefix, queues, exchanges);
    }

    /// Deletes what was named so far. The harness does this at the end of each test by itself.
    pub(crate) async fn clean_up(&self) -> Result<()> {
        self.broker.clean_up(&self.prefix).await
    }

    /// On a broker of the test's own, which the test stops.
    pub(crate) fn new(broker: &Arc<Broker>) -> Self {
        let prefix = format!("t-{:08x}", rand::random::<u32>());
        // A test that names nothing is watched all the same.
        broker.own(&prefix, [], []);
        Self { broker: Arc::clone(broker), prefix }
    }
}

type Run = fn(Context) -> Pin<Box<dyn Future<Output = Result<()>> + Send>>;

/// A test that waits for its broker. `broker_test!` registers it.
#[derive(Clone, Copy)]
pub(crate) struct Test {
    /// The path of its function, that of the program included.
    pub(crate) path: &'static str,
    pub(crate) run: Run,
}

impl Test {
    /// The name on the command line.
    fn name(&self) -> &'static str {
        self.path.split_once("::").map_or(self.path, |(_program, name)| name)
    }
}

inventory::collect!(Test);

/// Registers the test whose function follows. One that takes nothing but an address and a prefix, and cleans up after
/// itself, is registered `at_url`.
#[allow(unused_macros, reason = "programs that measure share this with the tests")]
macro_rules! broker_test {
    ($test:ident) => {
        inventory::submit! {
            $crate::support::Test {
                path: concat!(module_path!(), "::", stringify!($test)),
                run: |t| Box::pin($test(t)),
            }
        }
    };
    ($test:ident, at_url) => {
        inventory::submit! {
            $crate::support::Test {
                path: concat!(module_path!(), "::", stringify!($test)),
                run: |t| Box::pin(async move { $test(t.amqp_url(), t.prefix()).await }),
            }
        }
    };
}
#[allow(unused_imports, reason = "programs that measure share this with the tests")]
pub(crate) use broker_test;

/// Runs the tests that the command line asks for.
pub(crate) fn run() -> ExitCode {
    // The longest of them are begun first.
    let mut tests: Vec<Test> = inventory::iter::<Test>.into_iter().copied().collect();
    tests.sort_by_key(|test| (!test.name().starts_with("truth::"), test.name()));
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(TESTS_AT_ONCE);

    let wanted = |test: &Test| !arguments.is_filtered_out(&Trial::test(test.name(), || Ok(())));
    if arguments.list || !tests.iter().any(wanted) {
        let names = tests.into_iter().map(|test| Trial::test(test.name(), || Ok(()))).collect();
        return libtest_mimic::run(&arguments, names).exit_code();
    }

    // The last to go is the broker, and a container needs a runtime for that, even after a panic of ours.
    let runtime = runtime(2);
    let _home = runtime.enter();
    let broker = match runtime.block_on(Broker::obtain()) {
        Ok(broker) => Arc::new(broker),
        Err(error) => {
            eprintln!("broker: the tests need a RabbitMQ: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    println!("broker: {broker}");
    if !runtime.block_on(broker.is_watched()) {
        runtime.spawn(clean_up_on_signal(Arc::clone(&broker)));
    }

    let trials = tests.into_iter().map(|test| trial(test, Arc::clone(&broker))).collect();
    let conclusion = libtest_mimic::run(&arguments, trials);

    let left_behind = runtime.block_on(broker.left_behind());
    println!("broker: these tests ran on {broker}");
    runtime.block_on(broker.stop());
    match left_behind {
        Ok(names) if names.is_empty() => conclusion.exit_code(),
        Ok(names) => {
            eprintln!("broker: the tests left behind what they did not name for cleanup: {names:?}");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("broker: could not see whether the tests left anything behind: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs something that is no list of tests: one broker, one prefix, all the time it needs. What it has named is deleted
/// when it is over.
#[allow(dead_code, reason = "for what measures, and shares this with the tests")]
pub(crate) fn program<F>(run: impl FnOnce(Context) -> F) -> ExitCode
where
    F: Future<Output = Result<()>>,
{
    let runtime = runtime(2);
    let told = runtime.block_on(async {
        let broker = Arc::new(Broker::obtain().await?);
        println!("broker: {broker}");
        let context = Context::new(&broker);
        let prefix = context.prefix.clone();
        let told = run(context).await;
        let cleaned = broker.clean_up(&prefix).await;
        broker.stop().await;
        told.and(cleaned)
    });
    runtime.shutdown_timeout(LEFTOVERS_MAX);
    match told {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn test_max() -> Duration {
    let said = std::env::var("TEST_MAX_S").ok().and_then(|seconds| seconds.parse().ok());
    said.map_or(TEST_MAX, Duration::from_secs)
}

fn trial(test: Test, broker: Arc<Broker>) -> Trial {
    Trial::test(test.name(), move || {
        let runtime = runtime(2);
        let context = Context::new(&broker);
        let prefix = context.prefix.clone();
        let told = runtime.block_on(async {
            // In a task of its own, so that its panic ends the test and not its cleanup.
            let mut task = tokio::spawn((test.run)(context));
            let told = match tokio::time::timeout(test_max(), &mut task).await {
                Ok(Ok(Ok(()))) => Ok(()),
                Ok(Ok(Err(error))) => Err(format!("{error:#}")),
                Ok(Err(failure)) => Err(panic_message(failure)),
                Err(_) => {
                    task.abort();
                    Err(format!(
                        "did not end within {:?}: it waits for something that never comes",
                        test_max()
                    ))
                }
            };
            match (told, broker.clean_up(&prefix).await) {
                (told, Ok(())) => told,
                (Ok(()), Err(error)) => Err(format!("cleanup: {error:#}")),
                (Err(told), Err(error)) => Err(format!("{told}\ncleanup: {error:#}")),
            }
        });
        runtime.shutdown_timeout(LEFTOVERS_MAX);
        told.map_err(Failed::from)
    })
}

fn panic_message(failure: tokio::task::JoinError) -> String {
    match failure.try_into_panic() {
        Ok(panic) => match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
            (Some(text), _) => format!("panicked: {text}"),
            (None, Some(text)) => format!("panicked: {text}"),
            (None, None) => "panicked".to_owned(),
        },
        Err(failure) => failure.to_string(),
    }
}

/// A container has a watchdog that removes it with all that is in it; everywhere else we tidy up before we go.
async fn clean_up_on_signal(broker: Arc<Broker>) {
    const INTERRUPTED: i32 = 130;
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    eprintln!("broker: interrupted; deleting what the tests declared");
    if let Err(error) = broker.clean_up_all().await {
        eprintln!("broker: {error:#}");
    }
    broker.stop().await;
    std::process::exit(INTERRUPTED);
}

fn runtime(worker_threads: usize) -> Runtime {
    Builder::new_multi_thread()
        .worker_threads(worker_threads)
        .enable_all()
        .build()
        .expect("a runtime needs only threads and a poller")
}
