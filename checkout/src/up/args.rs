//! The flags that shape a platform, checked into a [`Shape`].

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::failure::Failure;
use crate::limits::SCALE_MAX;
use crate::service::Service;
use crate::up::ha::NODES;

/// The port of the gateway, unless told otherwise.
pub const DEFAULT_PORT: u16 = 8000;

/// Run the whole platform on this machine, with no container.
///
/// Starts nats-server, three redis-servers, the services order, payment and stock (each instance its own process) and a gateway
/// with one port for all routes; waits until all is ready; then prints the URL and what to try first. A process that dies is
/// started again, with a growing pause, and said so on standard error. Data survives a restart.
///
/// The first Ctrl-C (or SIGTERM) drains and stops everything in order: gateway, services, servers. The second kills. If this process itself
/// is killed with -9, the next `checkout up` on the same folder finds and stops what was left.
///
/// Exit codes: 0 after a clean stop, 64 for bad arguments, 1 when something failed.
#[derive(clap::Args, Debug, Clone)]
#[command(after_long_help = "\
Files:
  DIR/run/NAME.pid        pid of each process: gateway, nats-1, redis-order (with --ha redis-order-1, …, sentinel-1, …), order-1, …
  DIR/run/platform.json   all addresses; there from the moment all is ready until the stop begins
  DIR/log/NAME.log        what each process wrote
  DIR/nats.env            server, user and password of an observer for the `nats` command line: `. DIR/nats.env`
  DIR/secrets/            the passwords, drawn at the first start; readable by their owner alone, like every file that has one in it

Servers:
  nats-server 2.14 or newer and redis-server (or valkey-server) 7 or newer are taken from $NATS_SERVER and $REDIS_SERVER, else from
  PATH, else from .tools/bin in a folder above this program or the working directory, where `make tools` puts them.

Examples:
  checkout up --scale order=4,payment=4,stock=4
  checkout up --ha --scale order=2,payment=2,stock=2     as in production: any one process or disk may go
  checkout up --port 9000 --data /tmp/other          a second platform beside the first
  checkout up --set order.LOG=debug --set stock-2.CRASH_AT=after-effect")]
pub struct Args {
    /// Port of the gateway; 0 takes a free one
    #[arg(long, default_value_t = DEFAULT_PORT)]
    pub port: u16,

    /// Address the gateway listens on; everything else stays on the loopback interface
    #[arg(long, default_value = "127.0.0.1", value_name = "ADDRESS")]
    pub host: std::net::IpAddr,

    /// Folder for data, logs and pids [default: checkout in the user's data folder]
    #[arg(long, value_name = "DIR", env = "CHECKOUT_DATA")]
    pub data: Option<PathBuf>,

    /// What runs
    #[command(flatten)]
    pub shape: ShapeArgs,

    /// Seconds to wait for everything to be ready before giving up
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    pub ready_timeout: u64,

    /// Print nothing but what goes wrong
    #[arg(long, short)]
    pub quiet: bool,
}

/// The flags that `checkout bench --own-platform` passes on.
#[derive(clap::Args, Debug, Clone, Default)]
pub struct ShapeArgs {
    /// Instances of a service, each its own process; repeatable, or separated by commas [default: one each]
    #[arg(long, value_name = "SERVICE=N", value_delimiter = ',')]
    pub scale: Vec<String>,

    /// An environment variable for all instances of a service (`order.LOG=debug`), for one (`order-2.CRASH_AT=…`) for the
    /// gateway or the auditor; or a configuration line of the databases (`redis.maxmemory=1gb`, `redis-order.…`); repeatable
    #[arg(long, value_name = "TARGET.VAR=VALUE")]
    pub set: Vec<String>,

    /// Three of everything that keeps data: per service a primary and two replicas behind three sentinels, and three nats-servers
    #[arg(long)]
    pub ha: bool,

    /// Follow all events with an auditor, which tells what can never be: in DIR/log/auditor.log, and as metrics
    #[arg(long)]
    pub auditor: bool,

    /// Let every connection between two processes go through this one, where `checkout chaos` can cut, delay and hold it
    #[arg(long)]
    pub links: bool,

    /// When the databases flush to disk: always, everysec or no
    #[arg(long, default_value = "always", value_name = "POLICY", value_parser = ["always", "everysec", "no"])]
    pub appendfsync: String,
}

