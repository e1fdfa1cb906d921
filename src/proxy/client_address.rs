//! The address of a client.

use std::net::IpAddr;

use http::HeaderValue;
use pingora_core::protocols::SocketDigest;

/// An IP address, with its text for `x-forwarded-for`. An HTTP/1 connection makes the text once.
#[derive(Clone, Debug)]
pub(super) struct ClientAddress {
    pub ip: IpAddr,
    pub text: HeaderValue,
}

impl ClientAddress {
    /// The address at the other end of a socket; `None` if the system does not know it.
    pub fn of(socket: &SocketDigest) -> Option<Self> {
        // A listener on `[::]` sees IPv4 clients as `::ffff:192.0.2.1`.
        let ip = socket.peer_addr()?.as_inet()?.ip().to_canonical();
        Some(Self { ip, text: HeaderValue::from_str(&ip.to_string()).ok()? })
    }
}
