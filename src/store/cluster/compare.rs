//! Redis beside Postgres, account by account and hold by hold, while gateways serve.
//!
//! Postgres is read as it is in one moment, up to batch number n. Then one call of a script reads the
//! same accounts and holds in Redis, and the batches after n. What Postgres said and those batches come
//! to exactly what Redis must have then, however busy the account is: no batch is decided in between.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use bytes::Bytes;
use fred::types::Value;

use crate::account::AccountId;
use crate::ledger::LedgerError;
use crate::ledger::report::{Difference, RepairReport, in_credits};
use crate::store::cluster::adaptive::slices;
use crate::store::cluster::batch_log::{Batch, Decided};
use crate::store::cluster::postgres::{self, LISTED, StoredAccount};

use crate::store::cluster::redis::script::Scripts;
use crate::store::cluster::shared::{Shared, text, texts};
use crate::store::cluster::sync::NO_HURRY;

/// How often accounts are looked at where Redis has not heard all that Postgres decided, or has
/// already forgotten batches that would be needed.
const LOOKS: usize = 30;

/// How long they are left alone between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How many accounts are looked at together.
const ACCOUNTS: usize = 200;

/// And with how many holds, unless one has more.
const HOLDS: usize = 5000;

/// How many rounds of repairs are made: more than one only where somebody damages on.
const REPAIRS: usize = 20;

/// An account as Redis has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HotAccount {
    pub balance: i64,
    pub held: i64,
    pub grant_seq: i64,
    pub exists: bool,
    pub frozen: bool,
}

impl HotAccount {
    /// Out of what is stored: numbers one behind the other, as `layout.lua` says (`STORED`).
    pub fn parse(value: &[u8]) -> Option<Self> {
        const BYTES: usize = 66;
        if value.len() != BYTES {
            return None;
        }
        let number = |at: usize| value.get(at..at + 8)?.try_into().map(i64::from_le_bytes).ok();
        let flag = |at: usize| value.get(at).map(|byte| *byte == 1);
        Some(Self {
            balance: number(0)?,
            held: number(8)?,
            grant_seq: number(16)?,
            exists: flag(56)?,
            frozen: flag(57)?,
        })
    }
}

/// A live hold as Redis has it: how much, and of whom.
type HotHold = (i64, String);

/// Reads a record of the live holds; nothing of what stands among them besides.
fn live_hold(record: &str) -> Option<HotHold> {
    let mut words = record.split(' ');
    let _deadline: i64 = words.next()?.parse().ok()?;
    let amount = words.next()?.parse().ok()?;
    Some((amount, words.nth(1)?.to_owned()))
}

/// What one moment of Redis says.
struct Picture {
    accounts: BTreeMap<String, Option<Bytes>>,
    holds: HashMap<String, Option<HotHold>>,
    batches: Vec<Batch>,
}

/// Accounts, with the ids of holds that Redis has of them.
type Wanted = BTreeMap<String, Vec<String>>;

impl Shared {
    /// Compares everything that is in Redis with Postgres.
    pub async fn compare(&self) -> Result<Vec<Difference>, LedgerError> {
        let scripts = self.open_scripts()?;
        let mut holds = self.live_holds(&scripts).await?;
        let (mut cursor, mut differences) = ("0".to_owned(), Vec::new());
        let pattern = format!("{}*", scripts.account_key(""));
        let prefix = scripts.account_key("").len();
        loop {
            let keys;
            (cursor, keys) = self.redis.scan(&cursor, &pattern).await?;
            let mut wanted: Vec<_> = keys
                .iter()
                .filter_map(|key| key.get(prefix..))
                .map(|account| (account.to_owned(), holds.remove(account).unwrap_or_default()))
                .collect();
            if cursor == "0" {
                // Holds whose account is not there.
                wanted.extend(std::mem::take(&mut holds));
            }
            for some in slices(&wanted, ACCOUNTS, HOLDS, |(_, holds)| holds.len()) {
                let some = some.iter().cloned().collect();
                differences.extend(self.compare_some(&scripts, some).await?);
            }
            if cursor == "0" || differences.len() >= LISTED {
                return Ok(differences);
            }
        }
    }

