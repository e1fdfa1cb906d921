//! Payments that an earlier system took: known here, so that a refund or a dispute of one takes
//! credits back from who bought them.

use std::sync::Arc;

use serde::Deserialize;

use super::Admin;
use super::accounts::parse_account;
use crate::account::AccountId;
use crate::api::transactions::unreadable;
use crate::credits::Credits;
use crate::ledger::{Facts, Money, Operation, Outcome, Progress, Sale, TakeFacts};
use crate::price::Price;
use crate::problem::{Problem, Text};

/// The pack of sales that were made elsewhere.
const PACK: &str = "import";

/// With which credits were bought in an earlier system.
#[derive(Deserialize)]
pub(crate) struct ImportedPayment {
    /// Stripe's id of it: `pi_…`.
    payment_intent: Arc<str>,
    /// What was paid: `79.00 EUR`. Refunds take back in proportion to it.
    paid: String,
}

impl ImportedPayment {
    /// What is to be known of it: that it was paid, and for which credits of whom.
    pub fn facts(self, account: &str, credits: Credits, id: &str) -> Result<Facts, Problem> {
        let Self { payment_intent, paid } = self;
        if !payment_intent.starts_with("pi_") || payment_intent.len() > 255 {
            return Err(bad(
                "`payment_intent` is Stripe's id of a payment: it begins with pi_",
                "`payment_intent` est l'identifiant Stripe d'un paiement : il commence par pi_",
            ));
        }
        let price: Price = paid
            .parse()
            .map_err(|error| bad(format!("`paid`: {error}"), format!("`paid` : {error}")))?;
        let money = Money {
            amount: price.minor(),
            currency: price.currency().code().to_ascii_lowercase().into(),
        };
        let account: AccountId = parse_account(account)?;
        Ok(Facts {
            // The import's own id too: the same id with another payment is a mistake.
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
        })
    }
}

/// Nothing is granted a second time for a payment: not under another id, nor where Farebox has sold it.
pub(super) async fn must_be_new(admin: &Admin, facts: &Facts) -> Result<(), Problem> {
    for name in &facts.names {
        let known = admin.shop.ledger.read().payment(name).await.map_err(unreadable)?;
        let Some(known) = known.filter(|known| known.facts.sale.is_some()) else { continue };
        if known.facts.sale != facts.sale || !facts.names.is_subset(&known.facts.names) {
            return Err(Problem::conflict(Text::new(
                "This payment, or this id, is known already: with another id, account, price or other credits. \
                 Nothing was granted.",
                "Ce paiement, ou cet identifiant, est déjà connu : avec un autre identifiant, compte, prix ou \
                 d'autres crédits. Rien n'a été accordé.",
            )));
        }
    }
    Ok(())
}

/// Remembers it. What was refunded before is taken back now.
pub(super) async fn remember(admin: &Admin, facts: Facts) -> Result<(), Problem> {
    let sale = facts.sale.clone();
    let on_dispute = admin.shop.sales.as_ref().map(|sales| sales.on_dispute()).unwrap_or_default();
    let because = "a payment of an earlier system".into();
    let take = TakeFacts { event: None, facts, on_dispute, because };
    match admin.shop.ledger.ask(Operation::TakeFacts(Box::new(take))).await {
        Outcome::Settled(settled) if settled.payment.facts.sale == sale => Ok(()),
        Outcome::Settled(_) => Err(Problem::conflict(Text::new(
            "This payment is known already, for another account or other credits. The grant stands.",
            "Ce paiement est déjà connu, pour un autre compte ou d'autres crédits. L'octroi est fait.",
        ))),
        Outcome::Refused(refusal) => Err(admin.shop.refuse(refusal, Credits::ZERO)),
        _ => Err(Problem::ledger_unavailable()),
    }
}

fn bad(en: impl Into<String>, fr: impl Into<String>) -> Problem {
    Problem::bad_request(Text::new(en.into(), fr.into()))
}
