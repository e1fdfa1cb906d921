//! A Pingora proxy that does nothing but forward: the yardstick of `make bench`.
//!
//! Built with the same profile and the same allocator as `farebox`, so that what separates the two
//! in the bench's table is what Farebox itself does.
//!
//! `bare_pingora LISTEN UPSTREAM [THREADS [CERTIFICATE KEY]]`, for example
//! `bare_pingora 127.0.0.1:8080 127.0.0.1:3000 1`. Both are addresses, not names. With a certificate and its
//! key, the listener speaks HTTPS, and HTTP/2 with clients that offer it. It runs until it is killed. The tests of the
//! forwarder run [`Forward`] in their own process.
#![forbid(unsafe_code)]

use std::error::Error;
use std::net::SocketAddr;

use async_trait::async_trait;
use pingora_core::listeners::tls::TlsSettings;
use pingora_core::server::Server;
use pingora_core::server::configuration::ServerConf;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_proxy::{ProxyHttp, Session, http_proxy_service};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Forwards every request to one address.
pub struct Forward {
    /// The upstream's address.
    pub upstream: SocketAddr,
}

#[async_trait]
impl ProxyHttp for Forward {
    type CTX = ();

    fn new_ctx(&self) -> Self::CTX {}

    async fn upstream_peer(
        &self,
        _session: &mut Session,
        _ctx: &mut Self::CTX,
    ) -> pingora_core::Result<Box<HttpPeer>> {
        Ok(Box::new(HttpPeer::new(self.upstream, false, String::new())))
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let usage = "usage: bare_pingora LISTEN UPSTREAM [THREADS [CERTIFICATE KEY]]";
    let listen: SocketAddr = args.next().ok_or(usage)?.parse()?;
    let upstream: SocketAddr = args.next().ok_or(usage)?.parse()?;
    let threads: usize = args.next().map_or(Ok(1), |n| n.parse())?;
    let tls = args.next().zip(args.next());

    let conf = ServerConf { threads, ..ServerConf::default() };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();

    let mut proxy = http_proxy_service(&server.configuration, Forward { upstream });
    match tls {
        Some((certificate, key)) => {
            let mut settings = TlsSettings::intermediate(&certificate, &key)?;
            settings.enable_h2();
            proxy.add_tls_with_settings(&listen.to_string(), None, settings);
        }
        None => proxy.add_tcp(&listen.to_string()),
    }
    server.add_service(proxy);
    server.run_forever()
}
