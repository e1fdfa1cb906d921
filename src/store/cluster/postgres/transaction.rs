//! A connection of the pool, and a transaction on it.
//!
//! When sqlx gives a connection back, it sends a ping without a time limit, and the connection
//! keeps its place in the pool until the answer. If the network swallows packets without a reset,
//! the ping takes as long as TCP does, and soon the pool has no place left. So a [`Transaction`]
//! gives its connection back by itself, within a limit.

use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Executor as _, Postgres};
use tokio::runtime::Handle;

use crate::ledger::LedgerError;

/// How long a connection may take to roll back, and how long it may take after that to be given
/// back. A connection that takes longer is closed.
const GIVE_BACK_LIMIT: Duration = Duration::from_secs(1);

/// A transaction on a connection from the pool. If it is dropped before its commit, it is rolled
/// back.
///
/// A future that runs a statement may be dropped in the middle of it. The reply to that statement would then be taken for
/// the reply to the next one on this connection. So a connection that was asked for counts as busy, and is closed with
/// the transaction, until [`Transaction::note_idle`] or the end of a commit.
#[derive(Debug)]
pub(crate) struct Transaction {
    /// `None` once the connection has been given back or closed.
    connection: Option<PoolConnection<Postgres>>,
    is_open: bool,
    /// Whether a statement may be under way.
    is_busy: bool,
}

impl Transaction {
    /// Wraps a connection. The caller must then call [`Transaction::begin`].
    pub fn on(connection: PoolConnection<Postgres>) -> Self {
        Self { connection: Some(connection), is_open: false, is_busy: false }
    }

    /// Begins the transaction. Postgres ends it after `idle` without a statement. Postgres ends each statement after
    /// `statement`, or once the statement has waited for one lock for a fifth of that time. So Postgres reports a locked
    /// row before this gateway considers Postgres unreachable, even if the transaction waited for two other locks before.
    /// A commit waits for the disk (and for the synchronous standby, if there is one), each statement sees what was
    /// committed before it, and a backslash in a quoted text is a backslash, whatever the settings of the role or the
    /// database are.
    pub async fn begin(&mut self, idle: Duration, statement: Duration) -> Result<(), LedgerError> {
        let begin = format!(
            "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL standard_conforming_strings = on; \
             SET LOCAL idle_in_transaction_session_timeout = {}; \
             SET LOCAL statement_timeout = {}; \
             SET LOCAL lock_timeout = {}; \
             SET LOCAL synchronous_commit = on",
            idle.as_millis(),
            statement.as_millis(),
            statement.as_millis() / 5
        );
        self.is_open = true;
        self.connection()?.execute(AssertSqlSafe(begin)).await?;
        self.note_idle();
        Ok(())
    }

    /// The connection, on which a statement can be run. It counts as busy from now on.
    ///
    /// # Errors
    /// Fails after [`Transaction::discard`].
    pub fn connection(&mut self) -> Result<&mut PgConnection, LedgerError> {
        self.is_busy = true;
        match &mut self.connection {
            Some(connection) => Ok(connection),
            None => Err(LedgerError::Slow { what: "Postgres" }),
        }
    }

    /// Notes that each statement so far has its whole reply.
    pub fn note_idle(&mut self) {
        self.is_busy = false;
    }

    /// Commits the transaction.
    pub async fn commit(&mut self) -> Result<(), LedgerError> {
        self.connection()?.execute("COMMIT").await?;
        self.is_open = false;
        self.note_idle();
        Ok(())
    }

    /// Closes the connection, because Postgres did not answer in time. Postgres rolls back by
    /// itself.
    pub fn discard(&mut self) {
        if let Some(connection) = self.connection.take() {
            drop(connection.detach());
        }
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        let Some(connection) = self.connection.take() else { return };
        if self.is_busy {
            return drop(connection.detach());
        }
        match Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(give_back(connection, self.is_open))),
            Err(_) => drop(connection.detach()),
        }
    }
}

/// Rolls an open transaction back, and gives the connection back to the pool.
async fn give_back(mut connection: PoolConnection<Postgres>, is_open: bool) {
    let is_ended = match is_open {
        true => {
            let rollback = tokio::time::timeout(GIVE_BACK_LIMIT, connection.execute("ROLLBACK"));
            matches!(rollback.await, Ok(Ok(_)))
        }
        false => true,
    };
    if is_ended {
        // If this takes too long, the connection is closed with the future that owns it.
        let _ = tokio::time::timeout(GIVE_BACK_LIMIT, connection.return_to_pool()).await;
    } else {
        drop(connection.detach());
    }
}
