//! The connections to Redis: one for the batches alone, one for everything beside them, so that a long
//! answer there delays no call.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fred::bytes_utils::Str;
use fred::clients::{Client, WithOptions};
use fred::error::{Error, ErrorKind};
use fred::interfaces::{
    ClientLike as _, EventInterface as _, HashesInterface as _, KeysInterface as _,
    LuaInterface as _, StreamsInterface as _,
};
use fred::types::config::{Config, Options, ReconnectPolicy, TlsConnector};
use fred::types::{Builder, ConnectHandle, CustomCommand, InfoKind, Value};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use tokio::task::JoinSet;

use crate::config::Secret;
use crate::ledger::LedgerError;
use crate::ledger::operation::HoldId;
use crate::store::cluster::postgres::NumberedBatch;

use crate::store::cluster::redis::script::{Script, Scripts};

/// How long an answer is waited for. What was sent may still happen after that.
const COMMAND_LIMIT: Duration = Duration::from_secs(1);

/// How long making a connection may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);

/// After how long without an answer a connection is given up.
const SILENCE_LIMIT: Duration = Duration::from_secs(3);

/// The oldest Redis that has what the scripts need. Valkey began as a later one.
const OLDEST_REDIS: u32 = 7;

/// How often a lost connection is tried again.
const RECONNECT_EVERY_MS: u32 = 100;

/// Two clients of the same Redis. A command is sent once: what becomes of it when the connection
/// breaks is for the ledger to find out, by its ids.
#[derive(Clone)]
pub(crate) struct Redis {
    hot: WithOptions<Client>,
    side: WithOptions<Client>,
    clients: [Client; 2],
    /// What keeps the connections up: it ends with the last clone.
    _tasks: Arc<JoinSet<()>>,
    /// A sentinel leads to it, so another one may take its place.
    pub has_sentinel: bool,
}

impl std::fmt::Debug for Redis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // fred's own Debug may show the address with its password.
        f.debug_struct("Redis").finish_non_exhaustive()
    }
}

/// What a Redis says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Info {
    pub eviction: String,
    /// As it names itself: `redis 7.0.15`, `valkey 8.1.0`.
    pub name: String,
    /// The version of Redis that it is, or is compatible with.
    pub version: String,
    pub used_memory: i64,
    pub replicas: i64,
    /// Changes whenever it becomes a master.
    pub reign: String,
}

/// What a Redis says of the ledger in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Marks {
    /// The open epoch's name, `closed`, or nothing.
    pub epoch: String,
    /// The newest epoch that was ever open in this data.
    pub number: i64,
    pub newest: i64,
    pub durable: i64,
    /// False where it has been another one's replica since, or was restarted.
    pub is_same_reign: bool,
}

/// What stops a script.
#[derive(Debug)]
pub(crate) enum Stopped {
    /// Redis has lost the data of the epoch, or never had it.
    Epoch,
    /// It cannot be asked, or refuses to write. What was asked may have happened.
    Failed(Error),
}

impl Redis {
    /// Begins to connect, and goes on trying for ever. `ca` vouches for its certificate, where it has one
    /// that the system's authorities do not vouch for.
    pub fn new(url: &Secret, ca: Option<&Path>) -> Result<Self, LedgerError> {
        let mut config = config_of(url, ca)?;
        config.fail_fast = false;
        let has_sentinel = config.server.is_sentinel();
        let build = || {
            Builder::from_config(config.clone())
                .with_connection_config(|connection| {
                    connection.connection_timeout = CONNECT_LIMIT;
                    connection.internal_command_timeout = CONNECT_LIMIT;
                    connection.max_command_attempts = 1;
                    connection.tcp.nodelay = Some(true);
                    connection.unresponsive.max_timeout = Some(SILENCE_LIMIT);
                    connection.unresponsive.interval = SILENCE_LIMIT / 3;
                })
                .set_policy(ReconnectPolicy::new_constant(0, RECONNECT_EVERY_MS))
                .build()
        };
        let clients = [build()?, build()?];
        let options = Options {
            max_attempts: Some(1),
            timeout: Some(COMMAND_LIMIT),
            fail_fast: true,
            ..Options::default()
        };
        let mut tasks = JoinSet::new();
        for client in &clients {
            tasks.spawn(stay_connected(client.clone()));
        }
        let [hot, side] = clients.each_ref().map(|client| client.with_options(&options));
        Ok(Self { hot, side, clients, has_sentinel, _tasks: Arc::new(tasks) })
    }

