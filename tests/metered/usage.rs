//! The charge for each answer's usage: the table "Charged, by usage" of the worked cases.

use serde_json::{Value, json};

use crate::shop::{self, CHAT, MESSAGES, ask, balance, body, metric, model, routes, shop, with};
use crate::support::ai::{Ai, Reply, chat, chat_usage, message};

/// The cost of one answer on a balance of 1 000, and the balance after it.
async fn charged(path: &str, more: &Value, answer: &Value) -> (String, String) {
    let ai = Ai::answering(Reply::json(answer)).await;
    let gateway = shop(&ai, "", 1000).await;
    let answered = ask(&gateway, path, &body(more)).await;
    answered.expect(200);
    assert_eq!(answered.text, answer.to_string(), "the body is passed on as it is");
    let cost = answered.header("x-credits-cost").to_owned();
    let left = balance(&gateway).await;
    assert_eq!(answered.header("x-credits-remaining"), left);
    assert_eq!(answered.header("x-credits-held"), "");
    gateway.assert_reconciled().await;
    (cost, left)
}

#[tokio::test]
async fn usage_is_charged_exactly_whatever_its_kinds() {
    let limit = json!({ "max_tokens": 5000 });
    let mut cached = chat_usage(1000, 300);
    cached["prompt_tokens_details"]["cached_tokens"] = 400.into();
    cached["completion_tokens_details"]["reasoning_tokens"] = 200.into();
    let anthropic = json!({
        "input_tokens": 600, "cache_read_input_tokens": 400, "cache_creation_input_tokens": 100,
        "output_tokens": 300,
    });
    for (path, answer, cost, left) in [
        (CHAT, chat("ok", &cached), "0.46", "999.54"),
        (MESSAGES, message("ok", &anthropic), "0.49125", "999.50875"),
        (CHAT, chat("ok", &chat_usage(200, 0)), "0.05", "999.95"),
    ] {
        assert_eq!(charged(path, &limit, &answer).await, (cost.into(), left.into()), "{answer}");
    }
}

#[tokio::test]
async fn a_tier_prices_the_whole_call() {
    for (prompt, cost) in [(200_000, "50.3"), (200_001, "100.4505")] {
        let ai = Ai::answering(Reply::json(&chat("ok", &chat_usage(prompt, 300)))).await;
        let gateway = shop(&ai, "max_overrun = 1000", 1000).await;
        let answer = ask(&gateway, CHAT, &body(&json!({ "max_tokens": 500 }))).await;
        assert_eq!(answer.header("x-credits-cost"), cost, "{prompt}");
    }
}

#[tokio::test]
async fn a_sum_is_rounded_up_once_at_its_end() {
    let ai = Ai::answering(Reply::json(&chat("", &chat_usage(1, 0)))).await;
    let cheap = "[[models]]\nmatch = \"m\"\ninput = 0.3\noutput = 0.3\n";
    let gateway = with(&ai, &[routes("").as_str(), cheap].concat(), 1).await;
    let answer = ask(&gateway, CHAT, &body(&json!({ "max_tokens": 5 }))).await;
    assert_eq!(answer.header("x-credits-cost"), "0.000001");
    assert_eq!(balance(&gateway).await, "0.999999");
}

#[tokio::test]
async fn images_are_charged_as_they_were_made() {
    let answer = json!({ "created": 1, "data": [{ "b64_json": "AAAA" }] });
    let ai = Ai::answering(Reply::json(&answer)).await;
    let route = "[[routes]]\npath = \"/v1/images/generations\"\nupstream = \"ai\"\n\
                 meter = \"openai\"\nprice = { request = 0.5, image = 4 }\n";
    let gateway = with(&ai, route, 100).await;
    let asked = json!({ "prompt": "a cat", "n": 2 }).to_string();
    let answer = ask(&gateway, "/v1/images/generations", &asked).await;
    assert_eq!(answer.header("x-credits-cost"), "4.5", "{}", answer.text);
    assert_eq!(balance(&gateway).await, "95.5");
    let missing = "farebox_usage_missing_total{route=\"/v1/images/generations\"}";
    assert_eq!(metric(&gateway, missing).await, Some(0.0));
}

