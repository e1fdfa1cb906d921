//! Models: the upstreams of their calls, the names that upstreams get, and the list of models.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::shop::{CHAT, ask, balance, body, model, post, routes, shop, with};
use crate::support::ai::{Ai, Reply, Step, chat, chat_usage};
use crate::support::{config_text, eventually, parse, token};

async fn answering() -> Ai {
    Ai::answering(Reply::json(&chat("ok", &chat_usage(200, 100)))).await
}

#[tokio::test]
async fn a_model_has_its_own_upstream_and_another_name_there() {
    let (first, second) = (answering().await, answering().await);
    let tables = [
        routes("").as_str(),
        &model("m", ""),
        &model("big", "upstream = \"other\"\nrename = \"big-2026\""),
        &format!("[[upstreams]]\nname = \"other\"\nurl = \"http://{}\"\n", second.address),
    ]
    .concat();
    let gateway = with(&first, &tables, 100).await;
    let plain = body(&json!({ "max_tokens": 500 }));
    ask(&gateway, CHAT, &plain).await.expect(200);
    assert_eq!((first.asked().len(), second.asked().len()), (1, 0));
    assert_eq!(first.asked()[0].body, plain);

    let asked = "{\"max_tokens\":500,  \"model\" :\"BIG\",\"messages\":[]}";
    ask(&gateway, CHAT, asked).await.expect(200);
    assert_eq!((first.asked().len(), second.asked().len()), (1, 1));
    let sent = &second.asked()[0];
    assert_eq!(sent.body, "{\"max_tokens\":500,  \"model\" :\"big-2026\",\"messages\":[]}");
    assert_eq!(sent.header("host"), Some(&*second.address.to_string()));
    assert_eq!(sent.header("content-length"), Some(&*sent.body.len().to_string()));

    let series = |name: &str| {
        format!("farebox_upstream_requests_total{{outcome=\"ok\",upstream=\"{name}\"}}")
    };
    assert_eq!(crate::shop::metric(&gateway, &series("ai")).await, Some(1.0));
    assert_eq!(crate::shop::metric(&gateway, &series("other")).await, Some(1.0));
    let tokens =
        "farebox_tokens_total{kind=\"output\",model=\"big\",route=\"/v1/chat/completions\"}";
    assert_eq!(crate::shop::metric(&gateway, tokens).await, Some(100.0));
}

#[tokio::test]
async fn a_call_keeps_the_prices_that_quoted_it() {
    let permits = Arc::new(Semaphore::new(0));
    let mut reply = Reply(vec![Step::Wait(permits.clone())]);
    reply.0.extend(Reply::json(&chat("ok", &chat_usage(200, 100))).0);
    let ai = Ai::answering(reply).await;
    let gateway = shop(&ai, "", 100).await;
    let asked = body(&json!({ "max_tokens": 500 }));
    let call = tokio::spawn(post(&gateway, CHAT, &asked).send());
    assert!(eventually(async || ai.asked().len() == 1).await);
    let dearer = [routes(""), model("m", "").replace("output = 1000", "output = 1200")].concat();
    let config = parse(&config_text(ai.address, &dearer), gateway.folder.path());
    gateway.gateway.reload(&config).await.unwrap();
    permits.add_permits(2);
    assert_eq!(call.await.unwrap().unwrap().headers()["x-credits-cost"], "0.15");
    assert_eq!(ask(&gateway, CHAT, &asked).await.header("x-credits-cost"), "0.17");
    assert_eq!(balance(&gateway).await, "99.68");
}

#[tokio::test]
async fn an_entry_says_which_model_was_used_for_what_at_which_prices() {
    let ai = answering().await;
    let gateway = shop(&ai, "", 100).await;
    let asked = body(&json!({ "max_tokens": 500 })).replace("\"m\"", "\"M\"");
    ask(&gateway, CHAT, &asked).await.expect(200);
    let (mut page, alice) = (Vec::new(), "alice".parse().unwrap());
    let is_written = eventually(async || {
        page = gateway.gateway.ledger().read().entries(&alice, None, 10).await.unwrap();
        page.len() == 2
    });
    assert!(is_written.await, "{page:?}");
    let record = page[0].usage.clone().expect("a record");
    assert_eq!((record.model.as_deref(), record.held.to_string().as_str()), (Some("M"), "0.55"));
    assert_eq!(serde_json::to_value(record.usage).unwrap(), json!({ "input": 200, "output": 100 }));
    assert!(record.prices.len() == 16, "{}", record.prices);
}

