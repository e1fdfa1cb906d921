//! A metered call: its quote, and the state of reading its answer.

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use pingora_http::ResponseHeader;
use serde::Serialize;

use super::charge::{self, Cost, End, Rules};
use super::growth::{Answered, Growth, Limit, Room};
use super::outbox::Outbox;
use super::reading::{Coding, Events, Form, Json, Kept, MAX_KEPT, Plain, Reading};
use crate::account::AccountId;
use crate::credits::{Credits, SignedCredits};
use crate::ledger::{Hold, Refusal};
use crate::meter::{self, AnswerUsage, Piece, StreamOptions};
use crate::price::OnClientAbort;
use crate::price::metered::MeteredQuote;
use crate::problem::{Code, Language, texts};
use crate::proxy::body_memory::BodyMemory;
use crate::proxy::live::Destination;
use crate::usage::{MeterKind, Usage, UsageRecord};

/// The facts of a metered call that stay the same from its quote to its end.
pub(in crate::proxy) struct Terms {
    pub quote: MeteredQuote,
    pub meter: MeterKind,
    pub rules: Rules,
    pub on_client_abort: OnClientAbort,
    /// The model, as the request spells it.
    pub model: Option<Arc<str>>,
    /// The model's `match` in the price table, as a label for metrics.
    pub label: Arc<str>,
    /// The upstream of the model; `None` if it has none of its own.
    pub destination: Option<Arc<Destination>>,
    /// The version of the price table.
    pub prices: Arc<str>,
    /// Whether the model has output that a stream does not show.
    pub has_hidden_output: bool,
    /// Whether the request asks for a stream.
    pub asks_for_stream: bool,
    /// Whether Farebox added the upstream's usage chunk to the request. The client did not ask for
    /// it, so it is not passed on.
    pub hides_usage_chunk: bool,
    /// Whether the client asks for the report of the cost.
    pub wants_report: bool,
    pub account: AccountId,
    pub memory: Arc<BodyMemory>,
}

/// A metered call.
pub(in crate::proxy) struct Metered {
    pub terms: Terms,
    reading: Reading,
    growth: Growth,
    /// The pieces of a stream that are not passed on until the hold has grown.
    waiting: Option<Vec<Piece>>,
    /// The bytes of a stream's text that were passed on to the client.
    delivered: u64,
    outbox: Outbox,
    /// Whether the answer lacks a part of what the upstream made: it is a partial answer, or the
    /// answer to a HEAD.
    is_partial: bool,
    /// The charge, once the call is settled.
    settled: Option<Settled>,
}

/// The charge of a call that was settled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(in crate::proxy) struct Settled {
    pub cost: Credits,
    /// The credits that are available after the charge.
    pub remaining: SignedCredits,
    pub usage: Usage,
}

/// The fate of a part of an answer.
pub(in crate::proxy) enum Fed {
    /// The part is passed on unchanged.
    Passes,
    /// The part is kept in memory.
    IsKept,
    /// The answer is too long to be kept. Its head is passed on, and then the bytes in the outbox.
    Overflows(Box<ResponseHeader>),
    /// These pieces are passed on.
    Pieces(Vec<Piece>),
    /// Nothing is passed on until the hold has grown.
    Waits,
    /// The stream ends before this part, because its hold is used up and grows no more.
    UsedUp(Limit),
}

impl Metered {
    /// A call with these terms, whose credits are held.
    pub fn new(terms: Terms) -> Self {
        let growth = {
            let quote = &terms.quote;
            let covered = |held| quote.output_tokens_for(held).unwrap_or(0);
            Growth::new(covered(quote.hold), covered(quote.most))
        };
        Self {
            terms,
            reading: Reading::Awaited,
            growth,
            waiting: None,
            delivered: 0,
            outbox: Outbox::default(),
            is_partial: false,
            settled: None,
        }
    }

