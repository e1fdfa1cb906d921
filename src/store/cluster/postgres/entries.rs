//! Writes the tables `entries`, `operations` and `accounts`, for all writers of the ledger.

use std::collections::BTreeMap;

use sqlx::Executor as _;
use sqlx::postgres::{PgConnection, PgRow};
use uuid::Uuid;

use crate::account::AccountId;
use crate::credits::Credits;
use crate::ledger::LedgerError;
use crate::ledger::operation::EntryKind;
use crate::ledger::rules::state::Account;
use crate::store::cluster::batch_log::storable;
use crate::store::cluster::postgres::copy::Rows;
use crate::store::cluster::postgres::store::Store;
use crate::store::cluster::postgres::tally::Capture;
use crate::store::sql::rows::{Column as _, usage_column};
use crate::usage::UsageRecord;

/// Entries as columns, which `UNNEST` turns into rows.
#[derive(Debug, Default)]
pub(crate) struct EntryColumns {
    pub accounts: Vec<String>,
    pub seqs: Vec<i64>,
    pub operations: Vec<String>,
    pub kinds: Vec<&'static str>,
    pub amounts: Vec<i64>,
    pub balances: Vec<i64>,
    pub routes: Vec<Option<String>>,
    pub reasons: Vec<Option<String>>,
    pub times: Vec<i64>,
    pub held: Vec<Option<i64>>,
    pub models: Vec<Option<String>>,
    pub usages: Vec<Option<String>>,
    pub prices: Vec<Option<String>>,
}

impl EntryColumns {
    /// Adds the usage of the call whose entry was pushed last.
    pub fn push_usage(&mut self, record: Option<&UsageRecord>) {
        self.held.push(record.map(|record| record.held.signed().micros()));
        self.models.push(record.and_then(|record| record.model.as_deref()).map(storable));
        self.usages.push(record.map(|record| usage_column(&record.usage)));
        self.prices.push(record.map(|record| storable(&record.prices)));
    }
}

/// The entries of charges and the ids of their operations, as rows that are copied into the tables.
#[derive(Debug)]
pub(crate) struct ChargeRows {
    entries: Rows,
    /// The ids of calls' charges.
    calls: Rows,
    /// The ids of the API's charges.
    operations: Rows,
    /// Whether some charge is a metered call's. Most batches have none, so the columns of usage are usually left out.
    is_metered: bool,
    /// No entry is written with an earlier time than this, in milliseconds since 1970.
    closed_before_ms: i64,
}

impl ChargeRows {
    /// The columns of every charge's entry, and the additional columns of a metered call's entry.
    const ENTRY: &str = "account, seq, operation, kind, amount, balance_after, route, created_at";
    const USAGE: &str = ", held, model, usage, prices";

    /// Creates an empty list with room for these charges. From here on no month is closed until the transaction ends.
    pub async fn begin(
        store: &Store,
        captures: &[Capture],
        on: &mut PgConnection,
    ) -> Result<Self, LedgerError> {
        // A folding closes months, and then waits for all transactions that have this lock. So the time is read after
        // the lock was granted, in a later statement.
        let sql = store.sql(
            "LOCK TABLE ONLY {s}.entries IN ROW EXCLUSIVE MODE; SELECT closed_before FROM {s}.ledger",
        );
        let closed_before_ms = on.fetch_one(sql).await?.int("closed_before")?;
        let is_metered = captures.iter().any(|capture| capture.usage.is_some());
        let (columns, bytes) = if is_metered { (12, 512) } else { (8, 192) };
        let entries = Rows::with_room_for(columns, bytes * captures.len());
        let calls = Rows::with_room_for(5, 96 * captures.len());
        let operations = Rows::with_room_for(6, 0);
        Ok(Self { entries, calls, operations, is_metered, closed_before_ms })
    }

