//! A whole cluster: gateways, the Redis and the Postgres that they share, and an upstream.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use http::Method;
use serde_json::Value;
use tempfile::TempDir;

use crate::load::{Load, Shape};
use crate::support::metered::CHAT_TABLES;
use crate::support::process::{Process, command, config_on_ports};
use crate::support::random::Random;
use crate::support::servers::{Bouncer, CutProxy, Disk, Persistence, Postgres, Redis};
use crate::upstream::Upstream;

/// The accounts of the load.
pub const ACCOUNTS: [&str; 4] = ["alice", "bob", "carol", "dave"];

/// The balance of each account: more than a test can spend.
pub const GRANT: i64 = 1_000_000;

/// The route of the load, and what it costs.
pub const ROUTE: &str = "/api/ai/generate";
pub const PRICE: i64 = 5;

/// When a call is forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    Strict,
    Relaxed,
}

impl Durability {
    pub fn name(self) -> &'static str {
        match self {
            Self::Strict => "strict",
            Self::Relaxed => "relaxed",
        }
    }
}

/// The servers to start.
#[derive(Clone, Debug)]
pub struct Plan {
    pub durability: Durability,
    pub gateways: usize,
    pub persistence: Persistence,
    /// The source of randomness; `None` for one with a seed of its own.
    pub random: Option<Random>,
    /// Environment variables to add for every gateway.
    pub gateway_env: Vec<(String, String)>,
    /// Environment variables to add for Postgres.
    pub postgres_env: Vec<(String, String)>,
    /// Gateways reach Postgres through a PgBouncer.
    pub has_bouncer: bool,
    /// Lists are read from a hot standby of Postgres.
    pub has_replica: bool,
    /// `postgres_url` names a hot standby as well, before the primary.
    pub has_standby: bool,
    /// Lines to add under `[ledger]`.
    pub ledger_lines: String,
    /// Sections to add to gateway.toml.
    pub sections: String,
    /// The URL of Redis, with `{}` in place of the address of a gateway's own line to it.
    pub redis_url: Option<String>,
}

impl Plan {
    pub fn new(durability: Durability, gateways: usize) -> Self {
        Self {
            durability,
            gateways,
            persistence: Persistence::None,
            random: None,
            gateway_env: Vec::new(),
            postgres_env: Vec::new(),
            has_bouncer: false,
            has_replica: false,
            has_standby: false,
            ledger_lines: String::new(),
            sections: String::new(),
            redis_url: None,
        }
    }
}

/// One gateway, with lines of its own to Redis and to Postgres.
pub struct Member {
    pub process: Process,
    pub to_redis: CutProxy,
    pub to_postgres: CutProxy,
    pub to_replica: Option<CutProxy>,
    pub to_standby: Option<CutProxy>,
    pub folder: TempDir,
    text: String,
    env: Vec<(String, String)>,
}

impl Member {
    async fn start(
        plan: &Plan,
        redis: &Redis,
        postgres: SocketAddr,
        replica: Option<&Postgres>,
        database: &str,
        upstream: &Upstream,
    ) -> Self {
        let to_redis = CutProxy::before(redis.door()).await;
        let to_postgres = CutProxy::before(postgres).await;
        let (mut to_replica, mut to_standby, mut read_line) = (None, None, String::new());
        let mut postgres_url = Postgres::url_at(to_postgres.address(), database);
        if let Some(replica) = replica {
            let line = CutProxy::before(replica.address()).await;
            if plan.has_standby {
                let hosts = format!("@{},{}/", line.address(), to_postgres.address());
                postgres_url =
                    postgres_url.replace(&format!("@{}/", to_postgres.address()), &hosts);
                postgres_url += "?target_session_attrs=read-write";
                to_standby = Some(line);
            } else {
                let url = Postgres::url_at(line.address(), database);
                (to_replica, read_line) = (Some(line), format!("postgres_read_url = \"{url}\"\n"));
            }
        }
        let text = config_on_ports(upstream.address, &format!("{CHAT_TABLES}{}", plan.sections));
        let text = text.replace("[server]", "[server]\nshutdown_timeout = \"5s\"");
        let text = text.replace(
            "path = \"ledger.db\"",
            &format!(
                "backend = \"redis\"\nredis_url = \"{}\"\npostgres_url = \"{}\"\n\
                 postgres_schema = \"farebox\"\ndurability = \"{}\"\n{read_line}{}",
                plan.redis_url
                    .as_deref()
                    .unwrap_or("redis://{}")
                    .replace("{}", &to_redis.address().to_string()),
                postgres_url,
                plan.durability.name(),
                plan.ledger_lines,
            ),
        );
        let folder = tempfile::tempdir().unwrap();
        let env = plan.gateway_env.clone();
        let process = serve(&folder, &text, &env);
        Self { process, to_redis, to_postgres, to_replica, to_standby, folder, text, env }
    }

