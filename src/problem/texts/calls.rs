//! The messages about calls and their refusals, sorted by the code of their problem.

use crate::credits::{Credits, SignedCredits};
use crate::problem::code::Code;
use crate::problem::language::Text;

/// The title of every problem with this code.
pub(crate) const fn title(code: Code) -> Text {
    match code {
        Code::Unauthenticated => Text::fixed("Not authenticated", "Non authentifié"),
        Code::Forbidden => Text::fixed("Not allowed", "Non autorisé"),
        Code::InsufficientCredits => Text::fixed("Insufficient credits", "Crédits insuffisants"),
        Code::PriceOverLimit => Text::fixed("Price over limit", "Prix au-dessus de la limite"),
        Code::AccountFrozen => Text::fixed("Account frozen", "Compte gelé"),
        Code::NoPriceRule => Text::fixed("No price rule", "Aucune règle de prix"),
        Code::ModelNotPriced => Text::fixed("Model not priced", "Modèle sans prix"),
        Code::NotFound => Text::fixed("Not found", "Introuvable"),
        Code::BadRequest => Text::fixed("Bad request", "Requête invalide"),
        Code::BodyTooLarge => Text::fixed("Body too large", "Corps trop volumineux"),
        Code::RequestTimeout => Text::fixed("Request timeout", "Requête interrompue"),
        Code::IdempotencyConflict => Text::fixed("Conflict", "Conflit"),
        Code::IdempotencyInProgress => {
            Text::fixed("The first call is running", "Le premier appel est en cours")
        }
        Code::IdempotencyNotKept => {
            Text::fixed("The answer was not kept", "La réponse n'a pas été conservée")
        }
        Code::RateLimited => Text::fixed("Too many requests", "Trop de requêtes"),
        Code::UpstreamFailed => Text::fixed("The upstream failed", "Le service amont a échoué"),
        Code::LedgerUnavailable => Text::fixed("Ledger unavailable", "Registre indisponible"),
        Code::Overloaded => Text::fixed("Overloaded", "Surcharge"),
        Code::PaymentsUnavailable => Text::fixed("Payments unavailable", "Paiement indisponible"),
        Code::UpstreamTimeout => {
            Text::fixed("The upstream did not answer", "Le service amont n'a pas répondu")
        }
    }
}

// The messages for UNAUTHENTICATED. Two of them belong to other codes: an invalid account header is
// BAD_REQUEST, and keys that cannot be fetched are LEDGER_UNAVAILABLE.

/// The French text of several refusals. The English texts differ, because they tell developers
/// more.
const CREDENTIALS_REFUSED_FR: &str =
    "Les identifiants n'ont pas été acceptés ; reconnectez-vous ou vérifiez-les.";

pub(crate) const NO_CREDENTIALS: Text = Text::fixed(
    "No credentials were sent; send an API key or a token as `Authorization: Bearer …`.",
    "Aucun identifiant n'a été envoyé ; envoyez une clé d'API ou un jeton dans `Authorization: Bearer …`.",
);
pub(crate) const AMBIGUOUS_CREDENTIALS: Text = Text::fixed(
    "Several different credentials were sent; send exactly one.",
    "Plusieurs identifiants différents ont été envoyés ; n'en envoyez qu'un.",
);
pub(crate) const MALFORMED_CREDENTIALS: Text = Text::fixed(
    "The credentials could not be read; send one key or token as `Authorization: Bearer …`.",
    CREDENTIALS_REFUSED_FR,
);
pub(crate) const INVALID_CREDENTIALS: Text = Text::fixed(
    "This token or key is not valid here; check it, or create a new one.",
    "Ce jeton ou cette clé n'est pas valable ici ; vérifiez, ou créez une autre clé.",
);
pub(crate) const TOKEN_EXPIRED: Text = Text::fixed(
    "The token has expired; sign in again to get a new one.",
    "Le jeton a expiré ; reconnectez-vous pour en obtenir un nouveau.",
);
pub(crate) const TOKEN_WITHOUT_EXPIRY: Text =
    Text::fixed("The token has no expiry; it must carry an `exp` claim.", CREDENTIALS_REFUSED_FR);