    /// Adds a charge. `account` is the state of the account after the charge.
    pub fn push(&mut self, capture: &Capture, account: &Account) -> Result<(), LedgerError> {
        let (id, operation) = (capture.account.as_str(), capture.operation.as_str());
        let (seq, amount, kind) = (int(account.seq)?, capture.amount.micros(), EntryKind::Capture);
        let at_ms = capture.at_ms.max(self.closed_before_ms);
        let call = capture.operation.hold().filter(|_| capture.is_call);
        if let Some(call) = call.and_then(|call| Uuid::parse_str(call).ok()) {
            let rows = &mut self.calls;
            rows.row();
            rows.uuid(call);
            rows.int(seq);
            rows.int(amount);
            rows.int(at_ms);
            rows.text(id)?;
        } else {
            let rows = &mut self.operations;
            rows.row();
            rows.text(operation)?;
            rows.text(id)?;
            rows.int(seq);
            rows.text(kind.as_str())?;
            rows.int(amount);
            rows.int(at_ms);
        }
        let rows = &mut self.entries;
        rows.row();
        rows.text(id)?;
        rows.int(seq);
        rows.text(operation)?;
        rows.text(kind.as_str())?;
        rows.int(amount);
        rows.int(account.balance.micros());
        rows.text(&capture.route)?;
        rows.int(at_ms);
        match capture.usage.as_deref() {
            _ if !self.is_metered => {}
            None => (0..4).for_each(|_| rows.null()),
            Some(record) => {
                rows.int(record.held.signed().micros());
                match record.model.as_deref() {
                    Some(model) => rows.text(&storable(model))?,
                    None => rows.null(),
                }
                rows.text(&usage_column(&record.usage))?;
                rows.text(&storable(&record.prices))?;
            }
        }
        Ok(())
    }

    /// Writes the rows.
    pub async fn write(self, store: &Store, on: &mut PgConnection) -> Result<(), LedgerError> {
        let more = if self.is_metered { Self::USAGE } else { "" };
        // Boxed, because together they would make the future of a batch too large for the stack of a debug build.
        let calls = "calls (id, seq, amount, created_at, account)";
        Box::pin(self.calls.write(calls, store, &mut *on)).await?;
        let operations = "operations (id, account, seq, kind, amount, created_at)";
        Box::pin(self.operations.write(operations, store, &mut *on)).await?;
        let entries = format!("entries ({}{more})", Self::ENTRY);
        Box::pin(self.entries.write(&entries, store, on)).await
    }
}

/// Locks accounts, and reads those that exist. All writers lock in the order of the ids, so that no
/// two of them deadlock.
pub(crate) async fn lock_accounts(
    store: &Store,
    sorted: &[AccountId],
    on: &mut PgConnection,
) -> Result<BTreeMap<AccountId, Account>, LedgerError> {
    let ids: Vec<_> = sorted.iter().map(|id| id.as_str().to_owned()).collect();
    let rows = store
        .query(
            "SELECT id, balance, seq FROM {s}.accounts WHERE id = ANY($1) ORDER BY id FOR UPDATE",
        )
        .bind(ids)
        .fetch_all(on)
        .await?;
    let mut accounts = BTreeMap::new();
    for row in rows {
        let balance = row.signed("balance")?;
        let account = Account { balance, held: Credits::ZERO, seq: row.count("seq")? };
        accounts.insert(row.account("id")?, account);
    }
    Ok(accounts)
}

