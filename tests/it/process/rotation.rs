//! Merchants' keys in files, which are read again at SIGHUP.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use cancel_worker::domain::intent::Kind;
use paywall_simulator::{Fault, FaultKind};
use serde_json::json;
use tempfile::TempDir;

use super::cancellations::{Cancellation, Copies, Course};
use crate::support::Context;
use crate::support::broker_test;
use crate::support::process::Process;
use crate::support::stage::{PATIENCE, Stage};

/// What the files hold before they are right; it is in no line of the log.
const CANARY: &str = "canary-9b3e";

/// The merchant's private pair in files.
struct Files {
    home: TempDir,
}

impl Files {
    fn new() -> Result<Files> {
        Ok(Files { home: tempfile::tempdir()? })
    }

    fn path(&self, part: &str) -> PathBuf {
        self.home.path().join(part)
    }

    fn write(&self, key: &str, client: &str) -> Result<()> {
        fs::write(self.path("key"), key)?;
        Ok(fs::write(self.path("client"), client)?)
    }

    /// The stage's configuration, its default merchant's private pair coming from these files.
    fn toml(&self, stage: &Stage) -> Result<String> {
        let mut toml: toml::Table = stage.toml().parse()?;
        let merchants = toml.get_mut("merchants").and_then(toml::Value::as_table_mut).context("merchants")?;
        let merchant = merchants.get_mut("default").and_then(toml::Value::as_table_mut).context("default")?;
        for part in ["key", "client"] {
            merchant.remove(&format!("private_{part}"));
            let file = self.path(part).to_str().context("a path of ours is text")?.to_owned();
            merchant.insert(format!("private_{part}_file"), file.into());
        }
        Ok(toml.to_string())
    }
}

broker_test!(keys_are_read_again_at_sighup_and_the_next_call_carries_them);
async fn keys_are_read_again_at_sighup_and_the_next_call_carries_them(t: Context) -> Result<()> {
    let stage = Stage::new(&t, "").await?;
    let files = Files::new()?;
    files.write(&format!("{CANARY}-key"), &format!("{CANARY}-client\n"))?;
    let worker = Process::run(&files.toml(&stage)?, &[])?;
    let cancellation = Cancellation::new(&stage, Kind::TransactionCancel, Course::AtOnce)?;
    stage.publish(&cancellation.intent).await?;
    worker.stderr.event("locked_out").await?;

    files.write("default-private-key", "default-private-client\n")?;
    worker.signal("HUP").await?;

    let reloaded = worker.stderr.event("secrets_reloaded").await?;
    assert_eq!((&reloaded["pairs"], &reloaded["changed"]), (&json!(1), &json!(1)));
    cancellation.ended(&stage, 1).await?;
    cancellation.is_told_truly(&stage, Copies::One)?;
    let ended = worker.stop_by("TERM").await?;
    assert_eq!(ended.code, Some(0));
    ensure!(!ended.stderr.text().contains(CANARY), "{}", ended.stderr.text());
    Ok(())
}

broker_test!(a_key_file_that_cannot_be_used_leaves_the_pair_as_it_was);
async fn a_key_file_that_cannot_be_used_leaves_the_pair_as_it_was(t: Context) -> Result<()> {
    let stage = Stage::new(&t, "").await?;
    let files = Files::new()?;
    files.write("default-private-key", "default-private-client")?;
    let worker = Process::run(&files.toml(&stage)?, &[])?;
    worker.stderr.event("generation_started").await?;

    // One half is new and sound, the other cannot be sent: neither is used.
    files.write(&format!("{CANARY}-new-key"), &format!("{CANARY} with a space"))?;
    worker.signal("HUP").await?;

    let failed = worker.stderr.event("secrets_reload_failed").await?;
    assert_eq!(
        (&failed["level"], &failed["key"]),
        (&json!("error"), &json!("merchants.default.private_client_file"))
    );
    let cancellation = Cancellation::new(&stage, Kind::TransactionCancel, Course::AtOnce)?;
    stage.publish(&cancellation.intent).await?;
    cancellation.ended(&stage, 1).await?;
    let ended = worker.stop_by("TERM").await?;
    assert_eq!((ended.code, ended.stderr.events("locked_out").len()), (Some(0), 0));
    assert_eq!(ended.stderr.events("secrets_reloaded").len(), 0);
    ensure!(!ended.stderr.text().contains(CANARY), "{}", ended.stderr.text());
    Ok(())
}

broker_test!(sighup_during_a_call_changes_nothing_for_it);
async fn sighup_during_a_call_changes_nothing_for_it(t: Context) -> Result<()> {
    let stage = Stage::new(&t, "gateway = { call_timeout = \"40s\" }\ninquiry = { quiet = \"40s\" }").await?;
    let cancellation = Cancellation::new(&stage, Kind::TransactionCancel, Course::AtOnce)?;
    stage.simulator.plan(Fault::new(FaultKind::Hang).on(cancellation.endpoint)).await?;
    let worker = Process::work(&stage, &[])?;
    stage.publish(&cancellation.intent).await?;
    stage.simulator.wait_for_calls(&cancellation.payments[0].1, cancellation.endpoint, 1, PATIENCE).await?;

    worker.signal("HUP").await?;
    let reloaded = worker.stderr.event("secrets_reloaded").await?;
    assert_eq!(reloaded["pairs"], 0, "no key comes from a file");
    stage.simulator.release();

    cancellation.ended(&stage, 1).await?;
    cancellation.is_told_truly(&stage, Copies::One)?;
    assert_eq!(worker.stop_by("TERM").await?.code, Some(0));
    Ok(())
}

broker_test!(a_key_file_that_everybody_may_read_is_told_at_the_start);
async fn a_key_file_that_everybody_may_read_is_told_at_the_start(t: Context) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;

    let stage = Stage::new(&t, "").await?;
    let files = Files::new()?;
    files.write("default-private-key", "default-private-client")?;
    for (part, mode) in [("key", 0o644), ("client", 0o600)] {
        fs::set_permissions(files.path(part), fs::Permissions::from_mode(mode))?;
    }
    let worker = Process::run(&files.toml(&stage)?, &[])?;
    worker.stderr.event("started").await?;
    let told = worker.stderr.events("secret_file_readable");
    let told: Vec<_> = told.iter().map(|line| (&line["level"], &line["key"], &line["file.path"])).collect();
    let file = json!(files.path("key"));
    assert_eq!(told, [(&json!("warn"), &json!("merchants.default.private_key_file"), &file)]);
    assert_eq!(worker.stop_by("TERM").await?.code, Some(0));
    Ok(())
}
