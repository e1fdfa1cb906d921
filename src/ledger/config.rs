//! `[ledger]` and `[credits]`.

use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr as _;

use fred::types::config::Config;
use serde::Deserialize;
use sqlx::postgres::{PgConnectOptions, PgSslMode};

use crate::config::{Mistake, Secret, within};
use crate::credits::Credits;

use super::crash::AfterCrash;
use crate::store::cluster::redis::script::LAYOUT;

/// Where credits are kept, and how safely.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LedgerConfig {
    /// Which implementation.
    pub backend: BackendKind,
    /// The file of the embedded ledger; its lock and its log stand beside it.
    pub path: PathBuf,
    /// The Redis of the `redis` backend.
    pub redis_url: Option<Secret>,
    /// Who vouches for that Redis's certificate, as PEM; the system's authorities where there is none.
    pub redis_ca_file: Option<PathBuf>,
    /// The Postgres that it is synced to.
    pub postgres_url: Option<Secret>,
    /// Farebox's own schema in there.
    pub postgres_schema: String,
    /// A replica for lists and reports.
    pub postgres_read_url: Option<Secret>,
    /// What a call waits for before it is forwarded.
    pub durability: Durability,
    /// Decides the holds of calls that a crash left, or that a stop cut off: captured or released.
    pub after_crash: AfterCrash,
    /// A name for this gateway that it keeps over a restart, so that the holds of its calls are given
    /// back at once after a crash; a new one each time where there is none.
    pub gateway_name: Option<String>,
    /// How many credits of one account may be taken in `relaxed` before Postgres knows of it: what
    /// can be lost if Redis and a gateway are lost at once.
    pub unsynced_cap: Credits,
    /// How much of what Postgres does not know yet a gateway keeps in its memory, in `relaxed`: beyond
    /// it new calls get 503 until Postgres is back.
    pub redo_limit_bytes: usize,
    /// No setting: the layout of Redis's data that this version has. A test is another version with another.
    #[serde(skip)]
    pub layout: i32,
}

/// A kind of ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackendKind {
    /// SQLite, in one process, nothing to install.
    Embedded,
    /// Redis, synced to Postgres.
    Redis,
}

/// What a call waits for before it is forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Durability {
    /// Its hold is on disk.
    Strict,
    /// Its hold is in memory; a power cut can lose the last moments.
    Relaxed,
}

impl Durability {
    /// As it is written and stored.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Strict => "strict",
            Self::Relaxed => "relaxed",
        }
    }
}

/// `[credits]`: what holds for every account.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CreditsConfig {
    /// Below this an account is told that it runs low.
    pub low_balance: Credits,
    /// Given once, when an account is first seen.
    pub signup_grant: Credits,
}

const LOW_BALANCE: Credits = whole(20);

/// Enough for some thousand calls a second of one account in the quarter of a second that a sync takes.
const UNSYNCED_CAP: Credits = whole(100_000);

/// Some minutes of a thousand calls a second.
const REDO_LIMIT_BYTES: usize = 64 * 1024 * 1024;

/// The longest name of a gateway, in bytes.
const MAX_NAME_BYTES: usize = 128;

/// The largest gift to every new account: above it, somebody slipped.
const MAX_SIGNUP_GRANT: Credits = whole(1_000_000);

/// The longest name of a schema, in bytes: Postgres cuts off the rest.
const MAX_SCHEMA_BYTES: usize = 63;

impl Default for LedgerConfig {
    fn default() -> Self {
        Self {
            backend: BackendKind::Embedded,
            path: "farebox.db".into(),
            redis_url: None,
            redis_ca_file: None,
            postgres_url: None,
            postgres_schema: "farebox".to_owned(),
            postgres_read_url: None,
            durability: Durability::Strict,
            after_crash: AfterCrash::Release,
            gateway_name: None,
            unsynced_cap: UNSYNCED_CAP,
            redo_limit_bytes: REDO_LIMIT_BYTES,
            layout: LAYOUT,
        }
    }
}

impl Default for CreditsConfig {
    fn default() -> Self {
        Self { low_balance: LOW_BALANCE, signup_grant: Credits::ZERO }
    }
}

