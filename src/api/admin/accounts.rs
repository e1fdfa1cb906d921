//! Accounts, grants and adjustments.

use axum::Extension;
use axum::extract::{Path, Query, State, rejection::QueryRejection};
use http::HeaderName;
use serde::{Deserialize, Deserializer, Serialize};

use crate::account::AccountId;
use crate::api::admin::Admin;
use crate::api::admin::import;
use crate::api::admin::payments::ImportedPayment;
use crate::api::admin::posting::{GrantSource, count_granted, parse_account, posting};
use crate::api::admin::token::Change;
use crate::api::body::Json;
use crate::api::holds::bad_id;
use crate::api::transactions::{
    HistoryQuery, PageQuery, Transaction, TransactionsBody, page, page_query, rfc3339, unreadable,
};
use crate::credits::{Credits, SignedCredits, json_number};
use crate::ledger::{AccountView, Entry, EntryKind, HoldId, ImportRow, OperationId, Posting};
use crate::problem::{Problem, texts};

/// The body of a request for a grant.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct GrantRequest {
    #[serde(deserialize_with = "json_number")]
    credits: Credits,
    id: String,
    #[serde(default)]
    reason: Option<String>,
    #[serde(default)]
    source: GrantSource,
    /// The payment, in an earlier system, with which the credits were bought.
    #[serde(default)]
    payment: Option<ImportedPayment>,
}

/// The body of a request for an adjustment, which may be positive or negative.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AdjustmentRequest {
    #[serde(deserialize_with = "json_number")]
    credits: SignedCredits,
    id: String,
    #[serde(default)]
    reason: Option<String>,
}

/// A header that marks a response as a repetition: the request's id was used before, so the body is
/// that of the first response, and no credits moved this time.
pub(crate) const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

