//! Rows back into types. A value that does not fit its type is a decoding error, never a guess.

use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use crate::account::AccountId;
use crate::credits::{Credits, SignedCredits};
use crate::ledger::inbox::{EventState, StripeEvent};
use crate::ledger::key::{KeyHash, KeyRecord};
use crate::ledger::operation::{Entry, EntryKind, HoldId, OperationId};
use crate::ledger::payment::Payment;

/// Reads one column as the type it stands for.
pub(super) trait Column {
    fn parsed<T>(&self, name: &str, parse: impl Fn(&str) -> Option<T>) -> Result<T, sqlx::Error>;
    fn integer<T>(&self, name: &str, fit: impl Fn(i64) -> Option<T>) -> Result<T, sqlx::Error>;

    fn account(&self, name: &str) -> Result<AccountId, sqlx::Error> {
        self.parsed(name, |text| text.parse().ok())
    }
    fn hold(&self, name: &str) -> Result<HoldId, sqlx::Error> {
        self.parsed(name, |text| text.parse().ok())
    }
    fn credits(&self, name: &str) -> Result<Credits, sqlx::Error> {
        self.integer(name, |n| Credits::from_micros(u64::try_from(n).ok()?))
    }
    fn signed(&self, name: &str) -> Result<SignedCredits, sqlx::Error> {
        self.integer(name, SignedCredits::from_micros)
    }
    fn count(&self, name: &str) -> Result<u64, sqlx::Error> {
        self.integer(name, |n| u64::try_from(n).ok())
    }
}

impl Column for SqliteRow {
    fn parsed<T>(&self, name: &str, parse: impl Fn(&str) -> Option<T>) -> Result<T, sqlx::Error> {
        parse(self.try_get(name)?).ok_or_else(|| unfit(name))
    }

    fn integer<T>(&self, name: &str, fit: impl Fn(i64) -> Option<T>) -> Result<T, sqlx::Error> {
        fit(self.try_get(name)?).ok_or_else(|| unfit(name))
    }
}

fn unfit(column: &str) -> sqlx::Error {
    sqlx::Error::ColumnDecode {
        index: column.to_owned(),
        source: "a value that the ledger never wrote".into(),
    }
}

pub(super) fn entry_from(row: &SqliteRow) -> Result<Entry, sqlx::Error> {
    Ok(Entry {
        account: row.account("account")?,
        seq: row.count("seq")?,
        operation: OperationId::stored(row.try_get("operation")?),
        kind: row.parsed("kind", EntryKind::parse)?,
        amount: row.signed("amount")?,
        balance_after: row.signed("balance_after")?,
        route: row.try_get::<Option<&str>, _>("route")?.map(Into::into),
        reason: row.try_get::<Option<&str>, _>("reason")?.map(Into::into),
        created_at_ms: row.try_get("created_at")?,
    })
}

pub(super) fn key_from(row: &SqliteRow) -> Result<KeyRecord, sqlx::Error> {
    let hash = KeyHash::from_bytes(row.try_get("hash")?).ok_or_else(|| unfit("hash"))?;
    Ok(KeyRecord {
        id: row.try_get::<&str, _>("id")?.into(),
        hash,
        account: row.account("account")?,
        name: row.try_get::<&str, _>("name")?.into(),
        service: row.try_get("service")?,
        hint: row.try_get::<&str, _>("hint")?.into(),
        created_at_ms: row.try_get("created_at")?,
        revoked_at_ms: row.try_get("revoked_at")?,
    })
}

pub(super) fn event_from(row: &SqliteRow) -> Result<StripeEvent, sqlx::Error> {
    Ok(StripeEvent {
        id: row.try_get::<&str, _>("id")?.into(),
        kind: row.try_get::<&str, _>("kind")?.into(),
        payload: row.try_get::<&str, _>("payload")?.into(),
        state: row.parsed("state", EventState::parse)?,
        note: row.try_get::<Option<&str>, _>("note")?.map(Into::into),
        received_at_ms: row.try_get("received_at")?,
    })
}

pub(super) fn payment_from(row: &SqliteRow) -> Result<Payment, sqlx::Error> {
    row.parsed("document", |document| serde_json::from_str(document).ok())
}
