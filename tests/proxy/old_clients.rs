//! HTTP/1.0 clients: they know no chunks and no 1xx, and an end is the end of the connection.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::settlement::raw;
use crate::support::wire::{LIMIT, RawUpstream, Wire, header, request, status};

/// A request of an HTTP/1.0 client.
fn old(line: &str, more: &str, body: &str) -> String {
    request(line, "alice", more, body).replacen("HTTP/1.1", "HTTP/1.0", 1)
}

/// All that the connection brings until its end, as head and body.
async fn until_the_end(client: &mut Wire) -> (String, String) {
    let answer = client.rest().await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer:?}"));
    (head.to_owned(), body.to_owned())
}

const KEEP_ALIVE: &str = "connection: keep-alive\r\n";

#[tokio::test]
async fn an_http_1_0_client_gets_no_chunks_and_the_end_closes() {
    for (answer, body) in [
        ("transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n", "hello world"),
        ("Transfer-Encoding: chunked\r\nconnection: keep-alive\r\n\r\n0\r\n\r\n", ""),
        ("\r\nuntil the end", "until the end"),
        ("content-length: 2\r\n\r\nok", "ok"),
    ] {
        let upstream = RawUpstream::start(move |mut wire| async move {
            while wire.head().await.is_some() {
                let _ = wire.try_send(format!("HTTP/1.1 200 OK\r\n{answer}")).await;
                if answer.starts_with("\r\n") {
                    return;
                }
            }
        })
        .await;
        let gateway = raw(&upstream, "").await;
        for (method, body) in [("GET", body), ("HEAD", "")] {
            for more in ["", KEEP_ALIVE] {
                // These answers end by themselves, so the connection may be kept.
                let has_end = answer.starts_with("content-length") || method == "HEAD";
                if has_end && more == KEEP_ALIVE {
                    continue;
                }
                let mut client = Wire::connect(gateway.public()).await;
                client.send(old(&format!("{method} /x/y"), more, "")).await;
                let (head, got) = until_the_end(&mut client).await;
                assert_eq!((status(&head), &*got), (200, body), "{method} {more:?} {answer:?}");
                assert_eq!(header(&head, "transfer-encoding"), None, "{head}");
                assert_eq!(header(&head, "connection"), Some("close"), "{head}");
            }
        }
    }
}

/// Only the end of the connection ends this body, so a connection that breaks in the middle must not end cleanly.
#[tokio::test]
async fn an_answer_that_breaks_off_does_not_look_whole_to_an_http_1_0_client() {
    const HEAD: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    for (chunks, is_whole) in [
        ("5\r\nhello\r\n", false),
        ("5\r\nhello\r\n6\r\n wo", false),
        ("5\r\nhello\r\n0\r\n\r\n", true),
    ] {
        let upstream = RawUpstream::start(move |mut wire| async move {
            if wire.head().await.is_some() {
                wire.send(format!("{HEAD}{chunks}")).await;
            }
        })
        .await;
        let gateway = raw(&upstream, "").await;
        let mut client = TcpStream::connect(gateway.public()).await.unwrap();
        client.write_all(old("GET /x/y", "", "").as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let end = tokio::time::timeout(LIMIT, client.read_to_end(&mut answer)).await.unwrap();
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.contains("\r\n\r\nhello"), "the part that came is delivered: {answer}");
        let error = end.err().map(|error| error.kind());
        let expected = (!is_whole).then_some(std::io::ErrorKind::ConnectionReset);
        assert_eq!(error, expected, "{chunks:?}: {answer}");
        let balance = gateway.settled_balance("alice").await;
        assert_eq!(balance, if is_whole { 95 } else { 100 }, "{chunks:?}");
    }
}

