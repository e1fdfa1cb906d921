//! Puts the parts of a gateway together: reads the config, opens the ledger, starts the services
//! and stops them.

mod background;
pub mod config;
mod error;
mod live;
mod open;
mod open_files;
mod private_listener;
mod start;
mod stop;

pub use error::StartError;
pub use open::{open_app, open_ledger, open_sales};
pub use open_files::{OpenFiles, TooFewFiles};
pub use start::{Addresses, Gateway};
