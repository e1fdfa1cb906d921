//! The connections to Redis. One is used only for the batches, and one for everything else, so that
//! a long reply to another command does not delay calls.

use std::time::Duration;

use bytes::Bytes;
use fred::bytes_utils::Str;
use fred::error::{Error, ErrorKind};
use fred::interfaces::{
    ClientLike as _, HashesInterface as _, KeysInterface as _, LuaInterface as _,
    StreamsInterface as _,
};
use fred::types::config::{Config, ReconnectPolicy, TlsConnector};
use fred::types::{Builder, CustomCommand, InfoKind, Value};
use futures_util::future::try_join;

use crate::config::Secret;
use crate::ledger::LedgerError;
use crate::ledger::operation::HoldId;
use crate::store::addresses::without_tls;
use crate::store::cluster::postgres::{ColdUntil, NumberedBatch, StreamBatch};
use crate::store::cluster::redis::info::Info;
use crate::store::cluster::redis::line::Line;
use crate::store::cluster::redis::meta::{CLOSED, LIVE_MARK, Meta};
use crate::store::cluster::redis::script::{SHARD, Script, Scripts, tag};
use crate::store::cluster::stream_marks::StreamId;
use crate::store::tls_files::TlsFiles;

/// How long a connection may take to open.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);

/// How long a connection may be silent before it is closed.
const SILENCE_LIMIT: Duration = Duration::from_secs(3);

/// The time between two attempts to connect, in milliseconds.
const RECONNECT_EVERY_MS: u32 = 100;

/// A new epoch empties the cache of scripts if the cache has more scripts than this. Each epoch leaves two scripts, of
/// some 45 kB together, and Redis cannot remove a single script.
const MAX_SCRIPTS: i64 = 200;

/// Two lines to the same Redis. A command is sent only once. If the connection breaks, the ledger
/// finds out by its ids whether the command was executed.
#[derive(Clone)]
pub(crate) struct Redis {
    /// The line for the batches.
    hot: Line,
    /// The line for everything else.
    side: Line,
    /// Whether a sentinel gives the address, so that another Redis may take the place of this one.
    pub has_sentinel: bool,
}

impl std::fmt::Debug for Redis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // fred's own Debug may show the address together with its password.
        f.debug_struct("Redis").finish_non_exhaustive()
    }
}

/// The reason why a script did not run.
#[derive(Debug)]
pub(crate) enum ScriptError {
    /// Redis has lost the data of the epoch, or never had it.
    EpochLost,
    /// Redis was known to be unreachable, so the script was not sent.
    NotSent,
    /// Redis does not reply, or refuses. The script may have run nevertheless.
    Failed(Error),
}

impl Redis {
    /// Begins to connect, and goes on trying.
    ///
    /// # Errors
    /// Fails if the address or one of the files of TLS cannot be read.
    pub fn new(url: &Secret, files: &TlsFiles) -> Result<Self, LedgerError> {
        let mut config = config_of(url, files)?;
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
        let [hot, side] = Line::pair([build()?, build()?]);
        Ok(Self { hot, side, has_sentinel })
    }

    /// Whether a command would be answered. False if there is no connection, if the newest command
    /// was not answered, or if the server is a replica.
    pub fn is_up(&self) -> bool {
        self.hot.is_up() && self.side.is_up()
    }

    /// Whether the server was a replica when it was last asked.
    pub fn is_demoted(&self) -> bool {
        self.hot.is_demoted() || self.side.is_demoted()
    }

    /// Records that the server is a replica, which decides nothing. Both connections are opened
    /// anew, because the address may lead to the master by now.
    pub fn note_demoted(&self) {
        self.side.note_demoted();
    }

    /// Opens both lines anew, because they lead to two different servers.
    pub fn reopen(&self) {
        self.side.reopen();
    }

    /// Waits until both clients are connected.
    ///
    /// # Errors
    /// Fails if one of them takes longer than [`CONNECT_LIMIT`].
    pub async fn wait(&self) -> Result<(), LedgerError> {
        let both = try_join(self.hot.wait_for_connect(), self.side.wait_for_connect());
        let connected = tokio::time::timeout(CONNECT_LIMIT, both).await;
        connected.map_err(|_| LedgerError::Slow { what: "Redis" })??;
        Ok(())
    }

    /// Runs `decide.lua`.
    pub async fn decide(&self, scripts: &Scripts, args: Vec<Value>) -> Result<Value, ScriptError> {
        evaluate(&self.hot, scripts, &scripts.decide, args).await
    }

    /// Runs a command of `maintain.lua`.
    pub async fn maintain(
        &self,
        scripts: &Scripts,
        args: Vec<Value>,
    ) -> Result<Value, ScriptError> {
        evaluate(&self.side, scripts, &scripts.maintain, args).await
    }

