//! A call whose retry may be answered with its answer.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName};
use pingora_error::Result;
use pingora_http::ResponseHeader;

use super::key::Key;
use super::recording::Recording;
use super::request::{Hashing, RequestHash, Sender};
use super::seal::Seal;
use crate::credits::Credits;
use crate::identify::Identity;
use crate::ledger::{Answers, Claim, Hold, HoldId, Kept, Settlement, wall_ms};
use crate::problem::Problem;
use crate::proxy::body_memory::{BodyMemory, Reserved};
use crate::proxy::client::Client;
use crate::proxy::config::IdempotencyConfig;
use crate::proxy::target::Target;

/// The header in which the official SDKs say which attempt a request is: 0 for the first.
const RETRY_COUNT: HeaderName = HeaderName::from_static("x-stainless-retry-count");

/// How long an answer is kept for an SDK's retry without a key, after the SDK gave up its first
/// attempt.
const KEEP_LEFT: Duration = Duration::from_secs(120);

/// How much longer than `[idempotency] keep` a claim lasts. The claim begins with the hold, but
/// `keep` is counted from the charge, which comes after the hold by as long as the call takes.
const LONGEST_CALL: Duration = Duration::from_secs(3600);

/// How much longer an answer is kept than its claim, so that it outlives the claim even if the
/// stores' clocks differ.
const MARGIN: Duration = Duration::from_secs(60);

/// The longest time for storing an answer. After that, the call is charged although its answer is
/// not kept.
const STORE_TIMEOUT: Duration = Duration::from_secs(10);

/// Keeps the answers of calls, so that a retry gets the answer that was paid for.
#[derive(Debug)]
pub struct Retries {
    pub(super) answers: Arc<dyn Answers>,
    /// How long a claim lasts, counted from its hold, and how long an answer is kept.
    keep: Duration,
    max_answer: usize,
    sdk_retries: bool,
}

impl Retries {
    /// Creates the keeper of answers, which stores them in `answers`. `None` if the config turns
    /// this off.
    pub fn new(config: &IdempotencyConfig, answers: Arc<dyn Answers>) -> Option<Arc<Self>> {
        let retries = Self {
            answers,
            keep: config.keep.0.saturating_add(LONGEST_CALL),
            max_answer: usize::try_from(config.max_answer.0).unwrap_or(usize::MAX),
            sdk_retries: config.sdk_retries,
        };
        config.enabled.then(|| Arc::new(retries))
    }

    /// Begins the state for retries of a call. `None` if the request has no key and does not come
    /// from an SDK that retries by itself.
    ///
    /// # Errors
    /// 400 for an unreadable key.
    pub(in crate::proxy) fn begin(
        self: &Arc<Self>,
        client: &Client,
        identity: &Identity,
        target: &Target,
        memory: &Arc<BodyMemory>,
    ) -> Result<Option<Box<Repeatable>>, Problem> {
        let head = client.head();
        let attempt = if self.sdk_retries { attempt_of(&head.headers) } else { None };
        let key = Key::read(&head.headers)?;
        if key.is_none() && attempt.is_none() || client.asks_for_upgrade() {
            return Ok(None);
        }
        let recording = if key.is_some() { Recording::Awaited } else { Recording::Off };
        Ok(Some(Box::new(Repeatable {
            retries: self.clone(),
            sender: Sender::of(identity),
            key,
            is_retry: attempt.is_some_and(|attempt| attempt > 0),
            hashing: Hashing::begin(&head.method, target, &head.headers),
            request: None,
            recording,
            reserved: Some(memory.begin(identity.account.clone())),
            due: None,
            last: None,
        })))
    }
}

/// The number of attempts before this one, as an SDK counts them.
fn attempt_of(headers: &HeaderMap) -> Option<u32> {
    headers.get(RETRY_COUNT)?.to_str().ok()?.trim().parse().ok()
}

