//! A TCP proxy whose connections a test can cut or stall, and whose bytes in one direction it can
//! drop.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// The fate of the bytes that pass in one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    Open,
    /// The bytes wait, in order, until the direction is open again.
    Stalled,
    /// The bytes are accepted and dropped.
    Lost,
}

#[derive(Clone, Copy, Debug)]
struct State {
    target: SocketAddr,
    requests: Flow,
    replies: Flow,
    /// Whether new connections are closed at once.
    refusing: bool,
    /// The number of cuts so far. A connection that was made at a lower number is closed.
    cuts: u64,
    /// Requests wait on connections whose number is lower than this.
    late_before: u64,
    /// On connections with a smaller number no more bytes arrive in either direction, and neither
    /// end is told.
    lost_before: u64,
}

impl State {
    fn of_requests(&self, connection: u64) -> Flow {
        match connection {
            lost if lost < self.lost_before => Flow::Lost,
            late if late < self.late_before => Flow::Stalled,
            _ => self.requests,
        }
    }

    fn of_replies(&self, connection: u64) -> Flow {
        if connection < self.lost_before { Flow::Lost } else { self.replies }
    }
}

/// A proxy in front of one server at a time. It ends when it is dropped.
#[derive(Debug)]
pub struct CutProxy {
    address: SocketAddr,
    state: watch::Sender<State>,
    connections: Arc<AtomicU64>,
    listener: JoinHandle<()>,
}

impl CutProxy {
    pub async fn before(target: SocketAddr) -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let open = Flow::Open;
        let state = State {
            target,
            requests: open,
            replies: open,
            refusing: false,
            cuts: 0,
            late_before: 0,
            lost_before: 0,
        };
        let (state, watched) = watch::channel(state);
        let connections = Arc::new(AtomicU64::new(0));
        let numbers = Arc::clone(&connections);
        let listener = tokio::spawn(async move {
            while let Ok((client, _)) = socket.accept().await {
                let number = numbers.fetch_add(1, Ordering::SeqCst);
                if !watched.borrow().refusing {
                    tokio::spawn(carry(client, number, watched.clone()));
                }
            }
        });
        Self { address, state, connections, listener }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Closes every connection. New ones are accepted.
    pub fn cut(&self) {
        self.state.send_modify(|state| state.cuts += 1);
    }

    /// Closes every connection and accepts no new ones, until [`CutProxy::mend`].
    pub fn part(&self) {
        self.state.send_modify(|state| {
            state.cuts += 1;
            state.refusing = true;
        });
    }

    /// Sets what happens to requests and to replies from now on.
    pub fn set(&self, requests: Flow, replies: Flow) {
        self.state.send_modify(|state| (state.requests, state.replies) = (requests, replies));
    }

    /// From now on, bytes sent on the present connections arrive only after [`CutProxy::mend`],
    /// even if the sender has closed the connection long before. New connections are not delayed.
    pub fn delay_connections(&self) {
        let number = self.connections.load(Ordering::SeqCst);
        self.state.send_modify(|state| state.late_before = number);
    }

    /// Passes no more bytes in either direction, and closes nothing, like a firewall that drops
    /// packets.
    pub fn swallow(&self) {
        self.set(Flow::Lost, Flow::Lost);
    }

    /// Ends [`CutProxy::swallow`] for new connections. The earlier ones stay silent for ever, as if
    /// a firewall had forgotten them.
    pub fn carry_new_connections(&self) {
        let number = self.connections.load(Ordering::SeqCst);
        self.state.send_modify(|state| {
            (state.requests, state.replies) = (Flow::Open, Flow::Open);
            state.lost_before = number;
        });
    }

    /// Carries everything again. Connections that lost bytes are closed, because the bytes after
    /// the gap would make no sense.
    pub fn mend(&self) {
        self.state.send_modify(|state| {
            let lost = [state.requests, state.replies].contains(&Flow::Lost);
            state.cuts += u64::from(lost);
            (state.requests, state.replies, state.refusing) = (Flow::Open, Flow::Open, false);
            state.late_before = 0;
        });
    }

    /// Leads new connections to another server. The present connections stay, as when an address is
    /// moved to another server.
    pub fn lead_new_connections_to(&self, target: SocketAddr) {
        self.state.send_modify(|state| state.target = target);
    }

    /// Leads new connections to another server, and closes the others.
    pub fn lead_to(&self, target: SocketAddr) {
        self.state.send_modify(|state| {
            state.target = target;
            state.cuts += 1;
        });
    }
}

impl Drop for CutProxy {
    fn drop(&mut self) {
        self.listener.abort();
        self.cut();
    }
}

async fn carry(client: TcpStream, number: u64, state: watch::Receiver<State>) {
    let State { target, cuts, .. } = *state.borrow();
    let Ok(server) = TcpStream::connect(target).await else { return };
    // The tests measure times, so Nagle's algorithm must not add delays.
    client.set_nodelay(true).unwrap();
    server.set_nodelay(true).unwrap();
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let mut cut = state.clone();
    tokio::select! {
        _ = cut.wait_for(|state| state.cuts != cuts) => {}
        () = pump(from_client, to_server, state.clone(), |state| state.of_requests(number)) => {}
        () = pump(from_server, to_client, state, |state| state.of_replies(number)) => {}
    }
}

/// Passes on the bytes of one direction until an end closes.
async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut state: watch::Receiver<State>,
    flow: impl Fn(&State) -> Flow,
) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let Ok(read @ 1..) = from.read(&mut buffer).await else { return };
        let going = state.wait_for(|state| flow(state) != Flow::Stalled).await;
        let Ok(flow) = going.map(|state| flow(&state)) else { return };
        if flow == Flow::Open && to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
