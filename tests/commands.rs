//! What the commands promise where no broker is needed: help, mistakes told at once and by name, exit codes, and nothing
//! secret in any of it.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

const VERSION: &str = concat!("cancel-worker ", env!("CARGO_PKG_VERSION"), "\n");

const DONE: i32 = 0;
const INPUT: i32 = 64;
const UNAVAILABLE: i32 = 69;

/// A command that a person waits for has said by then that there is no broker.
const QUICKLY: Duration = Duration::from_secs(20);

/// In user and password of every address, and in every key, of which no part may be shown.
const CANARY: &str = "canary-7c1e";

struct Ended {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Ended {
    fn all(&self) -> String {
        format!("{}\n{}", self.stdout, self.stderr)
    }
}

/// Runs the binary to its end, in an environment of nothing but these variables.
async fn run_with(arguments: &[&str], environment: &[(&str, &str)], input: &str) -> Ended {
    let mut child = Command::new(env!("CARGO_BIN_EXE_cancel-worker"))
        .args(arguments)
        .env_clear()
        .envs(environment.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("the binary was built for this test");
    let mut stdin = child.stdin.take().expect("it is piped");
    // Who does not read it may be gone already.
    let _ = stdin.write_all(input.as_bytes()).await;
    drop(stdin);
    let output = tokio::time::timeout(QUICKLY, child.wait_with_output());
    let output = output.await.unwrap_or_else(|_| panic!("{arguments:?} takes too long")).expect("it ends");
    let ended = Ended {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).expect("text"),
        stderr: String::from_utf8(output.stderr).expect("text"),
    };
    assert!(!ended.all().contains(CANARY), "{arguments:?} shows a secret:\n{}", ended.all());
    ended
}

async fn run(arguments: &[&str]) -> Ended {
    run_with(arguments, &[], "").await
}

/// An address at which nobody listens.
fn nobody() -> String {
    let address = TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("a free port");
    url(address)
}

fn url(address: SocketAddr) -> String {
    format!("amqp://{CANARY}-user:{CANARY}-password@{address}/%2f")
}

/// A listener that knows afterwards whether anybody came.
struct Trap(TcpListener);

impl Trap {
    fn new() -> Trap {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("it can be asked");
        Trap(listener)
    }

    fn url(&self) -> String {
        url(self.0.local_addr().expect("it is bound"))
    }

    fn nobody_came(&self) -> bool {
        self.0.accept().is_err()
    }
}

/// A right configuration for this broker.
fn right(url: &str) -> String {
    format!(
        r#"
        [amqp]
        url = "{url}"
        [gateway]
        physical_url = "https://physical.example"
        private_url = "https://private.example"
        payment_url = "https://payment.example"
        [batch]
        callback_url = "https://ledger.example/callback"
        [merchants.default]
        private_key = "{CANARY}-1"
        private_client = "{CANARY}-2"
        public_key = "{CANARY}-3"
        public_client = "{CANARY}-4"
        "#
    )
}

/// A file of this text.
fn file(home: &TempDir, text: &str) -> String {
    let path = home.path().join("cancel-worker.toml");
    fs::write(&path, text).expect("a place for it");
    shown(&path)
}

fn shown(path: &Path) -> String {
    path.to_str().expect("a path of ours is text").to_owned()
}

fn home() -> TempDir {
    TempDir::new().expect("a place for files")
}

fn intent(kind: &str) -> String {
    let payment = r#"{"paymentRequestId":"7cc7c8e8-9d92-41b6-9378-e9ecef5a7812"}"#;
    format!(
        r#"{{"intentId":"2d9f1c1e-53f5-4a35-a2cf-6a1f3a3c8a11","kind":"{kind}","requestedAt":"2026-10-14T12:00:00Z","payment":{payment}}}"#
    )
}

#[tokio::test]
async fn the_first_help_says_what_it_is_and_what_its_ends_mean() {
    let ended = run(&["--help"]).await;
    assert_eq!(ended.code, Some(DONE));
    let help = ended.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    for words in [
        "Takes cancel intents from RabbitMQ, calls the Paywall endpoint that fits each kind",
        "0 done, or drained after a signal",
        "64 the configuration or the input is wrong",
        "69 the broker or the gateway cannot be reached",
        "70 our own fault",
        "75 the grace period ended with letters given back to the broker",
    ] {
        assert!(help.contains(words), "{words:?} is not in:\n{help}");
    }
}

#[tokio::test]
async fn the_help_of_every_command_says_what_it_does() {
    for (command, words) in [
        (&["run"][..], "All mistakes of the configuration are reported, by key, before anything connects"),
        (&["check"], "Without --broker nothing connects"),
        (&["topology"], "`run` declares by itself what is missing"),
        (&["topology", "print"], "connects to nothing"),
        (&["topology", "apply"], "nothing is ever deleted"),
        (&["topology", "verify"], "changes nothing, and exits with 69 if there is anything"),
        (&["topology", "diff"], "exits with 0 whatever it finds"),
        (&["publish"], "All of them are checked, and all mistakes told, before the first is published"),
        (&["topology", "permissions"], "as commands that a shell takes"),
        (&["outcomes"], "so it never counts as a ledger"),
        (&["simulate"], "POST /control/payments"),
    ] {
        let ended = run(&[command, &["--help"]].concat()).await;
        assert_eq!(ended.code, Some(DONE), "{command:?}");
        let help = ended.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(help.contains(words), "{words:?} is not in:\n{help}");
    }
}

#[tokio::test]
async fn the_version_can_be_asked_for() {
    let ended = run(&["--version"]).await;
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(DONE), VERSION));
}

