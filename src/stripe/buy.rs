//! Begins purchases: makes a checkout session at Stripe, in which an account can pay for a pack.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::client::{ApiError, Client};
use super::objects::Session;
use super::read::{metadata, metadata_key};
use super::requests::{
    CustomerUpdate, Enabled, LineItem, LinePrice, NewCustomer, NewProduct, NewSession,
    PaymentIntentData,
};
use super::sales::{Checkout, Sales, idempotency_key};
use crate::account::AccountId;
use crate::ledger::{Facts, LedgerError, Money, Progress, Refusal, Sale, wall_ms};
use crate::price::PackConfig;

/// The longest `client_reference_id` that Stripe takes; account ids can be longer.
const MAX_REFERENCE: usize = 200;

/// The age, in milliseconds, up to which an open session is used again. Stripe closes sessions after a day.
const USED_AGAIN_MS: i64 = 3600 * 1000;

/// How many of an account's newest unpaid sessions are searched for one to use again.
const LOOKED_AT: u32 = 20;

/// The key under which two requests count as one purchase.
#[derive(Clone, Copy, Debug)]
pub enum BuyKey<'a> {
    /// The buyer's own idempotency key. The same key leads to the same session.
    Buyers(&'a str),
    /// The id of the request. An open session for the same pack, if there is one, is used again.
    Request(&'a str),
}

impl BuyKey<'_> {
    const fn as_str(&self) -> &str {
        match self {
            Self::Buyers(key) | Self::Request(key) => key,
        }
    }
}

/// The reason why a purchase could not begin. Nothing was charged.
#[derive(Debug, thiserror::Error)]
pub enum BuyError {
    /// A request to Stripe failed.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The price at Stripe is not the one that buyers see.
    #[error(
        "the `stripe_price` of {pack} asks another amount or currency than its `price`: run \
         `farebox packs sync`"
    )]
    OtherPrice {
        /// The pack's id.
        pack: String,
    },
    /// Another purchase was begun under this key before.
    #[error("another purchase was asked for under this key before")]
    OtherPurchase,
    /// Another request is making the same purchase at this moment.
    #[error("the purchase that was asked for under this key is still being made")]
    InFlight,
    /// The account has begun too many purchases lately.
    #[error("the account has begun too many purchases lately")]
    TooMany {
        /// The time until it may begin the next one.
        wait: Duration,
    },
    /// The ledger could not be read.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The ledger refused to store the purchase.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// A purchase that has begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bought {
    /// The checkout session.
    pub session: Arc<str>,
    /// The address of its page.
    pub url: String,
}

impl Sales {
    /// Makes a checkout session in which `account` can pay for `pack`. The sale is stored in the ledger
    /// before the buyer sees the page. The same key of the buyer leads to the same session for as long
    /// as Stripe remembers the key, which is at least a day.
    ///
    /// # Errors
    /// After an error nothing can be paid. [`BuyError::OtherPurchase`] means that the key was used for
    /// another pack, or for the same pack before a change of gateway.toml.
    pub async fn buy(
        &self,
        account: &AccountId,
        pack: &PackConfig,
        key: BuyKey<'_>,
    ) -> Result<Bought, BuyError> {
        let turn = self.buying.begin(account, Instant::now());
        turn.map_err(|wait| BuyError::TooMany { wait })?;
        if let BuyKey::Request(_) = key
            && let Some(open) = self.open_before(account, pack).await?
        {
            return Ok(open);
        }
        let key = key.as_str();
        let bought = match &self.checkout {
            Checkout::Stripe(client) => self.open_session(client, account, pack, key).await?,
            Checkout::Sandbox { base_url } => {
                let session = idempotency_key(&["sandbox", key]).replace("farebox-", "cs_sandbox_");
                let url = format!("{base_url}/{session}");
                Bought { session: session.into(), url }
            }
        };
        let sale = sale(&bought.session, account, pack);
        let names = [bought.session.clone()].into();
        let facts = Facts { names, sale: Some(sale.clone()), ..Facts::default() };
        let settled = self.take(None, facts, "checkout".into()).await?;
        if settled.payment.facts.sale.is_some_and(|known| known.pack != sale.pack) {
            return Err(BuyError::OtherPurchase);
        }
        if settled.new {
            self.metrics.checkouts.with_label_values(&[&*pack.id]).inc();
        }
        Ok(bought)
    }

