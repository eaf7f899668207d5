//! The rooms of `src/` import what the tables below allow, and no two files import each other.
//!
//! The code's own `use` lines and the paths in it are read, those in macros too; a name is followed to the file that defines it.
//! Tests may import anything.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use syn::visit::{self, Visit};
use syn::{Attribute, Item, UseTree};

/// What each room may import of the others: a room, or a module of it. A room that is not named imports nothing.
const ROOMS: &[(&str, &[&str])] = &[
    ("admission", &["amqp::intake", "clock", "config", "domain", "telemetry"]),
    (
        "amqp",
        &[
            "clock",
            "config",
            "domain::intent",
            "domain::retry",
            "management",
            "telemetry",
            "wire::envelope",
            "wire::origin",
        ],
    ),
    ("cli", &["amqp", "clock", "config", "domain", "gateway", "management", "telemetry", "wire", "worker"]),
    ("clock", &["domain::retry"]),
    ("config", &["domain"]),
    ("gateway", &["config", "domain", "web"]),
    ("management", &["config", "web"]),
    ("memory", &["domain", "wire"]),
    ("telemetry", &["clock", "config", "domain::fault", "domain::history", "wire::envelope"]),
    ("web", &["domain::fault"]),
    ("wire", &["domain"]),
    ("worker", &["admission", "amqp", "clock", "config", "domain", "gateway", "memory", "telemetry", "wire"]),
];

/// Where each crate that we depend on is at home.
const HOMES: &[(&str, &[&str])] = &[
    ("async-rs", &["amqp"]),
    ("backoff", &["domain::retry"]),
    ("bytes", &["amqp", "cli", "memory", "wire"]),
    ("clap", &["cli"]),
    ("comfy-table", &["cli"]),
    ("flate2", &["gateway"]),
    ("futures-io", &["amqp"]),
    ("futures-util", &["admission", "amqp", "gateway", "memory", "web", "worker"]),
    ("hyper", &["web"]),
    ("hyper-util", &["gateway", "web"]),
    ("jiff", &["admission", "cli", "clock", "config", "domain", "gateway", "memory", "wire", "worker"]),
    ("lapin", &["amqp"]),
    ("opentelemetry", &["telemetry"]),
    ("opentelemetry_sdk", &["telemetry"]),
    ("paywall-simulator", &["cli"]),
    ("rand", &["cli", "clock"]),
    ("reqwest", &["gateway", "management", "web"]),
    ("rustls", &["amqp", "gateway", "web"]),
    ("secrecy", &["amqp", "cli", "config", "gateway", "management"]),
    ("serde", &["gateway", "management", "wire"]),
    ("serde_json", &["cli", "gateway", "management", "telemetry", "wire"]),
    ("sha2", &["amqp", "memory"]),
    ("strsim", &["config"]),
    ("thiserror", &["amqp", "config", "domain", "gateway", "management", "telemetry", "web"]),
    ("tokio", &["admission", "amqp", "cli", "gateway", "management", "memory", "telemetry", "web", "worker"]),
    ("tokio-util", &["admission", "amqp", "cli", "worker"]),
    ("toml", &["config"]),
    ("tracing", &["telemetry", "worker"]),
    ("tracing-appender", &["telemetry"]),
    ("tracing-opentelemetry", &["telemetry"]),
    ("tracing-subscriber", &["telemetry"]),
    ("url", &["amqp", "config", "gateway", "management"]),
    ("uuid", &["admission", "amqp", "cli", "domain", "gateway", "memory", "wire", "worker"]),
];

/// A module: its file, what it declares, and what it imports by which name.
#[derive(Default)]
struct Module {
    file: String,
    items: BTreeSet<String>,
    uses: BTreeMap<String, Vec<String>>,
    globs: Vec<Vec<String>>,
    paths: BTreeSet<Vec<String>>,
}

/// All modules of the crate, by their paths: `["domain", "plan"]`.
#[derive(Default)]
struct Crate(BTreeMap<Vec<String>, Module>);

impl Crate {
    fn read() -> Crate {
        let mut all = Crate::default();
        all.read_file(&root().join("lib.rs"), &[]);
        all
    }

