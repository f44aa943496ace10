//! Who may do what at the servers of `checkout up`, as parts of their configuration.
//!
//! What each user of NATS may do stands in [`nats::access`]. At a database the service has the commands that its functions use and those of
//! a connection, no more: it cannot empty the database, list its keys, change its configuration or look at other connections.

use common::redis::{SENTINEL_NEWS, SENTINEL_QUESTIONS};
use nats::access::{User, authorization};

use crate::failure::Failure;
use crate::secrets::Secrets;
use crate::service::Service;
use crate::up::door::Door;

/// Reads and writes of data, as the functions make them; connections; functions. `-@dangerous` takes KEYS, FLUSHALL, CONFIG, DEBUG, MONITOR, … out of
/// what stands before it; ROLE and INFO, which are among them, are needed. FUNCTION FLUSH and its like count as writes.
const SERVICE_COMMANDS: &str = "-@all +@read +@write +@connection -@dangerous -function +function|load +function|list \
     +fcall +fcall_ro +wait +time +role +info";
/// What a replica says to its primary (from the documentation of both servers).
const REPLICA_COMMANDS: &str = "-@all +psync +replconf +ping";
/// What a sentinel says to a database (likewise).
const SENTINEL_COMMANDS: &str = "-@all +multi +exec +ping +info +role +publish +subscribe +replicaof +slaveof +failover \
     +config|rewrite +client|setname +client|kill +script|kill";
/// Who the services are to the sentinels: one user for all of them, because it can change nothing.
const AT_SENTINELS: &str = "service";

/// The users of NATS.
///
/// # Errors
/// The passwords cannot be drawn.
pub fn nats_users(secrets: &Secrets) -> Result<String, Failure> {
    let mut failed = None;
    let text = authorization(|user: User| match secrets.password(&format!("nats-{}", user.name())) {
        Ok(password) => format!("\"{}\"", &*password),
        Err(failure) => {
            failed = Some(failure);
            String::new()
        }
    });
    failed.map_or(Ok(text), Err)
}

/// The cluster of nats-servers, which admit each other by a password too.
///
/// # Errors
/// The passwords cannot be drawn.
pub fn nats_cluster(own: Door, routes: &[Door], secrets: &Secrets) -> Result<String, Failure> {
    let password = secrets.password("nats-cluster")?;
    let urls: Vec<String> =
        routes.iter().map(|route| format!("\"nats-route://cluster:{}@{}\"", &*password, route.told)).collect();
    let advertised = if own.is_fronted() { format!("  advertise: \"{}\"\n", own.told) } else { String::new() };
    let own = own.own;
    Ok(format!(
        "cluster {{\n  name: \"checkout\"\n  listen: \"{own}\"\n{advertised}  authorization {{ user: cluster, password: \"{}\" }}\n  routes: [{}]\n}}\n",
        &*password,
        urls.join(", ")
    ))
}

/// The users of one node of a service's database. Nobody gets in without a name.
///
/// # Errors
/// The passwords cannot be drawn.
pub fn redis_users(service: Service, secrets: &Secrets) -> Result<String, Failure> {
    let password = |name: &str| secrets.password(name);
    Ok(format!(
        "user default off\n\
         user admin on >{} ~* &* +@all\n\
         user {service} on >{} ~* resetchannels {SERVICE_COMMANDS}\n\
         user replica on >{replica} resetchannels {REPLICA_COMMANDS}\n\
         user sentinel on >{} &* {SENTINEL_COMMANDS}\n\
         masteruser replica\nmasterauth {replica}\n",
        &*password("redis-admin")?,
        &*password(&format!("redis-{service}"))?,
        &*password("redis-sentinel")?,
        replica = &*password("redis-replica")?,
    ))
}

