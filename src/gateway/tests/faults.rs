//! Never sent, unanswered, answered: what each way of failing proves.

use super::*;
use crate::domain::fault::Fault;
use crate::domain::reply::{Answer, Envelope, NeverSent, PaymentEnvelope, RetryAfter};

const GZIPPED_SUCCESS: &[u8] =
    include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/gzip/success.json.gz"));
/// An envelope that says success, blown up with more than 1 MiB of spaces: 1 KiB on the wire.
const GZIPPED_TOO_LARGE: &[u8] =
    include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/gzip/too_large.json.gz"));
const SUCCESS: &str = r#"{"ErrorCode":0,"Result":true,"Message":"Success","Body":null}"#;

const RESET: Reply = Reply::Unanswered(Fault::Reset);
const CLOSED: Reply = Reply::Unanswered(Fault::Closed);
const TIMED_OUT: Reply = Reply::Unanswered(Fault::Timeout);
const NOT_HTTP: Reply = Reply::Unanswered(Fault::Unreadable);

fn never_sent(fault: Fault) -> Reply {
    Reply::NeverSent(NeverSent::NotConnected(fault))
}

/// A status came back, and no envelope, which is no fault.
fn bare(http_status: u16) -> Reply {
    Reply::Answered(Answer { http_status, retry_after: None, fault: None, envelope: Envelope::Missing })
}

/// A status came back, and no envelope because of this fault.
fn spoilt(http_status: u16, fault: Fault) -> Reply {
    let envelope = Envelope::Missing;
    Reply::Answered(Answer { http_status, retry_after: None, fault: Some(fault), envelope })
}

fn success() -> Reply {
    let envelope = PaymentEnvelope { error_code: Some(0), result: Some(true), ..PaymentEnvelope::default() };
    Reply::Answered(Answer {
        http_status: 200,
        retry_after: None,
        fault: None,
        envelope: Envelope::Payment(envelope),
    })
}

async fn call(settings: &config::Gateway) -> Reply {
    gateway_with(settings).call(&transaction_call(), None).await
}

/// The call's end when the server does this, and that it was made once.
async fn check(act: impl Fn() -> Act + Send + Sync + 'static, expected: Reply) {
    check_within(LONG, act, expected).await;
}

async fn check_within(
    call_timeout: Duration,
    act: impl Fn() -> Act + Send + Sync + 'static,
    expected: Reply,
) {
    let mut server = Server::start(move |_| act()).await;
    let reply = call(&settings(&server.url(), call_timeout)).await;
    assert_eq!(reply, expected);
    server.only_one();
}

/// A port that listens, and does this with each connection before it has read anything.
async fn listening(on_connect: impl Fn(TcpStream) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            on_connect(stream);
        }
    });
    address
}

/// A port that takes connections, and says nothing.
async fn silent() -> SocketAddr {
    let held = std::sync::Mutex::new(Vec::new());
    listening(move |stream| held.lock().unwrap().push(stream)).await
}

fn at(scheme: &str, address: SocketAddr) -> Url {
    format!("{scheme}://{address}").parse().unwrap()
}

#[tokio::test]
async fn a_refused_connection_was_never_sent() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    assert_eq!(call(&settings(&at("http", address), LONG)).await, never_sent(Fault::ConnectRefused));
}

#[tokio::test]
async fn a_name_that_does_not_resolve_was_never_sent() {
    let mut settings = settings(&"http://nonexistent.invalid".parse().unwrap(), LONG);
    settings.plain_http = PlainHttp::Anywhere;
    // Where no resolver answers, its own deadline ends it, with the same meaning.
    settings.connect_timeout = SHORT;
    assert_eq!(call(&settings).await, never_sent(Fault::Dns));
}

#[tokio::test]
async fn tls_to_a_port_that_speaks_plain_was_never_sent() {
    let plain = |mut stream: TcpStream| {
        tokio::spawn(async move {
            let said = stream.write_all(&reply("400 Bad Request", &[], "")).await;
            // Keeps the connection open until the other side has gone.
            said.and(stream.read_to_end(&mut vec![]).await.map(drop))
        });
    };
    let address = listening(plain).await;
    assert_eq!(call(&settings(&at("https", address), LONG)).await, never_sent(Fault::Tls));
}

