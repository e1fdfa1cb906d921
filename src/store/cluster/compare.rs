//! The comparison of Redis with Postgres, account by account and hold by hold, while gateways serve.
//!
//! Postgres is read in one snapshot, which contains the batches up to some number n. Then one call
//! of a script reads the same accounts and holds in Redis, and the batches after n. The snapshot
//! with these batches applied must equal the state of Redis. This holds however busy an account is,
//! because no batch is decided during that call.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Duration;

use bytes::Bytes;
use fred::types::Value;

use crate::account::AccountId;
use crate::ledger::LedgerError;
use crate::ledger::report::{Difference, in_credits};
use crate::store::cluster::adaptive::chunks_within;
use crate::store::cluster::batch_log::{Batch, Decided};
use crate::store::cluster::postgres::{self, LISTED, Store, StoredAccount};
use crate::store::cluster::redis::connection::{Redis, arg, args};
use crate::store::cluster::redis::record::{HotAccount, HotHold, live_hold};
use crate::store::cluster::redis::script::Scripts;
use crate::store::cluster::shared::Shared;

/// The most attempts to compare an account. Another attempt is made if Redis has not applied every
/// decision of Postgres, or if a batch that is needed has left the stream.
const ATTEMPTS: usize = 30;

/// The time between two attempts.
const RETRY_EVERY: Duration = Duration::from_millis(50);

/// The most accounts that are compared together.
pub(crate) const ACCOUNTS: usize = 200;

/// The most holds that are compared together, unless one account has more.
const HOLDS: usize = 5000;

/// The state of some accounts and holds in Redis at one moment.
struct Snapshot {
    accounts: BTreeMap<String, Option<Bytes>>,
    holds: HashMap<String, Option<HotHold>>,
    /// The batches after the checkpoint of Postgres.
    batches: Vec<Batch>,
}

/// Accounts to compare, each with the ids of its live holds in Redis.
type Wanted = BTreeMap<String, Vec<String>>;

/// A difference between an account in Redis and the state that it must have.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mismatch {
    what: String,
    /// Whether this is certainly an error. False if Redis may only have yet to apply a decision of
    /// Postgres.
    is_sure: bool,
}

/// The result of a comparison.
#[derive(Debug, Default)]
pub(crate) struct Compared {
    pub differences: Vec<Difference>,
    /// How many accounts could not be compared, because the two stores could not be read at the same moment.
    pub skipped: usize,
}

/// Compares everything in Redis with Postgres. Lists no more than about [`LISTED`] differences.
pub(crate) async fn compare(shared: &Shared) -> Result<Compared, LedgerError> {
    let scripts = shared.epoch.require()?;
    let mut holds = live_holds(shared, &scripts).await?;
    let (mut cursor, mut compared) = ("0".to_owned(), Compared::default());
    let pattern = format!("{}*", scripts.account_key(""));
    let prefix = scripts.account_key("").len();
    loop {
        let keys;
        (cursor, keys) = shared.redis.scan(&cursor, &pattern).await?;
        let mut wanted: Vec<_> = keys
            .iter()
            .filter_map(|key| key.get(prefix..))
            .map(|account| (account.to_owned(), holds.remove(account).unwrap_or_default()))
            .collect();
        if cursor == "0" {
            // The remaining holds belong to accounts that are not in Redis.
            wanted.extend(std::mem::take(&mut holds));
        }
        for some in chunks_within(&wanted, ACCOUNTS, HOLDS, |(_, holds)| holds.len()) {
            let some = some.iter().cloned().collect();
            // Where too many batches wait for a locked row, further attempts do not help.
            let attempts = if compared.skipped == 0 { ATTEMPTS } else { 1 };
            let some = compare_some(shared, &scripts, some, attempts).await?;
            compared.differences.extend(some.differences);
            compared.skipped += some.skipped;
        }
        if cursor == "0" || compared.differences.len() >= LISTED {
            return Ok(compared);
        }
    }
}

