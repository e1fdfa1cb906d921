//! Writes a batch's changes as SQL: one statement for each table, however large the batch is. The
//! statements are two scripts with the new entries between them, so that a commit is few messages to
//! the driver's thread.
//!
//! A statement for each row costs some 67 µs in the driver, while `INSERT … SELECT … FROM
//! jsonb_each` costs some 2 µs a row. (`json_each` would print each row as text and parse it
//! again.)

use sqlx::AssertSqlSafe;
use sqlx::sqlite::SqliteConnection;

use crate::account::AccountId;
use crate::ledger::operation::{Entry, Origin};
use crate::ledger::payment::Payment;
use crate::ledger::rules::state::{Changes, Now, State, StripeCustomer};
use crate::store::sql::rows::usage_column;
use crate::store::sqlite::call_holds::CallHolds;
use crate::store::sqlite::claims;
use crate::store::sqlite::connection::sync_commits;
use crate::store::sqlite::entry_rows;
use crate::store::sqlite::json_rows::Rows;
use crate::usage::UsageRecord;

const ADD_CALL_HOLDS: &str =
    "INSERT INTO call_holds (written_by, holds) SELECT commits + 1, ? FROM ledger;";

/// Deletes one row. A commit usually deletes one or two rows. To delete a list of them, SQLite
/// would first build a table.
const DELETE_CALL_HOLDS: &str = "DELETE FROM call_holds WHERE written_by = ?;";

/// Deletes many rows. One statement for each row would make a long script that SQLite has not
/// prepared yet.
const DELETE_MANY_CALL_HOLDS: &str =
    "DELETE FROM call_holds WHERE written_by IN (SELECT value->>0 FROM jsonb_each(?));";

/// The most [`DELETE_CALL_HOLDS`] statements in one script.
const FEW: usize = 4;

const ADD_API_HOLDS: &str = "INSERT INTO api_holds (id, account, amount, route, expires_at, ttl_ms) \
     SELECT value->>0, value->>1, value->>2, value->>3, value->>4, value->>5 FROM jsonb_each(?);";

const RENEW_API_HOLDS: &str = "UPDATE api_holds SET expires_at = new.value->>1, ttl_ms = new.value->>2 \
     FROM jsonb_each(?) AS new WHERE api_holds.id = new.value->>0;";

const END_API_HOLDS: &str =
    "DELETE FROM api_holds WHERE id IN (SELECT value->>0 FROM jsonb_each(?));";

const REMEMBER_ENDED: &str = "INSERT INTO ended_holds (id, account, amount, origin, ending, ended_at) \
     SELECT value->>0, value->>1, value->>2, value->>3, value->>4, value->>5 FROM jsonb_each(?) \
     WHERE true ON CONFLICT (id) DO UPDATE SET ending = excluded.ending;";

const LIST_CRASHED: &str = "INSERT INTO crashed (id, account, route, amount, outcome, at) \
     SELECT value->>0, value->>1, value->>2, value->>3, value->>4, value->>5 FROM json_each(?) \
     WHERE true ON CONFLICT (id) DO UPDATE SET outcome = excluded.outcome, amount = excluded.amount;";

/// Only a replay of the log writes entries with this statement; a commit binds their values (`entry_rows.rs`).
const REPLAY_ENTRIES: &str = "INSERT INTO entries (account, seq, operation, kind, amount, balance_after, route, reason, \
     created_at, held, model, usage, prices) SELECT value->>0, value->>1, value->>2, value->>3, \
     value->>4, value->>5, value->>6, value->>7, value->>8, value->>9, value->>10, value->>11, \
     value->>12 FROM jsonb_each(?);";

const MOVE_BALANCES: &str = "INSERT INTO accounts (id, balance, seq, created_at) \
     SELECT value->>0, value->>1, value->>2, value->>3 FROM jsonb_each(?) WHERE true \
     ON CONFLICT (id) DO UPDATE SET balance = excluded.balance, seq = excluded.seq;";

const ADD_KEYS: &str = "INSERT INTO api_keys (id, hash, account, name, service, hint, created_at, revoked_at) \
     SELECT value->>0, unhex(value->>1), value->>2, value->>3, value->>4, value->>5, value->>6, \
     value->>7 FROM jsonb_each(?);";

const REVOKE_KEYS: &str = "UPDATE api_keys SET revoked_at = gone.value->>1 FROM jsonb_each(?) AS gone \
     WHERE api_keys.id = gone.value->>0 AND revoked_at IS NULL;";

const PUT_EVENTS: &str = "INSERT INTO stripe_events (id, kind, payload, state, note, received_at) \
     SELECT value->>0, value->>1, value->>2, value->>3, value->>4, value->>5 FROM json_each(?) \
     WHERE true ON CONFLICT (id) DO UPDATE SET state = excluded.state, note = excluded.note;";