    /// Waits until there is a connection.
    pub async fn wait(&self) -> Result<(), LedgerError> {
        for client in &self.clients {
            let connected = tokio::time::timeout(CONNECT_LIMIT, client.wait_for_connect()).await;
            connected.map_err(|_| LedgerError::Slow { what: "Redis" })??;
        }
        Ok(())
    }

    /// Has a batch decided.
    pub async fn decide(&self, scripts: &Scripts, args: Vec<Value>) -> Result<Value, Stopped> {
        evaluate(&self.hot, scripts, &scripts.decide, args).await
    }

    /// Has what is beside the batches done.
    pub async fn keep(&self, scripts: &Scripts, args: Vec<Value>) -> Result<Value, Stopped> {
        evaluate(&self.side, scripts, &scripts.keep, args).await
    }

    /// The batches of the stream from number `from` on, in order.
    pub async fn batches(
        &self,
        scripts: &Scripts,
        from: i64,
        limit: u64,
    ) -> Result<Vec<NumberedBatch>, LedgerError> {
        let epoch = scripts.epoch.number;
        let (start, end) = (format!("{epoch}-{from}"), format!("{epoch}-{}", u64::MAX));
        let found: Vec<(String, Vec<String>)> =
            limited(self.side.xrange(&scripts.keys[1], start, end, Some(limit))).await?;
        let batch = |(id, mut fields): (String, Vec<String>)| {
            let seq = id.split_once('-').and_then(|(_, seq)| seq.parse().ok())?;
            Some(NumberedBatch { seq, text: fields.pop()? })
        };
        let batches: Option<_> = found.into_iter().map(batch).collect();
        batches.ok_or_else(|| LedgerError::Corrupt { what: "the stream cannot be read".into() })
    }

    /// How many batches wait in the stream.
    pub async fn stream_length(&self, scripts: &Scripts) -> Result<i64, LedgerError> {
        Ok(limited(self.side.xlen(&scripts.keys[1])).await?)
    }

    /// Keys that begin so, some at a time; with the cursor for the next time, `0` at the end.
    pub async fn scan(
        &self,
        cursor: &str,
        pattern: &str,
    ) -> Result<(String, Vec<String>), LedgerError> {
        let args = [cursor, "MATCH", pattern, "COUNT", "500"].map(str::to_owned).to_vec();
        let scan = CustomCommand::new_static("SCAN", None, false);
        Ok(limited(self.side.custom(scan, args)).await?)
    }

    /// What stands under keys.
    pub async fn values(&self, keys: Vec<String>) -> Result<Vec<Option<Bytes>>, LedgerError> {
        Ok(limited(self.side.mget(keys)).await?)
    }

    /// The same on the way of the batches, for a batch.
    pub async fn values_at_once(
        &self,
        keys: Vec<String>,
    ) -> Result<Vec<Option<Bytes>>, LedgerError> {
        Ok(limited(self.hot.mget(keys)).await?)
    }

    /// Removes keys, their memory in the background.
    pub async fn remove(&self, keys: Vec<String>) -> Result<(), LedgerError> {
        Ok(limited(self.side.unlink(keys)).await?)
    }

    /// Forgets how these holds ended, and the nonces of those who are about to say it: Postgres is asked
    /// the next time.
    pub async fn forget_endings(
        &self,
        scripts: &Scripts,
        ids: &[HoldId],
    ) -> Result<(), LedgerError> {
        let nonces = ids.iter().map(|id| format!("{}n:i:{id}", scripts.prefix));
        self.remove(nonces.collect()).await?;
        let ids: Vec<_> = ids.iter().map(|id| id.as_str().to_owned()).collect();
        for which in 0..2 {
            let key = format!("{}ended:{which}", scripts.prefix);
            limited(self.side.hdel::<(), _, _>(key, ids.clone())).await?;
        }
        Ok(())
    }

    /// What stands in `meta`, and whether this is still the Redis that wrote it.
    pub async fn marks(&self, scripts: &Scripts) -> Result<Marks, LedgerError> {
        let names = ["epoch", "number", "seq", "durable", "reign"];
        let found: Vec<Option<String>> =
            limited(self.side.hmget(&scripts.keys[0], names.to_vec())).await?;
        let word = |at: usize| found.get(at).cloned().flatten().unwrap_or_default();
        let number = |at: usize| word(at).parse().unwrap_or(0);
        // One that an earlier version wrote says it in the epoch's name alone.
        let named = word(0).split('.').next().and_then(|number| number.parse().ok());
        Ok(Marks {
            epoch: word(0),
            number: named.unwrap_or(0).max(number(1)),
            newest: number(2),
            durable: number(3),
            is_same_reign: word(4) == self.info().await?.reign,
        })
    }

