//! Checks that the database is consistent with itself.
//!
//! Everything is read once, in the order of an index. The reads are slices: short statements that
//! neither scan a whole table nor sort. So no snapshot is open for minutes, memory does not grow
//! with the number of accounts, and the disk stays free for calls. The slices are read at different
//! moments. That is enough, because an entry never changes, and an account's row changes in one
//! transaction with its newest entry. So each statement sees either both changes or none.

use std::time::Duration;

use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{Executor as _, Row as _};

use crate::ledger::LedgerError;
use crate::ledger::report::{Difference, ReconcileReport, in_credits};
use crate::store::cluster::postgres::read::LISTED;
use crate::store::cluster::postgres::store::Store;
use crate::store::sql::rows::Column as _;

/// How many entries or holds a slice has. If they are in memory, this is some tens of milliseconds
/// of work.
const SLICE: i64 = 2000;

/// How many accounts a slice has. Each account is looked up in every month.
const ACCOUNTS_SLICE: i64 = 250;

/// How long a slice may take on a busy disk.
const SLICE_LIMIT: Duration = Duration::from_secs(60);

/// Settings that make Postgres read a slice in the order of its index. The planner prefers a sort
/// if it expects few rows, and with old statistics it expects wrongly. It also estimates that a
/// slice costs as much as the whole table, and would then compile the query (JIT), which takes
/// longer than the slice itself.
const IN_ORDER: &str = "SET LOCAL enable_sort = off; SET LOCAL jit = off";

/// The transaction in which slices are read.
enum Through<'a> {
    /// Each slice is read in a transaction of its own.
    Many,
    /// All slices are read in this transaction.
    One(&'a mut PgConnection),
}

/// The position at which a slice begins: after this entry.
#[derive(Debug, Default)]
struct Place {
    account: String,
    seq: i64,
    balance: i64,
    /// Whether the account is being read again, because it was folded in the meantime.
    again: bool,
}

/// Checks that each entry continues the one before it without a gap, and that its operation id is recorded, unless it
/// is the id of a call in a folded month. The slice begins after entry `$2` of account `$1`, after which the balance
/// was `$3`, and has `$4` entries. The query selects the first and the last entry of the slice, and the entries that
/// fail a check.
///
/// Operations are found by subqueries, because a join might read the whole table for each slice.
const ENTRIES: &str = "SELECT * FROM \
    (SELECT account, seq, kind, balance_after, n, entries, previous, before + amount AS should_be, \
     seq = previous + 1 OR (kind = 'opening' AND previous = 0) AS follows, \
     before + amount = balance_after AS adds_up, \
     kind = 'opening' OR coalesce((SELECT c.account = e.account AND c.seq = e.seq \
      AND c.amount = e.amount FROM {s}.calls c WHERE c.id = {s}.call_of(e.operation)), \
      (SELECT o.account = e.account AND o.seq = e.seq \
      AND o.amount = e.amount FROM {s}.operations o WHERE o.id = e.operation), \
      {s}.call_of(e.operation) < (SELECT calls_from FROM {s}.ledger), false) AS took_effect, \
     inside OR (SELECT a.id FROM {s}.accounts a WHERE a.id = e.account) IS NOT NULL AS has_account \
     FROM (SELECT *, row_number() OVER () AS n, count(*) OVER () AS entries, \
       lag(seq) OVER w IS NOT NULL AS inside, \
       coalesce(lag(seq) OVER w, CASE WHEN account = $1 THEN $2 ELSE 0 END) AS previous, \
       coalesce(lag(balance_after) OVER w, CASE WHEN account = $1 THEN $3::int8 ELSE 0 END) AS before \
       FROM (SELECT account, seq, operation, kind, amount, balance_after FROM {s}.entries \
         WHERE (account, seq) > ($1, $2) ORDER BY account, seq LIMIT $4) slice \
       WINDOW w AS (PARTITION BY account ORDER BY seq)) e) e \
    WHERE n = 1 OR n = entries OR NOT (follows AND adds_up AND took_effect AND has_account)";

/// A table that is checked in the order of its ids.
struct Table {
    /// The query. The slice is the `$2` rows after the id `$1`. The query selects the last row of the slice, with
    /// counts, and every row that fails.
    sql: &'static str,
    /// Whether the query needs the accounts whose entries do not add up, as `$3`.
    needs_changed: bool,
    /// How many rows a slice has.
    slice: i64,
    /// Adds the counts to the report.
    count: fn(&mut ReconcileReport, &PgRow) -> Result<(), LedgerError>,
    /// Turns a row that failed into differences.
    differences: fn(&PgRow) -> Result<Vec<Difference>, LedgerError>,
}

