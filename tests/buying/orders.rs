//! Sends a purchase's events in every order, each event up to three times, with a crash at each step. All orders must
//! end with the same balance.
//!
//! A purchase's life has six steps: its session completes unpaid, the payment arrives, two refunds of a quarter each,
//! a dispute over the half that is left, and the dispute's end: won, lost or partly won. `FAREBOX_SEED` repeats a
//! run. `FAREBOX_ROUNDS` makes the runs longer: every test sends all orders, and each event up to five times, in more
//! rounds, on either ledger (`make test-orders`).

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _};

use crate::backend::{Backend, on_both_ledgers};
use crate::shop::{PRICE, Shop};
use crate::support::eventually;
use crate::support::random::Random;
use crate::support::stripe::event::{Event, VERSIONS};

on_both_ledgers!(
    every_order_of_a_purchase_s_events_gives_one_balance_when_its_dispute_is_won,
    every_order_of_a_purchase_s_events_gives_one_balance_when_its_dispute_is_lost,
    any_order_gives_one_balance_when_a_dispute_is_partly_won,
    any_order_gives_one_balance_where_disputes_freeze_and_are_partly_won,
    any_order_gives_one_balance_where_disputes_freeze_and_are_won,
    any_order_gives_one_balance_where_disputes_freeze_and_are_lost,
    repeated_events_in_any_order_with_crashes_between_give_one_balance,
    repeated_events_with_crashes_between_give_one_balance_where_disputes_freeze,
    many_purchases_at_once_each_event_several_times_at_once_give_one_balance,
);

/// How many events are under way at a time.
const AT_ONCE: usize = 24;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Won,
    /// Lost, and the bank gives half of it back.
    PartlyWon,
    Lost,
}

/// One account that bought once, and the events of each step of that purchase's life.
struct Purchase {
    account: String,
    steps: Vec<Vec<Event>>,
    /// The account's balance when all events have arrived.
    balance: i64,
}

async fn purchase(shop: &Shop, account: String, ending: Ending) -> Purchase {
    let stripe = &shop.stripe;
    let session = shop.buy(&account, "pack-500").await;
    let mut steps = vec![
        vec![stripe.pay_later(&session).pop().unwrap()],
        vec![stripe.settle(&session, true).pop().unwrap()],
    ];
    for _ in 0..2 {
        let (_, mut events) = stripe.refund(&session, PRICE / 4);
        events.truncate(2);
        steps.push(events);
    }
    let (dispute, opened) = stripe.dispute(&session, PRICE / 2);
    steps.push(opened);
    let (closed, balance) = match ending {
        Ending::Won => (stripe.win(&dispute), 250),
        Ending::PartlyWon => (stripe.win_part(&dispute, PRICE / 4), 125),
        Ending::Lost => (stripe.lose(&dispute), 0),
    };
    steps.push(closed);
    Purchase { account, steps, balance }
}

/// Waits for the right balance. Expects that it comes from one grant, and that the entries add up
/// to it.
async fn expect_settled(shop: &Shop, purchase: &Purchase, order: &str) {
    let account = &purchase.account;
    let right = eventually(async || shop.balance(account).await == purchase.balance);
    let right = right.await;
    let lines = shop.kinds(account).await;
    assert!(right, "{account} after {order}: {lines:?}, not {}", purchase.balance);
    let grants = lines.iter().filter(|(kind, _)| kind == "grant").count();
    assert_eq!(grants, 1, "{account} after {order}: {lines:?}");
    let sum: f64 = lines.iter().map(|(_, credits)| credits).sum();
    assert_eq!(sum as i64, purchase.balance, "{account} after {order}: {lines:?}");
}

/// Every order of 0..n.
fn permutations(n: usize) -> Vec<Vec<usize>> {
    if n == 0 {
        return vec![Vec::new()];
    }
    let shorter = permutations(n - 1);
    let at = |order: &Vec<usize>, place: usize| {
        let mut order = order.clone();
        order.insert(place, n - 1);
        order
    };
    shorter.iter().flat_map(|order| (0..n).map(move |place| at(order, place))).collect()
}

/// All 720 orders of the six steps on the embedded ledger, where a purchase takes no time. On Redis
/// and Postgres one order in twelve, or all of them in a long run.
fn every_order(backend: Backend) -> Vec<Vec<usize>> {
    let count = if backend == Backend::Embedded { 720 } else { 60 };
    some_orders(count)
}

/// `count` random orders, or all 720 in a long run.
fn some_orders(count: usize) -> Vec<Vec<usize>> {
    let mut orders = permutations(6);
    assert_eq!(orders.len(), 720);
    Random::seeded().shuffle(&mut orders);
    orders.truncate(if rounds() > 1 { 720 } else { count });
    orders
}

