//! Each kind of answer is either charged or released, and no hold is left.

use std::time::Duration;

use axum::Router;
use axum::extract::Path;
use axum::routing::any;
use http::{Method, StatusCode};

use crate::support::http::plain_client;
use crate::support::wire::{RawUpstream, Wire, header, post, request, status};
use crate::support::{TestGateway, Upstream, config_text, eventually, token};

/// Every method under `/x/`, 5 credits; with more keys.
pub fn route(more: &str) -> String {
    format!("[[routes]]\npath = \"/x/{{*rest}}\"\nupstream = \"ai\"\ncredits = 5\n{more}\n")
}

/// A gateway in front of a raw upstream, and alice with 100 credits.
pub async fn raw(upstream: &RawUpstream, more: &str) -> TestGateway {
    let gateway = TestGateway::start(&config_text(upstream.address, &route(more))).await;
    gateway.grant("alice", 100).await;
    gateway
}

async fn statuses() -> Upstream {
    let answer = async |Path(status): Path<u16>| {
        (StatusCode::from_u16(status).unwrap(), [("x-upstream", "yes")], "the upstream's words")
    };
    Upstream::start(Router::new().route("/x/{status}", any(answer))).await
}

#[tokio::test]
async fn success_and_redirection_are_charged_and_errors_pass_through_for_free() {
    let gateway = TestGateway::before(&statuses().await, &route("")).await;
    gateway.grant("alice", 100).await;
    let client = plain_client().redirect(reqwest::redirect::Policy::none());
    let client = client.build().unwrap();
    let mut balance = 100;
    for (code, charged) in [
        (200, true),
        (201, true),
        (204, true),
        (302, true),
        (304, true),
        (400, false),
        (402, false),
        (404, false),
        (429, false),
        (500, false),
        (502, false),
        (503, false),
        (504, false),
    ] {
        let request = client.get(gateway.url(&format!("/x/{code}")));
        let answer = request.bearer_auth(token("alice")).send().await.unwrap();
        assert_eq!(answer.status(), code);
        assert_eq!(answer.headers()["x-upstream"], "yes");
        assert!(answer.headers().contains_key("x-request-id"));
        assert_eq!(answer.headers().contains_key("x-credits-cost"), charged, "{code}");
        assert_eq!(answer.headers().contains_key("x-credits-remaining"), charged, "{code}");
        if !matches!(code, 204 | 304) {
            assert_eq!(answer.text().await.unwrap(), "the upstream's words");
        }
        balance -= if charged { 5 } else { 0 };
        assert_eq!(gateway.settled_balance("alice").await, balance, "{code}");
    }
    gateway.assert_reconciled().await;
}

#[tokio::test]
async fn a_route_says_which_answers_it_charges_for() {
    let more = route("charge_on = [\"2xx\", \"4xx\"]");
    let gateway = TestGateway::before(&statuses().await, &more).await;
    gateway.grant("alice", 100).await;
    for (code, balance) in [(404, 95), (304, 95), (500, 95), (200, 90)] {
        let request = gateway.client.get(gateway.url(&format!("/x/{code}")));
        let answer = request.bearer_auth(token("alice")).send().await.unwrap();
        assert_eq!(answer.status(), code);
        let charged = matches!(code, 200 | 404);
        assert_eq!(answer.headers().contains_key("x-credits-cost"), charged, "{code}");
        assert_eq!(gateway.settled_balance("alice").await, balance, "{code}");
    }
}

#[tokio::test]
async fn head_costs_what_get_costs() {
    let upstream = Upstream::canned().await;
    let more = "[[routes]]\npath = \"/get\"\nmethods = [\"GET\"]\nupstream = \"ai\"\ncredits = 3";
    let gateway = TestGateway::before(&upstream, more).await;
    gateway.grant("alice", 10).await;
    for (method, left) in [(Method::GET, 7), (Method::HEAD, 4)] {
        let request = gateway.client.request(method, gateway.url("/get"));
        let answer = request.bearer_auth(token("alice")).send().await.unwrap();
        assert_eq!(answer.headers()["x-credits-cost"], "3");
        assert_eq!(gateway.settled_balance("alice").await, left);
    }
    assert_eq!(upstream.seen()[1].method, Method::HEAD);
}

