//! The admin listener's bearer token.

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header;

use super::Admin;
use crate::problem::{Problem, Text};

/// Lets a request pass that carries the token.
pub(crate) async fn require_token(
    State(admin): State<Admin>,
    request: Request,
    next: Next,
) -> Response {
    let sent = request.headers().get(header::AUTHORIZATION).map(|value| value.as_bytes());
    let token = sent.and_then(|value| {
        let (scheme, token) = value.split_at_checked(7)?;
        scheme.eq_ignore_ascii_case(b"Bearer ").then_some(token)
    });
    if token.is_some_and(|token| admin.token.matches(token)) {
        return next.run(request).await;
    }
    Problem::unauthenticated(Text::new(
        "The admin routes need `Authorization: Bearer` with the token of `[server] admin_token`.",
        "Les routes d'administration demandent `Authorization: Bearer` avec le jeton de `[server] admin_token`.",
    ))
    .into_response()
}
