//! Random faults, one after the other: `make torture MINUTES=n` runs them for n minutes. A plain
//! test run is short.

use std::time::{Duration, Instant};

use crate::cluster::{ACCOUNTS, BACK_WITHIN, Cluster, Durability, Member, Plan};
use crate::failover::Standby;
use crate::load::Shape;
use crate::support::clock::Clock;
use crate::support::random::{Random, seed};
use crate::support::servers::{CutProxy, Flow, Persistence, Redis};

/// How long one cluster is tortured before all that it did is looked at.
const ROUND: Duration = Duration::from_secs(30);

/// The length of a plain test run, for each mode.
const SHORT_ROUND: Duration = Duration::from_secs(6);

#[derive(Clone, Copy, Debug)]
enum Fault {
    KillGateway,
    PauseGateway,
    PauseGatewayForLong,
    RestartGateway,
    RestartGatewayWithoutRedis,
    RestartGatewayCutOffRedis,
    KillRedis,
    PauseRedis,
    FlushAll,
    ScriptFlush,
    OldCopy,
    PromoteReplica,
    DemoteMaster,
    AnotherRedis,
    PauseRedisForLong,
    KillPostgres,
    PausePostgres,
    PausePostgresForLong,
    PromotePostgres,
    LockRow,
    CutLines,
    PartRedis,
    PartPostgres,
    SwallowRedis,
    SwallowPostgres,
    SwallowPostgresTwice,
    LoseAnswers,
    LateRequests,
    MoveClock,
}

/// The faults that take long.
const SLOW_FAULTS: [Fault; 7] = [
    Fault::PauseGatewayForLong,
    Fault::RestartGatewayWithoutRedis,
    Fault::RestartGatewayCutOffRedis,
    Fault::PauseRedisForLong,
    Fault::PausePostgresForLong,
    Fault::PromotePostgres,
    Fault::SwallowPostgresTwice,
];

/// Single faults: whatever comes of them, nothing may be lost.
const FAULTS: [Fault; 21] = [
    Fault::KillGateway,
    Fault::PauseGateway,
    Fault::RestartGateway,
    Fault::KillRedis,
    Fault::PauseRedis,
    Fault::FlushAll,
    Fault::ScriptFlush,
    Fault::OldCopy,
    Fault::PromoteReplica,
    Fault::DemoteMaster,
    Fault::AnotherRedis,
    Fault::KillPostgres,
    Fault::PausePostgres,
    Fault::LockRow,
    Fault::CutLines,
    Fault::PartRedis,
    Fault::PartPostgres,
    Fault::SwallowRedis,
    Fault::SwallowPostgres,
    Fault::LoseAnswers,
    Fault::LateRequests,
];

/// How far the gateways' clock and Postgres's may be off. Postgres's goes back as well, but is never behind the machine's
/// (see `clock.rs`).
const OFFSETS: [[&str; 4]; 2] = [["+50m", "+7s", "-50m", "-7s"], ["+50m", "+14s", "+7s", "+0"]];

