//! The ledger of a test: a fresh one for each test, which can be stopped, crash and be opened
//! again.

use std::future::Future;
use std::ops::Deref;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use farebox::account::AccountId;
use farebox::credits::Credits;
use farebox::ledger::{
    AfterCrash, Backend, Balance, CallId, Durability, Entry, EntryKind, Expired, HoldId, IsLive,
    Ledger, LedgerConfig, LedgerError, NewHold, Operation, OperationId, Origin, Outcome, Pipeline,
    Posting, Reader, Refusal,
};
use farebox::metrics::Metrics;
use farebox::store::{ClusterLedger, SqliteLedger};
use sqlx::Connection as _;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use tempfile::TempDir;

use crate::test_cluster::TestCluster;

/// The kinds of ledgers. A new kind needs a variant here, its arms in this file, and a line in
/// [`on_every_ledger`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    EmbeddedStrict,
    EmbeddedRelaxed,
    ClusterStrict,
    ClusterRelaxed,
}

/// Runs each test on each ledger: `contract::embedded_strict::a_test`, …
macro_rules! on_every_ledger {
    ($runtime:literal: $($test:ident),* $(,)?) => {
        $crate::test_ledger::on_one_ledger!($runtime, embedded_strict, EmbeddedStrict, $($test)*);
        $crate::test_ledger::on_one_ledger!($runtime, embedded_relaxed, EmbeddedRelaxed, $($test)*);
        $crate::test_ledger::on_one_ledger!($runtime, cluster_strict, ClusterStrict, $($test)*);
        $crate::test_ledger::on_one_ledger!($runtime, cluster_relaxed, ClusterRelaxed, $($test)*);
    };
}

/// Like [`on_every_ledger`], for tests of the embedded ledger's file.
macro_rules! on_embedded_ledgers {
    ($runtime:literal: $($test:ident),* $(,)?) => {
        $crate::test_ledger::on_one_ledger!($runtime, embedded_strict, EmbeddedStrict, $($test)*);
        $crate::test_ledger::on_one_ledger!($runtime, embedded_relaxed, EmbeddedRelaxed, $($test)*);
    };
}

/// Like [`on_every_ledger`], for tests of Redis and Postgres.
macro_rules! on_cluster_ledgers {
    ($runtime:literal: $($test:ident),* $(,)?) => {
        $crate::test_ledger::on_one_ledger!($runtime, cluster_strict, ClusterStrict, $($test)*);
        $crate::test_ledger::on_one_ledger!($runtime, cluster_relaxed, ClusterRelaxed, $($test)*);
    };
}

macro_rules! on_one_ledger {
    ($runtime:literal, $module:ident, $kind:ident, $($test:ident)*) => {
        mod $module {
            $(
                #[tokio::test(flavor = $runtime)]
                async fn $test() {
                    super::$test($crate::test_ledger::TestLedger::new($crate::test_ledger::Kind::$kind)).await;
                }
            )*
        }
    };
}

pub(crate) use {on_cluster_ledgers, on_embedded_ledgers, on_every_ledger, on_one_ledger};

impl Kind {
    pub fn durability(self) -> Durability {
        match self {
            Self::EmbeddedStrict | Self::ClusterStrict => Durability::Strict,
            Self::EmbeddedRelaxed | Self::ClusterRelaxed => Durability::Relaxed,
        }
    }

    /// The module that [`on_every_ledger`] makes for it.
    pub fn module(self) -> &'static str {
        match self {
            Self::EmbeddedStrict => "embedded_strict",
            Self::EmbeddedRelaxed => "embedded_relaxed",
            Self::ClusterStrict => "cluster_strict",
            Self::ClusterRelaxed => "cluster_relaxed",
        }
    }

    pub fn is_embedded(self) -> bool {
        matches!(self, Self::EmbeddedStrict | Self::EmbeddedRelaxed)
    }

    /// True if what is acknowledged is on disk.
    pub fn is_strict(self) -> bool {
        self.durability() == Durability::Strict
    }
}

/// A ledger's place.
pub struct TestLedger {
    pub kind: Kind,
    dir: TempDir,
    cluster: Option<TestCluster>,
}

impl TestLedger {
    pub fn new(kind: Kind) -> Self {
        let cluster = (!kind.is_embedded()).then(TestCluster::new);
        Self { kind, dir: tempfile::tempdir().unwrap(), cluster }
    }

    pub fn dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub fn path(&self) -> PathBuf {
        self.dir().join("ledger.db")
    }

