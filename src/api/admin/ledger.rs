//! The ledger as a whole.

use axum::Json as Answer;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::Admin;
use crate::api::body::Json;
use crate::api::transactions::unreadable;
use crate::ledger::{FoldReport, OldMonths, ReconcileReport};
use crate::problem::{Problem, Text};

#[derive(Serialize)]
pub(crate) struct ReconcileBody {
    clean: bool,
    #[serde(flatten)]
    report: ReconcileReport,
}

pub(crate) async fn reconcile(
    State(admin): State<Admin>,
) -> Result<Answer<ReconcileBody>, Problem> {
    let report = admin.app.ledger.reconcile().await.map_err(unreadable)?;
    Ok(Answer(ReconcileBody { clean: report.is_clean(), report }))
}

#[derive(Deserialize)]
pub(crate) struct FoldRequest {
    #[serde(with = "time::serde::rfc3339")]
    before: OffsetDateTime,
    /// Whether the tables of whole months go too, in the cluster ledger.
    #[serde(default)]
    drop: bool,
}

pub(crate) async fn fold(
    State(admin): State<Admin>,
    Json(request): Json<FoldRequest>,
) -> Result<Answer<FoldReport>, Problem> {
    if request.before > OffsetDateTime::now_utc() {
        return Err(Problem::bad_request(Text::new(
            "`before` lies in the future; only what is past can be folded.",
            "`before` est dans le futur ; seul le passé peut être replié.",
        )));
    }
    let before_ms = request.before.unix_timestamp().saturating_mul(1000);
    let months = if request.drop { OldMonths::Drop } else { OldMonths::Keep };
    admin.app.ledger.fold_months(before_ms, months).await.map(Answer).map_err(unreadable)
}
