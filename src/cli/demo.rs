//! `demo`: watch it work, and check it against the truth.

mod judge;
mod play;
mod scenes;
mod table;

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use jiff::tz::TimeZone;
use tokio::task::JoinError;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::amqp_args::chain;
use super::{Failure, stop_signal};
use crate::amqp::declare::{delete_all, delete_queue};
use crate::amqp::{self, PublishSession, Settings, Timeouts};
use crate::clock::{Clock, JitterSource};
use crate::config::{self, Config};
use crate::gateway::Gateway;
use crate::telemetry::setup::{FILTER_VARIABLES, init};
use crate::worker::Worker;
use paywall_simulator::{Merchant, Rules, Simulator, SimulatorConfig, Urls};
use play::{House, Played};

/// Watch it work: simulator, worker and some thirty intents against your RabbitMQ, checked against the truth.
///
/// Everything is real but the gateway: the intents go through the broker, and the worker calls, over HTTP, a
/// truthful stand-in of the gateway in which things go wrong as planned. In the end every outcome is compared with
/// the one that was expected, and with what really happened at the stand-in. Exits with 0 only if all of it
/// agrees, and with 70 if not. All queues and exchanges begin with a fresh prefix, and are deleted in the end.
#[derive(Debug, Args)]
pub(super) struct Demo {
    /// The broker's address [default: the environment variable AMQP_URL]; `make demo` finds one by itself
    #[arg(value_name = "AMQP_URL")]
    broker: Option<String>,
    /// The same as an option
    #[arg(long, value_name = "AMQP_URL", conflicts_with = "broker")]
    url: Option<String>,
    /// Show the worker's log lines too, on standard error: --log, or --log=debug
    #[arg(long, value_name = "FILTER", num_args = 0..=1, default_missing_value = "info", require_equals = true)]
    log: Option<String>,
}

const NO_BROKER: &str = "the demo needs a RabbitMQ: `make demo` finds or starts one by itself; or give its \
                         address, as AMQP_URL or as `cancel-worker demo amqp://user:password@host:port/vhost`";

/// What is logged when nobody asks: the demo tells its own story.
const LOG_DEFAULT: &str = "off";

/// How long the worker may take to finish what it has in hand.
const WORKER_END_MAX: Duration = Duration::from_secs(8);

/// How long the simulator may take to close its ports.
const SIMULATOR_END_MAX: Duration = Duration::from_secs(3);

/// How long the queues may take to be deleted.
const DELETE_MAX: Duration = Duration::from_secs(20);

/// The gateway's midnight would end the day of payments that the demo has just sold.
const MIDNIGHT_MARGIN: Duration = Duration::from_secs(120);

impl Demo {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        let given = self.broker.or(self.url).or_else(|| std::env::var("AMQP_URL").ok());
        let Some(url) = given.filter(|url| !url.trim().is_empty()) else {
            return Err(Failure::input(NO_BROKER));
        };
        let signal = stop_signal();
        tokio::pin!(signal);
        let simulator = start_simulator().await?;
        let prefix = format!("cancel-demo-{:08x}", rand::random::<u32>());
        let config = configure(&url, &prefix, simulator.urls())?;
        let settings = Settings::new(
            &config.amqp,
            &config.worker.name,
            &config.lanes,
            &config.policy.tiers,
            Timeouts {
                declare: Duration::from_secs(20),
                confirm: Duration::from_secs(10),
                close: Duration::from_secs(2),
                ..Timeouts::default()
            },
        )
        .map_err(|error| Failure::input(chain(&error)))?;
        let gateway =
            Gateway::new(&config.gateway, &config.merchants).map_err(|error| Failure::own(chain(&error)))?;
        let environment = FILTER_VARIABLES.iter().find_map(|name| std::env::var(name).ok());
        let filter = self.log.or(environment).unwrap_or_else(|| LOG_DEFAULT.to_owned());
        let _telemetry = init(&config.telemetry, Some(&filter), Clock::system())
            .map_err(|error| Failure::input(chain(&error)))?;

