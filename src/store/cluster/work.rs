//! One batch at work: what is asked, what has its answer, and what is still to be decided.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use fred::types::Value;

use crate::account::AccountId;
use crate::credits::{Credits, SignedCredits};
use crate::ledger::config::Durability;
use crate::ledger::operation::{
    Balance, HoldEnd, HoldId, NewHold, Operation, Origin, Outcome, Refusal,
};
use crate::store::cluster::batch_log::unescape;
use crate::store::cluster::postgres::NumberedBatch;

use crate::store::cluster::redis::request::{Kind, Question};
use crate::store::cluster::redis::script::Scripts;
use crate::store::cluster::shared::Shared;
use crate::store::cluster::warm::Needs;

/// Where an operation is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Redis,
    Postgres,
    /// Between batches.
    Alone,
}

impl Place {
    pub fn of(operation: &Operation) -> Self {
        match operation {
            Operation::Hold(_)
            | Operation::Renew { .. }
            | Operation::Capture { .. }
            | Operation::Release { .. }
            | Operation::Abandon { .. }
            | Operation::Balance { .. } => Self::Redis,
            Operation::Open { .. }
            | Operation::Post(_)
            | Operation::Refund { .. }
            | Operation::RefundPart { .. }
            | Operation::Import(_)
            | Operation::PutKeys(_)
            | Operation::RevokeKey { .. }
            | Operation::RecordEvent(_)
            | Operation::EndEvent { .. }
            | Operation::TakeFacts(_)
            | Operation::RecordCustomer { .. }
            | Operation::Thaw { .. } => Self::Postgres,
            Operation::Audit | Operation::Fold { .. } => Self::Alone,
        }
    }

    /// Whether two that follow each other are decided together.
    pub fn takes_with(self, next: Self) -> bool {
        self == next && self != Self::Alone
    }
}

/// What Redis is asked.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Asked<'a> {
    Operation(&'a Operation),
    /// To end a hold whose time is up: if it still is, or (true) in any case.
    Expire(&'a HoldId, bool),
}

impl<'a> Asked<'a> {
    /// The hold that it is about.
    pub fn hold(self) -> Option<&'a HoldId> {
        match self {
            Self::Operation(
                Operation::Hold(NewHold { id: hold, .. })
                | Operation::Capture { hold, .. }
                | Operation::Release { hold, .. }
                | Operation::Abandon { hold, .. }
                | Operation::Renew { hold, .. },
            ) => Some(hold),
            Self::Operation(_) => None,
            Self::Expire(hold, _) => Some(hold),
        }
    }

    /// True where it concerns one of these.
    fn names(&self, accounts: &[AccountId], holds: &[HoldId]) -> bool {
        let account = match self {
            Self::Operation(
                Operation::Hold(NewHold { account, .. })
                | Operation::Abandon { account, .. }
                | Operation::Balance { account },
            ) => Some(account),
            Self::Operation(
                Operation::Capture { account, .. } | Operation::Release { account, .. },
            ) => account.as_ref(),
            _ => None,
        };
        account.is_some_and(|account| accounts.contains(account))
            || self.hold().is_some_and(|hold| holds.contains(hold))
    }

    fn is_hold(&self) -> bool {
        matches!(self, Self::Operation(Operation::Hold(_)))
    }

    fn origin(&self) -> Option<Origin> {
        match self {
            Self::Operation(operation) => operation.origin(),
            Self::Expire(..) => None,
        }
    }
}

/// What `decide.lua` says to one operation, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    Unavailable,
    Held,
    Renewed,
    Captured,
    Late,
    Released,
    Balance,
    Nobody,
    Insufficient,
    Conflict,
    Ended,
    Unknown,
    Above,
    Zero,
    Range,
    Frozen,
    Capped,
    Expired,
    FrozenBalance,
}

impl Code {
    const ALL: [Self; 19] = [
        Self::Unavailable,
        Self::Held,
        Self::Renewed,
        Self::Captured,
        Self::Late,
        Self::Released,
        Self::Balance,
        Self::Nobody,
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
    ];

    fn of(number: i64) -> Option<Self> {
        Self::ALL.get(usize::try_from(number).ok()?).copied()
    }

    /// True where something took effect, now or before.
    fn acknowledges(self) -> bool {
        matches!(
            self,
            Self::Held
                | Self::Renewed
                | Self::Captured
                | Self::Late
                | Self::Released
                | Self::Expired
        )
    }
}

