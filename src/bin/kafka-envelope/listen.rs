//! TODO

use crate::connection::Connection;
use crate::failure::Result;
use crate::output::Output;

/// listen
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {}

pub(crate) fn run(_: &Arguments, _: &Connection, _: &Output) -> Result {
    todo!()
}
