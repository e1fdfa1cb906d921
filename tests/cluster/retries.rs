//! A retry is charged once, whichever gateway it reaches.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;
use tokio::time::timeout;

use crate::cluster::{Cluster, Durability, PRICE, ROUTE, in_both_modes};
use crate::metered::{StreamEnd, Used, micros};
use crate::support::http::{Answer, plain_client};
use crate::support::metered::CHAT;
use crate::support::token;

in_both_modes!(
    a_thousand_clients_with_ten_keys_over_three_gateways_are_ten_calls,
    metered_calls_of_a_gateway_that_is_killed_are_charged_once_by_their_usage,
);

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
    let client = plain_client().build().unwrap();
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

/// Waits for all clients. Returns how many of them got a replay.
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

/// How often each key was charged, by joining the entries with the upstream's log. Each charge must be the fixed
/// price, or the price of the usage that the upstream reported.
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
        let price = call.used.map_or(PRICE * 1_000_000, Used::micros);
        assert_eq!(micros(&entry["amount"]), -price, "{entry}");
        assert_eq!(entry["usage"], call.used.map_or(Value::Null, Used::entry), "{entry}");
        *charges.entry(call.client).or_default() += 1;
    }
    charges
}

/// Everything that Redis has, as text.
const ALL_OF_REDIS: &str = "local all = {} \
    local function add(value) \
        if type(value) == 'table' then for _, one in ipairs(value) do add(one) end \
        else all[#all + 1] = value end \
    end \
    for _, key in ipairs(redis.call('KEYS', '*')) do \
        local kind = redis.call('TYPE', key).ok \
        add(key) \
        if kind == 'string' then add(redis.call('GET', key)) \
        elseif kind == 'hash' then add(redis.call('HGETALL', key)) \
        elseif kind == 'stream' then add(redis.call('XRANGE', key, '-', '+')) \
        else add(kind) end \
    end \
    return table.concat(all, ' ')";

/// Neither store has a part of the answer, of the request or of the key.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neither_store_has_a_part_of_an_answer_a_request_or_a_key_in_plain() {
    const KEY: &str = "a-key-that-nobody-guesses";
    let mut cluster = Cluster::start(Durability::Strict, 1).await;
    cluster.grant(ACCOUNT, 1000, "gift-keyed").await;
    let used = Used { prompt: 200, completion: 10, chunks: 0, bytes: 0 };
    let gateway = cluster.gateway(0);
    let ask = async || {
        let request = used.request(&gateway.client, &gateway.url(CHAT), ACCOUNT, Some(10));
        Answer::of(request.header("idempotency-key", KEY)).await
    };
    let first = ask().await;
    assert!(first.text.contains("chat.completion") && first.status == 200, "{}", first.text);
    let again = ask().await;
    assert_eq!((again.header("idempotent-replayed"), &again.text), ("true", &first.text));
    cluster.check(&[]).await;
    let tables = "SELECT string_agg(relname, ' ') FROM pg_class c JOIN pg_namespace n \
                  ON n.oid = c.relnamespace WHERE nspname = 'farebox' AND relkind = 'r'";
    let mut stored = cluster.redis.ask(&["EVAL", ALL_OF_REDIS, "0"]);
    for table in cluster.sql(tables).split(' ') {
        let rows = format!("SELECT coalesce(string_agg(t::text, ' '), '') FROM farebox.{table} t");
        stored.push_str(&cluster.sql(&rows));
    }
    let call = cluster.upstream.served().pop().unwrap().request_id;
    assert!(stored.contains(&call), "the search reads what is stored");
    for word in ["chat.completion", "prompt_tokens", "application/json", "messages", KEY] {
        let hex: String = word.bytes().map(|byte| format!("{byte:02x}")).collect();
        assert!(!stored.contains(word) && !stored.contains(&hex), "{word} is in {stored}");
    }
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
    let mut last = Vec::new();
    let shown = crate::support::eventually(async || {
        last = cluster.gateway(1).transactions(ACCOUNT).await;
        last.iter().filter_map(|entry| entry["replays"].as_u64()).sum::<u64>() == 1000 - KEYS as u64
    });
    assert!(shown.await, "the entries say how often their answers were sent again: {last:?}");
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
    // Only the killed gateway's calls may have run again. It had a third of the clients, and a few calls at a time.
    assert!((KEYS..=2 * KEYS).contains(&run), "{run} calls for {KEYS} keys");
}

/// The usage of a key's call: every second one streams.
fn used_by(key: usize) -> Used {
    let chunks = if key.is_multiple_of(2) { 0 } else { 6 };
    Used { prompt: 100 + key as u64, completion: 40 + key as u64, chunks, bytes: 20 }
}

/// A whole answer to a metered call with a key.
#[derive(Debug)]
struct Whole {
    is_replay: bool,
    cost: Option<String>,
    text: String,
}

