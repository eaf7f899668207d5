//! What `Gateway::new` accepts, and what it says about the rest.

use std::process::Command;
use std::sync::Mutex;

use super::*;

fn new(url: &str, plain_http: PlainHttp) -> Result<Gateway, Error> {
    install_tls();
    let mut settings = settings(&"https://localhost".parse().unwrap(), LONG);
    settings.plain_http = plain_http;
    settings.urls.insert(Api::Physical, url.parse().unwrap());
    Gateway::new(&settings, &merchants())
}

fn check(url: &str, plain_http: PlainHttp, expected: Option<&str>) {
    let fault = match new(url, plain_http) {
        Ok(_) => None,
        Err(Error::Settings(InvalidSettings(mistakes))) => {
            assert_eq!(mistakes.len(), 1);
            assert_eq!(mistakes[0].key, "gateway.physical_url");
            Some(mistakes[0].fault.wrong.clone())
        }
        Err(other) => panic!("{other}"),
    };
    assert_eq!(fault.as_deref(), expected, "{url}");
}

#[test]
fn plain_http_goes_to_this_machine_only_unless_it_is_allowed() {
    for url in ["http://127.0.0.1:8080", "http://127.8.8.8/x", "http://[::1]:1", "http://LocalHost:1"] {
        check(url, PlainHttp::Loopback, None);
    }
    for url in [
        "http://example.org",
        "http://10.0.0.1",
        "http://localhost.example.org",
        "http://[::2]",
        "http://0.0.0.0",
    ] {
        check(url, PlainHttp::Loopback, Some("is plain http to another machine"));
        check(url, PlainHttp::Anywhere, None);
    }
    check("https://example.org", PlainHttp::Loopback, None);
}

#[test]
fn an_address_is_a_base_and_nothing_more() {
    let not_http = Some("begins with neither https:// nor http://");
    let (query, user) = (Some("has a query or a fragment"), Some("has a user or a password"));
    for plain_http in [PlainHttp::Loopback, PlainHttp::Anywhere] {
        check("ftp://localhost", plain_http, not_http);
        check("mailto:me@localhost", plain_http, not_http);
        check("https://me@localhost", plain_http, user);
        check("https://:secret@localhost", plain_http, user);
        check("https://localhost/?a=b", plain_http, query);
        check("https://localhost/#a", plain_http, query);
    }
}

#[test]
fn all_mistakes_are_told_at_once_by_key_and_never_by_value() {
    install_tls();
    let mut settings = settings(&"https://localhost".parse().unwrap(), LONG);
    settings.urls.insert(Api::Private, "http://canary-host.example".parse().unwrap());
    settings.urls.insert(Api::Payment, "https://canary-user@localhost".parse().unwrap());
    let mut merchants = merchants();
    let shop = config::Merchant {
        private: pair("fine", "canary\nclient"),
        public: pair("canary\u{0}key", "canary\r\nclient"),
    };
    merchants.insert(MerchantName::parse("shop").unwrap(), shop);
    let error = Gateway::new(&settings, &merchants).unwrap_err();
    let told = format!("{error} {error:?}");
    for key in [
        "gateway.private_url",
        "gateway.payment_url",
        "merchants.shop.private_client",
        "merchants.shop.public_key",
        "merchants.shop.public_client",
    ] {
        assert!(told.contains(key), "{key}: {told}");
    }
    assert!(!told.contains("canary"), "{told}");
    assert!(!told.contains("merchants.shop.private_key"), "{told}");
}

#[test]
fn a_gateway_shows_neither_keys_nor_addresses() {
    let gateway = gateway_with(&settings(&"https://canary-host.example".parse().unwrap(), LONG));
    assert_eq!(format!("{gateway:?}"), "Gateway { .. }");
}

#[test]
fn keys_are_marked_so_that_no_http_library_shows_them() {
    let keys = setup::check(&settings(&"https://localhost".parse().unwrap(), LONG), &merchants()).unwrap();
    let MerchantKeys { private, public } = &keys[&MerchantName::default()];
    for value in [private, public].into_iter().flatten().flatten() {
        assert!(value.is_sensitive());
    }
    assert!(private.is_some() && public.is_some());
}

#[tokio::test]
async fn nothing_of_keys_and_bodies_is_logged_at_any_level() {
    let logged = Arc::new(Mutex::new(Vec::new()));
    let writer = Arc::clone(&logged);
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || Log(Arc::clone(&writer)))
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    tracing::trace!("the log works");
    let server = Server::saying(ok(r#"{"ErrorCode":0,"Result":true,"Message":"canary-text"}"#)).await;
    assert!(matches!(gateway(&server).call(&transaction_call(), None).await, Reply::Answered(_)));
    let logged = String::from_utf8(logged.lock().unwrap().clone()).unwrap();
    assert!(logged.contains("the log works"));
    for secret in ["priv-key", "priv-client", "UniqueCode", "canary-text"] {
        assert!(!logged.contains(secret), "{secret}: {logged}");
    }
}

struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Whether this is a child that runs one test in another environment; if not, such a child has run it, and passed.
fn is_child_with(test: &str, environment: &[(&str, &str)]) -> bool {
    const CHILD: &str = "CANCEL_WORKER_GATEWAY_TEST_CHILD";
    if std::env::var_os(CHILD).is_some() {
        return true;
    }
    let name = format!("gateway::tests::settings::{test}");
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &name])
        .env(CHILD, "1")
        .envs(environment.iter().copied())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success() && said.contains("1 passed"), "{said}");
    false
}

#[test]
fn a_machine_without_certificates_still_reaches_itself_and_is_told_what_https_needs() {
    let none = [("SSL_CERT_FILE", "/nonexistent/file"), ("SSL_CERT_DIR", "/nonexistent/directory")];
    let test = "a_machine_without_certificates_still_reaches_itself_and_is_told_what_https_needs";
    if !is_child_with(test, &none) {
        return;
    }
    install_tls();
    let plain = settings(&"http://127.0.0.1:1".parse().unwrap(), LONG);
    assert!(Gateway::new(&plain, &merchants()).is_ok());
    let https = settings(&"https://localhost".parse().unwrap(), LONG);
    let error = Gateway::new(&https, &merchants()).unwrap_err();
    assert!(matches!(&error, Error::NoCertificates { key } if key == "gateway.physical_url"), "{error}");
    assert!(error.to_string().contains("SSL_CERT_FILE"), "{error}");
}

#[test]
fn a_process_without_a_tls_provider_is_told_so_instead_of_panicking() {
    let test = "a_process_without_a_tls_provider_is_told_so_instead_of_panicking";
    if !is_child_with(test, &[]) {
        return;
    }
    let plain = settings(&"http://127.0.0.1:1".parse().unwrap(), LONG);
    assert!(matches!(Gateway::new(&plain, &merchants()), Err(Error::NoTlsProvider)));
}

#[tokio::test]
async fn a_proxy_of_the_environment_is_not_used() {
    let proxy = "http://127.0.0.1:1";
    let proxies = [
        ("http_proxy", proxy),
        ("HTTP_PROXY", proxy),
        ("all_proxy", proxy),
        ("ALL_PROXY", proxy),
        ("NO_PROXY", ""),
    ];
    if !is_child_with("a_proxy_of_the_environment_is_not_used", &proxies) {
        return;
    }
    let server = Server::saying(ok("{}")).await;
    assert!(matches!(gateway(&server).call(&transaction_call(), None).await, Reply::Answered(_)));
}
