//! Every error a client can see: `application/problem+json` (RFC 9457), with an `error` member in
//! the shape that OpenAI's SDKs read, so that both kinds of client show the same message.

use std::borrow::Cow;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::credits::{Credits, SignedCredits};

/// The language of a message, from `accept-language`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Language {
    /// The default.
    #[default]
    English,
    /// `fr`, wherever the client does not prefer English.
    French,
}

impl Language {
    /// What the client prefers of what there is.
    pub fn of(headers: &HeaderMap) -> Self {
        let header = headers.get(header::ACCEPT_LANGUAGE).and_then(|value| value.to_str().ok());
        let Some(header) = header else { return Self::English };
        let mut best = (0, Self::English);
        for choice in header.split(',') {
            let mut parts = choice.trim().split(';');
            let tag = parts.next().unwrap_or_default();
            let weight = parts.find_map(|part| part.trim().strip_prefix("q=")).map_or(1000, weight);
            let language = match tag.split('-').next() {
                Some(tag) if tag.eq_ignore_ascii_case("fr") => Self::French,
                Some(tag) if tag.eq_ignore_ascii_case("en") => Self::English,
                _ => continue,
            };
            if weight > best.0 {
                best = (weight, language);
            }
        }
        best.1
    }
}

/// A quality value (RFC 9110, 12.4.2) in thousandths; what cannot be read weighs nothing.
fn weight(text: &str) -> u32 {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(fraction) || fraction.len() > 3 {
        return 0;
    }
    format!("{whole}{fraction:0<3}").parse().unwrap_or(0).min(1000)
}

/// What happened and what to do, in every language there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    /// In English.
    pub en: Cow<'static, str>,
    /// In French.
    pub fr: Cow<'static, str>,
}

impl Text {
    /// A text in both languages.
    pub fn new(en: impl Into<Cow<'static, str>>, fr: impl Into<Cow<'static, str>>) -> Self {
        Self { en: en.into(), fr: fr.into() }
    }

    /// The text in one language.
    pub fn in_language(&self, language: Language) -> &str {
        match language {
            Language::English => &self.en,
            Language::French => &self.fr,
        }
    }
}

/// The stable codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[allow(missing_docs)]
pub enum Code {
    Unauthenticated,
    Forbidden,
    InsufficientCredits,
    AccountFrozen,
    NoPriceRule,
    NotFound,
    BadRequest,
    RequestTimeout,
    IdempotencyConflict,
    RateLimited,
    UpstreamFailed,
    LedgerUnavailable,
    Overloaded,
    PaymentsUnavailable,
    UpstreamTimeout,
}

