//! What is true of the cluster ledger alone: Redis may lose everything, Postgres may be away, and other
//! gateways decide meanwhile.

use std::time::{Duration, Instant};

use farebox::credits::Credits;
use farebox::ledger::{
    Backend as _, CallId, ClusterLedger, Durability, KeyHash, KeyRecord, LedgerError, Operation,
    Origin, Outcome, Reader as _, Refusal, Stage, migrate_cluster,
};

use crate::cluster_house::SCHEMA;
use crate::house::{
    HOUR_MS, House, Kind, Running, account, api_capture, api_hold, api_release, call_capture,
    call_release, credits, ended, eventually, grant, hold_of, on_cluster_ledgers, text,
};
use crate::payments::{disputed, nth, paid, refunded, take};
use crate::servers::{CutProxy, Redis};

on_cluster_ledgers!("multi_thread":
    a_redis_that_lost_everything_is_recovered,
    a_redis_that_forgot_its_scripts_is_recovered,
    a_redis_that_was_replaced_by_an_empty_one_is_recovered,
    a_redis_restored_from_an_old_copy_is_recovered,
    an_account_that_comes_back_has_what_was_granted_meanwhile,
    a_grant_that_is_delivered_twice_counts_once,
    what_is_asked_again_after_redis_forgot_it_changes_nothing,
    a_capture_counts_late_after_redis_forgot_the_expiry,
    a_hold_with_an_old_id_is_refused,
    two_gateways_share_one_ledger,
    gateways_that_are_set_up_otherwise_are_refused,
    a_key_that_is_revoked_elsewhere_is_seen,
    a_hold_of_a_call_of_a_crashed_gateway_is_given_back,
    a_gateway_that_was_given_up_serves_again,
    two_gateways_of_one_name_both_go_on,
    a_lease_from_before_the_clock_was_set_back_stops_no_recovery,
    gateways_that_hear_of_one_payment_at_once_move_it_once,
    a_freeze_holds_on_every_gateway,
);

/// Until the ledger takes calls again.
async fn serves_again(ledger: &Running) {
    eventually("the ledger serves again", async || {
        let call = ledger.call("0.5").await;
        call.is_ok()
    })
    .await;
}

/// Alice has 10, of which a call was charged 2, and 4 are held: 3 by the API, 1 by a call.
async fn busy(house: &House) -> (Running, farebox::ledger::Hold) {
    let ledger = house.open_with("10").await;
    ledger.ask(api_hold("job", "3")).await;
    let live = ledger.call("1").await.unwrap();
    ledger.call("2").await.unwrap().capture(credits("2"));
    assert_eq!(ledger.has("alice").await, text(("8", "4")));
    (ledger, live)
}

/// Nothing of [`busy`] is lost, and all of it can be ended.
async fn goes_on(ledger: Running, live: farebox::ledger::Hold) {
    serves_again(&ledger).await;
    eventually("nothing else is held", async || ledger.has("alice").await == text(("8", "4")))
        .await;
    live.capture(credits("1"));
    let charged = ledger.ask(api_capture("job", "3")).await;
    assert!(matches!(charged, Outcome::Captured { late: false, .. }), "{charged:?}");
    assert_eq!(ledger.has("alice").await, text(("4", "0")));
    ledger.reconciles().await;
    ledger.stop().await;
}

async fn a_redis_that_lost_everything_is_recovered(house: House) {
    let (ledger, live) = busy(&house).await;
    house.cluster().redis.flush_all();
    goes_on(ledger, live).await;
}

async fn a_redis_that_forgot_its_scripts_is_recovered(house: House) {
    let (ledger, live) = busy(&house).await;
    house.cluster().redis.script_flush();
    goes_on(ledger, live).await;
}

async fn a_redis_that_was_replaced_by_an_empty_one_is_recovered(mut house: House) {
    let (ledger, live) = busy(&house).await;
    house.cluster_mut().redis.kill();
    // Our own failure is 503.
    assert_eq!(ledger.call("1").await.unwrap_err(), Refusal::Unavailable);
    house.cluster_mut().redis.restart();
    goes_on(ledger, live).await;
}

