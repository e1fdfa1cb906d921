//! The values in Redis: accounts, live holds and ended holds. `layout.lua` describes their form.

use std::sync::Arc;

use crate::account::AccountId;
use crate::credits::Credits;
use crate::ledger::claim::ClaimId;
use crate::ledger::operation::{Ending, Origin};
use crate::store::cluster::batch_log::{escape, letter_of, unescape};

/// The record of an id that Postgres does not know.
pub(crate) const UNKNOWN_HOLD: &str = "N";

/// An account in Redis. Credits are micro-credits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HotAccount {
    pub balance: i64,
    pub held: i64,
    /// The number of the newest decision of Postgres that was applied to the account.
    pub grant_seq: i64,
    pub exists: bool,
    pub frozen: bool,
    /// The digest of Postgres's decisions up to `grant_seq` (`postgres/deliveries.rs`).
    pub digest: [u8; 8],
}

impl HotAccount {
    /// Reads the value of an account's key; `None` for a value that no script wrote.
    pub fn parse(value: &[u8]) -> Option<Self> {
        // Seven numbers of eight bytes, two flags, one number, a digest: `STORED` in layout.lua.
        const BYTES: usize = 74;
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
            digest: value.get(66..74)?.try_into().ok()?,
        })
    }
}

/// A live hold in Redis: its amount in micro-credits, and its account.
pub(crate) type HotHold = (i64, String);

/// Reads the record of a live hold; `None` for a tombstone and for anything else.
pub(crate) fn live_hold(record: &str) -> Option<HotHold> {
    let mut words = record.split(' ');
    let _deadline: i64 = words.next()?.parse().ok()?;
    let amount = words.next()?.parse().ok()?;
    Some((amount, words.nth(1)?.to_owned()))
}

/// The route in the record of a live hold: `deadline amount origin account owner route`.
pub(crate) fn route_of(record: &str) -> Arc<str> {
    record.splitn(6, ' ').nth(5).map_or_else(|| "".into(), unescape)
}

/// The record of a live hold without its deadline. The claim of its call follows the owner.
pub(crate) fn live_record(
    amount: Credits,
    origin: Origin,
    account: &AccountId,
    owner: i64,
    claim: Option<ClaimId>,
    route: &str,
) -> String {
    let (amount, origin, route) = (amount.micros(), letter_of(origin), escape(route));
    match claim {
        Some(claim) => format!("{amount:016} {origin} {account} {owner}/{claim} {route}"),
        None => format!("{amount:016} {origin} {account} {owner} {route}"),
    }
}

/// The record of a hold that was captured. The scripts do not read the origin in it, so it is
/// always written as `c`.
pub(crate) fn captured_record(account: &AccountId, amount: Credits) -> String {
    format!("{:016} {} {account}", amount.micros(), letter_of(Origin::Call))
}

/// The record of a hold that was released or has expired.
pub(crate) fn ended_record(
    account: &AccountId,
    amount: Credits,
    origin: Origin,
    ending: Ending,
) -> String {
    let state = if ending == Ending::Released { 'R' } else { 'E' };
    format!("{state} {} {:016} {account}", letter_of(origin), amount.micros())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_live_hold_is_told_from_the_other_records() {
        let record = "1795412683123 0000000005000000 c alice 7 /a b";
        assert_eq!(live_hold(record), Some((5_000_000, "alice".to_owned())));
        assert_eq!(live_hold("1795412683123 T c alice"), None);
        assert_eq!(live_hold("without a value as long as this one"), None);
        assert_eq!(live_hold(""), None);
    }

    #[test]
    fn a_route_of_several_words_is_read_from_a_record() {
        assert_eq!(&*route_of("99 5 c alice 7 /a b"), "/a b");
        assert_eq!(&*route_of("99 5 a alice 7 "), "");
        assert_eq!(&*route_of(""), "");
    }

    #[test]
    fn a_record_of_a_live_hold_reads_back() {
        let amount = Credits::from_micros(5_000_000).unwrap();
        for claim in [None, Some(ClaimId::new([7; 32]))] {
            let alice = "alice".parse().unwrap();
            let rest = live_record(amount, Origin::Call, &alice, 7, claim, "/a\nb");
            let record = format!("1795412683123 {rest}");
            assert_eq!(live_hold(&record), Some((5_000_000, "alice".to_owned())));
            assert_eq!(&*route_of(&record), "/a\nb");
        }
    }
}
