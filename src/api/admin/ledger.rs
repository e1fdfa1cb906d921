//! The routes for the ledger as a whole.

use axum::extract::State;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::api::admin::Admin;
use crate::api::body::Json;
use crate::api::transactions::unreadable;
use crate::ledger::{FoldReport, OldMonths, ReconcileReport};
use crate::problem::{Problem, texts};

#[derive(Serialize)]
pub(crate) struct ReconcileBody {
    clean: bool,
    #[serde(flatten)]
    report: ReconcileReport,
}

pub(crate) async fn reconcile(
    State(admin): State<Admin>,
) -> Result<axum::Json<ReconcileBody>, Problem> {
    let report = admin.app.ledger.reconcile().await.map_err(unreadable)?;
    Ok(axum::Json(ReconcileBody { clean: report.is_clean(), report }))
}

#[derive(Deserialize)]
pub(crate) struct FoldRequest {
    #[serde(with = "time::serde::rfc3339")]
    before: OffsetDateTime,
    /// Whether to drop the tables of whole months as well. Only the cluster ledger has such tables.
    #[serde(default)]
    drop: bool,
}

pub(crate) async fn fold(
    State(admin): State<Admin>,
    Json(request): Json<FoldRequest>,
) -> Result<axum::Json<FoldReport>, Problem> {
    if request.before > OffsetDateTime::now_utc() {
        return Err(Problem::bad_request(texts::FOLD_IN_THE_FUTURE));
    }
    let before_ms = request.before.unix_timestamp().saturating_mul(1000);
    let months = if request.drop { OldMonths::Drop } else { OldMonths::Keep };
    admin.app.ledger.fold_months(before_ms, months).await.map(axum::Json).map_err(unreadable)
}
