//! The places whose image data does not count as text, whatever the data contains.

use super::place::Within;
use crate::usage::MeterKind;

/// The providers whose image places are known to the route.
#[derive(Clone, Copy, Debug)]
pub(super) struct ImagePlaces {
    openai: bool,
    anthropic: bool,
    others: bool,
}

impl ImagePlaces {
    /// The places of one meter. With JSON pointers the provider is not known, so the places of all.
    pub const fn of(kind: &MeterKind) -> Self {
        let others = matches!(kind, MeterKind::Pointers(_));
        Self {
            openai: others || matches!(kind, MeterKind::OpenAi),
            anthropic: others || matches!(kind, MeterKind::Anthropic),
            others,
        }
    }

    /// `image_url` as a string: OpenAI's responses, in the content of an item of `input`.
    pub const fn image_url(self, within: Option<Within>) -> bool {
        self.openai && matches!(within, Some(Within::Input))
    }

    /// `image_url.url`: OpenAI's chat, in the content of a message.
    pub const fn url(self, within: Within) -> bool {
        self.openai && matches!(within, Within::Message)
    }

    /// `source.data`: Anthropic's, in any content.
    pub const fn source(self, within: Within) -> bool {
        self.anthropic && matches!(within, Within::Message | Within::Content)
    }

    /// `inlineData.data`, Gemini's, and `images[]`, Ollama's.
    pub const fn others(self) -> bool {
        self.others
    }
}