    /// The servers of a cluster ledger.
    pub fn cluster(&self) -> &TestCluster {
        self.cluster.as_ref().unwrap()
    }

    pub fn cluster_mut(&mut self) -> &mut TestCluster {
        self.cluster.as_mut().unwrap()
    }

    /// The bare backend, without a pipeline.
    pub async fn backend(&self) -> AnyBackend {
        if self.kind.is_embedded() {
            AnyBackend::Embedded(Box::new(self.embedded().await.unwrap()))
        } else {
            AnyBackend::Cluster(Box::new(self.gateway("gateway").await.unwrap()))
        }
    }

    pub async fn embedded(&self) -> Result<SqliteLedger, LedgerError> {
        std::fs::create_dir_all(self.dir()).unwrap();
        let metrics = Metrics::new().unwrap();
        SqliteLedger::open(&self.path(), self.kind.durability(), metrics).await
    }

    /// The config of a gateway of the cluster ledger.
    pub fn config(&self, name: &str) -> LedgerConfig {
        self.cluster().config(self.kind.durability(), name)
    }

    /// One gateway of the cluster ledger.
    pub async fn gateway(&self, name: &str) -> Result<ClusterLedger, LedgerError> {
        ClusterLedger::open(&self.config(name), Metrics::new().unwrap()).await
    }

    /// Opens the ledger.
    pub async fn open(&self) -> Running {
        let metrics = Metrics::new().unwrap();
        let (ledger, pipeline) = if self.kind.is_embedded() {
            let backend = self.embedded().await.unwrap();
            let reader = backend.reader();
            Ledger::start(backend, reader, metrics)
        } else {
            farebox::gateway::open_ledger(&self.config("gateway"), metrics).await.unwrap()
        };
        Running { ledger, pipeline }
    }

    /// Opens the embedded ledger, with this rule for the calls that a crash left.
    pub async fn open_after(&self, after_crash: AfterCrash) -> Running {
        std::fs::create_dir_all(self.dir()).unwrap();
        let (path, durability) = (self.path(), self.kind.durability());
        let config = LedgerConfig { path, durability, after_crash, ..LedgerConfig::default() };
        let metrics = Metrics::new().unwrap();
        let backend = SqliteLedger::open_as(&config, metrics.clone()).await.unwrap();
        let reader = backend.reader();
        Running::of(Ledger::start(backend, reader, metrics))
    }

    /// The number of holds in the embedded ledger's log of batches whose rows are not written yet.
    pub async fn logged_holds(&self) -> i64 {
        let logged = "SELECT coalesce(sum(json_array_length(batch, '$[0]')), 0) FROM batch_log";
        sqlx::query_scalar(logged).fetch_one(&mut self.sql().await).await.unwrap()
    }

    /// Opens the ledger in another gateway.
    pub async fn open_another(&self, name: &str) -> Running {
        let metrics = Metrics::new().unwrap();
        let opened = farebox::gateway::open_ledger(&self.config(name), metrics).await;
        let (ledger, pipeline) = opened.unwrap();
        Running { ledger, pipeline }
    }

    /// Opens the ledger, and grants these credits to alice.
    pub async fn open_with(&self, amount: &str) -> Running {
        let running = self.open().await;
        let posted = running.post(grant("initial", "alice", amount)).await.unwrap();
        assert!(posted.1, "a fresh ledger");
        running
    }

    /// A connection past the ledger, to the embedded database itself.
    pub async fn sql(&self) -> SqliteConnection {
        let options = SqliteConnectOptions::new().filename(self.path());
        SqliteConnection::connect_with(&options.busy_timeout(Duration::from_secs(5))).await.unwrap()
    }

    /// Runs SQL past the ledger, in whichever database it has; tables have no schema.
    pub async fn execute(&self, sql: &str) -> Result<(), sqlx::Error> {
        let sql = sqlx::AssertSqlSafe(sql.to_owned());
        match &self.cluster {
            None => sqlx::raw_sql(sql).execute(&mut self.sql().await).await.map(drop),
            Some(cluster) => sqlx::raw_sql(sql).execute(&mut cluster.sql().await).await.map(drop),
        }
    }

    /// Gives the cluster's database a default, which every later session begins with.
    pub async fn set_in_database(&self, setting: &str, value: &str) {
        let database = &self.cluster().database;
        self.execute(&format!("ALTER DATABASE {database} SET {setting} = {value}")).await.unwrap();
    }

