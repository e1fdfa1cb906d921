//! The newest lines of all accounts.

use axum::Json as Answer;
use axum::extract::{Query, State, rejection::QueryRejection};
use serde::Serialize;

use super::Admin;
use crate::account::AccountId;
use crate::api::transactions::{PageQuery, Transaction, page_query, unreadable};
use crate::problem::Problem;

/// A line, and whose it is.
#[derive(Serialize)]
struct EntryBody {
    account: AccountId,
    #[serde(flatten)]
    line: Transaction,
}

#[derive(Serialize)]
pub(crate) struct EntriesBody {
    entries: Vec<EntryBody>,
}

/// Newest first.
pub(crate) async fn newest(
    State(admin): State<Admin>,
    query: Result<Query<PageQuery>, QueryRejection>,
) -> Result<Answer<EntriesBody>, Problem> {
    let limit = page_query(query)?.limit();
    let entries = admin.app.ledger.read().newest(limit).await.map_err(unreadable)?;
    let catalogue = admin.app.catalogue.load();
    let entries = entries.iter().map(|entry| EntryBody {
        account: entry.account.clone(),
        line: Transaction::of(entry, &catalogue.prices),
    });
    Ok(Answer(EntriesBody { entries: entries.collect() }))
}
