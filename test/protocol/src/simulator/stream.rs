//! A stream as JetStream keeps it: messages with sequence numbers, and durables that deliver each of them until it is
//! acknowledged. It can lose what it has acknowledged.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use common::event::{Event, Poison};
use nats::topology::Durable;

/// A stored message.
#[derive(Debug)]
pub struct Message {
    /// Its subject.
    pub subject: &'static str,
    /// Its body, as it travels.
    pub body: Vec<u8>,
    /// Its `traceparent` header.
    pub trace: Option<String>,
    /// Its `ce-id` header.
    pub id: String,
    takes: [bool; 3],
}

impl Message {
    /// The message of an event.
    ///
    /// # Errors
    /// The event cannot be written.
    pub fn of(event: &Event) -> Result<Self, String> {
        let subject = event.subject();
        let body = event.encode().map_err(|error| error.to_string())?;
        let trace = event.traceparent().map(|trace| trace.as_str().to_owned());
        let mut takes = [false; 3];
        for durable in Durable::ALL {
            takes[place(*durable)] = durable.subjects().any(|known| known == subject);
        }
        Ok(Self { subject, body, trace, id: event.id(), takes })
    }

    /// The event that it carries.
    ///
    /// # Errors
    /// It cannot be understood.
    pub fn event(&self) -> Result<Event, Poison> {
        Event::decode(self.subject, &self.body, self.trace.as_deref())
    }
}

/// Where a durable stands in lists of all three.
pub fn place(durable: Durable) -> usize {
    match durable {
        Durable::Order => 0,
        Durable::Payment => 1,
        Durable::Stock => 2,
    }
}

/// A message on its way to an instance.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// Its number in the stream.
    pub sequence: u64,
    /// The message itself.
    pub message: Rc<Message>,
}

#[derive(Debug, Default)]
struct Consumer {
    /// The first sequence that was never delivered.
    cursor: u64,
    /// Delivered and not acknowledged: sequence → when it is delivered again.
    pending: BTreeMap<u64, u64>,
}

/// The stream.
#[derive(Debug, Default)]
pub struct Stream {
    messages: BTreeMap<u64, Rc<Message>>,
    next: u64,
    consumers: [Consumer; 3],
    /// Everything that was ever stored, also what is lost: any of it may be sent once more by a publisher that hung.
    history: Vec<Rc<Message>>,
    /// Ids by which the planted bug removes duplicates.
    known: Option<BTreeSet<String>>,
}

impl Stream {
    /// An empty one. `removes_duplicates` is what the planted bug needs.
    pub fn new(removes_duplicates: bool) -> Self {
        Self { known: removes_duplicates.then(BTreeSet::new), ..Self::default() }
    }

    /// Stores a message.
    pub fn store(&mut self, message: Rc<Message>) {
        if let Some(known) = &mut self.known {
            // `<saga>/<event>/<round>`: the bug leaves the round out. Other ids are taken as they are.
            let words = message.id.split('/').count();
            let id = message.id.rsplit_once('/').filter(|_| words == 3).map_or(&*message.id, |(rest, _)| rest);
            if !known.insert(id.to_owned()) {
                return;
            }
        }
        self.history.push(message.clone());
        self.messages.insert(self.next, message);
        self.next += 1;
    }

    /// Everything that was ever stored.
    pub fn history(&self) -> &[Rc<Message>] {
        &self.history
    }

    /// Delivers at most `most` messages: first what was not acknowledged in time, then what is new.
    pub fn fetch(&mut self, durable: Durable, most: usize, now_ms: u64, ack_wait_ms: u64) -> Vec<Delivery> {
        let (place, messages) = (place(durable), &self.messages);
        let consumer = &mut self.consumers[place];
        consumer.pending.retain(|sequence, _| messages.contains_key(sequence));
        let again = consumer.pending.iter().filter(|(_, due)| **due <= now_ms).map(|(sequence, _)| *sequence);
        let mut taken: Vec<u64> = again.take(most).collect();
        for (sequence, message) in messages.range(consumer.cursor..) {
            if taken.len() == most {
                break;
            }
            consumer.cursor = sequence + 1;
            if message.takes[place] {
                taken.push(*sequence);
            }
        }
        let deliver = |sequence| {
            consumer.pending.insert(sequence, now_ms + ack_wait_ms);
            Some(Delivery { sequence, message: messages.get(&sequence)?.clone() })
        };
        taken.into_iter().filter_map(deliver).collect()
    }

    /// Takes an acknowledgement. After a loss the sequence may belong to another message by now, as it does in JetStream.
    pub fn ack(&mut self, durable: Durable, sequence: u64) {
        self.consumers[place(durable)].pending.remove(&sequence);
    }

    /// Takes a sign of life: the message is not delivered again for another while.
    pub fn keep_alive(&mut self, durable: Durable, sequence: u64, due_ms: u64) {
        if let Some(due) = self.consumers[place(durable)].pending.get_mut(&sequence) {
            *due = due_ms;
        }
    }

    /// When something is delivered next that was delivered before. Now, where something was not.
    pub fn next_due_ms(&self, now_ms: u64) -> Option<u64> {
        let new = self.consumers.iter().any(|consumer| consumer.cursor < self.next);
        let pending = self.consumers.iter().flat_map(|consumer| {
            consumer.pending.iter().filter(|(sequence, _)| self.messages.contains_key(sequence)).map(|(_, due)| *due)
        });
        new.then_some(now_ms).into_iter().chain(pending).min()
    }

    /// Loses the last messages, as a server may whose machine lost power before it synced. Their sequences are used again.
    pub fn lose_tail(&mut self, count: usize) -> usize {
        let lost: Vec<u64> = self.messages.keys().rev().take(count).copied().collect();
        for sequence in &lost {
            self.messages.remove(sequence);
            self.next = *sequence;
        }
        let next = self.next;
        for consumer in &mut self.consumers {
            consumer.pending.retain(|sequence, _| *sequence < next);
            consumer.cursor = consumer.cursor.min(next);
        }
        lost.len()
    }

    /// Loses one message in the middle, as a damaged block does.
    pub fn lose_one(&mut self, index: usize) -> bool {
        let sequence = self.messages.keys().nth(index).copied();
        sequence.is_some_and(|sequence| self.messages.remove(&sequence).is_some())
    }

    /// What it holds, oldest first.
    pub fn messages(&self) -> impl Iterator<Item = &Message> {
        self.messages.values().map(|message| &**message)
    }

    /// How many messages it holds.
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    /// Loses all messages. The sequences go on.
    pub fn purge(&mut self) {
        self.messages.clear();
        for consumer in &mut self.consumers {
            consumer.pending.clear();
            consumer.cursor = self.next;
        }
    }

    /// Is deleted, with its durables and with what it knew of duplicates, and made anew.
    pub fn delete(&mut self) {
        self.messages.clear();
        self.next = 0;
        self.consumers = Default::default();
        self.known = self.known.as_ref().map(|_| BTreeSet::new());
    }
}