impl Code {
    const fn slug(self) -> &'static str {
        match self {
            Self::Unauthenticated => "unauthenticated",
            Self::Forbidden => "forbidden",
            Self::InsufficientCredits => "insufficient-credits",
            Self::AccountFrozen => "account-frozen",
            Self::NoPriceRule => "no-price-rule",
            Self::NotFound => "not-found",
            Self::BadRequest => "bad-request",
            Self::RequestTimeout => "request-timeout",
            Self::IdempotencyConflict => "idempotency-conflict",
            Self::RateLimited => "rate-limited",
            Self::UpstreamFailed => "upstream-failed",
            Self::LedgerUnavailable => "ledger-unavailable",
            Self::Overloaded => "overloaded",
            Self::PaymentsUnavailable => "payments-unavailable",
            Self::UpstreamTimeout => "upstream-timeout",
        }
    }

    fn title(self) -> Text {
        match self {
            Self::Unauthenticated => Text::new("Not authenticated", "Non authentifié"),
            Self::Forbidden => Text::new("Not allowed", "Non autorisé"),
            Self::InsufficientCredits => Text::new("Insufficient credits", "Crédits insuffisants"),
            Self::AccountFrozen => Text::new("Account frozen", "Compte gelé"),
            Self::NoPriceRule => Text::new("No price rule", "Aucune règle de prix"),
            Self::NotFound => Text::new("Not found", "Introuvable"),
            Self::BadRequest => Text::new("Bad request", "Requête invalide"),
            Self::RequestTimeout => Text::new("Request timeout", "Requête interrompue"),
            Self::IdempotencyConflict => Text::new("Conflict", "Conflit"),
            Self::RateLimited => Text::new("Too many requests", "Trop de requêtes"),
            Self::UpstreamFailed => Text::new("The upstream failed", "Le service amont a échoué"),
            Self::LedgerUnavailable => Text::new("Ledger unavailable", "Registre indisponible"),
            Self::Overloaded => Text::new("Overloaded", "Surcharge"),
            Self::PaymentsUnavailable => Text::new("Payments unavailable", "Paiement indisponible"),
            Self::UpstreamTimeout => {
                Text::new("The upstream did not answer", "Le service amont n'a pas répondu")
            }
        }
    }

    /// What OpenAI's API calls an error of this kind.
    const fn openai_type(self) -> &'static str {
        match self {
            Self::Unauthenticated => "authentication_error",
            Self::Forbidden | Self::AccountFrozen => "permission_error",
            Self::InsufficientCredits => "insufficient_quota",
            Self::NoPriceRule
            | Self::NotFound
            | Self::BadRequest
            | Self::RequestTimeout
            | Self::IdempotencyConflict => "invalid_request_error",
            Self::RateLimited => "rate_limit_error",
            Self::UpstreamFailed
            | Self::LedgerUnavailable
            | Self::Overloaded
            | Self::PaymentsUnavailable
            | Self::UpstreamTimeout => "api_error",
        }
    }
}

/// What a 402 says beyond its text.
#[derive(Clone, Debug)]
pub struct Offer {
    /// What the call costs.
    pub required: Credits,
    /// What the account has.
    pub available: SignedCredits,
    /// Where to buy.
    pub topup_url: Arc<str>,
    /// The packs for sale, as `GET /credits/packs` shows them.
    pub packs: Arc<RawValue>,
}

/// An error that a client sees.
#[derive(Clone, Debug)]
pub struct Problem {
    /// The HTTP status.
    pub status: StatusCode,
    /// The stable code.
    pub code: Code,
    /// What happened and what to do.
    pub detail: Text,
    offer: Option<Box<Offer>>,
    retry_after_secs: Option<u32>,
}

/// A problem as it goes out.
#[derive(Clone, Debug)]
pub struct Rendered {
    /// The HTTP status.
    pub status: StatusCode,
    /// Its headers, content-length excepted.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The JSON.
    pub body: String,
}

#[derive(Serialize)]
struct Body<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    code: Code,
    detail: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    required: Option<Credits>,
    #[serde(skip_serializing_if = "Option::is_none")]
    available: Option<SignedCredits>,
    #[serde(skip_serializing_if = "Option::is_none")]
    topup_url: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    packs: Option<&'a RawValue>,
    request_id: &'a str,
    error: OpenAiError<'a>,
}

#[derive(Serialize)]
struct OpenAiError<'a> {
    message: &'a str,
    r#type: &'a str,
    param: Option<()>,
    code: Code,
}

impl Problem {
    fn new(status: StatusCode, code: Code, detail: Text) -> Self {
        Self { status, code, detail, offer: None, retry_after_secs: None }
    }

    /// The same with another text.
    pub fn with_detail(self, detail: Text) -> Self {
        Self { detail, ..self }
    }