/// What a sentinel must know of a group that it watches over.
///
/// # Errors
/// The passwords cannot be drawn.
pub fn sentinel_login(group: &str, secrets: &Secrets) -> Result<String, Failure> {
    let password = secrets.password("redis-sentinel")?;
    Ok(format!("sentinel auth-user {group} sentinel\nsentinel auth-pass {group} {}\n", &*password))
}

/// What a service may do at the sentinels: ask what it asks them, and hear what it listens to. It may tell them nothing, and say nothing in their name
/// (`PUBLISH`): whom they hold to be the primary is whom all services believe.
fn at_sentinels() -> String {
    let channels: String = SENTINEL_NEWS.iter().map(|news| format!("&{news} ")).collect();
    let questions: String =
        SENTINEL_QUESTIONS.iter().map(|question| format!(" +sentinel|{}", question.to_lowercase())).collect();
    format!("resetchannels {channels}-@all +@connection -@dangerous +subscribe{questions}")
}

/// The users of a sentinel. The default one is the administrator, as whom they log in at each other.
///
/// # Errors
/// The passwords cannot be drawn.
pub fn sentinel_users(secrets: &Secrets) -> Result<String, Failure> {
    let (own, of_services) = (secrets.password("sentinel")?, secrets.password("sentinel-service")?);
    Ok(format!(
        "requirepass {own}\nsentinel sentinel-pass {own}\nuser {AT_SENTINELS} on >{} {}\n",
        &*of_services,
        at_sentinels(),
        own = &*own,
    ))
}

/// What the auditor is told of its login.
///
/// # Errors
/// The passwords cannot be drawn.
pub fn of_auditor(secrets: &Secrets) -> Result<Vec<(String, String)>, Failure> {
    let user = User::Auditor.name();
    let file = secrets.file(&format!("nats-{user}"))?.display().to_string();
    let env = [("NATS_USER", user.to_owned()), ("NATS_PASSWORD_FILE", file), ("NATS_PASSWORD", String::new())];
    Ok(env.map(|(name, value)| (name.to_owned(), value)).to_vec())
}

/// What an instance of a service is told of its logins: names and files, no password.
///
/// # Errors
/// The passwords cannot be drawn.
pub fn of_instance(service: Service, ha: bool, secrets: &Secrets) -> Result<Vec<(String, String)>, Failure> {
    let file = |name: &str| secrets.file(name).map(|path| path.display().to_string());
    let (at_sentinels, sentinel_file) =
        if ha { (AT_SENTINELS.to_owned(), file("sentinel-service")?) } else { Default::default() };
    let env = [
        ("NATS_USER", service.name().to_owned()),
        ("NATS_PASSWORD_FILE", file(&format!("nats-{service}"))?),
        ("REDIS_USER", service.name().to_owned()),
        ("REDIS_PASSWORD_FILE", file(&format!("redis-{service}"))?),
        ("SENTINEL_USER", at_sentinels),
        ("SENTINEL_PASSWORD_FILE", sentinel_file),
        // Not what the person's own shell has for the `nats` command line.
        ("NATS_PASSWORD", String::new()),
        ("REDIS_PASSWORD", String::new()),
        ("SENTINEL_PASSWORD", String::new()),
        // It could not create it, see `nats::access`; this command does, before and while the services run.
        ("TOPOLOGY", "verify".to_owned()),
    ];
    Ok(env.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn in_containers_everybody_may_do_the_same() {
        let script =
            |name: &str| std::fs::read_to_string(format!("{}/../compose/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap();
        for (script, rights) in [
            (script("sentinel.sh"), at_sentinels()),
            (script("redis.sh"), format!("~* resetchannels {SERVICE_COMMANDS}")),
            (script("redis.sh"), format!("resetchannels {REPLICA_COMMANDS}")),
            (script("redis.sh"), format!("&* {SENTINEL_COMMANDS}")),
        ] {
            let has_it = |line: &str| line.trim_end_matches('"').ends_with(&rights);
            assert!(script.lines().any(has_it), "nobody may do just this: {rights}");
        }
    }
}
