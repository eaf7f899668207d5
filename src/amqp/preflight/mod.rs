//! Does the broker fit? Looked at before a letter is taken; while it does not, no letter is taken, and every finding is
//! told with the command that fixes it.
//!
//! Two eyes: AMQP sees what is missing and, by declaring, what was declared differently; the management API, where
//! there is one, sees policies, bindings, and what the permissions hide from AMQP. What neither could see is said, and
//! keeps no worker from its work.
//!
//! When: until the broker was found to fit, everything is looked at before the first letter. From then on a new
//! generation declares or asks for everything at once, as fast as the broker answers, and the management API is looked
//! at beside the work: first when its statistics are newer than the generation, then every minute. What it finds ends
//! the generation: what is in hand is finished, nothing more is taken, and all is looked at again.

mod by_amqp;
mod by_management;
mod compare;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::OptionFuture;
use lapin::Connection;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

pub use super::cause::{Cause, causes};
pub use super::finding::{BrokerObject, Finding, Note, PolicyName, Problem, Report, Unseen};

use super::connect::Broker;
use super::declare::{Depth, all_are_there, declare, depth_and_consumers};
use super::error::Error;
use super::finding::Target;
use super::generation::Role;
use super::step::with_channel;
use super::topology::{Topology, Who};
use super::{permissions, reply_code};
use crate::config::Declare;
use crate::domain::intent::Kind;
use crate::management::Management;
use crate::telemetry::events;
use crate::wire::envelope::Source;
use by_amqp::{Doing, Looked};
use by_management::{Bindings, Statistics};
use compare::Expected;

/// When what the broker has counted is newer than the generation.
const FIRST_LOOK_AFTER: Duration = Duration::from_secs(10);

/// How often the management API is looked at while letters are taken.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// What a look must know beside the topology.
#[derive(Debug, Clone, Default)]
pub struct Requirements {
    /// The worker whose permissions are asked about, by what it does about what is missing; `None`: a person
    /// looks, and no permissions are asked about.
    pub worker: Option<Declare>,
    /// The longest that a letter is in hand, from its delivery to its ack; `None`: it is not known, and the consumer
    /// timeout is not judged.
    pub handling_max: Option<Duration>,
    /// The management API, where there is one.
    pub management: Option<Management>,
}

/// Looks at everything, once, and changes nothing. Of a worker that declares what is missing, what it may declare is
/// noted and no finding.
///
/// # Errors
/// When the broker cannot be asked.
pub async fn inspect(
    broker: &Broker,
    topology: &Topology,
    requirements: &Requirements,
) -> Result<Report, Error> {
    let looking = async |connection: &Connection, at| {
        let vhost = broker.vhost(at);
        Look { broker, connection, vhost, topology, requirements }.as_seen_from_outside().await
    };
    broker.with_connection(looking).await
}

/// Declares what is missing, and says all that differs.
///
/// # Errors
/// [`Error::Unfit`] with all that differs; or the broker cannot be asked.
pub async fn apply(broker: &Broker, topology: &Topology) -> Result<(), Error> {
    let requirements = &Requirements::default();
    let declaring = async |connection: &Connection, at| {
        let vhost = broker.vhost(at);
        Look { broker, connection, vhost, topology, requirements }.at_once(Doing::Declaring).await
    };
    match broker.with_connection(declaring).await?.findings {
        findings if findings.is_empty() => Ok(()),
        findings => Err(Error::Unfit { findings }),
    }
}

/// The look before letters are taken, and what is remembered of it. Outlives every generation.
#[derive(Debug, Clone)]
pub(super) struct Preflight(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    requirements: Requirements,
    /// The last look found nothing.
    fits: AtomicBool,
    /// What could not be seen has been said.
    unseen_told: AtomicBool,
}

impl Preflight {
    pub(super) fn new(requirements: Requirements) -> Preflight {
        let inner = Inner { requirements, fits: AtomicBool::new(false), unseen_told: AtomicBool::new(false) };
        Preflight(Arc::new(inner))
    }

    /// What it must know.
    pub(super) fn requirements(&self) -> &Requirements {
        &self.0.requirements
    }

