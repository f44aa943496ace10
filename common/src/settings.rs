//! Settings from the environment, read once at start. A wrong one ends the process with one line that names it.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use crate::process::Description;
use crate::secret::{Login, Secret};

/// Exit code for a wrong setting or argument: `EX_USAGE` of sysexits.h.
pub const EXIT_USAGE: u8 = 64;

/// A setting cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name}={}: {why}", without_secrets(value))]
pub struct WrongSetting {
    name: &'static str,
    value: String,
    why: String,
}

impl WrongSetting {
    /// A setting that was read but does not fit.
    pub fn new(name: &'static str, value: impl Into<String>, why: impl Display) -> Self {
        Self { name, value: value.into(), why: why.to_string() }
    }
}

/// The text without the user names and passwords of the URLs in it: what is printed and logged of a setting.
pub fn without_secrets(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("://") {
        shown.push_str(before);
        shown.push_str("://");
        // Several URLs are separated by commas, but a password may hold one too: up to the next URL, all before the last `@` is secret.
        let end = after.find("://").map_or(after.len(), |next| after[..next].rfind(',').unwrap_or(next));
        rest = match after[..end].rfind('@') {
            Some(at) => {
                shown.push_str("***");
                &after[at..]
            }
            None => after,
        };
        if let Some(next) = rest.find("://") {
            let start = rest[..next].rfind(',').unwrap_or(0);
            shown.push_str(&rest[..start]);
            rest = &rest[start..];
        }
    }
    shown.push_str(rest);
    shown
}

/// One line of a service's configuration table.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// The variable.
    pub name: &'static str,
    /// The value where the variable is not set; empty for "none".
    pub default: &'static str,
    /// What it does, and its unit.
    pub help: &'static str,
}

/// The settings that every service has.
pub const COMMON: &[Setting] = &[
    Setting { name: "LISTEN", default: "LISTEN_DEFAULT", help: "address and port of the HTTP server" },
    Setting {
        name: "INSTANCE",
        default: "SERVICE-1",
        help: "name of this instance in logs and events; @hostname: that of its container",
    },
    Setting {
        name: "REDIS_URL",
        default: "redis://127.0.0.1:6379",
        help: "the service's own database; behind sentinels: redis+sentinel://HOST:PORT,HOST:PORT,…/NAME",
    },
    Setting { name: "REDIS_USER", default: "", help: "who the service is to its database" },
    Setting {
        name: "REDIS_PASSWORD",
        default: "",
        help: "its password there; REDIS_PASSWORD_FILE names a file with it",
    },
    Setting {
        name: "SENTINEL_USER",
        default: "",
        help: "who the service is to the sentinels; where only a password is given, whom REDIS_URL names, or their default user",
    },
    Setting {
        name: "SENTINEL_PASSWORD",
        default: "",
        help: "its password there; SENTINEL_PASSWORD_FILE names a file with it",
    },
    Setting { name: "NATS_URL", default: "nats://127.0.0.1:4222", help: "NATS servers, separated by commas" },
    Setting { name: "NATS_USER", default: "", help: "who the service is to NATS" },
    Setting { name: "NATS_PASSWORD", default: "", help: "its password there; NATS_PASSWORD_FILE names a file with it" },
    Setting {
        name: "TOPOLOGY",
        default: "create",
        help: "create streams and durables that are missing, or only verify them: `checkout topology` creates them then",
    },
    Setting {
        name: "LOG",
        default: crate::telemetry::LOG_DEFAULT,
        help: "log filter, as RUST_LOG of the tracing crate",
    },
    Setting { name: "LOG_FORMAT", default: "text", help: "text or json" },
    Setting { name: "REDIS_LANES", default: "2", help: "connections that write to the database in turn" },
    Setting {
        name: "REDIS_WAIT_REPLICAS",
        default: "0",
        help: "replicas that must have a write before anybody is told of it, at least; behind sentinels, if not 0, all that could be made the primary",
    },
    Setting {
        name: "REQUEST_LIMIT_MS",
        default: "10000",
        help: "how long a request may wait for its outcome; after it, 202 or 503",
    },
    Setting {
        name: "HEAD_LIMIT_MS",
        default: "60000",
        help: "how long a client may take for the head of a request, or be idle before it",
    },
    Setting {
        name: "FAREWELL_MS",
        default: "1000",
        help: "how long a stopping instance says that it is not ready and serves on, before it drains",
    },
    Setting { name: "DRAIN_LIMIT_MS", default: "15000", help: "how long a stop may take before it is forced" },
    Setting {
        name: "IDEMPOTENCY_TTL_S",
        default: "86400",
        help: "how long the reply of a request with an Idempotency-Key is kept, in seconds",
    },
    Setting {
        name: "STREAM_MAX_BYTES",
        default: "1073741824",
        help: "history that the CHECKOUT stream keeps, in bytes",
    },
    Setting { name: "STREAM_MAX_AGE_S", default: "86400", help: "history that the CHECKOUT stream keeps, in seconds" },
    Setting {
        name: "ACK_WAIT_MS",
        default: "10000",
        help: "how long an event may be in hand without a sign of life before another instance gets it",
    },
    Setting { name: "STREAM_REPLICAS", default: "1", help: "NATS servers that keep each stream: 1, 3 or 5" },
    Setting { name: "CRASH_AT", default: "", help: "fault injection: end the process at this point[:n]" },
    Setting { name: "GENERATION", default: "1", help: "how often a supervisor has started this; CRASH_AT needs 1" },
];

