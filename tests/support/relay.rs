//! A long line between a client and a server: bytes arrive late, at a bounded rate.

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
    /// Every byte arrives `delay` later, and no more than `rate` bytes a second each way.
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

/// One direction of a connection, until its end, which arrives late as well.
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
    // When the line has taken all that was put on it.
    let mut free = Instant::now();
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        free = free.max(Instant::now()) + Duration::from_secs_f64(read as f64 / rate as f64);
        if queue.send((free + delay, buffer[..read].to_vec())).is_err() {
            return;
        }
        // A line takes no more than it passes on.
        tokio::time::sleep_until(free).await;
    }
}
