//! Each doubtful setting causes a warning, and no sound setting does.

use super::*;

fn models(models: &[&str]) -> Vec<ModelConfig> {
    models.iter().map(|text| toml::from_str(text).unwrap()).collect()
}

fn routes(routes: &[&str]) -> Vec<RouteConfig> {
    routes.iter().map(|text| toml::from_str(&format!("upstream = 'ai'\n{text}")).unwrap()).collect()
}

fn keys(found: Vec<Mistake>) -> Vec<String> {
    assert!(found.iter().all(|found| !found.hint.is_empty()), "{found:?}");
    found.into_iter().map(|found| found.key).collect()
}

const NONE: [&str; 0] = [];

fn rates() -> Rates {
    Rates::new(&toml::from_str("USD = '0.86 EUR'").unwrap())
}

fn packs() -> Vec<PackConfig> {
    vec![toml::from_str("id = 'p'\ncredits = 1000\nprice = '10.00 EUR'").unwrap()]
}

#[test]
fn a_pattern_behind_which_a_dearer_model_may_hide_is_warned_of() {
    let warned = |model: &str| keys(warn_of_models(&models(&[model]), &packs(), &rates()));
    assert_eq!(warned("match = 'gpt-*'\ninput = 1"), ["models[0].match"]);
    assert_eq!(warned("match = 'gpt-*'\nrename = 'openai/*'\ninput = 1"), ["models[0].match"]);
    assert_eq!(warned("match = 'gpt-*'\nrename = 'gpt-5-mini'\ninput = 1"), NONE);
    assert_eq!(warned("match = 'gpt-5'\ninput = 1"), NONE);
    assert_eq!(warned("match = 'gpt-5'\noutput = 1"), ["models[0].match"], "input costs nothing");
    assert_eq!(warned("match = 'gpt-5'\ninput = 0\noutput = 1"), NONE);
    assert_eq!(warned("match = 'gpt-5'\nimage = 1"), NONE);
}

#[test]
fn a_model_whose_output_was_forgotten_is_warned_of() {
    let warned = |model: &str| keys(warn_of_models(&models(&[model]), &packs(), &rates()));
    for sign in
        ["max_output_tokens = 9", "hidden_output = true", "cached_input = 1", "reasoning = 1"]
    {
        let model = format!("match = 'm'\ninput = 1\n{sign}");
        assert_eq!(warned(&model), ["models[0].match"], "{sign}");
        assert_eq!(warned(&format!("{model}\noutput = 0")), NONE, "{sign}");
    }
    assert_eq!(warned("match = 'embed'\ninput = 1\nmax_input_tokens = 9"), NONE);
}

#[test]
fn a_price_of_one_token_is_warned_of() {
    // A credit is worth 0.01 EUR, so 0.1 credits are the least that a million tokens sell for.
    let warned = |prices: &str| {
        let model = format!("match = 'm'\n{prices}");
        keys(warn_of_models(&models(&[&model]), &packs(), &rates()))
    };
    assert_eq!(warned("input = '0.00015'\noutput = '0.0012'"), ["models[0].input"]);
    assert_eq!(warned("input = 150\noutput = '0.0012'"), ["models[0].output"]);
    assert_eq!(warned("input = '0.1'\noutput = '0.1'"), NONE);
    assert_eq!(warned("input = 0\noutput = 1200"), NONE);
    assert_eq!(warned("image = '0.000001'"), NONE, "it is a price of one image");
    let cheap = models(&["match = 'm'\ninput = '0.00015'"]);
    assert_eq!(warn_of_models(&cheap, &[], &rates()), [], "no pack says what a credit is worth");
}