async fn a_redis_restored_from_an_old_copy_is_recovered(mut house: House) {
    let ledger = house.open_with("10").await;
    let old = house.cluster().redis.snapshot();
    for _ in 0..3 {
        ledger.call("2").await.unwrap().capture(credits("2"));
    }
    assert_eq!(ledger.has("alice").await, text(("4", "0")));
    house.cluster_mut().redis.restart_from(&old);
    serves_again(&ledger).await;
    eventually("nothing is held", async || ledger.has("alice").await == text(("4", "0"))).await;
    ledger.reconciles().await;
    ledger.stop().await;
}

/// One gateway brings an account to Redis while another grants to it.
async fn an_account_that_comes_back_has_what_was_granted_meanwhile(house: House) {
    let mut first = house.gateway("first").await.unwrap();
    let mut second = house.gateway("second").await.unwrap();
    let balance = [Operation::Balance { account: account("alice") }];
    for n in 1..=30_u64 {
        eventually("the account is cold", async || {
            first.retire(Duration::ZERO).await.unwrap();
            let key = "{s00}:*:a:alice";
            house.cluster().redis.ask(&["KEYS", key]).is_empty()
        })
        .await;
        let granted = [Operation::Post(grant(&format!("g{n}"), "alice", "1"))];
        let (brought, posted) = tokio::join!(first.apply(&balance), second.apply(&granted));
        assert!(matches!(posted[..], [Outcome::Posted { new: true, .. }]), "{posted:?}");
        assert!(matches!(brought[..], [Outcome::Balance(_)]), "{brought:?}");
        let Outcome::Balance(Some(has)) = first.apply(&balance).await.remove(0) else {
            panic!("alice has credits")
        };
        assert_eq!(has.balance.to_string(), n.to_string());
    }
    assert!(first.close().await && second.close().await);
    assert!(first.reader().reconcile().await.unwrap().is_clean());
}

async fn a_grant_that_is_delivered_twice_counts_once(house: House) {
    let ledger = house.open_with("10").await;
    let again = "INSERT INTO deliveries SELECT id, grant_seq, 10000000, false FROM accounts";
    house.execute(again).await.unwrap();
    let mut sql = house.cluster().sql().await;
    eventually("it is heard again", async || {
        let waiting = sqlx::query_scalar("SELECT count(*) FROM deliveries");
        let waiting: i64 = waiting.fetch_one(&mut sql).await.unwrap();
        waiting == 0
    })
    .await;
    assert_eq!(ledger.has("alice").await, text(("10", "0")));
    ledger.reconciles().await;
    ledger.stop().await;
}

/// What a client library, or a gateway after an outage, may send once more much later.
async fn what_is_asked_again_after_redis_forgot_it_changes_nothing(house: House) {
    let mut ledger = house.gateway("house").await.unwrap();
    ledger.apply(&[Operation::Post(grant("g", "alice", "10"))]).await;
    let batch = [
        hold_of(Origin::Call, "charged", "3", HOUR_MS),
        hold_of(Origin::Call, "released", "2", HOUR_MS),
        api_hold("job", "1"),
        api_hold("job-2", "1"),
        call_capture("charged", "2"),
        call_release("released"),
        api_capture("job", "1"),
        api_release("job-2"),
    ];
    let first = ledger.apply(&batch).await;
    assert!(first.iter().all(|outcome| !matches!(outcome, Outcome::Refused(_))), "{first:?}");
    for _ in 0..2 {
        let again = ledger.apply(&batch).await;
        assert!(again[..4].iter().all(|outcome| *outcome == ended()), "{again:?}");
        assert!(matches!(again[4], Outcome::Captured { late: false, .. }), "{again:?}");
        assert!(matches!(again[5], Outcome::Released { .. }), "{again:?}");
        let redis = &house.cluster().redis;
        for key in redis.ask(&["KEYS", "{s00}:*:ended:*"]).lines() {
            redis.ask(&["DEL", key]);
        }
    }
    let reader = ledger.reader();
    assert!(ledger.close().await);
    let view = reader.account(&account("alice")).await.unwrap().unwrap();
    assert_eq!(
        (view.balance.balance.to_string().as_str(), view.balance.held),
        ("7", Credits::ZERO)
    );
    assert!(reader.reconcile().await.unwrap().is_clean());
}

