//! A client and an upstream that allocate nothing while they talk.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;

/// The body of every request.
const QUESTION: &str = r#"{"model":"canned","messages":[{"role":"user","content":"Hello"}]}"#;

/// The body of every answer.
const ANSWER: &str =
    r#"{"choices":[{"message":{"role":"assistant","content":"Hello!"},"finish_reason":"stop"}]}"#;

/// The size of a buffer that holds a whole request or a whole answer, in bytes.
const ROOM: usize = 8 * 1024;

/// Starts an upstream, which serves each of its connections in a thread of its own.
pub fn start_upstream() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let connection = connection.unwrap();
            std::thread::spawn(move || answer_all(connection));
        }
    });
    address
}

fn answer_all(mut connection: TcpStream) {
    let length = ANSWER.len();
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{ANSWER}"
    );
    while read_until(&mut connection, QUESTION).is_some() {
        connection.write_all(answer.as_bytes()).unwrap();
    }
}

/// A call of `path` with this token.
pub fn request(gateway: SocketAddr, path: &str, token: &str) -> Arc<str> {
    let length = QUESTION.len();
    let request = format!(
        "POST {path} HTTP/1.1\r\nhost: {gateway}\r\nauthorization: Bearer {token}\r\n\
         content-type: application/json\r\naccept: */*\r\nuser-agent: budget\r\n\
         content-length: {length}\r\n\r\n{QUESTION}"
    );
    request.into()
}

/// One kept connection to a gateway.
pub struct Caller {
    connection: TcpStream,
    request: Arc<str>,
}

impl Caller {
    /// Connects to `gateway`, to send this request.
    pub fn new(gateway: SocketAddr, request: Arc<str>) -> Self {
        let connection = TcpStream::connect(gateway).unwrap();
        connection.set_nodelay(true).unwrap();
        Self { connection, request }
    }

    /// Makes one call, which must succeed.
    pub fn call(&mut self) {
        self.connection.write_all(self.request.as_bytes()).unwrap();
        let head = read_until(&mut self.connection, ANSWER).expect("the gateway closed");
        assert!(head.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&head));
    }
}

/// Reads a message that ends with this body, and returns its first bytes; `None` if the connection ended before that.
fn read_until(connection: &mut TcpStream, body: &str) -> Option<[u8; 16]> {
    let mut buffer = [0; ROOM];
    let mut length = 0;
    while !buffer[..length].ends_with(body.as_bytes()) {
        match connection.read(&mut buffer[length..]) {
            Ok(0) | Err(_) => return None,
            Ok(count) => length += count,
        }
    }
    buffer.first_chunk().copied()
}
