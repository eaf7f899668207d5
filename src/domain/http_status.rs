//! What an HTTP status says by itself, whatever reply it comes with. The one table of statuses.

/// What a status says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HttpStatus {
    /// 2xx.
    Success,
    /// 401, 403: our keys, or the address that we call from, are not accepted. No code of the reply says otherwise.
    NotAuthorized,
    /// 408, 425, 429: come later. No code of the reply says otherwise.
    TryLater,
    /// 404, 405, 410, 3xx: without an envelope it comes from something that is not the gateway's endpoint.
    NotTheEndpoint,
    /// 503: come later, where it says so by `Retry-After`.
    Unavailable,
    /// Any other 5xx.
    ServerError,
    /// Anything else.
    Other,
}

impl HttpStatus {
    /// What this status says.
    pub fn of(http_status: u16) -> HttpStatus {
        match http_status {
            200..=299 => HttpStatus::Success,
            401 | 403 => HttpStatus::NotAuthorized,
            408 | 425 | 429 => HttpStatus::TryLater,
            404 | 405 | 410 | 300..=399 => HttpStatus::NotTheEndpoint,
            503 => HttpStatus::Unavailable,
            500..=599 => HttpStatus::ServerError,
            _any_other => HttpStatus::Other,
        }
    }

    /// Whether this is a 2xx.
    pub fn is_success(http_status: u16) -> bool {
        HttpStatus::of(http_status) == HttpStatus::Success
    }

    /// Whether it means the same whatever the reply's codes say.
    pub fn decides_alone(self) -> bool {
        match self {
            HttpStatus::NotAuthorized | HttpStatus::TryLater => true,
            HttpStatus::Success
            | HttpStatus::NotTheEndpoint
            | HttpStatus::Unavailable
            | HttpStatus::ServerError
            | HttpStatus::Other => false,
        }
    }

    /// Whether it comes, where no code speaks, from a proxy before the gateway or from a gateway in trouble.
    pub fn is_strained(self) -> bool {
        match self {
            HttpStatus::TryLater | HttpStatus::Unavailable | HttpStatus::ServerError => true,
            HttpStatus::Success
            | HttpStatus::NotAuthorized
            | HttpStatus::NotTheEndpoint
            | HttpStatus::Other => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_has_one_meaning() {
        let statuses = |meaning| {
            let of =
                |from: u16, to: u16| (from..to).filter(|status| HttpStatus::of(*status) == meaning).count();
            [of(0, 200), of(200, 300), of(300, 400), of(400, 500), of(500, 600), of(600, 1000)]
        };
        assert_eq!(statuses(HttpStatus::Success), [0, 100, 0, 0, 0, 0]);
        assert_eq!(statuses(HttpStatus::NotAuthorized), [0, 0, 0, 2, 0, 0]);
        assert_eq!(statuses(HttpStatus::TryLater), [0, 0, 0, 3, 0, 0]);
        assert_eq!(statuses(HttpStatus::NotTheEndpoint), [0, 0, 100, 3, 0, 0]);
        assert_eq!(statuses(HttpStatus::Unavailable), [0, 0, 0, 0, 1, 0]);
        assert_eq!(statuses(HttpStatus::ServerError), [0, 0, 0, 0, 99, 0]);
        assert_eq!(statuses(HttpStatus::Other), [200, 0, 0, 92, 0, 400]);
    }
}
