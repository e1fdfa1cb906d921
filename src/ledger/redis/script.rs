//! The scripts of one epoch, and what goes in and out of them.

use std::fmt::Write as _;

use sha1::{Digest as _, Sha1};

use crate::account::AccountId;
use crate::ledger::operation::{HoldId, NewHold, Operation, Origin};
use crate::ledger::record::{escape, letter_of};

const DECIDE: &str = include_str!("decide.lua");
const KEEP: &str = include_str!("keep.lua");

/// A hundred years: longer than anybody waits, and short enough to be added to the time of day.
const MAX_TTL_MS: u64 = 100 * 365 * 86_400_000;

/// One life of Redis's data, by number and nonce.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::ledger) struct Epoch {
    pub number: i64,
    pub nonce: String,
}

/// A script's text, and the name by which it is called.
#[derive(Clone, Debug)]
pub(super) struct Script {
    pub text: String,
    pub sha: String,
}

/// All that belongs to one epoch of one shard.
#[derive(Clone, Debug)]
pub(super) struct Scripts {
    pub epoch: Epoch,
    pub decide: Script,
    pub keep: Script,
    /// Stands in front of the keys that live and die with the epoch.
    pub prefix: String,
    /// `meta`, `out`, and the deadlines.
    pub keys: [String; 3],
}

/// The hash tag of a shard: all its keys share a slot.
pub(super) fn tag(shard: i32) -> String {
    format!("{{s{shard:02}}}:")
}

impl Scripts {
    pub fn new(shard: i32, epoch: Epoch) -> Self {
        let tag = tag(shard);
        let prefix = format!("{tag}{}:", epoch.number);
        let name = epoch.name();
        let script = |body: &str| {
            let text = format!("local EPOCH, P = '{name}', '{prefix}'\n{body}");
            let sha = Sha1::digest(&text).iter().fold(String::new(), |mut hex, byte| {
                // Writing to a String cannot fail.
                let _ = write!(hex, "{byte:02x}");
                hex
            });
            Script { text, sha }
        };
        Self {
            decide: script(DECIDE),
            keep: script(KEEP),
            keys: [format!("{tag}meta"), format!("{tag}out"), format!("{prefix}exp")],
            prefix,
            epoch,
        }
    }

    /// The key of an account.
    pub fn account_key(&self, account: &str) -> String {
        format!("{}a:{account}", self.prefix)
    }
}

impl Epoch {
    /// As it stands in `meta`.
    pub fn name(&self) -> String {
        format!("{}.{}", self.number, self.nonce)
    }
}

/// The lines of a batch.
#[derive(Debug)]
pub(super) struct Lines(String);

impl Lines {
    pub fn with_room_for(operations: usize) -> Self {
        Self(String::with_capacity(operations.saturating_mul(96)))
    }

    pub fn finish(self) -> String {
        self.0
    }

    pub fn push(&mut self, operation: &Operation) {
        match operation {
            Operation::Hold(NewHold { id, account, amount, route, origin, ttl_ms }) => {
                let made = if *origin == Origin::Call { made_ms(id) } else { 0 };
                self.line(
                    'h',
                    id,
                    account.as_str(),
                    amount.micros(),
                    *origin,
                    *ttl_ms,
                    made,
                    route,
                );
            }
            Operation::Renew { hold, ttl_ms } => {
                self.line('n', hold, "-", 0, Origin::Call, *ttl_ms, 0, "");
            }
            Operation::Capture { hold, account, amount, route, origin } => {
                let (kind, account) = named(account.as_ref(), 'c', 'C');
                self.line(kind, hold, account, amount.micros(), *origin, 0, 0, route);
            }
            Operation::Release { hold, account, origin } => {
                let (kind, account) = named(account.as_ref(), 'r', 'R');
                self.line(kind, hold, account, 0, *origin, 0, 0, "");
            }
            Operation::Balance { account } => {
                // Writing to a String cannot fail.
                let _ = writeln!(self.0, "b - {account} 0 c 0 0 ");
            }
            // The rest is decided in Postgres.
            _ => debug_assert!(false, "{operation:?} is not for Redis"),
        }
    }

    /// Ends a hold whose time has run out: if it still has, or in any case.
    pub fn expire(&mut self, id: &HoldId, in_any_case: bool) {
        let kind = if in_any_case { 'X' } else { 'x' };
        self.line(kind, id, "-", 0, Origin::Call, 0, 0, "");
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of a line, in order")]
    fn line(
        &mut self,
        kind: char,
        id: &HoldId,
        account: &str,
        amount: u64,
        origin: Origin,
        ttl: u64,
        made: u64,
        route: &str,
    ) {
        let (origin, route, ttl) = (letter_of(origin), escape(route), ttl.min(MAX_TTL_MS));
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "{kind} {id} {account} {amount} {origin} {ttl} {made} {route}");
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
