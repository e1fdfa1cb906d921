//! Claims: which call is forwarded and charged for a request, and what its retries hear.

use farebox::ledger::{
    AfterCrash, Backend as _, CallId, Claim, ClaimId, ClaimState, Claimed, HeldOrClaimed, Hold,
    HoldId, Ledger, LedgerConfig, NewHold, Operation, Origin, Outcome, Refusal, RequestMark,
};
use farebox::metrics::Metrics;
use farebox::store::SqliteLedger;

use crate::test_ledger::{
    AnyBackend, HOUR_MS, Running, TestLedger, account, credits, eventually, grant, hold_id,
    on_cluster_ledgers, on_embedded_ledgers, text,
};

on_embedded_ledgers!("current_thread":
    a_key_is_the_first_calls_while_it_runs_and_once_it_is_charged,
    a_key_is_free_again_where_its_call_was_not_charged,
    a_refused_call_leaves_no_claim,
    another_request_under_the_key_is_a_conflict_also_while_the_first_runs,
    the_same_key_twice_in_one_batch_is_decided_once,
    a_late_capture_takes_its_claim_again,
    a_call_that_was_left_is_told_to_one_retry_the_oldest_first,
    calls_that_were_left_at_once_are_told_in_their_order,
    a_call_that_was_left_and_not_charged_is_forgotten,
    a_frozen_account_hears_its_refusal_and_not_of_the_claim,
    a_claim_ends_with_its_time,
    a_crash_settles_claims_as_it_settles_their_holds,
    a_start_finds_the_claims_in_the_log,
    calls_that_were_left_outlive_a_crash,
    old_claims_are_deleted,
    a_call_without_a_claim_writes_nothing_of_claims,
    memory_is_flat_with_a_million_claims,
);

on_cluster_ledgers!("current_thread":
    a_key_is_the_first_calls_while_it_runs_and_once_it_is_charged,
    a_key_is_free_again_where_its_call_was_not_charged,
    a_refused_call_leaves_no_claim,
    another_request_under_the_key_is_a_conflict_also_while_the_first_runs,
    the_same_key_twice_in_one_batch_is_decided_once,
    a_late_capture_takes_its_claim_again,
    a_call_that_was_left_is_told_to_one_retry_the_oldest_first,
    a_call_that_was_left_and_not_charged_is_forgotten,
);

fn claim_id(n: u32) -> ClaimId {
    let mut bytes = [0x5a; 32];
    bytes[..4].copy_from_slice(&n.to_be_bytes());
    ClaimId::new(bytes)
}

fn mark(n: u8) -> RequestMark {
    RequestMark::new([n; 32])
}

fn key(n: u32) -> Claim {
    Claim::Key { id: claim_id(n), mark: Some(mark(1)), keep_ms: HOUR_MS }
}

fn retry(n: u32) -> Claim {
    Claim::Retry { id: claim_id(n) }
}

/// A call of alice's with a claim.
async fn ask(ledger: &Ledger, claim: Claim) -> Result<HeldOrClaimed, Refusal> {
    let (alice, route) = (account("alice"), "/x".into());
    ledger.hold_claiming(CallId::new(), alice, credits("1"), route, Some(claim)).await
}

/// The hold of a call that got its claim.
async fn held(ledger: &Ledger, claim: Claim) -> Hold {
    match ask(ledger, claim).await {
        Ok(HeldOrClaimed::Held(hold)) => hold,
        other => panic!("{other:?}"),
    }
}

/// What a call hears whose claim another call has.
async fn claimed(ledger: &Ledger, claim: Claim) -> Claimed {
    match ask(ledger, claim).await {
        Ok(HeldOrClaimed::Claimed(claimed, _)) => claimed,
        other => panic!("{other:?}"),
    }
}

fn by(hold: &HoldId, state: ClaimState) -> Claimed {
    Claimed { hold: hold.clone(), state }
}

