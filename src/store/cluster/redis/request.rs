//! The request of one batch: packed for `decide.lua`, and as text for the stream.

use std::fmt::Write as _;

use ahash::{HashMap, HashSet};

use crate::account::AccountId;
use crate::ledger::CALL_TTL_MS;
use crate::ledger::claim::{Claim, ClaimId};
use crate::ledger::operation::{HoldId, NewHold, Operation, Origin};
use crate::store::cluster::batch_log::{escape, letter_of};
use crate::store::cluster::claim_text;
use crate::store::cluster::redis::pack::Pack;
use crate::store::cluster::redis::script::Scripts;
use crate::store::cluster::usage_text;
use crate::usage::UsageRecord;

/// The longest lifetime of a hold that is sent to Redis: a hundred years. The script can add it to
/// the current time without loss.
const MAX_TTL_MS: u64 = 100 * 365 * 86_400_000;

/// One item of a batch for Redis.
#[derive(Clone, Copy, Debug)]
pub(crate) enum BatchItem<'a> {
    Operation(&'a Operation),
    /// Ends a hold whose time is up.
    Expire {
        hold: &'a HoldId,
        /// Whether the hold ends even if its deadline has not passed.
        in_any_case: bool,
    },
}

/// The form in which an item is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A call's hold on these terms.
    Hold(usize),
    /// A call's capture on these terms.
    Capture(usize),
    /// Another operation, which this line describes.
    Line(usize),
}

/// The amount, account and route that several calls' holds and captures share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Terms {
    /// The amount, in micro-credits.
    pub amount: u64,
    /// The place of the account in [`Request::accounts`].
    pub account: usize,
}

/// The operations of a batch, in the form that `decide.lua` reads. The head of that file describes
/// the members.
#[derive(Debug, Default)]
pub(crate) struct Request<'a> {
    ids: Vec<&'a str>,
    pub kinds: Vec<Kind>,
    pub terms: Vec<Terms>,
    texts: Vec<String>,
    pub accounts: Vec<&'a str>,
    lines: Vec<String>,
    /// The usage of metered calls, each with the place of its capture.
    usages: Vec<(usize, &'a UsageRecord)>,
    /// The words of operations on claims, each with the place of its operation.
    claims: Vec<(usize, String)>,
    /// The time at which the oldest id among the calls' holds was made, in milliseconds since 1970.
    oldest_ms: u64,
    owner: i64,
}

impl<'a> BatchItem<'a> {
    /// The hold that the item is about.
    pub fn hold(self) -> Option<&'a HoldId> {
        match self {
            Self::Operation(
                Operation::Hold(NewHold { id: hold, .. })
                | Operation::Capture { hold, .. }
                | Operation::Release { hold, .. }
                | Operation::Abandon { hold, .. }
                | Operation::MarkClaim { hold, .. }
                | Operation::Leave { hold, .. }
                | Operation::Extend { hold, .. }
                | Operation::Renew { hold, .. },
            )
            | Self::Expire { hold, .. } => Some(hold),
            Self::Operation(_) => None,
        }
    }

    /// The account that the item names.
    pub fn account(self) -> Option<&'a AccountId> {
        match self {
            Self::Operation(
                Operation::Hold(NewHold { account, .. })
                | Operation::Extend { account, .. }
                | Operation::Abandon { account, .. }
                | Operation::Leave { account, .. }
                | Operation::Balance { account },
            ) => Some(account),
            Self::Operation(
                Operation::Capture { account, .. } | Operation::Release { account, .. },
            ) => account.as_ref(),
            _ => None,
        }
    }

    /// The claim that the item asks for, marks or settles, or the id that a retry names.
    pub fn claim(self) -> Option<ClaimId> {
        let Self::Operation(operation) = self else { return None };
        match operation {
            Operation::Hold(NewHold {
                claim: Some(Claim::Key { id, .. } | Claim::Retry { id }),
                ..
            })
            | Operation::Leave { id, .. }
            | Operation::MarkClaim { claim: id, .. } => Some(*id),
            Operation::Capture { claim, .. }
            | Operation::Release { claim, .. }
            | Operation::Abandon { claim, .. } => *claim,
            _ => None,
        }
    }

    /// Whether the item sets credits aside.
    pub fn takes_credits(self) -> bool {
        matches!(self, Self::Operation(operation) if operation.takes_credits())
    }

    /// The usage of a metered call, if the item charges one.
    fn usage(self) -> Option<&'a UsageRecord> {
        match self {
            Self::Operation(Operation::Capture { usage, .. }) => usage.as_deref(),
            _ => None,
        }
    }

    /// The party that made the hold, if the item says so.
    pub fn origin(self) -> Option<Origin> {
        match self {
            Self::Operation(operation) => operation.origin(),
            Self::Expire { .. } => None,
        }
    }
}

