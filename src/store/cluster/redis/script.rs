//! The scripts of one epoch: their text, their digests, and the keys that they use.

use std::fmt::Write as _;

use sha1::{Digest as _, Sha1};

use crate::store::cluster::epoch::Epoch;

const LAYOUT_LUA: &str = include_str!("layout.lua");
const DECIDE_LUA: &str = include_str!("decide.lua");
const SLOW_PATH_LUA: &str = include_str!("slow_path.lua");
const CLAIMS_LUA: &str = include_str!("claims.lua");
const MAINTAIN_LUA: &str = include_str!("maintain.lua");

/// The version of the scripts' text and of the layout of the data in Redis. Gateways serve an epoch
/// together only if they have the same version. So the version is raised with every release whose scripts
/// differ, and a test below fails if it was not. A recovery reads data of any layout, but only the
/// parts that all layouts have in common: the fields of `meta`, the ids of the stream, and the text of
/// a batch.
pub(crate) const LAYOUT: i32 = 3;

/// The number of the only shard. Every key contains it.
pub(crate) const SHARD: i32 = 0;

/// The line of `decide.lua` that `slow_path.lua` replaces, and the line of `slow_path.lua` that `claims.lua` replaces.
const SLOW_PATH_LINE: &str = "--@slow_path.lua";
const CLAIMS_LINE: &str = "--@claims.lua";

/// The text of a script, and its SHA-1, by which EVALSHA calls it.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    pub text: String,
    pub sha: String,
}

/// The scripts and the keys of one epoch of a shard.
#[derive(Clone, Debug)]
pub(crate) struct Scripts {
    pub epoch: Epoch,
    /// The script that decides batches.
    pub decide: Script,
    /// The script with the other commands.
    pub maintain: Script,
    /// The prefix of the keys that belong to the epoch.
    pub prefix: String,
    /// The keys `meta` and `out`.
    pub keys: [String; 2],
}

/// The hash tag of a shard, followed by a colon. All keys of a shard begin with it, so that they
/// are in one slot.
pub(crate) fn tag(shard: i32) -> String {
    format!("{{s{shard:02}}}:")
}

impl Scripts {
    /// Joins the Lua files. `layout.lua` and one of the two scripts become a function, which is
    /// called with a table of this epoch's names. Each file takes its argument from `...`, so that
    /// each can be checked alone.
    pub fn new(shard: i32, epoch: Epoch) -> Self {
        let tag = tag(shard);
        let number = epoch.number;
        let prefix = format!("{tag}{number}:");
        let keys = [format!("{tag}meta"), format!("{tag}out")];
        let [meta, out] = &keys;
        let ledger = format!(
            "{{ EPOCH = '{name}', NUMBER = '{number}', META = '{meta}', OUT = '{out}', \
             LIVE = '{prefix}live', ALIVE = '{prefix}alive', NEWER = '{prefix}ended:0', \
             OLDER = '{prefix}ended:1', ACCOUNT = '{prefix}a:', NONCE = '{prefix}n:', \
             LET_GO = '{prefix}w:', CLAIM = '{prefix}k:', LEFT = '{prefix}l:' }}",
            name = epoch.name(),
        );
        let script = |body: &str| {
            let text = format!("return (function(...)\n{LAYOUT_LUA}{body}end)({ledger})\n");
            let sha = Sha1::digest(&text).iter().fold(String::new(), |mut hex, byte| {
                // Writing to a String cannot fail.
                let _ = write!(hex, "{byte:02x}");
                hex
            });
            Script { text, sha }
        };
        Self {
            decide: script(
                &DECIDE_LUA.replace(SLOW_PATH_LINE, SLOW_PATH_LUA).replace(CLAIMS_LINE, CLAIMS_LUA),
            ),
            maintain: script(MAINTAIN_LUA),
            prefix,
            keys,
            epoch,
        }
    }

    /// An id of the stream that is smaller than those of this epoch's batches, and greater than
    /// those of earlier epochs.
    pub fn first_id(&self) -> String {
        format!("{}-0", self.epoch.number)
    }

    /// The key of the hash of live holds.
    pub fn live_key(&self) -> String {
        format!("{}live", self.prefix)
    }

    /// The key of an account.
    pub fn account_key(&self, account: &str) -> String {
        format!("{}a:{account}", self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scripts_of_two_epochs_differ() {
        let scripts = |number| Scripts::new(0, Epoch { number, nonce: "n".into() });
        let (one, two) = (scripts(1), scripts(2));
        assert_ne!(one.decide.sha, two.decide.sha);
        assert_ne!(one.maintain.sha, two.maintain.sha);
        let decide = &one.decide.text;
        assert!(decide.contains(SLOW_PATH_LUA.split(CLAIMS_LINE).next().unwrap()));
        assert!(decide.contains(CLAIMS_LUA));
        assert!(!decide.contains(SLOW_PATH_LINE) && !decide.contains(CLAIMS_LINE));
        assert_eq!(two.account_key("alice"), "{s00}:2:a:alice");
    }

    /// If this test fails, the scripts have changed. If their old text was released, raise
    /// `LAYOUT`. In any case, write the beginnings of the new digests here.
    #[test]
    fn a_layout_is_one_text_of_the_scripts() {
        let scripts = Scripts::new(0, Epoch { number: 1, nonce: "n".into() });
        let [decide, maintain] = [&scripts.decide.sha[..8], &scripts.maintain.sha[..8]];
        assert_eq!((LAYOUT, decide, maintain), (3, "febfd2a7", "2491ef8f"));
    }
}
