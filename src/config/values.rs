//! One value, read and judged by itself. Nothing of a value gets into a [`Invalid`].

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use jiff::tz::TimeZone;
use toml::de::{DeTable, DeValue};
use url::Url;

use super::mistakes::Invalid;
use super::{Declare, LogFormat, LogLevel, PlainHttp, TraceHeaders};
use crate::domain::intent::{Api, Kind};
use crate::domain::outcome::RejectedReason;
use crate::domain::retry::Tier;

/// A value as it was given. No `Debug`: it may be a secret.
pub(super) enum Value {
    /// From the environment or a secret's file: text, whatever type the key has.
    Plain(String),
    /// A string of the file.
    Text(String),
    /// An integer of the file.
    Int(i64),
    /// A number with a point of the file.
    Float(f64),
    /// A boolean of the file.
    Bool(bool),
    /// A list of the file.
    List(Vec<Value>),
    /// A table within a list of the file.
    Table(BTreeMap<String, Value>),
    /// A date, or an integer beyond 64 bits: no key of ours takes one.
    Odd,
}

impl Value {
    pub(super) fn from_toml(value: DeValue<'_>) -> Value {
        match value {
            DeValue::String(text) => Value::Text(text.into_owned()),
            DeValue::Integer(int) => {
                i64::from_str_radix(int.as_str(), int.radix()).map_or(Value::Odd, Value::Int)
            }
            DeValue::Float(float) => float.as_str().parse().map_or(Value::Odd, Value::Float),
            DeValue::Boolean(flag) => Value::Bool(flag),
            DeValue::Datetime(_) => Value::Odd,
            DeValue::Array(items) => {
                Value::List(items.into_iter().map(|item| Value::from_toml(item.into_inner())).collect())
            }
            DeValue::Table(table) => Value::Table(table_of(table)),
        }
    }
}

fn table_of(table: DeTable<'_>) -> BTreeMap<String, Value> {
    table
        .into_iter()
        .map(|(key, value)| (key.into_inner().into_owned(), Value::from_toml(value.into_inner())))
        .collect()
}

/// Text, as it is.
pub(super) fn text(value: Value) -> Result<String, Invalid> {
    let (Value::Plain(text) | Value::Text(text)) = value else {
        return Err(Invalid::new("is not text", "write it in quotes"));
    };
    Ok(text)
}

/// What the file gives as a value of its own type, or the environment as plain text.
fn typed<T: FromStr>(value: &Value, of_file: Option<T>) -> Option<T> {
    if let Value::Plain(plain) = value { plain.parse().ok() } else { of_file }
}

/// The items of a list. Plain text is a TOML list if it begins with a bracket, and separated by commas if
/// not.
pub(super) fn list(value: Value) -> Result<Vec<Value>, Invalid> {
    if let Value::List(items) = value {
        return Ok(items);
    }
    let Value::Plain(plain) = value else {
        return Err(Invalid::new("is not a list", "write it in brackets"));
    };
    match plain.trim() {
        "" => Ok(Vec::new()),
        toml if toml.starts_with('[') => match DeValue::parse(toml) {
            Ok(parsed) => list(Value::from_toml(parsed.into_inner())),
            Err(_) => Err(Invalid::new("is not a list", "write a list as TOML does, [\"a\", \"b\"]")),
        },
        items => Ok(items.split(',').map(|item| Value::Plain(item.trim().to_owned())).collect()),
    }
}

/// `true` or `false`. Private: what a boolean of the file means, the next three functions say.
fn flag(value: &Value) -> Result<bool, Invalid> {
    let of_file = if let Value::Bool(flag) = value { Some(*flag) } else { None };
    typed(value, of_file)
        .ok_or_else(|| Invalid::new("is neither true nor false", "write true or false, without quotes"))
}

/// `amqp.declare`.
pub(super) fn declare(value: Value) -> Result<Declare, Invalid> {
    Ok(if flag(&value)? { Declare::Missing } else { Declare::Nothing })
}

/// `gateway.allow_http`.
pub(super) fn plain_http(value: Value) -> Result<PlainHttp, Invalid> {
    Ok(if flag(&value)? { PlainHttp::Anywhere } else { PlainHttp::Loopback })
}

/// `gateway.trace_headers`.
pub(super) fn trace_headers(value: Value) -> Result<TraceHeaders, Invalid> {
    Ok(if flag(&value)? { TraceHeaders::Sent } else { TraceHeaders::Kept })
}

/// A whole number of this range.
pub(super) fn int_within<T>(value: &Value, min: T, max: T) -> Result<T, Invalid>
where
    T: Copy + Display + Into<i64> + TryFrom<i64>,
{
    let int: Option<i64> = typed(value, if let Value::Int(int) = value { Some(*int) } else { None });
    let wrong = match int {
        None => "is not a whole number".to_owned(),
        Some(int) if int < min.into() => format!("is below {min}"),
        Some(int) => match T::try_from(int) {
            Ok(int) if int.into() <= max.into() => return Ok(int),
            Ok(_) | Err(_) => format!("is above {max}"),
        },
    };
    Err(Invalid::new(wrong, format!("write a number from {min} to {max}, without quotes")))
}

