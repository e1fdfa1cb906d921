//! Answers in OpenAI's shapes, as the documentation of OpenAI and others shows them.

use crate::meter::{AnswerUsage, read_answer};
use crate::usage::{Kind, MeterKind, Usage};

fn read(body: &str) -> AnswerUsage {
    let read = read_answer(&MeterKind::OpenAi, body.as_bytes());
    // An answer that arrives in two parts has the same usage, wherever it is cut.
    for cut in 0..=body.len() {
        let (head, tail) = body.as_bytes().split_at(cut);
        let mut meter = crate::meter::JsonMeter::new(&MeterKind::OpenAi);
        meter.feed(head);
        meter.feed(tail);
        assert_eq!(meter.end(), read, "cut at {cut}: {body}");
    }
    read
}

/// A name, an answer, its counts, and the bytes of its text.
type Case = (&'static str, &'static str, &'static [(Kind, u64)], u64);

fn usage(counts: &[(Kind, u64)]) -> Option<Usage> {
    Some(counts.iter().fold(Usage::NONE, |usage, (kind, count)| usage.with(*kind, *count).unwrap()))
}

#[test]
fn cached_and_reasoning_tokens_are_counted_once() {
    let answer = read(
        r#"{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"gpt-5","choices":[{"index":0,
        "message":{"role":"assistant","content":"Hello \"é\" \u00e9","refusal":null,"annotations":[]},"finish_reason":"stop"}],
        "usage":{"prompt_tokens":1000,"completion_tokens":300,"total_tokens":1300,
        "prompt_tokens_details":{"cached_tokens":400,"audio_tokens":0},
        "completion_tokens_details":{"reasoning_tokens":200,"audio_tokens":0,"accepted_prediction_tokens":0,
        "rejected_prediction_tokens":0}},"service_tier":"default","system_fingerprint":null}"#,
    );
    let expected = AnswerUsage {
        usage: usage(&[
            (Kind::Input, 600),
            (Kind::CachedInput, 400),
            (Kind::Output, 100),
            (Kind::Reasoning, 200),
        ]),
        is_final: true,
        service_tier: Some("default".into()),
        delivered_text_bytes: 13,
        ..AnswerUsage::default()
    };
    assert_eq!(answer, expected);
}

