//! The screens' files, and the headers with which browsers get them.

use std::io::Read as _;

use flate2::read::GzDecoder;

use crate::http::Answer;
use crate::support::{TestGateway, Upstream, config_text};

async fn gateway() -> TestGateway {
    let upstream = Upstream::canned().await;
    TestGateway::before(&upstream, "").await
}

async fn load(gateway: &TestGateway, url: String) -> Answer {
    Answer::of(gateway.client.get(url)).await
}

#[tokio::test]
async fn the_pages_are_public_and_let_nothing_foreign_in() {
    let gateway = gateway().await;
    for url in [gateway.url("/credits/account"), gateway.admin_url("/admin/ui")] {
        let page = load(&gateway, url.clone()).await;
        assert_eq!(page.status, 200, "{url}");
        assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
        assert_eq!(
            page.header("content-security-policy"),
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
             connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'; \
             require-trusted-types-for 'script'"
        );
        assert_eq!(page.header("x-content-type-options"), "nosniff");
        assert_eq!(page.header("referrer-policy"), "no-referrer");
        assert_eq!(page.header("cache-control"), "no-cache");
        assert_eq!(page.header("access-control-allow-origin"), "", "{url}");
        // The policy would refuse these: scripts and styles in the page itself, other hosts.
        let html = page.text.to_lowercase();
        for (tag, inline) in html.match_indices("<script").map(|(at, _)| {
            let tag = &html[at..at + html[at..].find('>').unwrap()];
            (tag, !tag.contains(" src="))
        }) {
            assert!(!inline, "{tag}");
        }
        for foreign in ["<style", " style=", "https://", "http://", " onclick=", "javascript:"] {
            assert!(!html.contains(foreign), "{foreign}: {html}");
        }
    }
    let prefixed = config_text("127.0.0.1:1".parse().unwrap(), "[api]\nprefix = \"/a/b\"");
    let gateway = TestGateway::start(&prefixed).await;
    assert_eq!(load(&gateway, gateway.url("/a/b/account")).await.status, 200);
    assert_eq!(load(&gateway, gateway.url("/a/b/ui/account.js")).await.status, 200);
}

#[tokio::test]
async fn what_a_page_names_is_there() {
    let gateway = gateway().await;
    for page in [gateway.url("/credits/account"), gateway.admin_url("/admin/ui")] {
        let html = load(&gateway, page.clone()).await.text;
        let base = reqwest::Url::parse(&page).unwrap();
        let names =
            ["src=\"", "href=\""].into_iter().flat_map(|attribute| html.split(attribute).skip(1));
        let mut found = 0;
        for name in names.map(|rest| rest.split('"').next().unwrap()) {
            if name.starts_with(['#', '?']) || name.starts_with("data:") {
                continue;
            }
            found += 1;
            let file = load(&gateway, base.join(name).unwrap().to_string()).await;
            assert_eq!(file.status, 200, "{name} of {page}");
        }
        assert!(found > 0, "{page} names a module");
    }
}

#[tokio::test]
async fn a_file_is_loaded_once_and_asked_for_again() {
    let gateway = gateway().await;
    for url in [
        gateway.url("/credits/ui/farebox.js"),
        gateway.url("/credits/account"),
        gateway.admin_url("/admin/ui"),
        gateway.admin_url("/admin/ui/admin.js"),
    ] {
        let first = load(&gateway, url.clone()).await;
        let etag = first.header("etag").to_owned();
        assert!(etag.len() > 8 && etag.starts_with('"'), "{url}: {etag}");
        for known in [etag.clone(), format!("W/{etag}"), format!("\"x\", {etag}"), "*".to_owned()] {
            let request = gateway.client.get(&url).header("if-none-match", &known);
            let again = Answer::of(request).await;
            assert_eq!((again.status.as_u16(), &*again.text), (304, ""), "{url} {known}");
            assert_eq!(again.header("etag"), etag);
            assert_eq!(again.header("cache-control"), "no-cache");
        }
        let request = gateway.client.get(&url).header("if-none-match", "\"another\"");
        assert_eq!(Answer::of(request).await.status, 200, "{url}");
        let head = Answer::of(gateway.client.head(&url)).await;
        assert_eq!((head.status.as_u16(), head.header("etag")), (200, &*etag), "{url}");
    }
}

#[tokio::test]
async fn whoever_reads_gzip_is_sent_gzip() {
    let gateway = gateway().await;
    for url in [
        gateway.url("/credits/ui/farebox.js"),
        gateway.url("/credits/account"),
        gateway.admin_url("/admin/ui"),
        gateway.admin_url("/admin/ui/page.css"),
    ] {
        let plain = load(&gateway, url.clone()).await;
        assert_eq!(plain.header("content-encoding"), "", "{url}");
        assert_eq!(plain.header("vary"), "accept-encoding", "{url}");
        for accepted in ["gzip", "gzip, deflate, br, zstd", "br, GZIP ; q=0.5", "x-gzip", "*"] {
            let request = gateway.client.get(&url).header("accept-encoding", accepted);
            let coded = request.send().await.unwrap();
            let headers = coded.headers().clone();
            assert_eq!(headers["content-encoding"], "gzip", "{url} {accepted}");
            assert_eq!(headers["vary"], "accept-encoding");
            assert_eq!(headers["content-type"], plain.headers["content-type"]);
            let bytes = coded.bytes().await.unwrap();
            assert_eq!(headers["content-length"], bytes.len().to_string());
            assert!(bytes.len() < plain.text.len(), "{url}: {}", bytes.len());
            let mut text = String::new();
            GzDecoder::new(&bytes[..]).read_to_string(&mut text).unwrap();
            assert!(text == plain.text, "{url}: {text}");
            // The other coding has other bytes and another tag, so that a cache never mixes the
            // two.
            let etag = headers["etag"].to_str().unwrap();
            assert_ne!(etag, plain.header("etag"));
            for (known, status) in [(etag, 304), (plain.header("etag"), 200)] {
                let request = gateway.client.get(&url).header("accept-encoding", accepted);
                let again = Answer::of(request.header("if-none-match", known)).await;
                assert_eq!(again.status, status, "{url} {known}");
                assert_eq!((again.header("etag"), again.header("vary")), (etag, "accept-encoding"));
            }
        }
        for refused in ["", "identity", "br", "gzip;q=0", "gzip;q=0.000, *", "*;q=0", "gzipped"] {
            let request = gateway.client.get(&url).header("accept-encoding", refused);
            let answer = Answer::of(request).await;
            assert_eq!(answer.header("content-encoding"), "", "{url} {refused}");
            assert!(answer.text == plain.text, "{url} {refused}");
            assert_eq!(answer.header("etag"), plain.header("etag"));
        }
    }
}

