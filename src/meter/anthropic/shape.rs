//! The shape of Anthropic's answers: the members that the meter reads in each object.

use crate::meter::counts::Counts;
use crate::usage::{Kind, Usage};

/// A count of a usage object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// Tokens of the request that were neither read from the cache nor written to it.
    Input,
    /// Tokens that were read from the cache.
    CacheRead,
    /// Tokens that were written to the cache.
    CacheWrite,
    /// The part of `CacheWrite` that is stored for five minutes.
    CacheWrite5m,
    /// The part of `CacheWrite` that is stored for an hour.
    CacheWrite1h,
    /// Tokens of the answer.
    Output,
    /// Searches on the web.
    Searches,
}

/// The counts of Anthropic's usage object.
pub type AnthropicCounts = Counts<7>;

/// The usage by kinds, and whether the total of the cache writes was smaller than its parts.
pub fn usage(counts: &AnthropicCounts) -> (Usage, bool) {
    let of = |field: Field| counts.or_zero(field as usize);
    let mut usage = Usage::NONE;
    // Every count is at most 2^40, and a remainder is smaller than its total, so no `set` fails.
    let mut set = |kind, count| _ = usage.set(kind, count);
    let (five, hour) = (of(Field::CacheWrite5m), of(Field::CacheWrite1h));
    // The API had the total before it had the parts, and old servers still lack the parts. The
    // remainder of the total counts as stored for five minutes.
    let written = of(Field::CacheWrite).max(five);
    let rest = written.saturating_sub(five + hour);
    set(Kind::Input, of(Field::Input));
    set(Kind::CachedInput, of(Field::CacheRead));
    set(Kind::CacheWrite, five.saturating_add(rest));
    set(Kind::CacheWrite1h, hour);
    set(Kind::Output, of(Field::Output));
    set(Kind::Search, of(Field::Searches));
    let is_clamped =
        counts.get(Field::CacheWrite as usize).is_some_and(|total| total < five + hour);
    (usage, is_clamped)
}

/// An object or list that the meter knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Node {
    /// The document: a message, or an event.
    Top,
    /// `message` of an event.
    Message,
    /// `usage`.
    Usage,
    /// `cache_creation` of `usage`.
    CacheCreation,
    /// `server_tool_use` of `usage`.
    ServerTools,
    /// `delta` of an event.
    Delta,
    /// `content` of a whole message.
    Content,
    /// A block of `content`, or `content_block` of an event.
    Block,
    /// `input` of a block: the arguments of a tool call.
    ToolInput,
}

/// A member that the meter reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Member {
    /// Any other member.
    Other,
    /// A count.
    Count(Field),
    /// An object or list that the meter knows.
    Open(Node),
    /// A text that is delivered.
    Text,
    /// The type of an event.
    Type,
    /// The service tier.
    Tier,
    /// The reason why the message ends.
    StopReason,
}

/// The member `name` of `node`.
pub fn member(node: Node, name: &[u8]) -> Member {
    match (node, name) {
        (Node::Top, b"type") => Member::Type,
        (Node::Top, b"message") => Member::Open(Node::Message),
        (Node::Top | Node::Message, b"usage") => Member::Open(Node::Usage),
        (Node::Top, b"delta") => Member::Open(Node::Delta),
        (Node::Top, b"content") => Member::Open(Node::Content),
        (Node::Top, b"content_block") => Member::Open(Node::Block),
        (Node::Delta, b"text" | b"thinking" | b"partial_json")
        | (Node::Block, b"text" | b"thinking") => Member::Text,
        (Node::Delta, b"stop_reason") => Member::StopReason,
        (Node::Block, b"input") => Member::Open(Node::ToolInput),
        (Node::Usage, b"input_tokens") => Member::Count(Field::Input),
        (Node::Usage, b"cache_read_input_tokens") => Member::Count(Field::CacheRead),
        (Node::Usage, b"cache_creation_input_tokens") => Member::Count(Field::CacheWrite),
        (Node::Usage, b"output_tokens") => Member::Count(Field::Output),
        (Node::Usage, b"service_tier") => Member::Tier,
        (Node::Usage, b"cache_creation") => Member::Open(Node::CacheCreation),
        (Node::Usage, b"server_tool_use") => Member::Open(Node::ServerTools),
        (Node::CacheCreation, b"ephemeral_5m_input_tokens") => Member::Count(Field::CacheWrite5m),
        (Node::CacheCreation, b"ephemeral_1h_input_tokens") => Member::Count(Field::CacheWrite1h),
        (Node::ServerTools, b"web_search_requests") => Member::Count(Field::Searches),
        _ => Member::Other,
    }
}

/// The object or list that opens as the value of `member` in `parent`.
pub fn child(parent: Node, member: Member, is_object: bool) -> Option<Node> {
    let node = match (parent, member) {
        (Node::Content, _) => Node::Block,
        (_, Member::Open(node)) => node,
        _ => return None,
    };
    ((node == Node::Content) != is_object).then_some(node)
}