#[test]
fn the_shapes_are_told_apart_by_their_members() {
    use Kind::{
        CacheWrite, CachedInput, Image, Input, InputAudio, InputImage, Output, OutputAudio,
        OutputImage, Reasoning, Search, Second,
    };
    let cases: &[Case] = &[
        (
            "responses",
            r#"{"id":"resp_1","object":"response","status":"completed","output":[
            {"type":"reasoning","summary":[{"type":"summary_text","text":"abc"}]},
            {"type":"web_search_call","id":"ws_1","status":"completed"},
            {"type":"function_call","name":"f","arguments":"{\"a\":1}"},
            {"type":"message","content":[{"type":"output_text","text":"Hi there","annotations":[]}]}],
            "usage":{"input_tokens":36,"input_tokens_details":{"cached_tokens":6},"output_tokens":87,
            "output_tokens_details":{"reasoning_tokens":7},"total_tokens":123}}"#,
            &[(Input, 30), (CachedInput, 6), (Output, 80), (Reasoning, 7), (Search, 1)],
            18,
        ),
        (
            "embeddings",
            r#"{"object":"list","data":[{"object":"embedding","embedding":[0.0023064255,-0.009327292],"index":0}],
            "model":"text-embedding-3","usage":{"prompt_tokens":8,"total_tokens":8}}"#,
            &[(Input, 8)],
            0,
        ),
        (
            "images of a GPT image model",
            r#"{"created":1713833628,"data":[{"b64_json":"AAAA"}],"background":"transparent","size":"1024x1024",
            "usage":{"total_tokens":100,"input_tokens":50,"output_tokens":50,
            "input_tokens_details":{"text_tokens":10,"image_tokens":40}}}"#,
            &[(Input, 10), (InputImage, 40), (OutputImage, 50), (Image, 1)],
            0,
        ),
        (
            "images without usage",
            r#"{"created":1,"data":[{"url":"https://example.com/1"},{"url":"https://example.com/2","b64_json":null}]}"#,
            &[(Image, 2)],
            0,
        ),
        (
            "audio",
            r#"{"choices":[{"message":{"content":null,"audio":{"id":"a","data":"AAAA","transcript":"hey"}}}],
            "usage":{"prompt_tokens":20,"completion_tokens":30,"prompt_tokens_details":{"audio_tokens":15},
            "completion_tokens_details":{"audio_tokens":25,"text_tokens":5}}}"#,
            &[(Input, 5), (InputAudio, 15), (Output, 5), (OutputAudio, 25)],
            3,
        ),
        (
            "transcription by tokens",
            r#"{"text":"x","usage":{"type":"tokens","input_tokens":14,"input_token_details":{"text_tokens":0,
            "audio_tokens":14},"output_tokens":45,"total_tokens":59}}"#,
            &[(InputAudio, 14), (Output, 45)],
            0,
        ),
        (
            "transcription by time",
            r#"{"text":"x","usage":{"type":"duration","seconds":8.2}}"#,
            &[(Second, 9)],
            0,
        ),
        (
            "completions",
            r#"{"choices":[{"text":"ab","index":0},{"text":"c","index":1}],"usage":{"prompt_tokens":5,
            "completion_tokens":7,"total_tokens":12}}"#,
            &[(Input, 5), (Output, 7)],
            3,
        ),
        (
            "floats, and both names",
            r#"{"choices":[],"usage":{"prompt_tokens":12.0,"completion_tokens":3e0,"input_tokens":0,"output_tokens":0,
            "input_tokens_details":null,"prompt_tokens_details":{"cached_tokens":2.0,"cache_write_tokens":1}}}"#,
            &[(Input, 9), (CachedInput, 2), (CacheWrite, 1), (Output, 3)],
            0,
        ),
        (
            "DeepSeek",
            r#"{"usage":{"prompt_tokens":100,"completion_tokens":5,"prompt_cache_hit_tokens":64,
            "prompt_cache_miss_tokens":36}}"#,
            &[(Input, 36), (CachedInput, 64), (Output, 5)],
            0,
        ),
        (
            "reasoning beside the answer, as xAI counts it",
            r#"{"usage":{"prompt_tokens":32,"completion_tokens":9,"total_tokens":135,
            "completion_tokens_details":{"reasoning_tokens":94}}}"#,
            &[(Input, 32), (Output, 9), (Reasoning, 94)],
            0,
        ),
        ("a reranker", r#"{"results":[],"usage":{"total_tokens":15}}"#, &[(Input, 15)], 0),
        (
            "tool calls",
            r#"{"choices":[{"message":{"content":"","reasoning_content":"abcd","reasoning":"abcd","tool_calls":[
            {"id":"1","type":"function","function":{"name":"f","arguments":"{}"}}]}}],
            "usage":{"prompt_tokens":1,"completion_tokens":1}}"#,
            &[(Input, 1), (Output, 1)],
            6,
        ),
    ];
    for (name, body, counts, text) in cases {
        let answer = read(body);
        assert_eq!(answer.usage, usage(counts), "{name}");
        assert_eq!(answer.delivered_text_bytes, *text, "{name}");
        assert!(answer.is_final && !answer.is_false && !answer.is_clamped, "{name}: {answer:?}");
    }
}

#[test]
fn a_total_that_is_smaller_than_its_parts_is_clamped() {
    let answer = read(
        r#"{"usage":{"prompt_tokens":100,"completion_tokens":5,"prompt_tokens_details":{"cached_tokens":400}}}"#,
    );
    assert_eq!(answer.usage, usage(&[(Kind::CachedInput, 400), (Kind::Output, 5)]));
    assert!(answer.is_clamped);
}

#[test]
fn usage_that_cannot_be_is_no_usage() {
    for count in ["-1", "1099511627777", "1e300", "1.5", "\"12\"", "true", "[]", "{}", "[3]"] {
        let body = format!(r#"{{"usage":{{"prompt_tokens":{count},"completion_tokens":5}}}}"#);
        let answer = read(&body);
        assert_eq!((answer.usage, answer.is_false), (None, true), "{count}");
    }
    for body in [
        "{}",
        "[]",
        "",
        "null",
        r#"{"usage":null}"#,
        r#"{"usage":{}}"#,
        r#"{"usage":"12"}"#,
        r#"{"usage":[{"prompt_tokens":5}]}"#,
        r#"{"usage":{"prompt_tokens":null,"completion_tokens":null}}"#,
        r#"{"x":{"usage":{"prompt_tokens":5}}}"#,
        r#"[{"usage":{"prompt_tokens":5}}]"#,
        r#"{"usage":{"prompt_tokens":5}"#,
        r#"{"usage":{"prompt_tokens":5}}}"#,
        r#"{"choices":[{"message":{"content":"{\"usage\":{\"prompt_tokens\":5}}"}}]}"#,
    ] {
        let answer = read(body);
        assert_eq!((answer.usage, answer.is_false), (None, false), "{body}");
        assert!(!answer.is_final, "{body}");
    }
}
