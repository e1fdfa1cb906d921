//! Asking Stripe what happened, and taking up what no event told.

use serde::Serialize;
use stripe_checkout::checkout_session::ListCheckoutSession;
use stripe_core::dispute::ListDispute;
use stripe_core::refund::ListRefund;
use stripe_shared::CheckoutSessionStatus;
use stripe_types::RangeQueryTs;

use super::client::{ApiError, Client, PAGE};
use super::objects::{Dispute, Refund, Session};
use super::read::{of_dispute, of_refund, of_session};
use super::sales::{Checkout, Sales};
use crate::account::AccountId;
use crate::credits::Credits;
use crate::ledger::{Facts, PaymentChange, Progress, Refusal, Stage};

/// Why Stripe could not be compared with the ledger to the end. What was taken up stays.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// There is no Stripe behind the sandbox.
    #[error("the sandbox has no Stripe to compare with")]
    Sandbox,
    /// Stripe did not answer.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The ledger did not take something.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// What a comparison with Stripe found.
#[derive(Debug, Default, Serialize)]
pub struct Reconciled {
    /// Completed sessions that were looked at.
    pub sessions: usize,
    /// Refunds that were looked at.
    pub refunds: usize,
    /// Disputes that were looked at.
    pub disputes: usize,
    /// Those of them that this ledger did not start.
    pub foreign: usize,
    /// What had been left out and is taken up now.
    pub applied: Vec<Applied>,
}

/// What was left out of one payment.
#[derive(Debug, Serialize)]
pub struct Applied {
    /// The session, refund or dispute that told it.
    pub from: String,
    /// Whose.
    pub account: Option<AccountId>,
    /// Credits granted.
    pub granted: Credits,
    /// Credits taken back.
    pub clawed_back: Credits,
    /// Credits given back.
    pub reinstated: Credits,
}

impl Sales {
    /// Takes up the completed sessions, refunds and disputes that Stripe has made since
    /// `since_secs` (seconds since 1970), each by the same rules as its events. Repeatable.
    ///
    /// # Errors
    /// See [`ReconcileError`].
    pub async fn reconcile(&self, since_secs: i64) -> Result<Reconciled, ReconcileError> {
        let Checkout::Stripe(client) = &self.checkout else { return Err(ReconcileError::Sandbox) };
        let mut report = Reconciled::default();
        for session in sessions(client, since_secs).await? {
            report.sessions += 1;
            let facts = of_session(&session, Progress::Pending, &self.ledger_id);
            self.compare(&mut report, &session.id, facts).await?;
        }
        for refund in refunds(client, since_secs).await? {
            report.refunds += 1;
            self.compare(&mut report, &refund.id, of_refund(&refund)).await?;
        }
        for dispute in disputes(client, since_secs).await? {
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

async fn sessions(client: &Client, since_secs: i64) -> Result<Vec<Session>, ApiError> {
    let page = |after: Option<&str>| {
        let list = ListCheckoutSession::new()
            .created(RangeQueryTs::gte(since_secs))
            .status(CheckoutSessionStatus::Complete)
            .limit(PAGE);
        match after {
            Some(id) => list.starting_after(id),
            None => list,
        }
    };
    client.list(page, |session: &Session| &session.id).await
}

async fn refunds(client: &Client, since_secs: i64) -> Result<Vec<Refund>, ApiError> {
    let page = |after: Option<&str>| {
        let list = ListRefund::new().created(RangeQueryTs::gte(since_secs)).limit(PAGE);
        match after {
            Some(id) => list.starting_after(id),
            None => list,
        }
    };
    client.list(page, |refund: &Refund| &refund.id).await
}

async fn disputes(client: &Client, since_secs: i64) -> Result<Vec<Dispute>, ApiError> {
    let page = |after: Option<&str>| {
        let list = ListDispute::new().created(RangeQueryTs::gte(since_secs)).limit(PAGE);
        match after {
            Some(id) => list.starting_after(id),
            None => list,
        }
    };
    client.list(page, |dispute: &Dispute| &dispute.id).await
}
