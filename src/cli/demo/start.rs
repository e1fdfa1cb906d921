//! Prepares `farebox demo`: its config, a ledger that exists only while the demo runs, and a funded
//! account.

use std::net::SocketAddr;
use std::path::Path;

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};

use crate::account::AccountId;
use crate::config::{Mistakes, Secret, Sections};
use crate::credits::Credits;
use crate::gateway;
use crate::gateway::config::Config;
use crate::identify::{AuthConfig, NewKey};
use crate::ledger::{EntryKind, KeyRecord, Ledger, OperationId, Posting, Refusal, wall_ms};
use crate::proxy::UpstreamConfig;
use crate::stripe::StripeConfig;

pub use crate::cli::demo::upstream::serve as serve_upstream;

/// The demo's config.
const CONFIG: &str = include_str!("demo.toml");

/// The number of calls that the demo account can pay for.
pub const CALLS: u64 = 10;

/// The demo account's credits if all calls are free.
pub const FUNDS: Credits = match Credits::from_whole(50) {
    Some(funds) => funds,
    None => Credits::ZERO,
};

/// The issuer of the demo's token. demo.toml names it too.
const ISSUER: &str = "farebox-demo";

/// The route with OpenAI's chat API.
pub const CHAT: &str = "/v1/chat/completions";

/// The lifetime of the link to the account page: half a day.
const LINK_SECS: i64 = 12 * 3600;

/// The demo's config, with its upstream at `upstream` and its ledger in `folder`. `token` is the
/// admin token; the app's tokens are signed with `jwt_secret`. Packs are sold in Farebox's sandbox,
/// which refuses to start if `stripe_key` is a live key.
///
/// # Errors
/// The embedded file has a mistake. A test makes sure that it has none.
pub fn config(
    listen: SocketAddr,
    admin: SocketAddr,
    upstream: SocketAddr,
    folder: &Path,
    token: &Secret,
    jwt_secret: &Secret,
    stripe_key: Option<Secret>,
) -> Result<Config, Mistakes> {
    let env = |name: &str| match name {
        "LISTEN" => Some(listen.to_string()),
        "ADMIN" => Some(admin.to_string()),
        "UPSTREAM" => Some(upstream.to_string()),
        "ADMIN_TOKEN" => Some(token.expose().to_owned()),
        "JWT_SECRET" => Some(jwt_secret.expose().to_owned()),
        _ => None,
    };
    let config = gateway::config::parse(CONFIG, &folder.join("demo.toml"), Sections::ALL, &env)?;
    Ok(Config { stripe: Some(StripeConfig::sandbox(stripe_key)), ..config })
}

/// The parts of a user's file that the demo uses.
#[derive(Debug)]
pub struct OwnFile {
    /// The routes, packs, `[api]` and `[credits]`.
    pub app: Config,
    /// The file's upstreams that answer.
    pub upstreams: Vec<UpstreamConfig>,
    /// The issuers of tokens in the file. With `None` there is only the demo's own issuer.
    pub auth: Option<AuthConfig>,
}

/// Adds the user's file to the demo's config. If a route's upstream does not answer, the route
/// leads to the demo's own upstream. The demo's account and issuer are added to those of the file.
pub fn with_file(demo: Config, file: OwnFile) -> Config {
    let OwnFile { app, upstreams: theirs, auth } = file;
    let Config { mut upstreams, auth: mut issuers, .. } = demo;
    for own in &mut upstreams {
        while theirs.iter().any(|upstream| upstream.name == own.name) {
            own.name.push('\'');
        }
    }
    let own = upstreams.first().map(|upstream| upstream.name.clone()).unwrap_or_default();
    let mut routes = app.routes;
    let mut models = app.models;
    for named in models.iter_mut().filter_map(|model| model.upstream.as_mut()) {
        if !theirs.iter().any(|upstream| upstream.name == *named) {
            named.clone_from(&own);
        }
    }
    for route in &mut routes {
        let Some(named) = &mut route.upstream else { continue };
        if !theirs.iter().any(|upstream| upstream.name == *named) {
            named.clone_from(&own);
        }
    }
    upstreams.extend(theirs);
    // API keys stay enabled, because the demo's account has one.
    issuers.jwt.extend(auth.into_iter().flat_map(|auth| auth.jwt));
    let (api, credits, packs, rates) = (app.api, app.credits, app.packs, app.rates);
    Config { upstreams, auth: issuers, routes, models, rates, packs, api, credits, ..demo }
}

/// A token for `account`, as the app would sign it when the user signs in.
///
/// # Errors
/// The secret cannot sign.
pub fn sign_in(
    account: &AccountId,
    jwt_secret: &Secret,
) -> Result<Secret, jsonwebtoken::errors::Error> {
    let expires = (wall_ms() / 1000).saturating_add(LINK_SECS);
    let claims = serde_json::json!({ "sub": account, "exp": expires, "iss": ISSUER });
    let key = EncodingKey::from_secret(jwt_secret.expose().as_bytes());
    encode(&Header::new(Algorithm::HS256), &claims, &key).map(Secret::new)
}

/// The demo's account, with its credits and a key.
#[derive(Debug)]
pub struct DemoAccount {
    /// The account's id.
    pub account: AccountId,
    /// The account's credits at the start.
    pub funds: Credits,
    /// The account's key.
    pub key: Secret,
    /// The key's record in the ledger.
    pub record: KeyRecord,
}

/// Grants the demo account `funds`, and makes its key.
///
/// # Errors
/// The ledger cannot write.
pub async fn fund(ledger: &Ledger, funds: Credits) -> Result<DemoAccount, Refusal> {
    let account: AccountId = "demo".parse().map_err(|_| Refusal::Unavailable)?;
    let grant = Posting {
        id: OperationId::posting(EntryKind::Grant, "demo").map_err(|_| Refusal::Unavailable)?,
        account: account.clone(),
        kind: EntryKind::Grant,
        amount: funds.signed(),
        reason: Some("demo".into()),
    };
    ledger.post(grant).await?;
    let key = NewKey::generate().map_err(|_| Refusal::Unavailable)?;
    let record = KeyRecord {
        id: "key_demo".into(),
        hash: key.hash,
        account: account.clone(),
        name: "demo".into(),
        service: false,
        hint: key.hint.into(),
        created_at_ms: wall_ms(),
        revoked_at_ms: None,
    };
    ledger.put_keys(vec![record.clone()]).await?;
    Ok(DemoAccount { account, funds, key: key.key, record })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_demo_s_config_has_no_mistake() {
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let token = Secret::new("sixteen-bytes-or-more");
        let secret = Secret::new("thirty-two-bytes-or-more-of-a-secret");
        let upstream = address(3000);
        let config =
            config(address(8080), address(9090), upstream, Path::new(""), &token, &secret, None);
        if let Err(mistakes) = config {
            panic!("{mistakes}");
        }
    }
}
