//! The text of a first gateway.toml.

use std::path::Path;

use crate::cli::init::answers::{Answers, Callers, Selling};

/// The file's text for these answers.
pub(super) fn write(answers: &Answers, admin_token: &str) -> String {
    let Answers { upstream, priced, callers, selling, ledger } = answers;
    let (upstream, path) = (quoted(&upstream.to_string()), quoted(&priced.path));
    let ledger = quoted(ledger);
    let credits = priced.credits;
    let (callers, selling) = (auth(callers), stripe(*selling));
    format!(
        r#"# Farebox's configuration, written by `farebox init`.
#
#   farebox check       says what is wrong with it, line by line
#   farebox serve       serves
#
# "${{NAME}}" reads an environment variable, which is where secrets belong once others can read this file.
# Farebox's repository has a gateway.toml with every key, what it means and its default.

[server]
listen = "127.0.0.1:8080"                # the public listener; "0.0.0.0:8080" is reached from everywhere
admin = "127.0.0.1:9090"                 # the private listener: grants, keys, metrics
# Made for this file alone. It gives credits away: nobody but you should be able to read it.
admin_token = "{admin_token}"

[ledger]                                 # where credits are kept
path = {ledger}                      # a SQLite file; a relative path starts from this file's folder

{callers}
[credits]
low_balance = 20                         # below this, an account is told that it runs low
signup_grant = 0                         # given once to every new account

# The backend. It needs no change: it gets the requests that are paid for.
[[upstreams]]
name = "backend"
url = {upstream}
# headers = {{ authorization = "Bearer ${{BACKEND_KEY}}" }}   # sent in place of the client's

# What a call costs. A path is exact, or has `{{name}}` for one segment and `{{*rest}}` for the rest. A path
# without a rule is answered 404, and never forwarded.
[[routes]]
path = {path}
methods = ["POST"]                       # left out: every method
upstream = "backend"
credits = {credits}
# cost = "0.04 EUR"                      # what a call costs you: `farebox prices` shows the margin

# What is for sale.
[[packs]]
id = "pack-100"
name = "100 credits"
credits = 100
price = "19.00 EUR"

[[packs]]
id = "pack-500"
name = "500 credits"
credits = 500
price = "79.00 EUR"
best_value = true                        # the one to recommend

{selling}"#
    )
}

fn auth(callers: &Callers) -> String {
    let keys = r#"[auth.api_keys]                          # `farebox key create ACCOUNT` makes one
enabled = true
"#;
    match callers {
        Callers::Keys => format!("# Who calls.\n{keys}"),
        Callers::Jwt => format!(
            r#"# Who calls: a JWT that your app signs with this secret, whose `sub` names the account.
[[auth.jwt]]
algorithms = ["HS256"]
secret = "${{JWT_SECRET}}"               # 32 bytes or more
account_claim = "sub"

{keys}"#
        ),
        Callers::Jwks(url) => format!(
            r#"# Who calls: a JWT of this issuer, whose `sub` names the account.
[[auth.jwt]]
algorithms = ["RS256"]                   # or "ES256", "EdDSA": what the issuer signs with
jwks_url = {url}
account_claim = "sub"
# issuer = "https://login.example.com"   # checked when set
# audience = "farebox"                   # checked when set

{keys}"#,
            url = quoted(url.as_str())
        ),
    }
}

fn stripe(selling: Selling) -> &'static str {
    match selling {
        Selling::Sandbox => {
            r#"# Selling them on a page on which nobody pays. For real money: remove `sandbox`, and set the keys.
[stripe]
sandbox = true
# secret_key = "${STRIPE_SECRET_KEY}"
# webhook_secret = "${STRIPE_WEBHOOK_SECRET}"
# success_url = "http://127.0.0.1:8080/credits/account"
# cancel_url = "http://127.0.0.1:8080/credits/account"
"#
        }
        Selling::Stripe => {
            r#"# Selling them. `farebox packs sync` makes the prices and the webhook at Stripe.
[stripe]
secret_key = "${STRIPE_SECRET_KEY}"      # a restricted key will do
webhook_secret = "${STRIPE_WEBHOOK_SECRET}"
success_url = "http://127.0.0.1:8080/credits/account"   # where buyers return to: your app, once it is there
cancel_url = "http://127.0.0.1:8080/credits/account"
"#
        }
        Selling::ByHand => {
            r#"# Without [stripe] packs are shown, and not sold; `farebox grant ACCOUNT CREDITS` gives credits.
"#
        }
    }
}

/// A text as a string of TOML, with its quotes.
fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

/// An example value for each variable that the file reads, so that the file can be checked before
/// any variable is set.
pub(super) fn example_of_variable(name: &str) -> Option<String> {
    let value = match name {
        "JWT_SECRET" => "an example of 32 bytes, never used",
        "STRIPE_SECRET_KEY" => "sk_test_example",
        "STRIPE_WEBHOOK_SECRET" => "whsec_example",
        _ => return None,
    };
    Some(value.to_owned())
}

/// The commands that the user should run next.
pub(super) fn next_steps(answers: &Answers, path: &Path) -> String {
    let config = match path == Path::new("gateway.toml") {
        true => String::new(),
        false => format!(" --config {}", path.display()),
    };
    let mut variables = Vec::new();
    if answers.callers == Callers::Jwt {
        variables
            .push("  export JWT_SECRET=…                  # the secret that your app signs with\n");
    }
    if answers.selling == Selling::Stripe {
        variables.push("  export STRIPE_SECRET_KEY=sk_…\n");
        variables.push("  export STRIPE_WEBHOOK_SECRET=whsec_…\n");
    }
    format!(
        "wrote {path}. Next:\n{variables}  farebox check{config}\n  farebox serve{config}\n\
         and beside it, in another terminal:\n  farebox grant alice 100{config}\n  \
         farebox key create alice{config}\n  curl -X POST http://127.0.0.1:8080{sold} -H 'authorization: Bearer fb_…'",
        path = path.display(),
        variables = variables.concat(),
        sold = answers.priced.path,
    )
}
