//! Reading JSON strictly: every field is asked for by name, a key that comes twice or was never asked for is a
//! fault, and a fault names its field and no value.

use std::fmt;

use jiff::civil::{self, Date};
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde::de::{MapAccess, Visitor};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::domain::digits;

/// What is wrong with a letter: which field, and what is wrong with it. No values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// The field's path: `payment.payments[2].date`; `body` for the letter as a whole.
    pub field: String,
    /// What is wrong with it, and what belongs there.
    pub problem: &'static str,
}

impl FieldError {
    /// A fault of this field.
    pub fn new(field: impl Into<String>, problem: &'static str) -> FieldError {
        FieldError { field: field.into(), problem }
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}.", self.field, self.problem)
    }
}

/// The members of an object, as they stand: keys may come twice.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Vec<(String, &'de RawValue)>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry::<String, &'de RawValue>()? {
                    members.push(member);
                }
                Ok(members)
            }
        }
        deserializer.deserialize_map(Collect).map(Members)
    }
}

/// An object that is being read.
pub(super) struct Object<'a> {
    path: String,
    members: Vec<(String, &'a RawValue)>,
}

/// One value, and where it stands.
#[derive(Clone)]
pub(super) struct Value<'a> {
    pub(super) path: String,
    raw: &'a RawValue,
}

impl<'a> Object<'a> {
    /// The object in this text, all of it.
    pub(super) fn parse(text: &'a str) -> Result<Object<'a>, FieldError> {
        let raw: &RawValue =
            serde_json::from_str(text).map_err(|_| FieldError::new("body", "is not one JSON value"))?;
        Value { path: String::new(), raw }.object()
    }

    /// The member of this name; `None` if there is none.
    pub(super) fn optional(&mut self, name: &str) -> Result<Option<Value<'a>>, FieldError> {
        let path = self.path_of(name);
        let mut found = None;
        let mut index = 0;
        while index < self.members.len() {
            if self.members[index].0 == name {
                let (_, raw) = self.members.remove(index);
                if found.is_some() {
                    return Err(FieldError::new(path, "occurs more than once"));
                }
                found = Some(Value { path: path.clone(), raw });
            } else {
                index += 1;
            }
        }
        Ok(found)
    }

    /// The member of this name.
    pub(super) fn required(&mut self, name: &str) -> Result<Value<'a>, FieldError> {
        self.optional(name)?.ok_or_else(|| FieldError::new(self.path_of(name), "is missing"))
    }

    /// What is left was not asked for: each is a fault.
    pub(super) fn unknown(self) -> Vec<FieldError> {
        let unknown = self.members.iter().map(|(name, _)| self.path_of(&printable(name)));
        unknown.map(|path| FieldError::new(path, "is not a field of this kind")).collect()
    }

    fn path_of(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }
}

/// An unknown key comes from outside: what does not look like a name, or may be a card number, is not repeated.
fn printable(name: &str) -> String {
    let is_name = (1..=64).contains(&name.len())
        && !digits::has_long_run(name)
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'));
    if is_name { name.to_owned() } else { "(a key that is no name)".to_owned() }
}

impl<'a> Value<'a> {
    fn fault(&self, problem: &'static str) -> FieldError {
        let field = if self.path.is_empty() { "body" } else { &self.path };
        FieldError::new(field, problem)
    }

    /// The text as it stands.
    pub(super) fn raw_text(&self) -> &'a str {
        self.raw.get()
    }

    pub(super) fn object(self) -> Result<Object<'a>, FieldError> {
        match serde_json::from_str::<Members<'a>>(self.raw.get()) {
            Ok(Members(members)) => Ok(Object { path: self.path, members }),
            Err(_) => Err(self.fault("is not an object")),
        }
    }

    pub(super) fn array(self) -> Result<Vec<Value<'a>>, FieldError> {
        match serde_json::from_str::<Vec<&'a RawValue>>(self.raw.get()) {
            Ok(items) => Ok(items
                .into_iter()
                .enumerate()
                .map(|(index, raw)| Value { path: format!("{}[{index}]", self.path), raw })
                .collect()),
            Err(_) => Err(self.fault("is not an array")),
        }
    }

    pub(super) fn text(&self) -> Result<String, FieldError> {
        serde_json::from_str::<String>(self.raw.get()).map_err(|_| self.fault("is not a string"))
    }

    /// The string, parsed.
    pub(super) fn parsed<T>(
        &self,
        parse: impl FnOnce(&str) -> Option<T>,
        problem: &'static str,
    ) -> Result<T, FieldError> {
        parse(&self.text()?).ok_or_else(|| self.fault(problem))
    }

    pub(super) fn bool(&self) -> Result<bool, FieldError> {
        serde_json::from_str::<bool>(self.raw.get()).map_err(|_| self.fault("is not true or false"))
    }

    pub(super) fn uuid(&self) -> Result<Uuid, FieldError> {
        self.parsed(parse_uuid, "is not a UUID of 36 characters with hyphens, or is nil")
    }

    pub(super) fn time(&self) -> Result<Timestamp, FieldError> {
        self.parsed(parse_time, "is not a time written as RFC 3339 with an offset")
    }

    pub(super) fn date(&self) -> Result<Date, FieldError> {
        self.parsed(parse_date, "is not a calendar day written yyyy-MM-dd")
    }
}

