//! `npm install <path>/web` in an app of Vite's and TypeScript's, as somebody who has cloned this
//! repository does it.

use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::app::{App, node_modules};
use crate::browser::Browser;
use crate::seller::Seller;
use crate::support::token;

const MAIN: &str = r#"
import { StrictMode, useState } from 'react';
import { createRoot } from 'react-dom/client';
import { CreditsDisplay, FareboxProvider, UpsellModal, useCredits } from 'farebox-web/react';
import type { Credits } from 'farebox-web/react';

declare const setting: { base: string; token: string };

function Panel() {
  const { credits, isLow }: Credits = useCredits();
  const [open, setOpen] = useState(false);
  return <>
    <output>{credits}{isLow && ', low'}</output>
    <CreditsDisplay inline showBuyButton />
    <UpsellModal open={open} onClose={() => setOpen(false)} />
  </>;
}

createRoot(document.getElementById('root')!).render(
  <StrictMode>
    <FareboxProvider baseUrl={setting.base} getToken={() => setting.token}><Panel /></FareboxProvider>
  </StrictMode>,
);
"#;

const TSCONFIG: &str = r#"{ "compilerOptions": { "strict": true, "noEmit": true, "jsx": "react-jsx", "skipLibCheck": false,
  "target": "esnext", "module": "esnext", "moduleResolution": "bundler", "lib": ["esnext", "dom", "dom.iterable"], "types": [] },
  "include": ["src"] }"#;

/// Runs a program in the app's folder, and fails with what it said.
fn run(folder: &Path, program: &str, arguments: &[&str]) {
    let done = Command::new(program).args(arguments).current_dir(folder).output().unwrap();
    let said = [done.stdout, done.stderr].concat();
    assert!(done.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&said));
}

/// Puts a package into the app as a registry would.
fn install(folder: &Path, from: &str, name: &str) {
    let to = folder.join("node_modules").join(name);
    std::fs::create_dir_all(to.parent().unwrap()).unwrap();
    let from = node_modules().join(from);
    run(folder, "cp", &["-R", from.to_str().unwrap(), to.to_str().unwrap()]);
}

#[tokio::test]
async fn the_package_installs_from_its_folder_for_vite_and_typescript() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).unwrap();
    std::fs::create_dir(folder.join("src")).unwrap();
    write("package.json", r#"{ "name": "app", "private": true, "type": "module" }"#);
    write("tsconfig.json", TSCONFIG);
    write("src/main.tsx", MAIN);
    let page = "<!doctype html><html lang=en><meta charset=utf-8><title>An app</title>\
        <link rel=icon href=data:,><meta name=viewport content='width=device-width'><div id=root></div>";
    write("index.html", &format!("{page}<script type=module src=/src/main.tsx></script>"));
    let web = concat!(env!("CARGO_MANIFEST_DIR"), "/web");
    run(folder, "npm", &["install", "--offline", "--no-audit", "--no-fund", web]);
    for (from, name) in [
        ("react19", "react"),
        ("react-dom19", "react-dom"),
        ("scheduler", "scheduler"),
        ("types-react19", "@types/react"),
        ("csstype", "csstype"),
    ] {
        install(folder, from, name);
    }
    write(
        "src/dom.d.ts",
        "declare module 'react-dom/client' { export function createRoot(at: Element): { render(what: unknown): void } }",
    );
    let tools = node_modules().join(".bin");
    run(folder, tools.join("tsc").to_str().unwrap(), &["--project", "."]);
    run(folder, tools.join("vite").to_str().unwrap(), &["build", "--logLevel", "warn"]);

    // The app runs, with one React for itself and for the components.
    let app = App::start().await;
    let seller = Seller::open(&app.origin()).await;
    seller.grant("alice", 30, "welcome").await;
    let built =
        std::fs::read_dir(folder.join("dist/assets")).unwrap().map(|file| file.unwrap().path());
    let built =
        built.into_iter().find(|file| file.extension().is_some_and(|kind| kind == "js")).unwrap();
    app.put("/app.js", std::fs::read_to_string(built).unwrap());
    let setting = json!({ "base": seller.process.url("/credits"), "token": token("alice") });
    app.put("/", format!("{page}<script>window.setting = {setting}</script><script type=module src=/app.js></script>"));
    let browser = Browser::start().await;
    browser.open(&app.origin()).await;
    browser.until("$('output')?.textContent === '30' && credits() === 30").await;
    browser.assert_quiet(&[app.address, seller.process.public]).await;
}
