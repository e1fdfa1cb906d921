//! Fuzz tests of the loader: no text makes it panic, and every mistake names a line that exists.

use std::collections::BTreeSet;

use proptest::prelude::*;

use crate::gateway::config::tests::{SHIPPED, Sections, read, with_server};

/// Pieces of TOML that help a mutated file to pass the TOML parser.
const PIECES: [&str; 16] = [
    "",
    "=",
    "\"",
    "[",
    "]",
    "[[routes]]\n",
    "[server]\n",
    "\n",
    "${",
    "${X}",
    "0.5",
    "-1",
    "{}",
    "true",
    "\u{fffd}",
    "1979-05-27",
];

// To run more cases: PROPTEST_CASES=100000 cargo test --lib config
proptest! {
    #[test]
    fn arbitrary_text_never_panics(text in "\\PC*|([a-z\\[\\]{}=\"'${}:\\-.,# \n0-9]{0,200})") {
        let _ = read(&text, Sections::ALL).map_err(|mistakes| mistakes.to_string());
    }

    /// Replaces words of the shipped file with its other words and with pieces of TOML.
    #[test]
    fn mutated_configs_never_panic_and_name_their_lines(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 1..8),
    ) {
        let mut words: Vec<&str> = SHIPPED
            .lines()
            .filter(|line| !line.starts_with('#'))
            .flat_map(|line| line.split_inclusive([' ', '"', '.']).chain(["\n"]))
            .collect();
        for (at, other) in edits {
            let pieces: Vec<&str> = PIECES.iter().chain(&words).copied().collect();
            let at = at.index(words.len());
            words[at] = pieces[other.index(pieces.len())];
        }
        let text = words.concat();
        if let Err(mistakes) = read(&text, Sections::ALL) {
            prop_assert!(mistakes.count() > 0);
            let lines = 1 + text.matches('\n').count();
            prop_assert!(mistakes.iter().all(|found| found.line.is_none_or(|line| line <= lines)));
            let shown: BTreeSet<_> = mistakes.iter().map(|found| format!("{found:?}")).collect();
            prop_assert_eq!(shown.len(), mistakes.count(), "reported twice: {}", mistakes);
        }
    }

    /// Gives each key a value of any kind.
    #[test]
    fn a_value_of_any_kind_is_read_or_refused(
        key in prop::sample::select(vec![
            "server", "server.tls", "server.listen", "ledger", "ledger.path", "auth", "auth.jwt",
            "auth.api_keys", "credits.low_balance", "api.cors_origins", "upstreams", "routes",
            "packs", "stripe", "stripe.webhook_secret", "stripe.checkout",
        ]),
        value in prop::sample::select(vec![
            "0", "-9999999999999999999999", "0.5", "nan", "\"\"", "\"${\"", "true", "[]", "[[]]",
            "[{}]", "{}", "{x = {}}", "1979-05-27", "[\"\", 5, {}]", "{path = [], name = {}}",
        ]),
    ) {
        let _ = read(&with_server(&format!("{key} = {value}")), Sections::ALL);
    }
}