    async fn compare_some(
        &self,
        scripts: &Scripts,
        mut wanted: Wanted,
    ) -> Result<Vec<Difference>, LedgerError> {
        let mut found: BTreeMap<String, String> = BTreeMap::new();
        for look in 0..LOOKS {
            if wanted.is_empty() {
                break;
            }
            if look > 0 {
                tokio::time::sleep(LOOK_EVERY).await;
            }
            for (account, difference) in self.look_at(scripts, &wanted).await?.unwrap_or_default() {
                match difference {
                    None => {
                        wanted.remove(&account);
                        found.remove(&account);
                    }
                    Some(Unlike { what, is_sure }) => {
                        if is_sure {
                            wanted.remove(&account);
                        }
                        found.insert(account, what);
                    }
                }
            }
        }
        Ok(found.iter().map(|(account, what)| Difference::new(account, what.as_str())).collect())
    }

    /// Looks once; `None` where Redis and Postgres cannot be brought to one moment.
    async fn look_at(
        &self,
        scripts: &Scripts,
        wanted: &Wanted,
    ) -> Result<Option<Vec<(String, Option<Unlike>)>>, LedgerError> {
        let ids: Vec<_> = wanted.keys().cloned().collect();
        let (checkpoint, mut stored) = postgres::stored_accounts(&self.store, &ids).await?;
        if checkpoint.epoch != scripts.epoch.number || checkpoint.recovering {
            return Ok(None);
        }
        let listed = wanted.values().flatten().cloned();
        let held = stored.values().flat_map(|account| account.holds.keys().cloned());
        let holds: Vec<_> = listed.chain(held).collect::<BTreeSet<_>>().into_iter().collect();
        let Some(picture) = self.picture(scripts, checkpoint.seq, &ids, &holds).await? else {
            return Ok(None);
        };
        for decided in picture.batches.into_iter().flat_map(|batch| batch.decided) {
            follow(&mut stored, decided);
        }
        let looked = ids.into_iter().map(|id| {
            let hot = picture.accounts.get(&id).and_then(Option::as_deref);
            let difference = unlike(&id, hot, &stored[&id], &picture.holds);
            (id, difference)
        });
        Ok(Some(looked.collect()))
    }

    /// What Redis has now of these, and which batches it has decided since number `from`; `None` where
    /// some of those are gone: they have become durable meanwhile.
    async fn picture(
        &self,
        scripts: &Scripts,
        from: i64,
        accounts: &[String],
        holds: &[String],
    ) -> Result<Option<Picture>, LedgerError> {
        let mut args = texts(["picture", &from.to_string(), &accounts.len().to_string()]);
        args.extend(accounts.iter().chain(holds).map(|name| text(name)));
        let Value::Array(parts) = self.keep(scripts, args).await? else {
            return Err(unreadable());
        };
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
        Ok(Some(Picture {
            accounts: accounts.iter().cloned().zip(values).collect(),
            holds: holds
                .iter()
                .cloned()
                .zip(records.iter().map(|record| live_hold(record)))
                .collect(),
            batches: batches.ok_or_else(unreadable)?,
        }))
    }

