//! Where a test does business: a fresh ledger of its own, which can be stopped, crash and be
//! opened again.

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
    Backend, Balance, Durability, Entry, EntryKind, Expired, HoldId, IsLive, Ledger, LedgerError,
    NewHold, Operation, OperationId, Origin, Outcome, Pipeline, Posting, Reader, Refusal,
    SqliteLedger,
};
use farebox::metrics::Metrics;
use sqlx::Connection as _;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use tempfile::TempDir;

/// Every ledger there is. A new one is a variant here, its arms in this file, and a line in
/// [`on_every_ledger`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    EmbeddedStrict,
    EmbeddedRelaxed,
}

/// Runs each test on each ledger: `contract::embedded_strict::a_test`, …
macro_rules! on_every_ledger {
    ($runtime:literal: $($test:ident),* $(,)?) => {
        $crate::house::on_one_ledger!($runtime, embedded_strict, EmbeddedStrict, $($test)*);
        $crate::house::on_one_ledger!($runtime, embedded_relaxed, EmbeddedRelaxed, $($test)*);
    };
}

macro_rules! on_one_ledger {
    ($runtime:literal, $module:ident, $kind:ident, $($test:ident)*) => {
        mod $module {
            $(
                #[tokio::test(flavor = $runtime)]
                async fn $test() {
                    super::$test($crate::house::House::new($crate::house::Kind::$kind)).await;
                }
            )*
        }
    };
}

pub(crate) use {on_every_ledger, on_one_ledger};

impl Kind {
    pub fn durability(self) -> Durability {
        match self {
            Self::EmbeddedStrict => Durability::Strict,
            Self::EmbeddedRelaxed => Durability::Relaxed,
        }
    }

    /// The module that [`on_every_ledger`] makes for it.
    pub fn module(self) -> &'static str {
        match self {
            Self::EmbeddedStrict => "embedded_strict",
            Self::EmbeddedRelaxed => "embedded_relaxed",
        }
    }

    /// True where what is acknowledged is on disk.
    pub fn is_strict(self) -> bool {
        self.durability() == Durability::Strict
    }
}

/// A ledger's place on disk.
pub struct House {
    pub kind: Kind,
    dir: TempDir,
}

impl House {
    pub fn new(kind: Kind) -> Self {
        Self { kind, dir: tempfile::tempdir().unwrap() }
    }

    pub fn dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub fn path(&self) -> PathBuf {
        self.dir().join("ledger.db")
    }

    /// The bare backend, without a pipeline.
    pub async fn backend(&self) -> AnyBackend {
        AnyBackend::Embedded(Box::new(self.embedded().await.unwrap()))
    }

    pub async fn embedded(&self) -> Result<SqliteLedger, LedgerError> {
        std::fs::create_dir_all(self.dir()).unwrap();
        let metrics = Metrics::new().unwrap();
        SqliteLedger::open(&self.path(), self.kind.durability(), metrics).await
    }

    /// The ledger in use.
    pub async fn open(&self) -> Running {
        let metrics = Metrics::new().unwrap();
        let (ledger, pipeline) = match self.kind {
            Kind::EmbeddedStrict | Kind::EmbeddedRelaxed => {
                let backend = self.embedded().await.unwrap();
                let reader = backend.reader().await.unwrap();
                Ledger::start(backend, reader, metrics)
            }
        };
        Running { ledger, pipeline }
    }

    /// Open, with these credits granted to alice.
    pub async fn open_with(&self, amount: &str) -> Running {
        let running = self.open().await;
        let posted = running.post(grant("initial", "alice", amount)).await.unwrap();
        assert!(posted.1, "a fresh ledger");
        running
    }

    /// A connection past the ledger, to the database itself.
    pub async fn sql(&self) -> SqliteConnection {
        let options = SqliteConnectOptions::new().filename(self.path());
        SqliteConnection::connect_with(&options.busy_timeout(Duration::from_secs(5))).await.unwrap()
    }

    /// What a crash of the machine would leave at this moment, while nothing is being written:
    /// a house with a copy of the files.
    pub fn crashed(&self) -> Self {
        let copy = Self::new(self.kind);
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
}

impl AnyBackend {
    pub async fn reader(&self) -> Arc<dyn Reader> {
        match self {
            Self::Embedded(ledger) => Arc::new(ledger.reader().await.unwrap()),
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
        }
    }

    async fn tick(&mut self, is_live: &IsLive<'_>) -> Vec<Expired> {
        match self {
            Self::Embedded(ledger) => ledger.tick(is_live).await,
        }
    }

    fn tick_after(&self) -> Duration {
        match self {
            Self::Embedded(ledger) => ledger.tick_after(),
        }
    }

    async fn close(&mut self) -> bool {
        match self {
            Self::Embedded(ledger) => ledger.close().await,
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
    pub async fn stop(self) {
        assert!(self.pipeline.stop().await, "everything could be written");
    }

    /// The two apart, for a test that stops in its own way.
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
        self.hold(HoldId::for_call(), account("alice"), credits(amount), "/x".into()).await
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
    }
}

pub fn api_release(id: &str) -> Operation {
    Operation::Release { hold: hold_id(id), account: None, origin: Origin::Api }
}

pub fn call_capture(id: &str, amount: &str) -> Operation {
    Operation::Capture {
        hold: hold_id(id),
        account: Some(account("alice")),
        amount: credits(amount),
        route: "/x".into(),
        origin: Origin::Call,
    }
}

pub fn call_release(id: &str) -> Operation {
    Operation::Release { hold: hold_id(id), account: Some(account("alice")), origin: Origin::Call }
}

/// Waits until `condition` holds; fails after half a minute.
pub async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let limit = Instant::now() + Duration::from_secs(30);
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
