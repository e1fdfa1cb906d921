//! `farebox import`

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use super::admin_client::AdminClient;
use super::bring_over::Way;
use super::csv_rows::{self, Columns, Row};
use super::{CliError, ConfigFile, block_on, reconcile};
use crate::account::AccountId;
use crate::api::is_payment_intent;
use crate::config::Sections;
use crate::credits::Credits;
use crate::ledger::{BackendKind, EntryKind, Imported, OperationId, import};
use crate::price::{PackConfig, Price};

/// Bring accounts over from an embedded ledger, or from an earlier system.
///
/// Brings accounts over: a whole embedded ledger into Redis and Postgres (--from), or what accounts
/// had in any earlier system (--csv).
#[derive(Debug, Args)]
pub(super) struct Import {
    /// An embedded ledger whose gateway is stopped. All of it is moved into the empty ledger of
    /// --config, in one transaction: entries under their ids, balances, holds of the API, keys,
    /// payments, Stripe's events. FILE stays as it is. Broken off, it has done nothing; repeat it.
    #[arg(long, value_name = "FILE", required_unless_present = "csv", conflicts_with = "csv")]
    from: Option<PathBuf>,
    /// A CSV file with the columns account, credits and id; the first line names them. Each row is
    /// a grant, of 0 credits too: the account exists from then on, without a sign-up grant. All rows
    /// are checked before anything is imported. Repeatable: a row whose id was imported before is no
    /// second one. With the column
    /// payment_intent (pi_…), a later refund or dispute of that payment takes credits back, in
    /// proportion to the column paid (79.00 EUR); left empty, that is the price of the pack with
    /// as many credits.
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Say what --csv would do, or every mistake in the file, and change nothing.
    #[arg(long, conflicts_with = "from")]
    dry_run: bool,
}

impl Import {
    pub fn run(self, file: &ConfigFile) -> Result<(), CliError> {
        match (&self.from, &self.csv) {
            (Some(from), _) => import_ledger(file, from),
            (None, Some(csv)) => import_rows(file, csv, self.dry_run),
            // clap asks for one of them.
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

/// What an account had, as the admin listener takes it.
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

const WAY: Way = Way { path: "/admin/import", list: "rows", rows: "rows" };

fn import_rows(file: &ConfigFile, csv: &Path, dry_run: bool) -> Result<(), CliError> {
    let packs = file.load(Sections::PACKS)?.packs;
    let mut rows = csv_rows::read(csv, &COLUMNS, |row| read_row(row, &packs))?;
    rows.refuse_repeated("id", |row| Some(&row.id));
    rows.refuse_repeated("payment", |row| row.payment.as_ref().map(|p| p.payment_intent.as_str()));
    block_on(async {
        let admin = AdminClient::connect(file).await?;
        let sent = WAY.send(&admin, rows, dry_run).await;
        admin.close().await?;
        println!("{}", sent?);
        Ok(())
    })
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
                // An amount that cannot be read has been told of.
                let credits = credits?;
                row.wrong(format!(
                    "no pack has {credits} credits, so say what was paid for them in the column paid, such as \
                     79.00 EUR"
                ));
                return None;
            }
        },
    };
    Some(Payment { payment_intent, paid: paid.to_string() })
}
