//! The content security policy of the pages.

use http::HeaderValue;

/// A page's content security policy: the page loads our own files only, and images of the origin
/// `images` if there is one; it connects to us only, stands in no frame, and runs no text as a
/// script.
pub(crate) fn page_policy(images: &str) -> Option<HeaderValue> {
    let space = if images.is_empty() { "" } else { " " };
    let policy = format!(
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:{space}{images}; \
         connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'; \
         require-trusted-types-for 'script'"
    );
    HeaderValue::from_str(&policy).ok()
}
