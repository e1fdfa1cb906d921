//! Payments in Postgres: what the rules of `till.rs` need to know, and what they change.

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
use crate::store::sql::rows::{Column as _, event_from, payment_from};

use crate::store::cluster::postgres::Store;

/// True for operations on events, payments and customers.
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

impl Store {
    /// Lets nobody else decide about payments until this transaction ends, and reads which accounts
    /// are frozen. Two gateways may hear of one payment at once, under names that only both of them
    /// together show to be one.
    pub(crate) async fn lock_payments(
        &self,
        state: &mut State,
        on: &mut PgConnection,
    ) -> Result<(), LedgerError> {
        self.lock("payments", on).await?;
        let rows = self.query("SELECT dispute, account FROM {s}.freezes").fetch_all(on).await?;
        for row in &rows {
            let disputes = state.freezes.entry(row.account("account")?).or_default();
            disputes.insert(row.text("dispute")?.into());
        }
        Ok(())
    }

    pub(crate) async fn read_payments(
        &self,
        wanted: &Lookups,
        known: &mut Known,
        on: &mut PgConnection,
    ) -> Result<(), LedgerError> {
        if !wanted.events.is_empty() {
            let rows = self
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
            let rows = self
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
            let accounts: Vec<_> =
                wanted.customers.iter().map(|id| id.as_str().to_owned()).collect();
            let rows = self
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

    pub(crate) async fn write_payments(
        &self,
        changes: &Changes,
        on: &mut PgConnection,
    ) -> Result<(), LedgerError> {
        for event in changes.events.values() {
            self.query(
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
            self.query(drop).bind(gone).execute(&mut *on).await?;
        }
        self.write_documents(changes, on).await?;
        for kept in &changes.customers {
            self.query(
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

    async fn write_documents(
        &self,
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
        // Texts and numbers under keys that are texts: a document always serializes.
        let document =
            |payment: &Payment| storable(&serde_json::to_string(payment).unwrap_or_default());
        self.query(
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
        // Payments that share a name have been made one, so each name is told once.
        self.query(
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

    /// Writes which disputes freeze which accounts, and has Redis hear of it.
    pub(crate) async fn write_freezes(
        &self,
        state: &State,
        changes: &Changes,
        on: &mut PgConnection,
    ) -> Result<(), LedgerError> {
        let mut accounts = BTreeMap::new();
        for (dispute, account) in &changes.freezes {
            let thawed: Option<String> = self
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
            self.query("INSERT INTO {s}.freezes (dispute, account) VALUES ($1, $2)")
                .bind(&**dispute)
                .bind(id.as_str())
                .execute(&mut *on)
                .await?;
            accounts.insert(id.clone(), true);
        }
        for (id, frozen) in &accounts {
            self.query(
                "WITH told AS (UPDATE {s}.accounts SET frozen = $2, grant_seq = grant_seq + 1 \
                 WHERE id = $1 RETURNING id, grant_seq) \
                 INSERT INTO {s}.deliveries (account, grant_seq, amount, frozen) \
                 SELECT id, grant_seq, 0, $2 FROM told",
            )
            .bind(id.as_str())
            .bind(frozen)
            .execute(&mut *on)
            .await?;
        }
        Ok(())
    }

    /// What tells this ledger's sales from those of another one on the same Stripe account.
    pub async fn ledger_id(&self) -> Result<String, LedgerError> {
        self.transact(async |on| {
            let row = self.query("SELECT id FROM {s}.ledger").fetch_one(on).await?;
            Ok(row.try_get("id")?)
        })
        .await
    }

    /// One event of the inbox.
    pub async fn event(&self, id: &str) -> Result<Option<StripeEvent>, LedgerError> {
        self.transact(async |on| {
            let row = self.query("SELECT * FROM {s}.stripe_events WHERE id = $1").bind(id);
            Ok(row.fetch_optional(on).await?.as_ref().map(event_from).transpose()?)
        })
        .await
    }

    /// Events of the inbox, oldest first.
    pub async fn events(
        &self,
        state: Option<EventState>,
        after: Option<(i64, &str)>,
        limit: u32,
    ) -> Result<Vec<StripeEvent>, LedgerError> {
        let (after_ms, after_id) = after.unwrap_or((i64::MIN, ""));
        self.transact(async |on| {
            let rows = self
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

    /// A payment by any of Stripe's ids of it.
    pub async fn payment(&self, name: &str) -> Result<Option<Payment>, LedgerError> {
        self.transact(async |on| {
            let row = self
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

    /// The purchases that an account began since a moment and has not paid, newest first.
    pub async fn unpaid(
        &self,
        account: &AccountId,
        since_ms: i64,
        limit: u32,
    ) -> Result<Vec<Payment>, LedgerError> {
        self.transact(async |on| {
            let rows = self
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

    /// How many accounts have ever paid.
    pub async fn buyers(&self) -> Result<u64, LedgerError> {
        self.transact(async |on| {
            let count = "SELECT count(DISTINCT account) AS buyers FROM {s}.payments WHERE paid";
            Ok(self.query(count).fetch_one(on).await?.count("buyers")?)
        })
        .await
    }

    /// An account's customer at Stripe.
    pub async fn customer(&self, account: &AccountId) -> Result<Option<Arc<str>>, LedgerError> {
        self.transact(async |on| {
            let row = self
                .query("SELECT customer FROM {s}.stripe_customers WHERE account = $1")
                .bind(account.as_str())
                .fetch_optional(on)
                .await?;
            Ok(row.map(|row| row.text("customer").map(Into::into)).transpose()?)
        })
        .await
    }
}

/// The accounts that these operations may move: those of the payments that are known, of the facts
/// that are taken up, and of those who are thawed.
pub(crate) fn accounts(operations: &[Operation], known: &Known) -> BTreeSet<AccountId> {
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