async fn compare_some(
    shared: &Shared,
    scripts: &Scripts,
    mut wanted: Wanted,
    attempts: usize,
) -> Result<Compared, LedgerError> {
    let mut found: BTreeMap<String, String> = BTreeMap::new();
    for attempt in 0..attempts {
        if wanted.is_empty() {
            break;
        }
        if attempt > 0 {
            tokio::time::sleep(RETRY_EVERY).await;
        }
        let Some(compared) = compare_once(shared, scripts, &wanted).await? else {
            continue;
        };
        for (account, mismatch) in compared {
            match mismatch {
                None => {
                    wanted.remove(&account);
                    found.remove(&account);
                }
                Some(Mismatch { what, is_sure }) => {
                    if is_sure {
                        wanted.remove(&account);
                    }
                    found.insert(account, what);
                }
            }
        }
    }
    let differences =
        found.iter().map(|(account, what)| Difference::new(account, what.as_str())).collect();
    let skipped = wanted.keys().filter(|account| !found.contains_key(*account)).count();
    Ok(Compared { differences, skipped })
}

/// An account in Redis of which Postgres has everything that was decided.
pub(crate) struct Folded {
    /// The account's value in Redis, as long as which this holds.
    pub value: Bytes,
    /// The live holds in Postgres.
    pub holds: Vec<String>,
}

/// Those of the accounts in Redis of which Postgres has everything that was decided: none of the batches that Postgres
/// lacks names them. Empty if the two stores cannot be read at the same moment.
pub(crate) async fn folded(
    shared: &Shared,
    scripts: &Scripts,
    accounts: &[String],
) -> Result<BTreeMap<String, Folded>, LedgerError> {
    let (checkpoint, stored) = postgres::stored_accounts(&shared.store, accounts).await?;
    if checkpoint.epoch != scripts.epoch.number || checkpoint.recovering {
        return Ok(BTreeMap::new());
    }
    let Some(snapshot) = snapshot(shared, scripts, checkpoint.seq, accounts, &[]).await? else {
        return Ok(BTreeMap::new());
    };
    let decided = snapshot.batches.iter().flat_map(|batch| &batch.decided);
    let named: HashSet<_> = decided.filter_map(account_of).map(AccountId::as_str).collect();
    let values = snapshot.accounts.into_iter().filter(|(id, _)| !named.contains(&**id));
    let folded = values.filter_map(|(id, value)| {
        let holds = stored.get(&id)?.holds.keys().cloned().collect();
        Some((id, Folded { value: value?, holds }))
    });
    Ok(folded.collect())
}

/// The account whose balance or holds a decision changed.
fn account_of(decided: &Decided) -> Option<&AccountId> {
    match decided {
        Decided::Held { account, .. }
        | Decided::Extended { account, .. }
        | Decided::Captured { account, .. }
        | Decided::Ended { account, .. } => Some(account),
        Decided::Renewed { .. }
        | Decided::Marked { .. }
        | Decided::Left(_)
        | Decided::Retried { .. } => None,
    }
}

/// Compares once. `None` if the two stores cannot be read at the same moment.
async fn compare_once(
    shared: &Shared,
    scripts: &Scripts,
    wanted: &Wanted,
) -> Result<Option<Vec<(String, Option<Mismatch>)>>, LedgerError> {
    let ids: Vec<_> = wanted.keys().cloned().collect();
    let (checkpoint, mut stored) = postgres::stored_accounts(&shared.store, &ids).await?;
    if checkpoint.epoch != scripts.epoch.number || checkpoint.recovering {
        return Ok(None);
    }
    let listed = wanted.values().flatten().cloned();
    let held = stored.values().flat_map(|account| account.holds.keys().cloned());
    let holds: Vec<_> = listed.chain(held).collect::<BTreeSet<_>>().into_iter().collect();
    let Some(snapshot) = snapshot(shared, scripts, checkpoint.seq, &ids, &holds).await? else {
        return Ok(None);
    };
    for decided in snapshot.batches.into_iter().flat_map(|batch| batch.decided) {
        follow(&mut stored, decided);
    }
    let compared = ids.into_iter().map(|id| {
        let hot = snapshot.accounts.get(&id).and_then(Option::as_deref);
        let mismatch = mismatch(&id, hot, &stored[&id], &snapshot.holds);
        (id, mismatch)
    });
    Ok(Some(compared.collect()))
}