/// Checks that an account's balance is the sum of its entries. Usually that is the balance after its newest entry, as
/// [`ENTRIES`] has checked. The entries are added up only if the balance is another one, or if an entry failed that
/// check: `$3` has the accounts of these entries.
const ACCOUNTS: Table = Table {
    sql: "SELECT *, CASE WHEN fits THEN balance ELSE (SELECT greatest(least(coalesce(sum(e.amount), 0), \
       9223372036854775807), -9223372036854775807)::int8 FROM {s}.entries e WHERE e.account = a.id) END AS total \
     FROM (SELECT id, balance, seq, frozen, newest, \
     row_number() OVER () AS n, count(*) OVER () AS rows, \
     count(*) FILTER (WHERE balance < 0) OVER () AS debts, \
     last = balance AND newest = seq AND id <> ALL ($3) AS fits, frozen = is_disputed AS is_frozen_rightly FROM \
     (SELECT a.id, a.balance, a.seq, a.frozen, \
      (SELECT f.account FROM {s}.freezes f WHERE f.account = a.id LIMIT 1) IS NOT NULL AS is_disputed, \
      coalesce(e.balance_after, 0) AS last, \
      coalesce(e.seq, 0) AS newest FROM {s}.accounts a LEFT JOIN LATERAL \
      (SELECT seq, balance_after FROM {s}.entries e WHERE e.account = a.id ORDER BY e.seq DESC LIMIT 1) e \
      ON true WHERE a.id > $1 ORDER BY a.id LIMIT $2) slice) a \
     WHERE n = a.rows OR NOT (fits AND is_frozen_rightly)",
    needs_changed: true,
    slice: ACCOUNTS_SLICE,
    count: |report, last| {
        report.accounts = report.accounts.saturating_add(last.count("rows")?);
        report.debts = report.debts.saturating_add(last.count("debts")?);
        Ok(())
    },
    differences: account_differences,
};

/// Checks that a hold ends once and belongs to an account.
const HOLDS: Table = Table {
    sql: "SELECT * FROM (SELECT *, row_number() OVER () AS n, count(*) OVER () AS rows, \
     count(*) FILTER (WHERE state = 'live') OVER () AS live, \
     state = 'live' AND NOT has_account AS is_nobodys FROM \
     (SELECT h.id, h.account, h.state, \
      (SELECT o.id FROM {s}.operations o WHERE o.id = 'capture:' || h.id) IS NOT NULL \
      OR (SELECT c.id FROM {s}.calls c WHERE c.id = {s}.call_of('capture:' || h.id)) IS NOT NULL AS captured, \
      (SELECT a.id FROM {s}.accounts a WHERE a.id = h.account) IS NOT NULL AS has_account \
      FROM {s}.holds h WHERE h.id > $1 ORDER BY h.id LIMIT $2) slice) h \
     WHERE n = h.rows OR (captured AND state IN ('live', 'released')) OR is_nobodys",
    needs_changed: false,
    slice: SLICE,
    count: |report, last| {
        report.live_holds = report.live_holds.saturating_add(last.count("live")?);
        Ok(())
    },
    differences: hold_differences,
};

/// Checks the whole database, slice by slice.
pub(crate) async fn reconcile(store: &Store) -> Result<ReconcileReport, LedgerError> {
    reconcile_through(store, Through::Many).await
}

/// Like [`reconcile`], in the transaction `on`.
pub(crate) async fn reconcile_in(
    store: &Store,
    on: &mut PgConnection,
) -> Result<ReconcileReport, LedgerError> {
    reconcile_through(store, Through::One(on)).await
}

async fn reconcile_through(
    store: &Store,
    mut through: Through<'_>,
) -> Result<ReconcileReport, LedgerError> {
    let mut report = ReconcileReport::default();
    let changed = check_entries(store, &mut through, &mut report).await?;
    for table in [&ACCOUNTS, &HOLDS] {
        check_table(store, table, &changed, &mut through, &mut report).await?;
    }
    report.differences.truncate(LISTED);
    Ok(report)
}

