//! Each mistake of a model is found, reported under its key, and explained.

use super::*;

/// The keys of the mistakes in `models`. Each model is given as TOML.
fn keys(models: &[&str]) -> Vec<String> {
    let rates = Rates::new(&toml::from_str("USD = '0.86 EUR'").unwrap());
    let models: Vec<ModelConfig> =
        models.iter().map(|text| toml::from_str(text).unwrap()).collect();
    let found = check_models(&models, &["ai"], "EUR".parse().ok(), &rates);
    for mistake in &found {
        assert!(!mistake.hint.is_empty(), "{mistake}");
        assert!(!mistake.message.ends_with('.'), "{mistake}");
    }
    found.into_iter().map(|mistake| mistake.key).collect()
}

fn of(more: &str) -> Vec<String> {
    keys(&[&format!("match = 'm'\ninput = 250\noutput = 1000\n{more}")])
}

const NONE: [&str; 0] = [];

#[test]
fn models_that_make_sense_pass() {
    assert_eq!(of(""), NONE);
    assert_eq!(
        of("upstream = 'ai'\nrename = 'm-2'\nhidden_output = true\nmax_output_tokens = 100
            above = [{ input_tokens = 300000, input = 600 }, { input_tokens = 200000, input = 500 }]
            when = [{ if = { service_tier = 'priority' }, input = 500 }, { if = { quality = 'hd' }, image = 8 }]
            cost = { input = '2.50 USD', output = '9 EUR', request = '0 EUR' }"),
        NONE
    );
    assert_eq!(
        keys(&["match = 'a*'\ninput = 1", "match = 'a'\ninput = 1", "match = 'b*'\ninput = 1"]),
        NONE
    );
    assert_eq!(keys(&["match = 'm'\nfree = true", "match = 'n'\nfree = true\ninput = 0"]), NONE);
    assert_eq!(keys(&["match = 'o/*'\nrename = 'x/*'\ninput = 1"]), NONE);
}

#[test]
fn a_negative_or_unknown_unit_cannot_be_written() {
    for (text, why) in [
        ("input = -1", "cannot be negative"),
        ("input = '-0.5'", "cannot be negative"),
        ("tokens = 5", "unknown field `tokens`"),
        ("input = '2.50 USD'", "plain decimal"),
        ("input = '0.0000000001'", "at most nine decimals"),
        ("above = [{ input_tokens = 5, inputs = 1 }]", "unknown field `inputs`"),
        ("when = [{ if = { a = 1 }, images = 1 }]", "unknown field `images`"),
        ("when = [{ if = { a = [1] }, image = 1 }]", "a text, a number, true or false"),
        ("cost = { token = '1 EUR' }", "unknown field `token`"),
    ] {
        let error = toml::from_str::<ModelConfig>(&format!("match = 'm'\n{text}")).unwrap_err();
        assert!(error.message().contains(why), "{text}: {error}");
    }
}

#[test]
fn a_model_is_free_only_where_it_says_so() {
    assert_eq!(keys(&["match = 'm'"]), ["models[0]"]);
    assert_eq!(keys(&["match = 'm'\ninput = 0\noutput = 0"]), ["models[0]"]);
    assert_eq!(
        keys(&["match = 'm'\nwhen = [{ if = { a = 1 }, input = 1 }]"]),
        ["models[0]"],
        "its other calls have no price"
    );
    assert_eq!(of("free = true"), ["models[0].free"]);
    assert_eq!(
        of("when = [{ if = { a = 1 }, input = 0, output = 0 }]"),
        ["models[0].when[0]"],
        "a request could choose to be free"
    );
}

#[test]
fn patterns_of_equal_length_that_overlap_are_found() {
    let two = |one: &str, two: &str| {
        keys(&[&format!("match = '{one}'\ninput = 1"), &format!("match = '{two}'\ninput = 1")])
    };
    assert_eq!(two("gpt-5", "GPT-5"), ["models[1].match"]);
    assert_eq!(two("gpt-*", "*-mini"), NONE, "four and five letters");
    assert_eq!(two("gpt5-*", "*-mini"), ["models[1].match"]);
    assert_eq!(two("a*", "b*"), NONE);
    assert_eq!(two("*", "*"), ["models[1].match"]);
    for wrong in ["", "a b", "a**", "é"] {
        assert_eq!(
            keys(&[&format!("match = '{wrong}'\ninput = 1")]),
            ["models[0].match"],
            "{wrong}"
        );
    }
}

#[test]
fn a_rename_and_an_upstream_must_exist_and_be_clear() {
    assert_eq!(of("upstream = 'ia'"), ["models[0].upstream"]);
    for rename in ["", "a b", "*", "..", "."] {
        assert_eq!(of(&format!("rename = '{rename}'")), ["models[0].rename"], "{rename}");
    }
    for (pattern, rename) in [("a*", "*b*"), ("a*b*", "*")] {
        let model = format!("match = '{pattern}'\nrename = '{rename}'\ninput = 1");
        assert_eq!(keys(&[&model]), ["models[0].rename"], "{pattern} {rename}");
    }
}

#[test]
fn a_tier_below_another_is_found() {
    for (tiers, key) in [
        ("{ input_tokens = 5, input = 200 }", "above[0]"),
        ("{ input_tokens = 9, input = 300 }, { input_tokens = 5, input = 400 }", "above[0]"),
        ("{ input_tokens = 5, input = 300 }, { input_tokens = 5, input = 400 }", "above[1]"),
        // Kinds that inherit a price become cheaper together with it.
        ("{ input_tokens = 5, cached_input = 100 }", "above[0]"),
        ("{ input_tokens = 0, input = 300 }", "above[0]"),
        ("{ input_tokens = 5 }", "above[0]"),
    ] {
        assert_eq!(of(&format!("above = [{tiers}]")), [format!("models[0].{key}")], "{tiers}");
    }
    assert_eq!(
        of("request = 2\nabove = [{ input_tokens = 5, request = 1 }]"),
        ["models[0].above[0]"]
    );
}

#[test]
fn a_when_that_never_counts_is_found() {
    for (whens, key) in [
        ("{ if = {}, input = 1 }", "when[0]"),
        ("{ if = { a = 1 } }", "when[0]"),
        ("{ if = { a = 1 }, input = 1 }, { if = { a = 1, b = 2 }, input = 2 }", "when[1]"),
        ("{ if = { a = 1 }, input = 1 }, { if = { a = 1 }, input = 2 }", "when[1]"),
    ] {
        assert_eq!(of(&format!("when = [{whens}]")), [format!("models[0].{key}")], "{whens}");
    }
    assert_eq!(
        of("when = [{ if = { a = 1, b = 2 }, input = 1 }, { if = { a = 1 }, input = 2 }]"),
        NONE
    );
    let many = "{ if = { a = 1, b = 2 }, input = 1 },".replace('2', "{n}");
    let many: String = (0..65).map(|n| many.replace("{n}", &n.to_string())).collect();
    assert_eq!(of(&format!("when = [{many}]")), ["models[0].when"]);
}

#[test]
fn caps_and_costs_that_cannot_be_are_found() {
    for cap in ["max_input_tokens", "max_output_tokens", "hold_output_tokens"] {
        assert_eq!(of(&format!("{cap} = 0")), [format!("models[0].{cap}")]);
        assert_eq!(of(&format!("{cap} = 1099511627777")), [format!("models[0].{cap}")]);
    }
    assert_eq!(
        of("max_output_tokens = 5\nhold_output_tokens = 6"),
        ["models[0].hold_output_tokens"]
    );
    assert_eq!(of("hold_output_tokens = 8192"), NONE);
    assert_eq!(
        of("hold_output_tokens = 8193"),
        ["models[0].hold_output_tokens"],
        "8192 are the most unless the model says otherwise"
    );
    assert_eq!(of("cost = { input = '1 GBP' }"), ["models[0].cost.input"]);
    assert_eq!(of("cost = { request = '1 GBP' }"), ["models[0].cost.request"]);
    let tier = "above = [{ input_tokens = 9, input = 900, cost = { input = '1 GBP' } }]";
    assert_eq!(of(tier), ["models[0].above[0].cost.input"]);
    let when = "when = [{ if = { a = 'b' }, input = 900, cost = { input = '1 GBP' } }]";
    assert_eq!(of(when), ["models[0].when[0].cost.input"]);
}

#[test]
fn a_route_by_models_needs_a_model() {
    let routes = [
        "path = '/a'\nupstream = 'ai'\nmeter = 'openai'\nprice = 'models'",
        "path = '/b'\nupstream = 'ai'\nmeter = 'openai'\nprice = { image = 4 }",
        "path = '/c'\nanswer = 'models'",
        "path = '/d'\nupstream = 'ai'\ncredits = 1",
    ];
    let routes: Vec<RouteConfig> =
        routes.iter().map(|text| toml::from_str(text).unwrap()).collect();
    let found = check_metered_routes(&routes, &[]);
    let keys: Vec<&str> = found.iter().map(|mistake| mistake.key.as_str()).collect();
    assert_eq!(keys, ["routes[0].price", "routes[2].answer"]);
    let model = toml::from_str("match = 'm'\ninput = 1").unwrap();
    assert_eq!(check_metered_routes(&routes, &[model]), []);
}
