//! A gateway that cannot be reached: the word for how that failed is in the header of the dead letter and in the outcome.

use anyhow::Result;
use cancel_worker::domain::intent::Kind;
use paywall_simulator::{Fault, FaultKind};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::scene::{Curtain, Looks, Row, SOON_UNRESOLVED, Scene};
use super::verdicts::ready_for;
use crate::support::Context;
use crate::support::broker_test;
use crate::support::stage::UNHURRIED;

/// The kinds of one payment at each of the three APIs.
const ONE_OF_EACH_API: [Kind; 3] = [Kind::AsyncCancel, Kind::TransactionCancel, Kind::ApmProvisionCancel];

/// A port where nobody listens.
async fn refused() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0").await?.local_addr()?.port())
}

/// The end of each intent: its fault in the outcome, and in the header.
fn faults(curtain: &Curtain, ids: &[String]) -> Vec<(Value, String)> {
    let of = |id: &String| {
        let told = curtain.end(id)["data"]["reason"]["gateway"]["fault"].clone();
        let header = curtain.dead_letter(id).headers.get("cancel-fault").cloned().unwrap_or_default();
        (told, header)
    };
    ids.iter().map(of).collect()
}

/// The three APIs at these addresses: what ends how.
async fn never_sent(t: &Context, urls: [&str; 3], words: [&str; 3]) -> Result<()> {
    let tuning = format!(
        "retry.age_max = '2s'\ngateway.allow_http = true\ngateway.physical_url = '{}'\n\
         gateway.private_url = '{}'\ngateway.payment_url = '{}'",
        urls[0], urls[1], urls[2]
    );
    let scene = Scene::open(t, &tuning).await?;
    let rows = ONE_OF_EACH_API.map(|kind| {
        Row::new(kind.as_str(), kind, ready_for(kind))
            .says(["given_up/deadline_passed"])
            .attempts(0)
            .calls(0)
            .looks(Looks::None)
    });
    let cast = scene.publish_rows(rows.into()).await?;
    let ids = cast.ids();
    let curtain = scene.finish(cast).await?;
    assert_eq!(faults(&curtain, &ids), words.map(|word| (json!(word), word.to_owned())));
    for id in &ids {
        let gateway = &curtain.end(id)["data"]["reason"]["gateway"];
        assert_eq!(gateway["httpStatus"], Value::Null, "{gateway}");
    }
    Ok(())
}

broker_test!(what_is_never_sent_ends_with_how_that_failed);
async fn what_is_never_sent_ends_with_how_that_failed(t: Context) -> Result<()> {
    let refused = format!("http://127.0.0.1:{}", refused().await?);
    let plain = TcpListener::bind("127.0.0.1:0").await?;
    let no_tls = format!("https://localhost:{}", plain.local_addr()?.port());
    // Whoever asks for TLS there is hung up on.
    let hangs_up = tokio::spawn(async move {
        while let Ok((stream, _)) = plain.accept().await {
            drop(stream);
        }
    });
    let urls = ["http://nonexistent.invalid", refused.as_str(), no_tls.as_str()];
    never_sent(&t, urls, ["dns", "connect_refused", "tls"]).await?;
    hangs_up.abort();
    Ok(())
}

broker_test!(what_is_not_connected_in_time_or_at_all_ends_with_how_that_failed);
async fn what_is_not_connected_in_time_or_at_all_ends_with_how_that_failed(t: Context) -> Result<()> {
    // A listener whose backlog is full: the system answers no more of those who knock.
    let socket = TcpSocket::new_v4()?;
    socket.bind("127.0.0.1:0".parse()?)?;
    let listener = socket.listen(0)?;
    let address = listener.local_addr()?;
    let _in_the_backlog = TcpStream::connect(address).await?;
    let silent = format!("http://{address}");
    let also_silent = format!("https://{address}");
    // No connection can be made to a group of hosts; the system says so without asking anybody.
    let urls = [silent.as_str(), "http://224.0.0.1:9", also_silent.as_str()];
    never_sent(&t, urls, ["connect_timeout", "unreachable", "connect_timeout"]).await
}

