//! What a name that is unknown was probably meant to be, and how much of it a person is shown.

use super::keys::{KEYS, is_known_table};
use super::mistakes::Invalid;
use crate::domain::intent::{Api, Kind, MerchantName};

/// After this many mistakes no key is searched for: searching takes time.
const HINTS_MAX: usize = 100;

/// A name is compared up to this length, which no key of ours has.
const COMPARED_MAX: usize = 64;

/// What differs by this many letters at most was probably meant.
const LETTERS_MAX: usize = 3;

/// What is wrong with a path that is no key, and which key was probably meant.
pub(super) fn unknown_key(path: &[String], mistakes_before: usize) -> Invalid {
    if path[0] == "merchants" && path.get(1).is_some_and(|name| MerchantName::parse(name).is_none()) {
        return Invalid::new("is no merchant's name", "write 1 to 64 of a-z 0-9 _ -");
    }
    if is_known_table(path) {
        return Invalid::new("is a table, and has a value here", "give its keys their values, one by one");
    }
    let nearest = if mistakes_before < HINTS_MAX { nearest_key(path) } else { None };
    match nearest {
        Some(key) => Invalid::new("is not known", format!("did you mean {key}?")),
        None => Invalid::new("is not known", "remove it; the example file lists every key"),
    }
}

/// The same for a field of a table that has these fields.
pub(super) fn unknown_field(name: &str, fields: &[&str]) -> Invalid {
    let nearest = fields.iter().map(|field| (distance(name, field), field)).min();
    let remedy = match nearest {
        Some((letters, field)) if letters <= LETTERS_MAX => format!("did you mean {field}?"),
        Some(_) | None => format!("remove it; there are {}", fields.join(", ")),
    };
    Invalid::new("is not known", remedy)
}

/// A path as it is shown. A part that does not look like a name may be a misplaced secret and is shown as `?`.
pub(super) fn shown(path: &[String]) -> String {
    let is_merchant =
        |index, part: &str| index == 1 && path[0] == "merchants" && MerchantName::parse(part).is_some();
    path.iter()
        .enumerate()
        .map(|(index, part)| if is_merchant(index, part) { part.clone() } else { shown_part(part) })
        .collect::<Vec<_>>()
        .join(".")
}

pub(super) fn shown_part(part: &str) -> String {
    let looks_like_a_name = (1..=24).contains(&part.len())
        && part.starts_with(|c: char| c.is_ascii_alphabetic())
        && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if looks_like_a_name { part.to_owned() } else { "?".to_owned() }
}

fn nearest_key(path: &[String]) -> Option<String> {
    let names_a_merchant =
        path[0] == "merchants" && path.get(1).is_some_and(|name| MerchantName::parse(name).is_some());
    let merchant = if names_a_merchant { path[1].as_str() } else { "<name>" };
    let keys: Vec<String> = KEYS
        .iter()
        .flat_map(|key| Kind::ALL.map(|kind| key.replace("<kind>", kind.as_str())))
        .flat_map(|key| Api::ALL.map(|api| key.replace("<api>", api.as_str())))
        .map(|key| key.replace("<name>", merchant))
        .collect();
    let letters_to = |key: &str| -> Option<usize> {
        let parts: Vec<&str> = key.split('.').collect();
        let letters = || parts.iter().zip(path).map(|(meant, written)| distance(written, meant)).sum();
        (parts.len() == path.len()).then(letters)
    };
    let nearest = keys.iter().filter_map(|key| Some((letters_to(key)?, key))).min();
    if let Some((letters, key)) = nearest
        && letters <= LETTERS_MAX
    {
        return Some(key.clone());
    }
    // The right key in the wrong table.
    let last = path.last()?;
    keys.iter().find(|key| key.rsplit('.').next() == Some(last)).cloned()
}

/// How many letters must be changed, added or removed; upper case is no difference.
fn distance(written: &str, meant: &str) -> usize {
    let written: String = written.chars().take(COMPARED_MAX).flat_map(char::to_lowercase).collect();
    strsim::levenshtein(&written, meant)
}