    /// 401: nobody was identified.
    pub fn unauthenticated(detail: Text) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, Code::Unauthenticated, detail)
    }

    /// 403: identified, and not allowed.
    pub fn forbidden(detail: Text) -> Self {
        Self::new(StatusCode::FORBIDDEN, Code::Forbidden, detail)
    }

    /// 402: too few credits; nothing was sent upstream.
    pub fn insufficient_credits(offer: Offer) -> Self {
        let Offer { required, available, .. } = &offer;
        let detail = if available.is_negative() {
            Text::new(
                format!(
                    "This call costs {required} credits; with what is held, the account is {} below zero. Buy credits to go on.",
                    -*available
                ),
                format!(
                    "Cet appel coûte {required} crédits ; avec ce qui est retenu, le compte est à {} sous zéro. Achetez des crédits pour continuer.",
                    -*available
                ),
            )
        } else {
            Text::new(
                format!("This call costs {required} credits; {available} are available."),
                format!("Cet appel coûte {required} crédits ; {available} sont disponibles."),
            )
        };
        let problem = Self::new(StatusCode::PAYMENT_REQUIRED, Code::InsufficientCredits, detail);
        Self { offer: Some(Box::new(offer)), ..problem }
    }

    /// 403: a dispute stands; nothing was sent upstream.
    pub fn account_frozen() -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            Code::AccountFrozen,
            Text::new(
                "A payment of this account is disputed; it cannot spend credits until the dispute is over. Contact the seller.",
                "Un paiement de ce compte est contesté ; il ne peut pas dépenser de crédits avant la fin du litige. Contactez le vendeur.",
            ),
        )
    }

    /// 404: a path without a price is never free.
    pub fn no_price_rule() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            Code::NoPriceRule,
            Text::new(
                "No price is set for this path and method. Check both against the price list.",
                "Aucun prix n'est défini pour ce chemin et cette méthode. Vérifiez-les dans la liste des prix.",
            ),
        )
    }

    /// 404: not one of Farebox's own routes, or not a thing it knows.
    pub fn not_found(detail: Text) -> Self {
        Self::new(StatusCode::NOT_FOUND, Code::NotFound, detail)
    }

    /// 400: the request cannot be read one way only.
    pub fn bad_request(detail: Text) -> Self {
        Self::new(StatusCode::BAD_REQUEST, Code::BadRequest, detail)
    }

    /// 405.
    pub fn method_not_allowed() -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            Code::BadRequest,
            Text::new(
                "This path does not take this method.",
                "Ce chemin n'accepte pas cette méthode.",
            ),
        )
    }

    /// 413: a body beyond what a route of Farebox's own takes.
    pub fn body_too_large(limit: usize) -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            Code::BadRequest,
            Text::new(
                format!("The body is larger than the {limit} bytes this route takes."),
                format!("Le corps dépasse les {limit} octets que cette route accepte."),
            ),
        )
    }

    /// 431: a head beyond `[server] max_header_bytes`.
    pub fn head_too_large(limit: usize) -> Self {
        Self::new(
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Code::BadRequest,
            Text::new(
                format!(
                    "The request's head is larger than {limit} bytes. Send fewer or shorter headers."
                ),
                format!(
                    "L'en-tête de la requête dépasse {limit} octets. Envoyez des en-têtes moins nombreux ou plus courts."
                ),
            ),
        )
    }

    /// 408: the client stopped sending.
    pub fn request_timeout() -> Self {
        Self::new(
            StatusCode::REQUEST_TIMEOUT,
            Code::RequestTimeout,
            Text::new(
                "The request's body stopped arriving. Send it again, without a pause.",
                "Le corps de la requête n'arrive plus. Renvoyez-le sans interruption.",
            ),
        )
    }

    /// 400: the request's body does not have the framing that its head announced.
    pub fn unreadable_request() -> Self {
        Self::bad_request(Text::new(
            "The request could not be read to its end; its body does not match its head.",
            "La requête n'a pas pu être lue jusqu'au bout ; son corps ne correspond pas à son en-tête.",
        ))
    }

    /// 503: the bodies that are being read take as much memory as `[server] body_memory` allows.
    pub fn overloaded() -> Self {
        let problem = Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            Code::Overloaded,
            Text::new(
                "The gateway holds as many request bodies as it has memory for. Nothing was charged; try again in a second.",
                "La passerelle retient autant de corps de requêtes que sa mémoire le permet. Rien n'a été débité ; réessayez dans une seconde.",
            ),
        );
        Self { retry_after_secs: Some(1), ..problem }
    }

    /// 400: the request's head breaks HTTP's rules.
    pub fn unreadable_head() -> Self {
        Self::bad_request(Text::new(
            "The request's head could not be read. Check its first line, its host and its body's framing.",
            "L'en-tête de la requête n'a pas pu être lu. Vérifiez sa première ligne, son hôte et la délimitation du corps.",
        ))
    }

    /// 409: the id was used for something else, or what it names has ended.
    pub fn conflict(detail: Text) -> Self {
        Self::new(StatusCode::CONFLICT, Code::IdempotencyConflict, detail)
    }

    /// 422: an idempotency key that stands for another request already.
    pub fn other_payload(detail: Text) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, Code::IdempotencyConflict, detail)
    }

    /// 422: the request is understood and its values make no sense.
    pub fn unprocessable(detail: Text) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, Code::BadRequest, detail)
    }

    /// 429: as much as one account may have.
    pub fn too_many_requests(detail: Text) -> Self {
        let problem = Self::new(StatusCode::TOO_MANY_REQUESTS, Code::RateLimited, detail);
        Self { retry_after_secs: Some(30), ..problem }
    }

    /// 429: the account begins purchases faster than `/buy` takes them.
    pub fn too_many_purchases(retry_after_secs: u32) -> Self {
        let detail = Text::new(
            format!(
                "This account has begun many purchases within a minute. Nothing was charged; finish one of them, or try again in {retry_after_secs} seconds."
            ),
            format!(
                "Ce compte a commencé beaucoup d'achats en une minute. Rien n'a été débité ; terminez-en un, ou réessayez dans {retry_after_secs} secondes."
            ),
        );
        let problem = Self::too_many_requests(detail);
        Self { retry_after_secs: Some(retry_after_secs), ..problem }
    }

    /// 502: the upstream gave no usable answer.
    pub fn upstream_failed() -> Self {
        Self::new(
            StatusCode::BAD_GATEWAY,
            Code::UpstreamFailed,
            Text::new(
                "The service behind this gateway gave no usable answer. Nothing was charged; try again later.",
                "Le service derrière cette passerelle n'a pas donné de réponse exploitable. Rien n'a été débité ; réessayez plus tard.",
            ),
        )
    }

    /// 504: the upstream was silent for too long.
    pub fn upstream_timeout() -> Self {
        Self::new(
            StatusCode::GATEWAY_TIMEOUT,
            Code::UpstreamTimeout,
            Text::new(
                "The service behind this gateway did not answer in time. Nothing was charged; try again later.",
                "Le service derrière cette passerelle n'a pas répondu à temps. Rien n'a été débité ; réessayez plus tard.",
            ),
        )
    }

    /// 503: our own failure, never the caller's.
    pub fn ledger_unavailable() -> Self {
        let detail = Text::new(
            "Credits cannot be checked at the moment. Nothing was charged; try again in a few seconds.",
            "Les crédits ne peuvent pas être vérifiés pour le moment. Rien n'a été débité ; réessayez dans quelques secondes.",
        );
        Self::unavailable(detail)
    }

    /// 503: Stripe did not answer, and may soon.
    pub fn payments_unavailable() -> Self {
        let detail = Text::new(
            "The payment service does not answer at the moment. Nothing was charged; try again in a minute.",
            "Le service de paiement ne répond pas pour le moment. Rien n'a été débité ; réessayez dans une minute.",
        );
        let status = StatusCode::SERVICE_UNAVAILABLE;
        let problem = Self::new(status, Code::PaymentsUnavailable, detail);
        Self { retry_after_secs: Some(30), ..problem }
    }

    /// 502: Stripe refused, or its answer makes no sense; for the operator to mend.
    pub fn payments_failed() -> Self {
        let detail = Text::new(
            "The payment service refused to start this purchase. Nothing was charged; contact the seller.",
            "Le service de paiement a refusé de commencer cet achat. Rien n'a été débité ; contactez le vendeur.",
        );
        Self::new(StatusCode::BAD_GATEWAY, Code::PaymentsUnavailable, detail)
    }

    /// 503 with a text of its own.
    pub fn unavailable(detail: Text) -> Self {
        let problem = Self::new(StatusCode::SERVICE_UNAVAILABLE, Code::LedgerUnavailable, detail);
        Self { retry_after_secs: Some(2), ..problem }
    }

    /// The problem as it goes out, in the client's language.
    pub fn render(&self, request_id: &str, language: Language) -> Rendered {
        let detail = self.detail.in_language(language);
        let title = self.code.title();
        let offer = self.offer.as_deref();
        let body = Body {
            r#type: format!("https://farebox.dev/problems/{}", self.code.slug()),
            title: title.in_language(language),
            status: self.status.as_u16(),
            code: self.code,
            detail,
            required: offer.map(|offer| offer.required),
            available: offer.map(|offer| offer.available),
            topup_url: offer.map(|offer| &*offer.topup_url),
            packs: offer.map(|offer| &*offer.packs),
            request_id,
            error: OpenAiError {
                message: detail,
                r#type: self.code.openai_type(),
                param: None,
                code: self.code,
            },
        };
        // Strings, numbers and JSON that was valid before: this always serializes.
        let body = serde_json::to_string(&body).unwrap_or_default();
        Rendered { status: self.status, headers: self.headers(language), body }
    }

    fn headers(&self, language: Language) -> Vec<(HeaderName, HeaderValue)> {
        let language = match language {
            Language::English => "en",
            Language::French => "fr",
        };
        let mut headers = vec![
            (header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json")),
            (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
            (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
            (header::CONTENT_LANGUAGE, HeaderValue::from_static(language)),
        ];
        if self.status == StatusCode::UNAUTHORIZED {
            headers.push((header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")));
        }
        if let Some(secs) = self.retry_after_secs {
            headers.push((header::RETRY_AFTER, HeaderValue::from(secs)));
        }
        headers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_402_tells_both_kinds_of_client_the_same() {
        let offer = Offer {
            required: "5".parse().unwrap(),
            available: "3".parse().unwrap(),
            topup_url: "/credits/account".into(),
            packs: RawValue::from_string("[]".into()).unwrap().into(),
        };
        let problem = Problem::insufficient_credits(offer);
        let english = problem.render("req-1", Language::English);
        let json: serde_json::Value = serde_json::from_str(&english.body).unwrap();
        assert_eq!(json["detail"], "This call costs 5 credits; 3 are available.");
        assert_eq!(json["error"]["message"], json["detail"]);
        assert_eq!(json["error"]["type"], "insufficient_quota");
        assert_eq!(json["error"]["code"], "INSUFFICIENT_CREDITS");
        assert_eq!(json["type"], "https://farebox.dev/problems/insufficient-credits");
        assert_eq!((&json["required"], &json["available"]), (&5.into(), &3.into()));
        assert_eq!(json["request_id"], "req-1");
        let french = problem.render("req-1", Language::French);
        assert!(french.body.contains("Cet appel coûte 5 crédits"), "{}", french.body);
    }

    #[test]
    fn the_language_is_the_one_the_client_prefers() {
        for (header, language) in [
            ("fr", Language::French),
            ("fr-CA,fr;q=0.9,en;q=0.8", Language::French),
            ("en,fr;q=0.9", Language::English),
            ("de,fr;q=0.5", Language::French),
            ("en;q=0.1, fr;q=0.2", Language::French),
            ("fr;q=0", Language::English),
            ("fr;q=nonsense", Language::English),
            ("", Language::English),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT_LANGUAGE, header.parse().unwrap());
            assert_eq!(Language::of(&headers), language, "{header}");
        }
    }
}
