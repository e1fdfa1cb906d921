//! Problems as JSON, in the client's language.

use http::{HeaderName, HeaderValue, StatusCode, header};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::credits::{Credits, SignedCredits};
use crate::problem::code::Code;
use crate::problem::document::Problem;
use crate::problem::language::Language;
use crate::problem::texts;

/// A problem as an HTTP response.
#[derive(Clone, Debug)]
pub struct Rendered {
    /// The HTTP status.
    pub status: StatusCode,
    /// The headers, except for content-length.
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
    /// Renders the problem in the client's language.
    pub fn render(&self, request_id: &str, language: Language) -> Rendered {
        let detail = self.detail.in_language(language);
        let title = texts::title(self.code);
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
        // The body consists of strings, numbers and valid JSON, so serializing it cannot fail.
        let body = serde_json::to_string(&body).unwrap_or_default();
        Rendered { status: self.status, headers: self.headers(language), body }
    }

    fn headers(&self, language: Language) -> Vec<(HeaderName, HeaderValue)> {
        let mut headers = vec![
            (header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json")),
            (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
            (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
            (header::CONTENT_LANGUAGE, HeaderValue::from_static(language.tag())),
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
    use crate::problem::document::Offer;

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
}
