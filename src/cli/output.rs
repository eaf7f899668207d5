//! Standard output, for results; and that somebody may have stopped reading it.

use std::fmt;
use std::io::{self, Write as _};

use super::Failure;

/// One line on standard output, as `println!` writes it. Where nobody reads any more the command ends, quietly.
macro_rules! say {
    ($($line:tt)*) => {
        $crate::cli::output::line(format_args!($($line)*))?
    };
}
pub(super) use say;

pub(super) fn line(line: fmt::Arguments<'_>) -> Result<(), Failure> {
    match writeln!(io::stdout(), "{line}") {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Failure::nobody_reads()),
        Err(error) => Err(Failure::unwritten(&error)),
    }
}

/// One line on standard error. If nobody reads that, nobody can be told.
pub(super) fn remark(line: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "{line}");
}
