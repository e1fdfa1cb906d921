//! What Redis decided, on its way to Postgres: one batch is a text, as `redis/decide.lua` writes it.
//! Its first line is the time, then a line for each thing that happened; the route comes last, since
//! it alone may contain spaces.

use std::borrow::Cow;
use std::sync::Arc;

use crate::account::AccountId;
use crate::credits::Credits;

use super::operation::{Ending, HoldId, Origin};

/// One batch as it stands in the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Batch {
    /// When it was decided, by Redis's clock, in milliseconds since 1970.
    pub at_ms: i64,
    pub decided: Vec<Decided>,
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Decided {
    Held {
        id: HoldId,
        account: AccountId,
        amount: Credits,
        origin: Origin,
        /// The incarnation of the gateway that asked.
        owner: i64,
        expires_ms: i64,
        route: Arc<str>,
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
    },
    Ended {
        id: HoldId,
        account: AccountId,
        amount: Credits,
        origin: Origin,
        ending: Ending,
        route: Arc<str>,
    },
}

impl Batch {
    /// Reads it back; `None` for a text that no script of ours wrote.
    pub fn parse(text: &str) -> Option<Self> {
        let mut lines = text.split('\n');
        let at_ms = lines.next()?.parse().ok()?;
        let decided = lines.map(Decided::parse).collect::<Option<_>>()?;
        Some(Self { at_ms, decided })
    }
}

impl Decided {
    fn parse(line: &str) -> Option<Self> {
        let (letter, rest) = line.split_once(' ')?;
        let (id, rest) = rest.split_once(' ')?;
        let id = id.parse().ok()?;
        if letter == "n" {
            return Some(Self::Renewed { id, expires_ms: rest.parse().ok()? });
        }
        let mut words = rest.splitn(4, ' ');
        let account = words.next()?.parse().ok()?;
        let amount = words.next()?.parse().ok().and_then(Credits::from_micros)?;
        let origin = origin_of(words.next()?)?;
        let rest = words.next()?;
        Some(match letter {
            "h" => {
                let mut words = rest.splitn(3, ' ');
                let owner = words.next()?.parse().ok()?;
                let expires_ms = words.next()?.parse().ok()?;
                let route = unescape(words.next()?);
                Self::Held { id, account, amount, origin, owner, expires_ms, route }
            }
            "c" => {
                let (late, route) = rest.split_once(' ')?;
                let (late, route) = (late == "1", unescape(route));
                Self::Captured { id, account, amount, origin, late, route }
            }
            "r" | "e" => {
                let ending = if letter == "r" { Ending::Released } else { Ending::Expired };
                Self::Ended { id, account, amount, origin, ending, route: unescape(rest) }
            }
            _ => return None,
        })
    }
}

/// The letter by which the scripts know it.
pub(super) const fn letter_of(origin: Origin) -> &'static str {
    match origin {
        Origin::Call => "c",
        Origin::Api => "a",
    }
}

fn origin_of(letter: &str) -> Option<Origin> {
    [Origin::Call, Origin::Api].into_iter().find(|origin| letter_of(*origin) == letter)
}

/// A route in one line. Postgres has no room for a NUL, so it is shown as what cannot be shown.
pub(super) fn escape(route: &str) -> Cow<'_, str> {
    if route.contains(['\\', '\n', '\0']) {
        storable(route).replace('\\', "\\\\").replace('\n', "\\n").into()
    } else {
        route.into()
    }
}

/// A text as Postgres can store it.
pub(super) fn storable(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// A route as it was.
pub(super) fn unescape(text: &str) -> Arc<str> {
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
    fn a_batch_reads_back_and_nothing_else_does() {
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
