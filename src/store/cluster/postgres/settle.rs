//! Writing down what Redis decided: batches of the stream, in their order, each once.

use std::collections::{BTreeMap, HashMap};

use sha2::{Digest as _, Sha256};
use sqlx::Row as _;
use sqlx::postgres::{PgConnection, PgRow};

use crate::account::AccountId;
use crate::credits::{Credits, SignedCredits};
use crate::ledger::LedgerError;
use crate::ledger::operation::{Ending, EntryKind, HoldId, OperationId, Origin};
use crate::ledger::rules::state::Account;
use crate::store::cluster::batch_log::{Batch, Decided};
use crate::store::sql::rows::Column as _;

use crate::store::cluster::postgres::{Store, is_race};

/// The one shard that there is.
pub(crate) const SHARD: i32 = 0;

/// How far the stream has been written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Checkpoint {
    pub epoch: i64,
    pub nonce: String,
    /// The newest batch that is in Postgres.
    pub seq: i64,
    /// The SHA-256 of it.
    pub digest: Vec<u8>,
    /// Nothing is decided until the next epoch opens.
    pub recovering: bool,
    /// What the epoch's data in Redis look like.
    pub layout: i32,
}

/// A batch of the stream, by its number in the epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NumberedBatch {
    pub seq: i64,
    pub text: String,
}

/// What became of an attempt to write batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Settled {
    /// All of them are in Postgres, up to this one.
    Upto(i64),
    /// Somebody else is at it, or has been: read the checkpoint again.
    Overtaken,
}

impl Store {
    /// How far the stream has been written.
    pub async fn checkpoint(&self) -> Result<Checkpoint, LedgerError> {
        self.transact(async |on| self.read_checkpoint("", on).await).await
    }

    pub(crate) async fn read_checkpoint(
        &self,
        lock: &str,
        on: &mut PgConnection,
    ) -> Result<Checkpoint, LedgerError> {
        let sql = format!(
            "SELECT epoch, nonce, checkpoint, digest, recovering, layout \
             FROM {{s}}.shards WHERE id = $1 {lock}"
        );
        let row = self.query(&sql).bind(SHARD).fetch_one(on).await?;
        Ok(Checkpoint {
            epoch: row.int("epoch")?,
            nonce: row.try_get("nonce")?,
            seq: row.int("checkpoint")?,
            digest: row.try_get("digest")?,
            recovering: row.flag("recovering")?,
            layout: row.try_get("layout")?,
        })
    }

    /// Writes batches that follow each other and `after`, if that is still the newest one of `epoch`.
    /// Takes the shard's row lock, so that whoever else tries waits and then finds it done.
    pub async fn settle(
        &self,
        epoch: i64,
        batches: &[NumberedBatch],
    ) -> Result<Settled, LedgerError> {
        let attempt = |careful| {
            self.transact(async move |on| {
                let checkpoint = self.read_checkpoint("FOR UPDATE", on).await?;
                self.settle_locked(&checkpoint, epoch, batches, careful, on).await
            })
        };
        match attempt(false).await {
            Err(error) if is_race(&error) => attempt(true).await,
            result => result,
        }
    }

    /// The same where the shard's row is locked. `careful`: some of it may have been written before.
    pub(crate) async fn settle_locked(
        &self,
        checkpoint: &Checkpoint,
        epoch: i64,
        batches: &[NumberedBatch],
        careful: bool,
        on: &mut PgConnection,
    ) -> Result<Settled, LedgerError> {
        if checkpoint.epoch != epoch {
            return Ok(Settled::Overtaken);
        }
        let new: Vec<_> = batches.iter().filter(|batch| batch.seq > checkpoint.seq).collect();
        let Some(last) = new.last() else { return Ok(Settled::Upto(checkpoint.seq)) };
        if !new.iter().zip(1..).all(|(batch, n)| batch.seq == checkpoint.seq + n) {
            return Ok(Settled::Overtaken);
        }
        self.write(&new, careful, on).await?;
        self.query(
            "UPDATE {s}.shards SET checkpoint = $3, digest = $4 WHERE id = $1 AND epoch = $2",
        )
        .bind(SHARD)
        .bind(epoch)
        .bind(last.seq)
        .bind(digest(&last.text))
        .execute(on)
        .await?;
        Ok(Settled::Upto(last.seq))
    }

