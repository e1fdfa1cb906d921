//! Upstreams with several addresses, some of which are dead.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use farebox::proxy::Resolver;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::settlement::route;
use crate::support::wire::Wire;
use crate::support::{TestGateway, config_text};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// The loopback addresses that the tests' name has.
fn address(index: usize, port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1 + index as u8], port))
}

/// An upstream on some of several addresses, all with one port. The others refuse.
struct Backend {
    addresses: Vec<SocketAddr>,
    /// Keeps the port on the dead addresses, where nobody listens.
    dead: Vec<TcpSocket>,
    /// The address of each call that it served.
    served: Arc<Mutex<Vec<SocketAddr>>>,
}

impl Backend {
    async fn start(count: usize, is_dead: impl Fn(usize) -> bool) -> Self {
        let served = Arc::default();
        loop {
            let first = bind(address(0, 0)).unwrap();
            let port = first.local_addr().unwrap().port();
            let addresses: Vec<_> = (0..count).map(|index| address(index, port)).collect();
            let others = addresses[1..].iter().map(|address| bind(*address));
            // Another test may have the port on one of them.
            let Ok(others) = others.collect::<std::io::Result<Vec<_>>>() else { continue };
            let mut dead = Vec::new();
            for (index, socket) in std::iter::once(first).chain(others).enumerate() {
                if is_dead(index) {
                    dead.push(socket);
                } else {
                    serve(socket.listen(1024).unwrap(), &served);
                }
            }
            return Self { addresses, dead, served };
        }
    }

    async fn gateway(&self, upstream: &str) -> TestGateway {
        let addresses = self.addresses.clone();
        let resolver = Resolver::new(move |host, _| {
            assert_eq!(host, "backend.test");
            Ok(addresses.clone())
        });
        let text = config_text(self.addresses[0], &route(""));
        let url = format!("url = \"http://{}\"", self.addresses[0]);
        let text = text.replace(&url, &format!("url = \"http://backend.test:1\"\n{upstream}"));
        let folder = tempfile::tempdir().unwrap();
        let gateway = TestGateway::start_resolving(folder, &text, resolver).await;
        gateway.grant("alice", 1000).await;
        gateway
    }
}

/// Answers each request on a connection of its own.
fn serve(socket: TcpListener, served: &Arc<Mutex<Vec<SocketAddr>>>) {
    let (address, served) = (socket.local_addr().unwrap(), served.clone());
    tokio::spawn(async move {
        while let Ok((stream, _)) = socket.accept().await {
            let served = served.clone();
            tokio::spawn(async move {
                let mut wire = Wire::over(stream);
                if wire.message().await.is_some() {
                    served.lock().unwrap().push(address);
                    wire.send(OK.replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n")).await;
                }
            });
        }
    });
}

#[tokio::test]
async fn every_call_succeeds_as_long_as_one_address_lives() {
    for count in [2, 4] {
        for dead in 0..(1_u32 << count) - 1 {
            let is_dead = |index: usize| dead >> index & 1 == 1;
            let backend = Backend::start(count, is_dead).await;
            let gateway = backend.gateway("").await;
            for _ in 0..2 * count {
                assert_eq!(gateway.post("alice", "/x/y").await.status(), 200, "{dead:b}");
            }
            let calls = (0..8).map(|_| gateway.post("alice", "/x/y"));
            for answer in futures_util::future::join_all(calls).await {
                assert_eq!(answer.status(), 200, "of {count}, dead are {dead:b}");
            }
            let calls = 2 * count + 8;
            let mut served = backend.served.lock().unwrap().clone();
            assert_eq!(served.len(), calls, "each was sent once");
            served.sort();
            served.dedup();
            let alive = count - dead.count_ones() as usize;
            assert_eq!(served.len(), alive, "all that live have their turns: {dead:b}");
            let balance = gateway.settled_balance("alice").await;
            assert_eq!(balance, 1000 - 5 * calls as i64, "{dead:b}");
        }
    }
}

fn bind(address: SocketAddr) -> std::io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(address)?;
    Ok(socket)
}

/// Fills a listener's backlog, so that connecting there takes until the time limit.
async fn fill(socket: TcpSocket, address: SocketAddr) -> (TcpListener, Vec<TcpStream>) {
    let listener = socket.listen(1).unwrap();
    let mut waiting = Vec::new();
    let connect = || tokio::time::timeout(Duration::from_millis(200), TcpStream::connect(address));
    while let Ok(stream) = connect().await {
        waiting.push(stream.unwrap());
    }
    (listener, waiting)
}

#[tokio::test]
async fn an_address_that_does_not_answer_costs_its_time_once() {
    let mut backend = Backend::start(2, |index| index == 0).await;
    let _full = fill(backend.dead.pop().unwrap(), backend.addresses[0]).await;
    let gateway = backend.gateway("connect_timeout = \"1s\"").await;
    let started = std::time::Instant::now();
    for _ in 0..10 {
        assert_eq!(gateway.post("alice", "/x/y").await.status(), 200);
    }
    // One of the first two calls found the dead address; the others knew of it.
    assert!(started.elapsed() >= Duration::from_secs(1), "{:?}", started.elapsed());
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_backend_without_a_living_address_is_a_502_and_free() {
    let backend = Backend::start(4, |_| true).await;
    let gateway = backend.gateway("").await;
    for _ in 0..4 {
        assert_eq!(gateway.post("alice", "/x/y").await.status(), 502);
    }
    assert_eq!(gateway.settled_balance("alice").await, 1000);
}
