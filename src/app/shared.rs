//! The parts of a gateway that the proxy and Farebox's own routes share, and the problems for
//! refused calls and operations.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use http::{HeaderMap, Method, StatusCode};
use serde_json::value::RawValue;

use crate::account::AccountId;
use crate::app::quote::{names_model, quote_body};
use crate::credits::{Credits, SignedCredits};
use crate::identify::{Identifier, Identity, KeyRing, Unauthenticated};
use crate::ledger::{CreditsConfig, Ledger, Refusal};
use crate::meter::Watched;
use crate::metrics::Metrics;
use crate::price::metered::Rates;
use crate::price::{
    CanonicalPath, PackConfig, PathRefusal, PriceTable, PricesVersion, Quote, QuoteRefusal, Route,
};
use crate::problem::{Offer, Problem, Text, texts};
use crate::stripe::Sales;

/// The prices and the packs of one version of the config.
#[derive(Debug)]
pub struct Catalogue {
    /// The price table.
    pub prices: PriceTable,
    /// The price table as `GET /credits/prices` shows it.
    pub prices_json: Arc<RawValue>,
    /// The version of the price table.
    pub version: PricesVersion,
    /// The exchange rates for comparing the seller's own costs with prices in another currency.
    pub rates: Rates,
    /// The packs for sale.
    pub packs: Vec<PackConfig>,
    /// The packs as `GET /credits/packs` shows them.
    pub packs_json: Arc<RawValue>,
}

/// The parts of a gateway that decide whether a call may pass.
pub struct App {
    /// The ledger.
    pub ledger: Ledger,
    /// Turns credentials into accounts.
    pub identifier: Identifier,
    /// The API keys that identify callers.
    pub keys: Arc<KeyRing>,
    /// The gateway's metrics.
    pub metrics: Metrics,
    /// The prices and packs. A reload replaces all of them at once.
    pub catalogue: ArcSwap<Catalogue>,
    /// `[credits]`
    pub credits: CreditsConfig,
    /// The sale of packs; `None` without `[stripe]`.
    pub sales: Option<Arc<Sales>>,
    /// The page for buying credits that a 402 names.
    pub topup_url: Arc<str>,
}

impl App {
    /// Opens an account on its first call, with the sign-up grant if the account is new. Accounts
    /// that are imported or get credits by hand are opened elsewhere, without that grant.
    ///
    /// # Errors
    /// 503 if the ledger is unavailable.
    pub async fn open(&self, account: &AccountId) -> Result<(), Problem> {
        let opened = self.ledger.open(account, self.credits.signup_grant).await;
        opened.map_err(|_| Problem::ledger_unavailable())
    }

    /// Identifies the caller by the request's headers. `client` is the caller's IP address. A new
    /// account is opened and gets its sign-up grant.
    ///
    /// # Errors
    /// 401 for missing or wrong credentials, 400 for an invalid account header, 503 if credentials
    /// cannot be checked or the account cannot be opened.
    pub async fn identify(
        &self,
        headers: &HeaderMap,
        client: Option<IpAddr>,
    ) -> Result<Identity, Problem> {
        let identified = self.identifier.identify(headers, client, SystemTime::now()).await;
        let identity = identified.map_err(refuse_caller)?;
        // An account that only a backend has named is opened later, when it gets credits. But if
        // there is a sign-up grant, it is opened now.
        let is_due = identity.on_behalf_by.is_none() || !self.credits.signup_grant.is_zero();
        if identity.fresh && is_due {
            if let Err(problem) = Box::pin(self.open(&identity.account)).await {
                // The next call must try again to open the account.
                self.identifier.forget(headers);
                return Err(problem);
            }
            self.identifier.exists(&identity);
        }
        Ok(identity)
    }

    /// The 402 for a call, with the packs for sale.
    pub fn insufficient(&self, required: Credits, available: SignedCredits) -> Problem {
        Problem::insufficient_credits(self.offer(Some(required), available))
    }

