//! Finding the primary of a database that Sentinel watches over, and hearing at once when it is another.
//!
//! And knowing how many replicas must have a write before it is safe. One is not enough: a failover makes one replica the primary while
//! the other still follows the old one, which so goes on to confirm writes that are thrown away a moment later (seen with
//! `SENTINEL FAILOVER` under load: thousands). What *every* replica has that could be made the primary is safe, and from the moment in
//! which one of them is, the old primary does not hear from it any more. Which these are is what the sentinels go by: [`standing()`].
//! They are known by name and not by number: a replica that the sentinels do not yet know to be linked would make the number up, in the
//! place of the one that has just been made the primary.
//!
//! The client library has a module for this, which is not used for three reasons: it asks one sentinel after the other, so one that
//! stands still delays everybody; it takes the first answer, which may be that of a sentinel that has not heard of the last failover;
//! and it does not listen. Here all sentinels are asked at once, the answer of the latest configuration epoch counts, and each
//! sentinel is listened to.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, ErrorKind, IntoConnectionInfo, ProtocolVersion,
    PushInfo, PushKind, RedisError, RedisResult,
};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::standing::{Facts, Needed, Standing, fact, has_flag, standing};

/// How long a sentinel may take to be connected to and to answer. A healthy one takes a millisecond; a failover is not to wait for one
/// that stands still.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);
/// How often each sentinel is asked again, should a message be lost.
const POLL_EVERY: Duration = Duration::from_secs(1);
/// How long to wait before a sentinel that does not answer is listened to again.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// What is listened to: another primary (`+promoted-slave` is said by the leader alone, and earlier when replicas take long to be turned), a
/// failover that begins, and replicas that go and come. What the services may hear is made of this (`checkout/src/up/access.rs`), and stands in
/// `compose/sentinel.sh`: who listens to more needs sentinels that have been told so.
pub const NEWS: &[&str] =
    &["+switch-master", "+promoted-slave", "+try-failover", "+selected-slave", "+sdown", "-sdown", "+slave"];

/// What each sentinel is asked of a database.
pub const QUESTIONS: [&str; 3] = ["GET-MASTER-ADDR-BY-NAME", "MASTER", "REPLICAS"];

/// What begins the URL of a database behind sentinels:
/// `redis+sentinel://[user:password@]host:port[,host:port…]/name[/db][?sentinel_user=…&sentinel_password=…]`.
const SCHEME: &str = "redis+sentinel://";
/// Where a sentinel listens unless the URL says otherwise.
const DEFAULT_PORT: &str = "26379";

/// Where a primary is, and since which failover.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Primary {
    pub(super) host: String,
    pub(super) port: u16,
    /// Sentinel's configuration epoch: grows with each failover.
    pub(super) epoch: u64,
}

impl Primary {
    fn is_at(&self, other: &Self) -> bool {
        self.host == other.host && self.port == other.port
    }
}

/// What one sentinel says about a database.
#[derive(Debug, Clone, PartialEq, Eq)]
struct View {
    primary: Primary,
    /// All replicas. Nothing in the middle of a failover.
    replicas: Option<Vec<(String, Standing)>>,
}

/// The sentinels of one database.
pub(super) struct Sentinels {
    /// The name under which they watch over it.
    name: String,
    clients: Vec<Client>,
    /// How to log in at the database itself.
    node: ConnectionInfo,
    /// The primary of the latest epoch that is known.
    known: watch::Sender<Option<Primary>>,
    /// What each sentinel said last; nothing while it is not heard.
    views: Mutex<Vec<Option<View>>>,
    /// The most replicas that a sentinel ever spoke of.
    replicas: AtomicUsize,
}

