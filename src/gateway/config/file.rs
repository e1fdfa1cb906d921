//! Reads the sections of `gateway.toml` that a command needs. Reports every mistake in them with
//! file, line and a hint.
//!
//! Each module owns its part of the file (`proxy::ServerConfig`, `price::RouteConfig`, …): a serde
//! struct for its form, and a `check` that returns [`Mistake`]s. This file puts the parts together.
//! [`crate::config`] works on the text.
//!
//! A relative path in the file is relative to the file's folder, not to the working directory.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::api::{ApiConfig, BrandConfig};
use crate::config::document::Document;
use crate::config::report::Report;
use crate::config::{
    Env, Mistake, Mistakes, Secret, Sections, StartKeys, Warnings, list, read, sections, variables,
};
use crate::gateway::config::models_file;
use crate::gateway::config::text::read_text;
use crate::identify::AuthConfig;
use crate::ledger::{CreditsConfig, LedgerConfig};
use crate::price::metered::{
    ModelConfig, Rates, RatesConfig, check_metered_routes, check_models, check_rates,
    warn_of_metered, warn_of_models, warn_of_rates, warn_of_unit_prices,
};
use crate::price::{
    KEYS_BESIDE_PRICE, PackConfig, RouteConfig, check_packs, check_routes, foreign_patterns,
    lookalike_routes, no_routes, sold_at_a_loss,
};
use crate::proxy::{IdempotencyConfig, ServerConfig, UpstreamConfig, check_upstreams};
use crate::store::{check_addresses, warn_of_addresses};
use crate::stripe::StripeConfig;

/// The gateway's configuration. A section has its defaults if the command does not read it or the
/// file has no such section.
#[derive(Clone, Debug)]
pub struct Config {
    /// `[server]`. It is `Some` only if the command reads this section, because its token has no
    /// default.
    pub server: Option<ServerConfig>,
    /// `[ledger]`
    pub ledger: LedgerConfig,
    /// `[auth]`
    pub auth: AuthConfig,
    /// `[credits]`
    pub credits: CreditsConfig,
    /// `[api]`
    pub api: ApiConfig,
    /// `[[upstreams]]`
    pub upstreams: Vec<UpstreamConfig>,
    /// `[[routes]]`, in the order of the file.
    pub routes: Vec<RouteConfig>,
    /// `[[models]]`, in the order of the file, followed by those of the `models_file`.
    pub models: Vec<ModelConfig>,
    /// `[rates]`
    pub rates: RatesConfig,
    /// `[[packs]]`, in the order of the file.
    pub packs: Vec<PackConfig>,
    /// `[stripe]`: `Some` if the command reads it and the file has it.
    pub stripe: Option<StripeConfig>,
    /// Warnings about settings that are valid but probably a mistake.
    pub warnings: Warnings,
    /// A hash of every setting that a reload does not apply.
    pub start_keys: StartKeys,
    /// `[brand]`
    pub brand: BrandConfig,
    /// `[idempotency]`
    pub idempotency: IdempotencyConfig,
}

/// Reads `sections` of the file at `path`.
///
/// # Errors
/// Every mistake in those sections.
pub fn load(path: &Path, sections: Sections, env: Env<'_>) -> Result<Config, Mistakes> {
    let text = read_text(path).map_err(|mistake| Mistakes::of_file(path, mistake))?;
    parse(&text, path, sections, env)
}

