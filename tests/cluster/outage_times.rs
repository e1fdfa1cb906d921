//! Measures how long callers feel each fault of a store, for the table in docs/cluster.md: `make outages`.

use std::time::{Duration, Instant};

use crate::cluster::{BACK_WITHIN, Cluster, Durability};
use crate::load::{Call, End, Load, Shape};
use crate::support::servers::Redis;

/// How long a store that comes back by itself is away.
const AWAY: Duration = Duration::from_secs(5);

/// How long a server that is killed stays dead.
const DEAD: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug)]
enum Fault {
    RedisEmptied,
    RedisKilled,
    RedisPromoted,
    RedisFrozen,
    PostgresRestarted,
    PostgresPromoted,
    PostgresVanished,
}

const FAULTS: [(Fault, &str); 7] = [
    (Fault::RedisEmptied, "Redis emptied (`FLUSHALL`)"),
    (Fault::RedisKilled, "Redis killed, and started empty a second later"),
    (Fault::RedisPromoted, "Redis killed, its replica promoted"),
    (Fault::RedisFrozen, "Redis frozen for 5 s"),
    (Fault::PostgresRestarted, "Postgres restarted"),
    (Fault::PostgresPromoted, "Postgres killed, its replica promoted"),
    (Fault::PostgresVanished, "Postgres black-holed for 5 s, and all connections lost"),
];

/// The times of one fault.
#[derive(Clone, Copy, Debug)]
struct Felt {
    /// From the fault to the first 503; `None` if there was none.
    first: Option<Duration>,
    /// The time from the moment at which the store is back (or from the fault, if no store was away) until every
    /// client was served a call that began after that moment, and the last 503 was over.
    back: Duration,
    /// The longest time without an answer of a call that was paid.
    gap: Duration,
}

/// How long calls go on after all clients were served again. A recovery that the fault causes may begin later, and
/// refuse calls for a moment.
const AFTER: Duration = Duration::from_secs(2);

/// How often each fault is repeated.
fn repeats() -> usize {
    std::env::var("FAREBOX_OUTAGES").map_or(10, |repeats| repeats.parse().unwrap())
}

/// Causes a fault, and returns once the store is back.
async fn happen(fault: Fault, cluster: &mut Cluster, replica: Option<Redis>) {
    match fault {
        Fault::RedisEmptied => cluster.redis.flush_all(),
        Fault::RedisKilled => {
            cluster.redis.kill();
            tokio::time::sleep(DEAD).await;
            cluster.redis.restart();
        }
        Fault::RedisPromoted => {
            let mut replica = replica.unwrap();
            cluster.redis.kill();
            replica.promote();
            cluster.lead_to(replica);
        }
        Fault::RedisFrozen => {
            cluster.redis.pause();
            tokio::time::sleep(AWAY).await;
            cluster.redis.resume();
        }
        Fault::PostgresRestarted => {
            cluster.postgres.stop();
            cluster.postgres.restart();
        }
        Fault::PostgresPromoted => {
            let standby = cluster.replica.take().unwrap();
            cluster.postgres.kill();
            standby.promote();
            for member in &cluster.members {
                member.to_postgres.lead_to(standby.address());
            }
            cluster.postgres = standby;
        }
        Fault::PostgresVanished => {
            cluster.members.iter().for_each(|member| member.to_postgres.swallow());
            tokio::time::sleep(AWAY).await;
            cluster.members.iter().for_each(|member| member.to_postgres.carry_new_connections());
        }
    }
}

/// Measures one fault, under so many calls that the first one after it comes at once.
async fn measure(fault: Fault, cluster: &mut Cluster, calls: &mut Vec<Call>) -> Felt {
    // Recoveries that follow each other closely are slowed down, which is not what is measured.
    let rested =
        "UPDATE farebox.shards SET short_epochs = 0, opened_at = now() - interval '1 hour'";
    cluster.sql(rested);
    let load: Load = cluster.load_of(&Shape::dense());
    load.serves_within(BACK_WITHIN).await;
    let replica = match fault {
        Fault::RedisPromoted => Some(Redis::replica_of(cluster.redis.address())),
        Fault::PostgresPromoted => {
            cluster.replica = Some(cluster.postgres.replica());
            None
        }
        _ => None,
    };
    cluster.some_time(300, 600).await;
    let began = Instant::now();
    happen(fault, cluster, replica).await;
    let is_back = Instant::now();
    let served = load.serves_within(BACK_WITHIN).await;
    tokio::time::sleep(AFTER).await;
    let done = load.stop().await;
    let refused = done.iter().filter(|call| matches!(call.end, End::Refused(503, _)));
    let refused: Vec<_> = refused.map(|call| call.ended).filter(|ended| *ended >= began).collect();
    let first = refused.iter().min().map(|ended| *ended - began);
    let last = refused.iter().max().map(|ended| ended.saturating_duration_since(is_back));
    let back = served.max(last.unwrap_or_default());
    let gap = crate::load::longest_gap(&done, began);
    calls.extend(done);
    Felt { first, back, gap }
}

/// The median and the longest of these times, in seconds.
fn figures(times: impl Iterator<Item = Duration>) -> String {
    let mut times: Vec<_> = times.collect();
    times.sort_unstable();
    let (Some(middle), Some(worst)) = (times.get(times.len() / 2), times.last()) else {
        return "–".to_owned();
    };
    format!("{:.2} / {:.2}", middle.as_secs_f64(), worst.as_secs_f64())
}

async fn table_of(durability: Durability) {
    let mut cluster = Cluster::start(durability, 2).await;
    let (mut calls, repeats) = (Vec::new(), repeats());
    for (fault, name) in FAULTS {
        let mut all = Vec::new();
        for _ in 0..repeats {
            let felt = measure(fault, &mut cluster, &mut calls).await;
            eprintln!("{name}, {}: {felt:?}", durability.name());
            all.push(felt);
        }
        let refused = all.iter().filter(|felt| felt.first.is_some()).count();
        println!(
            "| {name} | {} | {refused} of {repeats} | {} | {} | {} |",
            durability.name(),
            figures(all.iter().filter_map(|felt| felt.first)),
            figures(all.iter().map(|felt| felt.back)),
            figures(all.iter().map(|felt| felt.gap)),
        );
    }
    cluster.check(&calls).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: `make outages`"]
async fn outages_are_measured() {
    println!("| fault | durability | with a 503 | first 503 | serving again | longest gap |");
    println!("|---|---|---|---|---|---|");
    for durability in [Durability::Strict, Durability::Relaxed] {
        table_of(durability).await;
    }
}