#[tokio::test]
async fn apps_of_any_origin_load_the_modules_and_nothing_else() {
    let upstream = Upstream::canned().await;
    let cors = "[api]\ncors_origins = [\"https://app.example.com\"]";
    for more in ["", cors] {
        let gateway = TestGateway::before(&upstream, more).await;
        for (file, media_type) in [
            ("farebox.js", "text/javascript; charset=utf-8"),
            ("react.js", "text/javascript; charset=utf-8"),
            ("page.css", "text/css; charset=utf-8"),
            ("package.json", "application/json"),
            ("farebox.d.ts", "text/plain; charset=utf-8"),
        ] {
            let request = gateway.client.get(gateway.url(&format!("/credits/ui/{file}")));
            let answer = Answer::of(request.header("origin", "https://elsewhere.example")).await;
            assert_eq!(answer.status, 200, "{file}");
            assert_eq!(answer.header("content-type"), media_type);
            assert_eq!(answer.header("access-control-allow-origin"), "*");
            assert_eq!(answer.header("cross-origin-resource-policy"), "cross-origin");
            assert_eq!(answer.header("x-content-type-options"), "nosniff");
        }
        for path in ["/credits/balance", "/credits/account", "/credits/packs"] {
            let request = gateway.client.get(gateway.url(path));
            let answer = Answer::of(request.header("origin", "https://elsewhere.example")).await;
            assert_eq!(answer.header("access-control-allow-origin"), "", "{path}");
        }
        for path in ["account.html", "nothing.js", "..%2faccount.js", "README.md", "test", ""] {
            let answer = load(&gateway, gateway.url(&format!("/credits/ui/{path}"))).await;
            assert!([400, 404].contains(&answer.status.as_u16()), "{path}: {}", answer.status);
        }
    }
}

#[tokio::test]
async fn the_operators_page_needs_no_token_and_its_figures_do() {
    let gateway = gateway().await;
    let post = gateway.client.post(gateway.admin_url("/admin/ui"));
    Answer::of(post).await.problem(405, "BAD_REQUEST");
    load(&gateway, gateway.admin_url("/admin/ui/nothing.js")).await.problem(404, "NOT_FOUND");
    for path in ["/admin/accounts", "/admin/entries", "/admin/holds", "/admin/overview"] {
        load(&gateway, gateway.admin_url(path)).await.problem(401, "UNAUTHENTICATED");
    }
    // The public port serves neither the page nor its requests.
    for path in ["/admin/ui", "/admin/overview", "/credits/ui/../../admin/ui"] {
        let answer = load(&gateway, gateway.url(path)).await;
        assert!(answer.status.is_client_error(), "{path}: {}", answer.status);
    }
}

#[tokio::test]
async fn a_sellers_logo_is_let_into_the_page_and_nothing_else_is() {
    let text = |brand: &str| config_text("127.0.0.1:1".parse().unwrap(), brand);
    let brand = "[brand]\nname = \"Lumen\"\nlogo = \"https://cdn.example.com/a/logo.png?v=2\"";
    let gateway = TestGateway::start(&text(brand)).await;
    let shown = load(&gateway, gateway.url("/credits/brand")).await.expect(200);
    let logo = "https://cdn.example.com/a/logo.png?v=2";
    assert_eq!(shown, serde_json::json!({ "name": "Lumen", "logo": logo, "url": null }));
    let page = load(&gateway, gateway.url("/credits/account")).await;
    let policy = page.header("content-security-policy");
    assert!(policy.contains("img-src 'self' data: https://cdn.example.com; connect"), "{policy}");
    load(&gateway, gateway.url("/credits/brand/logo")).await.problem(404, "NOT_FOUND");

    // A file is the gateway's own, and an image alone: nothing in it runs.
    let folder = tempfile::tempdir().unwrap();
    let svg = "<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>";
    std::fs::write(folder.path().join("logo.svg"), svg).unwrap();
    let gateway = TestGateway::start_in(folder, &text("[brand]\nlogo = \"logo.svg\"")).await;
    let shown = load(&gateway, gateway.url("/credits/brand")).await.expect(200);
    assert_eq!(shown["logo"], "/credits/brand/logo");
    let image = load(&gateway, gateway.url("/credits/brand/logo")).await;
    assert_eq!((&*image.text, image.header("content-type")), (svg, "image/svg+xml"));
    assert_eq!(image.header("x-content-type-options"), "nosniff");
    assert!(image.header("content-security-policy").starts_with("default-src 'none'"));
    assert!(image.header("content-security-policy").ends_with("sandbox"));
}