impl ShapeArgs {
    /// The same flags as words of a command line.
    #[must_use]
    pub fn to_words(&self) -> Vec<String> {
        let mut words = vec![format!("--appendfsync={}", self.appendfsync)];
        words.extend(self.ha.then(|| "--ha".to_owned()));
        words.extend(self.auditor.then(|| "--auditor".to_owned()));
        words.extend(self.links.then(|| "--links".to_owned()));
        words.extend(self.scale.iter().map(|scale| format!("--scale={scale}")));
        words.extend(self.set.iter().map(|set| format!("--set={set}")));
        words
    }
}

/// What is to run, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    /// Number of instances of each service.
    pub scale: BTreeMap<Service, u16>,
    /// Whether everything that keeps data is there three times.
    pub ha: bool,
    /// Whether an auditor follows the stream.
    pub auditor: bool,
    /// Whether connections go through [`crate::links`].
    pub links: bool,
    /// What `--set` says, in the order given.
    pub settings: Vec<Setting>,
    /// The fsync policy of the databases.
    pub appendfsync: String,
}

/// One `--set`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// A group of processes (`order`, `redis`) or one process (`order-2`, `redis-order`, `gateway`).
    pub target: String,
    /// Environment variable, or configuration directive of a database.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// Variables by which this program and its children find each other; another value would only break that.
const RESERVED: [&str; 3] = ["LISTEN", "INSTANCE", "GENERATION"];

impl Shape {
    /// Checks the flags.
    ///
    /// # Errors
    /// One line that names the flag that cannot be.
    pub fn new(args: &ShapeArgs) -> Result<Self, Failure> {
        let scale = parse_scale(&args.scale)?;
        let settings = args.set.iter().map(|text| parse_setting(text, &scale, args)).collect::<Result<_, _>>()?;
        let ShapeArgs { ha, auditor, links, .. } = *args;
        Ok(Self { scale, ha, auditor, links, settings, appendfsync: args.appendfsync.clone() })
    }

    /// What `--set` gives the process `name` of `group`.
    pub fn settings_of<'a>(&'a self, group: &'a str, name: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        // One process is more particular than its group, so it comes last and wins.
        let of = move |target: &'a str| {
            self.settings
                .iter()
                .filter(move |setting| setting.target == target)
                .map(|setting| (setting.name.as_str(), setting.value.as_str()))
        };
        let particular = (group != name).then(|| of(name));
        of(group).chain(particular.into_iter().flatten())
    }
}

fn parse_scale(words: &[String]) -> Result<BTreeMap<Service, u16>, Failure> {
    let mut scale: BTreeMap<Service, u16> = Service::ALL.into_iter().map(|it| (it, 1)).collect();
    for word in words {
        let bad = |why: &str| Failure::usage(format!("--scale {word}: {why}; write for example --scale order=4"));
        let (name, count) = word.split_once('=').ok_or_else(|| bad("there is no '='"))?;
        let service: Service = name.parse().map_err(|why: String| bad(&why))?;
        let count = count
            .parse::<u16>()
            .ok()
            .filter(|count| (1..=SCALE_MAX).contains(count))
            .ok_or_else(|| bad(&format!("the number must be 1 to {SCALE_MAX}")))?;
        scale.insert(service, count);
    }
    Ok(scale)
}

fn parse_setting(text: &str, scale: &BTreeMap<Service, u16>, args: &ShapeArgs) -> Result<Setting, Failure> {
    let bad = |why: &str| Failure::usage(format!("--set {text}: {why}; write for example --set order.LOG=debug"));
    let (key, value) = text.split_once('=').ok_or_else(|| bad("there is no '='"))?;
    let (target, name) = key.split_once('.').ok_or_else(|| bad("there is no '.' before the variable"))?;
    if name.is_empty() || name.contains(|it: char| it.is_whitespace() || it == '\0') {
        return Err(bad("the variable has no proper name"));
    }
    if value.contains(['\0', '\n']) {
        return Err(bad("the value must be one line"));
    }
    if !(is_target(target, scale, args.ha) || args.auditor && target == "auditor") {
        return Err(bad(&format!("nothing that runs here is called '{target}'")));
    }
    if !target.starts_with("redis") && RESERVED.contains(&name) {
        return Err(bad(&format!("{name} is set by this program itself")));
    }
    Ok(Setting { target: target.to_owned(), name: name.to_owned(), value: value.to_owned() })
}

