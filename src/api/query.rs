//! Values of a query that may be left out.

use std::fmt::Display;
use std::str::FromStr;

use serde::{Deserialize as _, Deserializer, de};

/// Reads a value that is absent where nothing stands behind its name, as in `?cursor=`: what a form
/// sends of a field that nobody filled in. For `#[serde(default, deserialize_with = …)]`.
pub(super) fn unless_empty<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: Display>,
{
    match Option::<String>::deserialize(deserializer)?.as_deref() {
        None | Some("") => Ok(None),
        Some(text) => text.parse().map(Some).map_err(de::Error::custom),
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    struct Asked {
        #[serde(default, deserialize_with = "unless_empty")]
        limit: Option<u32>,
        #[serde(default, deserialize_with = "unless_empty")]
        cursor: Option<String>,
    }

    #[test]
    fn what_is_empty_is_absent_and_what_is_wrong_is_refused() {
        let asked = |query: &str| {
            let uri = format!("/?{query}").parse().unwrap();
            axum::extract::Query::<Asked>::try_from_uri(&uri).ok().map(|query| query.0)
        };
        let some =
            |limit, cursor: Option<&str>| Some(Asked { limit, cursor: cursor.map(str::to_owned) });
        for nothing in ["", "limit=", "limit", "cursor=", "limit=&cursor="] {
            assert_eq!(asked(nothing), some(None, None), "{nothing}");
        }
        assert_eq!(asked("limit=7&cursor=%20"), some(Some(7), Some(" ")));
        for wrong in ["limit=x", "limit=-1", "limit=%20", "limit=4294967296"] {
            assert_eq!(asked(wrong), None, "{wrong}");
        }
    }
}