    /// Writes what these batches say, whatever the checkpoint is.
    pub(crate) async fn write(
        &self,
        batches: &[&NumberedBatch],
        careful: bool,
        on: &mut PgConnection,
    ) -> Result<(), LedgerError> {
        let mut tally = Tally::default();
        for batch in batches {
            let parsed = Batch::parse(&batch.text).ok_or_else(|| LedgerError::Corrupt {
                what: format!("batch {} of the stream cannot be read", batch.seq),
            })?;
            tally.add(parsed);
        }
        if careful {
            self.drop_repeated(&mut tally, on).await?;
        }
        self.write_tally(&tally, on).await
    }

    /// Writes what nobody has written before.
    pub(crate) async fn write_decided(
        &self,
        decided: Vec<Decided>,
        at_ms: i64,
        on: &mut PgConnection,
    ) -> Result<(), LedgerError> {
        let mut tally = Tally::default();
        tally.add(Batch { at_ms, decided });
        self.write_tally(&tally, on).await
    }

    async fn write_tally(&self, tally: &Tally, on: &mut PgConnection) -> Result<(), LedgerError> {
        self.write_captures(&tally.captures, on).await?;
        self.write_holds(tally, on).await
    }

    /// What would take effect twice is taken out, and given back in Redis, where it was charged twice.
    async fn drop_repeated(
        &self,
        tally: &mut Tally,
        on: &mut PgConnection,
    ) -> Result<(), LedgerError> {
        let ids: Vec<_> = tally.captures.iter().map(|c| c.operation.as_str().to_owned()).collect();
        let known = self
            .query("SELECT id FROM {s}.operations WHERE id = ANY($1)")
            .bind(ids)
            .fetch_all(&mut *on)
            .await?;
        let mut seen = std::collections::HashSet::new();
        for row in &known {
            seen.insert(row.text("id")?.to_owned());
        }
        let (once, twice): (Vec<_>, Vec<_>) = std::mem::take(&mut tally.captures)
            .into_iter()
            .partition(|capture| seen.insert(capture.operation.as_str().to_owned()));
        tally.captures = once;
        for capture in twice {
            tracing::error!(
                operation = capture.operation.as_str(),
                "Redis charged a hold twice; the second charge is given back"
            );
            self.give_back(&capture, on).await?;
        }
        Ok(())
    }

    async fn give_back(&self, capture: &Capture, on: &mut PgConnection) -> Result<(), LedgerError> {
        self.query(
            "WITH a AS (UPDATE {s}.accounts SET grant_seq = grant_seq + 1 WHERE id = $1 \
             RETURNING id, grant_seq, frozen) INSERT INTO {s}.deliveries \
             (account, grant_seq, amount, frozen) SELECT id, grant_seq, $2, frozen FROM a",
        )
        .bind(capture.account.as_str())
        .bind(-capture.amount.micros())
        .execute(on)
        .await?;
        Ok(())
    }

    async fn write_captures(
        &self,
        captures: &[Capture],
        on: &mut PgConnection,
    ) -> Result<(), LedgerError> {
        if captures.is_empty() {
            return Ok(());
        }
        let mut ids: Vec<_> = captures.iter().map(|c| c.account.clone()).collect();
        ids.sort();
        ids.dedup();
        let known = self.lock_accounts(&ids, on).await?;
        let mut accounts = known.clone();
        let mut columns = EntryColumns::default();
        for capture in captures {
            let account = accounts.entry(capture.account.clone()).or_default();
            account.seq = account.seq.saturating_add(1);
            let after = account.balance.checked_add(capture.amount);
            account.balance = after.ok_or_else(|| LedgerError::Corrupt {
                what: format!("the balance of {} left the range", capture.account),
            })?;
            columns.push(capture, account)?;
        }
        self.insert_entries(columns, on).await?;
        let at_ms = captures.first().map_or(0, |capture| capture.at_ms);
        // Redis moved these balances itself: it has nothing to hear.
        self.write_accounts(&known, &accounts, 0, at_ms, on).await.map(drop)
    }

