//! Each way of not reaching the gateway, over real sockets: the word in the reply, and the line that names host or
//! endpoint and cause.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener as StdListener;
use std::sync::Mutex;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair as RcgenKey};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use tempfile::TempDir;
use tokio::net::TcpSocket;

use super::*;
use crate::domain::fault::Fault;

const SUCCESS: &str = r#"{"ErrorCode":0,"Result":true,"Message":"Success","Body":null}"#;
const PATH: &str = "/api/paywall/private/cancel/by/uniqueCode";

/// One authority, and certificates that it issues.
struct Authority {
    issuer: CertifiedIssuer<'static, RcgenKey>,
    dir: TempDir,
}

impl Authority {
    fn new() -> Authority {
        install_tls();
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "a test's authority");
        let issuer = CertifiedIssuer::self_signed(params, RcgenKey::generate().unwrap()).unwrap();
        let dir = TempDir::new().unwrap();
        fs::write(dir.path().join("ca.pem"), issuer.pem()).unwrap();
        Authority { issuer, dir }
    }

    fn file(&self) -> std::path::PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// A server whose certificate is for this name, and that answers every request with a success.
    fn serves(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> SocketAddr {
        let key = RcgenKey::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        change(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        let config = Arc::new(config);
        let listener = StdListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        // Ends with the process: it waits for a connection that never comes.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let mut tls = StreamOwned::new(ServerConnection::new(Arc::clone(&config)).unwrap(), stream);
                let mut request = [0; 4096];
                // The request's end is not looked for: all of it is small and comes at once, or in two parts.
                while tls.read(&mut request).is_ok_and(|bytes| bytes > 0) {
                    if tls.write_all(&ok(SUCCESS)).and_then(|()| tls.flush()).is_err() {
                        break;
                    }
                }
            }
        });
        address
    }
}

fn https(address: SocketAddr) -> Url {
    format!("https://localhost:{}", address.port()).parse().unwrap()
}

/// What is told first.
async fn first_news(gateway: &Gateway) -> (String, Option<&'static str>, What) {
    let told = Mutex::new(None);
    let watching = gateway.watch(|news| {
        let News { host, port, endpoint, what, api } = news;
        assert_eq!(api, Api::Private);
        let host = format!("{host}:{}", port.unwrap_or_default());
        told.lock().unwrap().get_or_insert((host, endpoint, what));
    });
    // It is there already, so this takes no time; what does not end is not waited for.
    let _ = tokio::time::timeout(Duration::ZERO, watching).await;
    told.into_inner().unwrap().expect("something is told")
}

/// The call's fault, and that it is told with host or endpoint and in these words.
async fn check(settings: &config::Gateway, fault: Fault, endpoint: Option<&'static str>, words: &str) {
    let gateway = gateway_with(settings);
    let reply = gateway.call(&transaction_call(), None).await;
    let expected = match endpoint {
        None => Reply::NeverSent(NeverSent::NotConnected(fault)),
        Some(_) => Reply::Unanswered(fault),
    };
    assert_eq!(reply, expected);
    let (host, place, what) = first_news(&gateway).await;
    let url = &settings.urls[&Api::Private];
    let port = url.port_or_known_default().unwrap();
    assert_eq!(host, format!("{}:{port}", url.host_str().unwrap()));
    assert_eq!(place, endpoint);
    match what {
        What::Fails { fault: told, detail, times, .. } => {
            assert_eq!((told, times), (fault, 1));
            assert!(detail.contains(words), "{detail}");
        }
        What::AnswersAgain { .. } => panic!("{what:?}"),
    }
}

fn anywhere(url: &str) -> config::Gateway {
    config::Gateway { plain_http: PlainHttp::Anywhere, ..settings(&url.parse().unwrap(), LONG) }
}

#[tokio::test]
async fn a_name_that_nobody_knows_is_told_as_dns() {
    let mut settings = anywhere("http://nonexistent.invalid");
    settings.connect_timeout = SHORT;
    // Words for both, since a machine may have name servers that do not answer.
    check(&settings, Fault::Dns, None, "name").await;
}

#[tokio::test]
async fn a_port_where_nobody_listens_is_told_as_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url: Url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    drop(listener);
    check(&settings(&url, LONG), Fault::ConnectRefused, None, "nobody takes connections").await;
}

