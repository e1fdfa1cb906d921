//! Random sequences of operations, on the ledger and on a plain model of its rules: every outcome
//! must be the model's, and after each step every invariant must hold.
//!
//! A failing case is shrunk and printed. `FAREBOX_SEED` repeats it.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;

use farebox::account::AccountId;
use farebox::credits::{Credits, MAX_MICROS, SignedCredits};
use farebox::ledger::{
    Backend as _, Claim, ClaimId, EntryKind, Expired, HoldId, NewHold, OldMonths, Operation,
    OperationId, Origin, Outcome, Posting, RequestMark,
};
use farebox::usage::{Kind as UsageKind, Usage, UsageRecord};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use crate::plain::{Expected, Model, ROUTE};
use crate::test_ledger::{
    AnyBackend, HOUR_MS, Kind, Running, TestLedger, account, hold_id, poll_once, seed,
};

/// The number of sequences in a test.
const CASES: u32 = 96;

/// The number of sequences if each has a Redis of its own.
const CLUSTER_CASES: u32 = 16;

#[test]
fn batches_agree_with_the_model_embedded_strict() {
    check(Kind::EmbeddedStrict, by_batch);
}

#[test]
fn batches_agree_with_the_model_embedded_relaxed() {
    check(Kind::EmbeddedRelaxed, by_batch);
}

#[test]
fn the_pipeline_agrees_with_the_model_embedded_strict() {
    check(Kind::EmbeddedStrict, by_pipeline);
}

#[test]
fn the_pipeline_agrees_with_the_model_embedded_relaxed() {
    check(Kind::EmbeddedRelaxed, by_pipeline);
}

#[test]
fn batches_agree_with_the_model_cluster_strict() {
    check(Kind::ClusterStrict, by_batch);
}

#[test]
fn batches_agree_with_the_model_cluster_relaxed() {
    check(Kind::ClusterRelaxed, by_batch);
}

#[test]
fn the_pipeline_agrees_with_the_model_cluster_strict() {
    check(Kind::ClusterStrict, by_pipeline);
}

#[test]
fn the_pipeline_agrees_with_the_model_cluster_relaxed() {
    check(Kind::ClusterRelaxed, by_pipeline);
}

fn check(kind: Kind, run: impl AsyncFn(TestLedger, Vec<Step>)) {
    let seed = seed();
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let config = Config {
        cases: if kind.is_embedded() { CASES } else { CLUSTER_CASES },
        failure_persistence: None,
        max_shrink_time: 30_000,
        ..Config::default()
    };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    // The servers are shared by all cases.
    let _fixture = TestLedger::new(kind);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let result = TestRunner::new_with_rng(config, rng).run(&vec(step(), 1..25), |steps| {
        runtime.block_on(run(TestLedger::new(kind), steps));
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}\nFAREBOX_SEED={seed}");
    }
}

/// One thing that happens.
#[derive(Clone, Debug)]
enum Step {
    /// Asks these operations together. If the flag is true, everything is then checked on disk too.
    Batch(Vec<Operation>, bool),
    /// The time of these holds runs out, under a live call or not.
    TimeIsUp(BTreeSet<u8>, bool),
    /// Pending changes begin to be written.
    Tick,
    Restart,
    /// The ledger ends without closing, after all was written.
    Crash,
    Fold,
}

fn step() -> impl Strategy<Value = Step> {
    let ids = proptest::collection::btree_set(0..HOLDS, 1..4);
    prop_oneof![
        12 => (vec(operation(), 1..20), any::<bool>()).prop_map(|(ops, all)| Step::Batch(ops, all)),
        2 => (ids, any::<bool>()).prop_map(|(ids, live)| Step::TimeIsUp(ids, live)),
        4 => Just(Step::Tick),
        1 => Just(Step::Restart),
        1 => Just(Step::Crash),
        1 => Just(Step::Fold),
    ]
}

const HOLDS: u8 = 10;

fn who() -> impl Strategy<Value = AccountId> {
    (0..3u8).prop_map(|n| account(["alice", "bob", "eve"][usize::from(n)]))
}

fn amount() -> impl Strategy<Value = Credits> {
    (0..8u64).prop_map(|micros| Credits::from_micros(micros).unwrap())
}

