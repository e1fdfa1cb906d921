//! The members of each object that the price depends on, with the one spelling that is accepted.

use super::place::{Place, Within};

/// The use that the price makes of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The member is not used.
    None,
    /// The members or elements of its value are read.
    Open(Place),
    /// The member names the model.
    Model,
    /// The member says whether the answer streams.
    Stream,
    /// `stream_options`, whose content and place are needed.
    StreamOptions,
    /// `include_usage` of `stream_options`.
    IncludeUsage,
    /// An output limit, in tokens.
    Limit,
    /// The number of answers that are asked for.
    Answers,
    /// The member says whether the call runs in the background.
    Background,
    /// The member names models beside `model`, unless its value is null or empty.
    OtherModels,
    /// The member names input that is not in the body, unless its value is null.
    Elsewhere,
    /// The member names a prompt that the provider stores, unless its value is null.
    StoredPrompt,
    /// The member is a document, unless its value is null. The bytes of a document do not tell how
    /// many tokens it has.
    Document,
    /// The request may write to the cache, unless the value is null.
    Cache,
    /// The request sends audio, unless the value is null.
    SendsAudio,
    /// The request asks for audio, unless the value is null.
    AsksForAudio,
    /// An image, as a string or as an object with `url`.
    ImageUrl,
    /// Video, audio or a document, as a string or as an object with `url`.
    MediaUrl,
    /// The address of an image, or of other media.
    Url,
    /// `type` of a source.
    SourceType,
    /// The media type of a source or of inline data.
    MediaType,
    /// The data of a source or of inline data.
    Data,
    /// `type` of a tool.
    ToolType,
    /// `type` of an item of `input`.
    ItemType,
    /// `id` of an item of `input`.
    ItemId,
    /// The content of an item of `input`.
    ItemContent,
}

/// A member that is known in a place.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// The accepted spelling.
    pub spelled: &'static str,
    /// The accepted spelling, folded for comparison.
    pub folded: &'static str,
    /// The use of the member.
    pub role: Role,
    /// Whether the member may stand only once in an object, and only in this spelling.
    pub is_strict: bool,
}

/// The members that are known in a place.
#[derive(Clone, Copy, Debug)]
pub struct Members {
    /// All known members of the place.
    pub known: &'static [Known],
    /// One bit for the first letter of each folded name; the lowest bit is `a`.
    initials: u32,
}

impl Members {
    const fn of(known: &'static [Known]) -> Self {
        let (mut initials, mut at) = (0, 0);
        while at < known.len() {
            initials |= 1 << (known[at].folded.as_bytes()[0] - b'a');
            at += 1;
        }
        Self { known, initials }
    }

    /// Whether a name may be one of the members, judged by its first letter. A name that begins
    /// with anything but an ASCII letter always may, because `_` is ignored and some other letters
    /// fold to ASCII ones.
    pub const fn may_have(self, spelling: &[u8]) -> bool {
        match spelling.first() {
            Some(letter) if letter.is_ascii_alphabetic() => {
                self.initials >> (letter.to_ascii_lowercase() - b'a') & 1 == 1
            }
            _ => true,
        }
    }
}

const fn known(spelled: &'static str, folded: &'static str, role: Role) -> Known {
    Known { spelled, folded, role, is_strict: true }
}

/// A member whose value is data for the provider. A member in another spelling is not known.
const fn data(spelled: &'static str, folded: &'static str) -> Known {
    Known { spelled, folded, role: Role::Open(Place::Data), is_strict: false }
}

const CACHE: Known = known("cache_control", "cachecontrol", Role::Cache);
const FILE_ID: Known = known("file_id", "fileid", Role::Elsewhere);
const FILE_DATA: Known = known("file_data", "filedata", Role::Document);
const FILE_URL: Known = known("file_url", "fileurl", Role::Elsewhere);
const IMAGE_URL: Known = known("image_url", "imageurl", Role::ImageUrl);
const VIDEO_URL: Known = known("video_url", "videourl", Role::MediaUrl);
const AUDIO_URL: Known = known("audio_url", "audiourl", Role::MediaUrl);
const DOCUMENT_URL: Known = known("document_url", "documenturl", Role::MediaUrl);
const AUDIO: Known = known("input_audio", "inputaudio", Role::SendsAudio);

