//! A price rule that has been checked.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use http::Method;
use percent_encoding::percent_decode_str;

use crate::config::{Mistake, Span, within};
use crate::credits::Credits;
use crate::price::config::{OnClientAbort, RouteConfig, StatusClass};
use crate::price::metering::{self, Metering, RoutePrice};
use crate::price::money::UnitAmount;
use crate::price::path::CanonicalPath;
use crate::price::pattern::Pattern;

/// A price rule of the table.
#[derive(Clone, Debug)]
pub struct Route {
    /// The index of the rule in the table and in the config, from 0. Metrics and other lists with
    /// one element for each route use the same index. A reload may change it.
    pub index: usize,
    /// The paths of the rule.
    pub pattern: Pattern,
    /// The label that people read in place of the path. Metrics, logs and ledger entries use
    /// [`Route::label`] instead.
    pub display_label: Option<Box<str>>,
    /// The methods of the rule.
    pub methods: Methods,
    /// The name of the upstream; `None` if Farebox answers itself.
    pub upstream: Option<Box<str>>,
    /// The price of a call.
    pub price: RoutePrice,
    /// The operator's own cost of one call.
    pub cost: Option<UnitAmount>,
    /// The classes of answers that are charged.
    pub charge_on: Box<[StatusClass]>,
    /// Whether a call is charged when its client disconnects before the answer has ended.
    pub on_client_abort: OnClientAbort,
    /// Whether WebSocket upgrades are allowed.
    pub websocket: bool,
    /// The longest time that the upstream may send nothing, in place of the upstream's own limit.
    pub read_timeout: Option<Duration>,
}

/// The longest `label`, in characters.
const MAX_LABEL_CHARS: usize = 80;

/// True for one line of at most `max` characters, without control characters.
pub(super) fn is_short_line(text: &str, max: usize) -> bool {
    text.chars().count() <= max && !text.chars().any(char::is_control)
}

/// The methods of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Methods {
    /// Every method but CONNECT, TRACE and TRACK, which are never forwarded.
    All,
    /// These methods. If GET is among them, HEAD is as well.
    Listed(Box<[Method]>),
}

/// Methods that are never forwarded, in any letter case. CONNECT would open a tunnel without a
/// price limit. TRACE, and TRACK on servers that have it, send the request back to the client, with
/// the credentials that Farebox added for the upstream.
const NEVER: [&str; 3] = ["CONNECT", "TRACE", "TRACK"];

/// Methods that can be listed.
const PRICEABLE: [Method; 7] = [
    Method::GET,
    Method::HEAD,
    Method::POST,
    Method::PUT,
    Method::PATCH,
    Method::DELETE,
    Method::OPTIONS,
];

impl Route {
    /// The name of the route in metrics, logs and ledger entries: its pattern as written. Rules for
    /// different methods of one path share it.
    pub fn label(&self) -> &str {
        self.pattern.as_str()
    }

    /// True if a call with the answer `status` is charged.
    pub fn charges_for(&self, status: u16) -> bool {
        StatusClass::of(status).is_some_and(|class| self.charge_on.contains(&class))
    }

    /// How the route is metered; `None` if it is not.
    pub fn metering(&self) -> Option<&Metering> {
        self.price.metering()
    }

    /// The model that `path` names, decoded, if the rule's path has `{model}` and matches `path`.
    /// The part is not checked, so it may not be a valid name of a model.
    pub fn model_in<'p>(&self, path: &'p CanonicalPath) -> Option<Cow<'p, str>> {
        let model = path.as_str().get(self.pattern.model_in(path)?)?;
        // A canonical path is always UTF-8 once it is decoded.
        Some(percent_decode_str(model).decode_utf8_lossy())
    }

    /// `path` with `model` in place of `{model}`, for an upstream that knows the model by another
    /// name. `None` if the rule's path has no `{model}`, or if `model` cannot stand in a path.
    pub fn with_model(&self, path: &CanonicalPath, model: &str) -> Option<CanonicalPath> {
        path.replaced(self.pattern.model_in(path)?, model)
    }

    /// Reads the rule at `index` of the config.
    ///
    /// # Errors
    /// The mistakes that can be found without looking at other rules or at the upstreams.
    pub(super) fn read(index: usize, config: &RouteConfig) -> Result<Self, Vec<Mistake>> {
        let key = |name: &str| format!("routes[{index}].{name}");
        let pattern = Pattern::parse(&config.path)
            .map_err(|error| Mistake::new(key("path"), error.to_string(), error.hint()));
        let methods = Methods::read(&key("methods"), config.methods.as_deref());
        let mut mistakes = metering::mistakes(&key, config);
        mistakes.extend(nonsense(&key, config, methods.as_ref().ok()));
        match (pattern, methods, RoutePrice::read(config)) {
            (Ok(pattern), Ok(methods), Some(price)) if mistakes.is_empty() => Ok(Self {
                index,
                pattern,
                display_label: config.label.as_deref().map(Into::into),
                methods,
                upstream: config.upstream.as_deref().map(Into::into),
                price,
                cost: config.cost,
                charge_on: charged(config),
                on_client_abort: config.on_client_abort,
                websocket: config.websocket,
                read_timeout: config.read_timeout.map(|span| span.0),
            }),
            (pattern, methods, _) => {
                mistakes.extend(pattern.err());
                mistakes.extend(methods.err().unwrap_or_default());
                Err(mistakes)
            }
        }
    }
}

