//! The reply of `decide.lua` to one batch. The head of that file describes each member.

use std::collections::HashSet;

use fred::types::Value;

use crate::account::AccountId;
use crate::credits::{Credits, SignedCredits};
use crate::ledger::claim::{ClaimId, ClaimState, Claimed};
use crate::ledger::operation::{Balance, HoldEnd, HoldId, Outcome, Refusal};
use crate::store::cluster::batch_log::unescape;
use crate::store::cluster::claim_text;
use crate::store::cluster::redis::request::{Kind, Request};

/// The decision of `decide.lua` about one operation. `slow_path.lua` lists the numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The id of a new call is more than a day old.
    Unavailable,
    Held,
    Renewed,
    Captured,
    /// The hold was captured although it had ended.
    Late,
    Released,
    Balance,
    /// There is no such account.
    NoAccount,
    Insufficient,
    /// The same id was used with other parameters.
    Conflict,
    Ended,
    /// There is no such hold.
    Unknown,
    /// The capture is larger than the hold.
    Above,
    Zero,
    /// A balance would be out of range.
    Range,
    Frozen,
    /// The unsynced cap of the account is reached.
    Capped,
    Expired,
    /// The balance of a frozen account.
    FrozenBalance,
    /// Another call has the claim, and runs.
    Running,
    /// Another call has the claim, and was charged.
    Charged,
    /// Another call has the claim, with a different request.
    Mismatch,
    /// The claim has its mark, or does not belong to this hold.
    Marked,
    /// The departure of the client is recorded, if the call may still be charged.
    Left,
}

impl Verdict {
    const ALL: [Self; 24] = [
        Self::Unavailable,
        Self::Held,
        Self::Renewed,
        Self::Captured,
        Self::Late,
        Self::Released,
        Self::Balance,
        Self::NoAccount,
        Self::Insufficient,
        Self::Conflict,
        Self::Ended,
        Self::Unknown,
        Self::Above,
        Self::Zero,
        Self::Range,
        Self::Frozen,
        Self::Capped,
        Self::Expired,
        Self::FrozenBalance,
        Self::Running,
        Self::Charged,
        Self::Mismatch,
        Self::Marked,
        Self::Left,
    ];

    fn from_number(number: i64) -> Option<Self> {
        Self::ALL.get(usize::try_from(number).ok()?).copied()
    }

    /// Whether the operation has taken effect, now or earlier.
    pub fn acknowledges(self) -> bool {
        matches!(
            self,
            Self::Held
                | Self::Renewed
                | Self::Captured
                | Self::Late
                | Self::Released
                | Self::Expired
                | Self::Charged
                | Self::Marked
                | Self::Left
        )
    }
}

/// The decision about one operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Decision {
    pub verdict: Verdict,
    /// Usually the balance of the account, in micro-credits.
    first: i64,
    /// Usually the amount on hold, in micro-credits.
    second: i64,
    /// The end of an API hold, if the operation ended one.
    end: Option<HoldEnd>,
    /// The hold of the call that has the claim which the operation asked for.
    claimed: Option<HoldId>,
}

impl Decision {
    /// The decision about an operation that Redis did not decide.
    pub const UNAVAILABLE: Self =
        Self { verdict: Verdict::Unavailable, first: 0, second: 0, end: None, claimed: None };

    fn balance(&self) -> Option<Balance> {
        Some(Balance {
            balance: SignedCredits::from_micros(self.first)?,
            held: Credits::from_micros(u64::try_from(self.second).ok()?)?,
            frozen: self.verdict == Verdict::FrozenBalance,
        })
    }

    /// The outcome of the operation.
    pub fn outcome(self) -> Outcome {
        self.known_outcome().unwrap_or(Outcome::Refused(Refusal::Unavailable))
    }

