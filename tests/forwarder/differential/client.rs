//! The client of an exchange over HTTP/1.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use super::exchange::{End, Exchange, Plan, Then, framed, latin1};
use super::upstream::Upstream;
use crate::support::message::{Framing, Head, Reader, Stop, write};
use crate::support::random::Random;
use crate::support::token;

/// How long the client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long the client waits to see that nothing of a request arrives at the upstream.
const NOTHING: Duration = Duration::from_millis(60);

/// The answers that a client received to one request.
#[derive(Clone, Debug, Default)]
pub struct Got {
    pub interim: Vec<u16>,
    pub answer: Option<Answered>,
    /// The reason why there is no answer.
    pub stop: Option<Stop>,
}

impl Got {
    /// Whether nothing more is to come: the connection has ended, or the answer says that it will.
    fn is_last(&self) -> bool {
        let closes = |head: &Head| head.all("connection").contains(&"close");
        self.answer.as_ref().is_none_or(|answer| answer.end.is_err() || closes(&answer.head))
    }
}

/// An answer, as far as it came.
#[derive(Clone, Debug)]
pub struct Answered {
    pub head: Head,
    pub status: u16,
    pub framing: Framing,
    pub body: Vec<u8>,
    pub end: Result<(), Stop>,
}

/// One side of a comparison.
pub struct Side<'a> {
    pub address: SocketAddr,
    /// The folder under which the lane's routes are.
    pub prefix: &'a str,
    pub upstream: &'a Upstream,
    /// Bytes go out in pieces, and requests may go out together.
    pub wild: Option<Random>,
}

/// The head of a request.
fn head(prefix: &str, plan: &Plan) -> Vec<u8> {
    let request = &plan.request;
    let (method, target, version) = (request.method, request.target, request.version);
    let mut text = format!("{method} {prefix}{target} {version}\r\nHost: shop\r\n");
    text += &format!("authorization: Bearer {}\r\nx-nonce: {}\r\n", token("alice"), plan.nonce);
    for (name, value) in &request.fields {
        text += &format!("{name}: {value}\r\n");
    }
    match request.framing {
        Framing::Length(length) => text += &format!("Content-Length: {length}\r\n"),
        Framing::Chunked => text += "Transfer-Encoding: chunked\r\n",
        _ => {}
    }
    latin1(&(text + "\r\n"))
}

fn body(plan: &Plan) -> Vec<u8> {
    let request = &plan.request;
    let extensions = ["", ";a", ""];
    let (framing, pieces) = (request.framing, &request.pieces);
    let mut bytes = framed(framing, &request.body, pieces, request.has_trailers, &extensions);
    if let End::LeavesInRequest(sent) = request.end {
        bytes.truncate(sent);
    }
    bytes
}

