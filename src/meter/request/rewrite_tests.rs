//! The changes that a rewrite makes to a body.

use proptest::prelude::*;

use super::tests::{pointers, read, requests};
use super::{Changes, UsageChunk, Watched, read_request};
use crate::usage::MeterKind;

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
    // A limit that is added for one shape limits no other one.
    for (body, can) in [
        (r#"{"messages":[],"input":"a"}"#, false),
        (r#"{"messages":[],"input":"a","max_tokens":5}"#, false),
        (r#"{"messages":[],"prompt":"a","max_completion_tokens":5}"#, false),
        (r#"{"messages":[],"prompt":"a","max_tokens":5}"#, true),
        (r#"{"prompt":{"id":"pmpt_1"},"input":"a"}"#, true),
    ] {
        assert_eq!(read(body).unwrap().can_limit_output(), can, "{body}");
    }
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
}
