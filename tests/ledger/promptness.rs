//! How long the ledger keeps an acknowledged operation from the disk, and how often it commits.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use farebox::ledger::{
    Backend, CallId, Durability, Expired, IsLive, Ledger, Operation, Outcome, Pipeline,
};
use farebox::metrics::Metrics;
use farebox::store::SqliteLedger;

use crate::test_ledger::{Kind, TestLedger, account, credits, grant};

/// The promised limit.
const PROMISE: Duration = Duration::from_millis(50);

/// How many calls are ready all the time.
const CALLS: usize = 4000;

/// The real ledger, and how old the oldest acknowledged operation was whenever a commit began.
struct Watched {
    ledger: SqliteLedger,
    metrics: Metrics,
    waiting_since: Option<Instant>,
    commits: u64,
    /// How long all commits took together, in seconds.
    committed_for: f64,
    ages: Arc<Mutex<Vec<Duration>>>,
}

impl Watched {
    /// Looks whether a commit has written what was waiting. The commit began as long before this moment as it took, or
    /// earlier.
    fn look(&mut self) {
        let took = &self.metrics.ledger_commit_seconds;
        let (commits, committed_for) = (took.get_sample_count(), took.get_sample_sum());
        if commits > self.commits
            && let Some(since) = self.waiting_since.take()
        {
            let took = Duration::from_secs_f64(committed_for - self.committed_for);
            self.ages.lock().unwrap().push(since.elapsed().saturating_sub(took));
        }
        (self.commits, self.committed_for) = (commits, committed_for);
        let lag = self.metrics.ledger_sync_lag_seconds.get();
        self.waiting_since =
            if lag > 0.0 { Instant::now().checked_sub(Duration::from_secs_f64(lag)) } else { None };
    }
}

impl Backend for Watched {
    async fn apply(&mut self, batch: &[Operation]) -> Vec<Outcome> {
        let outcomes = self.ledger.apply(batch).await;
        self.look();
        outcomes
    }

    async fn tick(&mut self, is_live: &IsLive<'_>) -> Vec<Expired> {
        let expired = self.ledger.tick(is_live).await;
        self.look();
        expired
    }

    fn tick_after(&self) -> Duration {
        self.ledger.tick_after()
    }

    async fn close(&mut self) -> bool {
        self.ledger.close().await
    }
}

/// A batch gathers every caller that is ready, and with thousands of callers that could take long. The
/// ledger cannot promise how long the disk takes, or when two busy cores run a task. So the test looks
/// at the time until a commit begins, and at its median.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn relaxed_writes_within_its_promise_while_thousands_of_calls_are_ready() {
    let fixture = TestLedger::new(Kind::EmbeddedRelaxed);
    std::fs::create_dir_all(fixture.dir()).unwrap();
    let metrics = Metrics::new().unwrap();
    let (path, durability) = (fixture.path(), fixture.kind.durability());
    let ledger = SqliteLedger::open(&path, durability, metrics.clone()).await.unwrap();
    let reader = ledger.reader();
    let ages = Arc::new(Mutex::new(Vec::new()));
    let watched = Watched {
        ledger,
        metrics: metrics.clone(),
        waiting_since: None,
        commits: 0,
        committed_for: 0.0,
        ages: ages.clone(),
    };
    let (ledger, pipeline) = Ledger::start(watched, reader, metrics);
    ledger.post(grant("gift", "alice", "1000000")).await.unwrap();
    let started = Instant::now();
    let calls: Vec<_> = (0..CALLS)
        .map(|_| {
            let ledger = ledger.clone();
            tokio::spawn(async move {
                while started.elapsed() < Duration::from_secs(2) {
                    let (id, alice) = (CallId::new(), account("alice"));
                    let hold = ledger.hold(id, alice, credits("1"), "/x".into()).await;
                    hold.unwrap().capture(credits("1"));
                }
            })
        })
        .collect();
    for call in calls {
        call.await.unwrap();
    }
    assert!(pipeline.stop().await);
    let mut ages = ages.lock().unwrap().clone();
    ages.sort();
    let (usual, worst) = (ages[ages.len() / 2], ages[ages.len() - 1]);
    println!("{} commits, half of them within {usual:?}, all within {worst:?}", ages.len());
    assert!(ages.len() >= 5, "{ages:?}");
    assert!(usual < PROMISE, "{ages:?}");
}

/// One call after the other: the end of a call and the hold of the next one are one commit. With a commit each, every
/// call would wait for the end of the one before it to be on disk.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strict_writes_the_end_of_a_call_with_the_hold_of_the_next_one() {
    let fixture = TestLedger::new(Kind::EmbeddedStrict);
    std::fs::create_dir_all(fixture.dir()).unwrap();
    let metrics = Metrics::new().unwrap();
    let ledger = SqliteLedger::open(&fixture.path(), Durability::Strict, metrics.clone()).await;
    let ledger = ledger.unwrap();
    let reader = ledger.reader();
    ends_are_written_with_holds(Ledger::start(ledger, reader, metrics.clone()), metrics).await;
}

/// The same on the cluster, where an append costs Postgres about as much for one operation as for thirty.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strict_on_the_cluster_appends_the_end_of_a_call_with_the_hold_of_the_next_one() {
    let fixture = TestLedger::new(Kind::ClusterStrict);
    let metrics = Metrics::new().unwrap();
    let opened = farebox::gateway::open_ledger(&fixture.config("gateway"), metrics.clone()).await;
    ends_are_written_with_holds(opened.unwrap(), metrics).await;
}

async fn ends_are_written_with_holds((ledger, pipeline): (Ledger, Pipeline), metrics: Metrics) {
    const CALLS: u64 = 200;
    ledger.post(grant("gift", "alice", "1000")).await.unwrap();
    let batches = || metrics.ledger_batch_size.get_sample_count();
    let before = batches();
    for _ in 0..CALLS {
        let (id, alice) = (CallId::new(), account("alice"));
        let hold = ledger.hold(id, alice, credits("1"), "/x".into()).await.unwrap();
        hold.capture(credits("1"));
        // Longer than a batch waits for operations that are ready, and shorter than an end waits for a hold.
        std::thread::sleep(Duration::from_micros(200));
    }
    // The last end waits for no other call.
    let limit = Instant::now() + Duration::from_secs(10);
    while batches() - before <= CALLS && Instant::now() < limit {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let decided = batches() - before;
    assert!(decided > CALLS, "the end of the last call stays behind");
    // A busy machine keeps many calls from beginning in time. With a commit for each end there would be twice as many
    // batches as calls.
    assert!(decided <= CALLS * 19 / 10, "{decided} batches for {CALLS} calls");
    assert!(pipeline.stop().await);
}