    /// Starts the gateway again on the same ports, after its end.
    pub fn restart(&mut self) {
        self.process = serve(&self.folder, &self.text, &self.env);
    }

    /// Like [`Self::restart`], without waiting until it serves.
    pub fn begin_again(&mut self) {
        let env: Vec<_> = self.env.iter().map(|(name, value)| (&**name, &**value)).collect();
        self.process = Process::begin_serving(self.folder.path(), &env);
    }

    /// SIGSTOP.
    pub fn pause(&self) {
        self.process.signal("STOP");
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.process.signal("CONT");
    }

    /// The value of one of this gateway's metrics, summed over its labels.
    pub async fn metric(&self, name: &str) -> f64 {
        let url = format!("http://{}/metrics", self.process.admin);
        let text = self.process.client.get(url).send().await.unwrap().text().await.unwrap();
        let values = text.lines().filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let series = series.split('{').next()?;
            (series == name).then(|| value.parse::<f64>().unwrap())
        });
        values.sum()
    }
}

fn serve(folder: &TempDir, text: &str, env: &[(String, String)]) -> Process {
    let env: Vec<_> = env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    Process::serve_in(folder.path(), text, &env)
}

/// The time in which a gateway was gone, or about to go.
#[derive(Clone, Copy, Debug)]
pub struct Gone {
    pub gateway: usize,
    pub from: Instant,
    pub to: Instant,
}

/// A whole cluster, which is ended when it is dropped.
pub struct Cluster {
    // This is the first field, so that the gateways end before the servers that they use.
    pub members: Vec<Member>,
    pub redis: Redis,
    /// Masters that were demoted, and still run.
    pub demoted: Vec<Redis>,
    pub bouncer: Option<Bouncer>,
    pub postgres: Postgres,
    pub replica: Option<Postgres>,
    pub database: String,
    pub upstream: Upstream,
    pub random: Random,
    pub persistence: Persistence,
    /// Gateways that were killed. The calls that they ran at that moment may have no capture.
    pub kills: Vec<Gone>,
    /// Gateways that were told to end: they hang up, and lose nothing.
    pub stops: Vec<Gone>,
    /// The grants of every account so far.
    pub granted: BTreeMap<String, i64>,
}

impl Cluster {
    /// Two gateways or more, with funded accounts.
    pub async fn start(durability: Durability, gateways: usize) -> Self {
        Self::of(&Plan::new(durability, gateways)).await
    }

    pub async fn of(plan: &Plan) -> Self {
        let redis = Redis::start(plan.persistence);
        Self::around(plan, redis).await
    }

    /// Starts a cluster around a Redis that runs already.
    pub async fn around(plan: &Plan, redis: Redis) -> Self {
        let random = plan.random.clone().unwrap_or_else(Random::seeded);
        let postgres = Postgres::start_with(Disk::Relaxed, &plan.postgres_env);
        Self::between(plan, redis, postgres, random).await
    }

    /// Starts a cluster on a Redis and a Postgres that run already.
    pub async fn between(plan: &Plan, redis: Redis, postgres: Postgres, random: Random) -> Self {
        let database = postgres.database();
        let bouncer = plan.has_bouncer.then(|| Bouncer::before(&postgres));
        let door = bouncer.as_ref().map_or(postgres.address(), Bouncer::address);
        let has_replica = plan.has_replica || plan.has_standby;
        let replica = has_replica.then(|| postgres.replica());
        let upstream = Upstream::start().await;
        let mut members = Vec::new();
        for _ in 0..plan.gateways {
            let replica = replica.as_ref();
            members.push(Member::start(plan, &redis, door, replica, &database, &upstream).await);
        }
        let mut cluster = Self {
            members,
            redis,
            demoted: Vec::new(),
            bouncer,
            postgres,
            replica,
            database,
            upstream,
            random,
            persistence: plan.persistence,
            kills: Vec::new(),
            stops: Vec::new(),
            granted: BTreeMap::new(),
        };
        for account in ACCOUNTS {
            cluster.grant(account, GRANT, &format!("gift-{account}")).await;
        }
        cluster
    }