const DELETE_PAYMENTS: &str =
    "DELETE FROM payments WHERE id IN (SELECT value->>0 FROM json_each(?));";

const PUT_PAYMENTS: &str = "INSERT INTO payments (id, account, paid, document, created_at) \
     SELECT value->>0, value->>1, value->>2, value->>3, value->>4 FROM json_each(?) WHERE true \
     ON CONFLICT (id) DO UPDATE SET account = excluded.account, paid = excluded.paid, \
     document = excluded.document;";

const NAME_PAYMENTS: &str = "INSERT INTO payment_names (name, payment) \
     SELECT value->>0, value->>1 FROM json_each(?) WHERE true \
     ON CONFLICT (name) DO UPDATE SET payment = excluded.payment;";

const PUT_CUSTOMERS: &str = "INSERT INTO stripe_customers (account, customer) \
     SELECT value->>0, value->>1 FROM json_each(?) WHERE true \
     ON CONFLICT (account) DO UPDATE SET customer = excluded.customer;";

const FREEZE: &str = "INSERT INTO freezes (dispute, account) \
     SELECT value->>0, value->>1 FROM json_each(?) WHERE true \
     ON CONFLICT (dispute) DO UPDATE SET account = excluded.account;";

const THAW: &str = "DELETE FROM freezes WHERE dispute IN (SELECT value->>0 FROM json_each(?));";

const BEGIN: &str = "BEGIN IMMEDIATE;";

/// Deletes all rows at once, without reading them.
pub(crate) const EMPTY_LOG: &str = "DELETE FROM batch_log;";

/// Deletes the oldest row.
const DELETE_LOGGED: &str = "DELETE FROM batch_log WHERE number = ?;";

const COUNT_AND_COMMIT: &str = "UPDATE ledger SET commits = commits + 1 WHERE one = 1; COMMIT";

/// The effect of a commit on the log of batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Log {
    /// The log stays as it is.
    Stays,
    /// The log is emptied, because the commit writes the rows of every batch in it. The log is on disk, so this commit
    /// need not be synced: if it is lost, a start writes its rows from the log.
    Emptied,
}

/// The transaction that writes one batch and counts itself as a commit. It has all rows but the entries, as they were
/// when it was made, so it may run while the state changes, and again after a failure.
#[derive(Debug)]
pub(crate) struct Batch {
    begin: Script,
    end: Script,
    log: Log,
}

/// Statements that are sent together.
#[derive(Debug, Default)]
struct Script {
    statements: String,
    /// The parameters of the statements, in order: rows as JSON, or one number.
    documents: Vec<String>,
}

impl Batch {
    /// Makes the transaction that writes `changes` as commit number `now.commit`. If the log is emptied, `changes` must
    /// include the changes of every batch in the log.
    pub fn new(state: &State, calls: &CallHolds, changes: &Changes, now: Now, log: Log) -> Self {
        let (mut begin, mut end) = (Script::default(), Script::default());
        begin.statements.push_str(BEGIN);
        begin.add_holds(calls, changes, now);
        begin.push(MOVE_BALANCES, balances(state, changes, now));
        begin.add_keys(changes, now);
        begin.add_payments(changes);
        begin.add_crashed(changes);
        for (statement, rows) in claims::WRITE.into_iter().zip(claims::rows(changes)) {
            begin.push(statement, rows);
        }
        if log == Log::Emptied {
            begin.statements.push_str(EMPTY_LOG);
        }
        // Without entries, the whole transaction is one message.
        let last = if changes.entries.is_empty() { &mut begin } else { &mut end };
        last.statements.push_str(COUNT_AND_COMMIT);
        Self { begin, end, log }
    }

    /// Runs the transaction, with the entries of the changes that it was made of. After an error the connection is no
    /// longer usable, and only the file's count of commits shows whether the batch was written.
    ///
    /// A transaction that empties the log is not synced to the disk. If the machine crashes before the next synced
    /// commit, the file still has the log as it was, and a start writes the rows again.
    pub async fn write(
        &self,
        entries: &[Entry],
        connection: &mut SqliteConnection,
    ) -> Result<(), sqlx::Error> {
        if self.log == Log::Stays {
            return self.run(entries, connection).await;
        }
        sync_commits(connection, false).await?;
        self.run(entries, connection).await?;
        sync_commits(connection, true).await
    }

    async fn run(
        &self,
        entries: &[Entry],
        connection: &mut SqliteConnection,
    ) -> Result<(), sqlx::Error> {
        self.begin.run(&mut *connection).await?;
        if entries.is_empty() {
            return Ok(());
        }
        entry_rows::insert(&mut *connection, entries).await?;
        self.end.run(connection).await
    }
}

