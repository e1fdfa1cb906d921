//! A gateway that sells the model of the worked cases.

use serde_json::{Value, json};

use crate::support::ai::Ai;
use crate::support::http::Answer;
use crate::support::{TestGateway, config_text, eventually, token};

/// The model of the worked cases, with more keys.
pub fn model(name: &str, more: &str) -> String {
    format!(
        r#"
[[models]]
match = "{name}"
input = 250
cached_input = 25
cache_write = 312.5
output = 1000
above = [{{ input_tokens = 200000, input = 500, output = 1500 }}]
max_output_tokens = 8000
max_input_tokens = 400000
image_tokens = 2000
{more}
"#
    )
}

/// `POST /v1/chat/completions` and the others of OpenAI's shape, and `POST /v1/messages` of Anthropic's, with more
/// keys each.
pub fn routes(more: &str) -> String {
    let route = |path: &str, meter: &str| {
        format!(
            "[[routes]]\npath = \"{path}\"\nmethods = [\"POST\"]\nupstream = \"ai\"\n\
             meter = \"{meter}\"\nprice = \"models\"\n{more}\n"
        )
    };
    [
        route("/v1/chat/completions", "openai"),
        route("/v1/responses", "openai"),
        route("/v1/embeddings", "openai"),
        route("/v1/messages", "anthropic"),
    ]
    .concat()
}

pub const CHAT: &str = "/v1/chat/completions";
pub const MESSAGES: &str = "/v1/messages";

/// A gateway in front of `ai` with the model `m`, and whole credits for alice. `route` has more keys for each route.
pub async fn shop(ai: &Ai, route: &str, credits: u64) -> TestGateway {
    with(ai, &[routes(route), model("m", "hold_output_tokens = 2048")].concat(), credits).await
}

/// A gateway with these tables.
pub async fn with(ai: &Ai, tables: &str, credits: u64) -> TestGateway {
    let gateway = TestGateway::start(&config_text(ai.address, tables)).await;
    if credits > 0 {
        gateway.grant("alice", credits).await;
    }
    gateway
}

/// A request's body of exactly 400 bytes, with more members.
pub fn body(more: &Value) -> String {
    body_of(400, more)
}

/// A request's body of exactly `bytes` bytes.
pub fn body_of(bytes: usize, more: &Value) -> String {
    let build = |text: &str| {
        let mut body = json!({ "model": "m", "messages": [{ "role": "user", "content": text }] });
        for (name, value) in more.as_object().unwrap() {
            body[name] = value.clone();
        }
        body.to_string()
    };
    let empty = build("").len();
    let body = build(&"x".repeat(bytes.checked_sub(empty).expect("the members fit")));
    assert_eq!(body.len(), bytes);
    body
}

/// `POST path` by alice.
pub fn post(gateway: &TestGateway, path: &str, body: &str) -> reqwest::RequestBuilder {
    post_by(gateway, "alice", path, body)
}

/// `POST path` by an account.
pub fn post_by(
    gateway: &TestGateway,
    account: &str,
    path: &str,
    body: &str,
) -> reqwest::RequestBuilder {
    let request = gateway.client.post(gateway.url(path)).bearer_auth(token(account));
    request.header("content-type", "application/json").body(body.to_owned())
}

/// The whole answer of `POST path` by alice.
pub async fn ask(gateway: &TestGateway, path: &str, body: &str) -> Answer {
    Answer::of(post(gateway, path, body)).await
}

/// Waits until nothing of alice is held; her balance.
pub async fn balance(gateway: &TestGateway) -> String {
    let mut last = Value::Null;
    let settled = eventually(async || {
        last = gateway.balance("alice").await;
        last["held"] == 0
    });
    assert!(settled.await, "still held: {last}");
    last["balance"].to_string()
}

/// The part of alice's credits that is held.
pub async fn held(gateway: &TestGateway) -> String {
    gateway.balance("alice").await["held"].to_string()
}

/// The value of a series, such as `farebox_usage_missing_total{route="/x"}`.
pub async fn metric(gateway: &TestGateway, series: &str) -> Option<f64> {
    let metrics = gateway.client.get(gateway.admin_url("/metrics")).send().await.unwrap();
    let metrics = metrics.text().await.unwrap();
    let line = metrics.lines().find_map(|line| line.strip_prefix(series));
    line.map(|value| value.trim().parse().unwrap())
}
