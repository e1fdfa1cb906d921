//! Browsers on other origins.

use http::{HeaderMap, Method};

use super::settlement::route;
use crate::support::wire::RawUpstream;
use crate::support::{TestGateway, config_text, token};

const APP: &str = "https://app.example.com";
const WORDY: &str = "HTTP/1.1 200 OK\r\naccess-control-allow-origin: *\r\n\
                     access-control-allow-credentials: true\r\n\
                     access-control-expose-headers: x-theirs\r\ncontent-length: 2\r\n\r\nok";

/// The request headers that pages send.
const ASKED: &str = "authorization, content-type, idempotency-key, x-credits-max, x-credits-report";

/// The headers that pages may read of every answer.
const OURS: [&str; 6] = [
    "x-credits-cost",
    "x-credits-held",
    "x-credits-remaining",
    "x-request-id",
    "retry-after",
    "idempotent-replayed",
];

async fn gateway(upstream: &RawUpstream, origins: &str) -> TestGateway {
    let more = format!("{}\n[api]\ncors_origins = {origins}", route(""));
    let gateway = TestGateway::start(&config_text(upstream.address, &more)).await;
    gateway.grant("alice", 100).await;
    gateway
}

async fn preflight(gateway: &TestGateway, path: &str, origin: &str) -> (u16, HeaderMap) {
    let answer = gateway
        .client
        .request(Method::OPTIONS, gateway.url(path))
        .header("origin", origin)
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", ASKED)
        .send()
        .await
        .unwrap();
    (answer.status().as_u16(), answer.headers().clone())
}

fn no_cors(headers: &HeaderMap) -> bool {
    !headers.keys().any(|name| name.as_str().starts_with("access-control-"))
}

#[tokio::test]
async fn preflights_are_answered_free_and_without_credentials() {
    let upstream = RawUpstream::answering(WORDY).await;
    let gateway = gateway(&upstream, &format!("[\"{APP}\"]")).await;
    for path in ["/x/y", "/credits/balance", "/webhooks/stripe", "/not/priced"] {
        let (status, headers) = preflight(&gateway, path, APP).await;
        assert_eq!(status, 204, "{path}");
        assert_eq!(headers["access-control-allow-origin"], APP);
        assert_eq!(headers["access-control-allow-methods"], "POST");
        assert_eq!(headers["access-control-allow-headers"], ASKED);
        let vary: Vec<_> = headers.get_all("vary").iter().collect();
        assert_eq!(vary, ["origin"], "once");
        assert!(headers.contains_key("x-request-id"));
        let (status, headers) = preflight(&gateway, path, "https://evil.example.com").await;
        assert_eq!(status, 204);
        let vary: Vec<_> = headers.get_all("vary").iter().collect();
        assert_eq!(vary, ["origin"], "once");
        assert!(no_cors(&headers), "{headers:?}");
    }
    assert_eq!(preflight(&gateway, "/x//y", APP).await.0, 400);
    assert_eq!(upstream.seen(), [""; 0]);
    assert_eq!(gateway.settled_balance("alice").await, 100);
}

#[tokio::test]
async fn an_allowed_page_may_read_answers_and_what_they_cost() {
    let upstream = RawUpstream::answering(WORDY).await;
    let gateway = gateway(&upstream, &format!("[\"{APP}\", \"http://localhost:5173\"]")).await;
    for (path, account, code) in [
        ("/x/y", Some("alice"), 200),
        ("/x/y", Some("poor"), 402),
        ("/x/y", None, 401),
        ("/nothing", Some("alice"), 404),
        ("/x//y", Some("alice"), 400),
        ("/credits/balance", Some("alice"), 200),
    ] {
        for (origin, allowed) in
            [(Some(APP), true), (Some("https://evil.example.com"), false), (None, false)]
        {
            let mut request = gateway.client.get(gateway.url(path));
            if let Some(account) = account {
                request = request.bearer_auth(token(account));
            }
            if let Some(origin) = origin {
                request = request.header("origin", origin);
            }
            let answer = request.send().await.unwrap();
            assert_eq!(answer.status(), code, "{path}");
            let headers = answer.headers();
            assert_eq!(no_cors(headers), !allowed, "{path} {origin:?} {headers:?}");
            assert!(headers["vary"].to_str().unwrap().contains("origin"), "{path}");
            if allowed {
                assert_eq!(headers["access-control-allow-origin"], APP);
                assert!(!headers.contains_key("access-control-allow-credentials"));
                let exposed = headers["access-control-expose-headers"].to_str().unwrap();
                for name in OURS {
                    assert!(exposed.split(", ").any(|exposed| exposed == name), "{exposed}");
                }
                assert_eq!(
                    exposed.contains("x-theirs"),
                    code == 200 && path == "/x/y",
                    "{exposed}"
                );
            }
        }
    }
}

