//! HTTP/1.1: bytes in, and what must come of them.

use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::http1_cases::cases;
use super::server::Server;
use crate::support::message::{Head, Reader, Stop};
use crate::support::token;

/// How long an answer, or the end of a connection, may take.
const PATIENCE: Duration = Duration::from_secs(8);

/// The outcome that a case must have.
#[derive(Clone, Copy, Debug)]
pub enum Outcome {
    /// The client gets this number of answers of 200, the upstream gets as many whole requests with this body, and
    /// the connection goes on.
    Served(usize, &'static str),
    /// One answer of 200, and the end of the connection.
    ServedLast,
    /// The client gets one answer with one of these statuses, no whole request reaches the
    /// upstream, and the connection ends. If the statuses contain 0, the connection may end without
    /// an answer.
    Refused(&'static [u16]),
    /// Like [`Self::Refused`], but the connection may go on, because the end of the request is
    /// certain.
    RefusedKept(&'static [u16]),
    /// The request may be served or refused, as long as client and upstream agree.
    ServedOrRefused,
}

/// A case.
pub struct Case {
    /// The RFC and its section.
    pub section: &'static str,
    pub name: &'static str,
    /// `{path}` and `{who}` stand for a path of the case's own, and for the lines that name the host
    /// and the caller.
    pub bytes: &'static str,
    pub outcome: Outcome,
    /// Why Farebox is known to do something else.
    pub known: Option<&'static str>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_1_is_read_as_the_rfcs_say() {
    let server = Server::start(false).await;
    let mut wrong = Vec::new();
    for (number, case) in cases().enumerate() {
        let failed = run(&server, number, case).await.err();
        let failed =
            failed.map(|why| format!("{why}; {:?}", server.whole(&format!("/c{number}/"))));
        let told = format!("RFC {} {}", case.section, case.name);
        match (failed, case.known) {
            (None, None) | (Some(_), Some(_)) => {}
            (Some(why), None) => wrong.push(format!("{told}: {why}")),
            (None, Some(_)) => wrong.push(format!("{told}: it is right now, and no longer KNOWN")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    server.assert_sound();
}

/// The bytes of a case.
fn bytes(case: &Case, path: &str) -> Vec<u8> {
    let who = format!("host: shop\r\nauthorization: Bearer {}\r\n", token("alice"));
    let text = case.bytes.replace("{path}", path).replace("{who}", &who);
    let text = text.replace("{auth}", &format!("authorization: Bearer {}\r\n", token("alice")));
    let text = text.replace("{long}", &"y".repeat(70_000));
    text.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect()
}

async fn run(server: &Server, number: usize, case: &Case) -> Result<(), String> {
    let path = format!("/free/c{number}/x");
    let mark = format!("/c{number}/");
    let stream = TcpStream::connect(server.gateway.public()).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (from, mut to) = stream.into_split();
    let mut from = Reader::new(from, PATIENCE);
    // The other end may have hung up in the meantime.
    let _ = to.write_all(&bytes(case, &path)).await;
    let is_head = case.bytes.starts_with("HEAD ");
    let method = if is_head { "HEAD" } else { "GET" };
    let arrived = || server.whole(&mark).len();
    match case.outcome {
        Outcome::Served(count, body) => {
            for _ in 0..count {
                expect(answer(&mut from, method).await?, &[200])?;
            }
            let whole = server.whole(&mark);
            let is_right = whole.len() == count && whole.iter().all(|(_, b)| b == body.as_bytes());
            if !is_right {
                return Err(format!("the upstream was sent {whole:?}"));
            }
            let who = format!("host: shop\r\nauthorization: Bearer {}\r\n", token("alice"));
            let next = format!("GET /free/next HTTP/1.1\r\n{who}\r\n");
            let _ = to.write_all(next.as_bytes()).await;
            expect(
                answer(&mut from, "GET").await.map_err(|why| format!("afterwards: {why}"))?,
                &[200],
            )
        }
        Outcome::ServedLast => {
            expect(answer(&mut from, method).await?, &[200])?;
            ended(&mut from).await
        }
        Outcome::Refused(allowed) => {
            match answer(&mut from, method).await {
                Ok(status) => expect(status, allowed)?,
                Err(_) if allowed.contains(&0) => {}
                Err(why) => return Err(why),
            }
            ended(&mut from).await?;
            if arrived() > 0 { Err("it reached the upstream".into()) } else { Ok(()) }
        }
        Outcome::RefusedKept(allowed) => {
            expect(answer(&mut from, method).await?, allowed)?;
            if arrived() > 0 { Err("it reached the upstream".into()) } else { Ok(()) }
        }
        Outcome::ServedOrRefused => {
            let status = answer(&mut from, method).await?;
            expect(status, &[200, 400])?;
            let is_served = arrived() == 1;
            if is_served == (status == 200) { Ok(()) } else { Err("the ends disagree".into()) }
        }
    }
}

fn expect(status: u16, allowed: &[u16]) -> Result<(), String> {
    if allowed.contains(&status) { Ok(()) } else { Err(format!("{status}, not {allowed:?}")) }
}

/// Reads an answer; its status.
async fn answer<R>(from: &mut Reader<R>, method: &str) -> Result<u16, String>
where
    R: tokio::io::AsyncRead + Unpin,
{
    loop {
        let head: Head = from.head().await.map_err(|stop| format!("no answer: {stop:?}"))?;
        let (_, status) = head.status()?;
        if status < 200 && status != 101 {
            continue;
        }
        let mut body = Vec::new();
        let framing = head.answer_framing(method)?;
        from.body(framing, &mut body).await.map_err(|stop| format!("no whole answer: {stop:?}"))?;
        return Ok(status);
    }
}

/// Expects the end of the connection, and no other answer before it.
async fn ended<R: tokio::io::AsyncRead + Unpin>(from: &mut Reader<R>) -> Result<(), String> {
    match from.more().await {
        Err(Stop::Closed | Stop::Cut) if from.unread().is_empty() => Ok(()),
        Err(Stop::Silent) => Err("the connection stays open".into()),
        _ => Err(format!("more: {:?}", String::from_utf8_lossy(from.unread()))),
    }
}
