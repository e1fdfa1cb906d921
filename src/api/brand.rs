//! `[brand]`: how the account page presents the seller.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http::{HeaderValue, header};
use reqwest::Url;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::config::Mistake;
use crate::problem::{Problem, texts};

/// The largest logo, in bytes. It is limited because every visit loads it.
const MAX_LOGO_BYTES: usize = 256 * 1024;

const MAX_NAME_CHARS: usize = 60;

/// `[brand]`: the seller. Every key is optional, and an empty text counts as absent.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BrandConfig {
    /// The seller's or the product's name.
    pub name: String,
    /// An image: a file beside gateway.toml, or an address that begins with `https://`.
    pub logo: PathBuf,
    /// The address of the account page's link back to the seller.
    pub url: String,
}

impl BrandConfig {
    /// Makes the path of the logo's file relative to `base`.
    pub fn resolve(&mut self, base: &Path) {
        if !self.logo.as_os_str().is_empty() && !is_remote(&self.logo) {
            self.logo = base.join(&self.logo);
        }
    }

    /// Finds the mistakes in this section. This reads the logo's file.
    pub fn check(&self) -> Vec<Mistake> {
        let mut found = Vec::new();
        let mut wrong = |key: &str, message: String, hint: &str| {
            found.push(Mistake::new(format!("brand.{key}"), message, hint));
        };
        if self.name.chars().count() > MAX_NAME_CHARS || self.name.chars().any(char::is_control) {
            let message = format!("`name` is not one line of at most {MAX_NAME_CHARS} characters");
            wrong("name", message, "write the name that people know you by");
        }
        let is_web = |url: &Url| matches!(url.scheme(), "https" | "http") && url.has_host();
        if !self.url.is_empty() && !Url::parse(&self.url).is_ok_and(|url| is_web(&url)) {
            let message = format!("`{}` is not the address of a website", self.url);
            wrong("url", message, "write it like \"https://app.example.com\"");
        }
        if let Err(mistake) = Logo::load(&self.logo) {
            found.push(mistake);
        }
        found
    }
}

fn is_remote(logo: &Path) -> bool {
    logo.to_str().is_some_and(|text| text.starts_with("https://") || text.starts_with("http://"))
}

#[derive(Clone, Debug)]
enum Logo {
    None,
    Remote(Url),
    File { bytes: Bytes, media_type: &'static str },
}

impl Logo {
    fn load(path: &Path) -> Result<Self, Mistake> {
        let wrong = |message: String, hint: &str| Mistake::new("brand.logo", message, hint);
        let shown = path.display();
        if path.as_os_str().is_empty() {
            return Ok(Self::None);
        }
        if is_remote(path) {
            let url = path.to_str().and_then(|text| Url::parse(text).ok());
            let url = url.filter(|url| url.scheme() == "https" && url.has_host());
            let hint = "write it like \"https://app.example.com/logo.svg\", or name a file";
            return url.map(Self::Remote).ok_or_else(|| {
                wrong(format!("`{shown}` is not an address that begins with https://"), hint)
            });
        }
        let media_type = match path.extension().and_then(|extension| extension.to_str()) {
            Some("svg") => "image/svg+xml",
            Some("png") => "image/png",
            Some("jpg" | "jpeg") => "image/jpeg",
            Some("webp") => "image/webp",
            _ => {
                let message = format!("{shown} is not an image that browsers show");
                return Err(wrong(message, "use a file that ends with .svg, .png, .jpg or .webp"));
            }
        };
        let bytes = std::fs::read(path).map_err(|error| {
            wrong(format!("{shown} cannot be read: {error}"), "name a file beside gateway.toml")
        })?;
        if bytes.len() > MAX_LOGO_BYTES {
            let message = format!("{shown} is larger than {MAX_LOGO_BYTES} bytes");
            return Err(wrong(message, "every visit loads it: make it smaller"));
        }
        Ok(Self::File { bytes: bytes.into(), media_type })
    }
}

/// The seller, with the logo loaded.
#[derive(Clone, Debug)]
pub struct Brand {
    body: BrandBody,
    logo: Logo,
    page_policy: HeaderValue,
}

/// The seller.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct BrandBody {
    name: Option<String>,
    /// The address of an image.
    logo: Option<String>,
    /// The address of a link back to the seller.
    url: Option<String>,
}