    /// Locks the accounts in the order of their ids, and reads those that exist.
    pub(crate) async fn lock_accounts(
        &self,
        sorted: &[AccountId],
        on: &mut PgConnection,
    ) -> Result<BTreeMap<AccountId, Account>, LedgerError> {
        let ids: Vec<_> = sorted.iter().map(|id| id.as_str().to_owned()).collect();
        let rows = self
            .query(
                "SELECT id, balance, seq FROM {s}.accounts WHERE id = ANY($1) ORDER BY id FOR UPDATE",
            )
            .bind(ids)
            .fetch_all(on)
            .await?;
        let mut accounts = BTreeMap::new();
        for row in rows {
            let balance = row.signed("balance")?;
            let account = Account { balance, held: Credits::ZERO, seq: row.count("seq")? };
            accounts.insert(row.account("id")?, account);
        }
        Ok(accounts)
    }

    /// One that comes after its month was folded away belongs to the first month that is open.
    pub(crate) async fn insert_entries(
        &self,
        columns: EntryColumns,
        on: &mut PgConnection,
    ) -> Result<(), LedgerError> {
        self.query(
            "WITH new AS (SELECT account, seq, operation, kind, amount, balance_after, route, reason, \
             greatest(created_at, (SELECT closed_before FROM {s}.ledger)) AS created_at FROM \
             UNNEST($1::text[], $2::int8[], $3::text[], $4::text[], \
             $5::int8[], $6::int8[], $7::text[], $8::text[], $9::int8[]) AS n (account, seq, \
             operation, kind, amount, balance_after, route, reason, created_at)), \
             once AS (INSERT INTO {s}.operations (id, account, seq, kind, amount, created_at) \
             SELECT operation, account, seq, kind, amount, created_at FROM new) \
             INSERT INTO {s}.entries (account, seq, operation, kind, amount, balance_after, route, \
             reason, created_at) SELECT * FROM new",
        )
        .bind(columns.accounts)
        .bind(columns.seqs)
        .bind(columns.operations)
        .bind(columns.kinds)
        .bind(columns.amounts)
        .bind(columns.balances)
        .bind(columns.routes)
        .bind(columns.reasons)
        .bind(columns.times)
        .execute(on)
        .await?;
        Ok(())
    }

    /// Writes accounts that were `known` and locked before, or new. `grants` is by how much their
    /// `grant_seq` grows; the rows with the new one.
    pub(crate) async fn write_accounts(
        &self,
        known: &BTreeMap<AccountId, Account>,
        accounts: &BTreeMap<AccountId, Account>,
        grants: i64,
        at_ms: i64,
        on: &mut PgConnection,
    ) -> Result<Vec<PgRow>, LedgerError> {
        const NEW: &str = "INSERT INTO {s}.accounts AS a (id, balance, seq, grant_seq, created_at) \
             SELECT id, balance, seq, $4, $5 FROM \
             UNNEST($1::text[], $2::int8[], $3::int8[]) AS n (id, balance, seq)";
        const KNOWN: &str = "UPDATE {s}.accounts a SET balance = n.balance, seq = n.seq, \
             grant_seq = a.grant_seq + $4 FROM \
             UNNEST($1::text[], $2::int8[], $3::int8[]) AS n (id, balance, seq) \
             WHERE a.id = n.id AND $5::int8 IS NOT NULL";
        let mut rows = Vec::new();
        let (old, new): (Vec<_>, Vec<_>) =
            accounts.iter().partition(|(id, _)| known.contains_key(*id));
        for (sql, accounts) in [(KNOWN, old), (NEW, new)] {
            if accounts.is_empty() {
                continue;
            }
            let mut columns = (Vec::new(), Vec::new(), Vec::new());
            for (id, account) in accounts {
                columns.0.push(id.as_str().to_owned());
                columns.1.push(account.balance.micros());
                columns.2.push(int(account.seq)?);
            }
            // A new account that somebody else has just made breaks the unique key: a second attempt
            // then finds it.
            let written = self
                .query(&format!("{sql} RETURNING a.id, a.grant_seq, a.frozen"))
                .bind(columns.0)
                .bind(columns.1)
                .bind(columns.2)
                .bind(grants)
                .bind(at_ms)
                .fetch_all(&mut *on)
                .await?;
            rows.extend(written);
        }
        Ok(rows)
    }

