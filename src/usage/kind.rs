//! The kinds of usage that have a price.

use serde::de::{self, Deserialize, Deserializer};

/// One kind of usage. Kinds never overlap: a token that was read from a cache counts as
/// [`Kind::CachedInput`] and not as [`Kind::Input`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Tokens of the request that are of no other kind.
    Input,
    /// Tokens of the request that were read from a cache.
    CachedInput,
    /// Tokens of the request that were written to a cache for five minutes.
    CacheWrite,
    /// Tokens of the request that were written to a cache for an hour.
    CacheWrite1h,
    /// Audio in the request, in tokens.
    InputAudio,
    /// Images in the request, in tokens.
    InputImage,
    /// Tokens of the answer that are of no other kind.
    Output,
    /// Tokens that the model used for thinking. The client may not see them.
    Reasoning,
    /// Audio in the answer, in tokens.
    OutputAudio,
    /// Images in the answer, in tokens.
    OutputImage,
    /// Images that the answer has, counted one by one.
    Image,
    /// Seconds of audio or video.
    Second,
    /// Characters, for example of a text that was read aloud.
    Character,
    /// Searches of a tool that the provider runs.
    Search,
}

impl Kind {
    /// Every kind, in the order in which they are shown.
    pub const ALL: [Self; 14] = [
        Self::Input,
        Self::CachedInput,
        Self::CacheWrite,
        Self::CacheWrite1h,
        Self::InputAudio,
        Self::InputImage,
        Self::Output,
        Self::Reasoning,
        Self::OutputAudio,
        Self::OutputImage,
        Self::Image,
        Self::Second,
        Self::Character,
        Self::Search,
    ];

    /// The name in gateway.toml, in JSON, in metrics and in the ledger.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::CachedInput => "cached_input",
            Self::CacheWrite => "cache_write",
            Self::CacheWrite1h => "cache_write_1h",
            Self::InputAudio => "input_audio",
            Self::InputImage => "input_image",
            Self::Output => "output",
            Self::Reasoning => "reasoning",
            Self::OutputAudio => "output_audio",
            Self::OutputImage => "output_image",
            Self::Image => "image",
            Self::Second => "second",
            Self::Character => "character",
            Self::Search => "search",
        }
    }

    /// The kind with this name, as [`Kind::as_str`] writes it.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }

    /// The names of [`Kind::ALL`].
    const NAMES: [&'static str; Self::ALL.len()] = {
        let mut names = [""; Self::ALL.len()];
        let mut index = 0;
        while index < names.len() {
            names[index] = Self::ALL[index].as_str();
            index += 1;
        }
        names
    };

    /// The kind whose price applies to this kind if it has none of its own.
    pub const fn parent(self) -> Option<Self> {
        match self {
            Self::CachedInput | Self::CacheWrite | Self::InputAudio | Self::InputImage => {
                Some(Self::Input)
            }
            Self::CacheWrite1h => Some(Self::CacheWrite),
            Self::Reasoning | Self::OutputAudio | Self::OutputImage => Some(Self::Output),
            Self::Input
            | Self::Output
            | Self::Image
            | Self::Second
            | Self::Character
            | Self::Search => None,
        }
    }

    /// Whether this is a kind of tokens in the request.
    pub const fn is_input(self) -> bool {
        (self as usize) <= (Self::InputImage as usize)
    }

    /// Whether this is a kind of tokens in the answer.
    pub const fn is_output(self) -> bool {
        (self as usize) >= (Self::Output as usize)
            && (self as usize) <= (Self::OutputImage as usize)
    }

    /// Whether the kind counts tokens. Prices of tokens are for a million; other kinds have a price
    /// for each unit.
    pub const fn is_token(self) -> bool {
        (self as usize) <= (Self::OutputImage as usize)
    }

    pub(super) const fn index(self) -> usize {
        self as usize
    }
}

/// Reads the name of a kind, as the key of a table. Any other name is an unknown key.
impl<'de> Deserialize<'de> for Kind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        Self::parse(&name).ok_or_else(|| de::Error::unknown_field(&name, &Self::NAMES))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_has_every_kind_at_its_place_under_a_name_of_its_own() {
        for (index, kind) in Kind::ALL.into_iter().enumerate() {
            assert_eq!(kind.index(), index, "{kind:?}");
            assert_eq!(Kind::parse(kind.as_str()), Some(kind));
            assert_eq!(kind.is_token(), kind.is_input() || kind.is_output());
            assert!(!(kind.is_input() && kind.is_output()));
            let parent = kind.parent().unwrap_or(kind);
            assert_eq!(
                (parent.is_input(), parent.is_output()),
                (kind.is_input(), kind.is_output())
            );
        }
        assert_eq!(Kind::parse("tokens"), None);
    }
}
