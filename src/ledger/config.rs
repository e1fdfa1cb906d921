//! `[ledger]` and `[credits]` (placeholder until the config loader lands).

use std::path::PathBuf;

use serde::Deserialize;

use crate::credits::Credits;

/// When an acknowledged hold is on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// Before the call is forwarded.
    #[default]
    Strict,
    /// Within 50 ms.
    Relaxed,
}

/// Which ledger.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackendKind {
    /// SQLite.
    #[default]
    Embedded,
    /// Redis.
    Redis,
}

/// `[ledger]`
#[derive(Clone, Debug, Deserialize)]
pub struct LedgerConfig {
    /// Which.
    pub backend: BackendKind,
    /// File.
    pub path: PathBuf,
    /// Mode.
    pub durability: Durability,
}

/// `[credits]`
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct CreditsConfig {
    /// Low.
    pub low_balance: Credits,
    /// Sign-up.
    pub signup_grant: Credits,
}
