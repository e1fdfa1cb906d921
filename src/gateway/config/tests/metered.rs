//! Prices by usage, in the config and in its `models_file`.

use std::path::Path;

use crate::config::{Mistakes, Sections};
use crate::gateway::config::tests::{env, mistakes, read, with_server};
use crate::gateway::config::{Config, load};
use crate::price::metered::Models;

/// A file with one upstream, one pack, and these tables.
fn file(tables: &str) -> String {
    with_server(&format!(
        "[[upstreams]]\nname = \"ai\"\nurl = \"http://a\"\n\
         [[packs]]\nid = \"p\"\ncredits = 100\nprice = \"19.00 EUR\"\n{tables}"
    ))
}

const MODEL: &str = "[[models]]\nmatch = \"m\"\ninput = 250\noutput = 1000\n";

/// The mistakes in a route with these lines, each as the number of the line below the route's
/// header, and the message.
fn in_route(lines: &str) -> Vec<String> {
    let text = file(&format!("{MODEL}[[routes]]\npath = \"/v1/chat\"\n{lines}"));
    let header = 1 + text.lines().position(|line| line == "[[routes]]").unwrap();
    let found = read(&text, Sections::ALL).err().map(|all| {
        let below = |located: &crate::config::Located| {
            format!("{}: {}", located.line.unwrap() - header, located.mistake.message)
        };
        all.iter().map(below).collect::<Vec<_>>()
    });
    found.unwrap_or_default()
}

#[test]
fn the_worked_example_is_sound() {
    let text = file(
        r#"
[[routes]]
path = "/v1/chat/completions"
methods = ["POST"]
upstream = "ai"
meter = "openai"
price = "models"
max_body = "16 MiB"
deny = ["store"]
on_missing_usage = "estimate"
on_overrun = "debt"
on_short = "refuse"
on_client_abort = "drain"
max_overrun = 10

[[routes]]
path = "/v1/images/generations"
upstream = "ai"
meter = "openai"
price = { request = 0.5, image = 4 }
hold = 9

[[routes]]
path = "/v1/other"
upstream = "ai"
meter = { input = "/usage/in", output = "/usage/out" }
price = { input = 1, output = 2 }

[[routes]]
path = "/v1/models"
answer = "models"

[[models]]
match = "gpt-5"
upstream = "ai"
rename = "gpt-5-2026-08-01"
input = 250
cached_input = 25
output = 1000
image = 4
above = [{ input_tokens = 200000, input = 500, output = 1500 }]
when = [{ if = { size = "1024x1792" }, image = 8 }, { if = { service_tier = "priority" }, input = 500, output = 2000 }]
max_input_tokens = 400000
max_output_tokens = 32768
hold_output_tokens = 2048
image_tokens = 2000
cost = { input = "2.50 USD", output = "10.00 USD" }

[rates]
USD = "0.86 EUR"
"#,
    );
    let config = read(&text, Sections::ALL).unwrap_or_else(|mistakes| panic!("{mistakes}"));
    assert_eq!(config.warnings.shown().collect::<Vec<_>>(), [""; 0]);
    let models = Models::new(&config.models);
    let price = |name: &str| models.find(name).map(|m| m.tariff.base().request());
    assert_eq!((price("GPT-5"), price("gpt-4")), (Some(None), None));
}

#[test]
fn a_route_has_one_price() {
    let none: [&str; 0] = [];
    assert_eq!(in_route("upstream = \"ai\"\nmeter = \"openai\"\nprice = \"models\""), none);
    assert_eq!(in_route("answer = \"models\""), none);
    for (lines, found) in [
        ("upstream = \"ai\"", "0: missing key `credits`"),
        (
            "upstream = \"ai\"\ncredits = 5\nmeter = \"openai\"\nprice = \"models\"",
            "5: a route has either `credits` or `price`",
        ),
        (
            "upstream = \"ai\"\nprice = \"models\"",
            "0: missing key `meter`, which says how usage is read",
        ),
        (
            "upstream = \"ai\"\nmeter = \"openai\"\nprice = \"model\"",
            "4: `price`: `model` is no price by usage",
        ),
        (
            "upstream = \"ai\"\nmeter = \"openai\"\nprice = { image = -4 }",
            "4: `image`: a price cannot be negative",
        ),
        (
            "upstream = \"ai\"\nmeter = \"openai\"\nprice = { images = 4 }",
            "4: unknown key `images`",
        ),
        ("upstream = \"ai\"\nmeter = \"openai\"\nprice = {}", "4: this price is 0 for every call"),
        (
            "upstream = \"ai\"\nmeter = \"openai\"\nprice = { second = 1 }",
            "0: a request does not say how many seconds it will take, so nothing would be held for them",
        ),
        (
            "upstream = \"ai\"\nmeter = \"gemini\"\nprice = \"models\"",
            "3: `meter`: no meter is named `gemini`",
        ),
        ("upstream = \"ai\"\nmeter = { in = \"/a\" }\nprice = \"models\"", "3: unknown key `in`"),
        ("price = \"models\"\nmeter = \"openai\"", "0: missing key `upstream`"),
        (
            "answer = \"models\"\nupstream = \"ai\"",
            "3: `upstream` has no meaning where Farebox answers itself",
        ),
        ("answer = \"models\"\ncredits = 1", "2: a route has either `credits` or `answer`"),
        ("answer = \"list\"", "2: `answer` cannot be `list`"),
    ] {
        assert_eq!(in_route(lines), [found], "{lines}");
    }
}

