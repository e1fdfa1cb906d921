//! Rewrites: the members that they change, and that no other byte changes.

use proptest::prelude::*;

use super::tests::{pointers, read};
use super::{Changes, UsageChunk, Watched, read_request};
use crate::usage::MeterKind;

#[test]
fn the_usage_chunk_is_asked_for_where_the_shape_has_one() {
    let chunk = |kind: &MeterKind, body: &str| {
        read_request(kind, body.as_bytes(), &Watched::default()).unwrap().usage_chunk
    };
    for (body, expected) in [
        (r#"{"messages":[],"stream":true}"#, UsageChunk::NotAsked),
        (r#"{"prompt":"a","stream":true,"model":"gpt-3.5-turbo-instruct"}"#, UsageChunk::NotAsked),
        (
            r#"{"messages":[],"stream":true,"stream_options":{"include_usage":true}}"#,
            UsageChunk::Asked,
        ),
        (
            r#"{"messages":[],"stream":true,"stream_options":{"include_usage":false}}"#,
            UsageChunk::NotAsked,
        ),
        (r#"{"messages":[],"stream":true,"stream_options":null}"#, UsageChunk::NotAsked),
        (r#"{"messages":[]}"#, UsageChunk::NotNeeded),
        (r#"{"input":"a","stream":true}"#, UsageChunk::NotNeeded),
        (r#"{"prompt":"a cat","stream":true,"size":"1024x1024"}"#, UsageChunk::NotNeeded),
        (r#"{"prompt":"a cat","stream":true,"model":"gpt-image-1"}"#, UsageChunk::NotNeeded),
    ] {
        assert_eq!(chunk(&MeterKind::OpenAi, body), expected, "{body}");
    }
    let streamed = r#"{"messages":[],"stream":true}"#;
    assert_eq!(chunk(&MeterKind::Anthropic, streamed), UsageChunk::NotNeeded);
}

#[test]
fn a_rewrite_changes_its_members_and_no_other_byte() {
    let all = Changes { model: Some("b\"c"), include_usage: true, output_limit: Some(50) };
    let usage = Changes { include_usage: true, ..Changes::default() };
    let limit = Changes { output_limit: Some(50), ..Changes::default() };
    for (body, changes, expected) in [
        (r#"{"model":"a"}"#, Changes::default(), None),
        (r#"{"model":"a"}"#, Changes { model: Some("a"), ..Changes::default() }, None),
        (
            r#" { "model" : "a" , "x":"a" } "#,
            Changes { model: Some("b"), ..Changes::default() },
            Some(r#" { "model" : "b" , "x":"a" } "#),
        ),
        (r#"{"stream_options":{"include_usage":true}}"#, usage, None),
        (
            r#"{"stream_options":{"include_usage":null}}"#,
            usage,
            Some(r#"{"stream_options":{"include_usage":true}}"#),
        ),
        (
            r#"{"stream_options": { }}"#,
            usage,
            Some(r#"{"stream_options": {"include_usage":true }}"#),
        ),
        (
            r#"{"stream_options":{"a":1}}"#,
            usage,
            Some(r#"{"stream_options":{"include_usage":true,"a":1}}"#),
        ),
        (r#"{"stream_options":null}"#, usage, Some(r#"{"stream_options":{"include_usage":true}}"#)),
        (r#"{}"#, usage, Some(r#"{"stream_options":{"include_usage":true}}"#)),
        (r#"{"max_tokens":50}"#, limit, None),
        (
            r#"{"max_tokens":40,"max_completion_tokens":60}"#,
            limit,
            Some(r#"{"max_tokens":40,"max_completion_tokens":50}"#),
        ),
        (
            r#"{"max_tokens":null,"max_completion_tokens":60}"#,
            limit,
            Some(r#"{"max_tokens":null,"max_completion_tokens":50}"#),
        ),
        (r#"{"max_tokens":0,"messages":[]}"#, limit, Some(r#"{"max_tokens":50,"messages":[]}"#)),
        (r#"{"messages":[]}"#, limit, Some(r#"{"max_completion_tokens":50,"messages":[]}"#)),
        (r#"{"input":"a"}"#, limit, Some(r#"{"max_output_tokens":50,"input":"a"}"#)),
        (r#"{"prompt":"a"}"#, limit, Some(r#"{"max_tokens":50,"prompt":"a"}"#)),
        (
            r#"{"messages":[],"n_predict":60}"#,
            limit,
            Some(r#"{"max_completion_tokens":50,"messages":[],"n_predict":50}"#),
        ),
        (
            r#"{"messages":[],"n_predict":60,"max_tokens":null}"#,
            limit,
            Some(r#"{"messages":[],"n_predict":50,"max_tokens":50}"#),
        ),
        (
            r#"{"generationConfig":{"maxOutputTokens":99}}"#,
            limit,
            Some(r#"{"generationConfig":{"maxOutputTokens":50}}"#),
        ),
        (
            r#"{"messages":[],"model":"a"}"#,
            all,
            Some(
                r#"{"stream_options":{"include_usage":true},"max_completion_tokens":50,"messages":[],"model":"b\"c"}"#,
            ),
        ),
    ] {
        let read = read(body).unwrap();
        let changed = read.rewrite(body.as_bytes(), &changes);
        assert_eq!(changed.as_deref(), expected.map(str::as_bytes), "{body}");
        let can = read.can_limit_output();
        assert!(can || changes.output_limit.is_none(), "{body}");
    }
    let anthropic = read_request(&MeterKind::Anthropic, b"{\"messages\":[]}", &Watched::default());
    let changed = anthropic.unwrap().rewrite(b"{\"messages\":[]}", &limit);
    assert_eq!(changed.as_deref(), Some(&b"{\"max_tokens\":50,\"messages\":[]}"[..]));
    let unknown = read_request(&pointers(), b"{\"x\":1}", &Watched::default()).unwrap();
    assert!(!unknown.can_limit_output());
}

/// Requests with these members, in random order.
fn requests() -> impl Strategy<Value = serde_json::Value> {
    let limit = || prop::option::of(prop::option::of(0..i32::MAX as u32));
    let options = prop::option::of(prop::option::of(prop::option::of(any::<bool>())));
    (any::<String>(), any::<bool>(), limit(), limit(), options).prop_map(
        |(text, stream, first, second, options)| {
            let mut body = serde_json::json!({
                "model": "gpt-5", "stream": stream, "messages": [{"role": "user", "content": text}],
            });
            if let Some(limit) = first {
                body["max_tokens"] = limit.into();
            }
            if let Some(limit) = second {
                body["max_completion_tokens"] = limit.into();
            }
            match options {
                Some(Some(None)) => body["stream_options"] = serde_json::json!({}),
                Some(Some(Some(ask))) => {
                    body["stream_options"] = serde_json::json!({"include_usage": ask, "x": [1]});
                }
                Some(None) => body["stream_options"] = serde_json::Value::Null,
                None => {}
            }
            body
        },
    )
}

proptest! {
    #[test]
    fn a_rewritten_body_is_the_body_with_those_members_changed(
        json in requests(),
        pretty in any::<bool>(),
        model in prop::option::of("[!-~]{1,20}"),
        include_usage in any::<bool>(),
        output_limit in prop::option::of(1..1000_u32),
    ) {
        let body = if pretty { serde_json::to_string_pretty(&json) } else { serde_json::to_string(&json) }.unwrap();
        let changes = Changes { model: model.as_deref(), include_usage, output_limit };
        let before = read(&body).unwrap();
        let after = before.rewrite(body.as_bytes(), &changes);
        let after: &[u8] = after.as_deref().unwrap_or(body.as_bytes());
        let mut expected = json.clone();
        if let Some(model) = &model {
            expected["model"] = model.as_str().into();
        }
        if include_usage {
            if !expected["stream_options"].is_object() {
                expected["stream_options"] = serde_json::json!({});
            }
            expected["stream_options"]["include_usage"] = true.into();
        }
        let got: serde_json::Value = serde_json::from_slice(after).unwrap();
        let reread = read(std::str::from_utf8(after).unwrap()).unwrap();
        if let Some(limit) = output_limit {
            let lowered = before.facts.limits.output_tokens.map_or(limit, |before| before.min(limit));
            prop_assert_eq!(reread.facts.limits.output_tokens, Some(lowered));
        } else {
            prop_assert_eq!(reread.facts.limits, before.facts.limits);
        }
        for member in ["max_tokens", "max_completion_tokens"] {
            if let Some(value) = got.get(member) {
                expected[member] = value.clone();
            }
        }
        prop_assert_eq!(&got, &expected);
        prop_assert_eq!(&reread.facts.model, &model.map(Box::from).or(before.facts.model));
        if include_usage && before.facts.is_stream {
            prop_assert_eq!(reread.usage_chunk, UsageChunk::Asked);
        }
    }

    #[test]
    fn garbage_is_refused_and_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let watched = Watched::new(["size"], ["store"]);
        for kind in [MeterKind::OpenAi, MeterKind::Anthropic] {
            let _ = read_request(&kind, &bytes, &watched);
        }
    }

    #[test]
    fn a_damaged_body_is_refused_or_read_as_serde_json_reads_it(
        json in requests(),
        damage in prop::collection::vec((any::<usize>(), any::<u8>()), 0..4),
    ) {
        let mut body = serde_json::to_vec(&json).unwrap();
        for (at, byte) in damage {
            let at = at % body.len();
            body[at] = byte;
        }
        if let Ok(read) = read_request(&MeterKind::OpenAi, &body, &Watched::default()) {
            let json: serde_json::Value = serde_json::from_slice(&body).unwrap();
            prop_assert_eq!(json["model"].as_str(), read.facts.model.as_deref());
            prop_assert_eq!(json["stream"].as_bool().unwrap_or(false), read.facts.is_stream);
            let limits = ["max_tokens", "max_completion_tokens"].map(|name| json[name].as_u64().unwrap_or(0));
            let limit = limits.into_iter().max().filter(|limit| *limit > 0);
            prop_assert_eq!(limit, read.facts.limits.output_tokens.map(u64::from));
        }
    }
}
