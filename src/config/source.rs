//! Where a value comes from: the file and, over it, the environment.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::files::read_text;
use super::hints::{shown, unknown_key};
use super::keys::{KEYS, KeyPath, is_known, is_known_table, path_of_variable, variable};
use super::mistakes::{Invalid, Location, Mistake, Mistakes};
use super::values::Value;
use crate::domain::intent::MerchantName;

/// The variable that names the file.
const FILE_VARIABLE: &str = "CANCEL_WORKER_CONFIG";

const FILE_BYTES_MAX: usize = 256 * 1024;

/// A value as it was given, and where.
pub(super) struct Given {
    pub(super) value: Value,
    pub(super) place: Location,
}

/// All that was given under known names, and the mistakes so far.
#[derive(Default)]
pub(super) struct Source {
    pub(super) given: BTreeMap<KeyPath, Given>,
    /// Tables of the file that hold nothing: `[merchants.default]`, say, its keys coming from the
    /// environment.
    empty_tables: BTreeMap<KeyPath, Location>,
    pub(super) mistakes: Vec<Mistake>,
}

impl Source {
    /// Reads file and environment. The file is the one named here, else the one that the environment names,
    /// else none. What cannot be read at all ends it here, together with what is wrong in the environment.
    pub(super) fn read(
        file: Option<&Path>,
        env: impl IntoIterator<Item = (impl Into<OsString>, impl Into<OsString>)>,
    ) -> Result<Source, Mistakes> {
        let env: Vec<(OsString, OsString)> =
            env.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
        let mut source = Source::default();
        let named = env.iter().find(|(name, value)| name == FILE_VARIABLE && !value.is_empty());
        let file: Option<(&str, PathBuf)> = match (file, named) {
            (Some(file), _) => Some(("--config", file.to_owned())),
            (None, Some((_, file))) => Some((FILE_VARIABLE, PathBuf::from(file))),
            (None, None) => None,
        };
        if let Some((key, file)) = file {
            source.lay_file(key, &file);
        }
        let file_is_sound = source.mistakes.is_empty();
        source.lay_env(env);
        source.check_names();
        if file_is_sound {
            return Ok(source);
        }
        // What is missing cannot be told while the file cannot be read.
        Mistakes::try_new(std::mem::take(&mut source.mistakes)).map_or(Ok(source), Err)
    }

    /// The merchants that are named, with or without keys, as long as none of their keys was taken out.
    pub(super) fn merchants(&self) -> BTreeSet<MerchantName> {
        let named = self.given.keys().chain(self.empty_tables.keys());
        named
            .filter(|path| path.len() >= 2 && path[0] == "merchants")
            .filter_map(|path| MerchantName::parse(&path[1]))
            .collect()
    }

    /// Notes a mistake.
    pub(super) fn report(&mut self, key: impl Into<String>, place: Option<Location>, fault: Invalid) {
        self.mistakes.push(Mistake::new(key, place, fault));
    }

    fn lay_file(&mut self, key: &str, file: &Path) {
        let text = match read_text(file, FILE_BYTES_MAX, "name a TOML file that this process may read") {
            Ok(text) => text,
            Err(fault) => return self.report(key, None, fault),
        };
        let (table, errors) = DeTable::parse_recoverable(&text);
        for error in &errors {
            // The parser's own message prints the offending line, and a line may hold a secret.
            let (line, column) = line_and_column(&text, error.span().map_or(0, |span| span.start));
            let fault = Invalid::new(
                "is not TOML",
                "fix the syntax there; quotes and brackets are the usual suspects",
            );
            self.report("the file", Some(Location::LineAndColumn(line, column)), fault);
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
        let place = Location::Environment;
        for (name, value) in env {
            let name = name.to_string_lossy();
            let Some(path) = path_of_variable(&name) else {
                self.suspect_single_underscores(&name);
                continue;
            };
            if !seen.insert(path.clone()) {
                let fault =
                    Invalid::new("is given twice, in upper and in lower case", "remove one of the variables");
                self.report(shown(&path), Some(place), fault);
            } else if let Ok(value) = value.into_string() {
                self.given.insert(path, Given { value: Value::Plain(value), place });
            } else {
                let fault = Invalid::new("is not UTF-8 text", "write it in UTF-8");
                self.report(shown(&path), Some(place), fault);
                self.given.remove(&path);
            }
        }
    }

    /// `CANCEL_WORKER_AMQP_URL` looks right and would do nothing. Other variables with that prefix are left alone:
    /// Kubernetes sets some for each service.
    fn suspect_single_underscores(&mut self, name: &str) {
        let Some(rest) = name.strip_prefix("CANCEL_WORKER_") else { return };
        let rest = rest.to_ascii_lowercase();
        if let Some(key) = KEYS.iter().find(|key| !key.contains('<') && key.replace('.', "_") == rest) {
            let remedy = format!("call it {}", variable(key));
            let fault = Invalid::new("is given by a variable that nobody reads", remedy);
            self.report(*key, Some(Location::Environment), fault);
        }
    }

    /// Takes out what is no key of ours.
    fn check_names(&mut self) {
        let unknown_keys =
            self.given.extract_if(.., |path, _| !is_known(path)).map(|(path, given)| (path, given.place));
        let unknown_tables = self.empty_tables.extract_if(.., |path, _| !is_known_table(path));
        for (path, place) in unknown_keys.chain(unknown_tables) {
            let fault = unknown_key(&path, self.mistakes.len());
            self.mistakes.push(Mistake::new(shown(&path), Some(place), fault));
        }
    }
}

fn line_and_column(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}
