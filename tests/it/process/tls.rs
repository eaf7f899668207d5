//! Nobody listens in: TLS with an authority of one's own and a client certificate, against a broker that demands it; and
//! what is told where something about it is wrong.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use anyhow::{Context as _, Result, ensure};
use cancel_worker::domain::intent::Kind;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection};

use super::cancellations::{Cancellation, Copies, Course, nothing_is_left};
use crate::support::broker_test;
use crate::support::certificates::{Authority, Folder, Issued};
use crate::support::process::Process;
use crate::support::stage::Stage;
use crate::support::{Broker, Context};

/// The name that the broker's certificate is for. 127.0.0.1 leads there, too, and is not in it.
const HOST: &str = "localhost";

const USER: &str = "canary-4f8a-user";
const PASSWORD: &str = "canary-4f8a-password";

/// A broker that speaks TLS to whoever shows a certificate of its authority, and files for those who want to.
struct Guarded {
    broker: Arc<Broker>,
    tls_port: u16,
    plain_port: u16,
    authority: Authority,
    files: Folder,
    ca: PathBuf,
    client: (PathBuf, PathBuf),
}

impl Guarded {
    /// `None`, said aloud, where we may start no broker.
    async fn start(t: &Context) -> Result<Option<Guarded>> {
        let authority = Authority::new("the authority of both")?;
        let (etc, files) = (Folder::new()?, Folder::new()?);
        let server = authority.server(HOST)?;
        let ca = etc.write("ca.pem", authority.pem())?;
        let cert = etc.write("server.pem", &server.cert)?;
        let key = etc.write("server.key", &server.key)?;
        etc.write(
            "tls.conf",
            &format!(
                "loopback_users = none\nlisteners.ssl.1 = @AMQPS@\nssl_options.cacertfile = {}\n\
                 ssl_options.certfile = {}\nssl_options.keyfile = {}\nssl_options.verify = verify_peer\n\
                 ssl_options.fail_if_no_peer_cert = true\n",
                ca.display(),
                cert.display(),
                key.display()
            ),
        )?;
        let Some(started) = t.broker().another(etc.path()).await else {
            eprintln!("NOT TESTED: TLS needs a broker with a configuration of ours, and AMQP_URL was given");
            return Ok(None);
        };
        let (broker, tls_port) = started?;
        let plain: url::Url = broker.url().parse()?;
        if !matches!(plain.host_str(), Some("127.0.0.1" | "localhost")) {
            eprintln!("NOT TESTED: TLS needs a broker on this machine, and Docker's is on another");
            broker.stop().await;
            return Ok(None);
        }
        let ca = files.write("ca.pem", authority.pem())?;
        let client = write(&files, "client", &authority.client("worker")?)?;
        let plain_port = plain.port().context("it has a port")?;
        Ok(Some(Guarded { broker: Arc::new(broker), tls_port, plain_port, authority, files, ca, client }))
    }

    /// Adds a user of whom nothing may be seen.
    async fn add_user(&self) -> Result<()> {
        for command in [&["add_user", USER, PASSWORD][..], &["set_permissions", USER, ".*", ".*", ".*"]] {
            self.broker.ctl(command).await.context("it is ours")??;
        }
        Ok(())
    }

    fn url(&self, scheme: &str, host: &str, port: u16) -> String {
        format!("{scheme}://{USER}:{PASSWORD}@{host}:{port}/%2f")
    }

    /// The address at which everything is right.
    fn right_url(&self) -> String {
        self.url("amqps", HOST, self.tls_port)
    }
}

/// Writes a certificate and its key.
fn write(files: &Folder, name: &str, issued: &Issued) -> Result<(PathBuf, PathBuf)> {
    Ok((
        files.write(&format!("{name}.pem"), &issued.cert)?,
        files.write(&format!("{name}.key"), &issued.key)?,
    ))
}

