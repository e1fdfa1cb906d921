//! `farebox demo`, with no Stripe key: a newcomer buys a pack in the browser.

use reqwest::Url;
use serde_json::Value;

use crate::http::{Answer, plain_client};
use crate::process::{Process, command, config_on_ports, free_port};
use crate::shop::ends;
use crate::support::{Upstream, eventually, token};

/// A demo of its own, and the key that it prints.
fn demo(folder: &std::path::Path, more: &[&str], env: &[(&str, &str)]) -> (Process, String) {
    let listen = format!("127.0.0.1:{}", free_port());
    let admin = format!("127.0.0.1:{}", free_port());
    let mut env = env.to_vec();
    env.push(("TMPDIR", folder.to_str().unwrap()));
    let arguments = [&["demo", "--listen", &listen, "--admin", &admin], more].concat();
    let command = command(folder, &arguments, &env);
    let mut demo = Process::start(command, listen.parse().unwrap(), admin.parse().unwrap());
    demo.wait_until(|demo| demo.stdout().contains("gift-1"));
    let said = demo.stdout();
    let key = said
        .split(|c: char| c.is_whitespace() || c == '"' || c == '\'')
        .find(|word| word.starts_with("fb_"));
    let key = key.unwrap_or_else(|| panic!("no key: {said}")).to_owned();
    (demo, key)
}

async fn balance(demo: &Process, key: &str) -> f64 {
    let request = demo.client.get(demo.url("/credits/balance")).bearer_auth(key);
    Answer::of(request).await.expect(200)["balance"].as_f64().unwrap()
}

/// The first form of a page, as a browser would send it when its button is pressed: the address,
/// the method and the fields.
fn form(page: &str, address: &Url) -> (Url, String, Vec<(String, String)>) {
    let start = page.find("<form").unwrap_or_else(|| panic!("no form: {page}"));
    let end = start + page[start..].find("</form>").unwrap();
    let form = &page[start..end];
    let head = &form[..form.find('>').unwrap()];
    let action = attribute(head, "action").unwrap_or_default();
    let method = attribute(head, "method").unwrap_or_else(|| "get".to_owned());
    let mut fields = Vec::new();
    for (start, _) in form.match_indices("<input") {
        let tag = &form[start..start + form[start..].find('>').unwrap()];
        if let Some(name) = attribute(tag, "name") {
            fields.push((name, attribute(tag, "value").unwrap_or_default()));
        }
    }
    if let Some(start) = form.find("<button") {
        let tag = &form[start..start + form[start..].find('>').unwrap()];
        fields.extend(
            attribute(tag, "name").map(|name| (name, attribute(tag, "value").unwrap_or_default())),
        );
    }
    (address.join(&action).unwrap(), method.to_lowercase(), fields)
}

