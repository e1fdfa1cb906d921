//! Prices by usage on the command line: the example of a reseller, and what `check` says of mistakes.

use crate::process::{command, fails, ok};

const RESELLER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/reseller.toml");
const SECRETS: [(&str, &str); 3] = [
    ("FAREBOX_ADMIN_TOKEN", "an-admin-token-of-this-test"),
    ("OPENAI_API_KEY", "sk-of-this-test"),
    ("ANTHROPIC_API_KEY", "sk-ant-of-this-test"),
];

#[test]
fn the_example_of_a_reseller_is_good_and_nothing_in_it_is_doubtful() {
    let folder = tempfile::tempdir().unwrap();
    let arguments = ["check", "--config", RESELLER];
    let output = command(folder.path(), &arguments, &SECRETS).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(
        said.contains("is good (upstreams: 2, priced routes: 6, models: 6, packs: 2)"),
        "{said}"
    );
    assert!(!said.contains("warning"), "{said}");
}

#[test]
fn prices_by_usage_are_printed_with_own_cost_and_margin() {
    let folder = tempfile::tempdir().unwrap();
    let table = ok(folder.path(), &["prices", "--config", RESELLER]);
    let line = |start: &str, words: &[&str]| {
        let mut lines = table.lines().filter(|line| line.starts_with(start));
        let found = lines.any(|line| words.iter().all(|word| line.contains(word)));
        assert!(found, "{start} {words:?}:\n{table}");
    };
    line("/v1/chat/completions ", &["POST", "by usage"]);
    // 150 credits are 1.50 EUR, and 1.25 USD are 1.075 EUR: 39.5 %.
    line("gpt-5 ", &["input / million", "150", "1.50 EUR", "1.25 USD", "40 %"]);
    line("gpt-5 ", &["output / million, service_tier = priority", "2400"]);
    line("claude-sonnet-4-5 ", &["cache_write_1h / million, above 200000", "1440"]);
    line("claude-sonnet-4-5 ", &["search", "1.2", "0.012 EUR", "0.01 USD"]);
    line("dall-e-3 ", &["image, quality = hd and size = 1024x1792", "15"]);
    let models = ok(folder.path(), &["models", "list", "--config", RESELLER]);
    let haiku = models.lines().find(|line| line.starts_with("claude-haiku-4-5* ")).unwrap();
    for word in ["anthropic", "claude-haiku-4-5-20251001", "120", "600", "cached_input 12"] {
        assert!(haiku.contains(word), "{word}: {haiku}");
    }
}

#[test]
fn check_names_each_mistake_in_models_and_rates_with_file_line_and_hint() {
    let folder = tempfile::tempdir().unwrap();
    let text = "models_file = \"models.toml\"\n\
        server.admin_token = \"0123456789abcdef\"\n\
        [[upstreams]]\nname = \"ai\"\nurl = \"http://127.0.0.1:1\"\n\
        [[routes]]\npath = \"/a\"\nupstream = \"ai\"\nmeter = \"openai\"\nprice = \"models\"\n\
        [[packs]]\nid = \"p\"\ncredits = 100\nprice = \"19.00 EUR\"\n";
    let models = "[[models]]\nmatch = \"a\"\ninput = -1\n\
        [[models]]\nmatch = \"b\"\ninput = 5\ntokens = 5\n\
        [[models]]\nmatch = \"c*\"\ninput = 5\n\
        [[models]]\nmatch = \"*c\"\ninput = 5\n\
        [[models]]\nmatch = \"d\"\ninput = 5\nabove = [{ input_tokens = 9, input = 4 }]\n";
    std::fs::write(folder.path().join("gateway.toml"), text).unwrap();
    std::fs::write(folder.path().join("models.toml"), models).unwrap();
    let said = fails(folder.path(), &["check"], 2);
    for (line, message) in [
        (3, "`input`: a price cannot be negative"),
        (7, "unknown key `tokens`"),
        (12, "some models match both"),
        (17, "`input` is cheaper above 9 tokens than below"),
    ] {
        assert!(
            said.contains(&format!("models.toml:{line}: {message}")),
            "{line} {message}:\n{said}"
        );
    }
    assert_eq!(said.matches("hint: ").count(), 4, "{said}");

    // A pattern behind which a dearer model may hide, and a price below its cost, are warnings.
    let models = "[[models]]\nmatch = \"c*\"\ninput = 5\ncost = { input = \"1 EUR\" }\n";
    std::fs::write(folder.path().join("models.toml"), models).unwrap();
    let said = ok(folder.path(), &["check"]);
    assert!(said.contains("models.toml:2: warning: every model that matches `c*`"), "{said}");
    assert!(
        said.contains(
            "models.toml:4: warning: `input` of `c*` sells for 0.95 EUR and costs 1.00 EUR"
        ),
        "{said}"
    );
    std::fs::write(folder.path().join("models.toml"), "").unwrap();
    let said = fails(folder.path(), &["check"], 2);
    assert!(said.contains("gateway.toml:10: no model has a price"), "{said}");
}