/// The answer to one operation, with what belongs to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub code: Code,
    first: i64,
    second: i64,
    /// What became of a hold of the API's.
    end: Option<HoldEnd>,
}

impl Answer {
    const UNAVAILABLE: Self = Self { code: Code::Unavailable, first: 0, second: 0, end: None };

    fn balance(&self) -> Option<Balance> {
        Some(Balance {
            balance: SignedCredits::from_micros(self.first)?,
            held: Credits::from_micros(u64::try_from(self.second).ok()?)?,
            frozen: self.code == Code::FrozenBalance,
        })
    }

    /// As the ledger says it.
    pub fn outcome(self) -> Outcome {
        self.known().unwrap_or(Outcome::Refused(Refusal::Unavailable))
    }

    fn known(self) -> Option<Outcome> {
        let end = self.end.clone();
        let refused = |refusal| Some(Outcome::Refused(refusal));
        match self.code {
            Code::Held => Some(Outcome::Held { after: self.balance()? }),
            Code::Renewed => Some(Outcome::Renewed),
            Code::Captured => Some(Outcome::Captured { after: self.balance()?, late: false, end }),
            Code::Late => Some(Outcome::Captured { after: self.balance()?, late: true, end }),
            Code::Released => Some(Outcome::Released { after: self.balance()?, end }),
            Code::Balance | Code::FrozenBalance => Some(Outcome::Balance(Some(self.balance()?))),
            Code::Nobody => Some(Outcome::Balance(None)),
            Code::Insufficient => {
                refused(Refusal::Insufficient { available: self.balance()?.available() })
            }
            Code::Conflict => refused(Refusal::Conflict),
            Code::Ended => refused(Refusal::Ended),
            Code::Unknown => refused(Refusal::UnknownHold),
            Code::Above => {
                let held = Credits::from_micros(u64::try_from(self.first).ok()?)?;
                refused(Refusal::AboveHold { held })
            }
            Code::Zero => refused(Refusal::Zero),
            Code::Range => refused(Refusal::OutOfRange),
            Code::Frozen => refused(Refusal::Frozen),
            // A call that was cut off: what its account has then is not told.
            Code::Expired => Some(Outcome::Released { after: Balance::default(), end }),
            // The cap is our own limit, not the account's: never 402.
            Code::Unavailable | Code::Capped => None,
        }
    }
}

/// What `decide.lua` answers to a batch.
#[derive(Debug)]
pub(crate) struct Reply {
    seq: i64,
    durable: i64,
    /// Whether another Redis could take this one's place.
    has_replica: bool,
    /// What stands in the stream in front of the operations; empty where nothing changed.
    head: String,
    answers: Vec<Answer>,
    needs: Needs,
}

impl Reply {
    /// Reads the answer to a question; `None` for what no script of ours answers.
    pub fn parse(value: Value, question: &Question<'_>) -> Option<Self> {
        type Usual = (i64, i64, i64, String, Vec<i64>);
        type Rest = (usize, Vec<i64>, Vec<String>, Vec<String>);
        let mut parts = value.into_array();
        let rest = if parts.len() > 5 { parts.split_off(5) } else { Vec::new() };
        let usual: Usual = Value::Array(parts).convert().ok()?;
        let (seq, durable, replicas, head, balances) = usual;
        let rest: Option<Rest> = match rest.is_empty() {
            true => None,
            false => Some(Value::Array(rest).convert().ok()?),
        };
        let all = (question.len(), Vec::new(), Vec::new(), Vec::new());
        let (decided, decisions, needs, ends) = rest.unwrap_or(all);
        let mut answers = answers(question, decided, &balances, &decisions)?;
        for end in ends.chunks_exact(5) {
            let credits = |text: &str| Credits::from_micros(text.parse().ok()?);
            let (captured, released) = (credits(&end[1])?, credits(&end[2])?);
            let end_of = answers.get_mut(end[0].parse::<usize>().ok()?)?;
            let (account, route) = (end[3].parse().ok()?, unescape(&end[4]));
            end_of.end = Some(HoldEnd { account, route, captured, released });
        }
        let needs = Needs::parse(&needs)?;
        Some(Self { seq, durable, has_replica: replicas > 0, head, answers, needs })
    }
}