/// The faults that were survived so far.
#[derive(Clone, Copy, Debug, Default)]
struct Survived {
    faults: usize,
    calls: usize,
    entries: usize,
    in_flight_at_kills: usize,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_at_random_lose_nothing() {
    let seed = seed();
    let mut random = Random::of(seed);
    let minutes = std::env::var("FAREBOX_TORTURE_MINUTES").ok();
    let minutes: Option<u64> = minutes.map(|minutes| minutes.parse().expect("whole minutes"));
    let end = minutes.map(|minutes| Instant::now() + Duration::from_secs(60 * minutes));
    let round = if minutes.is_some() { ROUND } else { SHORT_ROUND };
    let mut survived = Survived::default();
    for number in 0.. {
        let go_on = end.map_or(number < 2, |end| Instant::now() < end);
        if !go_on {
            break;
        }
        let durability = [Durability::Strict, Durability::Relaxed][number % 2];
        torture(durability, round, random.fork(), &mut survived).await;
        let Survived { faults, calls, entries, in_flight_at_kills } = survived;
        println!(
            "FAREBOX_SEED={seed}: {faults} faults survived, {calls} calls made, {entries} entries \
             checked, 0 lost ({in_flight_at_kills} in flight in a gateway that was killed)"
        );
    }
}

/// Tortures one cluster until `time` is over, and then checks it.
async fn torture(durability: Durability, time: Duration, random: Random, survived: &mut Survived) {
    let mut random = random;
    let persistence = random.one_of(&[Persistence::None, Persistence::Aof]);
    let gateways = 2 + random.below(2);
    // The clocks of the gateways and of Postgres. Slow to read, so not in every round.
    let clocks = (random.below(2) == 0).then(|| [Clock::new(), Clock::new()]);
    let env = |which: usize| clocks.as_ref().map_or_else(Vec::new, |clocks| clocks[which].env());
    let mut faults = FAULTS.to_vec();
    faults.extend(clocks.is_some().then_some(Fault::MoveClock));
    faults.extend((time >= ROUND).then_some(SLOW_FAULTS).into_iter().flatten());
    faults.retain(is_wanted);
    assert!(!faults.is_empty(), "no fault has a name in FAREBOX_TORTURE_FAULTS");
    let plan = Plan {
        persistence,
        random: Some(random),
        gateway_env: env(0),
        postgres_env: env(1),
        ..Plan::new(durability, gateways)
    };
    let mut cluster = Cluster::of(&plan).await;
    let shape = if time >= ROUND { Shape::dense() } else { Shape::default() };
    let load = cluster.load_of(&Shape { metered: true, ..shape });
    load.serves_within(BACK_WITHIN).await;
    if durability == Durability::Relaxed {
        let [median, p99] = sync_lag(&cluster, time / 10).await;
        println!("sync lag under load, before any fault: median {median:?}, p99 {p99:?}");
    }
    let end = Instant::now() + time;
    while Instant::now() < end {
        cluster.some_time(20, 800).await;
        let fault = cluster.random.one_of(&faults);
        // The fault is printed before it happens, so a failure comes from the last fault in the
        // output.
        eprintln!("{durability:?}, {persistence:?}, {gateways} gateways: {fault:?}");
        inflict(&mut cluster, fault, clocks.as_ref()).await;
        load.serves_within(BACK_WITHIN).await;
        catches_up(&cluster).await;
        survived.faults += 1;
    }
    let calls = load.stop().await;
    let checked = cluster.check(&calls).await;
    survived.calls += checked.calls;
    survived.entries += checked.entries;
    survived.in_flight_at_kills += checked.in_flight_at_kills;
}

/// Whether `FAREBOX_TORTURE_FAULTS` names the fault, as it is printed. The names are separated by commas; without any, all
/// faults are wanted.
fn is_wanted(fault: &Fault) -> bool {
    let wanted = std::env::var("FAREBOX_TORTURE_FAULTS").unwrap_or_default();
    wanted.is_empty() || wanted.split(',').any(|name| name == format!("{fault:?}"))
}

/// Waits until Postgres has everything that was decided before now. If Redis and a gateway were both lost within that
/// time, that would be the double fault that may lose something, and these tests are about single faults.
async fn catches_up(cluster: &Cluster) {
    let now = Instant::now();
    let has = async |member: &Member| {
        let lag = member.metric("farebox_ledger_sync_lag_seconds").await;
        Duration::from_secs_f64(lag) <= now.elapsed()
    };
    for member in &cluster.members {
        while !has(member).await {
            assert!(now.elapsed() < BACK_WITHIN, "Postgres does not catch up");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// The age of the oldest operation that Postgres does not have yet, by the gateways' metric: median
/// and p99.
async fn sync_lag(cluster: &Cluster, time: Duration) -> [Duration; 2] {
    let mut lags = Vec::new();
    let end = Instant::now() + time;
    while Instant::now() < end {
        for member in &cluster.members {
            lags.push(member.metric("farebox_ledger_sync_lag_seconds").await);
        }
        // The gauge is set as often.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    lags.sort_by(f64::total_cmp);
    [50, 99].map(|part| Duration::from_secs_f64(lags[(lags.len() - 1) * part / 100]))
}

/// Causes a fault, and ends it. A moved clock stays as it is until it is moved again.
async fn inflict(cluster: &mut Cluster, fault: Fault, clocks: Option<&[Clock; 2]>) {
    let victim = cluster.any_gateway();
    match fault {
        Fault::KillGateway => {
            cluster.kill_gateway(victim);
            cluster.some_time(1, 1500).await;
            cluster.restart_gateway(victim);
        }
        Fault::PauseGateway => {
            cluster.members[victim].pause();
            cluster.some_time(100, 5000).await;
            cluster.members[victim].resume();
        }
        // Until the others have taken it for gone.
        Fault::PauseGatewayForLong => {
            cluster.members[victim].pause();
            cluster.some_time(14_000, 18_000).await;
            cluster.members[victim].resume();
        }
        Fault::RestartGateway => {
            cluster.stop_gateway(victim);
            cluster.restart_gateway(victim);
        }
        Fault::RestartGatewayWithoutRedis => {
            cluster.redis.kill();
            cluster.some_time(1, 1000).await;
            cluster.stop_gateway(victim);
            cluster.redis.restart();
            cluster.restart_gateway(victim);
        }
        Fault::RestartGatewayCutOffRedis => {
            cluster.members[victim].to_redis.part();
            cluster.some_time(1, 1000).await;
            cluster.stop_gateway(victim);
            cluster.members[victim].to_redis.mend();
            cluster.restart_gateway(victim);
        }
        Fault::KillRedis => {
            cluster.redis.kill();
            cluster.some_time(1, 2000).await;
            cluster.redis.restart();
        }
        Fault::PauseRedis => {
            cluster.redis.pause();
            cluster.some_time(100, 5000).await;
            cluster.redis.resume();
        }
        // Until every gateway would be taken for gone.
        Fault::PauseRedisForLong => {
            cluster.redis.pause();
            cluster.some_time(12_000, 30_000).await;
            cluster.redis.resume();
        }
        Fault::FlushAll => cluster.redis.flush_all(),
        Fault::ScriptFlush => cluster.redis.script_flush(),
        Fault::OldCopy => old_copy(cluster).await,
        Fault::PromoteReplica => promote_replica(cluster).await,
        Fault::DemoteMaster => demote_master(cluster, victim).await,
        Fault::AnotherRedis => {
            let other = Redis::start(Persistence::None);
            cluster.members[victim].to_redis.lead_to(other.address());
            cluster.some_time(100, 6000).await;
            cluster.members[victim].to_redis.lead_to(cluster.redis.address());
        }
        Fault::KillPostgres => {
            cluster.postgres.kill();
            cluster.some_time(1, 2000).await;
            cluster.postgres.restart();
        }
        Fault::PausePostgres => {
            cluster.postgres.pause();
            cluster.some_time(100, 5000).await;
            cluster.postgres.resume();
        }
        Fault::PausePostgresForLong => {
            cluster.postgres.pause();
            cluster.some_time(12_000, 60_000).await;
            cluster.postgres.resume();
        }
        Fault::PromotePostgres => {
            let standby = Standby::of(cluster).await;
            standby.falls_behind();
            cluster.some_time(1, 3000).await;
            standby.take_over(cluster);
        }
        Fault::LockRow => {
            let account = cluster.random.one_of(&ACCOUNTS);
            let seconds = cluster.random.millis(100, 4000).as_secs_f64();
            let sql = format!(
                "BEGIN; SELECT 1 FROM farebox.accounts WHERE id = '{account}' FOR UPDATE; \
                 SELECT pg_sleep({seconds}); COMMIT"
            );
            tokio::task::block_in_place(|| cluster.sql(&sql));
        }
        Fault::CutLines => {
            cluster.members[victim].to_redis.cut();
            cluster.members[victim].to_postgres.cut();
        }
        Fault::PartRedis => {
            cluster.members[victim].to_redis.part();
            cluster.some_time(10, 4000).await;
            cluster.members[victim].to_redis.mend();
        }
        Fault::PartPostgres => {
            cluster.members[victim].to_postgres.part();
            cluster.some_time(10, 4000).await;
            cluster.members[victim].to_postgres.mend();
        }
        Fault::SwallowRedis => {
            cluster.members[victim].to_redis.swallow();
            cluster.some_time(100, 6000).await;
            cluster.members[victim].to_redis.carry_new_connections();
        }
        Fault::SwallowPostgres => swallow_postgres(cluster, victim).await,
        Fault::SwallowPostgresTwice => {
            swallow_postgres(cluster, victim).await;
            cluster.some_time(1, 500).await;
            swallow_postgres(cluster, victim).await;
        }
        Fault::LoseAnswers => {
            cluster.members[victim].to_redis.set(Flow::Open, Flow::Lost);
            cluster.some_time(10, 1500).await;
            cluster.members[victim].to_redis.mend();
        }
        Fault::LateRequests => {
            cluster.members[victim].to_redis.delay_connections();
            cluster.some_time(100, 6000).await;
            cluster.members[victim].to_redis.mend();
        }
        Fault::MoveClock => {
            let clock = cluster.random.one_of(&[0, 1]);
            clocks.unwrap()[clock].is_off_by(cluster.random.one_of(&OFFSETS[clock]));
        }
    }
}

/// The network between a gateway and Postgres loses everything without a word, for a while.
async fn swallow_postgres(cluster: &mut Cluster, victim: usize) {
    cluster.members[victim].to_postgres.swallow();
    cluster.some_time(100, 6000).await;
    cluster.members[victim].to_postgres.carry_new_connections();
}

/// Redis is gone, and a replica that had fallen behind takes its place.
async fn promote_replica(cluster: &mut Cluster) {
    let line = CutProxy::before(cluster.redis.address()).await;
    let mut replica = Redis::replica_of(line.address());
    cluster.some_time(1, 500).await;
    line.set(Flow::Open, Flow::Stalled);
    cluster.some_time(1, 1000).await;
    cluster.redis.kill();
    replica.promote();
    cluster.lead_to(replica);
}

/// A replica becomes the master, and the old master becomes its replica. One gateway stays connected to the old
/// master for a while, and nobody closes its connections.
async fn demote_master(cluster: &mut Cluster, victim: usize) {
    let mut successor = Redis::replica_of(cluster.redis.address());
    cluster.some_time(1, 500).await;
    successor.promote();
    let address = successor.address();
    let (host, port) = (address.ip().to_string(), address.port().to_string());
    assert_eq!(cluster.redis.ask(&["REPLICAOF", &host, &port]), "OK");
    for (number, member) in cluster.members.iter().enumerate() {
        if number != victim {
            member.to_redis.lead_to(address);
        }
    }
    cluster.some_time(100, 5000).await;
    cluster.members[victim].to_redis.lead_new_connections_to(address);
    // The old master lives for as long as somebody may be connected to it.
    cluster.demoted.push(std::mem::replace(&mut cluster.redis, successor));
}

/// Restarts Redis with the data of a moment ago. If Redis keeps a log of its own, it restarts from
/// that log.
async fn old_copy(cluster: &mut Cluster) {
    if cluster.persistence == Persistence::None {
        let old = cluster.redis.snapshot();
        cluster.some_time(50, 1000).await;
        cluster.redis.restart_from(&old);
    } else {
        cluster.redis.kill();
        cluster.redis.restart();
    }
}
