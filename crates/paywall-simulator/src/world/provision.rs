//! Provisions of alternative payment methods.

use jiff::Timestamp;

use super::{Body, Identifier, World};
use crate::{
    rules::ApmRepeat,
    seed::{ApmState, ProviderSays},
    truth::PaymentState,
};

/// A provision of an alternative payment method.
#[derive(Debug, Clone)]
pub(crate) struct Apm {
    pub(crate) unique_code: String,
    pub(crate) merchant_code: String,
    pub(crate) transaction_id: u64,
    pub(crate) amount: String,
    pub(crate) created: Timestamp,
    pub(crate) state: ApmState,
    pub(super) provider: ProviderSays,
    pub(super) cancelled_at: Option<Timestamp>,
}

impl Apm {
    pub(super) fn state(&self) -> PaymentState {
        match self.state {
            ApmState::Provisioned => PaymentState::Stands,
            ApmState::Cancelled => PaymentState::Cancelled,
            ApmState::Refunded => PaymentState::Refunded,
            ApmState::NotSuitable => PaymentState::NotPaid,
        }
    }
}

/// Why an APM cancel is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ApmRefusal {
    NotFound,
    NotSuitable,
    AlreadyRefunded,
}

/// A cancelled provision, as the reply tells it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cancelled<'a> {
    pub(crate) apm: &'a Apm,
    pub(crate) provider: Provider,
}

/// The provider's part of an APM reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Provider {
    Agrees,
    Fails,
}

impl World {
    /// Cancels a provision.
    pub(crate) fn cancel_provision(
        &mut self,
        now: Timestamp,
        merchant: &str,
        unique_code: &str,
    ) -> Result<Cancelled<'_>, ApmRefusal> {
        let repeat = self.rules.apm_repeat;
        let at = self.find(merchant, &Identifier::Apm(unique_code.to_owned())).ok_or(ApmRefusal::NotFound)?;
        let apm = match self.payments.get_mut(at).map(|payment| &mut payment.body) {
            Some(Body::Apm(apm)) => apm,
            Some(Body::Physical(_) | Body::VirtualPos(_)) | None => return Err(ApmRefusal::NotFound),
        };
        match (apm.state, repeat) {
            (ApmState::Refunded, _) => return Err(ApmRefusal::AlreadyRefunded),
            (ApmState::NotSuitable, _) | (ApmState::Cancelled, ApmRepeat::NotSuitable) => {
                return Err(ApmRefusal::NotSuitable);
            }
            (ApmState::Cancelled, ApmRepeat::Succeeds) => {
                return Ok(Cancelled { apm, provider: Provider::Agrees });
            }
            (ApmState::Provisioned, _) => {}
        }
        let (provider, state) = match apm.provider {
            ProviderSays::Yes => (Provider::Agrees, ApmState::Cancelled),
            ProviderSays::NoAndMeansIt => (Provider::Fails, ApmState::Provisioned),
            ProviderSays::NoButDidIt => (Provider::Fails, ApmState::Cancelled),
        };
        if state == ApmState::Cancelled {
            apm.cancelled_at = Some(now);
        }
        apm.state = state;
        Ok(Cancelled { apm, provider })
    }

    pub(crate) fn apm(&self, merchant: &str, merchant_code: &str) -> Option<&Apm> {
        match &self.payment(merchant, Identifier::ApmMerchantCode(merchant_code.to_owned()))?.body {
            Body::Apm(apm) => Some(apm),
            Body::Physical(_) | Body::VirtualPos(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::testing::*, *};
    use crate::seed::SeedApm;

    fn check_apm(
        seed: SeedApm,
        repeat: ApmRepeat,
        expected: Result<Provider, ApmRefusal>,
        state: PaymentState,
        cancels: u64,
    ) {
        let told = format!("{seed:?} {repeat:?}");
        let mut world = world_with(SeedApm { unique_code: Some("c".to_owned()), ..seed });
        world.rules.apm_repeat = repeat;
        let answered = world.cancel_provision(noon(0), M, "c").map(|cancelled| cancelled.provider);
        assert_eq!(answered, expected, "{told}");
        let truth = world.truth_of(noon(0), "c").unwrap();
        assert_eq!((truth.state, truth.effects.cancels), (state, cancels), "{told}");
    }

    #[test]
    fn a_provision_is_cancelled_once_and_a_repeat_does_nothing_more() {
        use ApmRepeat::{NotSuitable, Succeeds};
        let of = |state| SeedApm { state, ..SeedApm::default() };
        let says = |provider| SeedApm { provider, ..SeedApm::default() };
        let (yes, fails) = (Ok(Provider::Agrees), Ok(Provider::Fails));
        check_apm(of(ApmState::Provisioned), Succeeds, yes, PaymentState::Cancelled, 1);
        check_apm(of(ApmState::Cancelled), Succeeds, yes, PaymentState::Cancelled, 0);
        let refused = Err(ApmRefusal::NotSuitable);
        check_apm(of(ApmState::Cancelled), NotSuitable, refused, PaymentState::Cancelled, 0);
        check_apm(of(ApmState::NotSuitable), Succeeds, refused, PaymentState::NotPaid, 0);
        let refunded = Err(ApmRefusal::AlreadyRefunded);
        check_apm(of(ApmState::Refunded), Succeeds, refunded, PaymentState::Refunded, 0);
        check_apm(says(ProviderSays::NoAndMeansIt), Succeeds, fails, PaymentState::Stands, 0);
        check_apm(says(ProviderSays::NoButDidIt), Succeeds, fails, PaymentState::Cancelled, 1);
    }
}
