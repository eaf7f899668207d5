//! How payments come into the world.

use jiff::Timestamp;

use super::{
    Activity, Body, FAILED, FAILED_BY_QUERY, Identifier, Named, Payment, Statuses, World,
    pos::{self, VirtualPos},
    provision::Apm,
    steps,
    terminal::{self, Physical},
};
use crate::{
    api::Endpoint,
    clock::{after_ms, before_ms, day},
    seed::{BatchPlan, CancelPlan, Identity, PastActivity, Seed, SeedApm, SeedPhysical, SeedVirtualPos},
    truth::{CallLog, Origin},
};

/// Payments that one simulator holds.
const PAYMENTS_MAX: usize = 100_000;

/// Why a payment cannot be seeded.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SeedError {
    /// An identifier of it belongs to another payment of this merchant.
    #[error("{field}: another payment of this merchant has it already")]
    Taken {
        /// The field.
        field: &'static str,
    },
    /// A value that no payment can have.
    #[error("{field}: {problem}")]
    Invalid {
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// No key set has this name.
    #[error("merchant: no key set has this name")]
    UnknownMerchant,
    /// The simulator is full.
    #[error("the simulator holds its {PAYMENTS_MAX} payments already")]
    Full,
}

impl World {
    pub(crate) fn seed(&mut self, now: Timestamp, seed: Seed) -> Result<Identity, SeedError> {
        if self.payments.len() >= PAYMENTS_MAX {
            return Err(SeedError::Full);
        }
        match seed {
            Seed::Physical(seed) => self.seed_physical(now, seed),
            Seed::VirtualPos(seed) => self.seed_virtual_pos(now, seed),
            Seed::Apm(seed) => self.seed_apm(now, seed),
        }
    }

    fn seed_physical(&mut self, now: Timestamp, seed: SeedPhysical) -> Result<Identity, SeedError> {
        check_amount(&seed.amount)?;
        check_activities(&seed.history, &seed.cancels, seed.sale_status, terminal::STATUSES)?;
        let request_id = seed.payment_request_id.unwrap_or_else(|| self.made_up_uuid());
        let merchant_code = seed.merchant_unique_code.unwrap_or_else(|| self.made_up_code());
        let identity = Identity {
            id: request_id.to_string(),
            merchant: seed.merchant,
            payment_request_id: Some(request_id),
            merchant_unique_code: Some(merchant_code.clone()),
            ..Identity::default()
        };
        let activities = self.past(now, terminal::SALE, seed.sale_status, &seed.history);
        let terminal_id = self.made_up_uuid();
        let body = Body::Physical(Physical {
            request_id,
            merchant_code,
            terminal_id,
            amount: seed.amount,
            activities,
            plans: seed.cancels,
            orders: 0,
        });
        self.insert(identity, vec![Identifier::RequestId(request_id)], body)
    }

    fn seed_virtual_pos(&mut self, now: Timestamp, seed: SeedVirtualPos) -> Result<Identity, SeedError> {
        check_amount(&seed.amount)?;
        check_activities(&seed.history, &seed.cancels, seed.sale_status, pos::STATUSES)?;
        if let BatchPlan::Failed { status, .. } = seed.batch
            && status != FAILED
            && status != FAILED_BY_QUERY
        {
            return Err(SeedError::Invalid { field: "batch.status", problem: "a failure is 5 or 7" });
        }
        let unique_code = seed.unique_code.unwrap_or_else(|| self.made_up_uuid());
        let merchant_code = seed.merchant_unique_code.unwrap_or_else(|| self.made_up_code());
        let date = seed.date.unwrap_or_else(|| day(now, &self.rules.zone));
        let identity = Identity {
            id: unique_code.to_string(),
            merchant: seed.merchant,
            unique_code: Some(unique_code.to_string()),
            merchant_unique_code: Some(merchant_code.clone()),
            date: Some(date),
            ..Identity::default()
        };
        let identifiers =
            vec![Identifier::UniqueCode(unique_code), Identifier::MerchantCode(merchant_code.clone())];
        let body = Body::VirtualPos(VirtualPos {
            number: self.next_number(),
            unique_code,
            merchant_code,
            date,
            amount: seed.amount,
            activities: self.past(now, pos::SALE, seed.sale_status, &seed.history),
            plans: seed.cancels,
            orders: 0,
            batch: seed.batch,
            marketplace_records: seed.marketplace_records,
        });
        self.insert(identity, identifiers, body)
    }