#[tokio::test]
async fn a_model_in_the_path_is_priced_and_renamed_there() {
    let ai = answering().await;
    let route = "[[routes]]\npath = \"/v1beta/models/{model}:generate\"\nupstream = \"ai\"\n\
                 meter = \"openai\"\nprice = \"models\"\n";
    let tables = [route, &model("m", "rename = \"m-2026\""), &model("n", "")].concat();
    let gateway = with(&ai, &tables, 100).await;
    let path = |model: &str| format!("/v1beta/models/{model}:generate?alt=json");
    for (path_model, asked, code, sent) in [
        ("M", json!({ "max_tokens": 5 }), 200, json!({ "max_tokens": 5 })),
        ("m", json!({ "model": "M" }), 200, json!({ "model": "m-2026" })),
        ("n", json!({ "model": "n" }), 200, json!({ "model": "n" })),
        ("m", json!({ "model": "n" }), 400, Value::Null),
        ("x", json!({ "model": "m" }), 404, Value::Null),
        ("x", json!({}), 404, Value::Null),
    ] {
        let before = ai.asked().len();
        let answer = ask(&gateway, &path(path_model), &asked.to_string()).await;
        assert_eq!(answer.status, code, "{path_model} {asked}: {}", answer.text);
        if code == 200 {
            let seen = ai.asked().pop().unwrap();
            let name = if path_model == "n" { "n" } else { "m-2026" };
            assert_eq!((seen.path(), seen.json()), (path(name).as_str(), sent));
        } else {
            assert_eq!(ai.asked().len(), before);
        }
    }
}

#[tokio::test]
async fn an_unknown_model_is_never_served() {
    let ai = answering().await;
    let gateway = shop(&ai, "", 100).await;
    for name in ["gpt-9", "m2", "m ", "M2"] {
        let asked = json!({ "model": name, "messages": [] }).to_string();
        let answer = ask(&gateway, CHAT, &asked).await;
        if name == "m " {
            answer.problem(400, "BAD_REQUEST");
            continue;
        }
        let problem = answer.problem(404, "MODEL_NOT_PRICED");
        assert!(problem["detail"].as_str().unwrap().contains(name), "{problem}");
    }
    ask(&gateway, CHAT, "{\"messages\":[]}").await.problem(404, "MODEL_NOT_PRICED");
    ask(&gateway, CHAT, "{\"model\":\"m\",\"model\":\"x\"}").await.problem(400, "BAD_REQUEST");
    assert_eq!(ai.asked().len(), 0);
    assert_eq!(balance(&gateway).await, "100");
}

#[tokio::test]
async fn a_free_model_is_served_to_an_account_without_credits() {
    let ai = answering().await;
    let free = "[[models]]\nmatch = \"small\"\nfree = true\n";
    let gateway = with(&ai, &[routes("").as_str(), &model("m", ""), free].concat(), 0).await;
    let asked = json!({ "model": "small", "messages": [] }).to_string();
    let answer = ask(&gateway, CHAT, &asked).await;
    answer.expect(200);
    for name in ["x-credits-cost", "x-credits-remaining", "x-credits-held"] {
        assert_eq!(answer.header(name), "", "{name}");
    }
    let tokens =
        "farebox_tokens_total{kind=\"output\",model=\"small\",route=\"/v1/chat/completions\"}";
    assert_eq!(crate::shop::metric(&gateway, tokens).await, Some(100.0));
    ask(&gateway, CHAT, &body(&json!({}))).await.problem(402, "INSUFFICIENT_CREDITS");
    assert_eq!(balance(&gateway).await, "0");
}

#[tokio::test]
async fn farebox_lists_the_models_itself() {
    let ai = answering().await;
    let list = "[[routes]]\npath = \"/v1/models\"\nanswer = \"models\"\nmethods = [\"GET\"]\n";
    let tables =
        [list, routes("").as_str(), &model("m", ""), &model("big-*", ""), &model("Tall", "")]
            .concat();
    let gateway = with(&ai, &tables, 0).await;
    let anonymous = gateway.client.get(gateway.url("/v1/models")).send().await.unwrap();
    assert_eq!(anonymous.status(), 401);
    let request = gateway.client.get(gateway.url("/v1/models")).bearer_auth(token("alice"));
    let answer = request.send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["content-type"], "application/json");
    assert!(answer.headers().contains_key("x-request-id"));
    let list: Value = answer.json().await.unwrap();
    assert_eq!(list["object"], "list");
    let data = list["data"].as_array().unwrap();
    let names: Vec<_> = data.iter().map(|model| model["id"].as_str().unwrap()).collect();
    assert_eq!(names, ["m", "Tall"], "those with a name of their own");
    for model in data {
        assert_eq!(model["object"], "model");
        assert!(model["created"].is_u64() && model["owned_by"].is_string(), "{model}");
    }
    let head = gateway.client.head(gateway.url("/v1/models")).bearer_auth(token("alice"));
    assert_eq!(head.send().await.unwrap().status(), 200);
    let other = post(&gateway, "/v1/models", "{}").send().await.unwrap();
    assert_eq!(other.status(), 404);
    assert_eq!(ai.asked().len(), 0);
}
