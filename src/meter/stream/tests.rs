//! Streams as the providers document them, cut anywhere, in every form that the standard allows.

use bytes::Bytes;
use proptest::prelude::*;

use super::{MAX_KEPT_BYTES, Piece, StreamMeter, StreamOptions};
use crate::meter::anthropic::Anthropic;
use crate::meter::beginning::LONGEST;
use crate::meter::openai::OpenAi;
use crate::meter::{AnswerUsage, error_event};
use crate::problem::Code;
use crate::usage::{Kind, MeterKind, Usage};

const ALL: StreamOptions =
    StreamOptions { hides_usage_chunk: true, reports: true, whole_events: true };

const CHAT: &str = r#"data: {"id":"chatcmpl-1","object":"chat.completion.chunk","model":"","choices":[],"prompt_filter_results":[],"usage":null}

data: {"id":"chatcmpl-1","choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}],"usage":null}

data: {"id":"chatcmpl-1","choices":[{"index":0,"delta":{"content":"Hello"},"finish_reason":null}],"usage":null}

data: {"id":"chatcmpl-1","choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{}"}}]}}],"usage":null}

data: {"id":"chatcmpl-1","choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":null}

data: {"id":"chatcmpl-1","choices":[],"service_tier":"default","usage":{"prompt_tokens":1000,"completion_tokens":300,"total_tokens":1300,"prompt_tokens_details":{"cached_tokens":400},"completion_tokens_details":{"reasoning_tokens":200}}}

data: [DONE]

"#;

const ANTHROPIC: &str = r#"event: message_start
data: {"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant","content":[],"usage":{"input_tokens":600,"cache_creation_input_tokens":100,"cache_read_input_tokens":400,"output_tokens":1,"service_tier":"standard"}}}

event: content_block_start
data: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}

event: ping
data: {"type": "ping"}

event: content_block_delta
data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hello"}}

event: content_block_delta
data: {"type":"content_block_delta","index":0,"delta":{"type":"thinking_delta","thinking":"ab"}}

event: content_block_delta
data: {"type":"content_block_delta","index":0,"delta":{"type":"signature_delta","signature":"xxxxxxxx"}}

event: content_block_delta
data: {"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":"{\"a\":1}"}}

event: content_block_stop
data: {"type":"content_block_stop","index":0}

event: message_delta
data: {"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":{"output_tokens":300,"input_tokens":null}}

event: message_stop
data: {"type":"message_stop"}

"#;

const RESPONSES: &str = r#"event: response.created
data: {"type":"response.created","response":{"id":"resp_1","status":"in_progress","output":[],"usage":null}}

event: response.output_text.delta
data: {"type":"response.output_text.delta","item_id":"msg_1","delta":"Hello"}

event: response.audio.delta
data: {"type":"response.audio.delta","delta":"AAAAAAAAAAAA"}

event: response.output_text.done
data: {"type":"response.output_text.done","text":"Hello"}

event: response.completed
data: {"type":"response.completed","response":{"id":"resp_1","status":"completed","service_tier":"flex","output":[{"type":"message","content":[{"type":"output_text","text":"Hello"}]}],"usage":{"input_tokens":1000,"input_tokens_details":{"cached_tokens":400},"output_tokens":300,"output_tokens_details":{"reasoning_tokens":200}}}}

"#;

const CONTINUOUS: &str = r#"data: {"choices":[{"index":0,"delta":{"content":"Hel"}}],"usage":{"prompt_tokens":1000,"completion_tokens":1,"total_tokens":1001}}

data: {"choices":[{"index":0,"delta":{"content":"lo"},"finish_reason":"length"}],"usage":{"prompt_tokens":1000,"completion_tokens":300,"total_tokens":1300,"prompt_tokens_details":{"cached_tokens":400},"completion_tokens_details":{"reasoning_tokens":200}}}

data: [DONE]

"#;

fn pointers() -> MeterKind {
    let meter = toml::from_str::<std::collections::HashMap<String, MeterKind>>(
        "meter = { input = '/usage/prompt_tokens', output = '/usage/completion_tokens' }",
    );
    meter.unwrap().remove("meter").unwrap()
}