#[test]
fn a_meter_of_another_provider_is_warned_of() {
    for (path, meter, is_warned) in [
        ("/v1/messages", "openai", true),
        ("/claude/v1/messages", "openai", true),
        ("/v1/messages", "anthropic", false),
        ("/v1/threads/{id}/messages", "openai", false),
        ("/v1/chat/completions", "anthropic", true),
        ("/openai/deployments/{model}/chat/completions", "anthropic", true),
        ("/v1/embeddings", "anthropic", true),
        ("/v1/chat/completions", "openai", false),
        ("/api/chat", "anthropic", false),
    ] {
        let route = format!("path = '{path}'\nmeter = '{meter}'\nprice = 'models'");
        let found = warn_of_metered(&routes(&[&route]), &models(&["match = 'm'\ninput = 1"]));
        let found = keys(found).into_iter().filter(|key| key == "routes[0].meter").count();
        assert_eq!(found, usize::from(is_warned), "{path} {meter}");
    }
}

#[test]
fn a_model_that_costs_more_than_it_sells_for_is_warned_of() {
    // A credit is worth 0.01 EUR, and 2.50 USD are worth 2.15 EUR.
    let warned = |more: &str| {
        let model = format!("match = 'm'\ninput = 215\noutput = 1000\n{more}");
        keys(warn_of_models(&models(&[&model]), &packs(), &rates()))
    };
    assert_eq!(warned("cost = { input = '2.50 USD', output = '10 EUR' }"), NONE);
    assert_eq!(warned("cost = { input = '2.51 USD' }"), ["models[0].cost.input"]);
    assert_eq!(warned("cost = { input = '2.50 EUR' }"), ["models[0].cost.input"]);
    assert_eq!(warned("cost = { cached_input = '2.51 USD' }"), ["models[0].cost.cached_input"]);
    assert_eq!(
        warned("cost = { image = '0.01 EUR' }"),
        ["models[0].cost.image"],
        "it has no price"
    );
    assert_eq!(warned("request = 1\ncost = { request = '0.02 EUR' }"), ["models[0].cost.request"]);
    // A tier and a `when` cost what their own tables say.
    let tier = |cost: &str| {
        format!("above = [{{ input_tokens = 9, input = 430, cost = {{ input = '{cost}' }} }}]")
    };
    assert_eq!(warned(&tier("5 USD")), NONE);
    assert_eq!(warned(&tier("5.01 USD")), ["models[0].above[0].cost.input"]);
    let when = "when = [{ if = { a = 'b' }, output = 500, cost = { output = '6 EUR' } }]";
    assert_eq!(warned(when), ["models[0].when[0].cost.output"]);
    let free = models(&["match = 'm'\nfree = true\ncost = { input = '1 EUR' }"]);
    assert_eq!(warn_of_models(&free, &packs(), &rates()), [], "it is meant");
    let cheap = models(&["match = 'm'\ninput = 1\ncost = { input = '1 EUR' }"]);
    assert_eq!(warn_of_models(&cheap, &[], &rates()), [], "no pack says what a credit is worth");
}