/// A call whose retry may be answered with its answer.
pub(in crate::proxy) struct Repeatable {
    pub(super) retries: Arc<Retries>,
    sender: Sender,
    /// `None` for a call of an SDK without a key.
    key: Option<Key>,
    /// Whether the SDK says that the request is a retry.
    pub(super) is_retry: bool,
    hashing: Hashing,
    /// The hash of the request, once its body has ended.
    request: Option<RequestHash>,
    recording: Recording,
    /// The memory for the recording.
    reserved: Option<Reserved>,
    /// The charge of the call, if it waits until the answer is stored.
    due: Option<Due>,
    /// The end of the answer, if it waits for the charge.
    last: Option<Last>,
}

/// A charge that waits until the answer is stored.
struct Due {
    hold: Hold,
    settlement: Settlement,
}

/// The end of an answer.
pub(in crate::proxy) enum Last {
    /// An answer without a body.
    Head(Box<ResponseHeader>),
    /// The last part of the body.
    Part(Bytes),
}

impl Repeatable {
    /// Adds the next part of the request's body to the hash.
    pub fn hash(&mut self, part: &[u8]) {
        if self.request.is_none() {
            self.hashing.body(part);
        }
    }

    /// Ends the hash, because the request's body has ended. If the call already has its hold, the
    /// ledger is now told the hash of the request that the claim is for.
    pub fn request_ended(&mut self, hold: Option<&Hold>) {
        if self.request.is_some() {
            return;
        }
        let request = self.hashing.end();
        self.request = Some(request);
        if let (Some(hold), true) = (hold, self.key.is_some()) {
            let marked = hold.mark_claim(request.mark(self.retries.answers.secret()));
            tokio::spawn(async move {
                if let Err(refusal) = marked.await {
                    tracing::warn!(%refusal, "a retry of a call will not be recognised");
                }
            });
        }
    }

    /// Whether the hash of the whole request is known.
    pub(super) fn is_known(&self) -> bool {
        self.request.is_some()
    }

    /// Whether the call is an SDK's retry without a key.
    pub fn is_known_by_its_request(&self) -> bool {
        self.is_retry && self.key.is_none()
    }

    /// Whether the call may be a retry. A retry gets the first call's answer even if the account
    /// cannot pay.
    pub fn may_be_answered(&self) -> bool {
        self.key.is_some() || self.is_retry
    }

    /// The claim that the call makes together with its hold; `None` if it makes none.
    pub(super) fn claim(&self) -> Option<Claim> {
        let secret = self.retries.answers.secret();
        match (&self.key, &self.request) {
            (Some(key), request) => Some(Claim::Key {
                id: self.sender.claim(key),
                mark: request.map(|request| request.mark(secret)),
                keep_ms: u64::try_from(self.retries.keep.as_millis()).unwrap_or(u64::MAX),
            }),
            (None, Some(request)) if self.is_retry => {
                Some(Claim::Retry { id: self.sender.retry(request, secret) })
            }
            (None, _) => None,
        }
    }

    /// Whether the call has a key.
    pub(super) fn has_key(&self) -> bool {
        self.key.is_some()
    }

    /// The seal for the answer of `call`, which had the same request as this call. `None` if the
    /// hash of the request is not known yet.
    pub(super) fn seal(&self, call: &HoldId) -> Option<Seal> {
        let request = self.request.as_ref()?;
        let key = self.key.as_ref().map_or(&b""[..], Key::as_bytes);
        let seal = Seal::new(self.retries.answers.secret(), key, request, call);
        seal.inspect_err(|error| tracing::error!(%error, "an answer's key cannot be derived")).ok()
    }

    /// Records the head of an answer. An answer that is not charged is not kept.
    pub fn record_head(&mut self, head: &ResponseHeader, has_body: bool, is_charged: bool) {
        if !is_charged {
            self.recording = Recording::GivenUp;
        }
        if let Some(reserved) = self.reserved.take_if(|_| self.recording.is_awaited()) {
            self.recording.head(head, has_body, self.retries.max_answer, reserved);
        }
    }