/// `[amqp]` as TOML.
fn amqp(url: &str, ca: Option<&Path>, client: Option<&(PathBuf, PathBuf)>) -> String {
    let mut toml = format!("[amqp]\nurl = {url:?}\n");
    if ca.is_some() || client.is_some() {
        toml.push_str("[amqp.tls]\n");
    }
    if let Some(ca) = ca {
        toml.push_str(&format!("ca_file = {ca:?}\n"));
    }
    if let Some((cert, key)) = client {
        toml.push_str(&format!("client_cert_file = {cert:?}\nclient_key_file = {key:?}\n"));
    }
    toml
}

fn assert_clean(what: &str, text: &str) -> Result<()> {
    let found = text.lines().find(|line| line.contains(USER) || line.contains(PASSWORD));
    ensure!(found.is_none(), "{what} shows a secret: {}", found.unwrap_or_default());
    Ok(())
}

/// Runs a command to its end, with this configuration, telling everything it can tell.
async fn run(config: &Path, arguments: &[&str], input: &str) -> Result<(Option<i32>, String)> {
    let config = config.to_str().context("a path of ours is text")?;
    let arguments = [arguments, &["--config", config]].concat();
    let mut process = Process::start(&arguments, &[("CANCEL_WORKER_LOG", "trace")])?;
    process.say(input).await?;
    let ended = process.ended().await?;
    let text = format!("{}\n{}", ended.stdout, ended.stderr.text());
    assert_clean(&format!("{arguments:?}"), &text)?;
    Ok((ended.code, text))
}

broker_test!(everything_works_over_tls_with_a_client_certificate);
async fn everything_works_over_tls_with_a_client_certificate(t: Context) -> Result<()> {
    let Some(guarded) = Guarded::start(&t).await? else { return Ok(()) };
    guarded.add_user().await?;
    let there = Context::new(&guarded.broker);
    let stage =
        Stage::new(&there, &amqp(&guarded.right_url(), Some(&guarded.ca), Some(&guarded.client))).await?;
    let config = guarded.files.write("config.toml", stage.toml())?;

    let worker = Process::work(&stage, &[("CANCEL_WORKER_LOG", "trace")])?;
    let cancellations = [Kind::AsyncCancel, Kind::TransactionCancel]
        .map(|kind| Cancellation::new(&stage, kind, Course::AtOnce))
        .into_iter()
        .collect::<Result<Vec<Cancellation>>>()?;
    stage.publish(&cancellations[0].intent).await?;
    let (code, text) = run(&config, &["publish"], &cancellations[1].intent.to_string()).await?;
    assert_eq!(code, Some(0), "{text}");
    for cancellation in &cancellations {
        cancellation.ended(&stage, 1).await?;
    }
    for arguments in [&["check", "--broker"][..], &["topology", "apply"], &["topology", "verify"]] {
        let (code, text) = run(&config, arguments, "").await?;
        assert_eq!(code, Some(0), "{arguments:?}: {text}");
    }
    let ended = worker.stop_by("TERM").await?;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr.text());
    assert_clean("run", &format!("{}\n{}", ended.stdout, ended.stderr.text()))?;
    for cancellation in &cancellations {
        cancellation.is_told_truly(&stage, Copies::One)?;
    }
    nothing_is_left(&stage).await?;
    guarded.broker.stop().await;
    Ok(())
}

/// A server of no particular kind whose certificate is this one. It takes connections as long as the process lives.
fn listen(issued: &Issued) -> Result<u16> {
    let chain = CertificateDer::pem_slice_iter(issued.cert.as_bytes()).collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes())?;
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key)?;
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (Ok(mut stream), Ok(mut connection)) = (stream, ServerConnection::new(Arc::clone(&config)))
            else {
                return;
            };
            // Whoever does not like the certificate goes away.
            while connection.complete_io(&mut stream).is_ok_and(|(read, _)| read > 0) {}
        }
    });
    Ok(port)
}