/// The micro-credits that an account has in Redis beyond the decisions of Postgres that Redis knows: see
/// [`StoredAccount::missing`]. `None` if Redis has applied no decision that Postgres lacks, or if the two stores cannot
/// be read at the same moment.
pub(crate) async fn missing(
    shared: &Shared,
    scripts: &Scripts,
    account: &str,
) -> Result<Option<i64>, LedgerError> {
    let ids = [account.to_owned()];
    for attempt in 0..ATTEMPTS {
        if attempt > 0 {
            tokio::time::sleep(RETRY_EVERY).await;
        }
        let (checkpoint, mut stored) = postgres::stored_accounts(&shared.store, &ids).await?;
        let Some(snapshot) = snapshot(shared, scripts, checkpoint.seq, &ids, &[]).await? else {
            continue;
        };
        for decided in snapshot.batches.into_iter().flat_map(|batch| batch.decided) {
            follow(&mut stored, decided);
        }
        let value = snapshot.accounts.get(account).and_then(Option::as_deref);
        let hot = value.and_then(HotAccount::parse);
        return Ok(hot.and_then(|hot| stored.get(account)?.missing(&hot)));
    }
    Ok(None)
}

/// An account in both stores at one moment.
pub(crate) struct AtOnce {
    /// The account in Redis; `None` if it is not there, or cannot be read.
    pub hot: Option<HotAccount>,
    /// The account in Postgres.
    pub stored: StoredAccount,
    /// The account in Postgres once it has the batches of the stream as well.
    pub after: StoredAccount,
}

/// Reads an account of the open epoch from both stores, for a command that is no gateway. `None` if they cannot be read
/// at the same moment, or if the epoch has ended.
pub(crate) async fn at_once(
    store: &Store,
    redis: &Redis,
    scripts: &Scripts,
    account: &str,
) -> Result<Option<AtOnce>, LedgerError> {
    let ids = [account.to_owned()];
    let (checkpoint, mut stored) = postgres::stored_accounts(store, &ids).await?;
    if checkpoint.epoch != scripts.epoch.number || checkpoint.recovering {
        return Ok(None);
    }
    let reply = redis.maintain(scripts, snapshot_of(checkpoint.seq, &ids, &[])).await?;
    let Some(snapshot) = read_snapshot(reply, checkpoint.seq, &ids, &[])? else { return Ok(None) };
    let mut after = stored.clone();
    for decided in snapshot.batches.into_iter().flat_map(|batch| batch.decided) {
        follow(&mut after, decided);
    }
    let value = snapshot.accounts.get(account).and_then(Option::as_deref);
    let hot = value.and_then(HotAccount::parse);
    let both = stored.remove(account).zip(after.remove(account));
    Ok(both.map(|(stored, after)| AtOnce { hot, stored, after }))
}

/// Reads these accounts and holds, and the batches after `from`, at one moment. `None` if some of these batches have
/// become durable and left the stream.
async fn snapshot(
    shared: &Shared,
    scripts: &Scripts,
    from: i64,
    accounts: &[String],
    holds: &[String],
) -> Result<Option<Snapshot>, LedgerError> {
    let reply = shared.maintain(scripts, snapshot_of(from, accounts, holds)).await?;
    read_snapshot(reply, from, accounts, holds)
}

