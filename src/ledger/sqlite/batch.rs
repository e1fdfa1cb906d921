//! A batch's changes as rows: one statement per table, whatever the size of the batch.
//!
//! A statement per row costs some 67 µs through the driver, `INSERT … SELECT … FROM json_each`
//! some 3 µs a row.

use std::fmt::Write as _;

use sqlx::sqlite::SqliteConnection;
use sqlx::{Connection as _, Executor as _};

use crate::account::AccountId;
use crate::ledger::books::{Books, Changes, Now};

/// JSON arrays, one row each, written by hand: this runs for every call.
#[derive(Default)]
struct Rows(String);

impl Rows {
    fn row(&mut self) -> Row<'_> {
        self.0.push(if self.0.is_empty() { '[' } else { ',' });
        self.0.push('[');
        Row { out: &mut self.0, first: true }
    }

    fn finish(mut self) -> String {
        self.0.push(if self.0.is_empty() { '[' } else { ' ' });
        self.0.push(']');
        self.0
    }
}

struct Row<'a> {
    out: &'a mut String,
    first: bool,
}

impl Row<'_> {
    fn next(&mut self) {
        if !self.first {
            self.out.push(',');
        }
        self.first = false;
    }

    fn int(mut self, value: i64) -> Self {
        self.next();
        // Writing to a String cannot fail.
        let _ = write!(self.out, "{value}");
        self
    }

    fn text(mut self, value: &str) -> Self {
        self.next();
        self.out.push('"');
        for c in value.chars() {
            match c {
                '"' | '\\' => self.out.extend(['\\', c]),
                c if c < ' ' => drop(write!(self.out, "\\u{:04x}", u32::from(c))),
                c => self.out.push(c),
            }
        }
        self.out.push('"');
        self
    }

    fn optional(mut self, value: Option<&str>) -> Self {
        match value {
            Some(value) => self.text(value),
            None => {
                self.next();
                self.out.push_str("null");
                self
            }
        }
    }

    fn end(self) {
        self.out.push(']');
    }
}

