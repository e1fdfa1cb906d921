//! The scripts of one epoch, and what goes in and out of them.

use std::fmt::Write as _;

use sha1::{Digest as _, Sha1};

const SHARED: &str = include_str!("layout.lua");
const DECIDE: &str = include_str!("decide.lua");
const UNUSUAL: &str = include_str!("slow_path.lua");
const KEEP: &str = include_str!("maintain.lua");

/// Which scripts these are, and what they make of Redis. Gateways serve an epoch together only where this
/// number is the same, so it is raised with every version whose scripts' text differs; a test below tells.
/// A recovery reads what another layout left: the fields of `meta`, the stream, and the text of a batch are
/// what all of them have in common.
pub(crate) const LAYOUT: i32 = 1;

/// Where `decide.lua` has room for `unusual.lua`.
const ROOM: &str = "--@unusual.lua";

/// One life of Redis's data, by number and nonce.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Epoch {
    pub number: i64,
    pub nonce: String,
}

/// A script's text, and the name by which it is called.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    pub text: String,
    pub sha: String,
}

/// All that belongs to one epoch of one shard.
#[derive(Clone, Debug)]
pub(crate) struct Scripts {
    pub epoch: Epoch,
    pub decide: Script,
    pub keep: Script,
    /// Stands in front of the keys that live and die with the epoch.
    pub prefix: String,
    /// `meta` and `out`.
    pub keys: [String; 2],
}

/// The hash tag of a shard: all its keys share a slot.
pub(crate) fn tag(shard: i32) -> String {
    format!("{{s{shard:02}}}:")
}

impl Scripts {
    /// An id of the stream that is before all of this epoch, and after all of the earlier ones.
    pub fn first_id(&self) -> String {
        format!("{}-0", self.epoch.number)
    }

    pub fn new(shard: i32, epoch: Epoch) -> Self {
        let tag = tag(shard);
        let number = epoch.number;
        let prefix = format!("{tag}{number}:");
        let keys = [format!("{tag}meta"), format!("{tag}out")];
        let [meta, out] = &keys;
        let head = format!(
            "local EPOCH, NUMBER, META, OUT = '{name}', '{number}', '{meta}', '{out}'\n\
             local LIVE, ENDED_0, ENDED_1 = '{prefix}live', '{prefix}ended:0', '{prefix}ended:1'\n\
             local ACCOUNT, NONCE, LET_GO, ALIVE = '{prefix}a:', '{prefix}n:', '{prefix}w:', '{prefix}alive'\n",
            name = epoch.name(),
        );
        let script = |body: &str| {
            let text = format!("{head}{SHARED}{body}");
            let sha = Sha1::digest(&text).iter().fold(String::new(), |mut hex, byte| {
                // Writing to a String cannot fail.
                let _ = write!(hex, "{byte:02x}");
                hex
            });
            Script { text, sha }
        };
        Self {
            decide: script(&DECIDE.replace(ROOM, UNUSUAL)),
            keep: script(KEEP),
            prefix,
            keys,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scripts_of_two_epochs_differ() {
        let scripts = |number| Scripts::new(0, Epoch { number, nonce: "n".into() });
        let (one, two) = (scripts(1), scripts(2));
        assert_ne!(one.decide.sha, two.decide.sha);
        assert_ne!(one.keep.sha, two.keep.sha);
        assert!(one.decide.text.contains(UNUSUAL) && !one.decide.text.contains(ROOM));
        assert_eq!(two.account_key("alice"), "{s00}:2:a:alice");
    }

    /// Where this fails: has a version been released with the scripts as they were? Then raise `LAYOUT`. In
    /// any case write down how their digests begin.
    #[test]
    fn a_layout_is_one_text_of_the_scripts() {
        let scripts = Scripts::new(0, Epoch { number: 1, nonce: "n".into() });
        let [decide, keep] = [&scripts.decide.sha[..8], &scripts.keep.sha[..8]];
        assert_eq!((LAYOUT, decide, keep), (1, "ef99f512", "4243c332"));
    }
}
