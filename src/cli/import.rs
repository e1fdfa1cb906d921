//! `farebox import`

use std::path::{Path, PathBuf};

use clap::{ArgGroup, Args};
use serde::Serialize;

use crate::account::AccountId;
use crate::api::is_payment_intent;
use crate::cli::admin_client::AdminClient;
use crate::cli::csv_rows::{self, Columns, Row, Rows};
use crate::cli::import_rows::Destination;
use crate::cli::{CliError, ConfigFile, block_on, reconcile};
use crate::config::{Sections, process_env};
use crate::credits::Credits;
use crate::gateway;
use crate::ledger::{BackendKind, EntryKind, OperationId};
use crate::price::{PackConfig, Price};
use crate::store::{Imported, import};

/// Import accounts from an embedded ledger, or from an earlier system.
///
/// Imports a whole embedded ledger into Redis and Postgres (--from), or the balances of accounts in
/// any earlier system (--csv).
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("source").required(true).args(["csv", "from"]))]
pub(super) struct Import {
    /// An embedded ledger whose gateway is stopped. All of it is copied into the empty ledger of
    /// --config, in one transaction: entries under their ids, balances, holds of the API, keys,
    /// payments, Stripe's events. FILE stays as it is. An interrupted import has changed nothing;
    /// repeat it.
    #[arg(long, value_name = "FILE", conflicts_with = "csv")]
    from: Option<PathBuf>,
    /// A CSV file with the columns account, credits and id; the first line names them. Each row is
    /// a grant, which opens the account, without a sign-up grant; 0 credits are allowed. All rows
    /// are checked before anything is imported. Repeatable: a row whose id was imported before
    /// grants nothing again. Where an issuer has an account_prefix, the column account must include
    /// it: acme:bob, not bob. With the column payment_intent (pi_…), a later refund or dispute of
    /// that payment takes credits back, in proportion to the column paid (79.00 EUR); an empty
    /// value means the price of the pack with as many credits.
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Print the outcome of --csv, or every mistake in the file, and change nothing.
    #[arg(long, conflicts_with = "from")]
    dry_run: bool,
}

impl Import {
    pub fn run(self, file: &ConfigFile) -> Result<(), CliError> {
        match (&self.from, &self.csv) {
            (Some(from), _) => import_ledger(file, from),
            (None, Some(csv)) => import_rows(file, csv, self.dry_run),
            // clap makes sure that one of the two is given.
            (None, None) => Ok(()),
        }
    }
}

fn import_ledger(file: &ConfigFile, from: &Path) -> Result<(), CliError> {
    let config = file.load(Sections::LEDGER)?.ledger;
    if config.backend != BackendKind::Redis {
        return Err(CliError::Failed(format!(
            "{}: [ledger] says backend = \"embedded\"; --from moves a ledger into one with \
             backend = \"redis\", a redis_url and a postgres_url",
            file.path().display()
        )));
    }
    block_on(async {
        let (moved, schema) = (from.display(), &config.postgres_schema);
        match import(&config, from).await? {
            Imported::Before => println!("{moved} was moved into the schema {schema} before"),
            Imported::Moved(rows) => {
                let rows: Vec<_> =
                    rows.iter().map(|(name, count)| format!("{count} {name}")).collect();
                println!("moved {moved} into the schema {schema}: {}", rows.join(", "));
            }
        }
        reconcile::check(file).await
    })
}

/// One row with an account's balance, as the admin route reads it.
#[derive(Serialize)]
struct AccountRow {
    account: AccountId,
    credits: Credits,
    id: String,
    reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    payment: Option<Payment>,
}

#[derive(Serialize)]
struct Payment {
    payment_intent: String,
    paid: String,
}

const COLUMNS: Columns =
    Columns { required: &["account", "credits", "id"], optional: &["payment_intent", "paid"] };

const DESTINATION: Destination = Destination { path: "/admin/import", list: "rows", row: "row" };

fn import_rows(file: &ConfigFile, csv: &Path, dry_run: bool) -> Result<(), CliError> {
    let packs = file.load(Sections::PACKS)?.packs;
    let mut rows = csv_rows::read(csv, &COLUMNS, |row| read_row(row, &packs))?;
    if let Some(warning) = nameless(file, csv, &rows) {
        eprintln!("warning: {warning}");
    }
    rows.refuse_repeated("id", |row| Some(&row.id));
    rows.refuse_repeated("payment", |row| row.payment.as_ref().map(|p| p.payment_intent.as_str()));
    block_on(async {
        let admin = AdminClient::connect_to_import(file, dry_run).await?;
        let sent = DESTINATION.send(&admin, rows, dry_run).await;
        admin.close().await?;
        println!("{}", sent?);
        Ok(())
    })
}

/// A warning about accounts that no token can name: every issuer has a prefix, and these accounts
/// start with none of them.
fn nameless(file: &ConfigFile, csv: &Path, rows: &Rows<AccountRow>) -> Option<String> {
    let prefixes = gateway::config::account_prefixes(file.path(), &process_env)?;
    let has_prefix = |account: &AccountId| {
        prefixes.iter().any(|prefix| account.as_str().starts_with(prefix.as_str()))
    };
    let mut found = rows.rows.iter().zip(&rows.lines).filter(|(row, _)| !has_prefix(&row.account));
    let (AccountRow { account, .. }, line) = found.next()?;
    let (count, all) = (1 + found.count(), rows.rows.len());
    let (csv, prefix) = (csv.display(), prefixes.first()?);
    Some(format!(
        "{count} of {all} rows name an account without the `account_prefix` of an [[auth.jwt]], such as \
         `{account}` ({csv}:{line}): a token of `{account}` names the account `{prefix}{account}`; write the \
         prefix into the column account"
    ))
}

fn read_row(row: &mut Row<'_>, packs: &[PackConfig]) -> Option<AccountRow> {
    let account = row.parsed("account");
    let credits = row.parsed("credits");
    let id = row.get("id").to_owned();
    if let Err(error) = OperationId::posting(EntryKind::Grant, &id) {
        row.wrong(format!("id: {error}"));
    }
    let payment = match row.filled("payment_intent").map(str::to_owned) {
        Some(payment_intent) => Some(read_payment(row, payment_intent, credits, packs)?),
        None => None,
    };
    Some(AccountRow { account: account?, credits: credits?, id, reason: "import", payment })
}

fn read_payment(
    row: &mut Row<'_>,
    payment_intent: String,
    credits: Option<Credits>,
    packs: &[PackConfig],
) -> Option<Payment> {
    if !is_payment_intent(&payment_intent) {
        row.wrong("payment_intent: Stripe's id of a payment begins with pi_".to_owned());
    }
    let paid = match row.filled("paid") {
        Some(_) => row.parsed::<Price>("paid")?,
        None => match packs.iter().find(|pack| Some(pack.credits) == credits) {
            Some(pack) => pack.price,
            None => {
                // If the amount could not be read, its mistake was already noted.
                let credits = credits?;
                row.wrong(format!(
                    "no pack has {credits} credits, so write the amount paid into the column paid, such as \
                     79.00 EUR"
                ));
                return None;
            }
        },
    };
    Some(Payment { payment_intent, paid: paid.to_string() })
}