    async fn write_holds(&self, tally: &Tally, on: &mut PgConnection) -> Result<(), LedgerError> {
        if !tally.captured.is_empty() {
            self.query("DELETE FROM {s}.holds WHERE id = ANY($1) AND state = 'live'")
                .bind(&tally.captured)
                .execute(&mut *on)
                .await?;
        }
        if !tally.renewed.is_empty() {
            let (ids, times): (Vec<_>, Vec<_>) = tally.renewed.clone().into_iter().unzip();
            self.query(
                "UPDATE {s}.holds h SET expires_at = n.expires_at FROM \
                 UNNEST($1::text[], $2::int8[]) AS n (id, expires_at) \
                 WHERE h.id = n.id AND h.state = 'live'",
            )
            .bind(ids)
            .bind(times)
            .execute(&mut *on)
            .await?;
        }
        if tally.holds.is_empty() {
            return Ok(());
        }
        let mut columns = HoldColumns::default();
        tally.holds.values().for_each(|hold| columns.push(hold));
        self.query(
            "INSERT INTO {s}.holds AS h (id, account, amount, route, origin, owner, state, \
             expires_at, ended_at) SELECT * FROM UNNEST($1::text[], $2::text[], $3::int8[], \
             $4::text[], $5::text[], $6::int8[], $7::text[], $8::int8[], $9::int8[]) \
             ON CONFLICT (id) DO UPDATE SET state = excluded.state, ended_at = excluded.ended_at \
             WHERE h.state = 'live'",
        )
        .bind(columns.ids)
        .bind(columns.accounts)
        .bind(columns.amounts)
        .bind(columns.routes)
        .bind(columns.origins)
        .bind(columns.owners)
        .bind(columns.states)
        .bind(columns.deadlines)
        .bind(columns.ends)
        .execute(on)
        .await?;
        Ok(())
    }
}

/// The SHA-256 of a batch: what tells two batches of one number apart.
pub(crate) fn digest(text: &str) -> Vec<u8> {
    Sha256::digest(text).to_vec()
}

/// A sequence number as the database has it.
pub(crate) fn int(count: u64) -> Result<i64, LedgerError> {
    i64::try_from(count).map_err(|_| LedgerError::Corrupt { what: "a number is too large".into() })
}

/// A charge on its way to an entry.
#[derive(Debug)]
struct Capture {
    operation: OperationId,
    account: AccountId,
    /// Below zero.
    amount: SignedCredits,
    route: std::sync::Arc<str>,
    at_ms: i64,
}

/// The row of a hold.
#[derive(Debug)]
struct HoldRow {
    id: HoldId,
    account: AccountId,
    amount: Credits,
    route: std::sync::Arc<str>,
    origin: Origin,
    owner: i64,
    /// `None` while it lives.
    ending: Option<Ending>,
    expires_ms: i64,
    ended_ms: Option<i64>,
}

/// What some batches come to: a hold that came and went in them leaves no live row.
#[derive(Debug, Default)]
struct Tally {
    captures: Vec<Capture>,
    holds: HashMap<HoldId, HoldRow>,
    /// Captured holds whose row may be in the database.
    captured: Vec<String>,
    renewed: HashMap<String, i64>,
}