#[tokio::test]
async fn a_free_route_asks_who_calls_and_holds_nothing() {
    let upstream = Upstream::canned().await;
    let more = "[[routes]]\npath = \"/free\"\nupstream = \"ai\"\ncredits = 0";
    let gateway = TestGateway::before(&upstream, more).await;
    let anonymous = gateway.client.get(gateway.url("/free")).send().await.unwrap();
    assert_eq!(anonymous.status(), 401);
    assert!(upstream.seen().is_empty());
    // The account has no credits at all.
    let answer = gateway.post("alice", "/free").await;
    assert_eq!(answer.status(), 200);
    assert!(!answer.headers().contains_key("x-credits-cost"));
    assert_eq!(upstream.seen()[0].header("x-farebox-account"), Some("alice"));
    assert_eq!(gateway.settled_balance("alice").await, 0);
}

#[tokio::test]
async fn a_refused_connection_is_a_502_and_free() {
    let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nobody = socket.local_addr().unwrap();
    drop(socket);
    let gateway = TestGateway::start(&config_text(nobody, "")).await;
    gateway.grant("alice", 100).await;
    let answer = gateway.post("alice", "/api/ai/generate").await;
    assert_eq!(answer.status(), 502);
    assert_eq!(answer.headers()["cache-control"], "no-store");
    assert!(!answer.headers().contains_key("x-credits-cost"));
    let problem: serde_json::Value = answer.json().await.unwrap();
    assert_eq!(problem["code"], "UPSTREAM_FAILED");
    assert_eq!(gateway.settled_balance("alice").await, 100);
}

#[tokio::test]
async fn silence_before_the_answer_is_a_504_and_free() {
    let upstream = RawUpstream::start(|mut wire| async move {
        wire.rest().await;
    })
    .await;
    let gateway = raw(&upstream, "read_timeout = \"100ms\"").await;
    let answer = gateway.post("alice", "/x/slow").await;
    assert_eq!(answer.status(), 504);
    let problem: serde_json::Value = answer.json().await.unwrap();
    assert_eq!(problem["code"], "UPSTREAM_TIMEOUT");
    assert_eq!(gateway.settled_balance("alice").await, 100);
    assert_eq!(upstream.seen().len(), 1, "sent once");
}

#[tokio::test]
async fn no_answer_or_half_a_head_or_nonsense_is_a_502_and_free() {
    for answer in ["", "HTTP/1.1 200 OK\r\ncontent-le", "hello, this is no HTTP\r\n\r\n"] {
        let upstream = RawUpstream::start(move |mut wire| async move {
            wire.message().await;
            wire.send(answer).await;
        })
        .await;
        let gateway = raw(&upstream, "").await;
        for method in [Method::POST, Method::GET] {
            let request = gateway.client.request(method, gateway.url("/x/y"));
            let answer = request.bearer_auth(token("alice")).send().await.unwrap();
            assert_eq!(answer.status(), 502);
            assert_eq!(answer.headers()["content-type"], "application/problem+json");
        }
        assert_eq!(gateway.settled_balance("alice").await, 100, "{answer}");
        assert_eq!(upstream.seen().len(), 2, "each was sent once");
    }
}

