//! The memory that stays allocated while nothing happens.

use crate::exchange::{Caller, request};
use crate::support::token;
use crate::{Counted, allocated};

/// The connections that each make a call and then stay open.
const CONNECTIONS: usize = 200;

/// The memory that an idle connection may keep, in bytes: its task, a buffer for the next head, and one for answers.
const A_CONNECTION: isize = 12 * 1024;

/// The memory that a gateway without connections may keep, in bytes, beside SQLite's pages and the allocator's own.
const A_GATEWAY: isize = 1024 * 1024;

#[test]
fn an_idle_gateway_and_its_idle_connections_keep_to_their_budget_of_memory() {
    let counted = Counted::start("");
    let gateway = allocated();
    let public = counted.gateway.public();
    let request = request(public, "/free", &token("alice"));
    let mut callers: Vec<Caller> = Vec::with_capacity(CONNECTIONS);
    let mut call = || {
        let mut caller = Caller::new(public, request.clone());
        caller.call();
        callers.push(caller);
    };
    // The first call leaves a connection to the upstream and a verified token, which stay.
    call();
    let before = allocated();
    for _ in 1..CONNECTIONS {
        call();
    }
    let connection = (allocated() - before) / (CONNECTIONS as isize - 1);
    println!("idle: a gateway keeps {gateway} bytes, and {connection} a connection");
    assert!(gateway <= A_GATEWAY, "an idle gateway keeps {gateway} bytes");
    assert!(connection <= A_CONNECTION, "an idle connection keeps {connection} bytes");
    drop(callers);
    counted.stop();
}
