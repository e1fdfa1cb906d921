//! Postgres is away from the cluster ledger, or fails it at the worst moment.

use std::time::{Duration, Instant};

use farebox::credits::Credits;
use farebox::ledger::{Backend as _, CallId, Operation, Origin, Outcome, Refusal};
use farebox::store::ClusterLedger;

use crate::cluster::serves_again;
use crate::servers::{CutProxy, Redis};
use crate::test_ledger::{
    HOUR_MS, Kind, TestLedger, account, call_capture, credits, eventually, grant, hold_of, text,
};

/// A ledger whose line to Postgres can be cut.
pub async fn with_a_line(kind: Kind) -> (TestLedger, CutProxy) {
    let mut fixture = TestLedger::new(kind);
    let line = before_postgres(&mut fixture).await;
    (fixture, line)
}

/// Has the gateways of this ledger reach Postgres through a line that can be cut.
pub async fn before_postgres(fixture: &mut TestLedger) -> CutProxy {
    let (port, url) = {
        let cluster = fixture.cluster();
        let postgres = cluster.postgres.lock().unwrap();
        (postgres.port(), postgres.url(&cluster.database))
    };
    let line = CutProxy::before(([127, 0, 0, 1], port).into()).await;
    let through = format!(":{}/", line.address().port());
    fixture.cluster_mut().postgres_url = Some(url.replace(&format!(":{port}/"), &through));
    line
}

#[tokio::test(flavor = "multi_thread")]
async fn strict_a_hold_that_cannot_be_committed_is_refused_and_ends() {
    let (fixture, line) = with_a_line(Kind::ClusterStrict).await;
    let ledger = fixture.open_with("10").await;
    ledger.call("1").await.unwrap().capture(credits("1"));
    assert_eq!(ledger.has("alice").await, text(("9", "0")));
    line.part();
    assert_eq!(ledger.call("4").await.unwrap_err(), Refusal::Unavailable);
    line.mend();
    serves_again(&ledger).await;
    eventually("nothing is held", async || ledger.has("alice").await == text(("9", "0"))).await;
    ledger.reconciles().await;
    ledger.stop().await;
}

