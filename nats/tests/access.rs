//! Every user tries what it may not, against a real server with the users of the platform.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod support;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use async_nats::jetstream::consumer;
use async_nats::jetstream::stream::Config;
use async_nats::{Client, ConnectOptions, Event as ClientEvent, HeaderMap};
use common::event::{Event, Kind};
use common::secret::{Login, Secret};
use futures::StreamExt;
use nats::access::{User, authorization};
use nats::topology::{AUDITOR, CHANNELS, CHECKOUT, DEAD_LETTERS, Durable, Limits, PRICES_SUBJECT, Service};
use nats::{Broker, Verdict, Waits};
use support::{PATIENCE, Seen, Server, connect, count, each, eventually, patient, run, saga, started};
use tokio_util::sync::CancellationToken;

const VERIFYING: fn() -> Limits = || Limits { creates: false, ..Limits::default() };

fn guarded() -> Server {
    Server::start_with(&authorization(|user| format!("\"{}pass\"", user.name())))
}

fn urls(server: &Server, user: User) -> Secret {
    let login = Login { user: user.name().into(), password: Secret::new(format!("{}pass", user.name())) };
    login.in_urls(&server.url())
}

/// A broker that waits for answers as [`Server::broker`] does.
async fn broker(server: &Server, user: User) -> Broker {
    broker_waiting(server, user, Waits { answer: PATIENCE, question: PATIENCE }).await
}

async fn broker_waiting(server: &Server, user: User, waits: Waits) -> Broker {
    let instance = format!("{}-1", user.name());
    Broker::connect_waiting(&urls(server, user), user.name(), &instance, PATIENCE, waits).await.unwrap()
}

/// Somebody who has stolen a user's password, and what the server says to it.
struct Thief {
    user: User,
    client: Client,
    refused: Arc<Mutex<Vec<String>>>,
}

impl Thief {
    async fn of(server: &Server, user: User) -> Self {
        let refused = Arc::new(Mutex::new(Vec::new()));
        let heard = refused.clone();
        let password = format!("{}pass", user.name());
        let options =
            ConnectOptions::with_user_and_password(user.name().to_owned(), password).event_callback(move |event| {
                if let ClientEvent::ServerError(error) = event {
                    heard.lock().unwrap().push(error.to_string().to_lowercase());
                }
                std::future::ready(())
            });
        let client = connect(&server.url(), options).await;
        Self { user, client, refused }
    }

    /// Whether the server lets it publish there. It answers in the order of what it was sent, so after the second subject, which nobody may
    /// use, all is said about the first.
    async fn may_publish(&self, subject: &str) -> bool {
        self.client.publish(subject.to_owned(), "{}".into()).await.unwrap();
        self.is_allowed("publish", subject).await
    }

    async fn may_subscribe(&self, subject: &str) -> bool {
        let _subscriber = self.client.subscribe(subject.to_owned()).await.unwrap();
        self.is_allowed("subscription", subject).await
    }

    async fn is_allowed(&self, what: &str, subject: &str) -> bool {
        let marker = format!("forbidden.{}", self.refused.lock().unwrap().len());
        self.client.publish(marker.clone(), "".into()).await.unwrap();
        self.client.flush().await.unwrap();
        let said = |what: &str, subject: &str| {
            let wanted = format!("{what} to \"{}\"", subject.to_lowercase());
            self.refused.lock().unwrap().iter().any(|line| line.contains(&wanted))
        };
        eventually("the server has answered", || async { said("publish", &marker) }).await;
        !said(what, subject)
    }
}