fn is_target(target: &str, scale: &BTreeMap<Service, u16>, ha: bool) -> bool {
    if matches!(target, "gateway" | "redis") || target.parse::<Service>().is_ok() {
        return true;
    }
    if let Some(database) = target.strip_prefix("redis-") {
        let (service, number) = database.split_once('-').unwrap_or((database, ""));
        let is_node = number.is_empty() || (ha && (1..=NODES).any(|it| it.to_string() == number));
        return service.parse::<Service>().is_ok() && is_node && !database.ends_with('-');
    }
    target.rsplit_once('-').is_some_and(|(name, number)| {
        let count = name.parse::<Service>().ok().and_then(|it| scale.get(&it));
        let number = number.parse::<u16>().ok();
        count.zip(number).is_some_and(|(count, number)| (1..=*count).contains(&number))
    })
}

/// How long to wait for readiness.
#[must_use]
pub fn ready_timeout(args: &Args) -> Duration {
    Duration::from_secs(args.ready_timeout)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn shape(scale: &[&str], set: &[&str]) -> Result<Shape, Failure> {
        let owned = |words: &[&str]| words.iter().map(|it| (*it).to_owned()).collect();
        Shape::new(&ShapeArgs {
            scale: owned(scale),
            set: owned(set),
            appendfsync: "always".to_owned(),
            ..ShapeArgs::default()
        })
    }

    #[test]
    fn with_ha_one_node_of_a_database_can_be_set() {
        let of = |target: &str, ha| {
            let set = vec![format!("{target}.maxmemory=1gb")];
            Shape::new(&ShapeArgs { set, ha, appendfsync: "always".to_owned(), ..ShapeArgs::default() }).is_ok()
        };
        assert!(of("redis-order-3", true) && of("redis-order", true) && of("redis", true));
        for (target, ha) in [("redis-order-3", false), ("redis-order-4", true), ("redis-order-", true)] {
            assert!(!of(target, ha), "{target}");
        }
    }

    #[test]
    fn a_service_has_one_instance_unless_said_otherwise() {
        let shape = shape(&["order=4", "stock=2"], &[]).unwrap();
        let counts: Vec<u16> = shape.scale.values().copied().collect();
        assert_eq!(counts, [4, 1, 2]);
    }

    #[test]
    fn a_scale_that_cannot_be_is_refused_with_its_own_words() {
        for word in ["order", "order=", "order=0", "order=65", "order=-1", "orders=2", "nats=2", "=2", "order=1.5"] {
            let failure = shape(&[word], &[]).unwrap_err();
            assert_eq!(failure.exit_code(), 64, "{word}");
            assert!(failure.to_string().contains(word), "{failure}");
        }
    }

    #[test]
    fn a_setting_reaches_its_group_or_its_one_process_and_the_process_wins() {
        let shape =
            shape(&["order=2"], &["order-2.LOG=trace", "order.LOG=debug=x", "redis.maxmemory=1gb", "gateway.LOG=warn"])
                .unwrap();
        let of = |group, name| shape.settings_of(group, name).collect::<Vec<_>>();
        assert_eq!(of("order", "order-1"), [("LOG", "debug=x")]);
        assert_eq!(of("order", "order-2"), [("LOG", "debug=x"), ("LOG", "trace")]);
        assert_eq!(of("redis", "redis-stock"), [("maxmemory", "1gb")]);
        assert_eq!(of("gateway", "gateway"), [("LOG", "warn")]);
        assert!(of("payment", "payment-1").is_empty());
    }

    #[test]
    fn a_setting_that_cannot_be_is_refused_with_its_own_words() {
        for word in [
            "order.LOG",
            "LOG=x",
            "order.=x",
            "order-2.A=x",
            "order-0.A=x",
            "nats.A=x",
            "redis-nats.A=x",
            "order.LISTEN=x",
            "order.A B=x",
            "order.A=x\ny",
            "x.A=y",
        ] {
            let failure = shape(&[], &[word]).unwrap_err();
            assert_eq!(failure.exit_code(), 64, "{word}");
            assert!(failure.to_string().contains(word), "{failure}");
        }
    }
}
