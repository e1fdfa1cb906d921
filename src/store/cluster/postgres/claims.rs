//! The tables `claims` and `left_calls`: the decisions of Redis about claims, which Redis reads again after a loss of
//! data.

use std::collections::HashMap;

use sqlx::Row as _;
use sqlx::postgres::{PgConnection, PgRow};

use crate::ledger::LedgerError;
use crate::ledger::claim::{ClaimId, LATE_KEEP_MS, RequestMark};
use crate::ledger::operation::HoldId;
use crate::store::cluster::claim_text::{Digest, KeyClaim, LeftCall};
use crate::store::cluster::postgres::store::Store;
use crate::store::sql::rows::{Column as _, unfit};

/// The most rows that one statement deletes.
const SLICE: i64 = 5000;

/// How long the row of a call that was not charged stays after its time, in milliseconds: longer than any call runs.
const RUNS_FOR_MS: i64 = 2 * 86_400_000;

/// The net effect of some batches on claims.
#[derive(Debug, Default)]
pub(crate) struct ClaimTally {
    /// Claims that these batches made and did not free again, and whether their calls were charged.
    made: HashMap<ClaimId, (HoldId, KeyClaim, bool)>,
    /// Charged calls whose claims earlier batches made. The time is the end of the claim, if the charge is late and
    /// takes the claim again.
    charged: HashMap<ClaimId, (HoldId, i64)>,
    /// Marks of claims that earlier batches made.
    marked: HashMap<ClaimId, (HoldId, RequestMark)>,
    left: Vec<LeftCall>,
    /// The calls that a retry was told of.
    used: Vec<HoldId>,
}

impl ClaimTally {
    /// Adds a claim that a hold made.
    pub fn make(&mut self, claim: KeyClaim, hold: &HoldId) {
        self.charged.remove(&claim.id);
        self.marked.remove(&claim.id);
        self.made.insert(claim.id, (hold.clone(), claim, false));
    }

    /// Records that the call of a hold was charged.
    pub fn charge(&mut self, id: ClaimId, hold: &HoldId, at_ms: i64) {
        match self.made.get_mut(&id) {
            Some((of, _, charged)) if of == hold => *charged = true,
            // The charge is late, and another call has taken the claim.
            Some(_) => {}
            None => {
                let late_keep = i64::try_from(LATE_KEEP_MS).unwrap_or(i64::MAX);
                self.charged.insert(id, (hold.clone(), at_ms.saturating_add(late_keep)));
            }
        }
    }

    /// Records that a hold ended without a charge. Rows of earlier batches stay: without a live hold they have no
    /// effect.
    pub fn give_up(&mut self, hold: &HoldId) {
        // Most batches have no claims, so they skip the search.
        if !self.made.is_empty() {
            self.made.retain(|_, (of, _, charged)| of != hold || *charged);
        }
    }

    /// Records that the request of a claim became known.
    pub fn mark(&mut self, id: ClaimId, hold: HoldId, mark: RequestMark) {
        match self.made.get_mut(&id) {
            Some((_, claim, _)) => claim.mark = Some(mark),
            None => drop(self.marked.insert(id, (hold, mark))),
        }
    }

    /// Records that the client of a call left.
    pub fn leave(&mut self, call: LeftCall) {
        self.left.push(call);
    }

    /// Records that a retry was told of a call whose client left.
    pub fn use_up(&mut self, hold: HoldId) {
        self.used.push(hold);
    }
}

