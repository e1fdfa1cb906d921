//! Conversion of rows into types. A value that does not fit its type is a decoding error.

use std::sync::Arc;

use sqlx::Row as _;
use sqlx::postgres::PgRow;
use sqlx::sqlite::SqliteRow;

use crate::account::AccountId;
use crate::credits::{Credits, MAX_MICROS, SignedCredits};
use crate::ledger::Replays;
use crate::ledger::crash::{CrashOutcome, CrashedCall};
use crate::ledger::inbox::{EventState, StripeEvent};
use crate::ledger::key::{KeyHash, KeyRecord};
use crate::ledger::operation::{Entry, EntryKind, HoldId, OperationId};
use crate::ledger::payment::Payment;
use crate::usage::{Usage, UsageRecord};

/// Reads a column as a type of the ledger.
pub(crate) trait Column {
    fn text(&self, name: &str) -> Result<&str, sqlx::Error>;
    fn optional_text(&self, name: &str) -> Result<Option<&str>, sqlx::Error>;
    fn int(&self, name: &str) -> Result<i64, sqlx::Error>;
    fn optional_int(&self, name: &str) -> Result<Option<i64>, sqlx::Error>;
    fn flag(&self, name: &str) -> Result<bool, sqlx::Error>;
    fn bytes(&self, name: &str) -> Result<&[u8], sqlx::Error>;

    /// Reads a text and converts it with `parse`.
    fn parsed<T>(&self, name: &str, parse: impl Fn(&str) -> Option<T>) -> Result<T, sqlx::Error> {
        parse(self.text(name)?).ok_or_else(|| unfit(name))
    }
    /// Reads a number and converts it with `fit`.
    fn integer<T>(&self, name: &str, fit: impl Fn(i64) -> Option<T>) -> Result<T, sqlx::Error> {
        fit(self.int(name)?).ok_or_else(|| unfit(name))
    }
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
    /// Reads a sum of amounts. A sum that is out of range becomes the largest amount.
    fn sum(&self, name: &str) -> Result<SignedCredits, sqlx::Error> {
        const MOST: i64 = MAX_MICROS as i64;
        self.integer(name, |sum| SignedCredits::from_micros(sum.clamp(-MOST, MOST)))
    }
    /// Reads a sum of captures, which is negative, as a positive amount.
    fn spent(&self, name: &str) -> Result<Credits, sqlx::Error> {
        self.sum(name)?.non_negative().ok_or_else(|| unfit(name))
    }
    fn count(&self, name: &str) -> Result<u64, sqlx::Error> {
        self.integer(name, |n| u64::try_from(n).ok())
    }
}

/// Implements [`Column`] for a database's row.
macro_rules! column {
    ($row:ty) => {
        impl Column for $row {
            fn text(&self, name: &str) -> Result<&str, sqlx::Error> {
                self.try_get(name)
            }
            fn optional_text(&self, name: &str) -> Result<Option<&str>, sqlx::Error> {
                self.try_get(name)
            }
            fn int(&self, name: &str) -> Result<i64, sqlx::Error> {
                self.try_get(name)
            }
            fn optional_int(&self, name: &str) -> Result<Option<i64>, sqlx::Error> {
                self.try_get(name)
            }
            fn flag(&self, name: &str) -> Result<bool, sqlx::Error> {
                self.try_get(name)
            }
            fn bytes(&self, name: &str) -> Result<&[u8], sqlx::Error> {
                self.try_get(name)
            }
        }
    };
}

column!(SqliteRow);
column!(PgRow);

/// The error for a value that does not fit its type.
pub(crate) fn unfit(column: &str) -> sqlx::Error {
    sqlx::Error::ColumnDecode {
        index: column.to_owned(),
        source: "the value is not one that the ledger writes".into(),
    }
}

/// Reads a row of the list of calls that were cut off.
pub(crate) fn crashed_from(row: &impl Column) -> Result<CrashedCall, sqlx::Error> {
    Ok(CrashedCall {
        id: row.hold("id")?,
        account: row.account("account")?,
        route: row.text("route")?.into(),
        amount: row.credits("amount")?,
        outcome: row.parsed("outcome", CrashOutcome::parse)?,
        at_ms: row.int("at")?,
    })
}

/// Reads a row with a call and how often its answer was sent again.
pub(crate) fn replays_from(row: &impl Column) -> Result<(HoldId, Replays), sqlx::Error> {
    let replays = Replays { times: row.count("times")?, last_ms: row.int("last")? };
    Ok((row.hold("call")?, replays))
}

/// The columns of a row that [`entry_with_usage_from`] reads.
pub(crate) const ENTRY: &str = "account, seq, operation, kind, amount, balance_after, route, reason, created_at, \
    held, model, usage, prices";

/// Reads a row of `entries`, with the usage of its call.
pub(crate) fn entry_with_usage_from(row: &impl Column) -> Result<Entry, sqlx::Error> {
    let usage = match row.optional_text("usage")? {
        None => None,
        Some(_) => Some(Arc::new(UsageRecord {
            held: row.credits("held")?,
            model: row.optional_text("model")?.map(Into::into),
            usage: row.parsed("usage", |usage| serde_json::from_str(usage).ok())?,
            prices: row.text("prices")?.into(),
        })),
    };
    Ok(Entry { usage, ..entry_from(row)? })
}

/// Formats a usage for the column `usage`.
pub(crate) fn usage_column(usage: &Usage) -> String {
    // The keys are the names of kinds, so the usage always serializes.
    serde_json::to_string(usage).unwrap_or_default()
}

/// Reads a row of `entries` without the usage of its call, which the rules do not need.
pub(crate) fn entry_from(row: &impl Column) -> Result<Entry, sqlx::Error> {
    Ok(Entry {
        account: row.account("account")?,
        seq: row.count("seq")?,
        operation: OperationId::stored(row.text("operation")?),
        kind: row.parsed("kind", EntryKind::parse)?,
        amount: row.signed("amount")?,
        balance_after: row.signed("balance_after")?,
        route: row.optional_text("route")?.map(Into::into),
        reason: row.optional_text("reason")?.map(Into::into),
        created_at_ms: row.int("created_at")?,
        usage: None,
    })
}

/// Reads a row of `api_keys`.
pub(crate) fn key_from(row: &impl Column) -> Result<KeyRecord, sqlx::Error> {
    Ok(KeyRecord {
        id: row.text("id")?.into(),
        hash: KeyHash::from_bytes(row.bytes("hash")?).ok_or_else(|| unfit("hash"))?,
        account: row.account("account")?,
        name: row.text("name")?.into(),
        service: row.flag("service")?,
        hint: row.text("hint")?.into(),
        created_at_ms: row.int("created_at")?,
        revoked_at_ms: row.optional_int("revoked_at")?,
    })
}

/// Reads a row of `stripe_events`.
pub(crate) fn event_from(row: &impl Column) -> Result<StripeEvent, sqlx::Error> {
    Ok(StripeEvent {
        id: row.text("id")?.into(),
        kind: row.text("kind")?.into(),
        payload: row.text("payload")?.into(),
        state: row.parsed("state", EventState::parse)?,
        note: row.optional_text("note")?.map(Into::into),
        received_at_ms: row.int("received_at")?,
    })
}

/// Reads a row of `payments`. Only the column `document` is used.
pub(crate) fn payment_from(row: &impl Column) -> Result<Payment, sqlx::Error> {
    row.parsed("document", |document| serde_json::from_str(document).ok())
}
