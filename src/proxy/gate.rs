//! The phases of a call: identify → price → hold → forward → meter → settle.

use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use axum::Router;
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderValue, Method, StatusCode, Version};
use pingora_core::modules::http::HttpModules;
use pingora_core::protocols::Digest;
use pingora_core::upstreams::peer::{HttpPeer, Peer as _};
use pingora_error::{Error, ErrorSource, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, ProxyHttp, Session};

use super::call::{Call, CallsInFlight};
use super::cors::Cors;
use super::live::Live;
use super::target::{self, Target};
use super::{body, failure, headers, listener, own, reply, settle};
use crate::api::STRIPE_WEBHOOK_PATH;
use crate::app::{App, refuse_quote};
use crate::price::OnClientAbort;
use crate::problem::{Language, Problem, Text};

/// What a gate needs besides the app.
#[derive(Clone, Debug)]
pub struct GateOptions {
    /// Where Farebox's own routes are.
    pub prefix: String,
    /// Which browsers may call.
    pub cors: Cors,
    /// The largest request head.
    pub max_header_bytes: usize,
    /// How long the body of a call to an own route may take.
    pub own_body_timeout: Duration,
    /// The longest silence in the body of a priced call.
    pub body_timeout: Duration,
}

/// The gate that every call passes. Pingora calls its methods, one phase each.
pub struct Gate {
    pub(super) app: Arc<App>,
    live: Arc<ArcSwap<Live>>,
    own: Router,
    pub(super) options: GateOptions,
    in_flight: CallsInFlight,
}

impl Gate {
    /// A gate before `live`'s upstreams, with `own` routes beside them.
    pub fn new(
        app: Arc<App>,
        live: Arc<ArcSwap<Live>>,
        own: Router,
        options: GateOptions,
        in_flight: CallsInFlight,
    ) -> Self {
        Self { app, live, own, options, in_flight }
    }

    fn is_own(&self, path: &str) -> bool {
        let under = |parent: &str| {
            path.strip_prefix(parent).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        under(&self.options.prefix) || path == STRIPE_WEBHOOK_PATH
    }

    /// Identify, price and hold. What it refuses never reaches an upstream.
    async fn admit(
        &self,
        session: &Session,
        call: &mut Call,
        target: Target,
    ) -> Result<(), Problem> {
        let head = session.req_header();
        let identity = self.app.identify(&head.headers, call.client).await?;
        call.account = Some(identity.account.clone());

        let live = self.live.load_full();
        let quote =
            live.catalogue.prices.quote(&head.method, &target.path).map_err(refuse_quote)?;
        if session.is_upgrade_req() && is_websocket(session) && !quote.route.websocket {
            return Err(Problem::bad_request(Text::new(
                "This route does not take WebSocket connections.",
                "Cette route n'accepte pas les connexions WebSocket.",
            )));
        }
        call.route = Some(quote.route.index);
        call.live = Some(live);
        call.path = Some(target.path);
        call.query = target.query;

        let Some(route) = call.route().filter(|_| !quote.credits.is_zero()) else { return Ok(()) };
        let label = route.label.clone();
        // A call is admitted once.
        let id = call.unheld.take().ok_or_else(Problem::ledger_unavailable)?;
        let held = self.app.ledger.hold(id, identity.account, quote.credits, label).await;
        call.hold = Some(held.map_err(|refusal| self.app.refuse_call(refusal, quote.credits))?);
        Ok(())
    }

    async fn refuse(
        &self,
        session: &mut Session,
        call: &mut Call,
        problem: Problem,
    ) -> Result<bool> {
        call.refused = Some(problem.status.as_u16());
        // The rest of its body is read, so that the client is not cut off before it has heard
        // why, and may go on. One that waits to be told to send it may never do so.
        let waits = session.req_header().headers.contains_key(http::header::EXPECT);
        session.set_close_on_response_before_downstream_finish(waits);
        reply::problem(session, call, &self.options.cors, &problem).await?;
        Ok(true)
    }
}

fn is_websocket(session: &Session) -> bool {
    headers::text(&session.req_header().headers, &http::header::UPGRADE)
        .is_some_and(|upgrade| upgrade.eq_ignore_ascii_case("websocket"))
}

/// Whether the client's connection is closed from its side. Pingora does not read a connection on
/// whose request it has filled its queue, or behind whose request more was sent, and so may not
/// have noticed.
fn has_left(session: &Session) -> bool {
    /// `TCP_ESTABLISHED` of Linux: neither side has said that it will send no more.
    const ESTABLISHED: u8 = 1;
    let socket = session.digest().and_then(|digest| digest.socket_digest.as_ref());
    let info = socket.and_then(|socket| socket.tcp_info());
    info.is_some_and(|info| info.tcpi_state != ESTABLISHED)
}

/// Whether an answer's head is all of it (RFC 9112, 6.3).
fn has_no_body(method: &Method, head: &ResponseHeader) -> bool {
    // Pingora has checked that it is a number, or several times the same.
    let is_zero = |length: &HeaderValue| length.as_bytes().iter().all(|b| b"0, \t".contains(b));
    method == Method::HEAD
        || matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
        || !head.headers.contains_key(TRANSFER_ENCODING)
            && head.headers.get(CONTENT_LENGTH).is_some_and(is_zero)
}

/// True for a status that ends a call; 101 is one.
fn is_final(status: StatusCode) -> bool {
    !status.is_informational() || status == StatusCode::SWITCHING_PROTOCOLS
}

#[async_trait]
impl ProxyHttp for Gate {
    type CTX = Call;