    /// Begins to read an answer. Returns the head if it is passed on now. Otherwise the head is
    /// kept until the usage of the answer is known. `is_charged` says whether answers with this
    /// status are charged. `has_body` says whether a body follows, and `length` its declared length
    /// in bytes. `is_partial` says whether the answer lacks a part of what the upstream made.
    /// `is_read` is true if the client is there, or a retry may get the answer.
    pub fn begin_answer(
        &mut self,
        head: ResponseHeader,
        is_charged: bool,
        has_body: bool,
        length: Option<u64>,
        is_partial: bool,
        is_read: bool,
    ) -> Option<ResponseHeader> {
        let terms = &self.terms;
        self.is_partial = is_partial;
        if !is_charged {
            self.reading = Reading::Unread;
            return Some(head);
        }
        let form = Form::of(&head.headers, terms.asks_for_stream);
        let coding = if has_body { Coding::of(&head.headers) } else { Coding::Plain };
        let json = || Json::new(&terms.meter, coding);
        self.reading = match form {
            Form::Json => {
                let is_short = length.is_none_or(|length| length <= MAX_KEPT as u64);
                let is_free = self.is_free();
                if is_read && is_short && !is_free && has_body {
                    let reserved = terms.memory.begin(terms.account.clone());
                    let (body, json) = (BytesMut::new(), json());
                    let kept = Kept { head, body, json, reserved };
                    self.reading = Reading::Kept(Box::new(kept));
                    return None;
                }
                Reading::Json(Box::new(json()))
            }
            Form::Events => {
                let options = StreamOptions {
                    hides_usage_chunk: terms.hides_usage_chunk,
                    reports: terms.wants_report,
                    whole_events: self.growth.can_grow(),
                };
                let memory = terms.memory.begin(terms.account.clone());
                Reading::Events(Box::new(Events::new(&terms.meter, coding, options, memory)))
            }
            Form::Text => Reading::Plain(Box::new(Plain::new(coding))),
            Form::Media => Reading::Media,
        };
        Some(head)
    }

    /// Whether the answer is charged, and its head is sent before its usage is known. The head then
    /// tells how many credits are held.
    pub fn is_held(&self) -> bool {
        !matches!(self.reading, Reading::Awaited | Reading::Unread | Reading::Kept(_))
    }

    /// Whether events may be added to the answer or left out of it. If so, the upstream's
    /// `content-length` is not valid for the client.
    pub fn changes_length(&self) -> bool {
        matches!(self.reading, Reading::Events(_))
    }

    /// Reads a part of the answer. `is_last` is true if nothing follows the part.
    pub fn feed(&mut self, part: &[u8], is_last: bool) -> Fed {
        match &mut self.reading {
            Reading::Awaited | Reading::Unread | Reading::Media | Reading::Done => Fed::Passes,
            Reading::Json(json) => {
                json.feed(part);
                Fed::Passes
            }
            Reading::Plain(plain) => {
                plain.feed(part);
                Fed::Passes
            }
            Reading::Kept(kept) => {
                if kept.keep(part, is_last) {
                    return Fed::IsKept;
                }
                self.overflow(part, is_last)
            }
            Reading::Events(events) => {
                let mut pieces = Vec::new();
                events.feed(part, &mut pieces);
                self.pay_for(pieces)
            }
        }
    }

    /// Passes on an answer that has turned out to be too long to be kept.
    fn overflow(&mut self, part: &[u8], is_last: bool) -> Fed {
        let Reading::Kept(kept) = std::mem::replace(&mut self.reading, Reading::Done) else {
            return Fed::Passes;
        };
        let Kept { head, mut body, mut json, reserved } = *kept;
        json.feed(part);
        body.extend_from_slice(part);
        self.reading = Reading::Json(Box::new(json));
        self.outbox = Outbox::new(body.freeze(), is_last, Some(reserved));
        Fed::Overflows(Box::new(head))
    }

    /// Passes the pieces on if the hold covers them. Otherwise they wait for the hold to grow, or
    /// the stream ends.
    fn pay_for(&mut self, pieces: Vec<Piece>) -> Fed {
        let Reading::Events(events) = &self.reading else { return Fed::Pieces(pieces) };
        let tokens = events.output_tokens();
        let is_paid = !self.growth.can_grow()
            || tokens <= self.growth.covered()
            // The stream has told its final usage, so the rest of it costs nothing more.
            || events.so_far().is_final;
        if is_paid {
            self.delivered = events.delivered_text_bytes();
            return Fed::Pieces(pieces);
        }
        if let Room::UsedUp(limit) = self.growth.room(tokens) {
            return Fed::UsedUp(limit);
        }
        self.waiting = Some(pieces);
        Fed::Waits
    }

