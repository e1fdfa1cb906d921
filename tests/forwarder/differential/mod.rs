//! The same exchanges through a bare proxy and through Farebox.

mod bare;
mod client;
mod compare;
mod exchange;
mod explained;
mod generate;
mod http2;
mod lane;
mod run;
mod upstream;