/// The embedded ledger, set up so.
async fn opened(fixture: &TestLedger, after_crash: AfterCrash) -> Running {
    std::fs::create_dir_all(fixture.dir()).unwrap();
    let (path, durability) = (fixture.path(), fixture.kind.durability());
    let config = LedgerConfig { path, durability, after_crash, ..LedgerConfig::default() };
    let metrics = Metrics::new().unwrap();
    let backend = SqliteLedger::open_as(&config, metrics.clone()).await.unwrap();
    let reader = backend.reader();
    Running::of(Ledger::start(backend, reader, metrics))
}

async fn a_key_is_the_first_calls_while_it_runs_and_once_it_is_charged(fixture: TestLedger) {
    let ledger = fixture.open_with("10").await;
    let first = held(&ledger, key(1)).await;
    let id = first.id().clone();
    assert_eq!(claimed(&ledger, key(1)).await, by(&id, ClaimState::Running));
    held(&ledger, key(2)).await.release();
    first.capture(credits("1"));
    assert_eq!(claimed(&ledger, key(1)).await, by(&id, ClaimState::Charged));
    // An audit writes everything, so the claim is looked up from here on.
    ledger.reconciles().await;
    assert_eq!(claimed(&ledger, key(1)).await, by(&id, ClaimState::Charged));
    ledger.stop().await;
    let ledger = fixture.open().await;
    assert_eq!(claimed(&ledger, key(1)).await, by(&id, ClaimState::Charged));
    assert_eq!(ledger.has("alice").await, text(("9", "0")));
    ledger.reconciles().await;
    ledger.stop().await;
}

async fn a_key_is_free_again_where_its_call_was_not_charged(fixture: TestLedger) {
    let ledger = fixture.open_with("10").await;
    held(&ledger, key(1)).await.release();
    drop(held(&ledger, key(1)).await);
    held(&ledger, key(1)).await.capture(credits("0"));
    let last = held(&ledger, key(1)).await;
    // The release of a call that heard of the claim does not free it.
    let late = Operation::Release {
        hold: HoldId::for_call(),
        account: Some(account("alice")),
        origin: Origin::Call,
        claim: Some(claim_id(1)),
    };
    assert!(matches!(ledger.ask(late).await, Outcome::Released { .. }));
    assert_eq!(claimed(&ledger, key(1)).await, by(last.id(), ClaimState::Running));
    drop(last);
    held(&ledger, key(1)).await.release();
    assert_eq!(ledger.has("alice").await, text(("10", "0")));
    ledger.stop().await;
}

async fn a_refused_call_leaves_no_claim(fixture: TestLedger) {
    let ledger = fixture.open().await;
    assert!(matches!(ask(&ledger, key(1)).await, Err(Refusal::Insufficient { .. })));
    ledger.post(grant("one", "alice", "1")).await.unwrap();
    let hold = held(&ledger, key(1)).await;
    // All credits are held, and the retry hears of the first call all the same.
    assert_eq!(claimed(&ledger, key(1)).await, by(hold.id(), ClaimState::Running));
    assert!(matches!(ask(&ledger, key(2)).await, Err(Refusal::Insufficient { .. })));
    let id = hold.id().clone();
    hold.capture(credits("1"));
    assert_eq!(claimed(&ledger, key(1)).await, by(&id, ClaimState::Charged));
    ledger.stop().await;
}

