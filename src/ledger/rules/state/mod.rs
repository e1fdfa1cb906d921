//! The state that the rules decide on: the accounts and holds in memory, the stored rows that a
//! batch names, and the changes of a batch.

mod changes;
mod claims;
mod known;
mod known_keys;
mod known_payments;
mod lookups;
mod memory;
mod rows;

pub(crate) use changes::{Changes, Undo};
pub(crate) use claims::{KeyClaim, LeftCall, LeftState};
pub(crate) use known::Known;
pub(crate) use known_keys::KnownKeys;
pub(crate) use lookups::Lookups;
pub(crate) use memory::State;
pub(crate) use rows::{Account, EndedHold, LiveHold, Now, StripeCustomer};
