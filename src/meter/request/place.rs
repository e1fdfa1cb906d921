//! The objects and lists of a request that the reader tells apart.

/// An object or list of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The request.
    Top,
    /// `stream_options`.
    StreamOptions,
    /// `generationConfig`, Gemini's.
    GenerationConfig,
    /// `inferenceConfig`, Bedrock's.
    InferenceConfig,
    /// `options`, Ollama's.
    Options,
    /// `parameters`, Vertex's and Hugging Face's.
    Parameters,
    /// `prompt` as an object: a stored prompt.
    Prompt,
    /// `prompt` as a list, in which each element gets an answer of its own.
    Prompts,
    /// `messages`.
    Messages,
    /// A message.
    Message,
    /// `content` of a message, of an item of the input, or of a block.
    Content(Within),
    /// A part of a content.
    Part(Within),
    /// `image_url` as an object.
    ImageUrl(Within),
    /// `video_url`, `audio_url` or `document_url` as an object. Its data counts as text.
    MediaUrl,
    /// `source` of a part (Anthropic).
    Source(Within),
    /// `input` of responses.
    Input,
    /// An item of `input`.
    InputItem,
    /// `contents`, Gemini's.
    Contents,
    /// An element of `contents`.
    ContentsItem,
    /// `parts` of an element of `contents`.
    GeminiParts,
    /// An element of `parts`.
    GeminiPart,
    /// `inlineData` of an element of `parts`.
    InlineData,
    /// `tools`.
    Tools,
    /// A tool.
    Tool,
    /// A list of the kinds of output that are asked for.
    Modalities,
    /// `images` of a message or of the request (Ollama).
    Images,
    /// A member that names other models, or that holds further members of the request. It must be
    /// empty.
    OtherModels,
    /// Any other object or list. Members that name input outside the body count here as well.
    Any,
    /// JSON that is data for the provider, such as a schema or the arguments of a call. No name in
    /// it is a member of the request.
    Data,
}

/// The owner of a `content`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Within {
    /// A message.
    Message,
    /// An item of `input`.
    Input,
    /// Another `content`, such as the result of a tool.
    Content,
    /// The output of a call, in an item of `input`.
    Output,
}

impl Place {
    /// The place of an element of this list.
    pub const fn element(self) -> Self {
        match self {
            Self::Messages => Self::Message,
            Self::Content(within) => Self::Part(within),
            Self::Input => Self::InputItem,
            Self::Contents => Self::ContentsItem,
            Self::GeminiParts => Self::GeminiPart,
            Self::Tools => Self::Tool,
            Self::Data => Self::Data,
            _ => Self::Any,
        }
    }

    /// The place of a value that stands here, depending on whether it is a list or an object.
    pub const fn opened(self, is_object: bool) -> Self {
        match (self, is_object) {
            // The content is a single part, without a list around it.
            (Self::Content(within), true) => Self::Part(within),
            (Self::Prompt, false) => Self::Prompts,
            (Self::OtherModels, _) => self,
            (
                Self::Messages
                | Self::Input
                | Self::Contents
                | Self::GeminiParts
                | Self::Tools
                | Self::Modalities
                | Self::Images,
                true,
            ) => Self::Any,
            (
                Self::Messages
                | Self::Content(_)
                | Self::Input
                | Self::Contents
                | Self::GeminiParts
                | Self::Tools
                | Self::Modalities
                | Self::Images
                | Self::Data,
                _,
            )
            | (_, true) => self,
            (_, false) => Self::Any,
        }
    }
}