/// Inserts the entries of decisions of Postgres, and the ids of their operations. If an entry's month has been folded, the
/// entry goes into the first open month.
pub(crate) async fn insert_entries(
    store: &Store,
    columns: EntryColumns,
    on: &mut PgConnection,
) -> Result<(), LedgerError> {
    let is_metered = columns.usages.iter().any(Option::is_some);
    // Most batches have no metered call, so the statement usually leaves the columns of usage out.
    let (more, types) = match is_metered {
        false => ("", ""),
        true => {
            (", held, model, usage, prices", ", $10::int8[], $11::text[], $12::text[], $13::text[]")
        }
    };
    let sql = format!(
        "WITH new AS (SELECT account, seq, operation, kind, amount, balance_after, route, reason, \
         greatest(created_at, (SELECT closed_before FROM {{s}}.ledger)) AS created_at{more} FROM \
         UNNEST($1::text[], $2::int8[], $3::text[], $4::text[], \
         $5::int8[], $6::int8[], $7::text[], $8::text[], $9::int8[]{types}) AS n (account, seq, \
         operation, kind, amount, balance_after, route, reason, created_at{more})), \
         once AS (INSERT INTO {{s}}.operations (id, account, seq, kind, amount, created_at) \
         SELECT operation, account, seq, kind, amount, created_at FROM new) \
         INSERT INTO {{s}}.entries (account, seq, operation, kind, amount, balance_after, route, \
         reason, created_at{more}) SELECT * FROM new"
    );
    let query = store
        .query(&sql)
        .bind(columns.accounts)
        .bind(columns.seqs)
        .bind(columns.operations)
        .bind(columns.kinds)
        .bind(columns.amounts)
        .bind(columns.balances)
        .bind(columns.routes)
        .bind(columns.reasons)
        .bind(columns.times);
    let query = match is_metered {
        false => query,
        true => {
            query.bind(columns.held).bind(columns.models).bind(columns.usages).bind(columns.prices)
        }
    };
    query.execute(on).await?;
    Ok(())
}

/// Writes the balances of accounts: an update for those in `known`, which are locked, and an insert
/// for the others. Adds `grants` to each `grant_seq`. Returns a row for each account, with `id`,
/// `grant_seq` and `frozen`.
pub(crate) async fn write_accounts(
    store: &Store,
    known: &BTreeMap<AccountId, Account>,
    accounts: &BTreeMap<AccountId, Account>,
    grants: i64,
    at_ms: i64,
    on: &mut PgConnection,
) -> Result<Vec<PgRow>, LedgerError> {
    const NEW: &str = "INSERT INTO {s}.accounts AS a (id, balance, seq, grant_seq, created_at) \
         SELECT id, balance, seq, $4, $5 FROM \
         UNNEST($1::text[], $2::int8[], $3::int8[]) AS n (id, balance, seq)";
    const KNOWN: &str = "UPDATE {s}.accounts a SET balance = n.balance, seq = n.seq, \
         grant_seq = a.grant_seq + $4 FROM \
         UNNEST($1::text[], $2::int8[], $3::int8[]) AS n (id, balance, seq) \
         WHERE a.id = n.id AND $5::int8 IS NOT NULL";
    let mut rows = Vec::new();
    let (old, new): (Vec<_>, Vec<_>) = accounts.iter().partition(|(id, _)| known.contains_key(*id));
    for (sql, accounts) in [(KNOWN, old), (NEW, new)] {
        if accounts.is_empty() {
            continue;
        }
        let mut columns = (Vec::new(), Vec::new(), Vec::new());
        for (id, account) in accounts {
            columns.0.push(id.as_str().to_owned());
            columns.1.push(account.balance.micros());
            columns.2.push(int(account.seq)?);
        }
        // An insert fails if another transaction has just made the account. The second attempt then
        // finds it.
        let written = store
            .query(&format!("{sql} RETURNING a.id, a.grant_seq, a.frozen"))
            .bind(columns.0)
            .bind(columns.1)
            .bind(columns.2)
            .bind(grants)
            .bind(at_ms)
            .fetch_all(&mut *on)
            .await?;
        rows.extend(written);
    }
    Ok(rows)
}

/// A count as the database's integer type.
pub(crate) fn int(count: u64) -> Result<i64, LedgerError> {
    i64::try_from(count).map_err(|_| LedgerError::Corrupt {
        what: "a sequence number is too large for the database".into(),
    })
}
