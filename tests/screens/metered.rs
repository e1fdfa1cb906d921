//! Metered calls: on the account page, on the operator's page, and in the price list.

use farebox::usage::Kind;
use serde_json::{Value, json};

use crate::browser::{Browser, LOOKS};
use crate::process::{Process, config_on_ports};
use crate::seller::PACKS;
use crate::support::metered::{MeteredCall, make};
use crate::support::{ADMIN_TOKEN, Upstream, token};

const SHOP: &str = r#"
[[routes]]
path = "/v1/chat/completions"
label = "Chat"
methods = ["POST"]
upstream = "ai"
meter = "openai"
price = "models"

[[routes]]
path = "/v1/images/generations"
methods = ["POST"]
upstream = "ai"
meter = "openai"
price = { request = 0.5, image = 4 }

[[models]]
match = "gpt-5"
input = 250
cached_input = 25
output = 1000
above = [{ input_tokens = 200000, input = 500, output = 1500 }]
when = [{ if = { service_tier = "priority" }, input = 500, output = 2000 }]
cost = { input = "2.50 USD", output = "10.00 USD" }

[[models]]
match = "claude-*"
input = 300
output = 1500
search = 1
cost = { input = "3 USD", output = "15 USD" }

[[models]]
match = "llama-4"
free = true

[[models]]
match = "tiny"
input = "0.000000001"

[rates]
USD = "0.86 EUR"
"#;

const CHAT: &str = "/v1/chat/completions";

const IMAGES: &str = "/v1/images/generations";

/// Calls of alice, the oldest first.
fn calls() -> [MeteredCall<'static>; 4] {
    let call = |route, model, held, charged, used| MeteredCall {
        account: "alice",
        route,
        model,
        held,
        charged,
        used,
    };
    let long = Some("claude-opus-4-20260801-with-a-long-name");
    [
        call(IMAGES, None, "8.5", "8.5", &[(Kind::Image, 2)]),
        call(CHAT, long, "20", "16.5", &[(Kind::Output, 11000), (Kind::Search, 3)]),
        // The call costs more than its hold.
        call(
            CHAT,
            Some("gpt-5"),
            "5",
            "12.5",
            &[(Kind::Input, 2000), (Kind::Output, 9000), (Kind::Reasoning, 3000)],
        ),
        call(
            CHAT,
            Some("GPT-5"),
            "2.5",
            "0.46",
            &[(Kind::Input, 600), (Kind::CachedInput, 400), (Kind::Output, 300)],
        ),
    ]
}

