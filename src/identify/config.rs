//! Stand-in until the identify module lands.

use std::path::PathBuf;

use serde::Deserialize;

use crate::config::{Mistake, Secret};

/// `[auth]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuthConfig {
    /// `[[auth.jwt]]`
    pub jwt: Vec<JwtConfig>,
    /// `[auth.api_keys]`
    pub api_keys: ApiKeysConfig,
}

/// One `[[auth.jwt]]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JwtConfig {
    /// The pinned algorithms.
    pub algorithms: Vec<String>,
    /// The key of HS256.
    pub secret: Option<Secret>,
    /// A PEM file.
    pub public_key_file: Option<PathBuf>,
    /// Where the keys are.
    pub jwks_url: Option<String>,
    /// The claim that names the account.
    pub account_claim: Option<String>,
    /// `iss`
    pub issuer: Option<String>,
    /// `aud`
    pub audience: Option<String>,
}

/// `[auth.api_keys]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ApiKeysConfig {
    /// Whether keys are accepted.
    pub enabled: bool,
}

impl AuthConfig {
    /// Checks the section.
    pub fn check(&self) -> Vec<Mistake> {
        let empty = |(index, jwt): (usize, &JwtConfig)| {
            let empty = jwt.secret.as_ref().is_some_and(Secret::is_empty);
            empty.then(|| Mistake::new(format!("auth.jwt[{index}].secret"), "empty", "fill it"))
        };
        self.jwt.iter().enumerate().filter_map(empty).collect()
    }
}
