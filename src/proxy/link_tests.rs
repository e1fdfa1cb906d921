use std::future::poll_fn;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::net::{TcpListener, TcpStream};

use super::*;

/// A link over a pipe with a capacity of `holds` bytes, and the other end of the pipe.
fn pipe(holds: usize) -> (Arc<Link>, DuplexStream) {
    let (near, far) = duplex(holds);
    (Link::new(Box::new(near)), far)
}

#[tokio::test]
async fn a_write_never_waits_and_a_flush_sends_all_in_order() {
    let (link, mut far) = pipe(16);
    let mut end = link.end();
    let content: Vec<u8> = (0..40_000_u32).map(|n| n as u8).collect();
    for part in [&content[..3], &content[3..20_000], &content[20_000..]] {
        end.write_all(part).await.unwrap();
    }
    assert!(link.is_blocked(), "nobody reads");
    assert!(link.blocked_since().is_some());
    let flushing = link.clone();
    let flushed = tokio::spawn(async move { poll_fn(|cx| flushing.poll_flush(cx)).await });
    let mut read = vec![0; content.len()];
    far.read_exact(&mut read).await.unwrap();
    assert_eq!(read, content);
    flushed.await.unwrap().unwrap();
    assert!(!link.is_blocked());
}

#[tokio::test]
async fn small_writes_are_gathered_until_somebody_reads() {
    let (link, mut far) = pipe(1024);
    let mut end = link.end();
    end.write_all(b"head").await.unwrap();
    end.flush().await.unwrap();
    end.write_all(b" body").await.unwrap();
    let mut buffer = [0; 64];
    let waiting = tokio::time::timeout(std::time::Duration::ZERO, far.read(&mut buffer));
    assert!(waiting.await.is_err(), "nothing was sent yet");
    far.write_all(b"answer").await.unwrap();
    let mut answer = [0; 6];
    end.read_exact(&mut answer).await.unwrap();
    let count = far.read(&mut buffer).await.unwrap();
    assert_eq!(&buffer[..count], b"head body", "in one piece");
}

#[tokio::test]
async fn what_the_other_side_said_last_is_read_though_it_takes_no_more() {
    let (link, mut far) = pipe(1024);
    let mut end = link.end();
    far.write_all(b"413").await.unwrap();
    drop(far);
    end.write_all(b"more").await.unwrap();
    let mut said = String::new();
    end.read_to_string(&mut said).await.unwrap();
    assert_eq!(said, "413");
    assert!(poll_fn(|cx| link.poll_flush(cx)).await.is_err());
    assert!(end.write_all(b"more").await.is_err());
}

#[tokio::test]
async fn an_idle_connection_is_quiet_until_it_is_closed_or_dirty() {
    let (link, far) = pipe(1024);
    assert!(link.is_quiet());
    drop(far);
    assert!(!link.is_quiet(), "closed");
    let (link, mut far) = pipe(1024);
    far.write_all(b"x").await.unwrap();
    assert!(!link.is_quiet(), "dirty");
    let (link, _far) = pipe(1024);
    link.end().write_all(b"x").await.unwrap();
    assert!(!link.is_quiet(), "unsent");
}

/// A link over a socket on which a call has begun, as on a connection from the pool, and the other
/// end of the socket.
async fn connected() -> (Arc<Link>, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let link = Link::over(Transport::Tcp(near));
    link.begin_call();
    (link, listener.accept().await.unwrap().0)
}

/// Resets the connection, and waits until the link would see it.
async fn reset(link: &Link, far: TcpStream) {
    far.set_zero_linger().unwrap();
    drop(far);
    while link.is_quiet() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_request_of_which_not_a_byte_was_sent_goes_over_another_stream_whole() {
    let body = "b".repeat(50_000);
    for parts in [&["GET / HTTP/1.1\r\n\r\n", ""][..], &["head", &body], &[&body, "more", &body]] {
        let (link, far) = connected().await;
        reset(&link, far).await;
        let mut end = link.end();
        for part in parts {
            end.write_all(part.as_bytes()).await.unwrap();
        }
        assert!(matches!(link.flush_now(), Poll::Ready(Err(_))));
        assert!(link.has_lost());
        let (other, mut far) = connected().await;
        let Ok(other) = Arc::try_unwrap(other) else { panic!("it has one owner") };
        link.move_to(other.io.into_inner().unwrap().stream);
        assert!(!link.has_lost());
        let flushing = link.clone();
        let flushed = tokio::spawn(async move { poll_fn(|cx| flushing.poll_flush(cx)).await });
        let mut read = vec![0; parts.concat().len()];
        far.read_exact(&mut read).await.unwrap();
        assert_eq!(read, parts.concat().as_bytes());
        flushed.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_request_of_which_a_byte_was_sent_is_not_lost_but_broken() {
    let (link, mut far) = connected().await;
    let mut end = link.end();
    end.write_all(b"G").await.unwrap();
    poll_fn(|cx| link.poll_flush(cx)).await.unwrap();
    far.read_exact(&mut [0]).await.unwrap();
    reset(&link, far).await;
    end.write_all(b"ET / HTTP/1.1\r\n\r\n").await.unwrap();
    assert!(matches!(link.flush_now(), Poll::Ready(Err(_))));
    assert!(!link.has_lost(), "its first byte may have done something");
    assert!(end.write_all(b"more").await.is_err());
    // Bytes of an earlier call do not count for this one.
    let (link, mut far) = connected().await;
    link.end().write_all(b"first").await.unwrap();
    poll_fn(|cx| link.poll_flush(cx)).await.unwrap();
    far.read_exact(&mut [0; 5]).await.unwrap();
    link.begin_call();
    reset(&link, far).await;
    link.end().write_all(b"second").await.unwrap();
    assert!(matches!(link.flush_now(), Poll::Ready(Err(_))));
    assert!(link.has_lost());
}

#[tokio::test]
async fn a_client_s_answer_goes_nowhere_else() {
    let (link, far) = pipe(1024);
    link.begin_call();
    drop(far);
    link.end().write_all(b"answer").await.unwrap();
    assert!(matches!(link.flush_now(), Poll::Ready(Err(_))));
    assert!(!link.has_lost());
}
