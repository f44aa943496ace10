//! The sum of all balances of a database, and its totals, at one instant.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use ::audit::sums::Totals;
use ::audit::{Finding, Rule};
use common::redis::survey::{PAGE, Survey, SurveyError};

use super::records::numbers;

/// Looks without holding writes, and then with.
const FREE_LOOKS: u32 = 20;
const HELD_LOOKS: u32 = 20;

/// No more changed keys than these are read while writes are held: some ten milliseconds of the server's time.
const MOST_WHILE_HELD: usize = 5_000;

/// What was read.
#[derive(Debug, Clone, Default)]
pub struct Proof {
    /// Whether sum and totals are of one instant.
    pub is_proven: bool,
    /// How many balances there are.
    pub count: u64,
    /// Their sum.
    pub sum: i128,
    /// The totals.
    pub totals: Totals,
    /// Balances below zero, or that are no numbers.
    pub negative: Vec<Finding>,
}

/// The balances of one database, as far as they are known.
pub struct Balances {
    prefix: &'static str,
    /// The field of a hash, or a string.
    field: Option<&'static str>,
    known: HashMap<Box<str>, i128>,
    /// Keys that may have changed since they were read.
    stale: BTreeSet<String>,
    wrong: BTreeMap<String, Finding>,
}

impl Balances {
    /// Those in keys that begin with `prefix`: strings, or a field of hashes.
    pub fn of(prefix: &'static str, field: Option<&'static str>) -> Self {
        Self { prefix, field, known: HashMap::new(), stale: BTreeSet::new(), wrong: BTreeMap::new() }
    }

    /// Reads all of them, and then what changes, until nothing has changed from before the last look at them until after the totals.
    ///
    /// # Errors
    /// The database does not answer, or changes its primary.
    pub async fn prove(mut self, url: &str, may_hold: bool) -> Result<Proof, SurveyError> {
        let mut survey = Survey::open(url).await?;
        survey.watch(self.prefix).await?;
        'anew: loop {
            self.known.clear();
            self.stale.clear();
            self.wrong.clear();
            if !self.read_all(&mut survey).await? {
                continue 'anew;
            }
            for look in 0..FREE_LOOKS + if may_hold { HELD_LOOKS } else { 0 } {
                self.catch_up(&mut survey).await?;
                let holds = look >= FREE_LOOKS;
                if holds {
                    survey.hold().await?;
                }
                let seen = self.look(&mut survey).await;
                if holds {
                    survey.go_on().await?;
                }
                let Some((totals, is_proven)) = seen? else { continue 'anew };
                if is_proven {
                    survey.verify_primary().await?;
                    return Ok(self.proof(totals, true));
                }
            }
            let (fields, _) = survey.at_once("totals", &[]).await?;
            return Ok(self.proof(numbers(&fields), false));
        }
    }

    fn proof(self, totals: Totals, is_proven: bool) -> Proof {
        Proof {
            is_proven,
            count: self.known.len() as u64,
            sum: self.known.values().sum(),
            totals,
            negative: self.wrong.into_values().collect(),
        }
    }

    /// Reads every balance once. False where the database was emptied meanwhile.
    async fn read_all(&mut self, survey: &mut Survey) -> Result<bool, SurveyError> {
        let mut cursor = 0;
        loop {
            let (next, keys) = survey.keys(self.prefix, cursor).await?;
            self.read(survey, &keys).await?;
            cursor = next;
            if cursor == 0 {
                return self.hear(survey).await;
            }
        }
    }

    /// Reads what has changed, until there is little of it or it does not get less.
    async fn catch_up(&mut self, survey: &mut Survey) -> Result<(), SurveyError> {
        for _ in 0..10 {
            self.hear(survey).await?;
            if self.stale.len() < PAGE {
                break;
            }
            self.read_stale(survey).await?;
        }
        Ok(())
    }

    /// One look: what is stale, then the totals. Proven, if nothing has changed meanwhile. Nothing where the database was emptied.
    async fn look(&mut self, survey: &mut Survey) -> Result<Option<(Totals, bool)>, SurveyError> {
        if !self.hear(survey).await? {
            return Ok(None);
        }
        if self.stale.len() > MOST_WHILE_HELD {
            return Ok(Some((Totals::new(), false)));
        }
        self.read_stale(survey).await?;
        let (fields, _) = survey.at_once("totals", &[]).await?;
        if !self.hear(survey).await? {
            return Ok(None);
        }
        Ok(Some((numbers(&fields), self.stale.is_empty())))
    }

    async fn hear(&mut self, survey: &mut Survey) -> Result<bool, SurveyError> {
        let changed = survey.changed().await?;
        self.stale.extend(changed.keys);
        Ok(!changed.all)
    }

    async fn read_stale(&mut self, survey: &mut Survey) -> Result<(), SurveyError> {
        let stale: Vec<String> = std::mem::take(&mut self.stale).into_iter().collect();
        for page in stale.chunks(PAGE) {
            self.read(survey, page).await?;
        }
        Ok(())
    }

    async fn read(&mut self, survey: &mut Survey, keys: &[String]) -> Result<(), SurveyError> {
        let values = match self.field {
            None => survey.strings(keys).await?,
            Some(field) => {
                let hashes = survey.hashes(keys, &[field]).await?;
                hashes.into_iter().map(|mut fields| fields.pop().flatten()).collect()
            }
        };
        for (key, value) in keys.iter().zip(values) {
            self.wrong.remove(key);
            let Some(text) = value else {
                self.known.remove(key.as_str());
                continue;
            };
            let number = text.parse::<i128>();
            let (rule, expected) = match number {
                Ok(0..) => (None, ""),
                Ok(_) => (Some(Rule::Negative), "at least 0"),
                Err(_) => (Some(Rule::Unreadable), "a whole number"),
            };
            if let Some(rule) = rule {
                let about = key.replacen(':', " ", 1);
                self.wrong.insert(key.clone(), Finding::new(rule, about, expected, format!("{text:?}")));
            }
            self.known.insert(key.as_str().into(), number.unwrap_or(0));
        }
        Ok(())
    }
}