impl Script {
    async fn run(&self, connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        // The script consists of the constants above. So there are few different scripts, and each
        // is prepared once.
        let mut query = sqlx::query(AssertSqlSafe(self.statements.as_str()));
        for document in &self.documents {
            query = query.bind(document.clone());
        }
        query.execute(connection).await.map(drop)
    }

    fn push(&mut self, statement: &str, rows: Rows) {
        if !rows.is_empty() {
            self.statements.push_str(statement);
            self.documents.push(rows.finish());
        }
    }

    fn add_holds(&mut self, calls: &CallHolds, changes: &Changes, now: Now) {
        let (of_calls, of_api) = holds(changes, now);
        self.push(ADD_CALL_HOLDS, of_calls);
        self.push(ADD_API_HOLDS, of_api);
        let spent = calls.spent(changes);
        if spent.len() <= FEW {
            for commit in spent {
                self.statements.push_str(DELETE_CALL_HOLDS);
                self.documents.push(commit.to_string());
            }
        } else {
            let mut rows = Rows::default();
            spent.into_iter().for_each(|commit| rows.row().int(commit).end());
            self.push(DELETE_MANY_CALL_HOLDS, rows);
        }
        let mut renewed = Rows::default();
        for (id, expires_ms) in &changes.holds_renewed {
            let row = renewed.row().text(id.as_str()).int(deadline(*expires_ms, now));
            row.count(left(*expires_ms, now)).end();
        }
        self.push(RENEW_API_HOLDS, renewed);
        let mut gone = Rows::default();
        changes.holds_gone.iter().for_each(|id| gone.row().text(id.as_str()).end());
        self.push(END_API_HOLDS, gone);
        self.push(REMEMBER_ENDED, ended(changes, now));
    }

    fn add_payments(&mut self, changes: &Changes) {
        let mut events = Rows::default();
        for event in changes.events.values() {
            events
                .row()
                .text(&event.id)
                .text(&event.kind)
                .text(&event.payload)
                .text(event.state.as_str())
                .optional(event.note.as_deref())
                .int(event.received_at_ms)
                .end();
        }
        self.push(PUT_EVENTS, events);
        let mut gone = Rows::default();
        changes.payments_gone.iter().for_each(|id| gone.row().text(id).end());
        self.push(DELETE_PAYMENTS, gone);
        let (mut payments, mut names) = (Rows::default(), Rows::default());
        for payment in changes.payments.values() {
            payments
                .row()
                .text(&payment.id)
                .optional(payment.account().map(AccountId::as_str))
                .int(payment.is_paid().into())
                .text(&document(payment))
                .int(payment.created_at_ms)
                .end();
            for name in &payment.facts.names {
                names.row().text(name).text(&payment.id).end();
            }
        }
        self.push(PUT_PAYMENTS, payments);
        self.push(NAME_PAYMENTS, names);
        let mut customers = Rows::default();
        for StripeCustomer { account, customer } in &changes.customers {
            customers.row().text(account.as_str()).text(customer).end();
        }
        self.push(PUT_CUSTOMERS, customers);
        let (mut frozen, mut thawed) = (Rows::default(), Rows::default());
        for (dispute, account) in &changes.freezes {
            match account {
                Some(account) => frozen.row().text(dispute).text(account.as_str()).end(),
                None => thawed.row().text(dispute).end(),
            }
        }
        self.push(FREEZE, frozen);
        self.push(THAW, thawed);
    }

    fn add_crashed(&mut self, changes: &Changes) {
        let mut crashed = Rows::default();
        for call in changes.crashed.values() {
            crashed
                .row()
                .text(call.id.as_str())
                .text(call.account.as_str())
                .text(&call.route)
                .count(call.amount.micros())
                .text(call.outcome.as_str())
                .int(call.at_ms)
                .end();
        }
        self.push(LIST_CRASHED, crashed);
    }

    fn add_keys(&mut self, changes: &Changes, now: Now) {
        let mut added = Rows::default();
        for key in &changes.keys_added {
            let row = added
                .row()
                .text(&key.id)
                .text(&key.hash.to_string())
                .text(key.account.as_str())
                .text(&key.name)
                .int(key.service.into())
                .text(&key.hint)
                .int(key.created_at_ms);
            match key.revoked_at_ms {
                Some(at_ms) => row.int(at_ms).end(),
                None => row.optional(None).end(),
            }
        }
        self.push(ADD_KEYS, added);
        let mut revoked = Rows::default();
        changes.keys_revoked.iter().for_each(|id| revoked.row().text(id).int(now.wall_ms).end());
        self.push(REVOKE_KEYS, revoked);
    }
}