fn cases() -> Vec<(MeterKind, &'static str, AnswerUsage)> {
    let counts = |counts: &[(Kind, u64)]| {
        counts.iter().fold(Usage::NONE, |usage, (kind, n)| usage.with(*kind, *n).unwrap())
    };
    let openai = counts(&[
        (Kind::Input, 600),
        (Kind::CachedInput, 400),
        (Kind::Output, 100),
        (Kind::Reasoning, 200),
    ]);
    let anthropic = counts(&[
        (Kind::Input, 600),
        (Kind::CachedInput, 400),
        (Kind::CacheWrite, 100),
        (Kind::Output, 300),
    ]);
    let said = |usage, tier: Option<&str>, text| AnswerUsage {
        usage: Some(usage),
        is_final: true,
        service_tier: tier.map(Box::from),
        delivered_text_bytes: text,
        ..AnswerUsage::default()
    };
    vec![
        (MeterKind::OpenAi, CHAT, said(openai, Some("default"), 7)),
        (
            MeterKind::OpenAi,
            RESPONSES,
            AnswerUsage { has_media: true, ..said(openai, Some("flex"), 5) },
        ),
        (MeterKind::OpenAi, CONTINUOUS, said(openai, None, 5)),
        (MeterKind::Anthropic, ANTHROPIC, said(anthropic, Some("standard"), 14)),
        (
            pointers(),
            CONTINUOUS,
            said(counts(&[(Kind::Input, 1000), (Kind::Output, 300)]), None, 5),
        ),
    ]
}

/// The bytes that a client gets for these parts, with `<report>` at the place of the report, and
/// the usage.
fn run(kind: &MeterKind, options: StreamOptions, parts: &[&[u8]]) -> (String, AnswerUsage) {
    let (mut meter, mut pieces) = (StreamMeter::new(kind, options), Vec::new());
    for part in parts {
        meter.feed(Bytes::copy_from_slice(part), &mut pieces);
    }
    meter.end(&mut pieces);
    let mut shown = Vec::new();
    for piece in &pieces {
        match piece {
            Piece::Bytes(bytes) => shown.extend_from_slice(bytes),
            Piece::Report => shown.extend_from_slice(b"<report>"),
        }
    }
    (String::from_utf8_lossy(&shown).into_owned(), meter.so_far())
}

