//! Bringing to Redis what a batch needs and Redis does not have: accounts that have gone cold, and what
//! became of ids that were forgotten there.
//!
//! A nonce is left in Redis, then Postgres is read, and what was read counts only if the nonce still
//! stands: nothing came in between.

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use fred::types::Value;

use crate::account::AccountId;
use crate::ledger::LedgerError;
use crate::ledger::operation::{Ending, HoldId, Operation, Origin};
use crate::ledger::wall_ms;
use crate::store::cluster::adaptive::slices;
use crate::store::cluster::batch_log::{escape, letter_of};
use crate::store::cluster::postgres::{self, ColdAccount, Fate};

use crate::store::cluster::compare::HotAccount;
use crate::store::cluster::ledger::IN_TIME;
use crate::store::cluster::redis::script::Scripts;
use crate::store::cluster::shared::{Shared, text, texts};
use crate::store::cluster::sync::NO_HURRY;

/// A hold that was restored lives at least so long, whatever the clocks have done meanwhile.
const RESTART_MS: i64 = 60_000;

/// The longest that a hold of the API's may be asked to live: where a clock was set back, it would have
/// more left.
const LONGEST_MS: i64 = 24 * 3_600_000;

/// How many accounts are brought together after a recovery.
const ACCOUNTS: usize = 500;

/// And with how many holds, unless one has more.
const HOLDS: usize = 5000;

/// After so many failures in a row it is not the accounts that fail.
const AWAY: usize = 3;

/// What a batch asks for.
#[derive(Debug, Default)]
pub(crate) struct Needs {
    pub accounts: Vec<AccountId>,
    pub holds: Vec<HoldId>,
}

impl Needs {
    /// Reads what `decide.lua` says: `a`, account, `i`, id, …
    pub fn parse(words: &[String]) -> Option<Self> {
        let mut needs = Self::default();
        let mut seen = HashSet::new();
        for pair in words.chunks_exact(2) {
            if !seen.insert((pair[0].as_str(), pair[1].as_str())) {
                continue;
            }
            match pair[0].as_str() {
                "a" => needs.accounts.push(pair[1].parse().ok()?),
                _ => needs.holds.push(pair[1].parse().ok()?),
            }
        }
        Some(needs)
    }
}

impl Shared {
    /// Brings all of it. Something that came in between makes the batch ask again, no more.
    pub async fn bring(&self, scripts: &Scripts, needs: Needs) -> Result<(), LedgerError> {
        self.need_postgres()?;
        let nonce = uuid::Uuid::new_v4().simple().to_string();
        let mut accounts = needs.accounts;
        if !needs.holds.is_empty() {
            let names = needs.holds.iter().map(|id| format!("i:{id}"));
            self.doubt(scripts, &nonce, names).await?;
            // What Redis decided and forgot since must be in Postgres before it is asked.
            self.drain_within(IN_TIME).await?;
            for (id, fate) in
                needs.holds.iter().zip(postgres::fates(&self.store, &needs.holds).await?)
            {
                match record_of(&fate) {
                    Ok(record) => {
                        let args = ["fate", &nonce, id.as_str(), &record];
                        self.keep(scripts, texts(args)).await?;
                    }
                    // It comes with its account.
                    Err(account) => accounts.push(account),
                }
            }
        }
        self.bring_accounts(scripts, &accounts, &nonce, IN_TIME).await
    }

    /// Brings accounts with their live holds. One that cannot be brought keeps no other from it: the error
    /// of such a one is told in the end. Postgres has `patience` to take what Redis decided before.
    pub async fn bring_accounts(
        &self,
        scripts: &Scripts,
        accounts: &[AccountId],
        nonce: &str,
        patience: Duration,
    ) -> Result<(), LedgerError> {
        let (mut left, mut failed) = (vec![accounts], Ok(()));
        while let Some(some) = left.pop() {
            match self.bring_together(scripts, some, nonce, patience).await {
                Ok(()) => {}
                // What is away is away for all of them.
                Err(error) if error.is_outage() => return Err(error),
                Err(error) if some.len() == 1 => {
                    let account = some.first().map_or("", AccountId::as_str);
                    tracing::error!(account, %error, "an account cannot be brought to Redis");
                    failed = Err(error);
                }
                Err(_) => {
                    let (one, other) = some.split_at(some.len() / 2);
                    left.extend([other, one]);
                }
            }
        }
        failed
    }

    async fn bring_together(
        &self,
        scripts: &Scripts,
        accounts: &[AccountId],
        nonce: &str,
        patience: Duration,
    ) -> Result<(), LedgerError> {
        if accounts.is_empty() {
            return Ok(());
        }
        let names = || accounts.iter().map(|id| format!("a:{id}"));
        if !self.doubt(scripts, nonce, names()).await? {
            // One was let go of before Postgres had all of it.
            self.drain_within(patience).await?;
            self.tell_durable(scripts).await?;
            self.doubt(scripts, nonce, names()).await?;
        }
        for cold in postgres::cold_accounts(&self.store, accounts).await? {
            self.keep(scripts, account_args(nonce, &cold)).await?;
        }
        Ok(())
    }