/// Reads `sections` of `text`. `path` is the file that the text was read from: messages name it,
/// and relative paths start from its folder.
///
/// # Errors
/// Every mistake in those sections.
pub fn parse(
    text: &str,
    path: &Path,
    sections: Sections,
    env: Env<'_>,
) -> Result<Config, Mistakes> {
    let document = Document::parse(text).map_err(|syntax| Mistakes::new(path, vec![syntax]))?;
    let mut report = Report::new(&document);
    sections::refuse_unknown(&document, &mut report);
    let mut draft = Draft::read(&document, sections, env, base_of(path), &mut report);
    let written = match sections.contains(Sections::MODELS) {
        true => models_file::open(&document, base_of(path), env, &mut report),
        false => None,
    };
    if written.is_none() && report.covers(models_file::KEY) {
        // The models of the unreadable file are unknown, so no check could tell whether one is
        // missing.
        return Err(Mistakes::new(path, report.finish()));
    }
    let more = written.as_ref().map(|written| written.parse()).transpose();
    let more = more.map_err(|syntax| Mistakes::new(path, vec![syntax]))?;
    let mut more = written.as_ref().zip(more.as_ref()).map(|(file, parsed)| file.read(parsed, env));
    let own_models = draft.models.items.len();
    draft.models.items.extend(more.iter().flat_map(|more| more.models.items.iter().cloned()));
    let mut senseless = draft.check(sections);
    senseless.retain(|mistake| !is_about_an_unread_price(mistake, &report));
    let (senseless, theirs) = models_file::split(senseless, own_models);
    report.add_checked(draft.models.in_file_order(senseless));
    let (doubtful, theirs_doubtful) = models_file::split(draft.warn(sections), own_models);
    let mut warnings = report.locate(draft.models.in_file_order(doubtful));
    let mut in_more = Vec::new();
    if let Some(mut more) = more.take() {
        more.add_checked(theirs);
        warnings.extend(more.locate(theirs_doubtful));
        in_more = more.finish();
    }
    let warnings = Warnings::new(path, warnings);
    // A command that reads only a part of the file never reloads it, and the variables of the other
    // parts may be missing.
    let start_keys = match sections.contains(Sections::ALL) {
        true => StartKeys::read(&document, env),
        false => StartKeys::default(),
    };
    match draft.finish(sections) {
        Some(config) if report.is_empty() && in_more.is_empty() => {
            Ok(Config { warnings, start_keys, ..config })
        }
        _ => {
            let mut found = report.finish();
            found.extend(in_more);
            Err(Mistakes::new(path, found))
        }
    }
}

/// Returns the string at `key` in the section `[section]` of the file at `path`, for a command that
/// does not read this section. `None` if the file has no such string. Mistakes are not reported,
/// and a variable that is not set is expanded to nothing.
pub fn peek(path: &Path, section: &str, key: &str, env: Env<'_>) -> Option<Secret> {
    let text = read_text(path).ok()?;
    let document = Document::parse(&text).ok()?;
    let value = document.table().get(section)?.get_ref().get(key)?;
    Some(Secret::new(variables::expand(value.get_ref().as_str()?, env).text))
}

/// Returns the `account_prefix` of each `[[auth.jwt]]` in the file at `path`, for a command that
/// does not read this section. `None` if an issuer has no prefix, or there is no issuer. Mistakes
/// are not reported.
pub fn account_prefixes(path: &Path, env: Env<'_>) -> Option<Vec<String>> {
    let text = read_text(path).ok()?;
    let document = Document::parse(&text).ok()?;
    let issuers = document.table().get("auth")?.get_ref().get("jwt")?.get_ref().as_array()?;
    let prefix = |issuer: &toml::Spanned<toml::de::DeValue<'_>>| {
        let prefix = issuer.get_ref().get("account_prefix")?.get_ref().as_str()?;
        Some(variables::expand(prefix, env).text).filter(|prefix| !prefix.is_empty())
    };
    let prefixes: Option<Vec<String>> = issuers.iter().map(prefix).collect();
    prefixes.filter(|prefixes| !prefixes.is_empty())
}

/// The sections that could be read. A section is `None` if its mistakes could not be repaired.
struct Draft {
    server: Option<ServerConfig>,
    ledger: Option<LedgerConfig>,
    auth: Option<AuthConfig>,
    credits: Option<CreditsConfig>,
    api: Option<ApiConfig>,
    upstreams: list::List<UpstreamConfig>,
    /// The names of all upstreams, even if the command does not read their section.
    upstream_names: Vec<String>,
    routes: list::List<RouteConfig>,
    /// The models of the config, and then those of its `models_file`.
    models: list::List<ModelConfig>,
    rates: Option<RatesConfig>,
    packs: list::List<PackConfig>,
    stripe: Option<StripeConfig>,
    brand: Option<BrandConfig>,
    idempotency: Option<IdempotencyConfig>,
}