/// A `when` or a tier changes prices or costs, and leaves the rest as the model has it.
#[test]
fn a_when_and_a_tier_cost_what_the_model_costs_where_they_name_no_cost() {
    // 215 credits are worth 2.15 EUR, and the model costs 2 EUR and 9 EUR.
    let warned = |more: &str| {
        let cost = "cost = { input = '2 EUR', output = '9 EUR', image = '0.03 EUR' }";
        let model = format!("match = 'm'\ninput = 215\noutput = 1000\nimage = 4\n{cost}\n{more}");
        keys(warn_of_models(&models(&[&model]), &packs(), &rates()))
    };
    for (more, expected) in [
        ("", &[][..]),
        // A lower price, at the model's cost.
        ("when = [{ if = { size = 's' }, image = 3 }]", &[]),
        ("when = [{ if = { size = 's' }, image = 2 }]", &["when[0].image"]),
        ("above = [{ input_tokens = 9, input = 199 }]", &["above[0].input"]),
        ("above = [{ input_tokens = 9, input = 200, output = 899 }]", &["above[0].output"]),
        // A higher cost, at the model's price.
        (
            "when = [{ if = { size = 's' }, cost = { image = '0.05 EUR' } }]",
            &["when[0].cost.image"],
        ),
        ("above = [{ input_tokens = 9, cost = { output = '11 EUR' } }]", &["above[0].cost.output"]),
        ("when = [{ if = { a = 'b' }, image = 2, cost = { image = '0.02 EUR' } }]", &[]),
        // Each is sound, and both together are a loss.
        (
            "when = [{ if = { a = 'b' }, input = 300, cost = { input = '3 EUR' } }]\n\
             above = [{ input_tokens = 9, input = 250 }]",
            &["above[0].input"],
        ),
        (
            "when = [{ if = { a = 'b' }, input = 300, cost = { input = '3 EUR' } }]\n\
             above = [{ input_tokens = 9, input = 300 }]",
            &[],
        ),
    ] {
        let expected: Vec<_> = expected.iter().map(|key| format!("models[0].{key}")).collect();
        assert_eq!(warned(more), expected, "{more}");
    }
    // A loss is told once, and not for each table that leaves it as it is.
    let model = "match = 'm'\ninput = 215\nimage = 4\n\
                 when = [{ if = { a = 'b' }, image = 5 }]\nabove = [{ input_tokens = 9, input = 300 }]\n\
                 request = 1\ncost = { request = '0.02 EUR' }";
    let found = warn_of_models(&models(&[model]), &packs(), &rates());
    assert_eq!(keys(found), ["models[0].cost.request"]);
}

/// A kind without a cost costs as its parent, and one without a price sells as its parent.
#[test]
fn a_kind_that_inherits_its_cost_or_its_price_is_compared_with_that() {
    for (more, expected) in [
        ("cached_input = 25\ncost = { input = '2 EUR' }", &["cached_input"][..]),
        ("cached_input = 200\ncost = { input = '2 EUR' }", &[]),
        ("cached_input = 25\ncost = { input = '2 EUR', cached_input = '0.20 EUR' }", &[]),
        ("cost = { cached_input = '2.20 EUR' }", &["cost.cached_input"]),
        ("cache_write = 300\ncost = { cache_write_1h = '3.10 EUR' }", &["cost.cache_write_1h"]),
        ("reasoning = 500\ncost = { output = '6 EUR' }", &["reasoning"]),
        (
            "cost = { input = '2 EUR' }\nwhen = [{ if = { a = 'b' }, cached_input = 25 }]",
            &["when[0].cached_input"],
        ),
        (
            "cached_input = 100\ncost = { input = '1 EUR' }\n\
             above = [{ input_tokens = 9, cost = { input = '2 EUR' } }]",
            &["above[0].cached_input"],
        ),
    ] {
        let model = format!("match = 'm'\ninput = 215\noutput = 1000\n{more}");
        let found = warn_of_models(&models(&[&model]), &packs(), &rates());
        let expected: Vec<_> = expected.iter().map(|key| format!("models[0].{key}")).collect();
        assert_eq!(keys(found), expected, "{more}");
    }
    let model = models(&[
        "match = 'm'\ninput = 215\noutput = 1000\ncached_input = 25\ncost = { input = '2 EUR' }",
    ]);
    let found = warn_of_models(&model, &packs(), &rates());
    assert!(found[0].message.ends_with("costs 2.00 EUR, as `input`"), "{}", found[0].message);
}

#[test]
fn a_route_whose_unit_costs_more_than_it_sells_for_is_warned_of() {
    let warned = |cost: &str| {
        let route = format!(
            "path = '/draw'\nupstream = 'ai'\nmeter = 'openai'\nprice = {{ image = 4, cost = {{ {cost} }} }}"
        );
        let route: RouteConfig = toml::from_str(&route).unwrap();
        keys(warn_of_unit_prices(&[route], &packs(), &rates()))
    };
    assert_eq!(warned("image = '0.04 EUR'"), NONE);
    assert_eq!(warned("image = '0.05 USD'"), ["routes[0].price.cost.image"]);
}

