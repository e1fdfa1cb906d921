//! The content security policy of the web pages.

use http::HeaderValue;

/// The content security policy of a page. The page may load only Farebox's own files, and images of
/// the origin `images` if that is not empty. It may connect only to Farebox, must not be framed,
/// and may not run inline scripts.
pub(crate) fn page_policy(images: &str) -> Option<HeaderValue> {
    let space = if images.is_empty() { "" } else { " " };
    let policy = format!(
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:{space}{images}; \
         connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'; \
         require-trusted-types-for 'script'"
    );
    HeaderValue::from_str(&policy).ok()
}
