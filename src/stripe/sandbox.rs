//! The sandbox: a checkout page of Farebox's own for the demo, on which pressing the button counts as
//! paying. The sandbox then makes a signed event like Stripe's, which the same code receives.

use serde_json::{Value, json};

use super::inbox::{Receipt, ReceiveError};
use super::read::metadata;
use super::sales::{Checkout, Sales};
use super::signature::{SignatureError, sign};
use crate::ledger::{LedgerError, Progress, Refusal, Sale};

/// The content of the sandbox's page for a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SandboxPage {
    /// The pack that is for sale.
    pub sale: Sale,
    /// The progress of the payment.
    pub progress: Progress,
}

impl Sales {
    /// True if buyers pay on the sandbox's page.
    pub fn is_sandbox(&self) -> bool {
        matches!(self.checkout, Checkout::Sandbox { .. })
    }

    /// The page to which the buyer returns from the sandbox's page, as from Stripe's; `None` for the
    /// account page.
    pub fn after_sandbox(&self, paid: bool) -> Option<&str> {
        let url = if paid { &self.config.success_url } else { &self.config.cancel_url };
        (!url.is_empty()).then_some(url)
    }

    /// The page of a session; `None` if there is no such session.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub async fn sandbox_page(&self, session: &str) -> Result<Option<SandboxPage>, LedgerError> {
        if !self.is_sandbox() {
            return Ok(None);
        }
        let payment = self.ledger.read().payment(session).await?;
        Ok(payment.and_then(|payment| {
            let progress = payment.facts.progress;
            payment.facts.sale.map(|sale| SandboxPage { sale, progress })
        }))
    }

    /// Ends a session: the buyer pays, or changes their mind.
    ///
    /// # Errors
    /// The same as for an event of Stripe's.
    pub async fn sandbox_end(
        &self,
        page: &SandboxPage,
        paid: bool,
        now_secs: i64,
    ) -> Result<Receipt, ReceiveError> {
        let kind = if paid { "checkout.session.completed" } else { "checkout.session.expired" };
        let event = json!({
            "id": format!("evt_sandbox_{}", uuid::Uuid::now_v7().simple()),
            "object": "event",
            "type": kind,
            "created": now_secs,
            "livemode": false,
            "data": { "object": self.sandbox_session(&page.sale, paid) },
        });
        let payload = event.to_string();
        let secret = self.config.webhook_secret.first().ok_or(SignatureError::Wrong)?;
        let signature = sign(payload.as_bytes(), secret, now_secs);
        let signature = signature.ok_or(ReceiveError::NotStored(Refusal::Unavailable))?;
        self.receive(payload.into(), Some(&signature), now_secs).await
    }

    fn sandbox_session(&self, sale: &Sale, paid: bool) -> Value {
        // The id follows from the session's id, so pressing the button twice makes only one payment.
        let intent = paid.then(|| sale.session.replacen("cs_", "pi_", 1));
        json!({
            "id": sale.session,
            "object": "checkout.session",
            "mode": "payment",
            "status": if paid { "complete" } else { "expired" },
            "payment_status": if paid { "paid" } else { "unpaid" },
            "payment_intent": intent,
            "client_reference_id": sale.account,
            "amount_subtotal": sale.price.amount,
            "amount_total": sale.price.amount,
            "currency": sale.price.currency,
            "metadata": metadata(sale, &self.ledger_id),
        })
    }
}
