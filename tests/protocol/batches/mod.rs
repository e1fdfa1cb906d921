//! The model of batches: how the texts that Redis decides come into Postgres in `strict`, and stay there.
//!
//! Each hold is a batch of its own. A batch has a place, which is its epoch and its number in it. There are two
//! gateways, Redis with an older copy of its data, and Postgres with a standby that lags. An append and a recovery are
//! modelled statement by statement. Leases are left out: a recovery begins whenever it likes, so the lock of the
//! appends alone has to keep the promise.

mod appends;
mod faults;
mod model;
mod properties;
mod recovery;
mod state;
mod sync;
mod table;
mod variant;