    /// Declares what is missing, where that is ours to do, and looks whether the broker fits: at everything, unless it
    /// was found to fit before.
    ///
    /// # Errors
    /// [`Error::Unfit`] with all that is wrong; or the broker cannot be asked.
    pub(super) async fn before_consuming(
        &self,
        broker: &Broker,
        connection: &Connection,
        at: usize,
        topology: &Topology,
    ) -> Result<(), Error> {
        let Inner { requirements, fits, unseen_told } = &*self.0;
        let vhost = broker.vhost(at);
        // Boxed: the future that runs generations need not be as large as a look.
        let report = if fits.load(Ordering::Relaxed) {
            let look = Look { broker, connection, vhost, topology, requirements };
            Box::pin(look.quick()).await?
        } else {
            // What we may not do, or what differs, ends a channel, and the client library tells that as an error of the
            // whole connection: a look by the connection that works would end the generation.
            let own = broker.connect_at(Role::Consume, at).await?;
            let look = Look { broker, connection: &own, vhost, topology, requirements };
            let report = Box::pin(look.thorough()).await;
            broker.close(&own).await;
            report?
        };
        if !unseen_told.swap(true, Ordering::Relaxed) {
            for unseen in &report.unseen {
                events::not_checked(&unseen.what, &unseen.why);
            }
        }
        fits.store(report.findings.is_empty(), Ordering::Relaxed);
        if report.findings.is_empty() { Ok(()) } else { Err(Error::Unfit { findings: report.findings }) }
    }

    /// What the broker's refusal of a consumer means: that we may not read the queue is a finding.
    pub(super) fn refused(&self, error: Error, vhost: &str, topology: &Topology, queue: &str) -> Error {
        match error.said() {
            Some((reply_code::ACCESS_REFUSED, _)) => {
                self.0.fits.store(false, Ordering::Relaxed);
                let place = place(&self.0.requirements, vhost, topology);
                let object = BrokerObject::Queue(queue.to_owned());
                Error::Unfit { findings: vec![place.not_permitted(object, "consume from")] }
            }
            Some(_) | None => error,
        }
    }

    /// Looks at the management API beside the work, and says through `unfit` when the broker does not fit any more.
    pub(super) fn watch(
        &self,
        broker: &Broker,
        at: usize,
        topology: &Arc<Topology>,
        unfit: CancellationToken,
    ) -> impl Future<Output = ()> + Send + 'static {
        let (inner, topology) = (Arc::clone(&self.0), Arc::clone(topology));
        let (vhost, shown) = (broker.vhost(at).to_owned(), broker.shown(at));
        async move {
            let Some(management) = &inner.requirements.management else { return };
            let place = place(&inner.requirements, &vhost, &topology);
            let handling_max = inner.requirements.handling_max;
            let expected = Expected { topology: &topology, place: &place, handling_max };
            let mut next = Instant::now() + FIRST_LOOK_AFTER;
            loop {
                sleep_until(next).await;
                next += LOOK_EVERY;
                let (bindings, statistics) = (Bindings::Asked, Statistics::AsTheyAre);
                let report = by_management::look(management, &vhost, &expected, bindings, statistics).await;
                if !report.findings.is_empty() {
                    inner.fits.store(false, Ordering::Relaxed);
                    tell(&shown, &report.findings);
                    unfit.cancel();
                    return;
                }
            }
        }
    }
}

/// Tells every cause of findings.
pub(super) fn tell(broker: &str, findings: &[Finding]) {
    for cause in causes(findings) {
        events::topology_incompatible(
            broker,
            &cause.objects(),
            &cause.argument(),
            &cause.found(),
            &cause.expected(),
            cause.fix(),
        );
    }
}

fn place(requirements: &Requirements, vhost: &str, topology: &Topology) -> Target {
    let worker = Who::Worker(requirements.worker.unwrap_or(Declare::Missing));
    Target::new(vhost, requirements.management.as_ref(), topology.permissions(worker))
}

/// One look at one broker.
struct Look<'a> {
    broker: &'a Broker,
    connection: &'a Connection,
    vhost: &'a str,
    topology: &'a Topology,
    requirements: &'a Requirements,
}