/// A count from 1 on.
pub(super) fn count(value: Value) -> Result<u32, Invalid> {
    int_within(&value, 1, u32::MAX)
}

/// How many deliveries are held at once: AMQP has 16 bits for it, and takes 0 for "no limit".
pub(super) fn prefetch(value: Value) -> Result<u16, Invalid> {
    int_within(&value, 1, u16::MAX)
}

fn float(value: &Value) -> Result<f64, Invalid> {
    let of_file = match value {
        Value::Float(float) => Some(*float),
        #[allow(clippy::cast_precision_loss, reason = "rates and ratios are small numbers")]
        Value::Int(int) => Some(*int as f64),
        Value::Plain(_) | Value::Text(_) | Value::Bool(_) | Value::List(_) | Value::Table(_) | Value::Odd => {
            None
        }
    };
    typed(value, of_file)
        .filter(|float| float.is_finite())
        .ok_or_else(|| Invalid::new("is not a number", "write a number, without quotes"))
}

/// Calls a second.
pub(super) fn rate(value: Value) -> Result<f64, Invalid> {
    let rate = float(&value)?;
    if rate > 0.0 {
        Ok(rate)
    } else {
        Err(Invalid::new("is not above 0", "write calls per second, such as 20 or 0.5"))
    }
}

/// A part of the whole.
pub(super) fn ratio(value: Value) -> Result<f64, Invalid> {
    let ratio = float(&value)?;
    if (0.0..=1.0).contains(&ratio) {
        Ok(ratio)
    } else {
        Err(Invalid::new("is not a ratio", "write a number from 0 to 1"))
    }
}

/// The units of a duration, largest first, in milliseconds.
const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// No duration of ours is longer: a year.
const DURATION_MAX: Duration = Duration::from_secs(365 * 86_400);

/// A duration, zero included: whole numbers with units, the larger first, such as `200ms`, `30s`, `1m30s`.
pub(super) fn duration(value: Value) -> Result<Duration, Invalid> {
    let remedy = "write a duration such as \"200ms\", \"30s\", \"5m\", \"1h30m\" or \"1d\"";
    let text = match value {
        Value::Int(_) | Value::Float(_) => return Err(Invalid::new("has no unit", remedy)),
        other => text(other).map_err(|_| Invalid::new("is not a duration", remedy))?,
    };
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(Invalid::new("has no unit", remedy));
    }
    let length = read_duration(&text).ok_or_else(|| Invalid::new("is not a duration", remedy))?;
    if length > DURATION_MAX {
        return Err(Invalid::new("is longer than 365 days", "write a shorter duration"));
    }
    Ok(length)
}

fn read_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total_ms: u64 = 0;
    let mut units = UNITS.iter();
    while !rest.is_empty() {
        let number_len = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, after) = rest.split_at(number_len);
        let unit_len = after.bytes().take_while(u8::is_ascii_lowercase).count();
        let (unit, after) = after.split_at(unit_len);
        // Each unit once, the larger before the smaller: the iterator is used up on the way down.
        let (_, unit_ms) = units.find(|(name, _)| *name == unit)?;
        total_ms = total_ms.checked_add(number.parse::<u64>().ok()?.checked_mul(*unit_ms)?)?;
        rest = after;
    }
    (!text.is_empty()).then(|| Duration::from_millis(total_ms))
}

/// A duration that is not zero.
pub(super) fn positive_duration(value: Value) -> Result<Duration, Invalid> {
    let length = duration(value)?;
    if length.is_zero() { Err(Invalid::new("is zero", "write a duration above zero")) } else { Ok(length) }
}

/// A delay queue holds a letter no longer: RabbitMQ restarts and upgrades should not have to wait for more.
const TIER_LENGTH_MAX: Duration = Duration::from_secs(86_400);

/// The length of a delay queue, named by its length: two spellings of one length are one name.
pub(super) fn tier(value: Value) -> Result<Tier, Invalid> {
    let length = positive_duration(value)?;
    if length > TIER_LENGTH_MAX {
        return Err(Invalid::new(
            "is longer than 24h",
            "write a shorter delay; longer waits are composed of several",
        ));
    }
    Ok(Tier { length, name: duration_name(length) })
}

/// The one name of a length: a number and the largest unit, up to the hour, that leaves nothing over.
pub(super) fn duration_name(length: Duration) -> String {
    let ms = length.as_millis();
    if ms == 0 {
        return "0s".to_owned();
    }
    let unit = UNITS.iter().skip(1).find(|(_, unit_ms)| ms.is_multiple_of(u128::from(*unit_ms)));
    let (name, unit_ms) = unit.copied().unwrap_or(("ms", 1));
    format!("{}{name}", ms / u128::from(unit_ms))
}

/// A duration as the configuration writes it.
///
/// # Errors
/// What is wrong with it, and what to write.
pub fn parse_duration(written: &str) -> Result<Duration, String> {
    duration(Value::Text(written.to_owned())).map_err(|fault| fault.to_string())
}

