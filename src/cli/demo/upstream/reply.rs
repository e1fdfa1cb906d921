//! The words of an answer, which are made from the request. The provider's shape is added later. A
//! word counts as one token.

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// The name of the model in the answer if the request names none.
pub const MODEL: &str = "farebox-demo";

/// The time in every answer. It is always 0, so that the same request gets the same answer.
pub const CREATED: u64 = 0;

/// The number of tokens of thinking, if the request asks for thinking. They are counted but not
/// shown.
const THOUGHT: u64 = 16;

/// The highest number that an answer counts to, if the question is for example "count to 5000".
const COUNTED: u64 = 10_000;

/// The parts of a request from which the answer is made.
pub struct Question<'a> {
    /// The text of every turn, the newest last.
    pub turns: Vec<String>,
    /// The request's first tool, if the model may call it now.
    pub tool: Option<&'a Value>,
    /// The longest answer in tokens, thoughts included.
    pub limit: Option<u64>,
    /// Whether the request asks for thinking.
    pub thinks: bool,
}

impl<'a> Question<'a> {
    /// Reads `request`. `list` is the member that has the turns: a text, or an array of messages.
    pub fn of(request: &'a Value, list: &'a Value, limit: &Value, thinks: bool) -> Self {
        let messages = list.as_array().map(Vec::as_slice).unwrap_or_default();
        let mut turns: Vec<String> = messages.iter().map(text).collect();
        turns.extend(list.as_str().map(str::to_owned));
        let may_call = request["tool_choice"] != "none" && !messages.last().is_some_and(is_result);
        let tool = if may_call { request["tools"].get(0) } else { None };
        Self { turns, tool, limit: limit.as_u64(), thinks }
    }

    /// The number of tokens in the request.
    pub fn input(&self) -> u64 {
        self.turns.iter().map(|turn| tokens(turn)).sum()
    }

    /// The number of tokens in all turns but the newest. A provider has those turns in its cache.
    pub fn earlier(&self) -> u64 {
        self.input() - self.turns.last().map_or(0, |newest| tokens(newest))
    }

    /// The answer.
    pub fn reply(&self) -> Reply {
        let asked = self.turns.last().map_or("nothing", String::as_str);
        let limit = self.limit.unwrap_or(u64::MAX);
        let reasoning = if self.thinks { THOUGHT.min(limit) } else { 0 };
        if let Some(tool) = self.tool {
            let call = Call::of(tool, asked);
            let output = reasoning + tokens(&call.arguments.to_string());
            return Reply { words: Vec::new(), call: Some(call), is_cut: false, reasoning, output };
        }
        let said = match asked.strip_prefix("count to ").and_then(|number| number.parse().ok()) {
            Some(last) => (1..=COUNTED.min(last)).map(|n| format!("{n} ")).collect(),
            None => format!("You said: {asked}"),
        };
        let mut words: Vec<String> = said.split_inclusive(' ').map(str::to_owned).collect();
        let whole = words.len();
        words.truncate(usize::try_from(limit - reasoning).unwrap_or(usize::MAX));
        let output = reasoning + count(words.len());
        Reply { is_cut: words.len() < whole, words, call: None, reasoning, output }
    }
}

/// An answer.
pub struct Reply {
    /// The text, in the pieces in which a stream sends it.
    pub words: Vec<String>,
    /// A call of the request's tool, in place of a text.
    pub call: Option<Call>,
    /// Whether the request's limit has cut the text.
    pub is_cut: bool,
    /// The number of tokens of thinking.
    pub reasoning: u64,
    /// The number of all tokens in the answer, including those of thinking.
    pub output: u64,
}

/// A call of a tool.
pub struct Call {
    /// The tool's name.
    pub name: String,
    /// A JSON object with the question in the tool's first parameter.
    pub arguments: Value,
}

impl Call {
    fn of(tool: &Value, asked: &str) -> Self {
        let tool = tool.get("function").unwrap_or(tool);
        let schema = tool.get("parameters").or(tool.get("input_schema")).unwrap_or(&Value::Null);
        let first = schema["properties"].as_object().and_then(|all| all.keys().next());
        let name = tool["name"].as_str().unwrap_or_default().to_owned();
        let arguments = first.map_or_else(|| json!({}), |first| json!({ (first.as_str()): asked }));
        Self { name, arguments }
    }
}

/// The text of a message or of a part of a message. The texts of several parts are joined.
pub fn text(message: &Value) -> String {
    match message {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().map(text).collect::<Vec<_>>().join(" "),
        _ => ["content", "text", "output"]
            .iter()
            .find_map(|name| message.get(name))
            .map(text)
            .unwrap_or_default(),
    }
}

/// Whether the message is the result of a tool, in any of the shapes.
fn is_result(message: &Value) -> bool {
    let parts = message["content"].as_array().map(Vec::as_slice).unwrap_or_default();
    message["role"] == "tool"
        || message["type"] == "function_call_output"
        || parts.iter().any(|part| part["type"] == "tool_result")
}

/// The number of tokens in a text.
pub fn tokens(text: &str) -> u64 {
    count(text.split_whitespace().count())
}

fn count(tokens: usize) -> u64 {
    u64::try_from(tokens).unwrap_or(u64::MAX)
}

/// An id for these messages. The same messages always have the same id.
pub fn id(prefix: &str, messages: &Value) -> String {
    let hash = hex::encode(Sha256::digest(messages.to_string()));
    format!("{prefix}{}", hash.get(..24).unwrap_or_default())
}

/// The model that the request asks for.
pub fn model(request: &Value) -> &str {
    request["model"].as_str().unwrap_or(MODEL)
}