type Replayed = Option<[(HeaderName, &'static str); 1]>;

fn replayed(new: bool) -> Replayed {
    (!new).then_some([(REPLAYED, "true")])
}

/// The effect of a grant or adjustment. A repeated request gets the same body, until the entry is
/// folded into an opening balance.
#[derive(Serialize)]
pub(crate) struct PostedBody {
    id: String,
    account: AccountId,
    credits: SignedCredits,
    balance_after: Option<SignedCredits>,
    reason: Option<String>,
    created_at: Option<String>,
}

impl PostedBody {
    fn of(id: String, entry: Entry) -> Self {
        let is_known = !entry.is_folded();
        Self {
            id,
            account: entry.account,
            credits: entry.amount,
            balance_after: is_known.then_some(entry.balance_after),
            reason: entry.reason.as_deref().map(str::to_owned),
            created_at: is_known.then(|| rfc3339(entry.created_at_ms)),
        }
    }
}

pub(crate) async fn grant(
    State(admin): State<Admin>,
    Path(account): Path<String>,
    Json(request): Json<GrantRequest>,
) -> Result<(Extension<Change>, Replayed, axum::Json<PostedBody>), Problem> {
    let GrantRequest { credits, id, reason, source, payment } = request;
    let posting = posting(EntryKind::Grant, &account, credits.signed(), &id, reason)?;
    let facts = |payment: ImportedPayment| {
        payment.facts(&admin, posting.account.clone(), credits, &id).map(Box::new)
    };
    let payment = payment.map(facts).transpose()?;
    let (entry, new) = if source == GrantSource::Import || payment.is_some() {
        import::grant(&admin, ImportRow::Grant { posting, payment }).await?
    } else {
        post(&admin, posting).await?
    };
    if new {
        count_granted(&admin, source, credits);
    }
    Ok((Change::of(&id), replayed(new), axum::Json(PostedBody::of(id, entry))))
}

pub(crate) async fn adjust(
    State(admin): State<Admin>,
    Path(account): Path<String>,
    Json(request): Json<AdjustmentRequest>,
) -> Result<(Extension<Change>, Replayed, axum::Json<PostedBody>), Problem> {
    let AdjustmentRequest { credits, id, reason } = request;
    // An adjustment opens no account. Otherwise a typing error in the id would create one.
    let balance = admin.app.ledger.balance(&parse_account(&account)?).await;
    let refuse = |refusal| admin.app.refuse(refusal, Credits::ZERO);
    balance.map_err(refuse)?.ok_or_else(unknown_account)?;
    let posting = posting(EntryKind::Adjustment, &account, credits, &id, reason)?;
    let (entry, new) = post(&admin, posting).await?;
    Ok((Change::of(&id), replayed(new), axum::Json(PostedBody::of(id, entry))))
}

async fn post(admin: &Admin, posting: Posting) -> Result<(Entry, bool), Problem> {
    let posted = admin.app.ledger.post(posting).await;
    posted.map_err(|refusal| admin.app.refuse(refusal, Credits::ZERO))
}

/// The part of a capture to refund. Without `credits`, everything that was not refunded yet.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RefundRequest {
    #[serde(default, deserialize_with = "some_number")]
    credits: Option<Credits>,
    /// The caller's id for this part. A repeated id refunds nothing again.
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    reason: Option<String>,
}

/// Reads an amount. `null` is refused: only a missing amount means everything that is left.
fn some_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Credits>, D::Error> {
    json_number(deserializer).map(Some)
}

pub(crate) async fn refund(
    State(admin): State<Admin>,
    Path(request_id): Path<String>,
    Json(request): Json<RefundRequest>,
) -> Result<(Replayed, axum::Json<Transaction>), Problem> {
    let hold: HoldId = request_id.parse().map_err(bad_id)?;
    let reason = request.reason.map(Into::into);
    let refunded = match (request.credits, &request.id) {
        (None, None) => admin.app.ledger.refund(hold, reason).await,
        (Some(amount), Some(id)) => {
            let id = OperationId::refund_part(&hold, id).map_err(bad_id)?;
            admin.app.ledger.refund_part(hold, id, amount, reason).await
        }
        _ => {
            return Err(Problem::bad_request(texts::REFUND_PART_OR_ALL));
        }
    };
    let (entry, new) = refunded.map_err(|refusal| admin.app.refuse(refusal, Credits::ZERO))?;
    let catalogue = admin.app.catalogue.load();
    Ok((replayed(new), axum::Json(Transaction::of(&entry, &catalogue.prices))))
}

/// An account in a list.
#[derive(Serialize)]
pub(crate) struct AccountBody {
    account: AccountId,
    balance: SignedCredits,
    held: Credits,
    available: SignedCredits,
    /// True while a dispute freezes the account.
    frozen: bool,
    created_at: String,
}

impl From<AccountView> for AccountBody {
    fn from(view: AccountView) -> Self {
        Self {
            account: view.account,
            balance: view.balance.balance,
            held: view.balance.held,
            available: view.balance.available(),
            frozen: view.balance.frozen,
            created_at: rfc3339(view.created_at_ms),
        }
    }
}

#[derive(Serialize)]
pub(crate) struct AccountsBody {
    accounts: Vec<AccountBody>,
    /// `null` on the last page. A page of a search reads a bounded number of accounts, so it may be
    /// short, or empty, without being the last one.
    next_cursor: Option<String>,
}

impl AccountsBody {
    fn of(accounts: Vec<AccountView>, next_cursor: Option<String>) -> Self {
        Self { accounts: accounts.into_iter().map(Into::into).collect(), next_cursor }
    }
}

/// The most accounts that one page of a search reads, which takes a fraction of a second.
const SEARCHED_ACCOUNTS: u32 = 100_000;

/// The first character of a search's cursor, once the search has listed all ids that start with the
/// text. No id contains a space, so a cursor that begins with an id cannot begin with this.
const ELSEWHERE: &str = " ";

/// A search for accounts whose ids contain this text, ignoring ASCII case. Ids that start with the
/// text come first.
#[derive(Deserialize)]
pub(crate) struct SearchQuery {
    #[serde(default)]
    search: String,
}

pub(crate) async fn list(
    State(admin): State<Admin>,
    query: Result<Query<PageQuery>, QueryRejection>,
    search: Result<Query<SearchQuery>, QueryRejection>,
) -> Result<axum::Json<AccountsBody>, Problem> {
    let query = page_query(query)?;
    let search = search.map(|Query(query)| query.search).unwrap_or_default();
    let start = query.cursor.as_deref().map(|text| {
        let (is_elsewhere, id) =
            text.strip_prefix(ELSEWHERE).map_or((false, text), |id| (true, id));
        let after = (!id.is_empty()).then(|| parse_account(id)).transpose()?;
        Ok::<_, Problem>((is_elsewhere, after))
    });
    let (is_elsewhere, mut after) = start.transpose()?.unwrap_or_default();
    let limit = query.limit() as usize;
    let read = admin.app.ledger.read();
    let mut accounts = Vec::new();
    if !is_elsewhere {
        accounts =
            read.accounts(&search, after.as_ref(), query.limit() + 1).await.map_err(unreadable)?;
        if accounts.len() > limit {
            accounts.truncate(limit);
            let next_cursor = accounts.last().map(|last| last.account.to_string());
            return Ok(axum::Json(AccountsBody::of(accounts, next_cursor)));
        }
        after = None;
    }
    let mut next_cursor = None;
    if !search.is_empty() {
        let wanted = u32::try_from(limit - accounts.len()).unwrap_or(u32::MAX).saturating_add(1);
        let found = read
            .accounts_with(&search, after.as_ref(), wanted, SEARCHED_ACCOUNTS)
            .await
            .map_err(unreadable)?;
        let full = accounts.len() + found.accounts.len() > limit;
        accounts.extend(found.accounts);
        accounts.truncate(limit);
        // A full page continues after the last account on it whose id contains the text in the
        // middle. If the page has no such account, the next page begins with the first one.
        let last = if full {
            let last = accounts.last().filter(|last| !last.account.as_str().starts_with(&search));
            Some(last.map(|last| last.account.clone()))
        } else {
            found.looked_until.map(Some)
        };
        next_cursor =
            last.map(|last| format!("{ELSEWHERE}{}", last.as_ref().map_or("", AccountId::as_str)));
    }
    Ok(axum::Json(AccountsBody::of(accounts, next_cursor)))
}

pub(crate) async fn show(
    State(admin): State<Admin>,
    Path(account): Path<String>,
) -> Result<axum::Json<AccountBody>, Problem> {
    let account = parse_account(&account)?;
    let ledger = &admin.app.ledger;
    // The balance comes from the pipeline, so it includes unwritten operations in `relaxed` mode.
    let balance = ledger.balance(&account).await.map_err(|_| Problem::ledger_unavailable())?;
    let Some(balance) = balance else { return Err(unknown_account()) };
    let view = ledger.read().account(&account).await.map_err(unreadable)?;
    let view = view.map(|view| AccountView { balance, ..view });
    view.map(|view| axum::Json(view.into())).ok_or_else(unknown_account)
}

pub(crate) async fn transactions(
    State(admin): State<Admin>,
    Path(account): Path<String>,
    query: Result<Query<HistoryQuery>, QueryRejection>,
) -> Result<axum::Json<TransactionsBody>, Problem> {
    let account = parse_account(&account)?;
    page(&admin.app, &account, query).await.map(axum::Json)
}

fn unknown_account() -> Problem {
    Problem::not_found(texts::UNKNOWN_ACCOUNT)
}
