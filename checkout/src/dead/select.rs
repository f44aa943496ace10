//! Which dead letters are meant.

use nats::graveyard::{Filter, Graveyard, Letter, MAX_WHY_BYTES, Order};
use nats::topology::Durable;

use super::failed;
use crate::failure::Failure;

/// What letters must be like.
#[derive(clap::Args, Debug, Clone)]
pub struct FilterArgs {
    /// Only those that this durable gave up on: order, payment or stock
    #[arg(long, value_name = "NAME", value_parser = durable)]
    pub consumer: Option<Durable>,

    /// Only those published at this subject, such as payment.debited
    #[arg(long)]
    pub subject: Option<String>,
}

impl FilterArgs {
    /// With what the reason of death must contain.
    #[must_use]
    pub fn filter(self, reason: Option<String>) -> Filter {
        Filter { consumer: self.consumer, subject: self.subject, reason }
    }
}

/// The letters that something is done with.
#[derive(clap::Args, Debug, Clone)]
pub struct Which {
    /// Numbers of dead letters, as `checkout dead list` shows them
    #[arg(value_name = "SEQ", required_unless_present = "all", value_parser = clap::value_parser!(u64).range(1..))]
    pub sequences: Vec<u64>,

    /// All there are when the command begins, or those that the filters leave
    #[arg(long, conflicts_with = "sequences")]
    pub all: bool,

    /// Filters
    #[command(flatten)]
    pub filter: FilterArgs,

    /// Only those whose reason of death contains this text, in whatever case
    #[arg(long, value_name = "TEXT")]
    pub dead_reason: Option<String>,
}

/// What is meant, found.
pub struct Selection {
    /// The letters, oldest first; without their payloads where they were not named.
    pub letters: Vec<Letter>,
    /// Why some that were named are not among them.
    pub missing: Vec<String>,
}

impl Which {
    /// Finds them.
    ///
    /// # Errors
    /// When filters stand beside numbers, or NATS does not answer.
    pub async fn find(self, graveyard: &Graveyard) -> Result<Selection, Failure> {
        let filter = self.filter.filter(self.dead_reason);
        if self.all {
            let found = graveyard.letters(&filter, Order::Oldest, usize::MAX).await;
            return Ok(Selection { letters: found.map_err(|error| failed(&error))?, missing: Vec::new() });
        }
        check_named(&filter)?;
        let mut selection = Selection { letters: Vec::new(), missing: Vec::new() };
        let mut sequences = self.sequences;
        sequences.sort_unstable();
        sequences.dedup();
        for sequence in sequences {
            match graveyard.letter(sequence).await {
                Ok(letter) => selection.letters.push(letter),
                Err(error @ nats::graveyard::GraveyardError::NoLetter(_)) => selection.missing.push(error.to_string()),
                Err(error) => return Err(failed(&error)),
            }
        }
        Ok(selection)
    }
}

/// A filter beside numbers would look as if it narrowed them.
fn check_named(filter: &Filter) -> Result<(), Failure> {
    if *filter == Filter::default() {
        return Ok(());
    }
    Err(Failure::usage("filters choose among all letters: give --all with them, or numbers without them"))
}

fn durable(name: &str) -> Result<Durable, String> {
    let all: Vec<_> = Durable::ALL.iter().map(|durable| durable.name()).collect();
    Durable::named(name).ok_or_else(|| format!("one of {}", all.join(", ")))
}

/// A reason that the log can keep.
///
/// # Errors
/// When it is empty or too long.
pub fn why(text: &str) -> Result<String, String> {
    if text.trim().is_empty() {
        return Err("say why: the log keeps it for those who ask later".to_owned());
    }
    if text.len() > MAX_WHY_BYTES {
        return Err(format!("at most {MAX_WHY_BYTES} bytes"));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_beside_numbers_are_refused() {
        assert!(check_named(&Filter::default()).is_ok());
        let narrow = Filter { reason: Some("old".to_owned()), ..Filter::default() };
        assert!(check_named(&narrow).is_err_and(|failure| failure.to_string().contains("--all")));
    }
}
