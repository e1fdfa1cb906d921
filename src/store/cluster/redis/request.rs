//! A batch as `decide.lua` is asked: packed for the script, and as text for the stream.

use std::fmt::Write as _;

use ahash::{HashMap, HashSet};

use crate::account::AccountId;
use crate::ledger::CALL_TTL_MS;
use crate::ledger::operation::{HoldId, NewHold, Operation, Origin};
use crate::store::cluster::batch_log::{escape, letter_of};

use crate::store::cluster::redis::pack::Pack;
use crate::store::cluster::redis::script::Scripts;
use crate::store::cluster::work::Asked;

/// A hundred years: longer than anybody waits, and short enough to be added to the time of day.
const MAX_TTL_MS: u64 = 100 * 365 * 86_400_000;

/// A usual operation: which of the terms it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Hold(usize),
    Capture(usize),
    /// Which of the lines tells it.
    Line(usize),
}

/// What a usual operation is about, beside its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Terms {
    pub amount: u64,
    /// Which of the accounts.
    pub account: usize,
}

/// The operations of a batch, and what a script is told beside them.
#[derive(Debug, Default)]
pub(crate) struct Question<'a> {
    ids: Vec<&'a str>,
    pub kinds: Vec<Kind>,
    pub terms: Vec<Terms>,
    texts: Vec<String>,
    pub accounts: Vec<&'a str>,
    lines: Vec<String>,
    /// When the oldest id of a usual hold was made.
    oldest_ms: u64,
    owner: i64,
}

impl<'a> Question<'a> {
    /// The operations in their order; `owner` is the incarnation that asks.
    pub fn new(asked: impl Iterator<Item = Asked<'a>> + Clone, owner: i64) -> Self {
        let mut question = Self { owner, oldest_ms: u64::MAX, ..Self::default() };
        let mut ids = HashSet::default();
        // Two of one id go the long way, where each sees what the other did.
        let apart = asked.clone().filter_map(|asked| asked.hold()).all(|id| ids.insert(id));
        let mut known = HashMap::default();
        for asked in asked {
            if apart
                && let Asked::Operation(operation) = asked
                && question.push_usual(operation, &mut known)
            {
                continue;
            }
            question.push_line(asked);
        }
        question
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.kinds.len()
    }

    /// A call's hold or capture. False for anything else.
    fn push_usual(
        &mut self,
        operation: &'a Operation,
        known: &mut HashMap<(&'a AccountId, u64, &'a str), usize>,
    ) -> bool {
        let (id, account, amount, route) = match operation {
            Operation::Hold(NewHold {
                id,
                account,
                amount,
                route,
                origin: Origin::Call,
                ttl_ms: CALL_TTL_MS,
            }) => {
                let made = made_ms(id);
                if made == 0 {
                    return false;
                }
                self.oldest_ms = self.oldest_ms.min(made);
                (id, account, amount.micros(), route)
            }
            Operation::Capture {
                hold,
                account: Some(account),
                amount,
                route,
                origin: Origin::Call,
            } => (hold, account, amount.micros(), route),
            _ => return false,
        };
        if amount == 0 {
            return false;
        }
        let terms = *known.entry((account, amount, route)).or_insert_with(|| {
            let seen = self.accounts.iter().position(|known| *known == account.as_str());
            let place = seen.unwrap_or_else(|| {
                self.accounts.push(account.as_str());
                self.accounts.len() - 1
            });
            self.terms.push(Terms { amount, account: place });
            self.texts.push(format!("{amount:016} c {account} {} {}", self.owner, escape(route)));
            self.terms.len() - 1
        });
        self.ids.push(id.as_str());
        let hold = matches!(operation, Operation::Hold(_));
        self.kinds.push(if hold { Kind::Hold(terms) } else { Kind::Capture(terms) });
        true
    }

