//! The demands of RFC 9110, 9112, 9113 and 7541 on a server and a gateway, case by case: the cases of h2spec
//! and of the suites for HTTP/1 that apply to a gateway, as bytes in and what must come of them.
//!
//! A case of which Farebox is known to be wrong says so; once it is right, its test fails until the
//! word is taken out.

mod http1;
mod http1_bodies;
mod http1_cases;
mod http1_heads;
mod http2;
mod http2_cases;
mod http2_frames;
mod http2_messages;
mod server;