/// What a batch did, by what stands in front of it in the stream: its letters.
enum Done<'a> {
    Nothing,
    All,
    Letters(&'a [u8]),
}

impl<'a> Done<'a> {
    fn of(head: &'a str) -> Self {
        match head.lines().next().and_then(|line| line.splitn(3, ' ').nth(2)) {
            None => Self::Nothing,
            Some("*") => Self::All,
            Some(letters) => Self::Letters(letters.as_bytes()),
        }
    }

    /// Whether the operation at this place changed anything herewith.
    fn has(&self, place: usize) -> bool {
        match self {
            Self::Nothing => false,
            Self::All => true,
            Self::Letters(letters) => letters.get(place).is_some_and(|letter| *letter != b'.'),
        }
    }
}

/// The answers to those that were decided: what was done as it was asked follows from how the accounts
/// stood before, and the rest is said.
fn answers(
    question: &Question<'_>,
    decided: usize,
    balances: &[i64],
    decisions: &[i64],
) -> Option<Vec<Answer>> {
    let mut accounts: Vec<_> = balances.chunks_exact(2).map(|had| (had[0], had[1])).collect();
    let mut decisions = decisions.chunks_exact(5).peekable();
    let mut answers = Vec::with_capacity(decided);
    for (place, kind) in question.kinds.get(..decided)?.iter().enumerate() {
        let is_this = |said: &&[i64]| usize::try_from(said[0]) == Ok(place);
        let (code, first, second) = if let Some(said) = decisions.next_if(is_this) {
            if let Some(account) = usize::try_from(said[4]).ok()?.checked_sub(1) {
                *accounts.get_mut(account)? = (said[2], said[3]);
            }
            (Code::of(said[1])?, said[2], said[3])
        } else {
            let (code, terms) = match kind {
                Kind::Hold(terms) => (Code::Held, terms),
                Kind::Capture(terms) => (Code::Captured, terms),
                Kind::Line(_) => return None,
            };
            let terms = question.terms.get(*terms)?;
            let (balance, held) = accounts.get_mut(terms.account)?;
            let amount = i64::try_from(terms.amount).ok()?;
            if code == Code::Held {
                *held = held.checked_add(amount)?;
            } else {
                *balance = balance.checked_sub(amount)?;
                *held = held.checked_sub(amount)?;
            }
            (code, *balance, *held)
        };
        answers.push(Answer { code, first, second, end: None });
    }
    Some(answers)
}

/// A batch between its first call of Redis and its answers.
#[derive(Debug)]
pub(crate) struct Work<'a> {
    asked: &'a [Asked<'a>],
    /// Those without an answer yet, in order.
    waiting: Vec<usize>,
    /// Those of which nobody knows whether they happened.
    in_doubt: Vec<usize>,
    pub answers: Vec<Answer>,
    /// What it has added to the stream.
    pub batches: Vec<NumberedBatch>,
    /// The newest batch of the stream that its answers count on.
    pub seq: i64,
}