    /// No script of any epoch is of use any more.
    pub async fn fence(&self, scripts: &Scripts) -> Result<(), LedgerError> {
        Ok(limited(self.side.hset(&scripts.keys[0], ("epoch", "closed"))).await?)
    }

    /// Begins an epoch here. What the stream has of the one before stays until Postgres has opened this one: it
    /// may fail, and who begins again needs it.
    pub async fn begin(&self, scripts: &Scripts) -> Result<(), LedgerError> {
        for script in [&scripts.decide, &scripts.keep] {
            let sha: String = limited(self.side.script_load(script.text.clone())).await?;
            debug_assert_eq!(sha, script.sha);
        }
        // Ids only grow: a stream that is ahead of this epoch is of no ledger that Postgres knows.
        let (stream, first) = (scripts.keys[1].clone(), scripts.first_id());
        let ahead: Vec<(String, Vec<String>)> =
            limited(self.side.xrange(&stream, first, "+", Some(1))).await?;
        if !ahead.is_empty() {
            limited(self.side.unlink::<(), _>(stream)).await?;
        }
        let meta = [
            ("epoch", scripts.epoch.name()),
            ("number", scripts.epoch.number.to_string()),
            ("reign", self.info().await?.reign),
            ("seq", "0".into()),
            ("durable", "0".into()),
        ];
        Ok(limited(self.side.hset(&scripts.keys[0], meta.to_vec())).await?)
    }

    /// Drops what the stream has of earlier epochs.
    pub async fn drop_earlier(&self, scripts: &Scripts) -> Result<(), LedgerError> {
        let args = [scripts.keys[1].clone(), "MINID".to_owned(), scripts.first_id()].to_vec();
        let trim = CustomCommand::new_static("XTRIM", None, false);
        Ok(limited(self.side.custom(trim, args)).await?)
    }

    /// What it says of itself.
    pub async fn info(&self) -> Result<Info, LedgerError> {
        let mut info = Info::default();
        for kind in [InfoKind::Server, InfoKind::Memory, InfoKind::Replication] {
            let text: String = limited(self.side.info(Some(kind))).await?;
            info.read(&text);
        }
        Ok(info)
    }
}

impl Info {
    /// Takes what a section of INFO says.
    fn read(&mut self, section: &str) {
        for (name, value) in section.lines().filter_map(|line| line.trim().split_once(':')) {
            match name {
                "redis_version" => {
                    self.version = value.to_owned();
                    if self.name.is_empty() {
                        self.name = format!("redis {value}");
                    }
                }
                // Of Valkey alone, which says to which Redis it is compatible in `redis_version`.
                "valkey_version" => self.name = format!("valkey {value}"),
                "maxmemory_policy" => self.eviction = value.to_owned(),
                "used_memory" => self.used_memory = value.parse().unwrap_or(0),
                "master_replid" => self.reign = value.to_owned(),
                "connected_slaves" => self.replicas = value.parse().unwrap_or(0),
                _ => {}
            }
        }
    }

    /// What keeps a ledger from living in this Redis.
    pub fn check(&self) -> Result<(), LedgerError> {
        let major = self.version.split('.').next().and_then(|major| major.parse::<u32>().ok());
        // Who does not say is not known to be old.
        if major.is_some_and(|major| major < OLDEST_REDIS) {
            let what = format!("its Redis is {}", self.name);
            let hint = "run Redis 7 or newer, or Valkey";
            return Err(LedgerError::Disagrees { what, hint });
        }
        if self.eviction != "noeviction" {
            let what = format!("its Redis has maxmemory-policy {}", self.eviction);
            let hint = "set maxmemory-policy noeviction: another one may throw credits away";
            return Err(LedgerError::Disagrees { what, hint });
        }
        Ok(())
    }
}

