//! The price table, which finds the rule of a call.

use std::collections::HashMap;
use std::sync::Arc;

use http::Method;

use crate::config::Mistake;
use crate::credits::Credits;
use crate::price::check::check_routes;
use crate::price::config::RouteConfig;
use crate::price::lookalikes::Lookalikes;
use crate::price::metered::Models;
use crate::price::path::CanonicalPath;
use crate::price::pattern::{Pattern, Segment, ends_with};
use crate::price::route::Route;

/// Every price rule. The table is built once for each version of the config, and every call uses
/// it.
///
/// The most exact pattern wins. Patterns are compared segment by segment from the left: a literal
/// beats `{name}text`, a longer `text` beats a shorter one, `{name}text` beats `{name}`, and
/// `{name}` beats `{*rest}`. Only the winner counts. If it has no rule for the method, the call is
/// refused, and no less exact pattern is tried. So a path with a price of its own is never served
/// at a wildcard's price, whatever the method.
///
/// If a pattern with parameters wins, the call costs the highest price of its rule and of those
/// that the path resembles (see `lookalikes.rs`). A path that resembles other rules is refused in
/// two cases: none of those rules is for the method, or one of the rules, the matching one
/// included, is metered.
#[derive(Debug, Default)]
pub struct PriceTable {
    routes: Vec<Arc<Route>>,
    /// The patterns, each with its rules for different methods. An index in this list is called a
    /// place.
    places: Vec<Vec<Arc<Route>>>,
    /// The places of patterns without parameters, by their path. No other pattern beats one of
    /// them.
    exact: HashMap<Box<str>, usize>,
    /// The places of the other patterns.
    tree: Tree,
    /// Every pattern, to find those that a path resembles; `None` with `[api] exact_paths`.
    lookalikes: Option<Lookalikes>,
    /// The models with a price.
    models: Models,
}

/// A rule applied to one call.
#[derive(Clone, Debug)]
pub struct Quote {
    /// The matching rule, with the upstream, label and options of the call.
    pub route: Arc<Route>,
    /// The most that the call can cost. It is above the rule's own price if the path resembles a
    /// more expensive rule. `None` for a metered call, whose price depends on its body.
    pub credits: Option<Credits>,
}

/// The reason why a call has no price: 404 `NO_PRICE_RULE`. The call is not forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuoteRefusal {
    /// No pattern matches the path.
    #[error("no price rule covers this path; case and a trailing `/` count")]
    NoRule,
    /// The matching pattern has no rule for the method, or none of the rules that the path
    /// resembles has one.
    #[error("the price rule for this path does not cover this method")]
    NoRuleForMethod,
    /// The path resembles another rule, and one of the two is metered, so their prices cannot be
    /// compared.
    #[error(
        "the path differs from that of a price rule only in case or a trailing `/`; write it as the rule does"
    )]
    ResemblesMetered,
}

impl PriceTable {
    /// Builds the table from the config's rules; `upstreams` are the names that they may use.
    ///
    /// # Errors
    /// The mistakes that [`check_routes`] finds.
    pub fn new(configs: &[RouteConfig], upstreams: &[&str]) -> Result<Self, Vec<Mistake>> {
        let mistakes = check_routes(configs, upstreams);
        if !mistakes.is_empty() {
            return Err(mistakes);
        }
        let mut table = Self { lookalikes: Some(Lookalikes::default()), ..Self::default() };
        for (index, config) in configs.iter().enumerate() {
            let route = Arc::new(Route::read(index, config)?);
            table.place_of(&route.pattern).push(Arc::clone(&route));
            table.routes.push(route);
        }
        Ok(table)
    }

    /// The rules that share `pattern`. The list is empty for a pattern that is new.
    fn place_of(&mut self, pattern: &Pattern) -> &mut Vec<Arc<Route>> {
        let next = self.places.len();
        let place = if pattern.is_exact() {
            *self.exact.entry(pattern.as_str().into()).or_insert(next)
        } else {
            self.tree.entry(pattern.segments(), next)
        };
        if place == next {
            self.places.push(Vec::new());
            if let Some(lookalikes) = &mut self.lookalikes {
                lookalikes.add(pattern.segments(), place);
            }
        }
        &mut self.places[place]
    }

    /// The same table with models, for its routes with `price = "models"`.
    #[must_use]
    pub fn with_models(self, models: Models) -> Self {
        Self { models, ..self }
    }

    /// The models with a price.
    pub fn models(&self) -> &Models {
        &self.models
    }

    /// This table, adapted to `[api] exact_paths`. With `exact`, a call costs the price of its
    /// matching rule, whatever other rules its path resembles. This is for upstreams that
    /// distinguish every spelling.
    #[must_use]
    pub fn with_exact_paths(self, exact: bool) -> Self {
        if exact { Self { lookalikes: None, ..self } } else { self }
    }

