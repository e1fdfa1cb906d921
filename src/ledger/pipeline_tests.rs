//! How the pipeline deals with operations that its backend sets aside.

use std::future::pending;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::account::AccountId;
use crate::credits::Credits;
use crate::ledger::backend::{Aside, Backend, Begun, Expired, IsLive, Later, Outcomes};
use crate::ledger::live::LiveHolds;
use crate::ledger::operation::{
    Balance, CallId, HoldId, NewHold, Operation, Origin, Outcome, Refusal,
};
use crate::ledger::pipeline::Pipeline;
use crate::ledger::queue::Queue;
use crate::metrics::Metrics;

/// A backend that sets aside what the tests have it set aside, by account.
#[derive(Default)]
struct Scripted {
    /// How many operations of each batch were decided, and not set aside.
    decided: Arc<Mutex<Vec<usize>>>,
    handed_over: Arc<Mutex<Vec<Operation>>>,
    /// Each batch becomes durable when there is a permit.
    durable: Option<Arc<Semaphore>>,
    /// The group of an account whose operations are set aside has begun. Later operations of the account wait.
    begun: bool,
}

fn account_of(operation: &Operation) -> &str {
    match operation {
        Operation::Balance { account } => account.as_str(),
        Operation::Hold(hold) => hold.account.as_str(),
        Operation::Release { account: Some(account), .. } => account.as_str(),
        _ => "",
    }
}

fn outcome_of(operation: &Operation) -> Outcome {
    match operation {
        Operation::Balance { .. } => Outcome::Balance(Some(Balance::default())),
        Operation::Hold(_) => Outcome::Held { after: Balance::default() },
        _ => Outcome::Refused(Refusal::UnknownHold),
    }
}

impl Backend for Scripted {
    async fn apply(&mut self, batch: &[Operation]) -> Vec<Outcome> {
        batch.iter().map(outcome_of).collect()
    }

    async fn begin(&mut self, batch: &Arc<Vec<Operation>>, _: bool) -> Begun {
        let (mut outcomes, mut aside, mut waiting) = (Vec::new(), Vec::new(), Vec::new());
        for (place, operation) in batch.iter().enumerate() {
            let later: Later<Vec<Outcome>> = match account_of(operation) {
                "stuck" if self.begun => {
                    waiting.push(place);
                    continue;
                }
                "stuck" => {
                    self.begun = true;
                    Box::pin(pending())
                }
                "panics" => Box::pin(async { panic!("the backend has a mistake") }),
                "short" => {
                    waiting.push(place);
                    let after = Box::pin(async {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                        Vec::new()
                    });
                    aside.push(Aside { places: Vec::new(), outcomes: after });
                    continue;
                }
                _ => {
                    outcomes.push(outcome_of(operation));
                    continue;
                }
            };
            aside.push(Aside { places: vec![place], outcomes: later });
        }
        self.decided.lock().unwrap().push(outcomes.len());
        let outcomes = match self.durable.clone() {
            Some(durable) => Outcomes::Committing(Box::pin(async move {
                durable.acquire().await.unwrap().forget();
                outcomes
            })),
            None => Outcomes::Ready(outcomes),
        };
        Begun { outcomes, aside, waiting }
    }

    async fn tick(&mut self, _: &IsLive<'_>) -> Vec<Expired> {
        Vec::new()
    }

    fn tick_after(&self) -> Duration {
        Duration::from_millis(20)
    }

    async fn hand_over(&mut self, unsettled: &mut Vec<Operation>) {
        self.handed_over.lock().unwrap().append(unsettled);
    }

    async fn close(&mut self) -> bool {
        true
    }
}

fn start(backend: Scripted) -> (Pipeline, Queue) {
    Pipeline::start(backend, Arc::default(), Metrics::new().unwrap())
}

fn account(id: &str) -> AccountId {
    id.parse().unwrap()
}

fn balance(who: &str) -> Operation {
    Operation::Balance { account: account(who) }
}

fn hold(who: &str) -> Operation {
    Operation::Hold(NewHold {
        id: CallId::new().hold_id().clone(),
        account: account(who),
        amount: Credits::from_micros(1).unwrap(),
        route: "/r".into(),
        origin: Origin::Call,
        ttl_ms: 1,
        claim: None,
    })
}

fn release(hold: &str, who: &str) -> Operation {
    let (hold, account): (HoldId, _) = (hold.parse().unwrap(), Some(account(who)));
    Operation::Release { hold, account, origin: Origin::Call, claim: None }
}

async fn until(is_so: impl Fn() -> bool) {
    let limit = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < limit, "it never happens");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The holds that these operations end.
fn holds(ends: &[Operation]) -> Vec<String> {
    let mut holds: Vec<_> =
        ends.iter().filter_map(Operation::ends).map(HoldId::to_string).collect();
    holds.sort();
    holds
}

