//! Reads the state of the ledger from its file, and further rows that decisions need.

use sqlx::Row as _;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use crate::account::AccountId;
use crate::credits::Credits;
use crate::ledger::LedgerError;
use crate::ledger::operation::{Ending, HoldId, Origin};
use crate::ledger::rules::state::{Account, EndedHold, Known, LiveHold, Lookups, Now, State};
use crate::store::sql::rows::{Column as _, entry_from, event_from, key_from, payment_from};
use crate::store::sqlite::claims;

/// Reads how many batches the file has committed.
pub(crate) async fn commits(connection: &mut SqliteConnection) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("SELECT commits FROM ledger WHERE one = 1").fetch_one(connection).await
}

/// Reads every balance, live hold, freeze and claim of a running call, and the number of commits.
pub(crate) async fn state(
    connection: &mut SqliteConnection,
    now: Now,
) -> Result<(State, i64), LedgerError> {
    let mut state = State::default();
    let accounts = sqlx::query("SELECT id, balance, seq FROM accounts");
    for row in accounts.fetch_all(&mut *connection).await? {
        let account = Account {
            balance: row.signed("balance")?,
            held: Credits::ZERO,
            seq: row.count("seq")?,
        };
        state.insert_account(row.account("id")?, account);
    }
    let holds = sqlx::query(
        "SELECT *, (SELECT ttl_ms FROM api_holds WHERE api_holds.id = holds.id) AS ttl_ms FROM holds",
    );
    for row in holds.fetch_all(&mut *connection).await? {
        let (id, hold) = live_hold_from(&row, now)?;
        if !state.insert_hold(id.clone(), hold) {
            return Err(LedgerError::Corrupt {
                what: format!("hold {id} does not fit its account"),
            });
        }
    }
    let freezes = sqlx::query("SELECT account, dispute FROM freezes ORDER BY account");
    for row in freezes.fetch_all(&mut *connection).await? {
        let dispute = row.try_get::<&str, _>("dispute")?;
        state.freezes.entry(row.account("account")?).or_default().insert(dispute.into());
    }
    claims::load(connection, &mut state, now).await?;
    let commits = commits(connection).await?;
    Ok((state, commits))
}

fn live_hold_from(row: &SqliteRow, now: Now) -> Result<(HoldId, LiveHold), sqlx::Error> {
    let expires_at: i64 = row.try_get("expires_at")?;
    // If the clock was set back, a hold still lives no longer than its whole lifetime.
    let ttl_ms: Option<i64> = row.try_get("ttl_ms")?;
    let left_ms = expires_at.saturating_sub(now.wall_ms).min(ttl_ms.unwrap_or(i64::MAX));
    let hold = LiveHold {
        account: row.account("account")?,
        amount: row.credits("amount")?,
        route: row.try_get::<&str, _>("route")?.into(),
        origin: row.parsed("origin", Origin::parse)?,
        expires_ms: now.ledger_ms.saturating_add(u64::try_from(left_ms).unwrap_or(0)),
        commit: row.try_get("written_by")?,
    };
    Ok((row.hold("id")?, hold))
}

