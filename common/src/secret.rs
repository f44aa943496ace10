//! What must not be seen: in no log, no message, no list of processes.

use std::fmt;
use std::ops::Deref;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

/// A text that shows itself to nobody who only prints it. Where it is used, it is the text.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Keeps a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl Deref for Secret {
    type Target = str;
    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Who one is to a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// The user.
    pub user: String,
    /// The password.
    pub password: Secret,
}

impl Login {
    /// The login as the part of a URL before the host.
    fn before_host(&self) -> String {
        let encoded = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        format!("{}:{}@", encoded(&self.user), encoded(&self.password))
    }

    /// These URLs, separated by commas, with the login in each that has a scheme and no login of its own.
    pub fn in_urls(&self, urls: &str) -> Secret {
        let each = urls.split(',').map(|url| match url.split_once("://") {
            Some((scheme, rest)) if !rest.contains('@') => format!("{scheme}://{}{rest}", self.before_host()),
            _ => url.to_owned(),
        });
        Secret(each.collect::<Vec<_>>().join(","))
    }
}

impl Login {
    /// One URL with the login in it, unless it has one; its hosts may be several, separated by commas.
    pub fn in_url(&self, url: &str) -> Secret {
        Secret(match url.split_once("://") {
            Some((scheme, rest)) if !rest.contains('@') => format!("{scheme}://{}{rest}", self.before_host()),
            _ => url.to_owned(),
        })
    }
}

/// A sentinel URL with the login at its sentinels. Where that names no user, whom the URL names already logs in, or the sentinels' default user.
pub fn with_sentinel_login(url: &str, login: &Login) -> Secret {
    let separator = if url.contains('?') { '&' } else { '?' };
    let encoded = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let user = match login.user.as_str() {
        "" => String::new(),
        user => format!("sentinel_user={}&", encoded(user)),
    };
    Secret(format!("{url}{separator}{user}sentinel_password={}", encoded(&login.password)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_stands_in_every_url_and_in_no_print() {
        let login = Login { user: "order".into(), password: Secret::new("p@s/s,:1") };
        assert_eq!(
            &*login.in_urls("nats://one:1, nats://two:2,three"),
            "nats://order:p%40s%2Fs%2C%3A1@one:1, nats://order:p%40s%2Fs%2C%3A1@two:2,three"
        );
        assert_eq!(&*login.in_urls("redis://a:b@one"), "redis://a:b@one", "what the URL says itself holds");
        let sentinels = login.in_url("redis+sentinel://one:1,two:2/name");
        assert_eq!(&*sentinels, "redis+sentinel://order:p%40s%2Fs%2C%3A1@one:1,two:2/name");
        let at_sentinels = Login { user: "service".into(), password: Secret::new("w/") };
        assert_eq!(
            &*with_sentinel_login(&sentinels, &at_sentinels),
            format!("{}?sentinel_user=service&sentinel_password=w%2F", &*sentinels)
        );
        let named = "redis+sentinel://one:1/name?sentinel_user=service";
        assert_eq!(
            &*with_sentinel_login(named, &Login { user: String::new(), ..at_sentinels }),
            format!("{named}&sentinel_password=w%2F"),
            "whom the URL names"
        );
        assert!(!format!("{login:?}{sentinels:?}").contains("p@s"));
    }
}
