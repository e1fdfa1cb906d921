//! Checks the head of a metered request for anything that could make an upstream read another price
//! from the body, and reads the client's own limit.

use http::{HeaderMap, header};

use crate::app::names_model;
use crate::credits::Credits;
use crate::problem::{Problem, texts};
use crate::proxy::headers::{X_CREDITS_MAX, X_CREDITS_REPORT};

/// Refuses a head that could make an upstream read the request differently than Farebox does.
///
/// # Errors
/// 400 for an encoded body, for two content types, and for a model in the query.
pub(in crate::proxy) fn check(headers: &HeaderMap, query: &str) -> Result<(), Problem> {
    let mut encodings = headers.get_all(header::CONTENT_ENCODING).iter();
    if !encodings.all(|value| value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"identity")) {
        return Err(Problem::bad_request(texts::ENCODED_BODY));
    }
    if headers.get_all(header::CONTENT_TYPE).iter().nth(1).is_some() {
        return Err(Problem::bad_request(texts::TWO_CONTENT_TYPES));
    }
    if names_model(query) {
        return Err(Problem::bad_request(texts::MODEL_IN_QUERY));
    }
    Ok(())
}

/// The most credits that the client allows for the call; `None` if it sets no limit.
///
/// # Errors
/// 400 if the header is not one amount of credits.
pub(in crate::proxy) fn limit(headers: &HeaderMap) -> Result<Option<Credits>, Problem> {
    let mut limits = headers.get_all(X_CREDITS_MAX).iter();
    let Some(limit) = limits.next() else { return Ok(None) };
    let limit = limit.to_str().ok().and_then(|limit| limit.trim().parse().ok());
    match limit {
        Some(limit) if limits.next().is_none() => Ok(Some(limit)),
        _ => Err(Problem::bad_request(texts::INVALID_LIMIT)),
    }
}

/// Whether the client asks for a report of the cost at the end of a stream.
pub(super) fn wants_report(headers: &HeaderMap) -> bool {
    headers
        .get(X_CREDITS_REPORT)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"true"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_one_amount() {
        let limit = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(X_CREDITS_MAX, http::HeaderValue::from_static(value));
            }
            limit(&headers).map_err(|problem| problem.status.as_u16())
        };
        assert_eq!(limit(&[]), Ok(None));
        assert_eq!(limit(&["20"]).unwrap().unwrap().to_string(), "20");
        assert_eq!(limit(&[" 0.5 "]).unwrap().unwrap().to_string(), "0.5");
        for wrong in [&["20", "20"][..], &["-1"], &["many"], &[""], &["1e3"]] {
            assert_eq!(limit(wrong), Err(400), "{wrong:?}");
        }
    }
}
