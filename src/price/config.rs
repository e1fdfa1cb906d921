//! Stand-in until the price module lands.

use serde::Deserialize;

use crate::config::Mistake;
use crate::credits::Credits;

/// One `[[routes]]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteConfig {
    /// The path template.
    pub path: String,
    /// The methods it covers.
    pub methods: Option<Vec<String>>,
    /// The name of the upstream.
    pub upstream: String,
    /// What a call costs the caller.
    pub credits: Credits,
    /// What a call costs the owner.
    pub cost: Option<String>,
}

/// One `[[packs]]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PackConfig {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// What it holds.
    pub credits: Credits,
    /// What it sells at.
    pub price: String,
    /// Stripe's id of its price.
    pub stripe_price: Option<String>,
    /// Shown as the best one.
    #[serde(default)]
    pub best_value: bool,
}

/// Checks the price table.
pub fn check_routes(routes: &[RouteConfig], upstreams: &[&str]) -> Vec<Mistake> {
    let unknown = |(index, route): (usize, &RouteConfig)| {
        let known = upstreams.contains(&route.upstream.as_str());
        (!known).then(|| {
            Mistake::new(
                format!("routes[{index}].upstream"),
                format!("unknown upstream {:?}", route.upstream),
                format!("the upstreams are {}", upstreams.join(", ")),
            )
        })
    };
    routes.iter().enumerate().filter_map(unknown).collect()
}

/// Checks the packs.
pub fn check_packs(_packs: &[PackConfig], _routes: &[RouteConfig]) -> Vec<Mistake> {
    Vec::new()
}