/// Its address, with how its certificate is checked.
fn config_of(url: &Secret, ca: Option<&Path>) -> Result<Config, LedgerError> {
    // The library takes the process's provider of TLS; there is none where nothing used it before.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let Some(path) = ca else { return Ok(Config::from_url(url.expose())?) };
    let unreadable = |error| LedgerError::File {
        path: path.to_owned(),
        error: std::io::Error::new(std::io::ErrorKind::InvalidData, error),
    };
    let mut authorities = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|e| unreadable(e.to_string()))? {
        let certificate = certificate.map_err(|error| unreadable(error.to_string()))?;
        authorities.add(certificate).map_err(|error| unreadable(error.to_string()))?;
    }
    if authorities.is_empty() {
        return Err(unreadable("no certificate in it".to_owned()));
    }
    let tls = ClientConfig::builder().with_root_certificates(authorities).with_no_client_auth();
    // Without the system's authorities, which need not even be there.
    let plain = url.expose().replacen("rediss", "redis", 1).replacen("valkeys", "valkey", 1);
    let mut config = Config::from_url(&plain)?;
    config.tls = Some(TlsConnector::from(tls).into());
    Ok(config)
}

/// An answer in time, or none: fred's own limit does not count while it looks for a connection.
async fn limited<T>(asked: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let timeout = |_| Error::new(ErrorKind::Timeout, "no answer in time");
    tokio::time::timeout(COMMAND_LIMIT, asked).await.map_err(timeout)?
}

/// fred's own task, which would outlive its client.
struct Connecting(ConnectHandle);

impl Drop for Connecting {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn stay_connected(client: Client) {
    let mut errors = client.error_rx();
    let mut connecting = Connecting(client.connect());
    let mut said = String::new();
    loop {
        tokio::select! {
            // It ends only when it is told to.
            _ = &mut connecting.0 => return,
            Ok((error, _)) = errors.recv() => {
                let error = error.to_string();
                // Each attempt fails alike: a wrong password, a certificate that nobody vouches for.
                if error != said {
                    tracing::warn!(error, "a connection to Redis fails");
                    said = error;
                }
            }
        }
    }
}

async fn evaluate(
    client: &WithOptions<Client>,
    scripts: &Scripts,
    script: &Script,
    args: Vec<Value>,
) -> Result<Value, Stopped> {
    let keys = vec![scripts.keys[0].clone()];
    let sha = Str::from(script.sha.as_str());
    limited(client.evalsha(sha, keys, args)).await.map_err(|error: Error| {
        let said = error.details();
        if said.starts_with("NOSCRIPT") || said.starts_with("EPOCH") {
            Stopped::Epoch
        } else {
            Stopped::Failed(error)
        }
    })
}

impl From<Stopped> for LedgerError {
    fn from(stopped: Stopped) -> Self {
        match stopped {
            Stopped::Epoch => Error::new(ErrorKind::NotFound, "the epoch has ended").into(),
            Stopped::Failed(error) => error.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What each says of itself, as far as it is read.
    fn info(server: &str) -> Info {
        let mut info = Info::default();
        info.read(server);
        info.read("# Memory\r\nused_memory:1024\r\nmaxmemory_policy:noeviction\r\n");
        info.read("# Replication\r\nrole:master\r\nconnected_slaves:1\r\nmaster_replid:ab\r\n");
        info
    }

    #[test]
    fn redis_7_and_valkey_are_taken_and_older_ones_are_not() {
        let valkey =
            "# Server\r\nredis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:8.1.3\r\n";
        for (server, name) in [
            ("# Server\r\nredis_version:7.0.15\r\nredis_mode:standalone\r\n", "redis 7.0.15"),
            ("# Server\r\nredis_version:8.2.1\r\n", "redis 8.2.1"),
            (valkey, "valkey 8.1.3"),
            // A managed one that hides it.
            ("", ""),
        ] {
            let info = info(server);
            assert_eq!(info.name, name);
            info.check().unwrap();
            assert_eq!((info.used_memory, info.replicas, info.reign.as_str()), (1024, 1, "ab"));
        }
        for old in ["6.2.14", "5.0.7"] {
            let error = info(&format!("redis_version:{old}\r\n")).check().unwrap_err().to_string();
            assert!(
                error.contains(&format!("redis {old}")) && error.contains("Redis 7"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_redis_that_evicts_is_refused() {
        let mut info = info("redis_version:7.0.15\r\n");
        info.read("maxmemory_policy:allkeys-lru\r\n");
        let error = info.check().unwrap_err().to_string();
        assert!(error.contains("allkeys-lru") && error.contains("noeviction"), "{error}");
    }
}
