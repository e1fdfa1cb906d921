//! Compares the names of members as the most tolerant parsers do.

use crate::meter::json::{Text, unescape};

/// The longest name that is compared, in bytes and without `_`. All known names are shorter.
pub(super) const LONGEST: usize = 64;

/// Writes a name without `_` and in lower case into the buffer. `None` if it is longer than every
/// known name.
///
/// Go's JSON parser ignores case. It also takes U+017F for `s` and U+212A for `k`, as Unicode folds
/// them. The Turkish letters U+0130 and U+0131 are taken for `i`. Protobuf's parser takes
/// `maxTokens` for `max_tokens`. Parsers in C end a name at a NUL.
pub(super) fn fold<'b>(name: &Text<'_>, buffer: &'b mut [u8; LONGEST]) -> Option<&'b [u8]> {
    if !name.has_escapes && name.raw.is_ascii() {
        return put(name.raw.iter().copied(), buffer);
    }
    let bytes: Vec<u8> = unescape(name.raw).take_while(|byte| *byte != 0).collect();
    let text = String::from_utf8_lossy(&bytes);
    let folded: String = text
        .chars()
        .map(|letter| match letter {
            '\u{17f}' => 's',
            '\u{212a}' => 'k',
            '\u{130}' | '\u{131}' => 'i',
            other => other,
        })
        .collect();
    put(folded.bytes(), buffer)
}

fn put(bytes: impl Iterator<Item = u8>, buffer: &mut [u8; LONGEST]) -> Option<&[u8]> {
    let mut len = 0;
    for byte in bytes.filter(|byte| *byte != b'_') {
        *buffer.get_mut(len)? = byte.to_ascii_lowercase();
        len += 1;
    }
    buffer.get(..len)
}

/// Folds a name from the config. `None` if it is longer than [`LONGEST`].
pub(super) fn fold_plain(name: &str) -> Option<Box<[u8]>> {
    let raw = name.as_bytes();
    // In the config, a backslash in a name is an ordinary character and begins no escape.
    let mut buffer = [0; LONGEST];
    put(raw.iter().copied(), &mut buffer).map(Box::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folded(raw: &str) -> Option<String> {
        let has_escapes = raw.contains('\\');
        let (is_whole, has_lone_surrogate) = (true, false);
        let text = Text { raw: raw.as_bytes(), is_whole, has_escapes, has_lone_surrogate, len: 0 };
        let mut buffer = [0; LONGEST];
        fold(&text, &mut buffer).map(|bytes| String::from_utf8_lossy(bytes).into_owned())
    }

    #[test]
    fn names_are_compared_as_the_most_tolerant_parser_does() {
        for spelled in [
            "max_tokens",
            "maxTokens",
            "MAX_TOKENS",
            "_max__tokens_",
            "max_token\u{17f}",
            "max_to\u{212a}ens",
            "max\\u005ftokens",
            "m\\u0061x_tokens",
            "max_to\\u212aens",
            "max_tokens\\u0000x",
        ] {
            assert_eq!(folded(spelled).as_deref(), Some("maxtokens"), "{spelled}");
        }
        for other in ["max-tokens", "max_token", "max tokens", "\\u0000max_tokens", "mäx_tokens"] {
            assert_ne!(folded(other).as_deref(), Some("maxtokens"), "{other}");
        }
        assert_eq!(folded(&"a".repeat(LONGEST + 1)), None);
        assert_eq!(fold_plain("Service_Tier").as_deref(), Some(&b"servicetier"[..]));
    }
}