fn change() -> impl Strategy<Value = SignedCredits> {
    let most = MAX_MICROS as i64;
    prop_oneof![
        12 => -9..=20i64,
        1 => prop_oneof![Just(most), Just(-most), Just(most - 20), Just(20 - most)],
    ]
    .prop_map(|micros| SignedCredits::from_micros(micros).unwrap())
}

fn origin() -> impl Strategy<Value = Origin> {
    prop_oneof![Just(Origin::Call), Just(Origin::Api)]
}

/// The usage of a capture, which one in three has.
fn usage() -> impl Strategy<Value = Option<Arc<UsageRecord>>> {
    let record = |(held, model, input, prices): (u64, Option<&str>, u64, &str)| {
        let usage = Usage::NONE.with(UsageKind::Input, input).unwrap();
        let (held, model) = (Credits::from_micros(held).unwrap(), model.map(Into::into));
        Some(Arc::new(UsageRecord { held, model, usage, prices: prices.into() }))
    };
    let model = prop_oneof![Just(None), Just(Some("gpt-5")), Just(Some("a \\\n\"b\" é"))];
    let prices = prop_oneof![Just(""), Just("0123456789abcdef")];
    prop_oneof![
        2 => Just(None),
        1 => (0..9u64, model, 0..3u64, prices).prop_map(record),
    ]
}

fn name(n: u8) -> String {
    format!("hold-{n}")
}

/// The claim of a call under its key: several holds share a key, and some have none.
fn key_of(hold: &HoldId) -> Option<ClaimId> {
    let n = hold.as_str().bytes().last()? - b'0';
    (n < 7).then(|| ClaimId::new([n % 3; 32]))
}

fn mark(n: u8) -> RequestMark {
    RequestMark::new([n; 32])
}

/// The hash of a request without a key.
fn request() -> impl Strategy<Value = ClaimId> {
    (100..102u8).prop_map(|n| ClaimId::new([n; 32]))
}

/// Gives the operations of calls their claims, or none.
fn with_claims(mut operation: Operation, marked: u8, request: ClaimId) -> Operation {
    match &mut operation {
        Operation::Hold(NewHold { id, origin: Origin::Call, claim, .. }) => {
            let mark = (marked < 2).then(|| mark(marked));
            let key = key_of(id).map(|id| Claim::Key { id, mark, keep_ms: HOUR_MS });
            *claim = key.or((marked > 0).then_some(Claim::Retry { id: request }));
        }
        Operation::Capture { hold, origin: Origin::Call, claim, .. }
        | Operation::Release { hold, origin: Origin::Call, claim, .. } => *claim = key_of(hold),
        _ => {}
    }
    operation
}

/// Operations on claims alone.
fn on_claims() -> impl Strategy<Value = Operation> {
    let hold = || (0..HOLDS).prop_map(|n| hold_id(&name(n)));
    prop_oneof![
        (hold(), 0..2u8).prop_map(|(hold, n)| {
            let claim = key_of(&hold).unwrap_or(ClaimId::new([0; 32]));
            Operation::MarkClaim { claim, hold, mark: mark(n) }
        }),
        (request(), hold(), who()).prop_map(|(id, hold, account)| Operation::Leave {
            id,
            hold,
            account
        }),
    ]
}

fn operation() -> impl Strategy<Value = Operation> {
    let plain = (without_claims(), 0..3u8, request())
        .prop_map(|(operation, n, request)| with_claims(operation, n, request));
    prop_oneof![9 => plain, 1 => on_claims()]
}

