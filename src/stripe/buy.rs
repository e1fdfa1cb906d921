//! Sending a buyer to pay.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use stripe_checkout::checkout_session::{
    CreateCheckoutSession, CreateCheckoutSessionAutomaticTax, CreateCheckoutSessionCustomerUpdate,
    CreateCheckoutSessionCustomerUpdateAddress, CreateCheckoutSessionCustomerUpdateName,
    CreateCheckoutSessionInvoiceCreation, CreateCheckoutSessionLineItems,
    CreateCheckoutSessionLineItemsPriceData, CreateCheckoutSessionPaymentIntentData, ProductData,
    RetrieveCheckoutSession,
};
use stripe_core::customer::CreateCustomer;
use stripe_shared::{CheckoutSessionLocale, CheckoutSessionMode};
use stripe_types::Currency;

use super::client::{ApiError, Client};
use super::objects::{Identified, Session};
use super::read::{metadata, metadata_key};
use super::sales::{Checkout, Sales, idempotency_key};
use crate::account::AccountId;
use crate::ledger::{Facts, LedgerError, Money, Progress, Refusal, Sale, wall_ms};
use crate::price::PackConfig;

/// The longest `client_reference_id` that Stripe takes; account ids can be longer.
const MAX_REFERENCE: usize = 200;

/// How long after it was made an open session is used again. Stripe keeps sessions open for a day.
const USED_AGAIN_MS: i64 = 3600 * 1000;

/// How many unpaid sessions of an account are looked at for that.
const LOOKED_AT: u32 = 20;

/// The key by which two requests are one purchase.
#[derive(Clone, Copy, Debug)]
pub enum BuyKey<'a> {
    /// The buyer's own idempotency key: the same key again is the same session.
    Buyers(&'a str),
    /// The request's own id. A session for the same pack that is still open is used again.
    Request(&'a str),
}

impl BuyKey<'_> {
    const fn as_str(&self) -> &str {
        match self {
            Self::Buyers(key) | Self::Request(key) => key,
        }
    }
}

/// Why a buyer could not be sent to pay. Nothing was charged.
#[derive(Debug, thiserror::Error)]
pub enum BuyError {
    /// Stripe did not do it.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// Stripe would charge another price than the one that is shown.
    #[error(
        "the `stripe_price` of {pack} asks another amount or currency than its `price`: run \
         `farebox packs sync`"
    )]
    OtherPrice {
        /// The pack's id.
        pack: String,
    },
    /// The same key was sent with another purchase before.
    #[error("another purchase was asked for under this key before")]
    OtherPurchase,
    /// The same purchase is being made at this moment.
    #[error("the purchase that was asked for under this key is still being made")]
    InFlight,
    /// The account has begun too many purchases lately.
    #[error("the account has begun too many purchases lately")]
    TooMany {
        /// After which time one more may begin.
        wait: Duration,
    },
    /// The ledger could not be read.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The ledger did not take it.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// Where to pay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bought {
    /// The checkout session.
    pub session: Arc<str>,
    /// Its page.
    pub url: String,
}

impl Sales {
    /// A checkout session in which `account` can pay for `pack`. What was agreed is kept before the
    /// buyer hears of it. The same key of the buyer's again is the same session, as long as Stripe
    /// remembers it (a day at least).
    ///
    /// # Errors
    /// The buyer has nothing to pay then; [`BuyError::OtherPurchase`] where the key stands for another
    /// pack, or for the same one as it was sold before a change of gateway.toml.
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

