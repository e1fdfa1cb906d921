//! Ways to get tokens, images or sound for less than their price.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::shop::{CHAT, MESSAGES, ask, balance, body, model, routes, shop, with};
use crate::support::ai::{Ai, Reply, Step, chat, chat_chunk, chat_usage, event};
use crate::support::http::Answer;
use crate::support::wire::{Wire, post};
use crate::support::{TestGateway, eventually, token};

const COMPLETIONS: &str = "/v1/completions";
const IMAGES: &str = "/v1/images/generations";
const RESPONSES: &str = "/v1/responses";

/// A route of OpenAI's shape, with this price.
fn route(path: &str, price: &str) -> String {
    format!(
        "[[routes]]\npath = \"{path}\"\nmethods = [\"POST\"]\nupstream = \"ai\"\nmeter = \"openai\"\n\
         price = {price}\n"
    )
}

#[tokio::test]
async fn each_prompt_of_a_list_has_an_answer_that_is_held_for() {
    for (prompt, answers) in [
        (json!("one"), 1),
        (json!(["one"]), 1),
        (json!([1, 2, 3]), 1),
        (json!(vec!["a"; 100]), 100),
        (json!([[1, 2], [3]]), 2),
        (json!([]), 1),
    ] {
        let output = 100 * answers;
        let answer = json!({ "choices": [], "usage": chat_usage(100, output) });
        let ai = Ai::answering(Reply::json(&answer)).await;
        let tables = [route(COMPLETIONS, "\"models\""), model("m", "")].concat();
        let gateway = with(&ai, &tables, 100).await;
        let request = json!({ "model": "m", "prompt": prompt, "max_tokens": 100 });
        ask(&gateway, COMPLETIONS, &request.to_string()).await.expect(200);
        // 100 tokens of input, and the output. All of this usage is plausible, so all of it is
        // charged.
        let left = 100.0 - 0.025 - 0.1 * f64::from(u32::try_from(answers).unwrap());
        let balance: f64 = balance(&gateway).await.parse().unwrap();
        assert!((balance - left).abs() < 1e-6, "{prompt}: {balance}, not {left}");
    }
}

#[tokio::test]
async fn a_limit_that_the_provider_does_not_know_limits_nothing() {
    let ai = Ai::answering(Reply::json(&chat("ok", &chat_usage(200, 8000)))).await;
    let tables = [routes(""), route(COMPLETIONS, "\"models\""), model("m", "")].concat();
    let gateway = with(&ai, &tables, 1000).await;
    let mut left = 1000.0;
    for (path, limit) in [
        (CHAT, json!({ "max_output_tokens": 1 })),
        (CHAT, json!({ "n_predict": 1 })),
        (CHAT, json!({ "max_new_tokens": 1 })),
        (CHAT, json!({ "options": { "num_predict": 1 } })),
        (CHAT, json!({ "generationConfig": { "maxOutputTokens": 1 } })),
        (CHAT, json!({ "inferenceConfig": { "maxTokens": 1 } })),
        (CHAT, json!({ "parameters": { "max_new_tokens": 1 } })),
        (RESPONSES, json!({ "input": "a", "max_tokens": 1 })),
        // Many servers read the members of their own shape only.
        (RESPONSES, json!({ "input": "a", "messages": [], "max_tokens": 1 })),
        (COMPLETIONS, json!({ "prompt": "a", "messages": [], "max_completion_tokens": 1 })),
        (COMPLETIONS, json!({ "prompt": "a", "input": "a", "max_output_tokens": 1 })),
    ] {
        let mut request = json!({ "model": "m" });
        if path == CHAT {
            request["messages"] = json!([]);
        }
        for (name, value) in limit.as_object().unwrap() {
            request[name] = value.clone();
        }
        ask(&gateway, path, &request.to_string()).await.expect(200);
        left -= 8.05;
        let balance: f64 = balance(&gateway).await.parse().unwrap();
        assert!((balance - left).abs() < 1e-6, "{path} {limit}: {balance}, not {left}");
    }
}

