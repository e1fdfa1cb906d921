//! `farebox grant`

use clap::Args;
use http::Method;
use serde_json::json;

use crate::account::AccountId;
use crate::cli::account::{balance_after, before};
use crate::cli::admin_client::{AdminClient, segment};
use crate::cli::{CliError, ConfigFile, block_on};
use crate::credits::Credits;

/// Give credits to an account.
///
/// Adds credits to an account, and opens the account if it does not exist. A repeated id grants
/// nothing again.
#[derive(Debug, Args)]
pub(super) struct Grant {
    /// The account's id. If the account's issuer has an account_prefix, the id starts with it:
    /// acme:bob, not bob.
    account: AccountId,
    /// The credits to add, such as 100 or 0.25.
    credits: Credits,
    /// The grant's id: a repeated id grants nothing again. If absent, a new one is made.
    #[arg(long)]
    id: Option<String>,
    /// The reason, for people who read the ledger.
    #[arg(long)]
    reason: Option<String>,
}

impl Grant {
    pub fn run(self, file: &ConfigFile) -> Result<(), CliError> {
        let Self { account, credits, id, reason } = self;
        let id = id.unwrap_or_else(|| format!("cli-{}", uuid::Uuid::now_v7()));
        block_on(async {
            let path = format!("/admin/accounts/{}/grants", segment(account.as_str()));
            // Amounts are sent as text, so that no floating-point number is involved.
            let body = json!({ "credits": credits.to_string(), "id": id, "reason": reason });
            let answer = AdminClient::ask_once(file, Method::POST, &path, Some(&body)).await?;
            println!(
                "{account} was granted {credits} credits under id {id}{}; its balance after that: {}",
                before(&answer),
                balance_after(&answer)
            );
            Ok(())
        })
    }
}