fn without_claims() -> impl Strategy<Value = Operation> {
    let hold = || (0..HOLDS).prop_map(|n| hold_id(&name(n)));
    let kind = prop_oneof![
        6 => Just(EntryKind::Grant),
        1 => Just(EntryKind::Adjustment),
        1 => Just(EntryKind::Clawback),
        1 => Just(EntryKind::Reinstatement),
    ];
    let route = || Arc::<str>::from(ROUTE);
    // The account that owns the hold: mostly left out by the API, mostly right from calls.
    let owner = || prop_oneof![Just(None), who().prop_map(Some)];
    prop_oneof![
        1 => (who(), amount()).prop_map(|(account, signup)| Operation::Open { account, signup }),
        3 => (kind, 0..12u8, who(), change(), any::<bool>()).prop_map(
            |(kind, n, account, amount, reason)| Operation::Post(Posting {
                id: OperationId::posting(kind, &format!("post-{n}")).unwrap(),
                account,
                kind,
                amount,
                reason: reason.then(|| "why".into()),
            })
        ),
        6 => (hold(), who(), amount(), origin()).prop_map(move |(id, account, amount, origin)| {
            let route = route();
            Operation::Hold(NewHold { id, account, amount, route, origin, ttl_ms: HOUR_MS, claim: None })
        }),
        1 => hold().prop_map(|hold| Operation::Renew { hold, ttl_ms: HOUR_MS }),
        3 => (hold(), who(), amount())
            .prop_map(|(hold, account, amount)| Operation::Extend { hold, account, amount }),
        5 => (hold(), owner(), amount(), origin(), any::<bool>(), usage()).prop_map(
            move |(hold, account, amount, origin, may_overrun, usage)| {
                let route = route();
                Operation::Capture { hold, account, amount, route, origin, may_overrun, usage, claim: None }
            }
        ),
        3 => (hold(), owner(), origin())
            .prop_map(|(hold, account, origin)| Operation::Release { hold, account, origin, claim: None }),
        2 => hold().prop_map(|hold| Operation::Refund { hold, reason: None }),
        2 => (hold(), 0..3u8, amount()).prop_map(|(hold, n, amount)| {
            let id = OperationId::refund_part(&hold, &format!("part-{n}")).unwrap();
            Operation::RefundPart { hold, id, amount, reason: None }
        }),
        1 => who().prop_map(|account| Operation::Balance { account }),
    ]
}

/// Batches straight to the backend.
async fn by_batch(fixture: TestLedger, steps: Vec<Step>) {
    let mut model = Model::of(fixture.kind);
    let mut backend = fixture.backend().await;
    let mut reader = backend.reader().await;
    for step in steps {
        let mut everything = true;
        model.batch += 1;
        match step {
            Step::Batch(operations, all) => {
                everything = all || fixture.kind.is_strict();
                let mut expected = Vec::new();
                let mut batch = operations;
                batch.retain(|operation| {
                    let comes = model.can_come(operation, true);
                    if comes {
                        expected.push(model.decide(operation));
                    }
                    comes
                });
                let outcomes = backend.apply(&batch).await;
                assert_eq!(outcomes.len(), batch.len());
                for ((operation, expected), outcome) in batch.iter().zip(&expected).zip(&outcomes) {
                    model.agrees(operation, expected, outcome);
                }
            }
            Step::TimeIsUp(ids, live) => time_is_up(&mut backend, &mut model, &ids, live).await,
            Step::Tick => {
                everything = false;
                assert_eq!(names(&backend.tick(&|_| true).await), BTreeSet::new());
            }
            Step::Restart => {
                assert!(backend.close().await);
                drop(backend);
                backend = started(&fixture, &mut model).await;
                reader = backend.reader().await;
            }
            Step::Crash => {
                backend.ask(Operation::Audit).await;
                drop(backend);
                backend = started(&fixture, &mut model).await;
                reader = backend.reader().await;
            }
            Step::Fold => {
                // Folding runs beside the pipeline, or in it.
                let beside = reader.fold(i64::MAX, OldMonths::Keep).await.unwrap();
                let report = match beside {
                    Some(report) => report,
                    None => {
                        let fold = Operation::Fold { before_ms: i64::MAX, from: None };
                        let folded = backend.ask(fold).await;
                        let Outcome::Folded { report, next: None } = folded else {
                            panic!("{folded:?}")
                        };
                        report
                    }
                };
                assert_eq!((report.accounts, report.entries), model.fold());
            }
        }
        for who in model.accounts.keys() {
            let balance = backend.ask(Operation::Balance { account: who.clone() }).await;
            assert_eq!(balance, Outcome::Balance(Some(model.after(who))));
        }
        if everything {
            assert_eq!(backend.ask(Operation::Audit).await, Outcome::Audited(vec![]));
            model.agrees_with(&*reader).await;
        }
    }
    assert!(backend.close().await);
    drop(backend);
    let mut backend = started(&fixture, &mut model).await;
    assert_eq!(backend.ask(Operation::Audit).await, Outcome::Audited(vec![]));
    model.agrees_with(&*backend.reader().await).await;
    assert!(backend.close().await);
}

