//! The settings that apply only after a restart.

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};
use toml::de::DeValue;

use crate::config::Env;
use crate::config::document::Document;
use crate::config::variables;

/// The sections that a reload applies.
const RELOADED: [&str; 6] = ["upstreams", "routes", "models", "models_file", "rates", "packs"];

/// The only key outside those sections that a reload applies. It decides the price of a call.
const RELOADED_KEY: &str = "api.exact_paths";

/// The keys of all other sections, each with a hash of its value. Hashes are stored because some
/// values are secrets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StartKeys(BTreeMap<String, [u8; 32]>);

impl StartKeys {
    pub(crate) fn read(document: &Document<'_>, env: Env<'_>) -> Self {
        let mut keys = Self::default();
        for (name, value) in document.table() {
            let name = name.get_ref().as_ref();
            if !RELOADED.contains(&name) {
                keys.add(name.to_owned(), value.get_ref(), env);
            }
        }
        keys
    }

    fn add(&mut self, key: String, value: &DeValue<'_>, env: Env<'_>) {
        let text = match value {
            DeValue::Table(table) => {
                for (name, value) in table {
                    self.add(format!("{key}.{}", name.get_ref()), value.get_ref(), env);
                }
                return;
            }
            DeValue::Array(items) => {
                for (index, value) in items.iter().enumerate() {
                    self.add(format!("{key}[{index}]"), value.get_ref(), env);
                }
                return;
            }
            DeValue::String(text) => variables::expand(text, env).text,
            plain => format!("{plain:?}"),
        };
        if key == RELOADED_KEY {
            return;
        }
        self.0.insert(key, Sha256::digest(text.as_bytes()).into());
    }

    /// The keys that only one of the two has, and the keys whose values differ.
    pub fn changed<'k>(&'k self, newer: &'k Self) -> Vec<&'k str> {
        let gone_or_new = |one: &'k Self, other: &Self| {
            let only = one.0.keys().filter(|key| !other.0.contains_key(*key));
            only.map(String::as_str).collect::<Vec<_>>()
        };
        let differs = |(key, value): &(&String, &[u8; 32])| {
            newer.0.get(*key).is_some_and(|other| other != *value)
        };
        let mut changed: Vec<&str> = self.0.iter().filter(differs).map(|(key, _)| &**key).collect();
        changed.extend(gone_or_new(self, newer));
        changed.extend(gone_or_new(newer, self));
        changed.sort_unstable();
        changed
    }
}