/// Asks one gateway after the other, from `first` on, until one gives the whole answer.
async fn ask_metered(
    urls: Vec<String>,
    client: reqwest::Client,
    key: usize,
    first: usize,
) -> Whole {
    for attempt in 0.. {
        let url = &urls[(first + attempt) % urls.len()];
        let request = used_by(key).request(&client, url, ACCOUNT, Some(500));
        let request = request.header("x-client", key).header("x-delay-ms", 4000);
        let sent = request.header("idempotency-key", format!("key-{key}")).send().await;
        if let Ok(answer) = sent {
            let status = answer.status().as_u16();
            let header = |name| answer.headers().get(name).map(|value| value.to_str().unwrap());
            let is_replay = header("idempotent-replayed").is_some();
            let cost = header("x-credits-cost").map(str::to_owned);
            let read = answer.text().await;
            match read {
                Ok(text) if status == 200 => return Whole { is_replay, cost, text },
                read => assert!(matches!(status, 200 | 409 | 502 | 503), "{status} {read:?}"),
            }
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    unreachable!("a client asks until it has its answer")
}

/// A gateway is killed in the middle of its streams and whole answers. Retries at other gateways run the calls again
/// once their holds are given back. Every key is charged once, by the usage of one of its calls, and its whole answer
/// is replayed.
async fn metered_calls_of_a_gateway_that_is_killed_are_charged_once_by_their_usage(
    durability: Durability,
) {
    const KEYS: usize = 18;
    let mut cluster = Cluster::start(durability, 3).await;
    cluster.grant(ACCOUNT, 1000, "gift-keyed").await;
    let gateways = cluster.members.iter().map(|member| member.process.public);
    let urls: Vec<String> = gateways.map(|public| format!("http://{public}{CHAT}")).collect();
    let client = plain_client().build().unwrap();
    let (mut clients, mut begun) = (tokio::task::JoinSet::new(), 0);
    // The calls of the gateway that is killed begin last, so that it is in the middle of them.
    for gateway in [1, 2, 0] {
        for key in (0..KEYS).filter(|key| key % 3 == gateway) {
            let asked = ask_metered(urls.clone(), client.clone(), key, gateway);
            clients.spawn(async move { (key, asked.await) });
        }
        begun += KEYS / 3;
        let all = async || cluster.upstream.count() >= begun;
        assert!(crate::support::eventually(all).await);
    }
    cluster.kill_gateway(0);
    // Others ask meanwhile.
    for number in 0..2 * KEYS {
        let asked = ask_metered(urls.clone(), client.clone(), number % KEYS, 1 + number % 2);
        clients.spawn(async move { (number % KEYS, asked.await) });
    }
    let mut texts = BTreeMap::new();
    let all = async {
        while let Some(got) = clients.join_next().await {
            let (key, whole) = got.unwrap();
            assert_is_whole(key, &whole);
            let text = texts.entry(key).or_insert_with(|| whole.text.clone());
            assert_eq!(text, &whole.text, "all clients of key {key} read the same");
        }
    };
    timeout(PATIENCE, all).await.expect("every client gets its answer");
    cluster.restart_gateway(0);
    for key in 0..KEYS {
        for gateway in 0..3 {
            let again = ask_metered(urls.clone(), client.clone(), key, gateway).await;
            assert!(again.is_replay, "{again:?}");
            assert_is_whole(key, &again);
            assert_eq!(again.text, texts[&key]);
        }
    }
    let once: BTreeMap<_, _> = (0..KEYS).map(|key| (key, 1)).collect();
    let mut last = BTreeMap::new();
    let settled = crate::support::eventually(async || {
        last = charges(&cluster, 0).await;
        last == once
    });
    assert!(settled.await, "{last:?}");
    let run = cluster.upstream.count();
    assert!((KEYS + 1..=KEYS + KEYS / 3).contains(&run), "{run} calls for {KEYS} keys");
}

/// The whole answer: of a stream each event that its client may see. A replay says what the call cost.
#[track_caller]
fn assert_is_whole(key: usize, whole: &Whole) {
    let used = used_by(key);
    if used.chunks > 0 {
        assert_eq!(StreamEnd::of(&whole.text), StreamEnd::Whole, "{whole:?}");
        let letters = whole.text.bytes().filter(|byte| *byte == b'Q').count() as u64;
        assert_eq!(letters, used.chunks * used.bytes, "{whole:?}");
    } else {
        assert_eq!(serde_json::from_str::<Value>(&whole.text).unwrap(), used.answer());
    }
    if whole.is_replay || used.chunks == 0 {
        let cost: farebox::credits::Credits = whole.cost.as_ref().unwrap().parse().unwrap();
        assert_eq!(cost.micros() as i64, used.micros(), "{whole:?}");
    }
}
