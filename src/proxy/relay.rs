//! Passes a request on to its upstream and the answer back, in one task.
//!
//! Both directions run at once, because an answer may begin before its request has ended. Writes
//! never wait (see `link.rs` and `answer_body.rs`), so the relay waits only for reads. It reads
//! nothing for a side that is blocked, so the buffers stay small. A call ends when its request and
//! its answer have ended, or with an error, whose source tells which side failed.

use std::future::{pending, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::StatusCode;
use http::header::TRANSFER_ENCODING;
use pingora_core::protocols::http::v1::client::HttpSession;
use pingora_error::{BError, Error, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};

use super::body::Buffered;
use super::call::{About, Figures, Forwarded};
use super::client::{Client, DRAIN_TIMEOUT, WRITE_TIMEOUT, at_once};
use super::connect::Connection;
use super::cors::Cors;
use super::link::Link;
use super::{headers, reply, settle};
use crate::price::OnClientAbort;

/// The number of parts of an answer that are passed on in a row before the client is read from
/// again.
const STREAK: u32 = 16;

/// The longest time that each side may send nothing.
#[derive(Clone, Copy, Debug)]
pub(super) struct Silences {
    pub upstream: Duration,
    /// Within the body of a request.
    pub client: Duration,
}

/// Relays one call.
pub(super) struct Relay<'a> {
    pub client: &'a mut Client,
    pub call: &'a mut Forwarded,
    pub about: &'a About,
    pub figures: &'a mut Figures,
    pub cors: &'a Cors,
    pub silences: Silences,
}

/// The progress of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Request {
    /// The rest of the body is read and passed on.
    Open,
    /// The upstream takes no more of the request; the rest of the body is read and dropped.
    Discarded,
    /// All of the request was read.
    Ended,
}

/// The progress of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// The head has not arrived yet.
    Head,
    /// The body is arriving. The number of bytes still to come, if the length is known.
    Body(Option<u64>),
    /// The protocol was switched: bytes pass in both directions until one side ends.
    Tunnel,
    Ended,
}

/// The state of both directions.
pub(super) struct State {
    request: Request,
    answer: Answer,
    /// The error that stopped sending the request. The upstream may still answer.
    send_error: Option<BError>,
    /// The last time that bytes came from the upstream or were sent to it.
    upstream_moved: Instant,
    /// The last time that bytes came from the client, or that reading from it could go on.
    client_moved: Instant,
    /// The number of parts of the answer that were passed on in a row.
    streak: u32,
}

/// An event that the relay waits for.
enum Event<'a> {
    /// The upstream's next head was read.
    Head(Result<()>),
    /// A part of the answer's body.
    Part(Result<Option<&'a [u8]>>),
    /// A part of the request's body, or the error that ended it.
    Request(Result<Option<Bytes>>),
    /// The client took the bytes that had been waiting, or sending them failed.
    ClientFlushed(Result<()>),
    /// The upstream took the bytes that had been waiting, or sending them failed.
    UpstreamFlushed(std::io::Result<()>),
    /// The time to check the deadlines has come.
    Time,
}