/// Amounts, sequence numbers and ledger times all stay far below 2^63.
fn int(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Why changes were not written, as far as can be told.
pub(super) enum WriteError {
    /// They were not.
    Unwritten(sqlx::Error),
    /// The commit itself failed, so they may have been.
    Unknown(sqlx::Error),
}

impl From<sqlx::Error> for WriteError {
    fn from(error: sqlx::Error) -> Self {
        Self::Unwritten(error)
    }
}

/// Writes `changes` in one transaction, and counts it as commit number `commit`.
pub(super) async fn write(
    connection: &mut SqliteConnection,
    books: &Books,
    changes: &Changes,
    commit: i64,
    now: Now,
) -> Result<(), WriteError> {
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    for (sql, rows) in statements(books, changes, now) {
        transaction.execute(sqlx::query(sql).bind(rows)).await?;
    }
    write_keys(&mut transaction, changes, now).await?;
    let counted = sqlx::query("UPDATE ledger SET commits = ?1 WHERE one = 1").bind(commit);
    transaction.execute(counted).await?;
    transaction.commit().await.map_err(WriteError::Unknown)
}

fn statements(books: &Books, changes: &Changes, now: Now) -> Vec<(&'static str, String)> {
    let deadline = |ledger_ms: u64| {
        now.wall_ms.saturating_add(int(ledger_ms)).saturating_sub(int(now.ledger_ms))
    };
    let mut statements = Vec::with_capacity(6);
    if !changes.holds_added.is_empty() {
        let mut rows = Rows::default();
        for (id, hold) in &changes.holds_added {
            rows.row()
                .text(id.as_str())
                .text(hold.account.as_str())
                .int(int(hold.amount.micros()))
                .text(&hold.route)
                .text(hold.origin.as_str())
                .int(deadline(hold.expires_ms))
                .end();
        }
        statements.push((
            "INSERT INTO holds (id, account, amount, route, origin, expires_at) \
             SELECT value->>0, value->>1, value->>2, value->>3, value->>4, value->>5 \
             FROM json_each(?1)",
            rows.finish(),
        ));
    }
    if !changes.holds_renewed.is_empty() {
        let mut rows = Rows::default();
        for (id, expires_ms) in &changes.holds_renewed {
            rows.row().text(id.as_str()).int(deadline(*expires_ms)).end();
        }
        statements.push((
            "UPDATE holds SET expires_at = new.value->>1 FROM json_each(?1) AS new \
             WHERE holds.id = new.value->>0",
            rows.finish(),
        ));
    }
    if !changes.holds_gone.is_empty() {
        let mut ids = String::from("[");
        for id in &changes.holds_gone {
            if ids.len() > 1 {
                ids.push(',');
            }
            Row { out: &mut ids, first: true }.text(id.as_str());
        }
        ids.push(']');
        statements.push(("DELETE FROM holds WHERE id IN (SELECT value FROM json_each(?1))", ids));
    }
    if !changes.ended.is_empty() {
        let mut rows = Rows::default();
        for ended in &changes.ended {
            rows.row()
                .text(ended.id.as_str())
                .optional(ended.account.as_ref().map(AccountId::as_str))
                .int(int(ended.amount.micros()))
                .text(ended.origin.as_str())
                .text(ended.ending.as_str())
                .int(now.wall_ms)
                .end();
        }
        statements.push((
            "INSERT INTO ended_holds (id, account, amount, origin, ending, ended_at) \
             SELECT value->>0, value->>1, value->>2, value->>3, value->>4, value->>5 \
             FROM json_each(?1)",
            rows.finish(),
        ));
    }
    if !changes.entries.is_empty() {
        let mut rows = Rows::default();
        for entry in &changes.entries {
            rows.row()
                .text(entry.account.as_str())
                .int(int(entry.seq))
                .text(entry.operation.as_str())
                .text(entry.kind.as_str())
                .int(entry.amount.micros())
                .int(entry.balance_after.micros())
                .optional(entry.route.as_deref())
                .optional(entry.reason.as_deref())
                .int(entry.created_at_ms)
                .end();
        }
        statements.push((
            "INSERT INTO entries (account, seq, operation, kind, amount, balance_after, route, \
             reason, created_at) SELECT value->>0, value->>1, value->>2, value->>3, value->>4, \
             value->>5, value->>6, value->>7, value->>8 FROM json_each(?1)",
            rows.finish(),
        ));
    }
    if !changes.touched.is_empty() {
        let mut rows = Rows::default();
        for id in &changes.touched {
            let account = books.account(id).copied().unwrap_or_default();
            rows.row()
                .text(id.as_str())
                .int(account.balance.micros())
                .int(int(account.seq))
                .int(now.wall_ms)
                .end();
        }
        statements.push((
            "INSERT INTO accounts (id, balance, seq, created_at) \
             SELECT value->>0, value->>1, value->>2, value->>3 FROM json_each(?1) WHERE true \
             ON CONFLICT (id) DO UPDATE SET balance = excluded.balance, seq = excluded.seq",
            rows.finish(),
        ));
    }
    statements
}

/// Keys change rarely: a statement each.
async fn write_keys(
    connection: &mut SqliteConnection,
    changes: &Changes,
    now: Now,
) -> Result<(), sqlx::Error> {
    for key in &changes.keys_added {
        sqlx::query(
            "INSERT INTO api_keys (id, hash, account, name, service, hint, created_at, \
             revoked_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )
        .bind(&*key.id)
        .bind(key.hash.as_bytes().as_slice())
        .bind(key.account.as_str())
        .bind(&*key.name)
        .bind(key.service)
        .bind(&*key.hint)
        .bind(key.created_at_ms)
        .bind(key.revoked_at_ms)
        .execute(&mut *connection)
        .await?;
    }
    for id in &changes.keys_revoked {
        sqlx::query("UPDATE api_keys SET revoked_at = ?2 WHERE id = ?1 AND revoked_at IS NULL")
            .bind(&**id)
            .bind(now.wall_ms)
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}