async fn a_capture_counts_late_after_redis_forgot_the_expiry(house: House) {
    let mut ledger = house.gateway("house").await.unwrap();
    ledger.apply(&[Operation::Post(grant("g", "alice", "10"))]).await;
    ledger.apply(&[hold_of(Origin::Call, "slow", "4", 0)]).await;
    assert_eq!(ledger.tick(&|_| false).await.len(), 1);
    let redis = &house.cluster().redis;
    for key in redis.ask(&["KEYS", "{s00}:*:ended:*"]).lines() {
        redis.ask(&["DEL", key]);
    }
    let late = ledger.apply(&[call_capture("slow", "4"), call_capture("slow", "4")]).await;
    assert!(matches!(late[0], Outcome::Captured { late: true, .. }), "{late:?}");
    assert!(matches!(late[1], Outcome::Captured { late: false, .. }), "{late:?}");
    assert!(ledger.close().await);
    let reader = ledger.reader();
    assert_eq!(reader.entries(&account("alice"), None, 10).await.unwrap().len(), 2);
    assert!(reader.reconcile().await.unwrap().is_clean());
}

async fn a_hold_with_an_old_id_is_refused(house: House) {
    let mut ledger = house.gateway("house").await.unwrap();
    ledger.apply(&[Operation::Post(grant("g", "alice", "10"))]).await;
    let made_before = |hours: u64| {
        let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
        let made = uuid::Timestamp::from_unix(uuid::NoContext, now - hours * 3600, 0);
        uuid::Uuid::new_v7(made).to_string()
    };
    let hold = |id: &str| hold_of(Origin::Call, id, "1", HOUR_MS);
    let outcomes = ledger.apply(&[hold(&made_before(25)), hold(&made_before(23))]).await;
    // The id of a call's hold is ours: it is our clock that is wrong.
    assert_eq!(outcomes[0], Outcome::Refused(Refusal::Unavailable));
    assert!(matches!(outcomes[1], Outcome::Held { .. }), "{outcomes:?}");
    // One that a client chose says nothing of when it was made.
    let chosen = ledger.apply(&[api_hold(&made_before(25), "1")]).await;
    assert!(matches!(chosen[..], [Outcome::Held { .. }]), "{chosen:?}");
    assert!(ledger.close().await);
}

async fn two_gateways_share_one_ledger(house: House) {
    let first = house.open_with("100").await;
    let second = house.open_another("second").await;
    let calls = async |ledger: &Running| {
        let mut granted = 0;
        while let Ok(hold) = ledger.call("1").await {
            granted += 1;
            if granted % 3 == 0 { hold.release() } else { hold.capture(credits("1")) }
        }
        granted - granted / 3
    };
    let (one, other) = tokio::join!(calls(&first), calls(&second));
    eventually("all is settled", async || second.has("alice").await.1 == "0").await;
    let left = 100 - one - other;
    assert_eq!(first.has("alice").await, text((&left.to_string(), "0")));
    assert_eq!(second.has("alice").await, text((&left.to_string(), "0")));
    first.reconciles().await;
    second.reconciles().await;
    first.stop().await;
    second.reconciles().await;
    second.stop().await;
}

async fn gateways_that_are_set_up_otherwise_are_refused(mut house: House) {
    house.open().await.stop().await;
    let refused = |opened: Result<ClusterLedger, LedgerError>| opened.unwrap_err().to_string();
    let mut other = house.config("other");
    other.durability = match house.kind.durability() {
        Durability::Strict => Durability::Relaxed,
        Durability::Relaxed => Durability::Strict,
    };
    let metrics = || farebox::metrics::Metrics::new().unwrap();
    let error = refused(ClusterLedger::open(&other, metrics()).await);
    assert!(error.contains("durability"), "{error}");
    house.cluster_mut().redis = Redis::start_with(&["--maxmemory-policy", "allkeys-lru"]);
    let error = refused(house.gateway("house").await);
    assert!(error.contains("noeviction"), "{error}");
}