fn unavailable() -> Outcome {
    Outcome::Refused(Refusal::Unavailable)
}

#[tokio::test]
async fn the_end_of_a_hold_survives_a_panic_of_the_work_that_was_set_aside() {
    let backend = Scripted::default();
    let handed_over = backend.handed_over.clone();
    let (pipeline, queue) = start(backend);
    queue.end_hold(release("call", "panics"));
    assert_eq!(queue.ask(balance("panics")).await, unavailable());
    assert!(pipeline.stop().await);
    assert_eq!(holds(&handed_over.lock().unwrap()), ["call"]);
}

#[tokio::test]
async fn a_stop_hands_over_the_ends_that_wait_for_work_which_does_not_end() {
    let backend = Scripted::default();
    let handed_over = backend.handed_over.clone();
    let (pipeline, queue) = start(backend);
    queue.end_hold(release("first", "stuck"));
    queue.end_hold(release("second", "stuck"));
    let waits = {
        let queue = queue.clone();
        tokio::spawn(async move { queue.ask(hold("stuck")).await })
    };
    assert!(matches!(queue.ask(balance("bob")).await, Outcome::Balance(_)));
    tokio::task::yield_now().await;
    let began = Instant::now();
    let stop = tokio::spawn(pipeline.stop());
    assert_eq!(waits.await.unwrap(), unavailable());
    assert!(began.elapsed() < Duration::from_secs(2), "a stop lets a new hold wait");
    assert!(stop.await.unwrap());
    assert!(began.elapsed() < Duration::from_secs(9), "{:?}", began.elapsed());
    assert_eq!(holds(&handed_over.lock().unwrap()), ["first", "second"]);
}

#[tokio::test]
async fn a_call_that_is_cut_off_while_its_hold_waits_asks_the_backend_for_nothing() {
    let backend = Scripted::default();
    let (handed_over, live) = (backend.handed_over.clone(), Arc::new(LiveHolds::default()));
    let (pipeline, queue) = Pipeline::start(backend, live.clone(), Metrics::new().unwrap());
    queue.end_hold(release("first", "stuck"));
    let hold = hold("stuck");
    let Operation::Hold(NewHold { id, .. }) = &hold else { return };
    let id = id.clone();
    live.insert(id.clone());
    let asked = tokio::time::timeout(Duration::from_millis(50), queue.ask(hold)).await;
    assert!(asked.is_err(), "the hold waits");
    queue.end_hold(release(id.as_str(), "stuck"));
    until(|| !live.contains(&id)).await;
    assert!(pipeline.stop().await);
    assert_eq!(holds(&handed_over.lock().unwrap()), ["first"]);
}

/// The backend has an operation that joins again and again, and each freed place goes to the batch with it.
#[tokio::test]
async fn queued_operations_join_the_batch_of_those_that_waited() {
    let durable = Arc::new(Semaphore::new(0));
    let backend = Scripted { durable: Some(durable.clone()), ..Scripted::default() };
    let decided = backend.decided.clone();
    let (_pipeline, queue) = start(backend);
    queue.end_hold(release("again", "short"));
    until(|| decided.lock().unwrap().len() == 2).await;
    let bobs: Vec<_> = (0..10)
        .map(|_| {
            let queue = queue.clone();
            tokio::spawn(async move { queue.ask(balance("bob")).await })
        })
        .collect();
    // Each permit frees one place for a batch.
    for _ in 0..8 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        durable.add_permits(1);
    }
    until(|| durable.available_permits() == 0).await;
    assert_eq!(decided.lock().unwrap().iter().sum::<usize>(), 10, "all are asked for");
    durable.add_permits(10_000);
    for bob in bobs {
        assert!(matches!(bob.await.unwrap(), Outcome::Balance(_)));
    }
}

#[tokio::test]
async fn only_so_many_operations_wait() {
    const CALLERS: usize = 10_000;
    let (_pipeline, queue) = start(Scripted::default());
    // This one is never decided, and the others wait for it.
    queue.end_hold(release("call", "stuck"));
    let began = Instant::now();
    let callers: JoinSet<_> = (0..CALLERS)
        .map(|_| {
            let queue = queue.clone();
            async move {
                let outcome = queue.ask(balance("stuck")).await;
                (outcome == unavailable() && began.elapsed() < Duration::from_secs(3)).then_some(())
            }
        })
        .collect();
    tokio::time::sleep(Duration::from_secs(4)).await;
    let at_once = callers.join_all().await.into_iter().flatten().count();
    assert!(
        (1..CALLERS).contains(&at_once),
        "{at_once} of {CALLERS} hear at once that too many wait"
    );
}
