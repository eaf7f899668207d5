"""What a publisher and a listener write with the generated types. Never run: a type checker must be content with it."""

from typing import NoReturn

from cancel_intent import (
    ApmProvisionCancelIntent,
    AsyncCancelIntent,
    BatchCancelIntent,
    BatchCancelPayment,
    BatchItem,
    CancelIntent,
    SyncCancelRollbackIntent,
    TransactionCancelIntent,
)
from cancel_outcome import ApmStatus, CancelOutcome, PhysicalStatus, ReasonCode, Status, VirtualPosStatus


def unreachable(value: NoReturn) -> NoReturn:
    raise AssertionError(value)


def names_the_payment(intent: CancelIntent) -> str:
    """The kind alone tells which fields there are, and no kind is forgotten."""
    if intent.kind == "async_cancel":
        return intent.payment.payment_request_id
    if intent.kind == "sync_cancel_rollback":
        return intent.payment.cancel_requested_at or intent.payment.payment_request_id
    if intent.kind == "transaction_cancel":
        return intent.payment.unique_code
    if intent.kind == "apm_provision_cancel":
        return intent.payment.merchant_unique_code or intent.payment.unique_code
    if intent.kind == "batch_cancel":
        return ", ".join(item.merchant_unique_code for item in intent.payment.payments)
    unreachable(intent)


def kinds(intent: CancelIntent) -> type:
    match intent:
        case AsyncCancelIntent() | SyncCancelRollbackIntent() | TransactionCancelIntent():
            return type(intent.payment)
        case ApmProvisionCancelIntent() | BatchCancelIntent():
            return type(intent.payment)
    unreachable(intent)


def what_to_do(event: CancelOutcome) -> str:
    """No status is forgotten, and a reason is one of a closed list."""
    data = event.data
    match data.status:
        case Status.cancelled:
            return "reverse"
        case Status.rejected:
            assert data.reason is not None
            return "refund" if data.reason.code is ReasonCode.same_day_window_closed else "clear"
        case Status.rolled_back | Status.closed | Status.abandoned:
            return "nothing"
        case Status.accepted | Status.given_up | Status.unresolved:
            return "wait"
    unreachable(data.status)


def shown(event: CancelOutcome) -> str:
    status = event.data.payment_status
    if status is None:
        return "nothing"
    if isinstance(status, (PhysicalStatus, VirtualPosStatus, ApmStatus)):
        return f"{status.type.name.value} {status.name.value}"
    unreachable(status)


batch = BatchCancelIntent(
    intent_id="0b8f6c1e-6f0e-4b1c-9a55-2f1f0f3f7a11",
    kind="batch_cancel",
    requested_at="2026-11-21T10:15:00+03:00",
    payment=BatchCancelPayment(payments=[BatchItem(merchant_unique_code="PWL-1", date="2026-11-21")]),
)