impl Tally {
    fn add(&mut self, batch: Batch) {
        let at_ms = batch.at_ms;
        for decided in batch.decided {
            match decided {
                Decided::Held { id, account, amount, origin, owner, expires_ms, route } => {
                    let (ending, ended_ms) = (None, None);
                    let row = HoldRow {
                        id: id.clone(),
                        account,
                        amount,
                        route,
                        origin,
                        owner,
                        ending,
                        expires_ms,
                        ended_ms,
                    };
                    self.holds.insert(id, row);
                }
                Decided::Renewed { id, expires_ms } => match self.holds.get_mut(&id) {
                    Some(row) => row.expires_ms = expires_ms,
                    None => drop(self.renewed.insert(id.as_str().to_owned(), expires_ms)),
                },
                Decided::Captured { id, account, amount, late, route, .. } => {
                    let (operation, amount) = (OperationId::capture(&id), -amount.signed());
                    self.captures.push(Capture { operation, account, amount, route, at_ms });
                    // A late one leaves the row that says how its hold ended.
                    if !late && self.holds.remove(&id).is_none() {
                        self.captured.push(id.as_str().to_owned());
                    }
                }
                Decided::Ended { id, account, amount, origin, ending, route } => {
                    let expires_ms = at_ms;
                    let row = self.holds.entry(id.clone()).or_insert(HoldRow {
                        id,
                        account,
                        amount,
                        route,
                        origin,
                        owner: 0,
                        ending: None,
                        expires_ms,
                        ended_ms: None,
                    });
                    (row.ending, row.ended_ms) = (Some(ending), Some(at_ms));
                }
            }
        }
    }
}

/// Entries, column by column, as UNNEST takes them.
#[derive(Debug, Default)]
pub(crate) struct EntryColumns {
    pub accounts: Vec<String>,
    pub seqs: Vec<i64>,
    pub operations: Vec<String>,
    pub kinds: Vec<&'static str>,
    pub amounts: Vec<i64>,
    pub balances: Vec<i64>,
    pub routes: Vec<Option<String>>,
    pub reasons: Vec<Option<String>>,
    pub times: Vec<i64>,
}

impl EntryColumns {
    fn push(&mut self, capture: &Capture, account: &Account) -> Result<(), LedgerError> {
        self.accounts.push(capture.account.as_str().to_owned());
        self.seqs.push(int(account.seq)?);
        self.operations.push(capture.operation.as_str().to_owned());
        self.kinds.push(EntryKind::Capture.as_str());
        self.amounts.push(capture.amount.micros());
        self.balances.push(account.balance.micros());
        self.routes.push(Some((*capture.route).to_owned()));
        self.reasons.push(None);
        self.times.push(capture.at_ms);
        Ok(())
    }
}

#[derive(Debug, Default)]
struct HoldColumns {
    ids: Vec<String>,
    accounts: Vec<String>,
    amounts: Vec<i64>,
    routes: Vec<String>,
    origins: Vec<&'static str>,
    owners: Vec<i64>,
    states: Vec<&'static str>,
    deadlines: Vec<i64>,
    ends: Vec<Option<i64>>,
}

impl HoldColumns {
    fn push(&mut self, hold: &HoldRow) {
        self.ids.push(hold.id.as_str().to_owned());
        self.accounts.push(hold.account.as_str().to_owned());
        // An amount is at most 2^53.
        self.amounts.push(i64::try_from(hold.amount.micros()).unwrap_or(i64::MAX));
        self.routes.push((*hold.route).to_owned());
        self.origins.push(hold.origin.as_str());
        self.owners.push(hold.owner);
        self.states.push(hold.ending.map_or("live", Ending::as_str));
        self.deadlines.push(hold.expires_ms);
        self.ends.push(hold.ended_ms);
    }
}