/// A gateway that sells these models, whose ledger has these calls.
async fn shop(folder: &std::path::Path, calls: &[MeteredCall<'_>]) -> Process {
    make(&folder.join("ledger.db"), calls).await;
    let upstream = Upstream::canned().await;
    Process::serve(folder, &config_on_ports(upstream.address, &format!("{SHOP}{PACKS}")))
}

/// The text of the first row of a table below a heading that says something, without odd spaces.
async fn row(browser: &Browser, heading: &str, says: &str) -> String {
    let find = "const plain = (text) => text.replace(/[\\u00a0\\u202f]/g, ' ').replaceAll('−', '-'); \
        const card = all('.card').find((card) => card.querySelector('h2')?.textContent.includes(arguments[0])); \
        const cells = (row) => [...row.cells].map((cell) => plain(cell.innerText.replaceAll('\\n', ' / '))).join(' | '); \
        return card && [...card.querySelectorAll('tbody tr')].map(cells).find((row) => row.includes(arguments[1]))";
    let mut found = Value::Null;
    let there = crate::support::eventually(async || {
        found = browser.run_with(find, json!([heading, says])).await;
        !found.is_null()
    });
    assert!(there.await, "no row {says} below {heading}: {}", browser.run("return words()").await);
    found.as_str().unwrap().to_owned()
}

#[tokio::test]
async fn an_account_sees_model_tokens_and_hold_of_each_metered_call_and_usage_by_model() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = shop(folder.path(), &calls()).await;
    let browser = Browser::start().await;
    browser.look(LOOKS[0]).await;
    browser.sign_in_by(&gateway.url(&format!("/credits/account#token={}", token("alice")))).await;
    for look in [LOOKS[0], LOOKS[4], LOOKS[2], LOOKS[3]] {
        browser.look(look).await;
        browser.open("about:blank").await;
        browser.open(&gateway.url("/credits/account")).await;
        browser.until("all('[part~=entry]').length === 5 && !$('.bone') && $('svg')").await;
        let is_french = look.lang == "fr";
        let lines = if is_french {
            [
                "GPT-5 / 1 000 jetons en entrée, 300 en sortie · réservé : 2,5",
                "claude-opus-4-20260801-with-a-long-name / 0 jetons en entrée, 11 000 en sortie · Recherches : 3 · réservé : 20",
                "Images : 2 · réservé : 8,5",
            ]
        } else {
            [
                "GPT-5 / 1,000 tokens in, 300 out · held: 2.5",
                "claude-opus-4-20260801-with-a-long-name / 0 tokens in, 11,000 out · Searches: 3 · held: 20",
                "Images: 2 · held: 8.5",
            ]
        };
        let said = "return all('[part~=entry]').map((row) => row.innerText.replace(/\\n+/g, ' / ').replace(/[\\u00a0\\u202f]/g, ' ')).join('\\n')";
        let said = browser.run(said).await;
        for line in lines {
            assert!(said.as_str().unwrap().contains(line), "{line}: {said}");
        }
        // A line that is not metered says nothing of the kind.
        assert!(!said.as_str().unwrap().lines().last().unwrap().contains(" · "), "{said}");
        let heading = if is_french { "Utilisation par modèle" } else { "Use by model" };
        let gpt = row(&browser, heading, "gpt-5").await;
        let expected = if is_french {
            "gpt-5 | 2 | 3 000 / Entrée en cache : 400 | 12 300 / Raisonnement : 3 000 | 12,96"
        } else {
            "gpt-5 | 2 | 3,000 / Cached input: 400 | 12,300 / Reasoning: 3,000 | 12.96"
        };
        assert_eq!(gpt, expected);
        let pieces = if is_french { "Images : 2" } else { "Images: 2" };
        let own = row(&browser, heading, pieces).await;
        let name = if is_french { "Routes au prix unitaire" } else { "Routes priced by the piece" };
        assert!(own.starts_with(&format!("{name} / {pieces} | 1 | – | – | 8")), "{own}");
        assert_eq!(browser.run("return overflow()").await, 0, "{look:?}");
        let name = format!("{}-{}-{}", look.lang, look.theme, look.width);
        browser.picture(&format!("metered-account-{name}")).await;
        for (at, text) in [
            ("models", heading),
            ("history", if is_french { "Historique" } else { "History" }),
            ("prices", if is_french { "Prix" } else { "Prices" }),
        ] {
            browser.run_with("all('h2').find((node) => node.textContent.includes(arguments[0])).scrollIntoView()", json!([text])).await;
            browser.picture(&format!("metered-account-{at}-{name}")).await;
        }
    }
    browser.assert_quiet(&[gateway.public]).await;
}

#[tokio::test]
async fn the_price_list_has_metered_routes_and_models_with_all_that_changes_their_prices() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = shop(folder.path(), &calls()[..1]).await;
    let browser = Browser::start().await;
    browser.look(LOOKS[0]).await;
    browser.sign_in_by(&gateway.url(&format!("/credits/account#token={}", token("alice")))).await;
    for (says, line) in [
        ("/api/ai/generate", "/api/ai/generate / POST | 5"),
        ("Chat", "Chat / POST | By the model"),
        ("images", "/v1/images/generations / POST | Per call: 0.5 / Images: 4"),
        ("claude", "claude-* / Searches: 1 | 300 | 1,500"),
        ("llama-4", "llama-4 | Free | Free"),
        ("tiny", "tiny | 0.000000001 | –"),
        (
            "gpt-5",
            "gpt-5 / Cached input: 25 / Above 200,000 tokens of input – Input: 500, Output: 1,500 / \
             service_tier = priority – Input: 500, Output: 2,000 | 250 | 1,000",
        ),
    ] {
        assert_eq!(row(&browser, "Prices", says).await, line);
    }
    // Somebody who has not called yet gets a call to copy, of a price that is known.
    browser.open(&gateway.url(&format!("/credits/account#token={}", token("newcomer")))).await;
    browser.click("$('dialog button[value=yes]')").await;
    browser.until("$('.call', '/api/ai/generate') && $('.small', 'It costs 5 credits.')").await;
    browser.assert_quiet(&[gateway.public]).await;
}

