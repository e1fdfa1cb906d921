//! Warnings about rules that are valid but probably a mistake.

use std::collections::HashMap;

use crate::config::Mistake;
use crate::price::config::{PackConfig, RouteConfig};
use crate::price::margin::Margin;
use crate::price::metered::Rates;
use crate::price::pattern::{Pattern, Segment};
use crate::price::route::Route;

/// A warning for a config without rules: such a gateway forwards nothing.
pub fn no_routes(configs: &[RouteConfig]) -> Option<Mistake> {
    configs.is_empty().then(|| {
        let message = "there is no [[routes]]: every call to an upstream is answered with 404";
        let hint = "add a [[routes]] with its path, upstream and credits, unless only holds of the API are used";
        Mistake::new("routes", message, hint)
    })
}

/// Warnings for rules that have different prices for the same method although their paths differ
/// only in case or in a trailing slash. At least one of the two rules has parameters. The calls
/// that resemble the other rule then cost the higher price, or are refused if a price is by usage.
pub fn lookalike_routes(configs: &[RouteConfig]) -> Vec<Mistake> {
    let routes = configs.iter().enumerate();
    let routes: Vec<_> = routes.filter_map(|(i, config)| Route::read(i, config).ok()).collect();
    let mut alike: HashMap<Vec<Segment>, Vec<&Route>> = HashMap::new();
    let mut found = Vec::new();
    for route in &routes {
        let earlier = alike.entry(without_case(route.pattern.segments())).or_default();
        let other = earlier.iter().find(|other| {
            let are_fixed =
                [&route.price, &other.price].iter().all(|price| price.fixed().is_some());
            !(are_fixed && other.price.fixed() == route.price.fixed())
                && other.pattern.segments() != route.pattern.segments()
                && other.methods.overlap(&route.methods)
                && !(other.pattern.is_exact() && route.pattern.is_exact())
        });
        found.extend(other.map(|other| {
            let is_metered = [route, *other].iter().any(|rule| rule.metering().is_some());
            let (follows, remedy) = match is_metered {
                true => ("are refused with 404, since a price by usage cannot be compared", "remove one of the two"),
                false => ("cost the higher price", "give both the same price"),
            };
            let message = format!(
                "`{}` differs from routes[{}] (`{}`) only in case or a trailing slash: calls to either \
                 {follows}",
                route.label(),
                other.index,
                other.label()
            );
            let hint = format!(
                "{remedy}, or set `exact_paths = true` under [api] where the upstream distinguishes them"
            );
            Mistake::new(format!("routes[{}].path", route.index), message, hint)
        }));
        earlier.push(route);
    }
    found
}

/// The segments with their case and trailing slash removed.
fn without_case(segments: &[Segment]) -> Vec<Segment> {
    let lower = segments.iter().map(|segment| match segment {
        Segment::Literal(text) => Segment::Literal(text.to_ascii_lowercase().into()),
        Segment::Ending(text) => Segment::Ending(text.to_ascii_lowercase().into()),
        other => other.clone(),
    });
    lower.filter(|segment| *segment != Segment::Literal("".into())).collect()
}

/// Warns of paths whose parameters are written as in other gateways and frameworks: `*`, `**`,
/// `:name`, `<name>`. Farebox takes these characters literally, so such a rule does not match the
/// requests that it was meant for.
pub fn foreign_patterns(routes: &[RouteConfig]) -> Vec<Mistake> {
    let found = routes.iter().enumerate().filter_map(|(index, route)| {
        let odd = route.path.split('/').find(|piece| is_foreign(piece))?;
        let meant = in_our_words(&route.path);
        let hint = if Pattern::parse(&meant).is_ok() {
            format!("write `{meant}`: `{{name}}` is one segment, `{{*rest}}` the rest of the path")
        } else {
            "`{name}` is one whole segment, `{*rest}` the rest of the path".to_owned()
        };
        let message =
            format!("`{}` matches only a path that contains the characters `{odd}`", route.path);
        Some(Mistake::new(format!("routes[{index}].path"), message, hint))
    });
    found.collect()
}

fn is_foreign(piece: &str) -> bool {
    piece.contains('*') && !piece.starts_with("{*")
        || piece.len() > 1 && piece.starts_with(':')
        || piece.starts_with('<') && piece.ends_with('>')
}