/// With JSON pointers the provider is not known, and neither is the limit that it reads.
#[tokio::test]
async fn a_limit_that_an_unknown_provider_may_ignore_limits_no_charge() {
    let pointers = "{ input = \"/usage/prompt_tokens\", output = \"/usage/completion_tokens\" }";
    let tables = [routes("").replace("\"openai\"", pointers), model("m", "")].concat();
    let asked = |stream: bool| body(&json!({ "max_tokens": 1, "stream": stream }));
    let ai = Ai::answering(Reply::json(&chat("ok", &chat_usage(200, 8000)))).await;
    let gateway = with(&ai, &tables, 100).await;
    ask(&gateway, CHAT, &asked(false)).await.expect(200);
    assert_eq!(balance(&gateway).await, "91.95");
    // 200 tokens of input, and 240 bytes that were delivered.
    let text = chat_chunk(&"y".repeat(240));
    let ai = Ai::answering(Reply::begin_events(&[text]).then(Step::Hang)).await;
    let gateway = with(&ai, &tables, 100).await;
    let mut client = Wire::connect(gateway.public()).await;
    client.send(post(CHAT, "alice", &asked(true))).await;
    client.up_to("yyy").await.unwrap();
    drop(client);
    assert_eq!(balance(&gateway).await, "99.83");
}

/// A call is shortened only if the limit that is added holds for each shape that the call may have.
#[tokio::test]
async fn a_request_of_two_shapes_is_refused_where_a_limit_of_one_would_shorten_it() {
    let ai = Ai::answering(Reply::json(&chat("ok", &chat_usage(200, 8000)))).await;
    let tables = [routes("on_short = \"shorten\""), model("m", "")].concat();
    let gateway = with(&ai, &tables, 1).await;
    let both = body(&json!({ "input": "write all that you can" }));
    for path in [CHAT, RESPONSES] {
        ask(&gateway, path, &both).await.problem(402, "INSUFFICIENT_CREDITS");
    }
    assert_eq!((ai.asked().len(), balance(&gateway).await), (0, "1".to_owned()));
}

#[tokio::test]
async fn films_sound_and_documents_that_are_elsewhere_are_input_without_a_bound() {
    let ai = Ai::answering(Reply::json(&chat("ok", &chat_usage(20_000, 1)))).await;
    let unbounded = model("m", "").replace("max_input_tokens = 400000", "");
    let gateway = with(&ai, &[routes(""), unbounded].concat(), 100).await;
    let part = |part: Value| {
        let message = json!({ "role": "user", "content": [part] });
        json!({ "model": "m", "max_tokens": 500, "messages": [message] }).to_string()
    };
    for elsewhere in [
        json!({ "type": "video_url", "video_url": { "url": "https://example.com/a.mp4" } }),
        json!({ "type": "audio_url", "audio_url": { "url": "https://example.com/a.mp3" } }),
        json!({ "type": "document_url", "document_url": "https://example.com/a.pdf" }),
    ] {
        let answer = ask(&gateway, CHAT, &part(elsewhere.clone())).await;
        answer.problem(400, "BAD_REQUEST");
        assert_eq!(ai.asked().len(), 0, "{elsewhere}");
    }
    // In the request it counts by its bytes, and is no image.
    let data = format!("data:video/mp4;base64,{}", "A".repeat(40_000));
    let here = part(json!({ "type": "video_url", "video_url": { "url": data } }));
    ask(&gateway, CHAT, &here).await.expect(200);
    assert_eq!(balance(&gateway).await, "94.999");
}

#[tokio::test]
async fn an_upstream_reads_json_whatever_the_client_calls_its_body() {
    let ai = Ai::answering(Reply::json(&chat("ok", &chat_usage(200, 100)))).await;
    let gateway = shop(&ai, "", 100).await;
    // A reader of forms, or of UTF-7, would find another model in this body.
    let request = r#"{"model":"m","messages":[],"x":"&model=other&x=","+AG0-odel":"other"}"#;
    let kinds = ["application/x-www-form-urlencoded", "application/json; charset=utf-7"];
    for kind in kinds {
        let sent = gateway.client.post(gateway.url(CHAT)).bearer_auth(token("alice"));
        let sent = sent.header("content-type", kind).header("connection", "content-type");
        Answer::of(sent.body(request)).await.expect(200);
    }
    Answer::of(gateway.client.post(gateway.url(CHAT)).bearer_auth(token("alice")).body(request))
        .await
        .expect(200);
    for asked in ai.asked() {
        assert_eq!(asked.header("content-type"), Some("application/json"));
    }
    assert_eq!(ai.asked().len(), 3);
}