/// A uuid of 36 characters with hyphens, in any case, not nil.
pub(super) fn parse_uuid(text: &str) -> Option<Uuid> {
    if text.len() != 36 {
        return None;
    }
    Uuid::try_parse(text).ok().filter(|uuid| !uuid.is_nil())
}

/// A day written `yyyy-MM-dd`.
pub(super) fn parse_date(text: &str) -> Option<Date> {
    let bytes = text.as_bytes();
    if bytes.len() != 10 || bytes[4] != b'-' || bytes[7] != b'-' {
        return None;
    }
    let number = |from: usize, to: usize| {
        let digits = text.get(from..to)?;
        digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse::<i16>().ok())?
    };
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    Date::new(year, i8::try_from(month).ok()?, i8::try_from(day).ok()?).ok()
}

/// A time written as RFC 3339 with an offset: `T` and `Z` in any case, any number of fractional digits (those
/// beyond the ninth decide nothing), a leap second read as the second after it. The last hours of the year 9999, which
/// [`Timestamp`] does not reach, are read as the last moment that it does: no letter is handled then.
pub(super) fn parse_time(text: &str) -> Option<Timestamp> {
    let date = parse_date(text.get(..10)?)?;
    let rest = text.get(10..)?.strip_prefix(['T', 't'])?;
    let clock = rest.get(..8)?;
    let (hour, minute, second) = parse_clock(clock)?;
    let rest = rest.get(8..)?;
    let (nanos, rest) = match rest.strip_prefix('.') {
        None => (0, rest),
        Some(fraction) => {
            let len = fraction.bytes().take_while(u8::is_ascii_digit).count();
            let digits = fraction.get(..len.min(9)).filter(|digits| !digits.is_empty())?;
            let nanos = format!("{digits:0<9}").parse::<i32>().ok()?;
            (nanos, fraction.get(len..)?)
        }
    };
    let offset_s = match rest {
        "Z" | "z" => 0,
        offset => {
            let (sign, offset) = match (offset.strip_prefix('+'), offset.strip_prefix('-')) {
                (Some(offset), _) => (1, offset),
                (None, Some(offset)) => (-1, offset),
                (None, None) => return None,
            };
            let (hours, minutes) = offset.split_once(':')?;
            sign * (i64::from(two_digits(hours, 23)?) * 3600 + i64::from(two_digits(minutes, 59)?) * 60)
        }
    };
    let civil = date.at(hour, minute, second.min(59), nanos);
    let leap_s = i64::from(second) - i64::from(second.min(59));
    let since_1970 = civil.duration_since(civil::date(1970, 1, 1).at(0, 0, 0, 0));
    let utc = since_1970 + SignedDuration::from_secs(leap_s - offset_s);
    // No year that has four digits is too early.
    Some(Timestamp::from_duration(utc).unwrap_or(Timestamp::MAX))
}

fn parse_clock(text: &str) -> Option<(i8, i8, i8)> {
    let mut parts = text.split(':');
    let clock =
        (two_digits(parts.next()?, 23)?, two_digits(parts.next()?, 59)?, two_digits(parts.next()?, 60)?);
    parts.next().is_none().then_some(clock)
}

fn two_digits(text: &str, max: i8) -> Option<i8> {
    let is_number = text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit());
    is_number.then(|| text.parse::<i8>().ok())?.filter(|value| *value <= max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_of_a_year_with_four_digits_is_read() {
        let long = format!("2025-11-20T09:15:00.{}Z", "7".repeat(10_000));
        for (text, read) in [
            ("0000-01-01T00:00:00Z", "0000-01-01T00:00:00Z"),
            ("0000-01-01T00:00:00+23:59", "-000001-12-31T00:01:00Z"),
            ("2025-11-20T12:15:00.5+03:00", "2025-11-20T09:15:00.5Z"),
            (&long, "2025-11-20T09:15:00.777777777Z"),
            ("9999-12-30T22:00:00Z", "9999-12-30T22:00:00Z"),
            // Its moment is within reach, though its day is not.
            ("9999-12-31T12:00:00+23:00", "9999-12-30T13:00:00Z"),
            ("9999-12-31T23:59:60.999-23:59", "9999-12-30T22:00:00.999999999Z"),
            ("9999-12-31T23:59:59.999999999999Z", "9999-12-30T22:00:00.999999999Z"),
        ] {
            assert_eq!(parse_time(text).map(|time| time.to_string()).as_deref(), Some(read), "{text}");
        }
        for text in
            ["10000-01-01T00:00:00Z", "9999-12-32T00:00:00Z", "2025-11-20T09:15:00.Z", "2025-11-20T09:15:00"]
        {
            assert_eq!(parse_time(text), None, "{text}");
        }
    }
}
