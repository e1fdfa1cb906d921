//! `farebox packs`

use clap::{Args, Subcommand};
use reqwest::Url;

use crate::api::STRIPE_WEBHOOK_PATH;
use crate::cli::{CliError, ConfigFile, block_on};
use crate::config::{Sections, process_env};
use crate::gateway;
use crate::gateway::config::Config;
use crate::stripe::{ApiError, Client, sync_packs, sync_webhook};

/// Print the packs for sale, or create them at Stripe.
#[derive(Debug, Args)]
pub(super) struct Packs {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Create or update the packs' products and prices at Stripe, and the webhook. It can be
    /// repeated at any time.
    Sync {
        /// The address at which Stripe reaches this gateway, such as
        /// https://api.example.com/webhooks/stripe. The webhook is created there, or gets the
        /// events that it lacks. Without this option, no webhook is touched.
        #[arg(long, value_name = "URL")]
        webhook_url: Option<Url>,
    },
}

impl Packs {
    pub fn run(self, file: &ConfigFile) -> Result<(), CliError> {
        match self.command {
            None => list(file),
            Some(Command::Sync { webhook_url }) => block_on(sync(file, webhook_url.as_ref())),
        }
    }
}

fn list(file: &ConfigFile) -> Result<(), CliError> {
    let config = file.load(Sections::PACKS)?;
    if config.packs.is_empty() {
        println!("{} has no [[packs]]", file.path().display());
    }
    let width = config.packs.iter().map(|pack| pack.id.len()).max().unwrap_or(0);
    for pack in &config.packs {
        let best = if pack.best_value { "  best value" } else { "" };
        println!("{:width$}  {} credits for {}{best}", pack.id, pack.credits, pack.price);
    }
    Ok(())
}

async fn sync(file: &ConfigFile, webhook_url: Option<&Url>) -> Result<(), CliError> {
    if let Some(url) = webhook_url.filter(|url| !url.path().ends_with(STRIPE_WEBHOOK_PATH)) {
        return Err(CliError::Failed(format!(
            "{url} is not the address of Farebox's webhook, which ends with {STRIPE_WEBHOOK_PATH}; nothing was done"
        )));
    }
    let config = load(file)?;
    let stripe = config.stripe.ok_or_else(|| {
        CliError::Failed(format!("{} has no [stripe] section", file.path().display()))
    })?;
    if stripe.sandbox {
        let none = "[stripe] has `sandbox = true`, so there is no Stripe to make packs at; remove it, and set the keys";
        return Err(CliError::Failed(none.to_owned()));
    }
    let refused = |error: ApiError| CliError::Failed(error.to_string());
    let client = Client::new(&stripe).map_err(refused)?;
    for report in sync_packs(&client, &config.packs).await.map_err(refused)? {
        println!("{}: {}; stripe_price = {:?}", report.pack, report.done, report.price);
    }
    let Some(url) = webhook_url else {
        println!(
            "no webhook was touched; to make or update it, say where Stripe reaches this gateway:\n  \
             farebox packs sync --webhook-url https://api.example.com{STRIPE_WEBHOOK_PATH}"
        );
        return Ok(());
    };
    let webhook = sync_webhook(&client, url.as_str()).await.map_err(refused)?;
    println!("webhook {} at {url}: {}", webhook.id, webhook.done);
    match webhook.secret {
        Some(secret) => println!(
            "Put this where [stripe] webhook_secret reads it; this command cannot show it again:\n  \
             export STRIPE_WEBHOOK_SECRET={}",
            secret.expose()
        ),
        None => println!("its signing secret is unchanged"),
    }
    Ok(())
}

/// Reads the config. The variable with the webhook's secret may be unset, because the first sync
/// fetches the secret from Stripe.
fn load(file: &ConfigFile) -> Result<Config, CliError> {
    let env = |name: &str| {
        let value = process_env(name).filter(|value| !value.is_empty());
        value.or_else(|| name.contains("WEBHOOK").then(|| "not known yet".to_owned()))
    };
    Ok(gateway::config::load(file.path(), Sections::PACKS | Sections::STRIPE, &env)?)
}
