//! `farebox prices`

use clap::Args;

use crate::cli::{CliError, ConfigFile};
use crate::config::Sections;
use crate::gateway::StartError;
use crate::price::metered::{Models, Rates};
use crate::price::{PriceTable, render_report};

/// Print the price table with your own cost and margin.
///
/// Prints the price of each call and its cost to you, and the same for each unit of what is priced by
/// usage: a million tokens of a model, an image, a second. A credit sells at the smallest pack's price.
#[derive(Debug, Args)]
pub(super) struct Prices {}

impl Prices {
    pub fn run(self, file: &ConfigFile) -> Result<(), CliError> {
        let config = file.load(Sections::ROUTES | Sections::MODELS | Sections::PACKS)?;
        let upstreams: Vec<&str> =
            config.routes.iter().filter_map(|route| route.upstream.as_deref()).collect();
        let table = PriceTable::new(&config.routes, &upstreams).map_err(StartError::Config)?;
        let table = table.with_models(Models::new(&config.models));
        print!("{}", render_report(&table, &config.packs, &Rates::new(&config.rates)));
        Ok(())
    }
}
