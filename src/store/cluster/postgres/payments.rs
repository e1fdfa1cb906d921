//! Payments in Postgres: the rows that the rules of payments read and change, and the reads that
//! `stripe` needs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sqlx::Row as _;
use sqlx::postgres::PgConnection;

use crate::account::AccountId;
use crate::ledger::LedgerError;
use crate::ledger::inbox::{EventState, StripeEvent};
use crate::ledger::operation::Operation;
use crate::ledger::payment::Payment;
use crate::ledger::rules::state::{Changes, Known, Lookups, State};
use crate::store::cluster::batch_log::storable;
use crate::store::cluster::postgres::deliveries::{self, NewDeliveries};
use crate::store::cluster::postgres::store::Store;
use crate::store::sql::rows::{Column as _, event_from, payment_from};

/// Whether the operation is about events, payments or customers.
pub(crate) fn concerns_payments(operation: &Operation) -> bool {
    matches!(
        operation,
        Operation::RecordEvent(_)
            | Operation::EndEvent { .. }
            | Operation::TakeFacts(_)
            | Operation::RecordCustomer { .. }
            | Operation::Thaw { .. }
    ) || matches!(operation, Operation::Import(import) if import.concerns_payments())
}

/// Takes the lock for payments, which ends with the transaction, and reads which accounts are frozen. All payments
/// share one lock: two gateways may at once receive events about the same payment under different ids, and only both
/// events together show that it is the same payment.
pub(crate) async fn lock_payments(
    store: &Store,
    state: &mut State,
    on: &mut PgConnection,
) -> Result<(), LedgerError> {
    store.lock("payments", on).await?;
    let rows = store.query("SELECT dispute, account FROM {s}.freezes").fetch_all(on).await?;
    for row in &rows {
        let disputes = state.freezes.entry(row.account("account")?).or_default();
        disputes.insert(row.text("dispute")?.into());
    }
    Ok(())
}

/// Reads the events, payments and customers that the rules need.
pub(crate) async fn read_payments(
    store: &Store,
    wanted: &Lookups,
    known: &mut Known,
    on: &mut PgConnection,
) -> Result<(), LedgerError> {
    if !wanted.events.is_empty() {
        let rows = store
            .query("SELECT * FROM {s}.stripe_events WHERE id = ANY($1)")
            .bind(texts(&wanted.events))
            .fetch_all(&mut *on)
            .await?;
        for row in &rows {
            let event = event_from(row)?;
            known.events.insert(event.id.clone(), event);
        }
    }
    if !wanted.payments.is_empty() {
        let rows = store
            .query(
                "SELECT document FROM {s}.payments WHERE id IN \
                 (SELECT payment FROM {s}.payment_names WHERE name = ANY($1))",
            )
            .bind(texts(&wanted.payments))
            .fetch_all(&mut *on)
            .await?;
        for row in &rows {
            let payment = payment_from(row)?;
            known.payments.insert(payment);
        }
    }
    if !wanted.customers.is_empty() {
        let accounts: Vec<_> = wanted.customers.iter().map(|id| id.as_str().to_owned()).collect();
        let rows = store
            .query("SELECT account, customer FROM {s}.stripe_customers WHERE account = ANY($1)")
            .bind(accounts)
            .fetch_all(on)
            .await?;
        for row in &rows {
            known.customers.insert(row.account("account")?, row.text("customer")?.into());
        }
    }
    Ok(())
}

/// Writes the events, payments and customers that the rules changed.
pub(crate) async fn write_payments(
    store: &Store,
    changes: &Changes,
    on: &mut PgConnection,
) -> Result<(), LedgerError> {
    for event in changes.events.values() {
        store
            .query(
                "INSERT INTO {s}.stripe_events (id, kind, payload, state, note, received_at) \
             VALUES ($1, $2, $3, $4, $5, $6) \
             ON CONFLICT (id) DO UPDATE SET state = excluded.state, note = excluded.note",
            )
            .bind(&*event.id)
            .bind(storable(&event.kind))
            .bind(storable(&event.payload))
            .bind(event.state.as_str())
            .bind(event.note.as_deref().map(storable))
            .bind(event.received_at_ms)
            .execute(&mut *on)
            .await?;
    }
    let gone: Vec<_> = changes.payments_gone.iter().map(|id| (**id).to_owned()).collect();
    if !gone.is_empty() {
        let drop = "DELETE FROM {s}.payments WHERE id = ANY($1)";
        store.query(drop).bind(gone).execute(&mut *on).await?;
    }
    write_documents(store, changes, on).await?;
    for kept in &changes.customers {
        store
            .query(
                "INSERT INTO {s}.stripe_customers (account, customer) VALUES ($1, $2) \
             ON CONFLICT (account) DO UPDATE SET customer = excluded.customer",
            )
            .bind(kept.account.as_str())
            .bind(&*kept.customer)
            .execute(&mut *on)
            .await?;
    }
    Ok(())
}

