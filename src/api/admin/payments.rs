//! Payments that an earlier system took. The ledger knows them, so that a refund or a dispute takes
//! credits back from the account that bought them.

use std::sync::Arc;

use serde::Deserialize;

use crate::account::AccountId;
use crate::api::admin::Admin;
use crate::credits::Credits;
use crate::ledger::{Facts, Money, Progress, Sale, TakeFacts};
use crate::price::Price;
use crate::problem::{Problem, texts};

/// The pack name of sales in an earlier system.
const PACK: &str = "import";

/// A payment for credits in an earlier system.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ImportedPayment {
    /// Stripe's id of the payment: `pi_…`.
    payment_intent: Arc<str>,
    /// The amount paid: `79.00 EUR`. Refunds take credits back in proportion to it.
    paid: String,
}

/// True for a text that may be Stripe's id of a payment.
pub(crate) fn is_payment_intent(text: &str) -> bool {
    text.starts_with("pi_") && text.len() <= 255
}

impl ImportedPayment {
    /// The facts to store: that the payment was made, and for which credits and account.
    pub fn facts(
        self,
        admin: &Admin,
        account: AccountId,
        credits: Credits,
        id: &str,
    ) -> Result<TakeFacts, Problem> {
        let Self { payment_intent, paid } = self;
        if !is_payment_intent(&payment_intent) {
            return Err(Problem::bad_request(texts::BAD_PAYMENT_INTENT));
        }
        let price: Price =
            paid.parse().map_err(|error| Problem::bad_request(texts::bad_paid(&error)))?;
        let money = Money {
            amount: price.minor(),
            currency: price.currency().code().to_ascii_lowercase().into(),
        };
        let facts = Facts {
            // With the import's own id as a name, the same id with another payment is refused.
            names: [payment_intent.clone(), format!("import:{id}").into()].into(),
            sale: Some(Sale {
                session: payment_intent,
                account,
                pack: PACK.into(),
                credits,
                price: money.clone(),
                imported: true,
            }),
            progress: Progress::Paid,
            paid: Some(money),
            ..Facts::default()
        };
        let on_dispute = admin.app.sales.as_ref().map(|sales| sales.on_dispute());
        let because = "a payment of an earlier system".into();
        Ok(TakeFacts { event: None, facts, on_dispute: on_dispute.unwrap_or_default(), because })
    }
}
