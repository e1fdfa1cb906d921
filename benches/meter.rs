//! The reader of requests and the meters of answers, by what they read.
//!
//! `cargo bench --bench meter`
#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use farebox::meter::{StreamMeter, StreamOptions, Watched, read_answer, read_request};
use farebox::usage::MeterKind;

const CHUNK: &str = r#"data: {"id":"chatcmpl-BxYz0123456789","object":"chat.completion.chunk","created":1764460800,"model":"gpt-5-2026-08-01","service_tier":"default","system_fingerprint":"fp_0123456789","choices":[{"index":0,"delta":{"content":" credits"},"logprobs":null,"finish_reason":null}],"usage":null,"obfuscation":"abcdef"}

"#;

const DELTA: &str = r#"event: content_block_delta
data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":" credits"}}

"#;

/// A conversation of about `bytes`.
fn chat(bytes: usize) -> String {
    let turn = r#"{"role":"user","content":"What does a call cost, and \"when\" is it charged?\nTell me all of it, please."}"#;
    let turns = vec![turn; bytes / turn.len()].join(",");
    format!(r#"{{"model":"gpt-5","stream":true,"max_completion_tokens":500,"messages":[{turns}]}}"#)
}

fn requests(c: &mut Criterion) {
    let mut group = c.benchmark_group("read_request");
    let watched = Watched::new(["service_tier"], []);
    let image = format!(
        r#"{{"model":"gpt-5","messages":[{{"role":"user","content":[{{"type":"image_url","image_url":{{"url":"data:image/png;base64,{}"}}}}]}}]}}"#,
        "iVBORw0KGgo".repeat((16 << 20) / 11)
    );
    for (name, body) in
        [("4 KiB", chat(4 << 10)), ("1 MiB", chat(1 << 20)), ("16 MiB image", image)]
    {
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function(name, |b| {
            b.iter(|| read_request(&MeterKind::OpenAi, body.as_bytes(), &watched).unwrap());
        });
    }
    group.finish();
}

fn answers(c: &mut Criterion) {
    let mut group = c.benchmark_group("answer");
    let text = "It costs what it used. ".repeat(170);
    let body = format!(
        r#"{{"id":"chatcmpl-1","object":"chat.completion","choices":[{{"index":0,"message":{{"role":"assistant","content":"{text}"}},"finish_reason":"stop"}}],"usage":{{"prompt_tokens":1000,"completion_tokens":300,"total_tokens":1300}}}}"#
    );
    group.throughput(Throughput::Bytes(body.len() as u64));
    group.bench_function("JSON, 4 KiB", |b| {
        b.iter(|| read_answer(&MeterKind::OpenAi, body.as_bytes()));
    });
    let all = StreamOptions { hides_usage_chunk: true, reports: true, whole_events: true };
    for (name, kind, event, options) in [
        ("chunk, passed", MeterKind::OpenAi, CHUNK, StreamOptions::default()),
        ("chunk, kept until whole", MeterKind::OpenAi, CHUNK, all),
        ("delta of Anthropic", MeterKind::Anthropic, DELTA, all),
    ] {
        let (mut meter, mut pieces) = (StreamMeter::new(&kind, options), Vec::new());
        let part = Bytes::from_static(event.as_bytes());
        group.throughput(Throughput::Bytes(part.len() as u64));
        group.bench_function(name, |b| {
            b.iter(|| {
                pieces.clear();
                meter.feed(part.clone(), &mut pieces);
            });
        });
    }
    group.finish();
}

criterion_group!(benches, requests, answers);
criterion_main!(benches);