#[test]
fn the_keys_of_metered_routes_are_refused_elsewhere() {
    for key in [
        "meter = \"openai\"",
        "hold = 9",
        "max_body = \"1 MiB\"",
        "deny = [\"store\"]",
        "on_missing_usage = \"hold\"",
        "on_overrun = \"cap\"",
        "on_short = \"shorten\"",
        "max_overrun = 5",
    ] {
        let name = key.split(' ').next().unwrap();
        let found = [format!("4: `{name}` is for routes with a price by usage")];
        assert_eq!(in_route(&format!("upstream = \"ai\"\ncredits = 1\n{key}")), found, "{key}");
    }
    let drain = "upstream = \"ai\"\ncredits = 1\non_client_abort = \"drain\"";
    assert_eq!(in_route(drain), ["4: \"drain\" reads usage, which a fixed price does not have"]);
    for (key, found) in [
        ("websocket = true", "a WebSocket is not metered"),
        ("cost = \"1 EUR\"", "`cost` is the cost of a call with a fixed price"),
        ("hold = 0", "`hold` cannot be 0"),
        ("max_body = \"1 B\"", "`max_body` cannot be 1 B"),
        ("max_overrun = 0", "`max_overrun` cannot be 0"),
        ("deny = [\"store\", \"store\"]", "`store` is listed twice"),
        ("deny = [\"\"]", "`` is not the name of a member of a request"),
        ("deny = [\"model\"]", "`model` is in every request that has a price"),
    ] {
        let lines = format!("upstream = \"ai\"\nmeter = \"openai\"\nprice = \"models\"\n{key}");
        assert_eq!(in_route(&lines), [format!("5: {found}")], "{key}");
    }
}

#[test]
fn mistakes_of_models_and_rates_have_their_lines() {
    let text = file(
        r#"[[models]]
match = "gpt-*"
input = 1
inputs = 2
[[models]]
match = "gpt5-*"
upstream = "ia"
input = 1
above = [{ input_tokens = 5, input = 0.5 },
         { input_tokens = -5, input = 2 }]
[[models]]
match = "*-mini"
input = 0.00000000001
[[models]]
match = "*-nano"
output = 1
cost = { output = "1 GBP" }
[rates]
USD = "0.86 GBP"
"#,
    );
    let first = text.lines().position(|line| line == "[[models]]").unwrap();
    let expected = [
        (4, "unknown key `inputs`"),
        (7, "no upstream is named `ia`"),
        (9, "`input` is cheaper above 5 tokens than below"),
        (10, "`input_tokens` wants a whole number, 0 or more"),
        (12, "some models match both `*-mini` and `gpt5-*`, which is as long"),
        (13, "`input`: a price has at most nine decimals"),
        (15, "some models match both `*-nano` and `gpt5-*`, which is as long"),
        (17, "1.00 GBP is not in the currency of the packs"),
        (19, "0.86 GBP is not in the currency of the packs"),
    ];
    let expected =
        expected.map(|(line, message)| format!("gateway.toml:{}: {message}", first + line));
    assert_eq!(mistakes(&text), expected);
}

/// The hints of the mistakes in a file with these tables.
fn hints(tables: &str) -> Vec<String> {
    let found = read(&file(tables), Sections::ALL).err();
    let hints = found.map(|all| all.iter().map(|found| found.mistake.hint.clone()).collect());
    hints.unwrap_or_default()
}

