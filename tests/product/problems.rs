//! Every error that a client can see, and the shape of each.

use axum::Router;
use axum::body::Body;
use http::Method;

use crate::http::{Answer, ask, get, post, post_as};
use crate::support::{TestGateway, Upstream, config_text, token};

/// An upstream that answers at `/api/ai/generate`, is silent at `/silent` and breaks at `/broken`.
async fn gateway() -> (Upstream, TestGateway) {
    let router = Router::new()
        .route("/silent", axum::routing::any(std::future::pending::<&'static str>))
        .fallback(async || "fine");
    let upstream = Upstream::start(router).await;
    // A port that was free a moment ago: nobody listens there.
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let more = format!(
        r#"
[[upstreams]]
name = "slow"
url = "http://{}"
read_timeout = "200ms"

[[upstreams]]
name = "closed"
url = "http://{closed}"

[[routes]]
path = "/silent"
upstream = "slow"
credits = 5

[[routes]]
path = "/closed"
upstream = "closed"
credits = 5
"#,
        upstream.address
    );
    let gateway = TestGateway::start(&config_text(upstream.address, &more)).await;
    (upstream, gateway)
}

#[tokio::test]
async fn every_code_has_its_status_and_shape() {
    let (upstream, gateway) = gateway().await;
    gateway.grant("alice", 100).await;
    let alice = token("alice");
    let service = gateway.key("backend", true).await;

    let anonymous = Answer::of(gateway.client.post(gateway.url("/api/ai/generate"))).await;
    let problem = anonymous.problem(401, "UNAUTHENTICATED");
    assert_eq!(problem["error"]["type"], "authentication_error", "{problem}");
    assert!(!anonymous.header("www-authenticate").is_empty(), "RFC 9110, 11.6.1");
    get(&gateway, "/api/ai/generate", "nonsense").await.problem(401, "UNAUTHENTICATED");
    get(&gateway, "/credits/balance", "nonsense").await.problem(401, "UNAUTHENTICATED");

    let poor = post(&gateway, "/api/ai/generate", &token("poor"), "{}").await;
    let problem = poor.problem(402, "INSUFFICIENT_CREDITS");
    assert_eq!(problem["error"]["type"], "insufficient_quota");
    assert_eq!(poor.header("x-credits-cost"), "", "nothing was taken");

    for (method, path) in [(Method::GET, "/api/ai/generate"), (Method::POST, "/nothing")] {
        ask(&gateway, method, path, &alice, "").await.problem(404, "NO_PRICE_RULE");
    }
    for path in ["/api//ai/generate", "/api%2fai/generate", "/nothing%5c", "/api/ai/%00"] {
        post(&gateway, path, &alice, "").await.problem(400, "BAD_REQUEST");
    }
    let before = upstream.seen().len();
    post(&gateway, "/closed", &alice, "{}").await.problem(502, "UPSTREAM_FAILED");
    assert_eq!(upstream.seen().len(), before);
    post(&gateway, "/silent", &alice, "{}").await.problem(504, "UPSTREAM_TIMEOUT");
    assert_eq!(gateway.settled_balance("alice").await, 100, "neither was charged");

    let hold = r#"{"credits":5,"id":"job-1"}"#;
    post_as(&gateway, "/credits/holds", &service, "alice", hold).await.expect(201);
    let other = r#"{"credits":6,"id":"job-1"}"#;
    let conflict = post_as(&gateway, "/credits/holds", &service, "alice", other).await;
    conflict.problem(409, "IDEMPOTENCY_CONFLICT");
    gateway.assert_reconciled().await;
}

#[tokio::test]
async fn problems_speak_the_client_s_language() {
    let (_upstream, gateway) = gateway().await;
    let refused = async |language: &str| {
        let request = gateway.client.post(gateway.url("/api/ai/generate"));
        let request = request.bearer_auth(token("poor")).header("accept-language", language);
        Answer::of(request).await.problem(402, "INSUFFICIENT_CREDITS")
    };
    for french in ["fr", "fr-CA,fr;q=0.9,en;q=0.5", "FR", "de, fr;q=0.3", "en;q=0.2, fr;q=0.9"] {
        let problem = refused(french).await;
        assert_eq!(problem["title"], "Crédits insuffisants", "{french}");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains("5 crédits"), "{french}: {detail}");
    }
    for english in ["en", "de", "", "fr;q=0", "en, fr;q=0.9", "*", "nonsense;;q=x", "frr"] {
        let problem = refused(english).await;
        let exact = "This call costs 5 credits; 0 are available.";
        assert_eq!(problem["detail"], exact, "{english}");
    }
    // Farebox's own routes and the admin listener as well.
    for url in [gateway.url("/credits/balance"), gateway.admin_url("/admin/reconcile")] {
        let request = gateway.client.get(url).header("accept-language", "fr");
        let problem = Answer::of(request).await.problem(401, "UNAUTHENTICATED");
        assert_eq!(problem["title"], "Non authentifié");
    }
}

#[tokio::test]
async fn every_answer_carries_a_request_id_of_its_own() {
    let (upstream, gateway) = gateway().await;
    gateway.grant("alice", 100).await;
    let alice = token("alice");
    let mut ids = std::collections::HashSet::new();
    for path in ["/credits/balance", "/credits/packs", "/nothing", "/credits/nothing", "/a//b"] {
        let request = gateway.client.get(gateway.url(path)).bearer_auth(&alice);
        let answer = Answer::of(request.header("x-request-id", "chosen-by-the-client")).await;
        assert!(ids.insert(answer.header("x-request-id").to_owned()), "{path}");
    }
    let request = gateway.client.post(gateway.url("/api/ai/generate")).bearer_auth(&alice);
    let answer = Answer::of(request.header("x-request-id", "chosen-by-the-client")).await;
    let id = answer.header("x-request-id").to_owned();
    assert_eq!(upstream.seen()[0].header("x-request-id"), Some(&*id));
    ids.insert(id);
    let healthz = Answer::of(gateway.client.get(gateway.admin_url("/healthz"))).await;
    ids.insert(healthz.header("x-request-id").to_owned());
    assert_eq!(ids.len(), 7, "{ids:?}");
    assert!(!ids.contains("chosen-by-the-client") && !ids.contains(""), "{ids:?}");
}

#[tokio::test]
async fn a_body_that_is_too_large_for_an_own_route_is_refused() {
    let (_upstream, gateway) = gateway().await;
    let body = Body::from(vec![b' '; 200_000]);
    let request = gateway.client.post(gateway.url("/credits/check")).bearer_auth(token("alice"));
    let answer = Answer::of(request.body(axum::body::to_bytes(body, 200_000).await.unwrap())).await;
    answer.problem(413, "BODY_TOO_LARGE");
}
