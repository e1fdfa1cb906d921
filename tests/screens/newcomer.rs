//! The first minutes of somebody who was given a link.

use serde_json::json;

use crate::browser::{Browser, LOOKS, Look};
use crate::demo::Demo;

/// Words of both languages.
fn word(look: Look, en: &'static str, fr: &'static str) -> &'static str {
    if look.lang == "fr" { fr } else { en }
}

/// Pays on the sandbox's page, which leads back.
async fn pay(browser: &Browser) {
    browser.until("location.pathname.includes('/sandbox/checkout/')").await;
    browser.click("$('form[action$=pay] button')").await;
    browser.until("location.pathname.endsWith('/account')").await;
}

/// A call by the page's own fetch; its status.
async fn call(browser: &Browser, token: &str) -> u64 {
    let script = "return fetch('/api/ai/generate', { method: 'POST', headers: { authorization: \
        `Bearer ${arguments[0]}` } }).then((answer) => answer.status)";
    browser.run_with(script, json!([token])).await.as_u64().unwrap()
}

#[tokio::test]
async fn a_newcomer_signs_in_buys_spends_runs_out_and_buys_again_in_every_look() {
    let demo = Demo::start();
    let browser = Browser::start().await;
    let mut balance = 50;
    for look in LOOKS {
        let name = format!("{}-{}-{}", look.lang, look.theme, look.width);
        browser.look(look).await;
        // No cookie is left, so this browser is a stranger to the gateway.
        browser.devtools("Network.clearBrowserCookies", json!({})).await;
        browser.open("about:blank").await;
        browser.open(&demo.process.url("/credits/account")).await;
        browser.until("$('form input[type=password]')").await;
        assert_eq!(browser.run("return document.documentElement.lang").await, look.lang);
        browser.picture(&format!("signed-out-{name}")).await;
        browser.run("localStorage.clear(); sessionStorage.clear()").await;
        // From the page itself: the address differs in its fragment only.
        browser.sign_in_by(&demo.link).await;
        browser.until(&format!("credits() === {balance}")).await;
        // The secret leaves the address, and nothing keeps it where scripts could read it.
        let kept = "return location.href + document.cookie + JSON.stringify([{ ...localStorage }, \
            { ...sessionStorage }])";
        let kept = browser.run(kept).await;
        assert!(!kept.as_str().unwrap().contains(demo.token()), "{kept}");
        let text = word(look, "Your credits", "Vos crédits");
        browser.until(&format!("$('h1', '{text}') && !$('.bone')")).await;

        let buy = word(look, "Buy Pack 100 for €19.00", "Acheter Pack 100 pour 19,00\u{a0}€");
        browser.click(&format!("$('farebox-packs') && $('[part~=buy]', '{buy}')")).await;
        pay(&browser).await;
        balance += 100;
        browser.until(&format!("credits() === {balance}")).await;
        let thanks = word(look, "100 credits were added", "100 crédits ont été ajoutés");
        browser.until(&format!("$('.note', '{thanks}')")).await;
        browser.until("!location.search && !$('.bone')").await;
        browser.picture(&format!("account-{name}")).await;
        // The way out ends the head's line, and a key is recognised by one line.
        let gap = "const right = (node) => Math.round(node.getBoundingClientRect().right); \
            return right($('header')) - right($('header button'))";
        assert_eq!(browser.run(gap).await, 0, "{look:?}");
        let lines = "const range = document.createRange(); \
            range.selectNodeContents($('.lines .code')); return range.getClientRects().length";
        assert_eq!(browser.run(lines).await, 1, "{look:?}");

        // From here on without a reload: the page keeps this.
        browser.run("window.same = true").await;
        // The page gets the element that an app's page would have.
        browser.run("document.body.append(document.createElement('farebox-upsell'))").await;
        assert_eq!(call(&browser, demo.token()).await, 200);
        balance -= 5;
        browser.until(&format!("credits() === {balance}")).await;
        while balance >= 5 {
            assert_eq!(demo.call().await, 200);
            balance -= 5;
        }
        browser.until(&format!("credits() === {balance} && $('[part~=badge]')")).await;
        // The upsell opens once when the credits get low, shows them as they change, and opens again when a call is
        // refused.
        let low = word(look, "You have no credits left", "Vous n’avez plus de crédits");
        browser.until(&format!("$('dialog', '{low}')")).await;
        browser.click("$('dialog [part~=later]')").await;
        browser.until("!$('dialog')").await;
        assert_eq!(call(&browser, demo.token()).await, 402);
        let refused = word(look, "Not enough credits", "Pas assez de crédits");
        browser.until(&format!("$('dialog', '{refused}') && $('dialog farebox-packs')")).await;
        browser.until("!$('.bone')").await;
        assert_eq!(browser.run("return [window.same, overflow()]").await, json!([true, 0]));
        browser.picture(&format!("upsell-{name}")).await;

        let inside = "all('[part~=buy]').find((button) => button.getRootNode().host.getRootNode()\
            .host?.localName === 'farebox-upsell' && /Pack 500/.test(button.ariaLabel))";
        browser.click(inside).await;
        pay(&browser).await;
        balance += 500;
        browser.until(&format!("credits() === {balance}")).await;
        browser.until("!location.search && !$('.bone')").await;
        assert_eq!(browser.run("return overflow()").await, 0);
        // Each look of the page begins with the credits that the one before left, so most of them
        // are used up first.
        while balance > 150 {
            let body =
                json!({ "credits": format!("-{}", balance - 50), "id": name, "reason": name });
            demo.ask_admin(http::Method::POST, "accounts/demo/adjustments", body).await;
            balance = 50;
        }
        browser.until(&format!("credits() === {balance}")).await;
    }
    browser.assert_quiet(&[demo.process.public]).await;
}