    /// Reads batches of the epoch from the stream in order, beginning with number `from`.
    pub async fn batches(
        &self,
        scripts: &Scripts,
        from: i64,
        limit: u64,
    ) -> Result<Vec<NumberedBatch>, LedgerError> {
        let epoch = scripts.epoch.number;
        let (start, end) = (format!("{epoch}-{from}"), format!("{epoch}-{}", u64::MAX));
        let found: Vec<(String, Vec<String>)> = self
            .side
            .run(self.side.client().xrange(&scripts.keys[1], start, end, Some(limit)))
            .await?;
        let batch = |(id, mut fields): (String, Vec<String>)| {
            let seq = id.split_once('-').and_then(|(_, seq)| seq.parse().ok())?;
            Some(NumberedBatch { seq, text: fields.pop()? })
        };
        let batches: Option<_> = found.into_iter().map(batch).collect();
        batches.ok_or_else(unreadable_stream)
    }

    /// Reads batches of this epoch and of later ones from the stream, in order, beginning with batch `from`.
    pub async fn all_batches(
        &self,
        scripts: &Scripts,
        from: StreamId,
        limit: u64,
    ) -> Result<Vec<StreamBatch>, LedgerError> {
        let found: Vec<(String, Vec<String>)> = self
            .side
            .run(self.side.client().xrange(&scripts.keys[1], id(from), "+", Some(limit)))
            .await?;
        let batch = |(id, mut fields): (String, Vec<String>)| {
            let (epoch, seq) = id.split_once('-')?;
            Some(StreamBatch {
                epoch: epoch.parse().ok()?,
                batch: NumberedBatch { seq: seq.parse().ok()?, text: fields.pop()? },
            })
        };
        let batches: Option<_> = found.into_iter().map(batch).collect();
        batches.ok_or_else(unreadable_stream)
    }

    /// Adds a batch to the stream. Fails if the stream already has a later batch.
    pub async fn add_to_stream(
        &self,
        scripts: &Scripts,
        StreamBatch { epoch, batch }: &StreamBatch,
    ) -> Result<(), LedgerError> {
        let id = id((*epoch, batch.seq));
        let field = ("b", batch.text.as_str());
        let add = self.side.client().xadd::<(), _, _, _, _>(
            &scripts.keys[1],
            false,
            None::<()>,
            id,
            field,
        );
        Ok(self.side.run(add).await?)
    }

    /// Removes all batches before `first` from the stream.
    pub async fn trim_stream(&self, scripts: &Scripts, first: StreamId) -> Result<(), LedgerError> {
        let args = [scripts.keys[1].clone(), "MINID".to_owned(), id(first)].to_vec();
        let trim = CustomCommand::new_static("XTRIM", None, false);
        Ok(self.side.run(self.side.client().custom(trim, args)).await?)
    }

    /// The approximate memory that the stream takes, in bytes.
    pub async fn stream_bytes(&self, scripts: &Scripts) -> Result<i64, LedgerError> {
        let args = ["USAGE".to_owned(), scripts.keys[1].clone()].to_vec();
        let usage = CustomCommand::new_static("MEMORY", None, false);
        let bytes: Option<i64> = self.side.run(self.side.client().custom(usage, args)).await?;
        Ok(bytes.unwrap_or(0))
    }

    /// Finds some of the keys that match a pattern. Also returns the cursor for the next call; `0`
    /// ends the scan.
    pub async fn scan(
        &self,
        cursor: &str,
        pattern: &str,
    ) -> Result<(String, Vec<String>), LedgerError> {
        let args = [cursor, "MATCH", pattern, "COUNT", "500"].map(str::to_owned).to_vec();
        let scan = CustomCommand::new_static("SCAN", None, false);
        Ok(self.side.run(self.side.client().custom(scan, args)).await?)
    }

    /// The values of keys.
    pub async fn values(&self, keys: Vec<String>) -> Result<Vec<Option<Bytes>>, LedgerError> {
        Ok(self.side.run(self.side.client().mget(keys)).await?)
    }

    /// The values of keys, read on the connection for the batches.
    pub async fn hot_values(&self, keys: Vec<String>) -> Result<Vec<Option<Bytes>>, LedgerError> {
        Ok(self.hot.run(self.hot.client().mget(keys)).await?)
    }

    /// Removes keys. Redis frees their memory in the background.
    pub async fn remove(&self, keys: Vec<String>) -> Result<(), LedgerError> {
        Ok(self.side.run(self.side.client().unlink(keys)).await?)
    }

