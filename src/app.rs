//! What the proxy and Farebox's own routes share: who calls, what it costs, and the hold.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use http::{HeaderMap, Method, StatusCode};
use serde_json::value::RawValue;

use crate::account::AccountId;
use crate::credits::{Credits, SignedCredits};
use crate::identify::{Identifier, Identity, KeyRing, Unauthenticated};
use crate::ledger::{CreditsConfig, Ledger, Refusal};
use crate::metrics::Metrics;
use crate::price::{CanonicalPath, PackConfig, PathRefusal, PriceTable, Quote, QuoteRefusal};
use crate::problem::{Offer, Problem, Text};
use crate::stripe::Sales;

/// What is for sale, as of the last reload.
#[derive(Debug)]
pub struct Catalogue {
    /// What calls cost.
    pub prices: PriceTable,
    /// The price table as `GET /credits/prices` shows it.
    pub prices_json: Arc<RawValue>,
    /// The packs.
    pub packs: Vec<PackConfig>,
    /// The packs as `GET /credits/packs` shows them.
    pub packs_json: Arc<RawValue>,
}

/// One gateway's counter: the pieces that decide whether a call may pass.
pub struct App {
    /// Who has how much.
    pub ledger: Ledger,
    /// Who calls.
    pub identifier: Identifier,
    /// The API keys that identify callers.
    pub keys: Arc<KeyRing>,
    /// What is counted.
    pub metrics: Metrics,
    /// What is for sale; swapped whole by a reload.
    pub catalogue: ArcSwap<Catalogue>,
    /// `[credits]`
    pub credits: CreditsConfig,
    /// Who sells the packs; none without `[stripe]`.
    pub sales: Option<Arc<Sales>>,
    /// Where a 402 sends people to buy.
    pub topup_url: Arc<str>,
}

impl App {
    /// Makes an account exist that comes by itself, with its sign-up grant if it did not. One that is
    /// brought over, or given credits by hand, comes to exist without.
    ///
    /// # Errors
    /// 503.
    pub async fn open(&self, account: &AccountId) -> Result<(), Problem> {
        let opened = self.ledger.open(account, self.credits.signup_grant).await;
        opened.map_err(|_| Problem::ledger_unavailable())
    }

    /// Who sent these headers from the address `client`. An account seen for the first time gets its sign-up grant.
    ///
    /// # Errors
    /// 401, or 400 and 503 where the caller is not to blame or not readable.
    pub async fn identify(
        &self,
        headers: &HeaderMap,
        client: Option<IpAddr>,
    ) -> Result<Identity, Problem> {
        let identified = self.identifier.identify(headers, client, SystemTime::now()).await;
        let identity = identified.map_err(refuse_caller)?;
        // An account that only a backend names need not exist until it has credits.
        let is_due = identity.on_behalf_by.is_none() || !self.credits.signup_grant.is_zero();
        if identity.fresh && is_due {
            if let Err(problem) = Box::pin(self.open(&identity.account)).await {
                // Not remembered, so that the next call opens the account.
                self.identifier.forget(headers);
                return Err(problem);
            }
            self.identifier.exists(&identity);
        }
        Ok(identity)
    }

    /// The 402 for a call, with what is for sale.
    pub fn insufficient(&self, required: Credits, available: SignedCredits) -> Problem {
        Problem::insufficient_credits(Offer {
            required,
            available,
            topup_url: self.topup_url.clone(),
            packs: self.catalogue.load().packs_json.clone(),
        })
    }

    /// True where an account should think of buying.
    pub fn is_low(&self, available: SignedCredits) -> bool {
        available < self.credits.low_balance.signed()
    }

    /// The problem for a refused operation of `account` that needed `required` credits.
    pub fn refuse(&self, refusal: Refusal, required: Credits) -> Problem {
        match refusal {
            Refusal::Insufficient { available } => self.insufficient(required, available),
            other => refuse_operation(other),
        }
    }

    /// The problem for a call whose hold was refused.
    pub fn refuse_call(&self, refusal: Refusal, required: Credits) -> Problem {
        self.refuse(of_a_call(refusal), required)
    }

    /// The price of an endpoint named in a request's body.
    ///
    /// # Errors
    /// 400 for a path that can be read two ways, 404 for one without a price.
    pub fn quote_endpoint(&self, method: &str, endpoint: &str) -> Result<Quote, Problem> {
        let method = Method::from_bytes(method.as_bytes()).map_err(|_| {
            Problem::bad_request(Text::new(
                "`method` is not an HTTP method.",
                "`method` n'est pas une méthode HTTP.",
            ))
        })?;
        let path = endpoint.split('?').next().unwrap_or_default();
        let path = CanonicalPath::parse(path.as_bytes()).map_err(refuse_path)?;
        self.catalogue.load().prices.quote(&method, &path).map_err(refuse_quote)
    }
}

/// What somebody is charged for.
#[derive(Clone, Copy, Debug)]
pub struct Usage<'a> {
    /// Who pays.
    pub account: &'a AccountId,
    /// What for.
    pub route: &'a str,
    /// How much.
    pub cost: Credits,
    /// What they have left.
    pub available_after: SignedCredits,
    /// The request that had it charged.
    pub request_id: &'a str,
}

