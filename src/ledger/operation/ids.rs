//! The ids under which operations take effect at most once.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use uuid::{NoContext, Timestamp, Uuid};

use crate::account::AccountId;
use crate::ledger::operation::kinds::EntryKind;

/// The end of the id of [`OperationId::corrected`].
const CORRECTED: &str = "/corrected";

/// How far the clock for new ids is ahead of this machine's clock, in milliseconds. The whole process has one such
/// clock, because a process has one ledger.
static IDS_AHEAD_MS: AtomicI64 = AtomicI64::new(0);

/// Makes new ids of calls use a clock that is `ms` milliseconds ahead of this machine's, so that it agrees with the
/// clock of the store. The store judges a call's age by its id.
pub(crate) fn keep_ids_ahead_by(ms: i64) {
    IDS_AHEAD_MS.store(ms, Ordering::Relaxed);
}

/// A UUID of version 7 whose time is `ms` milliseconds ahead of this machine's clock.
fn uuid_ahead_by(ms: i64) -> Uuid {
    let at_ms = now_ms().saturating_add_signed(ms);
    let nanos = u32::try_from(at_ms % 1000).unwrap_or(0) * 1_000_000;
    Uuid::new_v7(Timestamp::from_unix(NoContext, at_ms / 1000, nanos))
}

/// This machine's clock, in milliseconds since 1970.
fn now_ms() -> u64 {
    let (seconds, nanos) = Timestamp::now(NoContext).to_unix();
    seconds.saturating_mul(1000).saturating_add(u64::from(nanos / 1_000_000))
}

/// The reason why a text cannot be an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an id is 1 to 128 visible ASCII characters, without spaces")]
pub struct IdError;

/// The id of a hold. The hold of a proxied call has the call's request id, which is generated here and
/// never repeated; a hold made through the API has the id that its caller chose.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HoldId(Arc<str>);

impl HoldId {
    /// A new id for a proxied call: a UUID of version 7, so ids sort by the time they were made.
    pub fn for_call() -> Self {
        let mut buffer = Uuid::encode_buffer();
        let id = match IDS_AHEAD_MS.load(Ordering::Relaxed) {
            0 => Uuid::now_v7(),
            ms => uuid_ahead_by(ms),
        };
        Self(Arc::from(&*id.as_hyphenated().encode_lower(&mut buffer)))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for HoldId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        if is_id(text) { Ok(Self(text.into())) } else { Err(IdError) }
    }
}

impl fmt::Display for HoldId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The right to make one call's hold. [`Ledger::hold`](crate::ledger::Ledger::hold) consumes it, so
/// the holds of two calls never have the same id. The rules rely on that, and look up no ids for a
/// new call.
///
/// ```compile_fail,E0382
/// use farebox::{account::AccountId, credits::Credits, ledger::{CallId, Ledger}};
///
/// async fn twice(ledger: Ledger, alice: AccountId, amount: Credits) {
///     let id = CallId::new();
///     let _first = ledger.hold(id, alice.clone(), amount, "/x".into()).await;
///     let _second = ledger.hold(id, alice, amount, "/x".into()).await; // used up
/// }
/// ```
#[derive(Debug, PartialEq, Eq)]
pub struct CallId(HoldId);

impl CallId {
    /// A new id.
    #[expect(clippy::new_without_default, reason = "a default that differs each time surprises")]
    pub fn new() -> Self {
        Self(HoldId::for_call())
    }

    /// The id that the call's hold will have.
    pub fn hold_id(&self) -> &HoldId {
        &self.0
    }
}

impl From<CallId> for HoldId {
    fn from(id: CallId) -> Self {
        id.0
    }
}

/// The id under which an operation that moves a balance takes effect at most once. A prefix keeps ids of
/// different kinds apart: a grant and an adjustment may both be called `gift-7`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OperationId(Arc<str>);

impl OperationId {
    /// The id of a grant, adjustment, clawback or reinstatement. The caller who posts it chose
    /// `id`.
    ///
    /// # Errors
    /// [`IdError`] if `id` cannot be an id.
    pub fn posting(kind: EntryKind, id: &str) -> Result<Self, IdError> {
        if is_id(id) { Ok(Self(format!("{}:{id}", kind.as_str()).into())) } else { Err(IdError) }
    }

    /// The id of a hold's capture.
    pub fn capture(hold: &HoldId) -> Self {
        // Every call makes an id of this kind, and `format!` takes twice as long.
        Self(["capture:", hold.as_str()].concat().into())
    }

    /// The id of the refund of a hold's whole capture.
    pub fn refund(hold: &HoldId) -> Self {
        Self(format!("refund:{hold}").into())
    }

    /// The id of a refund of a part of a hold's capture. The caller who refunds it chose `id`. No
    /// hold's id contains a space, so two different pairs of hold and `id` never give the same
    /// operation id.
    ///
    /// # Errors
    /// [`IdError`] if `id` cannot be an id.
    pub fn refund_part(hold: &HoldId, id: &str) -> Result<Self, IdError> {
        if is_id(id) { Ok(Self(format!("refund:{hold} {id}").into())) } else { Err(IdError) }
    }

    /// The id of the refund that corrects a capture which was made for a crash, when the call's
    /// gateway turns out to have ended the hold itself. No other refund has this id, because a
    /// call's id contains no `/`, and an API caller cannot choose an id that does.
    pub fn corrected(hold: &HoldId) -> Self {
        Self(format!("refund:{hold}{CORRECTED}").into())
    }

    /// The id of an account's only sign-up grant.
    pub fn signup(account: &AccountId) -> Self {
        Self(format!("signup:{account}").into())
    }

    /// The id of an entry that a payment makes, built from the id of its checkout session. `nth` is
    /// `None` for the grant. For later entries it counts the times that credits were taken back or
    /// given back. No caller can choose such an id.
    pub(crate) fn payment(session: &str, nth: Option<u32>) -> Self {
        match nth {
            None => Self(format!("stripe:{session}").into()),
            Some(nth) => Self(format!("stripe:{session}:{nth}").into()),
        }
    }

    /// Wraps an id that was read from the ledger's own data, without checking it.
    pub(crate) fn stored(text: &str) -> Self {
        Self(text.into())
    }

    /// The id as text, with its prefix.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Like [`OperationId::as_str`], as a shared text, without a copy.
    pub(crate) fn shared(&self) -> Arc<str> {
        self.0.clone()
    }

    /// The call or hold that a capture or refund belongs to.
    pub fn hold(&self) -> Option<&str> {
        let refunded = || {
            let refund = self.0.strip_prefix("refund:")?;
            // The text after the space was chosen by the caller who refunded a part, so it may have
            // any ending.
            Some(match refund.split_once(' ') {
                Some((hold, _)) => hold,
                None => refund.strip_suffix(CORRECTED).unwrap_or(refund),
            })
        };
        self.0.strip_prefix("capture:").or_else(refunded)
    }
}

fn is_id(text: &str) -> bool {
    (1..=128).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_goes_by_the_clock_that_it_is_told() {
        for ahead_ms in [120_000, -120_000] {
            let (seconds, nanos) = uuid_ahead_by(ahead_ms).get_timestamp().unwrap().to_unix();
            let made_ms = seconds * 1000 + u64::from(nanos / 1_000_000);
            let expected_ms = now_ms().saturating_add_signed(ahead_ms);
            assert!(made_ms.abs_diff(expected_ms) < 10_000, "{made_ms}, not {expected_ms}");
        }
    }
}