    fn new_ctx(&self) -> Call {
        Call::begin(&self.in_flight, &self.app.metrics.requests)
    }

    /// None of Pingora's modules is used.
    fn init_downstream_modules(&self, _: &mut HttpModules) {}

    async fn early_request_filter(&self, session: &mut Session, call: &mut Call) -> Result<()> {
        listener::head_arrived();
        // A client that pipelines its next request has not gone away.
        session.set_pipelining_enabled(true);
        // HTTP/1.0 has no interim answers (RFC 9110, 15.2).
        let is_http_1_0 = session.req_header().version == Version::HTTP_10;
        session.set_ignore_info_resp(is_http_1_0);
        session.set_write_timeout(Some(listener::WRITE_TIMEOUT));
        session.set_total_drain_timeout(Some(listener::DRAIN_TIMEOUT));
        let client = session.client_addr().and_then(|addr| addr.as_inet());
        // A listener on `[::]` sees IPv4 clients as `::ffff:192.0.2.1`.
        call.client = client.map(|addr| addr.ip().to_canonical());
        let headers = &session.req_header().headers;
        call.language = Language::of(headers);
        call.origin = self.options.cors.allowed(headers);
        Ok(())
    }

    /// Its future is made for every call, so the branches that most calls do not take are boxed.
    async fn request_filter(&self, session: &mut Session, call: &mut Call) -> Result<bool> {
        target::drop_unnamed_upgrade(session);
        let target = match target::read(session, self.options.max_header_bytes) {
            Ok(target) => target,
            Err(problem) => {
                // Where the request ends is not certain: nothing more is read from here.
                session.set_keepalive(None);
                return Box::pin(self.refuse(session, call, problem)).await;
            }
        };
        let head = session.req_header();
        if self.options.cors.is_preflight(&head.method, &head.headers) {
            let head = self.options.cors.preflight(&head.headers)?;
            reply::send(session, call, &self.options.cors, head, Bytes::new()).await?;
            return Ok(true);
        }
        if self.is_own(target.path.as_str()) {
            let (cors, time) = (&self.options.cors, self.options.own_body_timeout);
            let answered = own::answer(session, call, &self.own, cors, &target, time);
            let status = Box::pin(answered).await?;
            call.refused = Some(status);
            return Ok(true);
        }
        if let Err(problem) = self.admit(session, call, target).await {
            return Box::pin(self.refuse(session, call, problem)).await;
        }
        if body::read_small(session, call, self.options.body_timeout).await? {
            return Ok(false);
        }
        // Nothing was forwarded, so the hold is released. The rest of the body may still come, so
        // no other request is read from here.
        settle::settle(call, None);
        session.set_keepalive(None);
        Box::pin(self.refuse(session, call, Problem::request_timeout())).await
    }

    async fn upstream_peer(&self, session: &mut Session, call: &mut Call) -> Result<Box<HttpPeer>> {
        let mut attempts = std::mem::take(&mut call.attempts);
        call.progress.forwarded.get_or_insert_with(Instant::now);
        let websocket = session.is_upgrade_req();
        let peer = call.route().and_then(|route| {
            let (timeout, takes_websocket) = (route.rule.read_timeout, route.rule.websocket);
            route.upstream.peer(&mut attempts, timeout, websocket && takes_websocket)
        });
        call.attempts = attempts;
        peer.ok_or_else(|| {
            let error =
                Error::explain(ErrorType::ConnectError, "no address of the upstream is known");
            error.into_up()
        })
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        head: &mut RequestHeader,
        call: &mut Call,
    ) -> Result<()> {
        if let Some(path) = &call.path {
            let target = [path.as_str(), &call.query].concat();
            if head.raw_path() != target.as_bytes() || head.uri.authority().is_some() {
                head.set_raw_path(target.as_bytes())?;
            }
        }
        if let Some(route) = call.route() {
            headers::towards_upstream(session, head, call, &route.upstream)?;
        }
        call.progress.sent.begin();
        Ok(())
    }

