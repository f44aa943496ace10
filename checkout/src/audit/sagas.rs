//! All sagas and orders, page by page: what the three databases hold about each of them.

use std::collections::BTreeSet;
use std::time::Instant;

use ::audit::books::{Order, Undo};
use ::audit::saga::{self, Verdict, View, parts};
use ::audit::sums::{self, Totals, at_most};
use ::audit::{Finding, Rule};
use common::event::Kind;
use common::limits::OUTCOME_BUCKET_MS;
use common::redis::survey::{PAGE, Survey, SurveyError};

use super::place::Looked;
use super::records::{self, ORDER, UNDO};
use super::stream::History;
use super::{LOOK_AGAIN, Report, Trouble, of};

/// So many suspects are looked at again, and told; what has more has one thing wrong everywhere.
const MOST_SUSPECTS: usize = 10_000;

/// Something that did not look right at the first look.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Suspect {
    /// A saga.
    Saga(String),
    /// An order.
    Order(String),
}

/// The totals of the order database, with what is listed as open at the same instant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrderTotals {
    pub totals: Totals,
    pub open: u64,
}

/// The order database.
pub struct Orders(Survey);

impl Orders {
    /// At one instant.
    pub async fn totals(&mut self) -> Result<OrderTotals, SurveyError> {
        let (fields, sizes) = self.0.at_once("totals", &["open", "retry_started"]).await?;
        Ok(OrderTotals { totals: records::numbers(&fields), open: sizes.iter().sum() })
    }

    async fn orders(&mut self, ids: &[String]) -> Result<Vec<Option<Order>>, SurveyError> {
        let keys: Vec<String> = ids.iter().map(|id| format!("order:{id}")).collect();
        let fields = self.0.hashes(&keys, ORDER).await?;
        Ok(ids.iter().zip(fields).map(|(id, fields)| records::order(id, &fields)).collect())
    }

    async fn undo(&mut self, sagas: &[String]) -> Result<Vec<Option<(Undo, u64)>>, SurveyError> {
        let keys: Vec<String> = sagas.iter().map(|saga| format!("undo:{saga}")).collect();
        Ok(self.0.hashes(&keys, UNDO).await?.iter().map(|fields| records::undo(fields)).collect())
    }
}

/// The outcome records of payment or stock.
struct Outcomes {
    survey: Survey,
    name: &'static str,
}

impl Outcomes {
    async fn buckets(&mut self) -> Result<Vec<String>, SurveyError> {
        self.survey.members("buckets").await
    }

    /// The records of these sagas, with when they started, where that is known; and whether one that is not there may be forgotten.
    async fn of(&mut self, sagas: &[(String, Option<u64>)]) -> Result<Vec<(Option<String>, bool)>, SurveyError> {
        let bucket = |started: u64| format!("outcomes:{}", started / OUTCOME_BUCKET_MS);
        let home: Vec<(String, String)> =
            sagas.iter().map(|(saga, started)| (bucket(started.unwrap_or(0)), saga.clone())).collect();
        let mut records = self.survey.each_field(&home).await?;
        let missing: Vec<usize> = (0..records.len()).filter(|at| records[*at].is_none()).collect();
        if !missing.is_empty() {
            // It moves to a later bucket when a saga that was forgotten is begun again.
            for bucket in self.buckets().await? {
                let pairs: Vec<_> = missing.iter().map(|at| (bucket.clone(), sagas[*at].0.clone())).collect();
                for page in 0..pairs.len().div_ceil(PAGE) {
                    let range = page * PAGE..pairs.len().min((page + 1) * PAGE);
                    let found = self.survey.each_field(&pairs[range.clone()]).await?;
                    for (at, record) in missing[range].iter().zip(found) {
                        records[*at] = records[*at].take().or(record);
                    }
                }
            }
        }
        // Read last: what it has not passed now, was not forgotten when it was read.
        let watermark = self.survey.strings(&["watermark".to_owned()]).await?;
        let watermark: u64 = watermark.into_iter().flatten().next().and_then(|it| it.parse().ok()).unwrap_or(0);
        let forgettable = |started: Option<u64>| {
            started.is_none_or(|started| (started / OUTCOME_BUCKET_MS + 1) * OUTCOME_BUCKET_MS <= watermark)
        };
        Ok(records.into_iter().zip(sagas).map(|(record, (_, started))| (record, forgettable(*started))).collect())
    }
}

/// The three databases.
pub struct Sagas {
    pub order: Orders,
    payment: Outcomes,
    stock: Outcomes,
}

impl Sagas {
    /// Connects to all three.
    pub async fn open(looked: &Looked) -> Result<Self, Trouble> {
        let (order, payment, stock) = tokio::try_join!(
            open("order", &looked.order),
            open("payment", &looked.payment),
            open("stock", &looked.stock)
        )?;
        Ok(Self {
            order: Orders(order),
            payment: Outcomes { survey: payment, name: "payment" },
            stock: Outcomes { survey: stock, name: "stock" },
        })
    }