fn services() -> impl Iterator<Item = (User, Service)> {
    Service::ALL.into_iter().map(|service| (User::Service(service), service))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_says_its_own_events_and_no_others() {
    let server = guarded();
    for (user, service) in services() {
        let thief = Thief::of(&server, user).await;
        for channel in CHANNELS {
            assert_eq!(
                thief.may_publish(channel.subject).await,
                channel.published_by == service,
                "{} says {}",
                service.name(),
                channel.subject
            );
        }
        for durable in Durable::ALL {
            let own = durable.name() == service.name();
            assert_eq!(
                thief.may_publish(durable.dead_letter_subject()).await,
                own,
                "{} at {durable}",
                thief.user.name()
            );
        }
        assert_eq!(thief.may_publish(PRICES_SUBJECT).await, service == Service::Order);
        assert!(!thief.may_publish("dead-log.dropped").await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_changes_no_stream_makes_no_consumer_and_answers_for_nobody_else() {
    let server = guarded();
    for (user, service) in services() {
        let thief = Thief::of(&server, user).await;
        for stream in [CHECKOUT, DEAD_LETTERS] {
            for verb in ["CREATE", "UPDATE", "DELETE", "PURGE", "MSG.DELETE", "SNAPSHOT", "RESTORE"] {
                let subject = format!("$JS.API.STREAM.{verb}.{stream}");
                assert!(!thief.may_publish(&subject).await, "{}: {subject}", service.name());
            }
        }
        for durable in Durable::ALL {
            for verb in ["CREATE", "DURABLE.CREATE", "DELETE", "PAUSE", "RESET"] {
                for end in ["", ".checkout.started"] {
                    let subject = format!("$JS.API.CONSUMER.{verb}.{CHECKOUT}.{durable}{end}");
                    assert!(!thief.may_publish(&subject).await, "{}: {subject}", service.name());
                }
            }
            let own = durable.name() == service.name();
            for subject in [
                format!("$JS.API.CONSUMER.MSG.NEXT.{CHECKOUT}.{durable}"),
                format!("$JS.ACK.{CHECKOUT}.{durable}.1.1.1.1.0"),
            ] {
                assert_eq!(thief.may_publish(&subject).await, own, "{}: {subject}", service.name());
            }
        }
        for other in Service::ALL {
            let inbox = format!("_INBOX.{}.abc", other.name());
            assert_eq!(thief.may_publish(&inbox).await, other == service, "{}: {inbox}", service.name());
            assert_eq!(thief.may_subscribe(&inbox).await, other == service, "{}: {inbox}", service.name());
        }
        for subject in [">", "_INBOX.>", "checkout.>", "payment.debited", "$JS.>", "$SYS.>"] {
            assert!(!thief.may_subscribe(subject).await, "{} hears {subject}", service.name());
        }
        assert_eq!(thief.may_subscribe(PRICES_SUBJECT).await, service == Service::Stock);
    }
}

/// nats-server does not look at where somebody wants an answer, and publishes it there itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_has_the_server_say_what_they_may_not() {
    let users = services().map(|(user, service)| (user, Some(service))).chain([(User::Auditor, None)]);
    for (user, service) in users {
        let server = guarded();
        let admin = broker(&server, User::Admin).await;
        admin.ensure_topology(&Limits::default()).await.unwrap();
        let told: Vec<Event> = (0..30).map(|n| started(n).into()).collect();
        admin.publish_all(&told).await.unwrap();
        let jetstream = patient(Thief::of(&server, User::Admin).await.client);

        let thief = Thief::of(&server, user).await;
        let mut expected = told.len() as u64;
        let others = || CHANNELS.iter().filter(|channel| Some(channel.published_by) != service);
        for own in CHANNELS.iter().filter(|channel| Some(channel.published_by) == service) {
            for other in others() {
                let mut headers = HeaderMap::new();
                headers.insert("ce-type", other.subject);
                let forged = told[0].encode().unwrap().into();
                thief.client.publish_with_headers(own.subject.to_owned(), headers, forged).await.unwrap();
                expected += 1;
            }
        }
        eventually("what it forged is in the stream", || async { count(&jetstream, CHECKOUT).await >= expected }).await;
        let requests = user.permissions().unwrap().publish;
        let requests: Vec<_> = requests.iter().filter(|subject| subject.starts_with("$JS.API.")).collect();
        for other in others() {
            for request in &requests {
                let request = request.replace('*', "payment").replace('>', other.subject);
                let questions = match request.as_str() {
                    next if next.contains("MSG.NEXT") => 1..=1,
                    read if read.contains(".GET.") => 1..=expected,
                    _ => 0..=0,
                };
                for number in questions {
                    let question = match number {
                        0 => String::new(),
                        number => format!("{{\"seq\":{number},\"batch\":1,\"no_wait\":true}}"),
                    };
                    let to = other.subject.to_owned();
                    thief.client.publish_with_reply(request.clone(), to, question.into()).await.unwrap();
                    expected += 1;
                }
            }
        }
        eventually("all answers are in the stream", || async { count(&jetstream, CHECKOUT).await >= expected }).await;

        let mut believed = Vec::new();
        admin
            .recall(100_000, |past| believed.extend(past.event.ok().map(|event| (past.sequence, event))))
            .await
            .unwrap();
        // An event that is told again as it was acts once.
        let encoded: BTreeSet<_> = told.iter().map(|event| (event.subject(), event.encode().unwrap())).collect();
        let is_told = |(_, event): &(u64, Event)| encoded.contains(&(event.subject(), event.encode().unwrap()));
        assert!(believed.len() >= told.len());
        let forged: Vec<_> = believed.iter().filter(|it| !is_told(it)).map(|it| (it.0, it.1.subject())).collect();
        assert!(forged.is_empty(), "{} had the server say {forged:?}", user.name());
        assert!(thief.refused.lock().unwrap().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_observer_sees_everything_and_says_nothing() {
    let server = guarded();
    let admin = broker(&server, User::Admin).await;
    admin.ensure_topology(&Limits::default()).await.unwrap();
    let events: Vec<_> = (0..20).map(|n| started(n).into()).collect();
    admin.publish_all(&events).await.unwrap();

    let observer = Thief::of(&server, User::Observer).await;
    let stream = patient(observer.client.clone()).get_stream(CHECKOUT).await.unwrap();
    let view = stream
        .create_consumer(consumer::pull::Config { name: Some("view".into()), ..consumer::pull::Config::default() })
        .await
        .unwrap();
    let seen = view.fetch().max_messages(20).messages().await.unwrap().count().await;
    assert_eq!(seen, 20);
    assert!(observer.may_subscribe("checkout.>").await);
    for channel in CHANNELS {
        assert!(!observer.may_publish(channel.subject).await, "{}", channel.subject);
    }
    for durable in Durable::ALL.iter().map(|durable| durable.name()).chain([AUDITOR]) {
        for subject in [
            format!("$JS.API.CONSUMER.MSG.NEXT.{CHECKOUT}.{durable}"),
            format!("$JS.API.CONSUMER.CREATE.{CHECKOUT}.{durable}"),
            format!("$JS.API.CONSUMER.CREATE.{CHECKOUT}.{durable}.checkout.started"),
            format!("$JS.API.CONSUMER.DELETE.{CHECKOUT}.{durable}"),
            format!("$JS.ACK.{CHECKOUT}.{durable}.1.1.1.1.0"),
        ] {
            assert!(!observer.may_publish(&subject).await, "{subject}");
        }
    }
    for subject in ["$JS.API.STREAM.DELETE.CHECKOUT", "$JS.API.STREAM.PURGE.CHECKOUT", "prices.get", "_INBOX.order.x"] {
        assert!(!observer.may_publish(subject).await, "{subject}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_auditor_hears_by_its_own_durable_and_says_nothing() {
    let server = guarded();
    broker(&server, User::Admin).await.ensure_topology(&Limits::default()).await.unwrap();
    let auditor = Thief::of(&server, User::Auditor).await;
    for subject in
        CHANNELS.iter().map(|channel| channel.subject).chain(["dead.order", "dead-log.dropped", "prices.get"])
    {
        assert!(!auditor.may_publish(subject).await, "{subject}");
    }
    for durable in Durable::ALL.iter().map(|durable| durable.name()).chain([AUDITOR]) {
        for verb in ["CREATE", "DURABLE.CREATE", "DELETE", "PAUSE", "RESET"] {
            let subject = format!("$JS.API.CONSUMER.{verb}.{CHECKOUT}.{durable}");
            assert!(!auditor.may_publish(&subject).await, "{subject}");
        }
        for subject in [
            format!("$JS.API.CONSUMER.MSG.NEXT.{CHECKOUT}.{durable}"),
            format!("$JS.ACK.{CHECKOUT}.{durable}.1.1.1.1.0"),
        ] {
            assert_eq!(auditor.may_publish(&subject).await, durable == AUDITOR, "{subject}");
        }
    }
    for subject in ["$JS.API.STREAM.UPDATE.CHECKOUT", "$JS.API.STREAM.PURGE.CHECKOUT", "_INBOX.order.x", "$SYS.REQ.X"] {
        assert!(!auditor.may_publish(subject).await, "{subject}");
    }
    for subject in [">", "checkout.>", "_INBOX.order.>", "_INBOX.>"] {
        assert!(!auditor.may_subscribe(subject).await, "{subject}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_gets_in_without_a_password() {
    let server = guarded();
    for (user, password) in [("", ""), ("payment", "wrong"), ("nobody", "x")] {
        // Who stands still in the middle of this is told another reason, and asks again.
        let is_told = || async {
            let options = ConnectOptions::with_user_and_password(user.to_owned(), password.to_owned());
            options.connect(server.url()).await.expect_err("it is let in").to_string().contains("authorization")
        };
        eventually("the reason is told", is_told).await;
    }
    assert!(async_nats::connect(server.url()).await.is_err());
    let url = server.url().replace("//", "//payment:s3cret@");
    let error = Broker::connect(&url, "payment", "payment-1", std::time::Duration::from_millis(300)).await.unwrap_err();
    assert!(!error.to_string().contains("s3cret"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_work_with_what_they_may_and_the_keeper_makes_again_what_is_deleted() {
    let server = guarded();
    // Here streams go away under those who wait for answers.
    let hasty = async |user| broker_waiting(&server, user, Waits::default()).await;
    let payment = hasty(User::Service(Service::Payment)).await;
    let order = hasty(User::Service(Service::Order)).await;
    // It waits until somebody who may has made it.
    let waiting = tokio::spawn({
        let payment = payment.clone();
        async move { payment.ensure_topology(&VERIFYING()).await }
    });
    let keeper = hasty(User::Admin).await;
    assert!(!waiting.is_finished());
    keeper.ensure_topology(&Limits::default()).await.unwrap();
    waiting.await.unwrap().unwrap();
    order.ensure_topology(&VERIFYING()).await.unwrap();
    let stop = CancellationToken::new();
    let keeping = tokio::spawn({
        let (keeper, stop) = (keeper.clone(), stop.clone());
        async move { keeper.keep_topology(stop).await }
    });

    let looking = Thief::of(&server, User::Admin).await;
    let admin = patient(looking.client.clone());
    let limits = VERIFYING();
    let seen = Seen::default();
    let taken = seen.clone();
    let debit = move |event: &Event| {
        taken.add(event);
        Verdict::Publish(vec![saga(event).then(Kind::PaymentDebited, None, 2).into()])
    };
    let consumer = run(&payment, Durable::Payment, &limits, each(debit));
    // Some may be there twice: what is not confirmed in time is sent again.
    let outcomes = async || {
        let stream = admin.get_stream(CHECKOUT).await.unwrap();
        let mut subjects = stream.info_with_subjects("payment.debited").await.unwrap();
        subjects.next().await.map_or(0, |told| told.unwrap().1)
    };
    for round in 0..3 {
        let numbers = round * 10..round * 10 + 10;
        let events: Vec<_> = numbers.clone().map(|n| started(n).into()).collect();
        order.publish_all(&events).await.unwrap();
        eventually("all are taken", || async { seen.distinct() == (0..numbers.end).collect() }).await;
        eventually("the outcomes are there", || async { outcomes().await >= 10 }).await;
        admin.delete_stream(CHECKOUT).await.unwrap();
        eventually("the stream is made again", || async { admin.get_stream(CHECKOUT).await.is_ok() }).await;
    }
    // A durable alone, and a setting.
    eventually("the durable is made again", || async {
        let stream = admin.get_stream(CHECKOUT).await.unwrap();
        stream.delete_consumer("payment").await.is_ok()
    })
    .await;
    let mut stream = admin.get_stream(CHECKOUT).await.unwrap();
    let config = Config { max_age: std::time::Duration::from_secs(77), ..stream.info().await.unwrap().config.clone() };
    admin.update_stream(&config).await.unwrap();
    eventually("both are as they were", || async {
        let Ok(mut stream) = admin.get_stream(CHECKOUT).await else { return false };
        let max_age = stream.info().await.unwrap().config.max_age;
        max_age == Limits::default().max_age && stream.consumer_info("payment").await.is_ok()
    })
    .await;
    order.publish_all(&[started(77).into()]).await.unwrap();
    eventually("it is taken", || async { seen.distinct().contains(&77) }).await;
    eventually("the outcome is there", || async { outcomes().await > 0 }).await;
    consumer.stop().await;
    stop.cancel();
    keeping.await.unwrap().unwrap();
}

/// The file that deployments include says the same as the code.
#[test]
fn the_file_of_users_is_what_the_code_says() {
    let written = authorization(|user| format!("$NATS_{}_PASSWORD", user.name().to_uppercase()));
    let file = include_str!("../users.conf");
    let body: Vec<_> = file.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(body.join("\n").trim(), written.trim(), "write it anew:\n{written}");
    let names: BTreeSet<_> = User::ALL.iter().map(|user| user.name()).collect();
    assert_eq!(names.len(), User::ALL.len());
}
