//! The account page as a seller's own: whose it is, a first call, and what was used, in words.

use std::process::Command;

use http::Method;
use serde_json::{Value, json};

use crate::browser::{Browser, LOOKS, Look};
use crate::seller::{PACKS, Seller};
use crate::support::clock::Clock;
use crate::support::{ADMIN_TOKEN, eventually, token};

const BRAND: &str = r#"
[brand]
name = "Lumen <b>Studio</b>"
logo = "logo.svg"
url = "https://lumen.example/app"
"#;

const HD: &str = r#"
[[routes]]
path = "/api/ai/generate/hd"
label = "Image, HD"
methods = ["POST"]
upstream = "ai"
credits = 10
"#;

#[tokio::test]
async fn the_account_page_says_whose_it_is_and_leads_back() {
    let seller = Seller::with(&format!("{PACKS}{BRAND}"), None).await;
    let browser = Browser::start().await;
    for look in LOOKS {
        browser.look(look).await;
        browser.open(&seller.process.url("/credits/account")).await;
        let shown = "$('.brand b', 'Lumen <b>Studio</b>') && $('.brand img').naturalWidth === 120";
        browser.until(&format!("{shown} && $('input[type=password]')")).await;
        let back = if look.lang == "fr" { "Retour à Lumen" } else { "Back to Lumen" };
        browser
            .until(&format!("$('.brand a', '{back}').href === 'https://lumen.example/app'"))
            .await;
        assert_eq!(browser.run("return overflow()").await, 0, "{look:?}");
    }
    // The question of a link names the seller as well, and so does the tab's title.
    for look in [LOOKS[4], LOOKS[6]] {
        browser.look(look).await;
        browser.open("about:blank").await;
        browser.open(&seller.link("alice")).await;
        let shown = "$('dialog .brand b', 'Lumen <b>Studio</b>') && \
            $('dialog .brand img').naturalWidth === 120 && focus().value === 'no'";
        browser.until(shown).await;
        let title = if look.lang == "fr" { "Vos crédits" } else { "Your credits" };
        let title = format!("{title} – Lumen <b>Studio</b>");
        assert_eq!(browser.run("return document.title").await, title);
        assert_eq!(browser.run("return overflow()").await, 0, "{look:?}");
        browser.picture(&format!("brand-link-{}", look.width)).await;
    }
    browser.click("$('dialog button[value=yes]')").await;
    browser.until("!$('dialog') && $('.who', 'alice')").await;
    let title = "document.title === 'Vos crédits – Lumen <b>Studio</b>'";
    browser.until(title).await;
    browser.until("$('.brand img') && $('.who', 'alice') && !$('.bone')").await;
    browser.picture("brand-account").await;
    browser.assert_quiet(&[seller.process.public]).await;
}

#[tokio::test]
async fn who_has_used_nothing_yet_reads_a_first_call_that_works() {
    let seller = Seller::with(PACKS, None).await;
    seller.grant("newcomer", 30, "welcome").await;
    let browser = Browser::start().await;
    browser.look(LOOKS[1]).await;
    browser.sign_in_by(&seller.link("newcomer")).await;
    browser
        .until("$('pre') && $('h3', 'Your first call') && $('.small', 'It costs 5 credits.')")
        .await;
    assert_eq!(browser.run("return overflow()").await, 0);
    browser.run("$('pre').scrollIntoView({ block: 'center' })").await;
    browser.picture("first-call").await;
    let call = browser.run("return $('pre').textContent").await;
    let key = browser.run("return fetch('keys', { method: 'POST', headers: { 'x-farebox-page': 'http', \
        'content-type': 'application/json' }, body: '{\"name\":\"first\"}' }).then((made) => made.json())").await;
    let key = key["key"].as_str().unwrap();
    let call = call.as_str().unwrap().replace("YOUR_KEY", key).replace("curl", "curl --fail");
    let script = call.clone();
    // The upstream that it leads to runs on this very thread.
    let done = tokio::task::spawn_blocking(move || {
        Command::new("sh").args(["-c", &script]).env("no_proxy", "*").output().unwrap()
    });
    let done = done.await.unwrap();
    assert!(done.status.success(), "{call}: {}", String::from_utf8_lossy(&done.stderr));
    // The chart takes its place without a reload.
    browser.until("$('svg') && !$('pre') && credits() === 25").await;
    browser.assert_quiet(&[seller.process.public]).await;
}

