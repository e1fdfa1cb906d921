//! The table of models, which finds the prices of a request's model.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use serde::Serialize;

use crate::price::metered::config::ModelConfig;
use crate::price::metered::pattern::{MAX_MODEL_BYTES, ModelPattern, Rename};
use crate::price::metered::tariff::Tariff;

/// A model, or the models of one pattern, with their prices.
#[derive(Clone, Debug)]
pub struct Model {
    /// The index in the table, from 0. Other lists with one element for each model use the same
    /// index.
    pub index: usize,
    /// The `match` as written, for metrics and for people.
    pub label: Arc<str>,
    /// The model's own upstream, used instead of the route's.
    pub upstream: Option<Box<str>>,
    /// The prices.
    pub tariff: Arc<Tariff>,
    /// Whether streams of the model have output that they do not show.
    pub hidden_output: bool,
    pub(super) pattern: ModelPattern,
    rename: Option<Rename>,
}

/// All models with a price. The table is built once for each config, and every metered call uses
/// it.
#[derive(Clone, Debug, Default)]
pub struct Models {
    all: Vec<Arc<Model>>,
    /// The models without `*`, by their names in lower case.
    exact: HashMap<Box<str>, usize>,
    /// The indexes of the other models, from the longest pattern to the shortest.
    patterns: Vec<usize>,
    /// The members of requests on which some price depends.
    members: Vec<Box<str>>,
}

/// The answer of `GET /v1/models`, in OpenAI's shape.
#[derive(Debug, Serialize)]
pub struct Listing<'a> {
    object: &'static str,
    data: Vec<ListedName<'a>>,
}

/// One model of a [`Listing`].
#[derive(Debug, Serialize)]
struct ListedName<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
}

impl Model {
    /// Reads the model at `index` of the config. `None` if its `match` is not a pattern, which
    /// `check_models` reports.
    fn read(index: usize, config: &ModelConfig) -> Option<Self> {
        Some(Self {
            index,
            label: config.r#match.as_str().into(),
            upstream: config.upstream.as_deref().map(Into::into),
            tariff: Arc::new(Tariff::of_model(config)),
            hidden_output: config.hidden_output,
            pattern: ModelPattern::parse(&config.r#match).ok()?,
            rename: config.rename.as_deref().map(Rename::new),
        })
    }

    /// The name that is sent upstream if the request names `asked`, which this model must match.
    /// `None` without `rename`.
    pub fn renamed(&self, asked: &str) -> Option<Cow<'_, str>> {
        self.rename.as_ref().map(|rename| rename.apply(&self.pattern, asked))
    }

    /// The `rename` as written.
    pub fn rename(&self) -> Option<&str> {
        self.rename.as_ref().map(Rename::as_str)
    }

    /// Whether the model is a single name and not a pattern.
    pub fn is_exact(&self) -> bool {
        self.pattern.is_exact()
    }
}

impl Models {
    /// Creates the table of these models. A model whose `match` is not a pattern is left out, and
    /// `check_models` reports it.
    pub fn new(configs: &[ModelConfig]) -> Self {
        let mut models = Self::default();
        for (index, config) in configs.iter().enumerate() {
            let Some(model) = Model::read(index, config) else { continue };
            let place = models.all.len();
            if model.is_exact() {
                models.exact.entry(model.pattern.as_str().into()).or_insert(place);
            } else {
                models.patterns.push(place);
            }
            models.all.push(Arc::new(model));
        }
        let members = models.all.iter().flat_map(|model| model.tariff.members());
        let members: BTreeSet<&str> = members.collect();
        models.members = members.into_iter().map(Into::into).collect();
        let Self { all, patterns, .. } = &mut models;
        patterns.sort_by_key(|place| {
            std::cmp::Reverse(all.get(*place).map_or(0, |model| model.pattern.length()))
        });
        models
    }

