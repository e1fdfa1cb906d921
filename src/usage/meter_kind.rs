//! The ways in which usage is read from requests and answers: the `meter` of a route.

use std::fmt;
use std::sync::Arc;

use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};

use super::kind::Kind;

/// The `meter` of a route, as in gateway.toml: `"openai"`, `"anthropic"`, or a table of JSON pointers
/// by kind, such as `{ input = "/usage/in", output = "/usage/out" }`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MeterKind {
    /// OpenAI's shapes: chat completions, responses, embeddings, images.
    OpenAi,
    /// Anthropic's messages.
    Anthropic,
    /// A JSON answer of any shape, whose counts stand at fixed places.
    Pointers(Arc<Pointers>),
}

/// The places of the counts in a JSON answer, each with the kind that is counted there. Kinds never
/// overlap, so each count is used as it is. There is at least one place, and all differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pointers(Box<[(Kind, Pointer)]>);

/// A JSON Pointer (RFC 6901) below the top of a document, such as `/usage/in`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pointer {
    text: Box<str>,
    steps: Box<[Box<str>]>,
}

/// The reason why a text is not a JSON pointer. In each message, the text after the semicolon is
/// the remedy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PointerError {
    /// The text does not begin with `/`.
    #[error("a JSON pointer starts with `/`; write it like \"/usage/in\"")]
    NotRooted,
    /// A `~` is not followed by 0 or 1.
    #[error("`~` in a JSON pointer is followed by 0 or 1; write ~0 for `~` and ~1 for `/`")]
    BadEscape,
    /// The text is longer than [`MAX_POINTER_BYTES`].
    #[error("a JSON pointer has at most {MAX_POINTER_BYTES} bytes; name a place nearer to the top")]
    TooLong,
}

/// The longest JSON pointer, in bytes.
pub const MAX_POINTER_BYTES: usize = 255;

impl MeterKind {
    /// The name for people: `openai`, `anthropic` or `pointers`.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::OpenAi => "openai",
            Self::Anthropic => "anthropic",
            Self::Pointers(_) => "pointers",
        }
    }
}

impl Pointers {
    /// Each kind with the place of its count, in the order of the config.
    pub fn iter(&self) -> impl Iterator<Item = (Kind, &Pointer)> {
        self.0.iter().map(|(kind, pointer)| (*kind, pointer))
    }
}

impl Pointer {
    /// Reads a pointer.
    ///
    /// # Errors
    /// [`PointerError`] if the text is malformed, or names the whole document.
    pub fn parse(text: &str) -> Result<Self, PointerError> {
        if text.len() > MAX_POINTER_BYTES {
            return Err(PointerError::TooLong);
        }
        let below = text.strip_prefix('/').ok_or(PointerError::NotRooted)?;
        let steps: Result<Vec<Box<str>>, _> = below.split('/').map(unescape).collect();
        Ok(Self { text: text.into(), steps: steps?.into() })
    }

    /// The pointer as written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The steps from the top down: names of members, and indexes of elements as digits. There is
    /// at least one.
    pub fn steps(&self) -> &[Box<str>] {
        &self.steps
    }
}

fn unescape(step: &str) -> Result<Box<str>, PointerError> {
    let mut pieces = step.split('~');
    let mut plain = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        match (piece.strip_prefix('0'), piece.strip_prefix('1')) {
            (Some(rest), _) => plain.extend(["~", rest]),
            (_, Some(rest)) => plain.extend(["/", rest]),
            (None, None) => return Err(PointerError::BadEscape),
        }
    }
    Ok(plain.into())
}

impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Pointer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(de::Error::custom)
    }
}

impl<'de> Deserialize<'de> for MeterKind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Meter;
        impl<'de> Visitor<'de> for Meter {
            type Value = MeterKind;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"openai\", \"anthropic\" or a table of JSON pointers")
            }
            fn visit_str<E: de::Error>(self, name: &str) -> Result<MeterKind, E> {
                match name {
                    "openai" => Ok(MeterKind::OpenAi),
                    "anthropic" => Ok(MeterKind::Anthropic),
                    other => Err(E::custom(format_args!(
                        "no meter is named `{other}`; write \"openai\" or \"anthropic\", or a table of \
                         JSON pointers such as {{ input = \"/usage/in\", output = \"/usage/out\" }}"
                    ))),
                }
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<MeterKind, A::Error> {
                let mut places: Vec<(Kind, Pointer)> = Vec::new();
                while let Some(kind) = map.next_key::<Kind>()? {
                    let pointer: Pointer = map.next_value()?;
                    if let Some((first, _)) = places.iter().find(|(_, place)| *place == pointer) {
                        return Err(de::Error::custom(format_args!(
                            "`{}` and `{}` are counted at the same place, `{pointer}`, so it would be \
                             charged twice; give each its own place",
                            first.as_str(),
                            kind.as_str()
                        )));
                    }
                    places.push((kind, pointer));
                }
                if places.is_empty() {
                    return Err(de::Error::custom(
                        "this meter counts nothing; name the place of a kind, as in { output = \"/usage/out\" }",
                    ));
                }
                Ok(MeterKind::Pointers(Arc::new(Pointers(places.into()))))
            }
        }
        deserializer.deserialize_any(Meter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    struct Route {
        meter: MeterKind,
    }

    fn read(meter: &str) -> Result<MeterKind, String> {
        let read = toml::from_str::<Route>(&format!("meter = {meter}"));
        read.map(|route| route.meter).map_err(|error| error.message().to_owned())
    }

    #[test]
    fn a_meter_is_a_name_or_a_table_of_places() {
        assert_eq!(read("'openai'"), Ok(MeterKind::OpenAi));
        assert_eq!(read("'anthropic'"), Ok(MeterKind::Anthropic));
        let Ok(MeterKind::Pointers(places)) =
            read("{ input = '/usage/in', output = '/out/0/a~1b~0c' }")
        else {
            panic!("no table of places");
        };
        let steps: Vec<_> = places.iter().map(|(kind, place)| (kind, place.steps())).collect();
        let expected: [(Kind, &[Box<str>]); 2] = [
            (Kind::Input, &["usage".into(), "in".into()]),
            (Kind::Output, &["out".into(), "0".into(), "a/b~c".into()]),
        ];
        assert_eq!(steps, expected);
    }

    #[test]
    fn a_meter_that_cannot_count_says_why() {
        for (meter, why) in [
            ("'gemini'", "no meter is named `gemini`"),
            ("{}", "counts nothing"),
            ("{ tokens = '/a' }", "unknown field `tokens`"),
            ("{ input = 'usage.in' }", "starts with `/`"),
            ("{ input = '' }", "starts with `/`"),
            ("{ input = '/a~2' }", "followed by 0 or 1"),
            ("{ input = '/a~' }", "followed by 0 or 1"),
            ("{ input = '/a', output = '/a' }", "charged twice"),
            ("5", "expected \"openai\", \"anthropic\" or a table"),
        ] {
            let error = read(meter).unwrap_err();
            assert!(error.contains(why), "{meter}: {error}");
        }
        let long = format!("{{ input = '/{}' }}", "a".repeat(MAX_POINTER_BYTES));
        assert!(read(&long).unwrap_err().contains("at most 255 bytes"));
    }
}
