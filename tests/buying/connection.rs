//! The connection to Stripe: the certificates that it trusts, the addresses that it goes to, and
//! how it may end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::http::Answer;
use crate::process::Process;
use crate::shop::{WEBHOOK_SECRET, config};
use crate::support::stripe::{Fault, SECRET_KEY, Stripe};
use crate::support::{Upstream, token};

/// A gateway that finds Stripe at `api_base`.
fn seller(
    upstream: &Upstream,
    stripe: &Stripe,
    api_base: &str,
    env: &[(&str, &str)],
) -> (TempDir, Process) {
    let folder = tempfile::tempdir().unwrap();
    let text = config(upstream, stripe, "").replace(&stripe.api_base(), api_base);
    let gateway = Process::serve_in(folder.path(), &text, env);
    (folder, gateway)
}

async fn buy(gateway: &Process) -> Answer {
    let request = gateway.client.post(gateway.url("/credits/buy")).bearer_auth(token("alice"));
    Answer::of(request.body(r#"{"pack":"pack-500"}"#)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_secret_key_is_in_no_line_of_the_log_at_any_level() {
    let (stripe, upstream) = (Stripe::start().await, Upstream::canned().await);
    let folder = tempfile::tempdir().unwrap();
    let text = config(&upstream, &stripe, "");
    let mut gateway = Process::serve_in(folder.path(), &text, &[("RUST_LOG", "trace")]);
    for (fault, status) in [
        (None, 200),
        (Some(Fault::Status(401)), 502),
        (Some(Fault::Page), 502),
        (Some(Fault::CutBefore), 503),
    ] {
        if let Some(fault) = fault {
            stripe.fail("/", fault);
        }
        let request = gateway.client.post(gateway.url("/credits/buy")).bearer_auth(token("alice"));
        let answer = Answer::of(request.body(r#"{"pack":"pack-500"}"#)).await;
        assert_eq!(answer.status.as_u16(), status, "{fault:?}: {}", answer.text);
        stripe.heal();
    }
    assert!(gateway.terminate().success());
    gateway.wait_for_logs();
    let log = gateway.stdout() + &gateway.stderr();
    assert!(log.contains("DEBUG"), "{log}");
    for secret in [SECRET_KEY, WEBHOOK_SECRET] {
        assert!(!log.contains(secret), "{log}");
    }
}

/// Serves TLS in front of a server, with a certificate for `localhost`. Returns the address, and the certificate.
async fn behind_tls(server: SocketAddr) -> (SocketAddr, String) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    tokio::spawn(async move {
        while let Ok((near, _)) = socket.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                // A client that does not trust the certificate leaves here.
                let Ok(mut near) = acceptor.accept(near).await else { return };
                let Ok(mut far) = TcpStream::connect(server).await else { return };
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    (address, made.cert.pem())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stripe_gets_the_key_only_if_its_certificate_is_good() {
    let (stripe, upstream) = (Stripe::start().await, Upstream::canned().await);
    let (address, certificate) = behind_tls(stripe.address).await;
    let api_base = format!("https://localhost:{}", address.port());

    let (_folder, mut stranger) = seller(&upstream, &stripe, &api_base, &[]);
    assert_eq!(buy(&stranger).await.status.as_u16(), 503);
    assert_eq!(stripe.asked().len(), 0, "the key goes to nobody");
    assert!(stranger.terminate().success());
    stranger.wait_for_logs();
    assert!(stranger.stderr().contains("certificate"), "the reason: {}", stranger.stderr());

    let authorities = tempfile::tempdir().unwrap();
    let file = authorities.path().join("ca.pem");
    std::fs::write(&file, certificate).unwrap();
    let trusting = [("SSL_CERT_FILE", file.to_str().unwrap())];
    let (_folder, friend) = seller(&upstream, &stripe, &api_base, &trusting);
    buy(&friend).await.expect(200);
    let asked = stripe.asked();
    let expected = format!("Bearer {SECRET_KEY}");
    assert!(
        asked.iter().all(|asked| asked.header("authorization") == Some(&expected)),
        "{asked:?}"
    );
}

/// Accepts connections, and answers the request on each with `answer` before it closes the connection. Also returns
/// the number of connections so far.
async fn answering(answer: String) -> (SocketAddr, Arc<AtomicUsize>) {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, asked) = (socket.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let counter = asked.clone();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = socket.accept().await {
            counter.fetch_add(1, Ordering::Relaxed);
            let answer = answer.clone();
            tokio::spawn(async move {
                let mut request = [0; 8192];
                let _ = client.read(&mut request).await;
                // The client may have hung up before the end of the answer.
                let _ = client.write_all(answer.as_bytes()).await;
            });
        }
    });
    (address, asked)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redirect_takes_the_key_nowhere_else() {
    let (stripe, upstream) = (Stripe::start().await, Upstream::canned().await);
    let (elsewhere, asked) =
        answering("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}".to_owned()).await;
    for status in ["302 Found", "307 Temporary Redirect", "308 Permanent Redirect"] {
        let to = format!("location: http://{elsewhere}/v1/customers");
        let head =
            format!("HTTP/1.1 {status}\r\n{to}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        let (address, first) = answering(head).await;
        let (_folder, gateway) = seller(&upstream, &stripe, &format!("http://{address}"), &[]);
        assert_eq!(buy(&gateway).await.status.as_u16(), 502, "{status}");
        assert_eq!(first.load(Ordering::Relaxed), 1, "{status}");
    }
    assert_eq!(asked.load(Ordering::Relaxed), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endless_answer_is_cut_off() {
    let (stripe, upstream) = (Stripe::start().await, Upstream::canned().await);
    let length = 64 * 1024 * 1024;
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
    let (address, asked) = answering(head + &" ".repeat(length)).await;
    let (_folder, mut gateway) = seller(&upstream, &stripe, &format!("http://{address}"), &[]);
    assert_eq!(buy(&gateway).await.status.as_u16(), 502);
    assert_eq!(asked.load(Ordering::Relaxed), 1, "asking again would bring the same");
    assert!(gateway.terminate().success());
    gateway.wait_for_logs();
    assert!(gateway.stderr().contains("larger than"), "{}", gateway.stderr());
}
