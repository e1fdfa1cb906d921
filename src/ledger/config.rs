//! `[ledger]` and `[credits]`.

use std::path::PathBuf;

use serde::Deserialize;

use crate::config::{Mistake, Secret, within};
use crate::credits::Credits;
use crate::ledger::crash::AfterCrash;

/// `[ledger]`: where the credits are stored, and how durable they are.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LedgerConfig {
    /// The backend.
    pub backend: BackendKind,
    /// The file of the embedded ledger. Its lock and its log stand beside it.
    pub path: PathBuf,
    /// The address of the Redis of the `redis` backend.
    pub redis_url: Option<Secret>,
    /// A PEM file with the certificate authorities that may sign that Redis's certificate. Without
    /// it, the system's certificate authorities are used.
    pub redis_ca_file: Option<PathBuf>,
    /// A PEM file with the certificate that this gateway shows to that Redis, and its chain.
    pub redis_cert_file: Option<PathBuf>,
    /// A PEM file with the private key of `redis_cert_file`.
    pub redis_key_file: Option<PathBuf>,
    /// The address of the Postgres of the `redis` backend. It may have several hosts.
    pub postgres_url: Option<Secret>,
    /// A PEM file with the certificate authorities that may sign that Postgres's certificate, besides
    /// the well-known ones.
    pub postgres_ca_file: Option<PathBuf>,
    /// A PEM file with the certificate that this gateway shows to that Postgres, and its chain.
    pub postgres_cert_file: Option<PathBuf>,
    /// A PEM file with the private key of `postgres_cert_file`.
    pub postgres_key_file: Option<PathBuf>,
    /// The most connections to Postgres, and as many to `postgres_read_url`.
    pub postgres_connections: u32,
    /// The schema in that Postgres; Farebox needs one of its own.
    pub postgres_schema: String,
    /// The address of a replica of that Postgres, for lists and reports.
    pub postgres_read_url: Option<Secret>,
    /// The durability of a call's hold before the call is forwarded.
    pub durability: Durability,
    /// Whether the holds of calls that a crash or a stop cut off are captured or released.
    pub after_crash: AfterCrash,
    /// The name of this gateway. If a gateway crashes and starts again under the same name, it
    /// gives the holds of its calls back at once. Without a name, each start generates a new one.
    pub gateway_name: Option<String>,
    /// In `relaxed`, the most credits of one account that calls may take before Postgres has stored these calls. Up to
    /// this amount can be lost if Redis and a gateway are lost at the same time.
    pub unsynced_cap: Credits,
    /// In `relaxed`, the most memory for the redo log of a gateway, in bytes. The log has the
    /// batches that Postgres does not have yet. While the log is full, new calls get 503.
    pub redo_limit_bytes: usize,
    /// The layout of the data in Redis; `None` for the layout of this version. Only tests set it,
    /// so that the gateway acts as another version.
    #[serde(skip)]
    pub layout: Option<i32>,
    /// Whether a command opens the ledger, and not a gateway. A command does not wait for a Redis that is away.
    #[serde(skip)]
    pub is_command: bool,
}

/// A backend of the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackendKind {
    /// SQLite, for one gateway, with nothing to install.
    Embedded,
    /// Redis and Postgres, for any number of gateways.
    Redis,
}

/// The durability of a call's hold before the call is forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Durability {
    /// The hold is on disk.
    Strict,
    /// The hold is in memory; a power cut can lose the last moments.
    Relaxed,
}

impl Durability {
    /// The word for this durability, in the config and in the ledger.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Strict => "strict",
            Self::Relaxed => "relaxed",
        }
    }
}

/// `[credits]`: settings for every account.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CreditsConfig {
    /// The balance below which an account is warned that it runs low.
    pub low_balance: Credits,
    /// The credits that a new account gets once, when its first call arrives.
    pub signup_grant: Credits,
}

const LOW_BALANCE: Credits = whole(20);

/// The default of `unsynced_cap`: enough for an account that makes some thousand calls a second. A sync takes a quarter
/// of a second.
const UNSYNCED_CAP: Credits = whole(100_000);

/// The default of `redo_limit_bytes`: enough for some minutes at a thousand calls a second.
const REDO_LIMIT_BYTES: usize = 64 * 1024 * 1024;

/// The default of `postgres_connections`: for two appends at once, the syncer, the lease, the groups beside the pipeline, and
/// a few readers.
const POSTGRES_CONNECTIONS: u32 = 10;

/// The least value of `postgres_connections`: a recovery uses one connection while leases are renewed on others.
const FEWEST_CONNECTIONS: u32 = 5;

/// The longest name of a gateway, in bytes.
const MAX_NAME_BYTES: usize = 128;

/// The largest sign-up grant. A larger one is probably a slip.
const MAX_SIGNUP_GRANT: Credits = whole(1_000_000);

/// The longest name of a schema, in bytes. Postgres ignores the bytes after that.
const MAX_SCHEMA_BYTES: usize = 63;

