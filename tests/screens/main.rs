//! The screens in a real browser: Debian's Chromium against the real binary. Each test has a
//! browser, a gateway and a folder of its own, and waits for what a page shows, never for a time.
//!
//! `FAREBOX_SCREENS_NODE` is the folder with the packages that `package.json` names, which `make`
//! installs.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../support/mod.rs"]
mod support;

use support::{http, process};

mod accessible;
mod app;
mod brand;
mod browser;
mod demo;
mod elsewhere;
mod history;
mod hostile;
mod keyboard;
mod live;
mod metered;
mod narrow;
mod newcomer;
mod operator;
mod pictures;
mod react;
mod seller;
mod signing_in;
mod upsell;
mod vite;
