//! `POST /credits/buy`: the requests that Stripe gets, and the answers that buyers get when Stripe
//! fails.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::backend::{Backend, on_both_ledgers};
use crate::http::Answer;
use crate::sdk::Sdk;
use crate::shop::{Shop, config};
use crate::support::stripe::{Fault, Stripe};
use crate::support::{Upstream, token};

on_both_ledgers!(
    a_purchase_is_a_checkout_session_that_says_who_buys_what,
    every_request_is_one_that_stripe_s_own_types_allow,
    the_options_of_the_checkout_page_are_passed_on,
    one_account_is_one_customer_of_stripe,
    a_customer_that_was_deleted_at_stripe_stops_nobody_from_buying,
    a_pack_with_a_price_of_its_own_is_sold_at_it,
    a_pack_whose_price_at_stripe_asks_something_else_is_not_sold,
    the_same_idempotency_key_is_the_same_purchase_or_none,
    accounts_of_every_length_and_shape_can_buy,
    what_cannot_be_bought_is_refused_before_stripe_hears_of_it,
    a_refusal_for_want_of_credits_creates_nothing_at_stripe,
    a_service_key_buys_for_the_account_that_it_names,
    stripe_s_failures_are_a_clear_problem_and_the_next_try_may_succeed,
    a_stripe_that_does_not_answer_is_a_problem_in_bounded_time_and_stops_no_call,
    a_stripe_that_cannot_be_reached_is_a_problem,
    a_retry_within_one_purchase_makes_one_session,
    without_stripe_packs_are_shown_and_not_sold,
    the_routes_of_buying_are_described_and_their_problems_are_told_in_french,
);

const SESSIONS: &str = "/v1/checkout/sessions";

/// Expects a problem of one of these statuses, whatever its code, that says something of use.
#[track_caller]
fn problem(answer: &Answer, statuses: &[u16]) -> Value {
    let status = answer.status.as_u16();
    assert!(statuses.contains(&status), "{status} {}", answer.text);
    let code = answer.json()["code"].as_str().unwrap_or_default().to_owned();
    let body = answer.problem(status, &code);
    for theirs in ["sk_test", "whsec", "127.0.0.1", "An error occurred", "declined", "rate limit"] {
        assert!(!answer.text.contains(theirs), "{theirs} is not for buyers: {}", answer.text);
    }
    body
}

async fn a_purchase_is_a_checkout_session_that_says_who_buys_what(backend: Backend) {
    let shop = Shop::open(backend).await;
    let bought = shop.try_buy("alice", "pack-500").await.expect(200);
    let url = bought["checkout_url"].as_str().unwrap();
    assert!(url.starts_with("https://checkout.stripe.com/"), "{bought}");
    let session = shop.stripe.get(bought["session_id"].as_str().unwrap());
    assert_eq!(session["url"], url);
    assert_eq!(session["mode"], "payment");
    assert_eq!(session["client_reference_id"], "alice");
    assert_eq!((&session["amount_total"], &session["currency"]), (&json!(7900), &json!("eur")));
    let metadata = session["metadata"].as_object().unwrap();
    let says = |word: &str| metadata.values().any(|value| value == word);
    assert!(says("alice") && says("pack-500"), "{session}");
    assert_eq!(session["success_url"], "https://app.example.com/credits?paid=1");
    assert_eq!(session["cancel_url"], "https://app.example.com/credits");

    let asked = shop.stripe.asked_for("POST", SESSIONS);
    assert_eq!(asked.len(), 1);
    let lines = asked[0].parameters["line_items"].as_array().unwrap();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert_eq!(lines[0]["quantity"], "1");
    let price = &lines[0]["price_data"];
    assert_eq!((&price["unit_amount"], &price["currency"]), (&json!("7900"), &json!("eur")));
    assert_eq!(price["product_data"]["name"], "Pack 500");
    for asked in shop.stripe.asked() {
        if asked.method == "POST" {
            let key = asked.header("idempotency-key").unwrap_or_default();
            assert!(key.len() >= 16, "every POST has an idempotency key: {asked:?}");
        }
        assert!(asked.header("stripe-version").is_some(), "the API's version is pinned: {asked:?}");
    }
    assert_eq!(shop.balance("alice").await, 0, "nothing is paid yet");
    shop.close().await;
}

