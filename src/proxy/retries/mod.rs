//! A retry is charged once: requests with an idempotency key, and those that an SDK sends again by itself.
//!
//! `key` reads the header, `request` recognises a request and its sender by hashes. `claim` asks the ledger, in
//! one operation with the hold, whether the call is the first. `call` is such a call on its way: its request is
//! hashed as it streams, and its answer is recorded (`recording`), put into bytes (`answer`), sealed (`seal`)
//! and stored before the call is charged. `replay` sends it to the retry. `pass` has the steps of the gate.

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
