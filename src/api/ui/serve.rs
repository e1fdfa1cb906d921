//! Serves the web pages and their modules. The files are public, since they contain no data; their
//! scripts fetch the data with a credential.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use crate::api::brand::Brand;
use crate::api::ui::files::File;
use crate::api::ui::policy::page_policy;
use crate::problem::{Problem, texts};

const CORP: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// The account page: balance, packs, usage and keys.
#[utoipa::path(get, path = "/account", tag = "ui", responses(
    (status = 200, content_type = "text/html", body = String), (status = 304)), security(()))]
pub(crate) async fn account_page(
    State(brand): State<Arc<Brand>>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    page("account.html", &headers, brand.page_policy().clone())
}

/// The operator's page.
pub(crate) async fn admin_page(headers: HeaderMap) -> Result<Response, Problem> {
    page("admin.html", &headers, page_policy("").ok_or_else(unknown)?)
}

/// A module for pages of this origin.
pub(crate) async fn file(
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let file = File::named(&name).filter(|file| !file.is_page()).ok_or_else(unknown)?;
    Ok(answer(file, &headers))
}

/// A module for pages of any origin: apps load the widgets from here. It is the same for everybody,
/// so reading it reveals nothing.
#[utoipa::path(get, path = "/ui/{file}", tag = "ui",
    params(("file" = String, Path, description = "The file's name, such as farebox.js")),
    responses((status = 200, content_type = "text/javascript", body = String), (status = 304),
        (status = 404)), security(()))]
pub(crate) async fn shared_file(
    path: Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let mut response = file(path, headers).await?;
    let any_origin = HeaderValue::from_static("*");
    response.headers_mut().insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, any_origin);
    response.headers_mut().insert(CORP, HeaderValue::from_static("cross-origin"));
    Ok(response)
}

fn page(name: &str, headers: &HeaderMap, policy: HeaderValue) -> Result<Response, Problem> {
    let mut response = answer(File::named(name).ok_or_else(unknown)?, headers);
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
    let nowhere = HeaderValue::from_static("no-referrer");
    response.headers_mut().insert(header::REFERRER_POLICY, nowhere);
    Ok(response)
}

/// Answers with the file, or with 304 if the browser has the same bytes.
fn answer(file: &'static File, headers: &HeaderMap) -> Response {
    let gzip = reads_gzip(headers);
    let form = if gzip { &file.gzip } else { &file.plain };
    let mut response = if has(headers, &form.etag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        let mut whole = Body::from(form.bytes.clone()).into_response();
        whole.headers_mut().insert(header::CONTENT_TYPE, file.media_type.clone());
        if gzip {
            let coding = HeaderValue::from_static("gzip");
            whole.headers_mut().insert(header::CONTENT_ENCODING, coding);
        }
        whole
    };
    let headers = response.headers_mut();
    headers.insert(header::ETAG, form.etag.clone());
    headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// True if `accept-encoding` accepts gzip, by name or by `*`, with a weight above zero (RFC 9110,
/// 12.5.3).
fn reads_gzip(headers: &HeaderMap) -> bool {
    let lists = headers.get_all(header::ACCEPT_ENCODING).iter();
    let (mut named, mut any) = (None, false);
    for item in lists.filter_map(|list| list.to_str().ok()).flat_map(|list| list.split(',')) {
        let (coding, weight) = item.split_once(';').unwrap_or((item, ""));
        let weight = weight.trim().to_ascii_lowercase();
        let none = |digits: &str| digits.bytes().all(|byte| matches!(byte, b'0' | b'.'));
        let accepted = !weight.strip_prefix("q=").is_some_and(none);
        match &*coding.trim().to_ascii_lowercase() {
            "gzip" | "x-gzip" => named = Some(accepted),
            "*" => any = accepted,
            _ => {}
        }
    }
    named.unwrap_or(any)
}

/// True if `if-none-match` has the tag, compared weakly, or is `*` (RFC 9110, 13.1.2).
fn has(headers: &HeaderMap, etag: &HeaderValue) -> bool {
    let lists = headers.get_all(header::IF_NONE_MATCH).iter();
    lists.flat_map(|list| list.as_bytes().split(|byte| *byte == b',')).any(|tag| {
        let tag = tag.trim_ascii();
        tag == b"*" || tag.strip_prefix(b"W/").unwrap_or(tag) == etag.as_bytes()
    })
}

fn unknown() -> Problem {
    Problem::not_found(texts::NO_SUCH_FILE)
}
