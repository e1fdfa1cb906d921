//! Headers that a client cannot set, headers that an upstream cannot set, and headers that Farebox sets for both.

use super::settlement::{raw, route};
use crate::support::h2::{http2, read, send};
use crate::support::wire::{RawUpstream, Wire, header, post, request, status};
use crate::support::{TestGateway, config_text, token};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// The head that the upstream saw of a request with these header lines.
async fn forwarded(lines: &str) -> String {
    let upstream = RawUpstream::answering(OK).await;
    let gateway = raw(&upstream, "").await;
    let mut client = Wire::connect(gateway.public()).await;
    client.send(request("GET /x/y", "alice", lines, "")).await;
    let answer = client.head().await.unwrap();
    assert_eq!(status(&answer), 200, "{answer}");
    upstream.seen().concat().to_ascii_lowercase()
}

#[tokio::test]
async fn nobody_speaks_under_farebox_s_names() {
    let seen = forwarded(
        "x-farebox-account: mallory\r\nX-Farebox-Admin: mallory\r\nx-credits-cost: mallory\r\n\
         x-credits-remaining: mallory\r\nx-forwarded-for: mallory\r\nx-forwarded-host: mallory\r\n\
         x-forwarded-proto: mallory\r\nx-forwarded-port: mallory\r\nx-forwarded-prefix: mallory\r\n\
         x-forwarded-server: mallory\r\nforwarded: for=mallory\r\nx-real-ip: mallory\r\n\
         x-request-id: mallory\r\n",
    )
    .await;
    assert!(!seen.contains("mallory"), "{seen}");
    assert_eq!(header(&seen, "x-farebox-account"), Some("alice"));
    assert_eq!(header(&seen, "x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(header(&seen, "x-forwarded-host"), Some("shop"));
    assert_eq!(header(&seen, "x-forwarded-proto"), Some("http"));
    assert_eq!(seen.matches("x-request-id").count(), 1);
}

/// CGI makes `HTTP_X_FAREBOX_ACCOUNT` of each of these (RFC 3875, 4.1.18, and what servers do beyond
/// it), and a header of the operator's is overwritten in the same way.
#[tokio::test]
async fn no_punctuation_hides_a_name() {
    let upstream = RawUpstream::answering(OK).await;
    let text = config_text(upstream.address, &route(""));
    let url = format!("url = \"http://{}\"", upstream.address);
    let operators = format!("{url}\nheaders = {{ x-team-key = \"red\", odd_name = \"blue\" }}");
    let gateway = TestGateway::start(&text.replace(&url, &operators)).await;
    gateway.grant("alice", 100).await;
    for mark in "!#$%&'*+.^_`|~".chars() {
        let mut lines = String::new();
        for name in [
            "x-farebox-account",
            "x-credits-cost",
            "x-forwarded-for",
            "x-real-ip",
            "x-http-method-override",
            "x-request-id",
            "x-api-key",
            "x-team-key",
            "odd-name",
            "content-length",
            "transfer-encoding",
            "nothing-special",
        ] {
            let disguised = name.replace('-', &mark.to_string());
            let half = name.replacen('-', &mark.to_string(), 1);
            lines +=
                &format!("{disguised}: mallory\r\n{half}: mallory\r\n{name}{mark}: mallory\r\n");
        }
        let mut client = Wire::connect(gateway.public()).await;
        client.send(request("GET /x/y", "alice", &format!("{lines}x-kept: {mark}\r\n"), "")).await;
        let answer = client.head().await.unwrap();
        assert_eq!(status(&answer), 200, "{mark} {answer}");
        let seen = upstream.seen().concat().to_ascii_lowercase();
        assert!(!seen.contains("mallory"), "{mark} {seen}");
        let head = seen.rsplit("get /x/y").next().unwrap_or_default();
        assert_eq!(header(head, "x-kept"), Some(&*mark.to_string()), "{head}");
        assert_eq!(header(head, "x-team-key"), Some("red"));
        assert_eq!(header(head, "odd_name"), Some("blue"), "an operator's own name is sent");
        assert_eq!(header(head, "x-farebox-account"), Some("alice"));
    }
}

/// CGI programs take their own proxy from `HTTP_PROXY` (httpoxy).
#[tokio::test]
async fn a_client_sets_no_proxy_for_the_upstream() {
    let seen = forwarded("Proxy: http://mallory\r\n").await;
    assert!(!seen.contains("mallory"), "{seen}");
}

#[tokio::test]
async fn headers_that_make_another_call_of_it_are_not_forwarded() {
    let seen = forwarded(
        "x-http-method: DELETE\r\nx-http-method-override: DELETE\r\nx-method-override: DELETE\r\n\
         x-original-url: /gold\r\nx-rewrite-url: /gold\r\nx-original-uri: /gold\r\n\
         x-original-method: DELETE\r\n",
    )
    .await;
    assert!(!seen.contains("delete") && !seen.contains("/gold"), "{seen}");
}

#[tokio::test]
async fn headers_of_the_connection_stay_on_it() {
    let seen = forwarded(
        "connection: keep-alive, x-mine, x-farebox-account, x-request-id\r\nx-mine: 1\r\n\
         keep-alive: timeout=5\r\nproxy-connection: close\r\nproxy-authorization: Basic eA==\r\n\
         te: trailers\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\nx-other: 2\r\n",
    )
    .await;
    for name in [
        "x-mine",
        "keep-alive",
        "proxy-connection",
        "proxy-authorization",
        "te",
        "upgrade",
        "http2-settings",
    ] {
        assert_eq!(header(&seen, name), None, "{seen}");
    }
    assert_eq!(header(&seen, "x-other"), Some("2"));
    assert_eq!(header(&seen, "x-farebox-account"), Some("alice"));
    assert!(header(&seen, "x-request-id").is_some());
}

#[tokio::test]
async fn nominating_what_must_arrive_is_refused_or_without_effect() {
    let upstream = RawUpstream::answering(OK).await;
    let gateway = raw(&upstream, "").await;
    for (nominated, code) in [
        ("x-request-id, close", 200),
        ("authorization", 200),
        ("x-farebox-account", 200),
        ("host", 400),
        ("x-forwarded-for", 400),
        (":authority", 400),
        ("\"x-forwarded-for\"", 400),
        ("a, b, c, d, e, f, g, h, i, j, k, l", 400),
    ] {
        let mut client = Wire::connect(gateway.public()).await;
        let connection = format!("connection: {nominated}\r\n");
        client.send(request("GET /x/y", "alice", &connection, "")).await;
        let answer = client.head().await.unwrap();
        assert_eq!(status(&answer), code, "{nominated}");
        assert!(header(&answer, "x-request-id").is_some());
    }
    for head in upstream.seen().concat().split_terminator("\r\n\r\n") {
        for name in ["host", "x-farebox-account", "x-request-id", "x-forwarded-for"] {
            assert!(header(head, name).is_some(), "{name} in {head}");
        }
    }
    assert_eq!(gateway.settled_balance("alice").await, 85);
}

#[tokio::test]
async fn credentials_go_no_further_unless_the_upstream_asks() {
    for asks in [false, true] {
        let upstream = RawUpstream::answering(OK).await;
        let text = config_text(upstream.address, &route(""));
        let url = format!("url = \"http://{}\"", upstream.address);
        let option = format!("{url}\nforward_authorization = {asks}");
        let gateway = TestGateway::start(&text.replace(&url, &option)).await;
        gateway.grant("alice", 100).await;
        let key = gateway.key("alice", false).await;
        for (name, value) in [
            ("authorization", format!("Bearer {key}")),
            ("authorization", format!("Bearer {}", token("alice"))),
            ("x-api-key", key.clone()),
            ("api-key", key.clone()),
            ("x-goog-api-key", key.clone()),
        ] {
            let before = upstream.seen().concat().len();
            let request = gateway.client.get(gateway.url("/x/y")).header(name, &value);
            assert_eq!(request.send().await.unwrap().status(), 200, "{name}");
            let seen = upstream.seen().concat();
            assert_eq!(header(&seen[before..], name), asks.then_some(&*value));
            assert_eq!(seen[before..].contains(&value), asks);
        }
    }
}

#[tokio::test]
async fn the_upstream_s_own_credentials_are_sent_in_place_of_the_client_s() {
    let upstream = RawUpstream::answering(OK).await;
    let text = config_text(upstream.address, &route(""));
    let url = format!("url = \"http://{}\"", upstream.address);
    let more = "headers = { authorization = \"Bearer sk-1\", x-team = \"red\" }";
    let gateway = TestGateway::start(&text.replace(&url, &format!("{url}\n{more}"))).await;
    gateway.grant("alice", 100).await;
    let mut client = Wire::connect(gateway.public()).await;
    client.send(request("GET /x/y", "alice", "x-team: blue\r\nx-team: green\r\n", "")).await;
    let answer = client.rest_of_one().await;
    assert_eq!(status(&answer), 200);
    let seen = upstream.seen().concat();
    assert_eq!(header(&seen, "authorization"), Some("Bearer sk-1"));
    assert_eq!(header(&seen, "x-team"), Some("red"));
    assert_eq!(seen.to_ascii_lowercase().matches("x-team").count(), 1);
    assert_eq!(seen.to_ascii_lowercase().matches("\r\nauthorization").count(), 1);
    assert_eq!(header(&seen, "host"), Some(&*upstream.address.to_string()));
    assert!(!answer.contains("sk-1"));
}

#[tokio::test]
async fn what_an_upstream_says_under_farebox_s_names_is_dropped() {
    for (answer, paid) in [
        (
            "HTTP/1.1 200 OK\r\nx-credits-cost: mallory\r\nx-credits-balance: mallory\r\n\
             x-credits-remaining: mallory\r\nx-farebox-account: mallory\r\nx-request-id: mallory\r\n\
             content-length: 0\r\n\r\n",
            true,
        ),
        (
            "HTTP/1.1 402 Pay\r\nx-credits-cost: mallory\r\nx-credits-remaining: mallory\r\n\
             x-farebox-account: mallory\r\nx-request-id: mallory\r\ncontent-length: 0\r\n\r\n",
            false,
        ),
    ] {
        let upstream = RawUpstream::answering(answer).await;
        let gateway = raw(&upstream, "").await;
        let mut client = Wire::connect(gateway.public()).await;
        client.send(post("/x/y", "alice", "{}")).await;
        let head = client.head().await.unwrap();
        assert!(!head.contains("mallory"), "{head}");
        assert_eq!(header(&head, "x-credits-cost"), paid.then_some("5"));
        let seen = upstream.seen().concat();
        assert_eq!(header(&head, "x-request-id"), header(&seen, "x-request-id"));
    }
}

#[tokio::test]
async fn every_answer_has_a_request_id_of_its_own() {
    let upstream = RawUpstream::answering(OK).await;
    let gateway = raw(&upstream, "").await;
    let mut ids = std::collections::HashSet::new();
    for (line, account, code) in [
        ("GET /x/y", "alice", 200),
        ("GET /x/y", "poor", 402),
        ("GET /nothing", "alice", 404),
        ("GET /x//y", "alice", 400),
        ("GET /credits/balance", "alice", 200),
        ("GET /credits/nothing", "alice", 404),
        ("DELETE /credits/balance", "alice", 405),
    ] {
        let mut client = Wire::connect(gateway.public()).await;
        client.send(request(line, account, "x-request-id: mine\r\n", "")).await;
        let answer = client.head().await.unwrap();
        assert_eq!(status(&answer), code, "{line}");
        let id = header(&answer, "x-request-id").unwrap_or_else(|| panic!("{answer}"));
        assert!(id != "mine" && ids.insert(id.to_owned()), "{id}");
    }
    // The same holds for a call without credentials.
    let answer = gateway.client.get(gateway.url("/x/y")).send().await.unwrap();
    assert_eq!(answer.status(), 401);
    assert!(answer.headers().contains_key("x-request-id"));
}

/// The connection headers of Node.js and others.
const TALKATIVE: &str = "HTTP/1.1 200 OK\r\nconnection: keep-alive, x-hop\r\n\
                         keep-alive: timeout=5\r\nproxy-connection: keep-alive\r\nx-hop: 1\r\n\
                         upgrade: h2c\r\nx-kept: 2\r\ncontent-length: 2\r\n\r\nok";

#[tokio::test]
async fn headers_of_the_upstream_s_connection_stay_on_it() {
    let upstream = RawUpstream::answering(TALKATIVE).await;
    let gateway = raw(&upstream, "").await;
    let mut client = Wire::connect(gateway.public()).await;
    client.send(request("GET /x/y", "alice", "", "")).await;
    let (head, body) = client.message().await.unwrap();
    assert_eq!((status(&head), &*body), (200, "ok"));
    for name in ["keep-alive", "proxy-connection", "x-hop", "upgrade"] {
        assert_eq!(header(&head, name), None, "{head}");
    }
    assert_eq!(header(&head, "x-kept"), Some("2"));

    let (gateway, certificate) = super::tls::gateway(upstream.address, "", "").await;
    let mut client = http2(gateway.public(), &certificate).await;
    let (answer, _) = send(&mut client, "GET", "/x/y", "alice", true);
    let answer = answer.await.unwrap();
    assert_eq!(answer.headers()["x-kept"], "2");
    for name in ["connection", "keep-alive", "proxy-connection", "x-hop", "upgrade"] {
        assert!(!answer.headers().contains_key(name), "{answer:?}");
    }
    assert_eq!(read(&mut answer.into_body()).await.unwrap(), b"ok");
}

#[tokio::test]
async fn a_service_key_alone_may_name_another_account() {
    let upstream = RawUpstream::answering(OK).await;
    let gateway = raw(&upstream, "").await;
    gateway.grant("bob", 100).await;
    for (service, payer) in [(true, "bob"), (false, "alice")] {
        let key = gateway.key("alice", service).await;
        let request = gateway.client.get(gateway.url("/x/y")).bearer_auth(key);
        let answer = request.header("x-farebox-account", "bob").send().await.unwrap();
        assert_eq!(answer.status(), 200);
        let seen = upstream.seen().concat();
        let last = &seen[seen.rfind("GET ").unwrap()..];
        assert_eq!(header(last, "x-farebox-account"), Some(payer));
        assert_eq!(gateway.settled_balance(payer).await, 95);
    }
}

/// HTTP/2 clients may send their cookies in several lines (RFC 9113, 8.2.3).
#[tokio::test]
async fn several_lines_of_cookies_are_one_upstream() {
    let seen = forwarded("cookie: a=1\r\ncookie: b=2; c=3\r\ncookie: farebox_session=x; __Host-farebox_session=y\r\n").await;
    assert!(seen.contains("\r\ncookie: a=1; b=2; c=3\r\n"), "{seen}");
    let seen = forwarded("cookie: a=1;b=2\r\n").await;
    assert!(seen.contains("\r\ncookie: a=1;b=2\r\n"), "one line stays as it is: {seen}");
}

/// A listener on `[::]` takes IPv4 too, and sees its clients as `::ffff:127.0.0.1`.
#[tokio::test]
async fn an_ipv4_client_of_a_dual_stack_listener_is_told_by_its_ipv4_address() {
    let upstream = RawUpstream::answering(OK).await;
    let text = config_text(upstream.address, &route(""));
    let gateway = TestGateway::start(&text.replacen("127.0.0.1:0", "[::]:0", 1)).await;
    gateway.grant("alice", 100).await;
    for (address, told) in [("127.0.0.1", "127.0.0.1"), ("::1", "::1")] {
        let address =
            (address.parse::<std::net::IpAddr>().unwrap(), gateway.public().port()).into();
        let mut client = Wire::connect(address).await;
        client.send(request("GET /x/y", "alice", "", "")).await;
        let answer = client.head().await.unwrap();
        assert_eq!(status(&answer), 200, "{answer}");
        let seen = upstream.seen().concat().to_ascii_lowercase();
        let head = seen.rsplit("get /x/y").next().unwrap_or_default();
        assert_eq!(header(head, "x-forwarded-for"), Some(told), "{head}");
    }
}

/// Upstreams build links from it, and a cache or a list of hosts may read it in another way.
#[tokio::test]
async fn a_host_that_is_none_is_400_and_reaches_no_upstream() {
    let upstream = RawUpstream::answering(OK).await;
    let gateway = raw(&upstream, "").await;
    for host in
        ["a b", "shop/path", "shop?a", "shop#a", "shop:http", "shop:80:80", "[::1", "\"shop\""]
    {
        let mut client = Wire::connect(gateway.public()).await;
        let text = request("GET /x/y", "alice", "", "");
        client.send(text.replacen("host: shop", &format!("host: {host}"), 1)).await;
        let answer = client.rest().await;
        assert_eq!(status(&answer), 400, "{host}: {answer}");
        assert!(answer.contains("is no host"), "{answer}");
    }
    assert_eq!(upstream.seen(), [""; 0]);
    for host in ["", "shop", "shop:80", "127.0.0.1:8080", "[::1]:80"] {
        let mut client = Wire::connect(gateway.public()).await;
        let text = request("GET /x/y", "alice", "", "");
        client.send(text.replacen("host: shop", &format!("host: {host}"), 1)).await;
        assert_eq!(status(&client.message().await.unwrap().0), 200, "{host}");
    }
}
