//! The payments and the rules: what the gateway knows, and what a call does to it.
//!
//! Every rule is a function of the world and the moment. Nothing here happens by itself: a status is looked up in the
//! plan of its activity by the time that is asked for.

mod books;
pub(super) mod pos;
pub(super) mod provision;
mod seeding;
pub(super) mod terminal;

use std::collections::HashMap;

use jiff::{Timestamp, civil};
use rand::{Rng, SeedableRng, rngs::StdRng};
use uuid::Uuid;

use super::{
    clock::after_ms,
    rules::Rules,
    seed::{CancelPlan, Identity, PlannedStep},
    truth::{CallLog, Origin, PaymentState},
};

pub(super) use books::Touched;
pub use seeding::SeedError;

use pos::VirtualPos;
use provision::Apm;
use terminal::Physical;

/// All that the gateway knows.
#[derive(Debug)]
pub(super) struct World {
    pub(super) rules: Rules,
    payments: Vec<Payment>,
    index: HashMap<(String, Identifier), usize>,
    by_name: HashMap<String, usize>,
    unknown: HashMap<String, CallLog>,
    rng: StdRng,
    last_number: u64,
    last_bulk: u64,
}

impl World {
    pub(super) fn new(rules: Rules, seed: u64) -> Self {
        Self {
            rules,
            payments: Vec::new(),
            index: HashMap::new(),
            by_name: HashMap::new(),
            unknown: HashMap::new(),
            rng: StdRng::seed_from_u64(seed),
            last_number: 14_210,
            last_bulk: 2_682,
        }
    }

    /// What `call` would be answered, with none of its effects on the payments that it names.
    pub(super) fn pretend<T>(
        &mut self,
        merchant: &str,
        named: &[Named],
        call: impl FnOnce(&mut Self) -> T,
    ) -> T {
        let saved: Vec<(usize, Body)> = named
            .iter()
            .filter_map(|named| self.find(merchant, &named.identifier))
            .filter_map(|at| self.payments.get(at).map(|payment| (at, payment.body.clone())))
            .collect();
        let answer = call(self);
        for (at, body) in saved {
            if let Some(payment) = self.payments.get_mut(at) {
                payment.body = body;
            }
        }
        answer
    }

    fn find(&self, merchant: &str, identifier: &Identifier) -> Option<usize> {
        self.index.get(&(merchant.to_owned(), identifier.clone())).copied()
    }

    /// The payment that is meant, for the books: that of the caller, else anybody's of this name.
    fn meant(&self, merchant: Option<&str>, identifier: &Identifier) -> Option<usize> {
        merchant
            .and_then(|merchant| self.find(merchant, identifier))
            .or_else(|| self.by_name.get(&identifier.name().to_lowercase()).copied())
    }

    fn payment(&self, merchant: &str, identifier: Identifier) -> Option<&Payment> {
        self.find(merchant, &identifier).and_then(|at| self.payments.get(at))
    }

    fn made_up_uuid(&mut self) -> Uuid {
        uuid::Builder::from_random_bytes(self.rng.random()).into_uuid()
    }

    fn made_up_code(&mut self) -> String {
        format!("MUC{:012}", self.next_number())
    }

    fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }
}

/// How a call names a payment.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Identifier {
    RequestId(Uuid),
    UniqueCode(Uuid),
    MerchantCode(String),
    Apm(String),
    ApmMerchantCode(String),
}

impl Identifier {
    pub(super) fn name(&self) -> String {
        match self {
            Self::RequestId(id) | Self::UniqueCode(id) => id.to_string(),
            Self::MerchantCode(code) | Self::Apm(code) | Self::ApmMerchantCode(code) => code.clone(),
        }
    }

    fn field(&self) -> &'static str {
        match self {
            Self::RequestId(_) => "payment_request_id",
            Self::UniqueCode(_) | Self::Apm(_) => "unique_code",
            Self::MerchantCode(_) | Self::ApmMerchantCode(_) => "merchant_unique_code",
        }
    }
}

/// A payment that a call names, and the day that it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) identifier: Identifier,
    pub(super) date: Option<civil::Date>,
}

/// One thing that was done to a payment, with its whole future.
#[derive(Debug, Clone)]
pub(super) struct Activity {
    pub(super) id: Uuid,
    pub(super) number: u64,
    pub(super) kind: u8,
    /// When it began, as it is printed: never the same for two of one payment, however the clock stands.
    pub(super) date: Timestamp,
    origin: Origin,
    /// When a call withdrew it.
    withdrawn: Option<Timestamp>,
    /// Status by time, in the order of time; the first holds from the beginning.
    steps: Vec<(Timestamp, u8)>,
}