impl Default for LedgerConfig {
    fn default() -> Self {
        Self {
            backend: BackendKind::Embedded,
            path: "farebox.db".into(),
            redis_url: None,
            redis_ca_file: None,
            redis_cert_file: None,
            redis_key_file: None,
            postgres_url: None,
            postgres_ca_file: None,
            postgres_cert_file: None,
            postgres_key_file: None,
            postgres_connections: POSTGRES_CONNECTIONS,
            postgres_schema: "farebox".to_owned(),
            postgres_read_url: None,
            durability: Durability::Strict,
            after_crash: AfterCrash::Release,
            gateway_name: None,
            unsynced_cap: UNSYNCED_CAP,
            redo_limit_bytes: REDO_LIMIT_BYTES,
            layout: None,
            is_command: false,
        }
    }
}

impl Default for CreditsConfig {
    fn default() -> Self {
        Self { low_balance: LOW_BALANCE, signup_grant: Credits::ZERO }
    }
}

impl LedgerConfig {
    /// Finds mistakes, without access to the disk or the network. `store::check_addresses` checks the
    /// addresses, because only the client libraries can read them.
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
        let name = self.gateway_name.as_deref();
        if name.is_some_and(|name| name.is_empty() || name.len() > MAX_NAME_BYTES) {
            let hint =
                "write 1 to 128 bytes, and another name for each gateway; or remove the line";
            found.push(Mistake::new(
                "ledger.gateway_name",
                "`gateway_name` is empty or too long",
                hint,
            ));
        }
        if self.unsynced_cap.is_zero() {
            let hint = "write the most that one account may lose: unsynced_cap = 100000";
            found.push(Mistake::new("ledger.unsynced_cap", "`unsynced_cap` is zero", hint));
        }
        found.extend(within(
            "ledger.redo_limit_bytes",
            self.redo_limit_bytes,
            65_536..=REDO_LIMIT_BYTES * 1024,
        ));
        found.extend(within(
            "ledger.postgres_connections",
            self.postgres_connections,
            FEWEST_CONNECTIONS..=1000,
        ));
        for (name, cert, key) in [
            ("redis", &self.redis_cert_file, &self.redis_key_file),
            ("postgres", &self.postgres_cert_file, &self.postgres_key_file),
        ] {
            if cert.is_some() != key.is_some() {
                let (there, missing) =
                    if cert.is_some() { ("cert", "key") } else { ("key", "cert") };
                let message =
                    format!("`{name}_{there}_file` is set, and `{name}_{missing}_file` is not");
                let hint = "a client certificate and its private key are used together: name both files, or none";
                found.push(Mistake::new(format!("ledger.{name}_{there}_file"), message, hint));
            }
        }
        found.extend(check_schema(&self.postgres_schema));
        found
    }
}

impl CreditsConfig {
    /// Finds mistakes.
    pub fn check(&self) -> Vec<Mistake> {
        let grant =
            within("credits.signup_grant", self.signup_grant, Credits::ZERO..=MAX_SIGNUP_GRANT);
        grant.into_iter().collect()
    }

    /// Warns of a sign-up grant below `low_balance`: every new account would be warned at once that it
    /// runs low.
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

/// Whole credits for a constant. An amount that is too large fails the build.
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
        let hint = "use small letters, digits and `_`, at most 63 of them: \"farebox\"";
        return Some(Mistake::new(key, "`postgres_schema` is not the name of a schema", hint));
    }
    if name == "public" || name == "information_schema" || name.starts_with("pg_") {
        let message = format!("the schema `{name}` belongs to Postgres or to every program");
        return Some(Mistake::new(key, message, "name a schema for Farebox alone: \"farebox\""));
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
    fn a_client_certificate_has_its_key() {
        let keys = |redis: [Option<&str>; 2], postgres: [Option<&str>; 2]| {
            let [redis_cert_file, redis_key_file] = redis.map(|file| file.map(PathBuf::from));
            let [postgres_cert_file, postgres_key_file] =
                postgres.map(|file| file.map(PathBuf::from));
            let config = LedgerConfig {
                redis_cert_file,
                redis_key_file,
                postgres_cert_file,
                postgres_key_file,
                ..LedgerConfig::default()
            };
            config.check().into_iter().map(|mistake| mistake.key).collect::<Vec<_>>()
        };
        let (none, both) = ([None, None], [Some("c.pem"), Some("k.pem")]);
        assert_eq!(keys(both, none), [""; 0]);
        assert_eq!(keys(none, both), [""; 0]);
        assert_eq!(keys([Some("c.pem"), None], both), ["ledger.redis_cert_file"]);
        assert_eq!(keys(both, [None, Some("k.pem")]), ["ledger.postgres_key_file"]);
    }

    #[test]
    fn a_pool_has_room_for_a_recovery() {
        let keys = |postgres_connections| {
            let config = LedgerConfig { postgres_connections, ..LedgerConfig::default() };
            config.check().into_iter().map(|mistake| mistake.key).collect::<Vec<_>>()
        };
        assert_eq!(keys(5), [""; 0]);
        assert_eq!(keys(4), ["ledger.postgres_connections"]);
        assert_eq!(keys(1001), ["ledger.postgres_connections"]);
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