        let (clock, moved_on) = clock_away_from_midnight(Clock::system(), &config.policy.zone);
        simulator.advance(moved_on);
        let house = Arc::new(House {
            worker: Arc::new(Worker::new(&config, gateway, clock.clone(), JitterSource::system())),
            ledger_queue: format!("{prefix}.ledger"),
            zone: config.policy.zone.clone(),
            rollback_wait: config.policy.rollback_wait,
            call_timeout: config.policy.call_timeout,
            grace: config.grace,
            simulator: simulator.handle(),
            worker_stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            settings,
            clock,
        });

        // Where there is no broker, nothing was declared that could remain.
        let (broker, topology) = (house.settings.broker(), house.settings.topology());
        let order_system = PublishSession::open(broker, topology)
            .await
            .map_err(|error| Failure::unavailable(chain(&error)))?;
        // In a task of its own, so that even its panic does not keep us from cleaning up.
        let stop = CancellationToken::new();
        let mut playing = tokio::spawn(play::play(Arc::clone(&house), order_system, stop.clone()));
        let (played, signal) = tokio::select! {
            biased;
            signal = &mut signal => {
                stop.cancel();
                (playing.await, Some(signal))
            }
            played = &mut playing => (played, None),
        };
        let swept = sweep(&house, simulator).await;
        end(played, signal, swept)
    }
}

/// How it went, in one line and one number.
fn end(
    played: Result<Result<Played, amqp::Error>, JoinError>,
    signal: Option<&'static str>,
    swept: Result<(), String>,
) -> Result<ExitCode, Failure> {
    let remains = swept.err();
    let and_remains = |message: String| match &remains {
        None => message,
        Some(remains) => format!("{message}; {remains}"),
    };
    if let Some(signal) = signal {
        say(format_args!("\nStopped by {signal}."));
        return match remains {
            None => Ok(ExitCode::from(exit_code_of(signal))),
            Some(remains) => Err(Failure::own(remains)),
        };
    }
    let report = match played {
        Ok(Ok(Played::ToTheEnd(report))) => report,
        Ok(Ok(Played::Stopped)) => return Err(Failure::own(and_remains("stopped".to_owned()))),
        Ok(Err(error)) => return Err(Failure::unavailable(and_remains(chain(&error)))),
        Err(_) => return Err(Failure::own(and_remains("the demo panicked; `--log` shows where".to_owned()))),
    };
    let differences = report.differences();
    if !differences.is_empty() {
        let list = differences.join("\n  ");
        let message = format!("the demo did not go as it must:\n  {list}\n`--log` shows what the worker did");
        return Err(Failure::own(and_remains(message)));
    }
    if let Some(remains) = remains {
        return Err(Failure::own(remains));
    }
    say(format_args!("{}", report.praise()));
    Ok(ExitCode::SUCCESS)
}

/// As a shell tells of a program that a signal has ended: the demo did not get to show what it is for.
fn exit_code_of(signal: &str) -> u8 {
    const SIGNALLED: u8 = 128;
    const SIGINT: u8 = 2;
    const SIGTERM: u8 = 15;
    SIGNALLED + if signal == "SIGINT" { SIGINT } else { SIGTERM }
}

