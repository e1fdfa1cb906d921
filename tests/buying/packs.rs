//! `farebox packs sync`: Stripe knows what gateway.toml sells, and nobody clicks.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::backend::Backend;
use crate::process::{fails, ok};
use crate::sdk::Sdk;
use crate::shop::{Shop, config};
use crate::support::Upstream;
use crate::support::stripe::{Fault, SECRET_KEY, Stripe};

/// The gateway's webhook address, as Stripe knows it.
const WEBHOOK_URL: &str = "https://shop.example.com/webhooks/stripe";

/// A folder with a gateway.toml.
async fn seller(stripe: &Stripe, change: impl Fn(String) -> String) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let upstream = Upstream::canned().await;
    let text = change(config(&upstream, stripe, ""));
    std::fs::write(folder.path().join("gateway.toml"), text).unwrap();
    folder
}

const SYNC: [&str; 4] = ["packs", "sync", "--webhook-url", WEBHOOK_URL];

fn sync(folder: &TempDir) -> String {
    ok(folder.path(), &SYNC)
}

/// The active price of each pack, by how much it costs.
fn active_prices(stripe: &Stripe) -> Vec<Value> {
    let mut prices = stripe.all("price");
    prices.retain(|price| price["active"] == true);
    prices.sort_by_key(|price| price["unit_amount"].as_i64());
    prices
}