/// Writes the effects of some batches on claims. The holds of these batches must have been written.
pub(crate) async fn write_claims(
    store: &Store,
    tally: &ClaimTally,
    at_ms: i64,
    on: &mut PgConnection,
) -> Result<(), LedgerError> {
    if !tally.marked.is_empty() {
        let (mut ids, mut holds, mut marks) = (Vec::new(), Vec::new(), Vec::new());
        for (id, (hold, mark)) in &tally.marked {
            ids.push(id.as_bytes().to_vec());
            holds.push(hold.as_str().to_owned());
            marks.push(mark.as_bytes().to_vec());
        }
        let sql = "UPDATE {s}.claims c SET mark = n.mark FROM \
             UNNEST($1::bytea[], $2::text[], $3::bytea[]) AS n (id, hold, mark) \
             WHERE c.id = n.id AND c.hold = n.hold";
        store.query(sql).bind(ids).bind(holds).bind(marks).execute(&mut *on).await?;
    }
    if !tally.charged.is_empty() {
        let (mut ids, mut holds, mut untils) = (Vec::new(), Vec::new(), Vec::new());
        for (id, (hold, until_ms)) in &tally.charged {
            ids.push(id.as_bytes().to_vec());
            holds.push(hold.as_str().to_owned());
            untils.push(*until_ms);
        }
        // A late charge takes the claim again, unless another call has it.
        let sql = "INSERT INTO {s}.claims AS c (id, hold, until, charged) \
             SELECT id, hold, until, true FROM \
             UNNEST($1::bytea[], $2::text[], $3::int8[]) AS n (id, hold, until) \
             ON CONFLICT (id) DO UPDATE SET charged = true, hold = excluded.hold, \
             mark = CASE WHEN c.hold = excluded.hold THEN c.mark END, \
             until = CASE WHEN c.hold = excluded.hold THEN c.until ELSE excluded.until END \
             WHERE c.hold = excluded.hold OR c.until <= $4 AND c.charged OR NOT c.charged AND NOT EXISTS \
             (SELECT 1 FROM {s}.holds h WHERE h.id = c.hold AND h.state = 'live')";
        store.query(sql).bind(ids).bind(holds).bind(untils).bind(at_ms).execute(&mut *on).await?;
    }
    if !tally.made.is_empty() {
        let mut columns = (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (id, (hold, claim, charged)) in &tally.made {
            columns.0.push(id.as_bytes().to_vec());
            columns.1.push(hold.as_str().to_owned());
            columns.2.push(claim.mark.map(|mark| mark.as_bytes().to_vec()));
            columns.3.push(claim.until_ms);
            columns.4.push(*charged);
        }
        let sql = "INSERT INTO {s}.claims (id, hold, mark, until, charged) SELECT * FROM \
             UNNEST($1::bytea[], $2::text[], $3::bytea[], $4::int8[], $5::bool[]) \
             ON CONFLICT (id) DO UPDATE SET hold = excluded.hold, mark = excluded.mark, \
             until = excluded.until, charged = excluded.charged";
        let query = store.query(sql).bind(columns.0).bind(columns.1).bind(columns.2);
        query.bind(columns.3).bind(columns.4).execute(&mut *on).await?;
    }
    write_left(store, tally, on).await
}

async fn write_left(
    store: &Store,
    tally: &ClaimTally,
    on: &mut PgConnection,
) -> Result<(), LedgerError> {
    if !tally.left.is_empty() {
        let (mut holds, mut ids, mut untils) = (Vec::new(), Vec::new(), Vec::new());
        for LeftCall { id, hold, until_ms } in &tally.left {
            holds.push(hold.as_str().to_owned());
            ids.push(id.as_bytes().to_vec());
            untils.push(*until_ms);
        }
        let sql = "INSERT INTO {s}.left_calls (hold, id, until, used) \
             SELECT hold, id, until, false FROM \
             UNNEST($1::text[], $2::bytea[], $3::int8[]) AS n (hold, id, until) ON CONFLICT DO NOTHING";
        store.query(sql).bind(holds).bind(ids).bind(untils).execute(&mut *on).await?;
    }
    if !tally.used.is_empty() {
        let holds: Vec<_> = tally.used.iter().map(|hold| hold.as_str().to_owned()).collect();
        let sql = "UPDATE {s}.left_calls SET used = true WHERE hold = ANY($1)";
        store.query(sql).bind(holds).execute(on).await?;
    }
    Ok(())
}

/// The claim of a charged call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ChargedClaim {
    pub hold: HoldId,
    pub claim: KeyClaim,
}

/// Reads the charged claims among `ids` whose time is not up.
pub(crate) async fn charged_claims(
    store: &Store,
    ids: &[ClaimId],
    now_ms: i64,
) -> Result<Vec<ChargedClaim>, LedgerError> {
    let ids: Vec<_> = ids.iter().map(|id| id.as_bytes().to_vec()).collect();
    let sql = "SELECT id, hold, mark, until FROM {s}.claims \
         WHERE id = ANY($1) AND charged AND until > $2";
    store
        .transact(async move |on| {
            let rows = store.query(sql).bind(ids).bind(now_ms).fetch_all(on).await?;
            rows.iter().map(charged_claim).collect()
        })
        .await
}

/// Reads some of the claims of charged calls whose time is not up, in the order of their ids, beginning after `after`.
pub(crate) async fn charged_claims_after(
    store: &Store,
    after: Option<ClaimId>,
    now_ms: i64,
    limit: i64,
) -> Result<Vec<ChargedClaim>, LedgerError> {
    let after = after.map_or_else(Vec::new, |id| id.as_bytes().to_vec());
    let sql = "SELECT id, hold, mark, until FROM {s}.claims \
         WHERE id > $1 AND charged AND until > $2 ORDER BY id LIMIT $3";
    store
        .transact(async move |on| {
            let query = store.query(sql).bind(after).bind(now_ms).bind(limit);
            query.fetch_all(on).await?.iter().map(charged_claim).collect()
        })
        .await
}

