//! Imports the balances and API keys of an earlier system. Either all rows of a request are
//! imported, or none of them.

use axum::extract::State;
use http::HeaderMap;
use serde::{Deserialize, Serialize};

use crate::account::AccountId;
use crate::api::admin::Admin;
use crate::api::admin::payments::ImportedPayment;
use crate::api::admin::posting::{GrantSource, count_granted, posting};
use crate::api::body::LargeJson;
use crate::credits::{Credits, SignedCredits, json_number};
use crate::ledger::{
    Entry, EntryKind, Import, ImportRow, ImportedRow, KeyHash, KeyRecord, Refusal, wall_ms,
};
use crate::problem::{Language, Problem, Text, texts};

/// The most account rows in one request. The ledger decides nothing else while it imports them.
const MAX_ROWS: usize = 2000;

/// The body of a request that imports balances.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AccountsRequest {
    rows: Vec<AccountRow>,
    /// Reports the outcome without importing anything.
    #[serde(default)]
    dry_run: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AccountRow {
    account: String,
    /// The balance. Zero is allowed, and opens the account.
    #[serde(deserialize_with = "json_number")]
    credits: Credits,
    id: String,
    #[serde(default)]
    reason: Option<String>,
    #[serde(default)]
    payment: Option<ImportedPayment>,
}

impl AccountRow {
    fn read(self, admin: &Admin) -> Result<ImportRow, Problem> {
        let Self { account, credits, id, reason, payment } = self;
        let posting = posting(EntryKind::Grant, &account, credits.signed(), &id, reason)?;
        let facts = |payment: ImportedPayment| {
            payment.facts(admin, posting.account.clone(), credits, &id).map(Box::new)
        };
        let payment = payment.map(facts).transpose()?;
        Ok(ImportRow::Grant { posting, payment })
    }
}

/// The body of a request that imports API keys by their hashes, so that customers can go on using
/// them.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeysRequest {
    keys: Vec<KeyRow>,
    /// Reports the outcome without importing anything.
    #[serde(default)]
    dry_run: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyRow {
    account: AccountId,
    /// The SHA-256 of the key, as 64 hexadecimal digits.
    hash: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    service: bool,
}

impl KeyRow {
    fn read(self, created_at_ms: i64) -> Result<KeyRecord, Problem> {
        let hash: KeyHash =
            self.hash.parse().map_err(|error| Problem::bad_request(texts::bad_key_hash(&error)))?;
        Ok(KeyRecord {
            // The id is made from the hash, so importing a key again gives the same record.
            id: format!("key_{}", &hash.to_string()[..32]).into(),
            hash,
            account: self.account,
            name: self.name.into(),
            service: self.service,
            hint: "".into(),
            created_at_ms,
            revoked_at_ms: None,
        })
    }
}

/// The outcome of an import; in a dry run, the outcome that it would have.
#[derive(Serialize)]
pub(crate) struct ImportBody {
    imported: usize,
    existing: usize,
    /// The credits that the new rows granted.
    credits: Credits,
    /// The rows that would be refused. Only a dry run lists them.
    refused: Vec<RefusedRow>,
}

#[derive(Serialize)]
struct RefusedRow {
    /// The index of the row, from 0.
    row: usize,
    detail: String,
}

/// Imports the balances of accounts.
pub(crate) async fn accounts(
    State(admin): State<Admin>,
    headers: HeaderMap,
    LargeJson(request): LargeJson<AccountsRequest>,
) -> Result<axum::Json<ImportBody>, Problem> {
    if request.rows.len() > MAX_ROWS {
        return Err(Problem::bad_request(texts::too_many_rows(MAX_ROWS)));
    }
    let rows = read_each(request.rows, "rows", |row| row.read(&admin))?;
    let body = import_rows(&admin, rows, request.dry_run, Language::of(&headers)).await?;
    if !request.dry_run {
        count_granted(&admin, GrantSource::Import, body.credits);
    }
    Ok(axum::Json(body))
}

