//! Messages in English and French, and the choice of the language.

use std::borrow::Cow;

use http::{HeaderMap, header};

/// The language of a message, from `accept-language`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Language {
    /// English, the default.
    #[default]
    English,
    /// French, if the client accepts it and does not prefer English.
    French,
}

impl Language {
    /// The language that the client prefers, of the two.
    pub fn of(headers: &HeaderMap) -> Self {
        let header = headers.get(header::ACCEPT_LANGUAGE).and_then(|value| value.to_str().ok());
        let Some(header) = header else { return Self::English };
        let mut best = (0, Self::English);
        for choice in header.split(',') {
            let mut parts = choice.trim().split(';');
            let tag = parts.next().unwrap_or_default();
            let weight = parts.find_map(|part| part.trim().strip_prefix("q=")).map_or(1000, weight);
            let language = match tag.split('-').next() {
                Some(tag) if tag.eq_ignore_ascii_case("fr") => Self::French,
                Some(tag) if tag.eq_ignore_ascii_case("en") => Self::English,
                _ => continue,
            };
            if weight > best.0 {
                best = (weight, language);
            }
        }
        best.1
    }

    /// The language's tag for `content-language`.
    pub const fn tag(self) -> &'static str {
        match self {
            Self::English => "en",
            Self::French => "fr",
        }
    }
}

/// Reads a quality value (RFC 9110, 12.4.2), in thousandths. Zero if it cannot be read.
fn weight(text: &str) -> u32 {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(fraction) || fraction.len() > 3 {
        return 0;
    }
    format!("{whole}{fraction:0<3}").parse().unwrap_or(0).min(1000)
}

/// A message in every language: what happened, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    /// The message in English.
    pub en: Cow<'static, str>,
    /// The message in French.
    pub fr: Cow<'static, str>,
}

impl Text {
    /// A message in both languages.
    pub fn new(en: impl Into<Cow<'static, str>>, fr: impl Into<Cow<'static, str>>) -> Self {
        Self { en: en.into(), fr: fr.into() }
    }

    /// A constant message in both languages.
    pub const fn fixed(en: &'static str, fr: &'static str) -> Self {
        Self { en: Cow::Borrowed(en), fr: Cow::Borrowed(fr) }
    }

    /// The message in one language.
    pub fn in_language(&self, language: Language) -> &str {
        match language {
            Language::English => &self.en,
            Language::French => &self.fr,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_language_is_the_one_the_client_prefers() {
        for (header, language) in [
            ("fr", Language::French),
            ("fr-CA,fr;q=0.9,en;q=0.8", Language::French),
            ("en,fr;q=0.9", Language::English),
            ("de,fr;q=0.5", Language::French),
            ("en;q=0.1, fr;q=0.2", Language::French),
            ("fr;q=0", Language::English),
            ("fr;q=nonsense", Language::English),
            ("", Language::English),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT_LANGUAGE, header.parse().unwrap());
            assert_eq!(Language::of(&headers), language, "{header}");
        }
    }
}