#[tokio::test]
async fn people_read_a_routes_label_wherever_it_has_one() {
    let seller = Seller::with(&format!("{PACKS}{HD}"), None).await;
    seller.grant("alice", 30, "welcome").await;
    for route in ["/api/ai/generate/hd", "/api/ai/generate"] {
        assert_eq!(seller.process.post("alice", route).await.status, 200);
    }
    let browser = Browser::start().await;
    browser.look(LOOKS[0]).await;
    browser.sign_in_by(&seller.link("alice")).await;
    browser.until("$('[part~=entry]', 'Image, HD') && $('.legend li', 'Image, HD')").await;
    // U+2212, as wide as a plus.
    browser.until("$('[part~=entry]', 'Image, HD').textContent.includes('−10')").await;
    assert_eq!(browser.run("return words().includes('/generate/hd')").await, false);
    browser.open(&seller.admin()).await;
    browser.fill("$('input[type=password]')", ADMIN_TOKEN).await;
    browser.click("$('form button')").await;
    // The operator reads both: the path is what gateway.toml says.
    browser.until("$('td', 'Image, HD') && $('td', '/api/ai/generate/hd')").await;
    browser.run("location.hash = 'entries'").await;
    browser.until("$('td', 'Image, HD') && !$('[aria-busy]')").await;
    let prices =
        seller.process.client.get(seller.process.url("/credits/prices")).send().await.unwrap();
    let prices: Value = prices.json().await.unwrap();
    assert_eq!(
        (&prices[1]["path"], &prices[1]["label"]),
        (&json!("/api/ai/generate/hd"), &json!("Image, HD"))
    );
    let page = seller.process.client.get(seller.process.url("/credits/transactions?limit=2"));
    let page: Value = page.bearer_auth(token("alice")).send().await.unwrap().json().await.unwrap();
    let entry = &page["transactions"][1];
    assert_eq!(
        (&entry["route"], &entry["label"]),
        (&json!("/api/ai/generate/hd"), &json!("Image, HD"))
    );
    assert_eq!(page["transactions"][0].get("label"), None, "{page}");
    let metrics = seller.process.admin(Method::GET, "/metrics", "").await.text;
    assert!(metrics.contains("route=\"/api/ai/generate/hd\"") && !metrics.contains("Image, HD"));
}

#[tokio::test]
async fn history_is_by_day_and_of_the_days_that_were_chosen() {
    let clock = Clock::new();
    clock.is_off_by("-10d");
    let seller = Seller::with(PACKS, Some(&clock)).await;
    seller.grant("alice", 500, "welcome").await;
    let mut left = 500;
    for day in [3, 2, 0] {
        clock.is_off_by(&format!("-{day}d"));
        for _ in 0..2 {
            assert_eq!(seller.process.post("alice", "/api/ai/generate").await.status, 200);
            left -= 5;
        }
        // Each call is charged by the clock of its own day.
        assert!(
            eventually(async || seller.process.account("alice").await["balance"] == left).await
        );
    }
    clock.is_off_by("+0");
    let browser = Browser::start().await;
    browser.look(LOOKS[1]).await;
    browser.sign_in_by(&seller.link("alice")).await;
    browser.until("all('[part~=entry]').length === 7 && all('[part~=day]').length === 4").await;
    let heads = "all('[part~=day]').map((day) => day.parentNode.parentNode.querySelectorAll('[part~=entry]').length).join()";
    assert_eq!(browser.run(&format!("return {heads}")).await, "2,2,2,1");
    let apart = "const boxes = all('.range .field, .range input').map((node) => node.getBoundingClientRect()); \
        const [from, , to] = boxes; const card = $('.range').closest('.card').getBoundingClientRect(); \
        return [from.right < to.left || from.bottom < to.top, \
        boxes.every(({ left, right }) => left > card.left && right < card.right), \
        all('input[type=date]').every((field) => field.scrollWidth <= field.clientWidth), overflow()]";
    for (width, lang) in
        [(320, "en"), (320, "fr"), (414, "fr"), (414, "en"), (1280, "en"), (375, "en")]
    {
        browser.look(Look { width, lang, ..LOOKS[4] }).await;
        let choose = "const select = $('select'); select.value = arguments[0]; \
            select.dispatchEvent(new Event('change'))";
        browser.run_with(choose, json!([lang])).await;
        browser.until(&format!("$('[lang={lang}]') && all('[part~=entry]').length === 7")).await;
        let seen = browser.run(apart).await;
        assert_eq!(seen, json!([true, true, true, 0]), "{width} {lang}");
        browser.run("$('.range').scrollIntoView()").await;
        browser.picture(&format!("history-by-day-{width}-{lang}")).await;
    }
    let choose = "const [name, back] = arguments; const at = new Date(Date.now() - back * 86400000); \
        const input = $('.field', name).querySelector('input'); \
        input.value = new Date(at - at.getTimezoneOffset() * 60000).toISOString().slice(0, 10); \
        input.dispatchEvent(new Event('change'))";
    browser.run_with(choose, json!(["To", 2])).await;
    browser.until(&format!("{heads} === '2,2,1'")).await;
    browser.run_with(choose, json!(["From", 3])).await;
    browser.until(&format!("{heads} === '2,2'")).await;
    browser.run_with(choose, json!(["From", 2])).await;
    browser.until(&format!("{heads} === '2'")).await;
    browser.run_with(choose, json!(["To", 5])).await;
    browser
        .until(
            "$('farebox-history') && $('.muted', 'Nothing in this time.') && !$('[part~=entry]')",
        )
        .await;
    assert_eq!(browser.run("return overflow()").await, 0);
    browser.assert_quiet(&[seller.process.public]).await;
}
