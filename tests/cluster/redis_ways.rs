//! The ways in which a Redis is reached: with a password, as a user with few rights, over TLS, through
//! Sentinels; and which Redis is refused. `FAREBOX_REDIS_SERVER=/path/to/valkey-server` runs all tests here on
//! another server.

use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;

use crate::cluster::{BACK_WITHIN, Cluster, Durability, Plan, ROUTE, in_both_modes};
use crate::support::eventually;
use crate::support::process::{command, config_on_ports};
use crate::support::servers::{Family, Persistence, Postgres, Redis};

in_both_modes!(three_sentinels_lead_from_a_lost_master_to_its_replica_and_nothing_is_lost);

/// Calls are served and recovered, and all adds up.
async fn works(mut cluster: Cluster) {
    let load = cluster.load();
    load.serves_within(BACK_WITHIN).await;
    cluster.some_time(300, 600).await;
    cluster.redis.flush_all();
    load.serves_within(BACK_WITHIN).await;
    cluster.redis.kill();
    cluster.some_time(100, 300).await;
    cluster.redis.restart();
    load.serves_within(BACK_WITHIN).await;
    let calls = load.stop().await;
    cluster.check(&calls).await;
}

/// The config of a gateway with this Redis.
fn config(redis_url: &str, lines: &str, postgres: &Postgres) -> String {
    let postgres_url = postgres.url(&postgres.database());
    config_on_ports(([127, 0, 0, 1], 9).into(), "").replace(
        "path = \"ledger.db\"",
        &format!(
            "backend = \"redis\"\nredis_url = \"{redis_url}\"\npostgres_url = \"{postgres_url}\"\n{lines}"
        ),
    )
}

