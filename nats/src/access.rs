//! Who may say and hear what: one NATS user per service, with only the subjects that it needs; one who makes the topology; and one who
//! looks. [`authorization`] writes it as a part of the server's configuration.
//!
//! No service may change a stream, or create a consumer: a subject transform, or a consumer that delivers to a subject, would have the
//! server say in another's name what the service may not say itself. So only `admin` does (`checkout topology`), and the services
//! verify ([`crate::topology::Limits::creates`]).
//!
//! nats-server looks at the subject that somebody publishes to, and not at the one where they want the answer: that it publishes to
//! with rights of its own. So no service may ask for what is answered with words of its own choice. What is left to ask for is answered
//! in the API's words, which nobody takes for an event, or with an event of somebody else's from the asker's own durable, which nobody takes
//! for another one than it was (`message.rs`). What one can still do so is to have the server purge the stream or move its leader, which
//! the platform bears.

use std::fmt::Write as _;

use crate::topology::{AUDITOR, CHANNELS, CHECKOUT, Durable, PRICES_SUBJECT, STREAMS, Service};

/// A user of the NATS server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum User {
    /// May do everything: makes the topology, handles dead letters.
    Admin,
    /// A service.
    Service(Service),
    /// Hears all events through a durable of its own, and says nothing.
    Auditor,
    /// Looks at everything, and says nothing itself.
    Observer,
}

/// What a user may do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Permissions {
    /// Subjects that it may publish to.
    pub publish: Vec<String>,
    /// Subjects among those that it may not publish to all the same.
    pub never_publish: Vec<String>,
    /// Subjects that it may subscribe to.
    pub subscribe: Vec<String>,
    /// Whether it may answer each request that it was sent, once.
    pub answers: bool,
}

impl Service {
    /// All services.
    pub const ALL: [Self; 3] = [Self::Order, Self::Payment, Self::Stock];

    /// The service's name, which is that of its durable and of its user.
    pub const fn name(self) -> &'static str {
        self.durable().name()
    }

    const fn durable(self) -> Durable {
        match self {
            Self::Order => Durable::Order,
            Self::Payment => Durable::Payment,
            Self::Stock => Durable::Stock,
        }
    }
}

impl User {
    /// All users.
    pub const ALL: [Self; 6] = [
        Self::Admin,
        Self::Service(Service::Order),
        Self::Service(Service::Payment),
        Self::Service(Service::Stock),
        Self::Auditor,
        Self::Observer,
    ];

    /// The user's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Service(service) => service.name(),
            Self::Auditor => AUDITOR,
            Self::Observer => "observer",
        }
    }

    /// What the user may do; nothing stands for everything.
    pub fn permissions(self) -> Option<Permissions> {
        match self {
            Self::Admin => None,
            Self::Service(service) => Some(of_service(service)),
            Self::Auditor => Some(of_auditor()),
            Self::Observer => Some(of_observer()),
        }
    }
}

/// The beginning of all inboxes of a service: others may neither listen there nor, but for answers, say anything.
pub(crate) fn inbox_prefix(service: &str) -> String {
    format!("_INBOX.{service}")
}

fn of_service(service: Service) -> Permissions {
    let name = service.name();
    let inboxes = format!("{}.>", inbox_prefix(name));
    let own = CHANNELS.iter().filter(|channel| channel.published_by == service);
    let mut publish: Vec<String> = own.map(|channel| channel.subject.to_owned()).collect();
    publish.push(service.durable().dead_letter_subject().to_owned());
    publish.extend(STREAMS.iter().map(|stream| format!("$JS.API.STREAM.INFO.{stream}")));
    publish.push(format!("$JS.API.CONSUMER.INFO.{CHECKOUT}.*"));
    publish.extend(to_pull(name));
    // What it has published itself, should its database have lost it.
    publish.push(to_read());
    // Its own, to hear its echo; those of its other instances, to tell them of ends.
    publish.push(inboxes.clone());
    let mut subscribe = vec![inboxes];
    match service {
        Service::Order => publish.push(PRICES_SUBJECT.to_owned()),
        // A micro service: `nats micro ls` asks at `$SRV`.
        Service::Stock => subscribe.extend([PRICES_SUBJECT.to_owned(), "$SRV.>".to_owned()]),
        Service::Payment => {}
    }
    Permissions { publish, never_publish: Vec::new(), subscribe, answers: service == Service::Stock }
}

