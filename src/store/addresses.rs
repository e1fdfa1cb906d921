//! Checks of the addresses in `[ledger]`, by the client libraries that will use them.

use std::net::IpAddr;

use fred::types::config::Config;
use sqlx::postgres::{PgConnectOptions, PgSslMode};

use crate::config::{Mistake, Secret};
use crate::ledger::{BackendKind, LedgerConfig};
use crate::store::postgres_address::{AddressError, PostgresAddress, says_ssl_mode};
use crate::store::tls_files::TlsFiles;

/// The schemes that the Redis client understands. Each may also end with `-sentinel`.
const REDIS_SCHEMES: [&str; 4] = ["redis", "rediss", "valkey", "valkeys"];

/// Finds mistakes in the addresses, without connecting. An empty address is not reported here, but
/// by [`LedgerConfig::check`].
pub fn check_addresses(config: &LedgerConfig) -> Vec<Mistake> {
    let mut found = Vec::from_iter(check_redis(config));
    for (name, url) in postgres_urls(config) {
        found.extend(url.as_ref().and_then(|url| check_postgres(name, url)));
    }
    found.extend(check_files(config));
    found
}

/// Warns if the address of a Postgres on another machine does not say whether to use TLS.
pub fn warn_of_addresses(config: &LedgerConfig) -> Vec<Mistake> {
    if config.backend != BackendKind::Redis || !TlsFiles::of_postgres(config).is_empty() {
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

/// The address with the scheme that stands for a connection without TLS.
pub(crate) fn without_tls(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let scheme = scheme.replacen("rediss", "redis", 1).replacen("valkeys", "valkey", 1);
    format!("{scheme}://{rest}")
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
    if Config::from_url(&without_tls(url)).is_err() {
        let hint = "write redis://:password@host:6379; in a password write `@`, `/`, `:` and `%` as \
                    %40, %2F, %3A and %25";
        let message = "`redis_url` cannot be read as an address";
        return Some(Mistake::new("ledger.redis_url", message, hint));
    }
    let uses_tls = scheme.starts_with("rediss") || scheme.starts_with("valkeys");
    if uses_tls {
        return None;
    }
    let files = [
        ("redis_ca_file", &config.redis_ca_file),
        ("redis_cert_file", &config.redis_cert_file),
        ("redis_key_file", &config.redis_key_file),
    ];
    let (name, _) = files.into_iter().find(|(_, file)| file.is_some())?;
    let hint = "write rediss:// (or rediss-sentinel://) in redis_url, or remove the line";
    let message = format!("`{name}` is set, and `redis_url` uses no TLS");
    Some(Mistake::new(format!("ledger.{name}"), message, hint))
}

/// Finds TLS files in the config that would not be used.
fn check_files(config: &LedgerConfig) -> Vec<Mistake> {
    let mut found = Vec::new();
    if config.backend != BackendKind::Redis {
        return found;
    }
    if config.redis_cert_file.is_some() && config.redis_ca_file.is_none() {
        let message = "`redis_cert_file` is set, and `redis_ca_file` is not";
        let hint = "name the authority of Redis's certificate as well; the system's may be in \
                    /etc/ssl/certs/ca-certificates.crt";
        found.push(Mistake::new("ledger.redis_cert_file", message, hint));
    }
    if TlsFiles::of_postgres(config).is_empty() {
        return found;
    }
    for (name, url) in postgres_urls(config) {
        let address = url.as_ref().and_then(|url| PostgresAddress::parse(url).ok());
        let modes =
            address.iter().flat_map(|address| &address.hosts).map(PgConnectOptions::get_ssl_mode);
        let may_be_plain =
            |mode| matches!(mode, PgSslMode::Disable | PgSslMode::Allow | PgSslMode::Prefer);
        if url.as_ref().is_some_and(|url| says_ssl_mode(url.expose()))
            && modes.into_iter().any(may_be_plain)
        {
            let message = format!(
                "files of TLS are named for Postgres, and the `sslmode` in `{name}` does not use TLS in any case"
            );
            let hint = "write sslmode=verify-full, or remove sslmode, which is the same then";
            found.push(Mistake::new(format!("ledger.{name}"), message, hint));
        }
    }
    found
}

fn check_postgres(name: &str, url: &Secret) -> Option<Mistake> {
    if url.is_empty() {
        return None;
    }
    let key = format!("ledger.{name}");
    match PostgresAddress::parse(url) {
        Err(AddressError::Unreadable) => {
            let hint = "write postgres://user:password@host:5432/database, or several hosts as host:5432,other:5432; \
                        in a password write `@`, `/`, `:` and `%` as %40, %2F, %3A and %25";
            let message = format!("`{name}` cannot be read as the address of a Postgres");
            Some(Mistake::new(key, message, hint))
        }
        Err(AddressError::UnknownTarget) => {
            let message =
                format!("the `target_session_attrs` of `{name}` is not one that Farebox knows");
            Some(Mistake::new(key, message, "write target_session_attrs=read-write, or any"))
        }
        // The connections to `postgres_url` write.
        Ok(address)
            if name == "postgres_url" && address.hosts.len() > 1 && !address.is_read_write =>
        {
            let message = format!(
                "`{name}` has several hosts, and does not say that the one that takes writes is wanted"
            );
            Some(Mistake::new(key, message, "add ?target_session_attrs=read-write to it"))
        }
        Ok(_) => None,
    }
}

/// Whether the address leads to a Postgres on another machine, and neither the address nor PGSSLMODE says whether to
/// use TLS.
fn leaves_tls_open(url: &str) -> bool {
    let Ok(address) = PostgresAddress::parse(&Secret::new(url)) else { return false };
    let leaves_open = |options: &PgConnectOptions| {
        let host = options.get_host();
        let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
        // A host that begins with `/` is the folder of a socket.
        let is_here = host == "localhost"
            || host.starts_with('/')
            || address.is_ok_and(|address| address.to_canonical().is_loopback());
        !is_here && matches!(options.get_ssl_mode(), PgSslMode::Prefer)
    };
    !says_ssl_mode(url) && address.hosts.iter().any(leaves_open)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn only_the_scheme_of_an_address_loses_its_tls() {
        for (url, expected) in [
            ("rediss://valkeys-1.example:6379/0", "redis://valkeys-1.example:6379/0"),
            ("valkeys://:rediss1@host:6379", "valkey://:rediss1@host:6379"),
            ("rediss-sentinel://a:26379?node=rediss", "redis-sentinel://a:26379?node=rediss"),
            ("redis://rediss:6379", "redis://rediss:6379"),
        ] {
            assert_eq!(without_tls(url), expected);
        }
    }

    #[test]
    fn an_address_of_postgres_can_be_read() {
        for good in
            ["postgres://p", "postgresql://u:p@h:5433/db?sslmode=require", "postgres://u:%40@h/d"]
        {
            assert_eq!(check_postgres("postgres_url", &Secret::new(good)), None, "{good}");
        }
        for bad in [
            "x",
            "mysql://u:p@h/db",
            "u:p@h",
            "postgres://u:p@h:99999/db",
            "postgres://h:no/x",
            "postgres://a,/x",
            "postgres://a,b/x?target_session_attrs=standby",
        ] {
            let found = check_postgres("postgres_read_url", &Secret::new(bad));
            assert_eq!(
                found.map(|mistake| mistake.key).as_deref(),
                Some("ledger.postgres_read_url")
            );
        }
    }

    #[test]
    fn the_host_that_takes_writes_is_asked_for_among_several() {
        let check = |name, url| check_postgres(name, &Secret::new(url)).map(|mistake| mistake.hint);
        let list = "postgres://a,b/d";
        assert!(check("postgres_url", list).unwrap().contains("target_session_attrs=read-write"));
        assert_eq!(check("postgres_url", "postgres://a,b/d?target_session_attrs=read-write"), None);
        assert_eq!(check("postgres_read_url", list), None);
    }

    #[test]
    fn files_of_tls_that_would_not_be_used_are_mistakes() {
        let check = |redis_url: &str, redis_ca: bool, postgres_url: &str| {
            let file = Some(PathBuf::from("x.pem"));
            let config = LedgerConfig {
                backend: BackendKind::Redis,
                redis_url: Some(Secret::new(redis_url)),
                redis_ca_file: file.clone().filter(|_| redis_ca),
                redis_cert_file: file.clone(),
                redis_key_file: file.clone(),
                postgres_url: Some(Secret::new(postgres_url)),
                postgres_ca_file: file,
                ..LedgerConfig::default()
            };
            check_addresses(&config).into_iter().map(|mistake| mistake.key).collect::<Vec<_>>()
        };
        assert_eq!(check("rediss://r", true, "postgres://p"), [""; 0]);
        assert_eq!(check("rediss://r", true, "postgres://p/d?sslmode=require"), [""; 0]);
        assert_eq!(check("rediss://r", false, "postgres://p"), ["ledger.redis_cert_file"]);
        assert_eq!(check("redis://r", true, "postgres://p"), ["ledger.redis_ca_file"]);
        let plain = "postgres://p/d?sslmode=prefer";
        assert_eq!(check("rediss://r", true, plain), ["ledger.postgres_url"]);
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