    /// After a recovery by this gateway brings every account with a live hold. What cannot be brought is
    /// tried again the next time.
    pub async fn bring_what_was_lost(&self) -> Result<(), LedgerError> {
        let epoch = self.must_bring.load(Ordering::Relaxed);
        if epoch != 0 {
            self.bring_held().await?;
            // Unless another epoch has been opened meanwhile.
            let relaxed = Ordering::Relaxed;
            let _ = self.must_bring.compare_exchange(epoch, 0, relaxed, relaxed);
        }
        Ok(())
    }

    /// Brings every account with a live hold that Redis does not have, so that its deadline is watched.
    pub async fn bring_held(&self) -> Result<(), LedgerError> {
        let scripts = self.open_scripts()?;
        let nonce = uuid::Uuid::new_v4().simple().to_string();
        let held = postgres::accounts_with_holds(&self.store).await?;
        let (mut failed, mut in_a_row) = (Ok(()), 0);
        for some in slices(&held, ACCOUNTS, HOLDS, |(_, holds)| *holds) {
            match self.bring_cold(&scripts, some, &nonce).await {
                Ok(()) => in_a_row = 0,
                Err(error) => {
                    in_a_row += 1;
                    failed = Err(error);
                }
            }
            if in_a_row == AWAY {
                break;
            }
        }
        failed
    }

    /// Those of them that Redis does not have yet.
    async fn bring_cold(
        &self,
        scripts: &Scripts,
        held: &[(AccountId, usize)],
        nonce: &str,
    ) -> Result<(), LedgerError> {
        let keys = held.iter().map(|(account, _)| scripts.account_key(account.as_str()));
        let values = self.redis.values(keys.collect()).await?;
        let cold = held.iter().zip(values).filter(|(_, value)| value.is_none());
        let cold: Vec<_> = cold.map(|((account, _), _)| account.clone()).collect();
        self.bring_accounts(scripts, &cold, nonce, NO_HURRY).await
    }

    /// Which of them open an account that Redis has, as one that exists. None ceases to, so nothing that
    /// stands beside it in the batch changes that.
    pub async fn are_open(&self, operations: &[Operation]) -> Vec<bool> {
        let none = vec![false; operations.len()];
        let opened = operations.iter().map(|operation| match operation {
            Operation::Open { account, .. } => Some(account),
            _ => None,
        });
        let Some(scripts) = self.scripts() else { return none };
        let key = |account: &AccountId| scripts.account_key(account.as_str());
        let keys: Vec<_> = opened.clone().flatten().map(key).collect();
        if keys.is_empty() {
            return none;
        }
        let sent = self.sending();
        let values = match self.redis.values_at_once(keys).await {
            Ok(values) if self.may_answer(sent) => values,
            _ => return none,
        };
        let mut exists = values.into_iter().map(|value| {
            value.and_then(|value| HotAccount::parse(&value)).is_some_and(|a| a.exists)
        });
        opened.map(|opened| opened.is_some() && exists.next() == Some(true)).collect()
    }

    /// Leaves the nonce; false where something must become durable first.
    async fn doubt(
        &self,
        scripts: &Scripts,
        nonce: &str,
        names: impl Iterator<Item = String>,
    ) -> Result<bool, LedgerError> {
        let mut args = texts(["doubt", nonce]);
        args.extend(names.map(|name| text(&name)));
        Ok(self.keep(scripts, args).await? == Value::Integer(1))
    }
}

/// An ended hold as Redis remembers it; a live one's account.
fn record_of(fate: &Fate) -> Result<String, AccountId> {
    Ok(match fate {
        Fate::Live(account) => return Err(account.clone()),
        Fate::Captured { account, amount } => format!("{:016} c {account}", amount.micros()),
        Fate::Ended { account, amount, origin, ending } => {
            let state = if *ending == Ending::Released { 'R' } else { 'E' };
            format!("{state} {} {:016} {account}", letter_of(*origin), amount.micros())
        }
        Fate::Unknown => "N".to_owned(),
    })
}

fn account_args(nonce: &str, cold: &ColdAccount) -> Vec<Value> {
    let flag = |set: bool| if set { "1" } else { "0" };
    let mut args = texts([
        "account",
        nonce,
        cold.account.as_str(),
        flag(cold.exists),
        &cold.balance.micros().to_string(),
        &cold.grant_seq.to_string(),
        flag(cold.frozen),
    ]);
    let now_ms = wall_ms();
    for hold in &cold.holds {
        let longest_ms = match hold.origin {
            Origin::Call => RESTART_MS,
            Origin::Api => LONGEST_MS,
        };
        let left_ms = hold.expires_ms.saturating_sub(now_ms).clamp(RESTART_MS, longest_ms);
        let record = format!(
            "{:016} {} {} {} {}",
            hold.amount.micros(),
            letter_of(hold.origin),
            cold.account,
            hold.owner,
            escape(&hold.route),
        );
        args.extend(texts([hold.id.as_str(), &left_ms.to_string(), &record]));
    }
    args
}