/// Writes payments, and the names by which each can be found.
async fn write_documents(
    store: &Store,
    changes: &Changes,
    on: &mut PgConnection,
) -> Result<(), LedgerError> {
    if changes.payments.is_empty() {
        return Ok(());
    }
    let (mut names, mut named) = (Vec::new(), Vec::new());
    for payment in changes.payments.values() {
        for name in &payment.facts.names {
            names.push((**name).to_owned());
            named.push((*payment.id).to_owned());
        }
    }
    // All keys are strings, so a document always serializes.
    let document =
        |payment: &Payment| storable(&serde_json::to_string(payment).unwrap_or_default());
    store
        .query(
            "INSERT INTO {s}.payments (id, account, paid, document, created_at) \
         SELECT * FROM UNNEST($1::text[], $2::text[], $3::bool[], $4::text[], $5::int8[]) \
         ON CONFLICT (id) DO UPDATE SET \
         account = excluded.account, paid = excluded.paid, document = excluded.document",
        )
        .bind(each(changes, |payment| (*payment.id).to_owned()))
        .bind(each(changes, |payment| payment.account().map(|id| id.as_str().to_owned())))
        .bind(each(changes, Payment::is_paid))
        .bind(each(changes, document))
        .bind(each(changes, |payment| payment.created_at_ms))
        .execute(&mut *on)
        .await?;
    // Payments that share a name have been merged, so each name occurs once.
    store
        .query(
            "INSERT INTO {s}.payment_names (name, payment) \
         SELECT * FROM UNNEST($1::text[], $2::text[]) \
         ON CONFLICT (name) DO UPDATE SET payment = excluded.payment",
        )
        .bind(names)
        .bind(named)
        .execute(on)
        .await?;
    Ok(())
}

/// Writes which disputes freeze which accounts, and adds a delivery for each of these accounts.
pub(crate) async fn write_freezes(
    store: &Store,
    state: &State,
    changes: &Changes,
    on: &mut PgConnection,
) -> Result<(), LedgerError> {
    let mut accounts = BTreeMap::new();
    for (dispute, account) in &changes.freezes {
        let thawed: Option<String> = store
            .query("DELETE FROM {s}.freezes WHERE dispute = $1 RETURNING account")
            .bind(&**dispute)
            .fetch_optional(&mut *on)
            .await?
            .map(|row| row.try_get("account"))
            .transpose()?;
        if let Some(id) = thawed.and_then(|id| id.parse::<AccountId>().ok()) {
            accounts.insert(id.clone(), state.is_frozen(&id));
        }
        let Some(id) = account else { continue };
        store
            .query("INSERT INTO {s}.freezes (dispute, account) VALUES ($1, $2)")
            .bind(&**dispute)
            .bind(id.as_str())
            .execute(&mut *on)
            .await?;
        accounts.insert(id.clone(), true);
    }
    let mut queued = NewDeliveries::default();
    for (id, frozen) in &accounts {
        let changed = store
            .query(
                "UPDATE {s}.accounts SET frozen = $2, grant_seq = grant_seq + 1 \
                 WHERE id = $1 RETURNING id, grant_seq, frozen",
            )
            .bind(id.as_str())
            .bind(frozen)
            .fetch_optional(&mut *on)
            .await?;
        if let Some(row) = &changed {
            queued.push(row, 0)?;
        }
    }
    deliveries::queue(store, queued, on).await
}

/// The ledger's id. It distinguishes sales of this ledger from those of other ledgers that use the
/// same Stripe account.
pub(crate) async fn ledger_id(store: &Store) -> Result<String, LedgerError> {
    store
        .transact(async |on| {
            let row = store.query("SELECT id FROM {s}.ledger").fetch_one(on).await?;
            Ok(row.try_get("id")?)
        })
        .await
}

