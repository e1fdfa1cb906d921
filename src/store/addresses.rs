//! Checks of the addresses in `[ledger]`, by the client libraries that will use them.

use std::net::IpAddr;
use std::str::FromStr as _;

use fred::types::config::Config;
use sqlx::postgres::{PgConnectOptions, PgSslMode};

use crate::config::{Mistake, Secret};
use crate::ledger::{BackendKind, LedgerConfig};

/// The schemes that the Redis client understands. Each may also end with `-sentinel`.
const REDIS_SCHEMES: [&str; 4] = ["redis", "rediss", "valkey", "valkeys"];

/// Finds mistakes in the addresses, without connecting. An empty address is not reported here, but
/// by [`LedgerConfig::check`].
pub fn check_addresses(config: &LedgerConfig) -> Vec<Mistake> {
    let mut found = Vec::from_iter(check_redis(config));
    for (name, url) in postgres_urls(config) {
        found.extend(url.as_ref().and_then(|url| check_postgres(name, url)));
    }
    found
}

/// Warns if the address of a Postgres on another machine does not say whether to use TLS.
pub fn warn_of_addresses(config: &LedgerConfig) -> Vec<Mistake> {
    if config.backend != BackendKind::Redis {
        return Vec::new();
    }
    let undecided = postgres_urls(config)
        .into_iter()
        .filter(|(_, url)| url.as_ref().is_some_and(|url| leaves_tls_open(url.expose())));
    let warning = |(name, _): (&str, _)| {
        let message = format!(
            "`{name}` is the address of another machine, and does not say `sslmode`: the connection \
             is plain where that server offers no TLS, and nothing checks whose certificate it has"
        );
        let hint =
            "add ?sslmode=verify-full to it; or ?sslmode=disable, where the network is private";
        Mistake::new(format!("ledger.{name}"), message, hint)
    };
    undecided.map(warning).collect()
}

