//! The changes of accounts that Postgres decided and Redis has to apply.
//!
//! Each change has a number, by which Redis applies an account's changes in order and once, and a digest of 8 bytes,
//! which is a chain over (digest before, number, amount, frozen). If a Postgres lost a change in a failover, it gives
//! the number of that change to the next one. Redis then finds a digest that differs from its own, and the account is
//! loaded anew.

use sqlx::Row as _;
use sqlx::postgres::{PgConnection, PgRow};

use crate::ledger::LedgerError;
use crate::store::cluster::postgres::store::Store;
use crate::store::sql::rows::Column as _;

const QUEUED: &str = "SELECT account, grant_seq, amount, frozen, coalesce(before, '') AS before, \
     coalesce(digest, '') AS digest FROM {s}.deliveries";

/// A change of an account that Postgres decided and Redis has to apply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Delivery {
    pub account: String,
    /// The number of the change; Redis applies an account's deliveries in this order.
    pub grant_seq: i64,
    /// The change of the balance, in micro-credits.
    pub amount: i64,
    pub frozen: bool,
    /// The digest of the account's changes before this one; empty if an earlier version queued this change.
    pub before: Vec<u8>,
    /// The digest of the account's changes including this one.
    pub digest: Vec<u8>,
}

/// Changes to be queued, column by column, at most one for each account.
#[derive(Debug, Default)]
pub(super) struct NewDeliveries {
    pub accounts: Vec<String>,
    pub numbers: Vec<i64>,
    pub amounts: Vec<i64>,
    pub frozen: Vec<bool>,
}

impl NewDeliveries {
    /// Adds a change of the account in `row`, which has `id`, `grant_seq` and `frozen` after the change.
    pub fn push(&mut self, row: &PgRow, amount: i64) -> Result<(), LedgerError> {
        self.accounts.push(row.text("id")?.to_owned());
        self.numbers.push(row.int("grant_seq")?);
        self.amounts.push(amount);
        self.frozen.push(row.flag("frozen")?);
        Ok(())
    }
}

/// Queues changes, and adds them to the digests of their accounts, whose rows must be locked.
pub(super) async fn queue(
    store: &Store,
    new: NewDeliveries,
    on: &mut PgConnection,
) -> Result<(), LedgerError> {
    if new.accounts.is_empty() {
        return Ok(());
    }
    store
        .query(
            "WITH n AS (SELECT u.*, a.digest AS before FROM \
             UNNEST($1::text[], $2::int8[], $3::int8[], $4::bool[]) \
             AS u (account, grant_seq, amount, frozen) JOIN {s}.accounts a ON a.id = u.account), \
             chained AS (SELECT n.*, substring(sha256(before || int8send(grant_seq) || int8send(amount) \
             || boolsend(frozen)) FROM 1 FOR 8) AS digest FROM n), \
             kept AS (UPDATE {s}.accounts a SET digest = c.digest FROM chained c WHERE a.id = c.account) \
             INSERT INTO {s}.deliveries (account, grant_seq, amount, frozen, before, digest) \
             SELECT account, grant_seq, amount, frozen, before, digest FROM chained",
        )
        .bind(new.accounts)
        .bind(new.numbers)
        .bind(new.amounts)
        .bind(new.frozen)
        .execute(on)
        .await?;
    Ok(())
}

/// Reads the deliveries that Redis has not applied, in the order of each account.
pub(crate) async fn deliveries(store: &Store, limit: i64) -> Result<Vec<Delivery>, LedgerError> {
    let rows = store
        .transact(async |on| {
            let sql = format!("{QUEUED} ORDER BY account, grant_seq LIMIT $1");
            Ok(store.query(&sql).bind(limit).fetch_all(on).await?)
        })
        .await?;
    rows.iter().map(delivery).collect()
}

/// Reads the deliveries for these accounts, in the transaction `on`.
pub(super) async fn queued_for(
    store: &Store,
    accounts: &[String],
    on: &mut PgConnection,
) -> Result<Vec<Delivery>, LedgerError> {
    let sql = format!("{QUEUED} WHERE account = ANY($1) ORDER BY account, grant_seq");
    let rows = store.query(&sql).bind(accounts.to_vec()).fetch_all(on).await?;
    rows.iter().map(delivery).collect()
}

fn delivery(row: &PgRow) -> Result<Delivery, LedgerError> {
    Ok(Delivery {
        account: row.text("account")?.to_owned(),
        grant_seq: row.int("grant_seq")?,
        amount: row.int("amount")?,
        frozen: row.flag("frozen")?,
        before: row.try_get("before")?,
        digest: row.try_get("digest")?,
    })
}

/// Deletes deliveries that Redis has applied. A delivery with the number of one of them and another digest stays, because
/// a Postgres that failed over has given the number to another change.
pub(crate) async fn remove_deliveries(
    store: &Store,
    applied: &[Delivery],
) -> Result<(), LedgerError> {
    let accounts: Vec<_> = applied.iter().map(|change| change.account.clone()).collect();
    let numbers: Vec<_> = applied.iter().map(|change| change.grant_seq).collect();
    let digests: Vec<_> = applied.iter().map(|change| change.digest.clone()).collect();
    store
        .transact(async |on| {
            store
                .query(
                    "DELETE FROM {s}.deliveries d USING UNNEST($1::text[], $2::int8[], $3::bytea[]) \
                     AS n (account, grant_seq, digest) WHERE d.account = n.account \
                     AND d.grant_seq = n.grant_seq AND coalesce(d.digest, '') = n.digest",
                )
                .bind(accounts)
                .bind(numbers)
                .bind(digests)
                .execute(on)
                .await?;
            Ok(())
        })
        .await
}
