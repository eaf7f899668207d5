//! Takes the values out of their source, key by key, and notes what is wrong with them.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use secrecy::SecretString;

use super::addresses;
use super::hints::{shown_part, unknown_field};
use super::keys::{KEYS, is_known, is_secret, path_of, variable};
use super::mistakes::{Invalid, Location, Mistake, Mistakes};
use super::secrets::{SecretFile, secret_in};
use super::source::{Given, Source};
use super::values::{self, Value};
use crate::domain::intent::MerchantName;

/// All that was given. A value that was read is gone from it; a mistake is kept, and reading goes on.
pub(super) struct Reader {
    source: Source,
    secret_files: Vec<SecretFile>,
}

impl Reader {
    /// Reads file and environment; see [`Source::read`].
    pub(super) fn open(
        file: Option<&Path>,
        env: impl IntoIterator<Item = (impl Into<OsString>, impl Into<OsString>)>,
    ) -> Result<Reader, Mistakes> {
        Ok(Reader { source: Source::read(file, env)?, secret_files: Vec::new() })
    }

    /// The merchants that are named, with or without keys, as long as none of their keys was read.
    pub(super) fn merchants(&self) -> BTreeSet<MerchantName> {
        self.source.merchants()
    }

    /// Notes a mistake.
    pub(super) fn report(&mut self, key: impl Into<String>, place: Option<Location>, fault: Invalid) {
        self.source.report(key, place, fault);
    }

    /// Notes that a key is missing, and why it is needed; unless a mistake about it was noted before.
    pub(super) fn report_missing(&mut self, key: &str, why: &str) {
        if !self.is_sound(key) {
            return;
        }
        let variable = variable(key);
        let by_variable = key.split('.').all(|part| !part.contains('-'));
        let remedy = match (is_secret(key), by_variable) {
            (true, true) => format!("give it, or {key}_file, in the file or as {variable}"),
            (true, false) => format!("give it, or {key}_file, in the file"),
            (false, _) => format!("give it in the file or as {variable}"),
        };
        self.report(key, None, Invalid::new(format!("is missing; {why}"), remedy));
    }

    /// Whether no mistake was noted so far about this key (or an item of it, or its file).
    pub(super) fn is_sound(&self, key: &str) -> bool {
        !self.source.mistakes.iter().any(|mistake| {
            mistake
                .key
                .strip_prefix(key)
                .is_some_and(|rest| rest.is_empty() || rest == "_file" || rest.starts_with('['))
        })
    }

    /// Whether any mistake was noted so far below this table.
    pub(super) fn has_mistakes_in(&self, table: &str) -> bool {
        self.source.mistakes.iter().any(|mistake| mistake.key.starts_with(table))
    }

    fn take(&mut self, key: &str) -> Option<Given> {
        let path = path_of(key);
        debug_assert!(is_known(&path), "{key} is not in KEYS");
        self.source.given.remove(&path)
    }

    /// The value of `key`; `None` if it was not given, or is a mistake, which is noted.
    pub(super) fn optional<T>(
        &mut self,
        key: &str,
        read: impl FnOnce(Value) -> Result<T, Invalid>,
    ) -> Option<T> {
        let Given { value, place } = self.take(key)?;
        read(value).map_err(|fault| self.report(key, Some(place), fault)).ok()
    }

    /// The value of `key`, or its default, which also stands in for a mistake so that reading can go on.
    pub(super) fn or<T>(
        &mut self,
        key: &str,
        default: T,
        read: impl FnOnce(Value) -> Result<T, Invalid>,
    ) -> T {
        self.optional(key, read).unwrap_or(default)
    }

    /// The items of the list at `key`: those without mistakes. `None` if it was not given or is no list.
    pub(super) fn items<T>(
        &mut self,
        key: &str,
        read: impl Fn(Value) -> Result<T, Invalid>,
    ) -> Option<Vec<T>> {
        let Given { value, place } = self.take(key)?;
        self.read_items(key, place, values::list(value), read)
    }

    fn read_items<T>(
        &mut self,
        key: &str,
        place: Location,
        items: Result<Vec<Value>, Invalid>,
        read: impl Fn(Value) -> Result<T, Invalid>,
    ) -> Option<Vec<T>> {
        let items = items.map_err(|fault| self.report(key, Some(place), fault)).ok()?;
        let len = items.len();
        let mut read_items = Vec::new();
        for (index, item) in items.into_iter().enumerate() {
            match read(item) {
                Ok(item) => read_items.push(item),
                // A single item may have been written without brackets.
                Err(fault) if len == 1 => self.report(key, Some(place), fault),
                Err(fault) => self.report(format!("{key}[{index}]"), Some(place), fault),
            }
        }
        Some(read_items)
    }