#[tokio::test]
async fn a_host_that_does_not_take_the_connection_is_told_as_a_connect_timeout() {
    // A listener whose backlog is full: the system answers no more connections.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(0).unwrap();
    let address = listener.local_addr().unwrap();
    let _in_the_backlog = TcpStream::connect(address).await.unwrap();
    let mut settings = settings(&format!("http://{address}").parse().unwrap(), LONG);
    settings.connect_timeout = SHORT;
    check(&settings, Fault::ConnectTimeout, None, "gateway.connect_timeout").await;
    drop(listener);
}

#[tokio::test]
async fn a_network_that_no_way_leads_into_is_told_as_unreachable() {
    // No connection can be made to a group of hosts; the system says so without asking anybody.
    check(&anywhere("http://224.0.0.1:9"), Fault::Unreachable, None, "no way into that network").await;
}

#[tokio::test]
async fn an_authority_that_nobody_trusts_is_told_as_tls_and_so_is_another_host_name() {
    let authority = Authority::new();
    let unknown = settings(&https(authority.serves("localhost", |_| {})), LONG);
    check(&unknown, Fault::Tls, None, "gateway.tls.ca_file").await;

    let elsewhere = https(authority.serves("elsewhere.example", |_| {}));
    let trusting = config::Gateway { ca_file: Some(authority.file()), ..settings(&elsewhere, LONG) };
    check(&trusting, Fault::Tls, None, "another host name").await;

    let expired = https(authority.serves("localhost", |params| {
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    }));
    let trusting = config::Gateway { ca_file: Some(authority.file()), ..settings(&expired, LONG) };
    check(&trusting, Fault::Tls, None, "has expired").await;
}

#[tokio::test]
async fn an_authority_of_ca_file_is_trusted() {
    let authority = Authority::new();
    let url = https(authority.serves("localhost", |_| {}));
    let trusting = config::Gateway { ca_file: Some(authority.file()), ..settings(&url, LONG) };
    let reply = gateway_with(&trusting).call(&transaction_call(), None).await;
    assert!(matches!(&reply, Reply::Answered(answer) if answer.fault.is_none()), "{reply:?}");
}

#[tokio::test]
async fn somebody_who_hangs_up_or_speaks_no_tls_is_told_as_tls() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let hangs_up = format!("https://{}", listener.local_addr().unwrap()).parse().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            drop(stream);
        }
    });
    check(&settings(&hangs_up, LONG), Fault::Tls, None, "hung up").await;

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let speaks_plain = format!("https://{}", listener.local_addr().unwrap()).parse().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _said = stream.write_all(&reply("400 Bad Request", &[], "")).await;
            // Keeps the connection open until the other side has gone.
            let _gone = stream.read_to_end(&mut vec![]).await;
        }
    });
    check(&settings(&speaks_plain, LONG), Fault::Tls, None, "speaks no TLS").await;
}