    /// Records a part of the answer's body.
    pub fn record(&mut self, part: &[u8]) {
        self.recording.body(part);
    }

    /// Records that the client has left. `has_head` is true if it was sent the head of the answer
    /// before. Returns true if the answer is still read to its end, so that a retry can get it.
    pub fn client_left(&mut self, has_head: bool, hold: Option<&Hold>) -> bool {
        let Some(request) = &self.request else { return false };
        if self.key.is_none() {
            if has_head || self.due.is_some() {
                return false;
            }
            let Some(hold) = hold else { return false };
            self.recording = Recording::Awaited;
            let left = hold.leave(self.sender.retry(request, self.retries.answers.secret()));
            tokio::spawn(async move {
                if let Err(refusal) = left.await {
                    tracing::warn!(%refusal, "a retry of a call will not be recognised");
                }
            });
        }
        self.recording.is_possible()
    }

    /// Drops the record of an answer that was broken off, so that a retry does not take the part
    /// for the whole.
    pub fn give_up(&mut self) {
        self.recording = Recording::GivenUp;
    }

    /// Whether the answer can still be kept whole.
    pub fn can_be_kept(&self) -> bool {
        self.recording.is_possible()
    }

    /// Whether the charge of the call and the end of its answer must wait until the answer is
    /// stored.
    pub fn keeps(&self) -> bool {
        self.due.is_some() || self.request.is_some() && self.recording.has_begun()
    }

    /// Charges the call later, after its answer was stored.
    pub fn charge_later(&mut self, hold: Hold, settlement: Settlement) {
        self.due = Some(Due { hold, settlement });
    }

    /// Sends the end of the answer later, after the charge.
    pub fn send_later(&mut self, last: Last) {
        self.last = Some(last);
    }

    /// Stores the answer, charges the call, and sends the client the end of the answer.
    ///
    /// # Errors
    /// The client has left.
    pub async fn conclude(&mut self, client: &mut Client) -> Result<()> {
        if let Some(Due { hold, settlement }) = self.due.take() {
            let cost = settlement.charge(hold.amount());
            // A call that costs nothing is released, so a retry runs as a new call.
            if !cost.is_zero() {
                self.store(hold.id(), cost).await;
            }
            hold.settle(settlement);
        }
        match self.last.take() {
            None => Ok(()),
            Some(Last::Head(head)) => client.write_head(*head, true),
            Some(Last::Part(part)) => client.write_body(&part, true),
        }
    }

    async fn store(&mut self, call: &HoldId, cost: Credits) {
        let recording = std::mem::replace(&mut self.recording, Recording::Off);
        let Some(answer) = recording.end(cost).and_then(|answer| answer.encode()) else { return };
        let Some(seal) = self.seal(call) else { return };
        let Ok(sealed) = seal.seal(answer) else { return };
        let keep = if self.has_key() { self.retries.keep } else { KEEP_LEFT };
        let keep_ms = i64::try_from((keep + MARGIN).as_millis()).unwrap_or(i64::MAX);
        let until_ms = wall_ms().saturating_add(keep_ms);
        let kept = self.retries.answers.keep(call, sealed.into(), until_ms);
        match tokio::time::timeout(STORE_TIMEOUT, kept).await {
            Ok(Ok(Kept::Yes)) => {}
            Ok(Ok(Kept::NoRoom)) => tracing::warn!(
                request_id = call.as_str(),
                "an answer was not kept for retries: `[idempotency] max_total` is reached"
            ),
            Ok(Err(error)) => tracing::warn!(
                request_id = call.as_str(), %error, "an answer was not kept for retries"
            ),
            Err(_) => tracing::warn!(
                request_id = call.as_str(),
                "an answer was not kept for retries: the store took longer than 10 s"
            ),
        }
    }
}

impl std::fmt::Debug for Repeatable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Repeatable").field("is_retry", &self.is_retry).finish_non_exhaustive()
    }
}