#[tokio::test]
async fn an_http_1_0_client_s_stream_arrives_as_it_comes() {
    let (next, step) = tokio::sync::mpsc::channel::<()>(1);
    let step = std::sync::Arc::new(tokio::sync::Mutex::new(step));
    let upstream = RawUpstream::start(move |mut wire| {
        let step = step.clone();
        async move {
            wire.head().await;
            wire.send(
                "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\
                 transfer-encoding: chunked\r\n\r\n",
            )
            .await;
            for n in 0..3 {
                wire.send(format!("9\r\ndata: {n}\n\n\r\n")).await;
                step.lock().await.recv().await;
            }
            wire.send("0\r\n\r\n").await;
            wire.rest().await;
        }
    })
    .await;
    let gateway = raw(&upstream, "").await;
    let mut client = Wire::connect(gateway.public()).await;
    client.send(old("GET /x/y", KEEP_ALIVE, "")).await;
    assert_eq!(header(&client.head().await.unwrap(), "transfer-encoding"), None);
    for n in 0..3 {
        assert_eq!(client.up_to("\n\n").await.unwrap(), format!("data: {n}\n\n"));
        next.send(()).await.unwrap();
    }
    assert_eq!(client.rest().await, "");
    assert_eq!(gateway.settled_balance("alice").await, 95);
}

#[tokio::test]
async fn an_http_1_0_client_gets_no_1xx() {
    let upstream = RawUpstream::start(|mut wire| async move {
        while let Some(head) = wire.head().await {
            for early in ["100 Continue", "103 Early Hints\r\nlink: </a>", "102 Processing"] {
                wire.send(format!("HTTP/1.1 {early}\r\n\r\n")).await;
            }
            let length = header(&head, "content-length").map_or(0, |text| text.parse().unwrap());
            wire.exactly(length).await;
            wire.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
        }
    })
    .await;
    let gateway = raw(&upstream, "").await;
    for more in ["", "expect: 100-continue\r\n"] {
        for path in ["/x/y", "/credits/check"] {
            let body = r#"{"endpoint":"/x/y"}"#;
            let more = format!("content-length: {}\r\n{more}", body.len());
            let mut client = Wire::connect(gateway.public()).await;
            client.send(old(&format!("POST {path}"), &more, body)).await;
            let answer = client.rest().await;
            assert_eq!(answer.matches("HTTP/1.").count(), 1, "{answer}");
            assert_eq!(status(&answer), 200, "{answer}");
        }
    }
    // An HTTP/1.1 client knows 1xx answers, and gets them.
    let mut client = Wire::connect(gateway.public()).await;
    client.send(request("GET /x/y", "alice", "", "")).await;
    for code in [100, 103, 102, 200] {
        assert_eq!(status(&client.head().await.unwrap()), code);
    }
}

#[tokio::test]
async fn farebox_s_own_answers_have_no_chunks_for_an_http_1_0_client() {
    let upstream = RawUpstream::answering("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let gateway = raw(&upstream, "").await;
    for path in ["/credits/balance", "/credits/openapi.json", "/credits/nothing", "/nothing"] {
        for method in ["GET", "HEAD"] {
            let mut client = Wire::connect(gateway.public()).await;
            client.send(old(&format!("{method} {path}"), "", "")).await;
            let (head, body) = until_the_end(&mut client).await;
            assert_eq!(header(&head, "transfer-encoding"), None, "{method} {path}: {head}");
            assert_eq!(body.is_empty(), method == "HEAD", "{method} {path}: {head}");
            assert_eq!(header(&head, "connection"), Some("close"));
        }
    }
    // A stream of events has no length.
    let mut client = Wire::connect(gateway.public()).await;
    client.send(old("GET /credits/events", KEEP_ALIVE, "")).await;
    let head = client.head().await.unwrap();
    assert_eq!(header(&head, "transfer-encoding"), None, "{head}");
    assert_eq!(header(&head, "connection"), Some("close"), "{head}");
    let event = client.up_to("\n\n").await.unwrap();
    assert!(event.contains("balance") && !event.contains('\r'), "{event:?}");
}

/// The connection is kept if the answer's length is known and the client asks for it.
#[tokio::test]
async fn an_http_1_0_connection_is_kept_where_its_client_asks_and_the_length_is_known() {
    let upstream = RawUpstream::answering("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    let gateway = raw(&upstream, "").await;
    let mut client = Wire::connect(gateway.public()).await;
    for path in ["/x/y", "/credits/balance", "/nothing", "/x/y"] {
        client.send(old(&format!("GET {path}"), KEEP_ALIVE, "")).await;
        let (head, _) = client.message().await.unwrap();
        assert_eq!(header(&head, "connection"), Some("keep-alive"), "{path}");
    }
}