async fn every_request_is_one_that_stripe_s_own_types_allow(backend: Backend) {
    let lines = r#"
[stripe.checkout]
automatic_tax = true
invoice_creation = true
allow_promotion_codes = true
locale = "fr"
"#;
    let shop = Shop::open_with(backend, lines).await;
    shop.bought("alice").await;
    shop.bought("alice").await;
    let mut sdk = Sdk::start();
    for asked in shop.stripe.asked() {
        let path = asked.path.trim_start_matches("/v1/");
        let list =
            if path.starts_with("checkout/") { path.splitn(3, '/') } else { path.splitn(2, '/') };
        let operation = match list.clone().count() {
            n if n == 3 || (n == 2 && !path.starts_with("checkout/")) => {
                format!("{} /v1/{}/{{id}}", asked.method, path.rsplit_once('/').unwrap().0)
            }
            _ => format!("{} /v1/{path}", asked.method),
        };
        let mistakes = sdk.mistakes(&operation, &asked.parameters);
        assert_eq!(mistakes, json!([]), "{operation} {}", asked.parameters);
        assert_eq!(asked.status, 200, "{operation} {}", asked.answer);
    }
    shop.close().await;
}

async fn the_options_of_the_checkout_page_are_passed_on(backend: Backend) {
    let lines = r#"
[stripe.checkout]
automatic_tax = true
invoice_creation = true
allow_promotion_codes = true
locale = "pt-BR"
"#;
    let shop = Shop::open_with(backend, lines).await;
    let session = shop.stripe.get(&shop.buy("alice", "pack-500").await);
    assert_eq!(session["automatic_tax"]["enabled"], true, "{session}");
    assert_eq!(session["invoice_creation"]["enabled"], true);
    assert_eq!(session["allow_promotion_codes"], true);
    assert_eq!(session["locale"], "pt-BR");
    // Tax on a customer whose address is not known yet: Stripe refuses unless it may be kept.
    shop.buy("alice", "pack-500").await;
    shop.bought("alice").await;
    shop.buy("alice", "pack-500").await;
    shop.close().await;
}

async fn one_account_is_one_customer_of_stripe(backend: Backend) {
    let mut shop = Shop::open(backend).await;
    let customer = |shop: &Shop, session: &str| shop.stripe.get(session)["customer"].clone();
    let first = shop.bought("alice").await;
    let alice = customer(&shop, &first);
    assert!(alice.is_string(), "{}", shop.stripe.get(&first));
    let second = shop.bought("alice").await;
    assert_eq!(customer(&shop, &second), alice, "kept for the second purchase");
    shop.crash();
    let third = shop.buy("alice", "pack-100").await;
    assert_eq!(customer(&shop, &third), alice, "and over a restart");
    let other = shop.bought("bob").await;
    assert_ne!(customer(&shop, &other), alice, "bob is somebody else");
    shop.close().await;
}

async fn a_customer_that_was_deleted_at_stripe_stops_nobody_from_buying(backend: Backend) {
    let shop = Shop::open(backend).await;
    let session = shop.bought("alice").await;
    let customer = shop.stripe.get(&session)["customer"].as_str().unwrap().to_owned();
    shop.stripe.change(&customer, json!({ "deleted": true }));
    shop.bought("alice").await;
    shop.close().await;
}

async fn a_pack_with_a_price_of_its_own_is_sold_at_it(backend: Backend) {
    let stripe = Stripe::start().await;
    let product = stripe.ask("POST", "/v1/products", "name=Pack");
    let product = product["id"].as_str().unwrap();
    let form = format!("product={product}&currency=eur&unit_amount=7900");
    let price = stripe.ask("POST", "/v1/prices", &form)["id"].as_str().unwrap().to_owned();
    let upstream = Upstream::canned().await;
    let text = config(&upstream, &stripe, "");
    let text = text
        .replace("id = \"pack-500\"", &format!("id = \"pack-500\"\nstripe_price = \"{price}\""));
    let shop = Shop::open_on(backend, stripe, upstream, text);
    shop.bought("alice").await;
    let asked = shop.stripe.asked_for("POST", SESSIONS);
    let line = &asked[0].parameters["line_items"][0];
    assert_eq!(line["price"], price.as_str());
    assert!(line.get("price_data").is_none(), "{line}");
    shop.close().await;
}