async fn another_request_under_the_key_is_a_conflict_also_while_the_first_runs(
    fixture: TestLedger,
) {
    let ledger = fixture.open_with("10").await;
    let with = |mark| Claim::Key { id: claim_id(1), mark, keep_ms: HOUR_MS };
    // The body of the first call is still arriving.
    let first = held(&ledger, with(None)).await;
    let id = first.id().clone();
    assert_eq!(claimed(&ledger, with(Some(mark(2)))).await, by(&id, ClaimState::Running));
    first.mark_claim(mark(1)).await.unwrap();
    first.mark_claim(mark(3)).await.unwrap();
    for settled in [false, true] {
        let same = if settled { ClaimState::Charged } else { ClaimState::Running };
        assert_eq!(claimed(&ledger, with(Some(mark(2)))).await, by(&id, ClaimState::Conflict));
        assert_eq!(claimed(&ledger, with(Some(mark(1)))).await, by(&id, same));
        assert_eq!(claimed(&ledger, with(None)).await, by(&id, same));
        if !settled {
            let capture = capture_of(&id, Some(claim_id(1)));
            assert!(matches!(ledger.ask(capture).await, Outcome::Captured { .. }));
        }
        ledger.reconciles().await;
    }
    // A mark that comes after the charge still counts.
    let early = held(&ledger, Claim::Key { id: claim_id(2), mark: None, keep_ms: HOUR_MS }).await;
    let captured = ledger.ask(capture_of(early.id(), Some(claim_id(2)))).await;
    assert!(matches!(captured, Outcome::Captured { .. }), "{captured:?}");
    ledger.reconciles().await;
    early.mark_claim(mark(7)).await.unwrap();
    assert_eq!(claimed(&ledger, key(2)).await, by(early.id(), ClaimState::Conflict));
    drop((first, early));
    ledger.stop().await;
}

/// The capture of a call's hold of one credit.
fn capture_of(hold: &HoldId, claim: Option<ClaimId>) -> Operation {
    Operation::Capture {
        hold: hold.clone(),
        account: Some(account("alice")),
        amount: credits("1"),
        route: "/x".into(),
        origin: Origin::Call,
        may_overrun: true,
        usage: None,
        claim,
    }
}

async fn a_frozen_account_hears_its_refusal_and_not_of_the_claim(fixture: TestLedger) {
    let ledger = fixture.open_with("10").await;
    held(&ledger, key(1)).await.capture(credits("1"));
    ledger.stop().await;
    fixture.execute("INSERT INTO freezes VALUES ('dp_1', 'alice')").await.unwrap();
    let ledger = fixture.open().await;
    assert_eq!(ask(&ledger, key(1)).await.unwrap_err(), Refusal::Frozen);
    assert_eq!(ask(&ledger, retry(1)).await.unwrap_err(), Refusal::Frozen);
    ledger.stop().await;
}

async fn a_claim_ends_with_its_time(fixture: TestLedger) {
    let ledger = fixture.open_with("10").await;
    let short = || Claim::Key { id: claim_id(1), mark: Some(mark(1)), keep_ms: 100 };
    let first = held(&ledger, short()).await;
    let id = first.id().clone();
    tokio::time::sleep(std::time::Duration::from_millis(150)).await;
    let running = by(&id, ClaimState::Running);
    assert_eq!(claimed(&ledger, short()).await, running, "a call that runs keeps its claim");
    first.capture(credits("1"));
    held(&ledger, key(1)).await.capture(credits("1"));
    ledger.reconciles().await;
    assert_eq!(claimed(&ledger, key(1)).await.state, ClaimState::Charged);
    ledger.stop().await;
    fixture.execute("UPDATE claims SET until = 1000 WHERE charged = 1").await.unwrap();
    let ledger = fixture.open().await;
    drop(held(&ledger, key(1)).await);
    ledger.stop().await;
}

/// A call's hold of one credit.
fn hold_with(id: &HoldId, claim: Claim) -> Operation {
    Operation::Hold(NewHold {
        id: id.clone(),
        account: account("alice"),
        amount: credits("1"),
        route: "/x".into(),
        origin: Origin::Call,
        ttl_ms: HOUR_MS,
        claim: Some(claim),
    })
}