    /// Asks the ledger for a larger hold if the present one is nearly used up.
    pub fn ask_for_more(&mut self, hold: &Hold) {
        if !self.growth.can_grow() {
            return;
        }
        if let Room::Ask(tokens) = self.growth.room(self.output_tokens()) {
            self.ask(hold, tokens);
        }
    }

    /// The tokens of output that a stream has used; 0 for other answers.
    fn output_tokens(&self) -> u64 {
        match &self.reading {
            Reading::Events(events) => events.output_tokens(),
            _ => 0,
        }
    }

    fn ask(&mut self, hold: &Hold, tokens: u64) {
        let used = self.output_tokens();
        let by = self.terms.quote.held_for(tokens).checked_sub(hold.amount());
        match by.filter(|by| !by.is_zero()) {
            Some(by) => {
                let extension = hold.extension(by);
                self.growth.asks(tokens, used, Box::pin(async move { extension.await.map(Some) }));
            }
            None => self.growth.asks(tokens, used, Box::pin(std::future::ready(Ok(None)))),
        }
    }

    /// Ready with the ledger's answer; pending if the ledger was not asked.
    pub fn poll_growth(&mut self, cx: &mut Context<'_>) -> Poll<Answered> {
        self.growth.poll(cx)
    }

    /// Handles the ledger's answer on whether the hold may grow. Pieces that waited for it are
    /// passed on, or the stream ends.
    pub fn grown(&mut self, answered: Answered, hold: &mut Hold) -> Fed {
        match answered {
            Ok(Some(extended)) => hold.extended(extended),
            Ok(None) => {}
            Err(Refusal::Insufficient { available }) => {
                let all = hold.amount().checked_add(available.spendable());
                let tokens = all.and_then(|all| self.terms.quote.output_tokens_for(all));
                let tokens = tokens.unwrap_or(0);
                if self.growth.asks_for_the_rest(tokens) {
                    self.ask(hold, tokens);
                }
            }
            // No pieces wait for the answer, and the next part of the stream makes the gateway ask
            // again.
            Err(Refusal::Unavailable) if self.waiting.is_none() => {}
            Err(refusal) => self.growth.ends(refusal.into()),
        }
        let Some(pieces) = self.waiting.take() else { return Fed::Pieces(Vec::new()) };
        let fed = self.pay_for(pieces);
        if matches!(fed, Fed::Waits) {
            self.ask_for_more(hold);
        }
        fed
    }

    /// Whether reading from the upstream is paused, because the hold must grow or the outbox must
    /// be sent first.
    pub fn is_paused(&self) -> bool {
        self.waiting.is_some() || !self.outbox.is_empty()
    }

    /// Whether everything in the outbox has been sent.
    pub fn is_delivered(&self) -> bool {
        self.outbox.is_empty()
    }

    /// The next piece of the outbox, of at most `most` bytes, and whether the answer ends with it.
    pub fn next_piece(&mut self, most: usize) -> Option<(Bytes, bool)> {
        self.outbox.next(most)
    }

    /// Ends the answer, and appends the rest of a stream to `pieces`.
    pub fn end_answer(&mut self, pieces: &mut Vec<Piece>) {
        if let Reading::Events(events) = &mut self.reading {
            events.end(pieces);
            self.delivered = events.delivered_text_bytes();
        }
    }

    /// Takes the head of an answer that was kept until its end. Its body moves into the outbox.
    pub fn take_kept(&mut self) -> Option<ResponseHeader> {
        if !matches!(self.reading, Reading::Kept(_)) {
            return None;
        }
        let Reading::Kept(kept) = std::mem::replace(&mut self.reading, Reading::Done) else {
            return None;
        };
        let Kept { head, body, json, reserved } = *kept;
        self.reading = Reading::Json(Box::new(json));
        self.outbox = Outbox::new(body.freeze(), true, Some(reserved));
        Some(head)
    }

    /// The bytes of the answer that are in memory and not sent yet.
    pub fn outbox(&self) -> &[u8] {
        self.outbox.bytes()
    }

    /// Drops the part of the answer that is in memory. The client has left, so nothing more is
    /// sent.
    pub fn drop_outbox(&mut self) {
        self.outbox = Outbox::default();
    }

