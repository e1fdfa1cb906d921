//! Balance changes as server-sent events.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use farebox::gateway::Gateway;
use http::Method;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::http::{Answer, admin, get, post, post_as};
use crate::process::{Process, config_on_ports};
use crate::support::h2::{TLS, http2, read, send, write_certificate};
use crate::support::{
    JWT_SECRET, TestGateway, Upstream, config_text, config_with, eventually, token,
};

const LIMIT: Duration = Duration::from_secs(10);

/// A stream of events that is being read.
struct Events {
    response: reqwest::Response,
    text: String,
}

impl Events {
    async fn open(client: &reqwest::Client, url: String, credential: &str) -> Self {
        let response = client.get(url).bearer_auth(credential).send().await.unwrap();
        assert_eq!(response.status(), 200);
        Self { response, text: String::new() }
    }

    async fn of(gateway: &TestGateway, credential: &str) -> Self {
        Self::open(&gateway.client, gateway.url("/credits/events"), credential).await
    }

    /// The next event's data; `None` at the stream's end.
    async fn next(&mut self) -> Option<Value> {
        timeout(LIMIT, async {
            loop {
                if let Some((event, rest)) = self.text.split_once("\n\n") {
                    let lines: Vec<&str> = event.lines().collect();
                    let data = lines.iter().find_map(|line| line.strip_prefix("data: "));
                    let data = data.map(|data| serde_json::from_str(data).unwrap());
                    assert!(data.is_none() || lines.contains(&"event: balance"), "{event}");
                    self.text = rest.to_owned();
                    if data.is_some() {
                        return data;
                    }
                    continue;
                }
                let chunk = self.response.chunk().await.ok()??;
                self.text.push_str(std::str::from_utf8(&chunk).unwrap());
            }
        })
        .await
        .expect("an event within ten seconds")
    }

    /// Reads events until one has this many credits available.
    async fn until(&mut self, available: i64) -> Value {
        loop {
            let event = self.next().await.expect("the stream goes on");
            if event["available"] == available {
                return event;
            }
        }
    }
}

async fn shop() -> (Upstream, TestGateway) {
    let upstream = Upstream::canned().await;
    let gateway = TestGateway::before(&upstream, "").await;
    gateway.grant("alice", 100).await;
    (upstream, gateway)
}

#[tokio::test]
async fn the_balance_is_told_at_once_and_at_each_change() {
    let (_upstream, gateway) = shop().await;
    let mut events = Events::of(&gateway, &token("alice")).await;
    let headers = events.response.headers();
    assert_eq!(headers["content-type"], "text/event-stream");
    assert_eq!(headers["cache-control"], "no-cache");
    assert_eq!(headers["x-accel-buffering"], "no");
    let first = events.next().await.unwrap();
    assert_eq!(first, gateway.balance("alice").await, "what GET /balance answers");

    post(&gateway, "/api/ai/generate", &token("alice"), "{}").await.expect(200);
    assert_eq!(events.until(95).await["account"], "alice");
    gateway.grant("alice", 5).await;
    events.until(100).await;
    let service = gateway.key("backend", true).await;
    let hold = r#"{"credits":90,"id":"h"}"#;
    post_as(&gateway, "/credits/holds", &service, "alice", hold).await.expect(201);
    let held = events.until(10).await;
    assert_eq!((&held["held"], &held["low"]), (&json!(90), &json!(true)));

    // An account does not see the events of others.
    gateway.grant("bob", 7).await;
    let mut bobs = Events::of(&gateway, &token("bob")).await;
    assert_eq!(bobs.next().await.unwrap()["available"], 7);
    gateway.grant("alice", 1).await;
    assert_eq!(events.next().await.unwrap()["available"], 11);
}

#[tokio::test]
async fn the_account_pages_cookie_and_a_key_open_a_stream_too() {
    let (_upstream, gateway) = shop().await;
    let key = gateway.key("alice", false).await;
    assert_eq!(Events::of(&gateway, &key).await.next().await.unwrap()["available"], 100);
    let request = gateway.client.get(gateway.url("/credits/events"));
    let request = request.header("cookie", format!("__Host-farebox_session={}", token("alice")));
    let response = request.header("sec-fetch-site", "same-origin").send().await.unwrap();
    assert_eq!(response.status(), 200);
    let mut events = Events { response, text: String::new() };
    assert_eq!(events.next().await.unwrap()["account"], "alice");
    Answer::of(gateway.client.get(gateway.url("/credits/events")))
        .await
        .problem(401, "UNAUTHENTICATED");
}

#[tokio::test]
async fn a_stream_ends_with_its_key_within_two_seconds() {
    let (_upstream, gateway) = shop().await;
    let key = gateway.key("alice", false).await;
    let keys = gateway.admin(Method::GET, "/admin/accounts/alice/keys", None).await;
    let path = format!("/admin/keys/{}", keys["keys"][0]["id"].as_str().unwrap());
    let mut events = Events::of(&gateway, &key).await;
    let mut others = Events::of(&gateway, &token("alice")).await;
    events.next().await.unwrap();
    others.next().await.unwrap();
    admin(&gateway, Method::DELETE, &path, "").await.expect(204);
    let revoked = Instant::now();
    assert_eq!(events.next().await, None);
    assert!(revoked.elapsed() < Duration::from_secs(2), "{:?}", revoked.elapsed());
    gateway.grant("alice", 1).await;
    others.until(101).await;
}