    /// The model with the name that a request has, or else the one with the longest pattern that
    /// matches this name. `None` if there is neither; such a call is never served.
    pub fn find(&self, model: &str) -> Option<&Arc<Model>> {
        if model.len() > MAX_MODEL_BYTES {
            return None;
        }
        let lower: Cow<'_, str> = if model.bytes().any(|byte| byte.is_ascii_uppercase()) {
            model.to_ascii_lowercase().into()
        } else {
            model.into()
        };
        if let Some(place) = self.exact.get(&*lower) {
            return self.all.get(*place);
        }
        let mut patterns = self.patterns.iter().filter_map(|place| self.all.get(*place));
        patterns.find(|model| model.pattern.matches(&lower))
    }

    /// The top-level members of a request on which the price of some model depends.
    /// [`crate::usage::RequestFacts::members`] must have them if the request does.
    pub fn members(&self) -> &[Box<str>] {
        &self.members
    }

    /// Every model, in the order of the config.
    pub fn all(&self) -> &[Arc<Model>] {
        &self.all
    }

    /// Whether some model costs nothing, so that an account without credits may be served.
    pub fn has_free(&self) -> bool {
        self.all.iter().any(|model| model.tariff.is_free())
    }

    /// The models that have a single name, in OpenAI's shape.
    pub fn listing(&self) -> Listing<'_> {
        let named = self.all.iter().filter(|model| model.is_exact());
        let data = named.map(|model| ListedName {
            id: &model.label,
            object: "model",
            created: 0,
            owned_by: "farebox",
        });
        Listing { object: "list", data: data.collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn models(names: &[(&str, &str)]) -> Models {
        let config = |(name, more): &(&str, &str)| {
            toml::from_str::<ModelConfig>(&format!("match = '{name}'\ninput = 1\n{more}")).unwrap()
        };
        Models::new(&names.iter().map(config).collect::<Vec<_>>())
    }

    fn found<'m>(models: &'m Models, name: &str) -> Option<&'m str> {
        models.find(name).map(|model| &*model.label)
    }

    #[test]
    fn the_longest_match_wins_and_an_exact_name_beats_every_pattern() {
        let mut names = vec![
            ("*", ""),
            ("gpt-5", ""),
            ("gpt-*", ""),
            ("gpt-5*", ""),
            ("*-mini", ""),
            ("Claude-Opus", ""),
        ];
        for _ in 0..names.len() {
            names.rotate_left(1);
            let models = models(&names);
            for (name, label) in [
                ("gpt-5", "gpt-5"),
                ("GPT-5", "gpt-5"),
                ("gpt-5-nano", "gpt-5*"),
                ("o4-mini", "*-mini"),
                ("gpt-4o", "gpt-*"),
                ("claude-opus", "Claude-Opus"),
                ("llama", "*"),
            ] {
                assert_eq!(found(&models, name), Some(label), "{name}");
            }
        }
    }

    #[test]
    fn an_unknown_model_has_no_price() {
        let models = models(&[("gpt-5", ""), ("claude-*", "")]);
        for name in ["gpt-5 ", "gpt-50", "", "o4", "xclaude-1", &"claude-".repeat(40)] {
            assert_eq!(found(&models, name), None, "{name:?}");
        }
        assert_eq!(found(&Models::default(), "gpt-5"), None);
    }

    #[test]
    fn the_members_that_any_price_depends_on_are_named_once() {
        let models = models(&[
            ("a", "when = [{ if = { size = 'x', service_tier = 'y' }, image = 1 }]"),
            ("b", "when = [{ if = { size = 'z' }, image = 1 }]"),
        ]);
        let members: Vec<&str> = models.members().iter().map(|name| &**name).collect();
        assert_eq!(members, ["service_tier", "size"]);
    }

    #[test]
    fn models_with_a_name_are_listed_as_openai_lists_them() {
        let models = models(&[("gpt-5", ""), ("claude-*", ""), ("Llama", "free = true")]);
        assert_eq!(
            serde_json::to_string(&models.listing()).unwrap(),
            concat!(
                r#"{"object":"list","data":["#,
                r#"{"id":"gpt-5","object":"model","created":0,"owned_by":"farebox"},"#,
                r#"{"id":"Llama","object":"model","created":0,"owned_by":"farebox"}]}"#
            )
        );
        assert!(models.has_free());
    }
}
