//! `farebox key`

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use http::Method;
use serde::Serialize;
use serde_json::{Value, json};

use crate::account::AccountId;
use crate::cli::admin_client::{AdminClient, segment};
use crate::cli::csv_rows::{self, Columns, Row};
use crate::cli::import_rows::Destination;
use crate::cli::{CliError, ConfigFile, block_on};
use crate::ledger::KeyHash;

/// Make, list, revoke and import API keys.
#[derive(Debug, Args)]
pub(super) struct Key {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a key. It is shown only this once.
    Create {
        /// The account whose credits it spends.
        account: AccountId,
        /// A name for the key.
        #[arg(long, default_value = "")]
        name: String,
        /// Make a service key, for a trusted backend: it may act for every account.
        #[arg(long)]
        service: bool,
    },
    /// List the keys of an account.
    List {
        /// The account's id.
        account: AccountId,
    },
    /// Revoke a key, at once.
    Revoke {
        /// The key's id, as `list` shows it.
        id: String,
    },
    /// Import the keys of another gateway, so that customers can go on using them. All rows are
    /// checked before anything is imported. After an interruption, repeat the command.
    Import {
        /// A CSV file with the columns account and hash (the SHA-256 of the key in hexadecimal),
        /// and optionally name; the first line names them.
        file: PathBuf,
        /// Print the outcome, or every mistake in the file, and change nothing.
        #[arg(long)]
        dry_run: bool,
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
                Command::Import { file, dry_run } => import(config, &file, dry_run).await?,
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

/// One row with a key, as the admin route reads it.
#[derive(Serialize)]
struct KeyRow {
    account: AccountId,
    hash: String,
    name: String,
}

const COLUMNS: Columns = Columns { required: &["account", "hash"], optional: &["name"] };

const DESTINATION: Destination =
    Destination { path: "/admin/keys/import", list: "keys", row: "key" };

async fn import(config: &ConfigFile, file: &Path, dry_run: bool) -> Result<(), CliError> {
    let mut rows = csv_rows::read(file, &COLUMNS, read_row)?;
    rows.refuse_repeated("hash", |row| Some(&row.hash));
    let admin = AdminClient::connect_to_import(config, dry_run).await?;
    let sent = DESTINATION.send(&admin, rows, dry_run).await;
    admin.close().await?;
    println!("{}", sent?);
    Ok(())
}

fn read_row(row: &mut Row<'_>) -> Option<KeyRow> {
    let account = row.parsed("account");
    let hash = row.parsed::<KeyHash>("hash");
    let name = row.get("name").to_owned();
    Some(KeyRow { account: account?, hash: hash?.to_string(), name })
}
