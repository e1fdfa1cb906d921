//! Builds frames of HTTP/2 by hand, including frames that no library would send.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PUSH_PROMISE: u8 = 5;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

/// The flags of frames. `ACK` is the first flag of SETTINGS and PING.
pub const ACK: u8 = 1;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const PADDED: u8 = 8;

/// The bytes that a client sends first (RFC 9113, 3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A frame (RFC 9113, 4.1).
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// Appends a header in HPACK's form without index and without Huffman coding (RFC 7541, 6.2.2).
pub fn field(block: &mut Vec<u8>, name: &str, value: &str) {
    block.push(0);
    for text in [name, value] {
        let mut left = text.len();
        if left < 127 {
            block.push(left as u8);
        } else {
            block.push(127);
            left -= 127;
            while left >= 128 {
                block.push((left % 128) as u8 | 128);
                left /= 128;
            }
            block.push(left as u8);
        }
        block.extend(text.bytes());
    }
}

/// A frame as it was received.
#[derive(Debug)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

/// A connection, frame by frame.
pub struct Frames {
    stream: TlsStream<TcpStream>,
    unread: Vec<u8>,
}

impl Frames {
    pub fn over(stream: TlsStream<TcpStream>) -> Self {
        Self { stream, unread: Vec::new() }
    }

    pub async fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes).await?;
        self.stream.flush().await
    }

    /// Reads the next frame; `None` if the connection has ended.
    pub async fn frame(&mut self) -> Option<Frame> {
        loop {
            if self.unread.len() >= 9 {
                let length =
                    u32::from_be_bytes([0, self.unread[0], self.unread[1], self.unread[2]]);
                let end = 9 + length as usize;
                if self.unread.len() >= end {
                    let rest = self.unread.split_off(end);
                    let all = std::mem::replace(&mut self.unread, rest);
                    let stream = number(&all[5..9]) & 0x7fff_ffff;
                    let payload = all[9..].to_vec();
                    return Some(Frame { kind: all[3], flags: all[4], stream, payload });
                }
            }
            let mut buffer = [0; 16 * 1024];
            match self.stream.read(&mut buffer).await {
                Ok(read @ 1..) => self.unread.extend_from_slice(&buffer[..read]),
                _ => return None,
            }
        }
    }
}

/// The number in the first four bytes.
pub fn number(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes[..4].try_into().unwrap())
}
