//! How much lies in bodies that are larger than an intent and not acked yet; and the acks, as the library writes them.

use std::collections::HashMap;

use super::frame::{Frame, Head};
use super::method;

/// A body larger than any intent (contract §2) counts against `Limits::large_bodies_bytes_max`.
pub(super) const LARGE_BODY_BYTES: u64 = 256 * 1024;

/// The bodies that are larger than an intent, handed on and not acked.
#[derive(Debug, Default)]
pub(super) struct LargeBodies {
    deliveries: HashMap<(u16, u64), u64>,
    pub(super) bytes: u64,
}

impl LargeBodies {
    /// `bytes` are handed on of a body of this size.
    pub(super) fn delivered(&mut self, channel: u16, tag: u64, body_size: u64, bytes: u64) {
        if body_size > LARGE_BODY_BYTES {
            self.bytes += bytes;
            self.bytes -= self.deliveries.insert((channel, tag), bytes).unwrap_or_default();
        }
    }

    pub(super) fn settled(&mut self, channel: u16, tag: u64, multiple: bool) {
        if self.deliveries.is_empty() {
            return;
        }
        if multiple {
            // Zero means all.
            self.retain(|(on, delivered)| on != channel || (tag != 0 && delivered > tag));
        } else if let Some(bytes) = self.deliveries.remove(&(channel, tag)) {
            self.bytes -= bytes;
        }
    }

    pub(super) fn forget(&mut self, channel: u16) {
        self.retain(|(on, _)| on != channel);
    }

    fn retain(&mut self, stays: impl Fn((u16, u64)) -> bool) {
        self.deliveries.retain(|delivery, _| stays(*delivery));
        self.bytes = self.deliveries.values().sum();
    }
}

/// What the library writes, followed frame by frame for the deliveries that it acks.
#[derive(Debug, Default)]
pub(super) struct Written {
    /// The protocol header, which is no frame, has gone out so far.
    greeted: usize,
    begin: Vec<u8>,
    left: usize,
}

impl Written {
    pub(super) const GREETING: usize = 8;
    pub(super) const ACK: (u16, u16) = (60, 80);
    pub(super) const REJECT: (u16, u16) = (60, 90);
    pub(super) const NACK: (u16, u16) = (60, 120);
    /// The head of a frame, class, method, delivery tag and flags.
    const BEGIN: usize = Frame::HEAD + 13;

    pub(super) fn follow(&mut self, mut output: &[u8], large: &mut LargeBodies) {
        let greeting = output.len().min(Written::GREETING - self.greeted);
        self.greeted += greeting;
        output = &output[greeting..];
        while !output.is_empty() {
            if self.left > 0 {
                let passed = output.len().min(self.left);
                self.left -= passed;
                output = &output[passed..];
                continue;
            }
            let wanted = match self.begin.len() {
                len if len < Frame::HEAD => Frame::HEAD - len,
                len => {
                    let head = self.head();
                    let whole = head.payload_len().saturating_add(Frame::OVERHEAD);
                    let is_method = head.frame_type == Frame::METHOD;
                    let looked_at = if is_method { whole.min(Written::BEGIN) } else { Frame::HEAD };
                    if len >= looked_at {
                        self.look(head, large);
                        self.left = whole - len;
                        self.begin.clear();
                        continue;
                    }
                    looked_at - len
                }
            };
            let taken = output.len().min(wanted);
            self.begin.extend(&output[..taken]);
            output = &output[taken..];
        }
    }

    fn head(&self) -> Head {
        let mut head = [0; Frame::HEAD];
        head.copy_from_slice(&self.begin[..Frame::HEAD]);
        Head::read(head)
    }

    fn look(&self, head: Head, large: &mut LargeBodies) {
        let payload = &self.begin[Frame::HEAD..];
        match method::id(payload) {
            Some(id @ (Written::ACK | Written::NACK)) => {
                let multiple = payload.get(12).is_some_and(|flags| flags & 1 != 0);
                if let Some(tag) = method::delivery_tag(id, payload) {
                    large.settled(head.channel, tag, multiple);
                }
            }
            Some(id @ Written::REJECT) => {
                if let Some(tag) = method::delivery_tag(id, payload) {
                    large.settled(head.channel, tag, false);
                }
            }
            Some(method::CHANNEL_CLOSE | method::CHANNEL_CLOSE_OK) => large.forget(head.channel),
            Some(_) | None => {}
        }
    }
}
