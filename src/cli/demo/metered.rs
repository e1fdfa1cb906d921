//! The printed commands that show prices by usage.

use std::net::SocketAddr;

use crate::price::RouteConfig;
use crate::price::metered::{ModelConfig, PriceConfig};
use crate::usage::MeterKind;

/// The end of each path that serves OpenAI's chat API.
const CHAT: &str = "/chat/completions";

/// A chat route that is priced by model, and a model for it.
pub(super) struct Metered<'a> {
    path: &'a str,
    model: &'a str,
}

impl<'a> Metered<'a> {
    /// The first chat route that is priced by model and whose path can be typed into a shell, with
    /// the first model that has a single name.
    pub fn first_of(routes: &'a [RouteConfig], models: &'a [ModelConfig]) -> Option<Self> {
        let can_be_typed = |text: &str| !text.contains(['{', '*', '\'', '"', '\\']);
        let is_chat = |route: &&RouteConfig| {
            matches!(route.price, Some(PriceConfig::Models))
                && matches!(route.meter, Some(MeterKind::OpenAi))
                && route.path.ends_with(CHAT)
                && can_be_typed(&route.path)
        };
        let path = &routes.iter().find(is_chat)?.path;
        let model = models.iter().map(|model| &*model.r#match).find(|name| can_be_typed(name))?;
        Some(Self { path, model })
    }

    /// The commands: a stream that reports its cost, a call of a model without a price, and the
    /// list of prices. `prefix` is the path under which Farebox's own routes are.
    pub fn lines(&self, public: SocketAddr, prefix: &str, key: &str) -> String {
        let Self { path, model } = self;
        let chat = |model: &str, members: &str| {
            format!(
                r#"'http://{public}{path}' -H 'authorization: Bearer {key}' -H 'content-type: application/json' -d '{{"model":"{model}"{members},"messages":[{{"role":"user","content":"hello to a stream of words"}}]}}'"#
            )
        };
        format!(
            r#"
  # Priced by usage: the line before [DONE] says what the stream used, and what that cost.
  curl -N -H 'x-credits-report: true' {}

  # A model without a price is 404, never free. These have one:
  curl -i {}
  curl http://{public}{prefix}/prices
"#,
            chat(model, r#","stream":true"#),
            chat("a-model-without-a-price", ""),
        )
    }
}