/// The bytes that a client should get, without the usage chunk and with the report before the last
/// event.
fn shown(stream: &str, options: StreamOptions, line_end: &str) -> String {
    let mut shown = String::new();
    let event_end = line_end.repeat(2);
    for event in stream.split_inclusive(&event_end) {
        let is_usage_chunk = event.contains(r#""choices":[]"#) && event.contains(r#""usage":{"#);
        if is_usage_chunk && options.hides_usage_chunk {
            continue;
        }
        let is_last = ["[DONE]", r#""type":"message_stop""#, r#""type":"response.completed""#]
            .iter()
            .any(|mark| event.contains(mark));
        if is_last && options.reports {
            shown.push_str("<report>");
        }
        shown.push_str(event);
    }
    shown
}

/// The same stream with other line ends, comments, unknown events, data without the space before
/// it, and counts that are spelled as floats.
fn disguised(stream: &str, line_end: &str, mix: bool) -> String {
    let mut out = String::new();
    for (at, event) in stream.split_inclusive("\n\n").enumerate() {
        if mix && at % 2 == 0 {
            out.push_str(": ping\n\nevent: other\ndata: not {json\nid: 7\n\ndata\n\nretry: 10\n\n");
        }
        let is_tight = mix && at % 3 == 0;
        out.push_str(&if is_tight { event.replace("data: ", "data:") } else { event.to_owned() });
    }
    if mix {
        out = out.replace(":300", ":300.0").replace(":1000", ":1e3");
    }
    out.replace('\n', line_end)
}

#[test]
fn a_stream_gives_the_same_usage_and_bytes_wherever_it_is_cut() {
    for (kind, stream, usage) in cases() {
        for line_end in ["\n", "\r\n", "\r"] {
            let stream = disguised(stream, line_end, false);
            for options in [StreamOptions::default(), ALL] {
                let expected = (shown(&stream, options, line_end), usage.clone());
                for cut in 0..=stream.len() {
                    let (head, tail) = stream.as_bytes().split_at(cut);
                    let got = run(&kind, options, &[head, tail]);
                    assert_eq!(got, expected, "cut at {cut} {line_end:?}");
                }
                let bytes: Vec<&[u8]> = stream.as_bytes().chunks(1).collect();
                assert_eq!(run(&kind, options, &bytes), expected, "byte by byte {line_end:?}");
            }
        }
    }
}

#[test]
fn comments_pings_and_unknown_events_change_nothing() {
    for (kind, stream, usage) in cases() {
        for line_end in ["\n", "\r\n", "\r"] {
            let stream = disguised(stream, line_end, true);
            for options in [StreamOptions::default(), ALL] {
                let expected = (shown(&stream, options, line_end), usage.clone());
                for length in [1, 2, 3, 7, 64, 1000, stream.len()] {
                    let parts: Vec<&[u8]> = stream.as_bytes().chunks(length).collect();
                    assert_eq!(run(&kind, options, &parts), expected, "{length} {line_end:?}");
                }
            }
        }
    }
}

#[test]
fn data_on_several_lines_and_events_without_empty_lines_are_read() {
    for (kind, stream, usage) in cases() {
        // JSON may have line breaks between its tokens.
        let lines = stream.replace("\"usage\":", "\ndata: \"usage\":");
        let (_, got) = run(&kind, ALL, &[lines.as_bytes()]);
        assert_eq!(got, usage, "{lines}");
        let tight = stream.replace("\n\n", "\n");
        let (shown, got) = run(&kind, ALL, &[tight.as_bytes()]);
        assert_eq!(got, usage, "{tight}");
        assert!(!shown.contains(r#""choices":[],"service_tier""#), "{shown}");
    }
    let with_mark = format!("\u{feff}{}", CHAT);
    assert_eq!(run(&MeterKind::OpenAi, ALL, &[with_mark.as_bytes()]).1, cases()[0].2);
}

#[test]
fn whole_events_pass_at_once_and_without_a_copy() {
    let (mut meter, mut pieces) = (StreamMeter::new(&MeterKind::OpenAi, ALL), Vec::new());
    for event in CHAT.split_inclusive("\n\n").take(5) {
        let part = Bytes::copy_from_slice(event.as_bytes());
        pieces.clear();
        meter.feed(part.clone(), &mut pieces);
        let [Piece::Bytes(passed)] = pieces.as_slice() else { panic!("{pieces:?}") };
        assert_eq!((passed.as_ptr(), passed.len()), (part.as_ptr(), part.len()));
    }
}

#[test]
fn the_report_knows_the_usage_of_the_last_event() {
    let (mut meter, mut pieces) = (StreamMeter::new(&MeterKind::OpenAi, ALL), Vec::new());
    for part in RESPONSES.as_bytes().chunks(100) {
        meter.feed(Bytes::copy_from_slice(part), &mut pieces);
        let is_before = !pieces.contains(&Piece::Report);
        assert_eq!(meter.so_far().usage.is_none(), is_before);
        assert_eq!(meter.has_last_event(), !is_before);
    }
    assert!(pieces.contains(&Piece::Report));
}

#[test]
fn an_abort_knows_what_was_delivered() {
    let head = &ANTHROPIC[..ANTHROPIC.find("event: message_delta").unwrap()];
    let mut meter = StreamMeter::new(&MeterKind::Anthropic, StreamOptions::default());
    meter.feed(Bytes::from_static(head.as_bytes()), &mut Vec::new());
    let said = meter.so_far();
    assert_eq!(said.usage.map(|usage| usage.input_tokens()), Some(1100));
    assert_eq!((said.is_final, said.delivered_text_bytes), (false, 14));
    let head = &CONTINUOUS[..CONTINUOUS.find("data: [DONE]").unwrap()];
    let mut meter = StreamMeter::new(&MeterKind::OpenAi, StreamOptions::default());
    meter.feed(Bytes::from_static(head.as_bytes()), &mut Vec::new());
    assert!(!meter.so_far().is_final, "usage in every chunk is not the last word");
    meter.end(&mut Vec::new());
    assert!(meter.so_far().is_final);
}

#[test]
fn a_long_line_is_metered_and_passes_on_in_bounded_memory() {
    let picture = "A".repeat(3 * MAX_KEPT_BYTES);
    let stream = format!(
        "event: image_generation.partial_image\ndata: {{\"type\":\"image_generation.partial_image\",\"b64_json\":\"{picture}\"}}\n\n\
         event: image_generation.completed\ndata: {{\"type\":\"image_generation.completed\",\"b64_json\":\"{picture}\",\
         \"usage\":{{\"input_tokens\":50,\"output_tokens\":70,\"total_tokens\":120}}}}\n\n"
    );
    let parts: Vec<&[u8]> = stream.as_bytes().chunks(16 << 10).collect();
    let (mut meter, mut pieces) = (StreamMeter::new(&MeterKind::OpenAi, ALL), Vec::new());
    let (mut passed, mut fed) = (0, 0);
    for part in parts {
        fed += part.len();
        meter.feed(Bytes::copy_from_slice(part), &mut pieces);
        for piece in pieces.drain(..) {
            let Piece::Bytes(bytes) = piece else { panic!("a report") };
            passed += bytes.len();
        }
        assert!(fed - passed <= MAX_KEPT_BYTES);
    }
    meter.end(&mut pieces);
    assert_eq!(passed, stream.len());
    let said = meter.so_far();
    let usage = said.usage.unwrap();
    assert_eq!((usage.of(Kind::Input), usage.of(Kind::OutputImage), said.images), (50, 70, 1));
}

#[test]
fn an_error_event_is_one_that_the_sdks_raise() {
    let message = "Not enough credits\n\"now\".";
    for (kind, code, name) in [
        (MeterKind::OpenAi, Code::InsufficientCredits, "insufficient_quota"),
        (MeterKind::OpenAi, Code::LedgerUnavailable, "api_error"),
        (MeterKind::Anthropic, Code::InsufficientCredits, "billing_error"),
        (MeterKind::Anthropic, Code::LedgerUnavailable, "api_error"),
    ] {
        let event = error_event(&kind, code, message);
        let text = std::str::from_utf8(&event).unwrap();
        assert!(text.starts_with("\n\n") && text.ends_with("\n\n"), "{text}");
        let data = text.lines().find_map(|line| line.strip_prefix("data: ")).unwrap();
        let json: serde_json::Value = serde_json::from_str(data).unwrap();
        assert_eq!(
            (&json["error"]["message"], &json["error"]["type"]),
            (&message.into(), &name.into())
        );
        if kind == MeterKind::OpenAi {
            assert_eq!(json["error"]["code"], serde_json::to_value(code).unwrap());
        }
        assert_eq!(text.contains("event: error"), kind == MeterKind::Anthropic);
    }
}

/// The events of a stream that may begin alike: the choice, the tier, the kind of the text, and the
/// rest of a chunk differ, and some events are cut off or have no text at all.
fn alike() -> impl Strategy<Value = String> {
    let tier = prop::sample::select(vec![
        "",
        "\"service_tier\":\"default\",",
        "\"service_tier\":\"flex\",",
        "\"service_tier\":null,",
    ]);
    let name =
        prop::sample::select(vec!["content", "reasoning", "reasoning_content", "refusal", "role"]);
    let text = prop::sample::select(vec![
        "\"a\"",
        "\"caf\\u00e9\"",
        "\"\"",
        "null",
        "7",
        "{\"x\":[]}",
        "[\"b\"]",
    ]);
    let rest = prop::sample::select(vec![
        "}}],\"usage\":null}",
        "},\"finish_reason\":\"stop\"}],\"service_tier\":\"priority\"}",
        "}}],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":4}}",
        "}}],\"usage\":{\"prompt_tokens\":-1}}",
        ",\"reasoning\":\"bcd\"},\"delta\":{\"content\":\"e\"}}]}",
        "}}]",
        "}}],}",
    ]);
    // Most chunks begin alike, as they do in a stream.
    let usual = Just((0, "\"service_tier\":\"default\",", "content"));
    let begins = prop_oneof![4 => usual, 1 => (0..2, tier, name)];
    let chunk = (begins, text, rest).prop_map(|((index, tier, name), text, rest)| {
        format!(
            "{{\"id\":\"c\",{tier}\"choices\":[{{\"index\":{index},\"delta\":{{\"{name}\":{text}{rest}"
        )
    });
    let other = prop::sample::select(vec![
        r#"{"choices":[],"service_tier":"scale","usage":{"prompt_tokens":5,"completion_tokens":3}}"#,
        r#"{"type":"response.output_text.delta","item_id":"m","delta":"abc"}"#,
        r#"{"type":"response.audio.delta","item_id":"m","delta":"abc"}"#,
        r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"abc"}}"#,
        r#"{"type":"content_block_delta","index":0,"delta":{"type":"thinking_delta","thinking":"abcd"}}"#,
        r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":7}}"#,
        r#"{"usage":{"service_tier":"batch","input_tokens":5},"delta":{"text":"ab"}}"#,
        r#"{"usage":{"service_tier":"standard","input_tokens":5},"delta":{"text":"ab"}}"#,
        r#"{"choices":[{"message":{"audio":{"data":"AAAA","transcript":"hey"}}}]}"#,
    ]);
    prop_oneof![5 => chunk, 2 => other.prop_map(str::to_owned)]
}

