//! The seller. Each gateway has one, for the checkout, the events and the metrics of sales.

use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;

use super::buy_limit::BuyLimit;
use super::client::{ApiError, Client};
use super::config::StripeConfig;
use super::read::EVENTS;
use crate::config::Secret;
use crate::ledger::{Facts, Ledger, LedgerError, OnDispute, PaymentChange, Refusal, TakeFacts};
use crate::metrics::Metrics;

/// The most large webhook bodies that are hashed at a time, on threads of their own.
const HASHED_AT_ONCE: usize = 2;

/// How often the inbox is searched for events that were stored but not applied.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The reason why a gateway cannot sell.
#[derive(Debug, thiserror::Error)]
pub enum SalesError {
    /// The sandbox is on, and a live key of Stripe's is set.
    #[error(
        "the sandbox gives credits away, and a live key of Stripe's (sk_live_…) is set: unset \
         STRIPE_SECRET_KEY, or take it out of [stripe], to try things out; or sell with `farebox serve` and a \
         [stripe] without `sandbox`"
    )]
    SandboxBesideLiveKey,
    /// The key or the address of `[stripe]` cannot be used.
    #[error(transparent)]
    Client(#[from] ApiError),
    /// The ledger could not be read.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// The place where buyers pay.
#[derive(Debug)]
pub(super) enum Checkout {
    /// Stripe's page.
    Stripe(Box<Client>),
    /// The sandbox's page. Its address begins with `base_url`.
    Sandbox { base_url: String },
}

/// Sells packs: sends buyers to pay, and applies Stripe's events about their payments.
#[derive(Debug)]
pub struct Sales {
    pub(super) config: StripeConfig,
    pub(super) checkout: Checkout,
    pub(super) ledger: Ledger,
    pub(super) metrics: Metrics,
    /// The id that marks this ledger's sessions. It distinguishes them from those of other ledgers
    /// on the same Stripe account.
    pub(super) ledger_id: Arc<str>,
    /// Limits how many signatures of large webhooks are checked at a time.
    pub(super) hashing: Semaphore,
    /// The rate at which each account may begin purchases.
    pub(super) buying: BuyLimit,
}

impl Sales {
    /// A seller for `ledger`. `own_url` is the address of Farebox's own routes, where the sandbox's page is.
    ///
    /// # Errors
    /// See [`SalesError`].
    pub async fn open(
        mut config: StripeConfig,
        ledger: Ledger,
        metrics: Metrics,
        own_url: &str,
    ) -> Result<Self, SalesError> {
        let checkout = if config.sandbox {
            if config.is_live() {
                return Err(SalesError::SandboxBesideLiveKey);
            }
            if config.webhook_secret.is_empty() {
                let secret = format!("whsec_{}", uuid::Uuid::new_v4().simple());
                config.webhook_secret.push(Secret::new(secret));
            }
            Checkout::Sandbox { base_url: format!("{own_url}/sandbox/checkout") }
        } else {
            Checkout::Stripe(Box::new(Client::new(&config)?))
        };
        metrics.begin_webhooks(&EVENTS);
        let ledger_id = ledger.read().ledger_id().await?.into();
        let (hashing, buying) = (Semaphore::new(HASHED_AT_ONCE), BuyLimit::default());
        let sales = Self { config, checkout, ledger, metrics, ledger_id, hashing, buying };
        sales.count_buyers().await;
        Ok(sales)
    }

    /// Applies the events that wait in the inbox, at once and then every few seconds.
    pub async fn run(&self) {
        loop {
            self.catch_up().await;
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// The effect of a dispute on its account.
    pub fn on_dispute(&self) -> OnDispute {
        self.config.on_dispute
    }

    /// Applies facts to the ledger, with the credits that they move, and counts the sale.
    pub(super) async fn take(
        &self,
        event: Option<Arc<str>>,
        facts: Facts,
        because: Arc<str>,
    ) -> Result<PaymentChange, Refusal> {
        let on_dispute = self.config.on_dispute;
        let buyer = facts.sale.as_ref().map(|sale| sale.account.clone());
        let take = TakeFacts { event, facts, on_dispute, because };
        let change = self.ledger.take_facts(take).await?;
        if let (Some(account), Some(buyer)) = (change.payment.account(), buyer)
            && *account != buyer
        {
            let payment = &*change.payment.id;
            tracing::warn!(
                payment, %buyer, %account,
                "a payment was imported for another account than the one that bought; it stays there"
            );
        }
        warn_of_currency(&change);
        self.record(&change).await;
        Ok(change)
    }

    async fn record(&self, change: &PaymentChange) {
        let Some(sale) = change.payment.facts.sale.as_ref().filter(|_| !change.granted.is_zero())
        else {
            return;
        };
        self.buying.paid(&sale.account);
        let paid = change.payment.facts.paid.as_ref().unwrap_or(&sale.price);
        tracing::info!(
            target: "farebox::purchase",
            account = %sale.account,
            pack = &*sale.pack,
            amount = paid.amount,
            currency = &*paid.currency,
            "credit purchase"
        );
        self.metrics.purchases.with_label_values(&[&*sale.pack]).inc();
        self.metrics.revenue_minor.with_label_values(&[&*paid.currency]).inc_by(paid.amount);
        let granted = self.metrics.credits_granted.with_label_values(&["stripe"]);
        granted.inc_by(change.granted.as_metric());
        self.count_buyers().await;
    }

    /// Sets the metric of buyers to the ledger's count, so that a restart does not reset it.
    async fn count_buyers(&self) {
        match self.ledger.read().buyers().await {
            Ok(buyers) => self.metrics.buyers.set(i64::try_from(buyers).unwrap_or(i64::MAX)),
            Err(error) => tracing::warn!(%error, "the buyers could not be counted"),
        }
    }
}

/// Warns the operator if credits moved because of money in another currency than the buyer had paid
/// in.
fn warn_of_currency(change: &PaymentChange) {
    let payment = &change.payment;
    let moved = !change.clawed_back.is_zero() || !change.reinstated.is_zero();
    if let Some(currency) = payment.facts.foreign_currency().filter(|_| moved) {
        tracing::warn!(
            payment = &*payment.id,
            account = payment.account().map(tracing::field::display),
            currency = &**currency,
            "money went back in another currency than was paid, and counts as all of the payment: \
             give credits back with `farebox grant` if that is too much"
        );
    }
}

/// An idempotency key for Stripe. Equal parts give equal keys.
pub(super) fn idempotency_key(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.len().to_le_bytes());
        hash.update(part.as_bytes());
    }
    format!("farebox-{}", hex::encode(hash.finalize()))
}