/// The message of a gateway that cannot use its Redis. The gateway must end by itself.
fn refused(redis_url: &str, lines: &str) -> String {
    let postgres = Postgres::start();
    let folder = tempfile::tempdir().unwrap();
    let text = config(redis_url, lines, &postgres);
    std::fs::write(folder.path().join("gateway.toml"), text).unwrap();
    let output = command(folder.path(), &["serve"], &[]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{said}");
    said
}

/// A gateway that cannot use its Redis yet goes on trying, and says so; all that it said.
fn says_while_it_starts(folder: &Path, text: &str, words: &str) -> String {
    std::fs::write(folder.join("gateway.toml"), text).unwrap();
    let log = folder.join("log");
    let mut gateway = Family::start(&mut command(folder, &["serve"], &[]), &log);
    assert!(gateway.wait_until(|gateway| gateway.said().contains(words)), "{}", gateway.said());
    gateway.said()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_with_a_password_works() {
    let mut redis = Redis::start(Persistence::None);
    redis.require("s3cret/&+=");
    let redis_url = Some("redis://:s3cret%2F%26%2B%3D@{}".to_owned());
    let plan = Plan { redis_url, ..Plan::new(Durability::Strict, 2) };
    let cluster = Cluster::around(&plan, redis).await;
    let logs = cluster.members.iter().map(|member| member.process.stderr());
    let logs: String = logs.collect();
    assert!(!logs.contains("s3cret"), "{logs}");
    works(cluster).await;
}

/// The rights that docs/runbook.md tells operators to give, and no other.
const RIGHTS: &str = "on >pw resetkeys ~{s00}:* resetchannels -@all +@read +@write +@connection \
                      -@dangerous +info +time +evalsha +script|load";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_user_with_few_rights_is_enough() {
    let runbook = include_str!("../../docs/runbook.md");
    for right in RIGHTS.split_whitespace().filter(|right| right.starts_with(['+', '-', '~'])) {
        assert!(runbook.contains(right), "the runbook does not name {right}");
    }
    let redis = Redis::start(Persistence::Aof);
    let rights: Vec<_> = RIGHTS.split_whitespace().collect();
    let user = [&["ACL", "SETUSER", "farebox"][..], &rights].concat();
    assert_eq!(redis.ask(&user), "OK");
    let redis_url = Some("redis://farebox:pw@{}".to_owned());
    let plan = Plan { redis_url, ..Plan::new(Durability::Relaxed, 2) };
    let mut cluster = Cluster::around(&plan, redis).await;
    let load = cluster.load();
    load.serves_within(BACK_WITHIN).await;
    cluster.redis.flush_all();
    load.serves_within(BACK_WITHIN).await;
    let calls = load.stop().await;
    cluster.check(&calls).await;
    // Redis has refused none of its commands along the way either.
    let denied = cluster.redis.ask(&["ACL", "LOG"]);
    assert!(denied.is_empty(), "{denied}");
}

/// An authority of our own, a certificate for 127.0.0.1 that it signed, and the key of that.
fn certificates(folder: &Path) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut authority = rcgen::CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    authority.distinguished_name.push(rcgen::DnType::CommonName, "an authority of the tests");
    let signed = authority.self_signed(&key).unwrap();
    std::fs::write(folder.join("ca.pem"), signed.pem()).unwrap();
    let issuer = rcgen::Issuer::new(authority, key);
    let key = rcgen::KeyPair::generate().unwrap();
    let leaf = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let leaf = leaf.signed_by(&key, &issuer).unwrap();
    std::fs::write(folder.join("redis.pem"), leaf.pem()).unwrap();
    std::fs::write(folder.join("redis.key"), key.serialize_pem()).unwrap();
}

fn with_tls(folder: &TempDir) -> Redis {
    certificates(folder.path());
    Redis::start_with_tls(&folder.path().join("redis.pem"), &folder.path().join("redis.key"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_over_tls_works() {
    let folder = tempfile::tempdir().unwrap();
    let mut redis = with_tls(&folder);
    redis.require("pw");
    let plan = Plan {
        redis_url: Some("rediss://:pw@{}".to_owned()),
        ledger_lines: format!("redis_ca_file = \"{}\"", folder.path().join("ca.pem").display()),
        ..Plan::new(Durability::Strict, 2)
    };
    works(Cluster::around(&plan, redis).await).await;
}

#[test]
fn a_wrong_password_is_said() {
    let mut redis = Redis::start(Persistence::None);
    redis.require("right");
    let postgres = Postgres::start();
    let folder = tempfile::tempdir().unwrap();
    let text = config(&format!("redis://:wrong@{}", redis.address()), "", &postgres);
    let said = says_while_it_starts(folder.path(), &text, "WRONGPASS");
    assert!(!said.contains("wrong@"), "{said}");
}

/// This Redis is not used, so nothing is decided, and the log names the reason.
#[test]
fn a_redis_that_nobody_vouches_for_is_not_used() {
    let folder = tempfile::tempdir().unwrap();
    let redis = with_tls(&folder);
    let other = tempfile::tempdir().unwrap();
    certificates(other.path());
    let postgres = Postgres::start();
    let url = format!("rediss://{}", redis.door());
    // Beside the config: a path of the file is relative to it.
    let text = config(&url, "redis_ca_file = \"ca.pem\"", &postgres);
    says_while_it_starts(other.path(), &text, "InvalidCertificate");
}

#[test]
fn an_authority_that_cannot_be_read_is_named() {
    let said = refused("rediss://127.0.0.1:9", "redis_ca_file = \"nowhere.pem\"");
    assert!(said.contains("nowhere.pem"), "{said}");
    let said = refused("redis://127.0.0.1:9", "redis_ca_file = \"nowhere.pem\"");
    assert!(said.contains("uses no TLS") && said.contains("rediss://"), "{said}");
}

#[test]
fn a_redis_that_evicts_is_refused_at_the_start() {
    let redis = Redis::start_with(&["--maxmemory-policy", "allkeys-lru"]);
    let said = refused(&redis.url(), "");
    assert!(said.contains("allkeys-lru") && said.contains("noeviction"), "{said}");
}

/// Somebody changes its settings while gateways serve.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_begins_while_redis_may_throw_away_what_it_has_or_has_no_room() {
    let mut cluster = Cluster::start(Durability::Relaxed, 1).await;
    for (setting, wrong, right) in
        [("maxmemory-policy", "allkeys-lru", "noeviction"), ("maxmemory", "1", "0")]
    {
        let load = cluster.load();
        load.serves_within(BACK_WITHIN).await;
        cluster.redis.ask(&["CONFIG", "SET", setting, wrong]);
        let member = &cluster.members[0];
        let is_refused = async || {
            let answer = member.process.post("alice", ROUTE).await;
            answer.status == 503 && member.metric("farebox_ledger_up").await == 0.0
        };
        assert!(eventually(is_refused).await, "{setting} {wrong}");
        cluster.redis.ask(&["CONFIG", "SET", setting, right]);
        load.serves_within(BACK_WITHIN).await;
        let calls = load.stop().await;
        cluster.check(&calls).await;
        assert!(
            eventually(async || cluster.members[0].metric("farebox_ledger_up").await == 1.0).await
        );
    }
}

async fn three_sentinels_lead_from_a_lost_master_to_its_replica_and_nothing_is_lost(
    durability: Durability,
) {
    const NAME: &str = "farebox";
    let master = Redis::start(Persistence::None);
    let replica = Redis::replica_of(master.address());
    let sentinels: Vec<_> =
        (0..3).map(|_| Redis::sentinel_among(master.address(), NAME, 2)).collect();
    for sentinel in &sentinels {
        let knows = |what: &str| sentinel.ask(&["SENTINEL", what, NAME]).matches("runid").count();
        sentinel.wait_until("it knows the others and the replica", |_| {
            knows("SENTINELS") == 2 && knows("REPLICAS") == 1
        });
    }
    let [first, second, third] = [0, 1, 2].map(|n| sentinels[n].address());
    let redis_url =
        format!("redis-sentinel://{first}/0?sentinelServiceName={NAME}&node={second}&node={third}");
    let plan = Plan { redis_url: Some(redis_url), ..Plan::new(durability, 2) };
    let mut cluster = Cluster::around(&plan, master).await;
    let load = cluster.load();
    load.serves_within(BACK_WITHIN).await;
    cluster.some_time(300, 900).await;
    cluster.redis.kill();
    let back = load.serves_within(BACK_WITHIN).await;
    eprintln!("served again after {back:?}");
    assert!(cluster.recoveries().await >= 1.0, "it is another Redis");
    let is_master = |redis: &Redis| redis.ask(&["ROLE"]).starts_with("master");
    assert!(is_master(&replica));

    // The old one comes back, is made a replica, and takes over once more; a sentinel is lost as well.
    cluster.redis.restart();
    cluster.redis.wait_until("it is a replica in sync", |redis| {
        // A sentinel that makes it a replica cuts its connections.
        let said = redis.try_ask(&["INFO", "replication"]);
        said.is_ok_and(|said| said.contains("master_link_status:up"))
    });
    load.serves_within(BACK_WITHIN).await;
    let mut sentinels = sentinels;
    sentinels[0].kill();
    let mut second_master = replica;
    second_master.kill();
    load.serves_within(BACK_WITHIN + Duration::from_secs(10)).await;
    assert!(is_master(&cluster.redis));
    let calls = load.stop().await;
    cluster.check(&calls).await;
}
