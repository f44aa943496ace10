//! `checkout dead`: what no service could understand, or must not apply, waits here for a person.
//!
//! One file per verb: [`list`] and [`show`] look, [`redrive`] publishes again, [`discard`] drops, [`log`] tells what was done, and
//! [`advisories`] what the server itself has seen a durable give up on. [`select`] says which letters are meant, [`work`] does
//! something with many of them, [`text`] makes foreign text fit for a terminal. What happens to a letter is in `nats::graveyard`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Subcommand;
use common::settings::read_login;
use nats::graveyard::{Graveyard, GraveyardError, Note, Order};
use nats::{Broker, BrokerError};
use serde::Serialize;

use crate::failure::Failure;
use crate::folder::Folder;
use crate::say;

pub mod advisories;
pub mod discard;
pub mod list;
pub mod log;
pub mod redrive;
pub mod select;
pub mod show;
pub mod text;
pub mod work;

/// How long NATS may take to be reached. A person waits.
pub(crate) const CONNECT: Duration = Duration::from_secs(5);

/// Look after dead letters: events that a service could not understand or must not apply.
///
/// A service never retries such an event for ever and never throws it away: it copies it to the stream DEAD_LETTERS, with the
/// reason, and goes on. Find out why, mend it, then redrive (publish again) or drop.
///
/// It is safe to stop a redrive or a drop at any moment. A letter is deleted only when its event is stored again and what was
/// done is recorded in the stream DEAD_LETTERS_LOG; one that was published but not yet deleted can be redriven again, since
/// the effect of an event happens once, however often it comes.
///
/// Exit codes: 0 when all was done, 1 when something was not, 64 for bad arguments.
#[derive(clap::Args, Debug, Clone)]
#[command(after_long_help = "\
Examples:
  checkout dead list --consumer payment --reason 'too old'
  checkout dead show 17
  checkout dead redrive 17 18 --reason 'fixed in 1.2'
  checkout dead redrive --all --consumer stock --rate 10 --dry-run
  checkout dead drop --all --subject checkout.watermark --reason 'a test sent rubbish'
  checkout dead log")]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug, Clone)]
enum Verb {
    List(list::Args),
    Show(show::Args),
    Redrive(redrive::Args),
    Drop(discard::Args),
    Log(log::Args),
    Advisories(advisories::Args),
}

/// Does what the verb says.
///
/// # Errors
/// When NATS cannot be reached or refuses, or the arguments cannot be.
pub async fn run(args: Args) -> Result<ExitCode, Failure> {
    match args.verb {
        Verb::List(args) => list::run(args).await.map(|()| ExitCode::SUCCESS),
        Verb::Show(args) => show::run(args).await.map(|()| ExitCode::SUCCESS),
        Verb::Redrive(args) => redrive::run(args).await,
        Verb::Drop(args) => discard::run(args).await,
        Verb::Log(args) => log::run(args).await.map(|()| ExitCode::SUCCESS),
        Verb::Advisories(args) => advisories::run(args).await.map(|()| ExitCode::SUCCESS),
    }
}

/// Where the dead letters are.
#[derive(clap::Args, Debug, Clone)]
pub struct Place {
    /// NATS servers, separated by commas [default: those of the platform in --data]; NATS_USER and NATS_PASSWORD or NATS_PASSWORD_FILE say
    /// who one is there
    #[arg(long, value_name = "URL")]
    pub nats: Option<String>,

    /// Folder of the platform [default: checkout in the user's data folder]
    #[arg(long, value_name = "DIR", env = "CHECKOUT_DATA")]
    pub data: Option<PathBuf>,
}

impl Place {
    /// Connects.
    ///
    /// # Errors
    /// When no platform is ready in the folder, or no server answers.
    pub async fn open(self) -> Result<Graveyard, Failure> {
        let urls = match self.nats {
            Some(urls) => match read_login("NATS_USER", "NATS_PASSWORD", "NATS_PASSWORD_FILE") {
                Ok(login) => login.map_or_else(|| urls.clone(), |login| login.in_urls(&urls).to_string()),
                Err(error) => return Err(Failure::usage(error.to_string())),
            },
            None => Folder::at(self.data)?.platform()?.nats,
        };
        let broker = Broker::connect(&urls, "dead", "checkout-dead", CONNECT).await.map_err(|error| match error {
            BrokerError::Address(..) => Failure::usage(error.to_string()),
            _ => Failure::failed(error.to_string()),
        })?;
        Ok(Graveyard::new(broker))
    }
}

