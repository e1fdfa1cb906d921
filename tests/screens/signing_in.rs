//! Ways to be signed in: links that ask first, and cookies that no other site sets.

use serde_json::{Value, json};

use crate::browser::{Browser, LOOKS};
use crate::seller::{PACKS, Seller};
use crate::support::{token, token_for, token_signed};

const SESSION: &str = "return fetch('session', { headers: { 'x-farebox-page': \
    location.protocol.slice(0, -1) } }).then(async (answer) => answer.status === 204 ? null : \
    (await answer.json()).account)";

#[tokio::test]
async fn a_link_signs_nobody_in_who_was_not_asked() {
    let seller = Seller::with("", None).await;
    let browser = Browser::start().await;
    // An attacker sends a link to its own account, so that the reader buys for it.
    browser.open(&seller.link("mallory")).await;
    browser.until("$('dialog', 'mallory') && $('dialog', 'Sign in to this account?')").await;
    assert_eq!(browser.run(SESSION).await, Value::Null, "before the answer there is no session");
    assert_eq!(browser.run("return location.hash").await, "", "the secret left the address");
    // The focus is on the cautious answer, so Enter chooses it.
    browser.until("focus().value === 'no'").await;
    browser.picture("link-asks").await;
    browser.click("$('dialog button', 'Do not sign in')").await;
    browser.until("$('input[type=password]')").await;
    assert_eq!(browser.run(SESSION).await, Value::Null);

    browser.open("about:blank").await;
    browser.sign_in_by(&seller.link("alice")).await;
    browser.until("$('.who', 'alice') && credits() === 0").await;
    // A second link while somebody is signed in: the question has both names.
    browser.open(&seller.link("mallory")).await;
    browser.until("$('dialog', 'You are signed in as alice. This link is for mallory.')").await;
    browser.click("$('dialog button', 'Stay signed in')").await;
    browser.until("$('.who', 'alice')").await;
    assert_eq!(browser.run(SESSION).await, "alice");
    // The app's own link again, for who is signed in already, changes nothing and asks nothing.
    browser.open("about:blank").await;
    browser.open(&seller.link("alice")).await;
    browser.until("$('.who', 'alice') && !$('dialog') && !$('.bone')").await;
    browser.open(&seller.link("mallory")).await;
    browser.click("$('dialog button', 'Continue with the other')").await;
    browser.until("$('.who', 'mallory')").await;
    browser.assert_quiet(&[seller.process.public]).await;
}

/// A person never buys for an account that they take for another one.
#[tokio::test]
async fn a_link_that_signs_nobody_in_says_so_above_everything() {
    let seller = Seller::with(PACKS, None).await;
    let browser = Browser::start().await;
    browser.look(LOOKS[4]).await;
    browser.sign_in_by(&seller.link("fresh")).await;
    browser.until("$('.who', 'fresh') && credits() === 0").await;
    let page = seller.process.url("/credits/account");
    let expired = token_for("alice", -3600);
    let good = token("alice");
    let forged = format!("{}.AAAA", good.rsplit_once('.').unwrap().0);
    let says = "$('[role=alert]', 'This link has expired or is not valid. You are still signed in as fresh.')";
    for (look, bad) in [(LOOKS[4], &*expired), (LOOKS[0], &forged), (LOOKS[4], "nonsense")] {
        browser.look(look).await;
        browser.open("about:blank").await;
        browser.open(&format!("{page}#token={bad}")).await;
        browser.until(&format!("{says} && $('[part~=buy]') && !$('.bone')")).await;
        assert_eq!(browser.run("return location.hash").await, "", "the secret left the address");
        assert_eq!(browser.run(SESSION).await, "fresh");
        browser.picture(&format!("link-dead-{}", look.width)).await;
        // First on the page, and in sight of every button that buys.
        let first = "return $('main').firstElementChild.role";
        assert_eq!(browser.run(first).await, "alert");
        browser.run("all('[part~=buy]').at(-1).scrollIntoView({ block: 'end' })").await;
        let within = "const { top, bottom } = $('[role=alert]').getBoundingClientRect(); \
            return [top >= 0 && bottom < innerHeight, overflow()]";
        assert_eq!(browser.run(within).await, json!([true, 0]), "{look:?}");
    }
    // The question is in the reader's language, and gone once it was answered.
    let choose = "const select = $('select'); select.value = arguments[0]; \
        select.dispatchEvent(new Event('change'))";
    browser.run_with(choose, json!(["fr"])).await;
    browser.until("$('[role=alert]', 'Vous êtes toujours connecté en tant que fresh.')").await;
    browser.run_with(choose, json!(["en"])).await;
    browser.click("$('[role=alert] button', 'Stay signed in')").await;
    browser.until("$('.who', 'fresh') && !$('[role=alert]')").await;
    // The link is followed on the very page, as well.
    browser.run_with("location.hash = `token=${arguments[0]}`", json!([forged])).await;
    browser.click("$('[role=alert] button', 'Sign out')").await;
    browser.until("$('input[type=password]') && !$('[role=alert]')").await;
    assert_eq!(browser.run(SESSION).await, Value::Null);
    browser.sign_in_by(&seller.link("alice")).await;
    browser.until("$('.who', 'alice') && !$('[role=alert]')").await;
    browser.assert_quiet(&[seller.process.public]).await;
}