/// Reads one variable, or its default.
///
/// # Errors
/// The value is not of the wanted type.
pub fn read<T>(name: &'static str, default: &str) -> Result<T, WrongSetting>
where
    T: FromStr,
    T::Err: Display,
{
    let value = std::env::var(name).ok().filter(|value| !value.is_empty()).unwrap_or_else(|| default.to_owned());
    value.parse().map_err(|why| WrongSetting::new(name, &value, why))
}

/// Reads one variable that need not be set.
pub fn read_optional(name: &'static str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Reads a secret that need not be set: `name`, or the contents of the file that `name_FILE` names, without the line end.
///
/// # Errors
/// The file cannot be read.
pub fn read_secret(name: &'static str, file_name: &'static str) -> Result<Option<Secret>, WrongSetting> {
    if let Some(secret) = read_optional(name) {
        return Ok(Some(Secret::new(secret)));
    }
    let Some(path) = read_optional(file_name) else { return Ok(None) };
    let text = std::fs::read_to_string(&path).map_err(|why| WrongSetting::new(file_name, &path, why))?;
    Ok(Some(Secret::new(text.trim_end_matches(['\r', '\n']))))
}

/// Reads who one is to a server: nobody, where there is no user.
///
/// # Errors
/// A user without a password, or the other way round, or a file that cannot be read.
pub fn read_login(
    user_name: &'static str,
    name: &'static str,
    file_name: &'static str,
) -> Result<Option<Login>, WrongSetting> {
    match (read_optional(user_name), read_secret(name, file_name)?) {
        (Some(user), Some(password)) => Ok(Some(Login { user, password })),
        (None, None) => Ok(None),
        (Some(user), None) => Err(WrongSetting::new(user_name, user, format!("expected a password in {name} too"))),
        (None, Some(_)) => Err(WrongSetting::new(user_name, "", format!("expected a user, because {name} is set"))),
    }
}

/// Reads who one is to the sentinels: nobody, where there is no password. With a password alone the user is empty: whom the URL names, or their
/// default user.
///
/// # Errors
/// A user without a password, or a file that cannot be read.
pub fn read_sentinel_login() -> Result<Option<Login>, WrongSetting> {
    match (read_optional("SENTINEL_USER"), read_secret("SENTINEL_PASSWORD", "SENTINEL_PASSWORD_FILE")?) {
        (None, None) => Ok(None),
        (Some(user), None) => {
            Err(WrongSetting::new("SENTINEL_USER", user, "expected a password in SENTINEL_PASSWORD too"))
        }
        (user, Some(password)) => Ok(Some(Login { user: user.unwrap_or_default(), password })),
    }
}

/// Reads a duration in milliseconds from 1 ms to one day.
///
/// # Errors
/// The value is not a whole number within these bounds.
pub fn read_ms(name: &'static str, default: &str) -> Result<Duration, WrongSetting> {
    read_within(name, default, 1..=86_400_000, "milliseconds").map(Duration::from_millis)
}

/// Reads for how many seconds something is kept, from one to some thirty years. (Redis refuses a lifetime of 0 and one beyond its clock, when what
/// is to be kept so is already done.)
///
/// # Errors
/// The value is not a whole number within these bounds.
pub fn read_lifetime(name: &'static str, default: &str) -> Result<u64, WrongSetting> {
    read_within(name, default, 1..=1_000_000_000, "seconds")
}

/// Reads a whole number of `unit` within bounds.
///
/// # Errors
/// The value is none.
pub fn read_within(
    name: &'static str,
    default: &str,
    bounds: RangeInclusive<u64>,
    unit: &str,
) -> Result<u64, WrongSetting> {
    let value: u64 = read(name, default)?;
    if bounds.contains(&value) {
        return Ok(value);
    }
    Err(WrongSetting::new(name, value.to_string(), format!("expected {} to {} {unit}", bounds.start(), bounds.end())))
}

/// The `--help` text of a service: what it is, and its settings as a table.
pub fn help(service: &Description) -> String {
    use std::fmt::Write as _;
    let name = service.name;
    let mut text = format!(
        "{}\n\nUsage: {name} [--help | healthcheck [PATH]]\n\n\
         healthcheck asks the instance at LISTEN for PATH [default: {HEALTH}], for images without a shell: exit code 0 if it answers 200, else 1.\n\n\
         Settings, all from the environment:\n",
        service.about
    );
    for setting in service.own.iter().chain(COMMON) {
        let default = setting.default.replace("SERVICE", name).replace("LISTEN_DEFAULT", service.listen);
        let default = if default.is_empty() { "none".to_owned() } else { default };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {:<24} {} [default: {default}]", setting.name, setting.help);
    }
    text.push_str("\nExit codes: 0 after a clean stop, 64 for a wrong setting, 1 for anything else.\n");
    text
}

/// What a health check asks for, if it is not told.
const HEALTH: &str = "/health/ready";

fn healthcheck(service: &Description, path: &str) -> u8 {
    let asked = read("LISTEN", service.listen).map_err(|wrong| (EXIT_USAGE, wrong.to_string()));
    match asked.and_then(|listen| crate::healthcheck::ask(listen, path).map_err(|why| (1, why))) {
        Ok(answer) => {
            println!("{answer}");
            0
        }
        Err((code, why)) => {
            eprintln!("{}: {why}", service.name);
            code
        }
    }
}

/// Handles the only arguments that a service takes. `Some` ends the process with that exit code.
pub fn handle_arguments(service: &Description) -> Option<u8> {
    let mut words = std::env::args().skip(1);
    match words.next().as_deref() {
        None => None,
        Some("healthcheck") => Some(healthcheck(service, &words.next().unwrap_or_else(|| HEALTH.to_owned()))),
        Some("--help" | "-h") => {
            print!("{}", help(service));
            Some(0)
        }
        Some(other) => {
            let name = service.name;
            eprintln!("{name}: unknown argument {other:?}; settings come from the environment, see {name} --help");
            Some(EXIT_USAGE)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_hold_where_nothing_is_set() {
        assert_eq!(read::<u64>("CHECKOUT_TEST_UNSET", "17"), Ok(17));
        assert_eq!(read_ms("CHECKOUT_TEST_UNSET", "250"), Ok(Duration::from_millis(250)));
    }

    #[test]
    fn a_wrong_setting_names_itself() {
        let error = read::<u64>("CHECKOUT_TEST_UNSET", "many").unwrap_err().to_string();
        assert!(error.starts_with("CHECKOUT_TEST_UNSET=many: "), "{error}");
        assert!(read_ms("CHECKOUT_TEST_UNSET", "0").is_err());
    }

    #[test]
    fn what_is_shown_of_a_url_has_no_password() {
        for (text, shown) in [
            ("redis://127.0.0.1:6379", "redis://127.0.0.1:6379"),
            ("redis://user:pass@host:1/0", "redis://***@host:1/0"),
            ("redis://:p@ss,w:/ord@host", "redis://***@host"),
            ("nats://a:b@one:4222,nats://c:d@two:4222", "nats://***@one:4222,nats://***@two:4222"),
            ("nats://one:4222,nats://c:d@two:4222", "nats://one:4222,nats://***@two:4222"),
            ("nats://c:d@two:4222,three:4222", "nats://***@two:4222,three:4222"),
            ("no url, me@home", "no url, me@home"),
            ("", ""),
        ] {
            assert_eq!(without_secrets(text), shown, "{text}");
        }
        let wrong = WrongSetting::new("REDIS_URL", "redis://a:secret@b:x", "no").to_string();
        assert_eq!(wrong, "REDIS_URL=redis://***@b:x: no");
    }

    #[test]
    fn help_lists_every_setting() {
        let text = help(&Description { name: "order", listen: "127.0.0.1:8001", about: "About.", own: &[] });
        for setting in COMMON {
            assert!(text.contains(setting.name), "{}", setting.name);
        }
    }
}
