//! The private listeners, for operators and for probes. They speak HTTP/1 only and serve few
//! connections.
//!
//! A caller without the token must not be able to use up the process's file descriptors, or to keep
//! probes out. So a connection that waits for a request has the same deadlines as on the public
//! listener. If the listener is full, the connection that has waited longest is closed, so that the
//! next one can be accepted.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tower::ServiceExt as _;

use crate::proxy::{HeadWatch, Limits, Places};

/// The most connections of one private listener at a time.
pub(super) const MAX_CONNECTIONS: usize = 128;

/// The largest request head, and the most of a body that is read ahead, in bytes.
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// The pause before accepting again after an error, such as a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves `router` on `socket` until `closed` turns true, then finishes the running requests. Only
/// the deadlines of `limits` are used: a private listener has fewer connections and smaller heads
/// than the public one.
pub(super) async fn serve(
    socket: TcpListener,
    router: Router,
    limits: Limits,
    mut closed: watch::Receiver<bool>,
) {
    let mut places = Places::new(MAX_CONNECTIONS);
    let closing = closed.clone();
    loop {
        let accepted = tokio::select! {
            biased;
            // If the sender was dropped, this closes the listener as well.
            _ = closed.wait_for(|closed| *closed) => break,
            () = places.ended() => continue,
            accepted = socket.accept() => accepted,
        };
        let (stream, client) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a private listener could not accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        places.make_room().await;
        let head = Arc::new(HeadWatch::new());
        let serving = connection(stream, client, router.clone(), head.clone(), closing.clone());
        let watched = head.clone();
        places.serve(head, async move {
            tokio::select! {
                () = serving => {}
                () = watched.too_slow(limits) => {}
            }
        });
    }
    drop(socket);
    let mut tasks = places.into_tasks();
    while tasks.join_next().await.is_some() {}
}

async fn connection(
    stream: TcpStream,
    client: SocketAddr,
    router: Router,
    head: Arc<HeadWatch>,
    mut closed: watch::Receiver<bool>,
) {
    // Small answers should be sent without delay. If the option cannot be set, they are only
    // slower.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request: Request<Incoming>| {
        head.begins();
        let (head, router) = (head.clone(), router.clone());
        async move {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(ConnectInfo(client));
            let answer = router.oneshot(request).await;
            head.awaits_next();
            answer
        }
    });
    let mut serving = std::pin::pin!(
        http1::Builder::new()
            .max_buf_size(MAX_HEAD_BYTES)
            .serve_connection(TokioIo::new(stream), service)
    );
    // The result is ignored: a broken connection concerns only its client.
    tokio::select! {
        _ = serving.as_mut() => return,
        _ = closed.wait_for(|closed| *closed) => serving.as_mut().graceful_shutdown(),
    }
    let _ = serving.await;
}