/// Runs an exchange, and returns what the client received of each of its calls.
pub async fn run(exchange: &Exchange, side: &mut Side<'_>) -> Vec<Got> {
    let stream = TcpStream::connect(side.address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (from, to) = stream.into_split();
    let mut wire = Wire { from: Reader::new(from, PATIENCE), to };
    let mut all = if exchange.pipelined && side.wild.is_some() {
        wire.together(exchange, side).await
    } else {
        wire.one_by_one(exchange, side).await
    };
    drop(wire);
    all.resize_with(exchange.calls.len(), Got::default);
    for (plan, got) in exchange.calls.iter().zip(&all) {
        let has_left = plan.request.end != End::Reads;
        let was_sent = got.answer.is_some() || has_left;
        if was_sent {
            side.upstream.done(&plan.nonce, NOTHING).await;
        }
    }
    all
}

struct Wire {
    from: Reader<OwnedReadHalf>,
    to: OwnedWriteHalf,
}

impl Wire {
    /// Sends each request after the answer to the one before.
    async fn one_by_one(&mut self, exchange: &Exchange, side: &mut Side<'_>) -> Vec<Got> {
        let mut all = Vec::new();
        for plan in &exchange.calls {
            let got = self.call(plan, side).await;
            let is_over = plan.request.end != End::Reads || got.is_last();
            // A client that was not told to send a body cannot go on behind it.
            let kept_back = expects(plan) && !got.interim.contains(&100);
            all.push(got);
            if is_over || kept_back {
                break;
            }
            if plan.answer.then == Then::ClosesUnasked || plan.answer.is_early {
                side.upstream.done(&plan.nonce, NOTHING).await;
            }
        }
        all
    }

    async fn call(&mut self, plan: &Plan, side: &mut Side<'_>) -> Got {
        let mut got = Got::default();
        if expects(plan) {
            if !write(&mut self.to, &head(side.prefix, plan), &mut side.wild).await {
                return Got { stop: Some(Stop::Closed), ..got };
            }
            loop {
                match self.from.head().await {
                    Ok(head) if matches!(head.status(), Ok((_, 100..=199))) => {
                        let status = head.status().unwrap().1;
                        got.interim.push(status);
                        if status == 100 {
                            break;
                        }
                    }
                    Ok(head) => {
                        self.final_answer(plan, head, &mut got).await;
                        return got;
                    }
                    Err(stop) => return Got { stop: Some(stop), ..got },
                }
            }
        }
        let mut bytes = if expects(plan) { Vec::new() } else { head(side.prefix, plan) };
        bytes.extend(body(plan));
        let Self { from, to } = self;
        let mut wire = Reading { from };
        let send = async {
            let sent = write(to, &bytes, &mut side.wild).await;
            if plan.answer.is_tunnel {
                let _ = to.write_all(plan.nonce.as_bytes()).await;
            }
            sent
        };
        if let End::LeavesInRequest(_) = plan.request.end {
            send.await;
            // The client leaves only after the gateway has read all of it.
            tokio::time::sleep(Duration::from_millis(20)).await;
            return got;
        }
        // After an answer that ends the connection, the rest of the request cannot be sent.
        tokio::select! {
            () = wire.answer(plan, &mut got) => {}
            () = async { if send.await { std::future::pending().await } else { tokio::time::sleep(PATIENCE).await } } => {}
        }
        got
    }

    async fn final_answer(&mut self, plan: &Plan, head: Head, got: &mut Got) {
        Reading { from: &mut self.from }.body(plan, head, got).await;
    }

    /// Sends all requests at once.
    async fn together(&mut self, exchange: &Exchange, side: &mut Side<'_>) -> Vec<Got> {
        let mut bytes = Vec::new();
        for plan in &exchange.calls {
            bytes.extend(head(side.prefix, plan));
            bytes.extend(body(plan));
        }
        let Self { from, to } = self;
        let leaves =
            exchange.calls.iter().any(|plan| matches!(plan.request.end, End::LeavesInRequest(_)));
        let send = async {
            write(to, &bytes, &mut side.wild).await;
            if leaves {
                tokio::time::sleep(Duration::from_millis(20)).await;
            } else {
                std::future::pending().await
            }
        };
        let mut all = Vec::new();
        let receive = async {
            for plan in &exchange.calls {
                if matches!(plan.request.end, End::LeavesInRequest(_)) {
                    break;
                }
                let mut got = Got::default();
                Reading { from: &mut *from }.answer(plan, &mut got).await;
                let is_over = plan.request.end != End::Reads || got.is_last();
                all.push(got);
                if is_over {
                    break;
                }
            }
        };
        if leaves {
            tokio::join!(send, receive);
        } else {
            tokio::select! { () = receive => {} () = send => {} }
        }
        all
    }
}

/// Whether the client waits for a 100 before it sends the body.
pub fn expects(plan: &Plan) -> bool {
    plan.says("expect")
        && plan.request.version == "HTTP/1.1"
        && plan.request.framing != Framing::None
}

struct Reading<'a> {
    from: &'a mut Reader<OwnedReadHalf>,
}

impl Reading<'_> {
    async fn answer(&mut self, plan: &Plan, got: &mut Got) {
        loop {
            match self.from.head().await {
                Ok(head) => match head.status() {
                    Ok((_, status @ (100 | 102..=199))) => got.interim.push(status),
                    Ok(_) => return self.body(plan, head, got).await,
                    Err(why) => {
                        got.stop = Some(Stop::Malformed(why));
                        return;
                    }
                },
                Err(stop) => {
                    got.stop = Some(stop);
                    return;
                }
            }
        }
    }

    async fn body(&mut self, plan: &Plan, head: Head, got: &mut Got) {
        let framing = head.answer_framing(plan.request.method);
        let (status, framing) = match (head.status(), framing) {
            (Ok((_, 101)), _) => (101, Framing::UntilClose),
            (Ok((_, status)), Ok(framing)) => (status, framing),
            (Err(why), _) | (_, Err(why)) => {
                got.stop = Some(Stop::Malformed(why));
                return;
            }
        };
        let mut body = Vec::new();
        let end = if let End::LeavesInAnswer(bytes) = plan.request.end {
            // How much more has arrived by then is a matter of time.
            let bytes = bytes.min(plan.body_of_answer());
            while self.from.unread().len() < bytes && self.from.more().await.is_ok() {}
            Ok(())
        } else {
            self.from.body(framing, &mut body).await
        };
        got.answer = Some(Answered { head, status, framing, body, end });
    }
}