    /// The 402 for an account that has no credits available, for a call whose price is not known yet.
    pub fn without_credits(&self, available: SignedCredits) -> Problem {
        Problem::insufficient_credits(self.offer(None, available))
    }

    fn offer(&self, required: Option<Credits>, available: SignedCredits) -> Offer {
        Offer {
            required,
            available,
            topup_url: self.topup_url.clone(),
            packs: self.catalogue.load().packs_json.clone(),
        }
    }

    /// True if the account's credits run low.
    pub fn is_low(&self, available: SignedCredits) -> bool {
        available < self.credits.low_balance.signed()
    }

    /// The problem for an operation that needed `required` credits and was refused.
    pub fn refuse(&self, refusal: Refusal, required: Credits) -> Problem {
        match refusal {
            Refusal::Insufficient { available } => self.insufficient(required, available),
            other => refuse_operation(other),
        }
    }

    /// The problem for a call whose hold was refused.
    pub fn refuse_call(&self, refusal: Refusal, required: Credits) -> Problem {
        self.refuse(refusal_of_call(refusal), required)
    }

    /// The fixed price of an endpoint named in a request's body, and its rule.
    ///
    /// # Errors
    /// 400 for an invalid method, an ambiguous path, or a metered route, whose calls have no price of their own;
    /// 404 for a path without a price.
    pub fn quote_endpoint(
        &self,
        method: &str,
        endpoint: &str,
    ) -> Result<(Credits, Arc<Route>), Problem> {
        let (_, quote, _) = self.find_endpoint(method, endpoint)?;
        let metered = || Problem::bad_request(texts::HOLD_PRICED_BY_USAGE);
        Ok((quote.credits.ok_or_else(metered)?, quote.route))
    }

    /// The credits that would be held for a call of an endpoint. The body matters only for a
    /// metered route.
    ///
    /// # Errors
    /// The same as those of [`Self::quote_endpoint`], and 400, 404 or 413 for a body with which
    /// such a call would be refused.
    pub fn quote_call(
        &self,
        method: &str,
        endpoint: &str,
        body: Option<&str>,
    ) -> Result<Credits, Problem> {
        let (catalogue, Quote { route, credits }, path) = self.find_endpoint(method, endpoint)?;
        let Some(metering) = route.metering().filter(|_| credits.is_none()) else {
            return Ok(credits.unwrap_or_default());
        };
        if endpoint.split_once('?').is_some_and(|(_, query)| names_model(query)) {
            return Err(Problem::bad_request(texts::MODEL_IN_QUERY));
        }
        let body = body.ok_or_else(|| Problem::bad_request(texts::CHECK_NEEDS_BODY))?;
        if body.len() as u64 > metering.max_body {
            let limit = usize::try_from(metering.max_body).unwrap_or(usize::MAX);
            return Err(Problem::body_too_large(limit));
        }
        let members = catalogue.prices.models().all().iter();
        let members = members.flat_map(|model| model.tariff.members());
        let watched = Watched::new(members, metering.deny.iter().map(|name| &**name));
        let quoted =
            quote_body(&catalogue.prices, &route, metering, &watched, &path, body.as_bytes())?;
        Ok(quoted.quote.hold)
    }

    fn find_endpoint(
        &self,
        method: &str,
        endpoint: &str,
    ) -> Result<(Arc<Catalogue>, Quote, CanonicalPath), Problem> {
        let method = Method::from_bytes(method.as_bytes());
        let method = method.map_err(|_| Problem::bad_request(texts::INVALID_METHOD))?;
        let path = endpoint.split('?').next().unwrap_or_default();
        let path = CanonicalPath::parse(path.as_bytes()).map_err(refuse_path)?;
        let catalogue = self.catalogue.load_full();
        let quote = catalogue.prices.quote(&method, &path).map_err(refuse_quote)?;
        Ok((catalogue, quote, path))
    }

    /// The largest body that a metered call may have on any route, in bytes; 0 without metered
    /// routes.
    pub fn largest_metered_body(&self) -> usize {
        let catalogue = self.catalogue.load();
        let routes = catalogue.prices.routes().iter();
        let largest = routes.filter_map(|route| Some(route.metering()?.max_body)).max();
        usize::try_from(largest.unwrap_or_default()).unwrap_or(usize::MAX)
    }
}

