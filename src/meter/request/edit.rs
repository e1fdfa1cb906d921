//! The changes that a metered body goes upstream with. All other bytes stay as the client sent them.

use bytes::Bytes;

use crate::meter::json::Span;

/// The changes to a body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes<'a> {
    /// The model that the upstream is asked for, in place of the client's.
    pub model: Option<&'a str>,
    /// The upstream is asked for the usage chunk of a stream.
    pub include_usage: bool,
    /// No output limit is above this; where none is present, this one is added.
    pub output_limit: Option<u32>,
}

/// Where a body may change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Places {
    /// The value of `model`.
    pub model: Option<Span>,
    /// The limits of the output, each with its value. `None` where that is null, or 0, which many parsers take for
    /// unset.
    pub limits: Vec<(Span, Option<u32>)>,
    /// The limit that this shape of request has, where none is present.
    pub new_limit: Option<&'static str>,
    /// The value of `stream_options`.
    pub stream_options: Option<StreamOptions>,
    /// Behind the brace that opens the body.
    pub top: usize,
    /// The body has no member.
    pub is_empty: bool,
}

/// `stream_options` of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StreamOptions {
    /// Null stands there.
    Null(Span),
    /// An object without `include_usage`; its first member goes here.
    Without { at: usize, is_empty: bool },
    /// The value of `include_usage`.
    With(Span),
}

impl Places {
    /// `body` with these changes. `None` where nothing changes.
    pub fn rewrite(&self, body: &[u8], changes: &Changes<'_>) -> Option<Bytes> {
        let mut edits: Vec<(Span, String)> = Vec::new();
        let mut put = |span: Span, text: String| {
            if body.get(span.start..span.end) != Some(text.as_bytes()) {
                edits.push((span, text));
            }
        };
        if let (Some(model), Some(span)) = (changes.model, self.model) {
            put(span, quoted(model));
        }
        if changes.include_usage {
            let (span, text) = self.usage_edit();
            put(span, text);
        }
        if let Some(limit) = changes.output_limit {
            for (span, text) in self.limit_edits(limit) {
                put(span, text);
            }
        }
        apply(body, edits)
    }

    /// True where a limit of the output has a place.
    pub const fn can_limit_output(&self) -> bool {
        !self.limits.is_empty() || self.new_limit.is_some()
    }

    fn usage_edit(&self) -> (Span, String) {
        match self.stream_options {
            Some(StreamOptions::With(span)) => (span, "true".to_owned()),
            Some(StreamOptions::Null(span)) => (span, r#"{"include_usage":true}"#.to_owned()),
            Some(StreamOptions::Without { at, is_empty }) => {
                (empty(at), member(r#""include_usage":true"#, is_empty))
            }
            None => {
                let text = r#""stream_options":{"include_usage":true}"#;
                (empty(self.top), member(text, self.is_empty))
            }
        }
    }

    fn limit_edits(&self, limit: u32) -> Vec<(Span, String)> {
        let is_set = self.limits.iter().any(|(_, value)| value.is_some());
        let lower = |(span, value): &(Span, Option<u32>)| match value {
            Some(value) => Some((*span, (*value).min(limit).to_string())),
            // Set one that is null only where nothing else sets a limit.
            None => (!is_set).then(|| (*span, limit.to_string())),
        };
        if self.limits.is_empty() {
            let Some(name) = self.new_limit else { return Vec::new() };
            let text = format!("\"{name}\":{limit}");
            return vec![(empty(self.top), member(&text, self.is_empty))];
        }
        if is_set {
            return self.limits.iter().filter_map(lower).collect();
        }
        self.limits.iter().take(1).filter_map(lower).collect()
    }
}

const fn empty(at: usize) -> Span {
    Span { start: at, end: at }
}

/// A member at the start of an object.
fn member(text: &str, is_only: bool) -> String {
    if is_only { text.to_owned() } else { format!("{text},") }
}

/// A string as JSON.
fn quoted(text: &str) -> String {
    // A string always has a form in JSON.
    serde_json::to_string(text).unwrap_or_default()
}

fn apply(body: &[u8], mut edits: Vec<(Span, String)>) -> Option<Bytes> {
    if edits.is_empty() {
        return None;
    }
    // Two that go to the same place keep their order.
    edits.sort_by_key(|(span, _)| span.start);
    let added: usize = edits.iter().map(|(_, text)| text.len()).sum();
    let mut changed = Vec::with_capacity(body.len() + added);
    let mut from = 0;
    for (span, text) in edits {
        changed.extend_from_slice(body.get(from..span.start)?);
        changed.extend_from_slice(text.as_bytes());
        from = span.end;
    }
    changed.extend_from_slice(body.get(from..)?);
    Some(changed.into())
}
