//! Claims as text: in the requests to `decide.lua`, and in the batch log. The head of `claims.lua` lists the words.

use crate::ledger::claim::{Claim, ClaimId, RequestMark};
use crate::ledger::operation::{HoldId, NewHold, Operation};

/// The longest time that a claim is kept, in milliseconds: a hundred years. The script can add this to the current time
/// without loss.
const MAX_KEEP_MS: u64 = 100 * 365 * 86_400_000;

/// How long after the claim's time is up Redis still remembers the claim of a running call, in milliseconds.
pub(crate) const RUNS_FOR_MS: i64 = 86_400_000;

/// The claim of a call's hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeyClaim {
    pub id: ClaimId,
    /// `None` if the request is not known yet.
    pub mark: Option<RequestMark>,
    /// The time after which the claim of a charged call is free, in milliseconds since 1970 by Redis's clock.
    pub until_ms: i64,
}

/// A call whose client left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LeftCall {
    /// The id that a retry of the call names.
    pub id: ClaimId,
    pub hold: HoldId,
    /// The time until which a retry is told of the call, in milliseconds since 1970 by Redis's clock.
    pub until_ms: i64,
}

/// The words of an operation on a claim; `None` for other operations.
pub(crate) fn words_of(operation: &Operation) -> Option<String> {
    Some(match operation {
        Operation::Hold(NewHold { claim: Some(claim), .. }) => match claim {
            Claim::Key { id, mark, keep_ms } => {
                let keep_ms = keep_ms.min(&MAX_KEEP_MS);
                match mark {
                    Some(mark) => format!("k {id} {mark} {keep_ms}"),
                    None => format!("k {id} - {keep_ms}"),
                }
            }
            Claim::Retry { id } => format!("r {id}"),
        },
        Operation::Capture { claim: Some(id), .. }
        | Operation::Release { claim: Some(id), .. }
        | Operation::Abandon { claim: Some(id), .. } => format!("s {id}"),
        Operation::MarkClaim { claim, mark, .. } => format!("m {claim} {mark}"),
        Operation::Leave { id, .. } => format!("l {id}"),
        _ => return None,
    })
}

/// Whether these are words that the batch log keeps after the id of their operation. The other words are in the lines
/// of the batch's head.
pub(crate) fn is_logged(words: &str) -> bool {
    words.starts_with('k')
}

/// Reads the words of a claim whose hold was granted at `at_ms`; `None` if the words are not those of a claim.
pub(crate) fn read_key_claim(words: &str, at_ms: i64) -> Option<KeyClaim> {
    let mut words = words.strip_prefix("k ")?.split(' ');
    let (id, mark) = (read(words.next()?)?, words.next()?);
    let mark = if mark == "-" { None } else { Some(read(mark)?) };
    let keep_ms: i64 = words.next()?.parse().ok()?;
    Some(KeyClaim { id, mark, until_ms: at_ms.saturating_add(keep_ms) })
}

/// Reads 64 hexadecimal digits.
pub(crate) fn read<T: Digest>(text: &str) -> Option<T> {
    let mut bytes = [0; 32];
    if text.len() != 2 * bytes.len() || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    for (byte, at) in bytes.iter_mut().zip((0..text.len()).step_by(2)) {
        *byte = u8::from_str_radix(text.get(at..at + 2)?, 16).ok()?;
    }
    Some(T::of(bytes))
}

/// A type of 32 bytes.
pub(crate) trait Digest {
    /// Takes the bytes.
    fn of(bytes: [u8; 32]) -> Self;
}

impl Digest for ClaimId {
    fn of(bytes: [u8; 32]) -> Self {
        Self::new(bytes)
    }
}

impl Digest for RequestMark {
    fn of(bytes: [u8; 32]) -> Self {
        Self::new(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_read_from_its_own_text_alone() {
        let id = ClaimId::new(std::array::from_fn(|n| n as u8 * 8));
        assert_eq!(read(&id.to_string()), Some(id));
        let short = &id.to_string()[2..];
        let accented = format!("{}é", &short[..62]);
        for other in
            ["", short, &format!("{short}zz"), &format!("{id}00"), &accented, &format!("{short}+1")]
        {
            assert_eq!(read::<ClaimId>(other), None, "{other}");
        }
    }

    #[test]
    fn the_words_of_a_claim_read_back() {
        let id = ClaimId::new([0x1f; 32]);
        for mark in [None, Some(RequestMark::new([0xab; 32]))] {
            let hold = Operation::Hold(NewHold {
                id: HoldId::for_call(),
                account: "alice".parse().unwrap(),
                amount: crate::credits::Credits::ZERO,
                route: "/a".into(),
                origin: crate::ledger::operation::Origin::Call,
                ttl_ms: 1,
                claim: Some(Claim::Key { id, mark, keep_ms: 5 }),
            });
            let words = words_of(&hold).unwrap();
            assert!(is_logged(&words));
            let read_back = KeyClaim { id, mark, until_ms: 12 };
            assert_eq!(read_key_claim(&words, 7), Some(read_back));
        }
        for other in ["", "k", "k 1f - 5", "s 1f"] {
            assert_eq!(read_key_claim(other, 7), None, "{other}");
        }
    }

    /// The Rust code and the script have the same times.
    #[test]
    fn times_are_those_of_the_script() {
        let script = include_str!("redis/claims.lua");
        for (name, ms) in [
            ("LEFT_FOR", crate::ledger::claim::LEFT_MS),
            ("LATE_KEPT", crate::ledger::claim::LATE_KEEP_MS),
            ("RUNS_FOR", RUNS_FOR_MS.unsigned_abs()),
        ] {
            assert!(script.contains(&format!("local {name} = {ms} ")), "{name}");
        }
    }
}
