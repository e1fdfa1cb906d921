//! Browsers on other origins: the CORS protocol of the Fetch standard.

use http::{HeaderMap, HeaderValue, Method, header};
use pingora_error::Result;
use pingora_http::ResponseHeader;

/// The origins whose pages may call Farebox. If there are none, no CORS header is sent at all.
#[derive(Clone, Debug, Default)]
pub struct Cors {
    origins: Vec<HeaderValue>,
}

/// The headers of an answer that a page may always read.
const EXPOSED: &str = "x-credits-cost, x-credits-held, x-credits-remaining, x-request-id, \
                       retry-after, idempotent-replayed";

/// How long a browser may cache the answer to a preflight: two hours, the most that Chromium
/// allows.
const MAX_AGE: HeaderValue = HeaderValue::from_static("7200");

const VARY: HeaderValue = HeaderValue::from_static("origin");

/// CORS headers of an upstream. They are dropped if Farebox sends its own.
const UPSTREAMS_OWN: [header::HeaderName; 6] = [
    header::ACCESS_CONTROL_ALLOW_ORIGIN,
    header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
    header::ACCESS_CONTROL_ALLOW_HEADERS,
    header::ACCESS_CONTROL_ALLOW_METHODS,
    header::ACCESS_CONTROL_EXPOSE_HEADERS,
    header::ACCESS_CONTROL_MAX_AGE,
];

impl Cors {
    /// Reads `[api] cors_origins`, which was checked before.
    pub fn new(origins: &[String]) -> Self {
        let origins = origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok());
        Self { origins: origins.collect() }
    }

    /// True if at least one origin is allowed. Farebox then answers preflights and sends CORS
    /// headers.
    pub fn is_on(&self) -> bool {
        !self.origins.is_empty()
    }

    /// The request's origin, if its pages may read answers.
    pub fn allowed(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        let origin = headers.get(header::ORIGIN)?;
        self.origins.contains(origin).then(|| origin.clone())
    }

    /// True for a preflight, which is never forwarded and never charged.
    pub fn is_preflight(&self, method: &Method, headers: &HeaderMap) -> bool {
        self.is_on()
            && *method == Method::OPTIONS
            && headers.contains_key(header::ORIGIN)
            && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
    }

    /// The answer to a preflight. For an origin that is not allowed, it grants nothing.
    pub fn preflight(&self, request: &HeaderMap) -> Result<ResponseHeader> {
        let mut head = ResponseHeader::build(204, Some(6))?;
        let Some(origin) = self.allowed(request) else { return Ok(head) };
        head.insert_header(header::VARY, VARY)?;
        head.insert_header(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin)?;
        for (asked, granted) in [
            (header::ACCESS_CONTROL_REQUEST_METHOD, header::ACCESS_CONTROL_ALLOW_METHODS),
            (header::ACCESS_CONTROL_REQUEST_HEADERS, header::ACCESS_CONTROL_ALLOW_HEADERS),
        ] {
            if let Some(value) = request.get(asked) {
                head.insert_header(granted, value.clone())?;
            }
        }
        head.insert_header(header::ACCESS_CONTROL_MAX_AGE, MAX_AGE)?;
        Ok(head)
    }

    /// Replaces the upstream's CORS headers on an answer with Farebox's own. Headers that the
    /// upstream exposes stay exposed.
    pub fn mark(&self, head: &mut ResponseHeader, origin: Option<&HeaderValue>) -> Result<()> {
        if !self.is_on() {
            return Ok(());
        }
        let exposed = origin.map(|_| exposed(&head.headers));
        for name in &UPSTREAMS_OWN {
            head.remove_header(name);
        }
        head.append_header(header::VARY, VARY)?;
        if let Some((origin, exposed)) = origin.zip(exposed) {
            head.insert_header(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone())?;
            head.insert_header(header::ACCESS_CONTROL_EXPOSE_HEADERS, exposed)?;
        }
        Ok(())
    }
}

/// Farebox's exposed headers and those of the answer, each once. A `*` from the upstream is kept:
/// browsers take it for all names, because answers never allow credentials.
fn exposed(answer: &HeaderMap) -> HeaderValue {
    let ours = HeaderValue::from_static(EXPOSED);
    let lines = answer.get_all(header::ACCESS_CONTROL_EXPOSE_HEADERS).iter();
    let theirs = lines.filter_map(|line| line.to_str().ok()).flat_map(|line| line.split(','));
    let mut names: Vec<&str> = Vec::new();
    for name in theirs.map(str::trim).filter(|name| !name.is_empty()) {
        if !EXPOSED.split(", ").chain(names.iter().copied()).any(|n| n.eq_ignore_ascii_case(name)) {
            names.push(name);
        }
    }
    if names.is_empty() {
        return ours;
    }
    HeaderValue::from_str(&format!("{EXPOSED}, {}", names.join(", "))).unwrap_or(ours)
}
