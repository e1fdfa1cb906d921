//! Why each line of the history stands there, in words: on the account page and the operator's page.

use axum::Router;
use http::Method;
use serde_json::json;

use crate::browser::{Browser, LOOKS};
use crate::process::{Process, config_on_ports};
use crate::seller::{PACKS, Seller};
use crate::support::{ADMIN_TOKEN, Upstream, eventually, token};

/// Shows the page in this language.
async fn speak(browser: &Browser, lang: &str) {
    let choose = "const select = $('select'); select.value = arguments[0]; \
        select.dispatchEvent(new Event('change'))";
    browser.run_with(choose, json!([lang])).await;
}

#[tokio::test]
async fn a_charge_after_a_crash_and_a_refund_say_why() {
    let silent = Upstream::start(Router::new().fallback(std::future::pending::<()>)).await;
    let folder = tempfile::tempdir().unwrap();
    let text = config_on_ports(silent.address, "[credits]\nsignup_grant = 30\n");
    let text = text.replace("[ledger]", "[ledger]\nafter_crash = \"charge\"");
    let mut gateway = Process::serve(folder.path(), &text);
    let call = gateway.client.post(gateway.url("/api/ai/generate")).bearer_auth(token("alice"));
    let call = tokio::spawn(call.body("{}").send());
    assert!(eventually(async || silent.seen().len() == 1).await);
    gateway.kill();
    call.await.unwrap().unwrap_err();
    let gateway = Process::serve(folder.path(), &text);
    let id = gateway.transactions("alice").await[0]["request_id"].as_str().unwrap().to_owned();
    let part = json!({ "credits": 2, "id": "part", "reason": "sorry for the crash" });
    let path = format!("/admin/captures/{id}/refund");
    gateway.admin(Method::POST, &path, &part.to_string()).await.expect(200);

    let browser = Browser::start().await;
    browser.look(LOOKS[4]).await;
    let link = format!("/credits/account#token={}", token("alice"));
    browser.sign_in_by(&gateway.url(&link)).await;
    let english = [
        ["Call", "/api/ai/generate", "The connection was cut; charged by the seller’s rule"],
        ["Call given back", "/api/ai/generate", "sorry for the crash"],
        ["Welcome credits", "+30", "balance 30"],
    ];
    for texts in english {
        let row = format!("$('[part~=entry]', '{}')", texts[2]);
        browser.until(&row).await;
        for text in texts {
            browser.until(&format!("{row}.textContent.includes('{text}')")).await;
        }
    }
    browser.run("$('.range').scrollIntoView()").await;
    browser.picture("history-why-375").await;
    speak(&browser, "fr").await;
    browser
        .until("$('[part~=entry]', 'Connexion coupée ; débité selon la règle du vendeur')")
        .await;
    browser.until("$('[part~=entry]', 'Crédits de bienvenue')").await;
    assert_eq!(browser.run("return overflow()").await, 0);
    browser.look(LOOKS[0]).await;
    browser.run("scrollTo(0, 0)").await;
    browser.picture("history-why-1280").await;

    browser.open(&format!("http://{}/admin/ui", gateway.admin)).await;
    browser.fill("$('input[type=password]')", ADMIN_TOKEN).await;
    browser.click("$('form button')").await;
    browser.until("$('nav') && !$('[aria-busy]')").await;
    for view in ["entries", "accounts/alice"] {
        browser.run_with("location.hash = arguments[0]", json!([view])).await;
        browser.until("!$('[aria-busy]') && $('tbody tr', 'sorry for the crash')").await;
        let row = "$('tbody tr', 'The connection was cut; charged by the seller’s rule')";
        browser.until(&format!("{row}.textContent.includes('/api/ai/generate')")).await;
        browser.picture(&format!("admin-why-{}", view.replace('/', "-"))).await;
    }
    // The list of all calls that were cut off.
    browser.click("$('nav a', 'Cut-off calls')").await;
    browser.until("$('nav a[aria-current]', 'Cut-off calls') && !$('[aria-busy]')").await;
    let row = "$('tbody tr', 'alice')";
    for text in ["/api/ai/generate", "5", "charged", &id] {
        browser.until(&format!("{row}.textContent.includes('{text}')")).await;
    }
    browser.picture("admin-crashed-1280").await;
    browser.look(LOOKS[4]).await;
    assert_eq!(browser.run("return overflow()").await, 0);
    browser.picture("admin-crashed-375").await;
    browser.assert_quiet(&[gateway.public, gateway.admin]).await;
}

#[tokio::test]
async fn a_purchase_has_its_packs_name_or_its_id_where_no_pack_is_known() {
    let seller = Seller::with(PACKS, None).await;
    seller.sell("alice").await;
    let browser = Browser::start().await;
    browser.look(LOOKS[4]).await;
    browser.sign_in_by(&seller.link("alice")).await;
    browser.until("$('[part~=entry]', 'Purchase: Pack 500')").await;
    browser.run("$('.range').scrollIntoView()").await;
    browser.picture("history-purchase-375").await;
    assert_eq!(browser.run("return words().includes('pack-500')").await, false);
    speak(&browser, "fr").await;
    browser.until("$('[part~=entry]', 'Achat : Pack 500')").await;
    browser.assert_quiet(&[seller.process.public]).await;
    browser.devtools("Network.enable", json!({})).await;
    browser.devtools("Network.setBlockedURLs", json!({ "urls": ["*/credits/packs"] })).await;
    browser.open(&seller.process.url("/credits/account")).await;
    browser.until("$('[part~=entry]', 'Achat : pack-500')").await;
}

#[tokio::test]
async fn a_call_whose_answer_was_sent_again_says_how_often() {
    let upstream = Upstream::start(Router::new().fallback(async || "an answer")).await;
    let folder = tempfile::tempdir().unwrap();
    let text = config_on_ports(upstream.address, "[credits]\nsignup_grant = 30\n");
    let gateway = Process::serve(folder.path(), &text);
    let call = async |key: &str| {
        let call = gateway.client.post(gateway.url("/api/ai/generate")).bearer_auth(token("alice"));
        let answer = call.header("idempotency-key", key).body("{}").send().await.unwrap();
        assert_eq!(answer.text().await.unwrap(), "an answer");
    };
    for key in ["first", "second", "second", "second"] {
        call(key).await;
    }
    let shown = async || gateway.transactions("alice").await[0]["replays"] == 2;
    assert!(eventually(shown).await);

    let browser = Browser::start().await;
    browser.look(LOOKS[4]).await;
    let link = format!("/credits/account#token={}", token("alice"));
    browser.sign_in_by(&gateway.url(&link)).await;
    browser.until("$('[part~=entry]', 'balance 20')").await;
    browser
        .until("$('[part~=entry]', 'balance 20').textContent.includes('answer sent again: 2×')")
        .await;
    let other = "$('[part~=entry]', 'balance 25').textContent.includes('sent again')";
    assert_eq!(browser.run(&format!("return {other}")).await, false);
    speak(&browser, "fr").await;
    browser.until("$('[part~=entry]', 'réponse renvoyée : 2×')").await;
    assert_eq!(browser.run("return overflow()").await, 0);

    browser.open(&format!("http://{}/admin/ui", gateway.admin)).await;
    browser.fill("$('input[type=password]')", ADMIN_TOKEN).await;
    browser.click("$('form button')").await;
    browser.until("$('nav') && !$('[aria-busy]')").await;
    for view in ["entries", "accounts/alice"] {
        browser.run_with("location.hash = arguments[0]", json!([view])).await;
        browser.until("!$('[aria-busy]') && $('tbody tr', 'answer sent again: 2×')").await;
    }
}
