//! Promises of the cluster ledger alone: Redis may lose everything, and other gateways decide
//! meanwhile.

use std::time::Duration;

use farebox::credits::Credits;
use farebox::ledger::{
    Backend as _, Durability, EntryKind, KeyHash, KeyRecord, LedgerError, Operation, Origin,
    Outcome, Reader as _, Refusal, Stage,
};
use farebox::store::{ClusterLedger, migrate_cluster};

use crate::payments::{disputed, nth, paid, refunded, take};
use crate::servers::Redis;
use crate::test_cluster::SCHEMA;
use crate::test_ledger::{
    HOUR_MS, Kind, Running, TestLedger, account, api_capture, api_hold, api_release, call_capture,
    call_release, credits, ended, eventually, grant, hold_of, on_cluster_ledgers, posting, text,
};

on_cluster_ledgers!("multi_thread":
    a_redis_that_lost_everything_is_recovered,
    a_redis_that_forgot_its_scripts_is_recovered,
    a_redis_that_lost_its_live_holds_alone_is_recovered,
    a_redis_that_was_replaced_by_an_empty_one_is_recovered,
    a_redis_restored_from_an_old_copy_is_recovered,
    an_account_that_comes_back_has_what_was_granted_meanwhile,
    a_grant_that_is_delivered_twice_counts_once,
    a_change_above_the_largest_balance_is_exact_in_redis,
    a_grant_that_takes_the_number_of_a_lost_one_is_delivered,
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

/// Waits until the ledger takes calls again.
pub async fn serves_again(ledger: &Running) {
    eventually("the ledger serves again", async || {
        let call = ledger.call("0.5").await;
        call.is_ok()
    })
    .await;
}

/// Alice has 10, of which a call was charged 2, and 4 are held: 3 by the API, 1 by a call.
async fn busy(fixture: &TestLedger) -> (Running, farebox::ledger::Hold) {
    let ledger = fixture.open_with("10").await;
    ledger.ask(api_hold("job", "3")).await;
    let live = ledger.call("1").await.unwrap();
    ledger.call("2").await.unwrap().capture(credits("2"));
    assert_eq!(ledger.has("alice").await, text(("8", "4")));
    (ledger, live)
}

/// Expects that nothing of [`busy`] is lost, and that all of it can be ended.
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

async fn a_redis_that_lost_everything_is_recovered(fixture: TestLedger) {
    let (ledger, live) = busy(&fixture).await;
    fixture.cluster().redis.flush_all();
    goes_on(ledger, live).await;
}

async fn a_redis_that_forgot_its_scripts_is_recovered(fixture: TestLedger) {
    let (ledger, live) = busy(&fixture).await;
    fixture.cluster().redis.script_flush();
    goes_on(ledger, live).await;
}

/// Somebody deleted the one key, or Redis evicted it. The key of the next epoch is lost as well, with no call under way.
async fn a_redis_that_lost_its_live_holds_alone_is_recovered(fixture: TestLedger) {
    let (ledger, live) = busy(&fixture).await;
    let redis = &fixture.cluster().redis;
    for epoch in 1..=2 {
        let key = format!("{{s00}}:{epoch}:live");
        eventually("the epoch is open", async || redis.ask(&["EXISTS", &key]) == "1").await;
        assert_eq!(redis.ask(&["DEL", &key]), "1");
        let next = format!("{{s00}}:{}:live", epoch + 1);
        eventually("the next epoch is open", async || redis.ask(&["EXISTS", &next]) == "1").await;
        serves_again(&ledger).await;
    }
    goes_on(ledger, live).await;
}

async fn a_redis_that_was_replaced_by_an_empty_one_is_recovered(mut fixture: TestLedger) {
    let (ledger, live) = busy(&fixture).await;
    fixture.cluster_mut().redis.kill();
    // Our own failure is 503.
    assert_eq!(ledger.call("1").await.unwrap_err(), Refusal::Unavailable);
    fixture.cluster_mut().redis.restart();
    goes_on(ledger, live).await;
}

async fn a_redis_restored_from_an_old_copy_is_recovered(mut fixture: TestLedger) {
    let ledger = fixture.open_with("10").await;
    let old = fixture.cluster().redis.snapshot();
    for _ in 0..3 {
        ledger.call("2").await.unwrap().capture(credits("2"));
    }
    assert_eq!(ledger.has("alice").await, text(("4", "0")));
    fixture.cluster_mut().redis.restart_from(&old);
    serves_again(&ledger).await;
    eventually("nothing is held", async || ledger.has("alice").await == text(("4", "0"))).await;
    ledger.reconciles().await;
    ledger.stop().await;
}

/// One gateway brings an account to Redis while another grants to it.
async fn an_account_that_comes_back_has_what_was_granted_meanwhile(fixture: TestLedger) {
    let mut first = fixture.gateway("first").await.unwrap();
    let mut second = fixture.gateway("second").await.unwrap();
    let balance = [Operation::Balance { account: account("alice") }];
    for n in 1..=30_u64 {
        eventually("the account is cold", async || {
            first.retire(Duration::ZERO).await.unwrap();
            let key = "{s00}:*:a:alice";
            fixture.cluster().redis.ask(&["KEYS", key]).is_empty()
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

async fn a_grant_that_is_delivered_twice_counts_once(fixture: TestLedger) {
    let ledger = fixture.open_with("10").await;
    let again = "INSERT INTO deliveries SELECT id, grant_seq, 10000000, false FROM accounts";
    fixture.execute(again).await.unwrap();
    let mut sql = fixture.cluster().sql().await;
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

/// Two grants at once pay a debt and fill the account. Lua's numbers are exact only up to the largest balance.
async fn a_change_above_the_largest_balance_is_exact_in_redis(fixture: TestLedger) {
    let mut backend = fixture.backend().await;
    backend.ask(Operation::Post(grant("first", "alice", "1"))).await;
    let debt = posting(EntryKind::Adjustment, "debt", "alice", "-2");
    backend.ask(Operation::Post(debt)).await;
    let balance = Operation::Balance { account: account("alice") };
    backend.ask(balance.clone()).await;
    let all = Credits::MAX.to_string();
    let grants = [grant("few", "alice", "0.000005"), grant("all", "alice", &all)];
    for outcome in backend.apply(&grants.map(Operation::Post)).await {
        assert!(matches!(outcome, Outcome::Posted { .. }), "{outcome:?}");
    }
    let Outcome::Balance(Some(after)) = backend.ask(balance).await else { panic!("no account") };
    assert_eq!(after.balance.to_string(), "9007199253.740997");
    assert_eq!(backend.ask(Operation::Audit).await, Outcome::Audited(vec![]));
    assert!(backend.close().await);
}

/// A gateway has delivered a grant, and stands still before it deletes the delivery. Meanwhile Postgres fails over to a
/// server that lacks the grant, and gives its number to another one.
async fn a_grant_that_takes_the_number_of_a_lost_one_is_delivered(fixture: TestLedger) {
    const GATE: i64 = 77;
    let ledger = fixture.open_with("10").await;
    assert_eq!(ledger.has("alice").await, text(("10", "0")), "Redis has the account");
    let waits = format!(
        "CREATE FUNCTION waits() RETURNS trigger LANGUAGE plpgsql AS \
         $$ BEGIN PERFORM pg_advisory_xact_lock({GATE}); RETURN NULL; END $$; \
         CREATE TRIGGER waits BEFORE DELETE ON deliveries FOR EACH STATEMENT EXECUTE FUNCTION waits()"
    );
    fixture.execute(&waits).await.unwrap();
    let mut sql = fixture.cluster().sql().await;
    let lock = format!("SELECT pg_advisory_lock({GATE})");
    sqlx::query(sqlx::AssertSqlSafe(lock)).execute(&mut sql).await.unwrap();

    let lost = async { ledger.ask(Operation::Post(grant("lost", "alice", "5"))).await };
    let fails_over = async {
        let waiting = format!(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND objid = {GATE} \
             AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        );
        eventually("the delivery is about to be deleted", async || {
            let waiting = sqlx::query_scalar(sqlx::AssertSqlSafe(waiting.clone()));
            let waiting: i64 = waiting.fetch_one(&mut sql).await.unwrap();
            waiting > 0
        })
        .await;
        // The entry of the other grant, which nobody compares here, is left out.
        let other = "UPDATE deliveries SET amount = 7000000, digest = '\\x0102030405060708'; \
                     UPDATE accounts SET balance = 17000000, digest = '\\x0102030405060708' WHERE id = 'alice'";
        fixture.execute(other).await.unwrap();
        let unlock = format!("SELECT pg_advisory_unlock({GATE})");
        sqlx::query(sqlx::AssertSqlSafe(unlock)).execute(&mut sql).await.unwrap();
    };
    tokio::join!(lost, fails_over);
    eventually("the other grant is delivered", async || {
        ledger.has("alice").await == text(("17", "0"))
    })
    .await;
    ledger.stop().await;
}

/// Retries that a client library, or a gateway after an outage, may send much later.
async fn what_is_asked_again_after_redis_forgot_it_changes_nothing(fixture: TestLedger) {
    let mut ledger = fixture.gateway("gateway").await.unwrap();
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
        let redis = &fixture.cluster().redis;
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

async fn a_capture_counts_late_after_redis_forgot_the_expiry(fixture: TestLedger) {
    let mut ledger = fixture.gateway("gateway").await.unwrap();
    ledger.apply(&[Operation::Post(grant("g", "alice", "10"))]).await;
    ledger.apply(&[hold_of(Origin::Call, "slow", "4", 0)]).await;
    assert_eq!(ledger.tick(&|_| false).await.len(), 1);
    let redis = &fixture.cluster().redis;
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

async fn a_hold_with_an_old_id_is_refused(fixture: TestLedger) {
    let mut ledger = fixture.gateway("gateway").await.unwrap();
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
    // An id that a client chose does not tell when it was made.
    let chosen = ledger.apply(&[api_hold(&made_before(25), "1")]).await;
    assert!(matches!(chosen[..], [Outcome::Held { .. }]), "{chosen:?}");
    assert!(ledger.close().await);
}

async fn two_gateways_share_one_ledger(fixture: TestLedger) {
    let first = fixture.open_with("100").await;
    let second = fixture.open_another("second").await;
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

async fn gateways_that_are_set_up_otherwise_are_refused(mut fixture: TestLedger) {
    fixture.open().await.stop().await;
    let refused = |opened: Result<ClusterLedger, LedgerError>| opened.unwrap_err().to_string();
    let mut other = fixture.config("other");
    other.durability = match fixture.kind.durability() {
        Durability::Strict => Durability::Relaxed,
        Durability::Relaxed => Durability::Strict,
    };
    let metrics = || farebox::metrics::Metrics::new().unwrap();
    let error = refused(ClusterLedger::open(&other, metrics()).await);
    assert!(error.contains("durability"), "{error}");
    fixture.cluster_mut().redis = Redis::start_with(&["--maxmemory-policy", "allkeys-lru"]);
    let error = refused(fixture.gateway("gateway").await);
    assert!(error.contains("noeviction"), "{error}");
}

async fn a_key_that_is_revoked_elsewhere_is_seen(fixture: TestLedger) {
    let (first, second) = (fixture.open().await, fixture.open_another("second").await);
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

/// The gateway's lease runs out, and the other gateways let the holds of its calls expire. A capture that comes later
/// still counts.
async fn a_hold_of_a_call_of_a_crashed_gateway_is_given_back(fixture: TestLedger) {
    let ledger = fixture.open_with("10").await;
    let mut crashed = fixture.gateway("crashed").await.unwrap();
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

async fn places(fixture: &TestLedger) -> i64 {
    let mut sql = fixture.cluster().sql().await;
    sqlx::query_scalar("SELECT count(*) FROM gateways").fetch_one(&mut sql).await.unwrap()
}

async fn a_gateway_that_was_given_up_serves_again(fixture: TestLedger) {
    let ledger = fixture.open_with("10").await;
    let live = ledger.call("4").await.unwrap();
    fixture.execute("DELETE FROM gateways").await.unwrap();
    eventually("it takes its place again", async || places(&fixture).await == 1).await;
    live.capture(credits("4"));
    ledger.call("1").await.unwrap().capture(credits("1"));
    eventually("all is settled", async || ledger.has("alice").await == text(("5", "0"))).await;
    ledger.reconciles().await;
    ledger.stop().await;
    assert_eq!(places(&fixture).await, 0);
}

async fn two_gateways_of_one_name_both_go_on(fixture: TestLedger) {
    let first = fixture.open_with("10").await;
    let live = first.call("4").await.unwrap();
    let second = fixture.open_another("gateway").await;
    // The second gateway has a place of its own, and the first one keeps its place: a recovery
    // waits for both leases.
    assert_eq!(places(&fixture).await, 2);
    // The hold was given back when the second gateway started, and its capture counts late.
    live.capture(credits("4"));
    for ledger in [&first, &second] {
        ledger.call("1").await.unwrap().capture(credits("1"));
    }
    eventually("all is settled", async || second.has("alice").await == text(("4", "0"))).await;
    first.reconciles().await;
    first.stop().await;
    second.stop().await;
}

async fn a_lease_from_before_the_clock_was_set_back_stops_no_recovery(fixture: TestLedger) {
    let ledger = fixture.open_with("10").await;
    // A hold of a gateway that is gone.
    let left = "INSERT INTO gateways (id, incarnation, lease_until, checked_in, layout) \
                SELECT 'dead', 7, now() + interval '50 minutes', 0, layout FROM shards";
    fixture.execute(left).await.unwrap();
    fixture.cluster().redis.flush_all();
    serves_again(&ledger).await;
    ledger.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn several_gateways_may_migrate_at_once() {
    let fixture = TestLedger::new(Kind::ClusterStrict);
    let config = fixture.config("any");
    let migrate = || async { migrate_cluster(&config).await };
    let (a, b, c) = tokio::join!(migrate(), migrate(), migrate());
    for migrated in [a, b, c] {
        migrated.unwrap();
    }
    let mut sql = fixture.cluster().sql().await;
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
async fn gateways_that_hear_of_one_payment_at_once_move_it_once(fixture: TestLedger) {
    let (one, two) = (fixture.open().await, fixture.open_another("two").await);
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

async fn a_freeze_holds_on_every_gateway(fixture: TestLedger) {
    let (one, two) = (fixture.open().await, fixture.open_another("two").await);
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
