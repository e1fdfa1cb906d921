//! The proxy of `examples/bare_pingora.rs`, in this process.

use std::net::SocketAddr;
use std::sync::Arc;

use pingora_core::apps::{HttpServerOptions, ServerApp as _};
use pingora_core::protocols::l4::stream::Stream;
use pingora_core::server::configuration::ServerConf;
use pingora_proxy::HttpProxy;
use tokio::net::TcpListener;
use tokio::sync::watch;

#[expect(dead_code, reason = "only what it forwards with is used")]
#[path = "../../../examples/bare_pingora.rs"]
mod bare_pingora;

/// Serves HTTP/1 and, to clients that begin with its preface, HTTP/2, until the runtime ends.
pub async fn start(upstream: SocketAddr) -> SocketAddr {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let forward = bare_pingora::Forward { upstream };
    let mut proxy = HttpProxy::new(forward, Arc::new(ServerConf::default()));
    proxy.handle_init_modules();
    let mut options = HttpServerOptions::default();
    options.h2c = true;
    proxy.server_options = Some(options);
    let proxy = Arc::new(proxy);
    tokio::spawn(async move {
        let (_stop, stopped) = watch::channel(false);
        while let Ok((stream, _)) = socket.accept().await {
            stream.set_nodelay(true).unwrap();
            let (proxy, stopped) = (proxy.clone(), stopped.clone());
            tokio::spawn(async move {
                proxy.process_new(Box::new(Stream::from(stream)), &stopped).await;
            });
        }
    });
    address
}
