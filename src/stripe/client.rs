//! The connection to Stripe's API: one request and its answer, or a typed error.
//!
//! `requests.rs` has a method for each request that Farebox makes, `objects.rs` has the answers.

use std::error::Error;
use std::fmt::Write as _;
use std::time::Duration;

use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use reqwest::{Method, RequestBuilder, StatusCode, Url, redirect};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::config::StripeConfig;
use super::objects::List;

/// The version of Stripe's API that Farebox is written for. Without this header Stripe would use the
/// version that the seller's account is set to.
const API_VERSION: &str = "2026-09-30.endive";

/// The time that Stripe has to answer. A buyer waits for the answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);

/// The time that an idle connection stays open for the next request. Stripe closes it later than that.
const IDLE_LIMIT: Duration = Duration::from_secs(15);

/// The largest answer that is read. A page of 100 objects has less than a tenth of this.
const MAX_ANSWER_BYTES: usize = 16 * 1024 * 1024;

/// The longest idempotency key that Stripe takes.
const MAX_KEY_BYTES: usize = 255;

/// The reason why a request to Stripe failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// No client can be made from `[stripe]`.
    #[error("[stripe] cannot be used: {0}")]
    Setup(String),
    /// The request cannot be put into a valid form. Nothing was sent.
    #[error("the request to Stripe cannot be written: {0}")]
    Unwritable(String),
    /// Stripe did not answer in time.
    #[error("Stripe did not answer within {} seconds", ANSWER_LIMIT.as_secs())]
    Timeout,
    /// No connection could be made, or it broke.
    #[error("Stripe cannot be reached: {0}")]
    Unreachable(String),
    /// Stripe refused the request.
    #[error("Stripe refused with status {status}: {message}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The parameter that Stripe complains about.
        param: Option<String>,
        /// The reason, in Stripe's words.
        message: String,
    },
    /// Another request was made under this idempotency key before.
    #[error("Stripe has had another request under this idempotency key")]
    KeyReused,
    /// The first request under this idempotency key is still running.
    #[error("the first request under this idempotency key is still running at Stripe")]
    KeyInUse,
    /// The answer is not one of Stripe's.
    #[error("Stripe's answer cannot be read: {0}")]
    Unreadable(String),
}

impl ApiError {
    /// True if the same request may succeed later.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Timeout | Self::Unreachable(_) | Self::KeyInUse => true,
            Self::Refused { status, .. } => matches!(status, 409 | 429 | 500..),
            Self::Setup(_) | Self::Unwritable(_) | Self::KeyReused | Self::Unreadable(_) => false,
        }
    }

    /// The error for an answer with this status, which is not a 2xx.
    fn of_refusal(status: StatusCode, body: &[u8]) -> Self {
        // A proxy on the way may refuse the request, without Stripe's JSON. Then only the status
        // counts.
        let Refusal { error } = serde_json::from_slice(body).unwrap_or_default();
        // These are the two ways in which Stripe reports a conflict
        // (https://docs.stripe.com/api/idempotent_requests).
        let is_about_the_key = error.kind.as_deref() == Some("idempotency_error")
            || error.code.as_deref() == Some("idempotency_key_in_use");
        match status.as_u16() {
            400 if is_about_the_key => Self::KeyReused,
            409 if is_about_the_key => Self::KeyInUse,
            status => Self::Refused {
                status,
                param: error.param,
                message: error.message.unwrap_or_else(|| "no reason given".to_owned()),
            },
        }
    }
}

impl From<reqwest::Error> for ApiError {
    fn from(error: reqwest::Error) -> Self {
        if error.is_timeout() { Self::Timeout } else { Self::Unreachable(reasons(error)) }
    }
}

/// The text of an error and of all its causes, such as a refused connection or a name that does not
/// resolve.
fn reasons(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        // Writing to a `String` cannot fail.
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    text
}

/// The body of an answer with which Stripe refuses a request.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Refusal {
    error: Reason,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Reason {
    #[serde(rename = "type")]
    kind: Option<String>,
    code: Option<String>,
    param: Option<String>,
    message: Option<String>,
}

/// A client of Stripe's API. Clones share their connections.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    /// The address `api_base`. Every path is appended to it.
    base: Url,
    /// The secret key, marked as sensitive: `Debug` does not print it.
    authorization: HeaderValue,
}