impl Activity {
    pub(super) fn status(&self, now: Timestamp) -> u8 {
        self.steps
            .iter()
            .rev()
            .find(|(at, _)| *at <= now)
            .or_else(|| self.steps.first())
            .map_or(1, |(_, status)| *status)
    }

    pub(super) fn changed_at(&self, now: Timestamp) -> Timestamp {
        self.steps.iter().rev().find(|(at, _)| *at <= now).map_or(self.date, |(at, _)| *at)
    }

    fn began(&self) -> Timestamp {
        self.steps.first().map_or(self.date, |(at, _)| *at)
    }
}

#[derive(Debug, Clone)]
enum Body {
    Physical(Physical),
    VirtualPos(VirtualPos),
    Apm(Apm),
}

#[derive(Debug)]
struct Payment {
    identity: Identity,
    /// Every identifier, in lower case.
    names: Vec<String>,
    body: Body,
    log: CallLog,
}

/// The statuses of one side.
#[derive(Debug, Clone, Copy)]
struct Statuses {
    max: u8,
    /// Those after which nothing comes.
    ended: &'static [u8],
}

impl Statuses {
    fn has(self, status: u8) -> bool {
        (1..=self.max).contains(&status)
    }
}

/// Statuses that both sides number alike.
const SUCCESSFUL: u8 = 4;
const FAILED: u8 = 5;
const FAILED_BY_QUERY: u8 = 7;
const WITHDRAWN: u8 = 12;

/// The plan of the next order: one after the other, the last one again and again.
fn next_plan(plans: &[CancelPlan], orders: &mut usize) -> CancelPlan {
    let plan = plans.get(*orders).or_else(|| plans.last()).cloned().unwrap_or_else(CancelPlan::at_once);
    *orders += 1;
    plan
}

/// Status by time, in the order of time.
fn steps(began: Timestamp, first: u8, then: &[PlannedStep]) -> Vec<(Timestamp, u8)> {
    let mut steps = vec![(began, first)];
    steps.extend(then.iter().map(|step| (after_ms(began, step.after_ms), step.status)));
    steps.sort_by_key(|(at, _)| *at);
    steps
}

fn state(body: &Body, now: Timestamp) -> PaymentState {
    match body {
        Body::Physical(payment) => payment.state(now),
        Body::VirtualPos(payment) => payment.state(now),
        Body::Apm(apm) => apm.state(),
    }
}

/// A world at noon, for the tests of its rules.
#[cfg(test)]
mod testing {
    use uuid::uuid;

    use super::*;
    use crate::{
        seed::{Seed, SeedPhysical, SeedVirtualPos},
        truth::Effects,
    };

    pub(super) const ID: Uuid = uuid!("7cc7c8e8-9d92-41b6-9378-e9ecef5a7812");
    pub(super) const M: &str = "default";
    pub(super) const TODAY: civil::Date = civil::Date::constant(2026, 3, 1);

    /// Noon in Istanbul, and this many seconds.
    pub(super) fn noon(seconds: u64) -> Timestamp {
        after_ms("2026-03-01T09:00:00Z".parse().unwrap(), seconds * 1_000)
    }

    pub(super) fn world_with(seed: impl Into<Seed>) -> World {
        let mut world = World::new(Rules::default(), 1);
        world.seed(noon(0), seed.into()).unwrap();
        world
    }

    pub(super) fn terminal_world(seed: SeedPhysical) -> World {
        world_with(SeedPhysical { payment_request_id: Some(ID), ..seed })
    }

    pub(super) fn pos_world(seed: SeedVirtualPos) -> World {
        world_with(SeedVirtualPos {
            unique_code: Some(ID),
            merchant_unique_code: Some("A-1".to_owned()),
            ..seed
        })
    }

    pub(super) fn state_of(world: &World, now: Timestamp) -> PaymentState {
        world.truth_of(now, &ID.to_string()).unwrap().state
    }

    pub(super) fn effects_of(world: &World, now: Timestamp) -> Effects {
        world.truth_of(now, &ID.to_string()).unwrap().effects
    }
}

#[cfg(test)]
mod tests {
    use super::{testing::*, *};
    use crate::{seed::SeedPhysical, truth::Effects};

    #[test]
    fn a_call_that_is_only_pretended_leaves_everything_as_it_was() {
        let mut world = terminal_world(SeedPhysical::default());
        let named = [Named { identifier: Identifier::RequestId(ID), date: None }];
        let answer = world.pretend(M, &named, |world| world.order_cancel(noon(0), M, ID));
        assert_eq!(answer.unwrap().status, SUCCESSFUL);
        assert_eq!(state_of(&world, noon(0)), PaymentState::Stands);
        assert_eq!(effects_of(&world, noon(0)), Effects::default());
    }
}
