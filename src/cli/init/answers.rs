//! The values that a first gateway.toml needs: the answers to four questions, and the ledger's
//! file.

use std::fmt;
use std::str::FromStr;

use reqwest::Url;

use crate::credits::Credits;
use crate::price::Pattern;
use crate::proxy::UpstreamUrl;

/// The values of a first gateway.toml that differ from one seller to the next.
#[derive(Clone, Debug)]
pub(super) struct Answers {
    pub upstream: Backend,
    pub priced: Priced,
    pub callers: Callers,
    pub selling: Selling,
    /// The file of the embedded ledger.
    pub ledger: String,
}

/// The backend that calls are forwarded to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Backend(String);

/// A path that is sold, and the price of a call to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Priced {
    pub path: String,
    pub credits: Credits,
}

/// The credentials by which callers are identified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Callers {
    /// API keys that `farebox key create` makes.
    Keys,
    /// JWTs that the seller's app signs with a secret.
    Jwt,
    /// JWTs of an issuer that publishes its keys at this address.
    Jwks(Url),
}

/// How credits are sold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Selling {
    /// On the sandbox's checkout page, where no money is paid.
    Sandbox,
    /// On Stripe's checkout page.
    Stripe,
    /// Not at all: the operator gives credits with `farebox grant`.
    ByHand,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Backend {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        text.parse::<UpstreamUrl>().map_err(|error| error.to_string())?;
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Priced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.path, self.credits)
    }
}

impl FromStr for Priced {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let mut words = text.split_whitespace();
        let (Some(path), Some(credits), None) = (words.next(), words.next(), words.next()) else {
            return Err("write the path and its credits, such as: /api/generate 5".to_owned());
        };
        Pattern::parse(path).map_err(|error| format!("{error}; {}", error.hint()))?;
        let credits: Credits = credits.parse().map_err(|error| format!("{credits}: {error}"))?;
        if credits.is_zero() {
            return Err(
                "a call for 0 credits is free; write what it costs, such as 5 or 0.25".to_owned()
            );
        }
        Ok(Self { path: path.to_owned(), credits })
    }
}

impl fmt::Display for Callers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Keys => f.write_str("keys"),
            Self::Jwt => f.write_str("jwt"),
            Self::Jwks(url) => write!(f, "{url}"),
        }
    }
}

impl FromStr for Callers {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "keys" => Ok(Self::Keys),
            "jwt" => Ok(Self::Jwt),
            _ => match Url::parse(text) {
                Ok(url) if matches!(url.scheme(), "http" | "https") => Ok(Self::Jwks(url)),
                _ => Err("write keys, jwt, or the address of a JWKS: https://…".to_owned()),
            },
        }
    }
}

impl fmt::Display for Selling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sandbox => "sandbox",
            Self::Stripe => "stripe",
            Self::ByHand => "by-hand",
        })
    }
}

impl FromStr for Selling {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "sandbox" => Ok(Self::Sandbox),
            "stripe" => Ok(Self::Stripe),
            "by-hand" => Ok(Self::ByHand),
            _ => Err("write sandbox, stripe or by-hand".to_owned()),
        }
    }
}