fn attribute(tag: &str, name: &str) -> Option<String> {
    let (_, rest) = tag.split_once(&format!(" {name}="))?;
    let quote = rest.chars().next().filter(|c| ['"', '\''].contains(c));
    let value = match quote {
        Some(quote) => rest[1..].split(quote).next(),
        None => rest.split(|c: char| c.is_whitespace() || c == '>').next(),
    };
    value.map(|value| value.replace("&amp;", "&").replace("&quot;", "\"").replace("&#39;", "'"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newcomer_buys_a_pack_in_the_demo_s_own_checkout() {
    let folder = tempfile::tempdir().unwrap();
    let (mut demo, key) = demo(folder.path(), &[], &[]);
    let before = balance(&demo, &key).await;
    let request = demo.client.post(demo.url("/credits/buy")).bearer_auth(&key);
    let bought = Answer::of(request.body(r#"{"pack":"pack-500"}"#)).await.expect(200);
    assert!(bought["session_id"].as_str().unwrap().starts_with("cs_"), "{bought}");
    let address = Url::parse(bought["checkout_url"].as_str().unwrap()).unwrap();
    assert_eq!(address.host_str(), Some("127.0.0.1"), "on this machine: {address}");

    // A browser brings no key: the page is reached by its address alone.
    let page = Answer::of(demo.client.get(address.clone())).await;
    assert_eq!(page.status, 200, "{}", page.text);
    assert!(page.header("content-type").starts_with("text/html"), "{:?}", page.headers);
    assert!(page.text.contains("Pack 500") && page.text.contains("79"), "{}", page.text);
    assert_eq!(balance(&demo, &key).await, before, "looking is free");
    let (action, method, fields) = form(&page.text, &address);
    assert_eq!(method, "post", "a link that is only looked at buys nothing");
    let pay = async || {
        let mut body = Url::parse("http://form/").unwrap();
        body.query_pairs_mut().extend_pairs(&fields);
        let request =
            demo.client.post(action.clone()).body(body.query().unwrap_or_default().to_owned());
        Answer::of(request.header("content-type", "application/x-www-form-urlencoded")).await
    };
    let paid = pay().await;
    assert!(paid.status.as_u16() < 400, "{} {}", paid.status, paid.text);
    assert!(
        paid.header("content-security-policy").contains("script-src 'self'"),
        "the account page"
    );
    let risen = eventually(async || balance(&demo, &key).await == before + 500.0);
    assert!(risen.await, "{}", demo.stderr());
    // Pressed twice, and gone back to: one purchase.
    pay().await;
    let again = Answer::of(demo.client.get(address)).await;
    assert!(again.status.as_u16() < 500, "{}", again.text);
    assert_eq!(balance(&demo, &key).await, before + 500.0);
    let request = demo.client.get(demo.url("/credits/transactions")).bearer_auth(&key);
    let lines = Answer::of(request).await.expect(200);
    let kinds: Vec<&Value> =
        lines["transactions"].as_array().unwrap().iter().map(|line| &line["kind"]).collect();
    assert_eq!(kinds.iter().filter(|kind| **kind == "grant").count(), 2, "{lines}");
    assert_eq!(demo.terminate().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_demo_s_checkout_knows_an_idempotency_key_again() {
    let folder = tempfile::tempdir().unwrap();
    let (mut demo, key) = demo(folder.path(), &[], &[]);
    let buy = async |pack: &str| {
        let request = demo.client.post(demo.url("/credits/buy")).bearer_auth(&key);
        let request = request.header("idempotency-key", "basket-7");
        Answer::of(request.body(format!(r#"{{"pack":"{pack}"}}"#))).await
    };
    let first = buy("pack-500").await.expect(200);
    assert_eq!(buy("pack-500").await.expect(200), first);
    buy("pack-100").await.problem(422, "IDEMPOTENCY_CONFLICT");
    assert_eq!(buy("pack-500").await.expect(200), first);
    assert_eq!(demo.terminate().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_demo_s_webhook_believes_nobody_either() {
    let folder = tempfile::tempdir().unwrap();
    let (mut demo, _) = demo(folder.path(), &[], &[]);
    for secret in ["", "whsec_test", "whsec_demo", "demo"] {
        let body = r#"{"id":"evt_1","object":"event","type":"checkout.session.completed","data":{"object":{}}}"#;
        let now = crate::support::stripe::books::now();
        let header = crate::support::stripe::signature::header(body, secret, now);
        let request = demo.client.post(demo.url("/webhooks/stripe"));
        let answer = Answer::of(request.header("stripe-signature", header).body(body)).await;
        let status = answer.status.as_u16();
        assert!((400..500).contains(&status), "{secret}: {status} {}", answer.text);
    }
    assert_eq!(demo.terminate().code(), Some(0));
}

#[test]
fn beside_a_live_key_the_demo_refuses_to_start() {
    let folder = tempfile::tempdir().unwrap();
    for key in ["sk_live_theRealOne", "rk_live_theRealOne"] {
        let env = [("STRIPE_SECRET_KEY", key), ("TMPDIR", folder.path().to_str().unwrap())];
        let arguments = ["demo", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
        let (code, said) = ends(command(folder.path(), &arguments, &env));
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains("live") && !said.contains(key), "{said}");
    }
}

/// The file of a gateway that sells, which somebody tries the demo with.
#[test]
fn with_a_file_that_names_a_live_key_the_demo_refuses_to_start() {
    let folder = tempfile::tempdir().unwrap();
    let live = "sk_live_theRealOne";
    let temporary = ("TMPDIR", folder.path().to_str().unwrap());
    for (written, env) in [
        (live, None),
        ("${STRIPE_KEY}", Some(("STRIPE_KEY", live))),
        ("${STRIPE_KEY:-sk_live_theRealOne}", None),
        // The variable that is looked at without a file holds a test's.
        (live, Some(("STRIPE_SECRET_KEY", "sk_test_another"))),
    ] {
        let file = folder.path().join("own.toml");
        std::fs::write(&file, format!("[stripe]\nsecret_key = \"{written}\"\n")).unwrap();
        let file = file.to_str().unwrap();
        let listeners = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
        let arguments = [&["demo", "--config", file], &listeners[..]].concat();
        let env: Vec<(&str, &str)> = [temporary].into_iter().chain(env).collect();
        let (code, said) = ends(command(folder.path(), &arguments, &env));
        assert_eq!(code, Some(2), "{written}: {said}");
        assert!(said.contains("live") && !said.contains(live), "{said}");
    }
}

/// A test key, a key whose variable is not set, and a key that is no text do not stop the demo.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_file_that_names_no_live_key_the_demo_starts() {
    let folder = tempfile::tempdir().unwrap();
    for key in ["\"sk_test_1\"", "\"${STRIPE_SECRET_KEY}\"", "\"${\"", "7"] {
        let file = folder.path().join("own.toml");
        std::fs::write(&file, format!("[stripe]\nsecret_key = {key}\n")).unwrap();
        let (mut demo, _) = demo(folder.path(), &["--config", file.to_str().unwrap()], &[]);
        assert_eq!(demo.terminate().code(), Some(0), "{key}");
    }
}

/// A shop without a Stripe account, under `serve`: the whole purchase, behind a proxy that speaks TLS.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_sells_on_the_sandbox_s_page_until_it_has_a_stripe_account() {
    let folder = tempfile::tempdir().unwrap();
    let upstream = Upstream::canned().await;
    let packs = "[[packs]]\nid = \"p\"\ncredits = 100\nprice = \"19.00 EUR\"\n";
    let stripe = "[stripe]\nsandbox = true\nsuccess_url = \"https://app.example.com/thanks\"\n";
    let text = config_on_ports(upstream.address, &format!("{packs}{stripe}"));
    let mut gateway = Process::serve(folder.path(), &text);
    let buy = async |headers: &[(&str, &str)]| {
        let mut request = gateway.client.post(gateway.url("/credits/buy"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let bought = Answer::of(request.bearer_auth(token("alice")).body(r#"{"pack":"p"}"#)).await;
        bought.expect(200)["checkout_url"].as_str().unwrap().to_owned()
    };
    let outside = buy(&[("host", "api.example.com"), ("x-forwarded-proto", "https")]).await;
    assert!(outside.starts_with("https://api.example.com/credits/sandbox/checkout/"), "{outside}");

    let address = buy(&[]).await;
    let page = Answer::of(gateway.client.get(&address)).await;
    assert!(page.text.contains("no money moves"), "{}", page.text);
    let policy = page.header("content-security-policy");
    assert!(policy.contains("form-action 'self' https://app.example.com;"), "{policy}");
    let (action, _, _) = form(&page.text, &address.parse().unwrap());
    let stay = plain_client().redirect(reqwest::redirect::Policy::none());
    let paid = stay.build().unwrap().post(action).send().await.unwrap();
    assert_eq!(paid.headers()["location"], "https://app.example.com/thanks");
    let has_credits = eventually(async || gateway.account("alice").await["balance"] == 100);
    assert!(has_credits.await);
    assert!(gateway.stderr().contains("gives credits away"), "{}", gateway.stderr());
    assert!(gateway.terminate().success());

    // Never beside a live key, in the file or in the environment.
    let live = "sk_live_ofThisTest";
    let file = folder.path().join("gateway.toml");
    for (text, env) in [
        (text.clone(), &[("STRIPE_SECRET_KEY", live)][..]),
        (text.replace("sandbox = true", &format!("sandbox = true\nsecret_key = \"{live}\"")), &[]),
    ] {
        std::fs::write(&file, text).unwrap();
        for name in ["serve", "check"] {
            let (code, said) = ends(command(folder.path(), &[name], env));
            assert_eq!(code, Some(2), "{name}: {said}");
            assert!(said.contains("live key") && !said.contains(live), "{name}: {said}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sandbox_s_page_shows_the_seller_and_speaks_the_buyer_s_language() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("logo.svg"), "<svg xmlns='http://www.w3.org/2000/svg'/>")
        .unwrap();
    let upstream = Upstream::canned().await;
    let packs = "[[packs]]\nid = \"p\"\ncredits = 0.5\nprice = \"19.50 EUR\"\n";
    let brand = "[brand]\nname = \"Lumen <b>Studio</b>\"\nlogo = \"logo.svg\"\n";
    let text =
        config_on_ports(upstream.address, &format!("{packs}[stripe]\nsandbox = true\n{brand}"));
    let gateway = Process::serve(folder.path(), &text);
    let buy = gateway.client.post(gateway.url("/credits/buy")).bearer_auth(token("alice"));
    let bought = Answer::of(buy.body(r#"{"pack":"p"}"#)).await;
    let address = bought.expect(200)["checkout_url"].as_str().unwrap().to_owned();
    let page = async |address: &str, language: &str| {
        Answer::of(gateway.client.get(address).header("accept-language", language)).await
    };
    for (language, words) in [
        (
            "en",
            [
                "<html lang=en>",
                "no money moves",
                "Pay 19.50 EUR",
                "0.5 credits for alice",
                "Cancel",
            ],
        ),
        (
            "fr-CA, en;q=0.5",
            [
                "<html lang=fr>",
                "aucun paiement réel",
                "Payer 19,50 EUR",
                "0,5 crédit pour alice",
                "Annuler",
            ],
        ),
    ] {
        let answer = page(&address, language).await;
        for word in words {
            assert!(answer.text.contains(word), "{word}: {}", answer.text);
        }
        assert!(answer.text.contains("Lumen &lt;b&gt;Studio&lt;/b&gt;"), "{}", answer.text);
        assert!(answer.text.contains("src=\"/credits/brand/logo\""), "{}", answer.text);
        let policy = answer.header("content-security-policy");
        assert!(policy.contains("img-src 'self';"), "{policy}");
        assert_eq!(answer.header("vary"), "accept-language");
    }
    // The page after the checkout is in the buyer's language as well.
    let (action, _, _) = form(&page(&address, "fr").await.text, &address.parse().unwrap());
    let stay = plain_client().redirect(reqwest::redirect::Policy::none());
    stay.build().unwrap().post(action).send().await.unwrap();
    assert!(
        page(&address, "fr").await.text.contains("<b>0,5</b> crédit a été ajouté à <b>alice</b>")
    );
    assert!(
        page(&address, "en").await.text.contains("<b>0.5</b> credits were added to <b>alice</b>")
    );
}
