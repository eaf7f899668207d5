//! One step of a letter that is handled here and now: its body is read, its next step planned, made and decided about.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::{Instant, timeout};
use tracing::{Instrument, Span};

use super::Worker;
use super::deadlines::ALONE_MAX;
use super::job::Job;
use super::step_log::StepLog;
use crate::admission::Hindrance;
use crate::domain::classify::{Facts, Verdict, classify, codes_of, rule_of};
use crate::domain::decide::{
    DeadReason, Decision, Moment, decide_findings, decide_ruling, decide_verdict, give_up, wait_locked_out,
    wait_untried,
};
use crate::domain::doubt::{in_doubt, resumed};
use crate::domain::evidence::{Findings, weigh};
use crate::domain::fault::Fault;
use crate::domain::history::{History, Phase};
use crate::domain::intent::{CancelIntent, IntentId, Kind};
use crate::domain::outcome::UnresolvedReason;
use crate::domain::plan::{Plan, Planned, inquiry_after, plan};
use crate::domain::reply::{InquiryReply, Reply};
use crate::domain::step::{Call, Inquiry};
use crate::gateway::call_path;
use crate::memory::IdContent;
use crate::telemetry::{carrier, events, spans};
use crate::wire::envelope::{HeaderValue, Letter, Messages, Redelivered};
use crate::wire::intent::{Judgement, judge};
use crate::wire::outcome::Unannounced;

impl Worker {
    /// What is to be announced about a letter, the gateway called or asked where that is the next step.
    pub(super) async fn step(&self, letter: &Letter, job: &Job) -> Messages {
        match spans::decode().in_scope(|| judge(letter)) {
            Judgement::Intent(received) => {
                let intent = &received.intent;
                if self.is_id_reused(letter, job, intent.id, &IdContent::Intent(intent)) {
                    return self.unannounced(letter, &received.known(), Unannounced::IntentIdReused);
                }
                let cut_off = match job {
                    Job::Isolated(_) => Some(ALONE_MAX),
                    Job::Fresh | Job::Resumed(_) | Job::Republish | Job::Expired => None,
                };
                let step = Step { worker: self, intent, log: StepLog::new(intent), cut_off };
                spans::identify(&Span::current(), &step.log.of());
                let decision = step.decide(job).await;
                step.log.decided(&decision, self.clock.now());
                self.encode(letter, &received, &decision)
            }
            Judgement::Malformed(malformed) => {
                // A refusal of this letter would be taken for one of the intent that has the id.
                if let Some(id) = malformed.known.id
                    && self.is_id_reused(letter, job, id, &IdContent::Malformed(&letter.body))
                {
                    return self.unannounced(letter, &malformed.known, Unannounced::IntentIdReused);
                }
                self.malformed(letter, &malformed)
            }
            Judgement::WrongLane(received) => {
                self.unannounced(letter, &received.known(), Unannounced::WrongLane)
            }
        }
    }

    /// Whether this letter's id was seen with other content, which only a letter fresh from its lane is held to:
    /// about any other something may have been done already.
    fn is_id_reused(&self, letter: &Letter, job: &Job, id: IntentId, content: &IdContent<'_>) -> bool {
        let is_other = self.seen_ids.is_other(id, content);
        is_other && matches!(job, Job::Fresh) && letter.redelivered == Redelivered::No
    }
}

/// The step of one intent.
struct Step<'a> {
    worker: &'a Worker,
    intent: &'a CancelIntent,
    log: StepLog<'a>,
    /// After this a request to the gateway is given up on, where others wait behind this letter.
    cut_off: Option<Duration>,
}

