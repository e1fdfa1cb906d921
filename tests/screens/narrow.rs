//! The operator's page in a narrow window, in French, and in forced colours; and its search.

use http::Method;
use serde_json::{Value, json};

use crate::browser::{Browser, LOOKS, Look};
use crate::seller::{PACKS, Seller};
use crate::support::ADMIN_TOKEN;

const ROUTES: &str = r#"
[[routes]]
path = "/api/3d/render-highres"
methods = ["POST"]
upstream = "ai"
credits = 8
cost = "0.0025 EUR"
"#;

async fn sign_in(browser: &Browser, seller: &Seller) {
    browser.open(&seller.admin()).await;
    browser.until("$('input[type=password]') || $('nav')").await;
    if browser.run("return !$('nav')").await == true {
        browser.fill("$('input[type=password]')", ADMIN_TOKEN).await;
        browser.click("$('form button')").await;
    }
    browser.until("$('nav') && !$('[aria-busy]')").await;
}

/// A script for a view's table. It returns whether the page overflows, whether the table has rows,
/// and the texts that are outside of the window.
const WITHIN: &str = "const outside = all('tbody td, tbody button').filter((node) => { \
    const { left, right, width } = node.getBoundingClientRect(); \
    return !width || left < 0 || right > innerWidth; }); \
    return [overflow(), all('tbody td').length > 0, outside.map((node) => node.textContent)]";

#[tokio::test]
async fn on_a_phone_an_operator_sees_every_amount_and_state_and_can_replay() {
    let seller = Seller::with(&format!("{PACKS}{ROUTES}"), None).await;
    seller.grant("alice", 1500, "a gift").await;
    assert_eq!(seller.process.post("alice", "/api/3d/render-highres").await.status, 200);
    seller.sell("alice").await;
    let browser = Browser::start().await;
    for look in [LOOKS[4], LOOKS[7]] {
        assert_eq!(look.width, 375);
        browser.look(look).await;
        sign_in(&browser, &seller).await;
        for view in ["overview", "accounts", "accounts/alice", "entries", "stripe"] {
            browser.run_with("location.hash = arguments[0]", json!([view])).await;
            let title = view.split('/').next().unwrap();
            browser.until(&format!("$('nav a[aria-current]')?.hash === '#{title}' && !$('[aria-busy]') && $('tbody td')")).await;
            assert_eq!(browser.run(WITHIN).await, json!([0, true, []]), "{view} {look:?}");
            browser.picture(&format!("narrow-{}-{}", view.replace('/', "-"), look.lang)).await;
        }
        // Each figure has its column's name beside it, and it is still a table for screen readers.
        let said = "return getComputedStyle($('tbody td'), '::before').content";
        let first = if look.lang == "fr" { "\"Quand\"" } else { "\"When\"" };
        assert_eq!(browser.run(said).await, first);
        let roles =
            "return [$('table'), $('tbody tr'), $('tbody td')].map((node) => node.role).join()";
        assert_eq!(browser.run(roles).await, "table,row,cell");
        let (button, state) =
            if look.lang == "fr" { ("Rejouer", "appliqué") } else { ("Replay", "applied") };
        let row = "$('tbody tr', 'checkout.session.completed')";
        browser
            .click(&format!(
                "[{row}.querySelector('button')].find((node) => node.textContent === '{button}')"
            ))
            .await;
        browser.until(&format!("$('tbody [role=status] .told', '{state}')")).await;
    }
    browser.assert_quiet(&[seller.process.admin]).await;
}

#[tokio::test]
async fn figures_are_written_as_the_operators_language_writes_them() {
    let seller = Seller::with(&format!("{PACKS}{ROUTES}"), None).await;
    let browser = Browser::start().await;
    let plain = "(text) => text.replace(/[\\u00a0\\u202f]/g, ' ')";
    for (look, expected) in
        [(LOOKS[0], ["€0.0025", "60,700%"]), (LOOKS[3], ["0,0025 €", "60 700 %"])]
    {
        browser.look(look).await;
        sign_in(&browser, &seller).await;
        let row = browser
            .until("$('tbody tr', 'render-highres') && $('tbody tr', 'render-highres').textContent")
            .await;
        let row = browser.run_with(&format!("return ({plain})(arguments[0])"), json!([row])).await;
        for figure in expected {
            assert!(row.as_str().unwrap().contains(figure), "{figure}: {row}");
        }
    }
}