/// The charge of a call, for the log.
#[derive(Clone, Copy, Debug)]
pub struct Usage<'a> {
    /// The account that pays.
    pub account: &'a AccountId,
    /// The route's label.
    pub route: &'a str,
    /// The model of a metered call, as its request spelled it.
    pub model: Option<&'a str>,
    /// The amount.
    pub cost: Credits,
    /// The credits that the account has left.
    pub available_after: SignedCredits,
    /// The id of the request that caused the charge.
    pub request_id: &'a str,
}

/// The target of the log line of a charge, which every paid call writes.
pub(crate) const USAGE_TARGET: &str = "farebox::usage";

/// Logs a charge.
pub fn log_usage(usage: &Usage<'_>) {
    tracing::info!(
        target: USAGE_TARGET,
        account = %usage.account,
        route = usage.route,
        model = usage.model,
        cost = %usage.cost,
        available_after = %usage.available_after,
        request_id = usage.request_id,
        "credit usage"
    );
}

/// The problem for a path that is not canonical.
pub fn refuse_path(refusal: PathRefusal) -> Problem {
    Problem::bad_request(texts::ambiguous_path(sentence(&refusal)))
}

/// The problem for a path without a price.
pub fn refuse_quote(_: QuoteRefusal) -> Problem {
    Problem::no_price_rule()
}

/// The problem for a caller that could not be identified.
fn refuse_caller(refusal: Unauthenticated) -> Problem {
    let detail = text_for_caller(refusal);
    match refusal.status() {
        StatusCode::BAD_REQUEST => Problem::bad_request(detail),
        StatusCode::SERVICE_UNAVAILABLE => Problem::unavailable(detail),
        _ => Problem::unauthenticated(detail),
    }
}

fn text_for_caller(refusal: Unauthenticated) -> Text {
    match refusal {
        Unauthenticated::NoCredentials => texts::NO_CREDENTIALS,
        Unauthenticated::AmbiguousCredentials => texts::AMBIGUOUS_CREDENTIALS,
        Unauthenticated::Malformed => texts::MALFORMED_CREDENTIALS,
        Unauthenticated::UnknownKey | Unauthenticated::Revoked => texts::INVALID_CREDENTIALS,
        Unauthenticated::Expired => texts::TOKEN_EXPIRED,
        Unauthenticated::NoExpiry => texts::TOKEN_WITHOUT_EXPIRY,
        Unauthenticated::NotYetValid => texts::TOKEN_NOT_YET_VALID,
        Unauthenticated::WrongIssuer => texts::WRONG_ISSUER,
        Unauthenticated::WrongAudience => texts::WRONG_AUDIENCE,
        Unauthenticated::BadSignature => texts::BAD_SIGNATURE,
        Unauthenticated::AlgorithmNotAllowed => texts::ALGORITHM_NOT_ALLOWED,
        Unauthenticated::CriticalExtension => texts::CRITICAL_EXTENSION,
        Unauthenticated::NoAccountClaim => texts::NO_ACCOUNT_CLAIM,
        Unauthenticated::ForeignAccount => texts::FOREIGN_ACCOUNT,
        Unauthenticated::InvalidAccountHeader => texts::INVALID_ACCOUNT_HEADER,
        Unauthenticated::KeysUnavailable => texts::KEYS_UNAVAILABLE,
    }
}

/// An error's text as a sentence, with a capital letter and a full stop.
fn sentence(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    if let Some(first) = text.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    text.push('.');
    text
}

/// The refusal of a call's hold in the form that the client may see. The gateway made the hold's id
/// itself. So a refusal that does not concern the account's credits is a failure of the gateway.
fn refusal_of_call(refusal: Refusal) -> Refusal {
    match refusal {
        Refusal::Insufficient { .. } | Refusal::Frozen | Refusal::Unavailable => refusal,
        other => {
            tracing::error!(
                refusal = %other,
                "the ledger refused a call's hold for a reason other than the account's credits; the \
                 call gets 503"
            );
            Refusal::Unavailable
        }
    }
}

