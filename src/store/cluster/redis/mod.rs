//! Redis: the connections, the scripts, a batch's request and reply, and the values that are stored.

pub(crate) mod connection;
pub(crate) mod fitness;
pub(crate) mod info;
mod line;
pub(crate) mod meta;
pub(crate) mod pack;
pub(crate) mod record;
pub(crate) mod reply;
pub(crate) mod request;
pub(crate) mod script;
