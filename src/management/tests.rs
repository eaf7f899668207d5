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
