//! The path that is priced is the path that the upstream sees, and it has one reading.

use http::Method;
use serde_json::{Value, json};

use super::settlement::raw;
use crate::support::wire::{RawUpstream, Wire, header, request, status};
use crate::support::{TestGateway, Upstream, config_text, token};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

#[tokio::test]
async fn an_ambiguous_path_is_refused_even_where_no_rule_matches() {
    let upstream = RawUpstream::answering(OK).await;
    let gateway = raw(&upstream, "").await;
    let beginnings = ["/x", "/no/such/rule", "/credits", ""];
    let endings: [&[u8]; 27] = [
        b"//y",
        b"/y//",
        b"/./y",
        b"/../y",
        b"/..",
        b"/.",
        b"/%2e/y",
        b"/%2E%2e/y",
        b"/.%2e/y",
        b"/a%2fy",
        b"/a%2Fy",
        b"/a%5cy",
        b"/a\\y",
        b"/a%00y",
        b"/a\x00y",
        b"/a\x01y",
        b"/a%0ay",
        b"/a%0d%0ay",
        b"/a%ffy",
        b"/a\xffy",
        b"/a\xc3\x28y",
        b"/a%c3%28y",
        b"/a%2",
        b"/a%zzy",
        b"/a%252e%252e/y",
        b"/a;b/y",
        b"/a%23y",
    ];
    for beginning in beginnings {
        for ending in endings {
            let path = [beginning.as_bytes(), ending].concat();
            let mut client = Wire::connect(gateway.public()).await;
            let head = request("", "alice", "", "");
            client.send([b"GET ", &path[..], head.as_bytes()].concat()).await;
            let answer = client.head().await.expect("an answer");
            assert_eq!(status(&answer), 400, "{}", String::from_utf8_lossy(&path));
            assert_eq!(header(&answer, "connection"), Some("close"));
        }
    }
    assert_eq!(upstream.seen(), [""; 0], "nothing reached the upstream");
    assert_eq!(gateway.settled_balance("alice").await, 100);
}

#[tokio::test]
async fn a_path_or_method_without_a_rule_is_a_404_and_reaches_no_upstream() {
    let upstream = Upstream::canned().await;
    let gateway = TestGateway::before(&upstream, "").await;
    gateway.grant("alice", 100).await;
    for (method, path) in [
        (Method::POST, "/"),
        (Method::POST, "/api/ai"),
        (Method::POST, "/api/ai/generate/"),
        (Method::POST, "/api/ai/generate/hd"),
        (Method::POST, "/API/AI/generate"),
        (Method::POST, "/api/ai/Generate"),
        (Method::GET, "/api/ai/generate"),
        (Method::PUT, "/api/ai/generate"),
        (Method::OPTIONS, "/api/ai/generate"),
        (Method::TRACE, "/api/ai/generate"),
        (Method::from_bytes(b"post").unwrap(), "/api/ai/generate"),
        (Method::from_bytes(b"PROPFIND").unwrap(), "/api/ai/generate"),
    ] {
        let request = gateway.client.request(method.clone(), gateway.url(path));
        let answer = request.bearer_auth(token("alice")).send().await.unwrap();
        assert_eq!(answer.status(), 404, "{method} {path}");
        let problem: serde_json::Value = answer.json().await.unwrap();
        assert_eq!(problem["code"], "NO_PRICE_RULE", "{method} {path}");
    }
    assert!(upstream.seen().is_empty());
    assert_eq!(gateway.settled_balance("alice").await, 100);
}

/// With these methods a server sends back the request, with the gateway's credentials, or opens a tunnel.
#[tokio::test]
async fn trace_track_and_connect_are_forwarded_on_no_route() {
    let upstream = RawUpstream::answering(OK).await;
    let gateway =
        raw(&upstream, "[[routes]]\npath = \"/free\"\nupstream = \"ai\"\ncredits = 0").await;
    for method in ["TRACE", "TRACK", "CONNECT", "trace", "track", "Track", "connect"] {
        for path in ["/x/y", "/free", "/api/ai/generate"] {
            let mut client = Wire::connect(gateway.public()).await;
            client.send(request(&format!("{method} {path}"), "alice", "", "")).await;
            let head = client.head().await.unwrap();
            assert!(matches!(status(&head), 400 | 404 | 405), "{method} {path}: {head}");
        }
    }
    assert_eq!(upstream.seen(), [""; 0]);
    assert_eq!(gateway.settled_balance("alice").await, 100);
}

