use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;

fn row(json: &str) -> QueuePolicies {
    serde_json::from_str(json).expect("a row")
}

#[test]
fn no_policy_is_read_however_a_version_writes_it() {
    for json in [
        r#"{ "name": "q" }"#,
        r#"{ "name": "q", "policy": null, "operator_policy": null, "effective_policy_definition": null }"#,
        r#"{ "name": "q", "policy": "", "operator_policy": "" }"#,
    ] {
        let row = row(json);
        assert_eq!((row.policy, row.operator_policy), (None, None), "{json}");
        assert!(row.effective_policy_definition.is_none(), "{json}");
    }
}

#[test]
fn an_empty_table_is_read_however_a_version_writes_it() {
    for json in ["{}", "[]"] {
        let json = format!(r#"{{ "name": "q", "effective_policy_definition": {json} }}"#);
        assert_eq!(row(&json).effective_policy_definition, Some(Arguments::default()), "{json}");
    }
}

#[test]
fn every_kind_of_value_is_read() {
    let json = r#"{ "name": "p", "definition": { "a": 1, "b": true, "c": "x", "d": [1], "e": 0.5 } }"#;
    let row: PolicyRow = serde_json::from_str(json).expect("a row");
    let values: Vec<String> = row.definition.0.values().map(Scalar::to_string).collect();
    assert_eq!(values, ["1", "true", "x", "something else", "something else"]);
}

#[test]
fn names_are_asked_for_as_they_are() {
    assert_eq!(Names::new(["a.b", "c"]).0, r"^(a\.b|c)$");
}

#[test]
fn an_address_is_shown_without_user_and_password() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let url = SecretString::from("http://canary:secret@host:15672/path".to_owned());
    let management = Management::new(&url, &AmqpTls::default()).expect("fine");
    assert_eq!(format!("{management} {management:?}"), "http://host:15672 Management(http://host:15672)");
}

#[test]
fn what_is_no_address_is_not_repeated() {
    for text in ["canary", "amqp://canary@host"] {
        let error =
            Management::new(&SecretString::from(text.to_owned()), &AmqpTls::default()).expect_err("bad");
        assert!(!error.to_string().contains("canary"), "{error}");
    }
}

/// A management API that gives each request the next of these answers.
async fn answering(answers: Vec<(u16, &'static str)>) -> Management {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(async move {
        for (status, body) in answers {
            let (mut socket, _) = listener.accept().await.expect("a connection");
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(socket.read_u8().await.expect("a request"));
            }
            let length = body.len();
            let answer =
                format!("HTTP/1.1 {status} x\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}");
            socket.write_all(answer.as_bytes()).await.expect("somebody reads");
        }
    });
    Management::new(&SecretString::from(url), &AmqpTls::default()).expect("an address")
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

#[tokio::test]
async fn a_list_that_the_broker_fails_to_put_together_is_asked_for_again() {
    let management = answering(vec![(500, ""), (500, ""), (200, "[]")]).await;
    assert_eq!(management.policies("/", soon()).await.map(|rows| rows.len()), Ok(0));
}

#[tokio::test]
async fn a_list_that_is_refused_is_not_asked_for_again() {
    let management = answering(vec![(401, ""), (200, "[]")]).await;
    let refused = management.policies("/", soon()).await.map(|rows| rows.len());
    assert_eq!(refused, Err(NotSeen::Refused { http_status: 401 }));
}

#[tokio::test]
async fn a_broker_that_goes_on_failing_is_told_as_it_answers() {
    let management = answering(vec![(500, ""); TRIES_MAX]).await;
    let refused = management.policies("/", soon()).await.map(|rows| rows.len());
    assert_eq!(refused, Err(NotSeen::Refused { http_status: 500 }));
}