async fn a_pack_whose_price_at_stripe_asks_something_else_is_not_sold(backend: Backend) {
    for (currency, amount, sold) in [("eur", 7900, true), ("eur", 790, false), ("usd", 7900, false)]
    {
        let stripe = Stripe::start().await;
        let product = stripe.ask("POST", "/v1/products", "name=Pack");
        let product = product["id"].as_str().unwrap();
        let form = format!("product={product}&currency={currency}&unit_amount={amount}");
        let price = stripe.ask("POST", "/v1/prices", &form)["id"].as_str().unwrap().to_owned();
        let upstream = Upstream::canned().await;
        let text = config(&upstream, &stripe, "");
        let with = format!("id = \"pack-500\"\nstripe_price = \"{price}\"");
        let text = text.replace("id = \"pack-500\"", &with);
        let shop = Shop::open_on(backend, stripe, upstream, text);
        let answer = shop.try_buy("alice", "pack-500").await;
        if sold {
            answer.expect(200);
        } else {
            problem(&answer, &[502]);
        }
        let sales = f64::from(u8::from(sold));
        assert_eq!(shop.metric("farebox_checkouts_total{pack=\"pack-500\"}").await, sales);
        shop.close().await;
    }
}

async fn the_same_idempotency_key_is_the_same_purchase_or_none(backend: Backend) {
    let mut shop = Shop::open(backend).await;
    let buy = |shop: &Shop, account: &str, pack: &str, key: &str| {
        let request = shop.gateway.client.post(shop.gateway.url("/credits/buy"));
        let request = request.bearer_auth(token(account)).header("idempotency-key", key);
        let request = request.body(json!({ "pack": pack }).to_string());
        async { Answer::of(request).await }
    };
    let first = buy(&shop, "alice", "pack-500", "basket-7").await.expect(200);
    assert_eq!(buy(&shop, "alice", "pack-500", "basket-7").await.expect(200), first);
    let other = buy(&shop, "alice", "pack-100", "basket-7").await;
    other.problem(422, "IDEMPOTENCY_CONFLICT");
    shop.crash();
    buy(&shop, "alice", "pack-100", "basket-7").await.problem(422, "IDEMPOTENCY_CONFLICT");
    assert_eq!(buy(&shop, "alice", "pack-500", "basket-7").await.expect(200), first);
    assert_eq!(shop.stripe.all("checkout.session").len(), 1, "one basket, one session");
    // The same key of another account is another key.
    buy(&shop, "bob", "pack-100", "basket-7").await.expect(200);
    buy(&shop, "alice", "pack-100", "basket-8").await.expect(200);
    assert_eq!(shop.stripe.all("checkout.session").len(), 3);
    shop.close().await;
}

async fn accounts_of_every_length_and_shape_can_buy(backend: Backend) {
    let shop = Shop::open(backend).await;
    // Stripe's client_reference_id ends at 200 characters, an account id at 255.
    let long = "x".repeat(255);
    for account in ["a", "org/team:42%&=[0]+\"'", "user@example.com", &long] {
        let session = shop.buy(account, "pack-500").await;
        let session = shop.stripe.get(&session);
        let metadata = session["metadata"].as_object().unwrap();
        assert!(metadata.values().any(|value| value == account), "{session}");
        let id = session["id"].as_str().unwrap();
        shop.deliver_all(&shop.stripe.pay(id)).await;
    }
    shop.expect_balance("a", 500).await;
    shop.expect_balance(&long, 500).await;
    shop.expect_balance("user@example.com", 500).await;
    shop.close().await;
}