#[tokio::test]
async fn three_answers_are_charged_together_and_images_by_their_size() {
    let answer = chat("ok", &chat_usage(200, 900));
    let asked = json!({ "max_tokens": 500, "n": 3 });
    // 200 × 250/T + 900 × 1000/T
    assert_eq!(charged(CHAT, &asked, &answer).await, ("0.95".into(), "999.05".into()));
    let answer = json!({ "created": 1, "data": [{ "b64_json": "AAAA" }, { "b64_json": "BBBB" }] });
    let route = "[[routes]]\npath = \"/v1/images/generations\"\nupstream = \"ai\"\n\
                 meter = \"openai\"\nprice = \"models\"\n\
                 [[models]]\nmatch = \"painter\"\nimage = 4\n\
                 when = [{ if = { size = \"1024x1792\" }, image = 8 }]\n";
    for (size, cost) in [("1024x1024", "8"), ("1024x1792", "16")] {
        let gateway = with(&Ai::answering(Reply::json(&answer)).await, route, 100).await;
        let asked = json!({ "model": "painter", "prompt": "a cat", "n": 2, "size": size });
        let answer = ask(&gateway, "/v1/images/generations", &asked.to_string()).await;
        assert_eq!(answer.header("x-credits-cost"), cost, "{size}: {}", answer.text);
    }
}

#[tokio::test]
async fn an_overrun_is_a_debt_or_given_up() {
    let usage = chat_usage(200, 1700);
    for (option, cost, left, overrun) in [
        ("on_overrun = \"debt\"", "1.75", "-0.75", 1.2),
        ("on_overrun = \"cap\"", "0.55", "0.45", 1.2),
    ] {
        let ai = Ai::answering(Reply::json(&chat("ok", &usage))).await;
        let gateway = shop(&ai, option, 1).await;
        let answer = ask(&gateway, CHAT, &body(&json!({ "max_tokens": 500 }))).await;
        assert_eq!(answer.header("x-credits-cost"), cost, "{option}");
        assert_eq!(answer.header("x-credits-remaining"), left, "{option}");
        assert_eq!(balance(&gateway).await, left, "{option}");
        let series = "farebox_overrun_credits_total{route=\"/v1/chat/completions\"}";
        let counted = metric(&gateway, series).await.unwrap();
        assert!((counted - overrun).abs() < 1e-9, "{option} {counted}");
        gateway.assert_reconciled().await;
    }
}

#[tokio::test]
async fn usage_that_cannot_be_true_costs_the_hold_whatever_the_route_says_of_missing_usage() {
    for option in ["", "on_missing_usage = \"release\""] {
        for usage in [
            chat_usage(200, 5951),
            json!({ "prompt_tokens": -1, "completion_tokens": 5 }),
            json!({ "prompt_tokens": 5, "completion_tokens": 1_099_511_627_777_u64 }),
        ] {
            let ai = Ai::answering(Reply::json(&chat("ok", &usage))).await;
            let gateway = shop(&ai, option, 100).await;
            let answer = ask(&gateway, CHAT, &body(&json!({ "max_tokens": 500 }))).await;
            assert_eq!(answer.header("x-credits-cost"), "0.55", "{usage} {option}");
            assert_eq!(balance(&gateway).await, "99.45", "{usage} {option}");
            let missing = "farebox_usage_missing_total{route=\"/v1/chat/completions\"}";
            assert_eq!(metric(&gateway, missing).await, Some(1.0));
        }
    }
}

#[tokio::test]
async fn an_answer_without_usage_costs_what_the_route_says() {
    for (option, cost, left) in [
        ("", "0.17", "99.83"),
        ("on_missing_usage = \"estimate\"", "0.17", "99.83"),
        ("on_missing_usage = \"hold\"", "0.55", "99.45"),
        ("on_missing_usage = \"release\"", "", "100"),
    ] {
        let ai = Ai::answering(Reply::json(&chat(&"y".repeat(240), &Value::Null))).await;
        let gateway = shop(&ai, option, 100).await;
        let answer = ask(&gateway, CHAT, &body(&json!({ "max_tokens": 500 }))).await;
        assert_eq!(answer.header("x-credits-cost"), cost, "{option}");
        assert_eq!(balance(&gateway).await, left, "{option}");
        let missing = "farebox_usage_missing_total{route=\"/v1/chat/completions\"}";
        assert_eq!(metric(&gateway, missing).await, Some(1.0));
    }
}