    /// How many rows each table has.
    pub async fn row_counts(&self) -> String {
        let mut rows = String::new();
        match &self.cluster {
            None => {
                let mut sql = self.sql().await;
                for table in
                    ["accounts", "entries", "holds", "ended_holds", "api_keys", "folded_operations"]
                {
                    let query = sqlx::AssertSqlSafe(format!("SELECT count(*) FROM {table}"));
                    let count: i64 = sqlx::query_scalar(query).fetch_one(&mut sql).await.unwrap();
                    rows.push_str(&format!(" {table}: {count}"));
                }
            }
            Some(cluster) => {
                let mut sql = cluster.sql().await;
                for table in ["accounts", "entries", "operations", "calls", "holds", "api_keys"] {
                    let query = sqlx::AssertSqlSafe(format!("SELECT count(*) FROM {table}"));
                    let count: i64 = sqlx::query_scalar(query).fetch_one(&mut sql).await.unwrap();
                    rows.push_str(&format!(" {table}: {count}"));
                }
            }
        }
        rows
    }

    /// The state after a crash of the machine at this moment, while nothing is being written: a
    /// fixture with a copy of the files, or of what is in Postgres.
    pub fn crashed(&self) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let cluster = self.cluster.as_ref().map(TestCluster::crashed);
        let copy = Self { kind: self.kind, dir, cluster };
        std::fs::create_dir_all(copy.dir()).unwrap();
        for name in ["ledger.db", "ledger.db-wal"] {
            if self.dir().join(name).exists() {
                std::fs::copy(self.dir().join(name), copy.dir().join(name)).unwrap();
            }
        }
        copy
    }
}

/// Any backend, for tests that hand it batches themselves.
pub enum AnyBackend {
    Embedded(Box<SqliteLedger>),
    Cluster(Box<ClusterLedger>),
}

impl AnyBackend {
    pub async fn reader(&self) -> Arc<dyn Reader> {
        match self {
            Self::Embedded(ledger) => Arc::new(ledger.reader()),
            Self::Cluster(ledger) => Arc::new(ledger.reader()),
        }
    }

    /// One operation, as a batch of its own.
    pub async fn ask(&mut self, operation: Operation) -> Outcome {
        let mut outcomes = self.apply(&[operation]).await;
        assert_eq!(outcomes.len(), 1);
        outcomes.pop().unwrap()
    }
}

impl Backend for AnyBackend {
    async fn apply(&mut self, batch: &[Operation]) -> Vec<Outcome> {
        match self {
            Self::Embedded(ledger) => ledger.apply(batch).await,
            // The future is boxed, because a test that awaits it thirty times would have it on its stack as often.
            Self::Cluster(ledger) => Box::pin(ledger.apply(batch)).await,
        }
    }

    async fn tick(&mut self, is_live: &IsLive<'_>) -> Vec<Expired> {
        match self {
            Self::Embedded(ledger) => ledger.tick(is_live).await,
            Self::Cluster(ledger) => ledger.tick(is_live).await,
        }
    }

    fn tick_after(&self) -> Duration {
        match self {
            Self::Embedded(ledger) => ledger.tick_after(),
            Self::Cluster(ledger) => ledger.tick_after(),
        }
    }

    fn ends_wait(&self) -> Duration {
        match self {
            Self::Embedded(ledger) => ledger.ends_wait(),
            Self::Cluster(ledger) => ledger.ends_wait(),
        }
    }

    async fn close(&mut self) -> bool {
        match self {
            Self::Embedded(ledger) => ledger.close().await,
            Self::Cluster(ledger) => ledger.close().await,
        }
    }
}

/// A ledger in use, and what stops it.
pub struct Running {
    ledger: Ledger,
    pipeline: Pipeline,
}

impl Deref for Running {
    type Target = Ledger;
    fn deref(&self) -> &Ledger {
        &self.ledger
    }
}

impl Running {
    /// A ledger that was opened in another way.
    pub fn of((ledger, pipeline): (Ledger, Pipeline)) -> Self {
        Self { ledger, pipeline }
    }

    pub async fn stop(self) {
        assert!(self.pipeline.stop().await, "everything could be written");
    }

    /// The ledger and its pipeline apart, for a test that stops in its own way.
    pub fn apart(self) -> (Ledger, Pipeline) {
        (self.ledger, self.pipeline)
    }