/// The path in Farebox's syntax, as it was probably meant.
fn in_our_words(path: &str) -> String {
    let last = path.split('/').count().saturating_sub(1);
    let pieces = path.split('/').enumerate().map(|(place, piece)| {
        if !is_foreign(piece) {
            piece.to_owned()
        } else if piece.contains('*') {
            if place == last { "{*rest}".to_owned() } else { format!("{{part{place}}}") }
        } else {
            let letter = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
            let name = piece.trim_matches([':', '<', '>']);
            format!("{{{}}}", name.chars().map(letter).collect::<String>())
        }
    });
    pieces.collect::<Vec<_>>().join("/")
}

/// Warns of rules whose calls cost the operator more than their credits sell for in the smallest
/// pack.
pub fn sold_at_a_loss(routes: &[RouteConfig], packs: &[PackConfig], rates: &Rates) -> Vec<Mistake> {
    let found = routes.iter().enumerate().filter_map(|(index, config)| {
        let route = Route::read(index, config).ok()?;
        let Margin { revenue, cost, .. } = Margin::of(&route, packs, rates);
        let (revenue, cost) = (revenue?, cost?);
        let comparable = rates.convert(cost, revenue.currency())?;
        if revenue.nanos() >= comparable.nanos() {
            return None;
        }
        let message = format!("a call to `{}` sells for {revenue} and costs {cost}", route.label());
        let hint = "raise `credits`, or correct `cost`; `farebox prices` shows every margin";
        Some(Mistake::new(format!("routes[{index}].credits"), message, hint))
    });
    found.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(path: &str, credits: &str) -> RouteConfig {
        let text =
            format!("path = '{path}'\nupstream = 'ai'\ncredits = '{credits}'\ncost = '0.19 EUR'");
        toml::from_str(&text).unwrap()
    }

    #[test]
    fn a_parameter_in_a_foreign_syntax_is_a_warning_and_rewritten() {
        for (written, meant) in [
            ("/v1/images/*", "/v1/images/{*rest}"),
            ("/**", "/{*rest}"),
            ("/v1/models/:model", "/v1/models/{model}"),
            ("/v1/models/<model-id>/use", "/v1/models/{model_id}/use"),
            ("/*/edit/*", "/{part1}/edit/{*rest}"),
            ("/files/*.png", "/files/{*rest}"),
        ] {
            let found = foreign_patterns(&[route("/a", "1"), route(written, "1")]);
            let keys: Vec<&str> = found.iter().map(|found| &*found.key).collect();
            assert_eq!(keys, ["routes[1].path"], "{written}");
            assert!(found[0].hint.contains(&format!("`{meant}`")), "{written}: {}", found[0].hint);
        }
        for sound in ["/a/{id}", "/a/{*rest}", "/v1/models/x:generate", "/", "/a/:"] {
            assert_eq!(foreign_patterns(&[route(sound, "1")]), [], "{sound}");
        }
    }

    #[test]
    fn a_price_below_its_cost_is_a_warning() {
        let pack = |text: &str| vec![toml::from_str::<PackConfig>(text).unwrap()];
        let packs = pack("id = 'p'\ncredits = 100\nprice = '19.00 EUR'");
        for (credits, is_loss) in [("1", false), ("2", false), ("0.999999", true), ("0", true)] {
            let found = sold_at_a_loss(&[route("/a", credits)], &packs, &Rates::default());
            assert_eq!(!found.is_empty(), is_loss, "{credits}: {found:?}");
        }
        let none = Rates::default();
        assert_eq!(
            sold_at_a_loss(&[route("/a", "0")], &[], &none),
            [],
            "the selling price is unknown"
        );
        let dollars = pack("id = 'p'\ncredits = 100\nprice = '1.00 USD'");
        let loss = |rates: &Rates| sold_at_a_loss(&[route("/a", "0.1")], &dollars, rates);
        assert_eq!(loss(&none), [], "a mistake of its own");
        let worth = toml::from_str("EUR = '1.10 USD'").unwrap();
        assert_eq!(loss(&Rates::new(&worth)).len(), 1, "0.19 EUR is 0.209 USD");
    }
}