/// One of these by its name.
fn one_of<T: Copy>(value: Value, all: &[T], name: fn(T) -> &'static str, wrong: &str) -> Result<T, Invalid> {
    let text = text(value)?;
    let known = all.iter().copied().find(|one| name(*one) == text);
    let remedy = || format!("write one of {}", names(all.iter().copied().map(name)));
    known.ok_or_else(|| Invalid::new(wrong, remedy()))
}

/// A kind by its name.
pub(super) fn kind(value: Value) -> Result<Kind, Invalid> {
    one_of(value, &Kind::ALL, Kind::as_str, "is no kind")
}

/// An API by its name.
pub(super) fn api(value: Value) -> Result<Api, Invalid> {
    one_of(value, &Api::ALL, Api::as_str, "is no API")
}

/// One of `rejected`'s reasons.
pub(super) fn rejected_reason(value: Value) -> Result<RejectedReason, Invalid> {
    one_of(value, RejectedReason::ALL, RejectedReason::as_str, "is no reason of a rejection")
}

/// Names in a row, for a person.
pub(super) fn names(names: impl IntoIterator<Item = &'static str>) -> String {
    names.into_iter().collect::<Vec<_>>().join(", ")
}

/// `telemetry.log`.
pub(super) fn log_format(value: Value) -> Result<LogFormat, Invalid> {
    match text(value)?.as_str() {
        "json" => Ok(LogFormat::Json),
        "text" => Ok(LogFormat::Text),
        _ => Err(Invalid::new("is no format of logs", "write \"json\" or \"text\"")),
    }
}

/// `telemetry.level`.
pub(super) fn log_level(value: Value) -> Result<LogLevel, Invalid> {
    let level = text(value)?;
    let known = LogLevel::ALL.into_iter().find(|known| known.as_str() == level);
    known.ok_or_else(|| {
        let remedy = format!("write {}", names(LogLevel::ALL.into_iter().map(LogLevel::as_str)));
        Invalid::new("is no level of logs", remedy)
    })
}

/// `admin.listen`.
pub(super) fn listen(value: Value) -> Result<SocketAddr, Invalid> {
    let remedy = "write an IP address and a port, such as \"127.0.0.1:9400\"";
    text(value)?.parse().map_err(|_| Invalid::new("is no address to listen at", remedy))
}

/// A time zone by its name.
pub(super) fn zone(value: Value) -> Result<TimeZone, Invalid> {
    let remedy = "write a name of the time zone database, such as \"Europe/Istanbul\"";
    TimeZone::get(&text(value)?).map_err(|_| Invalid::new("is no time zone", remedy))
}

/// What exchanges and queues begin with.
pub(super) fn prefix(value: Value) -> Result<String, Invalid> {
    let prefix = text(value)?;
    let remedy = "write 1 to 64 of a-z 0-9 . _ -, beginning with a letter";
    let fits = (1..=64).contains(&prefix.len())
        && prefix.starts_with(|c: char| c.is_ascii_lowercase())
        && prefix.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b));
    if !fits {
        return Err(Invalid::new("is no prefix of queues' names", remedy));
    }
    if prefix == "amq" || prefix.starts_with("amq.") {
        return Err(Invalid::new("is a prefix that RabbitMQ keeps for itself", "write one that is not amq"));
    }
    Ok(prefix)
}

/// The instance's name: it is in headers and in the broker's list of connections.
pub(super) fn instance_name(value: Value) -> Result<String, Invalid> {
    let name = text(value)?;
    let fits = (1..=255).contains(&name.len()) && !name.chars().any(char::is_control);
    if fits { Ok(name) } else { Err(Invalid::new("is no name", "write 1 to 255 bytes of printable text")) }
}

/// A URI-reference as RFC 3986 has it, not empty, as CloudEvents wants it.
pub(super) fn uri_reference(value: Value) -> Result<String, Invalid> {
    let uri = text(value)?;
    let fits = (1..=255).contains(&uri.len())
        && uri.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~:/?#[]@!$&'()*+,;=%".contains(&b))
        && uri.split('%').skip(1).all(|escaped| {
            escaped.as_bytes().get(..2).is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit))
        })
        && uri.matches('#').count() <= 1
        && Url::parse("https://host/").is_ok_and(|base| base.join(&uri).is_ok());
    let remedy = "write a URI or a path, such as \"/cancel-worker\", not empty";
    if fits { Ok(uri) } else { Err(Invalid::new("is no URI-reference", remedy)) }
}

/// A key of the gateway: it must go into an HTTP header.
pub(super) fn header_value(value: Value) -> Result<String, Invalid> {
    let key = text(value)?;
    if key.is_empty() {
        return Err(Invalid::new("is empty", "write the key that the gateway gave you"));
    }
    if key.len() > 1024 {
        return Err(Invalid::new(
            "is longer than 1024 characters",
            "write the key that the gateway gave you, alone",
        ));
    }
    if !key.bytes().all(|b| b.is_ascii_graphic()) {
        let remedy = "write the key alone, without spaces, line breaks or letters beyond ASCII";
        return Err(Invalid::new("has characters that no HTTP header can carry", remedy));
    }
    Ok(key)
}