/// The hold of a call that was refused is released in Redis, and the release cannot be committed either while Postgres
/// is away. Later calls of the account are refused at once nevertheless.
#[tokio::test(flavor = "multi_thread")]
async fn strict_a_release_that_cannot_be_committed_delays_no_refusal() {
    let (fixture, line) = with_a_line(Kind::ClusterStrict).await;
    let ledger = fixture.open_with("10").await;
    ledger.call("1").await.unwrap().release();
    line.part();
    assert_eq!(ledger.call("4").await.unwrap_err(), Refusal::Unavailable);
    let began = Instant::now();
    let mut longest = Duration::ZERO;
    while began.elapsed() < Duration::from_secs(3) {
        let asked = Instant::now();
        assert_eq!(ledger.call("4").await.unwrap_err(), Refusal::Unavailable);
        longest = longest.max(asked.elapsed());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(longest < Duration::from_secs(1), "a call waited {longest:?} for its refusal");
    line.mend();
    serves_again(&ledger).await;
    eventually("nothing is held", async || ledger.has("alice").await == text(("10", "0"))).await;
    ledger.reconciles().await;
    ledger.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn relaxed_on_a_lone_redis_goes_on_without_postgres_up_to_the_cap() {
    let (fixture, line) = with_a_line(Kind::ClusterRelaxed).await;
    let mut config = fixture.config("gateway");
    config.unsynced_cap = credits("20");
    let metrics = farebox::metrics::Metrics::new().unwrap();
    let opened = farebox::gateway::open_ledger(&config, metrics).await.unwrap();
    let (ledger, pipeline) = opened;
    ledger.post(grant("g", "alice", "100")).await.unwrap();
    ledger.balance(&account("alice")).await.unwrap();
    line.part();
    let started = Instant::now();
    let (mut charged, mut longest, mut last) = (0, Duration::ZERO, started);
    // Longer than a lease lasts.
    while started.elapsed() < Duration::from_secs(5) && charged < 20 {
        let id = CallId::new();
        if let Ok(hold) = ledger.hold(id, account("alice"), credits("1"), "/x".into()).await {
            hold.capture(credits("1"));
            charged += 1;
            longest = longest.max(last.elapsed());
            last = Instant::now();
        }
        tokio::time::sleep(Duration::from_millis(220)).await;
    }
    assert_eq!(charged, 20, "all that the cap allows");
    assert!(longest < Duration::from_secs(2), "a gap of {longest:?}");
    let id = CallId::new();
    let above = ledger.hold(id, account("alice"), credits("1"), "/x".into()).await;
    assert_eq!(above.unwrap_err(), Refusal::Unavailable, "the cap is ours: never 402");
    line.mend();
    eventually("Postgres has it", async || {
        let entries = ledger.read().entries(&account("alice"), None, 100).await;
        entries.is_ok_and(|entries| entries.len() == 21)
    })
    .await;
    let id = CallId::new();
    ledger.hold(id, account("alice"), credits("1"), "/x".into()).await.unwrap().release();
    assert!(ledger.reconcile().await.unwrap().is_clean());
    assert!(pipeline.stop().await);
}

/// Postgres fails after a recovery has begun the next epoch in Redis. A lost gateway has left a capture only in the
/// stream of the epoch before. The next attempt of the recovery still finds the capture.
#[tokio::test(flavor = "multi_thread")]
async fn relaxed_a_recovery_that_fails_at_its_end_loses_nothing() {
    let (fixture, line) = with_a_line(Kind::ClusterRelaxed).await;
    let ledger = fixture.open_with("10").await;
    let mut crashed = fixture.gateway("crashed").await.unwrap();
    let held = crashed.apply(&[hold_of(Origin::Call, "call", "4", HOUR_MS)]).await;
    assert!(matches!(held[..], [Outcome::Held { .. }]), "{held:?}");
    ledger.reconciles().await;
    line.part();
    let captured = crashed.apply(&[call_capture("call", "4")]).await;
    assert!(matches!(captured[..], [Outcome::Captured { late: false, .. }]), "{captured:?}");
    drop(crashed);
    let fails = "CREATE FUNCTION fails() RETURNS trigger LANGUAGE plpgsql AS \
                 $$ BEGIN RAISE EXCEPTION 'no more room'; END $$; \
                 CREATE TRIGGER fails BEFORE UPDATE OF epoch ON shards \
                 FOR EACH ROW WHEN (NEW.epoch > OLD.epoch) EXECUTE FUNCTION fails()";
    fixture.execute(fails).await.unwrap();
    fixture.cluster().redis.script_flush();
    line.mend();
    let begun = || fixture.cluster().redis.ask(&["HGET", "{s00}:meta", "number"]);
    let before = begun();
    eventually("Redis has begun the next epoch", async || begun() != before).await;
    fixture.execute("DROP TRIGGER fails ON shards").await.unwrap();
    serves_again(&ledger).await;
    assert_eq!(ledger.has("alice").await.0, "6");
    ledger.reconciles().await;
    ledger.stop().await;
}

/// Redis is lost with operations that Postgres does not have yet, and a call ends after that. The gateway hands over
/// both.
#[tokio::test(flavor = "multi_thread")]
async fn relaxed_a_stop_hands_over_what_was_decided_and_what_was_not() {
    let (mut fixture, line) = with_a_line(Kind::ClusterRelaxed).await;
    let ledger = fixture.open_with("10").await;
    let (settled, unsettled) = (ledger.call("2").await.unwrap(), ledger.call("3").await.unwrap());
    ledger.reconciles().await;
    line.part();
    settled.capture(credits("2"));
    eventually("Redis has it", async || ledger.has("alice").await == text(("8", "3"))).await;
    fixture.cluster_mut().redis.kill();
    unsettled.capture(credits("3"));
    line.mend();
    ledger.stop().await;
    fixture.cluster_mut().redis.restart();
    let ledger = fixture.open().await;
    assert_eq!(ledger.has("alice").await, text(("5", "0")));
    ledger.reconciles().await;
    ledger.stop().await;
}

/// For a caller whose token is new to this gateway, the gateway first opens the account, and finds it in Redis.
#[tokio::test(flavor = "multi_thread")]
async fn relaxed_an_account_that_redis_has_is_open_without_postgres() {
    let (fixture, line) = with_a_line(Kind::ClusterRelaxed).await;
    let ledger = fixture.open_with("10").await;
    let other = fixture.open_another("other").await;
    ledger.call("1").await.unwrap().release();
    line.part();
    // Longer than a lease lasts.
    eventually("Postgres is away", async || {
        ledger.open(&account("nobody"), credits("5")).await == Err(Refusal::Unavailable)
    })
    .await;
    let away = Instant::now();
    while away.elapsed() < Duration::from_secs(4) {
        for gateway in [&ledger, &other] {
            let asked = Instant::now();
            assert_eq!(gateway.open(&account("alice"), credits("5")).await, Ok(()));
            gateway.call("1").await.unwrap().release();
            assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
            assert_eq!(
                gateway.open(&account("nobody"), credits("5")).await,
                Err(Refusal::Unavailable),
                "nobody knows whether it is there"
            );
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    line.mend();
    for gateway in [&ledger, &other] {
        eventually("a new account is made", async || {
            gateway.open(&account("nobody"), credits("5")).await.is_ok()
        })
        .await;
    }
    eventually("all is settled", async || ledger.has("alice").await == text(("10", "0"))).await;
    assert_eq!(ledger.has("nobody").await, text(("5", "0")), "one grant");
    ledger.reconciles().await;
    other.stop().await;
    ledger.stop().await;
}

/// If another Redis may take this one's place, no gateway goes on without a lease.
#[tokio::test(flavor = "multi_thread")]
async fn relaxed_with_a_replica_the_metric_says_when_every_call_is_refused() {
    let (fixture, line) = with_a_line(Kind::ClusterRelaxed).await;
    let _replica = Redis::replica_of(fixture.cluster().redis.address());
    let metrics = farebox::metrics::Metrics::new().unwrap();
    let opened = farebox::gateway::open_ledger(&fixture.config("gateway"), metrics.clone()).await;
    let (ledger, pipeline) = opened.unwrap();
    ledger.post(grant("g", "alice", "100")).await.unwrap();
    let call = async || {
        let (id, route) = (CallId::new(), "/x".into());
        ledger.hold(id, account("alice"), credits("1"), route).await
    };
    eventually("calls are taken", async || call().await.is_ok()).await;
    eventually("the metric says so", async || metrics.ledger_up.get() == 1).await;
    line.part();
    eventually("no call is taken", async || call().await.is_err()).await;
    eventually("the metric says so", async || metrics.ledger_up.get() == 0).await;
    assert_eq!(call().await.unwrap_err(), Refusal::Unavailable);
    line.mend();
    eventually("calls are taken again", async || call().await.is_ok()).await;
    eventually("the metric says so", async || metrics.ledger_up.get() == 1).await;
    assert!(pipeline.stop().await);
}

/// The backlog that a gateway keeps for Postgres is bounded: beyond it, running calls are still settled,
/// and no new one is taken, until Postgres is back.
#[tokio::test(flavor = "multi_thread")]
async fn relaxed_takes_no_new_call_once_enough_waits_for_postgres() {
    const LIMIT: usize = 65_536;
    let (fixture, line) = with_a_line(Kind::ClusterRelaxed).await;
    let mut config = fixture.config("gateway");
    config.redo_limit_bytes = LIMIT;
    let metrics = farebox::metrics::Metrics::new().unwrap();
    let opened = farebox::gateway::open_ledger(&config, metrics.clone()).await.unwrap();
    let (ledger, pipeline) = opened;
    ledger.post(grant("g", "alice", "10000")).await.unwrap();
    ledger.balance(&account("alice")).await.unwrap();
    line.part();
    let call = async || {
        let (id, route) = (CallId::new(), "/x".into());
        ledger.hold(id, account("alice"), credits("1"), route).await
    };
    let (mut charged, mut live) = (0, Vec::new());
    let refusal = loop {
        match call().await {
            // A quarter of the calls still run when the ledger takes no new one.
            Ok(hold) if live.len() < charged / 3 => live.push(hold),
            Ok(hold) => {
                hold.capture(credits("1"));
                charged += 1;
            }
            Err(refusal) => break refusal,
        }
        assert!(charged * 64 < LIMIT, "{charged} calls wait, and more are taken");
    };
    assert_eq!(refusal, Refusal::Unavailable, "the limit is ours: never 402");
    assert!(charged > 50, "{charged}");
    eventually("the metric says so", async || metrics.ledger_up.get() == 0).await;
    for hold in live {
        hold.capture(credits("1"));
        charged += 1;
    }
    let has = async || ledger.balance(&account("alice")).await.ok().flatten();
    let left = (10_000 - charged).to_string();
    eventually("Redis has settled all of them", async || {
        has().await.is_some_and(|has| has.balance.to_string() == left && has.held == Credits::ZERO)
    })
    .await;
    assert_eq!(call().await.unwrap_err(), Refusal::Unavailable);
    line.mend();
    eventually("calls are taken again", async || call().await.is_ok()).await;
    eventually("the metric says so", async || metrics.ledger_up.get() == 1).await;
    eventually("Postgres has it", async || {
        ledger.reconcile().await.is_ok_and(|report| report.is_clean() && report.live_holds == 0)
    })
    .await;
    let view = ledger.read().account(&account("alice")).await.unwrap().unwrap();
    assert_eq!(view.balance.balance.to_string(), left);
    assert!(pipeline.stop().await);
}

/// The cap counts the holds of a batch together, even if all earlier entries of the account are durable.
#[tokio::test(flavor = "multi_thread")]
async fn relaxed_the_holds_of_one_batch_count_together_against_the_cap() {
    let fixture = TestLedger::new(Kind::ClusterRelaxed);
    let mut config = fixture.config("gateway");
    config.unsynced_cap = credits("20");
    let metrics = farebox::metrics::Metrics::new().unwrap();
    let mut ledger = ClusterLedger::open(&config, metrics).await.unwrap();
    ledger.apply(&[Operation::Post(grant("g", "alice", "100"))]).await;
    let hold = |id: &str| hold_of(Origin::Call, id, "8", HOUR_MS);
    let outcomes = ledger.apply(&[hold("one"), hold("two"), hold("three")]).await;
    assert!(outcomes[..2].iter().all(|held| matches!(held, Outcome::Held { .. })), "{outcomes:?}");
    assert_eq!(outcomes[2], Outcome::Refused(Refusal::Unavailable));
    assert!(ledger.close().await);
}