/// How much of something is shown, and how.
#[derive(clap::Args, Debug, Clone)]
pub struct Page {
    /// Show at most so many; 0 shows all
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub limit: usize,

    /// Begin with the oldest instead of the newest
    #[arg(long)]
    pub oldest: bool,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

impl Page {
    fn limit(&self) -> usize {
        if self.limit == 0 { usize::MAX } else { self.limit }
    }

    fn order(&self) -> Order {
        if self.oldest { Order::Oldest } else { Order::Newest }
    }

    /// Says on standard error that there may be more, so that what is read from standard output stays what it is.
    fn hint(&self, shown: usize) {
        if shown == self.limit() {
            say::err(&format!("(only {shown} are shown; --limit 0 shows all)"));
        }
    }
}

/// Who types, for the log.
fn note(why: Option<String>) -> Note {
    let user = ["USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok().filter(|user| !user.is_empty()));
    let user = user.unwrap_or_else(|| format!("uid-{}", nix::unistd::getuid()));
    let host = nix::unistd::gethostname().ok().and_then(|host| host.into_string().ok());
    Note { who: format!("{user}@{}", host.as_deref().unwrap_or("unknown")), why: why.unwrap_or_default() }
}

fn failed(error: &GraveyardError) -> Failure {
    Failure::failed(error.to_string())
}

fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    say::out(&serde_json::to_string_pretty(value).map_err(|error| Failure::failed(error.to_string()))?);
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser, Debug)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn parse(line: &str) -> Result<Verb, String> {
        let words = std::iter::once("dead").chain(line.split_whitespace());
        Cli::try_parse_from(words).map(|cli| cli.args.verb).map_err(|error| error.to_string())
    }

    #[test]
    fn letters_are_named_or_all_are_meant_never_both_and_never_neither() {
        for verb in ["redrive", "drop --reason x"] {
            assert!(parse(&format!("{verb} 17 18")).is_ok());
            assert!(parse(&format!("{verb} --all --consumer stock")).is_ok());
            for wrong in ["", "--all 17", "seventeen", "-1", "0", "--consumer stock", "--consumer nobody --all"] {
                assert!(parse(&format!("{verb} {wrong}")).is_err(), "{verb} {wrong}");
            }
        }
    }

    #[test]
    fn a_drop_says_why_and_a_redrive_may() {
        assert!(parse("drop 17").unwrap_err().contains("--reason"));
        assert!(parse("drop 17 --reason ").is_err());
        let Verb::Redrive(plain) = parse("redrive 17").unwrap() else { panic!("not a redrive") };
        assert_eq!((plain.reason, plain.rate, plain.dry_run), (None, 50, false));
        let Verb::Redrive(full) = parse("redrive --all --reason mended --dead-reason old --rate 7 --dry-run").unwrap()
        else {
            panic!("not a redrive")
        };
        assert_eq!((full.reason.as_deref(), full.rate, full.dry_run), (Some("mended"), 7, true));
        assert_eq!(full.which.filter.filter(full.which.dead_reason).reason.as_deref(), Some("old"));
        assert!(parse("redrive 17 --rate 0").is_err());
        let long = "x".repeat(nats::graveyard::MAX_WHY_BYTES + 1);
        assert!(parse(&format!("drop 17 --reason {long}")).unwrap_err().contains("1000 bytes"));
    }

    #[test]
    fn lists_are_short_and_newest_first_unless_told_otherwise() {
        let Verb::List(list) = parse("list").unwrap() else { panic!("not a list") };
        assert_eq!((list.page.limit(), list.page.order()), (50, Order::Newest));
        let Verb::List(list) = parse("list --oldest --limit 0 --reason Schema --subject payment.debited").unwrap()
        else {
            panic!("not a list")
        };
        assert_eq!((list.page.limit(), list.page.order()), (usize::MAX, Order::Oldest));
        let filter = list.filter.filter(list.reason);
        assert_eq!((filter.reason.as_deref(), filter.subject.as_deref()), (Some("Schema"), Some("payment.debited")));
    }

    #[test]
    fn who_acts_has_a_user_and_a_host() {
        let note = note(Some("why".to_owned()));
        let (user, host) = note.who.split_once('@').unwrap();
        assert!(!user.is_empty() && !host.is_empty() && note.why == "why");
    }

    #[tokio::test]
    async fn a_wrong_address_is_a_wrong_argument() {
        let place = Place { nats: Some("nats://[".to_owned()), data: None };
        assert_eq!(place.open().await.unwrap_err().exit_code(), crate::failure::EXIT_USAGE);
    }
}
