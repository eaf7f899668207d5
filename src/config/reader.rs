//! The file and, over it, the environment: which key has which value, and what is wrong with it.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use secrecy::SecretString;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::mistakes::{Invalid, Location, Mistake, Mistakes};
use super::secrets::SecretFile;
use super::values::{self, Value};
use crate::domain::intent::{Api, Kind, MerchantName};

/// Every key that there is. `<kind>`, `<api>` and `<name>` (of a merchant) stand for any of theirs.
pub(super) const KEYS: &[&str] = &[
    "worker.source",
    "worker.name",
    "amqp.url",
    "amqp.url_file",
    "amqp.management_url",
    "amqp.management_url_file",
    "amqp.prefix",
    "amqp.declare",
    "amqp.tls.ca_file",
    "amqp.tls.client_cert_file",
    "amqp.tls.client_key_file",
    "lanes.kinds",
    "lanes.prefetch",
    "lanes.<kind>.prefetch",
    "gateway.physical_url",
    "gateway.private_url",
    "gateway.payment_url",
    "gateway.connect_timeout",
    "gateway.call_timeout",
    "gateway.allow_http",
    "gateway.trace_headers",
    "gateway.tls.ca_file",
    "gateway.<api>.concurrency",
    "gateway.<api>.rate",
    "merchants.<name>.private_key",
    "merchants.<name>.private_key_file",
    "merchants.<name>.private_client",
    "merchants.<name>.private_client_file",
    "merchants.<name>.public_key",
    "merchants.<name>.public_key_file",
    "merchants.<name>.public_client",
    "merchants.<name>.public_client_file",
    "retry.delays",
    "retry.attempts_max",
    "retry.age_max",
    "retry.retry_after_max",
    "inquiry.quiet",
    "inquiry.asks_max",
    "inquiry.age_max",
    "inquiry.after_success",
    "rollback.wait",
    "same_day.zone",
    "same_day.enforce",
    "batch.callback_url",
    "classification.rules",
    "admin.listen",
    "telemetry.otlp_endpoint",
    "telemetry.sample_ratio",
    "telemetry.log",
    "telemetry.level",
    "shutdown.grace",
];

/// What the names of our variables begin with.
const VARIABLE_PREFIX: &str = "CANCEL_WORKER__";

/// The variable that names the file.
const FILE_VARIABLE: &str = "CANCEL_WORKER_CONFIG";

const FILE_BYTES_MAX: usize = 256 * 1024;
const SECRET_BYTES_MAX: usize = 64 * 1024;

/// After so many mistakes nobody is told what a key was probably meant to be: looking takes time.
const HINTS_MAX: usize = 100;

type KeyPath = Vec<String>;

struct Given {
    value: Value,
    place: Location,
}

/// All that was given. A value that was read is gone from it; a mistake is kept, and reading goes on.
pub(super) struct Reader {
    given: BTreeMap<KeyPath, Given>,
    /// Tables of the file that hold nothing: `[merchants.default]`, say, its keys coming from the
    /// environment.
    empty_tables: BTreeMap<KeyPath, Location>,
    merchants: BTreeSet<MerchantName>,
    secret_files: Vec<SecretFile>,
    mistakes: Vec<Mistake>,
}

