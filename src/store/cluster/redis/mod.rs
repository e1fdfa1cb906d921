//! Redis: the connections, the scripts, and how a batch is asked.

pub(crate) mod connection;
pub(crate) mod pack;
pub(crate) mod request;
pub(crate) mod script;