impl<'a> Request<'a> {
    /// Creates a request for these items, in their order. `owner` is the incarnation of this
    /// gateway.
    pub fn new(items: impl Iterator<Item = BatchItem<'a>> + Clone, owner: i64) -> Self {
        let mut request = Self { owner, oldest_ms: u64::MAX, ..Self::default() };
        let mut ids = HashSet::default();
        // If two items have the same id, all items are described by lines. The script then decides
        // each item on the state that the items before it left.
        let are_apart = items.clone().filter_map(BatchItem::hold).all(|id| ids.insert(id));
        let mut known = HashMap::default();
        for item in items {
            request.usages.extend(item.usage().map(|usage| (request.len(), usage)));
            if are_apart
                && let BatchItem::Operation(operation) = item
                && request.push_usual(operation, &mut known)
            {
                continue;
            }
            request.push_line(item);
        }
        request
    }

    /// The number of items.
    pub fn len(&self) -> usize {
        self.kinds.len()
    }

    /// Adds a call's hold or capture. Returns false for any other operation.
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
                claim: None,
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
                may_overrun: true,
                usage: _,
                claim: None,
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

    fn push_line(&mut self, item: BatchItem<'a>) {
        let operation = match item {
            BatchItem::Expire { hold, in_any_case } => {
                let kind = if in_any_case { 'X' } else { 'x' };
                return self.line(kind, Some(hold), "-", 0, Origin::Call, 0, 0, "");
            }
            BatchItem::Operation(operation) => operation,
        };
        self.claims.extend(claim_text::words_of(operation).map(|words| (self.len(), words)));
        match operation {
            Operation::Hold(NewHold { id, account, amount, route, origin, ttl_ms, claim: _ }) => {
                let made = if *origin == Origin::Call { made_ms(id) } else { 0 };
                let amount = amount.micros();
                self.line('h', Some(id), account.as_str(), amount, *origin, *ttl_ms, made, route);
            }
            Operation::Renew { hold, ttl_ms } => {
                self.line('n', Some(hold), "-", 0, Origin::Call, *ttl_ms, 0, "");
            }
            Operation::Extend { hold, account, amount } => {
                let (amount, origin) = (amount.micros(), Origin::Call);
                self.line('g', Some(hold), account.as_str(), amount, origin, 0, 0, "");
            }
            Operation::Capture {
                hold,
                account,
                amount,
                route,
                origin,
                may_overrun,
                usage: _,
                claim: _,
            } => {
                let may_overrun = *may_overrun && *origin == Origin::Call;
                let (with, without) = if may_overrun { ('o', 'O') } else { ('c', 'C') };
                let (kind, account) = named(account.as_ref(), with, without);
                self.line(kind, Some(hold), account, amount.micros(), *origin, 0, 0, route);
            }
            Operation::Release { hold, account, origin, claim: _ } => {
                let (kind, account) = named(account.as_ref(), 'r', 'R');
                self.line(kind, Some(hold), account, 0, *origin, 0, 0, "");
            }
            // The hold of a call that was cut off expires at once, because this gateway may be gone
            // before it could try again. `GET /admin/crashed` lists the holds that expired.
            Operation::Abandon { hold, .. } => {
                self.line('X', Some(hold), "-", 0, Origin::Call, 0, 0, "");
            }
            Operation::MarkClaim { hold, .. } => {
                self.line('m', Some(hold), "-", 0, Origin::Call, 0, 0, "");
            }
            Operation::Leave { hold, account, .. } => {
                self.line('l', Some(hold), account.as_str(), 0, Origin::Call, 0, 0, "");
            }
            Operation::Balance { account } => {
                self.line('b', None, account.as_str(), 0, Origin::Call, 0, 0, "");
            }
            // Every other operation is decided in Postgres.
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

    /// `ARGV[1]` of the script. `durable` is the newest batch that is known to be in Postgres.
    /// `cap` is the unsynced cap in micro-credits, 0 for none.
    pub fn packed(&self, scripts: &Scripts, durable: i64, cap: u64) -> Vec<u8> {
        let count = i64::try_from(self.terms.len()).unwrap_or(i64::MAX);
        let one_based = |n: usize| i64::try_from(n).map_or(i64::MAX, |n| n.saturating_add(1));
        let mut pack = Pack::with_room_for(128 + 64 * self.ids.len());
        pack.array(if self.claims.is_empty() { 12 } else { 13 });
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
        if !self.claims.is_empty() {
            pack.array(2 * self.claims.len());
            for (place, words) in &self.claims {
                pack.int(one_based(*place));
                pack.text(words);
            }
        }
        pack.finish()
    }

    /// `ARGV[2]` of the script, which becomes a part of the stream: the number of terms, the terms, and a line for each
    /// item. The line has a letter with the place of the item's terms (`-` for an item that a line describes), the id,
    /// the claim that the item makes, and the usage of a metered call.
    pub fn text(&self) -> String {
        let mut text = String::with_capacity(64 + 48 * self.ids.len() + 96 * self.texts.len());
        // Writing to a String cannot fail.
        let _ = write!(text, "{}", self.texts.len());
        for terms in &self.texts {
            text.push('\n');
            text.push_str(terms);
        }
        let mut usages = self.usages.iter().peekable();
        let mut claims = self.claims.iter().peekable();
        for (place, (id, kind)) in self.ids.iter().zip(&self.kinds).enumerate() {
            let _ = match kind {
                Kind::Hold(terms) => write!(text, "\nh{terms} {id}"),
                Kind::Capture(terms) => write!(text, "\nc{terms} {id}"),
                Kind::Line(_) => write!(text, "\n- {id}"),
            };
            if let Some((_, words)) = claims.next_if(|(of, _)| *of == place)
                && claim_text::is_logged(words)
            {
                text.push(' ');
                text.push_str(words);
            }
            if let Some((_, usage)) = usages.next_if(|(of, _)| *of == place) {
                text.push(' ');
                text.push_str(&usage_text::write(usage));
            }
        }
        text
    }
}

/// The kind of a line, and the account that is named in it.
fn named(account: Option<&AccountId>, with: char, without: char) -> (char, &str) {
    account.map_or((without, "-"), |account| (with, account.as_str()))
}

/// The time at which a call's id was made, in milliseconds since 1970; 0 for an id that is not a
/// UUID of version 7.
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
    use crate::credits::Credits;
    use crate::store::cluster::epoch::Epoch;

    #[test]
    fn a_calls_id_says_when_it_was_made() {
        let now = u64::try_from(crate::ledger::wall_ms()).unwrap();
        assert!(now.abs_diff(made_ms(&HoldId::for_call())) < 10_000);
        for other in ["job-7", "67e55044-10b1-426f-9247-bb680e5fe0c8"] {
            assert_eq!(made_ms(&other.parse().unwrap()), 0);
        }
    }

    /// Checks that the example in the head of decide.lua is the real form of such a batch.
    #[test]
    fn the_head_of_decide_lua_shows_this_request() {
        let (made, account, route) = (1_795_412_683_000_u64, "alice".parse().unwrap(), "/a b");
        let id = |n: u64| -> HoldId {
            let (high, low) = (made >> 16, made & 0xffff);
            format!("{high:08x}-{low:04x}-7000-8000-{n:012}").parse().unwrap()
        };
        let credits = |n: u64| Credits::from_micros(n * 1_000_000).unwrap();
        let hold = |n| {
            Operation::Hold(NewHold {
                id: id(n),
                account: AccountId::clone(&account),
                amount: credits(5),
                route: route.into(),
                origin: Origin::Call,
                ttl_ms: CALL_TTL_MS,
                claim: None,
            })
        };
        let capture = Operation::Capture {
            hold: id(3),
            account: Some(account.clone()),
            amount: credits(4),
            route: route.into(),
            origin: Origin::Call,
            may_overrun: true,
            usage: None,
            claim: None,
        };
        let operations = [hold(1), hold(2), capture];
        let request = Request::new(operations.iter().map(BatchItem::Operation), 3);
        let scripts = Scripts::new(0, Epoch { number: 7, nonce: "n".into() });
        let shown = include_str!("decide.lua");

        let mut text = request.text();
        for n in 1..=3 {
            text = text.replace(id(n).as_str(), &format!("id-{n}"));
        }
        let stream = format!("ARGV[2]      {}", text.replace('\n', " | "));
        assert!(shown.contains(&stream), "{stream}");
        let packed = request.packed(&scripts, 40, 0);
        let bytes: Vec<_> = packed[..16].iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(shown.contains(&format!("as bytes: {} …", bytes.join(" "))), "{bytes:?}");
        for member in [
            format!("[3, 40, 0, {CALL_TTL_MS}, {made}, [id-1, id-2, id-3], [1, 1, -2],"),
            format!("[\"{}\", \"{}\"]", request.texts[0], request.texts[1]),
            format!("[5000000, 4000000], [1, 1], [\"{}\"], []]", scripts.account_key("alice")),
        ] {
            assert!(shown.contains(&member), "{member}");
        }
    }
}