#[tokio::test]
async fn the_upstream_sees_the_canonical_bytes_and_the_query_as_it_was_sent() {
    let upstream = RawUpstream::answering(OK).await;
    let gateway = raw(&upstream, "").await;
    for (sent, forwarded) in [
        ("/x/y", "/x/y"),
        ("/x/y/", "/x/y/"),
        ("/x/%79", "/x/y"),
        ("/%78/y", "/x/y"),
        ("/x/m%3agen", "/x/m:gen"),
        ("/x/a%20b", "/x/a%20b"),
        ("/x/%c3%a9", "/x/%C3%A9"),
        ("/x/%E2%82%AC", "/x/%E2%82%AC"),
        ("/x/y?", "/x/y?"),
        ("/x/y?a=1&b=%2F..//./%zz?c=/x", "/x/y?a=1&b=%2F..//./%zz?c=/x"),
        ("/x/y?q={b}", "/x/y?q={b}"),
        ("/x/y?q=|", "/x/y?q=|"),
        ("/x/y?q=^", "/x/y?q=^"),
        // A fragment is the client's own.
        ("/x/y?q=#/z", "/x/y?q="),
        ("/x/y#?q=/z", "/x/y"),
        ("/x/y?q=`", "/x/y?q=`"),
        ("/x/y?q=\\", "/x/y?q=\\"),
    ] {
        let mut client = Wire::connect(gateway.public()).await;
        client.send(request(&format!("GET {sent}"), "alice", "", "")).await;
        let answer = client.head().await.unwrap();
        let seen = upstream.seen().concat();
        let line = seen.lines().rfind(|line| line.starts_with("GET ")).unwrap_or_default();
        assert_eq!(status(&answer), 200, "{sent}");
        assert_eq!(line, format!("GET {forwarded} HTTP/1.1"), "{sent}");
    }
}

#[tokio::test]
async fn a_query_with_what_must_be_encoded_is_refused() {
    let upstream = RawUpstream::answering(OK).await;
    let gateway = raw(&upstream, "").await;
    for query in [&b"<"[..], b">", b"\"", b"\xff", b"\xc3\xa9"] {
        let mut client = Wire::connect(gateway.public()).await;
        let head = request("", "alice", "", "");
        client.send([b"GET /x/y?q=", query, head.as_bytes()].concat()).await;
        let answer = client.head().await.expect("an answer");
        assert_eq!(status(&answer), 400, "{}", query.escape_ascii());
    }
    assert_eq!(upstream.seen(), [""; 0]);
    assert_eq!(gateway.settled_balance("alice").await, 100);
}

