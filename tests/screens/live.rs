//! The balance moves without reload, whoever moves it.

use crate::browser::Browser;
use crate::demo::Demo;

#[tokio::test]
async fn the_balance_moves_in_every_window_whoever_moves_it() {
    let mut demo = Demo::start();
    let browser = Browser::start().await;
    browser.sign_in_by(&demo.link).await;
    browser.until("credits() === 50").await;
    let (first, second) = browser.open_window().await;
    // The cookie is the browser's, not the window's.
    browser.open(&demo.process.url("/credits/account")).await;
    browser.until("credits() === 50").await;
    let shows = async |credits: u64| {
        for window in [&first, &second] {
            browser.go_to(window).await;
            browser.until(&format!("credits() === {credits}")).await;
        }
    };

    demo.grant("demo", 25, "by-the-operator").await;
    shows(75).await;
    assert_eq!(demo.call().await, 200);
    shows(70).await;
    // The history follows, with who and why.
    for window in [&first, &second] {
        browser.go_to(window).await;
        browser.until("$('[part~=entry]', 'by-the-operator')").await;
        browser.until("$('[part~=entry]', '/api/ai/generate')").await;
    }
    browser.assert_quiet(&[demo.process.public]).await;
    // A window that is closed is no error to the gateway either.
    drop(browser);
    assert_eq!(demo.process.terminate().code(), Some(0));
    demo.process.wait_for_logs();
    let said = demo.process.stderr();
    assert!(!said.contains("ERROR"), "{said}");
}

#[tokio::test]
async fn without_a_stream_one_window_tells_the_other() {
    let demo = Demo::start();
    let browser = Browser::start().await;
    browser.sign_in_by(&demo.link).await;
    browser.until("credits() === 50").await;
    let (first, _second) = browser.open_window().await;
    let blocked = serde_json::json!({ "urls": ["*/credits/events"] });
    browser.devtools("Network.enable", serde_json::json!({})).await;
    browser.devtools("Network.setBlockedURLs", blocked).await;
    browser.open(&demo.process.url("/credits/account")).await;
    browser.until("credits() === 50").await;
    demo.grant("demo", 7, "told").await;
    // Only the first has a stream; the second would poll later than this takes.
    browser.until("credits() === 57").await;
    browser.go_to(&first).await;
    browser.until("credits() === 57").await;
}

#[tokio::test]
async fn whoever_signs_out_is_signed_out_in_the_browser() {
    let demo = Demo::start();
    let browser = Browser::start().await;
    browser.sign_in_by(&demo.link).await;
    browser.click("$('header button', 'Sign out')").await;
    browser.until("$('form input[type=password]')").await;
    assert_eq!(browser.run("return words().includes('Signed in as')").await, false);
    browser.open(&demo.process.url("/credits/account")).await;
    browser.until("$('form input[type=password]')").await;
    // A pasted link counts like one that was followed; a wrong one gets a message.
    browser.fill("$('input[type=password]')", "fb_nobodys").await;
    browser.click("$('form button')").await;
    browser.until("$('.failure', 'This token or key is not valid here')").await;
    browser.fill("$('input[type=password]')", demo.token()).await;
    browser.click("$('form button')").await;
    browser.until("credits() === 50").await;
}
