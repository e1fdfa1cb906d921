//! The text of one batch. A script adds it to the stream of Redis, and a gateway writes its content
//! into Postgres.
//!
//! The first line is the head, which `decide.lua` writes: the time, how long a call's hold lives, and an outcome code
//! for each operation. Then comes a line for each operation whose code is `+`. The rest is the request, as
//! [`Request::text`](crate::store::cluster::redis::request::Request::text) writes it: the number of terms, the terms,
//! and a line for each operation. An operation's line has the place of its terms, its id, and either the claim that it
//! makes (`claim_text`) or the usage of a metered call (`usage_text`). A route is always the last word of its line,
//! because it may contain spaces.

use std::borrow::Cow;
use std::sync::Arc;

use crate::account::AccountId;
use crate::credits::Credits;
use crate::ledger::claim::{ClaimId, RequestMark};
use crate::ledger::operation::{Ending, HoldId, Operation, Origin};
use crate::store::cluster::claim_text::{self, KeyClaim, LeftCall};
use crate::store::cluster::usage_text;
use crate::usage::UsageRecord;

/// One batch of the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Batch {
    /// The time at which Redis decided the batch, by Redis's clock, in milliseconds since 1970.
    pub at_ms: i64,
    pub decided: Vec<Decided>,
}

/// A change that an operation of the batch made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Decided {
    Held {
        id: HoldId,
        account: AccountId,
        amount: Credits,
        origin: Origin,
        /// The incarnation of the gateway that made the hold.
        owner: i64,
        expires_ms: i64,
        route: Arc<str>,
        claim: Option<Box<KeyClaim>>,
    },
    /// More credits were set aside under a live hold.
    Extended {
        id: HoldId,
        account: AccountId,
        /// The hold's new amount.
        amount: Credits,
    },
    Renewed {
        id: HoldId,
        expires_ms: i64,
    },
    Captured {
        id: HoldId,
        account: AccountId,
        amount: Credits,
        origin: Origin,
        late: bool,
        route: Arc<str>,
        usage: Option<Arc<UsageRecord>>,
        /// The claim that is charged with the hold.
        claim: Option<Box<ClaimId>>,
    },
    Ended {
        id: HoldId,
        account: AccountId,
        amount: Credits,
        origin: Origin,
        ending: Ending,
        route: Arc<str>,
    },
    /// The request of a claim became known.
    Marked {
        hold: HoldId,
        claim: Box<(ClaimId, RequestMark)>,
    },
    /// The client of a call left.
    Left(Box<LeftCall>),
    /// A retry was told of a call that was charged after its client had left.
    Retried {
        hold: HoldId,
    },
}

impl Batch {
    /// Reads the text of a batch; `None` for a text that no script of Farebox wrote.
    pub fn parse(text: &str) -> Option<Self> {
        let mut lines = text.split('\n');
        let mut head = lines.next()?.splitn(3, ' ');
        let at_ms: i64 = head.next()?.parse().ok()?;
        let Some(ttl_ms) = head.next() else {
            // An early version wrote only a line for each change.
            let decided = lines.map(Decided::parse).collect::<Option<_>>()?;
            return Some(Self { at_ms, decided });
        };
        let expires_ms = at_ms.checked_add(ttl_ms.parse().ok()?)?;
        let codes = Some(head.next()?).filter(|codes| *codes != "*");
        let noted = codes.map_or(0, |codes| codes.bytes().filter(|code| *code == b'+').count());
        let mut noted =
            lines.by_ref().take(noted).map(Decided::parse).collect::<Vec<_>>().into_iter();
        let terms: usize = lines.next()?.parse().ok()?;
        let terms: Vec<_> = lines.by_ref().take(terms).map(Terms::parse).collect::<Option<_>>()?;
        let mut codes = codes.map(str::bytes);
        let mut decided = Vec::with_capacity(lines.size_hint().0);
        for line in lines {
            let (asked, id) = line.split_once(' ')?;
            let (id, more) = id.split_once(' ').map_or((id, None), |(id, more)| (id, Some(more)));
            let code = match &mut codes {
                None => *asked.as_bytes().first()?,
                Some(codes) => match codes.next() {
                    None => break,
                    Some(code) => code,
                },
            };
            match code {
                b'.' => {}
                b'+' => decided.push(noted.next()??.with(more, at_ms)?),
                _ => {
                    let terms = terms.get(asked.get(1..)?.parse::<usize>().ok()?)?;
                    let change = terms.change(code, id.parse().ok()?, expires_ms)?;
                    decided.push(change.with(more, at_ms)?);
                }
            }
        }
        Some(Self { at_ms, decided })
    }

