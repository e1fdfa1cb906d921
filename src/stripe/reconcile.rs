//! Comparing the ledger with Stripe, for the payments, refunds and disputes whose events were lost.

use serde::Serialize;

use super::client::ApiError;
use super::read::{of_dispute, of_refund, of_session};
use super::sales::{Checkout, Sales};
use crate::account::AccountId;
use crate::credits::Credits;
use crate::ledger::{Facts, PaymentChange, Progress, Refusal, Stage};

/// The reason why the comparison stopped early. The facts that it had applied until then stay applied.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// The checkout is the sandbox, so there is nothing at Stripe to compare with.
    #[error("[stripe] has `sandbox = true`: there is no Stripe to compare the ledger with")]
    Sandbox,
    /// A request to Stripe failed.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The ledger refused to apply something.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// The result of a comparison with Stripe.
#[derive(Debug, Default, Serialize)]
pub struct Reconciled {
    /// Completed sessions that were compared.
    pub sessions: usize,
    /// Refunds that were compared.
    pub refunds: usize,
    /// Disputes that were compared.
    pub disputes: usize,
    /// Sessions, refunds and disputes whose payments did not begin with this ledger.
    pub foreign: usize,
    /// The payments about which the ledger had missed something, which is now applied.
    pub applied: Vec<Applied>,
}

/// The credits that moved when missed facts about one payment were applied.
#[derive(Debug, Serialize)]
pub struct Applied {
    /// The id of the session, refund or dispute at Stripe.
    pub from: String,
    /// The account that bought.
    pub account: Option<AccountId>,
    /// Credits granted.
    pub granted: Credits,
    /// Credits taken back.
    pub clawed_back: Credits,
    /// Credits given back.
    pub reinstated: Credits,
}

impl Sales {
    /// Applies the completed sessions, refunds and disputes that Stripe has made since `since_secs` (seconds since
    /// 1970), each by the same rules as its events. Running it again applies nothing twice.
    ///
    /// # Errors
    /// See [`ReconcileError`].
    pub async fn reconcile(&self, since_secs: i64) -> Result<Reconciled, ReconcileError> {
        let Checkout::Stripe(client) = &self.checkout else { return Err(ReconcileError::Sandbox) };
        let mut report = Reconciled::default();
        for session in client.completed_sessions(since_secs).await? {
            report.sessions += 1;
            let facts = of_session(&session, Progress::Pending, &self.ledger_id);
            self.compare(&mut report, &session.id, facts).await?;
        }
        for refund in client.refunds(since_secs).await? {
            report.refunds += 1;
            self.compare(&mut report, &refund.id, of_refund(&refund)).await?;
        }
        for dispute in client.disputes(since_secs).await? {
            report.disputes += 1;
            self.compare(&mut report, &dispute.id, of_dispute(&dispute, Stage::Inquiry)).await?;
        }
        Ok(report)
    }

    async fn compare(
        &self,
        report: &mut Reconciled,
        from: &str,
        facts: Facts,
    ) -> Result<(), Refusal> {
        let change = self.take(None, facts, format!("reconcile {from}").into()).await?;
        if !change.is_ours() {
            report.foreign += 1;
        }
        if change.moved() {
            report.applied.push(Applied::of(from, &change));
        }
        Ok(())
    }
}

impl Applied {
    fn of(from: &str, change: &PaymentChange) -> Self {
        Self {
            from: from.to_owned(),
            account: change.payment.account().cloned(),
            granted: change.granted,
            clawed_back: change.clawed_back,
            reinstated: change.reinstated,
        }
    }
}