#[tokio::test]
async fn a_wrong_command_line_ends_with_64() {
    for arguments in [&[][..], &["walk"], &["run", "--fast"], &["topology"], &["outcomes", "--count", "x"]] {
        let ended = run(arguments).await;
        assert_eq!(ended.code, Some(INPUT), "{arguments:?}");
        assert!(ended.stdout.is_empty() && ended.stderr.contains("--help"), "{}", ended.all());
    }
}

#[tokio::test]
async fn run_names_every_bad_key_at_once_and_touches_nothing() {
    let (home, trap) = (home(), Trap::new());
    let text = format!(
        r#"
        surprise = "{CANARY}"
        [amqp]
        url = "{}"
        prefx = "{CANARY}"
        [lanes]
        prefetch = 0
        [gateway]
        physical_url = "http://{CANARY}.example"
        private_url = "{CANARY}"
        call_timeout = "{CANARY}"
        [merchants.default]
        private_key = "{CANARY}"
        [retry]
        delays = []
        attempts_max = 0
        [telemetry]
        log = "{CANARY}"
        "#,
        trap.url()
    );

    let ended = run(&["run", "--config", &file(&home, &text)]).await;

    assert_eq!(ended.code, Some(INPUT));
    for key in [
        "surprise",
        "amqp.prefx",
        "lanes.prefetch",
        "gateway.physical_url",
        "gateway.private_url",
        "gateway.payment_url",
        "gateway.call_timeout",
        "batch.callback_url",
        "merchants.default.private_client",
        "merchants.default.public_key",
        "merchants.default.public_client",
        "retry.delays",
        "retry.attempts_max",
        "telemetry.log",
    ] {
        assert!(ended.stderr.contains(key), "{key} is not in:\n{}", ended.stderr);
    }
    assert!(trap.nobody_came());
}

#[tokio::test]
async fn a_syntax_error_is_told_by_its_place_without_the_line() {
    let (home, trap) = (home(), Trap::new());
    let text = format!("{}\nprivate_key = \"{CANARY}", right(&trap.url()));
    let lines = text.lines().count();

    let ended = run(&["run", "--config", &file(&home, &text)]).await;

    assert_eq!(ended.code, Some(INPUT));
    assert!(ended.stderr.contains(&format!("line {lines}")), "{}", ended.stderr);
    assert!(trap.nobody_came());
}

#[tokio::test]
async fn a_file_that_cannot_be_read_is_told_as_that() {
    let home = home();
    let missing = shown(&home.path().join("nowhere.toml"));
    // Nobody can read a directory as a file, whatever their rights.
    let unreadable = shown(home.path());
    for path in [missing, unreadable] {
        for command in ["run", "check", "publish", "outcomes"] {
            let ended = run(&[command, "--config", &path]).await;
            assert_eq!(ended.code, Some(INPUT), "{command}: {}", ended.all());
            assert!(ended.stderr.contains("--config"), "{command}: {}", ended.stderr);
        }
    }
}

#[tokio::test]
async fn the_environment_goes_before_the_file() {
    let (home, trap) = (home(), Trap::new());
    let path = file(&home, &right(&trap.url()));
    let bad = ("CANCEL_WORKER__RETRY__ATTEMPTS_MAX", "canary-7c1e");

    let ended = run_with(&["run"], &[("CANCEL_WORKER_CONFIG", &path), bad], "").await;

    assert_eq!(ended.code, Some(INPUT));
    let told = ended.stderr.contains("retry.attempts_max") && ended.stderr.contains("environment");
    assert!(told, "{}", ended.stderr);
    assert!(trap.nobody_came());
}