#[test]
fn a_route_to_data_that_accounts_share_is_warned_of() {
    let bounded = models(&["match = 'm'\ninput = 1\nmax_input_tokens = 5"]);
    let unbounded = models(&["match = 'm'\ninput = 1"]);
    let by_models = "meter = 'openai'\nprice = 'models'";
    for (path, more, models, is_warned) in [
        ("/v1/files", "credits = 1", &bounded, true),
        ("/v1/files/{id}/content", "credits = 1", &bounded, true),
        ("/v1/threads/{id}/runs", "credits = 1", &bounded, true),
        ("/v1/responses/{id}", "credits = 1", &bounded, true),
        ("/v1/responses", by_models, &bounded, true),
        ("/v1/responses", by_models, &unbounded, false),
        (
            "/v1/responses",
            "meter = 'openai'\nprice = 'models'\ndeny = ['previous_response_id']",
            &bounded,
            false,
        ),
        ("/v1/responses", "credits = 1", &bounded, false),
        ("/v1/chat/completions", by_models, &bounded, false),
        ("/v1/{*rest}", by_models, &bounded, true),
        ("/v1/{*rest}", "credits = 1", &bounded, false),
        ("/{*rest}", by_models, &bounded, false),
        ("/api/ai/generate", "credits = 5", &bounded, false),
    ] {
        let found = warn_of_metered(&routes(&[&format!("path = '{path}'\n{more}")]), models);
        let expected: &[&str] = if is_warned { &["routes[0].path"] } else { &[] };
        assert_eq!(keys(found), expected, "{path} {more}");
    }
}

#[test]
fn seconds_that_nothing_is_held_for_are_warned_of() {
    let speech = models(&["match = 'whisper'\nsecond = 1"]);
    let route =
        |more: &str| routes(&[&format!("path = '/a'\nmeter = 'openai'\nprice = 'models'\n{more}")]);
    assert_eq!(keys(warn_of_metered(&route(""), &speech)), ["routes[0].price"]);
    assert_eq!(keys(warn_of_metered(&route("hold = 9"), &speech)), NONE);
}

#[test]
fn a_rate_that_is_old_or_unused_is_warned_of() {
    let costs = models(&["match = 'm'\ninput = 1\ncost = { input = '1 USD' }"]);
    let day = days_since_1970(2026, 11, 30);
    let warned =
        |rates: &str| keys(warn_of_rates(&toml::from_str(rates).unwrap(), &[], &costs, day));
    assert_eq!(warned("USD = '0.86 EUR'"), NONE);
    assert_eq!(warned("USD = '0.86 EUR'\nGBP = '1.15 EUR'"), ["rates.GBP"]);
    assert_eq!(warned("USD = '0.86 EUR'\nas_of = 2026-08-30"), NONE);
    assert_eq!(warned("USD = '0.86 EUR'\nas_of = 2026-08-29"), ["rates.as_of"]);
    assert_eq!(warned("USD = '0.86 EUR'\nas_of = 2027-01-01"), NONE);
    let route = routes(&["path = '/a'\ncredits = 1\ncost = '1 USD'"]);
    let unused = toml::from_str("USD = '0.86 EUR'").unwrap();
    assert_eq!(warn_of_rates(&unused, &route, &[], day), []);
}

#[test]
fn days_are_counted_by_the_calendar() {
    for (date, days) in [
        ((1970, 1, 1), 0),
        ((1970, 3, 1), 59),
        ((2000, 2, 29), 11_016),
        ((2024, 12, 31), 20_088),
        ((2026, 11, 30), 20_787),
    ] {
        assert_eq!(days_since_1970(date.0, date.1, date.2), days, "{date:?}");
    }
}
