//! stub
use crate::failure::Failure;
/// stub
#[derive(clap::Args, Debug, Clone)]
pub struct Args {}
/// stub
pub async fn run(_args: Args) -> Result<(), Failure> { Ok(()) }