/// A payment as JSON. All its keys are strings, so it always serializes.
fn document(payment: &Payment) -> String {
    serde_json::to_string(payment).unwrap_or_default()
}

/// The rows that `changes` of calls make, as JSON, for the log: `[holds, entries, balances, ended holds]`. If a claim
/// changes, four more lists follow, for [`claims::WRITE`].
pub(crate) fn calls_as_json(state: &State, changes: &Changes, now: Now) -> String {
    let (of_calls, _) = holds(changes, now);
    let mut entries = Rows::default();
    changes.entries.iter().for_each(|entry| add_entry(&mut entries, entry));
    let rows = [of_calls, entries, balances(state, changes, now), ended(changes, now)];
    let has_claims = !changes.claims.is_empty() || !changes.left.is_empty();
    let claims = has_claims.then(|| claims::rows(changes));
    let claims = claims.as_ref().map_or(&[][..], |rows| &rows[..]);
    let length = rows.iter().chain(claims).map(Rows::len).sum::<usize>();
    let mut json = String::with_capacity(length + 32);
    for (index, rows) in rows.iter().chain(claims).enumerate() {
        json.push(if index == 0 { '[' } else { ',' });
        rows.push_onto(&mut json);
    }
    json.push(']');
    json
}

/// The transaction that writes the rows of one batch in the log, with or without claims, and deletes the batch from the
/// log. It counts as a commit. Members that an entry's row lacks are read as NULL.
pub(crate) fn replay_script(with_claims: bool) -> String {
    let calls = [BEGIN, ADD_CALL_HOLDS, REPLAY_ENTRIES, MOVE_BALANCES, REMEMBER_ENDED];
    let claims = if with_claims { &claims::WRITE[..] } else { &[] };
    [&calls[..], claims, &[DELETE_LOGGED, COUNT_AND_COMMIT]].concat().concat()
}

/// The time from now until `ledger_ms`, in milliseconds.
fn left(ledger_ms: u64, now: Now) -> u64 {
    ledger_ms.saturating_sub(now.ledger_ms)
}

/// `ledger_ms` converted into a time of the wall clock.
fn deadline(ledger_ms: u64, now: Now) -> i64 {
    now.wall_ms.saturating_add(i64::try_from(left(ledger_ms, now)).unwrap_or(i64::MAX))
}

/// The rows of new holds: first of calls, then of the API.
fn holds(changes: &Changes, now: Now) -> (Rows, Rows) {
    let (mut of_calls, mut of_api) = (Rows::default(), Rows::default());
    for (id, hold) in &changes.holds_added {
        let rows = match hold.origin {
            Origin::Call => &mut of_calls,
            Origin::Api => &mut of_api,
        };
        let row = rows
            .row()
            .text(id.as_str())
            .text(hold.account.as_str())
            .count(hold.amount.micros())
            .text(&hold.route)
            .int(deadline(hold.expires_ms, now));
        match hold.origin {
            Origin::Call => row.end(),
            Origin::Api => row.count(left(hold.expires_ms, now)).end(),
        }
    }
    (of_calls, of_api)
}

/// The rows of holds that ended without a charge.
fn ended(changes: &Changes, now: Now) -> Rows {
    let mut rows = Rows::default();
    for ended in &changes.ended {
        rows.row()
            .text(ended.id.as_str())
            .optional(ended.account.as_ref().map(AccountId::as_str))
            .count(ended.amount.micros())
            .text(ended.origin.as_str())
            .text(ended.ending.as_str())
            .int(now.wall_ms)
            .end();
    }
    rows
}

fn add_entry(rows: &mut Rows, entry: &Entry) {
    let row = rows
        .row()
        .text(entry.account.as_str())
        .count(entry.seq)
        .text(entry.operation.as_str())
        .text(entry.kind.as_str())
        .int(entry.amount.micros())
        .int(entry.balance_after.micros())
        .optional(entry.route.as_deref())
        .optional(entry.reason.as_deref())
        .int(entry.created_at_ms);
    match entry.usage.as_deref() {
        None => row.end(),
        Some(UsageRecord { held, model, usage, prices }) => row
            .count(held.micros())
            .optional(model.as_deref())
            .text(&usage_column(usage))
            .text(prices)
            .end(),
    }
}

/// The rows of accounts whose balance moved.
fn balances(state: &State, changes: &Changes, now: Now) -> Rows {
    let mut rows = Rows::default();
    for id in &changes.touched {
        let account = state.account(id).copied().unwrap_or_default();
        rows.row()
            .text(id.as_str())
            .int(account.balance.micros())
            .count(account.seq)
            .int(now.wall_ms)
            .end();
    }
    rows
}