impl<'a> Work<'a> {
    /// `takes_holds`: new holds are asked for; otherwise they have their answer.
    pub fn new(asked: &'a [Asked<'a>], takes_holds: bool) -> Self {
        let is_asked = |index: &usize| takes_holds || !asked[*index].is_hold();
        Self {
            asked,
            waiting: (0..asked.len()).filter(is_asked).collect(),
            in_doubt: Vec::new(),
            answers: vec![Answer::UNAVAILABLE; asked.len()],
            batches: Vec::new(),
            seq: 0,
        }
    }

    /// True where each has its answer.
    pub fn is_done(&self) -> bool {
        self.waiting.is_empty()
    }

    /// What asks for what is waiting.
    pub fn question(&self, owner: i64) -> Question<'a> {
        let asked = self.asked;
        Question::new(self.waiting.iter().map(|index| asked[*index]), owner)
    }

    /// Takes the answers, and remembers what must not be lost; what the rest needs.
    pub fn take(&mut self, reply: Reply, text: &str, scripts: &Scripts, shared: &Shared) -> Needs {
        let epoch = scripts.epoch.number;
        if reply.has_replica {
            // Once and for all: one that is seen no longer may have been promoted.
            shared.can_fail_over.store(true, Ordering::Relaxed);
        }
        let (done, mut repeated) = (Done::of(&reply.head), Vec::new());
        let decided = self.waiting.drain(..reply.answers.len().min(self.waiting.len()));
        for (place, (index, answer)) in decided.zip(reply.answers).enumerate() {
            if answer.code == Code::Unavailable {
                tracing::error!(
                    "by Redis's clock the id of a new call is more than a day old: this machine's clock, \
                     or that of Redis, is wrong"
                );
            }
            if let Asked::Operation(operation @ Operation::Capture { .. }) = self.asked[index]
                && answer.code.acknowledges()
                && !done.has(place)
            {
                repeated.push(operation.clone());
            }
            self.answers[index] = answer;
        }
        self.seq = self.seq.max(reply.seq);
        let mut ring = shared.ring();
        ring.trim(epoch, reply.durable);
        if shared.durability == Durability::Relaxed {
            // It was done in a batch whose answer never came, so that nobody has kept it.
            repeated.into_iter().for_each(|operation| ring.repeat(epoch, reply.seq, operation));
        }
        if !reply.head.is_empty() {
            // As the script has added it to the stream.
            let text = format!("{}\n{text}", reply.head);
            let batch = NumberedBatch { seq: reply.seq, text };
            if shared.durability == Durability::Relaxed {
                ring.push(epoch, batch.clone());
            }
            self.batches.push(batch);
        }
        reply.needs
    }

    /// Nobody knows whether what is waiting has happened.
    pub fn doubt_the_rest(&mut self) {
        self.in_doubt.append(&mut self.waiting);
    }

    /// What waits for these stays without an answer, and the first of all, which had to stop.
    pub fn give_up(&mut self, accounts: &[AccountId], holds: &[HoldId]) {
        let first = self.waiting.first().copied();
        let asked = self.asked;
        self.waiting.retain(|index| Some(*index) != first && !asked[*index].names(accounts, holds));
    }

    /// Whether Postgres must have it before the answers are given.
    pub fn must_be_durable(&self, durability: Durability) -> bool {
        let mut acknowledged =
            self.asked.iter().zip(&self.answers).filter(|(_, answer)| answer.code.acknowledges());
        // The API's holds outlive every gateway, and are captured by their ids alone, in both.
        acknowledged.any(|(asked, _)| {
            durability == Durability::Strict || asked.origin() == Some(Origin::Api)
        })
    }

    /// Nobody is told anything of it.
    pub fn take_back(&mut self) {
        for (index, answer) in self.answers.iter_mut().enumerate() {
            if answer.code == Code::Held {
                self.in_doubt.push(index);
            }
            *answer = Answer::UNAVAILABLE;
        }
    }

    /// The holds of calls that heard nothing came of them, and that may stand all the same: whoever
    /// asked is gone, so they are released here.
    pub fn owed(&self) -> Vec<Operation> {
        let release = |index: &usize| match self.asked[*index] {
            Asked::Operation(Operation::Hold(NewHold {
                id,
                account,
                origin: Origin::Call,
                ..
            })) => Some(Operation::Release {
                hold: id.clone(),
                account: Some(account.clone()),
                origin: Origin::Call,
            }),
            _ => None,
        };
        self.in_doubt.iter().filter_map(release).collect()
    }
}

/// The route of a hold, out of its record in Redis: `deadline amount origin account owner route`.
pub(crate) fn route_of(record: &str) -> Arc<str> {
    record.splitn(6, ' ').nth(5).map_or_else(|| "".into(), unescape)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_of_several_words_is_read_from_a_record() {
        assert_eq!(&*route_of("99 5 c alice 7 /a b"), "/a b");
        assert_eq!(&*route_of("99 5 a alice 7 "), "");
        assert_eq!(&*route_of(""), "");
    }

    #[test]
    fn the_numbers_of_the_answers_are_those_of_the_script() {
        let script = include_str!("redis/decide.lua");
        let mut names = Vec::new();
        for line in script.lines().filter(|l| l.starts_with("local ") && l.contains(" = ")) {
            let (left, right) = line.trim_start_matches("local ").split_once(" = ").unwrap();
            for (name, number) in left.split(", ").zip(right.split(", ")) {
                if let Ok(number) = number.parse::<i64>()
                    && (1..=18).contains(&number)
                {
                    names.push((name.to_owned(), number));
                }
            }
        }
        assert_eq!(names.len(), Code::ALL.len() - 1);
        for (name, number) in names {
            assert_eq!(format!("{:?}", Code::of(number).unwrap()).to_uppercase(), name);
        }
    }
}
