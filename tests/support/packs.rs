//! The packs that the tests' sellers offer.
#![allow(dead_code, unused_imports, unused_macros)]

/// The packs as a literal, so that `concat!` can add others to them.
macro_rules! two_packs {
    () => {
        r#"
[[packs]]
id = "pack-100"
name = "Pack 100"
credits = 100
price = "19.00 EUR"

[[packs]]
id = "pack-500"
name = "Pack 500"
credits = 500
price = "79.00 EUR"
best_value = true
"#
    };
}

pub(crate) use two_packs;

/// A pack of 100 credits and one of 500, as TOML.
pub const TWO_PACKS: &str = two_packs!();
