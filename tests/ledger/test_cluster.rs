//! The servers of one cluster ledger: a Redis of its own, and a database of its own in a Postgres that
//! the ledgers of one test share.

use std::sync::{Arc, Mutex};

use farebox::config::Secret;
use farebox::ledger::{BackendKind, Durability, LedgerConfig};
use sqlx::ConnectOptions as _;
use sqlx::postgres::{PgConnectOptions, PgConnection};

use crate::servers::{Persistence, Postgres, Redis, shared_postgres};

/// The schema of the tests' ledgers.
pub const SCHEMA: &str = "farebox_test";

pub struct TestCluster {
    pub postgres: Arc<Mutex<Postgres>>,
    pub database: String,
    pub redis: Redis,
    /// The URL of Redis for gateways, if something stands in between.
    pub redis_url: Option<String>,
    /// The URL of Postgres for gateways, if something stands in between.
    pub postgres_url: Option<String>,
}

impl TestCluster {
    pub fn new() -> Self {
        let postgres = shared_postgres();
        let database = postgres.lock().unwrap().database();
        Self::of(postgres, database)
    }

    fn of(postgres: Arc<Mutex<Postgres>>, database: String) -> Self {
        let redis = Redis::start(Persistence::None);
        Self { postgres, database, redis, redis_url: None, postgres_url: None }
    }

    /// A cluster with a copy of the database, and an empty Redis.
    pub fn crashed(&self) -> Self {
        let database = self.postgres.lock().unwrap().copy_of(&self.database);
        Self::of(self.postgres.clone(), database)
    }

    pub fn config(&self, durability: Durability, name: &str) -> LedgerConfig {
        let redis_url = self.redis_url.clone().unwrap_or_else(|| self.redis.url());
        let postgres_url = self.postgres_url.clone().unwrap_or_else(|| self.direct_url());
        LedgerConfig {
            backend: BackendKind::Redis,
            redis_url: Some(Secret::new(redis_url)),
            postgres_url: Some(Secret::new(postgres_url)),
            postgres_schema: SCHEMA.to_owned(),
            durability,
            gateway_name: Some(name.to_owned()),
            ..LedgerConfig::default()
        }
    }

    /// The URL of Postgres itself.
    pub fn direct_url(&self) -> String {
        self.postgres.lock().unwrap().url(&self.database)
    }

    /// A connection past the ledger, with its schema in the search path.
    pub async fn sql(&self) -> PgConnection {
        let options: PgConnectOptions = self.direct_url().parse().unwrap();
        options.options([("search_path", SCHEMA)]).connect().await.unwrap()
    }
}
