//! JSON read tolerantly: keys in any casing, values absent or null, numbers and bools as text, texts with holes.
//!
//! What a hostile gateway may send is read in a time that grows with its length and with nothing else: no object is
//! deeper looked into than it is asked for, has more fields than [`FIELDS_LEN_MAX`], or a list more elements than asked.
//!
//! What is not tolerated is a contradiction: the same key twice with different values. And nothing here goes
//! through a float, so that an amount keeps its digits.

use std::borrow::Cow;
use std::fmt;

use jiff::civil::DateTime;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::domain::digits;
use crate::domain::reply::Amount;

/// What was there has not the type that its name promises, or contradicts itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unreadable;

/// A field's value: `Ok(None)` when it is absent or null.
pub(super) type Field<T> = Result<Option<T>, Unreadable>;

/// An object with more fields is none of the gateway's: its largest have some thirty.
pub(super) const FIELDS_LEN_MAX: usize = 1_000;

/// One JSON object, its values not looked into yet.
#[derive(Debug)]
pub(super) struct Fields<'a>(Vec<(Key<'a>, &'a RawValue)>);

impl<'a> Fields<'a> {
    /// The object that this text is. A byte order mark before it is skipped; anything after it is not.
    pub(super) fn parse(text: &'a str) -> Result<Fields<'a>, Unreadable> {
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

    /// A list of objects, this many at most.
    pub(super) fn objects(&self, name: &str, len_max: usize) -> Field<Vec<Fields<'a>>> {
        self.value(name, |raw| {
            let mut json = serde_json::Deserializer::from_str(raw);
            let items = ItemsVisitor { len_max };
            let items = json.deserialize_seq(items).map_err(|_| Unreadable)?;
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
        self.0.iter().any(|(key, _)| key.is(name))
    }

    fn value<T>(&self, name: &str, read: impl FnOnce(&'a str) -> Result<T, Unreadable>) -> Field<T> {
        let mut values = self.0.iter().filter(|(key, _)| key.is(name)).map(|(_, raw)| raw.get());
        let Some(first) = values.next() else { return Ok(None) };
        if values.any(|other| other != first) {
            return Err(Unreadable);
        }
        if first == "null" { Ok(None) } else { read(first).map(Some) }
    }
}

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct JsonObject;

        impl<'de> Visitor<'de> for JsonObject {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    if fields.len() == FIELDS_LEN_MAX {
                        return Err(serde::de::Error::custom("too many fields"));
                    }
                    fields.push(field);
                }
                Ok(Fields(fields))
            }
        }

        deserializer.deserialize_map(JsonObject)
    }
}

/// The elements of a list, not looked into yet.
struct ItemsVisitor {
    len_max: usize,
}

impl<'de> Visitor<'de> for ItemsVisitor {
    type Value = Vec<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list of at most {} elements", self.len_max)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            if items.len() == self.len_max {
                return Err(serde::de::Error::invalid_length(items.len() + 1, &self));
            }
            items.push(item);
        }
        Ok(items)
    }
}

/// A text by its bytes: what it says beyond Unicode (half of a surrogate pair) makes it unreadable, and nothing else.
#[derive(Debug)]
struct Key<'a>(Cow<'a, [u8]>);

impl Key<'_> {
    fn is(&self, name: &str) -> bool {
        self.0.eq_ignore_ascii_case(name.as_bytes())
    }
}

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;

        impl<'de> Visitor<'de> for Bytes {
            type Value = Key<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text")
            }

            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Owned(bytes.to_owned())))
            }

            fn visit_borrowed_bytes<E>(self, bytes: &'de [u8]) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Borrowed(bytes)))
            }
        }

        deserializer.deserialize_bytes(Bytes)
    }
}

/// A code of the gateway's fixed list: letters, digits and underscores, parted by dots. Free text is none, so
/// that no text of the gateway travels further; nor is what may be a card number.
pub(super) fn fixed_code(text: String) -> Option<String> {
    let is_part = |part: &str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    let fits = text.len() <= 100
        && text.contains('.')
        && text.split('.').all(is_part)
        && !digits::has_long_run(&text);
    fits.then_some(text)
}

/// A text, with a mark where it is none.
fn string(raw: &str) -> Result<String, Unreadable> {
    let Key(bytes) = serde_json::from_str(raw).map_err(|_| Unreadable)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
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
