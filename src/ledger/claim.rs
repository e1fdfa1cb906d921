//! Claims: a call's right to be the only one that is forwarded and charged for a request, so that a retry of the
//! request gets the answer that was paid for.
//!
//! A claim is decided in the operation that sets the call's credits aside, and is as durable as the hold. The claim
//! ends with the hold: if the hold is captured, the claim stays charged until its time is up; if the hold is released,
//! the claim is removed, so that a retry is forwarded again. A capture that arrives after its hold has expired takes
//! the claim again, for [`LATE_KEEP_MS`] and without a mark, unless another call has taken the claim meanwhile.

use std::fmt::{self, Write as _};

use crate::ledger::operation::HoldId;

/// How long a claim lasts that a late capture takes again, in milliseconds.
pub(crate) const LATE_KEEP_MS: u64 = 24 * 3_600_000;

/// How long a retry without a key can be answered with a call whose client left, in milliseconds.
pub(crate) const LEFT_MS: u64 = 120_000;

/// The id of a claim: a SHA-256 over the scope of the caller and the key. Neither can be read from the hash.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClaimId([u8; 32]);

/// The mark by which a claim recognises its request: an HMAC of the request's hash under the ledger's own secret.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestMark([u8; 32]);

/// Makes a type of 32 bytes that is written as 64 hexadecimal digits.
macro_rules! digest {
    ($name:ident) => {
        impl $name {
            /// Wraps the bytes.
            pub fn new(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// The bytes.
            pub fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(stringify!($name))?;
                f.write_char('(')?;
                fmt::Display::fmt(self, f)?;
                f.write_char(')')
            }
        }
    };
}
digest!(ClaimId);
digest!(RequestMark);

/// The claim that a call's hold makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// The call has an `Idempotency-Key`. If no other call has a claim under this id, this call gets the claim.
    /// Otherwise nothing is held, and the outcome names the call that has the claim.
    Key {
        /// The hash of the scope and the key.
        id: ClaimId,
        /// Recognises the request. `None` while the request's body is still arriving: [`Operation::MarkClaim`] follows,
        /// and until then every other request under the id is told that the first one runs.
        ///
        /// [`Operation::MarkClaim`]: crate::ledger::Operation::MarkClaim
        mark: Option<RequestMark>,
        /// The time after which the claim of a charged call is free again, in milliseconds from now. A
        /// call that runs longer keeps its claim until it ends.
        keep_ms: u64,
    },
    /// An SDK says that the request is a retry, and the request has no key. If the client of a call with this id left
    /// ([`Operation::Leave`]) within the last two minutes, and no other retry was told of that call, nothing is held
    /// and the outcome names that call. Otherwise this is a call like any other, without a claim.
    ///
    /// [`Operation::Leave`]: crate::ledger::Operation::Leave
    Retry {
        /// The hash of the scope and the request.
        id: ClaimId,
    },
}

/// The call that has the claim which another call asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimed {
    /// The hold of that call. Its answer is kept under this id.
    pub hold: HoldId,
    /// The state of the call.
    pub state: ClaimState,
}

/// The state of the call that has a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimState {
    /// The call is not settled yet. Its request, if it is known yet, is the same.
    Running,
    /// The call was charged. Its answer may be kept. If the call ended before its request was known, other requests get
    /// this state too: the kept answer does not open for them. A [`Claim::Retry`] gets this state only once for each
    /// call that was left: the next retry is a call of its own.
    Charged,
    /// The call that has the claim has a different request.
    Conflict,
}
