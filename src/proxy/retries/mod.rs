//! A request and its retries are charged once. Retries are requests with the same idempotency key,
//! and requests that an SDK sends again by itself.
//!
//! `key` reads the header, and `request` recognises a request and its sender by hashes. `claim`
//! asks the ledger, in one operation with the hold, whether the call is the first. `call` is the
//! state of a call whose answer a retry may get: the request is hashed as it streams, and the
//! answer is recorded (`recording`), encoded (`answer`), sealed (`seal`) and stored before the call
//! is charged. `replay` sends the stored answer to a retry. `pass` is the gate's step for such
//! calls at a fixed price.

mod answer;
mod call;
mod claim;
mod key;
mod pass;
mod recording;
mod replay;
mod request;
mod seal;

pub(super) use answer::Replay;
pub use call::Retries;
pub(super) use call::{Last, Repeatable};
pub(super) use claim::{Asked, patience};
pub(super) use key::IDEMPOTENCY_KEY;
