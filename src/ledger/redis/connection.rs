//! The connections to Redis: one for the batches alone, one for everything beside them, so that a long
//! answer there delays no call.

use std::sync::Arc;
use std::time::Duration;

use fred::bytes_utils::Str;
use fred::clients::{Client, WithOptions};
use fred::error::{Error, ErrorKind};
use fred::interfaces::{
    ClientLike as _, HashesInterface as _, KeysInterface as _, LuaInterface as _,
    StreamsInterface as _,
};
use fred::types::config::{Config, Options, ReconnectPolicy};
use fred::types::{Builder, ConnectHandle, CustomCommand, InfoKind, Value};
use tokio::task::JoinSet;

use crate::config::Secret;
use crate::ledger::LedgerError;
use crate::ledger::postgres::NumberedBatch;

use super::script::{Script, Scripts};

/// How long an answer is waited for. What was sent may still happen after that.
const COMMAND_LIMIT: Duration = Duration::from_secs(1);

/// How long making a connection may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);

/// After how long without an answer a connection is given up.
const SILENCE_LIMIT: Duration = Duration::from_secs(3);

/// How often a lost connection is tried again.
const RECONNECT_EVERY_MS: u32 = 100;

/// Two clients of the same Redis. A command is sent once: what becomes of it when the connection
/// breaks is for the ledger to find out, by its ids.
#[derive(Clone)]
pub(super) struct Redis {
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
pub(super) struct Info {
    pub eviction: String,
    pub used_memory: i64,
    pub replicas: i64,
    /// Changes whenever it becomes a master.
    pub reign: String,
}

/// What stops a script.
#[derive(Debug)]
pub(super) enum Stopped {
    /// Redis has lost the data of the epoch, or never had it.
    Epoch,
    /// It cannot be asked, or refuses to write. What was asked may have happened.
    Failed(Error),
}

impl Redis {
    /// Begins to connect, and goes on trying for ever.
    pub fn new(url: &Secret) -> Result<Self, LedgerError> {
        let mut config = Config::from_url(url.expose())?;
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

    /// Removes keys, their memory in the background.
    pub async fn remove(&self, keys: Vec<String>) -> Result<(), LedgerError> {
        Ok(limited(self.side.unlink(keys)).await?)
    }

    /// No script of any epoch is of use any more.
    pub async fn fence(&self, scripts: &Scripts) -> Result<(), LedgerError> {
        Ok(limited(self.side.hset(&scripts.keys[0], ("epoch", "closed"))).await?)
    }

    /// Begins an epoch here.
    pub async fn begin(&self, scripts: &Scripts) -> Result<(), LedgerError> {
        for script in [&scripts.decide, &scripts.keep] {
            let sha: String = limited(self.side.script_load(script.text.clone())).await?;
            debug_assert_eq!(sha, script.sha);
        }
        limited(self.side.unlink::<(), _>(scripts.keys[1].clone())).await?;
        let meta = [
            ("epoch", scripts.epoch.name()),
            ("reign", self.info().await?.reign),
            ("seq", "0".into()),
            ("durable", "0".into()),
        ];
        Ok(limited(self.side.hset(&scripts.keys[0], meta.to_vec())).await?)
    }

    /// What it says of itself.
    pub async fn info(&self) -> Result<Info, LedgerError> {
        let mut info = Info::default();
        for kind in [InfoKind::Memory, InfoKind::Replication] {
            let text: String = limited(self.side.info(Some(kind))).await?;
            for (name, value) in text.lines().filter_map(|line| line.trim().split_once(':')) {
                match name {
                    "maxmemory_policy" => info.eviction = value.to_owned(),
                    "used_memory" => info.used_memory = value.parse().unwrap_or(0),
                    "master_replid" => info.reign = value.to_owned(),
                    "connected_slaves" => info.replicas = value.parse().unwrap_or(0),
                    _ => {}
                }
            }
        }
        Ok(info)
    }
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
    let mut connecting = Connecting(client.connect());
    // It ends only when it is told to.
    let _ = (&mut connecting.0).await;
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
