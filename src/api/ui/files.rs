//! The files of `web/`, embedded as they are: there is no build step.

use std::sync::LazyLock;

use http::HeaderValue;
use sha2::{Digest as _, Sha256};

macro_rules! web {
    ($($name:literal),+ $(,)?) => {
        &[$(($name, include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/web/", $name)))),+]
    };
}

/// Every file that a browser or an editor asks for. A new one is a line here.
const WEB: &[(&str, &[u8])] = web![
    "account.html",
    "account.js",
    "admin.html",
    "admin.js",
    "balance.js",
    "chart.js",
    "client.js",
    "dom.js",
    "farebox.d.ts",
    "farebox.js",
    "format.js",
    "history.js",
    "i18n.js",
    "keys.js",
    "package.json",
    "packs.js",
    "page.css",
    "page.js",
    "react.d.ts",
    "react.js",
    "style.js",
    "upsell.js",
];

/// One file of `web/`.
pub(super) struct File {
    name: &'static str,
    pub bytes: &'static [u8],
    pub media_type: HeaderValue,
    /// Its content's hash: a browser that has it asks again, and hears 304.
    pub etag: HeaderValue,
}

static FILES: LazyLock<Vec<File>> = LazyLock::new(|| {
    let file = |&(name, bytes): &(&'static str, &'static [u8])| {
        let hash = hex::encode(&Sha256::digest(bytes)[..16]);
        // Quotes and hexadecimal digits are a valid header.
        let etag = HeaderValue::from_str(&format!("\"{hash}\"")).ok()?;
        Some(File { name, bytes, media_type: media_type(name), etag })
    };
    WEB.iter().filter_map(file).collect()
});

impl File {
    /// The file of this name.
    pub fn named(name: &str) -> Option<&'static Self> {
        FILES.iter().find(|file| file.name == name)
    }

    /// True for a page: it is served at an address of its own.
    pub fn is_page(&self) -> bool {
        self.name.ends_with(".html")
    }
}

fn media_type(name: &str) -> HeaderValue {
    HeaderValue::from_static(match name.rsplit_once('.') {
        Some((_, "html")) => "text/html; charset=utf-8",
        Some((_, "css")) => "text/css; charset=utf-8",
        Some((_, "json")) => "application/json",
        Some((_, "js")) => "text/javascript; charset=utf-8",
        _ => "text/plain; charset=utf-8",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_web_is_served() {
        let folder = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/web")).unwrap();
        for entry in folder {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            if entry.file_type().unwrap().is_file() && name != "README.md" {
                assert!(File::named(&name).is_some(), "{name} is not in the table");
            }
        }
    }
}
