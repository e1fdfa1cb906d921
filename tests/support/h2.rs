//! TLS and HTTP/2 clients.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use h2::RecvStream;
use h2::SendStream;
use h2::client::{ResponseFuture, SendRequest};
use http::Request;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::token;

/// The host name for which the tests' certificates are made.
pub const HOST: &str = "shop.test";

/// Writes a new certificate and its key into `folder`, as `cert.pem` and `key.pem`.
pub fn write_certificate(folder: &Path) -> CertificateDer<'static> {
    let made = rcgen::generate_simple_self_signed([HOST.to_owned()]).unwrap();
    std::fs::write(folder.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
    std::fs::write(folder.join("cert.pem"), made.cert.pem()).unwrap();
    made.cert.der().clone()
}

/// The `[server]` key `tls` with these files.
pub const TLS: &str = "tls = { cert_file = \"cert.pem\", key_file = \"key.pem\" }";

/// Opens a TLS connection to a server that has `certificate`, and offers these protocols.
pub async fn connect(
    address: SocketAddr,
    certificate: &CertificateDer<'static>,
    protocols: &[&str],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let mut config = config.unwrap().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    TlsConnector::from(Arc::new(config)).connect(ServerName::try_from(HOST).unwrap(), stream).await
}

/// Opens an HTTP/2 connection.
pub async fn http2(
    address: SocketAddr,
    certificate: &CertificateDer<'static>,
) -> SendRequest<Bytes> {
    let stream = connect(address, certificate, &["h2"]).await.unwrap();
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    client.ready().await.unwrap()
}

/// Sends the head of a request of `account`. `end` is true if the request has no body.
pub fn send(
    client: &mut SendRequest<Bytes>,
    method: &str,
    path: &str,
    account: &str,
    end: bool,
) -> (ResponseFuture, SendStream<Bytes>) {
    let request = Request::builder()
        .method(method)
        .uri(format!("https://{HOST}{path}"))
        .header("authorization", format!("Bearer {}", token(account)));
    client.send_request(request.body(()).unwrap(), end).unwrap()
}

/// Reads a whole body.
pub async fn read(body: &mut RecvStream) -> Result<Vec<u8>, h2::Error> {
    let mut all = Vec::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        all.extend_from_slice(&data);
    }
    Ok(all)
}
