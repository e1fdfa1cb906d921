//! `farebox account`

use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Value, json};

use crate::account::AccountId;
use crate::cli::admin_client::{AdminClient, REPEATED, segment};
use crate::cli::{CliError, ConfigFile, block_on};
use crate::credits::{Credits, SignedCredits};

/// Look at accounts, and correct them.
#[derive(Debug, Args)]
pub(super) struct Account {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List every account with its balance.
    List,
    /// Show one account.
    Show {
        /// The account's id.
        account: AccountId,
    },
    /// List the entries that moved an account's balance, newest first.
    Transactions {
        /// The account's id.
        account: AccountId,
        /// The most entries to list.
        #[arg(long, default_value_t = 50)]
        limit: u32,
    },
    /// Move a balance, up or down.
    Adjust {
        /// The account's id.
        account: AccountId,
        /// The change of the balance, such as 5 or -0.25.
        #[arg(allow_hyphen_values = true)]
        credits: SignedCredits,
        /// The adjustment's id: a repeated id adjusts nothing again. If absent, a new one is made.
        #[arg(long)]
        id: Option<String>,
        /// The reason, for people who read the ledger.
        #[arg(long)]
        reason: Option<String>,
    },
    /// Unfreeze an account that is frozen because one of its payments is disputed.
    Thaw {
        /// The account's id.
        account: AccountId,
    },
    /// Refund a call's charge: a part of it, or all that is left of it.
    Refund {
        /// The call's request id, as in its `x-request-id`, or the id of its capture, as
        /// `transactions` shows it: `capture:…`.
        request_id: String,
        /// The credits to refund, such as 2 or 0.25. If absent, everything that is left of the
        /// charge.
        #[arg(long)]
        credits: Option<Credits>,
        /// The id of this part: a repeated id refunds nothing again. If absent, a new one is made.
        #[arg(long, requires = "credits")]
        id: Option<String>,
        /// The reason, for people who read the ledger.
        #[arg(long)]
        reason: Option<String>,
    },
}

impl Account {
    pub fn run(self, config: &ConfigFile) -> Result<(), CliError> {
        block_on(async {
            match self.command {
                Command::List => list(config).await,
                Command::Show { account } => {
                    let path = format!("/admin/accounts/{}", segment(account.as_str()));
                    print_account(&AdminClient::ask_once(config, Method::GET, &path, None).await?);
                    Ok(())
                }
                Command::Transactions { account, limit } => {
                    let path = format!(
                        "/admin/accounts/{}/transactions?limit={limit}",
                        segment(account.as_str())
                    );
                    print_transactions(
                        &AdminClient::ask_once(config, Method::GET, &path, None).await?,
                    );
                    Ok(())
                }
                Command::Adjust { account, credits, id, reason } => {
                    let id = id.unwrap_or_else(|| format!("cli-{}", uuid::Uuid::now_v7()));
                    let path = format!("/admin/accounts/{}/adjustments", segment(account.as_str()));
                    let body =
                        json!({ "credits": credits.to_string(), "id": id, "reason": reason });
                    let answer =
                        AdminClient::ask_once(config, Method::POST, &path, Some(&body)).await?;
                    println!(
                        "{account} was adjusted by {credits} credits under id {id}{}; its balance \
                         after that: {}",
                        before(&answer),
                        balance_after(&answer)
                    );
                    Ok(())
                }
                Command::Thaw { account } => {
                    let path = format!("/admin/accounts/{}/thaw", segment(account.as_str()));
                    let answer = AdminClient::ask_once(config, Method::POST, &path, None).await?;
                    println!(
                        "{account} may spend again; disputes that froze it: {}",
                        answer["disputes"]
                    );
                    Ok(())
                }
                Command::Refund { request_id, credits, id, reason } => {
                    let call = request_id.strip_prefix("capture:").unwrap_or(&request_id);
                    let path = format!("/admin/captures/{}/refund", segment(call));
                    let mut body = json!({ "reason": reason });
                    if let Some(credits) = credits {
                        let id = id.unwrap_or_else(|| format!("cli-{}", uuid::Uuid::now_v7()));
                        body["credits"] = credits.to_string().into();
                        body["id"] = id.into();
                    }
                    let answer =
                        AdminClient::ask_once(config, Method::POST, &path, Some(&body)).await?;
                    println!("refunded {} credits{}", answer["amount"], before(&answer));
                    Ok(())
                }
            }
        })
    }
}

/// The end of a sentence about an operation: empty, or a remark that an earlier command made the
/// operation under the same id.
pub(super) fn before(answer: &Value) -> &'static str {
    if answer[REPEATED] == true { " before; nothing moved this time" } else { "" }
}

/// The balance after an operation, from the response.
pub(super) fn balance_after(answer: &Value) -> String {
    match &answer["balance_after"] {
        Value::Null => "unknown (the entry was folded)".to_owned(),
        balance => balance.to_string(),
    }
}

async fn list(config: &ConfigFile) -> Result<(), CliError> {
    let admin = AdminClient::connect(config).await?;
    let mut cursor = Value::Null;
    let done = loop {
        let after = cursor.as_str().map(|after| format!("&cursor={}", segment(after)));
        let path = format!("/admin/accounts?limit=200{}", after.unwrap_or_default());
        let page = match admin.ask(Method::GET, &path, None).await {
            Ok(page) => page,
            Err(error) => break Err(error),
        };
        page["accounts"].as_array().into_iter().flatten().for_each(print_account);
        cursor = page["next_cursor"].clone();
        if cursor.is_null() {
            break Ok(());
        }
    };
    admin.close().await?;
    done
}

fn print_account(account: &Value) {
    let frozen = if account["frozen"] == true { ", frozen by a dispute" } else { "" };
    println!(
        "{}  balance {}, held {}, available {}{frozen}",
        account["account"].as_str().unwrap_or_default(),
        account["balance"],
        account["held"],
        account["available"]
    );
}

fn print_transactions(page: &Value) {
    for line in page["transactions"].as_array().into_iter().flatten() {
        let text = |key: &str| line[key].as_str().unwrap_or("-").to_owned();
        let reason = line["reason"].as_str().map(|reason| format!("  {reason}"));
        let model = line["model"].as_str().map(|model| format!("  {model}"));
        let used = line["usage"].as_object().map(|used| {
            let counts: Vec<_> =
                used.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
            format!("  {}, held {}", counts.join(", "), line["held"])
        });
        let replays = line["replays"]
            .as_u64()
            .map(|times| format!("  replays {times}, the last at {}", text("replayed_at")));
        println!(
            "{}  {:13} {:>12}  balance {:>12}  {}  {}{}{}{}{}",
            text("created_at"),
            text("kind"),
            line["amount"].to_string(),
            line["balance_after"].to_string(),
            text("route"),
            text("id"),
            model.unwrap_or_default(),
            used.unwrap_or_default(),
            replays.unwrap_or_default(),
            reason.unwrap_or_default()
        );
    }
}
