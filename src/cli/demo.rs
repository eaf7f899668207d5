//! `demo`.
use std::process::ExitCode;
use clap::Args;
use super::Failure;
/// placeholder
#[derive(Debug, Args)]
pub(super) struct Demo {}
impl Demo { pub(super) async fn run(self) -> Result<ExitCode, Failure> { Ok(ExitCode::SUCCESS) } }
