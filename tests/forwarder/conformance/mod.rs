//! The requirements of RFC 9110, 9112, 9113 and 7541 for servers and gateways, case by case. The cases are those of
//! h2spec and of the suites for HTTP/1 that apply to a gateway: each has the bytes that a client sends, and the
//! outcome that must follow.
//!
//! A case that Farebox is known to get wrong is marked as `known`. Once Farebox gets it right, its test fails until
//! the mark is removed.

mod http1;
mod http1_bodies;
mod http1_cases;
mod http1_heads;
mod http2;
mod http2_cases;
mod http2_frames;
mod http2_messages;
mod server;