const TOP: Members = Members::of(&[
    known("model", "model", Role::Model),
    known("messages", "messages", Role::Open(Place::Messages)),
    known("stream", "stream", Role::Stream),
    known("max_tokens", "maxtokens", Role::Limit),
    known("max_completion_tokens", "maxcompletiontokens", Role::Limit),
    known("max_output_tokens", "maxoutputtokens", Role::Limit),
    known("n_predict", "npredict", Role::Limit),
    known("max_new_tokens", "maxnewtokens", Role::Limit),
    known("n", "n", Role::Answers),
    known("best_of", "bestof", Role::Answers),
    known("sampleCount", "samplecount", Role::Answers),
    known("stream_options", "streamoptions", Role::StreamOptions),
    known("input", "input", Role::Open(Place::Input)),
    known("tools", "tools", Role::Open(Place::Tools)),
    known("system", "system", Role::Open(Place::Content(Within::Content))),
    known("prompt", "prompt", Role::Open(Place::Prompt)),
    known("images", "images", Role::Open(Place::Images)),
    known("contents", "contents", Role::Open(Place::Contents)),
    known("generationConfig", "generationconfig", Role::Open(Place::GenerationConfig)),
    known("inferenceConfig", "inferenceconfig", Role::Open(Place::InferenceConfig)),
    known("options", "options", Role::Open(Place::Options)),
    known("parameters", "parameters", Role::Open(Place::Parameters)),
    known("previous_response_id", "previousresponseid", Role::Elsewhere),
    known("conversation", "conversation", Role::Elsewhere),
    known("cachedContent", "cachedcontent", Role::Elsewhere),
    known("web_search_options", "websearchoptions", Role::Elsewhere),
    known("mcp_servers", "mcpservers", Role::Elsewhere),
    // OpenRouter's.
    known("plugins", "plugins", Role::Elsewhere),
    known("models", "models", Role::OtherModels),
    // LiteLLM's. LiteLLM puts the members of `extra_body` into the request that it makes.
    known("fallbacks", "fallbacks", Role::OtherModels),
    known("context_window_fallbacks", "contextwindowfallbacks", Role::OtherModels),
    known("content_policy_fallbacks", "contentpolicyfallbacks", Role::OtherModels),
    known("model_list", "modellist", Role::OtherModels),
    known("extra_body", "extrabody", Role::OtherModels),
    // LiteLLM's: a whole router, with a `model_list` of its own.
    known("user_config", "userconfig", Role::OtherModels),
    known("background", "background", Role::Background),
    known("modalities", "modalities", Role::Open(Place::Modalities)),
    known("audio", "audio", Role::AsksForAudio),
    CACHE,
    FILE_ID,
    FILE_URL,
    IMAGE_URL,
    data("metadata", "metadata"),
    data("response_format", "responseformat"),
    data("text", "text"),
    data("format", "format"),
    data("functions", "functions"),
    data("guided_json", "guidedjson"),
    data("output_format", "outputformat"),
    data("output_config", "outputconfig"),
]);
const MESSAGE: Members = Members::of(&[
    known("content", "content", Role::Open(Place::Content(Within::Message))),
    known("images", "images", Role::Open(Place::Images)),
    known("audio", "audio", Role::Elsewhere),
    CACHE,
    data("tool_calls", "toolcalls"),
    data("function_call", "functioncall"),
]);
const PART: Members = Members::of(&[
    IMAGE_URL,
    VIDEO_URL,
    AUDIO_URL,
    DOCUMENT_URL,
    known("source", "source", Role::Open(Place::Source(Within::Message))),
    known("content", "content", Role::Open(Place::Content(Within::Content))),
    FILE_ID,
    FILE_DATA,
    FILE_URL,
    AUDIO,
    CACHE,
    data("input", "input"),
]);
const IMAGE: Members = Members::of(&[known("url", "url", Role::Url), FILE_ID]);
const SOURCE: Members = Members::of(&[
    known("type", "type", Role::SourceType),
    known("media_type", "mediatype", Role::MediaType),
    known("data", "data", Role::Data),
    known("url", "url", Role::Elsewhere),
    FILE_ID,
    known("content", "content", Role::Open(Place::Content(Within::Content))),
]);
const INPUT_ITEM: Members = Members::of(&[
    known("content", "content", Role::ItemContent),
    known("type", "type", Role::ItemType),
    known("id", "id", Role::ItemId),
    known("output", "output", Role::Open(Place::Content(Within::Output))),
    IMAGE_URL,
    FILE_ID,
    FILE_DATA,
    FILE_URL,
    AUDIO,
    CACHE,
    data("input", "input"),
]);
const CONTENTS_ITEM: Members =
    Members::of(&[known("parts", "parts", Role::Open(Place::GeminiParts))]);