    /// The quote for a call. HEAD costs what GET costs. If there is a rule for HEAD,
    /// [`check_routes`] makes sure that it has the same price.
    ///
    /// # Errors
    /// [`QuoteRefusal`] if no rule covers the call. Such a call is never free.
    pub fn quote(&self, method: &Method, path: &CanonicalPath) -> Result<Quote, QuoteRefusal> {
        let path = path.as_str();
        if let Some(&place) = self.exact.get(path) {
            let route = self.rule_at(place, method).ok_or(QuoteRefusal::NoRuleForMethod)?;
            return Ok(Quote { route: Arc::clone(route), credits: route.price.fixed() });
        }
        let place = self.tree.find(path.strip_prefix('/')).ok_or(QuoteRefusal::NoRule)?;
        let route = self.rule_at(place, method).ok_or(QuoteRefusal::NoRuleForMethod)?;
        let credits = match (route.price.fixed(), self.resembled(place, method, path)?) {
            (own, Resembled::Nothing) => own,
            (Some(own), Resembled::Fixed(dearest)) => Some(own.max(dearest)),
            (None, Resembled::Fixed(_)) | (_, Resembled::Metered) => {
                return Err(QuoteRefusal::ResemblesMetered);
            }
        };
        Ok(Quote { route: Arc::clone(route), credits })
    }

    /// The rule for `method` among those at `place`.
    fn rule_at(&self, place: usize, method: &Method) -> Option<&Arc<Route>> {
        let rules = self.places.get(place)?;
        let named = rules.iter().find(|route| route.methods.name(method));
        named.or_else(|| rules.iter().find(|route| route.methods.accept(method)))
    }

    /// The rules that `path` resembles. `winner` is the place of the pattern that matches `path`.
    ///
    /// # Errors
    /// Refuses a call whose path resembles rules, none of which is for `method`.
    fn resembled(
        &self,
        winner: usize,
        method: &Method,
        path: &str,
    ) -> Result<Resembled, QuoteRefusal> {
        let (mut any, mut dearest, mut is_metered) = (false, None, false);
        let Some(lookalikes) = &self.lookalikes else { return Ok(Resembled::Nothing) };
        lookalikes.visit(path, &mut |place| {
            let pattern = self.places.get(place).and_then(|rules| Some(&rules.first()?.pattern));
            if place != winner && pattern.is_some_and(|pattern| !pattern.matches(path)) {
                any = true;
                if let Some(route) = self.rule_at(place, method) {
                    dearest = dearest.max(route.price.fixed());
                    is_metered |= route.metering().is_some();
                }
            }
        });
        match dearest {
            _ if is_metered => Ok(Resembled::Metered),
            Some(dearest) => Ok(Resembled::Fixed(dearest)),
            None if any => Err(QuoteRefusal::NoRuleForMethod),
            None => Ok(Resembled::Nothing),
        }
    }

    /// The label that people read in place of `route`, which is a [`Route::label`]. `None` if no
    /// rule of `route` has such a label, or the table has no rule for `route` any more.
    pub fn display_label(&self, route: &str) -> Option<&str> {
        let mut rules = self.routes.iter().filter(|rule| rule.label() == route);
        rules.find_map(|rule| rule.display_label.as_deref())
    }

    /// Every rule, each at its [`Route::index`].
    pub fn routes(&self) -> &[Arc<Route>] {
        &self.routes
    }
}

/// The rules that a path resembles.
enum Resembled {
    /// The path resembles no rule.
    Nothing,
    /// The path resembles rules with fixed prices, of which this is the highest.
    Fixed(Credits),
    /// The path resembles a metered rule.
    Metered,
}

/// A prefix tree of the patterns with parameters. Each leads to its place in `PriceTable::places`.
#[derive(Debug, Default)]
struct Tree {
    literals: HashMap<Box<str>, Tree>,
    /// The patterns whose next segment is `{name}text`, from the longest text to the shortest.
    endings: Vec<(Box<str>, Tree)>,
    one: Option<Box<Tree>>,
    /// The place of the pattern whose `{*rest}` starts here.
    rest: Option<usize>,
    /// The place of the pattern that ends here.
    end: Option<usize>,
}

impl Tree {
    /// Adds the pattern with these segments at `place`, unless it is there already. Returns its
    /// place.
    fn entry(&mut self, segments: &[Segment], place: usize) -> usize {
        match segments.split_first() {
            None => *self.end.get_or_insert(place),
            Some((Segment::Rest, _)) => *self.rest.get_or_insert(place),
            Some((Segment::One, after)) => self.one.get_or_insert_default().entry(after, place),
            Some((Segment::Ending(text), after)) => {
                let at = match self.endings.iter().position(|(other, _)| other == text) {
                    Some(at) => at,
                    None => {
                        let at =
                            self.endings.partition_point(|(other, _)| other.len() > text.len());
                        self.endings.insert(at, (text.clone(), Self::default()));
                        at
                    }
                };
                self.endings[at].1.entry(after, place)
            }
            Some((Segment::Literal(text), after)) => {
                self.literals.entry(text.clone()).or_default().entry(after, place)
            }
        }
    }

    /// The place of the most exact pattern that matches a path. `path` is the part after the slash,
    /// or `None` at the end.
    ///
    /// If the most exact branch has no match, the search goes back to the next less exact one.
    /// There is only one way through the tree to each node, so no path makes this visit more nodes
    /// than the table has.
    fn find(&self, path: Option<&str>) -> Option<usize> {
        let Some(path) = path else { return self.end };
        let (segment, after) = match path.split_once('/') {
            Some((segment, after)) => (segment, Some(after)),
            None => (path, None),
        };
        let literal = self.literals.get(segment).and_then(|tree| tree.find(after));
        if literal.is_some() || segment.is_empty() {
            return literal;
        }
        let mut endings = self.endings.iter().filter(|(text, _)| ends_with(segment, text));
        let ending = endings.find_map(|(_, tree)| tree.find(after));
        let one = || self.one.as_ref().and_then(|tree| tree.find(after));
        ending.or_else(one).or(self.rest)
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