/// Checks all entries in the order of their accounts. Returns the accounts with an entry that does not add up with the one
/// before it.
async fn check_entries(
    store: &Store,
    through: &mut Through<'_>,
    report: &mut ReconcileReport,
) -> Result<Vec<String>, LedgerError> {
    let (mut place, mut changed) = (Place::default(), Vec::new());
    loop {
        let rows = read_slice(store, through, async |on| {
            let query = store.query(ENTRIES).bind(&place.account).bind(place.seq);
            Ok(query.bind(place.balance).bind(SLICE).fetch_all(on).await?)
        })
        .await?;
        let (Some(first), Some(last)) = (rows.first(), rows.last()) else { return Ok(changed) };
        let opens = first.text("kind")? == "opening" && first.text("account")? == place.account;
        if opens && place.seq > 0 && !place.again {
            // The account was folded in the meantime, so its entries are read again.
            (place.seq, place.balance, place.again) = (0, 0, true);
            continue;
        }
        report.entries = report.entries.saturating_add(last.count("entries")?);
        for row in &rows {
            report.differences.extend(entry_differences(row)?);
            if !row.flag("adds_up")? {
                changed.push(row.text("account")?.to_owned());
            }
        }
        let account = last.text("account")?.to_owned();
        place = Place {
            again: place.again && account == place.account,
            seq: last.int("seq")?,
            balance: last.int("balance_after")?,
            account,
        };
        if last.int("entries")? < SLICE || report.differences.len() >= LISTED {
            return Ok(changed);
        }
    }
}

/// Checks a table, slice by slice.
async fn check_table(
    store: &Store,
    table: &Table,
    changed: &[String],
    through: &mut Through<'_>,
    report: &mut ReconcileReport,
) -> Result<(), LedgerError> {
    let mut after = String::new();
    loop {
        let rows = read_slice(store, through, async |on| {
            let query = store.query(table.sql).bind(&after).bind(table.slice);
            let query = if table.needs_changed { query.bind(changed) } else { query };
            Ok(query.fetch_all(on).await?)
        })
        .await?;
        let Some(last) = rows.last() else { return Ok(()) };
        (table.count)(report, last)?;
        for row in &rows {
            report.differences.extend((table.differences)(row)?);
        }
        after = last.text("id")?.to_owned();
        if last.int("rows")? < table.slice || report.differences.len() >= LISTED {
            return Ok(());
        }
    }
}

async fn read_slice(
    store: &Store,
    through: &mut Through<'_>,
    read: impl AsyncFnOnce(&mut PgConnection) -> Result<Vec<PgRow>, LedgerError>,
) -> Result<Vec<PgRow>, LedgerError> {
    let slice = async |on: &mut PgConnection| {
        on.execute(IN_ORDER).await?;
        read(on).await
    };
    match through {
        Through::Many => store.transact_within(SLICE_LIMIT, slice).await,
        Through::One(on) => slice(on).await,
    }
}

fn entry_differences(row: &PgRow) -> Result<Vec<Difference>, LedgerError> {
    let (account, seq) = (row.text("account")?, row.int("seq")?);
    let mut wrong = Vec::new();
    if !row.flag("follows")? {
        let previous = row.int("previous")?;
        let what = format!("entry {seq} follows entry {previous}: those in between are missing");
        wrong.push(Difference::new(account, what));
    } else if !row.flag("adds_up")? {
        let should_be = in_credits(row.int("should_be")?);
        let says = in_credits(row.int("balance_after")?);
        let what = format!("entry {seq} should leave {should_be} but records {says}");
        wrong.push(Difference::new(account, what));
    }
    if !row.flag("took_effect")? {
        let what = format!("the operation id of entry {seq} is not recorded");
        wrong.push(Difference::new(account, what));
    }
    if !row.flag("has_account")? {
        wrong.push(Difference::new(account, "entries of an account that does not exist"));
    }
    Ok(wrong)
}

fn account_differences(row: &PgRow) -> Result<Vec<Difference>, LedgerError> {
    let account = row.text("id")?;
    let mut wrong = Vec::new();
    let (balance, total) = (row.int("balance")?, row.int("total")?);
    let (newest, seq) = (row.int("newest")?, row.int("seq")?);
    if (total, newest) != (balance, seq) {
        let (balance, total) = (in_credits(balance), in_credits(total));
        let mut what = format!("the balance is {balance}, the entries add up to {total}");
        if newest != seq {
            what += &format!("; the newest of them is number {newest}, and it should be {seq}");
        }
        wrong.push(Difference::new(account, what));
    }
    if !row.flag("is_frozen_rightly")? {
        wrong.push(Difference::new(
            account,
            if row.flag("frozen")? {
                "the account is frozen without a dispute"
            } else {
                "the account is not frozen in spite of a dispute"
            },
        ));
    }
    Ok(wrong)
}

fn hold_differences(row: &PgRow) -> Result<Vec<Difference>, LedgerError> {
    let (id, state) = (row.text("id")?, row.text("state")?);
    let what = match state {
        "live" if row.flag("captured")? => format!("hold {id} is live and captured"),
        "released" if row.flag("captured")? => format!("hold {id} was released and captured"),
        _ if row.try_get("is_nobodys")? => format!("hold {id} of an account that does not exist"),
        _ => return Ok(Vec::new()),
    };
    Ok(vec![Difference::new(row.text("account")?, what)])
}
