//! An upstream that answers like OpenAI or Anthropic, with whole answers or streams, step by step.
#![allow(dead_code)]

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::wire::{RawUpstream, Wire, header};

/// One request, as the upstream received it.
#[derive(Clone, Debug)]
pub struct Asked {
    pub head: String,
    pub body: String,
}

impl Asked {
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }

    pub fn path(&self) -> &str {
        self.head.split(' ').nth(1).unwrap_or_default()
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("no JSON: {}", self.body))
    }
}

/// One step of an answer.
#[derive(Clone, Debug)]
pub enum Step {
    /// Sends these bytes unchanged.
    Raw(Vec<u8>),
    /// Sends a chunk of the body.
    Chunk(Vec<u8>),
    /// Ends a chunked body.
    End,
    /// Waits for this time.
    Pause(Duration),
    /// Waits for a permit.
    Wait(Arc<Semaphore>),
    /// Hangs up.
    Break,
    /// Stays silent until the gateway hangs up.
    Hang,
}

/// The steps of an answer.
#[derive(Clone, Debug, Default)]
pub struct Reply(pub Vec<Step>);

impl Reply {
    /// A whole answer with a length.
    pub fn whole(status: u16, headers: &str, body: impl AsRef<[u8]>) -> Self {
        let body = body.as_ref();
        let head =
            format!("HTTP/1.1 {status} X\r\n{headers}content-length: {}\r\n\r\n", body.len());
        Self(vec![Step::Raw([head.as_bytes(), body].concat())])
    }

    pub fn json(value: &Value) -> Self {
        Self::whole(200, "content-type: application/json\r\n", value.to_string())
    }

    /// The head of an answer with a chunked body, without any chunk yet.
    pub fn chunked(content_type: &str) -> Self {
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\ntransfer-encoding: chunked\r\n\r\n"
        );
        Self(vec![Step::Raw(head.into_bytes())])
    }

    /// A whole stream of these events.
    pub fn events(events: &[String]) -> Self {
        Self::begin_events(events).then(Step::End)
    }

    /// The beginning of a stream, with these events.
    pub fn begin_events(events: &[String]) -> Self {
        let mut reply = Self::chunked("text/event-stream");
        reply.0.extend(events.iter().map(|event| Step::Chunk(event.clone().into_bytes())));
        reply
    }

    #[must_use]
    pub fn then(mut self, step: Step) -> Self {
        self.0.push(step);
        self
    }

    /// Sends the step. Returns false if the connection has ended.
    async fn send(self, wire: &mut Wire) -> bool {
        for step in self.0 {
            let sent = match step {
                Step::Raw(bytes) => wire.try_send(bytes).await,
                Step::Chunk(bytes) => {
                    let size = format!("{:x}\r\n", bytes.len());
                    wire.try_send([size.as_bytes(), &bytes, b"\r\n"].concat()).await
                }
                Step::End => wire.try_send("0\r\n\r\n").await,
                Step::Pause(time) => {
                    tokio::time::sleep(time).await;
                    Ok(())
                }
                Step::Wait(permits) => {
                    permits.acquire().await.unwrap().forget();
                    Ok(())
                }
                Step::Break => return false,
                Step::Hang => {
                    wire.rest().await;
                    return false;
                }
            };
            if sent.is_err() {
                return false;
            }
        }
        true
    }
}

