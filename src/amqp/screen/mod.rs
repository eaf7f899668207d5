//! What stands on the socket, under the client library: reads the broker's frames by their length and hands them on,
//! and rewrites what the library would choke on into what it cannot.
//!
//! The library parses a frame as a whole and gives up the connection where it cannot: for a short string that is no
//! UTF-8, for a frame beyond the negotiated size (which the broker itself makes when it adds `x-death`), and it recurses
//! through tables without a bound. So one letter that anybody with the least rights can publish would end every
//! connection that it is delivered to. Here
//!
//! - a *content header* that the library cannot parse loses its properties, but for the headers of ours that are whole;
//!   a mark among the headers ([`MARK`]) says in words what was cut, and becomes `cancel-unreadable`;
//! - a *body* beyond [`BODY_BYTES_MAX`] keeps its first [`CUT_BODY_BYTES`]; the rest is swallowed as it comes, and
//!   the mark names its length and SHA-256, so that two cut bodies are never taken for one letter. Bodies that the broker returns
//!   are our own, and are left whole;
//! - *methods* lose what is no text, and of tables what the library cannot parse;
//! - the *frame size* that the server proposes is bounded, since the library allocates by it;
//! - a frame that can only be a mistake or an attack ends the connection.
//!
//! What passes unchanged is copied once and not parsed beyond its lengths and its strings. [`Screen`] is a pure state
//! machine over bytes; `transport` puts it under the library.

mod content;
mod cut;
mod frame;
mod large;
mod method;
mod table;

use std::collections::HashMap;

use sha2::{Digest, Sha256};

use content::ContentHeader;
use cut::Cut;
pub use cut::{BODY_CUT, CUT_BODY_BYTES, CutBody, MARK};
pub use frame::FrameError;
use frame::{Frame, Head, Parts, push_frame, size_of_frame};
use large::{LargeBodies, Written};
use method::Screened;

/// The largest body that is handed on whole, in bytes (contract §4).
pub const BODY_BYTES_MAX: u64 = 1024 * 1024;

/// The largest method or content header that is looked at, in bytes: more than any broker sends.
const METHOD_OR_HEADER_BYTES_MAX: usize = 1024 * 1024;

/// How much may be held of bodies that are being cut, on all channels together, in bytes. A broker sends the frames of
/// one message without another's between them, so one at a time is what is to be expected.
const HELD_BYTES_MAX: usize = 8 * 1024 * 1024;

/// What a connection may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The largest frame that is agreed to, overhead included, in bytes; at least 4,096.
    pub frame_max: u32,
    /// How much of bodies that are larger than an intent may be handed on and not acked, in bytes: beyond it nothing is
    /// read until some of them are acked. `None` where nothing is acked.
    pub large_bodies_bytes_max: Option<u64>,
}

/// The state between two frames, or within one.
#[derive(Debug)]
enum Reading {
    /// The beginning of a frame, as far as it is there.
    Head { bytes: [u8; Frame::HEAD], len: usize },
    /// A method or a content header, which is collected as a whole: head, payload and end.
    Whole { head: Head, bytes: Vec<u8> },
    /// `left` more bytes that are handed on as they come.
    Pass { left: usize },
    /// A frame of a body that is being cut: `left` more bytes of its payload.
    Swallow { channel: u16, left: usize },
    /// The end of such a frame.
    SwallowedEnd { channel: u16 },
    /// What came is no frame: the library is to see it, and to say so.
    Raw,
}

impl Reading {
    const BEGIN: Reading = Reading::Head { bytes: [0; Frame::HEAD], len: 0 };
}

/// What comes next on a channel, where it is not a method.
#[derive(Debug)]
enum Content {
    /// The header of a message.
    Header { delivery: Option<u64>, cut: Option<Cut>, may_be_cut: bool },
    /// `left` more bytes of a body that is handed on.
    Body { left: u64 },
    /// The rest of a body that is being cut.
    Cutting(Box<Cutting>),
}

/// A body that is being cut: nothing of its message is handed on before all of it has come.
#[derive(Debug)]
struct Cutting {
    header: Vec<u8>,
    cut: Option<Cut>,
    delivery: Option<u64>,
    begin: Vec<u8>,
    digest: Sha256,
    left: u64,
}

/// The state machine: bytes of the broker in, bytes for the client library out.
#[derive(Debug)]
pub struct Screen {
    limits: Limits,
    frame_max: usize,
    reading: Reading,
    contents: HashMap<u16, Content>,
    held_bytes: usize,
    large: LargeBodies,
    written: Written,
    swallowed_bytes: u64,
}