    /// All three are still the primaries that they were.
    pub async fn verify(&mut self) -> Result<(), Trouble> {
        self.order.0.verify_primary().await.map_err(of("order"))?;
        self.payment.survey.verify_primary().await.map_err(of("payment"))?;
        self.stock.survey.verify_primary().await.map_err(of("stock"))
    }

    /// Looks at everything once. What may be wrong is to be looked at again.
    pub async fn go_through(&mut self, report: &mut Report) -> Result<BTreeSet<Suspect>, Trouble> {
        let mut suspects = BTreeSet::new();
        let mut cursor = 0;
        let (mut undo, mut orders, mut paid) = (0_u64, BTreeSet::new(), 0_i128);
        loop {
            let (next, keys) = self.order.0.keys("undo:", cursor).await.map_err(of("order"))?;
            let sagas: Vec<String> = keys.iter().map(|key| key["undo:".len()..].to_owned()).collect();
            undo += sagas.len() as u64;
            self.suspect(&sagas, None, &mut suspects).await?;
            cursor = next;
            if cursor == 0 {
                break;
            }
        }
        let payments = self.records_of(true, &mut suspects).await?;
        let reservations = self.records_of(false, &mut suspects).await?;
        loop {
            let (next, keys) = self.order.0.keys("order:", cursor).await.map_err(of("order"))?;
            let ids: Vec<String> = keys.iter().map(|key| key["order:".len()..].to_owned()).collect();
            for (id, is_paid, findings) in self.judge_orders(&ids).await? {
                if !findings.is_empty() && suspects.len() < MOST_SUSPECTS {
                    suspects.insert(Suspect::Order(id.clone()));
                }
                paid += i128::from(orders.insert(id) && is_paid);
            }
            cursor = next;
            if cursor == 0 {
                break;
            }
        }
        let completed = sums::total(&self.order.totals().await.map_err(of("order"))?.totals, "completed");
        report.findings.extend(at_most(Rule::Records, "orders that are paid, by sagas completed", completed, paid));
        let counts = [("undo entries", undo), ("payments", payments), ("reservations", reservations)];
        report.looked_at.extend(counts);
        report.looked_at.insert("orders", orders.len() as u64);
        Ok(suspects)
    }

    /// The records of one service, of which those whose saga has no undo entry are looked at here; the others were with their entries.
    async fn records_of(&mut self, payment: bool, suspects: &mut BTreeSet<Suspect>) -> Result<u64, Trouble> {
        let mut count = 0;
        let outcomes = if payment { &mut self.payment } else { &mut self.stock };
        let name = outcomes.name;
        for bucket in outcomes.buckets().await.map_err(of(name))? {
            let mut cursor = 0;
            loop {
                let outcomes = if payment { &mut self.payment } else { &mut self.stock };
                let (next, records) = outcomes.survey.fields(&bucket, cursor).await.map_err(of(name))?;
                count += records.len() as u64;
                let sagas: Vec<String> = records.into_iter().map(|(saga, _)| saga).collect();
                let undo = self.order.undo(&sagas).await.map_err(of("order"))?;
                let alone: Vec<String> =
                    sagas.into_iter().zip(undo).filter(|(_, undo)| undo.is_none()).map(|(saga, _)| saga).collect();
                self.suspect(&alone, None, suspects).await?;
                cursor = next;
                if cursor == 0 {
                    break;
                }
            }
        }
        Ok(count)
    }

    /// What the stream tells of ended sagas, against the databases, which were read later.
    pub async fn compare(&mut self, history: &History) -> Result<BTreeSet<Suspect>, Trouble> {
        let ended: Vec<String> = history.historian.ended().map(|(saga, _)| saga).collect();
        let mut suspects = BTreeSet::new();
        for page in ended.chunks(PAGE) {
            self.suspect(page, Some(history), &mut suspects).await?;
        }
        Ok(suspects)
    }

    async fn suspect(
        &mut self,
        sagas: &[String],
        history: Option<&History>,
        suspects: &mut BTreeSet<Suspect>,
    ) -> Result<(), Trouble> {
        for (saga, findings) in self.judge(sagas, history).await? {
            if !findings.is_empty() && suspects.len() < MOST_SUSPECTS {
                suspects.insert(Suspect::Saga(saga));
            }
        }
        Ok(())
    }

