//! Postgres answers every read, and refuses what the cluster ledger writes: its disk is full, it is set to read-only, or
//! the role of the gateways lacks a right. A hold whose answer would wait for Postgres is refused at once, and Redis is
//! not asked for it.

use std::time::{Duration, Instant};

use farebox::ledger::{CallId, Operation, Outcome, Refusal};
use farebox::metrics::Metrics;

use crate::test_cluster::SCHEMA;
use crate::test_ledger::{
    Kind, Running, TestLedger, account, credits, eventually, grant, on_cluster_ledgers, text,
};

on_cluster_ledgers!("multi_thread":
    a_role_that_may_create_nothing_serves_a_ledger_that_is_migrated,
    a_role_that_owns_its_schema_alone_makes_a_ledger_there,
    a_database_with_other_defaults_serves_like_any_other,
);

/// Calls that are refused one after the other. Without the rule, each would leave two batches in Redis.
const REFUSALS: u32 = 100;

/// The time that all of these refusals may take together, on a busy machine.
const REFUSED_WITHIN: Duration = Duration::from_secs(5);

/// The batches that may be added meanwhile, by the releases of holds that had been asked for before.
const MOST_ADDED: u64 = 10;

/// Every insert into the table fails as on a full disk.
fn full_disk(table: &str) -> String {
    format!(
        "CREATE FUNCTION is_full() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
             RAISE EXCEPTION 'could not extend file' USING ERRCODE = 'disk_full'; END $$; \
         CREATE TRIGGER is_full BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION is_full()"
    )
}

/// How many batches are in the stream of Redis.
fn batches(fixture: &TestLedger) -> u64 {
    fixture.cluster().redis.ask(&["XLEN", "{s00}:out"]).parse().unwrap()
}

/// Opens the ledger of the fixture, with 10 credits for alice.
async fn open(fixture: &TestLedger) -> (Running, Metrics) {
    let metrics = Metrics::new().unwrap();
    let opened = farebox::gateway::open_ledger(&fixture.config("gateway"), metrics.clone()).await;
    let ledger = Running::of(opened.unwrap());
    ledger.post(grant("initial", "alice", "10")).await.unwrap();
    (ledger, metrics)
}