#[tokio::test]
async fn what_goes_wrong_on_a_connection_is_told_of_the_endpoint() {
    type Case = (Fault, fn() -> Act, &'static str);
    let cases: [Case; 5] = [
        (Fault::Timeout, || Act::Hang(vec![]), "gateway.call_timeout"),
        (Fault::Reset, || Act::Reset(vec![]), "was reset before a reply"),
        (Fault::Closed, || Act::Close(vec![]), "was closed before a reply"),
        (Fault::Unreadable, || Act::Close(b"SSH-2.0-OpenSSH_9.6\r\n\r\n".to_vec()), "is not HTTP"),
        (
            Fault::TooLarge,
            || Act::Hang([b"HTTP/1.1 200 OK\r\nx: ".to_vec(), vec![b'x'; 2 << 20]].concat()),
            "headers",
        ),
    ];
    for (fault, act, words) in cases {
        let server = Server::start(move |_| act()).await;
        let call_timeout = if fault == Fault::Timeout { SHORT } else { LONG };
        check(&settings(&server.url(), call_timeout), fault, Some(PATH), words).await;
    }
}

#[tokio::test]
async fn a_reply_that_is_not_whole_is_told_of_the_endpoint() {
    type Case = (Fault, fn() -> Act, &'static str);
    let cases: [Case; 6] = [
        (
            Fault::Truncated,
            || Act::Close(b"HTTP/1.1 200 OK\r\ncontent-length: 61\r\n\r\n{\"Err".to_vec()),
            "closed within",
        ),
        (
            Fault::Reset,
            || Act::Reset(b"HTTP/1.1 200 OK\r\ncontent-length: 61\r\n\r\n{\"Err".to_vec()),
            "reset within",
        ),
        (
            Fault::TooLarge,
            || {
                Act::Hang(
                    [b"HTTP/1.1 200 OK\r\ncontent-length: 9000000\r\n\r\n".to_vec(), vec![b' '; 1 << 21]]
                        .concat(),
                )
            },
            "1 MiB",
        ),
        (Fault::Unreadable, || Act::Say(ok("<html></html>")), "no envelope"),
        (Fault::Unreadable, || Act::Say(reply("200 OK", &["content-encoding: br"], "?")), "encoded"),
        (
            Fault::Unreadable,
            || Act::Close(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n".to_vec()),
            "not HTTP",
        ),
    ];
    for (fault, act, words) in cases {
        let server = Server::start(move |_| act()).await;
        let gateway = gateway(&server);
        let reply = gateway.call(&transaction_call(), None).await;
        let Reply::Answered(answer) = reply else { panic!("{reply:?}") };
        assert_eq!((answer.http_status, answer.fault), (200, Some(fault)), "{words}");
        let (_, place, what) = first_news(&gateway).await;
        assert_eq!(place, Some(PATH));
        assert!(
            matches!(what, What::Fails { fault: told, detail, .. } if told == fault && detail.contains(words)),
            "{what:?}"
        );
    }
}

#[tokio::test]
async fn a_look_tells_how_it_failed_and_of_which_endpoint() {
    let server = Server::start(|_| Act::Close(vec![])).await;
    let gateway = gateway(&server);
    let question = Question::Transaction { unique_code: OURS };
    let (reply, fault) = gateway.inquire(&inquiry_of(question), None).await;
    assert_eq!((reply, fault), (InquiryReply::Transaction(Read::Unanswered), Some(Fault::Closed)));
    let (_, place, _) = first_news(&gateway).await;
    assert_eq!(place, Some("/api/paywall/private/query/by/uniquecode"));
}

#[tokio::test]
async fn a_refusal_is_no_fault_whatever_its_status() {
    for said in
        [reply("503 Service Unavailable", &[], "busy"), reply("401 Unauthorized", &[], ""), ok(SUCCESS)]
    {
        let server = Server::saying(said).await;
        let gateway = gateway(&server);
        let answered = gateway.call(&transaction_call(), None).await;
        assert!(matches!(&answered, Reply::Answered(answer) if answer.fault.is_none()), "{answered:?}");
        let told = Mutex::new(0);
        let _ = tokio::time::timeout(Duration::ZERO, gateway.watch(|_| *told.lock().unwrap() += 1)).await;
        assert_eq!(told.into_inner().unwrap(), 0);
    }
}

#[test]
fn a_ca_file_that_is_none_is_told_by_its_key() {
    install_tls();
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("ca.pem");
    let none_there = settings(&"https://localhost".parse().unwrap(), LONG);
    let broken = "-----BEGIN CERTIFICATE-----\nY2FuYXJ5\n-----END CERTIFICATE-----\n";
    let good = Authority::new().issuer.pem();
    for (text, words) in [
        ("", "there is no certificate"),
        ("canary", "there is no certificate"),
        ("-----BEGIN CERTIFICATE-----\ncanary", "there is no certificate"),
        (broken, "certificate 1"),
        (&format!("{good}{broken}"), "certificate 2"),
    ] {
        fs::write(&file, text).unwrap();
        let with = config::Gateway { ca_file: Some(file.clone()), ..none_there.clone() };
        let error = Gateway::new(&with, &merchants()).unwrap_err().to_string();
        assert!(error.starts_with("gateway.tls.ca_file: ") && error.contains(words), "{error}");
        assert!(!error.contains("canary"), "{error}");
    }
    let missing = config::Gateway { ca_file: Some(dir.path().join("nothing")), ..none_there };
    let error = Gateway::new(&missing, &merchants()).unwrap_err().to_string();
    assert_eq!(error, "gateway.tls.ca_file: the file cannot be read");
}