impl Brand {
    /// Loads the logo's file. `prefix` is the path of Farebox's own routes.
    ///
    /// # Errors
    /// The logo cannot be shown.
    pub fn load(config: &BrandConfig, prefix: &str) -> Result<Self, Mistake> {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let logo = Logo::load(&config.logo)?;
        let (address, images) = match &logo {
            Logo::None => (None, String::new()),
            Logo::Remote(url) => (Some(url.to_string()), url.origin().ascii_serialization()),
            Logo::File { .. } => (Some(format!("{prefix}/brand/logo")), String::new()),
        };
        let page_policy = crate::api::ui::page_policy(&images).ok_or_else(|| {
            let hint = "write it like \"https://app.example.com/logo.svg\", or name a file";
            Mistake::new("brand.logo", "this address fits in no header", hint)
        })?;
        let body = BrandBody { name: some(&config.name), logo: address, url: some(&config.url) };
        Ok(Self { body, logo, page_policy })
    }

    /// The seller's name and the address of the logo, if gateway.toml sets them.
    pub(super) fn name_and_logo(&self) -> (Option<&str>, Option<&str>) {
        (self.body.name.as_deref(), self.body.logo.as_deref())
    }

    /// The source of the logo for a content security policy; `'none'` without a logo.
    pub(super) fn image_source(&self) -> String {
        match &self.logo {
            Logo::None => "'none'".to_owned(),
            Logo::Remote(url) => url.origin().ascii_serialization(),
            Logo::File { .. } => "'self'".to_owned(),
        }
    }

    /// The account page's content security policy, which allows the logo's origin.
    pub(super) fn page_policy(&self) -> &HeaderValue {
        &self.page_policy
    }
}

/// The seller. Each member is `null` if gateway.toml does not set it.
#[utoipa::path(get, path = "/brand", tag = "ui",
    responses((status = 200, body = BrandBody)), security(()))]
pub(super) async fn show(State(brand): State<Arc<Brand>>) -> Json<BrandBody> {
    Json(brand.body.clone())
}

/// The seller's logo, if gateway.toml names a file.
#[utoipa::path(get, path = "/brand/logo", tag = "ui",
    responses((status = 200, description = "An image"), (status = 404)), security(()))]
pub(super) async fn logo(State(brand): State<Arc<Brand>>) -> Result<Response, Problem> {
    let Logo::File { bytes, media_type } = &brand.logo else {
        return Err(Problem::not_found(texts::NO_LOGO));
    };
    // A browser treats an SVG that is opened by itself as a page. This policy lets nothing in it
    // run.
    let policy = "default-src 'none'; style-src 'unsafe-inline'; sandbox";
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(media_type)),
        (header::CACHE_CONTROL, HeaderValue::from_static("max-age=3600")),
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy)),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    ];
    Ok((headers, bytes.clone()).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(toml: &str, folder: &Path) -> Vec<String> {
        let mut config: BrandConfig = toml::from_str(toml).unwrap();
        config.resolve(folder);
        config.check().into_iter().map(|mistake| mistake.key).collect()
    }

    #[test]
    fn a_brand_that_cannot_be_shown_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, bytes: usize| {
            std::fs::write(folder.path().join(name), vec![b' '; bytes]).unwrap();
        };
        file("logo.svg", 10);
        file("large.png", MAX_LOGO_BYTES + 1);
        file("logo.txt", 10);
        for good in [
            "",
            "name = ''\nlogo = ''\nurl = ''",
            "name = 'Lumen'\nlogo = 'logo.svg'\nurl = 'https://lumen.example'",
            "logo = 'https://lumen.example/logo.png'",
        ] {
            assert_eq!(keys(good, folder.path()), [] as [String; 0], "{good}");
        }
        for bad in [
            "logo = 'none.svg'",
            "logo = 'large.png'",
            "logo = 'logo.txt'",
            "logo = 'http://lumen.example/logo.png'",
            "logo = 'https://'",
        ] {
            assert_eq!(keys(bad, folder.path()), ["brand.logo"], "{bad}");
        }
        for bad in ["lumen.example", "javascript:alert(1)", "https://", "ftp://a.example"] {
            assert_eq!(keys(&format!("url = '{bad}'"), folder.path()), ["brand.url"], "{bad}");
        }
        let long = format!("name = '{}'", "x".repeat(MAX_NAME_CHARS + 1));
        assert_eq!(keys(&long, folder.path()), ["brand.name"]);
    }
}