fn charged_claim(row: &PgRow) -> Result<ChargedClaim, LedgerError> {
    let claim = KeyClaim {
        id: digest(row, "id")?,
        mark: optional_digest(row, "mark")?,
        until_ms: row.int("until")?,
    };
    Ok(ChargedClaim { hold: row.hold("hold")?, claim })
}

/// Reads the calls that were left with these ids, oldest first, each with whether a retry was told of it.
pub(crate) async fn left_calls(
    store: &Store,
    ids: &[ClaimId],
) -> Result<Vec<(LeftCall, bool)>, LedgerError> {
    let ids: Vec<_> = ids.iter().map(|id| id.as_bytes().to_vec()).collect();
    let sql =
        "SELECT id, hold, until, used FROM {s}.left_calls WHERE id = ANY($1) ORDER BY until, hold";
    store
        .transact(async move |on| {
            let rows = store.query(sql).bind(ids).fetch_all(on).await?;
            let call = |row: &PgRow| {
                let (id, hold) = (digest(row, "id")?, row.hold("hold")?);
                Ok((LeftCall { id, hold, until_ms: row.int("until")? }, row.flag("used")?))
            };
            rows.iter().map(call).collect()
        })
        .await
}

/// The times until which Postgres may have claims, and calls whose clients left, that a new epoch of Redis lacks; in
/// milliseconds since 1970, 0 if there are none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ColdUntil {
    pub claims_ms: i64,
    pub left_ms: i64,
}

/// Reads until when a new epoch has to ask Postgres for claims and for calls whose clients left.
pub(crate) async fn cold_until(
    store: &Store,
    on: &mut PgConnection,
) -> Result<ColdUntil, LedgerError> {
    let sql = "SELECT coalesce((SELECT max(until) FROM {s}.claims WHERE charged), 0)::int8 AS claims, \
         coalesce((SELECT max(until) FROM {s}.left_calls), 0)::int8 AS left_calls";
    let row = store.query(sql).fetch_one(on).await?;
    Ok(ColdUntil { claims_ms: row.int("claims")?, left_ms: row.int("left_calls")? })
}

/// Deletes, in slices, the claims whose time is up and the calls that were left too long ago.
pub(crate) async fn purge_claims(store: &Store, now_ms: i64) -> Result<(), LedgerError> {
    let unpaid_before = now_ms.saturating_sub(RUNS_FOR_MS);
    for (sql, before_ms) in [
        (
            "DELETE FROM {s}.claims WHERE id IN (SELECT id FROM {s}.claims \
             WHERE charged AND until <= $1 LIMIT $2)",
            now_ms,
        ),
        (
            "DELETE FROM {s}.claims WHERE id IN (SELECT id FROM {s}.claims \
             WHERE NOT charged AND until <= $1 LIMIT $2)",
            unpaid_before,
        ),
        (
            "DELETE FROM {s}.left_calls WHERE hold IN (SELECT hold FROM {s}.left_calls \
             WHERE until <= $1 LIMIT $2)",
            now_ms,
        ),
    ] {
        loop {
            let deleted = store.transact(async |on| {
                Ok(store.query(sql).bind(before_ms).bind(SLICE).execute(on).await?.rows_affected())
            });
            if deleted.await? < SLICE.unsigned_abs() {
                break;
            }
        }
    }
    Ok(())
}

/// Reads a column of 32 bytes.
pub(super) fn bytes(row: &PgRow, name: &str) -> Result<[u8; 32], sqlx::Error> {
    row.bytes(name)?.try_into().map_err(|_| unfit(name))
}

/// Reads a column with a digest.
pub(super) fn digest<T: Digest>(row: &PgRow, name: &str) -> Result<T, sqlx::Error> {
    bytes(row, name).map(T::of)
}

/// Reads a column with a digest, which may be NULL.
pub(super) fn optional_digest<T: Digest>(
    row: &PgRow,
    name: &str,
) -> Result<Option<T>, sqlx::Error> {
    let bytes: Option<&[u8]> = row.try_get(name)?;
    bytes.map(|bytes| Ok(T::of(bytes.try_into().map_err(|_| unfit(name))?))).transpose()
}
