//! Clients and upstreams that send raw bytes on a socket, for tests in which every byte matters.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use super::token;

/// How long a test waits for bytes that must arrive.
pub const LIMIT: Duration = Duration::from_secs(10);

pub trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

type Log = Arc<Mutex<Vec<u8>>>;

/// One end of a connection.
pub struct Wire {
    stream: Box<dyn Io>,
    unread: Vec<u8>,
    /// All bytes that were received.
    log: Log,
}

impl Wire {
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self::over(stream)
    }

    pub fn over(stream: impl Io + 'static) -> Self {
        Self { stream: Box::new(stream), unread: Vec::new(), log: Arc::default() }
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).await.unwrap();
    }

    pub async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        self.stream.write_all(bytes.as_ref()).await?;
        self.stream.flush().await
    }

    /// Shuts the connection down for writing.
    pub async fn finish(&mut self) {
        self.stream.shutdown().await.unwrap();
    }

    /// Like [`Self::finish`], but the other end may have closed already.
    pub async fn finish_quietly(&mut self) {
        let _ = self.stream.shutdown().await;
    }

    /// Receives more; false at the end or after an error.
    async fn more(&mut self) -> bool {
        let mut buffer = [0; 16 * 1024];
        let read = tokio::time::timeout(LIMIT, self.stream.read(&mut buffer)).await;
        let read = read.unwrap_or_else(|_| {
            panic!("nothing came; so far: {:?}", String::from_utf8_lossy(&self.unread))
        });
        match read {
            Ok(0) | Err(_) => false,
            Ok(read) => {
                self.unread.extend_from_slice(&buffer[..read]);
                self.log.lock().unwrap().extend_from_slice(&buffer[..read]);
                true
            }
        }
    }

    /// Receives everything up to and including `mark`; `None` if the connection ends before it.
    pub async fn up_to(&mut self, mark: &str) -> Option<String> {
        loop {
            let found = self.unread.windows(mark.len()).position(|w| w == mark.as_bytes());
            if let Some(found) = found {
                let rest = self.unread.split_off(found + mark.len());
                let read = std::mem::replace(&mut self.unread, rest);
                return Some(String::from_utf8_lossy(&read).into_owned());
            }
            if !self.more().await {
                return None;
            }
        }
    }

    /// Receives a message's head.
    pub async fn head(&mut self) -> Option<String> {
        self.up_to("\r\n\r\n").await
    }

    /// Receives exactly this number of bytes; `None` if the connection ends before that.
    pub async fn exactly(&mut self, bytes: usize) -> Option<Vec<u8>> {
        while self.unread.len() < bytes {
            if !self.more().await {
                return None;
            }
        }
        let rest = self.unread.split_off(bytes);
        Some(std::mem::replace(&mut self.unread, rest))
    }

    /// Receives everything until the connection ends.
    pub async fn rest(&mut self) -> String {
        while self.more().await {}
        String::from_utf8_lossy(&std::mem::take(&mut self.unread)).into_owned()
    }

    /// Receives a whole answer as one text, its head first.
    pub async fn rest_of_one(&mut self) -> String {
        let (head, body) = self.message().await.unwrap();
        head + &body
    }

    /// Receives a whole message. Its body, if there is one, must have a `content-length`.
    pub async fn message(&mut self) -> Option<(String, String)> {
        let head = self.head().await?;
        let length = header(&head, "content-length").map_or(0, |text| text.parse().unwrap());
        let body = self.exactly(length).await?;
        Some((head, String::from_utf8_lossy(&body).into_owned()))
    }
}

/// The value of a header in this head.
pub fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| {
        let (field, value) = line.split_once(':')?;
        field.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// The status in the head of an answer.
pub fn status(head: &str) -> u16 {
    head.split(' ').nth(1).unwrap_or_default().parse().unwrap_or_else(|_| panic!("{head:?}"))
}

/// A request of `account`, with the further header lines `more` (`"a: b\r\n"`) and this body.
pub fn request(line: &str, account: &str, more: &str, body: &str) -> String {
    let token = token(account);
    format!("{line} HTTP/1.1\r\nhost: shop\r\nauthorization: Bearer {token}\r\n{more}\r\n{body}")
}

/// A POST whose body has a `content-length`.
pub fn post(path: &str, account: &str, body: &str) -> String {
    let length = format!("content-length: {}\r\n", body.len());
    request(&format!("POST {path}"), account, &length, body)
}

/// An upstream whose every byte the test chooses. It logs every byte that it receives.
#[derive(Clone)]
pub struct RawUpstream {
    pub address: SocketAddr,
    logs: Arc<Mutex<Vec<Log>>>,
}

impl RawUpstream {
    /// Starts an upstream that runs `serve` on each connection.
    pub async fn start<F, Served>(serve: F) -> Self
    where
        F: Fn(Wire) -> Served + Send + 'static,
        Served: Future<Output = ()> + Send + 'static,
    {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let logs: Arc<Mutex<Vec<_>>> = Arc::default();
        let all = logs.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = socket.accept().await {
                stream.set_nodelay(true).unwrap();
                let wire = Wire::over(stream);
                all.lock().unwrap().push(wire.log.clone());
                tokio::spawn(serve(wire));
            }
        });
        Self { address, logs }
    }

    /// Starts an upstream that answers nothing. It notifies the test when the head of a request has arrived, and then
    /// waits until the client leaves.
    pub async fn waiting() -> (Self, Arc<Notify>) {
        let arrived = Arc::new(Notify::new());
        let notify = arrived.clone();
        let upstream = Self::start(move |mut wire| {
            let arrived = notify.clone();
            async move {
                wire.head().await;
                arrived.notify_one();
                wire.rest().await;
            }
        });
        (upstream.await, arrived)
    }

    /// Starts an upstream that answers every message of every connection with `answer`.
    pub async fn answering(answer: &'static str) -> Self {
        Self::start(move |mut wire| async move {
            while wire.message().await.is_some() {
                if wire.try_send(answer).await.is_err() {
                    return;
                }
            }
        })
        .await
    }

    /// All bytes that were received, as one text for each connection.
    pub fn seen(&self) -> Vec<String> {
        let text = |log: &Log| String::from_utf8_lossy(&log.lock().unwrap()).into_owned();
        self.logs.lock().unwrap().iter().map(text).collect()
    }
}
