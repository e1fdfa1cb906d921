//! A part is away for longer: what is still served, what is refused, and how.

use std::time::{Duration, Instant};

use crate::cluster::{BACK_WITHIN, Cluster, Durability, Member, Plan, ROUTE, in_both_modes};
use crate::load::{Call, End, Shape, longest_gap};
use crate::support::eventually;

in_both_modes!(
    while_redis_is_away_calls_are_503_and_served_again_soon_after,
    while_both_are_away_calls_are_503_and_served_again_soon_after,
    a_gateway_that_is_told_to_end_while_both_are_away_ends,
    gateways_that_are_told_to_end_while_redis_is_away_charge_what_their_calls_took,
    a_gateway_without_a_way_to_redis_that_has_nothing_to_hand_over_ends_without_a_recovery,
);

/// How long a gateway may take to end. It has five seconds for its calls, and then tries for some
/// more seconds to have their settlements written.
const END_WITHIN: Duration = Duration::from_secs(60);

fn refused(calls: &[Call], from: Instant) -> usize {
    calls.iter().filter(|call| call.began > from && matches!(call.end, End::Refused(..))).count()
}

/// Postgres is away for longer than a lease lasts, or for `FAREBOX_AWAY_SECONDS` in a long run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn relaxed_goes_on_on_a_lone_redis_while_postgres_is_away() {
    let away = std::env::var("FAREBOX_AWAY_SECONDS").ok();
    let away = away.map_or(6000, |seconds| 1000 * seconds.parse::<u64>().unwrap());
    let mut cluster = Cluster::start(Durability::Relaxed, 2).await;
    let load = cluster.load();
    load.serves_within(BACK_WITHIN).await;
    let began = Instant::now();
    cluster.postgres.stop();
    cluster.some_time(away, away + 1000).await;
    cluster.postgres.restart();
    load.serves_within(BACK_WITHIN).await;
    cluster.some_time(500, 1000).await;
    let calls = load.stop().await;
    let gap = longest_gap(&calls, began);
    eprintln!("{} calls, the longest time without one that was paid: {gap:?}", calls.len());
    assert!(gap < Duration::from_secs(2), "no call was paid for {gap:?}");
    cluster.check(&calls).await;
}

/// A call with a token that is new to a gateway needs a look-up of its account. Here only the other gateway has
/// served the account so far.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn relaxed_takes_new_tokens_of_known_accounts_while_postgres_is_away() {
    let mut cluster = Cluster::start(Durability::Relaxed, 2).await;
    let load = cluster.load();
    load.serves_within(BACK_WITHIN).await;
    // Calls through the first gateway alone, until Postgres is away.
    cluster.grant("erin", 1000, "gift-erin").await;
    cluster.gateway(0).post("erin", ROUTE).await.expect(200);
    cluster.postgres.stop();
    let away = Instant::now();
    let mut minted = 0;
    // For longer than a lease lasts. A token says when it was made, in seconds.
    while away.elapsed() < Duration::from_secs(6) {
        let asked = Instant::now();
        cluster.gateway(1).post("erin", ROUTE).await.expect(200);
        assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
        minted += 1;
        cluster.gateway(1).post("nobody", ROUTE).await.problem(503, "LEDGER_UNAVAILABLE");
        cluster.some_time(100, 500).await;
    }
    cluster.postgres.restart();
    load.serves_within(BACK_WITHIN).await;
    let calls = load.stop().await;
    let gap = longest_gap(&calls, away);
    eprintln!(
        "{minted} calls with other tokens, the longest time without one that was paid: {gap:?}"
    );
    assert!(gap < Duration::from_secs(2), "no call was paid for {gap:?}");
    cluster.check(&calls).await;
}