/// Upstreams that ignore case or a trailing slash run the dear call.
#[tokio::test]
async fn no_spelling_of_an_expensive_path_buys_a_cheap_one() {
    let upstream = RawUpstream::answering(OK).await;
    let rules = "[[routes]]\npath = \"/{*rest}\"\nupstream = \"ai\"\ncredits = 1\n\
                 [[routes]]\npath = \"/x/gold\"\nmethods = [\"GET\"]\nupstream = \"ai\"\ncredits = 50";
    let gateway = TestGateway::start(&config_text(upstream.address, rules)).await;
    gateway.grant("alice", 10_000).await;
    let mut balance = 10_000;
    for (path, cost, forwarded) in [
        ("/x/gold", 50, "/x/gold"),
        ("/x/%67old", 50, "/x/gold"),
        ("/%78/gold?a=b", 50, "/x/gold?a=b"),
        ("/x/gold?/x/silver", 50, "/x/gold?/x/silver"),
        ("/x/gold/", 50, "/x/gold/"),
        ("/x/Gold", 50, "/x/Gold"),
        ("/X/GOLD/", 50, "/X/GOLD/"),
        ("/x/%47old", 50, "/x/Gold"),
        ("/x/golden", 1, "/x/golden"),
        ("/x/gold/1", 1, "/x/gold/1"),
    ] {
        let mut client = Wire::connect(gateway.public()).await;
        client.send(request(&format!("GET {path}"), "alice", "", "")).await;
        let answer = client.head().await.unwrap();
        assert_eq!(header(&answer, "x-credits-cost"), Some(&*cost.to_string()), "{path}");
        let seen = upstream.seen().concat();
        let line = seen.lines().rfind(|line| line.starts_with("GET ")).unwrap_or_default();
        assert_eq!(line, format!("GET {forwarded} HTTP/1.1"), "{path}");
        balance -= cost;
        assert_eq!(gateway.settled_balance("alice").await, balance, "{path}");
        let asked = json!({ "endpoint": path, "method": "GET" }).to_string();
        let asked = gateway.client.post(gateway.url("/credits/check")).body(asked);
        let asked = asked.header("content-type", "application/json").bearer_auth(token("alice"));
        let answer: Value = asked.send().await.unwrap().json().await.unwrap();
        assert_eq!(answer["cost"], cost, "{path}: {answer}");
    }
    let seen = upstream.seen().concat().len();
    for path in ["/x/gold", "/X/gold", "/x/gold/"] {
        assert_eq!(gateway.post("alice", path).await.status(), 404, "{path}");
    }
    assert_eq!(upstream.seen().concat().len(), seen, "nothing reached the upstream");
    gateway.assert_reconciled().await;
}

#[tokio::test]
async fn exact_paths_tell_every_spelling_apart() {
    let upstream = RawUpstream::answering(OK).await;
    let rules = "[[routes]]\npath = \"/{*rest}\"\nupstream = \"ai\"\ncredits = 1\n\
                 [[routes]]\npath = \"/x/gold\"\nmethods = [\"GET\"]\nupstream = \"ai\"\ncredits = 50\n\
                 [api]\nexact_paths = true";
    let gateway = TestGateway::start(&config_text(upstream.address, rules)).await;
    gateway.grant("alice", 200).await;
    for (path, cost) in
        [("/x/gold", "50"), ("/x/%67old", "50"), ("/x/Gold", "1"), ("/x/gold/", "1")]
    {
        let mut client = Wire::connect(gateway.public()).await;
        client.send(request(&format!("GET {path}"), "alice", "", "")).await;
        let answer = client.head().await.unwrap();
        assert_eq!(header(&answer, "x-credits-cost"), Some(cost), "{path}");
    }
}

#[tokio::test]
async fn an_absolute_target_must_name_the_host_of_the_request() {
    let upstream = RawUpstream::answering(OK).await;
    let gateway = raw(&upstream, "").await;
    for (target, code) in [
        ("http://shop/x/y?a=b", 200),
        ("http://other/x/y", 400),
        ("http://shop:81/x/y", 400),
        ("http://shop@other/x/y", 400),
        ("http://other/http://shop/x/y", 400),
        ("http://shop//x/y", 400),
        ("http://shop", 400),
        ("ftp://shop/x/y", 400),
        ("shop/x/y", 400),
        ("*", 400),
        ("x", 400),
    ] {
        let mut client = Wire::connect(gateway.public()).await;
        client.send(request(&format!("GET {target}"), "alice", "", "")).await;
        let answer = client.head().await.expect("an answer");
        assert_eq!(status(&answer), code, "{target}");
    }
    let seen = upstream.seen().concat();
    let lines: Vec<_> = seen.lines().filter(|line| line.starts_with("GET")).collect();
    assert_eq!(lines, ["GET /x/y?a=b HTTP/1.1"]);
    assert!(!seen.contains("\r\nhost: shop\r\n"), "the host is the upstream's: {seen}");
}

#[tokio::test]
async fn a_tunnel_is_never_opened() {
    let upstream = RawUpstream::answering(OK).await;
    let gateway = raw(&upstream, "").await;
    for target in ["shop:443", "/x/y", "http://shop/x/y"] {
        let mut client = Wire::connect(gateway.public()).await;
        client.send(request(&format!("CONNECT {target}"), "alice", "", "")).await;
        let answer = client.head().await.expect("an answer");
        assert!(matches!(status(&answer), 400 | 405), "{answer}");
    }
    assert_eq!(upstream.seen(), [""; 0]);
}