impl LedgerConfig {
    /// What is wrong with it, without looking at the disk or the network.
    pub fn check(&self) -> Vec<Mistake> {
        let mut found = Vec::new();
        if self.backend == BackendKind::Redis {
            for (name, url) in
                [("redis_url", &self.redis_url), ("postgres_url", &self.postgres_url)]
            {
                if url.is_none() {
                    let message = format!("backend = \"redis\" needs `{name}`");
                    let hint = "set it, or write backend = \"embedded\"";
                    found.push(Mistake::new(format!("ledger.{name}"), message, hint));
                }
            }
        }
        if (self.backend, self.after_crash) == (BackendKind::Redis, AfterCrash::Charge) {
            let message = "backend = \"redis\" cannot charge the calls that a crash cut off";
            let hint = "write after_crash = \"release\", or remove the line: such calls are given back, and \
                        GET /admin/crashed lists them";
            found.push(Mistake::new("ledger.after_crash", message, hint));
        }
        if self.path.as_os_str().is_empty() {
            let hint = "name the file of the ledger: path = \"farebox.db\"";
            found.push(Mistake::new("ledger.path", "`path` is empty", hint));
        }
        for (name, url) in [
            ("redis_url", &self.redis_url),
            ("postgres_url", &self.postgres_url),
            ("postgres_read_url", &self.postgres_read_url),
        ] {
            if url.as_ref().is_some_and(Secret::is_empty) {
                let message = format!("`{name}` is empty");
                let hint = "set its variable, or remove the line";
                found.push(Mistake::new(format!("ledger.{name}"), message, hint));
            }
        }
        found.extend(self.check_redis());
        for (name, url) in
            [("postgres_url", &self.postgres_url), ("postgres_read_url", &self.postgres_read_url)]
        {
            found.extend(url.as_ref().and_then(|url| check_postgres(name, url)));
        }
        let name = self.gateway_name.as_deref();
        if name.is_some_and(|name| name.is_empty() || name.len() > MAX_NAME_BYTES) {
            let hint = "1 to 128 bytes, another one for each gateway, or remove the line";
            found.push(Mistake::new("ledger.gateway_name", "`gateway_name` is not a name", hint));
        }
        if self.unsynced_cap.is_zero() {
            let hint = "the most that one account may lose: unsynced_cap = 100000";
            found.push(Mistake::new("ledger.unsynced_cap", "`unsynced_cap` is zero", hint));
        }
        found.extend(within(
            "ledger.redo_limit_bytes",
            self.redo_limit_bytes,
            65_536..=REDO_LIMIT_BYTES * 1024,
        ));
        found.extend(check_schema(&self.postgres_schema));
        found
    }
}

impl LedgerConfig {
    /// Warnings: settings that are possible, and probably not meant.
    pub fn warn(&self) -> Vec<Mistake> {
        if self.backend != BackendKind::Redis {
            return Vec::new();
        }
        let urls =
            [("postgres_url", &self.postgres_url), ("postgres_read_url", &self.postgres_read_url)];
        let plain = urls.into_iter().filter(|(_, url)| {
            url.as_ref().is_some_and(|url| may_be_read_on_its_way(url.expose()))
        });
        let warning = |(name, _): (&str, _)| {
            let message = format!(
                "`{name}` is the address of another machine, and does not say `sslmode`: the connection \
                 is plain where that server offers no TLS, and nothing checks whose certificate it has"
            );
            let hint =
                "add ?sslmode=verify-full to it; or ?sslmode=disable, where the network is private";
            Mistake::new(format!("ledger.{name}"), message, hint)
        };
        plain.map(warning).collect()
    }

    fn check_redis(&self) -> Option<Mistake> {
        if self.backend != BackendKind::Redis {
            return None;
        }
        let url = self.redis_url.as_ref().filter(|url| !url.is_empty())?.expose();
        let scheme = url.split_once("://").map_or("", |(scheme, _)| scheme);
        if !REDIS_SCHEMES.contains(&scheme.strip_suffix("-sentinel").unwrap_or(scheme)) {
            let hint = "redis://, rediss:// for TLS, or redis-sentinel:// and rediss-sentinel://";
            let message = "`redis_url` is no address of a Redis that Farebox can use";
            return Some(Mistake::new("ledger.redis_url", message, hint));
        }
        // Without TLS, for which the library would look for certificates.
        let plain = url.replacen("rediss", "redis", 1).replacen("valkeys", "valkey", 1);
        if Config::from_url(&plain).is_err() {
            let hint = "redis://:password@host:6379; what stands in a password as `@`, `/`, `:` or `%` is written \
                        %40, %2F, %3A, %25";
            let message = "`redis_url` cannot be read as an address";
            return Some(Mistake::new("ledger.redis_url", message, hint));
        }
        (self.redis_ca_file.is_some() && !uses_tls(scheme)).then(|| {
            let hint = "write rediss:// (or rediss-sentinel://) in redis_url, or remove the line";
            let message = "`redis_ca_file` is set, and `redis_url` uses no TLS";
            Mistake::new("ledger.redis_ca_file", message, hint)
        })
    }
}

