//! Stopping and reloading.

use std::sync::Arc;
use std::time::{Duration, Instant};

use farebox::metrics::Metrics;
use http::Method;
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::Notify;

use super::settlement::route;
use super::tls;
use crate::support::h2::{http2, read, send};
use crate::support::wire::{LIMIT, RawUpstream, Wire, header, post, request, status};
use crate::support::{TestGateway, Upstream, config_text, config_with, parse};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// An upstream that answers when it is told to, and tells when it was asked.
async fn held_up() -> (RawUpstream, Arc<Notify>, Arc<Notify>) {
    let (asked, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let signals = (asked.clone(), go.clone());
    let upstream = RawUpstream::start(move |mut wire| {
        let (asked, go) = signals.clone();
        async move {
            while wire.message().await.is_some() {
                asked.notify_one();
                go.notified().await;
                if wire.try_send(OK).await.is_err() {
                    return;
                }
            }
        }
    })
    .await;
    (upstream, asked, go)
}

/// Alice's balance once a gateway has opened the ledger again.
async fn balance_after(folder: TempDir) -> (i64, Value) {
    let upstream = Upstream::canned().await;
    let gateway = TestGateway::start_in(folder, &config_text(upstream.address, "")).await;
    let balance = gateway.balance("alice").await;
    gateway.assert_reconciled().await;
    (balance["balance"].as_i64().unwrap(), balance["held"].clone())
}

#[tokio::test]
async fn a_stop_is_announced_then_finishes_what_runs_and_settles_it() {
    let (upstream, asked, go) = held_up().await;
    let text = config_with(upstream.address, "drain_delay = \"300ms\"", "", &route(""));
    let gateway = TestGateway::start(&text).await;
    gateway.grant("alice", 100).await;
    let ready = gateway.admin_url("/readyz");
    let healthy = gateway.admin_url("/healthz");
    let client = gateway.client.clone();
    assert_eq!(client.get(&ready).send().await.unwrap().status(), 200);
    let mut running = Wire::connect(gateway.public()).await;
    running.send(post("/x/y", "alice", "{}")).await;
    asked.notified().await;

    let address = gateway.public();
    let stopping = tokio::spawn(gateway.stop());
    tokio::task::yield_now().await;
    // At once: not ready, but alive and still accepting.
    assert_eq!(client.get(&ready).send().await.unwrap().status(), 503);
    assert_eq!(client.get(&healthy).send().await.unwrap().status(), 200);
    let mut late = Wire::connect(address).await;
    late.send(request("GET /credits/balance", "alice", "", "")).await;
    assert_eq!(status(&late.message().await.unwrap().0), 200);
    // The gateway then accepts no connections, while the call still runs.
    let refused = async {
        while tokio::net::TcpStream::connect(address).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(LIMIT, refused).await.unwrap();
    assert!(!stopping.is_finished());
    assert_eq!(client.get(&healthy).send().await.unwrap().status(), 200);
    go.notify_one();
    let (head, body) = running.message().await.unwrap();
    assert_eq!((status(&head), &*body), (200, "ok"));
    assert_eq!(header(&head, "x-credits-cost"), Some("5"));
    let folder = tokio::time::timeout(LIMIT, stopping).await.unwrap().unwrap();
    assert_eq!(balance_after(folder).await, (95, 0.into()));
}

#[tokio::test]
async fn a_body_that_is_dribbled_to_an_own_route_delays_no_stop() {
    let upstream = Upstream::canned().await;
    let server = "header_timeout = \"60s\"\nshutdown_timeout = \"60s\"";
    let gateway = TestGateway::start(&config_with(upstream.address, server, "", &route(""))).await;
    gateway.grant("alice", 100).await;
    let mut slow = Wire::connect(gateway.public()).await;
    let expect = "content-length: 100\r\nexpect: 100-continue\r\n";
    slow.send(request("POST /credits/check", "alice", expect, "")).await;
    let (head, _) = slow.message().await.unwrap();
    assert_eq!(status(&head), 100, "the route asks for the body");
    slow.send("{").await;
    let stopping = tokio::spawn(gateway.stop());
    let (head, body) = slow.message().await.unwrap();
    assert_eq!(status(&head), 503, "{body}");
    assert!(body.contains("is stopping"), "{body}");
    let folder = tokio::time::timeout(LIMIT, stopping).await.unwrap().unwrap();
    assert_eq!(balance_after(folder).await, (100, 0.into()));
}

/// The one call of a gateway was cut off before it had an answer, and stands in the figures.
fn assert_cut_off_is_counted(metrics: &Metrics) {
    let label = "/x/{*rest}";
    assert_eq!(metrics.requests.with_label_values(&[label, "503"]).get(), 1);
    assert_eq!(metrics.request_seconds.with_label_values(&[label]).get_sample_count(), 1);
    assert_eq!(metrics.holds.with_label_values(&[label, "released"]).get(), 1);
}

#[tokio::test]
async fn a_call_that_outlasts_the_stop_is_cut_off_and_free() {
    let (upstream, asked, _go) = held_up().await;
    let text = config_with(upstream.address, "shutdown_timeout = \"200ms\"", "", &route(""));
    let gateway = TestGateway::start(&text).await;
    gateway.grant("alice", 100).await;
    let mut running = Wire::connect(gateway.public()).await;
    running.send(post("/x/y", "alice", "{}")).await;
    asked.notified().await;
    let metrics = gateway.gateway.metrics().clone();
    let started = Instant::now();
    let folder = gateway.stop().await;
    assert!(started.elapsed() >= Duration::from_millis(200));
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    assert_eq!(running.rest().await, "");
    assert_cut_off_is_counted(&metrics);
    assert_eq!(balance_after(folder).await, (100, 0.into()));
}

/// The upstream's answer is whole, and only the client's own request is not: the call still runs
/// when the stop cuts it off.
#[tokio::test]
async fn an_answer_that_had_ended_stays_paid_for_when_a_stop_cuts_its_call_off() {
    for answer in ["HTTP/1.1 204 No Content\r\n\r\n", OK] {
        let upstream = RawUpstream::start(move |mut wire| async move {
            wire.head().await;
            wire.send(answer).await;
            wire.rest().await;
        })
        .await;
        let text = config_with(upstream.address, "shutdown_timeout = \"200ms\"", "", &route(""));
        let gateway = TestGateway::start(&text).await;
        gateway.grant("alice", 100).await;
        let mut running = Wire::connect(gateway.public()).await;
        running.send(request("POST /x/y", "alice", "content-length: 99999\r\n", "")).await;
        let (head, _) = running.message().await.unwrap();
        assert_eq!(header(&head, "x-credits-cost"), Some("5"));
        let started = Instant::now();
        let folder = gateway.stop().await;
        assert!(started.elapsed() >= Duration::from_millis(200), "it was cut off");
        assert_eq!(balance_after(folder).await, (95, 0.into()), "{answer:?}");
    }
}

#[tokio::test]
async fn an_http_2_call_that_outlasts_the_stop_is_cut_off_and_free() {
    let (upstream, asked, _go) = held_up().await;
    let server = "shutdown_timeout = \"200ms\"";
    let (gateway, certificate) = tls::gateway(upstream.address, server, "").await;
    let mut client = http2(gateway.public(), &certificate).await;
    let (answer, _) = send(&mut client, "GET", "/x/y", "alice", true);
    asked.notified().await;
    let metrics = gateway.gateway.metrics().clone();
    let folder = gateway.stop().await;
    assert!(answer.await.is_err());
    assert_cut_off_is_counted(&metrics);
    assert_eq!(balance_after(folder).await, (100, 0.into()));
}

#[tokio::test]
async fn an_http_2_answer_is_delivered_whole_during_a_stop() {
    const LENGTH: usize = 4 << 20;
    let (asked, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let signals = (asked.clone(), go.clone());
    let upstream = RawUpstream::start(move |mut wire| {
        let (asked, go) = signals.clone();
        async move {
            wire.message().await;
            asked.notify_one();
            go.notified().await;
            wire.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {LENGTH}\r\n\r\n")).await;
            wire.send(vec![b'x'; LENGTH]).await;
        }
    })
    .await;
    let (gateway, certificate) = tls::gateway(upstream.address, "", "").await;
    let mut client = http2(gateway.public(), &certificate).await;
    let (answer, _) = send(&mut client, "GET", "/x/y", "alice", true);
    asked.notified().await;
    let stopping = tokio::spawn(gateway.stop());
    tokio::task::yield_now().await;
    go.notify_one();
    let answer = answer.await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(read(&mut answer.into_body()).await.unwrap().len(), LENGTH);
    drop(client);
    let folder = tokio::time::timeout(LIMIT, stopping).await.unwrap().unwrap();
    assert_eq!(balance_after(folder).await, (95, 0.into()));
}

#[tokio::test]
async fn idle_connections_do_not_delay_a_stop() {
    let upstream = RawUpstream::answering(OK).await;
    let (gateway, certificate) = tls::gateway(upstream.address, "", "").await;
    let mut second = http2(gateway.public(), &certificate).await;
    let (answer, _) = send(&mut second, "GET", "/x/y", "alice", true);
    read(&mut answer.await.unwrap().into_body()).await.unwrap();
    let stream =
        crate::support::h2::connect(gateway.public(), &certificate, &["http/1.1"]).await.unwrap();
    let mut first = Wire::over(stream);
    first.send(request("GET /x/y", "alice", "", "")).await;
    first.message().await.unwrap();
    let _never_spoke = Wire::connect(gateway.public()).await;
    let started = Instant::now();
    gateway.stop().await;
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    assert_eq!(first.rest().await, "");
}

#[tokio::test]
async fn an_idle_gateway_stops_at_once() {
    let upstream = RawUpstream::answering(OK).await;
    let gateway = TestGateway::start(&config_text(upstream.address, &route(""))).await;
    gateway.grant("alice", 100).await;
    let mut idle = Wire::connect(gateway.public()).await;
    idle.send(post("/x/y", "alice", "{}")).await;
    idle.message().await.unwrap();
    let _never_spoke = Wire::connect(gateway.public()).await;
    let started = Instant::now();
    gateway.stop().await;
    assert!(started.elapsed() < Duration::from_millis(500), "{:?}", started.elapsed());
    assert_eq!(idle.rest().await, "");
}

#[tokio::test]
async fn a_reload_changes_prices_and_upstreams_for_the_calls_that_begin_after_it() {
    let (old, asked, go) = held_up().await;
    let new = RawUpstream::answering("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nnew").await;
    let gateway = TestGateway::start(&config_text(old.address, &route(""))).await;
    gateway.grant("alice", 100).await;
    let mut running = Wire::connect(gateway.public()).await;
    running.send(post("/x/y", "alice", "{}")).await;
    asked.notified().await;

    let more = "[[routes]]\npath = \"/x/y\"\nupstream = \"ai\"\ncredits = 8\n\
                [[packs]]\nid = \"p\"\ncredits = 100\nprice = \"19.00 EUR\"\n";
    let text = config_text(new.address, more);
    gateway.gateway.reload(&parse(&text, gateway.folder.path())).await.unwrap();
    let answer = gateway.post("alice", "/x/y").await;
    assert_eq!(answer.headers()["x-credits-cost"], "8");
    assert_eq!(answer.text().await.unwrap(), "new");
    assert_eq!(gateway.post("alice", "/x/z").await.status(), 404);
    let packs = gateway.client.get(gateway.url("/credits/packs"));
    let packs = packs.bearer_auth(crate::support::token("alice")).send().await.unwrap();
    assert_eq!(packs.json::<Value>().await.unwrap()[0]["id"], "p");

    go.notify_one();
    let (head, body) = running.message().await.unwrap();
    assert_eq!((header(&head, "x-credits-cost"), &*body), (Some("5"), "ok"));
    assert_eq!(gateway.settled_balance("alice").await, 100 - 8 - 5);
    // The connection stays; its next call runs on the new config.
    running.send(post("/x/y", "alice", "{}")).await;
    assert_eq!(running.message().await.unwrap().1, "new");
}

#[tokio::test]
async fn a_reload_that_fails_changes_nothing() {
    let upstream = Upstream::canned().await;
    let gateway = TestGateway::before(&upstream, &route("")).await;
    gateway.grant("alice", 100).await;
    let text =
        config_text(upstream.address, "[[routes]]\npath = \"/z\"\nupstream = \"ai\"\ncredits = 1");
    let mut config = parse(&text, gateway.folder.path());
    config.routes[1].upstream = Some("nobody".to_owned());
    assert!(gateway.gateway.reload(&config).await.is_err());
    assert_eq!(gateway.post("alice", "/x/y").await.headers()["x-credits-cost"], "5");
    assert_eq!(gateway.post("alice", "/z").await.status(), 404);
    let prices = gateway.client.request(Method::GET, gateway.url("/credits/prices"));
    let prices = prices.bearer_auth(crate::support::token("alice")).send().await.unwrap();
    assert!(!prices.text().await.unwrap().contains("\"/z\""));
}

#[tokio::test]
async fn reloads_under_load_lose_no_call() {
    let upstream = Upstream::canned().await;
    let gateway = TestGateway::before(&upstream, &route("")).await;
    gateway.grant("alice", 10_000).await;
    let config = parse(&config_text(upstream.address, &route("")), gateway.folder.path());
    let calls = async {
        for _ in 0..20 {
            let calls = (0..20).map(|_| gateway.post("alice", "/x/y"));
            for answer in futures_util::future::join_all(calls).await {
                assert_eq!(answer.status(), 200);
            }
        }
    };
    let reloads = async {
        for _ in 0..100 {
            gateway.gateway.reload(&config).await.unwrap();
            tokio::task::yield_now().await;
        }
    };
    tokio::join!(calls, reloads);
    assert_eq!(gateway.settled_balance("alice").await, 10_000 - 400 * 5);
    gateway.assert_reconciled().await;
}
