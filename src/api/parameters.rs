//! Checks query parameters. An unknown one is refused, because a caller who sends it expects an
//! effect. An empty one counts as absent.

use std::collections::HashMap;
use std::fmt::Display;
use std::str::FromStr;
use std::sync::Arc;

use axum::extract::{MatchedPath, Query, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use serde::{Deserialize as _, Deserializer, de};
use utoipa::openapi::OpenApi;
use utoipa::openapi::path::{Operation, ParameterIn};

use crate::problem::{Problem, texts};

/// The query parameters of each route, by the router's path. A route that is not listed has no
/// parameters.
#[derive(Clone, Debug)]
pub(super) struct Parameters(Arc<HashMap<String, Vec<String>>>);

impl Parameters {
    /// Takes the parameters from the OpenAPI description.
    pub fn described(description: &OpenApi) -> Self {
        let of = |operation: &Operation| {
            let all = operation.parameters.iter().flatten();
            let asked = all.filter(|parameter| parameter.parameter_in == ParameterIn::Query);
            asked.map(|parameter| parameter.name.clone()).collect::<Vec<_>>()
        };
        let paths = description.paths.paths.iter().map(|(path, item)| {
            let operations = [&item.get, &item.post, &item.delete].into_iter().flatten();
            (path.clone(), operations.flat_map(of).collect())
        });
        Self(Arc::new(paths.collect()))
    }

    /// Takes the parameters from a list.
    pub fn listed(routes: &[(&str, &[&str])]) -> Self {
        let owned = |(path, names): &(&str, &[&str])| {
            ((*path).to_owned(), names.iter().map(|name| (*name).to_owned()).collect())
        };
        Self(Arc::new(routes.iter().map(owned).collect()))
    }
}

/// Passes on a request if all of its query parameters are known. Otherwise the answer is 400, and
/// names the unknown ones.
pub(super) async fn refuse_unknown(
    State(Parameters(routes)): State<Parameters>,
    path: MatchedPath,
    request: Request,
    next: Next,
) -> Response {
    let known = routes.get(path.as_str()).map_or(&[][..], Vec::as_slice);
    // If the query cannot be parsed, the route itself refuses it.
    let sent = Query::<Vec<(String, String)>>::try_from_uri(request.uri());
    let mut unknown: Vec<String> = sent
        .map(|Query(pairs)| pairs.into_iter().map(|(name, _)| name).collect())
        .unwrap_or_default();
    unknown.retain(|name| !known.contains(name));
    unknown.sort_unstable();
    unknown.dedup();
    if unknown.is_empty() {
        return next.run(request).await;
    }
    refusal(&unknown, known).into_response()
}

fn refusal(unknown: &[String], known: &[String]) -> Problem {
    let list = |names: &[String]| {
        names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
    };
    let (sent, known) = (list(unknown), list(known));
    let (has, a) = match known.is_empty() {
        true => ("This route has none.".to_owned(), "Elle n'en a aucun.".to_owned()),
        false => (format!("This route has: {known}."), format!("Elle a : {known}.")),
    };
    Problem::bad_request(texts::unknown_parameters(&sent, &has, &a))
}

/// Reads an optional value. A name without a value, as in `?cursor=`, counts as absent, because
/// forms send empty fields in this way. Use with `#[serde(default, deserialize_with = …)]`.
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
    struct Query {
        #[serde(default, deserialize_with = "unless_empty")]
        limit: Option<u32>,
        #[serde(default, deserialize_with = "unless_empty")]
        cursor: Option<String>,
    }

    #[test]
    fn an_empty_value_is_absent_and_a_wrong_one_is_refused() {
        let asked = |query: &str| {
            let uri = format!("/?{query}").parse().unwrap();
            axum::extract::Query::<Query>::try_from_uri(&uri).ok().map(|query| query.0)
        };
        let some =
            |limit, cursor: Option<&str>| Some(Query { limit, cursor: cursor.map(str::to_owned) });
        for nothing in ["", "limit=", "limit", "cursor=", "limit=&cursor="] {
            assert_eq!(asked(nothing), some(None, None), "{nothing}");
        }
        assert_eq!(asked("limit=7&cursor=%20"), some(Some(7), Some(" ")));
        for wrong in ["limit=x", "limit=-1", "limit=%20", "limit=4294967296"] {
            assert_eq!(asked(wrong), None, "{wrong}");
        }
    }
}
