//! axe-core finds nothing on any page, in any state, in any look.

use http::Method;
use serde_json::{Value, json};

use crate::app::{App, node_modules};
use crate::browser::{Browser, LOOKS};
use crate::demo::Demo;
use crate::seller::{PACKS, Seller};
use crate::support::ADMIN_TOKEN;

/// Looks at the page as it is now, in both themes and at both widths.
async fn check(browser: &Browser, state: &str) {
    check_in(browser, state, "en").await;
}

/// Like [`check`], for a page in French.
async fn check_french(browser: &Browser, state: &str) {
    browser.until("document.documentElement.lang === 'fr' && !$('.bone')").await;
    check_in(browser, &format!("{state}-fr"), "fr").await;
}

async fn check_in(browser: &Browser, state: &str, lang: &str) {
    let axe = std::fs::read_to_string(node_modules().join("axe-core/axe.min.js")).unwrap();
    browser.run(&format!("if (!window.axe) {{ {axe} }}")).await;
    for look in LOOKS.iter().filter(|look| look.lang == lang) {
        browser.look(*look).await;
        let script = "return axe.run(document, { resultTypes: ['violations'] }).then((found) => \
            found.violations.map(({ id, help, nodes }) => [id, help, nodes.slice(0, 3).map((node) => \
            [node.target, node.html.slice(0, 200), node.failureSummary])]))";
        let found = browser.run(script).await;
        assert_eq!(found, json!([]), "{state}, {look:?}: {found:#}");
        assert_eq!(browser.run("return overflow()").await, 0, "{state}, {look:?}");
        browser.picture(&format!("{state}-{}-{}", look.theme, look.width)).await;
    }
}

/// Chooses a language in the page's head.
async fn choose(browser: &Browser, lang: &str) {
    let script = "const select = $('header select'); select.value = arguments[0]; \
        select.dispatchEvent(new Event('change'))";
    browser.run_with(script, json!([lang])).await;
    let shown = format!("document.documentElement.lang === '{lang}' && $('header select')");
    browser.until(&format!("{shown}?.value === '{lang}'")).await;
}

#[tokio::test]
async fn nothing_is_wrong_with_the_account_page_in_any_state() {
    let seller = Seller::with(PACKS, None).await;
    let browser = Browser::start().await;
    browser.open(&seller.process.url("/credits/account")).await;
    browser.until("$('input[type=password]')").await;
    check(&browser, "axe-signed-out").await;
    browser.fill("$('input[type=password]')", "fb_nobodys").await;
    browser.click("$('form button')").await;
    browser.until("$('.failure')").await;
    check(&browser, "axe-signed-out-wrong").await;

    browser.sign_in_by(&seller.link("newcomer")).await;
    browser.until("credits() === 0 && all('[part~=pack]').length === 3 && !$('.bone')").await;
    check(&browser, "axe-empty").await;
    seller.grant("newcomer", 500, "a first gift").await;
    for _ in 0..3 {
        seller.process.post("newcomer", "/api/ai/generate").await;
    }
    browser.until("credits() === 485 && all('[part~=entry]').length === 4").await;
    browser.until("$('svg') && !$('.bone')").await;
    browser.fill("$('input[name=name]')", "laptop").await;
    browser.click("$('form button', 'Make a key')").await;
    browser.until("$('input.code')").await;
    check(&browser, "axe-loaded").await;
    choose(&browser, "fr").await;
    let loaded = "all('[part~=pack]').length === 3 && all('[part~=entry]').length === 4";
    browser.until(&format!("{loaded} && $('svg') && $('h1', 'Vos crédits')")).await;
    check_french(&browser, "axe-loaded").await;
    choose(&browser, "en").await;
    browser.until(&format!("{loaded} && $('svg') && !$('.bone')")).await;
    browser.click("$('summary')").await;
    check(&browser, "axe-chart-as-table").await;
    browser.click("$('button[aria-label]', 'Revoke laptop')").await;
    browser.until("$('dialog')").await;
    check(&browser, "axe-asking").await;
    browser.click("$('dialog button', 'Cancel')").await;
    browser.run("document.body.append(document.createElement('farebox-upsell'))").await;
    browser.run("document.querySelector('farebox-upsell').show()").await;
    browser.until("$('dialog farebox-packs') && !$('.bone')").await;
    check(&browser, "axe-upsell").await;

    // A part that cannot be loaded is announced.
    browser.devtools("Network.enable", json!({})).await;
    for (state, urls) in [
        ("axe-some-fails", json!(["*/credits/packs", "*/credits/transactions*", "*/credits/keys"])),
        ("axe-all-fails", json!(["*/credits/balance", "*/credits/packs", "*/credits/usage*"])),
    ] {
        browser.devtools("Network.setBlockedURLs", json!({ "urls": urls })).await;
        browser.open(&seller.process.url("/credits/account")).await;
        browser.until("$('.failure') && !$('.bone')").await;
        check(&browser, state).await;
    }
}

