//! The address of Postgres in the config. It may name several hosts, in the form that libpq accepts:
//! `postgres://user@one:5432,two:5432/db?target_session_attrs=read-write`.

use std::str::FromStr as _;

use sqlx::postgres::{PgConnectOptions, PgSslMode};

use crate::config::Secret;
use crate::store::tls_files::TlsFiles;

/// The parameter that says which of the hosts to use. libpq has it, but the client library does not know it.
const TARGET: &str = "target_session_attrs";

/// The hosts of an address, in order, and the condition for using one.
#[derive(Clone, Debug)]
pub(crate) struct PostgresAddress {
    /// The hosts; there is at least one.
    pub hosts: Vec<PgConnectOptions>,
    /// Whether only a host that accepts writes may be used.
    pub is_read_write: bool,
}

/// The reason why an address cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AddressError {
    /// The address cannot be parsed.
    Unreadable,
    /// The address requests a kind of host that Farebox does not know.
    UnknownTarget,
}

impl PostgresAddress {
    /// Parses an address, without connecting.
    pub fn parse(url: &Secret) -> Result<Self, AddressError> {
        let url = url.expose();
        let (scheme, rest) = url.split_once("://").ok_or(AddressError::Unreadable)?;
        if !["postgres", "postgresql"].contains(&scheme) {
            return Err(AddressError::Unreadable);
        }
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let (user, hosts) = match authority.rsplit_once('@') {
            Some((user, hosts)) => (format!("{user}@"), hosts),
            None => (String::new(), authority),
        };
        let (path, target) = without_target(path);
        let is_read_write = match target {
            None | Some("any") => false,
            Some("read-write" | "primary") => true,
            Some(_) => return Err(AddressError::UnknownTarget),
        };
        let one = |host: &str| {
            let options = PgConnectOptions::from_str(&format!("{scheme}://{user}{host}{path}"));
            options.map_err(|_| AddressError::Unreadable)
        };
        let is_list = hosts.contains(',');
        if is_list && hosts.split(',').any(str::is_empty) {
            return Err(AddressError::Unreadable);
        }
        let hosts = hosts.split(',').map(one).collect::<Result<_, _>>()?;
        Ok(Self { hosts, is_read_write })
    }

    /// Adds the TLS files to each host. If there are files and the address has no `sslmode`, the server's certificate
    /// is checked in full.
    pub fn with_files(mut self, url: &Secret, files: &TlsFiles) -> Self {
        let is_open = !files.is_empty() && !says_ssl_mode(url.expose());
        for host in &mut self.hosts {
            let mut options = host.clone();
            if is_open {
                options = options.ssl_mode(PgSslMode::VerifyFull);
            }
            if let Some(ca) = &files.ca {
                options = options.ssl_root_cert(ca);
            }
            if let (Some(cert), Some(key)) = (&files.cert, &files.key) {
                options = options.ssl_client_cert(cert).ssl_client_key(key);
            }
            *host = options;
        }
        self
    }
}

/// Whether an address says whether to use TLS.
pub(crate) fn says_ssl_mode(url: &str) -> bool {
    let query = url.split_once('?').map_or("", |(_, query)| query);
    query.split('&').any(|pair| matches!(pair.split('=').next(), Some("sslmode" | "ssl-mode")))
}

/// Removes [`TARGET`] from the query that follows a path. Returns the rest, and the parameter's value.
fn without_target(path: &str) -> (String, Option<&str>) {
    let Some((path, query)) = path.split_once('?') else { return (path.to_owned(), None) };
    let (mut kept, mut target) = (Vec::new(), None);
    for pair in query.split('&') {
        match pair.split_once('=') {
            Some((TARGET, value)) => target = Some(value),
            _ => kept.push(pair),
        }
    }
    let rest = if kept.is_empty() { path.to_owned() } else { format!("{path}?{}", kept.join("&")) };
    (rest, target)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<PostgresAddress, AddressError> {
        PostgresAddress::parse(&Secret::new(url))
    }

    fn hosts(address: &PostgresAddress) -> Vec<(String, u16)> {
        address.hosts.iter().map(|host| (host.get_host().to_owned(), host.get_port())).collect()
    }

    #[test]
    fn an_address_may_have_several_hosts() {
        let address = parse(
            "postgres://u:p%40@a.example:5433,b.example,[::1]:5434/db?sslmode=require&target_session_attrs=read-write",
        )
        .unwrap();
        let expected = [("a.example", 5433), ("b.example", 5432), ("[::1]", 5434)];
        assert_eq!(hosts(&address), expected.map(|(host, port)| (host.to_owned(), port)));
        assert!(address.is_read_write);
        for host in &address.hosts {
            assert_eq!((host.get_username(), host.get_database()), ("u", Some("db")));
            assert!(matches!(host.get_ssl_mode(), PgSslMode::Require));
        }
    }

    #[test]
    fn an_address_of_one_host_is_read_as_before() {
        for (url, is_read_write) in [
            ("postgres://u@h:5433/db", false),
            ("postgres://u@h:5433/db?target_session_attrs=any", false),
            ("postgresql://u@h:5433/db?target_session_attrs=primary", true),
        ] {
            let address = parse(url).unwrap();
            assert_eq!(hosts(&address), [("h".to_owned(), 5433)], "{url}");
            assert_eq!(address.is_read_write, is_read_write, "{url}");
        }
        assert_eq!(parse("postgres:///d?host=/run/postgresql").unwrap().hosts.len(), 1);
    }

    #[test]
    fn addresses_that_cannot_be_used_are_told_apart() {
        for url in ["x", "mysql://h/d", "postgres://a,,b/d", "postgres://a:99999,b/d"] {
            assert_eq!(parse(url).unwrap_err(), AddressError::Unreadable, "{url}");
        }
        let standby = parse("postgres://a,b/d?target_session_attrs=standby");
        assert_eq!(standby.unwrap_err(), AddressError::UnknownTarget);
    }

    #[test]
    fn a_named_authority_is_used_unless_the_address_says_otherwise() {
        let files = TlsFiles { ca: Some("ca.pem".into()), ..TlsFiles::default() };
        for (url, is_full) in [("postgres://h/d", true), ("postgres://h/d?sslmode=require", false)]
        {
            let url = Secret::new(url);
            let address = PostgresAddress::parse(&url).unwrap().with_files(&url, &files);
            let mode = address.hosts[0].get_ssl_mode();
            assert_eq!(matches!(mode, PgSslMode::VerifyFull), is_full);
        }
    }
}