/// Every product, price and webhook endpoint at Stripe.
fn everything(stripe: &Stripe) -> Vec<Value> {
    ["product", "price", "webhook_endpoint"].iter().flat_map(|kind| stripe.all(kind)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn products_prices_and_the_endpoint_are_made_once() {
    let stripe = Stripe::start().await;
    let folder = seller(&stripe, |text| text).await;
    let said = sync(&folder);
    let prices = active_prices(&stripe);
    let amounts: Vec<_> =
        prices.iter().map(|price| price["unit_amount"].as_i64().unwrap()).collect();
    assert_eq!(amounts, [1900, 7900], "{prices:?}");
    for price in &prices {
        assert_eq!(price["currency"], "eur");
        assert!(price["lookup_key"].is_string(), "found again by its lookup key: {price}");
        // The hint names the key and an example.
        assert!(said.contains(price["id"].as_str().unwrap()), "{said}");
    }
    let names: Vec<_> = stripe.all("product").iter().map(|made| made["name"].clone()).collect();
    assert_eq!(names, ["Pack 500", "Pack 100"]);
    let endpoints = stripe.all("webhook_endpoint");
    assert_eq!(endpoints.len(), 1);
    assert_eq!(endpoints[0]["url"], WEBHOOK_URL);
    let events = endpoints[0]["enabled_events"].as_array().unwrap();
    for needed in [
        "checkout.session.completed",
        "checkout.session.async_payment_succeeded",
        "checkout.session.async_payment_failed",
        "checkout.session.expired",
        "refund.created",
        "charge.refunded",
        "charge.dispute.created",
        "charge.dispute.funds_withdrawn",
        "charge.dispute.funds_reinstated",
        "charge.dispute.closed",
    ] {
        assert!(events.contains(&json!(needed)), "{needed}: {events:?}");
    }
    // Stripe tells the secret once: whoever ran this must see it.
    let made = stripe.asked_for("POST", "/v1/webhook_endpoints");
    assert_eq!(made.len(), 1);
    assert!(said.contains(made[0].answer["secret"].as_str().unwrap()), "{said}");
    assert!(!said.contains(SECRET_KEY), "{said}");

    let before = everything(&stripe);
    let asked = stripe.asked().len();
    let again = sync(&folder);
    assert_eq!(everything(&stripe), before, "the second time nothing changes");
    assert!(!again.contains("whsec_"), "{again}");
    let writes = stripe.asked().into_iter().skip(asked).filter(|asked| asked.method == "POST");
    assert_eq!(writes.count(), 0, "nor is anything written");
    for asked in stripe.asked().iter().filter(|asked| asked.method == "POST") {
        assert!(asked.header("idempotency-key").is_some(), "{asked:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_requests_are_ones_that_stripe_s_own_types_allow() {
    let stripe = Stripe::start().await;
    let folder = seller(&stripe, |text| text).await;
    sync(&folder);
    let text = std::fs::read_to_string(folder.path().join("gateway.toml")).unwrap();
    let text = text.replace("79.00 EUR", "89.00 EUR").replace("Pack 100", "Small pack");
    std::fs::write(folder.path().join("gateway.toml"), text).unwrap();
    sync(&folder);
    let mut sdk = Sdk::start();
    for asked in stripe.asked() {
        let path = asked.path.trim_start_matches("/v1/");
        let operation = match path.split_once('/') {
            Some((list, _)) => format!("{} /v1/{list}/{{id}}", asked.method),
            None => format!("{} /v1/{path}", asked.method),
        };
        assert_eq!(sdk.mistakes(&operation, &asked.parameters), json!([]), "{asked:?}");
        assert_eq!(asked.status, 200, "{asked:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_price_is_a_new_price_under_the_same_lookup_key() {
    let stripe = Stripe::start().await;
    let folder = seller(&stripe, |text| text).await;
    sync(&folder);
    let old = active_prices(&stripe).pop().unwrap();
    let text = std::fs::read_to_string(folder.path().join("gateway.toml")).unwrap();
    let text = text.replace("79.00 EUR", "89.00 EUR");
    std::fs::write(folder.path().join("gateway.toml"), text).unwrap();
    let said = sync(&folder);
    let new = active_prices(&stripe).pop().unwrap();
    assert_eq!(new["unit_amount"], 8900);
    assert_ne!(new["id"], old["id"], "Stripe's prices never change their amount");
    assert_eq!(new["lookup_key"], old["lookup_key"], "the key has moved");
    assert_eq!(new["product"], old["product"], "the product is the same");
    assert!(said.contains(new["id"].as_str().unwrap()), "{said}");
    assert!(stripe.get(old["id"].as_str().unwrap())["lookup_key"].is_null());
    assert_eq!(stripe.all("product").len(), 2);
    let before = everything(&stripe);
    sync(&folder);
    assert_eq!(everything(&stripe), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_name_changes_the_product() {
    let stripe = Stripe::start().await;
    let folder = seller(&stripe, |text| text).await;
    sync(&folder);
    let text = std::fs::read_to_string(folder.path().join("gateway.toml")).unwrap();
    std::fs::write(folder.path().join("gateway.toml"), text.replace("Pack 500", "Big pack"))
        .unwrap();
    sync(&folder);
    let names: Vec<_> = stripe.all("product").iter().map(|made| made["name"].clone()).collect();
    assert_eq!(names, ["Big pack", "Pack 100"]);
    assert_eq!(stripe.all("price").len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_price_that_was_made_by_hand_is_adopted() {
    let stripe = Stripe::start().await;
    let product = stripe.ask("POST", "/v1/products", "name=Made+by+hand");
    let form = format!("product={}&currency=eur&unit_amount=7900", product["id"].as_str().unwrap());
    let price = stripe.ask("POST", "/v1/prices", &form)["id"].as_str().unwrap().to_owned();
    let adopt = |text: String| {
        text.replace("id = \"pack-500\"", &format!("id = \"pack-500\"\nstripe_price = \"{price}\""))
    };
    let folder = seller(&stripe, adopt).await;
    sync(&folder);
    let of_500 = active_prices(&stripe).into_iter().filter(|price| price["unit_amount"] == 7900);
    let of_500: Vec<_> = of_500.collect();
    assert_eq!(of_500.len(), 1, "no second one is made: {of_500:?}");
    assert_eq!(of_500[0]["id"], price.as_str());
    assert_eq!(stripe.all("product").len(), 2, "one made by hand, one for the other pack");
    let before = everything(&stripe);
    sync(&folder);
    assert_eq!(everything(&stripe), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_adopted_price_of_another_amount_is_never_sold_under_a_wrong_label() {
    let stripe = Stripe::start().await;
    let product = stripe.ask("POST", "/v1/products", "name=Made+by+hand");
    let form = format!("product={}&currency=eur&unit_amount=100", product["id"].as_str().unwrap());
    let price = stripe.ask("POST", "/v1/prices", &form)["id"].as_str().unwrap().to_owned();
    let adopt = |text: String| {
        text.replace("id = \"pack-500\"", &format!("id = \"pack-500\"\nstripe_price = \"{price}\""))
    };
    let folder = seller(&stripe, adopt).await;
    let output = crate::process::run(folder.path(), &SYNC);
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(said.contains(&price), "the seller is told which price is wrong: {said}");
    let unchanged = stripe.get(&price);
    assert_eq!(unchanged["unit_amount"], 100);
    let right = active_prices(&stripe).iter().any(|price| price["unit_amount"] == 7900);
    assert!(right || !output.status.success(), "either a right price, or a refusal: {said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_lost_its_events_gets_them_back() {
    let stripe = Stripe::start().await;
    let folder = seller(&stripe, |text| text).await;
    sync(&folder);
    let endpoint = stripe.all("webhook_endpoint").pop().unwrap();
    let id = endpoint["id"].as_str().unwrap();
    stripe.change(id, json!({ "enabled_events": ["charge.refunded"], "status": "disabled" }));
    // Somebody else's endpoint is left alone.
    let theirs = stripe.ask(
        "POST",
        "/v1/webhook_endpoints",
        "url=https://other.example.com/hook&enabled_events[0]=charge.failed",
    );
    sync(&folder);
    assert_eq!(stripe.all("webhook_endpoint").len(), 2);
    let mended = stripe.get(id);
    let events = |endpoint: &Value| {
        let events = endpoint["enabled_events"].as_array().unwrap().iter();
        events.map(|event| event.as_str().unwrap().to_owned()).collect::<BTreeSet<_>>()
    };
    assert_eq!(events(&mended), events(&endpoint));
    assert_eq!(mended["status"], "enabled");
    let theirs = stripe.get(theirs["id"].as_str().unwrap());
    assert_eq!(theirs["enabled_events"], json!(["charge.failed"]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_finds_its_own_among_hundreds() {
    let stripe = Stripe::start().await;
    let folder = seller(&stripe, |text| text).await;
    sync(&folder);
    let before = everything(&stripe).len();
    for n in 0..130 {
        let product = stripe.ask("POST", "/v1/products", &format!("name=Thing+{n}"));
        let id = product["id"].as_str().unwrap();
        stripe.ask("POST", "/v1/prices", &format!("product={id}&currency=eur&unit_amount=7900"));
        let hook = format!("url=https://other.example.com/{n}&enabled_events[]=charge.failed");
        stripe.ask("POST", "/v1/webhook_endpoints", &hook);
    }
    sync(&folder);
    assert_eq!(everything(&stripe).len(), before + 3 * 130);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_it_made_is_what_is_sold() {
    let stripe = Stripe::start().await;
    let folder = seller(&stripe, |text| text).await;
    sync(&folder);
    let price = active_prices(&stripe).pop().unwrap()["id"].as_str().unwrap().to_owned();
    let upstream = Upstream::canned().await;
    let text = config(&upstream, &stripe, "");
    let text = text
        .replace("id = \"pack-500\"", &format!("id = \"pack-500\"\nstripe_price = \"{price}\""));
    let shop = Shop::open_on(Backend::Embedded, stripe, upstream, text);
    let session = shop.bought("alice").await;
    assert_eq!(shop.stripe.line_items(&session)[0]["price"]["id"], price.as_str());
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_of_stripe_s_is_said_and_can_be_tried_again() {
    let stripe = Stripe::start().await;
    let folder = seller(&stripe, |text| text).await;
    for fault in [Fault::Status(500), Fault::Status(401), Fault::CutBefore, Fault::Page] {
        stripe.fail("/", fault);
        let said = fails(folder.path(), &SYNC, 1);
        assert!(said.len() > 20 && !said.contains(SECRET_KEY), "{fault:?}: {said}");
        stripe.heal();
    }
    // Half of the sync was done when Stripe went away.
    stripe.fail("/v1/webhook_endpoints", Fault::Status(500));
    fails(folder.path(), &SYNC, 1);
    stripe.heal();
    sync(&folder);
    assert_eq!(active_prices(&stripe).len(), 2);
    assert_eq!(stripe.all("product").len(), 2);
    assert_eq!(stripe.all("webhook_endpoint").len(), 1);
}
