//! Only entries grow for ever, and they are folded by month. The ids of calls are dropped with their months; the ids
//! of grants, payments and the API's holds stay. A refused call leaves nothing.

use futures_util::StreamExt as _;
use http::Method;
use serde_json::Value;

use crate::cluster::{BACK_WITHIN, Cluster, Durability, Plan, ROUTE, in_both_modes};
use crate::history::History;
use crate::support::eventually;
use crate::support::http::Answer;

in_both_modes!(a_refused_call_leaves_nothing);

/// An id as a gateway makes it for a call, of three months ago.
fn old_id(cluster: &Cluster, end: &str) -> String {
    let time =
        "lpad(to_hex(extract(epoch FROM now() - interval '3 months')::int8 * 1000), 12, '0')";
    cluster.sql(&format!("SELECT ({time} || '7000800000000000{end}')::uuid"))
}

async fn ask(cluster: &Cluster, key: &str, path: &str, body: &str) -> Answer {
    let gateway = cluster.gateway(0);
    let request = gateway.client.post(gateway.url(path)).bearer_auth(key);
    Answer::of(request.header("x-farebox-account", "alice").body(body.to_owned())).await
}

async fn reconcile(cluster: &Cluster) -> Value {
    cluster.gateway(0).admin(Method::GET, "/admin/reconcile", "").await.expect(200)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ids_of_calls_go_with_their_months_and_all_others_stay() {
    let mut cluster = Cluster::start(Durability::Strict, 1).await;
    let past = History { months: 3, accounts: 20, of_the_first: 40, of_each: 10 };
    let month = "to_char(now() AT TIME ZONE 'utc' - interval '2 months', 'YYYY_MM')";
    let bound = |months: u32| {
        format!(
            "(lpad(to_hex(extract(epoch FROM date_trunc('month', now() AT TIME ZONE 'utc') \
             - interval '{months} months')::int8 * 1000), 12, '0') || '00000000000000000000')::uuid::text"
        )
    };
    // One of the months has its partition, as usual. The rows of the others are in the one for all else.
    let (name, from, to) = (
        cluster.sql(&format!("SELECT 'calls_' || {month}")),
        cluster.sql(&format!("SELECT {}", bound(2))),
        cluster.sql(&format!("SELECT {}", bound(1))),
    );
    cluster.sql(&format!(
        "CREATE TABLE farebox.{name} PARTITION OF farebox.calls FOR VALUES FROM ('{from}') TO ('{to}')"
    ));
    cluster.write_history(&past);
    assert_ne!(cluster.sql(&format!("SELECT count(*) FROM farebox.{name}")), "0");
    // A call at the turn of a month is charged in the next one.
    cluster.sql(
        "SET session_replication_role = replica; \
         UPDATE farebox.calls SET id = (lpad(to_hex(extract(epoch FROM now() - interval '3 months')::int8 \
          * 1000), 12, '0') || substr(replace(id::text, '-', ''), 13))::uuid, \
          created_at = extract(epoch FROM now())::int8 * 1000 \
          WHERE account = 'old-000002' AND seq = 10; \
         UPDATE farebox.entries e SET operation = 'capture:' || c.id, created_at = c.created_at \
          FROM farebox.calls c WHERE c.account = 'old-000002' AND c.seq = 10 \
          AND e.account = c.account AND e.seq = c.seq",
    );
    let (_, key) = cluster.key(0, "backend", true).await;
    // A caller of the API chooses an id that looks like a call's.
    let job = old_id(&cluster, "0a01");
    let hold = format!(r#"{{"id":"{job}","credits":10}}"#);
    ask(&cluster, &key, "/credits/holds", &hold).await.expect(201);
    let capture = format!("/credits/holds/{job}/capture");
    ask(&cluster, &key, &capture, r#"{"credits":4}"#).await.expect(200);
    let served = cluster.gateway(0).post("alice", ROUTE).await;
    let request = served.header("x-request-id").to_owned();
    served.expect(200);
    let written = async || reconcile(&cluster).await["clean"] == true;
    assert!(eventually(written).await, "{}", reconcile(&cluster).await);
    let others = cluster.sql("SELECT count(*) FROM farebox.operations");
    let forgotten = cluster.sql(&format!("SELECT id FROM farebox.{name} LIMIT 1"));

    cluster.run(0, &["fold", "--drop", "--before", &cluster.this_month()]).unwrap();

    assert_eq!(cluster.sql(&format!("SELECT to_regclass('farebox.{name}') IS NULL")), "t");
    let old =
        "SELECT count(*) FROM farebox.calls WHERE id < (SELECT calls_from FROM farebox.ledger)";
    assert_eq!(cluster.sql(old), "0", "ids of folded months are left");
    assert_eq!(cluster.sql("SELECT count(*) FROM farebox.operations"), others);
    let report = reconcile(&cluster).await;
    assert_eq!(report["clean"], true, "{report}");
    let kept = cluster.sql(&format!("SELECT count(*) FROM farebox.calls WHERE id = '{request}'"));
    assert_eq!(kept, "1", "the id of a call of this month");

    // The API's hold still counts once, and so does a grant.
    let again = ask(&cluster, &key, &capture, r#"{"credits":4}"#).await.expect(200);
    assert_eq!(again["state"], "captured", "{again}");
    let held = ask(&cluster, &key, "/credits/holds", &hold).await;
    assert_eq!(held.status, 409, "{}", held.text);
    let gift = format!(r#"{{"credits":{},"id":"gift-alice"}}"#, cluster.granted["alice"]);
    let path = "/admin/accounts/alice/grants";
    let before = cluster.gateway(0).account("alice").await["balance"].clone();
    cluster.gateway(0).admin(Method::POST, path, &gift).await.expect(200);
    assert_eq!(cluster.gateway(0).account("alice").await["balance"], before);

    // A charge that a gateway owed since then is not written a second time.
    let account = cluster.gateway(0).account("old-000003").await["balance"].clone();
    cluster.sql(&format!(
        "INSERT INTO farebox.owed (shard, operation, hold, account, amount, route) \
         VALUES (0, 'capture:{forgotten}', '{forgotten}', 'old-000003', 1000000, '/'); \
         UPDATE farebox.shards SET recovering = true"
    ));
    let load = cluster.load();
    load.serves_within(BACK_WITHIN).await;
    load.stop().await;
    assert_eq!(cluster.sql("SELECT count(*) FROM farebox.owed"), "0");
    assert_eq!(cluster.gateway(0).account("old-000003").await["balance"], account);
}

/// How many accounts and holds are measured: enough that Redis keeps them as it keeps a million.
const MEASURED: usize = 1200;

/// The memory that a key takes, in bytes.
fn bytes_of(cluster: &Cluster, key: &str) -> usize {
    cluster.redis.ask(&["MEMORY", "USAGE", key, "SAMPLES", "0"]).parse().unwrap()
}

/// The figures of docs/capacity.md.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_a_live_hold_and_an_ended_call_take_little_memory_of_redis() {
    let cluster = Cluster::start(Durability::Relaxed, 1).await;
    let (_, key) = cluster.key(0, "backend", true).await;
    cluster.sql(&format!(
        "INSERT INTO farebox.accounts (id, balance, seq, grant_seq, created_at) SELECT \
         'user-' || lpad(n::text, 5, '0'), 1000000000, 0, 0, 1 FROM generate_series(1, {MEASURED}) n"
    ));
    let gateway = cluster.gateway(0);
    let post = |n: usize, path: String, body: String| {
        let account = format!("user-{n:05}");
        let request = gateway.client.post(gateway.url(&path)).bearer_auth(&key);
        Answer::of(request.header("x-farebox-account", account).body(body))
    };
    let id = |n: usize| format!("01980000-0000-7000-8000-{n:012}");
    let all = |act: &'static str| {
        let (post, id) = (&post, &id);
        futures_util::stream::iter(1..=MEASURED).for_each_concurrent(16, move |n| async move {
            let (path, body) = match act {
                "hold" => (
                    "/credits/holds".to_owned(),
                    format!(r#"{{"endpoint":"{ROUTE}","id":"{}"}}"#, id(n)),
                ),
                _ => (format!("/credits/holds/{}/capture", id(n)), r#"{"credits":4}"#.to_owned()),
            };
            let answer = post(n, path, body).await;
            assert!(answer.status.is_success(), "{act} {n}: {}", answer.text);
        })
    };
    all("hold").await;
    let epoch = cluster.members[0].metric("farebox_ledger_epoch").await;
    let key_of = |name: &str| format!("{{s00}}:{epoch}:{name}");
    let mean = |total: usize| total / MEASURED;
    let accounts =
        mean((1..=MEASURED).map(|n| bytes_of(&cluster, &key_of(&format!("a:user-{n:05}")))).sum());
    let live = mean(bytes_of(&cluster, &key_of("live")));
    all("capture").await;
    let hashes = ["ended:0", "ended:1"].map(key_of);
    let ended = hashes.iter().filter(|key| cluster.redis.ask(&["EXISTS", key]) == "1");
    let ended = mean(ended.map(|key| bytes_of(&cluster, key)).sum());
    eprintln!("bytes in Redis: an account {accounts}, a live hold {live}, an ended hold {ended}");
    assert!(accounts < 400 && live < 400 && ended < 250, "{accounts}, {live}, {ended}");
}

/// Everything that a call may leave, counted.
fn left(cluster: &Cluster) -> Vec<String> {
    let tables = [
        "entries",
        "operations",
        "calls",
        "holds",
        "claims",
        "left_calls",
        "deliveries",
        "redo",
        "appends",
        "owed",
        "answers",
    ];
    let rows = tables.map(|table| {
        format!("{table}: {}", cluster.sql(&format!("SELECT count(*) FROM farebox.{table}")))
    });
    let keys = cluster.redis.ask(&["KEYS", "{s00}:*"]);
    let mut keys: Vec<_> = keys.lines().map(str::to_owned).collect();
    keys.sort();
    for key in &mut keys {
        let size = match key.rsplit(':').next() {
            Some("live" | "0" | "1") if !key.contains(":a:") => "HLEN",
            Some("out") => "XLEN",
            _ => continue,
        };
        *key = format!("{key} {}", cluster.redis.ask(&[size, key]));
    }
    [rows.to_vec(), keys].concat()
}

/// With 402, 403 and 404, with and without a key.
async fn a_refused_call_leaves_nothing(durability: Durability) {
    const TIMES: usize = 100;
    let mut cluster = Cluster::of(&Plan::new(durability, 1)).await;
    cluster.grant("poor", 1, "gift-poor").await;
    let gateway = cluster.gateway(0);
    gateway.post("alice", ROUTE).await.expect(200);
    gateway.post("poor", ROUTE).await.problem(402, "INSUFFICIENT_CREDITS");
    let at_rest = async || {
        let synced = cluster.redis.ask(&["HMGET", "{s00}:meta", "seq", "durable"]);
        let numbers: Vec<_> = synced.lines().collect();
        numbers[0] == numbers[1] && cluster.sql("SELECT count(*) FROM farebox.appends") == "0"
    };
    assert!(eventually(at_rest).await);
    let before = left(&cluster);
    for n in 0..TIMES {
        gateway.post("poor", ROUTE).await.problem(402, "INSUFFICIENT_CREDITS");
        gateway.post("poor", "/nowhere").await.problem(404, "NO_PRICE_RULE");
        let keyed =
            gateway.client.post(gateway.url(ROUTE)).bearer_auth(crate::support::token("poor"));
        let keyed = keyed.header("idempotency-key", format!("key-{n}")).body("{}");
        Answer::of(keyed).await.problem(402, "INSUFFICIENT_CREDITS");
    }
    assert!(eventually(at_rest).await);
    assert_eq!(left(&cluster), before);
}