/// True for a Postgres on another machine, where neither its address nor PGSSLMODE says whether to use TLS.
fn may_be_read_on_its_way(url: &str) -> bool {
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

fn check_postgres(name: &str, url: &Secret) -> Option<Mistake> {
    let url = url.expose();
    let is_postgres = ["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme));
    if url.is_empty() || is_postgres && PgConnectOptions::from_str(url).is_ok() {
        return None;
    }
    let hint = "postgres://user:password@host:5432/database; what stands in a password as `@`, `/`, `:` or `%` is \
                written %40, %2F, %3A, %25";
    let message = format!("`{name}` cannot be read as the address of a Postgres");
    Some(Mistake::new(format!("ledger.{name}"), message, hint))
}

/// As the client library reads them.
const REDIS_SCHEMES: [&str; 4] = ["redis", "rediss", "valkey", "valkeys"];

fn uses_tls(scheme: &str) -> bool {
    scheme.starts_with("rediss") || scheme.starts_with("valkeys")
}

impl CreditsConfig {
    /// What is wrong with it.
    pub fn check(&self) -> Vec<Mistake> {
        let grant =
            within("credits.signup_grant", self.signup_grant, Credits::ZERO..=MAX_SIGNUP_GRANT);
        grant.into_iter().collect()
    }

    /// A sign-up grant of which every new account is told at once that it runs low.
    pub fn warn(&self) -> Option<Mistake> {
        let Self { low_balance, signup_grant } = self;
        if signup_grant.is_zero() || signup_grant >= low_balance {
            return None;
        }
        let message = format!(
            "`signup_grant` is {signup_grant}, below `low_balance` of {low_balance}: every new account is told \
             at once that its credits run low"
        );
        let hint =
            format!("set low_balance = {signup_grant} or less under [credits], or grant more");
        Some(Mistake::new("credits.signup_grant", message, hint))
    }
}

/// For constants: what is too large fails the build.
const fn whole(credits: u64) -> Credits {
    match Credits::from_whole(credits) {
        Some(amount) => amount,
        None => panic!("too many credits"),
    }
}

fn check_schema(name: &str) -> Option<Mistake> {
    let key = "ledger.postgres_schema";
    let letters = name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_'));
    let starts_well = name.starts_with(|first: char| !first.is_ascii_digit());
    if !letters || !starts_well || name.len() > MAX_SCHEMA_BYTES {
        let hint = "small letters, digits and `_`, at most 63 of them: \"farebox\"";
        return Some(Mistake::new(key, "`postgres_schema` is not the name of a schema", hint));
    }
    if name == "public" || name == "information_schema" || name.starts_with("pg_") {
        let message = format!("the schema `{name}` is not Farebox's own");
        return Some(Mistake::new(key, message, "give it one to itself: \"farebox\""));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_make_sense() {
        assert_eq!(LedgerConfig::default().check(), []);
        assert_eq!(CreditsConfig::default().check(), []);
    }

    #[test]
    fn only_a_schema_of_its_own_is_accepted() {
        for good in ["farebox", "_x", "f2"] {
            assert_eq!(check_schema(good), None, "{good}");
        }
        for bad in ["", "public", "pg_x", "2f", "a b", "a\"b", "Farebox", &"x".repeat(64)] {
            assert!(check_schema(bad).is_some(), "{bad}");
        }
    }

    #[test]
    fn an_address_of_postgres_is_one() {
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
            assert!(may_be_read_on_its_way(url), "{url}");
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
            assert!(!may_be_read_on_its_way(url), "{url}");
        }
        let url = |text: &str| Some(Secret::new(text));
        let config = LedgerConfig {
            backend: BackendKind::Redis,
            postgres_url: url(remote[0]),
            postgres_read_url: url(remote[1]),
            ..LedgerConfig::default()
        };
        let keys: Vec<_> = config.warn().into_iter().map(|warning| warning.key).collect();
        assert_eq!(keys, ["ledger.postgres_url", "ledger.postgres_read_url"]);
        assert_eq!(LedgerConfig { backend: BackendKind::Embedded, ..config }.warn(), []);
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
            config.check().into_iter().map(|mistake| mistake.key).collect::<Vec<_>>()
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

    #[test]
    fn only_the_embedded_ledger_charges_what_a_crash_left() {
        let keys = |backend| {
            let config = LedgerConfig {
                backend,
                redis_url: Some(Secret::new("redis://r")),
                postgres_url: Some(Secret::new("postgres://p")),
                after_crash: AfterCrash::Charge,
                ..LedgerConfig::default()
            };
            config.check().into_iter().map(|mistake| mistake.key).collect::<Vec<_>>()
        };
        assert_eq!(keys(BackendKind::Redis), ["ledger.after_crash"]);
        assert_eq!(keys(BackendKind::Embedded), [""; 0]);
    }

    #[test]
    fn empty_and_missing_values_are_refused() {
        let config = LedgerConfig {
            backend: BackendKind::Redis,
            path: PathBuf::new(),
            redis_url: Some(Secret::new("")),
            ..LedgerConfig::default()
        };
        let keys: Vec<_> = config.check().into_iter().map(|mistake| mistake.key).collect();
        assert_eq!(keys, ["ledger.postgres_url", "ledger.path", "ledger.redis_url"]);
    }
}