impl Look<'_> {
    /// Everything, changing nothing.
    async fn whole(&self) -> Result<Report, Error> {
        let by_amqp = self.each(Doing::Looking).await?;
        self.rest(by_amqp, Bindings::Asked).await
    }

    /// Everything that a worker would find, changing nothing; and what a person may want to know beside.
    async fn as_seen_from_outside(&self) -> Result<Report, Error> {
        let mut report = match self.requirements.worker {
            Some(Declare::Missing) => {
                let asked = self.each(Doing::Asking).await?;
                let note = Note::to_declare(&asked.to_declare);
                let mut report = self.rest(asked, Bindings::NotAsked).await?;
                report.notes.extend(note);
                report
            }
            Some(Declare::Nothing) | None => self.whole().await?,
        };
        report.notes.extend(self.unconsumed().await?);
        Ok(report)
    }

    /// The lanes without a consumer where letters wait.
    async fn unconsumed(&self) -> Result<Vec<Note>, Error> {
        let step = self.broker.timeouts.step;
        let mut notes = Vec::new();
        for kind in Kind::ALL {
            let queue = self.topology.queue_of(Source::Lane(kind));
            // One that is not there takes its channel along, and is told elsewhere.
            let looking = with_channel(self.connection, step, async |channel| {
                depth_and_consumers(&channel, &queue, step).await
            });
            match looking.await {
                Ok(Depth { ready, consumers: 0 }) if ready > 0 => {
                    notes.push(Note::Unconsumed { queue, ready })
                }
                Ok(Depth { .. }) => {}
                Err(error) if error.is_refusal() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(notes)
    }

    /// Everything, after what is missing was declared where that is ours to do.
    async fn thorough(&self) -> Result<Report, Error> {
        match self.requirements.worker {
            Some(Declare::Missing) => {
                // A binding that was declared a moment ago is there.
                let declared = self.at_once(Doing::Declaring).await?;
                self.rest(declared, Bindings::NotAsked).await
            }
            Some(Declare::Nothing) | None => self.whole().await,
        }
    }

    /// Everything at once, as fast as the broker answers.
    async fn quick(&self) -> Result<Report, Error> {
        let doing = match self.requirements.worker {
            Some(Declare::Missing) => Doing::Declaring,
            Some(Declare::Nothing) | None => Doing::Looking,
        };
        let findings = self.at_once(doing).await?.findings;
        Ok(Report { findings, ..Report::default() })
    }

    /// Everything at once; thing by thing only if something is wrong.
    async fn at_once(&self, doing: Doing) -> Result<Looked, Error> {
        let done = match doing {
            Doing::Declaring => declare(self.broker, self.connection, self.topology).await,
            Doing::Looking | Doing::Asking => {
                all_are_there(self.broker, self.connection, self.topology).await
            }
        };
        match done {
            Ok(()) => Ok(Looked::default()),
            Err(error) if error.is_refusal() => self.each(doing).await,
            Err(error) => Err(error),
        }
    }

    async fn each(&self, doing: Doing) -> Result<Looked, Error> {
        let place = place(self.requirements, self.vhost, self.topology);
        by_amqp::look(self.broker, self.connection, self.topology, &place, doing).await
    }

    /// What AMQP's declarations do not tell: permissions, and what the management API sees.
    async fn rest(&self, by_amqp: Looked, bindings: Bindings) -> Result<Report, Error> {
        let place = place(self.requirements, self.vhost, self.topology);
        let Requirements { worker, handling_max, management } = self.requirements;
        let expected = Expected { topology: self.topology, place: &place, handling_max: *handling_max };
        let step = self.broker.timeouts.step;
        let asking = worker.map(|it| permissions::ask(self.connection, step, self.topology, &place, it));
        let by_management = async {
            match management {
                Some(management) => {
                    let statistics = Statistics::WaitedFor;
                    by_management::look(management, self.vhost, &expected, bindings, statistics).await
                }
                None => by_management::nothing(),
            }
        };
        let (permissions, mut report) = tokio::join!(OptionFuture::from(asking), by_management);
        let Looked { findings, not_compared, to_declare } = by_amqp;
        if !to_declare.is_empty() && management.is_some() {
            report.add_unseen(
                format!(
                    "what policies will change about {} exchanges and queues that are missing",
                    to_declare.len()
                ),
                "no policy applies to them before they are there",
            );
        }
        // Where an end is missing, so is the binding: one finding for one thing to fix.
        let missing: Vec<&BrokerObject> =
            findings.iter().filter(|it| it.problem == Problem::Missing).map(|it| &it.object).collect();
        report.findings.retain(|finding| !missing.iter().any(|end| finding.object.ends_at(end)));
        report.add(findings);
        match worker {
            // A worker that declares must be allowed to.
            Some(Declare::Missing) => report.add(not_compared),
            Some(Declare::Nothing) | None if management.is_some() || not_compared.is_empty() => {}
            Some(Declare::Nothing) | None => report.add_unseen(
                format!("the arguments of {} exchanges and queues", not_compared.len()),
                "without the permission to configure them AMQP does not compare them; amqp.management_url would",
            ),
        }
        report.add(permissions.transpose()?.unwrap_or_default());
        Ok(report)
    }
}