/// Each account may spend as much as `unsynced_cap` allows, on all gateways together; then 503, never 402.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn relaxed_stops_at_the_cap_of_each_account_while_postgres_is_away() {
    const CAP: i64 = 200;
    let ledger_lines = format!("unsynced_cap = {CAP}");
    let mut cluster =
        Cluster::of(&Plan { ledger_lines, ..Plan::new(Durability::Relaxed, 2) }).await;
    let load = cluster.load();
    load.serves_within(BACK_WITHIN).await;
    cluster.postgres.stop();
    let stopped = async || {
        let refused = load.so_far().iter().rev().take(200).all(|call| call.end != End::Paid);
        refused && load.so_far().len() > 200
    };
    assert!(eventually(stopped).await, "the cap does not hold");
    let before = cluster.upstream.count();
    cluster.some_time(1000, 1500).await;
    assert_eq!(cluster.upstream.count(), before, "nothing above the cap");
    let is_logged = |member: &Member| member.process.stderr().contains("has taken `unsynced_cap`");
    assert!(cluster.members.iter().any(is_logged), "no log says why calls get 503");
    cluster.postgres.restart();
    load.serves_within(BACK_WITHIN).await;
    let calls = load.stop().await;
    cluster.check(&calls).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strict_refuses_with_503_while_postgres_is_away_and_serves_again_by_itself() {
    let mut cluster = Cluster::start(Durability::Strict, 2).await;
    let load = cluster.load();
    load.serves_within(BACK_WITHIN).await;
    cluster.postgres.stop();
    let away = Instant::now();
    cluster.some_time(4000, 5000).await;
    let served = cluster.upstream.served();
    // A hold that was committed just before may be forwarded just after.
    let late = |at: Instant| at > away + Duration::from_millis(500);
    assert!(!served.iter().any(|call| late(call.at)), "forwarded with its hold on no disk");
    assert!(refused(&load.so_far(), away) > 0);
    cluster.postgres.restart();
    load.serves_within(BACK_WITHIN).await;
    let calls = load.stop().await;
    cluster.check(&calls).await;
}

async fn while_redis_is_away_calls_are_503_and_served_again_soon_after(durability: Durability) {
    let mut cluster = Cluster::start(durability, 2).await;
    let load = cluster.load();
    load.serves_within(BACK_WITHIN).await;
    cluster.redis.kill();
    let away = Instant::now();
    cluster.some_time(2000, 3000).await;
    let gateway = cluster.gateway(0);
    let answer = gateway.post("alice", ROUTE).await;
    answer.problem(503, "LEDGER_UNAVAILABLE");
    assert!(answer.header("retry-after").parse::<u32>().unwrap() > 0);
    let healthz = gateway.client.get(format!("http://{}/healthz", gateway.admin)).send().await;
    assert_eq!(healthz.unwrap().status(), 200, "an outage of Redis restarts nobody");
    let late = |at: Instant| at > away + Duration::from_millis(500);
    assert!(!cluster.upstream.served().iter().any(|call| late(call.at)), "nobody passed for free");
    assert!(refused(&load.so_far(), away) > 0);
    cluster.redis.restart();
    let back = load.serves_within(BACK_WITHIN).await;
    eprintln!("served again after {back:?}");
    let calls = load.stop().await;
    cluster.check(&calls).await;
}

async fn while_both_are_away_calls_are_503_and_served_again_soon_after(durability: Durability) {
    let mut cluster = Cluster::start(durability, 2).await;
    let load = cluster.load();
    load.serves_within(BACK_WITHIN).await;
    cluster.redis.kill();
    cluster.postgres.kill();
    cluster.some_time(1500, 2500).await;
    cluster.redis.restart();
    cluster.some_time(500, 1000).await;
    cluster.gateway(1).post("alice", ROUTE).await.problem(503, "LEDGER_UNAVAILABLE");
    cluster.postgres.restart();
    load.serves_within(BACK_WITHIN).await;
    let calls = load.stop().await;
    cluster.check(&calls).await;
}

/// A deployment that replaces gateways during an outage must not hang.
async fn a_gateway_that_is_told_to_end_while_both_are_away_ends(durability: Durability) {
    let mut cluster = Cluster::start(durability, 2).await;
    let load = cluster.load();
    load.serves_within(BACK_WITHIN).await;
    cluster.redis.kill();
    cluster.postgres.kill();
    cluster.some_time(10, 500).await;
    let told = Instant::now();
    let gateway = &mut cluster.members[0].process;
    gateway.signal("TERM");
    let status = gateway.ended_within(END_WITHIN);
    eprintln!("{status} after {:?}", told.elapsed());
    assert!(status.code().is_some(), "{status}");
    load.stop().await;
}