#[tokio::test]
async fn check_says_what_would_run_and_connects_to_nothing() {
    let (home, trap) = (home(), Trap::new());

    let ended = run(&["check", "--config", &file(&home, &right(&trap.url()))]).await;

    assert_eq!(ended.code, Some(DONE), "{}", ended.all());
    assert!(ended.stdout.contains("The configuration is right."), "{}", ended.stdout);
    assert!(trap.nobody_came());
}

#[tokio::test]
async fn check_tells_the_mistakes_as_run_does() {
    let home = home();
    let path = file(&home, &format!("{}\n[retry]\nattempts_max = 0", right("amqp://localhost")));
    let (checked, ran) = (run(&["check", "--config", &path]).await, run(&["run", "--config", &path]).await);
    assert_eq!((checked.code, &checked.stderr), (ran.code, &ran.stderr));
}

#[tokio::test]
async fn a_reader_who_stops_reading_ends_a_command_quietly() {
    let commands: [&[&str]; 5] = [
        &["--help"],
        &["--version"],
        &["topology", "print"],
        &["topology", "print", "--format", "json"],
        &["simulate", "--physical-port=0", "--private-port=0", "--payment-port=0", "--control-port=0"],
    ];
    for arguments in commands {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let child = Command::new(env!("CARGO_BIN_EXE_cancel-worker"))
            .args(arguments)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(writer)
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the binary was built for this test");
        let ended = tokio::time::timeout(QUICKLY, child.wait_with_output());
        let ended = ended.await.expect("it ends").expect("it has ended");
        let stderr = String::from_utf8_lossy(&ended.stderr);
        assert_eq!((ended.status.code(), &*stderr), (Some(DONE), ""), "{arguments:?}");
    }
}

#[tokio::test]
async fn the_topology_is_printed_for_people_and_for_the_broker() {
    let trap = Trap::new();
    let url = trap.url();

    let table = run(&["topology", "print", "--url", &url, "--prefix", "shop"]).await;
    let json = run(&["topology", "print", "--url", &url, "--prefix", "shop", "--format", "json"]).await;

    assert_eq!((table.code, json.code), (Some(DONE), Some(DONE)));
    let definitions: serde_json::Value = serde_json::from_str(&json.stdout).expect("JSON");
    let queues: Vec<&str> = definitions["queues"]
        .as_array()
        .expect("queues")
        .iter()
        .filter_map(|it| it["name"].as_str())
        .collect();
    for name in ["shop.intents.async_cancel", "shop.delay.1h", "shop.dead-letters.log", "shop.unrouted"] {
        assert!(table.stdout.contains(name), "{name} is not in:\n{}", table.stdout);
        assert!(queues.contains(&name), "{name} is not in {queues:?}");
    }
    assert!(table.stdout.contains("Least permissions"), "{}", table.stdout);
    assert!(trap.nobody_came());
}

#[tokio::test]
async fn the_topology_is_printed_though_nobody_says_where_a_broker_is() {
    let ended = run(&["topology", "print"]).await;
    assert_eq!(ended.code, Some(DONE), "{}", ended.stderr);
    assert!(ended.stdout.contains("cancel.intents.async_cancel"));
}

#[tokio::test]
async fn commands_that_need_a_broker_ask_which() {
    for command in [
        &["publish"][..],
        &["outcomes"],
        &["topology", "apply"],
        &["topology", "verify"],
        &["topology", "diff"],
    ] {
        let ended = run(command).await;
        assert_eq!(ended.code, Some(INPUT), "{command:?}");
        assert!(ended.stderr.contains("--url") && ended.stderr.contains("AMQP_URL"), "{}", ended.stderr);
    }
}

#[tokio::test]
async fn what_the_command_line_says_goes_before_what_the_environment_holds() {
    let environment = [("CANCEL_WORKER_CONFIG", "/nowhere.toml"), ("AMQP_URL", "amqp://localhost:1")];
    let url = nobody();
    let port = url.rsplit_once(':').and_then(|(_, rest)| rest.split_once('/')).expect("a port").0.to_owned();

    let ended = run_with(&["topology", "verify", "--url", &url], &environment, "").await;

    assert_eq!(ended.code, Some(UNAVAILABLE), "{}", ended.stderr);
    assert!(ended.stderr.contains(&port), "{}", ended.stderr);
}

