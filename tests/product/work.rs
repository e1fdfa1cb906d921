//! How much work a request can make: no more than grows with its own length.

use std::time::{Duration, Instant};

use http::Method;

use crate::support::{TestGateway, Upstream, token};

/// The time that a request may take in a debug build on a busy machine. A request whose work grew with the square of
/// its length would take many times that.
const LIMIT: Duration = Duration::from_secs(3);

/// Just below `max_header_bytes`, with what the client sends by itself.
const HEAD_BYTES: usize = 60_000;

const BODY_BYTES: usize = 64_000;

/// A text of this length, of the same piece again and again.
fn repeated(piece: &str, bytes: usize) -> String {
    piece.repeat(bytes / piece.len())
}

/// Heads that ask for a lot, each as one header and its value.
fn heads() -> Vec<(&'static str, String)> {
    let session = "farebox_session=eyJhbGciOiJIUzI1NiJ9.e30.x; ";
    [
        ("cookie", session),
        ("cookie", "a=b; "),
        ("cookie", ";"),
        ("cookie", "%25"),
        ("accept-language", "fr;q=0.1;q=0.2,"),
        ("accept-language", "fr,"),
        ("accept-language", ";;;;"),
        ("accept-language", "9"),
        ("accept-encoding", "gzip;q=0.000,"),
        ("if-none-match", "W/\"x\","),
        ("idempotency-key", "k"),
        ("x-farebox-account", "a"),
        ("x-api-key", "fb_"),
        ("forwarded", "for=\"[::1]\","),
        ("x-forwarded-for", "1.2.3.4, "),
        ("range", "bytes=0-1,"),
        ("host", "a."),
    ]
    .map(|(name, piece)| (name, repeated(piece, HEAD_BYTES)))
    .to_vec()
}

/// Bodies that ask for a lot.
fn bodies() -> Vec<String> {
    let deep = BODY_BYTES / 2;
    let long = |name: &str, piece: &str| {
        format!("{{\"{name}\":\"{}\"}}", repeated(piece, BODY_BYTES - 100))
    };
    vec![
        "[".repeat(deep) + &"]".repeat(deep),
        format!("{{\"endpoint\":{}{}}}", "[".repeat(deep - 20), "]".repeat(deep - 20)),
        repeated("{\"a\":", BODY_BYTES),
        format!("{{{}\"z\":1}}", repeated("\"a\":1,", BODY_BYTES - 100)),
        format!("{{\"id\":\"x\",\"credits\":{}}}", "9".repeat(BODY_BYTES - 100)),
        format!("{{\"id\":\"x\",\"credits\":0.{}1}}", "0".repeat(BODY_BYTES - 100)),
        format!("{{\"id\":\"x\",\"credits\":1e{}}}", "9".repeat(BODY_BYTES - 100)),
        long("endpoint", "/a"),
        long("endpoint", "/%41"),
        long("endpoint", "/../"),
        long("endpoint", "?"),
        long("pack", "x"),
        long("name", "\\u0301"),
        long("id", "%"),
    ]
}

/// Every own route, with paths and queries that ask for a lot.
fn routes() -> Vec<(Method, String)> {
    let long = repeated("a%41", 8_000);
    let query = repeated("limit=9&cursor=&days=%31&", 50_000);
    let mut routes = Vec::new();
    for path in [
        "balance",
        "prices",
        "packs",
        "transactions",
        "usage",
        "keys",
        "session",
        "account",
        "openapi.json",
    ] {
        routes.push((Method::GET, format!("/credits/{path}")));
        routes.push((Method::GET, format!("/credits/{path}?{query}")));
    }
    routes.push((Method::GET, "/credits/transactions?limit=4294967295&cursor=9".to_owned()));
    routes.push((Method::GET, format!("/credits/transactions?cursor={}", "9".repeat(50_000))));
    routes.push((Method::GET, "/credits/usage?days=92".to_owned()));
    routes.push((Method::GET, "/credits/ui/farebox.js".to_owned()));
    routes.push((Method::GET, format!("/credits/ui/{long}")));
    routes.push((Method::GET, format!("/credits/{}", repeated("a/", 8_000))));
    for path in ["check", "buy", "holds", "keys", "session"] {
        routes.push((Method::POST, format!("/credits/{path}")));
    }
    for path in [format!("holds/{long}/capture"), format!("holds/{long}/release")] {
        routes.push((Method::POST, format!("/credits/{path}")));
    }
    routes.push((Method::DELETE, format!("/credits/keys/{long}")));
    routes.push((Method::DELETE, "/credits/session".to_owned()));
    routes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_own_route_works_for_longer_than_its_request_is_long() {
    let upstream = Upstream::canned().await;
    let rules = (0..200).map(|n| {
        format!(
            "[[routes]]\npath = \"/{{a}}/{{b}}/r{n}/{{*rest}}\"\nupstream = \"ai\"\ncredits = 1\n"
        )
    });
    let gateway = TestGateway::before(&upstream, &rules.collect::<String>()).await;
    let service = gateway.key("backend", true).await;
    let (heads, bodies) = (heads(), bodies());
    for (method, path) in routes() {
        // A long query and a long head together are too long.
        let heads = heads.iter().filter(|_| path.len() < 1_000).map(Some).chain([None]);
        for head in heads {
            let request = gateway.client.request(method.clone(), gateway.url(&path));
            let request = request.bearer_auth(token("alice"));
            let request = match head {
                Some((name, value)) => request.header(*name, value),
                None => request,
            };
            took(&format!("{method} {path:.60} {:.60}", format!("{head:?}")), request).await;
        }
        if method != Method::POST {
            continue;
        }
        for body in &bodies {
            let request = gateway.client.post(gateway.url(&path)).bearer_auth(&service);
            let request = request.header("x-farebox-account", "alice").body(body.clone());
            took(&format!("{method} {path:.60} {body:.60}"), request).await;
        }
    }
}

/// Sends it, whatever it is answered, and expects that soon.
async fn took(what: &str, request: reqwest::RequestBuilder) {
    let started = Instant::now();
    let answer = request.send().await.unwrap_or_else(|error| panic!("{what}: {error}"));
    let status = answer.status();
    let read = answer.bytes().await;
    assert!(read.is_ok() && status != 500, "{what}: {status} {read:?}");
    assert!(started.elapsed() < LIMIT, "{what}: {:?} for {status}", started.elapsed());
}