    fn read_file(&mut self, path: &Path, module: &[String]) {
        let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let parsed = syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let file = path.strip_prefix(root()).expect("it is below src").display().to_string();
        let is_root_of_folder =
            matches!(path.file_name().and_then(|name| name.to_str()), Some("mod.rs" | "lib.rs"));
        let folder = path.parent().expect("a file is in a folder");
        let folder = match is_root_of_folder {
            true => folder.to_owned(),
            false => folder.join(path.file_stem().expect("a file has a name")),
        };
        self.read_items(&parsed.items, module, &file, &folder);
    }

    fn read_items(&mut self, items: &[Item], module: &[String], file: &str, folder: &Path) {
        let mut found = Module { file: file.to_owned(), ..Module::default() };
        for item in items.iter().filter(|item| !is_test(attributes(item))) {
            match item {
                Item::Mod(inner) => {
                    let name = inner.ident.to_string();
                    let path = [module, std::slice::from_ref(&name)].concat();
                    match &inner.content {
                        Some((_, items)) => self.read_items(items, &path, file, &folder.join(&name)),
                        None => {
                            let flat = folder.join(format!("{name}.rs"));
                            let nested = folder.join(&name).join("mod.rs");
                            self.read_file(if flat.exists() { &flat } else { &nested }, &path);
                        }
                    }
                }
                Item::Use(item) => found.read_use(&item.tree, &mut Vec::new()),
                other => {
                    found.items.extend(name_of(other));
                    Paths(&mut found.paths).visit_item(other);
                }
            }
        }
        self.0.insert(module.to_vec(), found);
    }

    /// The module that defines what this path names, seen from a module; `None`: it is not ours.
    fn resolve(&self, from: &[String], path: &[String], depth: usize) -> Option<&Vec<String>> {
        // A re-export of a re-export of a glob is as deep as it gets.
        if depth > 16 {
            return None;
        }
        let (first, rest) = path.split_first()?;
        let here = self.0.get_key_value(from)?;
        match first.as_str() {
            "crate" => return self.resolve_in(&[], rest, depth),
            "self" => return self.resolve_in(from, rest, depth),
            "super" => return self.resolve_in(from.split_last()?.1, rest, depth),
            _name => {}
        }
        if self.0.contains_key(&child(from, first)) || here.1.items.contains(first) {
            return self.resolve_in(from, path, depth);
        }
        let imported = here.1.uses.get(first)?;
        let whole: Vec<String> = imported.iter().chain(rest).cloned().collect();
        // `use lapin;` names itself.
        (whole != path).then(|| self.resolve(from, &whole, depth + 1)).flatten()
    }

    fn resolve_in(&self, module: &[String], path: &[String], depth: usize) -> Option<&Vec<String>> {
        let (key, here) = self.0.get_key_value(module)?;
        let Some((first, rest)) = path.split_first() else { return Some(key) };
        if first == "super" {
            return self.resolve_in(module.split_last()?.1, rest, depth);
        }
        let inner = child(module, first);
        if self.0.contains_key(&inner) {
            return self.resolve_in(&inner, rest, depth);
        }
        if here.items.contains(first) {
            return Some(key);
        }
        if let Some(imported) = here.uses.get(first) {
            let whole: Vec<String> = imported.iter().chain(rest).cloned().collect();
            return self.resolve(module, &whole, depth + 1);
        }
        let globs = here.globs.iter().filter_map(|glob| {
            let whole: Vec<String> = glob.iter().chain(path).cloned().collect();
            self.resolve(module, &whole, depth + 1)
        });
        globs.into_iter().next()
    }

    /// Every import of a module that is not its own, with the path as it is written.
    fn imports(&self) -> impl Iterator<Item = (&Vec<String>, &Vec<String>, &Vec<String>)> {
        self.0.iter().flat_map(move |(from, module)| {
            let paths = module.uses.values().chain(&module.globs).chain(&module.paths);
            paths.filter_map(move |path| Some((from, self.resolve(from, path, 0)?, path)))
        })
    }

    /// Every outside crate that a module imports.
    fn outside(&self) -> impl Iterator<Item = (&Vec<String>, &String)> {
        self.0.iter().flat_map(move |(from, module)| {
            let paths = module.uses.values().chain(&module.globs).chain(&module.paths);
            let outside = paths.filter(move |path| self.resolve(from, path, 0).is_none());
            outside.filter_map(move |path| Some((from, path.first()?)))
        })
    }
}

