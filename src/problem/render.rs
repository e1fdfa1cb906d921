//! Problems as JSON, in the client's language.

use http::{HeaderName, HeaderValue, StatusCode, header};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::credits::{Credits, SignedCredits};
use crate::problem::code::Code;
use crate::problem::document::Problem;
use crate::problem::language::Language;
use crate::problem::texts;

/// Tells the official SDKs whether to send a request again.
const X_SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

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

/// The shape of a problem's `type` and `error`, for the SDK that the client uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shape {
    /// The `type` is the problem's URI, and `error` has the members that OpenAI's SDKs read.
    #[default]
    OpenAi,
    /// The `type` is `error`, as Anthropic's SDKs expect, and the problem's URI is `problem_type`.
    Anthropic,
}

#[derive(Serialize)]
struct Body<'a> {
    r#type: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem_type: Option<&'a str>,
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
    error: SdkError<'a>,
}

/// The member that an SDK reads.
#[derive(Serialize)]
#[serde(untagged)]
enum SdkError<'a> {
    OpenAi { message: &'a str, r#type: &'a str, param: Option<()>, code: Code },
    Anthropic { r#type: &'a str, message: &'a str },
}

impl Problem {
    /// Renders the problem in the client's language, in OpenAI's shape.
    pub fn render(&self, request_id: &str, language: Language) -> Rendered {
        self.render_as(Shape::OpenAi, request_id, language)
    }

    /// Renders the problem in the client's language.
    pub fn render_as(&self, shape: Shape, request_id: &str, language: Language) -> Rendered {
        let detail = self.detail.in_language(language);
        let title = texts::title(self.code);
        let offer = self.offer.as_deref();
        let uri = format!("https://farebox.dev/problems/{}", self.code.slug());
        let (r#type, problem_type, error) = match shape {
            Shape::OpenAi => {
                let (r#type, code) = (self.code.openai_type(), self.code);
                (&*uri, None, SdkError::OpenAi { message: detail, r#type, param: None, code })
            }
            Shape::Anthropic => {
                let r#type = self.code.anthropic_type();
                ("error", Some(&*uri), SdkError::Anthropic { r#type, message: detail })
            }
        };
        let body = Body {
            r#type,
            problem_type,
            title: title.in_language(language),
            status: self.status.as_u16(),
            code: self.code,
            detail,
            required: offer.and_then(|offer| offer.required),
            available: offer.map(|offer| offer.available),
            topup_url: offer.map(|offer| &*offer.topup_url),
            packs: offer.map(|offer| &*offer.packs),
            request_id,
            error,
        };
        // The body consists of strings, numbers and valid JSON, so serializing it cannot fail.
        let body = serde_json::to_string(&body).unwrap_or_default();
        Rendered { status: self.status, headers: self.headers(language), body }
    }

    /// Whether the official SDKs should send the request again, if their own rules would decide this wrongly. By
    /// those rules they retry a 409, and may retry a refusal such as a 402.
    fn should_retry(&self) -> Option<&'static str> {
        match (self.status, self.code) {
            (StatusCode::PAYMENT_REQUIRED, _)
            | (StatusCode::UNPROCESSABLE_ENTITY, Code::IdempotencyConflict)
            | (_, Code::IdempotencyNotKept) => Some("false"),
            (_, Code::IdempotencyInProgress) => Some("true"),
            _ => None,
        }
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
        if let Some(retry) = self.should_retry() {
            headers.push((X_SHOULD_RETRY, HeaderValue::from_static(retry)));
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
            required: Some("5".parse().unwrap()),
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
        let retry = english.headers.iter().find(|(name, _)| name == "x-should-retry");
        assert_eq!(retry.map(|(_, value)| value), Some(&HeaderValue::from_static("false")));
        let french = problem.render("req-1", Language::French);
        assert!(french.body.contains("Cet appel coûte 5 crédits"), "{}", french.body);
    }

    #[test]
    fn a_problem_in_anthropic_s_shape_keeps_every_other_member() {
        let problem = Problem::model_not_priced(Some("gpt-9"));
        let open_ai = problem.render("req-1", Language::English);
        let anthropic = problem.render_as(Shape::Anthropic, "req-1", Language::English);
        assert_eq!(open_ai.headers, anthropic.headers);
        let read = |rendered: &Rendered| serde_json::from_str::<serde_json::Value>(&rendered.body);
        let (open_ai, anthropic) = (read(&open_ai).unwrap(), read(&anthropic).unwrap());
        assert_eq!(anthropic["type"], "error");
        assert_eq!(anthropic["problem_type"], open_ai["type"]);
        let error = serde_json::json!({ "type": "not_found_error", "message": open_ai["detail"] });
        assert_eq!(anthropic["error"], error);
        for member in ["title", "status", "code", "detail", "request_id"] {
            assert_eq!(anthropic[member], open_ai[member], "{member}");
        }
    }
}
