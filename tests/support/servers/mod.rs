//! Real servers for tests: private ones, on free ports of 127.0.0.1, in folders of their own.
//! A server that is started here ends with its value, also when the test panics.
// Each test binary uses some of it.
#![allow(dead_code, unused_imports)]

mod bouncer;
mod cut;
mod lighttpd;
mod postgres;
mod process;
mod redis;
mod uwsgi;

pub use bouncer::Bouncer;
pub use cut::{CutProxy, Flow};
pub use lighttpd::Lighttpd;
pub use postgres::{Disk, Postgres, shared_postgres};
pub use process::{Family, free_port, is_alive, own_ports};
pub use redis::{Persistence, Redis, Snapshot};
pub use uwsgi::Uwsgi;