impl Draft {
    fn read(
        document: &Document<'_>,
        sections: Sections,
        env: Env<'_>,
        base: &Path,
        report: &mut Report<'_>,
    ) -> Self {
        let mut reader = read::Reader { document, sections, env, report };
        let mut draft = Self {
            server: reader.required("server", Sections::SERVER),
            ledger: reader.table("ledger", Sections::LEDGER),
            auth: reader.table("auth", Sections::AUTH),
            credits: reader.table("credits", Sections::CREDITS),
            api: reader.table("api", Sections::API),
            upstreams: reader.list("upstreams", Sections::UPSTREAMS),
            upstream_names: reader.upstream_names(),
            routes: reader.list("routes", Sections::ROUTES),
            models: reader.list("models", Sections::MODELS),
            rates: reader.table("rates", Sections::MODELS),
            packs: reader.list("packs", Sections::PACKS),
            stripe: reader.optional("stripe", Sections::STRIPE),
            brand: reader.table("brand", Sections::BRAND),
            idempotency: reader.table("idempotency", Sections::IDEMPOTENCY),
        };
        draft.resolve_paths(base);
        draft
    }

    /// Makes the file's relative paths relative to `base`. Empty paths are left to the checks.
    fn resolve_paths(&mut self, base: &Path) {
        if let Some(brand) = &mut self.brand {
            brand.resolve(base);
        }
        let tls = self.server.iter_mut().filter_map(|server| server.tls.as_mut());
        let paths = (tls.flat_map(|tls| [&mut tls.cert_file, &mut tls.key_file]))
            .chain(self.ledger.iter_mut().flat_map(|ledger| {
                std::iter::once(&mut ledger.path)
                    .chain(&mut ledger.redis_ca_file)
                    .chain(&mut ledger.redis_cert_file)
                    .chain(&mut ledger.redis_key_file)
                    .chain(&mut ledger.postgres_ca_file)
                    .chain(&mut ledger.postgres_cert_file)
                    .chain(&mut ledger.postgres_key_file)
            }))
            .chain(
                (self.auth.iter_mut().flat_map(|auth| &mut auth.jwt))
                    .filter_map(|jwt| jwt.public_key_file.as_mut()),
            );
        for path in paths.filter(|path| !path.as_os_str().is_empty()) {
            let beside: PathBuf = base.join(&*path);
            *path = beside;
        }
    }

    /// The mistakes that the modules find in the sections that the command reads.
    fn check(&self, sections: Sections) -> Vec<Mistake> {
        let used = |section| sections.contains(section);
        let mut found = Vec::new();
        found.extend(self.server.iter().flat_map(ServerConfig::check));
        if used(Sections::LEDGER) {
            found.extend(self.ledger.iter().flat_map(LedgerConfig::check));
            found.extend(self.ledger.iter().flat_map(check_addresses));
        }
        if used(Sections::AUTH) {
            found.extend(self.auth.iter().flat_map(AuthConfig::check));
        }
        if used(Sections::CREDITS) {
            found.extend(self.credits.iter().flat_map(CreditsConfig::check));
        }
        if used(Sections::API) {
            let senseless = self.api.iter().flat_map(|api| api.check(&self.routes.items));
            found.extend(self.routes.in_file_order(senseless.collect()));
        }
        if used(Sections::UPSTREAMS) {
            found.extend(self.upstreams.in_file_order(check_upstreams(&self.upstreams.items)));
        }
        if used(Sections::ROUTES) {
            let names: Vec<&str> = self.upstream_names.iter().map(String::as_str).collect();
            found.extend(self.routes.in_file_order(check_routes(&self.routes.items, &names)));
        }
        let rates = self.rates.as_ref().map(Rates::new).unwrap_or_default();
        if used(Sections::PACKS) {
            let senseless = check_packs(&self.packs.items, &self.routes.items, &rates);
            found.extend(self.routes.in_file_order(self.packs.in_file_order(senseless)));
        }
        if used(Sections::MODELS) {
            let currency = self.packs.items.first().map(|pack| pack.price.currency());
            let names: Vec<&str> = self.upstream_names.iter().map(String::as_str).collect();
            found.extend(self.rates.iter().flat_map(|rates| check_rates(rates, currency)));
            found.extend(check_models(&self.models.items, &names, currency, &rates));
        }
        if used(Sections::ROUTES | Sections::MODELS) {
            let unknown = check_metered_routes(&self.routes.items, &self.models.items);
            found.extend(self.routes.in_file_order(unknown));
        }
        found.extend(self.stripe.iter().flat_map(StripeConfig::check));
        if used(Sections::BRAND) {
            found.extend(self.brand.iter().flat_map(BrandConfig::check));
        }
        if used(Sections::IDEMPOTENCY) {
            found.extend(self.idempotency.iter().flat_map(IdempotencyConfig::check));
        }
        found
    }