    /// Looks at the suspects again until none is left or the time is over, and returns what is then still wrong.
    pub async fn settle(
        &mut self,
        mut suspects: BTreeSet<Suspect>,
        history: Option<&History>,
        until: Instant,
    ) -> Result<Vec<Finding>, Trouble> {
        loop {
            let is_last = Instant::now() >= until;
            let (mut findings, mut left) = (Vec::new(), BTreeSet::new());
            let all: Vec<Suspect> = suspects.into_iter().collect();
            for page in all.chunks(PAGE) {
                let saga = |it: &Suspect| if let Suspect::Saga(id) = it { Some(id.clone()) } else { None };
                let order = |it: &Suspect| if let Suspect::Order(id) = it { Some(id.clone()) } else { None };
                let sagas: Vec<String> = page.iter().filter_map(saga).collect();
                let orders: Vec<String> = page.iter().filter_map(order).collect();
                for (saga, found) in self.judge(&sagas, history).await? {
                    if !found.is_empty() {
                        left.insert(Suspect::Saga(saga));
                    }
                    findings.extend(found);
                }
                for (order, _, found) in self.judge_orders(&orders).await? {
                    if !found.is_empty() {
                        left.insert(Suspect::Order(order));
                    }
                    findings.extend(found);
                }
            }
            if is_last || left.is_empty() {
                return Ok(findings);
            }
            suspects = left;
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// What is wrong with these sagas now. Read in the order in which a saga goes, so that a later step is never seen without an
    /// earlier one that is recorded already.
    async fn judge(
        &mut self,
        sagas: &[String],
        history: Option<&History>,
    ) -> Result<Vec<(String, Vec<Finding>)>, Trouble> {
        let undo = self.order.undo(sagas).await.map_err(of("order"))?;
        let ids: Vec<String> =
            sagas.iter().map(|saga| parts(saga).map(|(order, ..)| order).unwrap_or_default().to_owned()).collect();
        let orders = self.order.orders(&ids).await.map_err(of("order"))?;
        let started: Vec<_> =
            sagas.iter().cloned().zip(undo.iter().map(|undo| undo.as_ref().map(|(_, started)| *started))).collect();
        let payments = self.payment.of(&started).await.map_err(of("payment"))?;
        let stocks = self.stock.of(&started).await.map_err(of("stock"))?;
        let mut judged = Vec::with_capacity(sagas.len());
        for (at, saga) in sagas.iter().enumerate() {
            let undo = undo[at].as_ref().map(|(undo, _)| undo);
            let verdict = saga::verdict(saga, orders[at].as_ref());
            let view = View {
                saga,
                undo,
                verdict,
                payment: payments[at].0.as_deref(),
                payment_may_be_forgotten: payments[at].1,
                stock: stocks[at].0.as_deref(),
                stock_may_be_forgotten: stocks[at].1,
            };
            let mut findings = saga::check(&view);
            findings.extend(history.and_then(|history| told_otherwise(saga, undo, verdict, history)));
            judged.push((saga.clone(), findings));
        }
        Ok(judged)
    }

    /// What is wrong with these orders now, and which of them are paid.
    async fn judge_orders(&mut self, ids: &[String]) -> Result<Vec<(String, bool, Vec<Finding>)>, Trouble> {
        let orders = self.order.orders(ids).await.map_err(of("order"))?;
        let sagas: Vec<String> =
            orders.iter().map(|order| order.as_ref().map(|it| it.current_saga.clone()).unwrap_or_default()).collect();
        let undo = self.order.undo(&sagas).await.map_err(of("order"))?;
        let mut judged = Vec::with_capacity(ids.len());
        for ((id, order), undo) in ids.iter().zip(&orders).zip(&undo) {
            let Some(order) = order else { continue };
            let undo = undo.as_ref().map(|(undo, _)| undo);
            judged.push((id.clone(), order.paid, saga::check_order(id, order, undo, true)));
        }
        Ok(judged)
    }
}

async fn open(name: &'static str, url: &str) -> Result<Survey, Trouble> {
    Survey::open(url).await.map_err(of(name))
}

/// The end that the stream tells, against the one that the order database holds. Both may have been forgotten.
fn told_otherwise(saga: &str, undo: Option<&Undo>, verdict: Verdict, history: &History) -> Option<Finding> {
    let told = [(Kind::CheckoutCompleted, "completed"), (Kind::CheckoutFailed, "failed")];
    let (_, told) = told.into_iter().find(|(kind, _)| history.historian.has(saga, *kind) == Some(true))?;
    let held = match (undo.map(|undo| undo.state.as_str()), verdict) {
        (Some(state), _) => state,
        (None, Verdict::Completed) => "completed",
        (None, Verdict::Failed) => "failed",
        (None, Verdict::Open) => "not ended",
        (None, Verdict::Unknown) => return None,
    };
    let about = format!("saga {saga}");
    (held != told).then(|| Finding::new(Rule::Stream, about, format!("{told}, as the stream tells"), held.to_owned()))
}