#[tokio::test]
async fn a_visit_to_the_account_page_logs_no_error() {
    let seller = Seller::with("", None).await;
    let browser = Browser::start().await;
    browser.open(&seller.process.url("/credits/account")).await;
    browser.until("$('input[type=password]')").await;
    browser.open("about:blank").await;
    browser.sign_in_by(&seller.link("alice")).await;
    browser.until("credits() === 0 && !$('.bone')").await;
    browser.click("$('header button', 'Sign out')").await;
    browser.until("$('input[type=password]')").await;
    browser.open(&seller.process.url("/credits/account")).await;
    browser.until("$('input[type=password]')").await;
    assert_eq!(browser.failed_requests().await, [] as [String; 0]);
    // A sign-in in another tab counts here, too, once this tab is looked at again.
    let sign_in = "return fetch('session', { method: 'POST', headers: { authorization: \
        `Bearer ${arguments[0]}`, 'x-farebox-page': 'http' } }).then(({ status }) => status)";
    assert_eq!(browser.run_with(sign_in, json!([token("alice")])).await, 200);
    browser.run("document.dispatchEvent(new Event('visibilitychange'))").await;
    browser.until("$('.who', 'alice')").await;
    assert_eq!(browser.failed_requests().await, [] as [String; 0]);
}

/// The browser's cookies of our names.
async fn cookies(browser: &Browser) -> Vec<Value> {
    let all = browser.devtools("Network.getAllCookies", json!({})).await;
    let ours = |cookie: &&Value| cookie["name"].as_str().unwrap().contains("farebox");
    all["cookies"].as_array().unwrap().iter().filter(ours).cloned().collect()
}

#[tokio::test]
async fn a_neighbours_cookie_neither_locks_anybody_out_nor_signs_anybody_in() {
    let tls = "[server.tls]\ncert_file = \"cert.pem\"\nkey_file = \"key.pem\"\n";
    let seller = Seller::with(tls, None).await;
    let port = seller.process.public.port();
    let at = |host: &str, path: &str| format!("https://{host}.shop.test:{port}{path}");
    let browser = Browser::start().await;
    // Any page of a neighbour's can set cookies for the whole domain.
    let plant = async |account: &str| {
        browser.open(&at("evil", "/credits/openapi.json")).await;
        let cookie = "document.cookie = `${arguments[0]}=${arguments[1]}; domain=shop.test; \
            path=/credits; secure; max-age=3600`";
        for name in ["farebox_session", "__Host-farebox_session"] {
            browser.run_with(cookie, json!([name, token(account)])).await;
        }
    };
    plant("mallory").await;
    assert_eq!(
        cookies(&browser).await.len(),
        1,
        "the browser takes no cookie of a host but from it"
    );
    browser.open(&at("pay", "/credits/account")).await;
    browser.until("$('input[type=password]')").await;
    browser.fill("$('input[type=password]')", &token("alice")).await;
    browser.click("$('form button')").await;
    browser.until("$('.who', 'alice')").await;
    plant("mallory").await;
    browser.open(&at("pay", "/credits/account")).await;
    browser.until("$('.who', 'alice') && !$('.bone')").await;
    let own = cookies(&browser).await;
    let own = own.iter().find(|cookie| cookie["name"] == "__Host-farebox_session").unwrap();
    assert_eq!(own["domain"], "pay.shop.test");
    for flag in ["secure", "httpOnly"] {
        assert_eq!(own[flag], true, "{own}");
    }
    browser.click("$('header button', 'Sign out')").await;
    browser.until("$('input[type=password]')").await;
    browser.open(&at("pay", "/credits/account")).await;
    browser.until("$('input[type=password]')").await;
}

#[tokio::test]
async fn a_page_over_http_signs_in_as_well() {
    let seller = Seller::with("", None).await;
    let browser = Browser::start().await;
    // A browser does not trust this address: it sends no `sec-fetch-site`, and takes no secure cookie.
    let page = format!("http://pay.shop.test:{}/credits/account", seller.process.public.port());
    browser.open(&page).await;
    browser.fill("$('input[type=password]')", &token("alice")).await;
    browser.click("$('form button')").await;
    browser.until("$('.who', 'alice') && credits() === 0").await;
    browser.open(&page).await;
    browser.until("$('.who', 'alice') && credits() === 0").await;
    let [cookie] = &cookies(&browser).await[..] else { panic!("one cookie") };
    assert_eq!((&cookie["name"], &cookie["secure"]), (&json!("farebox_session"), &json!(false)));
}

/// Two issuers' users may have the same name; then only the whole ids tell them apart.
#[tokio::test]
async fn the_account_page_names_a_buyer_without_the_prefix_of_their_issuer() {
    const SECRETS: [&str; 2] =
        ["a secret of Acme's, longer than 32 bytes!", "a secret of Other's, longer than 32 b."];
    let issuers = SECRETS.into_iter().zip(["acme:", "other:"]).map(|(secret, prefix)| {
        format!(
            "[[auth.jwt]]\nalgorithms = [\"HS256\"]\nsecret = \"{secret}\"\naccount_prefix = \"{prefix}\"\n"
        )
    });
    let seller = Seller::with(&issuers.collect::<String>(), None).await;
    let link = |secret: &str, account: &str| {
        let token = token_signed(secret, account, 3600);
        seller.process.url(&format!("/credits/account#token={token}"))
    };
    let browser = Browser::start().await;
    browser.open(&link(SECRETS[0], "bob")).await;
    browser.until("$('dialog .told', 'signs this browser in as bob.')").await;
    browser.click("$('dialog button', 'Sign in')").await;
    browser.until("$('.who bdi', 'bob').textContent === 'bob' && credits() === 0").await;
    browser.open(&link(SECRETS[1], "bob")).await;
    browser
        .until("$('dialog', 'You are signed in as acme:bob. This link is for other:bob.')")
        .await;
    browser.click("$('dialog button', 'Stay signed in')").await;
    browser.open(&link(SECRETS[1], "carol")).await;
    browser.until("$('dialog', 'You are signed in as bob. This link is for carol.')").await;
    browser.assert_quiet(&[seller.process.public]).await;
}