/// An upstream that answers each request with the result of a function.
#[derive(Clone)]
pub struct Ai {
    pub address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Ai {
    pub async fn start(answer: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let (all, answer) = (asked.clone(), Arc::new(answer));
        let upstream = RawUpstream::start(move |mut wire| {
            let (all, answer) = (all.clone(), answer.clone());
            async move {
                while let Some((head, body)) = wire.message().await {
                    let one = Asked { head, body };
                    all.lock().unwrap().push(one.clone());
                    if !answer(&one).send(&mut wire).await {
                        return;
                    }
                }
            }
        })
        .await;
        Self { address: upstream.address, asked }
    }

    /// An upstream that gives the same answer to every request.
    pub async fn answering(reply: Reply) -> Self {
        Self::start(move |_| reply.clone()).await
    }

    /// The requests that it has seen so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

/// A chat completion of OpenAI. If `usage` is null, the answer has none.
pub fn chat(text: &str, usage: &Value) -> Value {
    let message = json!({ "role": "assistant", "content": text, "refusal": null });
    let mut answer = json!({
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m",
        "choices": [{ "index": 0, "message": message, "finish_reason": "stop" }],
        "service_tier": "default",
    });
    if !usage.is_null() {
        answer["usage"] = usage.clone();
    }
    answer
}

/// OpenAI's usage of a chat completion.
pub fn chat_usage(prompt: u64, completion: u64) -> Value {
    json!({
        "prompt_tokens": prompt, "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": { "cached_tokens": 0, "audio_tokens": 0 },
        "completion_tokens_details": { "reasoning_tokens": 0, "audio_tokens": 0 },
    })
}

/// An event of a chat completion that streams `text`.
pub fn chat_chunk(text: &str) -> String {
    let delta = json!({ "index": 0, "delta": { "content": text }, "finish_reason": null });
    event(&json!({
        "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m",
        "choices": [delta],
    }))
}

/// OpenAI's additional event with the usage of a stream.
pub fn chat_usage_chunk(usage: &Value) -> String {
    event(&json!({
        "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m",
        "choices": [], "usage": usage,
    }))
}

/// The last event of OpenAI's streams.
pub const DONE: &str = "data: [DONE]\n\n";

/// An event without a name.
pub fn event(data: &Value) -> String {
    format!("data: {data}\n\n")
}

/// The events of a chat completion. If `usage` is null, there is no event with usage.
pub fn chat_events(texts: &[&str], usage: &Value) -> Vec<String> {
    let mut events: Vec<String> = texts.iter().map(|text| chat_chunk(text)).collect();
    if !usage.is_null() {
        events.push(chat_usage_chunk(usage));
    }
    events.push(DONE.to_owned());
    events
}

/// A message of Anthropic.
pub fn message(text: &str, usage: &Value) -> Value {
    let content = json!([{ "type": "text", "text": text }]);
    json!({
        "id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": content,
        "stop_reason": "end_turn", "stop_sequence": null, "usage": usage,
    })
}

/// An event of Anthropic's streams.
pub fn named_event(name: &str, data: &Value) -> String {
    format!("event: {name}\ndata: {data}\n\n")
}

/// The first event of a streamed message, which has the usage of the input.
pub fn message_start(usage: &Value) -> String {
    let message = json!({
        "id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": [],
        "stop_reason": null, "stop_sequence": null, "usage": usage,
    });
    named_event("message_start", &json!({ "type": "message_start", "message": message }))
}

/// An event with a part of a streamed message.
pub fn message_delta_text(text: &str) -> String {
    let delta = json!({ "type": "text_delta", "text": text });
    let data = json!({ "type": "content_block_delta", "index": 0, "delta": delta });
    named_event("content_block_delta", &data)
}

/// The event that has the output usage of a streamed message.
pub fn message_delta(output_tokens: u64) -> String {
    let delta = json!({ "stop_reason": "end_turn", "stop_sequence": null });
    let usage = json!({ "output_tokens": output_tokens });
    let data = json!({ "type": "message_delta", "delta": delta, "usage": usage });
    named_event("message_delta", &data)
}

/// The last event of a streamed message.
pub fn message_stop() -> String {
    named_event("message_stop", &json!({ "type": "message_stop" }))
}

/// The events of a streamed message.
pub fn message_events(texts: &[&str], input: &Value, output_tokens: u64) -> Vec<String> {
    let block = json!({ "type": "text", "text": "" });
    let start = json!({ "type": "content_block_start", "index": 0, "content_block": block });
    let stop = json!({ "type": "content_block_stop", "index": 0 });
    let mut events = vec![
        message_start(input),
        named_event("content_block_start", &start),
        named_event("ping", &json!({ "type": "ping" })),
    ];
    events.extend(texts.iter().map(|text| message_delta_text(text)));
    events.push(named_event("content_block_stop", &stop));
    events.push(message_delta(output_tokens));
    events.push(message_stop());
    events
}