broker_test!(what_fails_on_its_way_ends_with_how_that_failed);
async fn what_fails_on_its_way_ends_with_how_that_failed(t: Context) -> Result<()> {
    // Nothing here is too late, however busy the machine is.
    fails_on_its_way(
        &t,
        UNHURRIED,
        &[
            (FaultKind::Reset, "reset", None),
            (FaultKind::Close, "closed", None),
            (FaultKind::Truncated, "truncated", Some(200)),
            (FaultKind::Oversized, "too_large", Some(200)),
            (FaultKind::Garbage, "unreadable", Some(200)),
            (FaultKind::Empty, "unreadable", Some(200)),
        ],
    )
    .await
}

broker_test!(what_is_not_answered_in_time_ends_as_a_timeout);
async fn what_is_not_answered_in_time_ends_as_a_timeout(t: Context) -> Result<()> {
    fails_on_its_way(&t, "", &[(FaultKind::Hang, "timeout", None)]).await
}

/// Payments of which every call and inquiry fails so: the word for it, and the status that came before.
async fn fails_on_its_way(t: &Context, tuning: &str, cases: &[(FaultKind, &str, Option<u16>)]) -> Result<()> {
    let mut rows = Vec::new();
    for kind in [Kind::AsyncCancel, Kind::TransactionCancel] {
        for (fault, ..) in cases {
            let for_ever = Fault::new(fault.clone()).until_cleared();
            rows.push(
                Row::new(format!("{kind}: {fault:?}"), kind, ready_for(kind))
                    .fault_on_call(for_ever.clone())
                    .fault_on_inquiry(for_ever)
                    .says(["unresolved/no_evidence"])
                    .evidence("unanswered")
                    .calls(1)
                    .attempts(1),
            );
        }
    }
    let scene = Scene::open(t, &format!("{tuning}\n{SOON_UNRESOLVED}")).await?;
    let cast = scene.publish_rows(rows).await?;
    let ids = cast.ids();
    let curtain = scene.finish(cast).await?;
    let expected: Vec<(Value, String)> =
        cases.iter().chain(cases).map(|(_, word, _)| (json!(word), (*word).to_owned())).collect();
    assert_eq!(faults(&curtain, &ids), expected);
    for (id, (_, word, http_status)) in ids.iter().zip(cases.iter().chain(cases)) {
        let gateway = &curtain.end(id)["data"]["reason"]["gateway"];
        assert_eq!(gateway["httpStatus"], json!(http_status), "{word}: {gateway}");
    }
    Ok(())
}

broker_test!(an_inquiry_that_is_answered_leaves_how_the_call_failed);
async fn an_inquiry_that_is_answered_leaves_how_the_call_failed(t: Context) -> Result<()> {
    let kind = Kind::TransactionCancel;
    let row = |name, fault: FaultKind| {
        Row::about_nobody(name, kind)
            .fault_on_call(Fault::new(fault))
            .says(["unresolved/no_evidence"])
            .evidence("no_such_payment")
            .attempts(1)
    };
    let hidden = row("the call is reset", FaultKind::Reset);
    // The first looks are not answered, the later are.
    let mixed = row("an inquiry hangs up for a while", FaultKind::http(500))
        .fault_on_inquiry(Fault::new(FaultKind::Close).times(2));
    let scene = Scene::open(&t, SOON_UNRESOLVED).await?;
    let cast = scene.publish_rows(vec![hidden, mixed]).await?;
    let ids = cast.ids();
    let curtain = scene.finish(cast).await?;
    let expected = [(json!("reset"), "reset".to_owned()), (Value::Null, String::new())];
    assert_eq!(faults(&curtain, &ids), expected);
    let gateway = &curtain.end(&ids[1])["data"]["reason"]["gateway"];
    assert_eq!((&gateway["httpStatus"], &gateway["fault"]), (&json!(500), &Value::Null));
    Ok(())
}
