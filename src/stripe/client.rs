//! Stripe's API. The requests are async-stripe's, typed from Stripe's own description; the answers
//! are read by ourselves, because its types of them know one API version only.

use std::time::Duration;

use ::stripe::StripeError;
use serde::de::DeserializeOwned;
use stripe_client_core::{
    CustomizedStripeRequest, IdempotencyKey, RequestBuilder, RequestStrategy, StripeClient,
    StripeRequest,
};
use stripe_shared::{ApiErrors, ApiErrorsCode, ApiErrorsType};

use super::config::StripeConfig;
use super::objects::List;

/// How long Stripe may take to answer; a buyer waits for it.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);

/// The most that a page of a list holds.
pub(super) const PAGE: i64 = 100;

/// Why Stripe did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// No answer in time.
    #[error("Stripe did not answer within {} seconds", ANSWER_LIMIT.as_secs())]
    Timeout,
    /// No connection, or it broke.
    #[error("Stripe cannot be reached: {0}")]
    Unreachable(String),
    /// Stripe said no.
    #[error("Stripe refused with status {status}: {message}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// Which parameter it is about.
        param: Option<String>,
        /// In Stripe's words.
        message: String,
    },
    /// Under this idempotency key something else was asked for before.
    #[error("Stripe has had another request under this idempotency key")]
    KeyReused,
    /// What was asked for under this idempotency key is still being done.
    #[error("Stripe is still at the request with this idempotency key")]
    KeyInUse,
    /// An answer that is not Stripe's.
    #[error("Stripe's answer cannot be read: {0}")]
    Unreadable(String),
}

impl ApiError {
    /// True where the same request may succeed later.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Timeout | Self::Unreachable(_) | Self::KeyInUse => true,
            Self::Refused { status, .. } => matches!(status, 409 | 429 | 500..),
            Self::KeyReused | Self::Unreadable(_) => false,
        }
    }
}

impl From<StripeError> for ApiError {
    fn from(error: StripeError) -> Self {
        match error {
            StripeError::Timeout => Self::Timeout,
            StripeError::ClientError(error) | StripeError::ConfigError(error) => {
                Self::Unreachable(error)
            }
            StripeError::JSONDeserialize(error) => Self::Unreadable(error),
            // https://docs.stripe.com/api/idempotent_requests
            StripeError::Stripe(error, 400) if is_about_the_key(&error) => Self::KeyReused,
            StripeError::Stripe(error, 409) if is_about_the_key(&error) => Self::KeyInUse,
            StripeError::Stripe(error, status) => Self::Refused {
                status,
                param: error.param,
                message: error.message.unwrap_or_else(|| "no reason given".to_owned()),
            },
        }
    }
}

fn is_about_the_key(error: &ApiErrors) -> bool {
    error.type_ == ApiErrorsType::IdempotencyError
        || error.code == Some(ApiErrorsCode::IdempotencyKeyInUse)
}

/// A client of Stripe's API.
#[derive(Clone, Debug)]
pub struct Client {
    client: ::stripe::Client,
}

impl Client {
    /// With the key and the address of `config`.
    ///
    /// # Errors
    /// Where the key cannot be sent in a header, the address is none, or the system trusts nobody.
    pub fn new(config: &StripeConfig) -> Result<Self, ApiError> {
        if rustls_native_certs::load_native_certs().certs.is_empty() {
            let missing = "this system has no certificate authorities; install ca-certificates, or \
                           name their file in SSL_CERT_FILE";
            return Err(ApiError::Unreachable(missing.to_owned()));
        }
        // async-stripe takes the process's default, and two kinds are linked in. Whoever came first
        // has set one that does as well.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let base = format!("{}/", config.api_base.trim_end_matches('/'));
        let client = ::stripe::ClientBuilder::new(config.secret_key.expose())
            .url(base)
            .timeout(ANSWER_LIMIT)
            .app_info("Farebox", Some(env!("CARGO_PKG_VERSION").to_owned()), None)
            .build()?;
        Ok(Self { client })
    }

    /// Asks for something that changes nothing.
    pub(super) async fn get<T: DeserializeOwned>(
        &self,
        request: &impl StripeRequest,
    ) -> Result<T, ApiError> {
        self.send(request.build(), RequestStrategy::Once).await
    }

    /// Asks for something to be done, once however often it is asked under this key. Where the
    /// connection breaks it is asked a second time: the first may have been heard.
    pub(super) async fn post<T: DeserializeOwned>(
        &self,
        request: &impl StripeRequest,
        key: &str,
    ) -> Result<T, ApiError> {
        let key =
            IdempotencyKey::new(key).map_err(|error| ApiError::Unreadable(error.to_string()))?;
        let once = RequestStrategy::Idempotent(key);
        match self.send(request.build(), once.clone()).await {
            Err(ApiError::Unreachable(_)) => self.send(request.build(), once).await,
            answer => answer,
        }
    }

    /// Every item of a list, a page at a time. `page` makes the request for what comes after an id.
    pub(super) async fn list<T: DeserializeOwned, R: StripeRequest>(
        &self,
        page: impl Fn(Option<&str>) -> R,
        id: impl Fn(&T) -> &str,
    ) -> Result<Vec<T>, ApiError> {
        let mut all: Vec<T> = Vec::new();
        loop {
            let request = page(all.last().map(&id));
            let List { data, has_more } = self.get(&request).await?;
            let empty = data.is_empty();
            all.extend(data);
            if !has_more || empty {
                return Ok(all);
            }
        }
    }

    async fn send<T: DeserializeOwned>(
        &self,
        mut request: RequestBuilder,
        strategy: RequestStrategy,
    ) -> Result<T, ApiError> {
        request.body = request.body.as_deref().map(in_order);
        let request = request.customize::<String>().request_strategy(strategy);
        let answer = request.send(&Verbatim(&self.client)).await?;
        serde_json::from_str(&answer).map_err(|error| ApiError::Unreadable(error.to_string()))
    }
}

/// The same form with its fields in the order of their names. Metadata come in a new order each time,
/// and what is repeated under an idempotency key must be the same.
fn in_order(form: &str) -> String {
    let mut fields: Vec<&str> = form.split('&').collect();
    fields.sort_by_key(|field| field.split('=').next().unwrap_or_default());
    fields.join("&")
}

/// Hands an answer on as one text. async-stripe gives answers to a parser of its own and to no
/// other; a JSON string is what passes through that whole.
struct Verbatim<'a>(&'a ::stripe::Client);

impl StripeClient for Verbatim<'_> {
    type Err = StripeError;

    async fn execute(&self, request: CustomizedStripeRequest) -> Result<bytes::Bytes, StripeError> {
        let answer = self.0.execute(request).await?;
        let text = std::str::from_utf8(&answer)
            .map_err(|error| StripeError::JSONDeserialize(error.to_string()))?;
        serde_json::to_vec(text)
            .map(Into::into)
            .map_err(|error| StripeError::JSONDeserialize(error.to_string()))
    }
}
