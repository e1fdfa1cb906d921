//! Text from outside is shown as text, and never becomes a part of the page.

use http::Method;
use serde_json::json;

use crate::app::App;
use crate::browser::{Browser, LOOKS};
use crate::http::Answer;
use crate::seller::Seller;
use crate::support::{ADMIN_TOKEN, token};

/// A script that runs wherever it is taken for markup.
const MARKUP: &str = "<img src=x onerror=window.__xss=1><script>window.__xss=1</script>";

/// [`MARKUP`] without spaces, as an account id cannot have any.
fn account() -> String {
    let start = "\"'><svg/onload=window.__xss=1><img/src=x/onerror=window.__xss=1>{{7*7}}";
    format!("{start}{}", "W".repeat(255 - start.len()))
}

/// Markup, a change of direction, and ten thousand bytes without a place to break.
fn long() -> String {
    format!("{MARKUP}\u{202E}desrever\u{2066}{}", "W".repeat(10_000))
}

/// Expects that nothing ran, and that the page is as wide as the window.
async fn expect_text(browser: &Browser, shown: &str) {
    browser.until(&format!("words().includes({})", json!(shown))).await;
    let (wide, ran) = ("overflow()", "window.__xss ?? null");
    let found = browser.run(&format!("return [{wide}, {ran}]")).await;
    assert_eq!(found, json!([0, null]), "{}", browser.run("return location.href").await);
    // A name of ten thousand letters is cut, so the page does not grow with it.
    let tall = browser.run("return document.documentElement.scrollHeight").await;
    assert!(tall.as_u64().unwrap() < 6000, "{tall}");
}

#[tokio::test]
async fn names_full_of_markup_are_text_and_break_nothing() {
    let name = json!(long());
    let route = format!("/api/%3Cimg%20src=x%20onerror=window.__xss=1%3E/{}", "W".repeat(4000));
    let app = App::start().await;
    let more = format!(
        "[[packs]]\nid = \"p\"\nname = {name}\ncredits = 100\nprice = \"19.00 EUR\"\n\
         [[routes]]\npath = \"{route}\"\nupstream = \"ai\"\ncredits = 5\ncost = \"0.04 EUR\"\n\
         [api]\ncors_origins = [\"{}\"]\n",
        app.origin()
    );
    let seller = Seller::with(&more, None).await;
    let account = account();
    seller.grant(&account, 23, &long()).await;
    assert_eq!(seller.process.post(&account, &route).await.status, 200);
    let browser = Browser::start().await;
    browser.look(LOOKS[1]).await;
    assert_eq!(LOOKS[1].width, 375);

    // A link's text is no more to be trusted.
    browser.open(&seller.process.url(&format!("/credits/account#token={MARKUP}"))).await;
    browser.until("$('input[type=password]') && $('.failure')").await;
    expect_text(&browser, "Sign in").await;
    browser.open("about:blank").await;
    browser.sign_in_by(&seller.link(&account)).await;
    browser
        .until("credits() === 18 && $('[part~=pack]') && all('[part~=entry]').length === 2")
        .await;
    let key: String = long().chars().take(100).collect();
    let made = seller.process.client.post(seller.process.url("/credits/keys"));
    let made = made.bearer_auth(token(&account)).body(json!({ "name": key }).to_string());
    Answer::of(made).await.expect(201);
    browser.open(&seller.process.url("/credits/account?paid=%3Cimg%20src=x%3E")).await;
    browser.until("$('button[aria-label]', 'Revoke') && $('svg') && !$('.bone')").await;
    expect_text(&browser, "\"'><svg/onload=window.__xss=1>").await;
    expect_text(&browser, MARKUP).await;
    browser.picture("hostile-account").await;
    browser.click("$('button[aria-label]', 'Revoke')").await;
    browser.until("$('dialog')").await;
    expect_text(&browser, MARKUP).await;
    browser.click("$('dialog button', 'Cancel')").await;
    browser.run("document.body.append(document.createElement('farebox-upsell'))").await;
    browser.run("document.querySelector('farebox-upsell').show()").await;
    browser.until("$('dialog farebox-packs') && !$('.bone')").await;
    let wide = "const { right } = $('dialog').getBoundingClientRect(); return [right <= 375, \
        $('dialog').scrollWidth <= $('dialog').clientWidth, window.__xss ?? null]";
    assert_eq!(browser.run(wide).await, json!([true, true, null]));
    browser.picture("hostile-upsell").await;
    let servers = [seller.process.public, seller.process.admin];
    browser.assert_quiet(&servers).await;

    browser.open(&seller.admin()).await;
    browser.fill("$('input[type=password]')", ADMIN_TOKEN).await;
    browser.click("$('form button')").await;
    browser.until("$('nav') && !$('[aria-busy]')").await;
    expect_text(&browser, "%3Cimg%20src=x").await;
    browser.picture("hostile-admin").await;
    for view in ["accounts", "entries", "holds", "stripe", MARKUP] {
        browser.run_with("location.hash = arguments[0]", json!([view])).await;
        browser.until("$('nav') && !$('[aria-busy]') && !$('.bone')").await;
        expect_text(&browser, "Farebox admin").await;
    }
    browser.run("location.hash = 'accounts'").await;
    browser.click("$('tbody a', 'onload')").await;
    browser.until("$('dd', '18') && $('input[name=reason]')").await;
    expect_text(&browser, MARKUP).await;
    browser.picture("hostile-admin-account").await;
    browser.assert_quiet(&servers).await;

    // The same text is shown on a page whose own policy would not stop a script.
    let gateway = seller.process.url("");
    let signed = token(&account);
    app.put_body(
        "/",
        &format!(
            "<meta name=viewport content='width=device-width'><script type=module>\
             import {{ configure }} from '{gateway}/credits/ui/farebox.js';\
             configure({{ token: () => '{signed}' }})</script><farebox-balance></farebox-balance>\
             <farebox-packs></farebox-packs><farebox-history></farebox-history>"
        ),
    );
    browser.open(&app.origin()).await;
    browser
        .until("credits() === 18 && $('[part~=pack]') && all('[part~=entry]').length === 2")
        .await;
    expect_text(&browser, MARKUP).await;
    let admin = seller.process.admin(Method::GET, "/admin/reconcile", "").await.expect(200);
    assert_eq!(admin["clean"], true);
}
