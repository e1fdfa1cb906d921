//! Bytes at random against the real binary: no call is run for less than its price.

mod check;
mod http1;
mod http2;
mod prices;
mod run;
mod side;
mod upstream;