async fn what_cannot_be_bought_is_refused_before_stripe_hears_of_it(backend: Backend) {
    let shop = Shop::open(backend).await;
    problem(&shop.try_buy("alice", "pack-7").await, &[400, 404]);
    problem(&shop.try_buy("alice", "").await, &[400, 404]);
    for body in ["", "{}", "[]", r#"{"pack":500}"#, "{", r#"{"pack":null}"#] {
        let request = shop.gateway.client.post(shop.gateway.url("/credits/buy"));
        let request = request.bearer_auth(token("alice")).body(body);
        problem(&Answer::of(request).await, &[400]);
    }
    let request = || shop.gateway.client.post(shop.gateway.url("/credits/buy"));
    let body = r#"{"pack":"pack-500"}"#;
    Answer::of(request().body(body)).await.problem(401, "UNAUTHENTICATED");
    let wrong = request().bearer_auth("fb_nobody").body(body);
    Answer::of(wrong).await.problem(401, "UNAUTHENTICATED");
    assert_eq!(shop.stripe.asked().len(), 0, "{:?}", shop.stripe.asked());
    shop.close().await;
}

async fn a_refusal_for_want_of_credits_creates_nothing_at_stripe(backend: Backend) {
    let shop = Shop::open(backend).await;
    for _ in 0..5 {
        let refused = shop.call("alice").await.problem(402, "INSUFFICIENT_CREDITS");
        assert_eq!(refused["packs"].as_array().unwrap().len(), 2, "{refused}");
    }
    assert_eq!(shop.stripe.asked().len(), 0);
    shop.close().await;
}