    /// The tables of the list at `key`, each to be read by [`TableReader`].
    pub(super) fn tables<T>(
        &mut self,
        key: &str,
        mut read: impl FnMut(&mut TableReader<'_>) -> Option<T>,
    ) -> Vec<T> {
        let Some(Given { value, place }) = self.take(key) else { return Vec::new() };
        let items = values::list(value).map_err(|fault| self.report(key, Some(place), fault));
        let mut read_items = Vec::new();
        for (index, item) in items.unwrap_or_default().into_iter().enumerate() {
            let key = format!("{key}[{index}]");
            if let Value::Table(table) = item {
                let mistakes = &mut self.source.mistakes;
                read_items.extend(read(&mut TableReader { key, place, table, mistakes }));
            } else {
                let remedy = "write tables in braces, in brackets: [{ api = \"physical\", … }]";
                self.report(key, Some(place), Invalid::new("is no table", remedy));
            }
        }
        read_items
    }

    /// A secret, or what the file that `<key>_file` names holds, without one line break at its end.
    pub(super) fn secret(
        &mut self,
        key: &str,
        read: impl FnOnce(Value) -> Result<String, Invalid>,
    ) -> Option<SecretString> {
        let (key, Given { value, place }) = self.take_secret(key)?;
        read(value).map(SecretString::from).map_err(|fault| self.report(key, Some(place), fault)).ok()
    }

    /// The broker's addresses, which are secrets.
    pub(super) fn addresses(
        &mut self,
        key: &str,
        read: impl Fn(Value) -> Result<String, Invalid>,
    ) -> Option<Vec<SecretString>> {
        let (key, Given { value, place }) = self.take_secret(key)?;
        let addresses = self.read_items(&key, place, addresses::split(value), read)?;
        if addresses.is_empty() && self.is_sound(&key) {
            self.report(key, Some(place), Invalid::new("is empty", "write at least one address"));
        }
        Some(addresses.into_iter().map(SecretString::from).collect())
    }

    /// The secret's value and the key that gave it.
    fn take_secret(&mut self, key: &str) -> Option<(String, Given)> {
        let file_key = format!("{key}_file");
        let (direct, file) = (self.take(key), self.take(&file_key));
        let Some(Given { value, place }) = file else {
            return direct.map(|given| (key.to_owned(), given));
        };
        if direct.is_some() {
            let fault = Invalid::new(format!("is given, and {key} too"), "remove one of the two");
            self.report(file_key, Some(place), fault);
            return None;
        }
        let content = values::text(value).and_then(|file| {
            let file = PathBuf::from(file);
            let secret = secret_in(&file)?;
            self.secret_files.push(SecretFile { key: file_key.clone(), file });
            Ok(secret)
        });
        let value =
            content.map(Value::Plain).map_err(|fault| self.report(&file_key, Some(place), fault)).ok()?;
        Some((file_key, Given { value, place }))
    }

    /// The files that secrets were read from so far.
    pub(super) fn secret_files(&mut self) -> Vec<SecretFile> {
        std::mem::take(&mut self.secret_files)
    }

    /// Ends the reading of keys that begin with one of these. Mistakes in other known keys are left to other commands.
    pub(super) fn finish_part<T>(self, ours: &[&str], config: T) -> Result<T, Mistakes> {
        let tables: BTreeSet<&str> = KEYS.iter().filter_map(|key| key.split('.').next()).collect();
        let is_anothers = |mistake: &Mistake| {
            let table = mistake.key.split('.').next().unwrap_or_default();
            tables.contains(table) && !ours.iter().any(|key| mistake.key.starts_with(key))
        };
        let mistakes = self.source.mistakes.into_iter().filter(|mistake| !is_anothers(mistake)).collect();
        Mistakes::try_new(mistakes).map_or(Ok(config), Err)
    }

    /// The configuration, if nothing was wrong.
    pub(super) fn finish<T>(self, config: T) -> Result<T, Mistakes> {
        let given = &self.source.given;
        debug_assert!(given.is_empty(), "a known key was not read: {:?}", given.keys());
        Mistakes::try_new(self.source.mistakes).map_or(Ok(config), Err)
    }
}

/// One table of a list.
pub(super) struct TableReader<'a> {
    key: String,
    place: Location,
    table: BTreeMap<String, Value>,
    mistakes: &'a mut Vec<Mistake>,
}

impl TableReader<'_> {
    /// Notes a mistake about one of its fields, or about all of it if `field` is empty.
    pub(super) fn report(&mut self, field: &str, fault: Invalid) {
        let key = if field.is_empty() { self.key.clone() } else { format!("{}.{field}", self.key) };
        self.mistakes.push(Mistake::new(key, Some(self.place), fault));
    }

    /// Whether this field is there.
    pub(super) fn has(&self, field: &str) -> bool {
        self.table.contains_key(field)
    }

    /// A field that may be left out.
    pub(super) fn optional<T>(
        &mut self,
        field: &str,
        read: impl FnOnce(Value) -> Result<T, Invalid>,
    ) -> Option<T> {
        let value = self.table.remove(field)?;
        read(value).map_err(|fault| self.report(field, fault)).ok()
    }

    /// A field that must be there.
    pub(super) fn required<T>(
        &mut self,
        field: &str,
        read: impl FnOnce(Value) -> Result<T, Invalid>,
    ) -> Option<T> {
        if !self.has(field) {
            self.report(field, Invalid::new("is missing", "add it"));
        }
        self.optional(field, read)
    }

    /// Whatever was not read is a mistake.
    pub(super) fn deny_others(&mut self, fields: &[&str]) {
        for other in std::mem::take(&mut self.table).into_keys() {
            self.report(&shown_part(&other), unknown_field(&other, fields));
        }
    }
}