    /// Removes the records of these ended holds, and the nonces of gateways that are about to write
    /// them. The next request for one of these holds is then answered from Postgres.
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
            self.side.run(self.side.client().hdel::<(), _, _>(key, ids.clone())).await?;
        }
        Ok(())
    }

    /// Reads `meta`.
    pub async fn meta(&self, scripts: &Scripts) -> Result<Meta, LedgerError> {
        let names = ["epoch", "number", "seq", "durable", "reign", "ledger", "marked"];
        let found: Vec<Option<String>> =
            self.side.run(self.side.client().hmget(&scripts.keys[0], names.to_vec())).await?;
        let word = |at: usize| found.get(at).cloned().flatten().unwrap_or_default();
        let number = |at: usize| word(at).parse().unwrap_or(0);
        // An early version wrote the number only as a part of the epoch's name.
        let named = word(0).split('.').next().and_then(|number| number.parse().ok());
        Ok(Meta {
            epoch: word(0),
            number: named.unwrap_or(0).max(number(1)),
            newest: number(2),
            durable: number(3),
            has_same_replication_id: word(4) == self.info().await?.replication_id,
            ledger: word(5),
            is_marked: word(6) == "1",
        })
    }

    /// Whether the hash of live holds is there, with the mark that [`Redis::begin_epoch`] left in it.
    pub async fn has_live_mark(&self, scripts: &Scripts) -> Result<bool, LedgerError> {
        let mark = self.side.client().hexists(scripts.live_key(), LIVE_MARK.0);
        Ok(self.side.run(mark).await?)
    }

    /// Whether the server that each of the two lines leads to has the scripts and the data of the epoch.
    pub async fn has_epoch(&self, scripts: &Scripts) -> Result<bool, LedgerError> {
        // This command changes nothing, and is refused like every other one where the epoch is not open.
        let question = ["are_claims_cold"];
        for line in [&self.hot, &self.side] {
            match evaluate(line, scripts, &scripts.maintain, args(question)).await {
                Ok(_) => {}
                Err(ScriptError::EpochLost) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(true)
    }

    /// How long ago Redis last heard from a gateway that serves the newest epoch in these data, by Redis's clock; `None`
    /// if there was none.
    pub async fn served_ago(&self, meta: &Meta) -> Result<Option<Duration>, LedgerError> {
        let alive = format!("{}{}:alive", tag(SHARD), meta.number);
        let heard: Vec<String> = self.side.run(self.side.client().hvals(alive)).await?;
        let newest = heard.iter().filter_map(|at| at.parse::<i64>().ok()).max();
        let now = self.time_ms().await?;
        let ago = newest.map(|at| u64::try_from(now.saturating_sub(at)).unwrap_or(0));
        Ok(ago.map(Duration::from_millis))
    }

    /// Fences Redis: from now on no script of any epoch runs.
    pub async fn fence(&self, scripts: &Scripts) -> Result<(), LedgerError> {
        Ok(self.side.run(self.side.client().hset(&scripts.keys[0], ("epoch", CLOSED))).await?)
    }

    /// Begins an epoch in Redis. `ledger` is the id of the ledger. The batches of the epochs before stay in the stream
    /// for some minutes.
    pub async fn begin_epoch(
        &self,
        scripts: &Scripts,
        ledger: &str,
        cold_until: ColdUntil,
    ) -> Result<(), LedgerError> {
        self.forget_scripts().await?;
        for script in [&scripts.decide, &scripts.maintain] {
            let sha: String =
                self.side.run(self.side.client().script_load(script.text.clone())).await?;
            debug_assert_eq!(sha, script.sha);
        }
        // The ids in a stream only grow. An id that is ahead of this epoch comes from a ledger that this Postgres does
        // not know, so the stream is removed.
        let (stream, first) = (scripts.keys[1].clone(), scripts.first_id());
        let ahead: Vec<(String, Vec<String>)> =
            self.side.run(self.side.client().xrange(&stream, first, "+", Some(1))).await?;
        if !ahead.is_empty() {
            self.side.run(self.side.client().unlink::<(), _>(stream)).await?;
        }
        self.side.run(self.side.client().hset::<(), _, _>(scripts.live_key(), LIVE_MARK)).await?;
        let meta = [
            ("epoch", scripts.epoch.name()),
            ("number", scripts.epoch.number.to_string()),
            ("reign", self.info().await?.replication_id),
            ("seq", "0".into()),
            ("durable", "0".into()),
            ("claims", cold_until.claims_ms.to_string()),
            ("left", cold_until.left_ms.to_string()),
            ("ledger", ledger.to_owned()),
            ("marked", "1".into()),
        ];
        Ok(self.side.run(self.side.client().hset(&scripts.keys[0], meta.to_vec())).await?)
    }

    /// Empties the cache of scripts, if it has many scripts of ended epochs. No epoch may be open. Other programs that
    /// share the server load their scripts again when Redis replies that it does not have them.
    async fn forget_scripts(&self) -> Result<(), LedgerError> {
        let scripts = self.info().await?.scripts;
        if scripts <= MAX_SCRIPTS {
            return Ok(());
        }
        let flush = CustomCommand::new_static("SCRIPT", None, false);
        let args = ["FLUSH", "ASYNC"].map(str::to_owned).to_vec();
        match self.side.run(self.side.client().custom::<(), _>(flush, args)).await {
            Ok(()) => {
                tracing::info!(scripts, "the scripts of ended epochs were removed from Redis")
            }
            Err(error) if error.details().starts_with("NOPERM") => tracing::warn!(
                scripts,
                "Redis keeps the scripts of ended epochs, since its user may not run SCRIPT FLUSH: give it the right \
                 `+script|flush`, or run the command by hand while no gateway serves"
            ),
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Loads a script that belongs to no epoch, and returns its SHA-1.
    pub async fn load(&self, text: &str) -> Result<String, LedgerError> {
        Ok(self.side.run(self.side.client().script_load(text.to_owned())).await?)
    }

    /// Runs, on one key, a script that [`Redis::load`] loaded.
    pub async fn run_loaded(&self, sha: String, key: String) -> Result<Vec<String>, LedgerError> {
        let none: Vec<Value> = Vec::new();
        Ok(self.side.run(self.side.client().evalsha(sha, vec![key], none)).await?)
    }

    /// Reads INFO.
    pub async fn info(&self) -> Result<Info, LedgerError> {
        read_info(&self.side, &[InfoKind::Server, InfoKind::Memory, InfoKind::Replication]).await
    }

    /// Reads the parts of INFO that tell which server it is.
    pub async fn who(&self) -> Result<Info, LedgerError> {
        read_info(&self.side, &[InfoKind::Server, InfoKind::Replication]).await
    }

    /// Reads the same parts of INFO as [`Redis::who`], through the connection for the batches.
    pub async fn hot_who(&self) -> Result<Info, LedgerError> {
        read_info(&self.hot, &[InfoKind::Server, InfoKind::Replication]).await
    }

    /// Redis's clock, in milliseconds since 1970.
    pub async fn time_ms(&self) -> Result<i64, LedgerError> {
        let time = CustomCommand::new_static("TIME", None, false);
        let none: Vec<String> = Vec::new();
        let (seconds, micros): (i64, i64) =
            self.side.run(self.side.client().custom(time, none)).await?;
        Ok(seconds.saturating_mul(1000).saturating_add(micros / 1000))
    }
}

/// The client's config: the address, and how the server's certificate is checked.
fn config_of(url: &Secret, files: &TlsFiles) -> Result<Config, LedgerError> {
    // The client uses the process's TLS provider, which may not be installed yet.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let Some(tls) = files.client_config()? else { return Ok(Config::from_url(url.expose())?) };
    // With a plain address, fred does not load the system's certificate authorities, which a
    // container may lack.
    let mut config = Config::from_url(&without_tls(url.expose()))?;
    config.tls = Some(TlsConnector::from(tls).into());
    Ok(config)
}

/// The id of a batch in the stream.
fn id((epoch, seq): StreamId) -> String {
    format!("{epoch}-{seq}")
}

fn unreadable_stream() -> LedgerError {
    LedgerError::Corrupt { what: "the stream of Redis has an entry that is no batch".into() }
}

async fn read_info(line: &Line, sections: &[InfoKind]) -> Result<Info, LedgerError> {
    let mut info = Info::default();
    for section in sections {
        let text: String = line.run(line.client().info(Some(section.clone()))).await?;
        info.read(&text);
    }
    Ok(info)
}

async fn evaluate(
    line: &Line,
    scripts: &Scripts,
    script: &Script,
    args: Vec<Value>,
) -> Result<Value, ScriptError> {
    if !line.is_up() {
        return Err(ScriptError::NotSent);
    }
    let keys = vec![scripts.keys[0].clone()];
    let sha = Str::from(script.sha.as_str());
    line.run(line.client().evalsha(sha, keys, args)).await.map_err(|error: Error| {
        let details = error.details();
        if details.starts_with("NOSCRIPT") || details.starts_with("EPOCH") {
            ScriptError::EpochLost
        } else {
            ScriptError::Failed(error)
        }
    })
}

impl From<ScriptError> for LedgerError {
    fn from(error: ScriptError) -> Self {
        match error {
            ScriptError::EpochLost => Error::new(ErrorKind::NotFound, "the epoch has ended").into(),
            ScriptError::NotSent => Error::new(ErrorKind::Canceled, "Redis is away").into(),
            ScriptError::Failed(error) => error.into(),
        }
    }
}

/// Arguments of a script.
pub(crate) fn args<const N: usize>(words: [&str; N]) -> Vec<Value> {
    words.into_iter().map(arg).collect()
}

/// One argument of a script.
pub(crate) fn arg(word: &str) -> Value {
    Value::String(word.into())
}
