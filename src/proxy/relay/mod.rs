//! Passes a request on to its upstream and the answer back, in one task.
//!
//! Both directions run at once, since an answer may begin before its request has ended. Writes
//! never wait (`link.rs`, `answer_body.rs`). The relay waits only for reads, and reads nothing for
//! a side that is blocked. A call ends when its request and its answer have ended, or with an
//! error. The source of the error says which side failed.
//!
//! `pass` is the loop, `events` waits for the next thing to happen, and `request`, `answer` and
//! `metered` handle it. `deadlines` says when a side has been silent for too long.

mod answer;
mod deadlines;
mod events;
mod metered;
mod pass;
mod request;
mod state;

pub(super) use state::{Relay, Silences};