impl Sentinels {
    /// Reads a URL. Nothing where it is that of a plain database.
    pub(super) fn of(url: &str) -> RedisResult<Option<Arc<Self>>> {
        let Some(rest) = url.strip_prefix(SCHEME) else { return Ok(None) };
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let wrong =
            |why: &str| RedisError::from((ErrorKind::InvalidClientConfig, "not a sentinel URL", why.to_owned()));
        let (authority, path) = rest.split_once('/').ok_or_else(|| wrong("the name of the primary is missing"))?;
        let (login, hosts) = match authority.rsplit_once('@') {
            Some((login, hosts)) => (format!("{login}@"), hosts),
            None => (String::new(), authority),
        };
        let (name, db) = path.split_once('/').unwrap_or((path, ""));
        if name.is_empty() {
            return Err(wrong("the name of the primary is missing"));
        }
        let mut sentinel_login = (String::new(), String::new());
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some(("sentinel_user", user)) => sentinel_login.0 = user.to_owned(),
                Some(("sentinel_password", password)) => sentinel_login.1 = password.to_owned(),
                _ => return Err(wrong("only sentinel_user and sentinel_password may follow the question mark")),
            }
        }
        let at_sentinel = match &sentinel_login {
            (user, password) if user.is_empty() && password.is_empty() => String::new(),
            (user, password) => format!("{user}:{password}@"),
        };
        let clients = hosts.split(',').map(|host| sentinel(host, &at_sentinel)).collect::<RedisResult<Vec<_>>>()?;
        // Only the login and the number of the database are taken from this; where it is, the sentinels say.
        let node = format!("redis://{login}localhost/{db}").into_connection_info()?;
        let views = Mutex::new(vec![None; clients.len()]);
        Ok(Some(Arc::new(Self {
            name: name.to_owned(),
            clients,
            node,
            known: watch::Sender::new(None),
            views,
            replicas: AtomicUsize::new(0),
        })))
    }

    /// Where the sentinels are, for people.
    pub(super) fn address(&self) -> String {
        let hosts: Vec<String> =
            self.clients.iter().map(|client| client.get_connection_info().addr().to_string()).collect();
        format!("{} behind {}", self.name, hosts.join(","))
    }

    /// How to connect to this primary.
    pub(super) fn node(&self, primary: &Primary) -> ConnectionInfo {
        self.node.clone().set_addr(ConnectionAddr::Tcp(primary.host.clone(), primary.port))
    }

    /// Asks all sentinels for the primary. Waits for a majority, or, where there is none, for whoever answers in time; and goes by one that is
    /// listened to, where that knows better.
    pub(super) async fn locate(&self) -> RedisResult<Primary> {
        let mut asked: FuturesUnordered<_> = self.clients.iter().map(|client| self.ask_once(client)).collect();
        let majority = self.clients.len() / 2 + 1;
        let (mut answers, mut latest, mut trouble) = (0, None::<Primary>, None);
        while answers < majority
            && let Some(answer) = asked.next().await
        {
            match answer {
                Ok(View { primary, replicas }) => {
                    answers += 1;
                    self.count(replicas.as_ref());
                    if latest.as_ref().is_none_or(|latest| primary.epoch > latest.epoch) {
                        latest = Some(primary);
                    }
                }
                Err(error) => trouble = Some(error),
            }
        }
        let Some(mut primary) = latest else {
            return Err(trouble.unwrap_or_else(|| io("no sentinel answers")));
        };
        // The majority that was fastest may be the one that has not heard yet of a failover that is over.
        for view in self.views.lock().unwrap_or_else(PoisonError::into_inner).iter().flatten() {
            if view.primary.epoch > primary.epoch {
                primary = view.primary.clone();
            }
        }
        if answers < majority && self.known.borrow().as_ref().is_some_and(|known| known.epoch > primary.epoch) {
            return Err(io("the only sentinels that answer have not heard of the last failover"));
        }
        // What a majority says holds, also where it is of an earlier epoch: then the sentinels were set up anew.
        self.known.send_if_modified(|known| {
            let is_new = known.as_ref() != Some(&primary);
            *known = Some(primary.clone());
            is_new
        });
        Ok(primary)
    }

    /// Asks one sentinel on a connection of its own.
    async fn ask_once(&self, client: &Client) -> RedisResult<View> {
        let ask = async {
            let mut connection = client.get_multiplexed_async_connection_with_config(&config()).await?;
            self.ask(&mut connection).await
        };
        limited(ask).await
    }

    async fn ask(&self, connection: &mut MultiplexedConnection) -> RedisResult<View> {
        // The first answer is ahead of the others while replicas are still being turned to a new primary; all are given at once.
        let mut all = redis::pipe();
        for question in QUESTIONS {
            all.cmd("SENTINEL").arg(question).arg(&self.name);
        }
        let (address, facts, replicas): (Option<(String, u16)>, Facts, Vec<Facts>) =
            all.query_async(connection).await?;
        let (host, port) = address.ok_or_else(|| io("a sentinel knows no primary of this name"))?;
        let epoch = facts.get("config-epoch").and_then(|epoch| epoch.parse().ok()).unwrap_or(0);
        let is_settled = fact(&facts, "ip") == host
            && fact(&facts, "port") == port.to_string()
            && !has_flag(&facts, "failover_in_progress");
        let replica = |facts: &Facts| (format!("{}:{}", fact(facts, "ip"), fact(facts, "port")), standing(facts));
        let replicas = is_settled.then(|| replicas.iter().map(replica).collect());
        Ok(View { primary: Primary { host, port, epoch }, replicas })
    }

    /// Which replicas must have what this primary writes: all that could be made the primary in its place, so far as a majority of the
    /// sentinels is heard; all that there are, where it is not, or where one of them is about to choose.
    pub(super) fn needed(&self, primary: &Primary) -> Needed {
        let views = self.views.lock().unwrap_or_else(PoisonError::into_inner);
        let of_primary = views.iter().flatten().filter(|view| view.primary.is_at(primary));
        let (is_chosen_from, heard) = of_primary.fold((false, Vec::new()), |(is_chosen_from, mut heard), view| {
            heard.extend(&view.replicas);
            (is_chosen_from || view.replicas.is_none(), heard)
        });
        if is_chosen_from || heard.len() <= self.clients.len() / 2 {
            return Needed { all: self.replicas.load(Ordering::Relaxed), promotable: None, barred: HashSet::new() };
        }
        let those = |is_meant: fn(Standing) -> bool| -> HashSet<String> {
            let meant = heard.iter().copied().flatten().filter(|(_, standing)| is_meant(*standing));
            meant.map(|(address, _)| address.clone()).collect()
        };
        let (all, others) = (those(|_| true), those(|standing| standing != Standing::Barred));
        Needed {
            all: all.len(),
            promotable: Some(those(|standing| standing == Standing::Promotable)),
            barred: all.difference(&others).cloned().collect(),
        }
    }

    /// Resolves when a later failover has made another node the primary than the one that a connection leads to.
    pub(super) async fn superseded(&self, used: &Primary) {
        let mut known = self.known.subscribe();
        let is_other =
            |known: &Option<Primary>| known.as_ref().is_some_and(|it| it.epoch > used.epoch && !it.is_at(used));
        if known.wait_for(is_other).await.is_err() {
            std::future::pending().await
        }
    }

    /// Whether [`Sentinels::superseded`] would resolve at once.
    pub(super) fn is_superseded(&self, used: &Primary) -> bool {
        self.known.borrow().as_ref().is_some_and(|it| it.epoch > used.epoch && !it.is_at(used))
    }

    /// The latest configuration epoch that is known; 0 before any is.
    pub(super) fn epoch(&self) -> u64 {
        self.known.borrow().as_ref().map_or(0, |known| known.epoch)
    }

    /// Listens to every sentinel until `stop`. All at once: the first that knows of a failover is the one that counts, and none has to
    /// be replaced when it dies.
    pub(super) async fn follow(self: Arc<Self>, stop: CancellationToken) {
        let each = (0..self.clients.len()).map(|index| self.follow_one(index));
        tokio::select! {
            _ = futures::future::join_all(each) => {}
            () = stop.cancelled() => {}
        }
    }

    async fn follow_one(&self, index: usize) {
        let mut was_heard = true;
        let client = &self.clients[index];
        loop {
            let ended = self.listen(index, &mut was_heard).await;
            self.note(index, None);
            if std::mem::replace(&mut was_heard, false) {
                let sentinel = client.get_connection_info().addr();
                tracing::warn!(%sentinel, error = %ended.unwrap_or_else(|| io("the connection was closed")), "a sentinel is not heard");
            }
            tokio::time::sleep(RETRY_AFTER).await;
        }
    }

    /// Listens to one sentinel until its connection ends.
    async fn listen(&self, index: usize, was_heard: &mut bool) -> Option<RedisError> {
        let (sender, mut pushes) = mpsc::unbounded_channel();
        let subscribe = async {
            let config = config().set_push_sender(sender);
            let mut connection = self.clients[index].get_multiplexed_async_connection_with_config(&config).await?;
            connection.subscribe(NEWS).await?;
            Ok(connection)
        };
        let mut connection = match limited(subscribe).await {
            Ok(connection) => connection,
            Err(error) => return Some(error),
        };
        loop {
            match limited(self.ask(&mut connection)).await {
                Ok(view) => {
                    self.learn(view.primary.clone());
                    self.note(index, Some(view));
                }
                Err(error) => return Some(error),
            }
            *was_heard = true;
            let news = async {
                loop {
                    match pushes.recv().await {
                        Some(PushInfo { kind: PushKind::Message, .. }) => return true,
                        Some(PushInfo { kind: PushKind::Disconnection, .. }) | None => return false,
                        Some(_) => {}
                    }
                }
            };
            if let Ok(false) = tokio::time::timeout(POLL_EVERY, news).await {
                return None;
            }
        }
    }

    fn note(&self, index: usize, view: Option<View>) {
        self.count(view.as_ref().and_then(|view| view.replicas.as_ref()));
        let mut views = self.views.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = views.get_mut(index) {
            *known = view;
        }
    }

    fn count(&self, replicas: Option<&Vec<(String, Standing)>>) {
        if let Some(replicas) = replicas {
            // A sentinel that has lost its disk knows none at first.
            self.replicas.fetch_max(replicas.len(), Ordering::Relaxed);
        }
    }

    /// Takes note of a primary, unless a later one is known.
    fn learn(&self, primary: Primary) {
        self.known.send_if_modified(|known| {
            let is_later = known.as_ref().is_none_or(|known| primary.epoch > known.epoch);
            if is_later {
                if known.as_ref().is_some_and(|known| !known.is_at(&primary)) {
                    let Primary { host, port, epoch } = &primary;
                    tracing::warn!(host, port, epoch, "the sentinels have made another node the primary");
                }
                *known = Some(primary);
            }
            is_later
        });
    }
}