#[tokio::test]
async fn tls_that_is_reset_was_never_sent() {
    let address = listening(reset).await;
    assert_eq!(call(&settings(&at("https", address), LONG)).await, never_sent(Fault::Tls));
}

#[tokio::test]
async fn tls_that_is_not_agreed_within_the_connect_timeout_was_never_sent() {
    let mut settings = settings(&at("https", silent().await), LONG);
    settings.connect_timeout = SHORT;
    assert_eq!(call(&settings).await, never_sent(Fault::ConnectTimeout));
}

#[tokio::test]
async fn a_connection_not_made_by_the_deadline_was_never_sent_even_if_it_was_given_longer() {
    let mut settings = settings(&at("https", silent().await), SHORT);
    settings.connect_timeout = LONG;
    assert_eq!(call(&settings).await, never_sent(Fault::ConnectTimeout));
}

#[tokio::test]
async fn a_reset_right_after_the_connect_proves_nothing() {
    let address = listening(reset).await;
    assert_eq!(call(&settings(&at("http", address), LONG)).await, RESET);
}

#[tokio::test]
async fn a_reset_after_the_request_proves_nothing() {
    check(|| Act::Reset(vec![]), RESET).await;
}

#[tokio::test]
async fn a_close_after_the_request_proves_nothing() {
    check(|| Act::Close(vec![]), CLOSED).await;
}

#[tokio::test]
async fn a_close_within_the_status_line_proves_nothing() {
    check(|| Act::Close(b"HTTP/1.1 2".to_vec()), CLOSED).await;
}

#[tokio::test]
async fn a_reply_that_is_not_http_proves_nothing() {
    check(|| Act::Close(b"SSH-2.0-OpenSSH_9.6\r\n\r\n".to_vec()), NOT_HTTP).await;
}

#[tokio::test]
async fn headers_without_end_prove_nothing() {
    let endless = || [b"HTTP/1.1 200 OK\r\nx: ".to_vec(), vec![b'x'; 2 * 1024 * 1024]].concat();
    check(move || Act::Hang(endless()), Reply::Unanswered(Fault::TooLarge)).await;
}

#[tokio::test]
async fn silence_is_told_as_a_timeout() {
    check_within(SHORT, || Act::Hang(vec![]), TIMED_OUT).await;
}

#[tokio::test]
async fn a_status_line_without_its_headers_is_told_as_a_timeout() {
    check_within(SHORT, || Act::Hang(b"HTTP/1.1 200 OK\r\n".to_vec()), TIMED_OUT).await;
}

#[tokio::test]
async fn an_idle_connection_that_died_is_never_told_as_never_sent() {
    // The server closes without saying so beforehand; the second call may meet the dead connection.
    let server = Server::start(|_| Act::Close(ok(SUCCESS))).await;
    let gateway = gateway(&server);
    assert_eq!(gateway.call(&transaction_call(), None).await, success());
    let second = gateway.call(&transaction_call(), None).await;
    assert!(second == success() || second == RESET || second == CLOSED, "{second:?}");
}

#[tokio::test]
async fn one_connection_serves_call_after_call() {
    let mut server = Server::saying(ok(SUCCESS)).await;
    let gateway = gateway(&server);
    for _ in 0..3 {
        assert_eq!(gateway.call(&transaction_call(), None).await, success());
    }
    let connections: Vec<_> = server.seen().iter().map(|seen| seen.peer).collect();
    assert_eq!(connections, vec![connections[0]; 3]);
}

#[tokio::test]
async fn a_body_that_hangs_keeps_the_status() {
    let hanging = || Act::Hang(b"HTTP/1.1 200 OK\r\ncontent-length: 61\r\n\r\n{\"ErrorCode\":0,".to_vec());
    check_within(SHORT, hanging, spoilt(200, Fault::Timeout)).await;
}