impl Client {
    /// A client with the key and the address of `config`. Nothing is sent yet.
    ///
    /// # Errors
    /// [`ApiError::Setup`] if the key cannot be sent in a header, if `api_base` is not an address,
    /// or if this system trusts no certificate authority.
    pub fn new(config: &StripeConfig) -> Result<Self, ApiError> {
        let bearer = format!("Bearer {}", config.secret_key.expose());
        let mut authorization = HeaderValue::try_from(bearer).map_err(|_| {
            ApiError::Setup("`secret_key` has characters that no HTTP header carries".to_owned())
        })?;
        authorization.set_sensitive(true);
        let base = Url::parse(&config.api_base).ok().filter(Url::has_host).ok_or_else(|| {
            ApiError::Setup("`api_base` is not the address of a server: https://…".to_owned())
        })?;
        let http = reqwest::Client::builder()
            .user_agent(concat!("Farebox/", env!("CARGO_PKG_VERSION")))
            .timeout(ANSWER_LIMIT)
            .pool_idle_timeout(IDLE_LIMIT)
            // If redirects were followed, the key would be sent to wherever they point.
            .redirect(redirect::Policy::none())
            .no_proxy()
            .build()
            .map_err(|error| {
                ApiError::Setup(format!(
                    "no TLS to reach Stripe with ({}); install ca-certificates, or name a file of \
                     certificate authorities in SSL_CERT_FILE",
                    reasons(error)
                ))
            })?;
        Ok(Self { http, base, authorization })
    }

    /// Reads the object at `path`. After a broken connection, the request is sent once more.
    pub(super) async fn get<T: DeserializeOwned>(
        &self,
        path: &[&str],
        query: &impl Serialize,
    ) -> Result<T, ApiError> {
        let mut url = self.url(path)?;
        let query = form(query)?;
        url.set_query(Some(&query).filter(|query| !query.is_empty()).map(String::as_str));
        self.send(|| self.http.request(Method::GET, url.clone())).await
    }

    /// Makes or changes the object at `path`. Stripe does so once, however many requests have the
    /// same `key`. If the connection breaks, the request is sent once more, because the first one
    /// may not have arrived.
    pub(super) async fn post<T: DeserializeOwned>(
        &self,
        path: &[&str],
        parameters: &impl Serialize,
        key: &str,
    ) -> Result<T, ApiError> {
        let key = Some(key).filter(|key| (1..=MAX_KEY_BYTES).contains(&key.len()));
        let key = key.and_then(|key| HeaderValue::from_str(key).ok()).ok_or_else(|| {
            ApiError::Unwritable(format!("an idempotency key has 1 to {MAX_KEY_BYTES} ASCII bytes"))
        })?;
        let (url, form) = (self.url(path)?, form(parameters)?);
        self.send(|| {
            let request = self.http.request(Method::POST, url.clone());
            let request = request.header("idempotency-key", key.clone());
            request.header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(form.clone())
        })
        .await
    }

    /// Reads every object of the list at `path`, page by page. `id` returns the id of an object,
    /// which is where the next page begins.
    pub(super) async fn list<T: DeserializeOwned>(
        &self,
        path: &[&str],
        filter: &impl Serialize,
        id: impl Fn(&T) -> &str,
    ) -> Result<Vec<T>, ApiError> {
        let mut all: Vec<T> = Vec::new();
        loop {
            let page = Page { filter, limit: PAGE, starting_after: all.last().map(&id) };
            let List { data, has_more } = self.get(path, &page).await?;
            let is_empty = data.is_empty();
            all.extend(data);
            if !has_more || is_empty {
                return Ok(all);
            }
        }
    }

    /// The address of `path`. Its segments are escaped, so that an id cannot lead to another path.
    fn url(&self, path: &[&str]) -> Result<Url, ApiError> {
        // `Url` drops an empty segment, `.` and `..`, which would lead to another path.
        if let Some(odd) = path.iter().find(|segment| matches!(**segment, "" | "." | "..")) {
            return Err(ApiError::Unwritable(format!("{odd:?} is not an id of Stripe's")));
        }
        let mut url = self.base.clone();
        match url.path_segments_mut() {
            Ok(mut segments) => segments.pop_if_empty().push("v1").extend(path),
            Err(()) => return Err(ApiError::Unwritable("`api_base` has no path".to_owned())),
        };
        Ok(url)
    }

    async fn send<T: DeserializeOwned>(
        &self,
        request: impl Fn() -> RequestBuilder,
    ) -> Result<T, ApiError> {
        let answer = match self.send_once(request()).await {
            Err(ApiError::Unreachable(_)) => self.send_once(request()).await?,
            answer => answer?,
        };
        serde_json::from_slice(&answer).map_err(|error| ApiError::Unreadable(error.to_string()))
    }

    /// The body of a 2xx answer.
    async fn send_once(&self, request: RequestBuilder) -> Result<Vec<u8>, ApiError> {
        let request = request.header(AUTHORIZATION, self.authorization.clone());
        let mut answer = request.header("stripe-version", API_VERSION).send().await?;
        let status = answer.status();
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await? {
            if body.len() + chunk.len() > MAX_ANSWER_BYTES {
                let message = format!("it is larger than {MAX_ANSWER_BYTES} bytes");
                return Err(ApiError::Unreadable(message));
            }
            body.extend_from_slice(&chunk);
        }
        if status.is_success() { Ok(body) } else { Err(ApiError::of_refusal(status, &body)) }
    }
}

/// The most objects in a page of a list: Stripe's own limit.
const PAGE: u8 = 100;

