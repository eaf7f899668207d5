//! The reply codes of AMQP 0-9-1: why the broker closes a channel, or a connection.

use lapin::ErrorKind;

/// An operator has closed the connection, or a node goes down.
pub(super) const CONNECTION_FORCED: u16 = 320;
/// We may not do that.
pub(super) const ACCESS_REFUSED: u16 = 403;
/// There is no such thing.
pub(super) const NOT_FOUND: u16 = 404;
/// Another connection has it to itself.
pub(super) const RESOURCE_LOCKED: u16 = 405;
/// It is there, and it differs; or it cannot be as it was asked for.
pub(super) const PRECONDITION_FAILED: u16 = 406;
/// The broker cannot, for the moment.
pub(super) const RESOURCE_ERROR: u16 = 506;
/// The broker cannot say why.
pub(super) const INTERNAL_ERROR: u16 = 541;

/// What the broker itself said, if this comes from it.
pub(super) fn of(error: &lapin::Error) -> Option<u16> {
    let ErrorKind::ProtocolError(said) = error.kind() else { return None };
    Some(said.get_id())
}
