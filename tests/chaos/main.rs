//! The fault campaign: real workers, a real RabbitMQ, a network of ours between them, and a gateway that knows the truth.
//! Whatever goes wrong, afterwards the audit must balance.
//!
//!     cargo test --test chaos -- [--full] [--list] [--size N] [--at-once N] [SCENARIO…]
//!
//! `make chaos` is the short form, `make chaos-full` the long one. `CHAOS_SEED` names the seed: payments, faults and
//! their moments follow from it and from the scenario's name. `CHAOS_ONLY=name` runs one scenario.

mod audit;
mod broker;
mod ledger;
mod load;
mod process;
mod proof;
mod proxy;
mod scenarios;
mod stage;
mod table;

use std::collections::VecDeque;
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

use audit::Audit;
use broker::{Broker, Way};
use scenarios::{Needs, Scenario};
use stage::Play;

/// The seed where nobody names one.
const SEED: u64 = 20_261_121;
const SHORT: Form = Form { size: 180, strikes: 3, at_once: 8 };
const FULL: Form = Form { size: 5_000, strikes: 12, at_once: 4 };

/// No scenario takes longer.
const SCENARIO_MAX: Duration = Duration::from_secs(900);
const INTERRUPTED: u8 = 130;

/// How much is asked of each scenario, and how many run side by side at one broker.
#[derive(Debug, Clone, Copy)]
struct Form {
    size: usize,
    strikes: usize,
    at_once: usize,
}

/// What the command line asks for.
struct Wanted {
    form: Form,
    seed: u64,
    scenarios: Vec<Scenario>,
    list: bool,
    /// Whether the audit themselves are put to the proof.
    prove: bool,
}