async fn a_key_that_is_revoked_elsewhere_is_seen(house: House) {
    let (first, second) = (house.open().await, house.open_another("second").await);
    let key = KeyRecord {
        id: "k1".into(),
        hash: KeyHash::of("secret"),
        account: account("alice"),
        name: "".into(),
        service: false,
        hint: "".into(),
        created_at_ms: 1,
        revoked_at_ms: None,
    };
    let none = second.read().key_changes(0).await.unwrap().unwrap();
    assert_eq!((none.version, none.keys), (0, vec![]));
    first.ask(Operation::PutKeys(vec![key.clone()])).await;
    let made = second.read().key_changes(0).await.unwrap().unwrap();
    assert_eq!((made.version, &made.keys[..]), (1, &[key][..]));
    first.ask(Operation::RevokeKey { id: "k1".into() }).await;
    let revoked = second.read().key_changes(1).await.unwrap().unwrap();
    assert_eq!(revoked.version, 2);
    assert!(revoked.keys[0].revoked_at_ms.is_some());
    assert!(second.read().key_changes(2).await.unwrap().unwrap().keys.is_empty());
    first.stop().await;
    second.stop().await;
}

/// Its lease runs out, and whoever still serves lets its calls' holds expire: a capture that comes all
/// the same counts.
async fn a_hold_of_a_call_of_a_crashed_gateway_is_given_back(house: House) {
    let ledger = house.open_with("10").await;
    let mut crashed = house.gateway("crashed").await.unwrap();
    let held = crashed.apply(&[hold_of(Origin::Call, "lost", "4", HOUR_MS)]).await;
    assert!(matches!(held[..], [Outcome::Held { .. }]), "{held:?}");
    drop(crashed);
    assert_eq!(ledger.has("alice").await, text(("10", "4")));
    eventually("its hold expired", async || ledger.has("alice").await.1 == "0").await;
    let late = ledger.ask(call_capture("lost", "4")).await;
    assert!(matches!(late, Outcome::Captured { late: true, .. }), "{late:?}");
    ledger.reconciles().await;
    ledger.stop().await;
}

async fn places(house: &House) -> i64 {
    let mut sql = house.cluster().sql().await;
    sqlx::query_scalar("SELECT count(*) FROM gateways").fetch_one(&mut sql).await.unwrap()
}

async fn a_gateway_that_was_given_up_serves_again(house: House) {
    let ledger = house.open_with("10").await;
    let live = ledger.call("4").await.unwrap();
    house.execute("DELETE FROM gateways").await.unwrap();
    eventually("it takes its place again", async || places(&house).await == 1).await;
    live.capture(credits("4"));
    ledger.call("1").await.unwrap().capture(credits("1"));
    eventually("all is settled", async || ledger.has("alice").await == text(("5", "0"))).await;
    ledger.reconciles().await;
    ledger.stop().await;
    assert_eq!(places(&house).await, 0);
}

async fn two_gateways_of_one_name_both_go_on(house: House) {
    let first = house.open_with("10").await;
    let live = first.call("4").await.unwrap();
    let second = house.open_another("house").await;
    // It has another place, and has had one all along: a recovery waits for its lease.
    assert_eq!(places(&house).await, 2);
    // It was given back with the second one's start, and counts late.
    live.capture(credits("4"));
    for ledger in [&first, &second] {
        ledger.call("1").await.unwrap().capture(credits("1"));
    }
    eventually("all is settled", async || second.has("alice").await == text(("4", "0"))).await;
    first.reconciles().await;
    first.stop().await;
    second.stop().await;
}

