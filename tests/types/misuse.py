"""Mistakes that a type checker must find in a program on the generated types. Never run."""

from cancel_intent import AsyncCancelIntent, AsyncCancelPayment, CancelIntent
from cancel_outcome import CancelOutcome, ReasonCode, Status


def of_another_kind(intent: CancelIntent) -> str:
    if intent.kind == "async_cancel":
        return intent.payment.unique_code  # an error
    return ""


def a_status_that_there_is_not(event: CancelOutcome) -> bool:
    return event.data.status is Status.canceled  # an error


def a_status_that_is_a_reason(event: CancelOutcome) -> bool:
    return event.data.status is ReasonCode.not_found  # an error


def a_reason_that_may_be_null(event: CancelOutcome) -> str:
    return event.data.reason.message  # an error


intent = AsyncCancelIntent(
    intent_id="0b8f6c1e-6f0e-4b1c-9a55-2f1f0f3f7a11",
    kind="transaction_cancel",  # an error
    requested_at="2026-11-21T10:15:00+03:00",
    payment=AsyncCancelPayment(payment_request_id="7cc7c8e8-9d92-41b6-9378-e9ecef5a7812"),
)