    /// The captures and releases in this batch, to be decided again after the batch was lost. Their
    /// ids keep them from taking effect twice. The holds that the batch made or extended are not
    /// made again. If a call is still running on one of them, its capture is late, or above its
    /// hold.
    pub fn ends(self) -> Vec<Operation> {
        let mut operations = Vec::new();
        for decided in self.decided {
            match decided {
                Decided::Captured { id, account, amount, route, origin, usage, claim, .. } => {
                    let is_call = origin == Origin::Call;
                    let account = is_call.then_some(account);
                    operations.push(Operation::Capture {
                        hold: id,
                        account,
                        amount,
                        route,
                        origin,
                        may_overrun: is_call,
                        usage,
                        claim: claim.map(|claim| *claim),
                    });
                }
                Decided::Ended { id, account, origin, ending: Ending::Released, .. } => {
                    operations.push(Operation::Release {
                        hold: id,
                        account: Some(account),
                        origin,
                        claim: None,
                    });
                }
                // An expired hold expires again by itself, unless it is captured first. Marks, and records of clients
                // that left, belong to holds that are not made again.
                Decided::Held { .. }
                | Decided::Extended { .. }
                | Decided::Renewed { .. }
                | Decided::Ended { .. }
                | Decided::Marked { .. }
                | Decided::Left(_)
                | Decided::Retried { .. } => {}
            }
        }
        operations
    }
}

/// The amount, account, owner and route that several calls' holds and captures share.
#[derive(Debug)]
struct Terms {
    amount: Credits,
    origin: Origin,
    account: AccountId,
    owner: i64,
    route: Arc<str>,
}

impl Terms {
    fn parse(text: &str) -> Option<Self> {
        let mut words = text.splitn(5, ' ');
        Some(Self {
            amount: words.next()?.parse().ok().and_then(Credits::from_micros)?,
            origin: origin_of(words.next()?)?,
            account: words.next()?.parse().ok()?,
            owner: words.next()?.parse().ok()?,
            route: unescape(words.next()?),
        })
    }

    /// The change that an operation made, if the operation took effect exactly as requested.
    fn change(&self, code: u8, id: HoldId, expires_ms: i64) -> Option<Decided> {
        let Self { amount, origin, owner, .. } = *self;
        let (account, route) = (self.account.clone(), self.route.clone());
        match code {
            b'h' => {
                let claim = None;
                Some(Decided::Held { id, account, amount, origin, owner, expires_ms, route, claim })
            }
            b'c' => {
                let (late, usage, claim) = (false, None, None);
                Some(Decided::Captured { id, account, amount, origin, late, route, usage, claim })
            }
            _ => None,
        }
    }
}

impl Decided {
    /// Adds the text after the id in the request: the claim that a hold makes, or the usage of a metered call. After
    /// the ids of other operations this version reads nothing, because a later version may write more there.
    fn with(mut self, more: Option<&str>, at_ms: i64) -> Option<Self> {
        let Some(more) = more else { return Some(self) };
        match &mut self {
            Self::Held { claim, .. } if more.starts_with("k ") => {
                *claim = Some(Box::new(claim_text::read_key_claim(more, at_ms)?));
            }
            Self::Captured { usage, .. } => *usage = Some(Arc::new(usage_text::read(more)?)),
            _ => {}
        }
        Some(self)
    }

    /// Reads a line that describes one change.
    fn parse(line: &str) -> Option<Self> {
        let (word, rest) = line.split_once(' ')?;
        let (id, rest) = rest.split_once(' ')?;
        let id = id.parse().ok()?;
        match word {
            "n" => return Some(Self::Renewed { id, expires_ms: rest.parse().ok()? }),
            "m" | "l" | "u" => return Self::of_claim(word, id, rest),
            _ => {}
        }
        let mut words = rest.splitn(4, ' ');
        let account = words.next()?.parse().ok()?;
        let amount = words.next()?.parse().ok().and_then(Credits::from_micros)?;
        let origin = origin_of(words.next()?)?;
        let rest = words.next()?;
        Some(match word {
            "h" => {
                let mut words = rest.splitn(3, ' ');
                let owner = words.next()?.parse().ok()?;
                let expires_ms = words.next()?.parse().ok()?;
                let (route, claim) = (unescape(words.next()?), None);
                Self::Held { id, account, amount, origin, owner, expires_ms, route, claim }
            }
            "c" => {
                let (late, route) = rest.split_once(' ')?;
                let (late, claim) = late.split_once('/').unwrap_or((late, ""));
                let claim = match claim {
                    "" => None,
                    claim => Some(Box::new(claim_text::read(claim)?)),
                };
                let (late, route, usage) = (late == "1", unescape(route), None);
                Self::Captured { id, account, amount, origin, late, route, usage, claim }
            }
            "g" => Self::Extended { id, account, amount },
            "r" | "e" => {
                let ending = if word == "r" { Ending::Released } else { Ending::Expired };
                Self::Ended { id, account, amount, origin, ending, route: unescape(rest) }
            }
            _ => return None,
        })
    }