    fn known_outcome(self) -> Option<Outcome> {
        let end = self.end.clone();
        let claimed = |state| {
            let hold = self.claimed.clone()?;
            Some(Outcome::Claimed(Claimed { hold, state }))
        };
        let refused = |refusal| Some(Outcome::Refused(refusal));
        match self.verdict {
            Verdict::Held => Some(Outcome::Held { after: self.balance()? }),
            Verdict::Renewed => Some(Outcome::Renewed),
            Verdict::Captured => {
                Some(Outcome::Captured { after: self.balance()?, late: false, end })
            }
            Verdict::Late => Some(Outcome::Captured { after: self.balance()?, late: true, end }),
            Verdict::Released => Some(Outcome::Released { after: self.balance()?, end }),
            Verdict::Balance | Verdict::FrozenBalance => {
                Some(Outcome::Balance(Some(self.balance()?)))
            }
            Verdict::NoAccount => Some(Outcome::Balance(None)),
            Verdict::Insufficient => {
                refused(Refusal::Insufficient { available: self.balance()?.available() })
            }
            Verdict::Conflict => refused(Refusal::Conflict),
            Verdict::Ended => refused(Refusal::Ended),
            Verdict::Unknown => refused(Refusal::UnknownHold),
            Verdict::Above => {
                let held = Credits::from_micros(u64::try_from(self.first).ok()?)?;
                refused(Refusal::AboveHold { held })
            }
            Verdict::Zero => refused(Refusal::Zero),
            Verdict::Range => refused(Refusal::OutOfRange),
            Verdict::Frozen => refused(Refusal::Frozen),
            // This is the hold of a call that was cut off. The script does not read the account's balance for such a
            // hold.
            Verdict::Expired => Some(Outcome::Released { after: Balance::default(), end }),
            Verdict::Running => claimed(ClaimState::Running),
            Verdict::Charged => claimed(ClaimState::Charged),
            Verdict::Mismatch => claimed(ClaimState::Conflict),
            Verdict::Marked => Some(Outcome::ClaimMarked),
            Verdict::Left => Some(Outcome::Left),
            // The cap is the gateway's limit and not the account's, so it is never answered with 402.
            Verdict::Unavailable | Verdict::Capped => None,
        }
    }
}

/// The data that must be loaded into Redis before the rest of a batch can be decided.
#[derive(Debug, Default)]
pub(crate) struct Needs {
    pub accounts: Vec<AccountId>,
    pub holds: Vec<HoldId>,
    pub claims: Vec<ClaimId>,
    /// Ids under which calls may have been left.
    pub left: Vec<ClaimId>,
}

impl Needs {
    /// Whether nothing has to be loaded.
    pub fn is_empty(&self) -> bool {
        let Self { accounts, holds, claims, left } = self;
        accounts.is_empty() && holds.is_empty() && claims.is_empty() && left.is_empty()
    }

    fn parse(words: &[String]) -> Option<Self> {
        let mut needs = Self::default();
        let mut seen = HashSet::new();
        for pair in words.chunks_exact(2) {
            if !seen.insert((pair[0].as_str(), pair[1].as_str())) {
                continue;
            }
            match pair[0].as_str() {
                "a" => needs.accounts.push(pair[1].parse().ok()?),
                "k" => needs.claims.push(claim_text::read(&pair[1])?),
                "l" => needs.left.push(claim_text::read(&pair[1])?),
                _ => needs.holds.push(pair[1].parse().ok()?),
            }
        }
        Some(needs)
    }
}

/// The reply to a batch.
#[derive(Debug)]
pub(crate) struct Reply {
    /// The number of the newest batch.
    pub seq: i64,
    /// The number of the newest batch that is durable.
    pub durable: i64,
    /// Whether another Redis could take the place of this one.
    pub has_replica: bool,
    /// The text in front of the operations in the stream; empty if nothing changed.
    pub head: String,
    /// The decisions about the first operations of the batch. The others could not be decided yet.
    pub decisions: Vec<Decision>,
    pub needs: Needs,
}

impl Reply {
    /// Whether Redis's state is older than its batch `known`, which was known when Redis was asked.
    pub fn is_behind(&self, known: i64) -> bool {
        let added = i64::from(!self.head.is_empty());
        self.seq < known.saturating_add(added)
    }