impl Module {
    fn read_use(&mut self, tree: &UseTree, prefix: &mut Vec<String>) {
        match tree {
            UseTree::Path(path) => {
                prefix.push(path.ident.to_string());
                self.read_use(&path.tree, prefix);
                prefix.pop();
            }
            UseTree::Name(name) if name.ident == "self" => {
                let name = prefix.last().expect("`self` stands behind something").clone();
                self.uses.insert(name, prefix.clone());
            }
            UseTree::Name(name) => {
                let name = name.ident.to_string();
                self.uses.insert(name.clone(), [&prefix[..], &[name]].concat());
            }
            UseTree::Rename(rename) => {
                let name = rename.ident.to_string();
                let path = if name == "self" { prefix.clone() } else { [&prefix[..], &[name]].concat() };
                self.uses.insert(rename.rename.to_string(), path);
            }
            UseTree::Glob(_) => self.globs.push(prefix.clone()),
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.read_use(tree, prefix)),
        }
    }
}

/// Collects the paths of more than one segment.
struct Paths<'a>(&'a mut BTreeSet<Vec<String>>);

impl<'ast> Visit<'ast> for Paths<'_> {
    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        if segments.len() > 1 {
            self.0.insert(segments);
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, item: &'ast syn::Macro) {
        self.read_tokens(item.tokens.clone());
        visit::visit_macro(self, item);
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        // Inside a function.
        let mut inner = Module::default();
        inner.read_use(&item.tree, &mut Vec::new());
        self.0.extend(inner.uses.into_values().chain(inner.globs));
    }
}

impl Paths<'_> {
    fn read_tokens(&mut self, tokens: proc_macro2::TokenStream) {
        use proc_macro2::TokenTree;
        let mut path: Vec<String> = Vec::new();
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Ident(ident) if colons == 2 || path.is_empty() => {
                    path.push(ident.to_string());
                    colons = 0;
                    continue;
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' && !path.is_empty() => {
                    colons += 1;
                    continue;
                }
                TokenTree::Ident(ident) => {
                    self.keep(std::mem::replace(&mut path, vec![ident.to_string()]));
                    colons = 0;
                    continue;
                }
                TokenTree::Group(group) => self.read_tokens(group.stream()),
                TokenTree::Punct(_) | TokenTree::Literal(_) => {}
            }
            self.keep(std::mem::take(&mut path));
            colons = 0;
        }
        self.keep(path);
    }

    fn keep(&mut self, path: Vec<String>) {
        if path.len() > 1 {
            self.0.insert(path);
        }
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn child(module: &[String], name: &str) -> Vec<String> {
    [module, &[name.to_owned()]].concat()
}

fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        syn::Meta::List(list) if list.path.is_ident("cfg") => {
            list.tokens.clone().into_iter().any(|token| token.to_string() == "test")
        }
        _other => attribute.path().is_ident("test"),
    })
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _other => &[],
    }
}

fn name_of(item: &Item) -> Option<String> {
    Some(match item {
        Item::Const(item) => item.ident.to_string(),
        Item::Enum(item) => item.ident.to_string(),
        Item::Fn(item) => item.sig.ident.to_string(),
        Item::Macro(item) => item.ident.as_ref()?.to_string(),
        Item::Static(item) => item.ident.to_string(),
        Item::Struct(item) => item.ident.to_string(),
        Item::Trait(item) => item.ident.to_string(),
        Item::Type(item) => item.ident.to_string(),
        _other => return None,
    })
}

/// Whether a module is one of these, or within one of them.
fn is_within(module: &[String], allowed: &[&str]) -> bool {
    let path = module.join("::");
    allowed.iter().any(|allowed| path == *allowed || path.starts_with(&format!("{allowed}::")))
}

#[test]
fn every_room_imports_only_what_the_table_allows() {
    let all = Crate::read();
    let mut broken = BTreeSet::new();
    for (from, to, path) in all.imports() {
        let (Some(room), Some(other)) = (from.first(), to.first()) else { continue };
        let allowed = ROOMS.iter().find(|(name, _)| name == room).map(|(_, allowed)| *allowed);
        if room != other && !is_within(to, allowed.unwrap_or_default()) {
            broken.insert(format!(
                "{room}: {} ({} imports {})",
                to.join("::"),
                all.0[from].file,
                path.join("::")
            ));
        }
    }
    assert!(broken.is_empty(), "not in the table:\n{}", broken.into_iter().collect::<Vec<_>>().join("\n"));
}