#[test]
fn the_state_of_a_stream_is_bounded() {
    let meter = size_of::<StreamMeter>() + size_of::<OpenAi>().max(size_of::<Anthropic>());
    // The beginning that events repeat, and a token of up to 257 bytes that the end of a part has cut.
    let on_the_heap = LONGEST + 512;
    assert!(meter + on_the_heap < 3 << 10, "{meter} + {on_the_heap}");
}

fn fixtures() -> impl Strategy<Value = (usize, Vec<(usize, u8)>, usize, bool)> {
    (
        0..5_usize,
        prop::collection::vec((any::<usize>(), any::<u8>()), 0..8),
        1..300_usize,
        any::<bool>(),
    )
}

proptest! {
    #[test]
    fn events_that_begin_alike_are_read_as_if_each_came_alone(
        events in prop::collection::vec((alike(), 1..4_usize), 1..12),
    ) {
        for kind in [MeterKind::OpenAi, MeterKind::Anthropic, pointers()] {
            let new = || StreamMeter::new(&kind, StreamOptions::default());
            // A beginning that arrives byte by byte is never recognized.
            let (mut whole, mut by_bytes) = (new(), new());
            for (event, times) in &events {
                for _ in 0..*times {
                    let event = format!("data: {event}\n\n");
                    whole.watch(event.as_bytes());
                    event.as_bytes().chunks(1).for_each(|byte| by_bytes.watch(byte));
                    prop_assert_eq!(whole.so_far(), by_bytes.so_far(), "after {}", event);
                }
            }
        }
    }

    #[test]
    fn garbage_never_panics_and_never_mints(bytes in prop::collection::vec(any::<u8>(), 0..400), length in 1..50_usize) {
        for kind in [MeterKind::OpenAi, MeterKind::Anthropic, pointers()] {
            let parts: Vec<&[u8]> = bytes.chunks(length).collect();
            let (mut meter, mut pieces) = (StreamMeter::new(&kind, ALL), Vec::new());
            for part in &parts {
                meter.feed(Bytes::copy_from_slice(part), &mut pieces);
            }
            meter.end(&mut pieces);
            let shown: Vec<u8> = pieces.iter().flat_map(|piece| match piece {
                Piece::Bytes(bytes) => bytes.to_vec(),
                Piece::Report => Vec::new(),
            }).collect();
            prop_assert_eq!(&shown, &bytes);
            prop_assert_eq!(meter.so_far().usage, None);
        }
    }

    #[test]
    fn a_damaged_stream_never_panics_and_is_the_same_wherever_it_is_cut((which, damage, length, all) in fixtures()) {
        let (kind, stream, _) = cases().swap_remove(which);
        let mut bytes = stream.as_bytes().to_vec();
        for (at, byte) in damage {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        let options = if all { ALL } else { StreamOptions::default() };
        let whole = run(&kind, options, &[&bytes]);
        let parts: Vec<&[u8]> = bytes.chunks(length).collect();
        prop_assert_eq!(run(&kind, options, &parts), whole);
    }
}