    /// The warnings of the modules about the sections that the command reads.
    fn warn(&self, sections: Sections) -> Vec<Mistake> {
        let used = |section| sections.contains(section);
        let mut found = Vec::new();
        found.extend(self.server.iter().flat_map(ServerConfig::warn));
        if used(Sections::LEDGER) {
            found.extend(self.ledger.iter().flat_map(warn_of_addresses));
        }
        if used(Sections::AUTH) {
            found.extend(self.auth.iter().flat_map(AuthConfig::warn));
        }
        let exact = self.api.as_ref().is_some_and(|api| api.exact_paths);
        if used(Sections::ROUTES | Sections::API) && !exact {
            let alike = lookalike_routes(&self.routes.items);
            found.extend(self.routes.in_file_order(alike));
        }
        if used(Sections::CREDITS) {
            found.extend(self.credits.iter().filter_map(CreditsConfig::warn));
        }
        if used(Sections::ROUTES) {
            found.extend(no_routes(&self.routes.items));
            found.extend(self.routes.in_file_order(foreign_patterns(&self.routes.items)));
        }
        let rates = self.rates.as_ref().map(Rates::new).unwrap_or_default();
        if used(Sections::ROUTES | Sections::PACKS) {
            let losses = sold_at_a_loss(&self.routes.items, &self.packs.items, &rates);
            found.extend(self.routes.in_file_order(losses));
        }
        if used(Sections::ROUTES | Sections::MODELS) {
            let (routes, models) = (&self.routes.items, &self.models.items);
            found.extend(self.routes.in_file_order(warn_of_metered(routes, models)));
            let losses = warn_of_unit_prices(routes, &self.packs.items, &rates);
            found.extend(self.routes.in_file_order(losses));
            found.extend(warn_of_models(models, &self.packs.items, &rates));
            let written = self.rates.iter();
            found.extend(written.flat_map(|rates| warn_of_rates(rates, routes, models, today())));
        }
        found.extend(self.stripe.iter().filter_map(StripeConfig::warn));
        found
    }

    /// The config. `None` if a section is missing; its mistake is then in the report.
    fn finish(self, sections: Sections) -> Option<Config> {
        if sections.contains(Sections::SERVER) && self.server.is_none() {
            return None;
        }
        Some(Config {
            server: self.server,
            ledger: self.ledger?,
            auth: self.auth?,
            credits: self.credits?,
            api: self.api?,
            upstreams: self.upstreams.items,
            routes: self.routes.items,
            models: self.models.items,
            rates: self.rates?,
            packs: self.packs.items,
            stripe: self.stripe,
            warnings: Warnings::default(),
            start_keys: StartKeys::default(),
            brand: self.brand?,
            idempotency: self.idempotency?,
        })
    }
}

/// Whether the mistake only says that a route has no `price` or `answer`, although the file has one
/// that could not be read. The unreadable value is missing in the copy that was checked.
fn is_about_an_unread_price(mistake: &Mistake, report: &Report<'_>) -> bool {
    let Some((route, key)) = mistake.key.split_once('.') else { return false };
    let is_unread = |name: &str| report.covers(&format!("{route}.{name}"));
    let is_answer_unread = is_unread("answer") && (key == "upstream" || key == "credits");
    route.starts_with("routes[")
        && (is_answer_unread || KEYS_BESIDE_PRICE.contains(&key) && is_unread("price"))
}

/// The folder of the file. It is the empty path for a bare file name, and joining it changes
/// nothing.
fn base_of(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new(""))
}

/// The days since 1970-01-01.
fn today() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs() / (24 * 3600)).unwrap_or_default()
}
