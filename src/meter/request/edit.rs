//! The changes that are made to a metered body before it goes upstream. All other bytes stay as the
//! client sent them.

use bytes::Bytes;

use crate::meter::json::Span;

/// The changes to a body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes<'a> {
    /// The model for the upstream, in place of the client's.
    pub model: Option<&'a str>,
    /// Whether to ask the upstream for the usage chunk of a stream.
    pub include_usage: bool,
    /// The highest output limit, in tokens. Higher limits are lowered to this one. If the request
    /// has no limit, this one is added.
    pub output_limit: Option<u32>,
}

/// The places in a body where changes can be made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Places {
    /// The place of the value of `model`.
    pub model: Option<Span>,
    /// The output limits, each with its value. The value is `None` if it is null or 0: many parsers
    /// read 0 as no limit.
    pub limits: Vec<Limit>,
    /// The limit that can be added to this shape of request, if it has none.
    pub new_limit: Option<&'static str>,
    /// Whether the output can be limited for every shape that the request may have.
    pub can_limit: bool,
    /// The place of the value of `stream_options`.
    pub stream_options: Option<StreamOptions>,
    /// The position after the brace that opens the body.
    pub top: usize,
    /// Whether the body has no members.
    pub is_empty: bool,
}

/// An output limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Limit {
    pub name: &'static str,
    pub span: Span,
    pub value: Option<u32>,
    /// Whether the provider of this shape of request knows a limit of this name.
    pub is_native: bool,
}

/// `stream_options` of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StreamOptions {
    /// The value is null.
    Null(Span),
    /// The value is an object without `include_usage`. The new member is inserted at `at`.
    Without { at: usize, is_empty: bool },
    /// The place of the value of `include_usage`.
    With(Span),
}

impl Places {
    /// Returns `body` with these changes; `None` if nothing changes.
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

    /// Whether the output limit can be set in this request.
    pub const fn can_limit_output(&self) -> bool {
        self.can_limit && (!self.limits.is_empty() || self.new_limit.is_some())
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
        // Every limit that is set is lowered, even one that this provider does not know: another
        // server of the same shape may read it.
        let set = self.limits.iter().filter_map(|one| Some((one, one.value?)));
        let mut edits: Vec<_> =
            set.clone().map(|(one, value)| (one.span, value.min(limit).to_string())).collect();
        if set.clone().any(|(one, _)| one.is_native) {
            return edits;
        }
        // A known limit that is null or 0 is filled in only if no known limit is set.
        let unset = self.limits.iter().find(|one| one.is_native && one.value.is_none());
        if let Some(unset) = unset {
            edits.push((unset.span, limit.to_string()));
        } else if let Some(name) = self.new_limit {
            let text = format!("\"{name}\":{limit}");
            edits.push((empty(self.top), member(&text, self.is_empty)));
        }
        edits
    }
}

const fn empty(at: usize) -> Span {
    Span { start: at, end: at }
}

/// A member for the start of an object.
fn member(text: &str, is_only: bool) -> String {
    if is_only { text.to_owned() } else { format!("{text},") }
}

/// A string as JSON.
fn quoted(text: &str) -> String {
    // Every string can be written as JSON.
    serde_json::to_string(text).unwrap_or_default()
}

fn apply(body: &[u8], mut edits: Vec<(Span, String)>) -> Option<Bytes> {
    if edits.is_empty() {
        return None;
    }
    // The sort is stable, so edits at the same place keep their order.
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
