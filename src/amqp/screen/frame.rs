//! The frames of AMQP 0-9-1, and what of them ends a connection.

use super::table::push_long;

/// Why the screen ends a connection: what came can only be a mistake of the broker's, or an attack from its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A method or a content header beyond what is looked at.
    #[error("the server sent a method or content header of {bytes} bytes, and {max} is the most")]
    TooLarge {
        /// How large it is.
        bytes: u64,
        /// What is looked at.
        max: u64,
    },
    /// A body frame beyond the size that was agreed on.
    #[error("the server sent a body frame of {bytes} bytes, and {max} were agreed on")]
    BodyFrameTooLarge {
        /// How large it is.
        bytes: u64,
        /// What was agreed on.
        max: u64,
    },
    /// A frame of a body that is being cut does not end where it says, or goes beyond the body.
    #[error("the server sent a body that does not fit its own length")]
    BodyBroken,
    /// Too many large bodies at once, their frames mixed.
    #[error("the server sends too many large bodies at once")]
    TooMuchHeld,
}

/// The frames of AMQP 0-9-1: type, channel, size, payload, end.
pub(super) struct Frame;

impl Frame {
    pub(super) const METHOD: u8 = 1;
    pub(super) const HEADER: u8 = 2;
    pub(super) const BODY: u8 = 3;
    pub(super) const HEARTBEAT: u8 = 8;
    pub(super) const END: u8 = 0xce;
    pub(super) const HEAD: usize = 7;
    /// What a frame has beside its payload.
    pub(super) const OVERHEAD: usize = Frame::HEAD + 1;
    /// The smallest frame size that may be agreed on.
    pub(super) const MIN_SIZE: u32 = 4_096;
    /// A heartbeat, all of it.
    pub(super) const WHOLE_HEARTBEAT: [u8; 8] = [Frame::HEARTBEAT, 0, 0, 0, 0, 0, 0, Frame::END];
}

/// The beginning of a frame.
#[derive(Debug, Clone, Copy)]
pub(super) struct Head {
    pub(super) frame_type: u8,
    pub(super) channel: u16,
    pub(super) size: u32,
}

impl Head {
    pub(super) fn read(bytes: [u8; Frame::HEAD]) -> Head {
        let [frame_type, c1, c0, s3, s2, s1, s0] = bytes;
        Head { frame_type, channel: u16::from_be_bytes([c1, c0]), size: u32::from_be_bytes([s3, s2, s1, s0]) }
    }

    pub(super) fn payload_len(self) -> usize {
        usize::try_from(self.size).unwrap_or(usize::MAX)
    }
}

pub(super) fn push_frame(out: &mut Vec<u8>, frame_type: u8, channel: u16, payload: &[u8]) {
    out.push(frame_type);
    out.extend(channel.to_be_bytes());
    push_long(out, payload);
    out.push(Frame::END);
}

pub(super) fn size_of_frame(agreed: u32) -> usize {
    usize::try_from(agreed.max(Frame::MIN_SIZE)).unwrap_or(usize::MAX)
}

/// A frame that is there as a whole, in two pieces.
#[derive(Clone, Copy)]
pub(super) struct Parts<'a> {
    pub(super) head: &'a [u8],
    pub(super) payload_and_end: &'a [u8],
}

impl<'a> Parts<'a> {
    pub(super) fn payload(self) -> &'a [u8] {
        &self.payload_and_end[..self.payload_and_end.len() - 1]
    }

    pub(super) fn end(self) -> u8 {
        self.payload_and_end[self.payload_and_end.len() - 1]
    }

    pub(super) fn pass(self, out: &mut Vec<u8>) {
        out.extend(self.head);
        out.extend(self.payload_and_end);
    }
}
