//! The memory of a gateway, as budgets: what one call allocates, and what an idle gateway and an idle connection keep.
//!
//! This is a test binary of its own, because its allocator counts for the whole process. Client and upstream are plain
//! threads with fixed buffers, which allocate nothing while they talk, so all that is counted belongs to the gateway.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../support/mod.rs"]
mod support;

mod exchange;
mod idle;
mod per_call;

use std::alloc::System;
use std::sync::{Mutex, MutexGuard, PoisonError};

use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use support::{TestGateway, config_with};
use tokio::runtime::Runtime;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// A gateway with one worker thread, in front of an upstream that allocates nothing. Alice has a million credits.
struct Counted {
    runtime: Runtime,
    gateway: TestGateway,
    /// The allocator counts for the whole process, so one test runs at a time.
    _alone: MutexGuard<'static, ()>,
}

/// A free route, beside the one that costs 5 credits.
const FREE: &str = r#"
[[routes]]
path = "/free"
methods = ["POST"]
upstream = "ai"
credits = 0
"#;

impl Counted {
    /// Starts a gateway with these lines in `[ledger]`.
    fn start(ledger: &str) -> Self {
        Self::start_with(ledger, "")
    }

    /// Starts a gateway with these lines in `[ledger]`, and more tables.
    fn start_with(ledger: &str, tables: &str) -> Self {
        static ALONE: Mutex<()> = Mutex::new(());
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        // The log line of a charge is formatted as well, and thrown away.
        let _ = tracing_subscriber::fmt().with_ansi(false).with_writer(std::io::sink).try_init();
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(1).enable_all().build().unwrap();
        let config = config_with(exchange::start_upstream(), "", ledger, &[FREE, tables].concat());
        let gateway = runtime.block_on(async {
            let gateway = TestGateway::start(&config).await;
            gateway.grant("alice", 1_000_000).await;
            gateway
        });
        Self { runtime, gateway, _alone: alone }
    }

    fn stop(self) {
        self.runtime.block_on(self.gateway.stop());
    }
}

/// The memory that is allocated now, in bytes.
fn allocated() -> isize {
    let stats = ALLOCATOR.stats();
    stats.bytes_allocated as isize - stats.bytes_deallocated as isize
}
