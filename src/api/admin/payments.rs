//! Payments that an earlier system took. They are stored in the ledger, so that a refund or a
//! dispute takes credits back from the account that bought them.

use std::sync::Arc;

use serde::Deserialize;

use crate::account::AccountId;
use crate::api::admin::Admin;
use crate::credits::Credits;
use crate::ledger::{Facts, Money, Progress, Sale, TakeFacts};
use crate::price::Price;
use crate::problem::{Problem, texts};

/// The name of the pack that is stored with sales of an earlier system.
const PACK: &str = "import";

/// A payment for credits in an earlier system.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ImportedPayment {
    /// Stripe's id of the payment, such as `pi_…`.
    payment_intent: Arc<str>,
    /// The amount that was paid, such as `79.00 EUR`. If a part of it is refunded, the same part of
    /// the credits is taken back.
    paid: String,
}

/// True if the text has the form of Stripe's id of a payment.
pub(crate) fn is_payment_intent(text: &str) -> bool {
    text.starts_with("pi_") && text.len() <= 255
}

impl ImportedPayment {
    /// The facts to store: the payment was made, for these credits and this account.
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
            // The import's id is one of the names of the payment, so an import with the same id and
            // another payment is refused.
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
