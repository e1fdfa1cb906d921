//! Pages of other origins: an app's page, which may use the account, and a stranger's page, which
//! may not.

use serde_json::json;

use crate::app::App;
use crate::browser::Browser;
use crate::seller::Seller;
use crate::support::token;

/// An app's page with every widget; `window.token` is what its user is signed in with.
fn app_page(gateway: &str) -> String {
    format!(
        r#"<script type="module" src="{gateway}/credits/ui/farebox.js"></script>
<script type="module">
  import {{ configure, client }} from '{gateway}/credits/ui/farebox.js';
  window.store = () => client();
  window.signIn = (token) => {{ window.token = token; configure({{ token: async () => window.token }}) }};
  addEventListener('farebox-checkout', (event) => {{ event.preventDefault(); window.checkout = event.detail }});
  configure({{ token: async () => window.token }});
</script>
<p>You have <farebox-balance inline show-buy-button></farebox-balance></p>
<farebox-packs></farebox-packs><farebox-history></farebox-history><farebox-upsell></farebox-upsell>"#
    )
}

#[tokio::test]
async fn widgets_work_on_an_apps_own_page_by_its_tokens() {
    let app = App::start().await;
    let seller = Seller::open(&app.origin()).await;
    seller.grant("alice", 23, "welcome").await;
    let gateway = seller.process.url("");
    app.put_body("/", &app_page(&gateway));
    let browser = Browser::start().await;
    browser.open(&app.origin()).await;
    // The visitor is not signed in: the packs are for everybody, the rest asks for a sign-in.
    browser.until("all('[part~=pack]').length === 3 && $('farebox-balance').shadowRoot").await;
    browser.until("words().includes('Sign in to see your credits.')").await;
    browser.run_with("signIn(arguments[0])", json!([token("alice")])).await;
    browser.until("credits() === 23 && $('[part~=entry]', 'welcome')").await;

    // A call that is made elsewhere, by the stream; then the page's own.
    assert_eq!(seller.process.post("alice", "/api/ai/generate").await.status, 200);
    browser.until("credits() === 18 && $('dialog', 'running low')").await;
    browser.click("$('dialog [part~=close]')").await;
    browser.until("!$('dialog')").await;
    let call = "const answer = await store().fetch(new URL('/api/ai/generate', store().base), \
        { method: 'POST', body: '{}' }); return [answer.status, credits()]";
    let call = format!("return (async () => {{ {call} }})()");
    assert_eq!(browser.run(&call).await, json!([200, 13]));
    // The widgets also look at the app's requests by window.fetch, and answer refused ones with an offer.
    for _ in 0..2 {
        browser.run(&call).await;
    }
    browser.until("credits() === 3").await;
    let refused = "return fetch(new URL('/api/ai/generate', store().base), { method: 'POST', \
        headers: { authorization: `Bearer ${window.token}` } }).then((answer) => answer.status)";
    assert_eq!(browser.run(refused).await, 402);
    browser.until("$('dialog', 'Not enough credits') && $('dialog', '3 credits are left')").await;
    browser.click("$('dialog [part~=later]')").await;
    browser.until("!$('dialog')").await;
    browser.click("$('[part~=button]', 'Buy credits')").await;
    browser.until("$('dialog [part~=later]')").await;
    browser.click("$('dialog [part~=close]')").await;

    browser.click("$('[part~=buy]', 'Pack 500')").await;
    browser.until("window.checkout?.checkout_url").await;
    assert_eq!(seller.stripe.asked_for("POST", "/v1/checkout/sessions").len(), 1);
    browser.run("signIn(null)").await;
    browser.until("words().includes('Sign in to see your credits.') && !$('[part~=entry]')").await;
    browser.assert_quiet(&[app.address, seller.process.public]).await;
}

/// Attempts of a stranger's page with a person's cookie in the browser; each reports how it ended.
const ATTEMPTS: &str = r#"
const path = (name) => `${arguments[0]}/credits/${name}`;
const told = (attempt) => attempt.then(async (answer) => answer.type === 'opaque' ? 'opaque' : `${answer.status} ${await answer.text()}`, () => 'refused');
const json = { 'content-type': 'application/json' };
const pack = '{"pack":"pack-500"}';
return Promise.all([
  ...['balance', 'transactions', 'keys', 'usage', 'session', 'account', 'events'].map((name) => told(fetch(path(name), { credentials: 'include' }))),
  told(fetch(path('buy'), { method: 'POST', credentials: 'include', headers: json, body: pack })),
  told(fetch(path('keys'), { method: 'POST', credentials: 'include', headers: json, body: '{"name":"x"}' })),
  told(fetch(path('session'), { method: 'DELETE', credentials: 'include' })),
  new Promise((done) => {
    const events = new EventSource(path('events'), { withCredentials: true });
    events.addEventListener('balance', ({ data }) => done(data));
    events.onerror = () => (events.close(), done('refused'));
  }),
  // A browser sends these without asking; the answer is hidden, so what counts is what they did.
  told(fetch(path('buy'), { method: 'POST', mode: 'no-cors', credentials: 'include', body: pack })).then((said) => said === 'opaque' ? 'refused' : said),
  told(fetch(path('keys'), { method: 'POST', mode: 'no-cors', credentials: 'include', body: '{"name":"x"}' })).then((said) => said === 'opaque' ? 'refused' : said),
])"#;

#[tokio::test]
async fn a_strangers_page_can_neither_read_nor_buy_nor_frame() {
    let stranger = App::start().await;
    let seller = Seller::open("http://app.example.com").await;
    seller.grant("alice", 500, "welcome").await;
    let gateway = seller.process.url("");
    let form = format!(
        r#"<iframe src="{gateway}/credits/account"></iframe>
<form method="post" enctype="text/plain" action="{gateway}/credits/buy"><input name='{{"pack":"pack-500","x":"' value='"}}'></form>"#
    );
    stranger.put_body("/", &form);
    let browser = Browser::start().await;
    browser.sign_in_by(&seller.link("alice")).await;
    browser.until("credits() === 500").await;
    // Another site, and another port of the same one, to which the browser sends even a strict cookie.
    for origin in [stranger.origin(), stranger.near_origin()] {
        browser.open(&origin).await;
        let ended = browser.run_with(ATTEMPTS, json!([gateway])).await;
        for said in ended.as_array().unwrap() {
            assert_eq!(said, "refused", "{origin}: {ended:#}");
        }
        browser.enter(Some("$('iframe')")).await;
        browser.until("location.protocol === 'chrome-error:'").await;
        browser.enter(None).await;
        browser.run("$('form').submit()").await;
        // The route is unknown there, or known and refused.
        let refused = "location.pathname === '/credits/buy' && /\"status\":40[13]/.test(words())";
        browser.until(refused).await;
    }
    assert!(seller.stripe.asked_for("POST", "/v1/checkout/sessions").is_empty());
    // The widgets do not work there either, and the person is still signed in.
    stranger.put_body("/widgets", &app_page(&gateway));
    browser.open(&format!("{}/widgets", stranger.near_origin())).await;
    browser.until("$('[part~=retry]')").await;
    assert_eq!(browser.run("return words().includes('500 credits')").await, false);
    browser.open(&seller.process.url("/credits/account")).await;
    browser.until("credits() === 500 && $('p', 'No keys yet.')").await;
}
