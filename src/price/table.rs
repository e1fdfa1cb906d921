//! The price table: which rule a call falls under.

use std::collections::HashMap;
use std::sync::Arc;

use http::Method;

use super::check::check_routes;
use super::config::RouteConfig;
use super::lookalikes::Lookalikes;
use super::path::CanonicalPath;
use super::pattern::Pattern;
use super::route::Route;
use super::tree::Tree;
use crate::config::Mistake;
use crate::credits::Credits;

/// Every price rule. Made once per config, asked on every call.
///
/// The most exact pattern wins: segment by segment from the left, a literal beats `{name}`, and
/// `{name}` beats `{*rest}`. The winner alone decides. When it has no rule for the method, the
/// call is refused, and not passed down to a less exact pattern: a path with a price of its own
/// is never served at a wildcard's, by whatever method.
///
/// Where a pattern with parameters wins, the call costs the most of its rule and of those that the
/// path resembles (`lookalikes.rs`); if all of these lack the method, it is refused.
#[derive(Debug, Default)]
pub struct PriceTable {
    routes: Vec<Arc<Route>>,
    /// The rules of one pattern each, for one method or another.
    places: Vec<Vec<Arc<Route>>>,
    /// Patterns without parameters, by their path: one look-up, and nothing beats them.
    exact: HashMap<Box<str>, usize>,
    /// All others.
    tree: Tree,
    /// Every pattern, by what resembles it; `None` where each spelling is a path of its own.
    lookalikes: Option<Lookalikes>,
}

/// A rule applied to one call.
#[derive(Clone, Debug)]
pub struct Quote {
    /// The rule that matches: upstream, label and options are its.
    pub route: Arc<Route>,
    /// The most that the call can cost. This is above the rule's own price where the path resembles a
    /// dearer one.
    pub credits: Credits,
}

/// Why a call has no price: 404 `NO_PRICE_RULE`. It is not forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuoteRefusal {
    /// No pattern matches the path.
    #[error("no price rule covers this path; case and a trailing `/` count")]
    NoRule,
    /// The pattern that prices the path has no rule for the method, or no rule that the path resembles
    /// has.
    #[error("the price rule for this path does not cover this method")]
    NoRuleForMethod,
}

impl PriceTable {
    /// Builds the table from the config's rules; `upstreams` are the names they may use.
    ///
    /// # Errors
    /// What [`check_routes`] finds, if it finds anything.
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

    /// The rules that share `pattern`, which starts out without any.
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

    /// The same table, in which a call costs what the rule that matches says, whatever other rules its
    /// path resembles: `[api] exact_paths`, for upstreams that tell every spelling apart.
    #[must_use]
    pub fn with_exact_paths(self, exact: bool) -> Self {
        if exact { Self { lookalikes: None, ..self } } else { self }
    }

    /// What a call costs. HEAD costs what GET costs, unless it has a rule of its own (at the
    /// same price, the config's check sees to that).
    ///
    /// # Errors
    /// [`QuoteRefusal`] when no rule covers the call. It is never free instead.
    pub fn quote(&self, method: &Method, path: &CanonicalPath) -> Result<Quote, QuoteRefusal> {
        let path = path.as_str();
        if let Some(&place) = self.exact.get(path) {
            let route = self.rule_at(place, method).ok_or(QuoteRefusal::NoRuleForMethod)?;
            return Ok(Quote { route: Arc::clone(route), credits: route.credits });
        }
        let place = self.tree.find(path.strip_prefix('/')).ok_or(QuoteRefusal::NoRule)?;
        let route = self.rule_at(place, method).ok_or(QuoteRefusal::NoRuleForMethod)?;
        let credits = route.credits.max(self.resembled(place, method, path)?);
        Ok(Quote { route: Arc::clone(route), credits })
    }

    /// The rule of a pattern for a method.
    fn rule_at(&self, place: usize, method: &Method) -> Option<&Arc<Route>> {
        let rules = self.places.get(place)?;
        let named = rules.iter().find(|route| route.methods.name(method));
        named.or_else(|| rules.iter().find(|route| route.methods.accept(method)))
    }

    /// The most that the rules cost which `path` resembles, where the pattern at `winner` matches it:
    /// 0 where there are none.
    ///
    /// # Errors
    /// When there are some, and none for the method.
    fn resembled(
        &self,
        winner: usize,
        method: &Method,
        path: &str,
    ) -> Result<Credits, QuoteRefusal> {
        let (mut any, mut dearest) = (false, None);
        let Some(lookalikes) = &self.lookalikes else { return Ok(Credits::ZERO) };
        lookalikes.visit(path, &mut |place| {
            let pattern = self.places.get(place).and_then(|rules| Some(&rules.first()?.pattern));
            if place != winner && pattern.is_some_and(|pattern| !pattern.matches(path)) {
                any = true;
                dearest = dearest.max(self.rule_at(place, method).map(|route| route.credits));
            }
        });
        match dearest {
            None if any => Err(QuoteRefusal::NoRuleForMethod),
            dearest => Ok(dearest.unwrap_or(Credits::ZERO)),
        }
    }

    /// The words that people read in place of `route`, a [`Route::label`]. `None` where its rules have no
    /// words of their own, or there is no such rule any more.
    pub fn display_label(&self, route: &str) -> Option<&str> {
        let mut rules = self.routes.iter().filter(|rule| rule.label() == route);
        rules.find_map(|rule| rule.display_label.as_deref())
    }

    /// Every rule, each at its [`Route::index`].
    pub fn routes(&self) -> &[Arc<Route>] {
        &self.routes
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