fn main() -> ExitCode {
    // As the binary does: the process has one TLS provider, chosen once.
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        eprintln!("chaos: a TLS provider is there already");
    }
    let wanted = match wanted(std::env::args().skip(1)) {
        Ok(wanted) => wanted,
        Err(error) => {
            eprintln!("chaos: {error:#}");
            return ExitCode::from(64);
        }
    };
    if wanted.list {
        for scenario in wanted.scenarios {
            println!("{:40} {}", scenario.name, scenario.what);
        }
        return ExitCode::SUCCESS;
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("chaos: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(campaign(wanted));
    runtime.shutdown_timeout(Duration::from_secs(5));
    code
}

fn wanted(arguments: impl Iterator<Item = String>) -> Result<Wanted> {
    let mut form = SHORT;
    let mut full = false;
    let mut list = false;
    let mut names: Vec<String> =
        std::env::var("CHAOS_ONLY").ok().filter(|name| !name.is_empty()).into_iter().collect();
    let mut arguments = arguments.peekable();
    let mut size = None;
    let mut at_once = None;
    while let Some(argument) = arguments.next() {
        let mut number = |what: &str| -> Result<usize> {
            arguments.next().with_context(|| format!("{what} needs a number"))?.parse().context("a number")
        };
        match argument.as_str() {
            "--full" => {
                form = FULL;
                full = true;
            }
            "--list" => list = true,
            "--size" => size = Some(number("--size")?),
            "--at-once" => at_once = Some(number("--at-once")?),
            name if !name.starts_with('-') => names.push(name.to_owned()),
            other => anyhow::bail!(
                "{other} is not known: --full, --list, --size N, --at-once N, names of scenarios"
            ),
        }
    }
    form.size = size.unwrap_or(form.size);
    form.at_once = at_once.unwrap_or(form.at_once);
    let seed = match std::env::var("CHAOS_SEED").ok().filter(|seed| !seed.is_empty()) {
        Some(seed) => seed.parse().context("CHAOS_SEED is a whole number")?,
        None => SEED,
    };
    let mut scenarios = scenarios::all();
    if let Some(unknown) = names.iter().find(|name| !scenarios.iter().any(|one| one.name == **name)) {
        anyhow::bail!("there is no scenario {unknown}; --list names all");
    }
    // A cluster is too much for the short form, unless somebody asks for it.
    let is_wanted = |one: &Scenario| match (names.is_empty(), one.needs) {
        (true, Needs::Broker | Needs::BrokerOfItsOwn) => true,
        (true, Needs::Cluster) => full || list,
        (false, _) => names.iter().any(|name| name == one.name),
    };
    scenarios.retain(is_wanted);
    Ok(Wanted { form, seed, scenarios, list, prove: names.is_empty() })
}

/// What all scenarios have left so far.
#[derive(Default)]
struct Results {
    audit: Mutex<Vec<Audit>>,
    failed: Mutex<Vec<String>>,
}

async fn campaign(wanted: Wanted) -> ExitCode {
    let began = Instant::now();
    let brokers = Arc::<Mutex<Vec<Arc<Broker>>>>::default();
    let results = Arc::<Results>::default();
    let ran = tokio::select! {
        ran = run(&wanted, Arc::clone(&brokers), Arc::clone(&results)) => ran,
        () = interrupted() => {
            eprintln!("chaos: interrupted");
            end(&brokers).await;
            return ExitCode::from(INTERRUPTED);
        }
    };
    end(&brokers).await;
    if let Err(error) = ran {
        eprintln!("chaos: {error:#}");
        return ExitCode::FAILURE;
    }
    let mut audit = locked(&results.audit).clone();
    let order = |name: &str| wanted.scenarios.iter().position(|one| one.name == name);
    audit.sort_by_key(|one| order(one.name));
    for one in audit.iter().filter(|one| !one.complaints.is_empty()) {
        eprintln!("\n{}:", one.name);
        for complaint in &one.complaints {
            eprintln!("  {complaint}");
        }
    }
    let failed = locked(&results.failed).clone();
    for failure in &failed {
        eprintln!("\n{failure}");
    }
    println!("{}", table::table(&audit));
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/chaos.json");
    if let Err(error) = table::write(&path, wanted.seed, &audit) {
        eprintln!("chaos: {error:#}");
        return ExitCode::FAILURE;
    }
    println!("seed {}, {:.0} s, written to target/chaos.json", wanted.seed, began.elapsed().as_secs_f64());
    let balanced = audit.iter().all(Audit::balance);
    if balanced && failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        println!("the audit do NOT balance; CHAOS_SEED={} CHAOS_ONLY=<scenario> runs one again", wanted.seed);
        ExitCode::FAILURE
    }
}

