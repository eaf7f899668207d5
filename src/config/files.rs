//! Files that the configuration names.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use super::mistakes::Invalid;
use super::values::{self, Value};

/// A file that is read later, but that can be read now.
pub(super) fn readable(value: Value) -> Result<PathBuf, Invalid> {
    let file = PathBuf::from(values::text(value)?);
    // A directory can be opened, but not read.
    match File::open(&file).and_then(|mut file| file.read(&mut [0])) {
        Ok(_) => Ok(file),
        Err(error) => Err(unreadable(&error, "name a file that this process may read")),
    }
}

/// All of a file.
pub(super) fn read_text(file: &Path, bytes_max: usize, remedy: &str) -> Result<String, Invalid> {
    let mut bytes = Vec::new();
    File::open(file)
        .and_then(|file| file.take(bytes_max as u64 + 1).read_to_end(&mut bytes))
        .map_err(|error| unreadable(&error, remedy))?;
    if bytes.len() > bytes_max {
        return Err(Invalid::new(format!("names a file of more than {bytes_max} bytes"), remedy));
    }
    String::from_utf8(bytes).map_err(|_| Invalid::new("names a file that is not UTF-8 text", remedy))
}

fn unreadable(error: &io::Error, remedy: &str) -> Invalid {
    Invalid::new(format!("names a file that cannot be read ({})", error.kind()), remedy)
}