#[tokio::test]
async fn a_body_that_is_cut_off_keeps_the_status() {
    check(
        || Act::Close(b"HTTP/1.1 200 OK\r\ncontent-length: 61\r\n\r\n{\"Err".to_vec()),
        spoilt(200, Fault::Truncated),
    )
    .await;
    check(
        || Act::Reset(b"HTTP/1.1 500 Oh\r\ncontent-length: 61\r\n\r\n{\"Err".to_vec()),
        spoilt(500, Fault::Reset),
    )
    .await;
}

#[tokio::test]
async fn a_body_cut_off_at_the_end_of_an_envelope_is_still_cut_off() {
    let cut = || Act::Close([b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n", SUCCESS.as_bytes()].concat());
    check(cut, spoilt(200, Fault::Truncated)).await;
}

#[tokio::test]
async fn a_body_of_one_mebibyte_is_read_and_one_byte_more_is_not() {
    let padded = |bytes: usize| format!("{}{SUCCESS}", " ".repeat(bytes - SUCCESS.len()));
    check(move || Act::Say(ok(padded(exchange::BODY_BYTES_MAX))), success()).await;
    check(move || Act::Say(ok(padded(exchange::BODY_BYTES_MAX + 1))), spoilt(200, Fault::TooLarge)).await;
}

#[tokio::test]
async fn a_body_without_end_is_not_waited_for() {
    // More than fits is sent, and the rest never comes: the end is not the deadline's.
    let endless = || {
        let head = b"HTTP/1.1 200 OK\r\ncontent-length: 9000000000\r\n\r\n".to_vec();
        Act::Hang([head, vec![b' '; exchange::BODY_BYTES_MAX + 1]].concat())
    };
    check(endless, spoilt(200, Fault::TooLarge)).await;
}

/// A server that is asked, and says this over and over, and first this.
async fn saying_for_ever(first: &'static [u8], over_and_over: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let _asked = stream.read(&mut [0; 1]).await;
                let mut said = stream.write_all(first).await;
                while said.is_ok() {
                    said = stream.write_all(over_and_over).await;
                }
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_never_ends_ends_with_the_call_timeout_or_with_its_bound() {
    const CHUNKED: &[u8] = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    for (first, over_and_over) in [
        // Replies that announce another one.
        (b"".as_slice(), b"HTTP/1.1 100 Continue\r\n\r\n".as_slice()),
        (b"", b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n"),
        // Headers, the size of a chunk, a chunk's extension, trailers.
        (b"HTTP/1.1 200 OK\r\n", b"x: y\r\n"),
        (CHUNKED, b"0"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1;", b"x"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n", b"x: y\r\n"),
        // A body in crumbs.
        (CHUNKED, b"1\r\n \r\n"),
        (b"HTTP/1.1 200 OK\r\n\r\n", b" "),
        (b"HTTP/1.1 200 OK\r\n\r\n", &[b' '; 65_536]),
    ] {
        let address = saying_for_ever(first, over_and_over).await;
        let mut settings = settings(&at("http", address), SHORT);
        settings.connect_timeout = SHORT;
        let began = Instant::now();
        let reply = call(&settings).await;
        let fault = match &reply {
            Reply::Unanswered(fault) => Some(*fault),
            Reply::Answered(answer) => answer.fault,
            Reply::NeverSent(_) => None,
        };
        assert!(
            matches!(
                fault,
                Some(Fault::Timeout | Fault::TooLarge | Fault::Unreadable | Fault::Truncated | Fault::Reset)
            ),
            "{reply:?} of {over_and_over:?}"
        );
        assert!(began.elapsed() < LONG, "{:?} for {over_and_over:?}", began.elapsed());
    }
}

#[tokio::test]
async fn gzip_is_read_and_bounded_by_what_it_unfolds_to() {
    let gzip = |body: &'static [u8]| move || Act::Say(reply("200 OK", &["content-encoding: gzip"], body));
    check(gzip(GZIPPED_SUCCESS), success()).await;
    check(gzip(GZIPPED_TOO_LARGE), spoilt(200, Fault::TooLarge)).await;
    check(gzip(b"not gzip at all"), spoilt(200, Fault::Unreadable)).await;
    check(gzip(&GZIPPED_SUCCESS[..40]), spoilt(200, Fault::Truncated)).await;
}

#[tokio::test]
async fn redirects_are_answers_and_are_not_followed() {
    for status in ["301 Moved Permanently", "302 Found", "307 Temporary Redirect", "308 Permanent Redirect"] {
        let code = status[..3].parse().unwrap();
        check(move || Act::Say(reply(status, &["location: /elsewhere"], "")), bare(code)).await;
    }
}

#[tokio::test]
async fn retry_after_is_told_beside_status_and_envelope() {
    let told = |http_status, retry_after| {
        Reply::Answered(Answer {
            http_status,
            retry_after: Some(retry_after),
            fault: None,
            envelope: Envelope::Missing,
        })
    };
    let seconds = || Act::Say(reply("429 Too Many Requests", &["retry-after: 17"], ""));
    check(seconds, told(429, RetryAfter::Seconds(17))).await;
    let date =
        || Act::Say(reply("503 Service Unavailable", &["Retry-After: Wed, 21 Oct 2026 07:28:00 GMT"], ""));
    check(date, told(503, RetryAfter::At("2026-10-21T07:28:00Z".parse().unwrap()))).await;
    check(|| Act::Say(reply("503 Service Unavailable", &[], "")), bare(503)).await;
}

#[tokio::test]
async fn an_envelope_is_read_whatever_the_status() {
    for status in [400, 401, 404, 409, 422, 500, 502] {
        let refusal = r#"{"ErrorCodeType":1,"ErrorCode":404,"Result":false,"Message":"?","Body":null}"#;
        let envelope = PaymentEnvelope {
            error_code: Some(404),
            error_code_type: Some(1),
            result: Some(false),
            body: None,
        };
        let answer = Answer {
            http_status: status,
            retry_after: None,
            fault: None,
            envelope: Envelope::Payment(envelope),
        };
        check(move || Act::Say(reply(&format!("{status} No"), &[], refusal)), Reply::Answered(answer)).await;
    }
}

#[tokio::test]
async fn garbage_is_no_envelope() {
    for garbage in ["", "null", "[]", "\"ok\"", "<html><body>502</body></html>", "{", "{}", "true"] {
        check(move || Act::Say(ok(garbage)), spoilt(200, Fault::Unreadable)).await;
    }
}

#[tokio::test]
async fn what_cannot_be_built_was_never_sent() {
    let mut server = Server::saying(ok(SUCCESS)).await;
    let not_built = Reply::NeverSent(NeverSent::NotBuilt);

    let mut unknown = transaction_call();
    unknown.merchant = MerchantName::parse("nobody").unwrap();
    assert_eq!(gateway(&server).call(&unknown, None).await, not_built);

    let mut settings = settings(&server.url(), LONG);
    settings.batch_callback_url = None;
    settings.urls.remove(&Api::Private);
    let gateway = gateway_with(&settings);
    let date = "2025-01-01".parse().unwrap();
    let batch = call_of(Order::BatchCancel { payments: vec![(0, code("a"), date)] });
    assert_eq!(gateway.call(&batch, None).await, not_built, "no callback address");
    assert_eq!(gateway.call(&transaction_call(), None).await, not_built, "no address");
    let nothing = call_of(Order::BatchCancel { payments: vec![] });
    assert_eq!(gateway.call(&nothing, None).await, not_built, "no payments");

    let only_public = BTreeMap::from([(
        MerchantName::default(),
        config::Merchant { private: None, public: pair("pub-key", "pub-client") },
    )]);
    let gateway = Gateway::new(&super::settings(&server.url(), LONG), &only_public).unwrap();
    assert_eq!(gateway.call(&transaction_call(), None).await, not_built, "no private pair");

    assert!(server.seen().is_empty());
}