    /// Reads the rest of a line about a claim, or about a call whose client left.
    fn of_claim(word: &str, hold: HoldId, rest: &str) -> Option<Self> {
        let (id, more) = rest.split_once(' ').unwrap_or((rest, ""));
        let id: ClaimId = claim_text::read(id)?;
        Some(match word {
            "m" => Self::Marked { hold, claim: Box::new((id, claim_text::read(more)?)) },
            "l" => Self::Left(Box::new(LeftCall { id, hold, until_ms: more.parse().ok()? })),
            _ => Self::Retried { hold },
        })
    }
}

/// The letter that stands for an origin in the scripts and in the stream.
pub(crate) const fn letter_of(origin: Origin) -> &'static str {
    match origin {
        Origin::Call => "c",
        Origin::Api => "a",
    }
}

fn origin_of(letter: &str) -> Option<Origin> {
    [Origin::Call, Origin::Api].into_iter().find(|origin| letter_of(*origin) == letter)
}

/// Escapes a route, so that it stays on one line. A NUL, which Postgres cannot store, becomes
/// U+FFFD.
pub(crate) fn escape(route: &str) -> Cow<'_, str> {
    if route.contains(['\\', '\n', '\0']) {
        storable(route).replace('\\', "\\\\").replace('\n', "\\n").into()
    } else {
        route.into()
    }
}

