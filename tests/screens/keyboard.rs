//! The screens, used with the keyboard alone.

use crate::browser::{Browser, key};
use crate::demo::Demo;

#[tokio::test]
async fn all_of_it_works_by_keyboard_alone() {
    let demo = Demo::start();
    let browser = Browser::start().await;

    browser.open(&demo.process.url("/credits/account")).await;
    browser.tab_to("$('input[type=password]')").await;
    browser.write(demo.token()).await;
    browser.press(&[key::ENTER]).await;
    browser.until("credits() === 50").await;

    browser.tab_to("$('[part~=buy]', 'Pack 100')").await;
    browser.press(&[key::ENTER]).await;
    browser.tab_to("$('form[action$=pay] button')").await;
    browser.press(&[key::SPACE]).await;
    browser.until("credits() === 150").await;

    browser.tab_to("$('input[name=name]')").await;
    browser.write("laptop").await;
    browser.press(&[key::ENTER]).await;
    browser.until("$('input.code')?.value.startsWith('fb_')").await;
    browser.tab_to("$('button[aria-label]', 'Revoke laptop')").await;
    let revoke = "$('button[aria-label]', 'Revoke laptop')";

    // Escape leaves everything as it is, and the focus where it was.
    browser.press(&[key::ENTER]).await;
    browser.until("$('dialog')").await;
    for _ in 0..5 {
        browser.press(&[key::TAB]).await;
        // Beyond the dialog is the browser itself, never the page behind.
        let inside = "const at = focus(); return at === document.body || !!at.closest('dialog')";
        assert_eq!(browser.run(inside).await, true);
    }
    browser.press(&[key::ESCAPE]).await;
    browser.until(&format!("!$('dialog') && focus() === {revoke}")).await;

    browser.press(&[key::ENTER]).await;
    browser.tab_to("$('dialog button', 'Revoke')").await;
    browser.press(&[key::ENTER]).await;
    browser.until("!$('dialog') && !$('button[aria-label]', 'Revoke laptop')").await;

    browser.run("document.body.append(document.createElement('farebox-upsell'))").await;
    browser.run("$('h1').tabIndex = -1; $('h1').focus()").await;
    browser.run("document.querySelector('farebox-upsell').show()").await;
    browser.tab_to("$('dialog [part~=later]')").await;
    browser.press_with(key::SHIFT, key::TAB).await;
    browser.press(&[key::ESCAPE]).await;
    browser.until("!$('dialog') && focus() === $('h1')").await;

    browser.tab_to("$('header button', 'Sign out')").await;
    browser.press(&[key::ENTER]).await;
    browser.until("$('input[type=password]')").await;
    browser.assert_quiet(&[demo.process.public]).await;
}
