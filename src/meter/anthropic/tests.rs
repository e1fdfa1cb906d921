//! Answers in Anthropic's shape, as its documentation shows them.

use crate::meter::{AnswerUsage, read_answer};
use crate::usage::{Kind, MeterKind, Usage};

fn read(body: &str) -> AnswerUsage {
    let whole = read_answer(&MeterKind::Anthropic, body.as_bytes());
    for cut in 0..=body.len() {
        let mut meter = crate::meter::JsonMeter::new(&MeterKind::Anthropic);
        let (head, tail) = body.as_bytes().split_at(cut);
        meter.feed(head);
        meter.feed(tail);
        assert_eq!(meter.end(), whole, "cut at {cut}: {body}");
    }
    whole
}

fn usage(counts: &[(Kind, u64)]) -> Option<Usage> {
    Some(counts.iter().fold(Usage::NONE, |usage, (kind, count)| usage.with(*kind, *count).unwrap()))
}

#[test]
fn what_the_cache_took_part_in_is_beside_the_input() {
    let answer = read(
        r#"{"id":"msg_1","type":"message","role":"assistant","model":"claude","content":[
        {"type":"thinking","thinking":"abc","signature":"xxxx"},{"type":"text","text":"Hi!"},
        {"type":"tool_use","id":"t","name":"f","input":{"a":1}}],"stop_reason":"end_turn",
        "usage":{"input_tokens":600,"cache_read_input_tokens":400,"cache_creation_input_tokens":100,
        "output_tokens":300,"service_tier":"standard","server_tool_use":{"web_search_requests":2}}}"#,
    );
    let expected = AnswerUsage {
        usage: usage(&[
            (Kind::Input, 600),
            (Kind::CachedInput, 400),
            (Kind::CacheWrite, 100),
            (Kind::Output, 300),
            (Kind::Search, 2),
        ]),
        is_final: true,
        service_tier: Some("standard".into()),
        delivered_text_bytes: 11,
        ..AnswerUsage::default()
    };
    assert_eq!(answer, expected);
}

#[test]
fn writes_to_the_cache_are_split_by_how_long_they_last() {
    for (parts, five, hour, is_clamped) in [
        (r#"{"ephemeral_5m_input_tokens":40,"ephemeral_1h_input_tokens":60}"#, 40, 60, false),
        (r#"{"ephemeral_5m_input_tokens":0,"ephemeral_1h_input_tokens":60}"#, 40, 60, false),
        (r#"{"ephemeral_1h_input_tokens":160}"#, 0, 160, true),
        ("null", 100, 0, false),
        ("{}", 100, 0, false),
    ] {
        let answer = read(&format!(
            r#"{{"usage":{{"input_tokens":1,"cache_creation_input_tokens":100,"cache_creation":{parts},"output_tokens":1}}}}"#
        ));
        let expected = usage(&[
            (Kind::Input, 1),
            (Kind::CacheWrite, five),
            (Kind::CacheWrite1h, hour),
            (Kind::Output, 1),
        ]);
        assert_eq!((answer.usage, answer.is_clamped), (expected, is_clamped), "{parts}");
    }
}

#[test]
fn usage_that_cannot_be_is_no_usage() {
    for count in ["-1", "1099511627777", "0.5", "\"12\"", "false", "{}"] {
        let body = format!(r#"{{"usage":{{"input_tokens":1,"output_tokens":{count}}}}}"#);
        let answer = read(&body);
        assert_eq!((answer.usage, answer.is_false), (None, true), "{count}");
    }
    for body in
        ["{}", r#"{"usage":null}"#, r#"{"type":"error","error":{"type":"overloaded_error"}}"#]
    {
        assert_eq!(read(body).usage, None, "{body}");
    }
}