/// Reads the file's rows for the ids in `wanted`.
pub(crate) async fn known(
    connection: &mut SqliteConnection,
    wanted: &Lookups,
) -> Result<Known, sqlx::Error> {
    let mut known = Known::default();
    if !wanted.operations.is_empty() {
        let ids = json(wanted.operations.iter().map(|id| id.as_str()));
        let rows = sqlx::query(
            "SELECT account, seq, operation, kind, amount, balance_after, route, reason, \
             created_at FROM entries WHERE operation IN (SELECT value FROM json_each(?1)) \
             UNION ALL \
             SELECT account, seq, operation, kind, amount, 0, NULL, NULL, 0 \
             FROM folded_operations WHERE operation IN (SELECT value FROM json_each(?1))",
        );
        for row in rows.bind(ids).fetch_all(&mut *connection).await? {
            let entry = entry_from(&row)?;
            known.entries.insert(entry.operation.clone(), entry);
        }
    }
    if !wanted.refunds.is_empty() {
        // A partial refund's id is the full refund's id, a space, and an id of its own. In ASCII,
        // `!` follows the space. So the ids between the full refund's id with a space and the same
        // id with a `!` are those of all partial refunds.
        let holds = json(wanted.refunds.iter().map(HoldId::as_str));
        let rows = sqlx::query(
            "SELECT account, seq, operation, kind, amount, balance_after, route, reason, created_at \
             FROM json_each(?1) w CROSS JOIN entries ON operation > 'refund:' || w.value || ' ' \
             AND operation < 'refund:' || w.value || '!' UNION ALL \
             SELECT account, seq, operation, kind, amount, 0, NULL, NULL, 0 \
             FROM json_each(?1) w CROSS JOIN folded_operations \
             ON operation > 'refund:' || w.value || ' ' AND operation < 'refund:' || w.value || '!'",
        );
        for row in rows.bind(holds).fetch_all(&mut *connection).await? {
            let entry = entry_from(&row)?;
            known.entries.insert(entry.operation.clone(), entry);
        }
    }
    if !wanted.holds.is_empty() {
        let ids = json(wanted.holds.iter().map(HoldId::as_str));
        let rows = sqlx::query(
            "SELECT id, account, amount, origin, ending FROM ended_holds \
             WHERE id IN (SELECT value FROM json_each(?1))",
        );
        for row in rows.bind(ids).fetch_all(&mut *connection).await? {
            let ended = EndedHold {
                id: row.hold("id")?,
                account: row
                    .try_get::<Option<&str>, _>("account")?
                    .and_then(|id| id.parse::<AccountId>().ok()),
                amount: row.credits("amount")?,
                origin: row.parsed("origin", Origin::parse)?,
                ending: row.parsed("ending", Ending::parse)?,
            };
            known.ended.insert(ended.id.clone(), ended);
        }
    }
    if !wanted.key_hashes.is_empty() || !wanted.key_ids.is_empty() {
        let hashes = wanted.key_hashes.iter().map(ToString::to_string).collect::<Vec<_>>();
        let rows = sqlx::query(
            "SELECT * FROM api_keys WHERE id IN (SELECT value FROM json_each(?1)) \
             OR hash IN (SELECT unhex(value) FROM json_each(?2))",
        )
        .bind(json(wanted.key_ids.iter().map(|id| &**id)))
        .bind(json(hashes.iter().map(String::as_str)));
        for row in rows.fetch_all(&mut *connection).await? {
            known.keys.insert(key_from(&row)?);
        }
    }
    if !wanted.claims.is_empty() {
        claims::known(connection, &wanted.claims, &mut known).await?;
    }
    known_of_payments(connection, wanted, &mut known).await?;
    Ok(known)
}

/// Reads the events, payments and customers for [`known`].
async fn known_of_payments(
    connection: &mut SqliteConnection,
    wanted: &Lookups,
    known: &mut Known,
) -> Result<(), sqlx::Error> {
    if !wanted.events.is_empty() {
        let ids = json(wanted.events.iter().map(|id| &**id));
        let rows = sqlx::query(
            "SELECT * FROM stripe_events WHERE id IN (SELECT value FROM json_each(?1))",
        );
        for row in rows.bind(ids).fetch_all(&mut *connection).await? {
            let event = event_from(&row)?;
            known.events.insert(event.id.clone(), event);
        }
    }
    if !wanted.payments.is_empty() {
        let names = json(wanted.payments.iter().map(|name| &**name));
        let rows = sqlx::query(
            "SELECT document FROM payments WHERE id IN (SELECT payment FROM payment_names \
             WHERE name IN (SELECT value FROM json_each(?1)))",
        );
        for row in rows.bind(names).fetch_all(&mut *connection).await? {
            let payment = payment_from(&row)?;
            known.payments.insert(payment);
        }
    }
    if !wanted.customers.is_empty() {
        let accounts = json(wanted.customers.iter().map(AccountId::as_str));
        let rows = sqlx::query(
            "SELECT account, customer FROM stripe_customers \
             WHERE account IN (SELECT value FROM json_each(?1))",
        );
        for row in rows.bind(accounts).fetch_all(&mut *connection).await? {
            let customer = row.try_get::<&str, _>("customer")?;
            known.customers.insert(row.account("account")?, customer.into());
        }
    }
    Ok(())
}

/// A JSON array of ids, for `json_each`.
fn json<'a>(ids: impl Iterator<Item = &'a str>) -> String {
    // A list of strings always serializes.
    serde_json::to_string(&ids.collect::<Vec<_>>()).unwrap_or_default()
}