pub(crate) const TOKEN_NOT_YET_VALID: Text = Text::fixed(
    "The token is not valid yet; check the clock of the service that issued it.",
    CREDENTIALS_REFUSED_FR,
);
pub(crate) const WRONG_ISSUER: Text = Text::fixed(
    "The token comes from an issuer that is not accepted here; check its `iss` claim.",
    CREDENTIALS_REFUSED_FR,
);
pub(crate) const WRONG_AUDIENCE: Text = Text::fixed(
    "The token was made for another service; check its `aud` claim.",
    CREDENTIALS_REFUSED_FR,
);
pub(crate) const BAD_SIGNATURE: Text = Text::fixed(
    "The token's signature does not match a trusted key; sign in again to get a new one.",
    CREDENTIALS_REFUSED_FR,
);
pub(crate) const ALGORITHM_NOT_ALLOWED: Text = Text::fixed(
    "The token is signed with an algorithm that is not accepted here.",
    CREDENTIALS_REFUSED_FR,
);
pub(crate) const CRITICAL_EXTENSION: Text = Text::fixed(
    "The token requires an extension (`crit`) that is not supported here.",
    CREDENTIALS_REFUSED_FR,
);
pub(crate) const NO_ACCOUNT_CLAIM: Text = Text::fixed(
    "The token does not name an account; check the claim that should hold its id.",
    CREDENTIALS_REFUSED_FR,
);
pub(crate) const FOREIGN_ACCOUNT: Text = Text::fixed(
    "The token names an account of another issuer; check the claim that should hold its id.",
    CREDENTIALS_REFUSED_FR,
);
pub(crate) const INVALID_ACCOUNT_HEADER: Text = Text::fixed(
    "`x-farebox-account` must be one account id: 1 to 255 visible ASCII characters.",
    "`x-farebox-account` doit être un identifiant de compte : 1 à 255 caractères ASCII visibles.",
);
pub(crate) const KEYS_UNAVAILABLE: Text = Text::fixed(
    "Tokens and keys cannot be checked at the moment; try again shortly.",
    "Les jetons et les clés ne peuvent pas être vérifiés pour le moment ; réessayez sous peu.",
);

// INSUFFICIENT_CREDITS.

pub(crate) fn insufficient_credits(required: Credits, available: SignedCredits) -> Text {
    if available.is_negative() {
        let debt = -available;
        return Text::new(
            format!(
                "This call costs {required} credits; with what is held, the account is {debt} below zero. Buy credits to go on."
            ),
            format!(
                "Cet appel coûte {required} crédits ; avec ce qui est retenu, le compte est à {debt} sous zéro. Achetez des crédits pour continuer."
            ),
        );
    }
    Text::new(
        format!("This call costs {required} credits; {available} are available."),
        format!("Cet appel coûte {required} crédits ; {available} sont disponibles."),
    )
}

pub(crate) const NO_CREDITS: Text = Text::fixed(
    "The account has no credits available. Buy credits to make this call.",
    "Le compte n'a plus de crédits disponibles. Achetez des crédits pour faire cet appel.",
);

// PRICE_OVER_LIMIT.

pub(crate) fn price_over_limit(most: Credits, limit: Credits) -> Text {
    Text::new(
        format!(
            "This call may cost up to {most} credits, and `x-credits-max` allows {limit}. Nothing was held. Ask for less output, or allow more."
        ),
        format!(
            "Cet appel peut coûter jusqu'à {most} crédits, et `x-credits-max` en autorise {limit}. Rien n'a été retenu. Demandez une réponse plus courte, ou autorisez davantage."
        ),
    )
}
pub(crate) const INVALID_LIMIT: Text = Text::fixed(
    "`x-credits-max` must be one amount of credits, such as 20 or 0.5.",
    "`x-credits-max` doit être un seul montant de crédits, par exemple 20 ou 0.5.",
);

// ACCOUNT_FROZEN.

pub(crate) const ACCOUNT_FROZEN: Text = Text::fixed(
    "A payment of this account is disputed; it cannot spend credits until the dispute is over. Contact the seller.",
    "Un paiement de ce compte est contesté ; il ne peut pas dépenser de crédits avant la fin du litige. Contactez le vendeur.",
);

