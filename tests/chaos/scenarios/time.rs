//! Midnight passes.

use std::time::Duration;

use anyhow::Result;
use cancel_worker::clock::Clock;
use cancel_worker::domain::intent::Kind;
use jiff::SignedDuration;
use jiff::tz::{Offset, TimeZone};
use paywall_simulator::{Fault, FaultKind, Rules};
use rand::Rng;

use crate::audit::{Audit, Leave};
use crate::load::{FaultsOf, Plan, endpoint_of};
use crate::stage::{Play, Setting, Stage};

/// The name of a zone that only this scenario's workers know.
const ZONE: &str = "Chaos/Midnight";

/// The kinds that the day matters to, and one that it does not.
const KINDS: &[Kind] =
    &[Kind::TransactionCancel, Kind::TransactionCancel, Kind::BatchCancel, Kind::AsyncCancel];

/// The day of the payments ends under load, with calls in doubt on both sides of it. Clocks are not touched: worker and
/// gateway live in a zone whose midnight is near. What is found out too late to be called is rejected, what was done
/// in time is told as done, and what nobody can tell any more is unresolved.
pub(crate) async fn midnight(mut play: Play) -> Result<Audit> {
    // Half of what is asked comes before midnight, as far as the machine keeps up.
    let until = Duration::from_secs(if play.size > 1_000 { 40 } else { 20 });
    let until = until + Duration::from_millis(play.rng.random_range(0..5_000));
    let offset = offset_of_midnight(until);
    let folder = tempfile::tempdir()?;
    write_zone(folder.path(), offset)?;
    let setting = Setting {
        // What the gateway names too late has no end there, so it is asked about until this age.
        tuning: "same_day.enforce = ['batch_cancel', 'transaction_cancel']\ninquiry.age_max = '45s'",
        environment: vec![
            ("TZDIR".to_owned(), folder.path().display().to_string()),
            ("CANCEL_WORKER__SAME_DAY__ZONE".to_owned(), ZONE.to_owned()),
        ],
        rules: Rules { rollback_wait_ms: 100, zone: TimeZone::fixed(offset), ..Rules::default() },
        ..Setting::default()
    };
    let faults: FaultsOf = |rng, cancellation| {
        let kinds = [FaultKind::Reset, FaultKind::Hang, FaultKind::http(503), FaultKind::http(500)];
        let kind = kinds[rng.random_range(0..kinds.len())].clone();
        let can_follow = !matches!(kind, FaultKind::Http { status: 503, .. });
        let fault =
            Fault::new(kind).on(endpoint_of(cancellation.kind)).of(&cancellation.payments[0].id).times(2);
        match rng.random_range(0..5) {
            0 if can_follow => vec![fault.after_effect()],
            0 | 1 => vec![fault],
            _most => Vec::new(),
        }
    };
    let plan = |plan| Plan { kinds: KINDS, lasts: Some(until * 2), faults, ..plan };
    let (stage, worker, load) = Stage::at_work_on(play, setting, plan).await?;
    stage.close(load, vec![worker], Leave::Unresolved).await
}

/// The offset from UTC with which it is midnight after so long.
fn offset_of_midnight(until: Duration) -> Offset {
    const DAY_S: i64 = 86_400;
    let midnight = Clock::system().now() + SignedDuration::try_from(until).unwrap_or_default();
    let since_midnight = midnight.as_second().rem_euclid(DAY_S);
    // West of Greenwich up to 12 hours, else east.
    let seconds = if since_midnight <= DAY_S / 2 { -since_midnight } else { DAY_S - since_midnight };
    Offset::from_seconds(i32::try_from(seconds).unwrap_or_default()).unwrap_or(Offset::UTC)
}

/// Writes a zone with this one offset, in the format of the time zone database (RFC 8536, version 2).
fn write_zone(folder: &std::path::Path, offset: Offset) -> Result<()> {
    let seconds = offset.seconds();
    let block = |version: u8| {
        let mut bytes = b"TZif".to_vec();
        bytes.push(version);
        bytes.extend([0; 15]);
        // Without UT and wall indicators, leap seconds and transitions; one type, four characters of designations.
        for count in [0_u32, 0, 0, 0, 1, 4] {
            bytes.extend(count.to_be_bytes());
        }
        bytes.extend(seconds.to_be_bytes());
        bytes.extend([0, 0]);
        bytes.extend(b"CHA\0");
        bytes
    };
    let mut file = block(b'2');
    file.extend(block(b'2'));
    let (sign, rest) = if seconds > 0 { ("-", seconds) } else { ("", -seconds) };
    // The sign of POSIX is the other way round.
    let footer = format!("\n<CHA>{sign}{}:{:02}:{:02}\n", rest / 3_600, rest / 60 % 60, rest % 60);
    file.extend(footer.as_bytes());
    let path = folder.join(ZONE);
    std::fs::create_dir_all(path.parent().unwrap_or(folder))?;
    std::fs::write(path, file)?;
    Ok(())
}