#[tokio::test]
async fn without_a_broker_a_command_says_so_soon_and_ends_with_69() {
    let (home, url) = (home(), nobody());
    let path = file(&home, &right(&url));
    let address = url.rsplit_once('@').and_then(|(_, rest)| rest.split_once('/')).expect("an address").0;
    for arguments in [
        &["publish", "--url", &url][..],
        &["outcomes", "--url", &url],
        &["topology", "apply", "--url", &url],
        &["topology", "verify", "--url", &url],
        &["topology", "diff", "--url", &url],
        &["check", "--broker", "--config", &path],
    ] {
        let ended = run_with(arguments, &[], &intent("async_cancel")).await;
        assert_eq!(ended.code, Some(UNAVAILABLE), "{arguments:?}: {}", ended.stderr);
        let told = ended.stderr.contains("failed to connect") && ended.stderr.contains(address);
        assert!(told, "{arguments:?}: {}", ended.stderr);
    }
}

#[tokio::test]
async fn a_broker_that_says_nothing_is_not_waited_for_long() {
    // Connections are taken by the system, and nobody ever answers.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = url(silent.local_addr().expect("it is bound"));

    let ended = run_with(&["publish", "--url", &url], &[], &intent("async_cancel")).await;

    assert_eq!(ended.code, Some(UNAVAILABLE));
    assert!(ended.stderr.contains("no answer within 5 s"), "{}", ended.stderr);
}

#[tokio::test]
async fn an_address_that_is_none_is_not_repeated() {
    let url = format!("http://{CANARY}:{CANARY}@localhost");
    let ended = run_with(&["publish", "--url", &url], &[], &intent("async_cancel")).await;
    assert_eq!(ended.code, Some(INPUT));
    assert!(ended.stderr.contains("amqp[s]://"), "{}", ended.stderr);
}

#[tokio::test]
async fn a_parameter_of_an_address_that_nobody_knows_is_named() {
    let url = format!("amqp://somebody:{CANARY}@localhost/vh?hearbeat=5");
    let home = home();
    let config = file(&home, &right(&url));
    for arguments in [&["run", "--config", &config][..], &["topology", "verify", "--url", &url]] {
        let ended = run(arguments).await;
        assert_eq!(ended.code, Some(INPUT), "{}", ended.all());
        assert!(ended.stderr.contains("amqp.url") && ended.stderr.contains("`hearbeat`"), "{}", ended.all());
        assert!(!ended.all().contains(CANARY), "{}", ended.all());
    }
}

#[tokio::test]
async fn a_management_address_that_is_none_is_not_repeated() {
    let url = format!("amqp://{CANARY}:{CANARY}@localhost");
    let ended = run(&["topology", "diff", "--url", &nobody(), "--management-url", &url]).await;
    assert_eq!(ended.code, Some(INPUT));
    assert!(ended.stderr.contains("http[s]://"), "{}", ended.stderr);
}

#[tokio::test]
async fn lines_that_are_no_intents_are_all_named_and_nothing_is_published() {
    let (home, trap) = (home(), Trap::new());
    let lines = [
        intent("async_cancel"),
        intent("async_cancel").replace("9d92", CANARY),
        String::new(),
        intent("async_cancel").replace("requestedAt", "requestdAt"),
        intent("teleport"),
        "not JSON".to_owned(),
    ];
    let text = lines.join("\n");
    let path = home.path().join("intents.jsonl");
    fs::write(&path, &text).expect("a place for it");

    let from_stdin = run_with(&["publish", "--url", &trap.url()], &[], &text).await;
    let from_file = run(&["publish", "--url", &trap.url(), &shown(&path)]).await;

    for ended in [from_stdin, from_file] {
        assert_eq!(ended.code, Some(INPUT));
        let told: Vec<&str> = ended.stderr.lines().skip(1).collect();
        let [payment, time, typo, kind, json] = told[..] else { panic!("{}", ended.stderr) };
        assert!(payment.starts_with("line 2: payment.paymentRequestId "), "{payment}");
        assert!(time.starts_with("line 4: ") && time.contains("requestedAt"), "{time}");
        assert!(typo.starts_with("line 4: requestdAt is not a field"), "{typo}");
        assert!(kind.starts_with("line 5: kind "), "{kind}");
        assert!(json.starts_with("line 6: body "), "{json}");
        assert!(ended.stderr.contains("nothing was published"), "{}", ended.stderr);
    }
    assert!(trap.nobody_came());
}
