//! Metered calls through a whole gateway: what is held, what is charged, what the client sees.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../support/mod.rs"]
mod support;

mod answers;
mod attacks;
mod check;
mod cut_short;
mod growing;
mod held;
mod http2;
mod leaving;
mod models;
mod official_shapes;
mod refusals;
mod retries;
mod several_models;
mod shop;
mod streams;
mod unread;
mod usage;
