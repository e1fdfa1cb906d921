//! Metered calls: the request's body is read for its price, and the answer for its usage.
//!
//! `admit` reads the body, quotes the call and holds the credits; `call` is the state of the call
//! after that; `reading` reads the answer; `growth` extends the hold of a stream; `charge` turns
//! the usage into a cost. The relay (`relay/metered.rs`) moves the bytes.

mod admit;
mod call;
mod charge;
mod counters;
mod growth;
mod head;
mod outbox;
mod reading;

pub(super) use admit::{Admission, admit};
pub(super) use call::{Fed, Metered, Settled};
pub(super) use counters::MeteredRoute;
pub(super) use growth::{Answered, Limit};
pub(super) use head::limit;
