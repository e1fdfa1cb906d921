//! The `idempotency-key` header.

use http::{HeaderMap, HeaderName};

use crate::problem::{Problem, texts};

/// The key that makes a request and its retries one call.
pub(in crate::proxy) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// The longest key, in characters.
const MAX_LENGTH: usize = 255;

/// The value of an `idempotency-key`, without its quotes. The key takes part in sealing answers, so
/// it has no `Debug`.
pub(super) struct Key(Box<str>);

impl Key {
    /// Reads the header. Clients send the key as bare text, or in quotes as a string of RFC 8941.
    /// Both spellings are the same key.
    ///
    /// # Errors
    /// 400 if the key is not 1 to 255 visible ASCII characters, or if there are two keys.
    pub fn read(headers: &HeaderMap) -> Result<Option<Self>, Problem> {
        let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
        let Some(value) = values.next() else { return Ok(None) };
        let text = value.to_str().ok().map(|value| value.trim_matches(' '));
        let key = text.filter(|_| values.next().is_none()).and_then(|text| {
            match text.strip_prefix('"') {
                Some(quoted) => unquote(quoted),
                None => Some(text.to_owned()),
            }
        });
        let is_key = |key: &String| {
            (1..=MAX_LENGTH).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic())
        };
        match key.filter(is_key) {
            Some(key) => Ok(Some(Self(key.into()))),
            None => Err(Problem::bad_request(texts::BAD_IDEMPOTENCY_KEY)),
        }
    }

    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

/// Reads a quoted string (RFC 8941, 4.2.5) whose opening quote was removed. `None` if the string is
/// not valid.
fn unquote(text: &str) -> Option<String> {
    let mut key = String::with_capacity(text.len());
    let mut characters = text.chars();
    loop {
        match characters.next()? {
            '"' => return characters.next().is_none().then_some(key),
            '\\' => match characters.next()? {
                escaped @ ('"' | '\\') => key.push(escaped),
                _ => return None,
            },
            character => key.push(character),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn key(values: &[&str]) -> Result<Option<String>, u16> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(IDEMPOTENCY_KEY, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        let read = Key::read(&headers).map_err(|problem| problem.status.as_u16());
        read.map(|key| key.map(|key| key.0.into()))
    }

    #[test]
    fn a_key_is_the_same_with_and_without_quotes() {
        assert_eq!(key(&[]), Ok(None));
        let longest = "x".repeat(255);
        for (value, expected) in [
            ("8e03978e-40d5-43dd-bc93-6894a57f9324", "8e03978e-40d5-43dd-bc93-6894a57f9324"),
            ("\"8e03978e\"", "8e03978e"),
            (r#""a\"b\\c""#, r#"a"b\c"#),
            (r"a\b", r"a\b"),
            (" k ", "k"),
            (longest.as_str(), longest.as_str()),
            (&format!("\"{longest}\""), &longest),
        ] {
            assert_eq!(key(&[value]), Ok(Some(expected.to_owned())), "{value}");
        }
    }

    #[test]
    fn a_key_that_could_be_read_in_two_ways_is_refused() {
        let long = "x".repeat(256);
        for values in [
            &[""][..],
            &["\"\""],
            &["\"open"],
            &["\"a\";b"],
            &["\"a\"b"],
            &[r#""a\x""#],
            &["two words"],
            &["\"two words\""],
            &["clé"],
            &[&long],
            &["a", "a"],
            &["a", "b"],
        ] {
            assert_eq!(key(values), Err(400), "{values:?}");
        }
    }
}
