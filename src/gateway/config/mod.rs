//! The whole of `gateway.toml`: [`load`] reads the sections that a command needs.

mod file;
mod models_file;
#[cfg(test)]
mod tests;
mod text;

pub use file::*;