async fn a_lease_from_before_the_clock_was_set_back_stops_no_recovery(house: House) {
    let ledger = house.open_with("10").await;
    // Of a gateway that is no more.
    let left = "INSERT INTO gateways (id, incarnation, lease_until, checked_in, layout) \
                SELECT 'dead', 7, now() + interval '50 minutes', 0, layout FROM shards";
    house.execute(left).await.unwrap();
    house.cluster().redis.flush_all();
    serves_again(&ledger).await;
    ledger.stop().await;
}

/// A ledger whose line to Postgres can be cut.
pub async fn with_a_line(kind: Kind) -> (House, CutProxy) {
    let mut house = House::new(kind);
    let (port, url) = {
        let cluster = house.cluster();
        let postgres = cluster.postgres.lock().unwrap();
        (postgres.port(), postgres.url(&cluster.database))
    };
    let line = CutProxy::before(([127, 0, 0, 1], port).into()).await;
    let through = format!(":{}/", line.address().port());
    house.cluster_mut().postgres_url = Some(url.replace(&format!(":{port}/"), &through));
    (house, line)
}

#[tokio::test(flavor = "multi_thread")]
async fn strict_a_hold_that_cannot_be_committed_is_refused_and_ends() {
    let (house, line) = with_a_line(Kind::ClusterStrict).await;
    let ledger = house.open_with("10").await;
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

#[tokio::test(flavor = "multi_thread")]
async fn relaxed_on_a_lone_redis_goes_on_without_postgres_up_to_the_cap() {
    let (house, line) = with_a_line(Kind::ClusterRelaxed).await;
    let mut config = house.config("house");
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

/// Postgres fails after a recovery has begun the next epoch in Redis. What only the stream of the one before has, of a
/// gateway that is no more, is still there when it is tried again.
#[tokio::test(flavor = "multi_thread")]
async fn relaxed_a_recovery_that_fails_at_its_end_loses_nothing() {
    let (house, line) = with_a_line(Kind::ClusterRelaxed).await;
    let ledger = house.open_with("10").await;
    let mut crashed = house.gateway("crashed").await.unwrap();
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
    house.execute(fails).await.unwrap();
    house.cluster().redis.script_flush();
    line.mend();
    let begun = || house.cluster().redis.ask(&["HGET", "{s00}:meta", "number"]);
    let before = begun();
    eventually("Redis has begun the next epoch", async || begun() != before).await;
    house.execute("DROP TRIGGER fails ON shards").await.unwrap();
    serves_again(&ledger).await;
    assert_eq!(ledger.has("alice").await.0, "6");
    ledger.reconciles().await;
    ledger.stop().await;
}

/// Redis is lost with what Postgres does not have yet, and a call cannot be settled any more: what was settled
/// before is handed over all the same.
#[tokio::test(flavor = "multi_thread")]
async fn relaxed_a_stop_hands_over_what_it_remembers_though_a_call_cannot_be_settled() {
    let (mut house, line) = with_a_line(Kind::ClusterRelaxed).await;
    let ledger = house.open_with("10").await;
    let (settled, unsettled) = (ledger.call("2").await.unwrap(), ledger.call("3").await.unwrap());
    ledger.reconciles().await;
    line.part();
    settled.capture(credits("2"));
    eventually("Redis has it", async || ledger.has("alice").await == text(("8", "3"))).await;
    house.cluster_mut().redis.kill();
    unsettled.capture(credits("3"));
    line.mend();
    let (_, pipeline) = ledger.apart();
    assert!(!pipeline.stop().await, "one is unwritten");
    house.cluster_mut().redis.restart();
    let ledger = house.open().await;
    assert_eq!(ledger.has("alice").await, text(("8", "0")));
    ledger.reconciles().await;
    ledger.stop().await;
}

/// Who calls with a token that this gateway has not seen asks for the account first: one that Redis has is there.
#[tokio::test(flavor = "multi_thread")]
async fn relaxed_an_account_that_redis_has_is_open_without_postgres() {
    let (house, line) = with_a_line(Kind::ClusterRelaxed).await;
    let ledger = house.open_with("10").await;
    let other = house.open_another("other").await;
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

/// Where another Redis may take this one's place, nobody goes on without a lease.
#[tokio::test(flavor = "multi_thread")]
async fn relaxed_with_a_replica_the_metric_says_when_every_call_is_refused() {
    let (house, line) = with_a_line(Kind::ClusterRelaxed).await;
    let _replica = Redis::replica_of(house.cluster().redis.address());
    let metrics = farebox::metrics::Metrics::new().unwrap();
    let opened = farebox::gateway::open_ledger(&house.config("house"), metrics.clone()).await;
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

/// What a gateway remembers for Postgres is bounded: then calls that run are still settled, and no new one is
/// taken, until Postgres is back.
#[tokio::test(flavor = "multi_thread")]
async fn relaxed_takes_no_new_call_once_enough_waits_for_postgres() {
    const LIMIT: usize = 65_536;
    let (house, line) = with_a_line(Kind::ClusterRelaxed).await;
    let mut config = house.config("house");
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
            // Every fourth is still running when no other is taken any more.
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

/// Also where all that the account had before is durable.
#[tokio::test(flavor = "multi_thread")]
async fn relaxed_the_holds_of_one_batch_count_together_against_the_cap() {
    let house = House::new(Kind::ClusterRelaxed);
    let mut config = house.config("house");
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

#[tokio::test(flavor = "multi_thread")]
async fn several_gateways_may_migrate_at_once() {
    let house = House::new(Kind::ClusterStrict);
    let config = house.config("any");
    let migrate = || async { migrate_cluster(&config).await };
    let (a, b, c) = tokio::join!(migrate(), migrate(), migrate());
    for migrated in [a, b, c] {
        migrated.unwrap();
    }
    let mut sql = house.cluster().sql().await;
    let elsewhere: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM pg_tables WHERE schemaname NOT IN ($1, 'pg_catalog', 'information_schema')",
    )
    .bind(SCHEMA)
    .fetch_one(&mut sql)
    .await
    .unwrap();
    assert_eq!(elsewhere, 0, "nothing is made outside of its schema");
    let months: i64 =
        sqlx::query_scalar("SELECT count(*) FROM pg_tables WHERE tablename LIKE 'entries_2%'")
            .fetch_one(&mut sql)
            .await
            .unwrap();
    assert_eq!(months, 3);
}

/// The sale and its refund come under names that only a third event shows to be of one payment.
async fn gateways_that_hear_of_one_payment_at_once_move_it_once(house: House) {
    let (one, two) = (house.open().await, house.open_another("two").await);
    let by_charge = refunded("re_1", 3950, &["ch_1"]);
    let linking = refunded("re_1", 3950, &["ch_1", "pi_1"]);
    for n in 1..=20 {
        let taken = tokio::join!(
            take(&one, nth(n, &paid())),
            take(&two, nth(n, &by_charge)),
            take(&one, nth(n, &linking)),
            take(&two, nth(n, &paid())),
        );
        for taken in [taken.0, taken.1, taken.2, taken.3] {
            taken.unwrap();
        }
        let expected = text((&(250 * n).to_string(), "0"));
        for gateway in [&one, &two] {
            eventually("Redis hears of it", async || gateway.has("alice").await == expected).await;
        }
    }
    assert_eq!(one.entries("alice").await.len(), 40, "a grant and a clawback of each");
    one.reconciles().await;
    two.stop().await;
    one.stop().await;
}

async fn a_freeze_holds_on_every_gateway(house: House) {
    let (one, two) = (house.open().await, house.open_another("two").await);
    take(&one, paid()).await.unwrap();
    two.call("1").await.unwrap().release();
    take(&one, disputed(Stage::Standing)).await.unwrap();
    for gateway in [&one, &two] {
        assert_eq!(gateway.call("1").await.unwrap_err(), Refusal::Frozen);
    }
    let thawed = two.ask(Operation::Thaw { account: account("alice") }).await;
    assert_eq!(thawed, Outcome::Thawed { disputes: 1 });
    for gateway in [&one, &two] {
        gateway.call("1").await.unwrap().release();
    }
    one.reconciles().await;
    two.stop().await;
    one.stop().await;
}