/// Pulling and acknowledging as a durable.
fn to_pull(durable: &str) -> [String; 2] {
    [format!("$JS.API.CONSUMER.MSG.NEXT.{CHECKOUT}.{durable}"), format!("$JS.ACK.{CHECKOUT}.{durable}.>")]
}

/// Reading the stream without a consumer, and not by direct gets either ([`crate::direct`]).
fn to_read() -> String {
    format!("$JS.API.STREAM.MSG.GET.{CHECKOUT}")
}

/// Its own durable, and what it has heard before.
fn of_auditor() -> Permissions {
    let inboxes = format!("{}.>", inbox_prefix(AUDITOR));
    let mut publish =
        vec![format!("$JS.API.STREAM.INFO.{CHECKOUT}"), format!("$JS.API.CONSUMER.INFO.{CHECKOUT}.{AUDITOR}")];
    publish.extend(to_pull(AUDITOR));
    publish.push(to_read());
    // To hear its echo.
    publish.push(inboxes.clone());
    Permissions { publish, subscribe: vec![inboxes], ..Permissions::default() }
}

/// What `nats stream`, `nats consumer`, `nats sub` and `nats micro` need to show things. To view a stream is to create a consumer, so whoever
/// has this password must be trusted more than a service need be; the durables of the services and the auditor it cannot touch.
fn of_observer() -> Permissions {
    let publish = [
        "$JS.API.INFO",
        "$JS.API.STREAM.NAMES",
        "$JS.API.STREAM.LIST",
        "$JS.API.STREAM.INFO.*",
        "$JS.API.STREAM.MSG.GET.*",
        "$JS.API.DIRECT.GET.>",
        "$JS.API.CONSUMER.NAMES.*",
        "$JS.API.CONSUMER.LIST.*",
        "$JS.API.CONSUMER.INFO.*.*",
        "$JS.API.CONSUMER.CREATE.>",
        "$JS.API.CONSUMER.MSG.NEXT.*.*",
        "$JS.API.CONSUMER.DELETE.*.*",
        "$JS.ACK.>",
        "$SRV.>",
    ];
    let durables = Durable::ALL.iter().map(|durable| durable.name()).chain([AUDITOR]);
    let never = durables.flat_map(|durable| {
        let subjects = ["CONSUMER.CREATE", "CONSUMER.MSG.NEXT", "CONSUMER.DELETE"];
        let api = subjects.into_iter().flat_map(move |verb| {
            let subject = format!("$JS.API.{verb}.{CHECKOUT}.{durable}");
            [format!("{subject}.>"), subject]
        });
        api.chain([format!("$JS.ACK.{CHECKOUT}.{durable}.>")])
    });
    Permissions {
        publish: publish.map(str::to_owned).to_vec(),
        never_publish: never.collect(),
        subscribe: vec![">".to_owned()],
        answers: false,
    }
}

/// The `authorization` block of nats-server's configuration. `password` gives each user's: a quoted text, or `$VARIABLE`.
pub fn authorization(mut password: impl FnMut(User) -> String) -> String {
    let list = |subjects: &[String]| {
        let lines: String = subjects.iter().map(|subject| format!("            \"{subject}\"\n")).collect();
        format!("[\n{lines}          ]")
    };
    let mut text = String::from("authorization {\n  users: [\n");
    for user in User::ALL {
        // Writing to a String cannot fail.
        let _ = write!(text, "    {{\n      user: {}\n      password: {}\n", user.name(), password(user));
        if let Some(Permissions { publish, never_publish, subscribe, answers }) = user.permissions() {
            let never = if never_publish.is_empty() {
                String::new()
            } else {
                format!("          deny: {}\n", list(&never_publish))
            };
            let answers = if answers { "        allow_responses: {max: 1, expires: \"10s\"}\n" } else { "" };
            let _ = write!(
                text,
                "      permissions: {{\n        publish: {{\n          allow: {}\n{never}        }}\n        subscribe: {{\n          allow: {}\n        }}\n{answers}      }}\n",
                list(&publish),
                list(&subscribe)
            );
        }
        text.push_str("    }\n");
    }
    text.push_str("  ]\n}\n");
    text
}
