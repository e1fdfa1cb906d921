//! Metered calls: the request's body is read for its price, and the answer for its usage.
//!
//! `admit` reads, quotes and holds; `call` is the call on its way; `reading` reads its answer; `growth` extends
//! the hold of a stream; `charge` says what the usage costs. The relay (`relay/metered.rs`) moves the bytes.

mod admit;
mod call;
mod charge;
mod counters;
mod growth;
mod head;
mod outbox;
mod reading;

pub(super) use admit::{Admission, Refused, admit};
pub(super) use call::{Fed, Metered, Settled};
pub(super) use counters::MeteredRoute;
pub(super) use growth::Answered;
pub(super) use head::limit;