async fn the_same_key_twice_in_one_batch_is_decided_once(fixture: TestLedger) {
    let mut ledger = fixture.backend().await;
    ledger.ask(Operation::Post(grant("g", "alice", "10"))).await;
    let [a, b, c, d] = [(); 4].map(|()| HoldId::for_call());
    // With a grant among them, the batch is written in another way than without.
    for (n, others) in [(1, vec![]), (2, vec![Operation::Post(grant("h", "alice", "1"))])] {
        let [a, b, c, d] = [&a, &b, &c, &d].map(|id| hold_id(&format!("{}{n}", id.as_str())));
        let mut batch = vec![hold_with(&a, key(n)), hold_with(&b, key(n)), capture_of(&a, None)];
        batch.extend(others);
        batch.extend([hold_with(&c, key(n)), hold_with(&d, key(n + 10)), hold_with(&a, key(n))]);
        let outcomes = ledger.apply(&batch).await;
        assert!(matches!(outcomes[0], Outcome::Held { .. }), "{outcomes:?}");
        assert_eq!(outcomes[1], Outcome::Claimed(by(&a, ClaimState::Running)));
        assert!(matches!(outcomes[2], Outcome::Captured { .. }), "{outcomes:?}");
        let last = outcomes.len() - 3;
        assert_eq!(outcomes[last], Outcome::Claimed(by(&a, ClaimState::Charged)));
        assert!(matches!(outcomes[last + 1], Outcome::Held { .. }), "{outcomes:?}");
        assert_eq!(outcomes[last + 2], Outcome::Refused(Refusal::Ended));
        // A repetition of a hold that lives is no other call.
        let again = ledger.ask(hold_with(&d, key(n + 10))).await;
        assert!(matches!(again, Outcome::Held { .. }), "{again:?}");
        // Charged a moment ago and not written yet, beside an operation that writes everything first.
        let mixed = [
            Operation::Open { account: account("bob"), signup: credits("0") },
            hold_with(&b, key(n)),
        ];
        ledger.apply(&[capture_of(&d, Some(claim_id(n + 10)))]).await;
        let outcomes = ledger.apply(&mixed).await;
        assert_eq!(outcomes[1], Outcome::Claimed(by(&a, ClaimState::Charged)));
        let outcomes = ledger.apply(&[mixed[0].clone(), hold_with(&b, key(n + 10))]).await;
        assert_eq!(outcomes[1], Outcome::Claimed(by(&d, ClaimState::Charged)));
        // Running when the batch begins, charged and written before the rest of it is decided.
        ledger.ask(hold_with(&c, key(n + 20))).await;
        let capture = capture_of(&c, Some(claim_id(n + 20)));
        let batch = [capture, Operation::Audit, hold_with(&b, key(n + 20))];
        let outcomes = ledger.apply(&batch).await;
        assert_eq!(outcomes[1], Outcome::Audited(vec![]));
        assert_eq!(outcomes[2], Outcome::Claimed(by(&c, ClaimState::Charged)));
    }
    assert_eq!(ledger.ask(Operation::Audit).await, Outcome::Audited(vec![]));
    assert!(ledger.close().await);
}

async fn a_late_capture_takes_its_claim_again(fixture: TestLedger) {
    let mut ledger = fixture.backend().await;
    ledger.ask(Operation::Post(grant("g", "alice", "10"))).await;
    let [first, second, other] = [(); 3].map(|()| HoldId::for_call());
    for (hold, n) in [(&first, 1), (&second, 2)] {
        ledger.ask(hold_with(hold, key(n))).await;
        ledger.ask(Operation::Renew { hold: hold.clone(), ttl_ms: 0 }).await;
    }
    assert_eq!(ledger.tick(&|_| false).await.len(), 2);
    // Another call has one of the claims meanwhile.
    assert!(matches!(ledger.ask(hold_with(&other, key(2))).await, Outcome::Held { .. }));
    for (hold, n) in [(&first, 1), (&second, 2)] {
        let late = ledger.ask(capture_of(hold, Some(claim_id(n)))).await;
        assert!(matches!(late, Outcome::Captured { late: true, .. }), "{late:?}");
    }
    for (holder, n, state) in [(&first, 1, ClaimState::Charged), (&other, 2, ClaimState::Running)] {
        let outcome = ledger.ask(hold_with(&HoldId::for_call(), key(n))).await;
        assert_eq!(outcome, Outcome::Claimed(by(holder, state)));
    }
    assert!(ledger.close().await);
}