/// The parameters of one page of a list.
#[derive(Serialize)]
struct Page<'a, F> {
    #[serde(flatten)]
    filter: &'a F,
    limit: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    starting_after: Option<&'a str>,
}

/// Parameters in the form that Stripe reads, nested in brackets: `line_items[0][quantity]=1`. Equal
/// parameters give equal text. A retry under the same idempotency key needs that.
fn form(parameters: &impl Serialize) -> Result<String, ApiError> {
    serde_qs::Config::new()
        .use_form_encoding(true)
        .serialize_string(parameters)
        .map_err(|error| ApiError::Unwritable(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    const KEY: &str = "sk_test_neverPrinted";

    fn client(api_base: &str) -> Result<Client, ApiError> {
        let config = StripeConfig::sandbox(Some(Secret::new(KEY)));
        Client::new(&StripeConfig { api_base: api_base.to_owned(), ..config })
    }

    #[test]
    fn the_secret_key_is_in_no_debug_print_and_in_no_error() {
        let printed = format!("{:?}", client("https://api.stripe.com").unwrap());
        assert!(!printed.contains("neverPrinted"), "{printed}");
        let config = StripeConfig::sandbox(Some(Secret::new(format!("{KEY}\n"))));
        let error = Client::new(&config).unwrap_err();
        assert!(!format!("{error:?} {error}").contains("neverPrinted"), "{error:?}");
    }

    #[test]
    fn every_path_stands_below_the_address_of_the_api() {
        for base in ["https://api.stripe.com", "https://api.stripe.com/", "https://a.example/x/"] {
            let base = client(base).unwrap();
            let url = base.url(&["prices", "price_1"]).unwrap();
            let path = base.base.path().trim_end_matches('/').to_owned();
            assert_eq!(url.path(), format!("{path}/v1/prices/price_1"));
            let url = base.url(&["prices", "../customers?a=b#c/d"]).unwrap();
            assert_eq!(url.path(), format!("{path}/v1/prices/..%2Fcustomers%3Fa=b%23c%2Fd"));
            assert_eq!((url.query(), url.fragment()), (None, None));
            for odd in ["", ".", ".."] {
                assert!(base.url(&["prices", odd]).is_err(), "{odd:?}");
            }
        }
        assert!(client("api.stripe.com").is_err());
    }

    #[test]
    fn parameters_are_nested_in_brackets_and_always_in_the_same_order() {
        #[derive(Serialize)]
        struct Order<'a> {
            items: Vec<Item<'a>>,
            metadata: std::collections::BTreeMap<&'a str, &'a str>,
            events: [&'a str; 2],
        }
        #[derive(Serialize)]
        struct Item<'a> {
            name: &'a str,
            quantity: u32,
            taxed: bool,
        }
        let order = Order {
            items: vec![Item { name: "50 % & more=é", quantity: 1, taxed: true }],
            metadata: [("pack", "a b+c"), ("account", "alice")].into(),
            events: ["*", "charge.refunded"],
        };
        let pairs = [
            ("items[0][name]", "50 % & more=é"),
            ("items[0][quantity]", "1"),
            ("items[0][taxed]", "true"),
            ("metadata[account]", "alice"),
            ("metadata[pack]", "a b+c"),
            ("events[0]", "*"),
            ("events[1]", "charge.refunded"),
        ];
        let mut url = Url::parse("http://form/").unwrap();
        url.set_query(Some(&form(&order).unwrap()));
        let read: Vec<_> = url.query_pairs().collect();
        assert_eq!(read, pairs.map(|(key, value)| (key.into(), value.into())));
    }

    #[test]
    fn a_refusal_is_told_by_its_status_and_by_stripe_s_words_where_there_are_any() {
        let refusal = |status: u16, body: &str| {
            ApiError::of_refusal(StatusCode::from_u16(status).unwrap(), body.as_bytes())
        };
        let body = r#"{"error":{"type":"idempotency_error","message":"m"}}"#;
        assert_eq!(refusal(400, body), ApiError::KeyReused);
        assert_eq!(refusal(409, body), ApiError::KeyInUse);
        let code = r#"{"error":{"code":"idempotency_key_in_use","type":"x"}}"#;
        assert_eq!(refusal(409, code), ApiError::KeyInUse);
        let missing = r#"{"error":{"code":"resource_missing","param":"customer","message":"No such customer"}}"#;
        let ApiError::Refused { status: 404, param, message } = refusal(404, missing) else {
            panic!("{missing}")
        };
        assert_eq!((param.as_deref(), &*message), (Some("customer"), "No such customer"));
        for odd in ["", "<html>Bad gateway</html>", "[]", r#"{"error":null}"#, r#"{"error":"x"}"#] {
            let error = refusal(502, odd);
            assert!(error.is_temporary(), "{odd}: {error}");
            assert!(!refusal(401, odd).is_temporary(), "{odd}");
        }
    }
}