impl Reader {
    /// Reads file and environment. The file is the one named here, else the one that the environment names,
    /// else none. What cannot be read at all ends it here, together with what is wrong in the environment.
    pub(super) fn open<K, V>(
        file: Option<&Path>,
        env: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Reader, Mistakes>
    where
        K: Into<OsString>,
        V: Into<OsString>,
    {
        let env: Vec<(OsString, OsString)> =
            env.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
        let mut reader = Reader {
            given: BTreeMap::new(),
            empty_tables: BTreeMap::new(),
            merchants: BTreeSet::new(),
            secret_files: Vec::new(),
            mistakes: Vec::new(),
        };
        let named = env.iter().find(|(name, value)| name == FILE_VARIABLE && !value.is_empty());
        let file: Option<(&str, PathBuf)> = match (file, named) {
            (Some(file), _) => Some(("--config", file.to_owned())),
            (None, Some((_, file))) => Some((FILE_VARIABLE, PathBuf::from(file))),
            (None, None) => None,
        };
        if let Some((key, file)) = file {
            reader.lay_file(key, &file);
        }
        let file_is_sound = reader.mistakes.is_empty();
        reader.lay_env(env);
        reader.check_names();
        if file_is_sound {
            return Ok(reader);
        }
        // What is missing cannot be told while the file cannot be read.
        Mistakes::try_new(std::mem::take(&mut reader.mistakes)).map_or(Ok(reader), Err)
    }

    fn lay_file(&mut self, key: &str, file: &Path) {
        let remedy = "name a TOML file that this process may read";
        let text = match read_bounded(file, FILE_BYTES_MAX) {
            Ok(text) => text,
            Err(unreadable) => {
                return self.report(
                    key.to_owned(),
                    None,
                    Invalid::new(unreadable.wrong("names a file"), remedy),
                );
            }
        };
        let (table, errors) = DeTable::parse_recoverable(&text);
        for error in &errors {
            // The parser's own message prints the offending line, and a line may hold a secret.
            let (line, column) = line_and_column(&text, error.span().map_or(0, |span| span.start));
            let fault = Invalid::new(
                "is not TOML",
                "fix the syntax there; quotes and brackets are the usual suspects",
            );
            self.report("the file".to_owned(), Some(Location::LineAndColumn(line, column)), fault);
        }
        if errors.is_empty() {
            self.lay_table(&mut Vec::new(), table, &text);
        }
    }

    fn lay_table(&mut self, path: &mut KeyPath, table: Spanned<DeTable<'_>>, text: &str) {
        let table_line = line_and_column(text, table.span().start).0;
        let table = table.into_inner();
        if table.is_empty() && !path.is_empty() {
            self.empty_tables.insert(path.clone(), Location::Line(table_line));
        }
        for (key, value) in table {
            let line = line_and_column(text, key.span().start).0;
            path.push(key.into_inner().into_owned());
            let span = value.span();
            match value.into_inner() {
                DeValue::Table(inner) => self.lay_table(path, Spanned::new(span, inner), text),
                other => {
                    let value = Value::from_toml(other);
                    self.given.insert(path.clone(), Given { value, place: Location::Line(line) });
                }
            }
            path.pop();
        }
    }

    fn lay_env(&mut self, env: Vec<(OsString, OsString)>) {
        let mut seen: BTreeSet<KeyPath> = BTreeSet::new();
        for (name, value) in env {
            let name = name.to_string_lossy();
            let Some(path) = name.strip_prefix(VARIABLE_PREFIX) else {
                self.suspect_single_underscores(&name);
                continue;
            };
            let path: KeyPath = path.split("__").map(str::to_ascii_lowercase).collect();
            if !seen.insert(path.clone()) {
                let fault =
                    Invalid::new("is given twice, in upper and in lower case", "remove one of the variables");
                self.report(shown(&path), Some(Location::Environment), fault);
            } else if let Ok(value) = value.into_string() {
                self.given.insert(path, Given { value: Value::Plain(value), place: Location::Environment });
            } else {
                let fault = Invalid::new("is not UTF-8 text", "write it in UTF-8");
                self.report(shown(&path), Some(Location::Environment), fault);
                self.given.remove(&path);
            }
        }
    }

    /// `CANCEL_WORKER_AMQP_URL` looks right and would do nothing. Other variables of that beginning are not
    /// ours to judge: Kubernetes makes some for each service.
    fn suspect_single_underscores(&mut self, name: &str) {
        let Some(rest) = name.strip_prefix("CANCEL_WORKER_") else { return };
        let rest = rest.to_ascii_lowercase();
        if let Some(key) = KEYS.iter().find(|key| !key.contains('<') && key.replace('.', "_") == rest) {
            let remedy = format!("call it {VARIABLE_PREFIX}{}", key.replace('.', "__").to_ascii_uppercase());
            let fault = Invalid::new("is given by a variable that nobody reads", remedy);
            self.report((*key).to_owned(), Some(Location::Environment), fault);
        }
    }

    /// Takes out what is no key of ours, and notes the merchants.
    fn check_names(&mut self) {
        let unknown: Vec<KeyPath> = self.given.keys().filter(|path| !is_known(path)).cloned().collect();
        for path in unknown {
            if let Some(Given { place, .. }) = self.given.remove(&path) {
                let fault = self.unknown_key(&path);
                self.report(shown(&path), Some(place), fault);
            }
        }
        let tables: Vec<KeyPath> = self.empty_tables.keys().cloned().collect();
        for path in tables {
            if !is_known_table(&path)
                && let Some(place) = self.empty_tables.remove(&path)
            {
                let fault = self.unknown_key(&path);
                self.report(shown(&path), Some(place), fault);
            }
        }
        let named = self.given.keys().chain(self.empty_tables.keys());
        self.merchants = named
            .filter(|path| path.len() >= 2 && path[0] == "merchants")
            .filter_map(|path| MerchantName::parse(&path[1]))
            .collect();
    }

    /// Says that nothing has this name, and what was probably meant.
    fn unknown_key(&self, path: &[String]) -> Invalid {
        if path[0] == "merchants" && path.get(1).is_some_and(|name| MerchantName::parse(name).is_none()) {
            return Invalid::new("is no merchant's name", "write 1 to 64 of a-z 0-9 _ -");
        }
        if is_known_table(path) {
            return Invalid::new(
                "is a table, and has a value here",
                "give its keys their values, one by one",
            );
        }
        let nearest = if self.mistakes.len() < HINTS_MAX { nearest_key(path) } else { None };
        match nearest {
            Some(key) => Invalid::new("is not known", format!("did you mean {key}?")),
            None => Invalid::new("is not known", "remove it; the example file lists every key"),
        }
    }

    /// The merchants that were named, with or without keys.
    pub(super) fn merchants(&self) -> Vec<MerchantName> {
        self.merchants.iter().cloned().collect()
    }

    /// Notes a mistake.
    pub(super) fn report(&mut self, key: String, place: Option<Location>, fault: Invalid) {
        self.mistakes.push(Mistake { key, place, wrong: fault.wrong, remedy: fault.remedy });
    }

    /// Notes that a key is missing, and why it is needed.
    pub(super) fn report_missing(&mut self, key: &str, why: &str) {
        let variable = key.replace('.', "__").to_ascii_uppercase();
        let wrong = format!("is missing; {why}");
        let by_variable = key.split('.').all(|part| !part.contains('-'));
        let remedy = match (is_secret(key), by_variable) {
            (true, true) => format!("give it, or {key}_file, in the file or as {VARIABLE_PREFIX}{variable}"),
            (true, false) => format!("give it, or {key}_file, in the file"),
            (false, _) => format!("give it in the file or as {VARIABLE_PREFIX}{variable}"),
        };
        self.report(key.to_owned(), None, Invalid::new(wrong, remedy));
    }

    /// Whether no mistake was noted so far about this key (or an item of it, or its file).
    pub(super) fn is_sound(&self, key: &str) -> bool {
        !self.mistakes.iter().any(|mistake| {
            mistake
                .key
                .strip_prefix(key)
                .is_some_and(|rest| rest.is_empty() || rest == "_file" || rest.starts_with('['))
        })
    }

    /// Whether any mistake was noted so far below this table.
    pub(super) fn has_mistakes_in(&self, table: &str) -> bool {
        self.mistakes.iter().any(|mistake| mistake.key.starts_with(table))
    }

    fn take(&mut self, key: &str) -> Option<Given> {
        let path: KeyPath = key.split('.').map(str::to_owned).collect();
        debug_assert!(is_known(&path), "{key} is not in KEYS");
        self.given.remove(&path)
    }

    /// The value of `key`; `None` if it was not given, or is a mistake, which is noted.
    pub(super) fn optional<T>(
        &mut self,
        key: &str,
        read: impl FnOnce(Value) -> Result<T, Invalid>,
    ) -> Option<T> {
        let Given { value, place } = self.take(key)?;
        read(value).map_err(|fault| self.report(key.to_owned(), Some(place), fault)).ok()
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
        let items = items.map_err(|fault| self.report(key.to_owned(), Some(place), fault)).ok()?;
        let len = items.len();
        let mut read_items = Vec::new();
        for (index, item) in items.into_iter().enumerate() {
            match read(item) {
                Ok(item) => read_items.push(item),
                // What is alone may have been written without brackets.
                Err(fault) if len == 1 => self.report(key.to_owned(), Some(place), fault),
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
        let items = match values::list(value) {
            Ok(items) => items,
            Err(fault) => {
                self.report(key.to_owned(), Some(place), fault);
                return Vec::new();
            }
        };
        let mut read_items = Vec::new();
        for (index, item) in items.into_iter().enumerate() {
            let key = format!("{key}[{index}]");
            if let Value::Table(table) = item {
                read_items.extend(read(&mut TableReader { key, place, table, mistakes: &mut self.mistakes }));
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
        match read(value) {
            Ok(secret) => Some(SecretString::from(secret)),
            Err(fault) => {
                self.report(key, Some(place), fault);
                None
            }
        }
    }

    /// The broker's addresses, which are secrets.
    pub(super) fn addresses(
        &mut self,
        key: &str,
        read: impl Fn(Value) -> Result<String, Invalid>,
    ) -> Option<Vec<SecretString>> {
        let (key, Given { value, place }) = self.take_secret(key)?;
        let addresses = self.read_items(&key, place, values::addresses(value), read)?;
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
        match content {
            Ok(secret) => Some((file_key, Given { value: Value::Plain(secret), place })),
            Err(fault) => {
                self.report(file_key, Some(place), fault);
                None
            }
        }
    }

    /// The files that secrets were read from so far.
    pub(super) fn secret_files(&mut self) -> Vec<SecretFile> {
        std::mem::take(&mut self.secret_files)
    }

    /// A file that is read later, but that can be read now.
    pub(super) fn readable_file(&mut self, key: &str) -> Option<PathBuf> {
        self.optional(key, |value| {
            let file = PathBuf::from(values::text(value)?);
            // A directory can be opened, but not read.
            let read = File::open(&file).and_then(|mut file| file.read(&mut [0]));
            match read.map_err(|error| Unreadable::Io(error.kind())) {
                Ok(_) => Ok(file),
                Err(unreadable) => Err(Invalid::new(
                    unreadable.wrong("names a file"),
                    "name a file that this process may read",
                )),
            }
        })
    }

    /// The end of reading only what begins with one of these; what is wrong with other keys that there are, is another
    /// command's affair.
    pub(super) fn finish_part<T>(self, ours: &[&str], config: T) -> Result<T, Mistakes> {
        let tables: BTreeSet<&str> = KEYS.iter().filter_map(|key| key.split('.').next()).collect();
        let is_anothers = |mistake: &Mistake| {
            let table = mistake.key.split('.').next().unwrap_or_default();
            tables.contains(table) && !ours.iter().any(|key| mistake.key.starts_with(key))
        };
        let mistakes = self.mistakes.into_iter().filter(|mistake| !is_anothers(mistake)).collect();
        Mistakes::try_new(mistakes).map_or(Ok(config), Err)
    }

    /// The configuration, if nothing was wrong.
    pub(super) fn finish<T>(self, config: T) -> Result<T, Mistakes> {
        debug_assert!(self.given.is_empty(), "a known key was not read: {:?}", self.given.keys());
        Mistakes::try_new(self.mistakes).map_or(Ok(config), Err)
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
        let Invalid { wrong, remedy } = fault;
        self.mistakes.push(Mistake { key, place: Some(self.place), wrong, remedy });
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
            let nearest = fields.iter().map(|field| (distance(&other, field), *field)).min();
            let remedy = match nearest {
                Some((steps, field)) if steps <= 3 => format!("did you mean {field}?"),
                _ => format!("remove it; there are {}", fields.join(", ")),
            };
            self.report(&shown_part(&other), Invalid::new("is not known", remedy));
        }
    }
}

/// Why a file's text cannot be read.
enum Unreadable {
    Io(io::ErrorKind),
    TooLong { bytes_max: usize },
    NotText,
}

impl Unreadable {
    fn wrong(&self, names_a_file: &str) -> String {
        match self {
            Unreadable::Io(kind) => format!("{names_a_file} that cannot be read ({kind})"),
            Unreadable::TooLong { bytes_max } => format!("{names_a_file} of more than {bytes_max} bytes"),
            Unreadable::NotText => format!("{names_a_file} that is not UTF-8 text"),
        }
    }
}

/// The secret that a file holds: all of it, without one line break at its end.
pub(super) fn secret_in(file: &Path) -> Result<String, Invalid> {
    let remedy = "name a file that this process may read and that holds nothing but the secret";
    let text = read_bounded(file, SECRET_BYTES_MAX)
        .map_err(|unreadable| Invalid::new(unreadable.wrong("names a file"), remedy))?;
    Ok(without_line_break(text))
}

fn read_bounded(file: &Path, bytes_max: usize) -> Result<String, Unreadable> {
    let read = || -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(file)?.take(bytes_max as u64 + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().map_err(|error| Unreadable::Io(error.kind()))?;
    if bytes.len() > bytes_max {
        return Err(Unreadable::TooLong { bytes_max });
    }
    String::from_utf8(bytes).map_err(|_| Unreadable::NotText)
}

fn without_line_break(mut text: String) -> String {
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    text
}

fn line_and_column(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

fn is_secret(key: &str) -> bool {
    let path: KeyPath = format!("{key}_file").split('.').map(str::to_owned).collect();
    is_known(&path)
}

fn fits(pattern: &str, part: &str) -> bool {
    match pattern {
        "<kind>" => Kind::parse(part).is_some(),
        "<api>" => Api::parse(part).is_some(),
        "<name>" => MerchantName::parse(part).is_some(),
        literal => literal == part,
    }
}

/// Whether one of [`KEYS`] is this path.
pub(super) fn is_known(path: &[String]) -> bool {
    KEYS.iter().any(|key| key.split('.').count() == path.len() && key_begins_with(key, path))
}

fn is_known_table(path: &[String]) -> bool {
    KEYS.iter().any(|key| key.split('.').count() > path.len() && key_begins_with(key, path))
}

fn key_begins_with(key: &str, path: &[String]) -> bool {
    key.split('.').zip(path).all(|(pattern, part)| fits(pattern, part))
}

/// A path for people's eyes. A part that does not look like a name may be a secret that slipped, and is not
/// shown.
fn shown(path: &[String]) -> String {
    let merchant = |index: usize| index == 1 && path[0] == "merchants";
    path.iter()
        .enumerate()
        .map(|(index, part)| {
            if merchant(index) && MerchantName::parse(part).is_some() {
                part.clone()
            } else {
                shown_part(part)
            }
        })
        .collect::<Vec<_>>()
        .join(".")
}

fn shown_part(part: &str) -> String {
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
    let steps_to = |key: &str| -> Option<usize> {
        let parts: Vec<&str> = key.split('.').collect();
        let steps = || parts.iter().zip(path).map(|(meant, written)| distance(written, meant)).sum();
        (parts.len() == path.len()).then(steps)
    };
    let nearest = keys.iter().filter_map(|key| Some((steps_to(key)?, key))).min();
    if let Some((steps, key)) = nearest
        && steps <= 3
    {
        return Some(key.clone());
    }
    // The right key in the wrong table.
    let last = path.last()?;
    keys.iter().find(|key| key.rsplit('.').next() == Some(last)).cloned()
}

/// How many single letters must be changed, added or removed to get from one to the other.
fn distance(from: &str, to: &str) -> usize {
    let (from, to): (Vec<char>, Vec<char>) =
        (from.chars().take(64).flat_map(char::to_lowercase).collect(), to.chars().take(64).collect());
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in to.iter().enumerate() {
            let substituted = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[to.len()]
}