async fn a_crash_settles_claims_as_it_settles_their_holds(fixture: TestLedger) {
    for after_crash in [AfterCrash::Release, AfterCrash::Charge] {
        let crashed = fixture.crashed();
        let ledger = opened(&crashed, after_crash).await;
        ledger.post(grant("initial", "alice", "20")).await.unwrap();
        let (running, done) = (held(&ledger, key(1)).await, held(&ledger, key(2)).await);
        let (id, done_id) = (running.id().clone(), done.id().clone());
        done.capture(credits("1"));
        ledger.reconciles().await; // In `relaxed` this also waits for the disk.
        let crashed = crashed.crashed();
        for _ in 0..2 {
            let after = opened(&crashed, after_crash).await;
            assert_eq!(claimed(&after, key(2)).await, by(&done_id, ClaimState::Charged));
            match after_crash {
                AfterCrash::Release => drop(held(&after, key(1)).await),
                AfterCrash::Charge => {
                    assert_eq!(claimed(&after, key(1)).await, by(&id, ClaimState::Charged));
                }
            }
            after.reconciles().await;
            after.stop().await;
        }
        drop(running);
        ledger.stop().await;
    }
}

/// In `strict` a batch of calls is one row first. The copies are of the moments before its rows are written.
async fn a_start_finds_the_claims_in_the_log(fixture: TestLedger) {
    if !fixture.kind.is_strict() {
        return;
    }
    let ledger = fixture.open_with("1000").await;
    for round in 0.. {
        assert!(round < 200, "no copy had everything in its log");
        let n = round * 10;
        let charged = held(&ledger, key(n)).await;
        let id = charged.id().clone();
        let leave = charged.leave(claim_id(n + 5));
        leave.await.unwrap();
        charged.capture(credits("1"));
        held(&ledger, key(n + 1)).await.release();
        let live = held(&ledger, key(n + 2)).await;
        let copy = fixture.crashed();
        let logged = "SELECT coalesce(sum(json_array_length(batch, '$[0]')), 0) FROM batch_log";
        let logged: i64 =
            sqlx::query_scalar(logged).fetch_one(&mut copy.sql().await).await.unwrap();
        live.release();
        if logged < 3 {
            ledger.reconciles().await;
            continue;
        }
        let after = copy.open().await;
        assert_eq!(claimed(&after, key(n)).await, by(&id, ClaimState::Charged));
        assert_eq!(claimed(&after, retry(n + 5)).await, by(&id, ClaimState::Charged));
        for free in [key(n + 1), key(n + 2), retry(n + 5)] {
            held(&after, free).await.release();
        }
        after.reconciles().await;
        after.stop().await;
        break;
    }
    ledger.stop().await;
}

async fn a_call_that_was_left_is_told_to_one_retry_the_oldest_first(fixture: TestLedger) {
    let ledger = fixture.open_with("10").await;
    held(&ledger, retry(1)).await.release();
    let (first, second) = (ledger.call("1").await.unwrap(), ledger.call("1").await.unwrap());
    let ids = [first.id().clone(), second.id().clone()];
    for hold in [&first, &second, &first] {
        hold.leave(claim_id(1)).await.unwrap();
    }
    // A retry that waits uses nothing up.
    for _ in 0..2 {
        assert_eq!(claimed(&ledger, retry(1)).await, by(&ids[0], ClaimState::Running));
    }
    held(&ledger, retry(2)).await.release();
    second.capture(credits("1"));
    assert_eq!(claimed(&ledger, retry(1)).await, by(&ids[0], ClaimState::Running));
    first.capture(credits("1"));
    assert_eq!(claimed(&ledger, retry(1)).await, by(&ids[0], ClaimState::Charged));
    ledger.reconciles().await;
    assert_eq!(claimed(&ledger, retry(1)).await, by(&ids[1], ClaimState::Charged));
    held(&ledger, retry(1)).await.release();
    // A call that was charged before the news of its client came.
    let third = ledger.call("1").await.unwrap();
    let leave = third.leave(claim_id(3));
    let id = third.id().clone();
    third.capture(credits("1"));
    leave.await.unwrap();
    assert_eq!(claimed(&ledger, retry(3)).await, by(&id, ClaimState::Charged));
    held(&ledger, retry(3)).await.release();
    ledger.reconciles().await;
    ledger.stop().await;
}

