//! The newest entries of all accounts.

use axum::extract::{Query, State, rejection::QueryRejection};
use serde::Serialize;

use crate::account::AccountId;
use crate::api::admin::Admin;
use crate::api::transactions::{PageQuery, Transaction, lines, page_query, unreadable};
use crate::problem::Problem;

/// An entry with its account.
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

/// Lists entries, newest first.
pub(crate) async fn newest(
    State(admin): State<Admin>,
    query: Result<Query<PageQuery>, QueryRejection>,
) -> Result<axum::Json<EntriesBody>, Problem> {
    let limit = page_query(query)?.limit();
    let entries = admin.app.ledger.read().newest(limit).await.map_err(unreadable)?;
    let lines = lines(&admin.app, &entries).await;
    let entries = entries.into_iter().zip(lines);
    let entries = entries.map(|(entry, line)| EntryBody { account: entry.account, line });
    Ok(axum::Json(EntriesBody { entries: entries.collect() }))
}
