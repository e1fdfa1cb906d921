//! The `farebox` program: a thin shell around the library.
#![forbid(unsafe_code)]

use std::process::ExitCode;

/// The allocator of Pingora's own benchmarks. With the system's allocator a call costs about 5 µs
/// more.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    farebox::cli::main()
}
