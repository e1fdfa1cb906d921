//! A retry is charged once, whichever gateway it reaches.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::timeout;

use crate::cluster::{Cluster, Durability, PRICE, ROUTE, in_both_modes};
use crate::support::token;

in_both_modes!(a_thousand_clients_with_ten_keys_over_three_gateways_are_ten_calls);

/// The account of these tests.
const ACCOUNT: &str = "keyed";

/// How long a client asks until it has its answer.
const PATIENCE: Duration = Duration::from_secs(90);

/// How each client of a rush calls.
#[derive(Clone, Copy)]
struct Rush {
    clients: usize,
    keys: usize,
    /// The time from one client's start to the next one's.
    apart: Duration,
}

/// Calls from many clients, each of which asks one gateway after the other until it has its answer. Returns how many
/// of the answers were replays.
async fn rush(cluster: &Cluster, rush: Rush) -> tokio::task::JoinSet<bool> {
    let gateways = cluster.members.iter().map(|member| member.process.public);
    let urls: Vec<String> = gateways.map(|public| format!("http://{public}{ROUTE}")).collect();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let bearer = token(ACCOUNT);
    let mut all = tokio::task::JoinSet::new();
    for number in 0..rush.clients {
        let (urls, client, bearer) = (urls.clone(), client.clone(), bearer.clone());
        let key = number * rush.keys / rush.clients;
        all.spawn(async move {
            tokio::time::sleep(rush.apart * number as u32).await;
            for attempt in 0.. {
                let url = &urls[(number + attempt) % urls.len()];
                let request = client.post(url).bearer_auth(&bearer).header("x-client", key);
                let request = request.header("x-delay-ms", 200).body(format!("body of {key}"));
                let sent = request.header("idempotency-key", format!("key-{key}")).send().await;
                if let Ok(answer) = sent {
                    let status = answer.status().as_u16();
                    let is_replay = answer.headers().contains_key("idempotent-replayed");
                    let read = answer.text().await;
                    if status == 200 && read.is_ok() {
                        return is_replay;
                    }
                    assert!(matches!(status, 200 | 409 | 502 | 503), "{status} {read:?}");
                }
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
            unreachable!("a client asks until it has its answer")
        });
    }
    all
}

/// Waits for all clients; how many of them got a replay.
async fn replays(mut clients: tokio::task::JoinSet<bool>) -> usize {
    let all = async {
        let mut replays = 0;
        while let Some(is_replay) = clients.join_next().await {
            replays += usize::from(is_replay.unwrap());
        }
        replays
    };
    timeout(PATIENCE, all).await.expect("every client gets its answer")
}

/// How often each key was charged, by joining the entries with the upstream's log.
async fn charges(cluster: &Cluster, gateway: usize) -> BTreeMap<usize, usize> {
    let served = cluster.upstream.served();
    let mut charges = BTreeMap::new();
    for entry in cluster.gateway(gateway).transactions(ACCOUNT).await {
        if entry["kind"] != "capture" {
            continue;
        }
        let id = entry["request_id"].as_str().unwrap();
        let call = served.iter().find(|call| call.request_id == id);
        let call = call.unwrap_or_else(|| panic!("charged, and never run: {entry}"));
        assert_eq!(entry["amount"].as_i64(), Some(-PRICE), "{entry}");
        *charges.entry(call.client).or_default() += 1;
    }
    charges
}

async fn a_thousand_clients_with_ten_keys_over_three_gateways_are_ten_calls(
    durability: Durability,
) {
    const KEYS: usize = 10;
    let mut cluster = Cluster::start(durability, 3).await;
    cluster.grant(ACCOUNT, 1000, "gift-keyed").await;
    let clients = Rush { clients: 1000, keys: KEYS, apart: Duration::ZERO };
    let replayed = replays(rush(&cluster, clients).await).await;
    assert_eq!(replayed, 1000 - KEYS);
    assert_eq!(cluster.upstream.count(), KEYS, "each key was forwarded once");
    cluster.check(&[]).await;
    let charges = charges(&cluster, 0).await;
    assert_eq!(charges, (0..KEYS).map(|key| (key, 1)).collect(), "and charged once");
}

/// A call that ran in a gateway that was killed may run again. No key is charged twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_key_is_charged_twice_where_a_gateway_is_killed_and_redis_is_emptied() {
    const KEYS: usize = 30;
    let mut cluster = Cluster::start(Durability::Strict, 3).await;
    cluster.grant(ACCOUNT, 1000, "gift-keyed").await;
    let clients = Rush { clients: 300, keys: KEYS, apart: Duration::from_millis(10) };
    let clients = rush(&cluster, clients).await;
    cluster.some_time(300, 900).await;
    cluster.kill_gateway(0);
    cluster.some_time(50, 500).await;
    cluster.redis.flush_all();
    cluster.some_time(50, 500).await;
    cluster.restart_gateway(0);
    replays(clients).await;
    let mut last = BTreeMap::new();
    let once = (0..KEYS).map(|key| (key, 1)).collect();
    let settled = crate::support::eventually(async || {
        last = charges(&cluster, 1).await;
        last == once
    });
    assert!(settled.await, "{last:?}");
    let run = cluster.upstream.count();
    // Each of the killed gateway's calls may have run again; it had a third of the clients, and a few at a time.
    assert!((KEYS..=2 * KEYS).contains(&run), "{run} calls for {KEYS} keys");
}