#[tokio::test]
async fn forced_colours_leave_the_charts_legend() {
    const SECOND: &str = "[[routes]]\npath = \"/b\"\nupstream = \"ai\"\ncredits = 1\n";
    let seller = Seller::with(&format!("{PACKS}{SECOND}"), None).await;
    seller.grant("alice", 100, "a gift").await;
    for route in ["/api/ai/generate", "/b"] {
        assert_eq!(seller.process.post("alice", route).await.status, 200);
    }
    let browser = Browser::start().await;
    for theme in ["light", "dark"] {
        browser.look(Look { theme, ..LOOKS[0] }).await;
        let forced = json!({ "features": [
            { "name": "forced-colors", "value": "active" },
            { "name": "prefers-color-scheme", "value": theme },
        ] });
        browser.devtools("Emulation.setEmulatedMedia", forced).await;
        browser.open("about:blank").await;
        browser.open(&seller.link("alice")).await;
        if theme == "light" {
            browser.click("$('dialog button[value=yes]')").await;
        }
        browser.until("all('.legend li').length === 2 && all('rect').length === 2").await;
        let colours = "const of = (node, part, name) => getComputedStyle(node, part)[name]; \
            return [matchMedia('(forced-colors: active)').matches, \
            all('.legend li').map((node) => of(node, '::before', 'backgroundColor')), \
            all('rect').map((node) => of(node, null, 'fill'))]";
        let seen = browser.run(colours).await;
        assert_eq!(seen[0], true);
        assert_eq!(seen[1], seen[2], "{theme}: a legend has its bars' colours");
        assert_ne!(seen[1][0], seen[1][1], "{theme}");
        browser.picture(&format!("forced-{theme}")).await;
    }
}

#[tokio::test]
async fn a_search_finds_a_part_of_a_name() {
    let seller = Seller::with("", None).await;
    for account in ["lumen-studio", "studio-7", "Workshop-STUDIO", "anna", "100%"] {
        seller.grant(account, 5, "a gift").await;
    }
    let browser = Browser::start().await;
    browser.look(LOOKS[4]).await;
    sign_in(&browser, &seller).await;
    browser.run("location.hash = 'accounts'").await;
    browser.until("all('tbody tr').length === 5").await;
    browser.fill("$('input[type=search]')", "studio").await;
    browser.click("$('form button')").await;
    // Accounts that begin with the text come first.
    let names = "all('tbody a').map((link) => link.textContent).join()";
    browser.until(&format!("{names} === 'studio-7,Workshop-STUDIO,lumen-studio'")).await;
    browser.picture("narrow-search").await;
    let found = async |query: &str| -> Value {
        seller
            .process
            .admin(Method::GET, &format!("/admin/accounts?search={query}"), "")
            .await
            .expect(200)
    };
    // A page at a time, each account once.
    let mut seen = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = found(&format!("studio&limit=1&cursor={cursor}")).await;
        for account in page["accounts"].as_array().unwrap() {
            seen.push(account["account"].as_str().unwrap().to_owned());
        }
        let Some(next) = page["next_cursor"].as_str() else { break };
        cursor = percent_encoding::utf8_percent_encode(next, percent_encoding::NON_ALPHANUMERIC)
            .to_string();
    }
    assert_eq!(seen, ["studio-7", "Workshop-STUDIO", "lumen-studio"]);
    for (text, names) in [("%25", vec!["100%"]), ("_", vec![]), ("NN", vec!["anna"])] {
        let page = found(text).await;
        let page: Vec<&str> = page["accounts"]
            .as_array()
            .unwrap()
            .iter()
            .map(|of| of["account"].as_str().unwrap())
            .collect();
        assert_eq!(page, names, "{text}");
    }
}