/// A rolling restart during an outage: calls end after the loss of Redis and before the end of their gateways. When
/// the second gateway ends, it knows already that the ledger waits for a recovery.
async fn gateways_that_are_told_to_end_while_redis_is_away_charge_what_their_calls_took(
    durability: Durability,
) {
    let mut cluster = Cluster::start(durability, 2).await;
    let load = cluster.load_of(&Shape { delay_ms: 1000, ..Shape::default() });
    load.serves_within(BACK_WITHIN).await;
    let gone = Instant::now();
    cluster.redis.kill();
    cluster.some_time(10, 1000).await;
    cluster.stop_gateway(0);
    cluster.stop_gateway(1);
    cluster.redis.restart();
    cluster.restart_gateway(0);
    cluster.restart_gateway(1);
    load.serves_within(BACK_WITHIN).await;
    let calls = load.stop().await;
    let owed = calls.iter().filter(|call| call.began < gone && gone < call.ended);
    let owed = owed.filter(|call| call.end == End::Paid).count();
    assert!(owed > 0, "no call ended meanwhile");
    cluster.check(&calls).await;
}

/// While Postgres is away, no batch is in a gateway's memory. The lag counts the batches of Redis that Postgres lacks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strict_says_for_how_long_postgres_has_been_away() {
    let mut cluster = Cluster::start(Durability::Strict, 1).await;
    let load = cluster.load();
    load.serves_within(BACK_WITHIN).await;
    let lag = async |cluster: &Cluster| {
        cluster.members[0].metric("farebox_ledger_sync_lag_seconds").await
    };
    cluster.postgres.stop();
    assert!(eventually(async || lag(&cluster).await > 2.0).await);
    cluster.postgres.restart();
    load.serves_within(BACK_WITHIN).await;
    assert!(eventually(async || lag(&cluster).await < 1.0).await);
    let calls = load.stop().await;
    cluster.check(&calls).await;
}

/// An outage of its servers is no reason to restart a gateway that starts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_says_that_it_lives_while_its_start_waits() {
    let mut cluster = Cluster::start(Durability::Strict, 1).await;
    cluster.stop_gateway(0);
    cluster.redis.kill();
    let member = &mut cluster.members[0];
    member.begin_again();
    let process = &member.process;
    let asked = async |path: &str| {
        let request = process.client.get(format!("http://{}{path}", process.admin));
        request.send().await.ok().map(|answer| answer.status().as_u16())
    };
    assert!(eventually(async || asked("/healthz").await == Some(200)).await);
    assert_eq!((asked("/readyz").await, asked("/metrics").await), (Some(503), Some(200)));
    let account = process.admin(http::Method::GET, "/admin/accounts/alice", "").await;
    account.problem(503, "LEDGER_UNAVAILABLE");
    assert!(!process.stdout().contains("listening on"));
    cluster.redis.restart();
    let process = &mut cluster.members[0].process;
    process.wait_until(|process| process.stdout().contains("listening on"));
    process.admin(http::Method::GET, "/admin/accounts/alice", "").await.expect(200);
    process.post("alice", ROUTE).await.expect(200);
}

/// The other gateway reaches Redis and serves. A command on the same config, which ends like a gateway, changes nothing either.
async fn a_gateway_without_a_way_to_redis_that_has_nothing_to_hand_over_ends_without_a_recovery(
    durability: Durability,
) {
    let mut cluster = Cluster::start(durability, 2).await;
    for gateway in [0, 1] {
        cluster.gateway(gateway).post("alice", ROUTE).await.expect(200);
    }
    cluster.check(&[]).await;
    let recoveries = cluster.members[0].metric("farebox_ledger_recoveries_total").await;
    cluster.members[1].to_redis.swallow();
    let is_cut_off = async || cluster.members[1].metric("farebox_ledger_up").await == 0.0;
    assert!(eventually(is_cut_off).await, "it does not know");
    cluster.stop_gateway(1);
    let said = cluster.run(1, &["account", "show", "alice"]).unwrap_err();
    assert!(said.contains("LEDGER_UNAVAILABLE"), "{said}");
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(3) {
        cluster.gateway(0).post("alice", ROUTE).await.expect(200);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let after = cluster.members[0].metric("farebox_ledger_recoveries_total").await;
    assert_eq!(after, recoveries, "{}", cluster.gateway(0).stderr());
    cluster.members[1].to_redis.mend();
    cluster.restart_gateway(1);
    cluster.check(&[]).await;
}