/// The command for a snapshot.
fn snapshot_of(from: i64, accounts: &[String], holds: &[String]) -> Vec<Value> {
    let mut words = args(["snapshot", &from.to_string(), &accounts.len().to_string()]);
    words.extend(accounts.iter().chain(holds).map(|name| arg(name)));
    words
}

fn read_snapshot(
    reply: Value,
    from: i64,
    accounts: &[String],
    holds: &[String],
) -> Result<Option<Snapshot>, LedgerError> {
    let Value::Array(parts) = reply else { return Err(unreadable()) };
    let [newest, batches, values, records] =
        <[Value; 4]>::try_from(parts).map_err(|_| unreadable())?;
    let newest: i64 = newest.convert()?;
    let batches: Vec<(i64, String)> = batches.convert()?;
    let expected = from + 1..=newest;
    if !batches.iter().map(|(seq, _)| *seq).eq(expected) {
        return Ok(None);
    }
    let batches: Option<_> = batches.iter().map(|(_, text)| Batch::parse(text)).collect();
    let values: Vec<Option<Bytes>> = values.convert()?;
    let records: Vec<String> = records.convert()?;
    Ok(Some(Snapshot {
        accounts: accounts.iter().cloned().zip(values).collect(),
        holds: holds.iter().cloned().zip(records.iter().map(|record| live_hold(record))).collect(),
        batches: batches.ok_or_else(unreadable)?,
    }))
}

/// The ids of the live holds in Redis, by account.
pub(crate) async fn live_holds(
    shared: &Shared,
    scripts: &Scripts,
) -> Result<HashMap<String, Vec<String>>, LedgerError> {
    let (mut cursor, mut holds) = ("0".to_owned(), HashMap::<_, Vec<_>>::new());
    loop {
        let page = shared.maintain(scripts, args(["live", &cursor])).await?;
        let mut page = page.convert::<Vec<String>>()?.into_iter();
        cursor = page.next().ok_or_else(unreadable)?;
        while let (Some(id), Some(record)) = (page.next(), page.next()) {
            if let Some((_, account)) = live_hold(&record) {
                holds.entry(account).or_default().push(id);
            }
        }
        if cursor == "0" {
            return Ok(holds);
        }
    }
}

/// Applies a decision in a batch to the accounts that were read from Postgres.
pub(crate) fn follow(stored: &mut BTreeMap<String, StoredAccount>, decided: Decided) {
    match decided {
        Decided::Held { id, account, amount, .. } => {
            if let Some(stored) = stored.get_mut(account.as_str()) {
                stored.holds.insert(id.as_str().to_owned(), amount.signed().micros());
            }
        }
        Decided::Extended { id, account, amount } => {
            if let Some(stored) = stored.get_mut(account.as_str()) {
                stored.holds.insert(id.as_str().to_owned(), amount.signed().micros());
            }
        }
        Decided::Captured { id, account, amount, .. } => {
            if let Some(stored) = stored.get_mut(account.as_str()) {
                // The hold of a late capture had ended earlier.
                stored.holds.remove(id.as_str());
                stored.balance = stored.balance.saturating_sub(amount.signed().micros());
                stored.exists = true;
            }
        }
        Decided::Ended { id, account, .. } => {
            if let Some(stored) = stored.get_mut(account.as_str()) {
                stored.holds.remove(id.as_str());
            }
        }
        Decided::Renewed { .. }
        | Decided::Marked { .. }
        | Decided::Left(_)
        | Decided::Retried { .. } => {}
    }
}

