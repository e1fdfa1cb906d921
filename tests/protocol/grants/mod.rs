//! The model of deliveries: how one account's grants, which Postgres decides, come into Redis once each, although
//! Postgres may fail over to a standby that lacks some of them.
//!
//! Two gateways deliver. Any of them may stand still between the steps of a delivery. Each grant has an amount of its
//! own, so the digest of a chain of grants is the chain itself.

mod faults;
mod model;
mod properties;
mod state;
mod steps;
mod table;
mod variant;
