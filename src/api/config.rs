//! `[api]`: the path of Farebox's own routes, and the browsers that may call them.

use serde::Deserialize;

use crate::config::Mistake;
use crate::price::RouteConfig;

/// The path of Farebox's own routes, and the browsers that may call them.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ApiConfig {
    /// The path under which Farebox's own routes are, such as `/credits` for `/credits/balance`.
    pub prefix: String,
    /// The origins whose pages may read responses, written as browsers write them. If there are
    /// none, no CORS header is sent.
    pub cors_origins: Vec<String>,
    /// True if each spelling of a path counts as a path of its own. A call then costs the price of
    /// its matching rule, whatever other rules its path resembles. This is for upstreams that
    /// distinguish `/A` and `/a/` from `/a`.
    pub exact_paths: bool,
}

/// The path to which Stripe sends its events. It does not depend on the prefix.
pub const STRIPE_WEBHOOK_PATH: &str = "/webhooks/stripe";

impl Default for ApiConfig {
    fn default() -> Self {
        Self { prefix: "/credits".to_owned(), cors_origins: Vec::new(), exact_paths: false }
    }
}

impl ApiConfig {
    /// Finds the mistakes in this section, alone and together with the price table.
    pub fn check(&self, routes: &[RouteConfig]) -> Vec<Mistake> {
        let mut found: Vec<Mistake> = self.check_prefix().into_iter().collect();
        // A prefix that is itself a mistake is not compared with the routes.
        if found.is_empty() {
            found.extend(self.check_routes(routes));
        }
        for (index, origin) in self.cors_origins.iter().enumerate() {
            if let Some((message, hint)) = check_origin(origin) {
                found.push(Mistake::new(format!("api.cors_origins[{index}]"), message, hint));
            }
        }
        found
    }

    fn check_prefix(&self) -> Option<Mistake> {
        let mistake = |message: &str, hint: &str| Some(Mistake::new("api.prefix", message, hint));
        let Some(segments) = self.prefix.strip_prefix('/') else {
            return mistake("`prefix` does not start with `/`", "write it like \"/credits\"");
        };
        if segments.is_empty() || segments.ends_with('/') {
            return mistake("`prefix` ends with `/`", "write it like \"/credits\"");
        }
        let letter = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'~');
        let plain =
            |segment: &str| !matches!(segment, "" | "." | "..") && segment.bytes().all(letter);
        if !segments.split('/').all(plain) {
            let hint = "letters, digits, `-`, `_`, `.` and `~` between single slashes";
            return mistake("`prefix` is not a plain path", hint);
        }
        if is_under(&self.prefix, STRIPE_WEBHOOK_PATH)
            || is_under(STRIPE_WEBHOOK_PATH, &self.prefix)
        {
            let message = format!("`prefix` is in the way of {STRIPE_WEBHOOK_PATH}");
            return mistake(&message, "choose another one, such as \"/credits\"");
        }
        None
    }

    fn check_routes(&self, routes: &[RouteConfig]) -> impl Iterator<Item = Mistake> {
        let taken = [self.prefix.as_str(), STRIPE_WEBHOOK_PATH];
        routes.iter().enumerate().filter_map(move |(index, route)| {
            let owner = taken.iter().find(|own| is_under(&route.path, own))?;
            let message = format!("`{}` is Farebox's own, so this route is never reached", owner);
            let hint = "move the route, or Farebox's routes with [api] prefix";
            Some(Mistake::new(format!("routes[{index}].path"), message, hint))
        })
    }
}

fn is_under(path: &str, parent: &str) -> bool {
    path.strip_prefix(parent).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Checks the spelling of an origin. It is compared with the browser's byte by byte, so it must be
/// written as browsers write it (RFC 6454, section 6.2).
fn check_origin(origin: &str) -> Option<(&'static str, &'static str)> {
    if origin == "*" {
        let hint = "name each origin: \"https://app.example.com\"";
        return Some(("`*` would let every website spend its visitors' credits", hint));
    }
    let shape = "write scheme, host and port only: \"https://app.example.com\"";
    let Some((scheme, authority)) = origin.split_once("://") else {
        return Some(("this is not an origin", shape));
    };
    let scheme_letter = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.');
    if scheme.is_empty() || !scheme.bytes().all(scheme_letter) {
        return Some(("this is not an origin", shape));
    }
    if authority.contains(['/', '?', '#', '@', '*']) {
        return Some(("an origin has no path, no user and no wildcard", shape));
    }
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    };
    let host_letter =
        |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':' | b'[' | b']');
    if host.is_empty() || !host.bytes().all(host_letter) {
        return Some(("this origin has no valid host", shape));
    }
    if port.is_some_and(|port| port.parse::<u16>().is_err() || port.starts_with(['+', '0'])) {
        return Some(("this origin has no valid port", "a port is 1 to 65535"));
    }
    if matches!((scheme, port), ("https", Some("443")) | ("http", Some("80"))) {
        return Some(("browsers leave out the port of the scheme", "leave it out here too"));
    }
    if origin.bytes().any(|b| b.is_ascii_uppercase()) {
        return Some(("browsers send origins in small letters", "write it in small letters"));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prefix_is_a_plain_path_of_its_own() {
        let check = |prefix: &str| {
            ApiConfig { prefix: prefix.to_owned(), ..ApiConfig::default() }.check_prefix()
        };
        for good in ["/credits", "/api/v1/credits", "/~billing.2"] {
            assert_eq!(check(good), None, "{good}");
        }
        for bad in [
            "",
            "/",
            "credits",
            "/credits/",
            "//credits",
            "/a/../b",
            "/a%2f",
            "/{x}",
            "/a b",
            "/é",
            "/webhooks",
            "/webhooks/stripe",
            "/webhooks/stripe/x",
        ] {
            assert!(check(bad).is_some(), "{bad}");
        }
    }

    #[test]
    fn no_route_hides_behind_farebox_s_own() {
        let route = |path: &str| {
            let text = format!("path = {path:?}\nupstream = \"ai\"\ncredits = 1");
            toml::from_str::<RouteConfig>(&text).unwrap()
        };
        let paths = ["/credits", "/creditsx", "/credits/{id}", "/webhooks/stripe", "/{*rest}"];
        let found = ApiConfig::default().check(&paths.map(route));
        let keys: Vec<_> = found.iter().map(|mistake| mistake.key.as_str()).collect();
        assert_eq!(keys, ["routes[0].path", "routes[2].path", "routes[3].path"]);
    }

    #[test]
    fn only_origins_that_a_browser_sends_are_accepted() {
        for good in [
            "https://app.example.com",
            "http://localhost:5173",
            "http://[::1]:3000",
            "http://[::1]",
            "capacitor://localhost",
        ] {
            assert_eq!(check_origin(good), None, "{good}");
        }
        for bad in [
            "*",
            "",
            "null",
            "app.example.com",
            "https://",
            "https://a/",
            "https://a/b",
            "https://*.example.com",
            "https://u@a",
            "https://a:443",
            "http://a:80",
            "https://a:",
            "https://a:0",
            "https://a:99999",
            "https://App.example.com",
            "https://a b",
            "://a",
        ] {
            assert!(check_origin(bad).is_some(), "{bad}");
        }
    }
}