/// Reads one event of the inbox.
pub(crate) async fn event(store: &Store, id: &str) -> Result<Option<StripeEvent>, LedgerError> {
    store
        .transact(async |on| {
            let row = store.query("SELECT * FROM {s}.stripe_events WHERE id = $1").bind(id);
            Ok(row.fetch_optional(on).await?.as_ref().map(event_from).transpose()?)
        })
        .await
}

/// Reads events of the inbox, oldest first. `after` is the time and id of the event that was read
/// last.
pub(crate) async fn events(
    store: &Store,
    state: Option<EventState>,
    after: Option<(i64, &str)>,
    limit: u32,
) -> Result<Vec<StripeEvent>, LedgerError> {
    let (after_ms, after_id) = after.unwrap_or((i64::MIN, ""));
    store
        .transact(async |on| {
            let rows = store
                .query(
                    "SELECT * FROM {s}.stripe_events WHERE ($1::text IS NULL OR state = $1) \
                 AND (received_at, id) > ($2, $3 COLLATE \"C\") \
                 ORDER BY received_at, id LIMIT $4",
                )
                .bind(state.map(EventState::as_str))
                .bind(after_ms)
                .bind(after_id)
                .bind(i64::from(limit))
                .fetch_all(on)
                .await?;
            Ok(rows.iter().map(event_from).collect::<Result<_, _>>()?)
        })
        .await
}

/// Reads a payment by any of its ids at Stripe.
pub(crate) async fn payment(store: &Store, name: &str) -> Result<Option<Payment>, LedgerError> {
    store
        .transact(async |on| {
            let row = store
                .query(
                    "SELECT document FROM {s}.payments WHERE id = \
                 (SELECT payment FROM {s}.payment_names WHERE name = $1)",
                )
                .bind(name)
                .fetch_optional(on)
                .await?;
            Ok(row.as_ref().map(payment_from).transpose()?)
        })
        .await
}

/// Reads the purchases that an account began since `since_ms` and has not paid, newest first.
pub(crate) async fn unpaid(
    store: &Store,
    account: &AccountId,
    since_ms: i64,
    limit: u32,
) -> Result<Vec<Payment>, LedgerError> {
    store
        .transact(async |on| {
            let rows = store
                .query(
                    "SELECT document FROM {s}.payments WHERE account = $1 AND NOT paid \
                 AND created_at >= $2 ORDER BY created_at DESC, id LIMIT $3",
                )
                .bind(account.as_str())
                .bind(since_ms)
                .bind(i64::from(limit))
                .fetch_all(on)
                .await?;
            Ok(rows.iter().map(payment_from).collect::<Result<_, _>>()?)
        })
        .await
}

/// Counts the accounts that have ever paid.
pub(crate) async fn buyers(store: &Store) -> Result<u64, LedgerError> {
    store
        .transact(async |on| {
            let count = "SELECT count(DISTINCT account) AS buyers FROM {s}.payments WHERE paid";
            Ok(store.query(count).fetch_one(on).await?.count("buyers")?)
        })
        .await
}

/// Reads the id of an account's customer at Stripe.
pub(crate) async fn customer(
    store: &Store,
    account: &AccountId,
) -> Result<Option<Arc<str>>, LedgerError> {
    store
        .transact(async |on| {
            let row = store
                .query("SELECT customer FROM {s}.stripe_customers WHERE account = $1")
                .bind(account.as_str())
                .fetch_optional(on)
                .await?;
            Ok(row.map(|row| row.text("customer").map(Into::into)).transpose()?)
        })
        .await
}

/// The accounts whose balances operations on payments may change: the accounts of the known payments and of the sales
/// in the facts, and the accounts that are unfrozen.
pub(crate) fn accounts_of_payments(operations: &[Operation], known: &Known) -> BTreeSet<AccountId> {
    let mut ids: BTreeSet<AccountId> =
        known.payments.values().filter_map(|payment| payment.account().cloned()).collect();
    for operation in operations {
        match operation {
            Operation::TakeFacts(take) => {
                ids.extend(take.facts.sale.as_ref().map(|sale| sale.account.clone()));
            }
            Operation::Thaw { account } => drop(ids.insert(account.clone())),
            _ => {}
        }
    }
    ids
}

fn each<T>(changes: &Changes, column: impl Fn(&Payment) -> T) -> Vec<T> {
    changes.payments.values().map(column).collect()
}

fn texts(ids: &[Arc<str>]) -> Vec<String> {
    ids.iter().map(|id| (**id).to_owned()).collect()
}