async fn calls_that_were_left_at_once_are_told_in_their_order(fixture: TestLedger) {
    let mut ledger = fixture.backend().await;
    ledger.ask(Operation::Post(grant("g", "alice", "10"))).await;
    let ids = ["b", "c", "a"].map(hold_id);
    let leave = |hold: &HoldId| Operation::Leave {
        id: claim_id(1),
        hold: hold.clone(),
        account: account("alice"),
    };
    let holds = ids.each_ref().map(|id| without_claim(hold_with(id, retry(9))));
    ledger.apply(&holds).await;
    ledger.apply(&ids.each_ref().map(leave)).await;
    ledger.apply(&ids.each_ref().map(|id| capture_of(id, None))).await;
    for id in &ids {
        let outcome = ledger.ask(hold_with(&HoldId::for_call(), retry(1))).await;
        assert_eq!(outcome, Outcome::Claimed(by(id, ClaimState::Charged)));
    }
    assert!(ledger.close().await);
}

/// The same hold of a call without a claim.
fn without_claim(operation: Operation) -> Operation {
    match operation {
        Operation::Hold(hold) => Operation::Hold(NewHold { claim: None, ..hold }),
        other => other,
    }
}

async fn a_call_that_was_left_and_not_charged_is_forgotten(fixture: TestLedger) {
    let ledger = fixture.open_with("10").await;
    let call = ledger.call("1").await.unwrap();
    call.leave(claim_id(1)).await.unwrap();
    call.release();
    held(&ledger, retry(1)).await.release();
    let call = ledger.call("1").await.unwrap();
    let leave = call.leave(claim_id(1));
    call.release();
    leave.await.unwrap();
    held(&ledger, retry(1)).await.release();
    ledger.reconciles().await;
    ledger.stop().await;
}

async fn calls_that_were_left_outlive_a_crash(fixture: TestLedger) {
    let ledger = opened(&fixture, AfterCrash::Charge).await;
    ledger.post(grant("initial", "alice", "20")).await.unwrap();
    let mut ids = Vec::new();
    let live = ledger.call("1").await.unwrap();
    for n in 1..=2 {
        let call = ledger.call("1").await.unwrap();
        ids.push(call.id().clone());
        call.leave(claim_id(n)).await.unwrap();
        call.capture(credits("1"));
    }
    live.leave(claim_id(3)).await.unwrap();
    claimed(&ledger, retry(2)).await;
    ledger.reconciles().await;
    let copy = fixture.crashed();
    let after = opened(&copy, AfterCrash::Charge).await;
    assert_eq!(claimed(&after, retry(1)).await, by(&ids[0], ClaimState::Charged));
    held(&after, retry(2)).await.release();
    assert_eq!(claimed(&after, retry(3)).await, by(live.id(), ClaimState::Charged));
    after.stop().await;
    // Two minutes later.
    copy.execute("UPDATE left_calls SET until = 1000, state = 'charged'").await.unwrap();
    let after = opened(&copy, AfterCrash::Charge).await;
    held(&after, retry(1)).await.release();
    after.stop().await;
    drop(live);
    ledger.stop().await;
}

async fn rows(fixture: &TestLedger, table: &str) -> i64 {
    let count = sqlx::AssertSqlSafe(format!("SELECT count(*) FROM {table}"));
    sqlx::query_scalar(count).fetch_one(&mut fixture.sql().await).await.unwrap()
}

