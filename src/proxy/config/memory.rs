//! The most memory that clients can make Farebox use by sending bytes, or by not reading answers.

use crate::proxy::config::ServerConfig;

const KIB: u64 = 1024;

/// The most bytes of one HTTP/2 request's body that a client may send before they are passed on.
/// With a round trip of 80 ms this window allows 12 MB/s.
pub const STREAM_WINDOW: u32 = 1 << 20;

/// The same limit for all requests of one HTTP/2 connection together. It is larger than one
/// stream's window, so that a body that its upstream does not read leaves room for the others.
pub const CONNECTION_WINDOW: u32 = 4 << 20;

/// The most concurrent requests on one HTTP/2 connection.
pub const MAX_STREAMS: u32 = 100;

/// The most bytes of bodies that each HTTP/1 connection holds, because they were read and could not
/// be sent on yet. There are three pieces of 64 KiB each: the part that is being read, its copy,
/// and an earlier part that the upstream does not take. A small body that is read whole takes the
/// place of the last two.
const PASSING_HTTP_1: u64 = 3 * 64 * KIB;

/// The same for each HTTP/2 stream: two frames of 16 KiB, and a small body that is read whole.
/// These bytes no longer count against the windows above.
const PASSING_HTTP_2: u64 = 2 * 16 * KIB + 64 * KIB;

/// The most bytes of an answer that each HTTP/1 connection holds, because they were read from the
/// upstream and could not be sent yet. There are three pieces of 64 KiB each: the buffer of the
/// upstream's session, a part that the client does not take, and the bytes that were gathered
/// before that part.
const UNREAD_HTTP_1: u64 = 3 * 64 * KIB;

/// The same for each HTTP/2 stream, plus the h2 crate's send buffer.
const UNREAD_HTTP_2: u64 = UNREAD_HTTP_1 + SEND_BUFFER;

/// The most bytes of one answer that the h2 crate buffers while the client's window has no room.
const SEND_BUFFER: u64 = 400 * KIB;

impl ServerConfig {
    /// The most memory, in bytes, that one client connection uses for answers that the client does
    /// not read.
    pub fn unread_bytes(&self) -> u64 {
        match self.tls {
            None => UNREAD_HTTP_1,
            Some(_) => u64::from(MAX_STREAMS) * UNREAD_HTTP_2,
        }
    }

    /// The most memory, in bytes, that one client connection uses for request heads, and for bodies
    /// that are not passed on yet.
    pub fn connection_bytes(&self) -> u64 {
        // A head is read into a buffer that doubles whenever it is full, so it can be twice the
        // limit.
        let http_1 = 2 * self.max_header_bytes as u64 + PASSING_HTTP_1;
        if self.tls.is_none() {
            return http_1;
        }
        let stream = self.max_header_bytes as u64 + PASSING_HTTP_2;
        http_1.max(u64::from(CONNECTION_WINDOW) + u64::from(MAX_STREAMS) * stream)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;
    use crate::proxy::TlsConfig;

    #[test]
    fn the_memory_of_connections_counts_the_windows_and_the_heads() {
        let plain = ServerConfig::new(Secret::new("0123456789abcdef"));
        assert_eq!(plain.connection_bytes(), 320 * KIB);
        assert_eq!(plain.unread_bytes(), 192 * KIB);
        let files = TlsConfig { cert_file: "cert.pem".into(), key_file: "key.pem".into() };
        let tls = ServerConfig { tls: Some(files), ..plain };
        assert_eq!(tls.connection_bytes(), 4 * 1024 * KIB + 100 * (64 + 96) * KIB);
        assert_eq!(tls.unread_bytes(), 100 * (192 + 400) * KIB);
        let large = ServerConfig { max_header_bytes: 1 << 20, ..tls };
        assert_eq!(large.connection_bytes(), (4 + 100) * 1024 * KIB + 100 * 96 * KIB);
    }
}