#[test]
fn every_outside_crate_is_used_only_where_it_is_at_home() {
    let all = Crate::read();
    let homes: BTreeMap<String, &[&str]> =
        HOMES.iter().map(|(name, homes)| (name.replace('-', "_"), *homes)).collect();
    let mut broken = BTreeSet::new();
    for (from, name) in all.outside() {
        if homes.get(name).is_some_and(|homes| !is_within(from, homes)) {
            broken.insert(format!("{name} in {}", all.0[from].file));
        }
    }
    assert!(broken.is_empty(), "not at home:\n{}", broken.into_iter().collect::<Vec<_>>().join("\n"));
}

#[test]
fn every_crate_that_we_depend_on_has_a_home() {
    let manifest =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")).expect("it is there");
    let dependencies =
        manifest.split("\n[").find_map(|part| part.strip_prefix("dependencies]")).expect("some");
    let names =
        dependencies.lines().filter_map(|line| line.split_once(['=', '.'])).map(|(name, _)| name.trim());
    let names: BTreeSet<&str> = names.filter(|name| !name.starts_with('#') && !name.contains(' ')).collect();
    let homes: BTreeSet<&str> = HOMES.iter().map(|(name, _)| *name).collect();
    assert_eq!(homes, names);
}

/// At every level: what a module's children import of each other, each with all that is beneath it, goes one way.
#[test]
fn no_two_files_import_each_other() {
    let all = Crate::read();
    let mut edges: BTreeMap<&[String], BTreeMap<&str, BTreeSet<&str>>> = BTreeMap::new();
    let mut shown: BTreeMap<(String, String), String> = BTreeMap::new();
    for (from, to, path) in all.imports() {
        let common = from.iter().zip(to).take_while(|(one, other)| one == other).count();
        let (Some(one), Some(other)) = (from.get(common), to.get(common)) else { continue };
        edges.entry(&from[..common]).or_default().entry(one).or_default().insert(other);
        let key = (from[..=common].join("::"), to[..=common].join("::"));
        shown.entry(key).or_insert_with(|| format!("{} imports {}", all.0[from].file, path.join("::")));
    }
    let mut cycles = Vec::new();
    for (parent, graph) in &edges {
        for start in graph.keys() {
            if let Some(cycle) = path_back(graph, start) {
                let parent = parent.join("::");
                cycles.push(format!("{parent}: {}", cycle.join(" -> ")));
            }
        }
    }
    let details: Vec<String> = shown.values().cloned().collect();
    assert!(cycles.is_empty(), "cycles:\n{}\n\n{}", cycles.join("\n"), details.join("\n"));
}

/// The shortest way from a node back to itself.
fn path_back<'a>(graph: &BTreeMap<&'a str, BTreeSet<&'a str>>, start: &'a str) -> Option<Vec<&'a str>> {
    let mut ways: Vec<Vec<&str>> = vec![vec![start]];
    let mut seen = BTreeSet::new();
    while !ways.is_empty() {
        let mut next = Vec::new();
        for way in ways {
            for to in graph.get(way.last()?).into_iter().flatten() {
                let longer: Vec<&str> = way.iter().copied().chain([*to]).collect();
                if *to == start {
                    return Some(longer);
                }
                if seen.insert(*to) {
                    next.push(longer);
                }
            }
        }
        ways = next;
    }
    None
}

/// A file that is longer holds more than one thing. Its tests, which stand at its end, are not counted.
#[test]
fn no_file_is_longer_than_500_lines() {
    const LINES_MAX: usize = 500;
    let all = Crate::read();
    let files: BTreeSet<&String> = all.0.values().map(|module| &module.file).collect();
    let long = files.into_iter().filter_map(|file| {
        let text = fs::read_to_string(root().join(file)).expect("it was read before");
        let lines = text.lines().take_while(|line| !line.starts_with("#[cfg(test)]")).count();
        (lines > LINES_MAX).then(|| format!("{file}: {lines}"))
    });
    assert_eq!(long.collect::<Vec<_>>(), [""; 0]);
}