/// Fewer orders on Redis and Postgres, where each takes longer.
fn fewer_orders(backend: Backend) -> Vec<Vec<usize>> {
    some_orders(if backend == Backend::Embedded { 120 } else { 40 })
}

/// Makes several purchases at once, each with its own order of the steps. All purchases take their
/// first step, then their second, and so on, and each event of a step is sent [`times`]. The
/// gateway is killed during each step, so that each order sees a crash at each of its steps.
async fn in_each_order(backend: Backend, orders: &[Vec<usize>], lines: &str, ending: Ending) {
    let mut random = Random::seeded();
    let mut shop = Shop::open_with(backend, lines).await;
    let bought = |n: usize| purchase(&shop, format!("buyer-{n}"), ending);
    let bought = stream::iter((0..orders.len()).map(bought));
    let purchases: Vec<_> = bought.buffered(AT_ONCE).collect().await;
    for step in 0..6 {
        let mut sent: Vec<(usize, &Event)> = Vec::new();
        for (buyer, order) in orders.iter().enumerate() {
            for event in &purchases[buyer].steps[order[step]] {
                sent.extend((0..times(&mut random)).map(|_| (buyer, event)));
            }
        }
        random.shuffle(&mut sent);
        let mut unanswered = deliver_through_a_crash(&mut shop, &sent, &mut random).await;
        random.shuffle(&mut unanswered);
        let taken = stream::iter(&unanswered).map(async |(buyer, event)| {
            let answer = shop.deliver_as(event, version_of(*buyer)).await;
            assert_eq!(answer.status, 200, "{:?} {}: {}", orders[*buyer], event.kind, answer.text);
        });
        taken.buffer_unordered(AT_ONCE).collect::<()>().await;
    }
    for (purchase, order) in purchases.iter().zip(orders) {
        expect_settled(&shop, purchase, &format!("{order:?}")).await;
    }
    // All events have arrived. An account of each kind can spend what it has.
    for (purchase, order) in purchases.iter().zip(orders).step_by(orders.len().div_ceil(8)) {
        let status = shop.call(&purchase.account).await.status.as_u16();
        let right: &[u16] = if ending == Ending::Lost { &[402, 403] } else { &[200] };
        assert!(right.contains(&status), "{order:?}: {status}");
    }
    shop.close().await;
}

/// Delivers the events side by side, and kills the gateway meanwhile. Returns the events without a
/// 200, which Stripe sends again.
async fn deliver_through_a_crash<'a>(
    shop: &mut Shop,
    sent: &[(usize, &'a Event)],
    random: &mut Random,
) -> Vec<(usize, &'a Event)> {
    let (answered, crash_after) = (AtomicUsize::new(0), random.below(sent.len()));
    let taken = stream::iter(sent).map(async |(buyer, event)| {
        let taken = shop.takes(event, version_of(*buyer)).await;
        if answered.fetch_add(1, Ordering::Relaxed) == crash_after {
            shop.gateway.signal("KILL");
        }
        taken
    });
    let taken: Vec<bool> = taken.buffered(AT_ONCE).collect().await;
    shop.crash();
    let unanswered = sent.iter().zip(taken).filter(|(_, taken)| !taken);
    unanswered.map(|(delivery, _)| *delivery).collect()
}

/// The API version of the endpoint that gets this account's events.
fn version_of(buyer: usize) -> &'static str {
    VERSIONS[buyer % VERSIONS.len()]
}

async fn every_order_of_a_purchase_s_events_gives_one_balance_when_its_dispute_is_won(
    backend: Backend,
) {
    in_each_order(backend, &every_order(backend), "", Ending::Won).await;
}

async fn every_order_of_a_purchase_s_events_gives_one_balance_when_its_dispute_is_lost(
    backend: Backend,
) {
    in_each_order(backend, &every_order(backend), "", Ending::Lost).await;
}

async fn any_order_gives_one_balance_when_a_dispute_is_partly_won(backend: Backend) {
    in_each_order(backend, &fewer_orders(backend), "", Ending::PartlyWon).await;
}

async fn any_order_gives_one_balance_where_disputes_freeze_and_are_partly_won(backend: Backend) {
    let lines = r#"on_dispute = "freeze""#;
    in_each_order(backend, &fewer_orders(backend), lines, Ending::PartlyWon).await;
}

