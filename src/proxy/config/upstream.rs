//! `[[upstreams]]`: the backends that calls are forwarded to.

use std::collections::{BTreeMap, BTreeSet};

use http::{HeaderName, HeaderValue};
use serde::Deserialize;

use crate::config::{Mistake, Secret, Span, within};
use crate::proxy::config::UpstreamUrl;

/// One backend that routes send their calls to.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpstreamConfig {
    /// The name by which routes refer to this upstream.
    pub name: String,
    /// Scheme, host and port. A host name is resolved in the background.
    pub url: UpstreamUrl,
    /// Headers that Farebox sends with every call to this upstream. They replace the client's
    /// headers of the same names, and are usually credentials.
    #[serde(default)]
    pub headers: BTreeMap<String, Secret>,
    /// The longest time for opening a connection.
    #[serde(default = "connect_timeout")]
    pub connect_timeout: Span,
    /// The longest time that the upstream may send nothing. If this time is exceeded before the
    /// answer, the client gets 504; if it is exceeded within the answer, the answer is cut off. A
    /// route may set another value.
    #[serde(default = "read_timeout")]
    pub read_timeout: Span,
    /// The longest time that an idle connection stays open. It must be shorter than the upstream's
    /// own limit: a call that is sent on a connection that the upstream is just closing is lost.
    #[serde(default = "keepalive_timeout")]
    pub keepalive_timeout: Span,
    /// Whether the client's credentials are forwarded.
    #[serde(default)]
    pub forward_authorization: bool,
}

const fn connect_timeout() -> Span {
    Span::from_secs(5)
}

const fn read_timeout() -> Span {
    Span::from_secs(120)
}

const fn keepalive_timeout() -> Span {
    Span::from_secs(4)
}

/// Headers that belong to the connection or to Farebox. A value from the config could break the
/// framing, or could be taken for Farebox's own statement about the caller.
const RESERVED_HEADERS: [&str; 18] = [
    "connection",
    "content-length",
    "expect",
    "forwarded",
    "host",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-farebox-account",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-request-id",
];

/// Finds the mistakes in each upstream and in all of them together, without asking the DNS.
pub fn check_upstreams(upstreams: &[UpstreamConfig]) -> Vec<Mistake> {
    let mut found = Vec::new();
    let mut names = BTreeSet::new();
    for (index, upstream) in upstreams.iter().enumerate() {
        let key = format!("upstreams[{index}]");
        if !names.insert(upstream.name.as_str()) {
            let message = format!("a second upstream is named {:?}", upstream.name);
            let hint = "give each upstream a name of its own";
            found.push(Mistake::new(format!("{key}.name"), message, hint));
        }
        found.extend(upstream.check(&key));
    }
    found
}

impl UpstreamConfig {
    fn check(&self, key: &str) -> Vec<Mistake> {
        let mut found = Vec::new();
        let letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
        if !(1..=64).contains(&self.name.len()) || !self.name.bytes().all(letter) {
            let message = format!("{:?} does not name an upstream", self.name);
            let hint = "use letters, digits, `-`, `_` and `.`, at most 64 of them";
            found.push(Mistake::new(format!("{key}.name"), message, hint));
        }
        let (none, moment, hour) =
            (Span::from_secs(0), Span::from_millis(1), Span::from_secs(3600));
        let limits = [
            ("connect_timeout", self.connect_timeout, moment..=Span::from_secs(300)),
            ("read_timeout", self.read_timeout, moment..=Span::from_secs(24 * 3600)),
            ("keepalive_timeout", self.keepalive_timeout, none..=hour),
        ];
        for (name, value, allowed) in limits {
            found.extend(within(&format!("{key}.{name}"), value, allowed));
        }
        let mut names = BTreeSet::new();
        for (name, value) in &self.headers {
            let wrong = check_header(name, value).or_else(|| {
                let repeated = !names.insert(name.to_ascii_lowercase());
                repeated.then(|| {
                    (format!("the header `{name}` is written twice"), "keep one of the two")
                })
            });
            if let Some((message, hint)) = wrong {
                found.push(Mistake::new(format!("{key}.headers.{name}"), message, hint));
            }
        }
        found
    }
}

fn check_header(name: &str, value: &Secret) -> Option<(String, &'static str)> {
    let Ok(parsed) = HeaderName::from_bytes(name.as_bytes()) else {
        return Some((format!("{name:?} is not the name of a header"), "write it like x-api-key"));
    };
    if RESERVED_HEADERS.contains(&parsed.as_str()) {
        let message = format!("Farebox sets the header `{name}` itself");
        return Some((message, "remove it; `headers` is for the upstream's own credentials"));
    }
    let text = value.expose();
    if text.is_empty() {
        return Some((format!("the header `{name}` is empty"), "set its variable, or remove it"));
    }
    if text.trim() != text {
        let message = format!("the header `{name}` starts or ends with a space");
        return Some((message, "is its variable empty, or does it end with a line break?"));
    }
    if HeaderValue::from_str(text).is_err() {
        let message = format!("the header `{name}` has a character that a header cannot carry");
        return Some((message, "use visible ASCII characters, on one line"));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upstream(name: &str) -> UpstreamConfig {
        toml::from_str(&format!("name = {name:?}\nurl = \"http://127.0.0.1:3000\"")).unwrap()
    }

    fn keys(upstreams: &[UpstreamConfig]) -> Vec<String> {
        check_upstreams(upstreams).into_iter().map(|mistake| mistake.key).collect()
    }

    #[test]
    fn an_upstream_has_a_name_of_its_own() {
        assert_eq!(keys(&[upstream("ai"), upstream("gpu-2.eu_west")]), [""; 0]);
        assert_eq!(keys(&[upstream("ai"), upstream("ai")]), ["upstreams[1].name"]);
        assert_eq!(keys(&[upstream(""), upstream("a b")]).len(), 2);
    }

    #[test]
    fn only_headers_that_can_be_sent_are_accepted() {
        let with = |name: &str, value: &str| {
            let mut upstream = upstream("ai");
            upstream.headers.insert(name.to_owned(), Secret::new(value));
            keys(&[upstream])
        };
        assert_eq!(with("authorization", "Bearer sk-1"), [""; 0]);
        for (name, value) in [
            ("Host", "example.com"),
            ("Connection", "close"),
            ("x-request-id", "1"),
            ("X-Farebox-Account", "alice"),
            ("content-length", "0"),
            ("a b", "x"),
            ("x-key", ""),
            ("x-key", "Bearer "),
            ("x-key", "two\nlines"),
        ] {
            assert_eq!(with(name, value), [format!("upstreams[0].headers.{name}")], "{value}");
        }
        let mut twice = upstream("ai");
        twice.headers.insert("X-Key".to_owned(), Secret::new("1"));
        twice.headers.insert("x-key".to_owned(), Secret::new("2"));
        assert_eq!(keys(&[twice]), ["upstreams[0].headers.x-key"]);
    }

    #[test]
    fn timeouts_have_limits() {
        let mut upstream = upstream("ai");
        upstream.connect_timeout = Span::from_secs(0);
        upstream.read_timeout = Span::from_secs(1_000_000);
        assert_eq!(
            keys(&[upstream]),
            ["upstreams[0].connect_timeout", "upstreams[0].read_timeout"]
        );
    }
}
