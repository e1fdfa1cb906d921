//! The README's pictures: a month of somebody's calls, as its owner and as the operator sees it.

use http::Method;
use serde_json::{Value, json};

use crate::browser::{Browser, LOOKS};
use crate::http::Answer;
use crate::seller::{PACKS, Seller};
use crate::support::clock::Clock;
use crate::support::stripe::event::VERSION;
use crate::support::{ADMIN_TOKEN, token};

const ROUTES: &str = r#"
[[routes]]
path = "/api/ai/generate/hd"
upstream = "ai"
credits = 10
cost = "0.08 EUR"

[[routes]]
path = "/api/3d/render-highres"
upstream = "ai"
credits = 8
cost = "0.02 EUR"
"#;

impl Seller {
    /// `account` buys pack-500 and pays.
    pub async fn sell(&self, account: &str) {
        let request = self.process.client.post(self.process.url("/credits/buy"));
        let request = request.bearer_auth(token(account)).body(r#"{"pack":"pack-500"}"#);
        let session = Answer::of(request).await.expect(200);
        for event in self.stripe.pay(session["session_id"].as_str().unwrap()) {
            let url = self.process.url("/webhooks/stripe");
            Answer::of(event.request(&self.process.client, url, VERSION)).await.expect(200);
        }
    }

    /// Makes this number of calls on a route, one after the other.
    async fn call(&self, account: &str, route: &str, times: usize) {
        for _ in 0..times {
            assert_eq!(self.process.post(account, route).await.status, 200);
        }
    }
}

#[tokio::test]
async fn the_readmes_pictures_show_a_month() {
    let clock = Clock::new();
    clock.is_off_by("-29d");
    let seller = Seller::with(&format!("{ROUTES}{PACKS}"), Some(&clock)).await;
    for account in ["anna", "lumen-studio", "workshop-7"] {
        seller.grant(account, 1500, "welcome").await;
    }
    for day in (1..29).rev() {
        clock.is_off_by(&format!("-{day}d"));
        // Some days are busier, and weekends are quiet.
        let busy = [3, 5, 4, 6, 2, 0, 1][day % 7] + day % 3;
        seller.call("anna", "/api/ai/generate", busy).await;
        seller.call("anna", "/api/ai/generate/hd", busy / 3).await;
        seller.call("anna", "/api/3d/render-highres", busy / 2).await;
    }
    for hour in (1..24).rev() {
        clock.is_off_by(&format!("-{hour}h"));
        let busy = [2, 4, 7, 9, 6, 3, 1, 0][hour % 8];
        seller.call("lumen-studio", "/api/ai/generate", busy).await;
        seller.call("workshop-7", "/api/ai/generate/hd", busy / 3).await;
    }
    clock.is_off_by("+0");
    seller.sell("lumen-studio").await;
    seller.sell("anna").await;
    seller.call("anna", "/api/ai/generate", 3).await;

    let browser = Browser::start().await;
    browser.look(LOOKS[0]).await;
    browser.sign_in_by(&seller.link("anna")).await;
    browser.until("$('svg') && all('[part~=entry]').length === 10 && !$('.bone')").await;
    browser.fill("$('input[name=name]')", "laptop").await;
    browser.click("$('form button', 'Make a key')").await;
    browser.until("$('button[aria-label]', 'Revoke laptop')").await;
    browser.open(&seller.process.url("/credits/account")).await;
    for (look, name) in [(LOOKS[0], "account"), (LOOKS[1], "account-phone")] {
        browser.look(look).await;
        browser.until("$('svg') && all('[part~=entry]').length === 10 && !$('.bone')").await;
        assert_eq!(browser.run("return overflow()").await, 0);
        browser.picture(name).await;
    }
    browser.look(LOOKS[0]).await;
    // Nearly all of it is gone, and a call meets its 402.
    let left = seller.process.account("anna").await["balance"].as_i64().unwrap();
    let taken = json!({ "credits": (4 - left).to_string(), "id": "gone", "reason": "a busy day" });
    let path = "/admin/accounts/anna/adjustments";
    seller.process.admin(Method::POST, path, &taken.to_string()).await.expect(200);
    browser.until("credits() === 4").await;
    let upsell = "const upsell = document.createElement('farebox-upsell'); \
        upsell.setAttribute('manual', ''); document.body.append(upsell)";
    browser.run(upsell).await;
    let refusal = json!({ "required": 10, "available": 4 });
    let show = "document.querySelector('farebox-upsell').show(arguments[0])";
    assert_eq!(browser.run_with(show, json!([refusal])).await, Value::Null);
    browser.until("$('dialog', 'Not enough credits') && !$('.bone')").await;
    browser.picture("upsell").await;

    browser.open(&seller.admin()).await;
    browser.fill("$('input[type=password]')", ADMIN_TOKEN).await;
    browser.click("$('form button')").await;
    browser.until("all('svg').length === 4 && $('.stats', '€158.00')").await;
    assert_eq!(browser.run("return overflow()").await, 0);
    browser.picture("admin").await;
    browser.assert_quiet(&[seller.process.public, seller.process.admin]).await;
}
