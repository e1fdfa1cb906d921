//! The files of `web/`, which are embedded in the program unchanged, without a build step. The
//! first request for any of the files compresses all of them.

use std::io::Write as _;
use std::sync::LazyLock;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::HeaderValue;
use sha2::{Digest as _, Sha256};

macro_rules! web {
    ($($name:literal),+ $(,)?) => {
        &[$(($name, include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/web/", $name)))),+]
    };
}

/// Every file that a browser or an editor loads. A new file needs a line here.
const WEB: &[(&str, &[u8])] = web![
    "account.html",
    "account.js",
    "admin.html",
    "admin.js",
    "balance.js",
    "brand.js",
    "chart.js",
    "client.js",
    "dom.js",
    "farebox.d.ts",
    "farebox.js",
    "first.js",
    "format.js",
    "history.js",
    "i18n.js",
    "keys.js",
    "models.js",
    "package.json",
    "packs.js",
    "page.css",
    "page.js",
    "prices.js",
    "react.d.ts",
    "react.js",
    "store.d.ts",
    "style.js",
    "upsell.js",
    "used.js",
];

/// One file of `web/`, both compressed and plain.
pub(super) struct File {
    name: &'static str,
    pub media_type: HeaderValue,
    pub plain: Form,
    pub gzip: Form,
}

/// A file's bytes in one coding.
pub(super) struct Form {
    pub bytes: Bytes,
    /// A hash of these bytes. A browser that already has the bytes sends the hash, and gets 304.
    pub etag: HeaderValue,
}

impl Form {
    fn of(bytes: Bytes) -> Option<Self> {
        let hash = hex::encode(&Sha256::digest(&bytes)[..16]);
        // Quotes and hexadecimal digits are always a valid header.
        let etag = HeaderValue::from_str(&format!("\"{hash}\"")).ok()?;
        Some(Self { bytes, etag })
    }
}

static FILES: LazyLock<Vec<File>> = LazyLock::new(|| {
    let file = |&(name, bytes): &(&'static str, &'static [u8])| {
        let plain = Form::of(Bytes::from_static(bytes))?;
        let gzip = Form::of(compressed(bytes)?)?;
        Some(File { name, media_type: media_type(name), plain, gzip })
    };
    WEB.iter().filter_map(file).collect()
});

/// Compresses `bytes`. This is never `None`, since writing to memory cannot fail.
fn compressed(bytes: &[u8]) -> Option<Bytes> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).ok()?;
    encoder.finish().ok().map(Bytes::from)
}

impl File {
    /// The file of this name.
    pub fn named(name: &str) -> Option<&'static Self> {
        FILES.iter().find(|file| file.name == name)
    }

    /// True for an HTML page. Pages have addresses of their own.
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
