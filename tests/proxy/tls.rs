//! TLS and HTTP/2 towards clients.

use bytes::Bytes;
use http::StatusCode;
use rustls::pki_types::CertificateDer;

use super::settlement::route;
use crate::support::h2::{TLS, connect, http2, read, send, write_certificate};
use crate::support::wire::{RawUpstream, Wire, header, request, status};
use crate::support::{TestGateway, Upstream, config_with, eventually, token};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// A gateway with TLS, alice with 100 credits, and the certificate.
pub async fn gateway(
    upstream: std::net::SocketAddr,
    server: &str,
    more: &str,
) -> (TestGateway, CertificateDer<'static>) {
    let folder = tempfile::tempdir().unwrap();
    let certificate = write_certificate(folder.path());
    let text = config_with(upstream, &format!("{TLS}\n{server}"), "", &route(more));
    let gateway = TestGateway::start_in(folder, &text).await;
    let body = serde_json::json!({ "credits": 100, "id": "first", "reason": "test" });
    gateway.admin(http::Method::POST, "/admin/accounts/alice/grants", Some(body)).await;
    (gateway, certificate)
}

/// Waits until nothing is held, and returns alice's balance, as the admin listener has it.
pub async fn settled(gateway: &TestGateway) -> i64 {
    let mut last = serde_json::Value::Null;
    let done = eventually(async || {
        last = gateway.admin(http::Method::GET, "/admin/accounts/alice", None).await;
        last["held"] == 0
    });
    assert!(done.await, "still held: {last}");
    last["balance"].as_i64().unwrap_or_else(|| panic!("{last}"))
}