    /// Balance and held credits of an account, as text.
    pub async fn has(&self, who: &str) -> (String, String) {
        let Balance { balance, held, .. } =
            self.balance(&account(who)).await.unwrap().unwrap_or_default();
        (balance.to_string(), held.to_string())
    }

    /// A call's hold on alice's credits.
    pub async fn call(&self, amount: &str) -> Result<farebox::ledger::Hold, Refusal> {
        self.hold(CallId::new(), account("alice"), credits(amount), "/x".into()).await
    }

    /// An account's entries, oldest first, with all that was asked before.
    pub async fn entries(&self, who: &str) -> Vec<Entry> {
        // Readers see what is durable; an audit waits until everything is.
        assert_eq!(self.ask(Operation::Audit).await, Outcome::Audited(vec![]));
        let mut entries = self.read().entries(&account(who), None, 10_000).await.unwrap();
        entries.reverse();
        entries
    }

    /// Fails unless the ledger agrees with itself, on disk and between disk and memory.
    pub async fn reconciles(&self) {
        let report = self.reconcile().await.unwrap();
        assert!(report.is_clean(), "{report:#?}");
    }
}

pub fn credits(text: &str) -> Credits {
    text.parse().unwrap()
}

pub fn account(id: &str) -> AccountId {
    id.parse().unwrap()
}

pub fn hold_id(id: &str) -> HoldId {
    id.parse().unwrap()
}

pub fn posting(kind: EntryKind, id: &str, who: &str, amount: &str) -> Posting {
    Posting {
        id: OperationId::posting(kind, id).unwrap(),
        account: account(who),
        kind,
        amount: amount.parse().unwrap(),
        reason: None,
    }
}

pub fn grant(id: &str, who: &str, amount: &str) -> Posting {
    posting(EntryKind::Grant, id, who, amount)
}

pub fn text(pair: (&str, &str)) -> (String, String) {
    (pair.0.into(), pair.1.into())
}

pub fn conflict() -> Outcome {
    Outcome::Refused(Refusal::Conflict)
}

pub fn ended() -> Outcome {
    Outcome::Refused(Refusal::Ended)
}

pub const HOUR_MS: u64 = 3_600_000;

pub fn hold_of(origin: Origin, id: &str, amount: &str, ttl_ms: u64) -> Operation {
    Operation::Hold(NewHold {
        id: hold_id(id),
        account: account("alice"),
        amount: credits(amount),
        route: "/jobs".into(),
        origin,
        ttl_ms,
        claim: None,
    })
}

/// A hold through the API, on alice's credits.
pub fn api_hold(id: &str, amount: &str) -> Operation {
    hold_of(Origin::Api, id, amount, HOUR_MS)
}

/// A capture through the API: by the hold's id alone.
pub fn api_capture(id: &str, amount: &str) -> Operation {
    Operation::Capture {
        hold: hold_id(id),
        account: None,
        amount: credits(amount),
        route: "/jobs".into(),
        origin: Origin::Api,
        may_overrun: false,
        usage: None,
        claim: None,
    }
}

pub fn api_release(id: &str) -> Operation {
    Operation::Release { hold: hold_id(id), account: None, origin: Origin::Api, claim: None }
}

pub fn call_capture(id: &str, amount: &str) -> Operation {
    Operation::Capture {
        hold: hold_id(id),
        account: Some(account("alice")),
        amount: credits(amount),
        route: "/x".into(),
        origin: Origin::Call,
        may_overrun: false,
        usage: None,
        claim: None,
    }
}

pub fn call_release(id: &str) -> Operation {
    Operation::Release {
        hold: hold_id(id),
        account: Some(account("alice")),
        origin: Origin::Call,
        claim: None,
    }
}

/// Waits until `condition` holds; fails after half a minute.
pub async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let limit = Instant::now() + Duration::from_secs(60);
    while !condition().await {
        assert!(Instant::now() < limit, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Polls once, and says whether that finished it.
pub async fn poll_once<F: Future + ?Sized>(mut future: Pin<&mut F>) -> bool {
    std::future::poll_fn(|context| Poll::Ready(future.as_mut().poll(context).is_ready())).await
}

/// The seed of a test's randomness: `FAREBOX_SEED`, or a new one; printed, so that a failure
/// shows it.
pub fn seed() -> u64 {
    let seed = match std::env::var("FAREBOX_SEED") {
        Ok(text) => text.parse().expect("FAREBOX_SEED is a number"),
        Err(_) => getrandom::u64().unwrap(),
    };
    println!("FAREBOX_SEED={seed}");
    seed
}