impl Relay<'_> {
    /// Hands over the head and what was read of the body. Nothing waits to be sent.
    ///
    /// # Errors
    /// Where the head cannot be written.
    pub fn send(
        &mut self,
        connection: &mut Connection,
        head: Box<RequestHeader>,
        body: &mut Buffered,
    ) -> Result<State> {
        let session = &mut connection.session;
        let (now, body) = (Instant::now(), std::mem::take(body));
        let mut state = State {
            request: Request::Open,
            answer: Answer::Head,
            send_error: None,
            upstream_moved: now,
            client_moved: now,
            streak: 0,
        };
        // A head that cannot be written never left.
        at_once(session.write_request_header(head)).map_err(|error| match error.etype() {
            ErrorType::InvalidHTTPHeader => error.into_down(),
            _ => error.into_up(),
        })?;
        self.call.sent.begin();
        if !body.bytes.is_empty() {
            self.pass_on(session, &mut state, &body.bytes);
        }
        if body.is_whole || self.client.is_body_done() {
            self.end_request(session, &mut state);
        }
        Ok(state)
    }

    /// Passes on the rest of the call. Returns once the answer has been handed over whole.
    ///
    /// # Errors
    /// The error's source is the side that failed.
    pub async fn run(&mut self, connection: &mut Connection, mut state: State) -> Result<()> {
        let Connection { session, link, .. } = connection;
        let ran = self.pass(session, link, &mut state).await;
        if let Err(error) = ran {
            // The delivered part of the request goes on to the upstream.
            let _ = link.flush_now();
            return Err(error);
        }
        Ok(())
    }

    async fn pass(
        &mut self,
        session: &mut HttpSession,
        link: &Link,
        state: &mut State,
    ) -> Result<()> {
        let mut sleep = pin!(tokio::time::sleep_until(self.next_look(link, state).into()));
        loop {
            let is_tunnel = state.answer == Answer::Tunnel;
            if state.answer == Answer::Ended && state.request == Request::Ended {
                return Ok(());
            }
            match self.next_event(session, link, state, sleep.as_mut()).await {
                Event::Head(read) => {
                    state.upstream_moved = Instant::now();
                    read.map_err(|error| upstream_failed(state, error))?;
                    self.on_head(session, state)?;
                }
                Event::Part(Ok(Some(part))) => {
                    state.upstream_moved = Instant::now();
                    state.streak = if state.streak < STREAK { state.streak + 1 } else { 0 };
                    self.on_part(part, state)?;
                }
                Event::Part(Ok(None)) if is_tunnel => return self.end_tunnel(session, link).await,
                Event::Part(Ok(None)) => self.end_answer(state)?,
                Event::Part(Err(error)) => return Err(upstream_failed(state, error)),
                Event::Request(Ok(Some(part))) => {
                    state.streak = 0;
                    state.client_moved = Instant::now();
                    state.upstream_moved = state.client_moved;
                    self.on_request(session, state, &part);
                }
                Event::Request(Ok(None)) if is_tunnel => {
                    return self.end_tunnel(session, link).await;
                }
                Event::Request(Ok(None)) => self.end_request(session, state),
                Event::Request(Err(error)) => return Err(error),
                Event::ClientFlushed(flushed) => {
                    flushed?;
                    state.upstream_moved = Instant::now();
                }
                Event::UpstreamFlushed(Ok(())) => {
                    state.client_moved = Instant::now();
                    state.upstream_moved = state.client_moved;
                }
                Event::UpstreamFlushed(Err(error)) => {
                    let error = Error::because(ErrorType::WriteError, "sending the request", error);
                    request_broke(state, error);
                }
                Event::Time => {
                    if self.is_over(link, state)? {
                        self.client.close_afterwards();
                        return Ok(());
                    }
                    sleep.as_mut().reset(self.next_look(link, state).into());
                }
            }
        }
    }

    /// Waits until something happens.
    async fn next_event<'s>(
        &mut self,
        session: &'s mut HttpSession,
        link: &Link,
        state: &State,
        mut sleep: std::pin::Pin<&mut tokio::time::Sleep>,
    ) -> Event<'s> {
        let (incoming, mut outgoing) = self.client.halves();
        let (client_blocked, upstream_blocked) = (outgoing.is_blocked(), link.is_blocked());
        let answer = state.answer;
        let mut from_upstream = pin!(async move {
            match answer {
                Answer::Head => Event::Head(session.read_response().await.map(drop)),
                Answer::Body(_) | Answer::Tunnel => Event::Part(session.read_body_ref().await),
                Answer::Ended => pending().await,
            }
        });
        let is_done = state.request == Request::Ended;
        let reads = !upstream_blocked || state.request == Request::Discarded;
        let mut from_client = pin!(incoming.next(is_done, reads));
        let client_first = state.streak >= STREAK;
        poll_fn(move |cx| {
            if client_first && let Poll::Ready(part) = from_client.as_mut().poll(cx) {
                return Poll::Ready(Event::Request(part));
            }
            if !client_blocked && let Poll::Ready(event) = from_upstream.as_mut().poll(cx) {
                return Poll::Ready(event);
            }
            // Nothing more of the answer is there to be sent with it, and a client that never stops
            // sending must not keep it back.
            match outgoing.poll_flush(cx) {
                Poll::Ready(Err(error)) => return Poll::Ready(Event::ClientFlushed(Err(error))),
                Poll::Ready(Ok(())) if client_blocked => {
                    return Poll::Ready(Event::ClientFlushed(Ok(())));
                }
                _ => {}
            }
            if !client_first && let Poll::Ready(part) = from_client.as_mut().poll(cx) {
                return Poll::Ready(Event::Request(part));
            }
            match link.poll_flush(cx) {
                Poll::Ready(Err(error)) if state.send_error.is_none() => {
                    return Poll::Ready(Event::UpstreamFlushed(Err(error)));
                }
                Poll::Ready(Ok(())) if upstream_blocked => {
                    return Poll::Ready(Event::UpstreamFlushed(Ok(())));
                }
                _ => {}
            }
            sleep.as_mut().poll(cx).map(|()| Event::Time)
        })
        .await
    }

    /// Handles a part of the request's body.
    fn on_request(&mut self, session: &mut HttpSession, state: &mut State, part: &[u8]) {
        if state.answer == Answer::Tunnel {
            session.maybe_upgrade_body_writer();
        }
        if state.request == Request::Open {
            self.pass_on(session, state, part);
        }
        if state.answer != Answer::Tunnel && self.client.is_body_done() {
            self.end_request(session, state);
        }
    }

    /// Passes a part of the request's body on to the upstream.
    fn pass_on(&mut self, session: &mut HttpSession, state: &mut State, part: &[u8]) {
        // In chunked coding, an empty chunk ends the body.
        if part.is_empty() {
            return;
        }
        self.call.sent.add(part.len(), false);
        if let Err(error) = at_once(session.write_body(part)) {
            request_broke(state, error);
        }
    }

    /// Handles the end of the request's body.
    fn end_request(&mut self, session: &mut HttpSession, state: &mut State) {
        if state.request == Request::Open {
            match at_once(session.finish_body()) {
                Ok(_) => self.call.sent.add(0, true),
                Err(error) => request_broke(state, error),
            }
        }
        state.request = Request::Ended;
    }

    /// Handles the upstream's next head.
    fn on_head(&mut self, session: &mut HttpSession, state: &mut State) -> Result<()> {
        let Some(theirs) = session.resp_header() else {
            return Error::e_explain(ErrorType::InternalError, "a head is missing");
        };
        let mut head = theirs.clone();
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            // A 101 is valid only if the client asked for the upgrade and the forwarded request did
            // too.
            if !session.was_upgraded() || !self.client.asks_for_upgrade() {
                let unasked = "101 for a request without upgrade";
                return Err(Error::explain(ErrorType::InvalidHTTPHeader, unasked).into_up());
            }
        } else if head.status.is_informational() {
            headers::drop_ours(&mut head);
            head.set_version(http::Version::HTTP_11);
            return self.client.write_interim(head);
        }
        let frees_aborts = self.call.route.rule.on_client_abort == OnClientAbort::Release;
        if frees_aborts && self.client.has_left() {
            let left = Error::explain(ErrorType::ConnectionClosed, "the client has left");
            return Err(left.into_down());
        }
        let status = head.status.as_u16();
        self.call.status = Some(status);
        self.figures.status = Some(status);
        let is_whole = session.is_body_done();
        self.write_head(head, is_whole)?;
        if status == StatusCode::SWITCHING_PROTOCOLS.as_u16() {
            state.answer = Answer::Tunnel;
            state.request = Request::Open;
            // A tunnel is charged when it opens, so that a later stop or crash does not give it
            // back.
            settle::settle(self.call, self.about, None, false);
        } else if is_whole {
            state.answer = Answer::Ended;
            settle::answer_ended(self.call, self.about, self.figures);
        } else {
            state.answer = Answer::Body(missing(session));
        }
        Ok(())
    }

    /// Adapts the upstream's final head for the client, and writes it.
    fn write_head(&mut self, mut head: ResponseHeader, is_whole: bool) -> Result<()> {
        let call = &self.call;
        headers::towards_client(&mut head, self.about, &call.route, call.hold.as_ref())?;
        if !is_whole {
            headers::frame_answer(&mut head)?;
        }
        reply::frame_for_client(self.client, &mut head);
        self.cors.mark(&mut head, self.about.origin.as_ref())?;
        self.client.write_head(head, is_whole)
    }

    /// Handles a part of the answer.
    fn on_part(&mut self, part: &[u8], state: &mut State) -> Result<()> {
        if let Answer::Body(Some(missing)) = &mut state.answer {
            *missing = missing.saturating_sub(part.len() as u64);
        }
        let is_last = state.answer == Answer::Body(Some(0));
        if is_last {
            // The call is settled before the client can have all of the answer.
            state.answer = Answer::Ended;
            settle::answer_ended(self.call, self.about, self.figures);
        }
        self.client.write_body(part, is_last)
    }

    /// Handles the end of an answer whose length was not known before.
    fn end_answer(&mut self, state: &mut State) -> Result<()> {
        state.answer = Answer::Ended;
        settle::answer_ended(self.call, self.about, self.figures);
        self.client.write_body(&[], true)
    }

    /// Ends a tunnel of which one side has closed its direction: sends the bytes that are still
    /// buffered, then closes both connections.
    async fn end_tunnel(&mut self, session: &mut HttpSession, link: &Link) -> Result<()> {
        self.client.close_afterwards();
        session.maybe_upgrade_body_writer();
        let sent = poll_fn(|cx| link.poll_flush(cx));
        let _ = tokio::time::timeout(DRAIN_TIMEOUT, sent).await;
        self.client.write_body(&[], true)
    }

    /// Whether the client's silence counts: more of its request is awaited.
    fn awaits_client(&self, link: &Link, state: &State) -> bool {
        let is_open = state.request == Request::Open && state.answer != Answer::Tunnel;
        is_open && !link.is_blocked()
    }

    /// Whether the upstream's silence counts: its answer has not ended, and both sides take the
    /// bytes that are sent to them.
    fn awaits_upstream(&mut self, link: &Link, state: &State) -> bool {
        state.answer != Answer::Ended && !self.client.is_blocked() && !link.is_blocked()
    }

    /// Checks the deadlines. True if the call is over.
    ///
    /// # Errors
    /// One side has sent nothing, or has taken nothing, for too long.
    fn is_over(&mut self, link: &Link, state: &mut State) -> Result<bool> {
        let Silences { upstream, client } = self.silences;
        let is_due = |since: Instant, limit: Duration| since.elapsed() >= limit;
        let blocked = self.client.halves().1.blocked_since();
        if blocked.is_some_and(|since| is_due(since, WRITE_TIMEOUT)) {
            return Err(Error::new(ErrorType::WriteTimedout).into_down());
        }
        if link.blocked_since().is_some_and(|since| is_due(since, upstream)) {
            return Err(Error::new(ErrorType::WriteTimedout).into_up());
        }
        if self.awaits_upstream(link, state) && is_due(state.upstream_moved, upstream) {
            let silent = Error::explain(ErrorType::ReadTimedout, "the upstream was silent");
            return Err(upstream_failed(state, silent));
        }
        if self.awaits_client(link, state) && is_due(state.client_moved, client) {
            let silent = Error::explain(ErrorType::ReadTimedout, "the request stopped arriving");
            return Err(silent.into_down());
        }
        let drains = state.answer == Answer::Ended && state.request == Request::Discarded;
        Ok(drains && self.figures.ended.is_some_and(|since| is_due(since, DRAIN_TIMEOUT)))
    }

    /// The time at which the deadlines are checked next. It is never later than the shortest limit
    /// from now, because a deadline that begins in the meantime cannot end before that.
    fn next_look(&mut self, link: &Link, state: &State) -> Instant {
        let Silences { upstream, client } = self.silences;
        let mut next = Instant::now() + upstream.min(client).min(DRAIN_TIMEOUT);
        let mut consider = |since: Option<Instant>, limit: Duration| {
            if let Some(deadline) = since.and_then(|since| since.checked_add(limit)) {
                next = next.min(deadline);
            }
        };
        consider(self.client.halves().1.blocked_since(), WRITE_TIMEOUT);
        consider(link.blocked_since(), upstream);
        if self.awaits_upstream(link, state) {
            consider(Some(state.upstream_moved), upstream);
        }
        if self.awaits_client(link, state) {
            consider(Some(state.client_moved), client);
        }
        next
    }
}

/// Records that the upstream takes no more of the request. It may have answered all the same.
fn request_broke(state: &mut State, error: BError) {
    state.send_error.get_or_insert_with(|| error.into_up());
    if state.request == Request::Open {
        state.request = Request::Discarded;
    }
}

/// The error for a failed read of the answer. If sending the request failed before, that error is
/// returned, because it is the cause.
fn upstream_failed(state: &mut State, error: BError) -> BError {
    state.send_error.take().unwrap_or_else(|| error.into_up())
}

/// How many bytes of the answer's body are still to come, if its head tells.
fn missing(session: &HttpSession) -> Option<u64> {
    let headers = &session.resp_header()?.headers;
    if headers.contains_key(TRANSFER_ENCODING) {
        return None;
    }
    // Pingora has checked that the value is a number, or a list that repeats one number.
    let length = headers.get(http::header::CONTENT_LENGTH)?.to_str().ok()?;
    length.split(',').next()?.trim().parse().ok()
}