#[tokio::test]
async fn http_1_and_http_2_are_served_as_the_client_asks() {
    let upstream = RawUpstream::answering(OK).await;
    let (gateway, certificate) = gateway(upstream.address, "", "").await;

    for offered in [&["http/1.1"][..], &[]] {
        let stream = connect(gateway.public(), &certificate, offered).await.unwrap();
        let mut client = Wire::over(stream);
        client.send(request("GET /x/y", "alice", "", "")).await;
        assert_eq!(status(&client.message().await.unwrap().0), 200);
    }
    let stream = connect(gateway.public(), &certificate, &["http/1.1", "h2"]).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));

    let mut client = http2(gateway.public(), &certificate).await;
    let (answer, mut body) = send(&mut client, "POST", "/x/y?a=b", "alice", false);
    body.send_data(Bytes::from_static(b"hello"), true).unwrap();
    let answer = answer.await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["x-credits-remaining"], "85");
    assert!(answer.headers().contains_key("x-request-id"));
    assert_eq!(read(&mut answer.into_body()).await.unwrap(), b"ok");
    assert_eq!(settled(&gateway).await, 85);

    let seen = upstream.seen().concat();
    let last = &seen[seen.rfind("POST ").unwrap()..];
    assert!(last.starts_with("POST /x/y?a=b HTTP/1.1\r\n"), "{last}");
    assert_eq!(header(last, "host"), Some(&*upstream.address.to_string()));
    assert_eq!(header(last, "x-forwarded-proto"), Some("https"));
    assert_eq!(header(last, "x-forwarded-host"), Some("shop.test"));
    assert_eq!(header(last, "x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(header(last, "authorization"), None);
}

#[tokio::test]
async fn http_2_streams_share_a_balance_and_pay_each_for_itself() {
    let upstream = Upstream::canned().await;
    let (gateway, certificate) = gateway(upstream.address, "", "").await;
    let mut client = http2(gateway.public(), &certificate).await;
    let mut answers = Vec::new();
    for _ in 0..50 {
        client = client.ready().await.unwrap();
        answers.push(send(&mut client, "GET", "/x/y", "alice", true).0);
    }
    let mut paid = 0;
    for answer in answers {
        let answer = answer.await.unwrap();
        paid += usize::from(answer.status() == 200);
        read(&mut answer.into_body()).await.unwrap();
    }
    assert_eq!((paid, upstream.seen().len()), (20, 20));
    assert_eq!(settled(&gateway).await, 0);
}

#[tokio::test]
async fn farebox_s_own_answers_work_over_http_2() {
    let upstream = RawUpstream::answering(OK).await;
    let (gateway, certificate) = gateway(upstream.address, "", "").await;
    let mut client = http2(gateway.public(), &certificate).await;
    for (method, path, code) in [
        ("GET", "/credits/balance", 200),
        ("HEAD", "/credits/balance", 200),
        ("GET", "/credits/openapi.json", 200),
        ("GET", "/nothing", 404),
        ("GET", "/x//y", 400),
        ("GET", "/x/%2e%2e/y", 400),
        ("GET", "/x/%2fy", 400),
    ] {
        client = client.ready().await.unwrap();
        let (answer, _) = send(&mut client, method, path, "alice", true);
        let answer = answer.await.unwrap();
        assert_eq!(answer.status(), code, "{method} {path}");
        assert!(answer.headers().contains_key("x-request-id"));
        let body = read(&mut answer.into_body()).await.unwrap();
        assert_eq!(body.is_empty(), method == "HEAD");
    }
    assert_eq!(upstream.seen(), [""; 0]);
}

#[tokio::test]
async fn a_reset_stream_is_a_client_that_left() {
    let (upstream, arrived) = RawUpstream::waiting().await;
    let (gateway, certificate) = gateway(upstream.address, "", "").await;
    let mut client = http2(gateway.public(), &certificate).await;
    for (whole, balance) in [(false, 100), (true, 95)] {
        client = client.ready().await.unwrap();
        let (answer, mut body) = send(&mut client, "POST", "/x/y", "alice", whole);
        arrived.notified().await;
        body.send_reset(h2::Reason::CANCEL);
        assert!(answer.await.is_err());
        assert_eq!(settled(&gateway).await, balance);
    }
}

#[tokio::test]
async fn a_whole_answer_is_charged_though_the_stream_s_request_never_ended() {
    let upstream = RawUpstream::start(|mut wire| async move {
        wire.head().await;
        wire.send("HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\nall of!").await;
        wire.rest().await;
    })
    .await;
    let (gateway, certificate) = gateway(upstream.address, "", "").await;
    let mut client = http2(gateway.public(), &certificate).await;
    let (answer, mut body) = send(&mut client, "GET", "/x/y", "alice", false);
    let answer = answer.await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(read(&mut answer.into_body()).await.unwrap(), b"all of!");
    body.send_reset(h2::Reason::CANCEL);
    assert_eq!(settled(&gateway).await, 95);
}

#[tokio::test]
async fn new_certificate_files_are_taken_up_and_broken_ones_are_not() {
    let upstream = RawUpstream::answering(OK).await;
    let (gateway, first) = gateway(upstream.address, "", "").await;
    let folder = gateway.folder.path();
    let works = async |certificate: &CertificateDer<'static>| {
        connect(gateway.public(), certificate, &["h2"]).await.is_ok()
    };
    assert!(works(&first).await);

    // A key that is not this certificate's, then nonsense: the old one stays in use.
    let key = std::fs::read(folder.join("key.pem")).unwrap();
    let second = write_certificate(folder);
    let second_key = std::fs::read(folder.join("key.pem")).unwrap();
    std::fs::write(folder.join("key.pem"), &key).unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(2500)).await;
    assert!(works(&first).await && !works(&second).await);
    std::fs::write(folder.join("key.pem"), "nonsense").unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(2500)).await;
    assert!(works(&first).await);

    // The gateway uses the new files once both are there.
    std::fs::write(folder.join("key.pem"), &second_key).unwrap();
    assert!(eventually(async || works(&second).await).await);
    assert!(!works(&first).await);
    let plain = reqwest::Client::new().get(format!("http://{}/x/y", gateway.public()));
    assert!(plain.bearer_auth(token("alice")).send().await.is_err(), "no plain text on this port");
}
