//! The places where the data of an image does not count as text.

use super::place::Within;
use crate::usage::MeterKind;

/// The providers whose image places apply to a route.
#[derive(Clone, Copy, Debug)]
pub(super) struct ImagePlaces {
    openai: bool,
    anthropic: bool,
    others: bool,
}

impl ImagePlaces {
    /// The places for one meter. With JSON pointers the provider is not known, so the places of all
    /// providers apply.
    pub const fn of(kind: &MeterKind) -> Self {
        let others = matches!(kind, MeterKind::Pointers(_));
        Self {
            openai: others || matches!(kind, MeterKind::OpenAi),
            anthropic: others || matches!(kind, MeterKind::Anthropic),
            others,
        }
    }

    /// `image_url` as a string, in the content of an item of `input` (OpenAI's responses).
    pub const fn image_url(self, within: Option<Within>) -> bool {
        self.openai && matches!(within, Some(Within::Input))
    }

    /// `image_url.url`, in the content of a message (OpenAI's chat).
    pub const fn url(self, within: Within) -> bool {
        self.openai && matches!(within, Within::Message)
    }

    /// `source.data`, in any content (Anthropic).
    pub const fn source(self, within: Within) -> bool {
        self.anthropic && matches!(within, Within::Message | Within::Content)
    }

    /// `inlineData.data` (Gemini) and `images[]` (Ollama).
    pub const fn others(self) -> bool {
        self.others
    }
}