    async fn request_body_filter(
        &self,
        _: &mut Session,
        body: &mut Option<Bytes>,
        end: bool,
        call: &mut Call,
    ) -> Result<()> {
        // HTTP/2 may end a body with an empty frame. Pingora would write it as a chunk of length
        // 0, which is an end, and then write the end. Without `end`, `None` would be one as well.
        if end && body.as_ref().is_some_and(Bytes::is_empty) {
            *body = None;
        }
        call.progress.sent.add(body.as_ref().map_or(0, Bytes::len), end);
        Ok(())
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        head: &mut ResponseHeader,
        call: &mut Call,
    ) -> Result<()> {
        if head.status == StatusCode::SWITCHING_PROTOCOLS && !session.is_upgrade_req() {
            let error =
                Error::explain(ErrorType::InvalidHTTPHeader, "101 for a request without upgrade");
            return Err(error.into_up());
        }
        if !is_final(head.status) {
            headers::drop_ours(head);
            return Ok(());
        }
        let frees_aborts =
            call.route().is_some_and(|route| route.rule.on_client_abort == OnClientAbort::Release);
        if frees_aborts && has_left(session) {
            return Err(
                Error::explain(ErrorType::ConnectionClosed, "the client has left").into_down()
            );
        }
        call.progress.status = Some(head.status.as_u16());
        headers::towards_client(head, call)?;
        let has_no_body = has_no_body(&session.req_header().method, head);
        reply::frame_for_client(session, head);
        self.options.cors.mark(head, call.origin.as_ref())?;
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            // A tunnel is paid for when it opens: no stop or crash that cuts it gives it back.
            settle::settle(call, None);
            // A tunnel may be silent for longer than a body.
            session.set_read_timeout(None);
        } else if has_no_body {
            settle::answer_ended(call);
        }
        Ok(())
    }

    fn response_body_filter(
        &self,
        _: &mut Session,
        _: &mut Option<Bytes>,
        end: bool,
        call: &mut Call,
    ) -> Result<Option<Duration>> {
        if end {
            settle::answer_ended(call);
        }
        Ok(None)
    }

    /// Only connecting is tried again, at the next address: nothing was sent.
    fn fail_to_connect(
        &self,
        _: &mut Session,
        peer: &HttpPeer,
        call: &mut Call,
        mut error: Box<Error>,
    ) -> Box<Error> {
        let mut attempts = std::mem::take(&mut call.attempts);
        let upstream = call.route().map(|route| &route.upstream);
        let again = upstream
            .zip(peer.address().as_inet())
            .is_some_and(|(upstream, address)| upstream.failed(&mut attempts, *address));
        call.attempts = attempts;
        error.set_retry(again);
        error
    }

    async fn connected_to_upstream(
        &self,
        _: &mut Session,
        reused: bool,
        peer: &HttpPeer,
        _: RawFd,
        _: Option<&Digest>,
        call: &mut Call,
    ) -> Result<()> {
        // A connection that was kept says nothing about the next one.
        if !reused
            && let Some(route) = call.route()
            && let Some(address) = peer.address().as_inet()
        {
            route.upstream.connected(*address);
        }
        Ok(())
    }

    /// A request that may have reached an upstream is never sent again.
    fn error_while_proxy(
        &self,
        peer: &HttpPeer,
        _: &mut Session,
        error: Box<Error>,
        _: &mut Call,
        _: bool,
    ) -> Box<Error> {
        let mut error = error.more_context(format!("upstream {peer}"));
        error.set_retry(false);
        error
    }

    async fn fail_to_proxy(
        &self,
        session: &mut Session,
        error: &Error,
        call: &mut Call,
    ) -> FailToProxy {
        // After a mere 100 or 103 the client still waits for an answer.
        let answered = session.response_written().is_some_and(|head| is_final(head.status));
        let problem =
            if answered { None } else { settle::problem_of(error, call.progress.sent.has_ended()) };
        let error_code = problem.as_ref().map_or(0, |problem| problem.status.as_u16());
        // Clients leave all the time, and anybody may leave an answer of Farebox's own.
        if call.progress.forwarded.is_some() && error.esource() != &ErrorSource::Downstream {
            failure::log(session, call, error, error_code);
        }
        if let Some(problem) = problem {
            session.set_keepalive(None);
            // The client may still send its body for a while.
            settle::settle(call, Some(error));
            // If the client is gone as well there is nobody to tell.
            let _ = self.refuse(session, call, problem).await;
            let _ = session.as_downstream_mut().drain_request_body().await;
        }
        FailToProxy { error_code, can_reuse_downstream: false }
    }

    /// Without the query: some services take their keys in there.
    fn request_summary(&self, session: &Session, call: &Call) -> String {
        let head = session.req_header();
        format!("{} {}, request {}", head.method, head.uri.path(), call.id.as_str())
    }

    /// Pingora's own line holds what an upstream sent; `failure` writes one without.
    fn suppress_error_log(&self, _: &Session, _: &Call, _: &Error) -> bool {
        true
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, call: &mut Call) {
        settle::settle(call, error);
        let written = session.response_written().map(|head| head.status);
        let status = written.filter(|status| is_final(*status)).map(|status| status.as_u16());
        settle::count(call, status.unwrap_or(settle::CLIENT_LEFT));
    }
}
