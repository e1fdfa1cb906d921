//! The ways in which a Redis is reached: with a password, as a user with few rights, over TLS, through
//! Sentinels; and which Redis is refused. `FAREBOX_REDIS_SERVER=/path/to/valkey-server` runs all tests here on
//! another server.

use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

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

/// Starts a gateway that cannot use its Redis yet, and waits until it says so. Returns all that it
/// said.
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
                      -@dangerous +info +time +evalsha +script|load +script|flush";

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

/// A right of [`RIGHTS`] that is taken away, and the command that is then named.
const FORBIDDEN: [(&str, &str); 10] = [
    ("-xadd", "XADD"),
    ("-xtrim", "XTRIM"),
    ("-hmget", "HMGET"),
    ("-mget", "MGET"),
    ("-unlink", "UNLINK"),
    ("-memory|usage", "MEMORY"),
    ("-evalsha", "EVALSHA"),
    ("-script|load", "SCRIPT LOAD"),
    ("-info", "INFO"),
    ("-time", "TIME"),
];

#[test]
fn a_redis_that_forbids_a_command_is_refused_at_the_start() {
    let redis = Redis::start(Persistence::None);
    let rights: Vec<_> = RIGHTS.split_whitespace().collect();
    let url = format!("redis://farebox:pw@{}", redis.address());
    for (right, command) in FORBIDDEN {
        redis.ask(&["ACL", "DELUSER", "farebox"]);
        let user = [&["ACL", "SETUSER", "farebox"][..], &rights, &[right]].concat();
        assert_eq!(redis.ask(&user), "OK");
        let said = refused(&url, "");
        let named = format!("its Redis refuses {command}");
        assert!(said.contains(&named), "{right}: {said}");
        assert!(said.contains("docs/runbook.md"), "{right}: {said}");
    }
    // The keys of another program are all that it may touch.
    let others: Vec<_> = rights.iter().map(|right| right.replace("{s00}", "other")).collect();
    redis.ask(&["ACL", "DELUSER", "farebox"]);
    let user: Vec<_> = ["ACL", "SETUSER", "farebox"]
        .into_iter()
        .chain(others.iter().map(String::as_str))
        .collect();
    assert_eq!(redis.ask(&user), "OK");
    let said = refused(&url, "");
    assert!(
        said.contains("its Redis refuses EVALSHA") && said.contains("docs/runbook.md"),
        "{said}"
    );
}

/// Each recovery leaves two scripts, which Redis cannot remove one by one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_scripts_of_ended_epochs_are_bounded() {
    let mut cluster = Cluster::start(Durability::Strict, 2).await;
    let cached = |cluster: &Cluster| {
        let info = cluster.redis.ask(&["INFO", "memory"]);
        let field = info.lines().find_map(|line| line.strip_prefix("number_of_cached_scripts:"));
        field.unwrap().trim().parse::<i64>().unwrap()
    };
    let load = cluster.load();
    load.serves_within(BACK_WITHIN).await;
    for n in 0..250 {
        cluster.redis.ask(&["SCRIPT", "LOAD", &format!("return {n}")]);
    }
    let before = cluster.recoveries().await;
    cluster.run(0, &["recover"]).unwrap();
    load.serves_within(BACK_WITHIN).await;
    assert!(cached(&cluster) < 10, "{}", cached(&cluster));
    cluster.some_time(500, 1000).await;
    assert!(cluster.recoveries().await <= before + 1.0, "it goes on in one epoch");
    let calls = load.stop().await;
    cluster.check(&calls).await;
}

#[test]
fn a_redis_without_a_command_is_refused_at_the_start() {
    let redis = Redis::start_with(&["--rename-command", "XTRIM", ""]);
    let said = refused(&redis.url(), "");
    assert!(said.contains("XTRIM") && said.contains("take another Redis"), "{said}");
}

/// The name of a field in INFO, and another name of the same length.
const REPLICATION_ID: [&[u8]; 2] = [b"master_replid:", b"hidden_replid:"];