/// Runs what is wanted: those that share a broker side by side, and meanwhile, at a broker of their own, the others
/// one after the other.
async fn run(wanted: &Wanted, brokers: Arc<Mutex<Vec<Arc<Broker>>>>, results: Arc<Results>) -> Result<()> {
    let way = Way::choose().await?;
    println!("chaos: seed {}, {} intents a scenario", wanted.seed, wanted.form.size);
    let of = |needs| -> Vec<Scenario> {
        wanted.scenarios.iter().copied().filter(|one| one.needs == needs).collect()
    };
    let (sharing, mut alone, mut clustered) =
        (of(Needs::Broker), of(Needs::BrokerOfItsOwn), of(Needs::Cluster));
    if matches!(way, Way::Given(_)) {
        skip(&mut alone, "AMQP_URL's broker is not ours to restart");
    }
    if !matches!(&way, Way::Held(words) if words[0] == "image") {
        skip(&mut clustered, "a cluster needs Docker");
    }
    let mut groups = JoinSet::new();
    let prove = wanted.prove;
    for (scenarios, at_once) in [(sharing, wanted.form.at_once), (alone, 1), (clustered, 1)] {
        if scenarios.is_empty() {
            continue;
        }
        let is_first = groups.is_empty();
        let (way, brokers, results) = (way.clone(), Arc::clone(&brokers), Arc::clone(&results));
        let (form, seed) = (wanted.form, wanted.seed);
        groups.spawn(async move {
            let broker = match scenarios[0].needs {
                Needs::Broker | Needs::BrokerOfItsOwn => Broker::obtain(&way).await?,
                Needs::Cluster => Broker::cluster().await?,
            };
            locked(&brokers).push(Arc::clone(&broker));
            let waiting = Arc::new(Mutex::new(VecDeque::from(scenarios)));
            let mut lines = JoinSet::new();
            if is_first && prove {
                let (broker, results) = (Arc::clone(&broker), Arc::clone(&results));
                lines.spawn(async move { prove_the_audit(&broker, seed, &results).await });
            }
            for _ in 0..at_once {
                let (broker, waiting, results) =
                    (Arc::clone(&broker), Arc::clone(&waiting), Arc::clone(&results));
                lines.spawn(async move {
                    loop {
                        let Some(scenario) = locked(&waiting).pop_front() else { return };
                        play(scenario, &broker, form, seed, &results).await;
                    }
                });
            }
            while let Some(ended) = lines.join_next().await {
                ended?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(ended) = groups.join_next().await {
        ended??;
    }
    Ok(())
}

async fn prove_the_audit(broker: &Arc<Broker>, seed: u64, results: &Results) {
    const NAME: &str = "the_audit_notices";
    const SIZE: usize = 60;
    let play = Play { name: NAME, broker: Arc::clone(broker), rng: rng(seed, NAME), size: SIZE, strikes: 0 };
    match proof::the_audit_notices(play).await {
        Ok(()) => {
            println!("chaos: the audit notice what is lost, stuck, untrue, contradicting, or called again")
        }
        Err(error) => {
            println!("chaos: {NAME} FAILED: {error:#}");
            locked(&results.failed).push(format!("{NAME}: {error:#}"));
        }
    }
}

/// Leaves these out, and says so.
fn skip(scenarios: &mut Vec<Scenario>, why: &str) {
    if !scenarios.is_empty() {
        let names: Vec<&str> = scenarios.iter().map(|one| one.name).collect();
        eprintln!("chaos: ATTENTION: {why}, so these are SKIPPED: {}", names.join(", "));
        scenarios.clear();
    }
}

async fn play(scenario: Scenario, broker: &Arc<Broker>, form: Form, seed: u64, results: &Results) {
    let play = Play {
        name: scenario.name,
        broker: Arc::clone(broker),
        rng: rng(seed, scenario.name),
        size: form.size,
        strikes: form.strikes,
    };
    // In a task of its own, so that its panic ends the scenario and not the campaign.
    let mut task = AbortOnDropHandle::new(tokio::spawn((scenario.run)(play)));
    let told = match tokio::time::timeout(SCENARIO_MAX, &mut task).await {
        Ok(Ok(told)) => told,
        Ok(Err(failure)) => Err(failure.into()),
        Err(_) => Err(anyhow::anyhow!("it does not end within {SCENARIO_MAX:?}")),
    };
    match told {
        Ok(audit) => {
            let verdict = if audit.balance() { "balances" } else { "DOES NOT BALANCE" };
            println!("chaos: {} {verdict}: {} intents in {:.0} s", audit.name, audit.intents, audit.seconds);
            locked(&results.audit).push(audit);
        }
        Err(error) => {
            println!("chaos: {} FAILED: {error:#}", scenario.name);
            locked(&results.failed).push(format!("{}: {error:#}", scenario.name));
        }
    }
}

/// From the seed and the name alone, so that one scenario can be run again by itself.
fn rng(seed: u64, name: &str) -> StdRng {
    // FNV-1a, which does not change from one version of Rust to the next.
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    StdRng::seed_from_u64(seed ^ hash)
}

async fn end(brokers: &Mutex<Vec<Arc<Broker>>>) {
    let brokers: Vec<Arc<Broker>> = locked(brokers).drain(..).collect();
    for broker in brokers {
        broker.end().await;
    }
}

async fn interrupted() {
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

fn locked<T>(shared: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