/// A client that has sent its request, and leaves once it has read `until`.
async fn leaves_at(gateway: &TestGateway, path: &str, body: &str, until: &str) {
    let mut client = Wire::connect(gateway.public()).await;
    client.send(post(path, "alice", body)).await;
    client.up_to(until).await.unwrap();
}

#[tokio::test]
async fn the_text_that_a_custom_tool_is_called_with_is_delivered_text() {
    let call = |text: &str| {
        let call = json!({ "index": 0, "type": "custom", "custom": { "input": text } });
        event(&json!({ "choices": [{ "index": 0, "delta": { "tool_calls": [call] } }] }))
    };
    let events = [call(&"y".repeat(236)), call("last")];
    let ai = Ai::answering(Reply::begin_events(&events).then(Step::Hang)).await;
    let gateway = shop(&ai, "", 100).await;
    let request = body(&json!({ "stream": true, "max_tokens": 500 }));
    leaves_at(&gateway, CHAT, &request, "last").await;
    assert_eq!(balance(&gateway).await, "99.83");
}

#[tokio::test]
async fn a_stream_of_images_or_sound_is_read_to_its_end_for_a_client_that_left() {
    let sound = |data: &str| {
        event(&json!({ "choices": [{ "index": 0, "delta": { "audio": { "data": data } } }] }))
    };
    let image = |kind: &str, data: &str| event(&json!({ "type": kind, "b64_json": data }));
    let usage = event(&json!({ "choices": [], "usage": chat_usage(200, 100) }));
    for (path, first, last, left) in [
        (
            IMAGES,
            image("image_generation.partial_image", "last"),
            image("image_generation.completed", "AAAA"),
            "95.5",
        ),
        (CHAT, sound("last"), usage, "99.85"),
        (
            RESPONSES,
            event(&json!({ "type": "response.audio.delta", "delta": "last" })),
            event(&json!({
                "type": "response.completed",
                "response": { "usage": { "input_tokens": 200, "output_tokens": 100 } },
            })),
            "99.85",
        ),
    ] {
        let permits = Arc::new(Semaphore::new(0));
        let reply = Reply::begin_events(&[first]).then(Step::Wait(permits.clone()));
        let reply = reply.then(Step::Chunk(last.into_bytes())).then(Step::End);
        let ai = Ai::answering(reply).await;
        let units = route(IMAGES, "{ request = 0.5, image = 4 }");
        let gateway = with(&ai, &[routes(""), units, model("m", "")].concat(), 100).await;
        let request = body(&json!({ "stream": true, "max_tokens": 500 }));
        leaves_at(&gateway, path, &request, "last").await;
        // The gateway notices that the client has left, and goes on.
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        permits.add_permits(1);
        assert_eq!(balance(&gateway).await, left, "{path}");
    }
}

#[tokio::test]
async fn a_stream_of_json_lines_is_charged_by_its_usage() {
    let lines = [json!({ "done": false }), json!({ "done": true, "in": 200, "out": 100 })];
    let lines: String = lines.iter().map(|line| format!("{line}\n")).collect();
    for kind in ["application/x-ndjson", "application/jsonl", "application/x-ndjson; charset=utf-8"]
    {
        for more in [json!({}), json!({ "stream": true })] {
            let headers = format!("content-type: {kind}\r\n");
            let ai = Ai::answering(Reply::whole(200, &headers, &lines)).await;
            let ollama = "[[routes]]\npath = \"/api/chat\"\nupstream = \"ai\"\n\
                          meter = { input = \"/in\", output = \"/out\" }\nprice = \"models\"\n";
            let gateway = with(&ai, &[ollama, &model("m", "")].concat(), 100).await;
            ask(&gateway, "/api/chat", &body(&more)).await.expect(200);
            assert!(eventually(async || balance(&gateway).await == "99.85").await, "{kind} {more}");
        }
    }
}

