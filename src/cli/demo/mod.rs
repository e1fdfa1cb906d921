//! `farebox demo`: a gateway, an upstream and a funded account in one process.

mod command;
mod file;
mod metered;
mod start;
mod upstream;

pub(in crate::cli) use command::Demo;
