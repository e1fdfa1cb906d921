//! The model of several Redis servers: which of them has the ledger, and when a gateway may end its epoch.
//!
//! Two gateways reach two servers: a master and its replica that is promoted, or two masters that have nothing to do
//! with each other, because the gateways have different addresses. Batches are left out. A gateway may answer if it has
//! a lease, serves the epoch, and reaches a server that runs the epoch's scripts.

mod faults;
mod gateways;
mod model;
mod properties;
mod state;
mod table;
mod variant;