// NO_PRICE_RULE, MODEL_NOT_PRICED and NOT_FOUND.

pub(crate) const NO_PRICE_RULE: Text = Text::fixed(
    "No price is set for this path and method. Check both against the price list.",
    "Aucun prix n'est défini pour ce chemin et cette méthode. Vérifiez-les dans la liste des prix.",
);
pub(crate) const NO_MODEL: Text = Text::fixed(
    "The request names no model, and this route is priced by model. Name one of the price list in `model`.",
    "La requête ne nomme aucun modèle, et le prix de cette route dépend du modèle. Nommez-en un de la liste des prix dans `model`.",
);

pub(crate) fn model_not_priced(model: &str) -> Text {
    Text::new(
        format!("No price is set for the model `{model}`. Choose one from the price list."),
        format!(
            "Aucun prix n'est défini pour le modèle `{model}`. Choisissez-en un dans la liste des prix."
        ),
    )
}
pub(crate) const UNKNOWN_HOLD: Text =
    Text::fixed("There is no such hold.", "Cette réservation n'existe pas.");
pub(crate) const UNKNOWN_CAPTURE: Text =
    Text::fixed("There is no such capture.", "Ce débit n'existe pas.");
pub(crate) const UNKNOWN_EVENT: Text =
    Text::fixed("There is no such event.", "Cet événement n'existe pas.");
pub(crate) const UNKNOWN_KEY: Text =
    Text::fixed("There is no such key.", "Cette clé n'existe pas.");

// BAD_REQUEST and REQUEST_TIMEOUT.

pub(crate) const INVALID_METHOD: Text =
    Text::fixed("`method` is not an HTTP method.", "`method` n'est pas une méthode HTTP.");
pub(crate) const METHOD_NOT_ALLOWED: Text =
    Text::fixed("This path does not take this method.", "Ce chemin n'accepte pas cette méthode.");
pub(crate) const UNREADABLE_REQUEST: Text = Text::fixed(
    "The request could not be read to its end; its body does not match its head.",
    "La requête n'a pas pu être lue jusqu'au bout ; son corps ne correspond pas à son en-tête.",
);
pub(crate) const UNREADABLE_HEAD: Text = Text::fixed(
    "The request's head could not be read. Check its first line, its host and its body's framing.",
    "L'en-tête de la requête n'a pas pu être lu. Vérifiez sa première ligne, son hôte et la délimitation du corps.",
);
pub(crate) const REQUEST_TIMEOUT: Text = Text::fixed(
    "The request's body stopped arriving. Send it again, without a pause.",
    "Le corps de la requête n'arrive plus. Renvoyez-le sans interruption.",
);

/// `reason` is an English sentence that tells why the path is ambiguous.
pub(crate) fn ambiguous_path(reason: String) -> Text {
    Text::new(
        reason,
        "Le chemin de la requête peut être lu de plusieurs façons. Envoyez-le sous sa forme simple : sans \
         `//`, ni `.` ou `..`, ni barre oblique encodée.",
    )
}

pub(crate) fn body_too_large(limit_bytes: usize) -> Text {
    Text::new(
        format!("The body is larger than the {limit_bytes} bytes this route takes."),
        format!("Le corps dépasse les {limit_bytes} octets que cette route accepte."),
    )
}

pub(crate) fn head_too_large(limit_bytes: usize) -> Text {
    Text::new(
        format!(
            "The request's head is larger than {limit_bytes} bytes. Send fewer or shorter headers."
        ),
        format!(
            "L'en-tête de la requête dépasse {limit_bytes} octets. Envoyez des en-têtes moins nombreux ou plus courts."
        ),
    )
}

pub(crate) const ZERO_AMOUNT: Text =
    Text::fixed("The amount cannot be zero.", "Le montant ne peut pas être nul.");
pub(crate) const WRONG_WAY: Text = Text::fixed(
    "An entry of this kind cannot move a balance this way.",
    "Cette écriture ne peut pas aller dans ce sens.",
);
pub(crate) const OUT_OF_RANGE: Text = Text::fixed(
    "The balance would pass what can be counted (2^53 micro-credits).",
    "Le solde dépasserait ce qui peut être compté.",
);

