//! The operator's page.

use http::Method;
use serde_json::json;

use crate::browser::{Browser, LOOKS};
use crate::demo::Demo;
use crate::http::Answer;
use crate::seller::{PACKS, Seller};
use crate::support::clock::Clock;
use crate::support::{ADMIN_TOKEN, Upstream, eventually, token};

/// Signs in with a token.
async fn sign_in(browser: &Browser, page: &str, token: &str) {
    browser.open(page).await;
    browser.fill("$('input[type=password]')", token).await;
    browser.click("$('form button')").await;
}

/// Goes to a view by the page's own links.
async fn view(browser: &Browser, name: &str) {
    browser.click(&format!("$('nav a', '{name}')")).await;
    browser.until(&format!("$('nav a[aria-current]', '{name}') && !$('[aria-busy]')")).await;
}

#[tokio::test]
async fn an_operator_finds_accounts_gives_credits_and_replays_events() {
    let demo = Demo::start();
    let browser = Browser::start().await;
    browser.look(LOOKS[0]).await;
    assert_eq!(demo.call().await, 200);
    let bought =
        demo.process.client.post(demo.process.url("/credits/buy")).bearer_auth(demo.token());
    let bought = Answer::of(bought.body(r#"{"pack":"pack-500"}"#)).await.expect(200);
    let pay = format!("{}/pay", bought["checkout_url"].as_str().unwrap());
    assert!(Answer::of(demo.process.client.post(pay)).await.status.is_success());
    for account in ["alice", "alicia", "bob"] {
        demo.grant(account, 30, &format!("for {account}").replace(' ', "-")).await;
    }

    sign_in(&browser, &demo.admin, "not-the-token").await;
    browser
        .until("$('.failure', 'This is not the admin token') && $('input[type=password]')")
        .await;
    sign_in(&browser, &demo.admin, &demo.admin_token).await;
    browser.until("$('nav a[aria-current]', 'Overview') && !$('[aria-busy]')").await;
    // Four charts of 24 hours, what came in, and what each route earns.
    browser.until("all('figure').length === 4 && all('svg').length === 4").await;
    browser.until("$('.stats', '€79.00') && $('tr', '/api/ai/generate')").await;
    browser.until("/%/.test($('tr', '/api/ai/generate').textContent)").await;
    browser.picture("admin-overview").await;

    view(&browser, "Accounts").await;
    browser.until("all('tbody tr').length === 4").await;
    browser.fill("$('input[type=search]')", "ali").await;
    browser.click("$('form button')").await;
    browser.until("all('tbody tr').length === 2 && !$('tbody tr', 'bob')").await;
    browser.click("$('tbody a', 'alicia')").await;
    browser.until("$('dd', '30')").await;
    browser.fill("$('input[name=credits]')", "12.5").await;
    browser.fill("$('input[name=reason]')", "sorry for the outage").await;
    browser.click("$('form button', 'Give credits')").await;
    browser.until("$('.done', '42.5') && $('dd', '42.5')").await;
    browser.until("$('tr', 'sorry for the outage')").await;
    browser.picture("admin-account").await;

    view(&browser, "Entries").await;
    browser.until("$('tbody tr:first-child', 'sorry for the outage')").await;
    browser.until("$('tbody tr', 'demo') && $('tbody tr', '-5')").await;
    view(&browser, "Stripe inbox").await;
    browser.until("$('tbody tr', 'checkout.session.completed')").await;
    browser.click("$('tbody button', 'Replay')").await;
    browser.until("$('tbody [role=status] .told', 'applied')").await;
    let account = demo.ask_admin(Method::GET, "accounts/demo", json!({})).await;
    assert_eq!(account["balance"], 545, "a replay pays nothing out");

    // The token is this tab's; who signs out takes it along.
    let kept = "return JSON.stringify({ ...localStorage }) + document.cookie";
    assert!(!browser.run(kept).await.as_str().unwrap().contains(&demo.admin_token));
    browser.click("$('header button', 'Sign out')").await;
    browser.until("$('input[type=password]')").await;
    assert_eq!(browser.run("return JSON.stringify({ ...sessionStorage })").await, "{}");
    browser.assert_quiet(&[demo.process.admin]).await;
}

#[tokio::test]
async fn an_operator_reads_words_and_one_form_of_the_hour() {
    const ANY: &str = "[[routes]]\npath = \"/any\"\nupstream = \"ai\"\ncredits = 1\n";
    let seller = Seller::with(&format!("{PACKS}{ANY}"), None).await;
    seller.grant("alice", 30, "a gift").await;
    let browser = Browser::start().await;
    browser.look(LOOKS[0]).await;
    // An hour of one digit, which languages write in several ways.
    let hour = browser.run("return new Date().getUTCHours()").await.as_i64().unwrap();
    let ahead = if hour > 14 { 26 - hour } else { 2 - hour };
    let zone = json!({ "timezoneId": format!("Etc/GMT{:+}", -ahead) });
    browser.devtools("Emulation.setTimezoneOverride", zone).await;
    browser.sign_in_by(&seller.link("alice")).await;
    browser.until("$('.who', 'alice')").await;
    sign_in(&browser, &seller.admin(), ADMIN_TOKEN).await;
    browser.until("$('tr', '/any').querySelector('small').textContent === 'every method'").await;
    let agent = browser.run("return navigator.userAgent").await;
    for language in ["fr-FR", "en-GB", "en-US"] {
        let language = json!({ "userAgent": agent, "acceptLanguage": language });
        browser.devtools("Emulation.setUserAgentOverride", language.clone()).await;
        browser.open(&seller.process.url("/credits/account")).await;
        let at = "/\\d+:\\d\\d(.[AP]M)?/.exec($('[part~=entry]', 'a gift')?.textContent)?.[0]";
        let at = browser.until(at).await;
        browser.open("about:blank").await;
        browser.open(&format!("{}#entries", seller.admin())).await;
        let written = browser.until("$('.when')?.textContent").await;
        let (at, written) = (at.as_str().unwrap(), written.as_str().unwrap());
        assert!(written.ends_with(&format!(" {at}")), "{language}: {written} against {at}");
    }

    browser.run("location.hash = 'accounts/alice'").await;
    browser.until("all('input[name=credits]').length === 2 && !$('[aria-busy]')").await;
    let give = "all('input[name=credits]')[0]";
    for wrong in ["1,5", "abc", "-3"] {
        browser.fill(give, wrong).await;
        browser.click("$('form button', 'Give credits')").await;
        let said = browser.run(&format!("return {give}.validationMessage")).await;
        assert_eq!(said, "A number such as 1.5", "{wrong}");
    }
    let correct = "all('input[name=credits]')[1]";
    browser.fill(correct, "1,5").await;
    browser.click("$('form button', 'Correct the balance')").await;
    let said = browser.run(&format!("return {correct}.validationMessage")).await;
    assert_eq!(said, "A number such as 1.5, or -1.5 to take");
    // The mended input is accepted.
    browser.fill(give, "1.5").await;
    browser.fill("all('input[name=reason]')[0]", "sorry").await;
    browser.click("$('form button', 'Give credits')").await;
    browser.until("$('.done', '31.5')").await;
    browser.assert_quiet(&[seller.process.public, seller.process.admin]).await;
}

#[tokio::test]
async fn an_operator_sees_which_holds_are_stuck() {
    let slow = Upstream::start(axum::Router::new().fallback(std::future::pending::<()>)).await;
    let route = format!(
        "{PACKS}[[upstreams]]\nname = \"slow\"\nurl = \"http://{}\"\n\
         [[routes]]\npath = \"/slow\"\nupstream = \"slow\"\ncredits = 7\n",
        slow.address
    );
    let clock = Clock::new();
    let seller = Seller::with(&route, Some(&clock)).await;
    seller.grant("alice", 30, "a gift").await;
    let call = seller.process.client.post(seller.process.url("/slow")).bearer_auth(token("alice"));
    let call = tokio::spawn(call.send());
    assert!(eventually(async || slow.seen().len() == 1).await);

    let browser = Browser::start().await;
    browser.look(LOOKS[0]).await;
    sign_in(&browser, &seller.admin(), ADMIN_TOKEN).await;
    browser.until("$('nav') && !$('[aria-busy]')").await;
    view(&browser, "Stuck holds").await;
    browser.until("$('p', 'Nothing to show.')").await;
    clock.is_off_by("+10m");
    browser.click("$('button', 'Refresh')").await;
    browser.until("$('tbody tr', 'alice') && $('tbody tr', '/slow') && $('tbody tr', '7')").await;
    browser.picture("admin-holds").await;
    browser.click("$('tbody a', 'alice')").await;
    browser.until("$('dd', '23')").await;
    call.abort();
}

/// Conversion, average basket, revenue per buyer and the success of webhooks, in both languages.
#[tokio::test]
async fn an_operator_sees_the_figures_of_a_seller() {
    let demo = Demo::start();
    let browser = Browser::start().await;
    browser.look(LOOKS[0]).await;
    sign_in(&browser, &demo.admin, &demo.admin_token).await;
    let stat = |name: &str, value: &str| {
        format!(
            "$('.stats > *', '{name}') && $('.stats > *', '{name}').textContent.includes('{value}')"
        )
    };
    // Without a sale the page shows no figure of sales.
    browser.until("$('h2', 'Sales, 30 days')").await;
    for name in ["Conversion", "Average basket", "Revenue per buyer", "Webhooks that succeed"] {
        browser.until(&stat(name, "–")).await;
    }
    for (pack, pays) in [("pack-500", true), ("pack-100", true), ("pack-100", false)] {
        let request = demo.process.client.post(demo.process.url("/credits/buy"));
        let request = request.bearer_auth(demo.token());
        let bought = Answer::of(request.body(json!({ "pack": pack }).to_string())).await;
        let page = bought.expect(200)["checkout_url"].as_str().unwrap().to_owned();
        if pays {
            let paid = Answer::of(demo.process.client.post(format!("{page}/pay"))).await;
            assert!(paid.status.is_success());
        }
    }
    browser.click("$('button', 'Refresh')").await;
    let english = [
        ("Conversion", "66.7%"),
        ("Conversion", "2 of 3"),
        ("Average basket", "€49.00"),
        ("Average basket", "Purchases: 2"),
        ("Revenue per buyer", "€98.00"),
        ("Revenue per buyer", "Buyers: 1"),
        ("Webhooks that succeed", "100%"),
        ("Webhooks that succeed", "2 of 2"),
    ];
    for (name, value) in english {
        browser.until(&stat(name, value)).await;
    }
    browser.picture("admin-sales").await;
    browser.look(LOOKS[2]).await;
    let choose = "const select = $('select'); select.value = 'fr'; select.dispatchEvent(new Event('change'))";
    browser.run(choose).await;
    browser.until("$('h2', 'Ventes, 30 jours') && !$('[aria-busy]')").await;
    let french = [
        ("Conversion", "2 sur 3"),
        ("Panier moyen", "49,00"),
        ("Revenu par acheteur", "98,00"),
        ("Revenu par acheteur", "Acheteurs : 1"),
        ("Webhooks réussis", "2 sur 2"),
    ];
    for (name, value) in french {
        browser.until(&stat(name, value)).await;
    }
    browser.picture("admin-sales-fr").await;
    browser.assert_quiet(&[demo.process.admin]).await;
}
