//! Requests: the members that are read, and the bodies that are refused.

use super::{BodyMistake, ReadRequest, Watched, read_request};
use crate::problem::Language;
use crate::usage::{MeterKind, Scalar};

pub(super) fn read(body: &str) -> Result<ReadRequest, BodyMistake> {
    read_request(&MeterKind::OpenAi, body.as_bytes(), &Watched::default())
}

fn facts(body: &str) -> crate::usage::RequestFacts {
    read(body).unwrap_or_else(|mistake| panic!("{mistake:?}: {body}")).facts
}

pub(super) fn pointers() -> MeterKind {
    #[derive(serde::Deserialize)]
    struct Route {
        meter: MeterKind,
    }
    toml::from_str::<Route>("meter = { input = '/usage/in', output = '/usage/out' }").unwrap().meter
}

#[test]
fn the_members_that_make_the_price_are_read() {
    let read = facts(
        r#"{"model":"gpt-5","messages":[{"role":"user","content":"Hi"}],"stream":true,"n":3,"best_of":2,
        "max_tokens":10,"max_completion_tokens":3000,"temperature":0.5}"#,
    );
    assert_eq!(read.model.as_deref(), Some("gpt-5"));
    assert!(read.is_stream);
    assert_eq!((read.limits.output_tokens, read.limits.answers), (Some(3000), 3));
    assert!(!read.writes_cache && !read.sends_audio && !read.asks_for_audio);
    assert_eq!((read.images, read.input_elsewhere), (0, None));
    let nothing = facts("{}");
    assert_eq!((nothing.model, nothing.is_stream), (None, false));
    assert_eq!((nothing.limits.output_tokens, nothing.limits.answers), (None, 1));
    // PHP escapes every slash.
    assert_eq!(facts(r#"{"model":"openai\/gpt-5"}"#).model.as_deref(), Some("openai/gpt-5"));
    let longest = "m".repeat(255);
    assert_eq!(facts(&format!(r#"{{"model":"{longest}"}}"#)).model, Some(longest.into()));
}

#[test]
fn the_output_limit_is_the_largest_wherever_it_stands() {
    for (body, limit) in [
        (r#"{"max_tokens":5}"#, Some(5)),
        (r#"{"max_output_tokens":5}"#, Some(5)),
        (r#"{"n_predict":5}"#, Some(5)),
        (r#"{"max_new_tokens":5}"#, Some(5)),
        (r#"{"generationConfig":{"maxOutputTokens":5}}"#, Some(5)),
        (r#"{"inferenceConfig":{"maxTokens":5}}"#, Some(5)),
        (r#"{"options":{"num_predict":5}}"#, Some(5)),
        (r#"{"parameters":{"max_new_tokens":5}}"#, Some(5)),
        (r#"{"max_tokens":5,"options":{"num_predict":7}}"#, Some(7)),
        (r#"{"max_tokens":null}"#, None),
        (r#"{"max_tokens":2147483647}"#, Some(i32::MAX as u32)),
        // The provider of this shape may ignore a limit that only another provider knows.
        (r#"{"messages":[],"max_completion_tokens":5,"n_predict":7}"#, Some(7)),
        (r#"{"messages":[],"max_output_tokens":5}"#, None),
        (r#"{"messages":[],"n_predict":5,"max_tokens":null}"#, None),
        (r#"{"messages":[],"input":"a","max_tokens":5}"#, None),
        (r#"{"input":"a","max_output_tokens":5}"#, Some(5)),
        (r#"{"input":"a","max_tokens":5}"#, None),
        (r#"{"prompt":"a","max_tokens":5}"#, Some(5)),
        (r#"{"prompt":"a","max_output_tokens":5}"#, None),
        (r#"{"prompt":"a","messages":[],"max_completion_tokens":5}"#, None),
        (r#"{"prompt":"a","messages":[],"max_tokens":5}"#, Some(5)),
        (r#"{"prompt":["a"],"input":"a","max_output_tokens":5}"#, None),
        (r#"{"prompt":"a","input":"a","max_tokens":4,"max_output_tokens":5}"#, Some(5)),
        (r#"{"prompt":{"id":"pmpt_1"},"max_output_tokens":5}"#, Some(5)),
        (r#"{"prompt":{"id":"pmpt_1"},"max_tokens":5}"#, None),
        // Many parsers read 0 as no limit.
        (r#"{"max_tokens":0}"#, None),
        (r#"{"max_tokens":0,"max_completion_tokens":4}"#, Some(4)),
        // This is not a limit of the request, but a parameter of a function.
        (
            r#"{"tools":[{"type":"function","function":{"parameters":{"max_tokens":5,"Model":1}}}]}"#,
            None,
        ),
    ] {
        assert_eq!(facts(body).limits.output_tokens, limit, "{body}");
    }
    for (body, answers) in [
        (r#"{"generationConfig":{"candidateCount":4}}"#, 4),
        (r#"{"sampleCount":4}"#, 4),
        (r#"{"parameters":{"sampleCount":4}}"#, 4),
        (r#"{"n":0}"#, 1),
        (r#"{"n":null,"best_of":2}"#, 2),
        (r#"{"prompt":["a"]}"#, 1),
        (r#"{"prompt":[1,2,3]}"#, 1),
        (r#"{"prompt":[[1,2],[3]],"n":3}"#, 6),
        (r#"{"best_of":2,"prompt":["a","b","c"]}"#, 6),
    ] {
        assert_eq!(facts(body).limits.answers, answers, "{body}");
    }
}

#[test]
fn image_data_is_exempt_in_its_place_only_whatever_it_contains() {
    let data = "x".repeat(3000);
    let chat = |part: &str| format!(r#"{{"model":"m","messages":[{{"content":[{part}]}}]}}"#);
    let image = |member: &str| chat(&format!(r#"{{"type":"image_url",{member}}}"#));
    let responses = |item: &str| format!(r#"{{"input":[{item}]}}"#);
    let source = |kind: &str, media: &str| {
        format!(
            r#"{{"type":"image","source":{{"type":"{kind}","media_type":"{media}","data":"{data}"}}}}"#
        )
    };
    let exempt = [
        (
            MeterKind::OpenAi,
            image(&format!(r#""image_url":{{"url":"data:image/png;base64,{data}"}}"#)),
        ),
        (
            MeterKind::OpenAi,
            image(&format!(r#""image_url":{{"url":"data:,{data}","detail":"low"}}"#)),
        ),
        (
            MeterKind::OpenAi,
            image(&format!(r#""image_url":{{"url":"data:image\/png;base64,{data}"}}"#)),
        ),
        (
            MeterKind::OpenAi,
            responses(&format!(
                r#"{{"content":[{{"image_url":"data:image/png;base64,{data}"}}]}}"#
            )),
        ),
        (MeterKind::Anthropic, chat(&source("base64", "image/png"))),
        (
            MeterKind::Anthropic,
            chat(&format!(
                r#"{{"type":"tool_result","content":[{}]}}"#,
                source("base64", "image/png")
            )),
        ),
        (pointers(), format!(r#"{{"messages":[{{"content":"","images":["{data}"]}}]}}"#)),
        (
            pointers(),
            format!(
                r#"{{"contents":[{{"parts":[{{"inlineData":{{"data":"{data}","mimeType":"image/png"}}}}]}}]}}"#
            ),
        ),
    ];
    for (kind, body) in exempt {
        let read = read_request(&kind, body.as_bytes(), &Watched::default()).unwrap().facts;
        assert_eq!(read.images, 1, "{kind:?} {body}");
        assert_eq!(read.text_bytes, (body.len() - 3000) as u64, "{kind:?} {body}");
        assert_eq!(read.input_elsewhere, None, "{kind:?} {body}");
    }
    let not_exempt = [
        (
            MeterKind::OpenAi,
            chat(&format!(r#"{{"type":"text","text":"data:image/png;base64,{data}"}}"#)),
        ),
        (MeterKind::OpenAi, format!(r#"{{"image_url":{{"url":"data:image/png;base64,{data}"}}}}"#)),
        (
            MeterKind::OpenAi,
            image(&format!(r#""image_url":{{"uri":"data:image/png;base64,{data}"}}"#)),
        ),
        (MeterKind::OpenAi, image(&format!(r#""image_url":"data:image/png;base64,{data}""#))),
        (MeterKind::OpenAi, chat(&source("base64", "image/png"))),
        (
            MeterKind::OpenAi,
            chat(&format!(r#"{{"file":{{"file_data":"data:image/png;base64,{data}"}}}}"#)),
        ),
        (MeterKind::Anthropic, chat(&source("base64", "application/pdf"))),
        (MeterKind::Anthropic, chat(&source("text", "image/png"))),
        (MeterKind::Anthropic, format!(r#"{{"source":{}}}"#, source("base64", "image/png"))),
        (MeterKind::OpenAi, format!(r#"{{"messages":[{{"content":"","images":["{data}"]}}]}}"#)),
        (
            MeterKind::OpenAi,
            responses(&format!(r#"{{"output":[{{"image_url":"data:image/png;base64,{data}"}}]}}"#)),
        ),
    ];
    for (kind, body) in not_exempt {
        let read = read_request(&kind, body.as_bytes(), &Watched::default()).unwrap().facts;
        assert_eq!((read.images, read.text_bytes), (0, body.len() as u64), "{kind:?} {body}");
    }
}

#[test]
fn input_that_is_not_in_the_body_is_noticed() {
    for (body, name) in [
        (r#"{"previous_response_id":"resp_1"}"#, "previous_response_id"),
        (r#"{"conversation":{"id":"conv_1"}}"#, "conversation"),
        (r#"{"prompt":{"id":"pmpt_1"}}"#, "prompt.id"),
        (r#"{"cachedContent":"cachedContents/1"}"#, "cachedContent"),
        (
            r#"{"messages":[{"content":[{"image_url":{"url":"https://example.com/a.png"}}]}]}"#,
            "image_url",
        ),
        (r#"{"messages":[{"content":[{"image_url":{"url":"DATA:image/png,x"}}]}]}"#, "image_url"),
        (r#"{"messages":[{"content":[{"type":"file","file":{"file_id":"file-1"}}]}]}"#, "file_id"),
        (
            r#"{"input":[{"content":[{"type":"input_file","file_url":"https://e.com/a"}]}]}"#,
            "file_url",
        ),
        (
            r#"{"input":[{"content":[{"type":"input_image","image_url":"https://e.com/a"}]}]}"#,
            "image_url",
        ),
        (r#"{"input":[{"type":"item_reference","id":"msg_1"}]}"#, "item_reference"),
        (r#"{"input":[{"id":"msg_1"}]}"#, "item_reference"),
        (
            r#"{"messages":[{"content":[{"source":{"type":"url","url":"https://e.com"}}]}]}"#,
            "source",
        ),
        (r#"{"messages":[{"content":[{"source":{"type":"file","file_id":"f"}}]}]}"#, "source"),
        (r#"{"messages":[{"role":"assistant","audio":{"id":"audio_1"}}]}"#, "audio"),
        (r#"{"tools":[{"type":"web_search_preview"}]}"#, "web_search"),
        (r#"{"tools":[{"type":"web_search_20250305","name":"web_search"}]}"#, "web_search"),
        (r#"{"tools":[{"type":"file_search","vector_store_ids":[]}]}"#, "file_search"),
        (r#"{"tools":[{"type":"code_interpreter"}]}"#, "code_interpreter"),
        (r#"{"tools":[{"type":"mc\u0070"}]}"#, "mcp"),
        (r#"{"web_search_options":{}}"#, "web_search_options"),
        (r#"{"contents":[{"parts":[{"fileData":{"fileUri":"gs://a"}}]}]}"#, "fileData"),
        (r#"{"attachments":[{"fileId":"f"}]}"#, "file_id"),
    ] {
        assert_eq!(facts(body).input_elsewhere, Some(name), "{body}");
    }
    for body in [
        r#"{"previous_response_id":null,"conversation":null,"prompt":"id"}"#,
        r#"{"prompt":{"variables":{}}}"#,
        r#"{"messages":[{"content":[{"image_url":null,"file_id":null}]}]}"#,
        r#"{"tools":[{"type":"function","function":{"name":"mcp","parameters":{"properties":{"file_id":{"type":"string"}}}}}]}"#,
        r#"{"messages":[{"content":[{"type":"tool_use","input":{"file_id":"f","url":"https://e.com"}}]}]}"#,
        r#"{"metadata":{"file_id":"f"},"input":["a",[1,2],{"type":"message","id":"m","content":"x"}]}"#,
    ] {
        assert_eq!(facts(body).input_elsewhere, None, "{body}");
    }
}

#[test]
fn cache_and_audio_are_noticed() {
    for body in [
        r#"{"cache_control":{"type":"ephemeral"}}"#,
        r#"{"system":[{"type":"text","text":"x","cache_control":{"type":"ephemeral"}}]}"#,
        r#"{"messages":[{"content":[{"type":"text","cache_control":{"type":"ephemeral"}}]}]}"#,
        r#"{"tools":[{"name":"f","input_schema":{},"cache_control":{"type":"ephemeral"}}]}"#,
        r#"{"unknown":[{"cacheControl":{}}]}"#,
    ] {
        assert!(facts(body).writes_cache, "{body}");
    }
    assert!(
        !facts(r#"{"cache_control":null,"messages":[{"content":"cache_control"}]}"#).writes_cache
    );
    let audio =
        facts(r#"{"messages":[{"content":[{"type":"input_audio","input_audio":{"data":"AA"}}]}]}"#);
    assert!(audio.sends_audio && !audio.asks_for_audio);
    for body in [
        r#"{"modalities":["text","audio"]}"#,
        r#"{"generationConfig":{"responseModalities":["AUDIO"]}}"#,
        r#"{"audio":{"voice":"alloy"}}"#,
    ] {
        assert!(facts(body).asks_for_audio, "{body}");
    }
    assert!(!facts(r#"{"modalities":["text"],"audio":null}"#).asks_for_audio);
}

#[test]
fn a_body_that_another_parser_may_read_otherwise_is_refused() {
    use BodyMistake::{
        Background, Count, Flag, LoneSurrogate, Model, NotAnObject, NotJson, Spelling,
        StreamOptions, TooDeep, Twice,
    };
    let model = || Spelling("model".into());
    for (body, mistake) in [
        (r#"{"model":"a","model":"b"}"#, Twice("model".into())),
        (r#"{"model":"a","mod\u0065l":"b"}"#, Twice("model".into())),
        (r#"{"model":"a","MODEL":"b"}"#, Twice("model".into())),
        (r#"{"model":"a","max_tokens":1,"maxTokens":9}"#, Twice("max_tokens".into())),
        (r#"{"Model":"a"}"#, model()),
        (r#"{"_model":"a"}"#, model()),
        (r#"{"mod\u0065l":"a"}"#, model()),
        (r#"{"model\u0000":"a"}"#, model()),
        ("{\"\u{17f}tream\":true}", Spelling("stream".into())),
        ("{\"max_to\u{212a}ens\":1}", Spelling("max_tokens".into())),
        (r#"{"max_to\u212aens":1}"#, Spelling("max_tokens".into())),
        (r#"{"N":2}"#, Spelling("n".into())),
        (r#"{"messages":[],"Messages":[]}"#, Twice("messages".into())),
        (r#"{"generation_config":{}}"#, Spelling("generationConfig".into())),
        (r#"{"generationConfig":{"max_output_tokens":1}}"#, Spelling("maxOutputTokens".into())),
        (r#"{"options":{"num_predict":1,"num_predict":2}}"#, Twice("num_predict".into())),
        (
            r#"{"stream_options":{"include_usage":true,"includeUsage":false}}"#,
            Twice("include_usage".into()),
        ),
        (
            r#"{"messages":[{"content":[{"image_url":{"url":"data:,a","URL":"https://e.com"}}]}]}"#,
            Twice("url".into()),
        ),
        (r#"{"messages":[{"content":[{"imageUrl":"x"}]}]}"#, Spelling("image_url".into())),
        (r#"{"messages":[{"content":"a","Content":"b"}]}"#, Twice("content".into())),
        (r#"{"tools":[{"Type":"web_search"}]}"#, Spelling("type".into())),
        (r#"{"model":null}"#, Model),
        (r#"{"model":1}"#, Model),
        (r#"{"model":["a"]}"#, Model),
        (r#"{"model":""}"#, Model),
        (r#"{"model":"a b"}"#, Model),
        (r#"{"model":"é"}"#, Model),
        (r#"{"model":"a\u0000"}"#, Model),
        (r#"{"max_tokens":1.0}"#, Count("max_tokens")),
        (r#"{"max_tokens":1e3}"#, Count("max_tokens")),
        (r#"{"max_tokens":-0}"#, Count("max_tokens")),
        (r#"{"max_tokens":-1}"#, Count("max_tokens")),
        (r#"{"max_tokens":2147483648}"#, Count("max_tokens")),
        (r#"{"max_tokens":99999999999999999999999}"#, Count("max_tokens")),
        (r#"{"max_tokens":"5"}"#, Count("max_tokens")),
        (r#"{"max_tokens":true}"#, Count("max_tokens")),
        (r#"{"max_tokens":[5]}"#, Count("max_tokens")),
        (r#"{"n":{}}"#, Count("n")),
        (r#"{"n":"2"}"#, Count("n")),
        (r#"{"options":{"num_predict":-1}}"#, Count("num_predict")),
        (r#"{"stream":"true"}"#, Flag("stream")),
        (r#"{"stream":1}"#, Flag("stream")),
        (r#"{"stream":[]}"#, Flag("stream")),
        (r#"{"stream_options":{"include_usage":1}}"#, Flag("include_usage")),
        (r#"{"stream_options":[]}"#, StreamOptions),
        (r#"{"stream_options":true}"#, StreamOptions),
        (r#"{"background":true}"#, Background),
        (r#"{"background":1}"#, Background),
        (r#"{"background":"true"}"#, Background),
        (r#"{"background":"on"}"#, Background),
        (r#"{"background":{}}"#, Background),
        (r#"{"a":"\ud83d"}"#, LoneSurrogate(5)),
        (r#"{"\ude00":1}"#, LoneSurrogate(1)),
        ("", NotJson(0)),
        ("\u{feff}{}", NotJson(0)),
        ("{} {}", NotJson(3)),
        ("{}x", NotJson(2)),
        ("{", NotJson(1)),
        (r#"{"a":01}"#, NotJson(6)),
        (r#"{"a":NaN}"#, NotJson(5)),
        (r#"{"a":1,}"#, NotJson(7)),
        ("{'a':1}", NotJson(1)),
        ("{\"a\":1 /* no */}", NotJson(7)),
        ("[]", NotAnObject),
        ("\"a\"", NotAnObject),
    ] {
        assert_eq!(read(body), Err(mistake), "{body}");
    }
    let nested = |depth: usize| format!(r#"{{"a":{}{}}}"#, "[".repeat(depth), "]".repeat(depth));
    assert!(read(&nested(63)).is_ok());
    assert_eq!(read(&nested(64)), Err(TooDeep));
    let long = format!(r#"{{"model":"{}"}}"#, "m".repeat(256));
    assert_eq!(read(&long), Err(Model));
    let latin = read_request(&MeterKind::OpenAi, b"{\"a\":\"\xe9\"}", &Watched::default());
    assert_eq!(latin, Err(BodyMistake::NotUtf8(6)));
}

#[test]
fn members_of_the_config_are_watched_and_denied() {
    let watched = Watched::new(["size", "service_tier", "hd", "n", "size"], ["store", "Logprobs"]);
    let read = |body: &str| read_request(&MeterKind::OpenAi, body.as_bytes(), &watched);
    let read_facts =
        read(r#"{"size":"1024x1792","service_tier":null,"hd":true,"n":2,"x":{"size":"a"}}"#)
            .unwrap()
            .facts;
    let members: Vec<(&str, &Scalar)> =
        read_facts.members.iter().map(|(name, value)| (&**name, value)).collect();
    let expected = [
        ("size", &Scalar::Text("1024x1792".into())),
        ("service_tier", &Scalar::Null),
        ("hd", &Scalar::Bool(true)),
        ("n", &Scalar::Number("2".into())),
    ];
    assert_eq!(members, expected);
    assert_eq!(read_facts.limits.answers, 2);
    let nested = read(r#"{"size":{}}"#).unwrap().facts.members;
    assert_eq!(nested, [("size".into(), Scalar::Nested)]);
    for (body, mistake) in [
        (r#"{"Size":"a"}"#, BodyMistake::Spelling("size".into())),
        (r#"{"serviceTier":"a"}"#, BodyMistake::Spelling("service_tier".into())),
        (r#"{"s\u0069ze":"a"}"#, BodyMistake::Spelling("size".into())),
        (r#"{"size":[],"size":"a"}"#, BodyMistake::Twice("size".into())),
        (r#"{"store":true}"#, BodyMistake::Denied("store".into())),
        (r#"{"Store":null}"#, BodyMistake::Denied("store".into())),
        (r#"{"st\u006fre":1}"#, BodyMistake::Denied("store".into())),
        (r#"{"log_probs":1}"#, BodyMistake::Denied("Logprobs".into())),
    ] {
        assert_eq!(read(body), Err(mistake), "{body}");
    }
    assert!(read(r#"{"metadata":{"store":1,"Size":2}}"#).is_ok());
}

#[test]
fn every_mistake_has_a_text_in_both_languages() {
    for mistake in [
        BodyMistake::NotUtf8(3),
        BodyMistake::NotJson(3),
        BodyMistake::NotAnObject,
        BodyMistake::TooDeep,
        BodyMistake::LoneSurrogate(3),
        BodyMistake::Twice("model".into()),
        BodyMistake::Spelling("model".into()),
        BodyMistake::Model,
        BodyMistake::Count("n"),
        BodyMistake::Flag("stream"),
        BodyMistake::StreamOptions,
        BodyMistake::Background,
        BodyMistake::Denied("store".into()),
    ] {
        let text = mistake.text();
        let (en, fr) = (text.in_language(Language::English), text.in_language(Language::French));
        assert!(en != fr && en.ends_with('.') && fr.ends_with('.'), "{en} {fr}");
    }
}
