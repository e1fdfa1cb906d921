//! The parts that grants, adjustments and imports share.

use serde::Deserialize;

use crate::account::AccountId;
use crate::api::admin::Admin;
use crate::api::holds::bad_id;
use crate::credits::{Credits, SignedCredits};
use crate::ledger::{EntryKind, OperationId, Posting};
use crate::problem::{Problem, texts};

/// The source of granted credits, as the metric names it.
#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum GrantSource {
    /// The operator.
    #[default]
    Admin,
    /// A balance from an earlier system. It may be 0.
    Import,
}

impl GrantSource {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Import => "import",
        }
    }
}

/// Makes the posting for a request. `id` is the id that the caller chose.
pub(super) fn posting(
    kind: EntryKind,
    account: &str,
    amount: SignedCredits,
    id: &str,
    reason: Option<String>,
) -> Result<Posting, Problem> {
    Ok(Posting {
        id: OperationId::posting(kind, id).map_err(bad_id)?,
        account: parse_account(account)?,
        kind,
        amount,
        reason: reason.map(Into::into),
    })
}

/// Adds granted credits to the metric.
pub(super) fn count_granted(admin: &Admin, source: GrantSource, credits: Credits) {
    let granted = &admin.app.metrics.credits_granted;
    granted.with_label_values(&[source.as_str()]).inc_by(credits.as_metric());
}

/// Reads the account's id from a path.
pub(super) fn parse_account(text: &str) -> Result<AccountId, Problem> {
    text.parse().map_err(|error: crate::account::AccountIdError| {
        Problem::bad_request(texts::bad_account(&error))
    })
}