    pub fn gateway(&self, number: usize) -> &Process {
        &self.members[number].process
    }

    /// The usual load on all gateways.
    pub fn load(&mut self) -> Load {
        self.load_of(&Shape::default())
    }

    pub fn load_of(&mut self, shape: &Shape) -> Load {
        let gateways: Vec<_> = self.members.iter().map(|member| member.process.public).collect();
        Load::start(&gateways, shape, &mut self.random)
    }

    /// Kills a gateway (SIGKILL), and notes the time in `kills`.
    pub fn kill_gateway(&mut self, number: usize) {
        let from = Instant::now();
        self.members[number].process.kill();
        self.kills.push(Gone { gateway: number, from, to: Instant::now() });
    }

    /// Starts a gateway again, after its end.
    pub fn restart_gateway(&mut self, number: usize) {
        // Requests sent before arrive a moment later; from here on they are the new gateway's.
        let now = Instant::now();
        let gone = self.kills.iter_mut().chain(&mut self.stops);
        let its = gone.filter(|gone| gone.gateway == number);
        its.max_by_key(|gone| gone.from).unwrap().to = now;
        self.members[number].restart();
    }

    /// Stops a gateway (SIGTERM), waits for its end, and notes the time in `stops`.
    pub fn stop_gateway(&mut self, number: usize) {
        let from = Instant::now();
        let process = &mut self.members[number].process;
        let status = process.terminate();
        assert!(status.success(), "{}", process.stderr());
        self.stops.push(Gone { gateway: number, from, to: Instant::now() });
    }

    /// Waits for a random time, from `from` to `to` milliseconds.
    pub async fn some_time(&mut self, from: u64, to: u64) {
        let time = self.random.millis(from, to);
        tokio::time::sleep(time).await;
    }

    /// Grants through a random gateway.
    pub async fn grant(&mut self, account: &str, credits: i64, id: &str) -> Value {
        let gateway = self.any_gateway();
        *self.granted.entry(account.to_owned()).or_default() += credits;
        // On a busy machine Postgres may be late a few times. The grant is then sent again, and counts
        // once under its id.
        let path = format!("/admin/accounts/{account}/grants");
        let body = format!(r#"{{"credits":{credits},"id":"{id}"}}"#);
        let granted = async || self.gateway(gateway).admin(Method::POST, &path, &body).await;
        let mut answer = granted().await;
        for _ in 0..4 {
            if answer.status == 503 {
                answer = granted().await;
            }
        }
        answer.expect(200)
    }

    /// The number of a random gateway.
    pub fn any_gateway(&mut self) -> usize {
        self.random.below(self.members.len())
    }

    /// Makes an API key through a gateway: its id and the key.
    pub async fn key(&self, gateway: usize, account: &str, service: bool) -> (String, String) {
        let path = format!("/admin/accounts/{account}/keys");
        let body = format!(r#"{{"name":"test","service":{service}}}"#);
        let key = self.gateway(gateway).admin(Method::POST, &path, &body).await.expect(201);
        let text = |name: &str| key[name].as_str().unwrap().to_owned();
        (text("id"), text("key"))
    }

    /// Runs `farebox` with these arguments on the config of one gateway. Returns its whole output,
    /// as an error if it fails.
    pub fn run(&self, gateway: usize, arguments: &[&str]) -> Result<String, String> {
        let output = command(self.members[gateway].folder.path(), arguments, &[]).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        if output.status.success() { Ok(said) } else { Err(said) }
    }

    /// Leads every gateway to another Redis.
    pub fn lead_to(&mut self, redis: Redis) {
        for member in &self.members {
            member.to_redis.lead_to(redis.door());
        }
        self.redis = redis;
    }

    /// How often the ledger was recovered, as the gateways count.
    pub async fn recoveries(&self) -> f64 {
        let mut recoveries = 0.0;
        for member in &self.members {
            recoveries += member.metric("farebox_ledger_recoveries_total").await;
        }
        recoveries
    }
}

/// How long the ledger may take to serve again after Redis is back.
pub const BACK_WITHIN: Duration = Duration::from_secs(20);

/// Tests of both modes of durability, from functions that take the mode.
macro_rules! in_both_modes {
    ($($test:ident),+ $(,)?) => {
        mod strict {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    super::$test(crate::cluster::Durability::Strict).await;
                }
            )+
        }
        mod relaxed {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    super::$test(crate::cluster::Durability::Relaxed).await;
                }
            )+
        }
    };
}
pub(crate) use in_both_modes;