/// The line that every charge leaves in the log.
pub fn log_usage(usage: &Usage<'_>) {
    tracing::info!(
        target: "farebox::usage",
        account = %usage.account,
        route = usage.route,
        cost = %usage.cost,
        available_after = %usage.available_after,
        request_id = usage.request_id,
        "credit usage"
    );
}

/// The problem for a path that is not canonical.
pub fn refuse_path(refusal: PathRefusal) -> Problem {
    Problem::bad_request(Text::new(
        sentence(&refusal),
        "Le chemin de la requête peut être lu de plusieurs façons. Envoyez-le sous sa forme \
         simple : sans `//`, ni `.` ou `..`, ni barre oblique encodée.",
    ))
}

/// The problem for a path without a price.
pub fn refuse_quote(_: QuoteRefusal) -> Problem {
    Problem::no_price_rule()
}

fn refuse_caller(refusal: Unauthenticated) -> Problem {
    let french = match refusal {
        Unauthenticated::NoCredentials => {
            "Aucun identifiant n'a été envoyé ; envoyez une clé d'API ou un jeton dans \
             `Authorization: Bearer …`."
        }
        Unauthenticated::AmbiguousCredentials => {
            "Plusieurs identifiants différents ont été envoyés ; n'en envoyez qu'un."
        }
        Unauthenticated::UnknownKey | Unauthenticated::Revoked => {
            "Ce jeton ou cette clé n'est pas valable ici ; vérifiez, ou créez une autre clé."
        }
        Unauthenticated::Expired => {
            "Le jeton a expiré ; reconnectez-vous pour en obtenir un nouveau."
        }
        Unauthenticated::InvalidAccountHeader => {
            "`x-farebox-account` doit être un identifiant de compte : 1 à 255 caractères ASCII \
             visibles."
        }
        Unauthenticated::KeysUnavailable => {
            "Les jetons ne peuvent pas être vérifiés pour le moment ; réessayez sous peu."
        }
        _ => "Les identifiants n'ont pas été acceptés ; reconnectez-vous ou vérifiez-les.",
    };
    let detail = Text::new(refusal.to_string(), french);
    match refusal.status() {
        StatusCode::BAD_REQUEST => Problem::bad_request(detail),
        StatusCode::SERVICE_UNAVAILABLE => Problem::unavailable(detail),
        _ => Problem::unauthenticated(detail),
    }
}

/// An error's text as a sentence: with a capital letter and a full stop.
fn sentence(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    if let Some(first) = text.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    text.push('.');
    text
}

/// Why a call's hold is refused. Its id is ours, so whatever is wrong with that is our own failure.
fn of_a_call(refusal: Refusal) -> Refusal {
    match refusal {
        Refusal::Insufficient { .. } | Refusal::Frozen | Refusal::Unavailable => refusal,
        other => {
            tracing::error!(refusal = %other, "a call's hold was refused for its own sake");
            Refusal::Unavailable
        }
    }
}

/// The problem for an operation that the ledger refused, whatever it cost.
fn refuse_operation(refusal: Refusal) -> Problem {
    let text = |fr: &'static str| Text::new(sentence(&refusal), fr);
    match refusal {
        Refusal::Conflict => {
            Problem::conflict(text("Cet identifiant a déjà servi avec d'autres paramètres."))
        }
        Refusal::Frozen => Problem::account_frozen(),
        Refusal::UnknownEvent => Problem::not_found(text("Cet événement n'existe pas.")),
        Refusal::Ended => Problem::conflict(text("Cette réservation est déjà terminée.")),
        Refusal::UnknownHold => Problem::not_found(text("Cette réservation n'existe pas.")),
        Refusal::UnknownCapture => Problem::not_found(text("Ce débit n'existe pas.")),
        Refusal::UnknownKey => Problem::not_found(text("Cette clé n'existe pas.")),
        Refusal::AboveHold { held } => Problem::unprocessable(Text::new(
            format!("The hold is of {held} credits; a capture cannot be more than its hold."),
            format!("La réservation est de {held} crédits ; un débit ne peut pas la dépasser."),
        )),
        Refusal::AboveCapture { left } => Problem::unprocessable(Text::new(
            format!("{left} credits of this capture are left to give back, and no more."),
            format!("Il reste {left} crédits de ce débit à rembourser, et pas davantage."),
        )),
        Refusal::PaymentKnown => Problem::conflict(Text::new(
            "This payment, or this id, is known already: with another id, account, price or other credits. \
             Nothing was granted.",
            "Ce paiement, ou cet identifiant, est déjà connu : avec un autre identifiant, compte, prix ou \
             d'autres crédits. Rien n'a été accordé.",
        )),
        Refusal::Zero => Problem::unprocessable(text("Le montant ne peut pas être nul.")),
        Refusal::WrongWay => {
            Problem::unprocessable(text("Cette écriture ne peut pas aller dans ce sens."))
        }
        Refusal::OutOfRange => {
            Problem::unprocessable(text("Le solde dépasserait ce qui peut être compté."))
        }
        Refusal::Insufficient { .. } | Refusal::Unavailable => Problem::ledger_unavailable(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_of_a_calls_hold_without_its_account_is_our_failure() {
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
            let problem = refuse_operation(of_a_call(refusal));
            assert_eq!(problem.status.as_u16(), status, "{refusal:?}");
        }
        let poor = Refusal::Insufficient { available };
        assert_eq!(of_a_call(poor), poor, "told with an offer");
    }
}