/// Passes bytes on, and hides the replication id in the replies.
async fn hide_replication_id(redis: &Redis) -> std::net::SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, target) = (listener.local_addr().unwrap(), redis.address());
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = tokio::net::TcpStream::connect(target).await.unwrap();
            let (mut from_client, mut to_client) = client.into_split();
            let (mut from_server, mut to_server) = server.into_split();
            tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
            tokio::spawn(async move {
                let [name, hidden] = REPLICATION_ID;
                let mut bytes = vec![0; 64 * 1024];
                // A reply of INFO is shorter than what is read at once.
                while let Ok(read @ 1..) = from_server.read(&mut bytes).await {
                    let reply = &mut bytes[..read];
                    while let Some(at) = reply.windows(name.len()).position(|some| some == name) {
                        reply[at..at + name.len()].copy_from_slice(hidden);
                    }
                    if to_client.write_all(reply).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_hides_its_replication_id_is_refused_at_the_start() {
    let redis = Redis::start(Persistence::None);
    let url = format!("redis://{}", hide_replication_id(&redis).await);
    let said = tokio::task::spawn_blocking(move || refused(&url, "")).await.unwrap();
    assert!(said.contains("`master_replid`") && said.contains("INFO replication"), "{said}");
}

/// Writes the certificate of an authority of the test's own, two certificates for 127.0.0.1 that the authority signed
/// (for the server and for its client), and their keys.
fn certificates(folder: &Path) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut authority = rcgen::CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    authority.distinguished_name.push(rcgen::DnType::CommonName, "an authority of the tests");
    let signed = authority.self_signed(&key).unwrap();
    std::fs::write(folder.join("ca.pem"), signed.pem()).unwrap();
    let issuer = rcgen::Issuer::new(authority, key);
    for name in ["redis", "client"] {
        let key = rcgen::KeyPair::generate().unwrap();
        let leaf = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        let leaf = leaf.signed_by(&key, &issuer).unwrap();
        std::fs::write(folder.join(format!("{name}.pem")), leaf.pem()).unwrap();
        std::fs::write(folder.join(format!("{name}.key")), key.serialize_pem()).unwrap();
    }
}

/// The lines of `[ledger]` for the files of [`certificates`].
fn tls_lines(folder: &Path, store: &str) -> String {
    let line = |(key, file): (&str, &str)| {
        format!("{store}_{key}_file = \"{}\"\n", folder.join(file).display())
    };
    [("ca", "ca.pem"), ("cert", "client.pem"), ("key", "client.key")].map(line).concat()
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_asks_for_a_client_certificate_works() {
    let folder = tempfile::tempdir().unwrap();
    certificates(folder.path());
    let [cert, key, ca] = ["redis.pem", "redis.key", "ca.pem"].map(|name| folder.path().join(name));
    let redis = Redis::start_with_tls_for(&cert, &key, Some(&ca));
    let postgres = Postgres::start();
    let url = format!("rediss://{}", redis.door());
    let text = config(&url, "redis_ca_file = \"ca.pem\"", &postgres);
    let said = says_while_it_starts(folder.path(), &text, "a connection to Redis fails");
    assert!(said.to_lowercase().contains("certificate"), "{said}");
    let plan = Plan {
        redis_url: Some("rediss://{}".to_owned()),
        ledger_lines: tls_lines(folder.path(), "redis"),
        ..Plan::new(Durability::Strict, 2)
    };
    works(Cluster::around(&plan, redis).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_postgres_that_asks_for_a_client_certificate_works() {
    let folder = tempfile::tempdir().unwrap();
    certificates(folder.path());
    let text = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    let mut postgres = Postgres::start();
    postgres.require_certificates(&text("redis.pem"), &text("redis.key"), &text("ca.pem"));
    let redis = Redis::start(Persistence::None);
    let without = config(&redis.url(), "postgres_ca_file = \"ca.pem\"", &postgres);
    std::fs::write(folder.path().join("gateway.toml"), without).unwrap();
    let output = command(folder.path(), &["migrate"], &[]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).to_lowercase();
    assert!(!output.status.success() && said.contains("certificate"), "{said}");

    let ledger_lines = tls_lines(folder.path(), "postgres");
    let plan = Plan { ledger_lines, ..Plan::new(Durability::Strict, 2) };
    let random = crate::support::random::Random::seeded();
    let mut cluster = Cluster::between(&plan, redis, postgres, random).await;
    let load = cluster.load();
    load.serves_within(BACK_WITHIN).await;
    let calls = load.stop().await;
    cluster.check(&calls).await;
    let plain = "SELECT count(*) FROM pg_stat_ssl s JOIN pg_stat_activity a USING (pid) \
                 WHERE a.application_name = 'farebox' AND (NOT s.ssl OR s.client_dn IS NULL)";
    assert_eq!(cluster.sql(plain), "0");
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
    let files = "postgres_cert_file = \"nowhere.pem\"\npostgres_key_file = \"nowhere.key\"";
    let said = refused("redis://127.0.0.1:9", files);
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

    // The old master comes back, is made a replica, and becomes the master once more. A sentinel is lost as well.
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
