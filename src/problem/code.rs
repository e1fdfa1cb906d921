//! The stable codes of problems.

use serde::Serialize;

/// The stable code of a problem, for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[allow(missing_docs)]
pub enum Code {
    Unauthenticated,
    Forbidden,
    InsufficientCredits,
    PriceOverLimit,
    AccountFrozen,
    NoPriceRule,
    ModelNotPriced,
    NotFound,
    BadRequest,
    BodyTooLarge,
    RequestTimeout,
    IdempotencyConflict,
    IdempotencyInProgress,
    IdempotencyNotKept,
    RateLimited,
    UpstreamFailed,
    LedgerUnavailable,
    Overloaded,
    PaymentsUnavailable,
    UpstreamTimeout,
}

impl Code {
    /// The last segment of the `type` of problems with this code.
    pub(super) const fn slug(self) -> &'static str {
        match self {
            Self::Unauthenticated => "unauthenticated",
            Self::Forbidden => "forbidden",
            Self::InsufficientCredits => "insufficient-credits",
            Self::PriceOverLimit => "price-over-limit",
            Self::AccountFrozen => "account-frozen",
            Self::NoPriceRule => "no-price-rule",
            Self::ModelNotPriced => "model-not-priced",
            Self::NotFound => "not-found",
            Self::BadRequest => "bad-request",
            Self::BodyTooLarge => "body-too-large",
            Self::RequestTimeout => "request-timeout",
            Self::IdempotencyConflict => "idempotency-conflict",
            Self::IdempotencyInProgress => "idempotency-in-progress",
            Self::IdempotencyNotKept => "idempotency-not-kept",
            Self::RateLimited => "rate-limited",
            Self::UpstreamFailed => "upstream-failed",
            Self::LedgerUnavailable => "ledger-unavailable",
            Self::Overloaded => "overloaded",
            Self::PaymentsUnavailable => "payments-unavailable",
            Self::UpstreamTimeout => "upstream-timeout",
        }
    }

    /// The `type` that OpenAI's API gives to errors of this kind.
    pub(crate) const fn openai_type(self) -> &'static str {
        match self {
            Self::Unauthenticated => "authentication_error",
            Self::Forbidden | Self::AccountFrozen => "permission_error",
            Self::InsufficientCredits | Self::PriceOverLimit => "insufficient_quota",
            Self::NoPriceRule
            | Self::ModelNotPriced
            | Self::NotFound
            | Self::BadRequest
            | Self::BodyTooLarge
            | Self::RequestTimeout
            | Self::IdempotencyConflict
            | Self::IdempotencyInProgress
            | Self::IdempotencyNotKept => "invalid_request_error",
            Self::RateLimited => "rate_limit_error",
            Self::UpstreamFailed
            | Self::LedgerUnavailable
            | Self::Overloaded
            | Self::PaymentsUnavailable
            | Self::UpstreamTimeout => "api_error",
        }
    }

    /// The name that Anthropic's API has for an error of this kind.
    pub(crate) const fn anthropic_type(self) -> &'static str {
        match self {
            Self::Unauthenticated => "authentication_error",
            Self::Forbidden | Self::AccountFrozen => "permission_error",
            Self::InsufficientCredits | Self::PriceOverLimit => "billing_error",
            Self::NoPriceRule | Self::ModelNotPriced | Self::NotFound => "not_found_error",
            Self::BadRequest
            | Self::RequestTimeout
            | Self::IdempotencyConflict
            | Self::IdempotencyInProgress
            | Self::IdempotencyNotKept => "invalid_request_error",
            Self::BodyTooLarge => "request_too_large",
            Self::RateLimited => "rate_limit_error",
            Self::Overloaded => "overloaded_error",
            Self::UpstreamTimeout => "timeout_error",
            Self::UpstreamFailed | Self::LedgerUnavailable | Self::PaymentsUnavailable => {
                "api_error"
            }
        }
    }
}