    /// The open session in which the account can already pay for the pack at the same price. `None`
    /// unless a gateway of this ledger has made one recently.
    async fn open_before(
        &self,
        account: &AccountId,
        pack: &PackConfig,
    ) -> Result<Option<Bought>, BuyError> {
        let since_ms = wall_ms().saturating_sub(USED_AGAIN_MS);
        let unpaid = self.ledger.read().unpaid(account, since_ms, LOOKED_AT).await?;
        let same = unpaid.into_iter().find_map(|payment| {
            let sold = payment.facts.sale.filter(|_| payment.facts.progress == Progress::Open)?;
            (sold == sale(&sold.session, account, pack)).then_some(sold.session)
        });
        let Some(session) = same else { return Ok(None) };
        let client = match &self.checkout {
            Checkout::Stripe(client) => client,
            Checkout::Sandbox { base_url } => {
                let url = format!("{base_url}/{session}");
                return Ok(Some(Bought { session, url }));
            }
        };
        match client.session(&session).await {
            Ok(found) if found.status.as_deref() == Some("open") => {
                Ok(found.url.map(|url| Bought { session, url }))
            }
            // The session was paid or has expired, and its event is on the way; or it belongs to
            // the other mode (test or live).
            Ok(_) | Err(ApiError::Refused { status: 400 | 404, .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn open_session(
        &self,
        client: &Client,
        account: &AccountId,
        pack: &PackConfig,
        key: &str,
    ) -> Result<Bought, BuyError> {
        let customer = self.customer(client, account, key, None).await?;
        let session = match self.ask_for_session(client, account, pack, key, &customer).await {
            // The customer was deleted, or belongs to the other mode (test or live).
            Err(BuyError::Api(ApiError::Refused {
                status: 400 | 404, param: Some(param), ..
            })) if param == "customer" => {
                let customer = self.customer(client, account, key, Some(customer)).await?;
                self.ask_for_session(client, account, pack, key, &customer).await?
            }
            answer => answer?,
        };
        // A `stripe_price` may have another amount or currency than the price that buyers see. A
        // buyer must never be charged another price.
        let code = pack.price.currency().code();
        let is_other = session.amount_subtotal.is_some_and(|asked| asked != pack.price.minor())
            || session.currency.as_deref().is_some_and(|asked| !asked.eq_ignore_ascii_case(code));
        if is_other {
            return Err(BuyError::OtherPrice { pack: pack.id.clone() });
        }
        let no_page = || ApiError::Unreadable("the session has no page".to_owned());
        Ok(Bought { url: session.url.ok_or_else(no_page)?, session: session.id })
    }

    async fn ask_for_session(
        &self,
        client: &Client,
        account: &AccountId,
        pack: &PackConfig,
        key: &str,
        customer: &str,
    ) -> Result<Session, BuyError> {
        let request = self.new_session(account, pack, customer);
        // Stripe itself detects that the key was used for another purchase, or that the same purchase
        // is still being made.
        let asked =
            client.create_session(&request, &idempotency_key(&["buy", key, customer])).await;
        asked.map_err(|error| match error {
            ApiError::KeyReused => BuyError::OtherPurchase,
            ApiError::KeyInUse => BuyError::InFlight,
            error => BuyError::Api(error),
        })
    }

    fn new_session<'a>(
        &'a self,
        account: &'a AccountId,
        pack: &'a PackConfig,
        customer: &'a str,
    ) -> NewSession<'a> {
        let checkout = &self.config.checkout;
        let metadata = metadata(&sale("", account, pack), &self.ledger_id);
        NewSession {
            mode: "payment",
            customer,
            client_reference_id: Some(account.as_str()).filter(|id| id.len() <= MAX_REFERENCE),
            line_items: [line_item(pack)],
            locale: &checkout.locale,
            success_url: &self.config.success_url,
            cancel_url: &self.config.cancel_url,
            // The metadata is also put on the payment, for people who look at it in Stripe's dashboard.
            payment_intent_data: PaymentIntentData { metadata: metadata.clone() },
            metadata,
            automatic_tax: Enabled::when(checkout.automatic_tax),
            // The tax depends on an address, so the address that the buyer enters is saved with the
            // customer.
            customer_update: checkout
                .automatic_tax
                .then_some(CustomerUpdate { address: "auto", name: "auto" }),
            invoice_creation: Enabled::when(checkout.invoice_creation),
            allow_promotion_codes: checkout.allow_promotion_codes.then_some(true),
        }
    }

    /// The account's customer at Stripe: the stored one, or a new one. If an account begins its
    /// first two purchases at the same time, two customers are made, and the ledger stores one of
    /// them. `gone` is a customer that Stripe no longer knows.
    async fn customer(
        &self,
        client: &Client,
        account: &AccountId,
        key: &str,
        gone: Option<Arc<str>>,
    ) -> Result<Arc<str>, BuyError> {
        let stored = self.ledger.read().customer(account).await?;
        if let Some(stored) = stored.filter(|stored| Some(stored) != gone.as_ref()) {
            return Ok(stored);
        }
        let metadata = [
            (metadata_key::LEDGER, self.ledger_id.to_string()),
            (metadata_key::ACCOUNT, account.to_string()),
        ];
        let request = NewCustomer { metadata: metadata.into() };
        // The key is made from the purchase's key. If it were made from the account alone, a
        // failure would last for ever, because Stripe repeats its answer for the same key.
        let key = idempotency_key(&["customer", key, gone.as_deref().unwrap_or_default()]);
        let made = client.create_customer(&request, &key).await?;
        Ok(self.ledger.record_customer(account.clone(), made.id, gone).await?)
    }
}

fn sale(session: &str, account: &AccountId, pack: &PackConfig) -> Sale {
    Sale {
        session: session.into(),
        account: account.clone(),
        pack: pack.id.as_str().into(),
        credits: pack.credits,
        price: Money { amount: pack.price.minor(), currency: currency(pack).into() },
        imported: false,
    }
}

/// The pack as the only item of a session, with the price at Stripe that the config names, or with
/// a price that is made for this session.
fn line_item(pack: &PackConfig) -> LineItem<'_> {
    let price = match &pack.stripe_price {
        Some(price) => LinePrice::Price(price),
        None => LinePrice::PriceData {
            currency: currency(pack),
            unit_amount: pack.price.minor(),
            product_data: NewProduct { name: pack.name(), metadata: None },
        },
    };
    LineItem { quantity: 1, price }
}

/// A pack's currency in lower case, as Stripe writes it.
pub(super) fn currency(pack: &PackConfig) -> String {
    pack.price.currency().code().to_ascii_lowercase()
}