#[tokio::test]
async fn a_first_call_to_a_gateway_of_models_names_one_and_says_how_it_is_charged() {
    let folder = tempfile::tempdir().unwrap();
    let upstream = Upstream::canned().await;
    let text = config_on_ports(upstream.address, SHOP);
    let fixed =
        "path = \"/api/ai/generate\"\nmethods = [\"POST\"]\nupstream = \"ai\"\ncredits = 5\n";
    let text = text.replace(&format!("[[routes]]\n{fixed}"), "");
    assert!(!text.contains("credits = 5"));
    let gateway = Process::serve(folder.path(), &text);
    let browser = Browser::start().await;
    browser.look(LOOKS[4]).await;
    browser
        .sign_in_by(&gateway.url(&format!("/credits/account#token={}", token("newcomer"))))
        .await;
    browser
        .until(
            "$('.call', '/v1/chat/completions') && $('.small', 'It is charged by what it uses.')",
        )
        .await;
    browser.until("$('.call', '\"model\":\"gpt-5\"')").await;
    assert_eq!(browser.run("return overflow()").await, 0);
    browser.picture("metered-first-call-375").await;
    browser.assert_quiet(&[gateway.public]).await;
}

#[tokio::test]
async fn an_operator_sees_revenue_own_cost_and_margin_of_each_model() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = shop(folder.path(), &calls()).await;
    let browser = Browser::start().await;
    for look in [LOOKS[0], LOOKS[3], LOOKS[4], LOOKS[2]] {
        browser.look(look).await;
        browser.open("about:blank").await;
        browser.open(&format!("http://{}/admin/ui", gateway.admin)).await;
        browser.until("$('input[type=password]') || $('nav')").await;
        if browser.run("return !$('nav')").await == true {
            browser.fill("$('input[type=password]')", ADMIN_TOKEN).await;
            browser.click("$('form button')").await;
        }
        browser.until("$('nav') && !$('[aria-busy]')").await;
        let is_french = look.lang == "fr";
        let heading = if is_french { "Modèles, 24 heures" } else { "Models, 24 hours" };
        let (gpt, claude) = if is_french {
            (
                "gpt-5 | 2 | 3 000 / Entrée en cache : 400 | 12 300 / Raisonnement : 3 000 | 12,96 | 2,4624 € | 0,1122 € | 2 094 %",
                "claude-* / Recherches : 3 | 1 | – | 11 000 | 16,5 | 3,135 € | 0,1419 € / Sans coût : Recherches | 2 109 %",
            )
        } else {
            (
                "gpt-5 | 2 | 3,000 / Cached input: 400 | 12,300 / Reasoning: 3,000 | 12.96 | €2.4624 | €0.1122 | 2,094%",
                "claude-* / Searches: 3 | 1 | – | 11,000 | 16.5 | €3.135 | €0.1419 / Without cost: Searches | 2,109%",
            )
        };
        assert_eq!(row(&browser, heading, "gpt-5").await, gpt);
        assert_eq!(row(&browser, heading, "claude").await, claude);
        // A price by usage is told in the reader's language.
        let margins = if is_french { "Marge par route" } else { "Margin per route" };
        let priced = if is_french { "| Selon le modèle |" } else { "| By the model |" };
        let chat = row(&browser, margins, "Chat").await;
        assert!(chat.contains(priced), "{chat}");
        let images = row(&browser, margins, "images").await;
        let priced = if is_french {
            "| Par appel : 0,5 / Images : 4 |"
        } else {
            "| Per call: 0.5 / Images: 4 |"
        };
        assert!(images.contains(priced), "{images}");
        assert_eq!(browser.run("return overflow()").await, 0, "{look:?}");
        let name = format!("{}-{}-{}", look.lang, look.theme, look.width);
        browser
            .run("all('h2').find((node) => /Mod[eè]l/.test(node.textContent)).scrollIntoView()")
            .await;
        browser.click("$('summary', ': 4') ?? $('summary', ' : 4')").await;
        browser
            .until("$('details[open] tbody tr', 'llama-4') && $('details[open] tbody tr', 'tiny')")
            .await;
        browser.picture(&format!("metered-admin-{name}")).await;
        browser.run("location.hash = 'accounts/alice'").await;
        browser.until("!$('[aria-busy]') && $('tbody tr', 'GPT-5')").await;
        browser.run("all('h2').at(-1).scrollIntoView()").await;
        browser.picture(&format!("metered-admin-account-{name}")).await;
        assert_eq!(browser.run("return overflow()").await, 0, "{look:?}");
    }
    browser.assert_quiet(&[gateway.admin]).await;
}