/// Compares the value of an account in Redis with `stored`, the state that it must have.
fn mismatch(
    account: &str,
    value: Option<&[u8]>,
    stored: &StoredAccount,
    holds: &HashMap<String, Option<HotHold>>,
) -> Option<Mismatch> {
    let sure = |what: String| Some(Mismatch { what, is_sure: true });
    let Some(value) = value else {
        // Redis has removed the account as idle since it was listed. That is right if it has no
        // live holds.
        let left = holds.values().filter(|hold| is_hold_of(account, hold)).count();
        return if left > 0 {
            sure(format!("Redis has {left} live holds of it, and not the account"))
        } else {
            None
        };
    };
    let Some(hot) = HotAccount::parse(value) else {
        return sure("its value in Redis cannot be read".to_owned());
    };
    if hot.grant_seq != stored.grant_seq {
        let (applied, decided) = (hot.grant_seq, stored.grant_seq);
        let what = format!(
            "Postgres has decided {decided} changes of it (grants, refunds), and Redis has applied \
             {applied}"
        );
        return Some(Mismatch { what, is_sure: false });
    }
    if !stored.digest.is_empty() && stored.digest[..] != hot.digest {
        return sure(
            "Redis has applied other changes of it (grants, refunds) than Postgres has".to_owned(),
        );
    }
    let mut words = Vec::new();
    let mut differ = |what: &str, redis: String, postgres: String| {
        if redis != postgres {
            words.push(format!("{what} is {redis} in Redis, {postgres} in Postgres"));
        }
    };
    differ("the balance", in_credits(hot.balance), in_credits(stored.balance));
    let held = stored.holds.values().fold(0, |sum: i64, amount| sum.saturating_add(*amount));
    differ("the amount on hold", in_credits(hot.held), in_credits(held));
    let frozen = |frozen: bool| if frozen { "frozen" } else { "not frozen" }.to_owned();
    differ("it", frozen(hot.frozen), frozen(stored.frozen));
    if hot.exists && !stored.exists {
        words.push("Redis knows the account, and Postgres does not".to_owned());
    }
    words.extend(hold_mismatches(account, stored, holds));
    if words.is_empty() { None } else { sure(words.join("; ")) }
}

/// Compares the live holds of an account in Redis with those that it must have.
fn hold_mismatches(
    account: &str,
    stored: &StoredAccount,
    holds: &HashMap<String, Option<HotHold>>,
) -> Vec<String> {
    let mut words = Vec::new();
    for (id, amount) in &stored.holds {
        // A hold that was made after the ids were listed is not in `holds`.
        let Some(hold) = holds.get(id) else { continue };
        match hold {
            Some((found, of)) if found == amount && of == account => {}
            Some((found, of)) => words.push(format!(
                "hold {id} is {} of {of} in Redis, {} in Postgres",
                in_credits(*found),
                in_credits(*amount)
            )),
            None => words.push(format!("hold {id} is live in Postgres, and not in Redis")),
        }
    }
    let mut unknown: Vec<_> = holds
        .iter()
        .filter(|(id, hold)| is_hold_of(account, hold) && !stored.holds.contains_key(*id))
        .map(|(id, _)| format!("hold {id} is live in Redis, and not in Postgres"))
        .collect();
    unknown.sort();
    words.extend(unknown);
    words
}

fn is_hold_of(account: &str, hold: &Option<HotHold>) -> bool {
    hold.as_ref().is_some_and(|(_, of)| of == account)
}

fn unreadable() -> LedgerError {
    LedgerError::Corrupt { what: "a script of Redis gave a reply that cannot be read".into() }
}

/// Whether Redis has applied later decisions about an account than the newest that Postgres has.
pub(crate) async fn is_behind(
    shared: &Shared,
    scripts: &Scripts,
    account: &str,
) -> Result<bool, LedgerError> {
    // Redis is read first, so it cannot have heard of a decision that Postgres makes in between.
    let values = shared.redis.values(vec![scripts.account_key(account)]).await?;
    let hot = values.into_iter().next().flatten().and_then(|value| HotAccount::parse(&value));
    let (_, stored) = postgres::stored_accounts(&shared.store, &[account.to_owned()]).await?;
    let decided = stored.get(account).map_or(0, |stored| stored.grant_seq);
    Ok(hot.is_some_and(|hot| hot.grant_seq > decided))
}
