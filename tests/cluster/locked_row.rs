//! Somebody keeps the row of an account locked in Postgres: what the gateways say.

use sqlx::Connection as _;

use crate::cluster::{BACK_WITHIN, Cluster, Durability, ROUTE, in_both_modes};
use crate::support::eventually;

in_both_modes!(the_log_names_who_keeps_a_row_locked);

async fn the_log_names_who_keeps_a_row_locked(durability: Durability) {
    let mut cluster = Cluster::start(durability, 1).await;
    cluster.gateway(0).post("alice", ROUTE).await.expect(200);
    cluster.gateway(0).post("bob", ROUTE).await.expect(200);
    let url = format!("{}?application_name=nightly", cluster.postgres.url(&cluster.database));
    let mut other = sqlx::PgConnection::connect(&url).await.unwrap();
    let lock = "BEGIN; SELECT 1 FROM farebox.accounts WHERE id = 'alice' FOR UPDATE";
    sqlx::raw_sql(lock).execute(&mut other).await.unwrap();
    let pid = sqlx::query_scalar::<_, i32>("SELECT pg_backend_pid()");
    let pid = pid.fetch_one(&mut other).await.unwrap();
    let says = |cluster: &Cluster, what: &str| {
        let log = cluster.gateway(0).stderr();
        let has = |line: &str| {
            [what, &format!("pid={pid} "), "nightly"].iter().all(|part| line.contains(part))
        };
        log.lines().filter(|line| has(line)).count()
    };
    // While calls alone are asked, nobody hears of the row but by the log.
    cluster.gateway(0).post("alice", ROUTE).await.expect(200);
    let is_said = async || says(&cluster, "the row of an account is locked in Postgres") > 0;
    assert!(eventually(is_said).await, "{}", cluster.gateway(0).stderr());
    cluster.gateway(0).post("bob", ROUTE).await.expect(200);
    cluster.redis.flush_all();
    cluster.gateway(0).post("bob", ROUTE).await.problem(503, "LEDGER_UNAVAILABLE");
    let is_said = async || says(&cluster, "the recovery waits for the row of an account") > 0;
    assert!(eventually(is_said).await, "{}", cluster.gateway(0).stderr());
    assert_eq!(says(&cluster, "the row of an account is locked in Postgres"), 1, "once a minute");
    drop(other);
    let load = cluster.load();
    load.serves_within(BACK_WITHIN).await;
    let calls = load.stop().await;
    cluster.check(&calls).await;
}
