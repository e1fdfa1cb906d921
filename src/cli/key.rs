//! `farebox key`

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Value, json};

use super::admin_client::{AdminClient, segment};
use super::import::{Row, read_csv};
use super::{CliError, ConfigFile, block_on};
use crate::account::AccountId;
use crate::ledger::KeyHash;

/// How many keys are sent at once: the ledger decides nothing else while it takes them.
const MAX_SLICE: usize = 500;

/// Make, list, revoke and import API keys.
#[derive(Debug, Args)]
pub(super) struct Key {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a key. It is shown this once.
    Create {
        /// Whose credits it spends.
        account: AccountId,
        /// What you call it.
        #[arg(long, default_value = "")]
        name: String,
        /// A service key, for a trusted backend: it may act for every account.
        #[arg(long)]
        service: bool,
    },
    /// The keys of an account.
    List {
        /// Whose.
        account: AccountId,
    },
    /// Revoke a key, at once.
    Revoke {
        /// The key's id, as `list` shows it.
        id: String,
    },
    /// Bring keys over from another gateway, so that customers keep theirs. Broken off, it has
    /// imported the first of them: type it again.
    Import {
        /// A CSV file with the columns account and hash (the SHA-256 of the key in hexadecimal),
        /// and optionally name; the first line names them.
        file: PathBuf,
    },
}

impl Key {
    pub fn run(self, config: &ConfigFile) -> Result<(), CliError> {
        block_on(async {
            match self.command {
                Command::Create { account, name, service } => {
                    let path = format!("/admin/accounts/{}/keys", segment(account.as_str()));
                    let body = json!({ "name": name, "service": service });
                    let admin = AdminClient::connect_to_open(config).await?;
                    let key = admin.ask(Method::POST, &path, Some(&body)).await;
                    admin.close().await?;
                    let key = key?;
                    println!("id:  {}", key["id"].as_str().unwrap_or_default());
                    println!("key: {}", key["key"].as_str().unwrap_or_default());
                    eprintln!("This is the only time the key is shown.");
                }
                Command::List { account } => {
                    let path = format!("/admin/accounts/{}/keys", segment(account.as_str()));
                    print_keys(&AdminClient::ask_once(config, Method::GET, &path, None).await?);
                }
                Command::Revoke { id } => {
                    let path = format!("/admin/keys/{}", segment(&id));
                    AdminClient::ask_once(config, Method::DELETE, &path, None).await?;
                    println!("{id} is revoked");
                }
                Command::Import { file } => import(config, &file).await?,
            }
            Ok(())
        })
    }
}

fn print_keys(page: &Value) {
    for key in page["keys"].as_array().into_iter().flatten() {
        let text = |name: &str| key[name].as_str().unwrap_or_default().to_owned();
        let service = if key["service"] == true { "  service" } else { "" };
        let revoked = match key["revoked_at"].as_str() {
            Some(at) => format!("  revoked {at}"),
            None => String::new(),
        };
        println!(
            "{}  {}  {}  {}{service}{revoked}",
            text("id"),
            text("hint"),
            text("created_at"),
            text("name")
        );
    }
}

/// Sends the keys of a file slice by slice; what is in the ledger already stays as it is.
async fn import(config: &ConfigFile, file: &Path) -> Result<(), CliError> {
    let rows = read_csv(file, &["account", "hash"])?;
    for row in &rows {
        let wrong = |error: &dyn std::fmt::Display| {
            CliError::Failed(format!("{}:{}: {error}", file.display(), row.line))
        };
        row.get("account").parse::<AccountId>().map_err(|error| wrong(&error))?;
        row.get("hash").parse::<KeyHash>().map_err(|error| wrong(&error))?;
    }
    let admin = AdminClient::connect(config).await?;
    let (mut imported, mut existing) = (0, 0);
    let mut done = Ok(());
    for slice in rows.chunks(MAX_SLICE) {
        let keys: Vec<_> = slice.iter().map(key_of).collect();
        let body = json!({ "keys": keys });
        match admin.ask(Method::POST, "/admin/keys/import", Some(&body)).await {
            Ok(answer) => {
                imported += answer["imported"].as_u64().unwrap_or_default();
                existing += answer["existing"].as_u64().unwrap_or_default();
            }
            Err(error) => {
                let (first, last) = (slice.first(), slice.last());
                let [first, last] = [first, last].map(|row| row.map_or(0, |row| row.line));
                let file = file.display();
                done = Err(CliError::Failed(format!("{file}, lines {first} to {last}: {error}")));
                break;
            }
        }
    }
    admin.close().await?;
    let counted = format!("imported {imported} keys; {existing} were there already");
    done.map_err(|error| CliError::Failed(format!("{error}\n{counted}; type it again to go on")))?;
    println!("{counted}");
    Ok(())
}

fn key_of(row: &Row) -> Value {
    json!({ "account": row.get("account"), "hash": row.get("hash"), "name": row.get("name") })
}
