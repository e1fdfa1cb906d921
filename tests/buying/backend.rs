//! The ledgers that a shop can have: a file of its own, or Redis and Postgres.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use serde_json::Value;
use sqlx::sqlite::SqliteConnection;
use sqlx::{AssertSqlSafe, Connection as _};

use crate::process::{Process, ok};
use crate::support::servers::{Persistence, Postgres, Redis, shared_postgres};

/// The kinds of ledgers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    Embedded,
    Redis,
}

/// Runs each test on each ledger: `refunds::embedded::a_test`, `refunds::redis::a_test`.
macro_rules! on_both_ledgers {
    ($($test:ident),* $(,)?) => {
        $crate::backend::on_one_ledger!(embedded, Embedded, $($test)*);
        $crate::backend::on_one_ledger!(redis, Redis, $($test)*);
    };
}

macro_rules! on_one_ledger {
    ($module:ident, $backend:ident, $($test:ident)*) => {
        mod $module {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    super::$test($crate::backend::Backend::$backend).await;
                }
            )*
        }
    };
}

pub(crate) use {on_both_ledgers, on_one_ledger};

/// The place of one shop's ledger.
pub enum Place {
    /// `ledger.db` in the shop's folder.
    Embedded,
    /// A Redis of its own, and a database of its own in the Postgres of this process.
    Redis { redis: Redis, postgres: Arc<Mutex<Postgres>>, database: String },
}

impl Place {
    pub fn new(backend: Backend) -> Self {
        match backend {
            Backend::Embedded => Self::Embedded,
            Backend::Redis => {
                let postgres = shared_postgres();
                let database = postgres.lock().unwrap().database();
                Self::Redis { redis: Redis::start(Persistence::None), postgres, database }
            }
        }
    }

    /// The lines of `[ledger]` that choose it.
    pub fn lines(&self) -> String {
        let Self::Redis { redis, postgres, database } = self else {
            return "path = \"ledger.db\"".to_owned();
        };
        let (redis, postgres) = (redis.url(), postgres.lock().unwrap().url(database));
        format!(
            "backend = \"redis\"\nredis_url = \"{redis}\"\npostgres_url = \"{postgres}\"\n\
             gateway_name = \"shop\""
        )
    }

    /// Makes every write fail from now on: the disk is full, or Postgres is away.
    pub fn fail(&self, gateway: &Process) {
        match self {
            Self::Embedded => limit_files(gateway, "1"),
            Self::Redis { postgres, database, .. } => {
                let (server, own) = (postgres.lock().unwrap(), "postgres");
                server.sql(own, &format!("ALTER DATABASE {database} ALLOW_CONNECTIONS false"));
                let all = format!("FROM pg_stat_activity WHERE datname = '{database}'");
                server.sql(own, &format!("SELECT pg_terminate_backend(pid) {all}"));
            }
        }
    }

    /// Ends [`Place::fail`], so that writes succeed again.
    pub fn mend(&self, gateway: &Process) {
        match self {
            Self::Embedded => limit_files(gateway, "unlimited"),
            Self::Redis { postgres, database, .. } => {
                let sql = format!("ALTER DATABASE {database} ALLOW_CONNECTIONS true");
                postgres.lock().unwrap().sql("postgres", &sql);
            }
        }
    }

    /// Loses the data that is only in memory, as a Redis without persistence does in a crash.
    pub fn forget(&self) {
        if let Self::Redis { redis, .. } = self {
            redis.flush_all();
        }
    }

    /// Runs SQL on the ledger's own database: `sqlite` or `postgres`, as the backend needs it. While it runs, no
    /// gateway may use an embedded ledger.
    pub async fn sql(&self, folder: &Path, sqlite: &str, postgres: &str) {
        match self {
            Self::Embedded => {
                let file = format!("sqlite://{}", folder.join("ledger.db").display());
                let mut on = SqliteConnection::connect(&file).await.unwrap();
                sqlx::raw_sql(AssertSqlSafe(sqlite.to_owned())).execute(&mut on).await.unwrap();
                on.close().await.unwrap();
            }
            Self::Redis { postgres: server, database, .. } => {
                server.lock().unwrap().sql(database, postgres);
            }
        }
    }

