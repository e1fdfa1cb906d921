//! `farebox prices`

use clap::Args;

use crate::cli::{CliError, ConfigFile};
use crate::config::Sections;
use crate::gateway::StartError;
use crate::price::{PriceTable, render_report};

/// Print the price table with your own cost and margin.
///
/// Prints the price of each call and its cost to you. A credit sells at the smallest pack's price.
#[derive(Debug, Args)]
pub(super) struct Prices {}

impl Prices {
    pub fn run(self, file: &ConfigFile) -> Result<(), CliError> {
        let config = file.load(Sections::ROUTES | Sections::PACKS)?;
        let upstreams: Vec<&str> =
            config.routes.iter().map(|route| route.upstream.as_str()).collect();
        let table = PriceTable::new(&config.routes, &upstreams).map_err(StartError::Config)?;
        print!("{}", render_report(&table, &config.packs));
        Ok(())
    }
}