    /// The live holds in Redis, by account.
    async fn live_holds(
        &self,
        scripts: &Scripts,
    ) -> Result<HashMap<String, Vec<String>>, LedgerError> {
        let (mut cursor, mut holds) = ("0".to_owned(), HashMap::<_, Vec<_>>::new());
        loop {
            let page = self.keep(scripts, texts(["live", &cursor])).await?;
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

    /// Puts right what is wrong: Postgres by its entries, then Redis by Postgres.
    pub async fn repair(&self) -> Result<RepairReport, LedgerError> {
        self.drain().await?;
        let mut report = postgres::repair(&self.store).await?;
        let mut wrong: BTreeSet<String> =
            report.repaired.iter().map(|repaired| repaired.account.clone()).collect();
        let scripts = self.open_scripts()?;
        for _ in 0..REPAIRS {
            for Difference { account, what } in self.compare().await? {
                let what = format!("{what}: brought to Redis again, as Postgres has it");
                report.repaired.push(Difference { account: account.clone(), what });
                wrong.insert(account);
            }
            if wrong.is_empty() {
                break;
            }
            self.forget(&scripts, &std::mem::take(&mut wrong)).await?;
        }
        // An earlier repair may have ended before it had brought what it let go of.
        self.bring_held().await?;
        self.deliver().await?;
        Ok(report)
    }

    /// Drops accounts and their live holds from Redis, and brings them again. What Redis has decided of
    /// them is in the stream, and nobody brings them before all of that is in Postgres.
    async fn forget(
        &self,
        scripts: &Scripts,
        accounts: &BTreeSet<String>,
    ) -> Result<(), LedgerError> {
        let mut holds = self.live_holds(scripts).await?;
        let names: Vec<_> = accounts.iter().cloned().collect();
        let (_, stored) = postgres::stored_accounts(&self.store, &names).await?;
        for account in accounts {
            let mut ids: BTreeSet<String> = stored[account].holds.keys().cloned().collect();
            ids.extend(holds.remove(account).unwrap_or_default());
            let mut args = texts(["forget", account]);
            args.extend(ids.iter().map(|id| text(id)));
            self.keep(scripts, args).await?;
        }
        // At once: their holds' deadlines have to be watched.
        let ids: Vec<AccountId> = accounts.iter().filter_map(|id| id.parse().ok()).collect();
        let nonce = uuid::Uuid::new_v4().simple().to_string();
        for some in ids.chunks(ACCOUNTS) {
            self.bring_accounts(scripts, some, &nonce, NO_HURRY).await?;
        }
        Ok(())
    }
}

/// In what Redis differs from what it must have.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Unlike {
    what: String,
    /// False where it may be on its way.
    is_sure: bool,
}

/// What a batch does to the accounts that Postgres has told of.
pub(crate) fn follow(stored: &mut BTreeMap<String, StoredAccount>, decided: Decided) {
    match decided {
        Decided::Held { id, account, amount, .. } => {
            if let Some(stored) = stored.get_mut(account.as_str()) {
                stored.holds.insert(id.as_str().to_owned(), amount.signed().micros());
            }
        }
        Decided::Captured { id, account, amount, .. } => {
            if let Some(stored) = stored.get_mut(account.as_str()) {
                // A late one finds no hold.
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
        Decided::Renewed { .. } => {}
    }
}

/// In what an account in Redis differs from `stored`, what it must be.
fn unlike(
    account: &str,
    value: Option<&[u8]>,
    stored: &StoredAccount,
    holds: &HashMap<String, Option<HotHold>>,
) -> Option<Unlike> {
    let sure = |what: String| Some(Unlike { what, is_sure: true });
    let its_own = |hold: &&Option<HotHold>| hold.as_ref().is_some_and(|(_, of)| of == account);
    let Some(value) = value else {
        // It has gone cold since it was listed, which it does with nothing held.
        let left = holds.values().filter(its_own).count();
        return (left > 0).then(|| Unlike {
            what: format!("Redis has {left} live holds of it, and not the account"),
            is_sure: true,
        });
    };
    let Some(hot) = HotAccount::parse(value) else {
        return sure("what Redis has of it cannot be read".to_owned());
    };
    if hot.grant_seq != stored.grant_seq {
        let (heard, decided) = (hot.grant_seq, stored.grant_seq);
        let what = format!(
            "Postgres has decided {decided} things about it (grants, refunds), and Redis has heard \
             {heard}"
        );
        return Some(Unlike { what, is_sure: false });
    }
    let mut words = Vec::new();
    let mut differ = |what: &str, redis: String, postgres: String| {
        if redis != postgres {
            words.push(format!("{what} is {redis} in Redis, {postgres} in Postgres"));
        }
    };
    differ("the balance", in_credits(hot.balance), in_credits(stored.balance));
    let held = stored.holds.values().fold(0, |sum: i64, amount| sum.saturating_add(*amount));
    differ("what is held", in_credits(hot.held), in_credits(held));
    let frozen = |frozen: bool| if frozen { "frozen" } else { "not frozen" }.to_owned();
    differ("it", frozen(hot.frozen), frozen(stored.frozen));
    if hot.exists && !stored.exists {
        words.push("Redis knows the account, and Postgres does not".to_owned());
    }
    for (id, amount) in &stored.holds {
        // One that is newer than the question was not asked for.
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
    let mut ghosts: Vec<_> = holds
        .iter()
        .filter(|(id, hold)| its_own(hold) && !stored.holds.contains_key(*id))
        .map(|(id, _)| format!("hold {id} is live in Redis, and not in Postgres"))
        .collect();
    ghosts.sort();
    words.extend(ghosts);
    if words.is_empty() { None } else { sure(words.join("; ")) }
}

fn unreadable() -> LedgerError {
    LedgerError::Corrupt { what: "a script of Redis gave an answer that cannot be read".into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_live_hold_is_told_from_what_else_stands_there() {
        let record = "1795412683123 0000000005000000 c alice 7 /a b";
        assert_eq!(live_hold(record), Some((5_000_000, "alice".to_owned())));
        assert_eq!(live_hold("1795412683123 T c alice"), None);
        assert_eq!(live_hold("without a value as long as this one"), None);
        assert_eq!(live_hold(""), None);
    }
}