fn sentinel(host: &str, login: &str) -> RedisResult<Client> {
    // An IPv6 address stands in brackets, and has colons of its own.
    let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let port = if has_port { String::new() } else { format!(":{DEFAULT_PORT}") };
    let info = format!("redis://{login}{host}{port}").into_connection_info()?;
    // The protocol in which a subscribed connection can still be asked.
    let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
    Client::open(info.set_redis_settings(settings))
}

fn config() -> AsyncConnectionConfig {
    AsyncConnectionConfig::new().set_connection_timeout(Some(ANSWER_LIMIT)).set_response_timeout(None)
}

async fn limited<T>(answer: impl Future<Output = RedisResult<T>>) -> RedisResult<T> {
    tokio::time::timeout(ANSWER_LIMIT, answer).await.unwrap_or_else(|_| Err(io("a sentinel does not answer")))
}

fn io(why: &'static str) -> RedisError {
    RedisError::from(std::io::Error::new(std::io::ErrorKind::NotConnected, why))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(url: &str) -> RedisResult<Arc<Sentinels>> {
        Sentinels::of(url).map(|sentinels| sentinels.expect("a sentinel URL"))
    }

    #[test]
    fn a_url_names_the_sentinels_the_primary_and_both_logins() {
        let url = "redis+sentinel://user:p%40ss@one:1,two,[::1]:3/redis-order/2?sentinel_user=s&sentinel_password=w";
        let sentinels = read(url).unwrap();
        let addresses: Vec<_> =
            sentinels.clients.iter().map(|it| it.get_connection_info().addr().to_string()).collect();
        assert_eq!(addresses[..2], ["one:1", "two:26379"]);
        assert!(addresses[2].ends_with(":3"), "{addresses:?}");
        let login = sentinels.clients[1].get_connection_info().redis_settings();
        assert_eq!((login.username(), login.password()), (Some("s"), Some("w")));
        let node = sentinels.node(&Primary { host: "10.0.0.1".into(), port: 6379, epoch: 7 });
        assert_eq!(node.addr().to_string(), "10.0.0.1:6379");
        let settings = node.redis_settings();
        assert_eq!((settings.username(), settings.password(), settings.db()), (Some("user"), Some("p@ss"), 2));
        assert_eq!(sentinels.name, "redis-order");
    }

    #[test]
    fn a_plain_url_is_no_sentinel_url_and_a_wrong_one_is_refused() {
        assert!(Sentinels::of("redis://127.0.0.1:6379").unwrap().is_none());
        for wrong in ["one:1", "one:1/", "one:1/name?x=y", "one:1/name?x", "/name", "one:1/name/db"] {
            assert!(Sentinels::of(&format!("{SCHEME}{wrong}")).is_err(), "{wrong}");
        }
    }

    #[test]
    fn every_replica_that_could_be_made_the_primary_is_waited_for() {
        let sentinels = read("redis+sentinel://one,two,three/name").unwrap();
        let primary = |port| Primary { host: "h".into(), port, epoch: 1 };
        let view = |port, replicas: &[(&str, bool)]| {
            let standing = |it: bool| if it { Standing::Promotable } else { Standing::Excused };
            let replicas = replicas.iter().map(|(address, it)| ((*address).to_owned(), standing(*it))).collect();
            Some(View { primary: primary(port), replicas: Some(replicas) })
        };
        let all = |all: usize| Needed { all, promotable: None, barred: HashSet::new() };
        let some = |all: usize, promotable: &[&str]| {
            let promotable = promotable.iter().map(|address| (*address).to_owned()).collect();
            Needed { all, promotable: Some(promotable), barred: HashSet::new() }
        };
        let needed = || sentinels.needed(&primary(1));
        assert_eq!(needed(), all(0), "nothing is known, and what the settings say holds");
        sentinels.note(0, view(1, &[("a", true), ("b", false)]));
        assert_eq!(needed(), all(2), "one sentinel alone cannot excuse a replica");
        sentinels.note(1, view(1, &[("a", true), ("b", false)]));
        assert_eq!(needed(), some(2, &["a"]));
        sentinels.note(2, view(1, &[("a", false), ("b", true)]));
        assert_eq!(needed(), some(2, &["a", "b"]), "each sentinel could choose another");
        sentinels.note(2, view(2, &[("a", false), ("h:1", true)]));
        assert_eq!(needed(), some(2, &["a"]));
        sentinels.note(1, view(2, &[("a", false), ("h:1", true)]));
        assert_eq!(needed(), all(2), "most have left this primary");
        sentinels.note(1, view(1, &[("a", true), ("b", false)]));
        assert_eq!(needed(), some(2, &["a"]));
        sentinels.note(2, Some(View { primary: primary(1), replicas: None }));
        assert_eq!(needed(), all(2), "a failover is under way, whatever the others know of it");
        (0..3).for_each(|index| sentinels.note(index, None));
        assert_eq!(needed(), all(2), "no sentinel is heard, so nobody knows what they do");
    }

    #[test]
    fn a_replica_is_barred_where_all_say_so() {
        let sentinels = read("redis+sentinel://one,two,three/name").unwrap();
        let primary = Primary { host: "h".into(), port: 1, epoch: 1 };
        let view = |standing| Some(View { primary: primary.clone(), replicas: Some(vec![("a".to_owned(), standing)]) });
        (0..3).for_each(|index| sentinels.note(index, view(Standing::Barred)));
        assert_eq!(sentinels.needed(&primary).barred, HashSet::from(["a".to_owned()]));
        sentinels.note(2, view(Standing::Excused));
        assert_eq!(sentinels.needed(&primary).barred, HashSet::new());
    }

    #[test]
    fn only_a_later_failover_to_another_node_supersedes_a_primary() {
        let sentinels = read("redis+sentinel://one/name").unwrap();
        let primary = |port, epoch| Primary { host: "h".into(), port, epoch };
        sentinels.learn(primary(1, 3));
        sentinels.learn(primary(2, 2));
        assert_eq!(*sentinels.known.borrow(), Some(primary(1, 3)), "a sentinel that is behind teaches nothing");
        assert!(!sentinels.is_superseded(&primary(1, 3)));
        assert!(!sentinels.is_superseded(&primary(1, 2)), "a failover back to the same node");
        assert!(!sentinels.is_superseded(&primary(9, 4)));
        assert!(sentinels.is_superseded(&primary(9, 2)));
    }
}
