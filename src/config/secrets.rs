//! The files that secrets come from: their permissions, and what merchants' key files hold now.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret as _, SecretString};

use super::files::read_text;
use super::mistakes::{Invalid, Mistake};
use super::values::{self, Value};
use super::{KeyPair, Merchant};
use crate::domain::intent::MerchantName;

const BYTES_MAX: usize = 64 * 1024;

/// Both files of a pair are read until two reads in a row agree, at most this often: another process may be writing them.
const READS_MAX: usize = 5;

/// A file that a secret was read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretFile {
    /// The key that names it: `merchants.default.private_key_file`.
    pub key: String,
    /// Where it is.
    pub file: PathBuf,
}

impl SecretFile {
    /// Whether every user of this machine may read it.
    pub fn is_readable_by_all(&self) -> bool {
        const OTHERS_READ: u32 = 0o004;
        fs::metadata(&self.file).is_ok_and(|file| file.permissions().mode() & OTHERS_READ != 0)
    }
}

/// The merchants' keys, with what their files hold now.
#[derive(Debug, Clone)]
pub struct ReadAgain {
    /// All merchants. Where files cannot be used, the pair stays as it was.
    pub merchants: BTreeMap<MerchantName, Merchant>,
    /// The number of pairs that were read from files.
    pub read: usize,
    /// The number of those that differ from before.
    pub changed: usize,
    /// What is wrong with the files that cannot be used.
    pub mistakes: Vec<Mistake>,
}

/// Reads the key files of the merchants again. A pair is taken over as a whole or not at all.
pub fn read_again(merchants: &BTreeMap<MerchantName, Merchant>, files: &[SecretFile]) -> ReadAgain {
    let mut again = ReadAgain { merchants: merchants.clone(), read: 0, changed: 0, mistakes: Vec::new() };
    for (name, merchant) in &mut again.merchants {
        for (pair, name_of_pair) in [(&mut merchant.private, "private"), (&mut merchant.public, "public")] {
            let Some(pair) = pair else { continue };
            let file = |part: &str| {
                let key = format!("merchants.{name}.{name_of_pair}_{part}_file");
                files.iter().find(|file| file.key == key)
            };
            let (key, client) = (file("key"), file("client"));
            if key.is_none() && client.is_none() {
                continue;
            }
            match pair_now(pair, key, client) {
                Ok(now) => {
                    again.read += 1;
                    again.changed += usize::from(!is_same(pair, &now));
                    *pair = now;
                }
                Err(mistake) => again.mistakes.push(mistake),
            }
        }
    }
    again
}

/// The pair as its files hold it now; what comes from no file stays.
fn pair_now(
    before: &KeyPair,
    key: Option<&SecretFile>,
    client: Option<&SecretFile>,
) -> Result<KeyPair, Mistake> {
    let read = || {
        Ok(KeyPair {
            key: key.map_or_else(|| Ok(before.key.clone()), secret_now)?,
            client: client.map_or_else(|| Ok(before.client.clone()), secret_now)?,
        })
    };
    let mut last: KeyPair = read()?;
    for _ in 1..READS_MAX {
        let now = read()?;
        if is_same(&last, &now) {
            return Ok(now);
        }
        last = now;
    }
    let file = key.or(client).map(|file| file.key.clone()).unwrap_or_default();
    let fault = Invalid::new("names a file that changes all the time", "swap it by renaming");
    Err(Mistake::new(file, None, fault))
}

fn secret_now(file: &SecretFile) -> Result<SecretString, Mistake> {
    let secret = secret_in(&file.file).and_then(|secret| values::header_value(Value::Plain(secret)));
    secret.map(SecretString::from).map_err(|fault| Mistake::new(&file.key, None, fault))
}

/// The secret that a file holds: all of it, without one line break at its end.
pub(super) fn secret_in(file: &Path) -> Result<String, Invalid> {
    let remedy = "name a file that this process may read and that holds nothing but the secret";
    let mut secret = read_text(file, BYTES_MAX, remedy)?;
    if secret.ends_with('\n') {
        secret.pop();
        if secret.ends_with('\r') {
            secret.pop();
        }
    }
    Ok(secret)
}

fn is_same(one: &KeyPair, other: &KeyPair) -> bool {
    one.key.expose_secret() == other.key.expose_secret()
        && one.client.expose_secret() == other.client.expose_secret()
}