#[tokio::test]
async fn a_2xx_that_the_upstream_breaks_off_is_free() {
    for answer in [
        "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\nzzz\r\n",
    ] {
        let upstream = RawUpstream::start(move |mut wire| async move {
            wire.message().await;
            wire.send(answer).await;
        })
        .await;
        let gateway = raw(&upstream, "").await;
        let mut client = Wire::connect(gateway.public()).await;
        client.send(post("/x/y", "alice", "{}")).await;
        assert_eq!(status(&client.head().await.unwrap()), 200);
        let body = client.rest().await;
        assert!(body.contains("half") && !body.ends_with("0\r\n\r\n"), "{body:?}");
        assert_eq!(gateway.settled_balance("alice").await, 100, "{answer}");
    }
}

#[tokio::test]
async fn a_2xx_that_falls_silent_is_cut_and_free() {
    let upstream = RawUpstream::start(|mut wire| async move {
        wire.message().await;
        wire.send("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf").await;
        wire.rest().await;
    })
    .await;
    let gateway = raw(&upstream, "read_timeout = \"100ms\"").await;
    let mut client = Wire::connect(gateway.public()).await;
    client.send(post("/x/y", "alice", "{}")).await;
    assert_eq!(status(&client.head().await.unwrap()), 200);
    assert_eq!(client.rest().await, "half");
    assert_eq!(gateway.settled_balance("alice").await, 100);
}

#[tokio::test]
async fn an_answer_that_ends_with_its_connection_is_charged() {
    let upstream = RawUpstream::start(|mut wire| async move {
        wire.message().await;
        wire.send("HTTP/1.0 200 OK\r\n\r\nall of it").await;
    })
    .await;
    let gateway = raw(&upstream, "").await;
    let answer = gateway.post("alice", "/x/y").await;
    assert_eq!(answer.text().await.unwrap(), "all of it");
    assert_eq!(gateway.settled_balance("alice").await, 95);
}

#[tokio::test]
async fn informational_answers_settle_nothing() {
    for (last, balance) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", 95),
        ("HTTP/1.1 500 Oh\r\ncontent-length: 2\r\n\r\nno", 100),
    ] {
        let upstream = RawUpstream::start(move |mut wire| async move {
            wire.message().await;
            wire.send("HTTP/1.1 100 Continue\r\n\r\n").await;
            wire.send("HTTP/1.1 103 Early Hints\r\nlink: </a>\r\nx-credits-cost: 0\r\n\r\n").await;
            wire.send(last).await;
            wire.rest().await;
        })
        .await;
        let gateway = raw(&upstream, "").await;
        let mut client = Wire::connect(gateway.public()).await;
        client.send(post("/x/y", "alice", "{}")).await;
        let mut heads = Vec::new();
        while heads.last().is_none_or(|head: &String| status(head) < 200) {
            heads.push(client.head().await.unwrap());
        }
        for hint in &heads[..heads.len() - 1] {
            assert_eq!(header(hint, "x-credits-cost"), None, "{hint}");
        }
        client.exactly(2).await.unwrap();
        assert_eq!(gateway.settled_balance("alice").await, balance);
    }
}

#[tokio::test]
async fn a_promise_of_more_is_not_an_answer() {
    // The upstream sends 100 or 103, and then is silent or closes the connection.
    for (hint, timeout, code) in [
        ("HTTP/1.1 100 Continue\r\n\r\n", "60s", 502),
        ("HTTP/1.1 103 Early Hints\r\n\r\n", "60s", 502),
        ("HTTP/1.1 100 Continue\r\n\r\n", "100ms", 504),
    ] {
        let upstream = RawUpstream::start(move |mut wire| async move {
            wire.message().await;
            wire.send(hint).await;
            if code == 504 {
                wire.rest().await;
            }
        })
        .await;
        let gateway = raw(&upstream, &format!("read_timeout = \"{timeout}\"")).await;
        let mut client = Wire::connect(gateway.public()).await;
        let more = "content-length: 2\r\nexpect: 100-continue\r\n";
        client.send(request("POST /x/y", "alice", more, "{}")).await;
        let mut head = client.head().await.unwrap();
        while status(&head) < 200 {
            head = client.head().await.expect("an answer after the hint");
        }
        assert_eq!(status(&head), code, "{hint}");
        assert_eq!(gateway.settled_balance("alice").await, 100);
    }
}

