//! The shape of OpenAI's answers: the members that the meter reads in each object.

use super::counts::Field;

/// An object or list that the meter knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Node {
    /// The document.
    Top,
    /// `response` of an event.
    Response,
    /// `usage`.
    Usage,
    /// `prompt_tokens_details`, `input_tokens_details`, `input_token_details`.
    InputDetails,
    /// `completion_tokens_details`, `output_tokens_details`, `output_token_details`.
    OutputDetails,
    /// `server_tool_use`.
    ServerTools,
    /// `choices`.
    Choices,
    /// A choice.
    Choice,
    /// `message` or `delta` of a choice.
    Message,
    /// `audio` of a message.
    Audio,
    /// A list of parts of a message.
    Parts,
    /// A part of a message.
    Part,
    /// `tool_calls`.
    ToolCalls,
    /// A tool call.
    ToolCall,
    /// `function` or `custom` of a tool call.
    Function,
    /// `output` of a whole response.
    Output,
    /// An item of `output`.
    Item,
    /// `output` of an event's response. Its text was delivered by earlier events.
    Repeated,
    /// An item of `Repeated`.
    RepeatedItem,
    /// `data`: images or embeddings.
    Data,
    /// An image or an embedding.
    Datum,
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
    /// An object that the meter knows, or else a text.
    TextOr(Node),
    /// A text that is delivered.
    Text,
    /// A text of the reasoning. The number says under which of its two names it stands.
    Reasoning(usize),
    /// `delta` of an event: text, or audio.
    Delta,
    /// `type` of an event.
    Type,
    /// `type` of an item.
    ItemType,
    /// The service tier.
    Tier,
    /// An image, as base64 or as its address.
    Image,
    /// Audio or a part of an image, which does not count as text.
    Media,
}

/// The member `name` of `node`.
pub fn member(node: Node, name: &[u8]) -> Member {
    use Member::{Count, Delta, Image, ItemType, Media, Open, Reasoning, Text, TextOr, Tier, Type};
    match (node, name) {
        (Node::Top | Node::Response, b"usage") => Open(Node::Usage),
        (Node::Top | Node::Response, b"service_tier") => Tier,
        (Node::Top, b"choices") => Open(Node::Choices),
        (Node::Top, b"type") => Type,
        (Node::Top, b"delta") => Delta,
        (Node::Top, b"response") => Open(Node::Response),
        (Node::Top, b"output") => Open(Node::Output),
        (Node::Top, b"data") => Open(Node::Data),
        (Node::Top | Node::Datum, b"b64_json") | (Node::Datum, b"url") => Image,
        (Node::Audio, b"data") | (Node::Top, b"partial_image_b64") => Media,
        (Node::Response, b"output") => Open(Node::Repeated),
        (Node::Item | Node::RepeatedItem, b"type") => ItemType,
        (Node::Item, b"content" | b"summary") => Open(Node::Parts),
        (Node::Item, b"arguments" | b"input" | b"code") => Text,
        (Node::Choice, b"delta" | b"message") => Open(Node::Message),
        (Node::Choice, b"text") => Text,
        (Node::Message, b"content") => TextOr(Node::Parts),
        (Node::Message, b"refusal") => Text,
        (Node::Message, b"reasoning_content") => Reasoning(0),
        (Node::Message, b"reasoning") => Reasoning(1),
        (Node::Message, b"tool_calls") => Open(Node::ToolCalls),
        (Node::Message, b"function_call") | (Node::ToolCall, b"function" | b"custom") => {
            Open(Node::Function)
        }
        (Node::Message, b"audio") => Open(Node::Audio),
        (Node::Audio, b"transcript") | (Node::Function, b"arguments" | b"input") => Text,
        (Node::Part, b"text" | b"refusal" | b"transcript") => Text,
        (Node::Part, b"thinking") => TextOr(Node::Parts),
        (Node::Usage | Node::InputDetails | Node::OutputDetails | Node::ServerTools, _) => {
            count(node, name).map_or_else(|| details(node, name), Count)
        }
        _ => Member::Other,
    }
}

fn details(node: Node, name: &[u8]) -> Member {
    match (node, name) {
        (
            Node::Usage,
            b"prompt_tokens_details" | b"input_tokens_details" | b"input_token_details",
        ) => Member::Open(Node::InputDetails),
        (
            Node::Usage,
            b"completion_tokens_details" | b"output_tokens_details" | b"output_token_details",
        ) => Member::Open(Node::OutputDetails),
        (Node::Usage, b"server_tool_use") => Member::Open(Node::ServerTools),
        _ => Member::Other,
    }
}

fn count(node: Node, name: &[u8]) -> Option<Field> {
    Some(match (node, name) {
        (Node::Usage, b"prompt_tokens" | b"input_tokens") => Field::Input,
        (Node::Usage, b"completion_tokens" | b"output_tokens") => Field::Output,
        (Node::Usage, b"total_tokens") => Field::Total,
        // DeepSeek and Moonshot have this count in `usage` itself.
        (Node::Usage, b"prompt_cache_hit_tokens" | b"cached_tokens") => Field::Cached,
        (Node::Usage, b"seconds") => Field::Seconds,
        (Node::Usage, b"num_search_queries") => Field::Searches,
        (Node::InputDetails, b"cached_tokens") => Field::Cached,
        (Node::InputDetails, b"cache_write_tokens" | b"cache_creation_tokens") => Field::CacheWrite,
        (Node::InputDetails, b"audio_tokens") => Field::InputAudio,
        (Node::InputDetails, b"image_tokens") => Field::InputImage,
        (Node::OutputDetails, b"reasoning_tokens") => Field::Reasoning,
        (Node::OutputDetails, b"audio_tokens") => Field::OutputAudio,
        (Node::OutputDetails, b"image_tokens") => Field::OutputImage,
        (Node::OutputDetails, b"text_tokens") => Field::OutputText,
        (Node::ServerTools, b"web_search_requests") => Field::Searches,
        _ => return None,
    })
}

/// The object or list that opens as the value of `member` in `parent`.
pub fn child(parent: Node, member: Member, is_object: bool) -> Option<Node> {
    let in_list = match parent {
        Node::Choices => Some(Node::Choice),
        Node::Parts => Some(Node::Part),
        Node::ToolCalls => Some(Node::ToolCall),
        Node::Output => Some(Node::Item),
        Node::Repeated => Some(Node::RepeatedItem),
        Node::Data => Some(Node::Datum),
        _ => None,
    };
    let node = match (in_list, member) {
        (Some(element), _) => element,
        (None, Member::Open(node) | Member::TextOr(node)) => node,
        _ => return None,
    };
    (node.is_list() != is_object).then_some(node)
}

impl Node {
    const fn is_list(self) -> bool {
        matches!(
            self,
            Self::Choices
                | Self::Parts
                | Self::ToolCalls
                | Self::Output
                | Self::Repeated
                | Self::Data
        )
    }
}
