//! How a try to reach the gateway failed, as one word of a closed list (contract §3): for headers, outcomes and logs.

/// How a try to reach the gateway failed, where no reply did.
///
/// The word alone says how far the request came: of the first five nothing was sent; of the others it may have been.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fault {
    /// The host's name was not resolved.
    Dns,
    /// Nobody listens at that port.
    ConnectRefused,
    /// The connection was not made within `gateway.connect_timeout`, TLS included.
    ConnectTimeout,
    /// No way leads to that host, or this machine may not take it.
    Unreachable,
    /// TLS was not agreed: the certificate, the protocol, or a connection closed meanwhile.
    Tls,
    /// No whole reply within `gateway.call_timeout`.
    Timeout,
    /// The connection was reset.
    Reset,
    /// The connection was closed before a reply.
    Closed,
    /// The reply's body ended before its end.
    Truncated,
    /// The reply is larger than is read.
    TooLarge,
    /// What came is no reply of this API: not HTTP, not decodable, or no envelope.
    Unreadable,
}

impl Fault {
    /// All of them, in the contract's order.
    pub const ALL: [Fault; 11] = [
        Fault::Dns,
        Fault::ConnectRefused,
        Fault::ConnectTimeout,
        Fault::Unreachable,
        Fault::Tls,
        Fault::Timeout,
        Fault::Reset,
        Fault::Closed,
        Fault::Truncated,
        Fault::TooLarge,
        Fault::Unreadable,
    ];

    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Fault::Dns => "dns",
            Fault::ConnectRefused => "connect_refused",
            Fault::ConnectTimeout => "connect_timeout",
            Fault::Unreachable => "unreachable",
            Fault::Tls => "tls",
            Fault::Timeout => "timeout",
            Fault::Reset => "reset",
            Fault::Closed => "closed",
            Fault::Truncated => "truncated",
            Fault::TooLarge => "too_large",
            Fault::Unreadable => "unreadable",
        }
    }

    /// What the word means.
    pub fn parse(text: &str) -> Option<Fault> {
        Fault::ALL.into_iter().find(|fault| fault.as_str() == text)
    }

    /// How far the request came.
    pub fn reach(self) -> Reach {
        match self {
            Fault::Dns | Fault::ConnectRefused | Fault::ConnectTimeout | Fault::Unreachable | Fault::Tls => {
                Reach::NotConnected
            }
            Fault::Timeout
            | Fault::Reset
            | Fault::Closed
            | Fault::Truncated
            | Fault::TooLarge
            | Fault::Unreadable => Reach::Connected,
        }
    }
}

/// How far a request came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// There was no connection: nothing of it was sent.
    NotConnected,
    /// There was a connection: it may have been read.
    Connected,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_means_what_it_was_written_for_and_no_other_means_anything() {
        for fault in Fault::ALL {
            assert_eq!(Fault::parse(fault.as_str()), Some(fault));
        }
        let words: std::collections::BTreeSet<&str> = Fault::ALL.map(Fault::as_str).into();
        assert_eq!(words.len(), Fault::ALL.len());
        for text in ["", "DNS", "connect", "reset "] {
            assert_eq!(Fault::parse(text), None);
        }
    }
}