async fn any_order_gives_one_balance_where_disputes_freeze_and_are_won(backend: Backend) {
    in_each_order(backend, &fewer_orders(backend), r#"on_dispute = "freeze""#, Ending::Won).await;
}

async fn any_order_gives_one_balance_where_disputes_freeze_and_are_lost(backend: Backend) {
    in_each_order(backend, &fewer_orders(backend), r#"on_dispute = "freeze""#, Ending::Lost).await;
}

/// All events that Stripe may send for these purchases, each event [`times`], in random order. Each comes with the
/// number of its purchase.
fn deliveries<'a>(random: &mut Random, purchases: &'a [Purchase]) -> Vec<(usize, &'a Event)> {
    let mut all = Vec::new();
    for (number, purchase) in purchases.iter().enumerate() {
        for event in purchase.steps.iter().flatten() {
            all.extend((0..times(random)).map(|_| (number, event)));
        }
    }
    random.shuffle(&mut all);
    all
}

/// Delivers the events with a kill -9 at every step: before an event is sent (Redis may then lose all data as well),
/// while the event is under way, or after its answer. Stripe later sends each event again that was not answered with
/// 200.
async fn with_crashes(backend: Backend, lines: &str, rounds: usize) {
    let mut random = Random::seeded();
    for round in 0..rounds {
        let mut shop = Shop::open_with(backend, lines).await;
        let mut purchases = Vec::new();
        let endings = [Ending::Won, Ending::PartlyWon, Ending::Lost];
        for (n, ending) in endings.into_iter().enumerate() {
            purchases.push(purchase(&shop, format!("buyer-{round}-{n}"), ending).await);
        }
        let mut queue = deliveries(&mut random, &purchases);
        let mut order = Vec::new();
        while let Some((number, event)) = queue.pop() {
            let version = VERSIONS[random.below(VERSIONS.len())];
            let answered = match random.below(7) {
                0 | 1 => deliver_and_crash(&mut shop, event, version, &mut random).await,
                then => {
                    match then {
                        2 => shop.crash(),
                        3 => shop.crash_and_forget(),
                        _ => {}
                    }
                    shop.deliver_as(event, version).await.status == 200
                }
            };
            order.push((number, event.kind.as_str(), answered));
            if !answered {
                let place = random.below(queue.len() + 1);
                queue.insert(place, (number, event));
            }
            assert!(order.len() < 2000, "nothing is ever taken: {order:?}");
        }
        for purchase in &purchases {
            expect_settled(&shop, purchase, &format!("{order:?}")).await;
        }
        shop.crash_and_forget();
        for purchase in &purchases {
            expect_settled(&shop, purchase, &format!("a last crash and {order:?}")).await;
        }
        shop.close().await;
    }
}

/// Sends an event, and kills the gateway a moment later. Returns whether the answer was 200.
async fn deliver_and_crash(
    shop: &mut Shop,
    event: &Event,
    version: &str,
    random: &mut Random,
) -> bool {
    let sent = tokio::spawn(shop.request(event, version).send());
    tokio::time::sleep(Duration::from_micros(random.below(8000) as u64)).await;
    shop.crash();
    sent.await.unwrap().is_ok_and(|answer| answer.status() == 200)
}

/// How often an event is sent: at least once.
fn times(random: &mut Random) -> usize {
    1 + random.below(if rounds() > 1 { 5 } else { 3 })
}

/// The number of rounds: one, or what FAREBOX_ROUNDS says.
fn rounds() -> usize {
    std::env::var("FAREBOX_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(1)
}

async fn repeated_events_in_any_order_with_crashes_between_give_one_balance(backend: Backend) {
    with_crashes(backend, "", rounds()).await;
}

async fn repeated_events_with_crashes_between_give_one_balance_where_disputes_freeze(
    backend: Backend,
) {
    with_crashes(backend, r#"on_dispute = "freeze""#, rounds()).await;
}

async fn many_purchases_at_once_each_event_several_times_at_once_give_one_balance(
    backend: Backend,
) {
    let mut random = Random::seeded();
    let shop = Shop::open(backend).await;
    let mut purchases = Vec::new();
    for n in 0..40 {
        let ending = [Ending::Won, Ending::Lost, Ending::PartlyWon][n % 3];
        purchases.push(purchase(&shop, format!("buyer-{n}"), ending).await);
    }
    // All to one account too: its balance is the sum.
    for n in 0..6 {
        let mut one = purchase(&shop, "busy".to_owned(), Ending::Won).await;
        one.balance = 6 * 250;
        if n > 0 {
            one.account = String::new();
        }
        purchases.push(one);
    }
    let all = deliveries(&mut random, &purchases);
    for wave in all.chunks(64) {
        let sent = wave.iter().map(|(_, event)| shop.deliver(event));
        for answer in futures_util::future::join_all(sent).await {
            answer.expect(200);
        }
    }
    for purchase in &purchases[..40] {
        expect_settled(&shop, purchase, "a crowd").await;
    }
    shop.expect_balance("busy", 6 * 250).await;
    shop.close().await;
}