/// Writes that many charged claims past the ledger, whose time is up at `until`.
async fn add_claims(fixture: &TestLedger, count: u32, until: i64) {
    let add = format!(
        "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {count}) \
         INSERT INTO claims \
         SELECT unhex(printf('%064x', n)), 'hold-' || n, zeroblob(32), {until}, 1 FROM n"
    );
    fixture.execute(&add).await.unwrap();
}

async fn old_claims_are_deleted(fixture: TestLedger) {
    let ledger = fixture.open_with("10").await;
    held(&ledger, key(1)).await.capture(credits("1"));
    ledger.stop().await;
    add_claims(&fixture, 5000, 1000).await;
    fixture
        .execute("INSERT INTO left_calls SELECT 'left', randomblob(32), 'charged', 1000")
        .await
        .unwrap();
    let ledger = fixture.open().await;
    eventually("the old claims are gone", async || rows(&fixture, "claims").await == 1).await;
    eventually("the old record is gone", async || rows(&fixture, "left_calls").await == 0).await;
    assert_eq!(claimed(&ledger, key(1)).await.state, ClaimState::Charged);
    ledger.stop().await;
}

async fn a_call_without_a_claim_writes_nothing_of_claims(fixture: TestLedger) {
    let ledger = fixture.open_with("1000").await;
    for _ in 0..50 {
        ledger.call("1").await.unwrap().capture(credits("1"));
        let of_claims = "SELECT count(*) FROM batch_log WHERE json_array_length(batch) <> 4";
        let of_claims: i64 =
            sqlx::query_scalar(of_claims).fetch_one(&mut fixture.sql().await).await.unwrap();
        assert_eq!(of_claims, 0);
    }
    ledger.reconciles().await;
    assert_eq!((rows(&fixture, "claims").await, rows(&fixture, "left_calls").await), (0, 0));
    ledger.stop().await;
}

/// The memory of this process, in bytes.
fn resident() -> i64 {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap();
    status.split(' ').nth(1).unwrap().parse::<i64>().unwrap() * 4096
}

async fn memory_is_flat_with_a_million_claims(fixture: TestLedger) {
    fixture.open_with("1000000").await.stop().await;
    add_claims(&fixture, 1_000_000, i64::MAX).await;
    let before = resident();
    let mut ledger = fixture.backend().await;
    // The file's own cache has 32 MiB.
    let grown = resident() - before;
    assert!(grown < 50 << 20, "a start with a million claims takes {} kB", grown >> 10);
    println!("a start with a million claims takes {} kB", grown >> 10);
    let in_memory = |ledger: &AnyBackend| {
        let AnyBackend::Embedded(ledger) = ledger else { panic!("an embedded ledger") };
        format!("{ledger:?}").matches("KeyClaim").count()
    };
    for batch in 0..10 {
        let calls: Vec<_> = (0..500).map(|n| (HoldId::for_call(), batch * 500 + n)).collect();
        let holds: Vec<_> = calls.iter().map(|(id, n)| hold_with(id, key(*n))).collect();
        let captures: Vec<_> =
            calls.iter().map(|(id, n)| capture_of(id, Some(claim_id(*n)))).collect();
        let held = ledger.apply(&holds).await;
        assert!(held.iter().all(|held| matches!(held, Outcome::Held { .. })), "{:?}", held[0]);
        ledger.tick(&|_| true).await;
        assert_eq!(in_memory(&ledger), 500, "the claims of the calls that run");
        ledger.apply(&captures).await;
        ledger.tick(&|_| true).await;
        assert_eq!(in_memory(&ledger), 0, "charged claims are in the file alone");
    }
    let again = ledger.ask(hold_with(&HoldId::for_call(), key(17))).await;
    assert!(matches!(again, Outcome::Claimed(Claimed { state: ClaimState::Charged, .. })));
    assert!(ledger.close().await);
}