/// The classes of answers that are charged. A free rule may list none. Still, a call of a free rule
/// has a price if its path resembles a paid rule. Such a call is charged for the default classes.
fn charged(config: &RouteConfig) -> Box<[StatusClass]> {
    if config.charge_on.is_empty() {
        StatusClass::charged_by_default().into()
    } else {
        config.charge_on.clone().into()
    }
}

/// Finds values that are out of range, and values that contradict each other.
fn nonsense(
    key: &dyn Fn(&str) -> String,
    config: &RouteConfig,
    methods: Option<&Methods>,
) -> Vec<Mistake> {
    let mut mistakes = Vec::new();
    if config.label.as_deref().is_some_and(|label| !is_short_line(label, MAX_LABEL_CHARS)) {
        let message = format!("`label` is not one line of at most {MAX_LABEL_CHARS} characters");
        let hint = "write the words that people read in place of the path: \"Image, HD\"";
        mistakes.push(Mistake::new(key("label"), message, hint));
    }
    if config.charge_on.is_empty() && !config.credits.is_some_and(Credits::is_zero) {
        let hint = "leave it out to charge for 2xx and 3xx, or write `credits = 0`";
        mistakes.push(Mistake::new(key("charge_on"), "no answer is ever charged for", hint));
    }
    if config.websocket && methods.is_some_and(|methods| !methods.accept(&Method::GET)) {
        let hint = "add \"GET\" to its methods, or leave `websocket` out";
        mistakes.push(Mistake::new(key("websocket"), "a WebSocket begins with a GET", hint));
    }
    if let Some(span) = config.read_timeout {
        // The same limits as for an upstream's own `read_timeout`.
        let allowed = Span::from_millis(1)..=Span::from_secs(24 * 3600);
        mistakes.extend(within(&key("read_timeout"), span, allowed));
    }
    mistakes
}

impl Methods {
    fn read(key: &str, names: Option<&[String]>) -> Result<Self, Vec<Mistake>> {
        let Some(names) = names else { return Ok(Self::All) };
        if names.is_empty() {
            let hint = "list some, or leave `methods` out to price every method";
            return Err(vec![Mistake::new(key, "a rule for no method matches nothing", hint)]);
        }
        let mut methods = Vec::with_capacity(names.len());
        let mut mistakes = Vec::new();
        for name in names {
            let mistake = match priceable(key, name) {
                Ok(method) if methods.contains(&method) => {
                    Mistake::new(key, format!("`{name}` is listed twice"), "list each method once")
                }
                Ok(method) => {
                    methods.push(method);
                    continue;
                }
                Err(mistake) => mistake,
            };
            if !mistakes.contains(&mistake) {
                mistakes.push(mistake);
            }
        }
        if mistakes.is_empty() { Ok(Self::Listed(methods.into())) } else { Err(mistakes) }
    }

    /// True if the rule covers `method`. A rule for GET covers HEAD as well.
    pub fn accept(&self, method: &Method) -> bool {
        self.name(method) || method == Method::HEAD && self.name(&Method::GET)
    }

    /// True if the rule names `method` itself. A rule for GET does not name HEAD.
    pub(super) fn name(&self, method: &Method) -> bool {
        match self {
            Self::All => !NEVER.iter().any(|name| method.as_str().eq_ignore_ascii_case(name)),
            Self::Listed(methods) => methods.contains(method),
        }
    }

    /// True if both name the same method.
    pub(super) fn overlap(&self, other: &Self) -> bool {
        PRICEABLE.iter().any(|method| self.name(method) && other.name(method))
    }

    /// The names as listed, `*` for all.
    pub fn names(&self) -> Vec<&str> {
        match self {
            Self::All => vec!["*"],
            Self::Listed(methods) => methods.iter().map(Method::as_str).collect(),
        }
    }
}

/// Writes `GET,POST`, or `*` for all.
impl fmt::Display for Methods {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.names().join(","))
    }
}

fn priceable(key: &str, name: &str) -> Result<Method, Mistake> {
    let find = |name: &str| PRICEABLE.into_iter().find(|method| method.as_str() == name);
    if let Some(method) = find(name) {
        return Ok(method);
    }
    let upper = name.to_ascii_uppercase();
    Err(match upper.as_str() {
        never if NEVER.contains(&never) => {
            Mistake::new(key, format!("{upper} is never forwarded"), "take it off the list")
        }
        _ if find(&upper).is_some() => {
            let message = format!("`{name}` is not a method: methods are case-sensitive");
            Mistake::new(key, message, format!("write \"{upper}\""))
        }
        _ => {
            let hint = "use GET, HEAD, POST, PUT, PATCH, DELETE or OPTIONS, or leave `methods` \
                        out to price every method";
            Mistake::new(key, format!("`{name}` is not a method that can be priced"), hint)
        }
    })
}
