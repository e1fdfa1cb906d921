//! A seller outgrows one machine: `farebox import --from` moves an embedded ledger into Redis and Postgres, and no
//! caller notices.

use std::process::Output;
use std::time::{Duration, Instant};

use http::Method;
use serde_json::{Value, json};
use sqlx::{Connection as _, SqliteConnection};
use tempfile::TempDir;

use crate::cluster::ROUTE;
use crate::support::http::Answer;
use crate::support::packs::TWO_PACKS;
use crate::support::process::{Process, command, config_on_ports, fails, ok, run};
use crate::support::servers::{Disk, Persistence, Postgres, Redis};
use crate::support::stripe::Stripe;
use crate::support::stripe::event::{Event, VERSION};
use crate::support::{Upstream, eventually};

/// The arguments that move `ledger.db`, as an operator types them.
const IMPORT: [&str; 5] = ["import", "--from", "ledger.db", "--config", "cluster.toml"];

/// A seller with an embedded ledger, and an empty Redis and Postgres beside it.
struct Outgrown {
    folder: TempDir,
    /// gateway.toml before and after.
    embedded: String,
    cluster: String,
    stripe: Stripe,
    redis: Redis,
    postgres: Postgres,
    database: String,
    _upstream: Upstream,
}

impl Outgrown {
    async fn new() -> Self {
        let (upstream, stripe) = (Upstream::canned().await, Stripe::start().await);
        let more = [TWO_PACKS, &stripe.section(r#"on_dispute = "freeze""#)].concat();
        let embedded = config_on_ports(upstream.address, &more);
        let redis = Redis::start(Persistence::None);
        let postgres = Postgres::start_on(Disk::Relaxed);
        let database = postgres.database();
        let cluster = embedded.replace(
            "path = \"ledger.db\"",
            &format!(
                "backend = \"redis\"\nredis_url = \"{}\"\npostgres_url = \"{}\"",
                redis.url(),
                postgres.url(&database)
            ),
        );
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("cluster.toml"), &cluster).unwrap();
        let _upstream = upstream;
        Self { folder, embedded, cluster, stripe, redis, postgres, database, _upstream }
    }

    fn serve_embedded(&self) -> Process {
        Process::serve(self.folder.path(), &self.embedded)
    }

    fn serve_cluster(&self) -> Process {
        Process::serve(self.folder.path(), &self.cluster)
    }

    fn import(&self) -> Output {
        run(self.folder.path(), &IMPORT)
    }

    /// Runs SQL on the embedded ledger, which nobody serves.
    async fn edit(&self, sql: &'static str) {
        let url = format!("sqlite://{}", self.folder.path().join("ledger.db").display());
        let mut file = SqliteConnection::connect(&url).await.unwrap();
        sqlx::raw_sql(sql).execute(&mut file).await.unwrap();
        file.close().await.unwrap();
    }

    fn count(&self, rows: &str) -> i64 {
        let sql = format!("SELECT count(*) FROM {rows}");
        self.postgres.sql(&self.database, &sql).parse().unwrap()
    }

    async fn bought(&self, gateway: &Process, account: &str) -> (String, Vec<Event>) {
        let request = gateway.client.post(gateway.url("/credits/buy"));
        let request = request.bearer_auth(crate::support::token(account));
        let bought = Answer::of(request.body(r#"{"pack":"pack-500"}"#)).await.expect(200);
        let session = bought["session_id"].as_str().unwrap().to_owned();
        let events = self.stripe.pay(&session);
        deliver(gateway, &events).await;
        let paid = async || lines(gateway, account).await.iter().any(|line| line["amount"] == 500);
        assert!(eventually(paid).await);
        (session, events)
    }
}

pub async fn deliver(gateway: &Process, events: &[Event]) {
    for event in events {
        let request = event.request(&gateway.client, gateway.url("/webhooks/stripe"), VERSION);
        let answer = Answer::of(request).await;
        assert_eq!(answer.status, 200, "{}: {}", event.kind, answer.text);
    }
}

/// An account's transactions, newest first; none for an unknown account.
async fn lines(gateway: &Process, account: &str) -> Vec<Value> {
    let path = format!("/admin/accounts/{account}");
    match gateway.admin(Method::GET, &path, "").await.status.as_u16() {
        404 => Vec::new(),
        _ => gateway.transactions(account).await,
    }
}

/// Asks with an API key.
async fn by_key(gateway: &Process, key: &str, path: &str, body: &str) -> Answer {
    let request = gateway.client.post(gateway.url(path)).header("x-api-key", key);
    Answer::of(request.body(body.to_owned())).await
}

/// Requests from before, sent once more: they must change nothing, and be answered as ever.
async fn asked_again(gateway: &Process, service: &str, captures: &[String]) -> Vec<String> {
    let mut answers = Vec::new();
    let mut note = |what: &str, answer: Answer| {
        let mut body = answer.json();
        if let Some(body) = body.as_object_mut() {
            body.remove("request_id");
        }
        answers.push(format!("{what}: {} {body}", answer.status));
    };
    for (account, body) in [
        ("alice", json!({ "credits": 1000, "id": "gift-alice" })),
        ("alice", json!({ "credits": 999, "id": "gift-alice" })),
        ("bob", json!({ "credits": 1000, "id": "gift-alice" })),
        ("fred", json!({ "credits": 50, "id": "gift-fred" })),
        ("fred", json!({ "credits": 51, "id": "gift-fred" })),
    ] {
        let path = format!("/admin/accounts/{account}/grants");
        let body = body.to_string();
        note(&body, gateway.admin(Method::POST, &path, &body).await);
    }
    for (path, body) in [
        ("/credits/holds", r#"{"credits":8,"id":"job-live"}"#),
        ("/credits/holds", r#"{"credits":9,"id":"job-live"}"#),
        ("/credits/holds", r#"{"credits":7,"id":"job-captured"}"#),
        ("/credits/holds", r#"{"credits":6,"id":"job-released"}"#),
        ("/credits/holds/job-captured/capture", r#"{"credits":5}"#),
        ("/credits/holds/job-captured/capture", r#"{"credits":6}"#),
        ("/credits/holds/job-captured/release", ""),
        ("/credits/holds/job-released/release", ""),
        ("/credits/holds/job-released/capture", r#"{"credits":1}"#),
        ("/credits/holds/job-unknown/capture", r#"{"credits":1}"#),
    ] {
        note(&format!("{path} {body}"), by_key(gateway, service, path, body).await);
    }
    let refund = format!("/admin/captures/{}/refund", captures[0]);
    note("refund", gateway.admin(Method::POST, &refund, "").await);
    answers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ledger_that_outgrew_one_machine_goes_on_as_before() {
    let outgrown = Outgrown::new().await;
    let mut old = outgrown.serve_embedded();
    let reason = "né \"quoted\" \\ \n\u{1f600} with a NUL: [\0]";
    let body = json!({ "credits": 1000, "id": "gift-alice", "reason": reason }).to_string();
    old.admin(Method::POST, "/admin/accounts/alice/grants", &body).await.expect(200);
    for (account, credits) in [("erin", 100), ("fred", 50), ("dave", 20)] {
        old.grant(account, credits, &format!("gift-{account}")).await;
    }
    let mut captures = Vec::new();
    for account in ["alice", "alice", "fred"] {
        let answer = old.post(account, ROUTE).await;
        answer.expect(200);
        captures.push(answer.header("x-request-id").to_owned());
    }
    let settled = async || lines(&old, "fred").await.len() == 2;
    assert!(eventually(settled).await);
    let refund = format!("/admin/captures/{}/refund", captures[0]);
    old.admin(Method::POST, &refund, "").await.expect(200);
    let key = async |account: &str, service: bool| {
        let path = format!("/admin/accounts/{account}/keys");
        let body = format!(r#"{{"name":"test","service":{service}}}"#);
        let key = old.admin(Method::POST, &path, &body).await.expect(201);
        (key["id"].as_str().unwrap().to_owned(), key["key"].as_str().unwrap().to_owned())
    };
    let ((_, plain), (_, service)) = (key("alice", false).await, key("erin", true).await);
    let (gone, revoked) = key("alice", false).await;
    let revoke = old.admin(Method::DELETE, &format!("/admin/keys/{gone}"), "").await;
    assert!(revoke.status.is_success(), "{}", revoke.text);
    for (path, body) in [
        ("/credits/holds", r#"{"credits":8,"id":"job-live","ttl_seconds":3600}"#),
        ("/credits/holds", r#"{"credits":7,"id":"job-captured"}"#),
        ("/credits/holds", r#"{"credits":6,"id":"job-released"}"#),
        ("/credits/holds/job-captured/capture", r#"{"credits":5}"#),
        ("/credits/holds/job-released/release", ""),
    ] {
        let answer = by_key(&old, &service, path, body).await;
        assert!(answer.status.is_success(), "{path}: {}", answer.text);
    }
    let (of_bob, paid) = outgrown.bought(&old, "bob").await;
    let (of_dave, _) = outgrown.bought(&old, "dave").await;
    let (dispute, disputed) = outgrown.stripe.dispute(&of_dave, 7900);
    deliver(&old, &disputed).await;
    let frozen = async || old.post("dave", ROUTE).await.status == 403;
    assert!(eventually(frozen).await);

    // A gateway has the ledger open, so nothing is touched.
    let said = fails(outgrown.folder.path(), &IMPORT, 1);
    assert!(said.contains("in use by another process"), "{said}");
    let schemas = "pg_namespace WHERE nspname = 'farebox'";
    assert_eq!(outgrown.count(schemas), 0, "not even the schema is made");

    // Old entries: some folded away, some in a month of their own.
    assert!(old.terminate().success());
    let aged = "DROP TRIGGER entries_are_never_updated; \
        UPDATE entries SET created_at = created_at - 34560000000 WHERE account = 'fred'; \
        UPDATE entries SET created_at = created_at - 34560000000 \
            WHERE account = 'alice' AND seq = 1; \
        CREATE TRIGGER entries_are_never_updated BEFORE UPDATE ON entries \
        BEGIN SELECT RAISE(ABORT, 'ledger entries are immutable'); END;";
    outgrown.edit(aged).await;
    let day = time::OffsetDateTime::now_utc() - Duration::from_secs(395 * 86_400);
    ok(outgrown.folder.path(), &["fold", "--before", &day.date().to_string()]);
    // One entry has the date of a clock that was far off.
    let misdated = "DROP TRIGGER entries_are_never_updated; \
        UPDATE entries SET created_at = -7 WHERE account = 'dave' AND seq = 1; \
        CREATE TRIGGER entries_are_never_updated BEFORE UPDATE ON entries \
        BEGIN SELECT RAISE(ABORT, 'ledger entries are immutable'); END;";
    outgrown.edit(misdated).await;
    let mut old = outgrown.serve_embedded();
    let accounts = ["alice", "bob", "dave", "erin", "fred"];
    let shown = async |gateway: &Process| {
        let mut shown = Vec::new();
        for account in accounts {
            shown.push((gateway.account(account).await, gateway.transactions(account).await));
        }
        shown
    };
    let before = shown(&old).await;
    assert!(before[4].1.iter().any(|line| line["kind"] == "opening"), "{:?}", before[4]);
    let answers = asked_again(&old, &service, &captures).await;
    assert!(old.terminate().success());

    let moved = ok(outgrown.folder.path(), &IMPORT);
    assert!(moved.contains("5 accounts") && moved.contains("clean"), "{moved}");
    let mut new = outgrown.serve_cluster();
    // Postgres has no room for a NUL.
    let storable = |text: String| text.replace("\\u0000", "\u{fffd}");
    let text = |shown: &[(Value, Vec<Value>)]| serde_json::to_string(shown).unwrap();
    assert_eq!(storable(text(&before)), text(&shown(&new).await));
    let again = asked_again(&new, &service, &captures).await;
    assert_eq!(answers.into_iter().map(storable).collect::<Vec<_>>(), again);
    let partitions = "SELECT count(DISTINCT tableoid) FROM farebox.entries \
        WHERE tableoid <> 'farebox.entries_default'::regclass";
    assert_eq!(outgrown.postgres.sql(&outgrown.database, partitions), "2");
    assert_eq!(outgrown.count("farebox.entries_default"), 1, "what a wrong clock dated");

    // New operations go on from there.
    by_key(&new, &plain, ROUTE, "{}").await.expect(200);
    by_key(&new, &revoked, ROUTE, "{}").await.problem(401, "UNAUTHENTICATED");
    for capture in &captures[1..] {
        let refund = format!("/admin/captures/{capture}/refund");
        new.admin(Method::POST, &refund, "").await.expect(200);
    }
    let path = "/credits/holds/job-live/capture";
    by_key(&new, &service, path, r#"{"credits":8}"#).await.expect(200);
    assert_eq!(new.account("erin").await["held"], 0);
    deliver(&new, &paid).await;
    let (_, refunded) = outgrown.stripe.refund(&of_bob, 7900);
    deliver(&new, &refunded).await;
    let back = async || new.account("bob").await["balance"] == 0;
    assert!(eventually(back).await, "{:?}", new.transactions("bob").await);
    new.post("dave", ROUTE).await.problem(403, "ACCOUNT_FROZEN");
    deliver(&new, &outgrown.stripe.win(&dispute)).await;
    let thawed = async || new.post("dave", ROUTE).await.status == 200;
    assert!(eventually(thawed).await);
    new.assert_reconciled().await;

    // A second import moves nothing twice, and reports a gateway that went on with the old file.
    let again = ok(outgrown.folder.path(), &IMPORT);
    assert!(again.contains("before") && again.contains("clean"), "{again}");
    assert!(new.terminate().success());
    let mut old = outgrown.serve_embedded();
    old.grant("alice", 1, "gift-late").await;
    assert!(old.terminate().success());
    let said = fails(outgrown.folder.path(), &IMPORT, 1);
    assert!(said.contains("a gateway has served it since"), "{said}");
}

/// A history that takes a while.
const LONG: &str = "DROP TRIGGER entries_are_never_updated; \
    WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 1000), \
    a (j) AS (VALUES (1) UNION ALL SELECT j + 1 FROM a WHERE j < 100) \
    INSERT INTO entries (account, seq, operation, kind, amount, balance_after, reason, created_at) \
    SELECT 'account-' || j, i, 'grant:gift-' || j || '-' || i, 'grant', 5, 5 * i, \
    'a reason as long as reasons are, in a ledger with a history', 1700000000000 + i * 5000000 \
    FROM n, a; \
    INSERT INTO accounts (id, balance, seq, created_at) \
    SELECT account, sum(amount), max(seq), min(created_at) FROM entries GROUP BY account;";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_that_is_killed_leaves_nothing_and_is_made_again_in_little_memory() {
    let outgrown = Outgrown::new().await;
    ok(outgrown.folder.path(), &["migrate", "--config", "cluster.toml"]);
    assert!(outgrown.serve_embedded().terminate().success());
    outgrown.edit(LONG).await;
    let copying = || {
        let active = "pg_stat_activity WHERE state = 'active' AND query LIKE 'WITH new AS%'";
        outgrown.count(active) > 0
    };
    let start = || command(outgrown.folder.path(), &IMPORT, &[]).spawn().unwrap();
    let mut killed = start();
    let limit = Instant::now() + Duration::from_secs(30);
    while !copying() {
        assert!(killed.try_wait().unwrap().is_none() && Instant::now() < limit);
    }
    killed.kill().unwrap();
    killed.wait().unwrap();
    assert_eq!(outgrown.count("farebox.entries"), 0);
    assert_eq!(outgrown.count("farebox.accounts"), 0);

    let mut whole = start();
    let mut most_kib = 0;
    let status = loop {
        let status = format!("/proc/{}/status", whole.id());
        let status = std::fs::read_to_string(status).unwrap_or_default();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let peak = peak.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
        most_kib = most_kib.max(peak.unwrap_or(0));
        if let Some(status) = whole.try_wait().unwrap() {
            break status;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert!(status.success());
    // The entries alone are more than that, as rows in memory.
    assert!((1..150_000).contains(&most_kib), "{most_kib} KiB");
    assert_eq!(outgrown.count("farebox.entries"), 100_000);
    assert_eq!(outgrown.count("farebox.operations"), 100_000);
    assert_eq!(outgrown.count("farebox.entries_default"), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_into_a_ledger_in_use_or_of_a_damaged_one_is_refused() {
    let outgrown = Outgrown::new().await;
    let folder = outgrown.folder.path();
    let said = fails(folder, &IMPORT, 1);
    assert!(said.contains("ledger.db") && !folder.join("ledger.db").exists(), "{said}");
    std::fs::write(folder.join("other.db"), "").unwrap();
    let other = ["import", "--from", "other.db", "--config", "cluster.toml"];
    assert!(fails(folder, &other, 1).contains("is not a ledger of Farebox"));

    let mut old = outgrown.serve_embedded();
    old.grant("alice", 100, "gift-alice").await;
    assert!(old.terminate().success());
    std::fs::write(folder.join("embedded.toml"), &outgrown.embedded).unwrap();
    let into_itself = ["import", "--from", "ledger.db", "--config", "embedded.toml"];
    assert!(fails(folder, &into_itself, 1).contains("backend = \"redis\""));

    let mut new = outgrown.serve_cluster();
    let said = fails(folder, &IMPORT, 1);
    assert!(said.contains("serve"), "{said}");
    new.grant("bob", 7, "gift-bob").await;
    assert!(new.terminate().success());
    let said = fails(folder, &IMPORT, 1);
    assert!(said.contains("has accounts already"), "{said}");
    assert_eq!(outgrown.count("farebox.accounts WHERE id = 'alice'"), 0);

    // The ledger that was empty, and had been served: what its Redis remembers does not count.
    let empty = "TRUNCATE farebox.accounts, farebox.operations, farebox.deliveries; \
        ALTER TABLE farebox.entries DISABLE TRIGGER USER; TRUNCATE farebox.entries; \
        ALTER TABLE farebox.entries ENABLE TRIGGER USER";
    outgrown.postgres.sql(&outgrown.database, empty);
    outgrown.edit("UPDATE accounts SET balance = balance + 1 WHERE id = 'alice'").await;
    let said = fails(folder, &IMPORT, 1);
    assert!(said.contains("does not add up") && said.contains("alice"), "{said}");
    outgrown.edit("UPDATE accounts SET balance = balance - 1 WHERE id = 'alice'").await;
    let output = outgrown.import();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(!outgrown.redis.ask(&["KEYS", "*"]).is_empty());
    let new = outgrown.serve_cluster();
    assert_eq!(new.account("alice").await["balance"], 100);
    new.post("alice", ROUTE).await.expect(200);
    new.post("bob", ROUTE).await.problem(402, "INSUFFICIENT_CREDITS");
}