    /// Stripe's events as the ledger stores them, by id, as JSON.
    pub async fn payloads(&self, folder: &Path) -> BTreeMap<String, Value> {
        let rows: Vec<(String, String)> = match self {
            Self::Embedded => {
                let file = format!("sqlite://{}", folder.join("ledger.db").display());
                let mut on = SqliteConnection::connect(&file).await.unwrap();
                let rows = sqlx::query_as("SELECT id, payload FROM stripe_events");
                rows.fetch_all(&mut on).await.unwrap()
            }
            Self::Redis { postgres, database, .. } => {
                let rows = "SELECT id, payload FROM farebox.stripe_events";
                let rows = postgres.lock().unwrap().sql(database, rows);
                let row =
                    |line: &str| line.split_once('|').map(|(id, text)| (id.into(), text.into()));
                rows.lines().map(|line| row(line).unwrap()).collect()
            }
        };
        rows.into_iter().map(|(id, text)| (id, serde_json::from_str(&text).unwrap())).collect()
    }

    /// Makes Postgres store events uncompressed. It would compress large ones, and the test could
    /// not find their texts.
    pub fn compress_nothing(&self) {
        if let Self::Redis { postgres, database, .. } = self {
            let plain =
                "ALTER TABLE farebox.stripe_events ALTER COLUMN payload SET STORAGE EXTERNAL";
            postgres.lock().unwrap().sql(database, plain);
        }
    }

    /// Whether these bytes stand anywhere in the files of the ledger. Postgres writes them all first.
    pub fn has_bytes(&self, folder: &Path, wanted: &str) -> bool {
        match self {
            Self::Embedded => {
                let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
                let mut ledger = files.filter(|path| path.to_string_lossy().contains("ledger.db"));
                ledger.any(|path| contains(&std::fs::read(path).unwrap(), wanted.as_bytes()))
            }
            Self::Redis { postgres, database, .. } => {
                let server = postgres.lock().unwrap();
                server.sql(database, "CHECKPOINT");
                let file = "SELECT pg_relation_filepath('farebox.stripe_events'), \
                            pg_relation_filepath(reltoastrelid) FROM pg_class \
                            WHERE oid = 'farebox.stripe_events'::regclass";
                let files = server.sql(database, file);
                let mut files = files.split('|').filter(|file| !file.is_empty());
                files.any(|file| contains(&server.read(file), wanted.as_bytes()))
            }
        }
    }

    /// Copies the ledger as it is now, and returns the copy's name.
    pub fn back_up(&self, folder: &Path) -> String {
        match self {
            Self::Embedded => {
                ok(folder, &["backup", "before.db"]);
                "before.db".to_owned()
            }
            Self::Redis { postgres, database, .. } => postgres.lock().unwrap().copy_of(database),
        }
    }

    /// The ledger is lost, and this copy of it takes its place. No gateway may run.
    pub fn restore(&mut self, folder: &Path, copy: &str) {
        match self {
            Self::Embedded => {
                for left in ["ledger.db-wal", "ledger.db-shm"] {
                    let _ = std::fs::remove_file(folder.join(left));
                }
                std::fs::rename(folder.join(copy), folder.join("ledger.db")).unwrap();
            }
            Self::Redis { database, .. } => *database = copy.to_owned(),
        }
        self.forget();
    }
}

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

/// Lets a process write no byte beyond `limit` in any file, as if its disk were full.
fn limit_files(process: &Process, limit: &str) {
    let pid = process.pid().to_string();
    let fsize = format!("--fsize={limit}:unlimited");
    let output = Command::new("prlimit").args(["--pid", &pid, &fsize]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