async fn a_service_key_buys_for_the_account_that_it_names(backend: Backend) {
    let shop = Shop::open(backend).await;
    let key = |service: bool| {
        let body = json!({ "name": "backend", "service": service }).to_string();
        let gateway = &shop.gateway;
        async move {
            let made = gateway.admin(http::Method::POST, "/admin/accounts/owner/keys", &body).await;
            made.json()["key"].as_str().unwrap().to_owned()
        }
    };
    let buyer = async |key: &str| {
        let request = shop.gateway.client.post(shop.gateway.url("/credits/buy")).bearer_auth(key);
        let request = request.header("x-farebox-account", "alice");
        let answer = Answer::of(request.body(r#"{"pack":"pack-100"}"#)).await.expect(200);
        shop.stripe.get(answer["session_id"].as_str().unwrap())["client_reference_id"].clone()
    };
    assert_eq!(buyer(&key(true).await).await, "alice");
    assert_eq!(buyer(&key(false).await).await, "owner", "nobody else may name an account");
    shop.close().await;
}

async fn stripe_s_failures_are_a_clear_problem_and_the_next_try_may_succeed(backend: Backend) {
    let shop = Shop::open(backend).await;
    let faults = [
        Fault::Status(500),
        Fault::Status(503),
        Fault::Status(429),
        Fault::Status(402),
        Fault::Status(401),
        Fault::Status(403),
        Fault::Status(400),
        Fault::CutBefore,
        Fault::CutAfter,
        Fault::Page,
    ];
    for (n, fault) in faults.into_iter().enumerate() {
        let buyer = format!("buyer-{n}");
        shop.stripe.fail("/", fault);
        let started = Instant::now();
        let answer = shop.try_buy(&buyer, "pack-500").await;
        let body = problem(&answer, &[502, 503]);
        assert!(body["detail"].as_str().unwrap().len() > 20, "{body}");
        assert!(started.elapsed() < Duration::from_secs(40), "{fault:?}: {:?}", started.elapsed());
        assert_eq!(answer.status == 503, !answer.header("retry-after").is_empty(), "{fault:?}");
        shop.stripe.heal();
        // An old failure must not come back: Stripe repeats it to the same idempotency key.
        shop.try_buy(&buyer, "pack-500").await.expect(200);
        assert_eq!(shop.balance(&buyer).await, 0);
    }
    shop.close().await;
}

async fn a_stripe_that_does_not_answer_is_a_problem_in_bounded_time_and_stops_no_call(
    backend: Backend,
) {
    let shop = Shop::open(backend).await;
    shop.gateway.grant("alice", 100, "gift").await;
    shop.stripe.fail("/", Fault::Slow(Duration::from_secs(100)));
    let started = Instant::now();
    let buying = shop.try_buy("alice", "pack-500");
    let calling = async {
        for _ in 0..10 {
            shop.call("alice").await.expect(200);
        }
        assert!(started.elapsed() < Duration::from_secs(10), "calls do not wait for Stripe");
    };
    let (answer, ()) = tokio::join!(buying, calling);
    problem(&answer, &[502, 503]);
    assert!(started.elapsed() < Duration::from_secs(60), "{:?}", started.elapsed());
    shop.close().await;
}

async fn a_stripe_that_cannot_be_reached_is_a_problem(backend: Backend) {
    let (stripe, upstream) = (Stripe::start().await, Upstream::canned().await);
    let text = config(&upstream, &stripe, "");
    let closed = format!("http://127.0.0.1:{}", crate::process::free_port());
    let shop =
        Shop::open_on(backend, stripe.clone(), upstream, text.replace(&stripe.api_base(), &closed));
    problem(&shop.try_buy("alice", "pack-500").await, &[502, 503]);
    shop.close().await;
}

async fn a_retry_within_one_purchase_makes_one_session(backend: Backend) {
    let shop = Shop::open(backend).await;
    // The session is made, and the answer is lost: whoever asks again with the same key gets it.
    shop.stripe.fail_next(SESSIONS, Fault::CutAfter, 1);
    let answer = shop.try_buy("alice", "pack-500").await;
    let asked = shop.stripe.asked_for("POST", SESSIONS);
    let keys: HashSet<_> = asked.iter().map(|asked| asked.header("idempotency-key")).collect();
    assert_eq!(keys.len(), 1, "one purchase, one key: {keys:?}");
    assert_eq!(shop.stripe.all("checkout.session").len(), 1);
    if answer.status != 200 {
        problem(&answer, &[502, 503]);
    }
    shop.close().await;
}

async fn without_stripe_packs_are_shown_and_not_sold(backend: Backend) {
    let (stripe, upstream) = (Stripe::start().await, Upstream::canned().await);
    let text = config(&upstream, &stripe, "");
    let (text, _) = text.split_once("[stripe]").unwrap();
    let shop = Shop::open_on(backend, stripe, upstream, text.to_owned());
    let packs = shop.gateway.client.get(shop.gateway.url("/credits/packs")).send().await.unwrap();
    assert_eq!(packs.json::<Value>().await.unwrap().as_array().unwrap().len(), 2);
    let refused = shop.try_buy("alice", "pack-500").await;
    assert!(refused.status.as_u16() >= 400, "{}", refused.text);
    // An event that nobody can check is not taken.
    let event = shop.stripe.event("checkout.session.expired", json!({ "id": "cs_1" }));
    let answer = shop.deliver(&event).await;
    assert!(answer.status.as_u16() >= 400, "{}", answer.text);
    shop.close().await;
}

async fn the_routes_of_buying_are_described_and_their_problems_are_told_in_french(
    backend: Backend,
) {
    let shop = Shop::open(backend).await;
    let url = shop.gateway.url("/credits/openapi.json");
    let described = Answer::of(shop.gateway.client.get(url)).await.expect(200);
    // A path is relative to the address of a server: its own, or the common one.
    let server = |of: &Value| of["servers"][0]["url"].as_str().map(str::to_owned);
    let paths = described["paths"].as_object().unwrap().iter().map(|(path, item)| {
        let server = server(item).or(server(&item["post"])).or(server(&described));
        (server.unwrap_or_default().trim_end_matches('/').to_owned() + path, item)
    });
    let paths: Vec<_> = paths.collect();
    for wanted in ["/credits/buy", "/webhooks/stripe"] {
        let found = paths.iter().find(|(path, item)| path == wanted && item["post"].is_object());
        assert!(found.is_some(), "{wanted}: {paths:?}");
    }
    shop.stripe.fail("/", Fault::Status(500));
    for body in [r#"{"pack":"pack-7"}"#, r#"{"pack":"pack-500"}"#] {
        let ask = async |language: &str| {
            let request = shop.gateway.client.post(shop.gateway.url("/credits/buy"));
            let request = request.bearer_auth(token("alice")).header("accept-language", language);
            Answer::of(request.body(body)).await.json()["detail"].as_str().unwrap().to_owned()
        };
        let (english, french) = (ask("en").await, ask("fr").await);
        assert_ne!(english, french);
        let letters = ["\u{e9}", "\u{e8}", "\u{ea}", "\u{e0}", " le ", " la ", " les "];
        assert!(letters.iter().any(|word| french.contains(word)), "{french}");
    }
    shop.close().await;
}