/// The problem for an operation that the ledger refused, unless too few credits are the reason.
fn refuse_operation(refusal: Refusal) -> Problem {
    match refusal {
        Refusal::Conflict => Problem::conflict(texts::ID_USED_BEFORE),
        Refusal::Frozen => Problem::account_frozen(),
        Refusal::UnknownEvent => Problem::not_found(texts::UNKNOWN_EVENT),
        Refusal::Ended => Problem::conflict(texts::HOLD_ENDED),
        Refusal::UnknownHold => Problem::not_found(texts::UNKNOWN_HOLD),
        Refusal::UnknownCapture => Problem::not_found(texts::UNKNOWN_CAPTURE),
        Refusal::Unsettled => Problem::unavailable(texts::CHARGE_UNSETTLED),
        Refusal::UnknownKey => Problem::not_found(texts::UNKNOWN_KEY),
        Refusal::AboveHold { held } => Problem::unprocessable(texts::above_hold(held)),
        Refusal::AboveCapture { left } => Problem::unprocessable(texts::above_capture(left)),
        Refusal::PaymentKnown => Problem::conflict(texts::PAYMENT_KNOWN),
        Refusal::Zero => Problem::unprocessable(texts::ZERO_AMOUNT),
        Refusal::WrongWay => Problem::unprocessable(texts::WRONG_WAY),
        Refusal::OutOfRange => Problem::unprocessable(texts::OUT_OF_RANGE),
        Refusal::Insufficient { .. } | Refusal::Unavailable => Problem::ledger_unavailable(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_s_hold_that_is_refused_for_another_reason_than_credits_is_503() {
        let available = SignedCredits::ZERO;
        for (refusal, status) in [
            (Refusal::Frozen, 403),
            (Refusal::Ended, 503),
            (Refusal::Conflict, 503),
            (Refusal::UnknownHold, 503),
            (Refusal::OutOfRange, 503),
            (Refusal::Zero, 503),
            (Refusal::Unavailable, 503),
        ] {
            let problem = refuse_operation(refusal_of_call(refusal));
            assert_eq!(problem.status.as_u16(), status, "{refusal:?}");
        }
        let poor = Refusal::Insufficient { available };
        assert_eq!(refusal_of_call(poor), poor, "the 402 has an offer");
    }

    /// A refusal's own text is written to the log, and the catalogue's text is sent to clients. In
    /// English the two must agree.
    #[test]
    fn clients_read_in_english_what_the_log_has() {
        for refusal in [
            Unauthenticated::NoCredentials,
            Unauthenticated::AmbiguousCredentials,
            Unauthenticated::Malformed,
            Unauthenticated::UnknownKey,
            Unauthenticated::Revoked,
            Unauthenticated::Expired,
            Unauthenticated::NoExpiry,
            Unauthenticated::NotYetValid,
            Unauthenticated::WrongIssuer,
            Unauthenticated::WrongAudience,
            Unauthenticated::BadSignature,
            Unauthenticated::AlgorithmNotAllowed,
            Unauthenticated::CriticalExtension,
            Unauthenticated::NoAccountClaim,
            Unauthenticated::ForeignAccount,
            Unauthenticated::InvalidAccountHeader,
            Unauthenticated::KeysUnavailable,
        ] {
            assert_eq!(text_for_caller(refusal).en, refusal.to_string());
        }
        for refusal in [
            Refusal::Conflict,
            Refusal::Ended,
            Refusal::UnknownHold,
            Refusal::UnknownCapture,
            Refusal::Unsettled,
            Refusal::UnknownEvent,
            Refusal::UnknownKey,
            Refusal::Zero,
            Refusal::WrongWay,
            Refusal::OutOfRange,
        ] {
            assert_eq!(refuse_operation(refusal).detail.en, sentence(&refusal));
        }
    }
}