impl Screen {
    /// For a new connection.
    pub fn new(limits: Limits) -> Screen {
        Screen {
            limits,
            frame_max: size_of_frame(limits.frame_max),
            reading: Reading::BEGIN,
            contents: HashMap::new(),
            held_bytes: 0,
            large: LargeBodies::default(),
            written: Written::default(),
            swallowed_bytes: 0,
        }
    }

    /// Takes in what the broker has sent, and appends what the library gets to read. Says how much it took: all of it,
    /// unless it [is full](Screen::is_full).
    ///
    /// # Errors
    /// When the connection has to end.
    pub fn read(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<usize, FrameError> {
        let mut rest = input;
        while !rest.is_empty() && !self.is_full() {
            rest = self.step(rest, out)?;
        }
        Ok(input.len() - rest.len())
    }

    /// Hears what the library has sent, and the socket has taken.
    pub fn wrote(&mut self, output: &[u8]) {
        if self.limits.large_bodies_bytes_max.is_some() {
            self.written.follow(output, &mut self.large);
        }
    }

    /// Whether nothing more is taken in until letters are acked that are larger than an intent. Never in the middle of a
    /// frame.
    pub fn is_full(&self) -> bool {
        let is_between_frames = matches!(self.reading, Reading::Head { len: 0, .. });
        is_between_frames && self.limits.large_bodies_bytes_max.is_some_and(|max| self.large.bytes > max)
    }

    /// How much was swallowed so far, in bytes: while this grows, the library hears nothing.
    pub fn swallowed_bytes(&self) -> u64 {
        self.swallowed_bytes
    }

    /// A heartbeat, for a library that would otherwise hear nothing, unless it is in the middle of a frame.
    pub fn heartbeat(&self) -> Option<[u8; 8]> {
        match self.reading {
            Reading::Pass { .. } | Reading::Raw => None,
            Reading::Head { .. }
            | Reading::Whole { .. }
            | Reading::Swallow { .. }
            | Reading::SwallowedEnd { .. } => Some(Frame::WHOLE_HEARTBEAT),
        }
    }

    /// Takes in some of the input, and gives back the rest.
    fn step<'a>(&mut self, input: &'a [u8], out: &mut Vec<u8>) -> Result<&'a [u8], FrameError> {
        match &mut self.reading {
            Reading::Head { bytes, len } => {
                let taken = input.len().min(Frame::HEAD - *len);
                bytes[*len..*len + taken].copy_from_slice(&input[..taken]);
                *len += taken;
                // The greeting of a server that speaks another version, or another protocol, may be shorter than a head.
                let is_frame = matches!(bytes[0], Frame::METHOD..=Frame::BODY | Frame::HEARTBEAT);
                if !is_frame {
                    out.extend(&bytes[..*len]);
                    self.reading = Reading::Raw;
                } else if *len == Frame::HEAD {
                    let bytes = *bytes;
                    return self.begin(bytes, &input[taken..], out);
                }
                Ok(&input[taken..])
            }
            Reading::Whole { head, bytes } => {
                let whole = Frame::OVERHEAD + head.payload_len();
                let taken = input.len().min(whole - bytes.len());
                bytes.extend(&input[..taken]);
                if bytes.len() == whole {
                    let (head, bytes) = (*head, std::mem::take(bytes));
                    self.reading = Reading::BEGIN;
                    self.whole(head, &bytes, out)?;
                }
                Ok(&input[taken..])
            }
            Reading::Pass { left } => {
                let taken = input.len().min(*left);
                out.extend(&input[..taken]);
                *left -= taken;
                if *left == 0 {
                    self.reading = Reading::BEGIN;
                }
                Ok(&input[taken..])
            }
            Reading::Swallow { channel, left } => {
                let taken = input.len().min(*left);
                *left -= taken;
                let (channel, left) = (*channel, *left);
                self.swallow(channel, &input[..taken])?;
                if left == 0 {
                    self.reading = Reading::SwallowedEnd { channel };
                }
                Ok(&input[taken..])
            }
            Reading::SwallowedEnd { channel } => {
                let channel = *channel;
                if input[0] != Frame::END {
                    return Err(FrameError::BodyBroken);
                }
                self.reading = Reading::BEGIN;
                self.end_of_cut_frame(channel, out);
                Ok(&input[1..])
            }
            Reading::Raw => {
                out.extend(input);
                Ok(&[])
            }
        }
    }

    /// The head of a frame is there: what comes after it?
    fn begin<'a>(
        &mut self,
        bytes: [u8; Frame::HEAD],
        rest: &'a [u8],
        out: &mut Vec<u8>,
    ) -> Result<&'a [u8], FrameError> {
        let head = Head::read(bytes);
        match head.frame_type {
            Frame::METHOD | Frame::HEADER => {
                let payload_len = head.payload_len();
                if payload_len > METHOD_OR_HEADER_BYTES_MAX {
                    let max = METHOD_OR_HEADER_BYTES_MAX as u64;
                    return Err(FrameError::TooLarge { bytes: head.size.into(), max });
                }
                // Mostly it is there as a whole.
                if let Some((frame, rest)) = rest.split_at_checked(payload_len + 1) {
                    let whole = Parts { head: &bytes, payload_and_end: frame };
                    self.reading = Reading::BEGIN;
                    self.screen(head, whole, out)?;
                    return Ok(rest);
                }
                let mut whole = Vec::with_capacity(Frame::OVERHEAD + payload_len);
                whole.extend(bytes);
                self.reading = Reading::Whole { head, bytes: whole };
            }
            Frame::BODY => {
                let whole = head.payload_len().saturating_add(Frame::OVERHEAD);
                if whole > self.frame_max {
                    let max = self.frame_max as u64;
                    return Err(FrameError::BodyFrameTooLarge { bytes: whole as u64, max });
                }
                self.body(head, bytes, out)?;
            }
            // A heartbeat: what is wrong with it is the library's to say.
            _ => {
                out.extend(bytes);
                self.reading = Reading::Pass { left: head.payload_len().saturating_add(1) };
            }
        }
        Ok(rest)
    }

    fn whole(&mut self, head: Head, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), FrameError> {
        let (begin, rest) = bytes.split_at(Frame::HEAD);
        self.screen(head, Parts { head: begin, payload_and_end: rest }, out)
    }

    /// A method or a content header is there as a whole.
    fn screen(&mut self, head: Head, frame: Parts<'_>, out: &mut Vec<u8>) -> Result<(), FrameError> {
        if frame.end() != Frame::END {
            // The library sees it, and says so; what comes after it is not ours to find.
            frame.pass(out);
            self.reading = Reading::Raw;
            return Ok(());
        }
        match head.frame_type {
            Frame::METHOD => self.method(head, frame, out),
            _ => self.header(head, frame, out),
        }
    }

    fn method(&mut self, head: Head, frame: Parts<'_>, out: &mut Vec<u8>) -> Result<(), FrameError> {
        let payload = frame.payload();
        // A method in the middle of a message: the library says so.
        self.forget_content(head.channel);
        let Some(id) = method::id(payload) else {
            frame.pass(out);
            return Ok(());
        };
        match id {
            method::TUNE => {
                self.tune(head, frame, out);
                return Ok(());
            }
            method::DELIVER | method::GET_OK | method::RETURN => {
                let delivery = match id {
                    method::RETURN => None,
                    _ => method::delivery_tag(id, payload),
                };
                let is_text =
                    method::routing_key(id, payload).is_none_or(|key| std::str::from_utf8(key).is_ok());
                let cut = (!is_text).then_some(Cut::RoutingKey);
                let may_be_cut = id != method::RETURN;
                self.contents.insert(head.channel, Content::Header { delivery, cut, may_be_cut });
            }
            method::CHANNEL_CLOSE | method::CHANNEL_CLOSE_OK => self.large.forget(head.channel),
            _ => {}
        }
        let len = match method::screen(id, payload, self.frame_max) {
            Screened::AsItIs => {
                frame.pass(out);
                payload.len()
            }
            Screened::Instead(payload) => {
                push_frame(out, Frame::METHOD, head.channel, &payload);
                payload.len()
            }
        };
        if len + Frame::OVERHEAD > self.frame_max {
            return Err(FrameError::TooLarge { bytes: len as u64, max: self.frame_max as u64 });
        }
        Ok(())
    }

    /// The server says how large frames may be. Zero means without a bound.
    fn tune(&mut self, head: Head, frame: Parts<'_>, out: &mut Vec<u8>) {
        let payload = frame.payload();
        let Some(proposed) =
            payload.get(6..10).and_then(|bytes| bytes.try_into().ok()).map(u32::from_be_bytes)
        else {
            frame.pass(out);
            return;
        };
        let agreed = match proposed {
            0 => self.limits.frame_max,
            proposed => proposed.min(self.limits.frame_max),
        };
        self.frame_max = size_of_frame(agreed);
        let mut payload = payload.to_vec();
        payload[6..10].copy_from_slice(&agreed.to_be_bytes());
        push_frame(out, Frame::METHOD, head.channel, &payload);
    }

    fn header(&mut self, head: Head, frame: Parts<'_>, out: &mut Vec<u8>) -> Result<(), FrameError> {
        let (delivery, key_cut, may_be_cut) = match self.forget_content(head.channel) {
            Some(Content::Header { delivery, cut, may_be_cut }) => (delivery, cut, may_be_cut),
            // A header that nothing announced: the library says so.
            Some(Content::Body { .. } | Content::Cutting(_)) | None => (None, None, false),
        };
        let Some(header) = ContentHeader::read(frame.payload()) else {
            frame.pass(out);
            return Ok(());
        };
        let cut = key_cut.or_else(|| header.check(self.frame_max).err());
        if may_be_cut && header.body_size > BODY_BYTES_MAX {
            self.held_bytes += frame.payload().len() + CUT_BODY_BYTES;
            if self.held_bytes > HELD_BYTES_MAX {
                return Err(FrameError::TooMuchHeld);
            }
            let cutting = Cutting {
                header: frame.payload().to_vec(),
                cut,
                delivery,
                begin: Vec::new(),
                digest: Sha256::new(),
                left: header.body_size,
            };
            self.contents.insert(head.channel, Content::Cutting(Box::new(cutting)));
            return Ok(());
        }
        match cut {
            None => frame.pass(out),
            Some(cut) => {
                let payload = header.rewrite(header.body_size, &cut.to_string());
                push_frame(out, Frame::HEADER, head.channel, &payload);
            }
        }
        if let Some(tag) = delivery {
            self.large.delivered(head.channel, tag, header.body_size, header.body_size);
        }
        if header.body_size > 0 {
            self.contents.insert(head.channel, Content::Body { left: header.body_size });
        }
        Ok(())
    }

    /// A frame of a body begins.
    fn body(&mut self, head: Head, bytes: [u8; Frame::HEAD], out: &mut Vec<u8>) -> Result<(), FrameError> {
        let len = u64::from(head.size);
        match self.contents.get_mut(&head.channel) {
            Some(Content::Cutting(cutting)) => {
                if len > cutting.left {
                    return Err(FrameError::BodyBroken);
                }
                self.reading = match head.payload_len() {
                    0 => Reading::SwallowedEnd { channel: head.channel },
                    left => Reading::Swallow { channel: head.channel, left },
                };
                return Ok(());
            }
            Some(Content::Body { left }) => {
                *left = left.saturating_sub(len);
                if *left == 0 {
                    self.contents.remove(&head.channel);
                }
            }
            // A body that nothing announced: the library says so.
            Some(Content::Header { .. }) | None => {}
        }
        out.extend(bytes);
        self.reading = Reading::Pass { left: head.payload_len() + 1 };
        Ok(())
    }

    fn swallow(&mut self, channel: u16, bytes: &[u8]) -> Result<(), FrameError> {
        let Some(Content::Cutting(cutting)) = self.contents.get_mut(&channel) else {
            return Err(FrameError::BodyBroken);
        };
        cutting.digest.update(bytes);
        cutting.left -= bytes.len() as u64;
        let wanted = CUT_BODY_BYTES - cutting.begin.len();
        cutting.begin.extend(&bytes[..bytes.len().min(wanted)]);
        self.swallowed_bytes += bytes.len() as u64;
        Ok(())
    }

    /// A frame of a body that is being cut is over; if the body is, what is left of its message is handed on.
    fn end_of_cut_frame(&mut self, channel: u16, out: &mut Vec<u8>) {
        let is_over =
            matches!(self.contents.get(&channel), Some(Content::Cutting(cutting)) if cutting.left == 0);
        if !is_over {
            return;
        }
        let Some(Content::Cutting(cutting)) = self.forget_content(channel) else { return };
        let Cutting { header, cut, delivery, begin, digest, left: _ } = *cutting;
        let Some(header) = ContentHeader::read(&header) else { return };
        let mark = CutBody { bytes: header.body_size, sha256: digest.finalize().into() }.to_string();
        let mark = match cut {
            None => mark,
            Some(cut) => format!("{mark}; {cut}"),
        };
        let body_size = begin.len() as u64;
        push_frame(out, Frame::HEADER, channel, &header.rewrite(body_size, &mark));
        for chunk in begin.chunks(self.frame_max - Frame::OVERHEAD) {
            push_frame(out, Frame::BODY, channel, chunk);
        }
        if let Some(tag) = delivery {
            self.large.delivered(channel, tag, header.body_size, body_size);
        }
    }

    fn forget_content(&mut self, channel: u16) -> Option<Content> {
        let content = self.contents.remove(&channel);
        if let Some(Content::Cutting(cutting)) = &content {
            self.held_bytes -= cutting.header.len() + CUT_BODY_BYTES;
        }
        content
    }
}

#[cfg(test)]
mod tests;