#[tokio::test]
async fn an_answer_that_cannot_be_read_costs_no_less_than_its_text() {
    let text = "y".repeat(20_000);
    let nested = format!("{}{}", "[".repeat(130), "]".repeat(130));
    for unread in [
        // A call of a tool whose argument is nested too deeply to be read.
        format!(
            r#"{{"content":[{{"text":"{text}"}},{{"input":{nested}}}],"usage":{{"input_tokens":200}}}}"#
        ),
        format!(r#"{{"content":"{text}","logprobs":-Infinity,"usage":{{"input_tokens":200}}}}"#),
        format!(r#"{{"content":"{text}"#),
    ] {
        let ai =
            Ai::answering(Reply::whole(200, "content-type: application/json\r\n", &unread)).await;
        let gateway = shop(&ai, "", 100).await;
        ask(&gateway, MESSAGES, &body(&json!({ "max_tokens": 8000 }))).await.expect(200);
        // The charge is no more than the request allows.
        assert_eq!(balance(&gateway).await, "91.95");
    }
}

#[tokio::test]
async fn characters_and_seconds_that_no_answer_tells_are_charged_as_they_were_held_for() {
    let speech = "/v1/audio/speech";
    let (text, sound) = ("content-type: text/plain\r\n", "content-type: audio/mpeg\r\n");
    let told = event(&json!({
        "type": "speech.audio.done", "usage": { "input_tokens": 14, "output_tokens": 100 },
    }));
    for (price, headers, answer, left) in [
        ("{ character = 0.01 }", sound, "a sound", "96"),
        ("{ character = 0.01 }", "content-type: text/event-stream\r\n", &*told, "96"),
        ("{ second = 0.1 }\nhold = 9", text, "a text", "91"),
        ("{ request = 1, image = 4 }", text, "a text", "99"),
    ] {
        let ai = Ai::answering(Reply::whole(200, headers, answer)).await;
        let gateway = with(&ai, &route(speech, price), 100).await;
        ask(&gateway, speech, &body(&json!({}))).await.expect(200);
        assert_eq!(balance(&gateway).await, left, "{price} {headers}");
    }
}

#[tokio::test]
async fn a_member_that_the_price_names_is_no_list() {
    let ai = Ai::answering(Reply::json(&chat("ok", &chat_usage(200, 100)))).await;
    let dearer = "when = [{ if = { service_tier = \"priority\" }, input = 500, output = 2000 }]";
    let tables = [routes(""), model("m", dearer)].concat();
    let gateway = with(&ai, &tables, 100).await;
    for tier in [json!(["priority"]), json!({ "priority": true })] {
        let answer = ask(&gateway, CHAT, &body(&json!({ "service_tier": tier }))).await;
        answer.problem(400, "BAD_REQUEST");
    }
    assert_eq!(ai.asked().len(), 0);
}

/// A page of a PDF without text takes a hundred bytes, and some 2 000 tokens. A report of usage up to
/// the size of the model's input is believed.
#[tokio::test]
async fn images_and_documents_of_many_tokens_are_charged_by_their_usage() {
    let data = |kind: &str, media: &str| {
        let source = json!({ "type": "base64", "media_type": media, "data": "A".repeat(400) });
        json!({ "type": kind, "source": source })
    };
    let file = json!({ "filename": "a.pdf", "file_data": "data:application/pdf;base64,AAAA" });
    let image = json!({ "url": "data:image/png;base64,AAAA" });
    let input = |part: Value| json!({ "input": [{ "role": "user", "content": [part] }] });
    let messages = |part: Value| json!({ "messages": [{ "role": "user", "content": [part] }] });
    for (path, request) in [
        (MESSAGES, messages(data("document", "application/pdf"))),
        (MESSAGES, messages(data("image", "image/png"))),
        (CHAT, messages(json!({ "type": "file", "file": file }))),
        (CHAT, messages(json!({ "type": "image_url", "image_url": image }))),
        (RESPONSES, input(json!({ "type": "input_file", "file_data": file["file_data"] }))),
    ] {
        let usage = if path == MESSAGES {
            json!({ "usage": { "input_tokens": 150_000, "output_tokens": 10 }, "content": [] })
        } else {
            json!({ "choices": [], "usage": chat_usage(150_000, 10) })
        };
        let ai = Ai::answering(Reply::json(&usage)).await;
        let gateway = shop(&ai, "", 100).await;
        let mut asked = json!({ "model": "m", "max_tokens": 10, "max_output_tokens": 10 });
        for (name, value) in request.as_object().unwrap() {
            asked[name] = value.clone();
        }
        ask(&gateway, path, &asked.to_string()).await.expect(200);
        // 150 000 × 250/T + 10 × 1000/T
        assert_eq!(balance(&gateway).await, "62.49", "{path} {request}");
    }
    // A text as short as this request's cannot have as many tokens, so the report is not believed.
    let ai = Ai::answering(Reply::json(&chat("ok", &chat_usage(150_000, 10)))).await;
    let gateway = shop(&ai, "", 100).await;
    ask(&gateway, CHAT, &body(&json!({ "max_tokens": 10 }))).await.expect(200);
    assert_eq!(balance(&gateway).await, "99.94");
}

/// A request that reaches the upstream was read, and is charged by its usage. All others are refused.
#[tokio::test]
async fn no_method_or_framing_hides_what_is_asked_for() {
    let ai = Ai::answering(Reply::json(&chat("ok", &chat_usage(200, 100)))).await;
    let any_method = routes("").replace("methods = [\"POST\"]\n", "");
    let gateway = with(&ai, &[any_method, model("m", "")].concat(), 100).await;
    let asked = body(&json!({ "max_tokens": 500 }));
    let length = format!("content-length: {}\r\n", asked.len());
    let chunked = |trailers: &str| format!("{:x}\r\n{asked}\r\n0\r\n{trailers}\r\n", asked.len());
    let form = "content-type: multipart/form-data; boundary=x\r\n";
    let part = "--x\r\ncontent-disposition: form-data; name=\"model\"\r\n\r\nm\r\n--x--\r\n";
    let te = "transfer-encoding: chunked\r\n";
    let mut paid = 0;
    for (method, head, sent, passes) in [
        ("GET", length.clone(), asked.clone(), true),
        ("PUT", length.clone(), asked.clone(), true),
        ("PATCH", length.clone(), asked.clone(), true),
        ("DELETE", length.clone(), asked.clone(), true),
        ("OPTIONS", length.clone(), asked.clone(), true),
        ("POST", te.to_owned(), chunked(""), true),
        ("POST", te.to_owned(), chunked("content-encoding: gzip\r\nx-model: dear\r\n"), true),
        ("POST", format!("{te}{form}"), chunked(""), true),
        ("GET", String::new(), String::new(), false),
        ("POST", "content-length: 0\r\n".to_owned(), String::new(), false),
        ("POST", format!("{form}content-length: {}\r\n", part.len()), part.to_owned(), false),
        ("POST", format!("{length}content-encoding: \r\n"), asked.clone(), false),
        ("POST", format!("{length}content-encoding: identity, gzip\r\n"), asked.clone(), false),
    ] {
        let mut client = Wire::connect(gateway.public()).await;
        let line = format!("{method} {CHAT}");
        client.send(crate::support::wire::request(&line, "alice", &head, &sent)).await;
        let answer = client.head().await.unwrap();
        let status = crate::support::wire::status(&answer);
        assert_eq!(status, if passes { 200 } else { 400 }, "{method} {head} {answer}");
        paid += u32::from(passes);
        assert_eq!(ai.asked().len(), paid as usize, "{method} {head}");
        let left = 100.0 - 0.15 * f64::from(paid);
        let balance: f64 = balance(&gateway).await.parse().unwrap();
        assert!((balance - left).abs() < 1e-6, "{method} {head}: {balance}, not {left}");
    }
    for seen in ai.asked() {
        assert!(!seen.head.contains("dear") && !seen.body.contains("dear"), "{}", seen.head);
        assert_eq!(seen.header("content-type"), Some("application/json"));
        assert_eq!((seen.header("transfer-encoding"), seen.body.as_str()), (None, asked.as_str()));
    }
}