#[tokio::test]
async fn a_stream_ends_when_its_token_expires() {
    let upstream = Upstream::canned().await;
    let text = config_text(upstream.address, "");
    let text = text.replace("[[auth.jwt]]", "[[auth.jwt]]\nleeway = \"0s\"");
    let gateway = TestGateway::start(&text).await;
    let exp = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + 2;
    let key = jsonwebtoken::EncodingKey::from_secret(JWT_SECRET.as_bytes());
    let claims = json!({ "sub": "alice", "exp": exp });
    let brief = jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).unwrap();
    let mut events = Events::of(&gateway, &brief).await;
    events.next().await.unwrap();
    assert_eq!(events.next().await, None);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    assert!((exp..=exp + 2).contains(&now), "{exp} {now}");
}

#[tokio::test]
async fn the_twenty_first_stream_is_refused_until_one_is_closed() {
    let (_upstream, gateway) = shop().await;
    let mut open = Vec::new();
    for _ in 0..20 {
        open.push(Events::of(&gateway, &token("alice")).await);
    }
    let refused = get(&gateway, "/credits/events", &token("alice")).await;
    refused.problem(429, "RATE_LIMITED");
    assert!(!refused.header("retry-after").is_empty());
    // The limit is for each account: another account still gets its events.
    Events::of(&gateway, &token("bob")).await.next().await.unwrap();
    get(&gateway, "/credits/balance", &token("alice")).await.expect(200);
    open.pop();
    let admitted = eventually(async || {
        let request = gateway.client.get(gateway.url("/credits/events"));
        request.bearer_auth(token("alice")).send().await.unwrap().status() == 200
    });
    assert!(admitted.await, "a client that left frees its place");
    // All go: nothing is served any more.
    drop(open);
    let idle = eventually(async || gateway.gateway.metrics().calls_in_flight.get() == 0);
    assert!(idle.await);
}

#[tokio::test]
async fn streams_do_not_delay_a_stop() {
    let upstream = Upstream::canned().await;
    let folder = tempfile::tempdir().unwrap();
    let text = config_on_ports(upstream.address, "");
    let mut gateway = Process::serve(folder.path(), &text);
    gateway.grant("alice", 100, "first").await;
    let mut streams = Vec::new();
    for account in ["alice", "alice", "bob"] {
        let url = gateway.url("/credits/events");
        let mut events = Events::open(&gateway.client, url, &token(account)).await;
        events.next().await.unwrap();
        streams.push(events);
    }
    let asked = Instant::now();
    gateway.signal("TERM");
    for events in &mut streams {
        assert_eq!(events.next().await, None, "it ends whole");
    }
    assert_eq!(gateway.ended().code(), Some(0));
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
}

#[tokio::test]
async fn events_come_over_http_2_and_end_with_the_client_or_the_gateway() {
    let upstream = Upstream::canned().await;
    let folder = tempfile::tempdir().unwrap();
    let certificate = write_certificate(folder.path());
    let text = config_with(upstream.address, TLS, "", "");
    let gateway = TestGateway::start_in(folder, &text).await;
    gateway.grant("alice", 100).await;
    let mut client = http2(gateway.public(), &certificate).await;
    let (first, _) = send(&mut client, "GET", "/credits/events", "alice", true);
    let first = timeout(LIMIT, first).await.unwrap().unwrap();
    assert_eq!(first.headers()["content-type"], "text/event-stream");
    let mut first = first.into_body();
    let data = timeout(LIMIT, first.data()).await.unwrap().unwrap().unwrap();
    assert!(std::str::from_utf8(&data).unwrap().contains("\"available\":100"), "{data:?}");
    let streams = |gateway: &Gateway| gateway.metrics().calls_in_flight.get();
    assert_eq!(streams(&gateway.gateway), 1);
    drop(first);
    assert!(eventually(async || streams(&gateway.gateway) == 0).await, "the client has left");

    let (second, _) = send(&mut client, "GET", "/credits/events", "alice", true);
    let mut second = timeout(LIMIT, second).await.unwrap().unwrap().into_body();
    timeout(LIMIT, second.data()).await.unwrap().unwrap().unwrap();
    let asked = Instant::now();
    gateway.stop().await;
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    let rest = timeout(LIMIT, read(&mut second)).await.unwrap();
    assert_eq!(rest.unwrap(), b"", "it ends whole");
}

#[tokio::test]
async fn who_watches_is_no_series_of_metrics() {
    let (_upstream, gateway) = shop().await;
    let mut events = Events::of(&gateway, &token("zoe-the-account")).await;
    events.next().await.unwrap();
    drop(events);
    for path in ["/credits/usage", "/credits/keys", "/credits/session"] {
        get(&gateway, path, &token("zoe-the-account")).await.expect(200);
    }
    let text = gateway.client.get(gateway.admin_url("/metrics")).send().await.unwrap();
    assert!(!text.text().await.unwrap().contains("zoe"));
}