const GEMINI_PART: Members = Members::of(&[
    known("inlineData", "inlinedata", Role::Open(Place::InlineData)),
    known("fileData", "filedata", Role::Elsewhere),
    data("functionCall", "functioncall"),
    data("functionResponse", "functionresponse"),
]);
const INLINE_DATA: Members = Members::of(&[
    known("mimeType", "mimetype", Role::MediaType),
    known("data", "data", Role::Data),
]);
const GENERATION: Members = Members::of(&[
    known("maxOutputTokens", "maxoutputtokens", Role::Limit),
    known("candidateCount", "candidatecount", Role::Answers),
    known("responseModalities", "responsemodalities", Role::Open(Place::Modalities)),
    data("responseSchema", "responseschema"),
    data("responseJsonSchema", "responsejsonschema"),
]);
const PARAMETERS: Members = Members::of(&[
    known("max_new_tokens", "maxnewtokens", Role::Limit),
    known("best_of", "bestof", Role::Answers),
    known("sampleCount", "samplecount", Role::Answers),
]);
const TOOL: Members = Members::of(&[
    known("type", "type", Role::ToolType),
    CACHE,
    data("function", "function"),
    data("parameters", "parameters"),
    data("input_schema", "inputschema"),
    data("functionDeclarations", "functiondeclarations"),
    data("custom", "custom"),
]);
const STREAM_OPTIONS: Members =
    Members::of(&[known("include_usage", "includeusage", Role::IncludeUsage)]);
const INFERENCE: Members = Members::of(&[known("maxTokens", "maxtokens", Role::Limit)]);
const OPTIONS: Members = Members::of(&[known("num_predict", "numpredict", Role::Limit)]);
const PROMPT: Members = Members::of(&[known("id", "id", Role::StoredPrompt)]);
const ANY: Members = Members::of(&[
    Known { is_strict: false, ..CACHE },
    Known { is_strict: false, ..FILE_ID },
    Known { is_strict: false, ..FILE_DATA },
    Known { is_strict: false, ..FILE_URL },
    Known { is_strict: false, ..AUDIO },
]);
const NONE: Members = Members::of(&[]);
const DATA: Members = Members::of(&[Known { is_strict: false, ..CACHE }]);

/// The members that are known in a place.
pub const fn members(place: Place) -> Members {
    match place {
        Place::Top => TOP,
        Place::StreamOptions => STREAM_OPTIONS,
        Place::GenerationConfig => GENERATION,
        Place::InferenceConfig => INFERENCE,
        Place::Options => OPTIONS,
        Place::Parameters => PARAMETERS,
        Place::Prompt => PROMPT,
        Place::Message => MESSAGE,
        Place::Part(_) => PART,
        Place::ImageUrl(_) | Place::MediaUrl => IMAGE,
        Place::Source(_) => SOURCE,
        Place::InputItem => INPUT_ITEM,
        Place::ContentsItem => CONTENTS_ITEM,
        Place::GeminiPart => GEMINI_PART,
        Place::InlineData => INLINE_DATA,
        Place::Tool => TOOL,
        Place::Data => DATA,
        Place::OtherModels => NONE,
        _ => ANY,
    }
}

#[cfg(test)]
mod tests {
    use super::super::names::fold_plain;
    use super::super::place::Within;
    use super::*;

    #[test]
    fn every_known_name_is_folded_as_names_are() {
        let parts = Place::Part(Within::Message);
        let sources = Place::Source(Within::Message);
        for place in [
            Place::Top,
            Place::StreamOptions,
            Place::GenerationConfig,
            Place::InferenceConfig,
            Place::Options,
            Place::Parameters,
            Place::Prompt,
            Place::Message,
            parts,
            Place::ImageUrl(Within::Message),
            sources,
            Place::InputItem,
            Place::ContentsItem,
            Place::GeminiPart,
            Place::InlineData,
            Place::Tool,
            Place::Any,
            Place::Data,
        ] {
            let members = members(place);
            assert!(members.known.len() <= 64, "{place:?}: one bit each");
            for known in members.known {
                assert!(members.may_have(known.spelled.as_bytes()), "{known:?}");
                assert!(members.may_have(known.spelled.to_uppercase().as_bytes()), "{known:?}");
                let folded = fold_plain(known.spelled).unwrap();
                assert_eq!(&*folded, known.folded.as_bytes(), "{known:?}");
            }
        }
    }
}
