//! JSON read tolerantly: keys in any casing, values absent or null, numbers and bools as text.
//!
//! What is not tolerated is a contradiction: the same key twice with different values. And nothing here goes
//! through a float, so that an amount keeps its digits.

use std::fmt;

use jiff::civil::DateTime;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::domain::reply::Amount;

/// What was there has not the type that its name promises, or contradicts itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unreadable;

/// A field's value: `Ok(None)` when it is absent or null.
pub(super) type Field<T> = Result<Option<T>, Unreadable>;

/// One JSON object, its values not looked into yet.
#[derive(Debug)]
pub(super) struct Fields<'a>(Vec<(String, &'a RawValue)>);

impl<'a> Fields<'a> {
    /// The object that this text is. A byte order mark before it is skipped; anything after it is not.
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Fields<'a>, Unreadable> {
        let text = std::str::from_utf8(bytes).map_err(|_| Unreadable)?;
        Fields::from_text(text.strip_prefix('\u{feff}').unwrap_or(text))
    }

    fn from_text(text: &'a str) -> Result<Fields<'a>, Unreadable> {
        serde_json::from_str(text).map_err(|_| Unreadable)
    }

    /// An integer, or the text of one.
    pub(super) fn integer(&self, name: &str) -> Field<i64> {
        self.value(name, |raw| {
            let text = if raw.starts_with('"') { string(raw)? } else { raw.to_owned() };
            let digits = text.strip_prefix('-').unwrap_or(&text);
            if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
                return Err(Unreadable);
            }
            text.parse().map_err(|_| Unreadable)
        })
    }

    /// A count: an integer that is not negative.
    pub(super) fn count(&self, name: &str) -> Field<usize> {
        self.integer(name)?.map(|count| usize::try_from(count).map_err(|_| Unreadable)).transpose()
    }

    /// A bool, or the text of one in any casing.
    pub(super) fn boolean(&self, name: &str) -> Field<bool> {
        self.value(name, |raw| {
            let text = if raw.starts_with('"') { string(raw)? } else { raw.to_owned() };
            if text.eq_ignore_ascii_case("true") {
                Ok(true)
            } else if text.eq_ignore_ascii_case("false") {
                Ok(false)
            } else {
                Err(Unreadable)
            }
        })
    }

    /// A text; a number gives its digits.
    pub(super) fn text(&self, name: &str) -> Field<String> {
        self.value(name, |raw| match raw.as_bytes().first() {
            Some(b'"') => string(raw),
            Some(b'-' | b'0'..=b'9') => Ok(raw.to_owned()),
            Some(_) | None => Err(Unreadable),
        })
    }

    /// A uuid in any of its spellings. A text that is none gives the nil uuid: it names *something*, and that must
    /// never be taken for the payment that we asked for, nor for no name at all.
    pub(super) fn uuid(&self, name: &str) -> Field<Uuid> {
        Ok(self.text(name)?.map(|text| text.parse().unwrap_or(Uuid::nil())))
    }

    /// An object. The empty text counts as null, as the gateway's pages have it for `Body`.
    pub(super) fn object(&self, name: &str) -> Field<Fields<'a>> {
        let object = self.value(name, |raw| match raw {
            r#""""# => Ok(None),
            other => Fields::from_text(other).map(Some),
        })?;
        Ok(object.flatten())
    }

    /// An object; anything else is as good as absent.
    pub(super) fn object_if_any(&self, name: &str) -> Field<Fields<'a>> {
        let object = self.value(name, |raw| match raw.starts_with('{') {
            true => Fields::from_text(raw).map(Some),
            false => Ok(None),
        })?;
        Ok(object.flatten())
    }

    /// A list of objects.
    pub(super) fn objects(&self, name: &str) -> Field<Vec<Fields<'a>>> {
        self.value(name, |raw| {
            let items: Vec<&RawValue> = serde_json::from_str(raw).map_err(|_| Unreadable)?;
            items.into_iter().map(|item| Fields::from_text(item.get())).collect()
        })
    }

    /// A decimal number with the digits that came, whether as a number or as text, and beside it the currency if
    /// that is given in ISO 4217 letters. What is not such a number is as good as absent: an amount decides nothing.
    pub(super) fn amount(&self, name: &str) -> Option<Amount> {
        let value = self.text(name).ok().flatten().filter(|text| is_number(text))?;
        let is_iso = |text: &String| text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_uppercase());
        let currency = self.text("Currency").ok().flatten().filter(is_iso);
        Some(Amount { value, currency })
    }

    /// A date and time without an offset: with `T` or a space between them, with or without a fraction of the
    /// second; an offset that follows is dropped (the gateway writes local time and mostly no offset). `None` too
    /// for what cannot be read, and for the year 1, which is how an unset time of the gateway is written.
    pub(super) fn date_time(&self, name: &str) -> Option<DateTime> {
        let text = self.text(name).ok().flatten()?;
        let text = text.trim();
        let local = text.strip_suffix(['Z', 'z']).unwrap_or(text);
        local.parse().ok().filter(|time: &DateTime| time.year() > 1)
    }

    /// Whether the name is there, be its value null.
    pub(super) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(key, _)| key.eq_ignore_ascii_case(name))
    }

    fn value<T>(&self, name: &str, read: impl FnOnce(&'a str) -> Result<T, Unreadable>) -> Field<T> {
        let mut values =
            self.0.iter().filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, raw)| raw.get());
        let Some(first) = values.next() else { return Ok(None) };
        if values.any(|other| other != first) {
            return Err(Unreadable);
        }
        if first == "null" { Ok(None) } else { read(first).map(Some) }
    }
}

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Fields(fields))
            }
        }

        deserializer.deserialize_map(Object)
    }
}

/// A code of the gateway's fixed list: letters, digits and underscores, parted by dots. Free text is none, so
/// that no text of the gateway travels further.
pub(super) fn fixed_code(text: String) -> Option<String> {
    let is_part = |part: &str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    let fits = text.len() <= 100 && text.contains('.') && text.split('.').all(is_part);
    fits.then_some(text)
}

fn string(raw: &str) -> Result<String, Unreadable> {
    serde_json::from_str(raw).map_err(|_| Unreadable)
}

/// A decimal number of at most 64 characters: `-`, digits, a fraction and an exponent, as JSON and our outcomes
/// write it, but for zeros in front, which are the sender's business.
fn is_number(text: &str) -> bool {
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent.strip_prefix(['+', '-']).unwrap_or(exponent))),
        None => (text, None),
    };
    let mantissa = mantissa.strip_prefix('-').unwrap_or(mantissa);
    let (whole, fraction) = match mantissa.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (mantissa, None),
    };
    text.len() <= 64 && digits(whole) && fraction.is_none_or(digits) && exponent.is_none_or(digits)
}
