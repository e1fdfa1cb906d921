//! Query parameters that a route does not have are refused: whoever sends one expects something of it.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::{MatchedPath, Query, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use utoipa::openapi::OpenApi;
use utoipa::openapi::path::{Operation, ParameterIn};

use crate::problem::{Problem, Text};

/// The query parameters of each route, by its path as the router has it. A route that is not listed has none.
#[derive(Clone, Debug)]
pub(super) struct Parameters(Arc<HashMap<String, Vec<String>>>);

impl Parameters {
    /// Those that the description of the routes names.
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

    /// Those of a list.
    pub fn listed(routes: &[(&str, &[&str])]) -> Self {
        let owned = |(path, names): &(&str, &[&str])| {
            ((*path).to_owned(), names.iter().map(|name| (*name).to_owned()).collect())
        };
        Self(Arc::new(routes.iter().map(owned).collect()))
    }
}

/// Lets a request pass whose query parameters are all known; 400 names the others.
pub(super) async fn refuse_unknown(
    State(Parameters(routes)): State<Parameters>,
    path: MatchedPath,
    request: Request,
    next: Next,
) -> Response {
    let known = routes.get(path.as_str()).map_or(&[][..], Vec::as_slice);
    // A query that cannot be read is the route's own matter.
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
    let (there, ici) = match known.is_empty() {
        true => ("It has none.".to_owned(), "Elle n'en a aucun.".to_owned()),
        false => (format!("It has: {known}."), format!("Elle a : {known}.")),
    };
    Problem::bad_request(Text::new(
        format!("This route does not have these query parameters: {sent}. {there}"),
        format!("Cette route n'a pas ces paramètres de requête : {sent}. {ici}"),
    ))
}
