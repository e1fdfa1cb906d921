//! `farebox init`: a first gateway.toml.

mod answers;
mod command;
mod file;

pub(in crate::cli) use command::Init;