#[tokio::test]
async fn fifty_parallel_requests_on_a_balance_for_ten_pass_ten_times() {
    parallel(50, 10).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_concurrent_clients_pass_as_often_as_was_paid_for() {
    parallel(1000, 7).await;
}

async fn parallel(clients: usize, paid: usize) {
    let upstream = Upstream::canned().await;
    let gateway = TestGateway::before(&upstream, "").await;
    // The credits are not quite enough for one more call.
    gateway.grant("alice", paid as u64 * 5 + 4).await;
    let calls = (0..clients).map(|_| gateway.post("alice", "/api/ai/generate"));
    let answers = futures_util::future::join_all(calls).await;
    let with = |code: u16| answers.iter().filter(|answer| answer.status() == code).count();
    assert_eq!((with(200), with(402)), (paid, clients - paid));
    assert_eq!(upstream.seen().len(), paid);
    drop(answers);
    assert_eq!(gateway.settled_balance("alice").await, 4);
    gateway.assert_reconciled().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundreds_of_failures_of_every_kind_leave_nothing_held() {
    let upstream = RawUpstream::start(|mut wire| async move {
        while let Some((head, _)) = wire.message().await {
            let answer = match head.split(' ').nth(1).unwrap() {
                "/x/close" => return,
                "/x/short" => {
                    wire.send("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf").await;
                    return;
                }
                "/x/silent" => {
                    wire.rest().await;
                    return;
                }
                "/x/error" => "HTTP/1.1 500 Oh\r\ncontent-length: 2\r\n\r\nno",
                _ => "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
            };
            if wire.try_send(answer).await.is_err() {
                return;
            }
        }
    })
    .await;
    let gateway = raw(&upstream, "read_timeout = \"300ms\"").await;
    gateway.grant("alice", 100_000).await;
    let calls = (0..400).map(|n| {
        let address = gateway.public();
        async move {
            let mut client = Wire::connect(address).await;
            let path = ["/x/close", "/x/short", "/x/silent", "/x/error", "/x/fine"][n % 5];
            let whole = post(path, "alice", "0123456789");
            match n / 5 % 4 {
                // Reads its answer; leaves at once; leaves in the body; leaves in the head.
                0 => {
                    client.send(whole).await;
                    let _ = client.head().await;
                }
                1 => client.send(whole).await,
                2 => client.send(&whole[..whole.len() - 3]).await,
                _ => client.send(&whole[..whole.len() / 2]).await,
            }
        }
    });
    futures_util::future::join_all(calls).await;
    let balance = gateway.settled_balance("alice").await;
    assert!((100_100 - 400 * 5..100_100).contains(&balance), "{balance}");
    let metrics = gateway.client.get(gateway.admin_url("/metrics")).send().await.unwrap();
    let metrics = metrics.text().await.unwrap();
    let count = |outcome: &str| -> f64 {
        let of_a_route =
            |line: &&str| line.starts_with("farebox_holds_total") && line.contains(outcome);
        let value = |line: &str| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap();
        metrics.lines().filter(of_a_route).map(value).sum()
    };
    let spent = (100_100 - balance) as f64;
    assert_eq!(count("captured") * 5.0, spent, "{metrics}");
    assert!(count("released") > 0.0);
    gateway.assert_reconciled().await;
    assert!(tokio::time::timeout(Duration::from_secs(5), gateway.stop()).await.is_ok());
}

#[tokio::test]
async fn a_refused_request_s_body_is_not_taken_for_the_next_request() {
    let upstream = RawUpstream::answering("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    let gateway = raw(&upstream, "").await;
    let smuggled = request("GET /x/smuggled", "alice", "", "");
    let mut client = Wire::connect(gateway.public()).await;
    client.send(post("/x/y", "poor", &smuggled)).await;
    client.send(post("/nothing", "alice", &smuggled)).await;
    client.send(post("/x/last", "alice", "{}")).await;
    for code in [402, 404, 200] {
        assert_eq!(status(&client.message().await.unwrap().0), code);
    }
    let seen = upstream.seen().concat();
    assert!(seen.starts_with("POST /x/last ") && !seen.contains("smuggled"), "{seen}");
    assert_eq!(gateway.settled_balance("alice").await, 95);
}

#[tokio::test]
async fn an_early_refusal_by_the_upstream_is_heard_and_free() {
    let upstream = RawUpstream::start(|mut wire| async move {
        wire.head().await;
        wire.send("HTTP/1.1 413 Large\r\ncontent-length: 3\r\nconnection: close\r\n\r\nno!").await;
        wire.finish().await;
        wire.rest().await;
    })
    .await;
    let gateway = raw(&upstream, "").await;
    let mut client = Wire::connect(gateway.public()).await;
    client.send(post("/x/y", "alice", &"x".repeat(200_000))).await;
    let (head, body) = client.message().await.unwrap();
    assert_eq!((status(&head), &*body), (413, "no!"));
    drop(client);
    assert_eq!(gateway.settled_balance("alice").await, 100);
}

#[tokio::test]
async fn an_upstream_without_an_address_is_a_502_and_free() {
    let upstream = Upstream::canned().await;
    let text = config_text(upstream.address, "");
    let text = text.replace(&upstream.address.to_string(), "nowhere.invalid:80");
    let gateway = TestGateway::start(&text).await;
    gateway.grant("alice", 100).await;
    assert_eq!(gateway.post("alice", "/api/ai/generate").await.status(), 502);
    assert_eq!(gateway.settled_balance("alice").await, 100);
}

/// A failure of other gateways: a charge lands before an upstream that then fails.
#[tokio::test]
async fn nothing_is_charged_before_the_upstream_has_answered() {
    let upstream = RawUpstream::start(|mut wire| async move {
        wire.message().await;
        wire.rest().await;
    })
    .await;
    let gateway = raw(&upstream, "on_client_abort = \"release\"").await;
    let mut client = Wire::connect(gateway.public()).await;
    client.send(post("/x/y", "alice", "{}")).await;
    assert!(eventually(async || upstream.seen().concat().ends_with("{}")).await);
    let balance = gateway.balance("alice").await;
    assert_eq!(
        (&balance["balance"], &balance["held"], &balance["available"]),
        (&100.into(), &5.into(), &95.into())
    );
    drop(client);
    assert_eq!(gateway.settled_balance("alice").await, 100);
}

/// Many clients stop at the first error of a write, and never read the answer then.
#[tokio::test]
async fn a_client_that_is_refused_in_the_middle_of_its_upload_hears_why() {
    let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nobody = socket.local_addr().unwrap();
    drop(socket);
    let gateway = TestGateway::start(&config_text(nobody, &route(""))).await;
    gateway.grant("alice", 100).await;
    let long = "x".repeat(8 << 20);
    for (path, account, code, stays) in [
        ("/x/y", "poor", 402, true),
        ("/nothing", "alice", 404, true),
        ("/x/y", "alice", 502, false),
    ] {
        let mut client = Wire::connect(gateway.public()).await;
        let whole = post(path, account, &long);
        let (head, rest) = whole.split_at(whole.len() - (7 << 20));
        client.send(head).await;
        // The answer comes before the request has ended, which goes on nevertheless.
        let (answer, _) = client.message().await.unwrap();
        assert_eq!(status(&answer), code);
        assert!(client.try_send(rest).await.is_ok(), "{path} {code}");
        if stays {
            client.send(request("GET /credits/balance", "alice", "", "")).await;
            assert_eq!(status(&client.message().await.unwrap().0), 200);
        }
    }
    assert_eq!(gateway.settled_balance("alice").await, 100);
}