    fn push_line(&mut self, asked: Asked<'a>) {
        let operation = match asked {
            Asked::Expire(id, in_any_case) => {
                let kind = if in_any_case { 'X' } else { 'x' };
                return self.line(kind, Some(id), "-", 0, Origin::Call, 0, 0, "");
            }
            Asked::Operation(operation) => operation,
        };
        match operation {
            Operation::Hold(NewHold { id, account, amount, route, origin, ttl_ms }) => {
                let made = if *origin == Origin::Call { made_ms(id) } else { 0 };
                let amount = amount.micros();
                self.line('h', Some(id), account.as_str(), amount, *origin, *ttl_ms, made, route);
            }
            Operation::Renew { hold, ttl_ms } => {
                self.line('n', Some(hold), "-", 0, Origin::Call, *ttl_ms, 0, "");
            }
            Operation::Capture { hold, account, amount, route, origin } => {
                let (kind, account) = named(account.as_ref(), 'c', 'C');
                self.line(kind, Some(hold), account, amount.micros(), *origin, 0, 0, route);
            }
            Operation::Release { hold, account, origin } => {
                let (kind, account) = named(account.as_ref(), 'r', 'R');
                self.line(kind, Some(hold), account, 0, *origin, 0, 0, "");
            }
            // The hold's gateway may be gone before it is asked again, and the list of such calls is made of what
            // expired.
            Operation::Abandon { hold, .. } => {
                self.line('X', Some(hold), "-", 0, Origin::Call, 0, 0, "");
            }
            Operation::Balance { account } => {
                self.line('b', None, account.as_str(), 0, Origin::Call, 0, 0, "");
            }
            // The rest is decided in Postgres.
            _ => debug_assert!(false, "{operation:?} is not for Redis"),
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of a line, in order")]
    fn line(
        &mut self,
        kind: char,
        id: Option<&'a HoldId>,
        account: &str,
        amount: u64,
        origin: Origin,
        ttl: u64,
        made: u64,
        route: &str,
    ) {
        let (origin, route, ttl) = (letter_of(origin), escape(route), ttl.min(MAX_TTL_MS));
        self.lines.push(format!("{kind} {account} {amount:016} {origin} {ttl} {made} {route}"));
        self.kinds.push(Kind::Line(self.lines.len() - 1));
        self.ids.push(id.map_or("", HoldId::as_str));
    }

    /// What the script reads.
    pub fn packed(&self, scripts: &Scripts, durable: i64, cap: u64) -> Vec<u8> {
        let count = i64::try_from(self.terms.len()).unwrap_or(i64::MAX);
        let one_based = |n: usize| i64::try_from(n).map_or(i64::MAX, |n| n.saturating_add(1));
        let mut pack = Pack::with_room_for(128 + 64 * self.ids.len());
        pack.array(12);
        pack.int(self.owner);
        pack.int(durable);
        pack.uint(cap);
        pack.uint(CALL_TTL_MS);
        pack.uint(self.oldest_ms.min(MAX_TTL_MS));
        pack.texts(self.ids.iter());
        pack.array(self.kinds.len());
        for kind in &self.kinds {
            pack.int(match kind {
                Kind::Hold(terms) => one_based(*terms),
                Kind::Capture(terms) => -one_based(*terms),
                Kind::Line(line) => count.saturating_add(one_based(*line)),
            });
        }
        pack.texts(self.texts.iter());
        pack.array(self.terms.len());
        self.terms.iter().for_each(|terms| pack.uint(terms.amount));
        pack.array(self.terms.len());
        self.terms.iter().for_each(|terms| pack.int(one_based(terms.account)));
        pack.array(self.accounts.len());
        self.accounts.iter().for_each(|account| pack.text(&scripts.account_key(account)));
        pack.texts(self.lines.iter());
        pack.finish()
    }

    /// What stands in the stream: how many terms, the terms, then of each operation what it is and on
    /// which terms (`-`: only the script tells), and its id.
    pub fn text(&self) -> String {
        let mut text = String::with_capacity(64 + 48 * self.ids.len() + 96 * self.texts.len());
        // Writing to a String cannot fail.
        let _ = write!(text, "{}", self.texts.len());
        for terms in &self.texts {
            text.push('\n');
            text.push_str(terms);
        }
        for (id, kind) in self.ids.iter().zip(&self.kinds) {
            let _ = match kind {
                Kind::Hold(terms) => write!(text, "\nh{terms} {id}"),
                Kind::Capture(terms) => write!(text, "\nc{terms} {id}"),
                Kind::Line(_) => write!(text, "\n- {id}"),
            };
        }
        text
    }
}

fn named(account: Option<&AccountId>, with: char, without: char) -> (char, &str) {
    account.map_or((without, "-"), |account| (with, account.as_str()))
}

/// When a call's id was made, in milliseconds since 1970: it is a UUID of version 7. 0 for another.
fn made_ms(id: &HoldId) -> u64 {
    let Ok(uuid) = uuid::Uuid::try_parse(id.as_str()) else { return 0 };
    match uuid.get_timestamp().filter(|_| uuid.get_version_num() == 7) {
        Some(made) => {
            let (seconds, nanos) = made.to_unix();
            seconds.saturating_mul(1000).saturating_add(u64::from(nanos) / 1_000_000)
        }
        None => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_calls_id_tells_when_it_was_made() {
        let now = u64::try_from(crate::ledger::wall_ms()).unwrap();
        assert!(now.abs_diff(made_ms(&HoldId::for_call())) < 10_000);
        for other in ["job-7", "67e55044-10b1-426f-9247-bb680e5fe0c8"] {
            assert_eq!(made_ms(&other.parse().unwrap()), 0);
        }
    }
}
