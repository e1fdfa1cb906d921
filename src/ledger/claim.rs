//! Claims: a call's right to be the only one that is forwarded and charged for a request, so that a
//! retry of the request hears the answer that was paid for.
//!
//! A claim is decided in the operation that sets the call's credits aside, and is as durable as the
//! hold. It ends with the hold: a captured hold leaves its claim charged until the time is up, and a
//! released one takes its claim with it, so that the retry runs anew. A capture that comes after its
//! hold had expired takes the claim again, for [`LATE_KEEP_MS`] and without a mark, unless another call
//! has taken it meanwhile.

use std::fmt::{self, Write as _};

use crate::ledger::operation::HoldId;

/// How long the claim of a call lasts whose capture came after the claim was gone, in milliseconds.
pub(crate) const LATE_KEEP_MS: u64 = 24 * 3_600_000;

/// How long a retry without a key can hear of a call whose client left, in milliseconds.
pub(crate) const LEFT_MS: u64 = 120_000;

/// The id of a claim: a SHA-256 of who asked and under which key. Neither can be read from it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClaimId([u8; 32]);

/// Recognises the request of a claim: an HMAC of the request's hash under the ledger's own secret.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestMark([u8; 32]);

/// Makes a type of 32 bytes that is written as 64 hexadecimal digits.
macro_rules! digest {
    ($name:ident) => {
        impl $name {
            /// Takes the bytes as they are.
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
    /// The call has an `Idempotency-Key`. It becomes the first one under this id, or nothing is held
    /// and it hears which call is.
    Key {
        /// The hash of the scope and the key.
        id: ClaimId,
        /// Recognises the request. `None` while its body is still arriving; [`Operation::MarkClaim`]
        /// follows, and until then every other request under the id hears that the first one runs.
        ///
        /// [`Operation::MarkClaim`]: crate::ledger::Operation::MarkClaim
        mark: Option<RequestMark>,
        /// The time after which the claim of a charged call is free again, in milliseconds from now. A
        /// call that runs longer keeps its claim until it ends.
        keep_ms: u64,
    },
    /// An SDK says that the request is a retry, and it has no key. If a call with this id was left by its
    /// client ([`Operation::Leave`]) within the last two minutes, and no other retry has had it, nothing
    /// is held and the retry hears which call it is; else it is a call like any other, without a claim.
    ///
    /// [`Operation::Leave`]: crate::ledger::Operation::Leave
    Retry {
        /// The hash of the scope and the request.
        id: ClaimId,
    },
}

/// The call that has the claim which another one asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimed {
    /// The hold of that call. Its answer is kept under this id.
    pub hold: HoldId,
    /// Where the call stands.
    pub state: ClaimState,
}

/// Where the call stands that has a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimState {
    /// The call is not settled yet. Its request, where it is known yet, is the same.
    Running,
    /// The call was charged. Its answer may be kept. Where the call ended before its request was known,
    /// this is also the state for every other request: the kept answer does not open for them. For a [`Claim::Retry`] this outcome is given once
    /// for each call that was left: the next retry is a call of its own.
    Charged,
    /// The call that has the claim has another request.
    Conflict,
}
