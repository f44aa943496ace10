//! What a seed draws before anything happens: settings, which faults there are and how often, and how many steps.

use std::time::Duration;

use order::config::ReconcileSettings;

use super::dice::Dice;

/// Which of the two witnesses of a saga (invariant 5) has to end it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Witness {
    /// Both are there, and either may fail for a while.
    Both,
    /// The stream alone: it loses nothing, and the reconciler does nothing.
    Stream,
    /// The undo log alone: the stream is lost again and again.
    UndoLog,
}

/// How often each fault happens, in a thousand of its occasions.
#[derive(Debug, Clone, Default)]
pub struct Odds {
    /// An instance ends, at whatever point it is.
    pub crash: u64,
    /// An instance ends in the midst of a group of effects, publications or acknowledgements.
    pub crash_within: u64,
    /// An instance stands still and goes on later with what it held.
    pub pause: u64,
    /// All instances of a service are away for long.
    pub outage: u64,
    /// A database's reply is lost, and the call repeated.
    pub reply_lost: u64,
    /// The broker stores a message and its confirmation is lost.
    pub confirmation_lost: u64,
    /// A message that the broker sends reaches nobody.
    pub delivery_lost: u64,
    /// An acknowledgement is lost.
    pub ack_lost: u64,
    /// A direct notification is lost.
    pub notification_lost: u64,
    /// An old message is stored once more, by a publisher that hung.
    pub duplicate: u64,
    /// The stream loses its last messages.
    pub lose_tail: u64,
    /// The stream loses one message.
    pub lose_one: u64,
    /// The stream is purged.
    pub purge: u64,
    /// The stream is deleted.
    pub delete: u64,
    /// The stream cannot be reached for a while.
    pub stream_away: u64,
    /// A database cannot be reached for a while.
    pub database_away: u64,
    /// The order database's clock jumps, as it may at a failover.
    pub clock: u64,
    /// `checkout.started` is not published in time.
    pub not_told: u64,
    /// A replica that lags behind becomes the primary of a database; likewise, how often a replica catches up.
    pub lose_database: u64,
    /// The order database forgets the opening of one saga, and the client asks again at once. Where it happens soon, derived saga ids cover it by themselves; where late, the redo of the start.
    pub undo_lost: u64,
}

/// Faults beside those that every seed may draw.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Extensions {
    /// The order database may forget the opening of a saga. See [`Odds::undo_lost`].
    pub undo_loss: bool,
    /// And it may do so long after the saga was opened, so that the saga which is opened again has its records elsewhere.
    pub late_undo_loss: bool,
}

/// What a seed draws before anything happens.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// Which witness has to end the sagas.
    pub witness: Witness,
    /// Steps with faults.
    pub steps: u64,
    /// How often each fault happens.
    pub odds: Odds,
    /// The reconciler's settings.
    pub settings: ReconcileSettings,
    /// See [`Extensions::late_undo_loss`].
    pub late_undo_loss: bool,
    /// How long a closed undo entry is kept.
    pub retention_s: u64,
    /// When an unacknowledged message is delivered again.
    pub ack_wait_ms: u64,
    /// How long a request waits.
    pub request_limit_ms: u64,
    /// Whether writes wait for the replica before anybody is told of them.
    pub waits: bool,
    /// Whether payment stays away after the faults, until every open saga is past its limit.
    pub payment_stays_away: bool,
    /// Whether orders are created anew under their old ids.
    pub replaces_orders: bool,
}

impl Scenario {
    /// Draws one.
    pub fn draw(dice: &mut Dice, extensions: Extensions) -> Self {
        let witness = dice.one_of(&[Witness::Both, Witness::Both, Witness::Stream, Witness::UndoLog]);
        let ms = Duration::from_millis;
        let margin_ms = dice.one_of(&[0, 1_000, 20_000, 60_000]);
        let settings = ReconcileSettings {
            saga_limit: ms(dice.one_of(&[1_000, 5_000, 30_000])),
            replay_first: ms(dice.one_of(&[100, 500, 2_000])),
            replay_longest: ms(dice.one_of(&[1_000, 10_000])),
            every: ms(dice.one_of(&[50, 500])),
            watermark_every: ms(dice.one_of(&[200, 5_000])),
            watermark_margin: ms(margin_ms),
        };
        let mut odds = Odds::draw(dice);
        odds.undo_lost = if extensions.undo_loss || extensions.late_undo_loss { 300 } else { 0 };
        if odds.undo_lost > 0 {
            odds.lose_database = 0;
        }
        odds.limit_to(witness);
        if odds.lose_database > 0 && margin_ms < 60_000 {
            // A clock that jumps back while the watermark is lost too has new sagas begin behind the watermark that was told. The margin is
            // for that.
            odds.clock = 0;
        }
        let replaces_orders = dice.chance(300);
        if replaces_orders && margin_ms < 20_000 {
            // Or it jumps back between the start of a saga and the replacement of its order.
            odds.clock = 0;
        }
        let retention_s = dice.one_of(&[5, 300]);
        Self {
            witness,
            steps: dice.between(60, 400),
            odds,
            settings,
            late_undo_loss: extensions.late_undo_loss,
            retention_s,
            ack_wait_ms: dice.one_of(&[500, 3_000, 10_000]),
            request_limit_ms: dice.one_of(&[1_000, 10_000]),
            waits: dice.chance(500),
            payment_stays_away: witness != Witness::Stream && dice.chance(150),
            replaces_orders,
        }
    }
}

impl Odds {
    /// Draws which faults there are and how often. Each is left out by half of the seeds: what one fault hides another
    /// seed shows.
    fn draw(dice: &mut Dice) -> Self {
        let mut up_to = |most: u64| if dice.chance(500) { dice.between(1, most) } else { 0 };
        Self {
            crash: up_to(300),
            crash_within: up_to(80),
            pause: up_to(300),
            outage: up_to(100),
            reply_lost: up_to(80),
            confirmation_lost: up_to(80),
            delivery_lost: up_to(80),
            ack_lost: up_to(150),
            notification_lost: up_to(500),
            duplicate: up_to(900),
            lose_tail: up_to(300),
            lose_one: up_to(300),
            purge: up_to(150),
            delete: up_to(150),
            stream_away: up_to(200),
            database_away: up_to(200),
            clock: up_to(300),
            not_told: up_to(100),
            undo_lost: 0,
            lose_database: up_to(300),
        }
    }

    fn limit_to(&mut self, witness: Witness) {
        match witness {
            Witness::Both => {}
            Witness::UndoLog => {
                self.lose_tail = 600;
                self.purge = self.purge.max(200);
                self.delete = self.delete.max(200);
            }
            Witness::Stream => {
                (self.lose_tail, self.lose_one, self.purge, self.delete) = (0, 0, 0, 0);
                // What is not told at first only the reconciler can tell. A lost reply to a begin is such a case; elsewhere
                // the repeat answers what the first would have.
                (self.not_told, self.undo_lost) = (0, 0);
            }
        }
    }
}
