//! Short functions for the requests that these tests make.
#![allow(dead_code)]

use http::{HeaderMap, Method, StatusCode};
use serde_json::Value;

use super::{ADMIN_TOKEN, TestGateway};

/// A builder of clients for servers on this machine. They trust no certificate authority, because each
/// client would read those of the system from hundreds of files.
pub fn plain_client() -> reqwest::ClientBuilder {
    reqwest::Client::builder().no_proxy().tls_certs_only(std::iter::empty())
}

/// An answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub text: String,
}

impl Answer {
    pub async fn of(request: reqwest::RequestBuilder) -> Self {
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        Self { status, headers, text: response.text().await.unwrap() }
    }

    /// The body as JSON; null if it is not JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_default()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// Expects this status, and returns the body as JSON.
    #[track_caller]
    pub fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text);
        self.json()
    }

    /// Expects a problem with this status and code, in the form of RFC 9457, and returns it.
    #[track_caller]
    pub fn problem(&self, status: u16, code: &str) -> Value {
        assert_eq!(self.status, status, "{}", self.text);
        assert_eq!(self.header("content-type"), "application/problem+json", "{}", self.text);
        assert_eq!(self.header("cache-control"), "no-store");
        let body = self.json();
        assert_eq!(body["status"], status, "{body}");
        assert_eq!(body["code"], code, "{body}");
        let slug = code.to_lowercase().replace('_', "-");
        assert_eq!(body["type"], format!("https://farebox.dev/problems/{slug}"), "{body}");
        for key in ["title", "detail", "request_id"] {
            assert!(body[key].as_str().is_some_and(|text| !text.is_empty()), "{key}: {body}");
        }
        assert_eq!(body["request_id"], self.header("x-request-id"), "{body}");
        assert_eq!(body["error"]["message"], body["detail"], "{body}");
        assert_eq!(body["error"]["code"], code, "{body}");
        assert!(body["error"]["type"].is_string(), "{body}");
        body
    }
}

/// Sends a request to the public listener, with the credential as a bearer token.
pub async fn ask(
    gateway: &TestGateway,
    method: Method,
    path: &str,
    credential: &str,
    body: &str,
) -> Answer {
    let request = gateway.client.request(method, gateway.url(path)).bearer_auth(credential);
    Answer::of(request.body(body.to_owned())).await
}

pub async fn get(gateway: &TestGateway, path: &str, credential: &str) -> Answer {
    ask(gateway, Method::GET, path, credential, "").await
}

pub async fn post(gateway: &TestGateway, path: &str, credential: &str, body: &str) -> Answer {
    ask(gateway, Method::POST, path, credential, body).await
}

/// Sends a POST with a service key, in the name of `account`.
pub async fn post_as(
    gateway: &TestGateway,
    path: &str,
    key: &str,
    account: &str,
    body: &str,
) -> Answer {
    let request = gateway.client.post(gateway.url(path)).bearer_auth(key);
    Answer::of(request.header("x-farebox-account", account).body(body.to_owned())).await
}

/// Sends a request to the admin listener, and returns its answer whatever the status.
pub async fn admin(gateway: &TestGateway, method: Method, path: &str, body: &str) -> Answer {
    let request = gateway.client.request(method, gateway.admin_url(path)).bearer_auth(ADMIN_TOKEN);
    Answer::of(request.body(body.to_owned())).await
}

/// Reads all pages of a list, by following `next_cursor`.
pub async fn pages(mut page: impl AsyncFnMut(Option<String>) -> Value, list: &str) -> Vec<Value> {
    let mut all = Vec::new();
    let mut cursor = None;
    loop {
        let answer = page(cursor).await;
        all.extend(answer[list].as_array().unwrap().iter().cloned());
        assert!(all.len() < 100_000, "the cursor never ends");
        match answer["next_cursor"].as_str() {
            Some(next) => cursor = Some(next.to_owned()),
            None => return all,
        }
    }
}

/// Every transaction of an account, newest first, from the admin listener.
pub async fn transactions(gateway: &TestGateway, account: &str) -> Vec<Value> {
    let page = async |cursor: Option<String>| {
        let cursor = cursor.map(|cursor| format!("&cursor={cursor}")).unwrap_or_default();
        let path = format!("/admin/accounts/{account}/transactions?limit=100{cursor}");
        admin(gateway, Method::GET, &path, "").await.expect(200)
    };
    pages(page, "transactions").await
}
