//! Runs many steps at once, over as many generations of the connection as it takes.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::Worker;
use crate::amqp::{self, Delivery, Publisher, Stopped};
use crate::gateway;
use crate::memory::ClockNews;
use crate::telemetry::events::{self, IntentRef};
use crate::telemetry::{carrier, spans};
use crate::wire::envelope::Letter;

/// Takes deliveries and runs their steps until `stop`, over as many generations of the connection as it takes.
pub async fn run(
    worker: Arc<Worker>,
    settings: &amqp::Settings,
    stop: &CancellationToken,
    grace: Duration,
) -> Stopped {
    let mut runner =
        Runner { worker: Arc::clone(&worker), topology: settings.topology(), steps: JoinSet::new() };
    let stopped = tokio::select! {
        stopped = amqp::run_generations(settings, &worker.jitter, stop, grace, &mut runner) => stopped,
        never = worker.admission.keep(stop, |lane, mode| settings.consume(lane, mode)) => match never {},
        never = worker.gateway.watch(tell_of_gateway) => match never {},
        never = worker.set_backs.watch(tell_of_clock) => match never {},
    };
    // What is left is unacked, therefore safe.
    runner.steps.shutdown().await;
    stopped
}

fn tell_of_clock(news: ClockNews) {
    match news {
        ClockNews::SetBack { by, letters } => events::clock_set_back(by, letters),
        ClockNews::Agrees { lasted } => events::clock_agrees(lasted),
    }
}

fn tell_of_gateway(news: gateway::News<'_>) {
    let gateway::News { api, host, port, endpoint, what } = news;
    let of = events::Endpoint { api: api.as_str(), host, port, path: endpoint };
    match what {
        gateway::What::Fails { fault, detail, times, lasts } => {
            events::gateway_failing(&of, fault, detail, times, lasts);
        }
        gateway::What::AnswersAgain { lasted } => events::gateway_answering(&of, lasted),
    }
}

/// The steps that are under way.
struct Runner<'a> {
    worker: Arc<Worker>,
    topology: &'a amqp::Topology,
    steps: JoinSet<()>,
}

impl amqp::DeliveryHandler for &mut Runner<'_> {
    fn begin(&mut self, delivery: Delivery, publisher: &Publisher) {
        // Lets go of the steps that have ended. A panic is our own bug: its report is in the log, and it ended one step.
        while self.steps.try_join_next().is_some() {}
        self.worker.note_arrival(&delivery.letter);
        let Letter { source, redelivered, ref body, ref headers, .. } = delivery.letter;
        let body_len = body.len();
        let queue = self.topology.queue_of(source);
        let span = spans::delivery(source, &queue, redelivered, body_len);
        carrier::continue_trace(&span, headers);
        let worker = Arc::clone(&self.worker);
        let publisher = publisher.clone();
        let step = async move {
            events::received(source, redelivered, body_len);
            if let Err(interrupted) = worker.handle(delivery, &publisher, &queue).await {
                events::interrupted(IntentRef::default(), &interrupted);
            }
        };
        self.steps.spawn(step.instrument(span));
    }

    fn not_begun(&mut self, letter: &Letter) {
        self.worker.letters.note_untouched(letter);
    }

    fn watched(&self) -> Vec<String> {
        self.worker.queues_of_waits(self.topology)
    }

    fn looked(&mut self, depths: Vec<(String, amqp::Depth)>) {
        self.worker.tell_late_waits(self.topology, &depths);
    }
}
