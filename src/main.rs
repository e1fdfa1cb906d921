//! The `farebox` program: a thin shell around the library.
#![forbid(unsafe_code)]

use std::process::ExitCode;

/// Pingora's own benchmarks use it too; with the system's allocator a call costs some 5 µs more.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    farebox::cli::main()
}