/// MCP's `mcp-session-id`, OpenAI's `openai-processing-ms` and so on.
#[tokio::test]
async fn pages_may_read_what_the_upstream_exposes() {
    for (lines, theirs) in [
        ("", &[][..]),
        ("access-control-expose-headers: mcp-session-id\r\n", &["mcp-session-id"]),
        (
            "access-control-expose-headers: a, B ,,c\r\naccess-control-expose-headers:d\r\n",
            &["a", "B", "c", "d"],
        ),
        ("access-control-expose-headers: Retry-After, X-Request-Id, a, A\r\n", &["a"]),
        ("access-control-expose-headers: *\r\n", &["*"]),
        ("access-control-expose-headers:\r\n", &[]),
    ] {
        let answer = format!("HTTP/1.1 200 OK\r\n{lines}content-length: 2\r\n\r\nok");
        let upstream = RawUpstream::answering(answer.leak()).await;
        let gateway = gateway(&upstream, &format!("[\"{APP}\"]")).await;
        let request = gateway.client.get(gateway.url("/x/y")).bearer_auth(token("alice"));
        let answer = request.header("origin", APP).send().await.unwrap();
        let mut exposed = answer.headers().get_all("access-control-expose-headers").iter();
        let names = exposed.next().unwrap().to_str().unwrap();
        assert_eq!(names.split(", ").collect::<Vec<_>>(), [&OURS, theirs].concat(), "{lines}");
        assert_eq!(exposed.next(), None, "one line");
    }
}

#[tokio::test]
async fn an_answer_for_no_answer_can_be_read_too() {
    let upstream = RawUpstream::start(|_| async {}).await;
    let gateway = gateway(&upstream, &format!("[\"{APP}\"]")).await;
    let request = gateway.client.get(gateway.url("/x/y")).bearer_auth(token("alice"));
    let answer = request.header("origin", APP).send().await.unwrap();
    assert_eq!(answer.status(), 502);
    assert_eq!(answer.headers()["access-control-allow-origin"], APP);
}

#[tokio::test]
async fn without_origins_farebox_says_nothing_and_leaves_the_upstream_s_words() {
    let upstream = RawUpstream::answering(WORDY).await;
    let gateway = TestGateway::start(&config_text(
        upstream.address,
        &format!("{}[[routes]]\npath = \"/free\"\nupstream = \"ai\"\ncredits = 0", route("")),
    ))
    .await;
    gateway.grant("alice", 100).await;
    let get = async |path: &str| {
        let request = gateway.client.get(gateway.url(path)).bearer_auth(token("alice"));
        request.header("origin", APP).send().await.unwrap().headers().clone()
    };
    let headers = get("/x/y").await;
    assert_eq!(headers["access-control-allow-origin"], "*");
    assert_eq!(headers["access-control-expose-headers"], "x-theirs");
    assert!(!headers.contains_key("vary"));
    assert!(no_cors(&get("/credits/balance").await));
    assert!(no_cors(&get("/nothing").await));
    // A preflight is a call like any other: without credentials it is refused.
    let (status, headers) = preflight(&gateway, "/x/y", APP).await;
    assert_eq!(status, 401);
    assert!(no_cors(&headers));
}
