//! The run: clients at random for a while, then everything that they did is looked at.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::check::{Received, check};
use super::side::Side;
use super::upstream::{Outcome, Ran, Upstream};
use super::{http1, http2};
use crate::support::random::{Random, seed};

/// How long one round takes, after which everything is looked at. A plain test run has one.
const ROUND: Duration = Duration::from_secs(20);

/// Clients at a time, for each gateway.
const CLIENTS: usize = 12;

/// The number of rounds: one, or as many as FAREBOX_FUZZ_MINUTES has room for.
fn rounds() -> u32 {
    let minutes = std::env::var("FAREBOX_FUZZ_MINUTES").map(|text| text.parse::<u32>().unwrap());
    minutes.map_or(1, |minutes| (minutes * 60).div_ceil(ROUND.as_secs() as u32))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_bytes_on_the_wire_buy_a_call_for_less_than_its_price() {
    let mut random = Random::of(seed());
    for _ in 0..rounds() {
        round(random.fork(), ROUND).await;
    }
}

/// One gateway without TLS and one with it, at the same time.
async fn round(mut random: Random, time: Duration) {
    let until = Instant::now() + time;
    tokio::join!(fuzz(false, random.fork(), until), fuzz(true, random.fork(), until));
}

/// Clients before one gateway, and what became of their calls.
async fn fuzz(tls: bool, mut random: Random, until: Instant) {
    let upstream = Upstream::start(random.fork()).await;
    let side = Arc::new(Side::start(upstream.address, tls).await);
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| tokio::spawn(client(side.clone(), random.fork(), number as u64, until)))
        .collect();
    let mut received = Received::default();
    for client in clients {
        received.add(client.await.unwrap());
    }
    let mut side = Arc::into_inner(side).unwrap();
    let seen = check(&side, &upstream, &received).await;
    let count = |is: fn(&Ran) -> bool| seen.iter().filter(|ran| is(ran)).count();
    let (ran, whole) = (seen.len(), count(|ran| ran.is_whole));
    let by_hand = count(|ran| ran.nonce == http2::BY_HAND);
    let left = count(|ran| ran.outcome == Outcome::Left);
    let name = if tls { "TLS" } else { "plain" };
    let answers = received.got.len();
    eprintln!(
        "{name}: {answers} answers; {ran} calls run: {whole} whole, {left} left, {by_hand} by hand"
    );
    assert!(whole > 50 && left > 0, "too few calls got through to say anything");
    assert_eq!(by_hand > 0, tls, "frames made by hand are requests");
    assert!(side.process.terminate().success());
}

/// One client: a connection after the other.
async fn client(side: Arc<Side>, mut random: Random, number: u64, until: Instant) -> Received {
    let mut received = Received::default();
    // Each nonce is sent once, so each client has a range of its own.
    let mut nonce = number * 100_000_000;
    while Instant::now() < until {
        match &side.certificate {
            Some(certificate) if random.below(3) > 0 => {
                if random.below(2) == 0 {
                    http2::raw(&side, certificate, &mut random).await;
                } else {
                    received.add(http2::streams(&side, certificate, &mut random, &mut nonce).await);
                }
            }
            _ => received.add(http1::connection(&side, &mut random, &mut nonce).await),
        }
    }
    received
}
