//! Simulates a long line between a client and a server: bytes arrive late and at a limited rate.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Accepts connections and passes their bytes on to another address.
pub struct Relay {
    pub address: SocketAddr,
}

impl Relay {
    /// Starts a relay to `to`. Each byte arrives `delay` later, and at most `rate` bytes a second
    /// pass in each direction.
    pub async fn start(to: SocketAddr, delay: Duration, rate: usize) -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((near, _)) = socket.accept().await {
                let Ok(far) = TcpStream::connect(to).await else { return };
                near.set_nodelay(true).unwrap();
                far.set_nodelay(true).unwrap();
                let (from_near, to_near) = near.into_split();
                let (from_far, to_far) = far.into_split();
                tokio::spawn(pass(from_near, to_far, delay, rate));
                tokio::spawn(pass(from_far, to_near, delay, rate));
            }
        });
        Self { address }
    }
}

/// Passes on one direction of a connection until it ends. The end is delayed as well.
async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin + Send + 'static,
    delay: Duration,
    rate: usize,
) {
    let (queue, mut queued) = mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
    tokio::spawn(async move {
        while let Some((due, bytes)) = queued.recv().await {
            tokio::time::sleep_until(due).await;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
        let _ = to.shutdown().await;
    });
    // The time at which the line has sent everything that it was given so far.
    let mut free = Instant::now();
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        free = free.max(Instant::now()) + Duration::from_secs_f64(read as f64 / rate as f64);
        if queue.send((free + delay, buffer[..read].to_vec())).is_err() {
            return;
        }
        // The line accepts no more bytes until it has sent these.
        tokio::time::sleep_until(free).await;
    }
}
