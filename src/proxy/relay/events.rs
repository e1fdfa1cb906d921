//! Waits for the next thing that happens to a call.

use std::future::{pending, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use pingora_core::protocols::http::v1::client::HttpSession;

use super::state::{Answer, Event, Relay, Request, STREAK, State};
use crate::proxy::link::Link;

impl Relay<'_> {
    /// Waits until something happens.
    pub(super) async fn next_event<'s>(
        &mut self,
        session: &'s mut HttpSession,
        link: &Link,
        state: &State,
        mut sleep: Pin<&mut tokio::time::Sleep>,
    ) -> Event<'s> {
        let (incoming, mut outgoing) = self.client.halves();
        let mut metered = self.call.metered.as_deref_mut();
        // The relay does not wait for a client that has left, so such a client never counts as blocked.
        let has_left = state.left.is_some();
        let client_blocked = !has_left && outgoing.is_blocked();
        let upstream_blocked = link.is_blocked();
        let is_paused = metered.as_ref().is_some_and(|metered| metered.is_paused());
        let answer = state.answer;
        let mut from_upstream = pin!(async move {
            match answer {
                Answer::Head => Event::Head(session.read_response().await.map(drop)),
                Answer::Body(_) | Answer::Tunnel => Event::Part(session.read_body_ref().await),
                Answer::Ended | Answer::CutShort => pending().await,
            }
        });
        let is_done = state.request == Request::Ended || state.unsent.is_some();
        let reads = !upstream_blocked || state.request == Request::Discarded;
        let mut from_client = pin!(incoming.next(is_done, reads));
        let client_first = state.streak >= STREAK;
        poll_fn(move |cx| {
            let mut poll_client = |cx: &mut Context<'_>| match from_client.as_mut().poll(cx) {
                Poll::Ready(part) => Poll::Ready(Event::Request(part)),
                Poll::Pending => Poll::Pending,
            };
            if client_first
                && !has_left
                && let Poll::Ready(event) = poll_client(cx)
            {
                return Poll::Ready(event);
            }
            if !client_blocked
                && !is_paused
                && let Poll::Ready(event) = from_upstream.as_mut().poll(cx)
            {
                return Poll::Ready(event);
            }
            if !client_first
                && !has_left
                && let Poll::Ready(event) = poll_client(cx)
            {
                return Poll::Ready(event);
            }
            if let Some(metered) = &mut metered {
                if let Poll::Ready(extended) = metered.poll_growth(cx) {
                    return Poll::Ready(Event::Grown(extended));
                }
                if !client_blocked && !has_left && !metered.is_delivered() {
                    return Poll::Ready(Event::MoreAnswer);
                }
            }
            if !upstream_blocked && state.unsent.is_some() {
                return Poll::Ready(Event::MoreRequest);
            }
            if !has_left {
                match outgoing.poll_flush(cx) {
                    Poll::Ready(Err(error)) => {
                        return Poll::Ready(Event::ClientFlushed(Err(error)));
                    }
                    Poll::Ready(Ok(())) if client_blocked => {
                        return Poll::Ready(Event::ClientFlushed(Ok(())));
                    }
                    _ => {}
                }
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
}