/// Postgres refuses appends between `refuse` and `take_again`.
async fn strict_asks_for_no_hold_meanwhile(
    fixture: TestLedger,
    refuse: impl AsyncFnOnce(),
    take_again: impl AsyncFnOnce(),
) {
    let (ledger, metrics) = open(&fixture).await;
    let live = ledger.call("1").await.unwrap();
    refuse().await;
    eventually("calls are refused", async || ledger.call("1").await.is_err()).await;
    eventually("the metric says so", async || metrics.ledger_up.get() == 0).await;
    let (before, mut took) = (batches(&fixture), Duration::ZERO);
    for _ in 0..REFUSALS {
        let asked = Instant::now();
        assert_eq!(ledger.call("1").await.unwrap_err(), Refusal::Unavailable);
        took += asked.elapsed();
        // All of them together take longer than a renewal of the lease.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let added = batches(&fixture).saturating_sub(before);
    assert!(took < REFUSED_WITHIN, "{took:?}");
    assert!(added <= MOST_ADDED, "{added} batches are left of {REFUSALS} refused calls");
    take_again().await;
    // Two calls in a row: a first one could be taken to find out.
    eventually("calls are taken again", async || {
        ledger.call("1").await.is_ok() && ledger.call("1").await.is_ok()
    })
    .await;
    eventually("the metric says so", async || metrics.ledger_up.get() == 1).await;
    live.capture(credits("1"));
    eventually("all is settled", async || ledger.has("alice").await == text(("9", "0"))).await;
    ledger.reconciles().await;
    ledger.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strict_a_postgres_with_a_full_disk_is_asked_for_no_hold() {
    let fixture = TestLedger::new(Kind::ClusterStrict);
    let sql = fixture.cluster().direct_url();
    let run = async |text: &str| run_at(&sql, text).await;
    strict_asks_for_no_hold_meanwhile(
        fixture,
        async || run(&full_disk(&format!("{SCHEMA}.appends"))).await,
        async || run(&format!("DROP TRIGGER is_full ON {SCHEMA}.appends")).await,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strict_a_postgres_in_which_the_role_may_not_append_is_asked_for_no_hold() {
    let mut fixture = TestLedger::new(Kind::ClusterStrict);
    let sql = fixture.cluster().direct_url();
    fixture.open().await.stop().await;
    let role = limited_role(&mut fixture).await;
    let run = async |text: &str| run_at(&sql, text).await;
    strict_asks_for_no_hold_meanwhile(
        fixture,
        async || run(&format!("REVOKE INSERT ON {SCHEMA}.appends FROM {role}")).await,
        async || run(&format!("GRANT INSERT ON {SCHEMA}.appends TO {role}")).await,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strict_a_postgres_that_is_read_only_is_asked_for_no_hold() {
    let fixture = TestLedger::new(Kind::ClusterStrict);
    let postgres = fixture.cluster().postgres.clone();
    let database = fixture.cluster().database.clone();
    // Sessions have the setting from their beginning, so those of the gateway are ended.
    let set = async |read_only: &str| {
        let alter =
            format!("ALTER DATABASE {database} SET default_transaction_read_only = {read_only}");
        let end = format!(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = '{database}'"
        );
        let postgres = postgres.lock().unwrap();
        postgres.sql("postgres", &alter);
        postgres.sql("postgres", &end);
    };
    strict_asks_for_no_hold_meanwhile(
        fixture,
        async || set("on").await,
        async || {
            set("off").await;
        },
    )
    .await;
}

/// A role with the rights of a gateway: it reads and writes the tables that are there, and creates nothing. Gateways use
/// it from now on. Returns its name.
async fn limited_role(fixture: &mut TestLedger) -> String {
    let cluster = fixture.cluster();
    let role = format!("limited_{}_{}", cluster.database, std::process::id());
    let rights = format!(
        "CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA {SCHEMA} TO {role}; \
         GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {SCHEMA} TO {role}; \
         GRANT USAGE ON ALL SEQUENCES IN SCHEMA {SCHEMA} TO {role}"
    );
    fixture.execute(&rights).await.unwrap();
    log_in_as(fixture, &role);
    role
}

/// Gateways use this role from now on.
fn log_in_as(fixture: &mut TestLedger, role: &str) {
    let url = fixture.cluster().direct_url();
    let (_, at) = url.split_once('@').unwrap();
    fixture.cluster_mut().postgres_url = Some(format!("postgres://{role}@{at}"));
}

async fn a_role_that_may_create_nothing_serves_a_ledger_that_is_migrated(mut fixture: TestLedger) {
    fixture.open().await.stop().await;
    limited_role(&mut fixture).await;
    serves(&fixture).await;
}

async fn a_role_that_owns_its_schema_alone_makes_a_ledger_there(mut fixture: TestLedger) {
    let role = format!("owner_{}_{}", fixture.cluster().database, std::process::id());
    let own = format!("CREATE ROLE {role} LOGIN; CREATE SCHEMA {SCHEMA} AUTHORIZATION {role}");
    fixture.execute(&own).await.unwrap();
    log_in_as(&mut fixture, &role);
    serves(&fixture).await;
}

async fn serves(fixture: &TestLedger) {
    let ledger = fixture.open_with("10").await;
    let id = CallId::new();
    let hold = ledger.hold(id, account("alice"), credits("4"), "/x".into()).await.unwrap();
    hold.capture(credits("3"));
    ledger.post(grant("more", "alice", "1")).await.unwrap();
    eventually("all is settled", async || ledger.has("alice").await == text(("8", "0"))).await;
    assert_eq!(ledger.ask(Operation::Audit).await, Outcome::Audited(vec![]));
    ledger.reconciles().await;
    ledger.stop().await;
}

/// The ledger names what it relies on, in each transaction.
async fn a_database_with_other_defaults_serves_like_any_other(fixture: TestLedger) {
    for (setting, value) in [
        ("standard_conforming_strings", "off"),
        ("default_transaction_isolation", "serializable"),
        ("default_transaction_deferrable", "on"),
    ] {
        fixture.set_in_database(setting, value).await;
    }
    let (one, other) = (fixture.open_with("100").await, fixture.open_another("other").await);
    let calls = async |ledger: &Running| {
        for _ in 0..20 {
            ledger.call("1").await.unwrap().capture(credits("1"));
        }
    };
    tokio::join!(calls(&one), calls(&other));
    one.post(grant("a\\b", "alice", "1")).await.unwrap();
    eventually("all is settled", async || one.has("alice").await == text(("61", "0"))).await;
    fixture.cluster().redis.flush_all();
    crate::cluster::serves_again(&one).await;
    eventually("nothing is lost", async || one.has("alice").await == text(("61", "0"))).await;
    one.reconciles().await;
    other.stop().await;
    one.stop().await;
}

async fn run_at(url: &str, text: &str) {
    use sqlx::Connection as _;
    let mut sql = sqlx::PgConnection::connect(url).await.unwrap();
    sqlx::raw_sql(sqlx::AssertSqlSafe(text.to_owned())).execute(&mut sql).await.unwrap();
}