#[tokio::test]
async fn nothing_is_wrong_with_the_operators_page_in_any_view() {
    let seller = Seller::with(PACKS, None).await;
    let browser = Browser::start().await;
    browser.open(&seller.admin()).await;
    browser.until("$('input[type=password]')").await;
    check(&browser, "axe-admin-signed-out").await;
    browser.fill("$('input[type=password]')", "not-the-token").await;
    browser.click("$('form button')").await;
    browser.until("$('.failure')").await;
    check(&browser, "axe-admin-wrong").await;
    browser.fill("$('input[type=password]')", ADMIN_TOKEN).await;
    browser.click("$('form button')").await;
    browser.until("$('nav') && !$('[aria-busy]')").await;
    check(&browser, "axe-admin-empty").await;
    seller.grant("alice", 500, "a gift").await;
    seller.process.post("alice", "/api/ai/generate").await;
    let views = ["overview", "accounts", "accounts/alice", "entries", "holds", "stripe"];
    for view in views {
        browser.run_with("location.hash = arguments[0]", json!([view])).await;
        browser.until("$('nav') && !$('[aria-busy]') && !$('.bone')").await;
        check(&browser, &format!("axe-admin-{}", view.replace('/', "-"))).await;
    }
    choose(&browser, "fr").await;
    for view in views {
        browser.run_with("location.hash = arguments[0]", json!([view])).await;
        browser.until("$('nav', 'Comptes') && !$('[aria-busy]')").await;
        check_french(&browser, &format!("axe-admin-{}", view.replace('/', "-"))).await;
    }
    choose(&browser, "en").await;
    browser.run("location.hash = 'accounts/alice'").await;
    browser.until("$('nav', 'Accounts') && !$('[aria-busy]')").await;
    browser.fill("all('input[name=credits]')[1]", "-5").await;
    browser.fill("all('input[name=reason]')[1]", "a mistake").await;
    browser.click("$('button', 'Correct the balance')").await;
    browser.until("$('dialog')").await;
    check(&browser, "axe-admin-asking").await;
    browser.click("$('dialog button', 'Take')").await;
    browser.until("$('.done', '490')").await;
    let account: Value =
        seller.process.admin(Method::GET, "/admin/accounts/alice", "").await.json();
    assert_eq!(account["balance"], 490, "{account}");
}

#[tokio::test]
async fn nothing_is_wrong_with_the_widgets_in_an_apps_page() {
    let app = App::start().await;
    let seller = Seller::open(&app.origin()).await;
    seller.grant("alice", 23, "welcome").await;
    let gateway = seller.process.url("");
    let token = crate::support::token("alice");
    app.put_body(
        "/",
        &format!(
            r#"<meta name="viewport" content="width=device-width"><meta name="color-scheme" content="light dark">
<style>body {{ background: Canvas }}</style>
<script type="module">
  import {{ configure }} from '{gateway}/credits/ui/farebox.js';
  configure({{ token: () => '{token}' }});
</script>
<main><h1>An app</h1><p>You have <farebox-balance inline show-buy-button></farebox-balance></p>
<farebox-balance show-buy-button></farebox-balance>
<farebox-packs></farebox-packs><farebox-history limit="5"></farebox-history></main>"#
        ),
    );
    let browser = Browser::start().await;
    browser.open(&app.origin()).await;
    browser.until("credits() === 23 && all('[part~=pack]').length === 3 && !$('.bone')").await;
    check(&browser, "axe-widgets").await;
    browser.run("document.documentElement.lang = 'fr'").await;
    browser.until("all('[part~=button]')[0].textContent === 'Acheter des crédits'").await;
    check_french(&browser, "axe-widgets").await;
    browser.run("document.documentElement.lang = 'en'").await;
    browser.click("all('[part~=button]')[0]").await;
    browser.until("$('dialog farebox-packs') && !$('.bone')").await;
    check(&browser, "axe-widgets-upsell").await;
}

/// The operator's page is in English, whatever the account page speaks.
#[tokio::test]
async fn nothing_is_wrong_with_the_demos_checkout_page() {
    let demo = Demo::start();
    let browser = Browser::start().await;
    browser.sign_in_by(&demo.link).await;
    for (button, left) in [("form[action$=cancel] button", "Cancelled"), ("form button", "Paid")] {
        browser.open(&demo.process.url("/credits/account")).await;
        browser.click("$('farebox-packs') && $('[part~=buy]')").await;
        browser.until("location.pathname.includes('/sandbox/checkout/') && $('form')").await;
        check(&browser, "axe-sandbox").await;
        let address = browser.run("return location.href").await;
        browser.click(&format!("$('{button}')")).await;
        browser.until("location.pathname.endsWith('/account')").await;
        browser.open(address.as_str().unwrap()).await;
        browser.until(&format!("$('.done', '{left}')")).await;
        check(&browser, &format!("axe-sandbox-{}", left.to_lowercase())).await;
    }
}
