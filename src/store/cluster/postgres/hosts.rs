//! Several hosts of Postgres, of which one is used: the first that can be reached and, if writes are needed, is not in
//! recovery.
//!
//! The pool knows one host. Each new connection is checked, so none leads to a standby. If a connection takes too long,
//! all hosts are asked at once, and the pool is pointed at the first suitable one.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool};
use sqlx::{ConnectOptions as _, Connection as _, Executor as _, Row as _};
use tokio::task::JoinHandle;

use crate::store::postgres_address::PostgresAddress;

/// How long a connection may take before the other hosts are asked.
pub(crate) const ASK_AFTER: Duration = Duration::from_millis(250);

/// How long a host may take to answer whether it is suitable.
const HOST_LIMIT: Duration = Duration::from_millis(800);

/// The least time between two searches.
const SEARCH_EVERY: Duration = Duration::from_millis(500);

/// The hosts of one address.
#[derive(Debug)]
pub(crate) struct Hosts {
    address: PostgresAddress,
    search: Mutex<Search>,
}

#[derive(Debug, Default)]
struct Search {
    /// The place in the address of the host that the pool uses.
    current: usize,
    began: Option<Instant>,
}

impl Hosts {
    pub fn new(address: PostgresAddress) -> Self {
        Self { address, search: Mutex::default() }
    }

    /// Whether the address has more than one host.
    pub fn are_several(&self) -> bool {
        self.address.hosts.len() > 1
    }

    /// Looks for a suitable host, and points the pool at it. Returns whether the pool now uses another host than
    /// before. Does nothing if a search began a moment ago.
    pub async fn find(&self, pool: &PgPool) -> bool {
        if !self.begin_search() {
            return false;
        }
        let hosts = &self.address.hosts;
        let is_read_write = self.address.is_read_write;
        let asked: Vec<_> =
            hosts.iter().map(|host| Asked::of(host.clone(), is_read_write)).collect();
        for (place, asked) in asked.into_iter().enumerate() {
            if asked.answer().await {
                return self.lead_to(place, pool);
            }
        }
        false
    }

    fn begin_search(&self) -> bool {
        let mut search = self.lock();
        let is_due = search.began.is_none_or(|began| began.elapsed() >= SEARCH_EVERY);
        if is_due {
            search.began = Some(Instant::now());
        }
        is_due
    }

    fn lead_to(&self, place: usize, pool: &PgPool) -> bool {
        let Some(host) = self.address.hosts.get(place) else { return false };
        let before = std::mem::replace(&mut self.lock().current, place);
        if before == place {
            return false;
        }
        pool.set_connect_options(host.clone());
        let name = format!("{}:{}", host.get_host(), host.get_port());
        tracing::warn!(
            host = name,
            "Postgres is used on another host of `postgres_url` from now on, since the one before cannot be used"
        );
        true
    }

    fn lock(&self) -> MutexGuard<'_, Search> {
        self.search.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A question to one host. Dropping this value ends the question.
struct Asked(JoinHandle<bool>);

impl Asked {
    fn of(host: PgConnectOptions, is_read_write: bool) -> Self {
        Self(tokio::spawn(async move {
            let ask = async {
                let mut connection = host.connect().await?;
                let is_right = !is_read_write || takes_writes(&mut connection).await?;
                // The server need not be told that the connection ends.
                drop(connection.close_hard().await);
                Ok::<_, sqlx::Error>(is_right)
            };
            matches!(tokio::time::timeout(HOST_LIMIT, ask).await, Ok(Ok(true)))
        }))
    }

    /// Waits for the answer: whether the host is suitable.
    async fn answer(mut self) -> bool {
        (&mut self.0).await.unwrap_or(false)
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Whether the server takes writes: it is not in recovery, and its transactions are not made read-only.
pub(crate) async fn takes_writes(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    let sql = "SELECT NOT pg_catalog.pg_is_in_recovery() \
               AND current_setting('transaction_read_only') = 'off' AS takes_writes";
    connection.fetch_one(sql).await?.try_get("takes_writes")
}