/// A text that Postgres can store. Each NUL becomes U+FFFD.
pub(crate) fn storable(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// Undoes [`escape`].
pub(crate) fn unescape(text: &str) -> Arc<str> {
    if !text.contains('\\') {
        return text.into();
    }
    let mut route = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => route.push(if chars.next() == Some('n') { '\n' } else { '\\' }),
            c => route.push(c),
        }
    }
    route.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_route_reads_back_from_one_line(route in ".*", more in "[\\\\n\n ]*") {
            let route = storable(&(route + &more));
            let line = escape(&route);
            prop_assert!(!line.contains('\n'));
            prop_assert_eq!(&*unescape(&line), route);
        }
    }

    #[test]
    fn a_batch_is_read_with_what_was_asked() {
        let asked = "2\n0000000000000005 c alice 3 /a b\n0000000000000004 c alice 3 /a b\n\
                     h0 id-1\nc1 id-2\n- id-3\nc0 id-4\nh0 id-5";
        let batch = Batch::parse(&format!("17 60 hc+.\nr id-3 bob 0 c \n{asked}")).unwrap();
        let (amount, origin) = (|n| Credits::from_micros(n).unwrap(), Origin::Call);
        let (account, id) = (|id: &str| id.parse().unwrap(), |id: &str| id.parse().unwrap());
        let (owner, expires_ms, late) = (3, 77, false);
        let route: Arc<str> = "/a b".into();
        let expected = [
            Decided::Held {
                id: id("id-1"),
                account: account("alice"),
                amount: amount(5),
                origin,
                owner,
                expires_ms,
                route: route.clone(),
                claim: None,
            },
            Decided::Captured {
                id: id("id-2"),
                account: account("alice"),
                amount: amount(4),
                origin,
                late,
                route,
                usage: None,
                claim: None,
            },
            Decided::Ended {
                id: id("id-3"),
                account: account("bob"),
                amount: amount(0),
                origin,
                ending: Ending::Released,
                route: "".into(),
            },
        ];
        assert_eq!((batch.at_ms, &batch.decided[..]), (17, &expected[..]));
        let asked = "1\n0000000000000005 c alice 3 /a b\nh0 id-1\nc0 id-2";
        assert_eq!(Batch::parse(&format!("17 60 *\n{asked}")).unwrap().decided.len(), 2);
        for bad in ["17 60", "17 60 *", "17 60 h\n1\nh0 id", "17 60 +\n0\n- id", "17 x h\n0"] {
            assert_eq!(Batch::parse(bad), None, "{bad}");
        }
    }

    /// A lost batch is requested again with the usage of its calls.
    #[test]
    fn metered_calls_are_read_with_what_they_used() {
        let used = r#"{"h":3,"m":"a b","u":{"input":2},"p":"0f"}"#;
        let text = format!(
            "17 60 c++\ng id-2 bob 9 c \nc id-3 bob 9 c 1 /b\n1\n0000000000000005 c alice 3 /a\n\
             c0 id-1 {used}\n- id-2\n- id-3 {used}"
        );
        let batch = Batch::parse(&text).unwrap();
        let extended = Decided::Extended {
            id: "id-2".parse().unwrap(),
            account: "bob".parse().unwrap(),
            amount: Credits::from_micros(9).unwrap(),
        };
        assert_eq!(batch.decided[1], extended);
        let usage = Arc::new(usage_text::read(used).unwrap());
        let capture = |id: &str, account: &str, amount, route: &str| Operation::Capture {
            hold: id.parse().unwrap(),
            account: Some(account.parse().unwrap()),
            amount: Credits::from_micros(amount).unwrap(),
            route: route.into(),
            origin: Origin::Call,
            may_overrun: true,
            usage: Some(usage.clone()),
            claim: None,
        };
        let ends = [capture("id-1", "alice", 5, "/a"), capture("id-3", "bob", 9, "/b")];
        assert_eq!(batch.ends(), ends);
        assert_eq!(Batch::parse(&text.replace("\"p\"", "p")), None);
        let later = text.replace("- id-2", "- id-2 {}");
        assert_eq!(Batch::parse(&later), Batch::parse(&text), "a later version writes more");
    }

    /// Claims are read in the order in which Redis decided them; a charge that is requested again has its claim.
    #[test]
    fn claims_are_read_with_their_holds() {
        let (one, two, mark) = ("1f".repeat(32), "20".repeat(32), "ab".repeat(32));
        let text = format!(
            "1000 60 ++++++\nh id-1 bob 5 c 3 1060 /a\nh id-2 bob 5 c 3 1060 /a\nm id-2 {two} {mark}\n\
             l id-1 {one} 121000\nc id-1 bob 5 c 0/{one} /a b\nu id-1 {one}\n0\n\
             - id-1 k {one} {mark} 2000\n- id-2 k {two} - 2000\n- id-2\n- id-1\n- id-1\n- id-3"
        );
        let batch = Batch::parse(&text).unwrap();
        let claims = batch.decided.iter().filter_map(|decided| match decided {
            Decided::Held { claim, .. } => claim.as_deref(),
            _ => None,
        });
        let claims: Vec<_> = claims.collect();
        let (id_1, id_2) = (ClaimId::new([0x1f; 32]), ClaimId::new([0x20; 32]));
        let marked = Some(RequestMark::new([0xab; 32]));
        assert_eq!(*claims[0], KeyClaim { id: id_1, mark: marked, until_ms: 3000 });
        assert_eq!(*claims[1], KeyClaim { id: id_2, mark: None, until_ms: 3000 });
        let hold = |id: &str| id.parse::<HoldId>().unwrap();
        let claim = Box::new((id_2, RequestMark::new([0xab; 32])));
        assert_eq!(batch.decided[2], Decided::Marked { hold: hold("id-2"), claim });
        let left = LeftCall { id: id_1, hold: hold("id-1"), until_ms: 121_000 };
        assert_eq!(batch.decided[3], Decided::Left(Box::new(left)));
        assert_eq!(batch.decided[5], Decided::Retried { hold: hold("id-1") });
        let ends = batch.ends();
        let [Operation::Capture { claim, route, .. }] = &ends[..] else { panic!("{ends:?}") };
        assert_eq!((claim, &**route), (&Some(id_1), "/a b"));
        for bad in [" k zz", &format!(" k {one} -"), &format!(" k {one} x 5")] {
            let text = format!("17 60 +\nh id-1 bob 5 c 3 99 /a\n0\n- id-1{bad}");
            assert_eq!(Batch::parse(&text), None, "{bad}");
        }
    }

    #[test]
    fn a_batch_of_an_earlier_version_reads_back_and_nothing_else_does() {
        let text =
            "17\nh id-1 alice 5 c 3 99 /a b\nn id-1 100\nc id-1 alice 4 c 0 /a b\nr id-2 bob 0 c ";
        let batch = Batch::parse(text).unwrap();
        assert_eq!((batch.at_ms, batch.decided.len()), (17, 4));
        let Decided::Held { route, owner: 3, expires_ms: 99, .. } = &batch.decided[0] else {
            panic!("{batch:?}")
        };
        assert_eq!(&**route, "/a b");
        for bad in ["", "x", "1\n", "1\nh a", "1\nz id alice 5 c ", "1\nc id alice -5 c 0 /x"] {
            assert_eq!(Batch::parse(bad), None, "{bad}");
        }
    }
}