/// Starts the backend again. It reports once which holds of the start before have expired.
async fn started(fixture: &TestLedger, model: &mut Model) -> AnyBackend {
    let expected = model.start(fixture.kind);
    let mut backend = fixture.backend().await;
    assert_eq!(names(&backend.tick(&|_| true).await), expected);
    backend
}

fn names(expired: &[Expired]) -> BTreeSet<String> {
    expired.iter().map(|expired| expired.hold.as_str().to_owned()).collect()
}

async fn time_is_up(backend: &mut AnyBackend, model: &mut Model, ids: &BTreeSet<u8>, live: bool) {
    let mut gone = BTreeSet::new();
    for id in ids.iter().map(|n| name(*n)) {
        let renew = Operation::Renew { hold: hold_id(&id), ttl_ms: 0 };
        let expected = model.decide(&renew);
        model.agrees(&renew, &expected, &backend.ask(renew.clone()).await);
        if expected == Expected::Outcome(Outcome::Renewed) && !live {
            model.expire(&id);
            gone.insert(id);
        }
    }
    assert_eq!(names(&backend.tick(&|_| live).await), gone);
}

/// Asks the operations through the pipeline, which makes batches of its own.
async fn by_pipeline(fixture: TestLedger, steps: Vec<Step>) {
    let mut model = Model::of(fixture.kind);
    let mut ledger = fixture.open().await;
    for step in steps {
        let mut everything = true;
        model.batch += 1;
        match step {
            Step::Batch(mut operations, all) => {
                everything = all;
                let mut expected = Vec::new();
                operations.retain(|operation| {
                    let comes = model.can_come(operation, false);
                    if comes {
                        expected.push(model.decide(operation));
                    }
                    comes
                });
                let outcomes = ask_in_order(&ledger, fixture.kind, &operations).await;
                for ((op, expected), outcome) in operations.iter().zip(&expected).zip(&outcomes) {
                    model.agrees(op, expected, outcome);
                }
            }
            // The pipeline has its own time.
            Step::TimeIsUp(..) | Step::Tick => everything = false,
            Step::Restart | Step::Crash => {
                ledger.stop().await;
                model.start(fixture.kind);
                ledger = fixture.open().await;
            }
            Step::Fold => {
                let report = ledger.fold(i64::MAX).await.unwrap();
                assert_eq!((report.accounts, report.entries), model.fold());
            }
        }
        for who in model.accounts.keys() {
            assert_eq!(ledger.balance(who).await, Ok(Some(model.after(who))));
        }
        if everything {
            ledger.reconciles().await;
            model.agrees_with(ledger.read()).await;
        }
    }
    ledger.stop().await;
    model.start(fixture.kind);
    let ledger = fixture.open().await;
    ledger.reconciles().await;
    model.agrees_with(ledger.read()).await;
    ledger.stop().await;
}

/// Asks all operations in this order, and as many at once as keep their order. The embedded ledger keeps the order of
/// all operations, the cluster ledger only that of operations that name the account whose balance or call they tell of.
async fn ask_in_order(ledger: &Running, kind: Kind, operations: &[Operation]) -> Vec<Outcome> {
    type Asked<'a> = Pin<Box<dyn Future<Output = Outcome> + 'a>>;
    let mut outcomes = Vec::new();
    let go_together = |a: &Operation, b: &Operation| {
        kind.is_embedded() || names_its_account(a) && names_its_account(b)
    };
    for together in operations.chunk_by(go_together) {
        let mut asked: Vec<Asked<'_>> = Vec::new();
        for operation in together {
            let mut asking: Asked<'_> = Box::pin(ledger.ask(operation.clone()));
            assert!(!poll_once(asking.as_mut()).await, "this thread has not let the pipeline run");
            asked.push(asking);
        }
        for asking in asked {
            outcomes.push(asking.await);
        }
    }
    outcomes
}

fn names_its_account(operation: &Operation) -> bool {
    !matches!(
        operation,
        Operation::Refund { .. }
            | Operation::RefundPart { .. }
            | Operation::Renew { .. }
            | Operation::MarkClaim { .. }
            | Operation::Capture { account: None, .. }
            | Operation::Release { account: None, .. }
            // The id of a request contains its account; here two accounts may have the same one.
            | Operation::Hold(NewHold { claim: Some(Claim::Retry { .. }), .. })
    )
}