    fn seed_apm(&mut self, now: Timestamp, seed: SeedApm) -> Result<Identity, SeedError> {
        check_amount(&seed.amount)?;
        let unique_code = seed.unique_code.unwrap_or_else(|| self.made_up_uuid().to_string());
        let merchant_code = seed.merchant_unique_code.unwrap_or_else(|| self.made_up_code());
        let transaction_id = seed.apm_transaction_id.unwrap_or_else(|| self.next_number());
        let identity = Identity {
            id: unique_code.clone(),
            merchant: seed.merchant,
            unique_code: Some(unique_code.clone()),
            merchant_unique_code: Some(merchant_code.clone()),
            apm_transaction_id: Some(transaction_id),
            ..Identity::default()
        };
        let identifiers =
            vec![Identifier::Apm(unique_code.clone()), Identifier::ApmMerchantCode(merchant_code.clone())];
        let body = Body::Apm(Apm {
            unique_code,
            merchant_code,
            transaction_id,
            amount: seed.amount,
            created: now,
            state: seed.state,
            provider: seed.provider,
            cancelled_at: None,
        });
        self.insert(identity, identifiers, body)
    }

    fn insert(
        &mut self,
        identity: Identity,
        identifiers: Vec<Identifier>,
        body: Body,
    ) -> Result<Identity, SeedError> {
        let keys: Vec<_> =
            identifiers.into_iter().map(|identifier| (identity.merchant.clone(), identifier)).collect();
        if let Some((_, identifier)) = keys.iter().find(|key| self.index.contains_key(key)) {
            return Err(SeedError::Taken { field: identifier.field() });
        }
        let at = self.payments.len();
        let mut names: Vec<String> = Vec::new();
        for name in [
            Some(identity.id.clone()),
            identity.merchant_unique_code.clone(),
            identity.apm_transaction_id.map(|id| id.to_string()),
        ] {
            names.extend(name.map(|name| name.to_lowercase()));
        }
        let mut log = CallLog::default();
        for name in &names {
            self.by_name.entry(name.clone()).or_insert(at);
            // Calls that named it before it was there are calls of it.
            if let Some(earlier) = self.unknown.remove(name) {
                for (endpoint, count) in earlier.counts {
                    *log.counts.entry(endpoint).or_default() += count;
                }
                log.records.extend(earlier.records);
            }
        }
        self.index.extend(keys.into_iter().map(|key| (key, at)));
        self.payments.push(Payment { identity: identity.clone(), names, body, log });
        Ok(identity)
    }

    /// Seeds what a call names and nobody seeded, as if a normal payment had always been there.
    ///
    /// For a rollback a cancel order has been waiting for a minute, else nothing could be withdrawn.
    pub(crate) fn meet(&mut self, now: Timestamp, merchant: &str, endpoint: Endpoint, named: &[Named]) {
        for Named { identifier, date } in named {
            if self.find(merchant, identifier).is_some() {
                continue;
            }
            let merchant = merchant.to_owned();
            let seed = match identifier.clone() {
                Identifier::RequestId(id) => {
                    let history = match endpoint {
                        Endpoint::CancelRollback => vec![PastActivity::ended(terminal::CANCEL, 10)],
                        Endpoint::AsyncCancel
                        | Endpoint::SyncCancel
                        | Endpoint::PhysicalInquiry
                        | Endpoint::PhysicalActivities
                        | Endpoint::TransactionCancel
                        | Endpoint::PrivateQuery
                        | Endpoint::PrivateQueryByUniqueCode
                        | Endpoint::ApmProvisionCancel
                        | Endpoint::ApmQuery
                        | Endpoint::BatchCancel => Vec::new(),
                    };
                    Seed::Physical(SeedPhysical { merchant, history, ..SeedPhysical::sold(id) })
                }
                Identifier::UniqueCode(code) => {
                    Seed::VirtualPos(SeedVirtualPos { merchant, date: *date, ..SeedVirtualPos::sold(code) })
                }
                Identifier::MerchantCode(code) => {
                    Seed::VirtualPos(SeedVirtualPos { merchant, date: *date, ..SeedVirtualPos::item(code) })
                }
                Identifier::Apm(code) => Seed::Apm(SeedApm { merchant, ..SeedApm::provisioned(code) }),
                Identifier::ApmMerchantCode(code) => {
                    Seed::Apm(SeedApm { merchant, merchant_unique_code: Some(code), ..SeedApm::default() })
                }
            };
            // A full simulator knows no more payments: the call is then told that there is none.
            let _ = self.seed(now, seed);
        }
    }