/// Imports API keys, which are valid at once.
pub(crate) async fn keys(
    State(admin): State<Admin>,
    headers: HeaderMap,
    LargeJson(request): LargeJson<KeysRequest>,
) -> Result<axum::Json<ImportBody>, Problem> {
    let now_ms = wall_ms();
    let keys = read_each(request.keys, "keys", |key| key.read(now_ms))?;
    let rows = keys.iter().cloned().map(ImportRow::Key).collect();
    let body = import_rows(&admin, rows, request.dry_run, Language::of(&headers)).await?;
    if !request.dry_run {
        for key in keys {
            // A key that exists already under another id stays as it is, and so does its
            // revocation.
            let _ = admin.app.keys.insert(key);
        }
    }
    Ok(axum::Json(body))
}

/// Imports one account. Returns its grant, and whether the grant is new.
pub(super) async fn grant(admin: &Admin, row: ImportRow) -> Result<(Entry, bool), Problem> {
    let rows = import(admin, vec![row], false).await?;
    match rows.into_iter().next() {
        Some(Ok(ImportedRow::Granted { entry, new })) => Ok((entry, new)),
        Some(Err(refusal)) => Err(admin.app.refuse(refusal, Credits::ZERO)),
        Some(Ok(ImportedRow::KeyStored { .. })) | None => Err(Problem::ledger_unavailable()),
    }
}

async fn import(
    admin: &Admin,
    rows: Vec<ImportRow>,
    dry_run: bool,
) -> Result<Vec<Result<ImportedRow, Refusal>>, Problem> {
    let imported = admin.app.ledger.import(Import { rows, dry_run }).await;
    imported.map_err(|refusal| admin.app.refuse(refusal, Credits::ZERO))
}

async fn import_rows(
    admin: &Admin,
    rows: Vec<ImportRow>,
    dry_run: bool,
    language: Language,
) -> Result<ImportBody, Problem> {
    let are_keys: Vec<bool> = rows.iter().map(|row| matches!(row, ImportRow::Key(_))).collect();
    let (mut imported, mut existing, mut granted) = (0, 0, Vec::new());
    let mut refused = Vec::new();
    for (row, outcome) in import(admin, rows, dry_run).await?.into_iter().enumerate() {
        match outcome {
            Ok(ImportedRow::Granted { entry, new: true }) => {
                imported += 1;
                granted.push(entry.amount);
            }
            Ok(ImportedRow::KeyStored { new: true }) => imported += 1,
            Err(refusal) => {
                let problem = match refusal {
                    Refusal::Conflict if are_keys.get(row) == Some(&true) => of_another(),
                    refusal => admin.app.refuse(refusal, Credits::ZERO),
                };
                if !dry_run {
                    return Err(nothing_imported(row, problem));
                }
                let detail = problem.detail.in_language(language).to_owned();
                refused.push(RefusedRow { row, detail });
            }
            Ok(_) => existing += 1,
        }
    }
    let credits = granted.into_iter().map(SignedCredits::spendable).sum();
    Ok(ImportBody { imported, existing, credits, refused })
}

/// Reads all rows. The error names the first row that cannot be read.
fn read_each<R, T>(
    rows: Vec<R>,
    list: &str,
    read: impl Fn(R) -> Result<T, Problem>,
) -> Result<Vec<T>, Problem> {
    let read = |(index, row)| {
        read(row).map_err(|problem| {
            let Text { en, fr } = &problem.detail;
            let place = format!("{list}[{index}]");
            let detail = texts::at_place(&place, en, fr);
            problem.with_detail(detail)
        })
    };
    rows.into_iter().enumerate().map(read).collect()
}

fn of_another() -> Problem {
    Problem::conflict(texts::KEY_OF_ANOTHER)
}

/// The problem for a request of which one row is refused, so that none is imported.
fn nothing_imported(row: usize, problem: Problem) -> Problem {
    let Text { en, fr } = &problem.detail;
    let detail = texts::nothing_imported(row, en, fr);
    problem.with_detail(detail)
}