    /// Reads the reply to a request; `None` for a value that no script of Farebox returns.
    pub fn parse(value: Value, request: &Request<'_>) -> Option<Self> {
        type Usual = (i64, i64, i64, String, Vec<i64>);
        type Rest = (usize, Vec<i64>, Vec<String>, Vec<String>, Vec<String>);
        let mut parts = value.into_array();
        let rest = if parts.len() > 5 { parts.split_off(5) } else { Vec::new() };
        let usual: Usual = Value::Array(parts).convert().ok()?;
        let (seq, durable, replicas, head, balances) = usual;
        let rest: Option<Rest> = match rest.is_empty() {
            true => None,
            false => Some(Value::Array(rest).convert().ok()?),
        };
        let all = (request.len(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let (decided, listed, needs, ends, claimed) = rest.unwrap_or(all);
        let mut decisions = decisions(request, decided, &balances, &listed)?;
        for end in ends.chunks_exact(5) {
            let credits = |text: &str| Credits::from_micros(text.parse().ok()?);
            let (captured, released) = (credits(&end[1])?, credits(&end[2])?);
            let decision = decisions.get_mut(end[0].parse::<usize>().ok()?)?;
            let (account, route) = (end[3].parse().ok()?, unescape(&end[4]));
            decision.end = Some(HoldEnd { account, route, captured, released });
        }
        for claimed in claimed.chunks_exact(2) {
            let decision = decisions.get_mut(claimed[0].parse::<usize>().ok()?)?;
            decision.claimed = Some(claimed[1].parse().ok()?);
        }
        let needs = Needs::parse(&needs)?;
        Some(Self { seq, durable, has_replica: replicas > 0, head, decisions, needs })
    }
}

/// The operations of a batch that changed something in Redis.
pub(crate) enum Changes<'a> {
    None,
    All,
    /// One outcome code for each operation.
    ByCode(&'a [u8]),
}

impl<'a> Changes<'a> {
    /// Reads from the head of a batch which of its operations changed something.
    pub fn of(head: &'a str) -> Self {
        match head.lines().next().and_then(|line| line.splitn(3, ' ').nth(2)) {
            None => Self::None,
            Some("*") => Self::All,
            Some(codes) => Self::ByCode(codes.as_bytes()),
        }
    }

    /// Whether the operation at this place changed something.
    pub fn contains(&self, place: usize) -> bool {
        match self {
            Self::None => false,
            Self::All => true,
            Self::ByCode(codes) => codes.get(place).is_some_and(|code| *code != b'.'),
        }
    }
}

/// The decisions about the first `decided` operations. The script lists a decision only if the
/// operation is not a usual one, or did not take effect exactly as requested. The others follow
/// from the balances before the batch.
fn decisions(
    request: &Request<'_>,
    decided: usize,
    balances: &[i64],
    listed: &[i64],
) -> Option<Vec<Decision>> {
    let mut accounts: Vec<_> = balances.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
    let mut listed = listed.chunks_exact(5).peekable();
    let mut decisions = Vec::with_capacity(decided);
    for (place, kind) in request.kinds.get(..decided)?.iter().enumerate() {
        let is_this = |listed: &&[i64]| usize::try_from(listed[0]) == Ok(place);
        let (verdict, first, second) = if let Some(listed) = listed.next_if(is_this) {
            if let Some(account) = usize::try_from(listed[4]).ok()?.checked_sub(1) {
                *accounts.get_mut(account)? = (listed[2], listed[3]);
            }
            (Verdict::from_number(listed[1])?, listed[2], listed[3])
        } else {
            let (verdict, terms) = match kind {
                Kind::Hold(terms) => (Verdict::Held, terms),
                Kind::Capture(terms) => (Verdict::Captured, terms),
                Kind::Line(_) => return None,
            };
            let terms = request.terms.get(*terms)?;
            let (balance, held) = accounts.get_mut(terms.account)?;
            let amount = i64::try_from(terms.amount).ok()?;
            if verdict == Verdict::Held {
                *held = held.checked_add(amount)?;
            } else {
                *balance = balance.checked_sub(amount)?;
                *held = held.checked_sub(amount)?;
            }
            (verdict, *balance, *held)
        };
        decisions.push(Decision { verdict, first, second, end: None, claimed: None });
    }
    Some(decisions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_of_the_verdicts_are_those_of_the_script() {
        let script = include_str!("slow_path.lua");
        let (_, table) = script.split_once("local verdict = {").unwrap();
        let (table, _) = table.split_once('}').unwrap();
        let read: Vec<_> = table
            .split_terminator(',')
            .filter_map(|line| line.trim().split_once(" = "))
            .map(|(name, number)| (name.to_owned(), number.parse::<i64>().unwrap()))
            .collect();
        let name = |verdict: &Verdict| format!("{verdict:?}").to_uppercase();
        let expected: Vec<_> = Verdict::ALL.iter().map(name).zip(0..).collect();
        assert_eq!(read, expected);
        let captured = format!("local CAPTURED = {}", Verdict::Captured as i64);
        assert!(include_str!("decide.lua").contains(&captured));
    }
}