#[test]
fn a_mistake_that_resellers_make_says_what_to_write() {
    for (tables, hint) in [
        // The names of other price lists.
        (format!("{ROUTE}{MODEL}[[models]]\nname = \"n\"\ninput = 1\n"), "did you mean `match`?"),
        (
            format!("{ROUTE}{MODEL}input_cost_per_token = 0.00025\n"),
            "did you mean `input`? Its price is for a million",
        ),
        // One table where a list of them is wanted.
        (
            format!("{ROUTE}{MODEL}above = {{ input_tokens = 9, input = 300 }}\n"),
            "put it in brackets: above = [{ … }]",
        ),
        // A rate of the packs' own currency.
        (
            format!("{ROUTE}{MODEL}[rates]\nEUR = \"1.16 USD\"\n"),
            "write it the other way round: USD = \"… EUR\"",
        ),
    ] {
        let hints = hints(&tables);
        assert!(hints.iter().any(|found| found == hint), "{tables}: {hints:?}");
    }
}

fn beside(main: &str, models: &str) -> Result<Config, Mistakes> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gateway.toml");
    std::fs::write(&path, format!("models_file = \"models.toml\"\n{main}")).unwrap();
    std::fs::write(folder.path().join("models.toml"), models).unwrap();
    let read = load(&path, Sections::ALL, &env);
    folder.close().unwrap();
    read
}

const ROUTE: &str =
    "[[routes]]\npath = \"/v1/chat\"\nupstream = \"ai\"\nmeter = \"openai\"\nprice = \"models\"\n";

#[test]
fn a_models_file_adds_its_models_after_those_of_the_config() {
    let config =
        beside(&file(&format!("{ROUTE}{MODEL}")), "[[models]]\nmatch = \"n*\"\ninput = 1\n");
    let config = config.unwrap_or_else(|mistakes| panic!("{mistakes}"));
    let names: Vec<&str> = config.models.iter().map(|model| model.r#match.as_str()).collect();
    assert_eq!(names, ["m", "n*"]);
    let warnings: Vec<String> = config.warnings.shown().collect();
    assert!(
        warnings.len() == 1 && warnings[0].contains("models.toml:2: warning: "),
        "{warnings:?}"
    );
    // A route needs no model in gateway.toml if the models file has one.
    assert!(beside(&file(ROUTE), MODEL).is_ok());
}

#[test]
fn mistakes_of_a_models_file_name_that_file_and_its_line() {
    let models = "[[models]]\nmatch = \"n\"\ninput = 1\nfree = 5\n[[models]]\nmatch = \"M\"\ninput = 1\n[[model]]\n";
    let all = beside(&file(&format!("{ROUTE}colour = 1\n{MODEL}")), models).unwrap_err();
    let found: Vec<String> = all
        .iter()
        .map(|found| {
            let file =
                found.file.as_deref().map(|file| file.file_name().unwrap().to_str().unwrap());
            format!("{}:{}: {}", file.unwrap_or("-"), found.line.unwrap(), found.mistake.message)
        })
        .collect();
    assert_eq!(
        found,
        [
            "-:15: unknown key `colour`",
            "models.toml:4: `free` wants true or false, not a whole number",
            "models.toml:6: `m` has its prices in an earlier [[models]]",
            "models.toml:8: unknown section `model`",
        ]
    );
    let shown = all.to_string();
    assert!(shown.contains("models.toml:8: unknown section `model`\n  hint: "), "{shown}");
    let broken = beside(&file(ROUTE), "[[models]]\nmatch = n\n").unwrap_err().to_string();
    assert!(broken.contains("models.toml:2:9: not valid TOML"), "{broken}");
}

#[test]
fn a_models_file_that_cannot_be_read_is_a_mistake_at_its_key() {
    for (value, message) in [
        ("\"absent.toml\"", "absent.toml cannot be read"),
        ("\"\"", "`models_file` names no file"),
        ("5", "`models_file` wants a string"),
        ("\"${ABSENT}\"", "the variable ABSENT is not set"),
    ] {
        let text = format!("models_file = {value}\n{}", file(ROUTE));
        let found = mistakes(&text);
        assert!(found.len() == 1 && found[0].starts_with("gateway.toml:1: "), "{found:?}");
        assert!(found[0].contains(message), "{found:?}");
    }
}

#[test]
fn a_command_that_reads_no_models_does_not_open_their_file() {
    let text = format!("models_file = \"absent.toml\"\n{}", file(ROUTE));
    assert!(read(&text, Sections::LEDGER).is_ok());
    let path = Path::new("nowhere/gateway.toml");
    let read = crate::gateway::config::parse(&text, path, Sections::MODELS, &env);
    assert!(read.unwrap_err().to_string().contains("nowhere/absent.toml cannot be read"));
}