    /// The session in which the account could pay for the pack already, at the same price: made
    /// lately by any gateway of this ledger, and still open.
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
        match client.get::<Session>(&RetrieveCheckoutSession::new(&*session)).await {
            Ok(found) if found.status.as_deref() == Some("open") => {
                Ok(found.url.map(|url| Bought { session, url }))
            }
            // The session was paid or has expired, and its event is on the way; or it is of the other mode.
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
            // A customer that was deleted, or is of the other mode (test, live).
            Err(BuyError::Api(ApiError::Refused {
                status: 400 | 404, param: Some(param), ..
            })) if param == "customer" => {
                let customer = self.customer(client, account, key, Some(customer)).await?;
                self.ask_for_session(client, account, pack, key, &customer).await?
            }
            answer => answer?,
        };
        // A `stripe_price` may have been made for another amount or in another currency; nobody is
        // charged that.
        let code = pack.price.currency().code();
        let is_other = session.amount_subtotal.is_some_and(|asked| asked != pack.price.minor())
            || session.currency.as_deref().is_some_and(|asked| !asked.eq_ignore_ascii_case(code));
        if is_other {
            return Err(BuyError::OtherPrice { pack: pack.id.clone() });
        }
        let no_page = || ApiError::Unreadable("a session without a page".to_owned());
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
        let request = self.session(account, pack, customer);
        // Stripe tells another purchase under the same key, and one that is still being made.
        let asked = client.post(&request, &idempotency_key(&["buy", key, customer])).await;
        asked.map_err(|error| match error {
            ApiError::KeyReused => BuyError::OtherPurchase,
            ApiError::KeyInUse => BuyError::InFlight,
            error => BuyError::Api(error),
        })
    }

    fn session(
        &self,
        account: &AccountId,
        pack: &PackConfig,
        customer: &str,
    ) -> CreateCheckoutSession {
        let checkout = &self.config.checkout;
        let metadata = metadata(&sale("", account, pack), &self.ledger_id);
        let locale = match checkout.locale.parse::<CheckoutSessionLocale>() {
            Ok(locale) => locale,
            Err(never) => match never {},
        };
        let mut session = CreateCheckoutSession::new()
            .mode(CheckoutSessionMode::Payment)
            .customer(customer)
            .line_items(vec![line_item(pack)])
            .locale(locale)
            .success_url(&self.config.success_url)
            .cancel_url(&self.config.cancel_url)
            // On the payment as well, for whoever looks at it in Stripe's dashboard.
            .payment_intent_data(CreateCheckoutSessionPaymentIntentData {
                metadata: Some(metadata.clone()),
                ..CreateCheckoutSessionPaymentIntentData::new()
            })
            .metadata(metadata);
        if account.as_str().len() <= MAX_REFERENCE {
            session = session.client_reference_id(account.as_str());
        }
        if checkout.automatic_tax {
            // The tax depends on an address, which is then kept with the customer.
            session = session
                .automatic_tax(CreateCheckoutSessionAutomaticTax::new(true))
                .customer_update(CreateCheckoutSessionCustomerUpdate {
                    address: Some(CreateCheckoutSessionCustomerUpdateAddress::Auto),
                    name: Some(CreateCheckoutSessionCustomerUpdateName::Auto),
                    ..CreateCheckoutSessionCustomerUpdate::new()
                });
        }
        if checkout.invoice_creation {
            session = session.invoice_creation(CreateCheckoutSessionInvoiceCreation::new(true));
        }
        if checkout.allow_promotion_codes {
            session = session.allow_promotion_codes(true);
        }
        session
    }

    /// The account's customer at Stripe: the one that is kept, or a new one. Two first purchases at
    /// once make two, of which one is kept.
    async fn customer(
        &self,
        client: &Client,
        account: &AccountId,
        key: &str,
        gone: Option<Arc<str>>,
    ) -> Result<Arc<str>, BuyError> {
        let kept = self.ledger.read().customer(account).await?;
        if let Some(kept) = kept.filter(|kept| Some(kept) != gone.as_ref()) {
            return Ok(kept);
        }
        let metadata = HashMap::from([
            (metadata_key::LEDGER.to_owned(), self.ledger_id.to_string()),
            (metadata_key::ACCOUNT.to_owned(), account.to_string()),
        ]);
        let request = CreateCustomer::new().metadata(metadata);
        // Stripe repeats a failure to the same key, so a key that outlives the purchase will not do.
        let key = idempotency_key(&["customer", key, gone.as_deref().unwrap_or_default()]);
        let made: Identified = client.post(&request, &key).await?;
        Ok(self.ledger.record_customer(account.clone(), made.id, gone).await?)
    }
}

fn sale(session: &str, account: &AccountId, pack: &PackConfig) -> Sale {
    Sale {
        session: session.into(),
        account: account.clone(),
        pack: pack.id.as_str().into(),
        credits: pack.credits,
        price: Money {
            amount: pack.price.minor(),
            currency: pack.price.currency().code().to_ascii_lowercase().into(),
        },
        imported: false,
    }
}

/// Stripe's own price where there is one, else one that is made for this session.
fn line_item(pack: &PackConfig) -> CreateCheckoutSessionLineItems {
    let mut item = CreateCheckoutSessionLineItems::new();
    item.quantity = Some(1);
    match &pack.stripe_price {
        Some(price) => item.price = Some(price.clone()),
        None => {
            let mut data = CreateCheckoutSessionLineItemsPriceData::new(currency(pack));
            data.product_data = Some(ProductData::new(pack.name()));
            data.unit_amount = i64::try_from(pack.price.minor()).ok();
            item.price_data = Some(data);
        }
    }
    item
}

/// A pack's currency in Stripe's types.
pub(super) fn currency(pack: &PackConfig) -> Currency {
    match pack.price.currency().code().to_ascii_lowercase().parse() {
        Ok(currency) => currency,
        Err(never) => match never {},
    }
}
