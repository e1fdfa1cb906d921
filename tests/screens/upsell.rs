//! The page of an app, for an account that has little left, and for one that has nothing.

use serde_json::json;

use crate::app::App;
use crate::browser::{Browser, LOOKS};
use crate::seller::{PACKS, Seller};
use crate::support::token;

const DEAR: &str = r#"
[[routes]]
path = "/dear"
upstream = "ai"
credits = 30
"#;

/// An app's page with a balance and an upsell, for alice.
async fn page(app: &App, seller: &Seller) {
    let gateway = seller.process.url("");
    let signed = token("alice");
    app.put_body(
        "/",
        &format!(
            r#"<meta name="viewport" content="width=device-width">
<script type="module">
  import {{ configure, client }} from '{gateway}/credits/ui/farebox.js';
  configure({{ token: () => '{signed}' }});
  window.call = (path) => client().fetch(new URL(path, client().base), {{ method: 'POST' }}).then(({{ status }}) => status);
</script>
<p><farebox-balance inline show-buy-button></farebox-balance></p><farebox-packs></farebox-packs><farebox-upsell></farebox-upsell>"#
        ),
    );
}

#[tokio::test]
async fn an_upsell_that_is_open_tells_of_the_call_that_is_refused_meanwhile() {
    let app = App::start().await;
    let more = format!("{PACKS}{DEAR}[api]\ncors_origins = [\"{}\"]\n", app.origin());
    let seller = Seller::with(&more, None).await;
    seller.grant("alice", 23, "welcome").await;
    page(&app, &seller).await;
    let browser = Browser::start().await;
    browser.look(LOOKS[0]).await;
    browser.open(&app.origin()).await;
    browser.until("credits() === 23").await;
    assert_eq!(browser.run("return call('/api/ai/generate')").await, 200);
    browser
        .until("$('dialog', 'Your credits are running low') && $('dialog', '18 credits are left.')")
        .await;
    assert_eq!(browser.run("return call('/dear')").await, 402);
    browser.until("$('dialog h2', 'Not enough credits') && $('dialog', 'This takes 30 credits. 18 credits are left.')").await;
    // Credits come meanwhile, as if bought in another tab. The dialog then asks only for the rest.
    seller.grant("alice", 5, "more").await;
    browser.until("$('dialog', 'This takes 30 credits. 23 credits are left.')").await;
    // The same holds for a dialog that the app opened.
    browser.click("$('dialog [part~=later]')").await;
    browser.until("!$('dialog')").await;
    let manual = "const upsell = document.querySelector('farebox-upsell'); \
        upsell.setAttribute('manual', ''); upsell.show()";
    browser.run(manual).await;
    browser.until("$('dialog h2', 'Buy credits')").await;
    assert_eq!(browser.run("return call('/dear')").await, 402);
    browser.until("$('dialog h2', 'Not enough credits')").await;
    browser.click("$('dialog [part~=later]')").await;
    browser.until("!$('dialog')").await;
    assert_eq!(browser.run("return call('/dear')").await, 402);
    browser.until("credits() === 23").await;
    assert_eq!(browser.run("return !!$('dialog')").await, false, "manual is not opened by it");
    browser.assert_quiet(&[app.address, seller.process.public]).await;
}

#[tokio::test]
async fn who_opens_the_upsell_stands_on_the_pack_to_recommend() {
    let app = App::start().await;
    let seller = Seller::open(&app.origin()).await;
    seller.grant("alice", 30, "welcome").await;
    page(&app, &seller).await;
    let browser = Browser::start().await;
    browser.open(&app.origin()).await;
    browser.until("credits() === 30 && !$('.bone')").await;
    browser.click("$('[part~=button]', 'Buy credits')").await;
    browser.until("focus().closest('.best') && focus().ariaLabel.startsWith('Buy Pack 500')").await;
    browser.click("$('dialog [part~=later]')").await;
    browser.until("!$('dialog')").await;
    // Opened again before the browser tells of the close, the packs are still offered.
    let anew = "const upsell = document.querySelector('farebox-upsell'); \
        upsell.show(); upsell.close(); upsell.show(); return new Promise((then) => setTimeout(then, 100))";
    browser.run(anew).await;
    browser.until("$('dialog') && all('[part~=buy]').length === 6 && !$('.bone')").await;
    browser.click("$('dialog [part~=later]')").await;
    browser.until("!$('dialog')").await;
    // The focus stays where the visitor put it while the packs were read.
    let elsewhere = "const upsell = document.querySelector('farebox-upsell'); upsell.show(); \
        upsell.shadowRoot.querySelector('[part~=later]').focus()";
    browser.run(elsewhere).await;
    browser.until("all('[part~=buy]').length === 6 && !$('.bone')").await;
    assert_eq!(browser.run("return focus().textContent").await, "Not now");
}

#[tokio::test]
async fn a_badge_says_the_sellers_words_and_else_nothing_of_prices() {
    let app = App::start().await;
    // Pack 500 is the one to recommend, and Pack 1000 is cheaper for each credit.
    let badged =
        PACKS.replace("name = \"Pack 100\"", "name = \"Pack 100\"\nbadge = \"Zum Probieren <i>\"");
    let more = format!("{badged}[api]\ncors_origins = [\"{}\"]\n", app.origin());
    let seller = Seller::with(&more, None).await;
    seller.grant("alice", 100, "welcome").await;
    page(&app, &seller).await;
    let browser = Browser::start().await;
    for (look, said) in [(LOOKS[0], "Recommended"), (LOOKS[2], "Conseillé")] {
        browser.look(look).await;
        browser.open(&app.origin()).await;
        browser.run_with("document.documentElement.lang = arguments[0]", json!([look.lang])).await;
        browser
            .until(&format!(
                "$('[part~=best]', '{said}') && all('[part~=pack] [part~=badge]').length === 2"
            ))
            .await;
        browser.until("$('[part~=pack] [part~=badge]').textContent === 'Zum Probieren <i>'").await;
        let price = "return /best value|meilleur prix/i.test(words())";
        assert_eq!(browser.run(price).await, false);
        browser.picture(&format!("badges-{}", look.width)).await;
    }
}

#[tokio::test]
async fn who_has_nothing_left_reads_that_and_not_that_it_runs_low() {
    let app = App::start().await;
    let seller = Seller::open(&app.origin()).await;
    seller.grant("alice", 25, "welcome").await;
    page(&app, &seller).await;
    let browser = Browser::start().await;
    browser.look(LOOKS[0]).await;
    browser.open(&app.origin()).await;
    browser.until("credits() === 25 && !$('farebox-balance [part~=badge]')").await;
    for left in [20, 15] {
        assert_eq!(browser.run("return call('/api/ai/generate')").await, 200);
        browser.until(&format!("credits() === {left}")).await;
    }
    browser.until("$('dialog', 'Your credits are running low')").await;
    browser.until("$('[part=badge]', 'Running low')").await;
    for left in [10, 5, 0] {
        assert_eq!(browser.run("return call('/api/ai/generate')").await, 200);
        browser.until(&format!("credits() === {left}")).await;
    }
    browser
        .until("$('[part=badge]', 'None left') && $('dialog h2', 'You have no credits left')")
        .await;
    assert_eq!(browser.run("return /running low/i.test(words())").await, false);
}
