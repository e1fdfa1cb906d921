//! Problems: an HTTP status, a stable code and a message; a 402 also has an offer.

use std::sync::Arc;

use http::StatusCode;
use serde_json::value::RawValue;

use crate::credits::{Credits, SignedCredits};
use crate::problem::code::Code;
use crate::problem::language::Text;
use crate::problem::texts;

/// The members that only a 402 has.
#[derive(Clone, Debug)]
pub struct Offer {
    /// The price of the call. `None` if the call was refused before its price was known.
    pub required: Option<Credits>,
    /// The credits that the account has.
    pub available: SignedCredits,
    /// The page that sells credits.
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
    /// The message: what happened, and what to do.
    pub detail: Text,
    pub(super) offer: Option<Box<Offer>>,
    pub(super) retry_after_secs: Option<u32>,
}

impl Problem {
    fn new(status: StatusCode, code: Code, detail: Text) -> Self {
        Self { status, code, detail, offer: None, retry_after_secs: None }
    }

    /// The same problem with another text.
    pub fn with_detail(self, detail: Text) -> Self {
        Self { detail, ..self }
    }

    /// 401: the request identifies no account.
    pub fn unauthenticated(detail: Text) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, Code::Unauthenticated, detail)
    }

    /// 403: the caller is identified, but may not do this.
    pub fn forbidden(detail: Text) -> Self {
        Self::new(StatusCode::FORBIDDEN, Code::Forbidden, detail)
    }

    /// 402: the account has too few credits; nothing was sent upstream.
    pub fn insufficient_credits(offer: Offer) -> Self {
        let detail = match offer.required {
            Some(required) => texts::insufficient_credits(required, offer.available),
            None => texts::NO_CREDITS,
        };
        let problem = Self::new(StatusCode::PAYMENT_REQUIRED, Code::InsufficientCredits, detail);
        Self { offer: Some(Box::new(offer)), ..problem }
    }

    /// 402: the call may cost `most`, which is more than the `limit` that its `x-credits-max` allows; nothing
    /// was held.
    pub fn price_over_limit(most: Credits, limit: Credits) -> Self {
        let detail = texts::price_over_limit(most, limit);
        Self::new(StatusCode::PAYMENT_REQUIRED, Code::PriceOverLimit, detail)
    }

    /// 403: a dispute freezes the account; nothing was sent upstream.
    pub fn account_frozen() -> Self {
        Self::new(StatusCode::FORBIDDEN, Code::AccountFrozen, texts::ACCOUNT_FROZEN)
    }

    /// 404: the path has no price. A path without a price is never free.
    pub fn no_price_rule() -> Self {
        Self::new(StatusCode::NOT_FOUND, Code::NoPriceRule, texts::NO_PRICE_RULE)
    }

    /// 404: no price is set for the model, and a model without a price is never free.
    pub fn model_not_priced(model: Option<&str>) -> Self {
        let detail = match model {
            Some(model) => texts::model_not_priced(model),
            None => texts::NO_MODEL,
        };
        Self::new(StatusCode::NOT_FOUND, Code::ModelNotPriced, detail)
    }

    /// 404: Farebox has no such route, or no such thing.
    pub fn not_found(detail: Text) -> Self {
        Self::new(StatusCode::NOT_FOUND, Code::NotFound, detail)
    }

    /// 400: the request is malformed or ambiguous.
    pub fn bad_request(detail: Text) -> Self {
        Self::new(StatusCode::BAD_REQUEST, Code::BadRequest, detail)
    }

    /// 405: the path does not take this method.
    pub fn method_not_allowed() -> Self {
        let status = StatusCode::METHOD_NOT_ALLOWED;
        Self::new(status, Code::BadRequest, texts::METHOD_NOT_ALLOWED)
    }

    /// 413: the body is larger than the route takes.
    pub fn body_too_large(limit_bytes: usize) -> Self {
        let status = StatusCode::PAYLOAD_TOO_LARGE;
        Self::new(status, Code::BodyTooLarge, texts::body_too_large(limit_bytes))
    }

    /// 431: the head is larger than `[server] max_header_bytes`.
    pub fn head_too_large(limit_bytes: usize) -> Self {
        let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        Self::new(status, Code::BadRequest, texts::head_too_large(limit_bytes))
    }

    /// 408: the client stopped sending.
    pub fn request_timeout() -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, Code::RequestTimeout, texts::REQUEST_TIMEOUT)
    }

    /// 400: the request's body does not have the framing that its head announced.
    pub fn unreadable_request() -> Self {
        Self::bad_request(texts::UNREADABLE_REQUEST)
    }

    /// 400: the request's head breaks HTTP's rules.
    pub fn unreadable_head() -> Self {
        Self::bad_request(texts::UNREADABLE_HEAD)
    }

    /// 409: the request contradicts an earlier one, such as one that used its id for another
    /// operation or that ended its hold.
    pub fn conflict(detail: Text) -> Self {
        Self::new(StatusCode::CONFLICT, Code::IdempotencyConflict, detail)
    }

    /// 422: the idempotency key was already used for another request.
    pub fn other_payload(detail: Text) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, Code::IdempotencyConflict, detail)
    }

    /// 409: the first call under the idempotency key is not settled yet.
    pub fn in_progress() -> Self {
        let (status, detail) = (StatusCode::CONFLICT, texts::IN_PROGRESS);
        let problem = Self::new(status, Code::IdempotencyInProgress, detail);
        Self { retry_after_secs: Some(1), ..problem }
    }

    /// 409: the first call under the idempotency key was charged, and its answer was not kept.
    pub fn not_kept() -> Self {
        Self::new(StatusCode::CONFLICT, Code::IdempotencyNotKept, texts::NOT_KEPT)
    }

    /// 422: the request can be read, but its values make no sense.
    pub fn unprocessable(detail: Text) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, Code::BadRequest, detail)
    }

    /// 429: the account has reached a limit.
    pub fn too_many_requests(detail: Text) -> Self {
        let problem = Self::new(StatusCode::TOO_MANY_REQUESTS, Code::RateLimited, detail);
        Self { retry_after_secs: Some(30), ..problem }
    }

    /// 429: the account begins purchases faster than `/buy` allows.
    pub fn too_many_purchases(retry_after_secs: u32) -> Self {
        let problem = Self::too_many_requests(texts::too_many_purchases(retry_after_secs));
        Self { retry_after_secs: Some(retry_after_secs), ..problem }
    }

    /// 502: the upstream gave no usable answer.
    pub fn upstream_failed() -> Self {
        Self::new(StatusCode::BAD_GATEWAY, Code::UpstreamFailed, texts::UPSTREAM_FAILED)
    }

    /// 504: the upstream was silent for too long.
    pub fn upstream_timeout() -> Self {
        Self::new(StatusCode::GATEWAY_TIMEOUT, Code::UpstreamTimeout, texts::UPSTREAM_TIMEOUT)
    }

    /// 503: the ledger is unavailable. The caller is not at fault.
    pub fn ledger_unavailable() -> Self {
        Self::unavailable(texts::LEDGER_UNAVAILABLE)
    }

    /// 503: the bodies that are being read take as much memory as `[server] body_memory` allows.
    pub fn overloaded() -> Self {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        Self { retry_after_secs: Some(1), ..Self::new(status, Code::Overloaded, texts::OVERLOADED) }
    }

    /// 503: the gateway is stopping, and has not read the whole request.
    pub fn stopping() -> Self {
        Self::unavailable(texts::STOPPING)
    }

    /// 503: Stripe does not answer; a retry may succeed soon.
    pub fn payments_unavailable() -> Self {
        let (status, detail) = (StatusCode::SERVICE_UNAVAILABLE, texts::PAYMENTS_UNAVAILABLE);
        let problem = Self::new(status, Code::PaymentsUnavailable, detail);
        Self { retry_after_secs: Some(30), ..problem }
    }

    /// 502: Stripe refused the request, or its answer cannot be read. Only the operator can fix
    /// that.
    pub fn payments_failed() -> Self {
        Self::new(StatusCode::BAD_GATEWAY, Code::PaymentsUnavailable, texts::PAYMENTS_FAILED)
    }

    /// 503 with a message of its own.
    pub fn unavailable(detail: Text) -> Self {
        let problem = Self::new(StatusCode::SERVICE_UNAVAILABLE, Code::LedgerUnavailable, detail);
        Self { retry_after_secs: Some(2), ..problem }
    }
}