fn postgres_urls(config: &LedgerConfig) -> [(&'static str, &Option<Secret>); 2] {
    [("postgres_url", &config.postgres_url), ("postgres_read_url", &config.postgres_read_url)]
}

fn check_redis(config: &LedgerConfig) -> Option<Mistake> {
    if config.backend != BackendKind::Redis {
        return None;
    }
    let url = config.redis_url.as_ref().filter(|url| !url.is_empty())?.expose();
    let scheme = url.split_once("://").map_or("", |(scheme, _)| scheme);
    if !REDIS_SCHEMES.contains(&scheme.strip_suffix("-sentinel").unwrap_or(scheme)) {
        let hint =
            "begin it with redis://, rediss:// for TLS, redis-sentinel:// or rediss-sentinel://";
        let message = "`redis_url` is not the address of a Redis that Farebox can use";
        return Some(Mistake::new("ledger.redis_url", message, hint));
    }
    // The address is read with a scheme without TLS, because with TLS the library would look for
    // certificates.
    let plain = url.replacen("rediss", "redis", 1).replacen("valkeys", "valkey", 1);
    if Config::from_url(&plain).is_err() {
        let hint = "write redis://:password@host:6379; in a password write `@`, `/`, `:` and `%` as \
                    %40, %2F, %3A and %25";
        let message = "`redis_url` cannot be read as an address";
        return Some(Mistake::new("ledger.redis_url", message, hint));
    }
    let uses_tls = scheme.starts_with("rediss") || scheme.starts_with("valkeys");
    (config.redis_ca_file.is_some() && !uses_tls).then(|| {
        let hint = "write rediss:// (or rediss-sentinel://) in redis_url, or remove the line";
        let message = "`redis_ca_file` is set, and `redis_url` uses no TLS";
        Mistake::new("ledger.redis_ca_file", message, hint)
    })
}

fn check_postgres(name: &str, url: &Secret) -> Option<Mistake> {
    let url = url.expose();
    let is_postgres = ["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme));
    if url.is_empty() || is_postgres && PgConnectOptions::from_str(url).is_ok() {
        return None;
    }
    let hint = "write postgres://user:password@host:5432/database; in a password write `@`, `/`, `:` and `%` as \
                %40, %2F, %3A and %25";
    let message = format!("`{name}` cannot be read as the address of a Postgres");
    Some(Mistake::new(format!("ledger.{name}"), message, hint))
}

/// Whether the address is that of a Postgres on another machine, and neither it nor PGSSLMODE says
/// whether to use TLS.
fn leaves_tls_open(url: &str) -> bool {
    let Ok(options) = PgConnectOptions::from_str(url) else { return false };
    let host = options.get_host();
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
    // A host that begins with `/` is the folder of a socket.
    let is_here = host == "localhost"
        || host.starts_with('/')
        || address.is_ok_and(|address| address.to_canonical().is_loopback());
    let query = url.split_once('?').map_or("", |(_, query)| query);
    let says =
        query.split('&').any(|pair| matches!(pair.split('=').next(), Some("sslmode" | "ssl-mode")));
    !is_here && !says && matches!(options.get_ssl_mode(), PgSslMode::Prefer)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn an_address_of_postgres_can_be_read() {
        for good in
            ["postgres://p", "postgresql://u:p@h:5433/db?sslmode=require", "postgres://u:%40@h/d"]
        {
            assert_eq!(check_postgres("postgres_url", &Secret::new(good)), None, "{good}");
        }
        for bad in
            ["x", "mysql://u:p@h/db", "u:p@h", "postgres://u:p@h:99999/db", "postgres://h:no/x"]
        {
            let found = check_postgres("postgres_read_url", &Secret::new(bad));
            assert_eq!(
                found.map(|mistake| mistake.key).as_deref(),
                Some("ledger.postgres_read_url")
            );
        }
    }

    #[test]
    fn a_postgres_on_another_machine_is_to_say_whether_it_uses_tls() {
        let remote = [
            "postgres://u:p@db.example:5432/d",
            "postgres://u:p@10.0.0.1/d?application_name=sslmode",
            "postgres://u:p@[2001:db8::1]:5432/d",
        ];
        for url in remote {
            assert!(leaves_tls_open(url), "{url}");
        }
        for url in [
            "postgres://u:p@db.example/d?sslmode=verify-full",
            "postgres://u:p@db.example/d?application_name=x&sslmode=prefer",
            "postgres://u:p@db.example/d?sslmode=disable",
            "postgres://u:p@localhost/d",
            "postgres://u:p@127.0.0.1:5433/d",
            "postgres://u:p@[::1]/d",
            "postgres:///d?host=/var/run/postgresql",
            "nonsense",
        ] {
            assert!(!leaves_tls_open(url), "{url}");
        }
        let url = |text: &str| Some(Secret::new(text));
        let config = LedgerConfig {
            backend: BackendKind::Redis,
            postgres_url: url(remote[0]),
            postgres_read_url: url(remote[1]),
            ..LedgerConfig::default()
        };
        let keys: Vec<_> =
            warn_of_addresses(&config).into_iter().map(|warning| warning.key).collect();
        assert_eq!(keys, ["ledger.postgres_url", "ledger.postgres_read_url"]);
        let embedded = LedgerConfig { backend: BackendKind::Embedded, ..config };
        assert_eq!(warn_of_addresses(&embedded), []);
    }

    #[test]
    fn an_address_of_redis_says_how_it_is_reached() {
        let check = |url: &str, ca: Option<&str>| {
            let config = LedgerConfig {
                backend: BackendKind::Redis,
                redis_url: Some(Secret::new(url)),
                redis_ca_file: ca.map(PathBuf::from),
                postgres_url: Some(Secret::new("postgres://p")),
                ..LedgerConfig::default()
            };
            check_addresses(&config).into_iter().map(|mistake| mistake.key).collect::<Vec<_>>()
        };
        for (url, ca) in [
            ("redis://:secret@r:6379/1", None),
            ("rediss://r", None),
            ("rediss://r", Some("ca.pem")),
            ("redis-sentinel://r:26379/0?sentinelServiceName=m", None),
            ("rediss-sentinel://r:26379/0?sentinelServiceName=m", Some("ca.pem")),
            ("valkeys://r", Some("ca.pem")),
        ] {
            assert_eq!(check(url, ca), [""; 0], "{url}");
        }
        assert_eq!(check("redis://r", Some("ca.pem")), ["ledger.redis_ca_file"]);
        for url in
            ["r:6379", "redis-cluster://r:6379", "http://r", "redis://r:99999", "rediss://r:99999"]
        {
            assert_eq!(check(url, None), ["ledger.redis_url"], "{url}");
        }
    }
}
