//! Real servers for tests. Each is private: it has a free port of 127.0.0.1 and a folder of its
//! own. A server ends when its value is dropped, also if the test panics.
// Each test binary uses only a part of this module.
#![allow(dead_code, unused_imports)]

mod bouncer;
mod cut;
mod lighttpd;
mod postgres;
mod postgres_folder;
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