    fn past(&mut self, now: Timestamp, sale: u8, sale_status: u8, history: &[PastActivity]) -> Vec<Activity> {
        let oldest_ms = history.iter().map(|past| past.ago_ms).max().unwrap_or(0);
        let sold = before_ms(now, oldest_ms.saturating_add(60_000));
        let mut activities = vec![self.activity(sale, sold, steps(sold, sale_status, &[]))];
        for past in history {
            let began = before_ms(now, past.ago_ms);
            let date = activities.last().map_or(began, |last| began.max(after_ms(last.date, 1)));
            activities.push(self.activity(past.kind, date, steps(began, past.status, &past.then)));
        }
        activities
    }

    fn activity(&mut self, kind: u8, date: Timestamp, steps: Vec<(Timestamp, u8)>) -> Activity {
        Activity {
            id: self.made_up_uuid(),
            number: self.next_number(),
            kind,
            date,
            origin: Origin::Seeded,
            withdrawn: None,
            steps,
        }
    }
}

/// Decimal text that is a JSON number as it stands.
fn check_amount(amount: &str) -> Result<(), SeedError> {
    let (whole, part) = amount.split_once('.').unwrap_or((amount, "0"));
    let digits = |text: &str, max| {
        !text.is_empty() && text.len() <= max && text.bytes().all(|byte| byte.is_ascii_digit())
    };
    if digits(whole, 15) && digits(part, 8) && (whole == "0" || !whole.starts_with('0')) {
        Ok(())
    } else {
        Err(SeedError::Invalid { field: "amount", problem: "not a plain decimal number such as 8.00" })
    }
}

fn check_activities(
    history: &[PastActivity],
    cancels: &[CancelPlan],
    sale_status: u8,
    statuses: Statuses,
) -> Result<(), SeedError> {
    let wrong = |field, problem| Err(SeedError::Invalid { field, problem });
    if !statuses.has(sale_status) {
        return wrong("sale_status", NO_SUCH_STATUS);
    }
    if cancels.is_empty() {
        return wrong("cancels", "must have at least one plan");
    }
    if history.iter().any(|past| !(1..=4).contains(&past.kind)) {
        return wrong("history.type", "no such type");
    }
    let past = history.iter().map(|past| ("history.status", past.status, &past.then));
    let planned = cancels.iter().map(|plan| ("cancels", plan.first, &plan.then));
    for (field, first, then) in past.chain(planned) {
        if !statuses.has(first) || !then.iter().all(|step| statuses.has(step.status)) {
            return wrong(field, NO_SUCH_STATUS);
        }
        let mut then = then.clone();
        then.sort_by_key(|step| step.after_ms);
        let all: Vec<u8> = std::iter::once(first).chain(then.iter().map(|step| step.status)).collect();
        if all.split_last().is_some_and(|(_, before)| before.iter().any(|one| statuses.ended.contains(one))) {
            return wrong(field, "nothing comes after a status in which it has ended");
        }
    }
    Ok(())
}

const NO_SUCH_STATUS: &str = "no such status";

#[cfg(test)]
mod tests {
    use super::{
        super::{SUCCESSFUL, testing::*},
        *,
    };
    use crate::seed::PlannedStep;

    #[test]
    fn a_seed_that_cannot_be_is_refused_by_the_name_of_its_field() {
        let mut world = terminal_world(SeedPhysical::default());
        let mut field = |seed: SeedPhysical| match world.seed(noon(0), seed.into()) {
            Err(SeedError::Taken { field } | SeedError::Invalid { field, .. }) => field,
            other => panic!("{other:?}"),
        };
        let default = SeedPhysical::default;
        assert_eq!(field(SeedPhysical::sold(ID)), "payment_request_id");
        assert_eq!(field(SeedPhysical { amount: "8,00".to_owned(), ..default() }), "amount");
        assert_eq!(field(SeedPhysical { amount: "08".to_owned(), ..default() }), "amount");
        assert_eq!(field(SeedPhysical { sale_status: 13, ..default() }), "sale_status");
        assert_eq!(field(default().after(PastActivity::ended(5, 4))), "history.type");
        assert_eq!(field(default().cancelling(CancelPlan::only(0))), "cancels");
        assert_eq!(field(SeedPhysical { cancels: Vec::new(), ..default() }), "cancels");
        let undead =
            CancelPlan { first: FAILED, then: vec![PlannedStep { after_ms: 1, status: SUCCESSFUL }] };
        assert_eq!(field(default().cancelling(undead)), "cancels");
    }
}