#[tokio::test]
async fn a_kind_without_a_price_costs_nothing_and_is_counted() {
    let mut usage = json!({ "input_tokens": 200, "output_tokens": 100 });
    usage["server_tool_use"] = json!({ "web_search_requests": 3 });
    let ai = Ai::answering(Reply::json(&message("ok", &usage))).await;
    let gateway = shop(&ai, "", 100).await;
    let answer = ask(&gateway, MESSAGES, &body(&json!({ "max_tokens": 500 }))).await;
    assert_eq!(answer.header("x-credits-cost"), "0.15");
    let series = "farebox_unpriced_usage_total{kind=\"search\",model=\"m\"}";
    assert_eq!(metric(&gateway, series).await, Some(3.0));
    for (kind, count) in [("input", 200.0), ("output", 100.0), ("search", 3.0)] {
        let series =
            format!("farebox_tokens_total{{kind=\"{kind}\",model=\"m\",route=\"/v1/messages\"}}");
        assert_eq!(metric(&gateway, &series).await, Some(count), "{kind}");
    }
}

#[tokio::test]
async fn the_series_of_metered_routes_exist_before_their_first_call() {
    let ai = Ai::answering(Reply::json(&json!({}))).await;
    let gateway = shop(&ai, "", 0).await;
    for series in [
        "farebox_tokens_total{kind=\"input\",model=\"m\",route=\"/v1/messages\"}",
        "farebox_tokens_total{kind=\"reasoning\",model=\"m\",route=\"/v1/chat/completions\"}",
        "farebox_usage_missing_total{route=\"/v1/messages\"}",
        "farebox_unpriced_usage_total{kind=\"search\",model=\"m\"}",
        "farebox_overrun_credits_total{route=\"/v1/messages\"}",
    ] {
        assert_eq!(metric(&gateway, series).await, Some(0.0), "{series}");
    }
}

#[tokio::test]
async fn refused_and_failed_calls_are_free() {
    for status in [400, 404, 429, 500, 503] {
        let headers = "content-type: application/json\r\nx-credits-cost: 9\r\n";
        let ai = Ai::answering(Reply::whole(status, headers, "{\"error\":{}}")).await;
        let gateway = shop(&ai, "", 100).await;
        let answer = ask(&gateway, CHAT, &body(&json!({ "max_tokens": 500 }))).await;
        assert_eq!((answer.status.as_u16(), answer.text.as_str()), (status, "{\"error\":{}}"));
        for name in ["x-credits-cost", "x-credits-remaining", "x-credits-held"] {
            assert_eq!(answer.header(name), "", "{status}");
        }
        assert_eq!(balance(&gateway).await, "100", "{status}");
    }
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let tables = [shop::routes(""), model("m", "")].concat();
    let text = crate::support::config_text(closed, &tables);
    let gateway = crate::support::TestGateway::start(&text).await;
    gateway.grant("alice", 100).await;
    let answer = ask(&gateway, CHAT, &body(&json!({}))).await;
    answer.problem(502, "UPSTREAM_FAILED");
    assert_eq!(balance(&gateway).await, "100");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_parallel_calls_on_a_balance_for_one_pass_once() {
    let ai = Ai::answering(Reply::json(&chat("ok", &chat_usage(200, 500)))).await;
    let tables = [routes(""), model("m", "")].concat();
    let gateway = with(&ai, &tables, 0).await;
    let id = uuid::Uuid::new_v4().to_string();
    let grant = json!({ "credits": 1.05, "id": id, "reason": "not quite two" });
    let path = "/admin/accounts/alice/grants";
    gateway.admin(http::Method::POST, path, Some(grant)).await;
    let asked = body(&json!({ "max_tokens": 500 }));
    let calls = (0..100).map(|_| ask(&gateway, CHAT, &asked));
    let answers = futures_util::future::join_all(calls).await;
    let with = |code: u16| answers.iter().filter(|answer| answer.status == code).count();
    assert_eq!((with(200), with(402)), (1, 99));
    assert_eq!(ai.asked().len(), 1);
    assert_eq!(balance(&gateway).await, "0.5");
    gateway.assert_reconciled().await;
}