broker_test!(whatever_is_wrong_with_tls_is_named_with_what_fixes_it);
async fn whatever_is_wrong_with_tls_is_named_with_what_fixes_it(t: Context) -> Result<()> {
    const UNAVAILABLE: i32 = 69;
    const CONFIGURATION: i32 = 64;
    let Some(guarded) = Guarded::start(&t).await? else { return Ok(()) };
    let there = Context::new(&guarded.broker);
    // Only for its configuration: nothing of it is told to the broker over TLS.
    let stage = Stage::new(&there, "").await?;
    let Guarded { authority, files, ca, client, tls_port, plain_port, .. } = &guarded;
    let strangers = Authority::new("strangers")?;
    let strangers_ca = files.write("strangers.pem", strangers.pem())?;
    let foreign = write(files, "foreign", &strangers.client("worker")?)?;
    let foreign_key = (client.0.clone(), foreign.1.clone());
    let no_certificate = files.write("none.pem", "a text without any certificate\n")?;
    let bad_certificate =
        files.write("bad.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")?;
    let no_key = (client.0.clone(), no_certificate.clone());
    let expired = listen(&authority.expired_server(HOST)?)?;
    let right = guarded.right_url();
    let at = |scheme: &str, host: &str, port: u16| guarded.url(scheme, host, port);

    #[rustfmt::skip]
    let cases = [
        // What is wrong, with [amqp] so; the exit code; what is said, and the key that is named.
        ("wrong CA", amqp(&right, Some(&strangers_ca), Some(client)),
            UNAVAILABLE, "not issued by an authority in", "amqp.tls.ca_file"),
        ("no CA", amqp(&right, None, Some(client)),
            UNAVAILABLE, "authority that this machine knows", "amqp.tls.ca_file"),
        ("expired", amqp(&at("amqps", HOST, expired), Some(ca), Some(client)),
            UNAVAILABLE, "certificate has expired", "at the broker"),
        ("wrong name", amqp(&at("amqps", "127.0.0.1", *tls_port), Some(ca), Some(client)),
            UNAVAILABLE, "it is for localhost", "amqp.url"),
        ("no client certificate", amqp(&right, Some(ca), None),
            UNAVAILABLE, "asks for a client certificate", "amqp.tls.client_cert_file"),
        ("foreign client certificate", amqp(&right, Some(ca), Some(&foreign)),
            UNAVAILABLE, "our certificate", "amqp.tls.client_cert_file"),
        ("amqps at a plain port", amqp(&at("amqps", HOST, *plain_port), Some(ca), Some(client)),
            UNAVAILABLE, "this port speaks no TLS", "amqp.url"),
        ("amqp at a TLS port", amqp(&at("amqp", HOST, *tls_port), None, None),
            UNAVAILABLE, "this port speaks TLS", "amqps://"),
        ("amqp with TLS files", amqp(&at("amqp", HOST, *plain_port), Some(ca), Some(client)),
            CONFIGURATION, "makes no use of [amqp.tls]", "amqp.url"),
        ("another key", amqp(&right, Some(ca), Some(&foreign_key)),
            CONFIGURATION, "does not belong to the certificate", "amqp.tls.client_key_file"),
        ("no key", amqp(&right, Some(ca), Some(&no_key)),
            CONFIGURATION, "no private key", "amqp.tls.client_key_file"),
        ("no certificate", amqp(&right, Some(&no_certificate), Some(client)),
            CONFIGURATION, "no certificate in the file", "amqp.tls.ca_file"),
        ("a bad certificate", amqp(&right, Some(&bad_certificate), Some(client)),
            CONFIGURATION, "certificate 1 in the file cannot be read", "amqp.tls.ca_file"),
    ];
    let mut wrong = Vec::new();
    for (what, amqp, code, said, key) in cases {
        let mut table: toml::Table = toml::from_str(stage.toml())?;
        table.remove("amqp");
        let config = files.write("config.toml", &format!("{amqp}{}", toml::to_string(&table)?))?;
        let (ended, text) = run(&config, &["check", "--broker"], "").await?;
        if ended != Some(code) || !text.contains(said) || !text.contains(key) {
            wrong.push(format!("{what}: {ended:?} instead of {code}, {said:?}, {key:?}: {text}"));
        }
    }
    guarded.broker.stop().await;
    ensure!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    Ok(())
}