impl Step<'_> {
    async fn decide(&self, job: &Job) -> Decision {
        let Worker { clock, policy, .. } = self.worker;
        let now = clock.now();
        let history = self.history(job, now);
        if let Job::Expired = job {
            return give_up(self.intent, &history, DeadReason::Unresolved(UnresolvedReason::Expired));
        }
        let Planned { history, plan } = spans::plan().in_scope(|| plan(self.intent, &history, policy, now));
        let decided = match plan {
            Plan::Call(call) => self.call(&history, call).await,
            Plan::Inquire(inquiry) => self.inquire(&history, inquiry).await,
            Plan::Decide(ruling) => Ok(decide_ruling(self.intent, &history, ruling, self.moment(now))),
        };
        decided.unwrap_or_else(|hindrance| self.wait(&history, hindrance))
    }

    /// What was done to the letter before.
    fn history(&self, job: &Job, now: Timestamp) -> History {
        let carried = job.history(self.intent.items().len(), now);
        let history = resumed(self.intent, &carried, &self.worker.policy, now);
        match self.worker.ordered.called_at(self.intent.id) {
            // A copy of an intent that this process has ordered: a look decides it, and it is never called for again.
            Some(called_at) if history.phase == Phase::Call && history.attempts == 0 => {
                // Not later than now: the clock may have been set back since.
                in_doubt(&history, called_at.min(now), now)
            }
            Some(_) | None => history,
        }
    }

    fn wait(&self, history: &History, hindrance: Hindrance) -> Decision {
        let moment = self.moment(self.worker.clock.now());
        match hindrance {
            Hindrance::LockedOut { until, last } => wait_locked_out(history, last, until, moment),
            Hindrance::Waits { until, why } => wait_untried(history, until, why, moment),
        }
    }

    async fn call(&self, history: &History, call: Call) -> Result<Decision, Hindrance> {
        let Worker { admission, gateway, clock, policy, ordered, .. } = self.worker;
        let kind = self.intent.kind();
        let mut entered = admission.enter(self.intent).await?;
        let attempt = history.attempts.saturating_add(1);
        let path = call_path(kind);
        let span = spans::call(kind.as_str(), gateway.host(kind.api()), path, attempt);
        let traceparent = traceparent(&span);
        let begun = Instant::now();
        let calling = gateway.call(&call, traceparent.as_deref()).instrument(span.clone());
        let reply = self.within(calling).await.unwrap_or(Reply::Unanswered(Fault::Timeout));
        let now = clock.now();
        let verdict = spans::classify().in_scope(|| classify(&call.order, &reply, &policy.codes));
        let mut last = codes_of(&reply);
        last.rule = Some(rule_of(kind, &reply, &verdict, &last, &policy.codes));
        match last.http_status {
            Some(http_status) => spans::answered(&span, http_status),
            None => spans::unanswered(&span, last.fault.map_or_else(|| verdict.name(), Fault::as_str)),
        }
        events::called(self.log.of(), path, attempt, &last, verdict.name(), begun.elapsed());
        entered.hear(&reply, &verdict, &last);
        let verdict = self.look_after_success(verdict).await;
        if is_remembered(kind, &verdict) {
            ordered.remember(self.intent.id, now);
        }
        let called = call.order.indices();
        let decide = || decide_verdict(self.intent, history, &called, verdict, last, self.moment(now));
        Ok(spans::decide().in_scope(decide))
    }

    async fn inquire(&self, history: &History, inquiry: Inquiry) -> Result<Decision, Hindrance> {
        let Worker { admission, clock, .. } = self.worker;
        let _permit = admission.look(self.intent, &inquiry).await?;
        let asked_at = clock.now();
        let (findings, fault) = self.look(&inquiry, history.asked.saturating_add(1)).await;
        let history = &history.looked(&findings, fault);
        let now = clock.now();
        let decide = || decide_findings(self.intent, history, findings, asked_at, self.moment(now));
        Ok(spans::decide().in_scope(decide))
    }

    /// What a look shows, and how the last of its requests failed that did.
    async fn look(&self, inquiry: &Inquiry, asked: u32) -> (Findings, Option<Fault>) {
        let Worker { gateway, policy, .. } = self.worker;
        let kind = self.intent.kind();
        let span = spans::inquire(kind.as_str(), asked);
        let traceparent = traceparent(&span);
        let begun = Instant::now();
        let (reply, fault) = self
            .within(gateway.inquire(inquiry, traceparent.as_deref()).instrument(span))
            .await
            .unwrap_or_else(|| (InquiryReply::unanswered(&inquiry.question), Some(Fault::Timeout)));
        let findings = spans::classify().in_scope(|| weigh(&reply, kind, &policy.codes));
        events::inquired(self.log.of(), asked, &shown(&findings), fault, begun.elapsed());
        (findings, fault)
    }

    /// One more read buys the payment's status where a success reply has none (`inquiry.after_success`). Whatever
    /// it shows, the success stands.
    async fn look_after_success(&self, verdict: Verdict) -> Verdict {
        let Verdict::Done(Facts { payment_status: None, learnt }) = verdict else { return verdict };
        let is_wanted = self.worker.policy.after_success.contains(&self.intent.kind());
        let payment_status = match is_wanted.then(|| inquiry_after(self.intent)).flatten() {
            None => None,
            Some(inquiry) => match self.look(&inquiry, 1).await.0 {
                Findings::Payment(evidence) => evidence.payment_status,
                Findings::Items(_) => None,
            },
        };
        Verdict::Done(Facts { payment_status, learnt })
    }

    /// What `asking` gives, unless the step is cut off before.
    async fn within<T>(&self, asking: impl Future<Output = T>) -> Option<T> {
        match self.cut_off {
            None => Some(asking.await),
            Some(cut_off) => timeout(cut_off, asking).await.ok(),
        }
    }

    fn moment(&self, now: Timestamp) -> Moment<'_> {
        Moment { policy: &self.worker.policy, now, jitter: self.worker.jitter.draw() }
    }
}

/// The trace context that a call carries to the gateway, where the configuration lets it.
fn traceparent(span: &Span) -> Option<String> {
    match carrier::inject(span).remove("traceparent") {
        Some(HeaderValue::Text(text)) => Some(text),
        Some(HeaderValue::Int(_) | HeaderValue::Bool(_)) | None => None,
    }
}

/// What a look showed, in words; of a batch, each word once.
fn shown(findings: &Findings) -> String {
    match findings {
        Findings::Payment(evidence) => evidence.shown.as_str().to_owned(),
        Findings::Items(items) => {
            let words: BTreeSet<&str> = items.iter().map(|(_, evidence)| evidence.shown.as_str()).collect();
            words.into_iter().collect::<Vec<_>>().join(",")
        }
    }
}

/// Whether copies of an intent are decided by looks from now on. Nothing but the call itself tells whether a provision
/// is cancelled, so asking about its copies would be calling.
fn is_remembered(kind: Kind, verdict: &Verdict) -> bool {
    let is_ordered = match verdict {
        Verdict::Done(_) | Verdict::Ordered(_) | Verdict::OrderedBatch(..) => true,
        Verdict::Refused(_)
        | Verdict::RefusedByState(_)
        | Verdict::NeverSent
        | Verdict::Busy(_)
        | Verdict::InDoubt
        | Verdict::LockedOut(_)
        | Verdict::NotConfigured => false,
    };
    is_ordered && kind != Kind::ApmProvisionCancel
}