/// One line on standard output. That nobody reads any more is no reason to leave queues behind.
fn say(line: std::fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

async fn start_simulator() -> Result<Simulator, Failure> {
    let rules = Rules { rollback_wait_ms: scenes::GATEWAY_ROLLBACK_WAIT_MS, ..Rules::default() };
    let config =
        SimulatorConfig { rules, merchants: vec![Merchant::demo("default")], ..SimulatorConfig::default() };
    Simulator::start(config)
        .await
        .map_err(|error| Failure::unavailable(format!("failed to start the simulator: {error}")))
}

/// The configuration as an operator would write it, with numbers that make the stories short.
fn configure(url: &str, prefix: &str, gateway: &Urls) -> Result<Config, Failure> {
    let keys = [
        ("AMQP__URL", url),
        ("AMQP__PREFIX", prefix),
        // The demo applies it before, and deletes it after.
        ("AMQP__DECLARE", "false"),
        ("GATEWAY__PHYSICAL_URL", &gateway.physical),
        ("GATEWAY__PRIVATE_URL", &gateway.private),
        ("GATEWAY__PAYMENT_URL", &gateway.payment),
        ("GATEWAY__CONNECT_TIMEOUT", "2s"),
        ("GATEWAY__CALL_TIMEOUT", "3s"),
        ("MERCHANTS__DEFAULT__PRIVATE_KEY", "default-private-key"),
        ("MERCHANTS__DEFAULT__PRIVATE_CLIENT", "default-private-client"),
        ("MERCHANTS__DEFAULT__PUBLIC_KEY", "default-public-key"),
        ("MERCHANTS__DEFAULT__PUBLIC_CLIENT", "default-public-client"),
        ("RETRY__DELAYS", "200ms,500ms,1s,2s"),
        ("RETRY__ATTEMPTS_MAX", "3"),
        ("RETRY__AGE_MAX", "2m"),
        ("INQUIRY__QUIET", "3s"),
        ("INQUIRY__AGE_MAX", "2m"),
        ("INQUIRY__AFTER_SUCCESS", "transaction_cancel"),
        ("ROLLBACK__WAIT", "6s"),
        ("BATCH__CALLBACK_URL", "https://ledger.example/callback"),
        ("TELEMETRY__LOG", "text"),
        ("SHUTDOWN__GRACE", "5s"),
    ];
    let environment = keys.map(|(key, value)| (format!("CANCEL_WORKER__{key}"), value.to_owned()));
    config::load(None, environment, Some("demo")).map_err(|mistakes| Failure::input(mistakes.to_string()))
}

/// The machine's clock, moved on where the day of the gateway would end during the demo; and by how much.
fn clock_away_from_midnight(machine: Clock, zone: &TimeZone) -> (Clock, Duration) {
    let now = machine.now();
    let day = |at: jiff::Timestamp| at.to_zoned(zone.clone()).date();
    if day(now) == day(now + MIDNIGHT_MARGIN) {
        return (machine, Duration::ZERO);
    }
    (Clock::from_fn(move || machine.now() + MIDNIGHT_MARGIN), MIDNIGHT_MARGIN)
}

/// Ends everything that was started and deletes everything that was declared, each within its time. Says what
/// could not be deleted.
async fn sweep(house: &House, simulator: Simulator) -> Result<(), String> {
    house.worker_stop.cancel();
    house.tasks.close();
    // What does not end by itself ends with the process.
    let _ = timeout(WORKER_END_MAX, house.tasks.wait()).await;
    let _ = timeout(SIMULATOR_END_MAX, simulator.shutdown()).await;
    let (broker, topology) = (house.settings.broker(), house.settings.topology());
    let deleting = async {
        let ledger = delete_queue(broker, &house.ledger_queue).await;
        delete_all(broker, topology).await?;
        ledger
    };
    let failed = match timeout(DELETE_MAX, deleting).await {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(error)) => chain(&error),
        Err(_) => format!("not done within {} s", DELETE_MAX.as_secs()),
    };
    Err(format!(
        "queues and exchanges that begin with {} may remain at the broker: {failed}",
        topology.prefix()
    ))
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    #[test]
    fn the_day_of_the_gateway_does_not_end_during_the_demo() {
        let zone = TimeZone::get("Europe/Istanbul").unwrap();
        // Midnight there is at 21:00 UTC.
        for (machine, expected) in [
            ("2026-03-01T20:57:59Z", "2026-03-01T20:57:59Z"),
            ("2026-03-01T20:59:00Z", "2026-03-01T21:01:00Z"),
            ("2026-03-01T21:00:00Z", "2026-03-01T21:00:00Z"),
        ] {
            let at: Timestamp = machine.parse().unwrap();
            let (clock, moved_on) = clock_away_from_midnight(Clock::from_fn(move || at), &zone);
            assert_eq!(clock.now().to_string(), expected);
            assert_eq!(clock.now(), at + moved_on);
        }
    }
}
