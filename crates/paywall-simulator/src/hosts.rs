//! Which names a request may call us by.
//!
//! A page in a browser on this machine can be made to send requests to us under its own name, by a name server that
//! answers with a loopback address (DNS rebinding). So only those who mean this machine are let in, as long as we listen
//! for this machine only.

use std::net::IpAddr;

/// Whom a simulator lets in, by the `Host` of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hosts {
    /// It listens on this machine only, at this address.
    Loopback(IpAddr),
    /// It was told to listen for others too, who call it what they like.
    Anybody,
}

impl Hosts {
    pub(super) fn of(bind: IpAddr) -> Hosts {
        if bind.is_loopback() { Hosts::Loopback(bind) } else { Hosts::Anybody }
    }

    /// Whether a request with this `Host` is let in.
    pub(super) fn lock_out_ended(self, host: Option<&[u8]>) -> bool {
        match self {
            Hosts::Anybody => true,
            Hosts::Loopback(bind) => host.and_then(|host| str::from_utf8(host).ok()).is_some_and(|host| {
                let name = without_port(host);
                match name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
                    Ok(address) => address.is_loopback() || address == bind,
                    Err(_) => name.eq_ignore_ascii_case("localhost"),
                }
            }),
        }
    }
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port))
            if port.bytes().all(|b| b.is_ascii_digit()) && (!name.contains(':') || name.ends_with(']')) =>
        {
            name
        }
        Some(_) | None => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_means_this_machine_is_let_in_where_it_listens_for_itself_only() {
        let hosts = Hosts::of(IpAddr::from([127, 0, 0, 1]));
        for host in [
            "127.0.0.1:18080",
            "127.0.0.1",
            "localhost:1",
            "LOCALHOST",
            "[::1]:18080",
            "[::1]",
            "127.9.9.9:1",
        ] {
            assert!(hosts.lock_out_ended(Some(host.as_bytes())), "{host}");
        }
        for host in [
            "evil.example:18080",
            "evil.example",
            "localhost.evil.example:1",
            "127.0.0.1.evil.example",
            "10.0.0.1:1",
            "",
        ] {
            assert!(!hosts.lock_out_ended(Some(host.as_bytes())), "{host}");
        }
        assert!(!hosts.lock_out_ended(None) && !hosts.lock_out_ended(Some(b"\xff")));
    }

    #[test]
    fn who_listens_for_others_lets_them_call_it_what_they_like() {
        assert!(Hosts::of(IpAddr::from([0, 0, 0, 0])).lock_out_ended(Some(b"simulator:18080")));
    }
}