    /// The number of bytes of the answer that are in memory and not sent yet.
    pub fn kept_bytes(&self) -> usize {
        self.outbox.len()
    }

    /// Records that the client has left. Returns true if the answer is still read to its end, for
    /// its usage.
    pub fn client_left(&mut self) -> bool {
        let terms = &self.terms;
        let is_stream = match &self.reading {
            Reading::Awaited => terms.asks_for_stream,
            Reading::Events(_) => true,
            Reading::Kept(_) | Reading::Json(_) | Reading::Plain(_) | Reading::Media => false,
            Reading::Unread | Reading::Done => return false,
        };
        let has_media =
            matches!(&self.reading, Reading::Events(events) if events.so_far().has_media);
        let drains = match terms.on_client_abort {
            OnClientAbort::Release => false,
            OnClientAbort::Charge => !is_stream || terms.has_hidden_output || has_media,
            OnClientAbort::Drain => true,
        };
        if !drains || self.settled.is_some() {
            return false;
        }
        self.outbox = Outbox::default();
        if matches!(self.reading, Reading::Kept(_))
            && let Reading::Kept(kept) = std::mem::replace(&mut self.reading, Reading::Done)
        {
            self.reading = Reading::Json(Box::new(kept.json));
        }
        true
    }

    /// Whether a stream has told its final usage. Nothing that the upstream still sends can change
    /// it.
    pub fn has_final_usage(&self) -> bool {
        matches!(&self.reading, Reading::Events(events) if events.so_far().is_final)
    }

    /// The cost of the answer, for a call that holds `held`.
    pub fn cost(&mut self, is_whole: bool, held: Credits) -> Cost {
        let end = if is_whole { End::Whole } else { End::CutShort };
        let mut answer = match std::mem::replace(&mut self.reading, Reading::Done) {
            Reading::Events(events) => {
                let answer = events.so_far();
                self.reading = Reading::Events(events);
                AnswerUsage { delivered_text_bytes: self.delivered, ..answer }
            }
            Reading::Json(json) if is_whole => json.end(),
            Reading::Plain(plain) => plain.so_far(),
            _ => AnswerUsage::default(),
        };
        answer.is_unread |= self.is_partial;
        let terms = &self.terms;
        charge::cost(&terms.quote, &terms.meter, terms.rules, &answer, end, held)
    }

    /// The record of the call for the ledger.
    pub fn record(&self, cost: &Cost, held: Credits) -> UsageRecord {
        let Terms { model, prices, .. } = &self.terms;
        UsageRecord { held, model: model.clone(), usage: cost.usage, prices: prices.clone() }
    }

    /// True for a call of a free model.
    pub fn is_free(&self) -> bool {
        self.terms.quote.most.is_zero()
    }

    /// Records the charge.
    pub fn settled(&mut self, settled: Settled) {
        self.settled = Some(settled);
    }

    /// The charge; `None` until the call is settled.
    pub fn charged(&self) -> Option<Settled> {
        self.settled
    }

    /// The report of the cost for the end of a stream: a comment between two events. `None` if the
    /// client did not ask for a report, or the call is free or not settled.
    pub fn report(&self) -> Option<String> {
        let settled = self.settled.filter(|_| self.terms.wants_report && !self.is_free())?;
        Some(format!(": farebox {}\n\n", serde_json::to_string(&settled).ok()?))
    }

    /// The error event that ends a stream whose hold is used up and grows no more. `None` if the
    /// stream is encoded, because the client could not read the event then.
    pub fn error_event(&self, limit: Limit, language: Language) -> Option<Bytes> {
        let (code, text) = match limit {
            Limit::Credits => (Code::InsufficientCredits, texts::STREAM_USED_UP),
            Limit::Frozen => (Code::AccountFrozen, texts::STREAM_OF_FROZEN_ACCOUNT),
            Limit::Ledger => (Code::LedgerUnavailable, texts::STREAM_WITHOUT_LEDGER),
        };
        match &self.reading {
            Reading::Events(events) if events.is_plain() => {
                Some(meter::error_event(&self.terms.meter, code, text.in_language(language)))
            }
            _ => None,
        }
    }
}

impl std::fmt::Debug for Metered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metered").field("model", &self.terms.model).finish_non_exhaustive()
    }
}
