//! `farebox grant`

use clap::Args;
use http::Method;
use serde_json::json;

use super::account::{balance_after, before};
use super::admin_client::{AdminClient, segment};
use super::{CliError, ConfigFile, block_on};
use crate::account::AccountId;
use crate::credits::Credits;

/// Give credits to an account.
///
/// Adds credits to an account, which comes to exist with its first grant. An id that was used
/// before grants nothing again.
#[derive(Debug, Args)]
pub(super) struct Grant {
    /// Whose; the account comes to exist with its first grant. The id carries the account_prefix of its
    /// issuer, where that has one: acme:bob, not bob.
    account: AccountId,
    /// How many credits, such as 100 or 0.25.
    credits: Credits,
    /// Under which id: the same id again is no second grant. A new one if absent.
    #[arg(long)]
    id: Option<String>,
    /// Why, for people who read the ledger.
    #[arg(long)]
    reason: Option<String>,
}

impl Grant {
    pub fn run(self, file: &ConfigFile) -> Result<(), CliError> {
        let Self { account, credits, id, reason } = self;
        let id = id.unwrap_or_else(|| format!("cli-{}", uuid::Uuid::now_v7()));
        block_on(async {
            let path = format!("/admin/accounts/{}/grants", segment(account.as_str()));
            // Amounts as text: no float touches them on the way.
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
