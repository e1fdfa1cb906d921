//! The components in real React, 18 and 19, from the package as npm would publish it.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::app::{App, node_modules};
use crate::browser::{Browser, LOOKS};
use crate::seller::Seller;
use crate::support::token;

/// An app that was bundled for one React.
struct Bundle {
    folder: TempDir,
    react: &'static str,
}

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

impl Bundle {
    /// An app that has `farebox-web` as a package: the files that its package.json names, and no others.
    fn new(react: &'static str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let package = folder.path().join("node_modules/farebox-web");
        std::fs::create_dir_all(&package).unwrap();
        let about = std::fs::read_to_string(repository("web/package.json")).unwrap();
        std::fs::write(package.join("package.json"), &about).unwrap();
        let about: Value = serde_json::from_str(&about).unwrap();
        for file in about["files"].as_array().unwrap() {
            let file = file.as_str().unwrap();
            std::fs::copy(repository("web").join(file), package.join(file)).unwrap();
        }
        for file in ["app.jsx", "client.jsx", "server.jsx"] {
            let from = repository("tests/screens/react").join(file);
            std::fs::copy(from, folder.path().join(file)).unwrap();
        }
        Self { folder, react }
    }

    /// One script of an entry, for a platform.
    fn build(&self, entry: &str, platform: &str) -> PathBuf {
        let out = self.folder.path().join(entry).with_extension("bundle.mjs");
        let version = self.react.trim_start_matches("react");
        let done = Command::new(node_modules().join(".bin/esbuild"))
            .arg(self.folder.path().join(entry))
            .args(["--bundle", "--jsx=automatic", "--log-level=warning", "--format=esm"])
            .args(
                ["--banner:js=import { createRequire } from 'module'; const require = \
                createRequire(import.meta.url);"]
                .iter()
                .filter(|_| platform == "node"),
            )
            .arg(format!("--platform={platform}"))
            .arg(format!("--alias:react=react{version}"))
            .arg(format!("--alias:react-dom=react-dom{version}"))
            .arg("--define:process.env.NODE_ENV=\"development\"")
            .arg(format!("--outfile={}", out.display()))
            .current_dir(node_modules().parent().unwrap())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success() && said.is_empty(), "{said}");
        out
    }

    /// The markup that the server would send, and nothing beside it.
    fn rendered(&self, base: &str) -> String {
        let bundle = self.build("server.jsx", "node");
        let done = Command::new("node").arg(bundle).arg(base).output().unwrap();
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success() && said.is_empty(), "{said}");
        String::from_utf8(done.stdout).unwrap()
    }
}

async fn works_with(react: &'static str, version: &str) {
    let app = App::start().await;
    let seller = Seller::open(&app.origin()).await;
    seller.grant("alice", 30, "welcome").await;
    let base = seller.process.url("/credits");
    let bundle = Bundle::new(react);
    let html = bundle.rendered(&base);
    assert!(html.contains("<farebox-balance") && html.contains("<farebox-upsell"), "{html}");
    let script = std::fs::read_to_string(bundle.build("client.jsx", "browser")).unwrap();
    app.put("/app.js", script);
    let setting = json!({ "base": base, "token": token("alice") });
    app.put_body(
        "/",
        &format!(
            "<meta name=viewport content='width=device-width'><div id=root>{html}</div>\
             <script>window.setting = {setting}</script><script type=module src=/app.js></script>"
        ),
    );
    let browser = Browser::start().await;
    browser.look(LOOKS[0]).await;
    browser.open(&app.origin()).await;
    browser.until(&format!("$('#version', '{version}.')")).await;
    browser.until("$('output').textContent === '30 credits' && credits() === 30").await;
    // The widget hears of the first change by the stream, and of the second by the app's own call.
    seller.process.post("alice", "/api/ai/generate").await;
    browser.until("$('output').textContent === '25 credits' && credits() === 25").await;
    browser.click("$('#call')").await;
    browser.until("$('output').textContent === '20 credits'").await;
    browser.click("$('#call')").await;
    browser.until("$('output').textContent === '15 credits, low'").await;
    browser.until("$('#more-of-it', 'alice has 15, 0 held') && $('farebox-balance.mine')").await;

    // Low: it opens by itself, once, and says so to the app; calls go on.
    browser.until("$('dialog', 'running low') && $('#state', 'open')").await;
    browser.until("$('#heard').textContent === 'low, open'").await;
    browser.click("$('dialog [part~=later]')").await;
    browser.until("!$('dialog') && $('#state', 'closed')").await;
    for left in [10, 5, 0] {
        browser.click("$('#plain')").await;
        browser.until(&format!("$('output').textContent === '{left} credits, low'")).await;
    }
    // A call that is refused opens it, whichever way the app made it, and the hook knows why.
    for button in ["#plain", "#call"] {
        assert_eq!(browser.run("return !!$('dialog')").await, false);
        browser.click(&format!("$('{button}')")).await;
        browser
            .until("$('dialog', 'Not enough credits') && $('dialog', 'This takes 5 credits.')")
            .await;
        browser.until("$('#problem', 'INSUFFICIENT_CREDITS 5')").await;
        browser.until("focus().ariaLabel.startsWith('Buy Pack 500')").await;
        browser.click("$('dialog [part~=close]')").await;
        browser.until("!$('dialog') && $('#state', 'closed')").await;
    }
    browser
        .until("$('#heard', 'low, open, open INSUFFICIENT_CREDITS, open INSUFFICIENT_CREDITS')")
        .await;
    seller.grant("alice", 15, "again").await;
    browser
        .until("$('output').textContent === '15 credits, low' && $('#problem', 'no problem')")
        .await;
    // The app hears of what is pressed, and may do something else.
    browser.click("$('farebox-balance') && $('[part~=button]', 'Buy credits')").await;
    browser.click("$('[part~=buy]', 'Pack 100')").await;
    browser.until("$('#heard', 'topup, buy pack-100') && !$('dialog')").await;
    browser.click("$('#future')").await;
    browser.until("$('farebox-history') && $('.muted', 'Nothing in this time.')").await;

    browser.click("$('#more')").await;
    browser.until("$('dialog', '15 credits are left') && $('#state', 'open')").await;
    browser.until("$('dialog farebox-packs') && !$('.bone')").await;
    browser.picture(&format!("{react}-upsell")).await;
    browser.click("$('dialog [part~=later]')").await;
    browser.until("!$('dialog') && $('#state', 'closed')").await;
    browser.click("$('#more')").await;
    browser.until("$('dialog')").await;
    browser.click("$('dialog [part~=close]')").await;
    browser.until("!$('dialog')").await;
    // Another user of the app sits down.
    browser.run_with("setting.token = arguments[0]", json!([token("bob")])).await;
    browser.click("$('#switch')").await;
    browser.until("$('output').textContent.startsWith('0 credits')").await;
    browser.click("$('#out')").await;
    browser.until("$('#login')").await;
    browser.click("$('#leave')").await;
    browser.until("!$('farebox-balance') && !$('farebox-upsell')").await;
    // React warns of what does not hydrate, and of what it does not know, on the console.
    browser.assert_quiet(&[app.address, seller.process.public]).await;
}

#[tokio::test]
async fn the_components_work_in_react_18() {
    works_with("react18", "18").await;
}

#[tokio::test]
async fn the_components_work_in_react_19() {
    works_with("react19", "19").await;
}