pub(crate) fn above_hold(held: Credits) -> Text {
    Text::new(
        format!("The hold is of {held} credits; a capture cannot be more than its hold."),
        format!("La réservation est de {held} crédits ; un débit ne peut pas la dépasser."),
    )
}

pub(crate) fn above_capture(left: Credits) -> Text {
    Text::new(
        format!("{left} credits of this capture are left to give back, and no more."),
        format!("Il reste {left} crédits de ce débit à rembourser, et pas davantage."),
    )
}

// IDEMPOTENCY_CONFLICT and RATE_LIMITED.

pub(crate) const ID_USED_BEFORE: Text = Text::fixed(
    "This id was used before, with other parameters.",
    "Cet identifiant a déjà servi avec d'autres paramètres.",
);
pub(crate) const HOLD_ENDED: Text =
    Text::fixed("The hold has ended before.", "Cette réservation est déjà terminée.");
pub(crate) const PAYMENT_KNOWN: Text = Text::fixed(
    "This payment or this id is known already, with another id, account, price or number of credits. \
     Nothing was granted.",
    "Ce paiement ou cet identifiant est déjà connu, avec un autre identifiant, compte, prix ou \
     nombre de crédits. Rien n'a été accordé.",
);

pub(crate) fn too_many_purchases(retry_after_secs: u32) -> Text {
    Text::new(
        format!(
            "This account has begun many purchases within a minute. Nothing was charged; finish one of them, or try again in {retry_after_secs} seconds."
        ),
        format!(
            "Ce compte a commencé beaucoup d'achats en une minute. Rien n'a été débité ; terminez-en un, ou réessayez dans {retry_after_secs} secondes."
        ),
    )
}

// UPSTREAM_FAILED, UPSTREAM_TIMEOUT, LEDGER_UNAVAILABLE and PAYMENTS_UNAVAILABLE.

pub(crate) const UPSTREAM_FAILED: Text = Text::fixed(
    "The service behind this gateway gave no usable answer. Nothing was charged; try again later.",
    "Le service derrière cette passerelle n'a pas donné de réponse exploitable. Rien n'a été débité ; réessayez plus tard.",
);
pub(crate) const UPSTREAM_TIMEOUT: Text = Text::fixed(
    "The service behind this gateway did not answer in time. Nothing was charged; try again later.",
    "Le service derrière cette passerelle n'a pas répondu à temps. Rien n'a été débité ; réessayez plus tard.",
);
pub(crate) const LEDGER_UNAVAILABLE: Text = Text::fixed(
    "Credits cannot be checked at the moment. Nothing was charged; try again in a few seconds.",
    "Les crédits ne peuvent pas être vérifiés pour le moment. Rien n'a été débité ; réessayez dans quelques secondes.",
);
pub(crate) const CHARGE_UNSETTLED: Text = Text::fixed(
    "The charge of this call is not settled yet; ask again in a few seconds.",
    "Le débit de cet appel n'est pas encore réglé ; redemandez dans quelques secondes.",
);
pub(crate) const PAYMENTS_UNAVAILABLE: Text = Text::fixed(
    "The payment service does not answer at the moment. Nothing was charged; try again in a minute.",
    "Le service de paiement ne répond pas pour le moment. Rien n'a été débité ; réessayez dans une minute.",
);
pub(crate) const PAYMENTS_FAILED: Text = Text::fixed(
    "The payment service refused to start this purchase. Nothing was charged; contact the seller.",
    "Le service de paiement a refusé de commencer cet achat. Rien n'a été débité ; contactez le vendeur.",
);

// OVERLOADED

pub(crate) const OVERLOADED: Text = Text::fixed(
    "The gateway holds as many request bodies as it has memory for. Nothing was charged; try again in a second.",
    "La passerelle retient autant de corps de requêtes que sa mémoire le permet. Rien n'a été débité ; réessayez dans une seconde.",
);

/// LEDGER_UNAVAILABLE.
pub(crate) const STOPPING: Text = Text::fixed(
    "This gateway is stopping and did not wait for the request's body. Nothing was done; send the request again.",
    "Cette passerelle s'arrête et n'a pas attendu le corps de la requête. Rien n'a été fait ; renvoyez la requête.",
);
