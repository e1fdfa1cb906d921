//! A Chromium of a test's own, driven by WebDriver: a dozen HTTP requests that reqwest can make.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use base64::Engine as _;
use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::http::plain_client;
use crate::support::servers::Family;

/// How long a test waits for what a page must show.
const LIMIT: Duration = Duration::from_secs(20);

/// The name under which WebDriver passes elements.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// Keys of the keyboard, in WebDriver's spelling.
pub mod key {
    pub const TAB: &str = "\u{E004}";
    pub const ENTER: &str = "\u{E007}";
    pub const SHIFT: &str = "\u{E008}";
    pub const ESCAPE: &str = "\u{E00C}";
    pub const SPACE: &str = " ";
}

/// Helpers for every script of a test; the file has their comments.
const PAGE: &str = include_str!("page.js");

/// The language, theme and width in which a page is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    pub lang: &'static str,
    pub theme: &'static str,
    pub width: u32,
}

/// Every combination of the two languages, themes and widths.
pub const LOOKS: [Look; 8] = {
    const fn look(lang: &'static str, theme: &'static str, width: u32) -> Look {
        Look { lang, theme, width }
    }
    [
        look("en", "light", 1280),
        look("en", "dark", 375),
        look("fr", "light", 375),
        look("fr", "dark", 1280),
        look("en", "light", 375),
        look("en", "dark", 1280),
        look("fr", "light", 1280),
        look("fr", "dark", 375),
    ]
};

/// A browser with one or more windows. It ends when the value is dropped.
pub struct Browser {
    client: reqwest::Client,
    session: String,
    /// The lines of the consoles, and the requests of the pages, so far.
    heard: RefCell<(Vec<Value>, Vec<String>)>,
    // The driver ends before its folder is removed.
    _driver: Family,
    _folder: TempDir,
}

impl Browser {
    /// Starts ChromeDriver on a port of its choice, which starts a Chromium with an empty profile.
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let profile = folder.path().join("profile");
        let (driver, port) = start_driver(folder.path());
        let driver_url = format!("http://127.0.0.1:{port}");
        let arguments = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
            // Names of a domain that nobody has: all of them are this machine.
            "--host-resolver-rules=MAP *.shop.test 127.0.0.1",
        ];
        let profile = format!("--user-data-dir={}", profile.display());
        let arguments: Vec<&str> = arguments.into_iter().chain([&*profile]).collect();
        let wanted = json!({ "capabilities": { "alwaysMatch": {
            "browserName": "chrome",
            "acceptInsecureCerts": true,
            "goog:chromeOptions": { "args": arguments },
            "goog:loggingPrefs": { "browser": "ALL", "performance": "ALL" },
        } } });
        let client = plain_client().build().unwrap();
        let made = ask(&client, Method::POST, &format!("{driver_url}/session"), &wanted).await;
        let made = made.unwrap_or_else(|error| panic!("{error}"));
        let session = format!("{driver_url}/session/{}", made["sessionId"].as_str().unwrap());
        let heard = RefCell::default();
        Self { client, session, heard, _driver: driver, _folder: folder }
    }

    async fn try_ask(&self, method: Method, path: &str, body: Value) -> Result<Value, String> {
        ask(&self.client, method, &format!("{}{path}", self.session), &body).await
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        let done = self.try_ask(Method::POST, path, body).await;
        done.unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// Goes to an address.
    pub async fn open(&self, url: &str) {
        self.post("/url", json!({ "url": url })).await;
    }

    /// Follows a link to the account page with a token, as somebody whom this browser does not know
    /// yet, and says yes to its question.
    pub async fn sign_in_by(&self, link: &str) {
        self.open(link).await;
        self.click("$('dialog button[value=yes]')").await;
        self.until("!$('dialog')").await;
    }

    /// Runs the body of a function, with `page.js` before it, and returns its result.
    pub async fn run(&self, script: &str) -> Value {
        self.run_with(script, json!([])).await
    }

    /// Like [`Self::run`], with arguments.
    pub async fn run_with(&self, script: &str, arguments: Value) -> Value {
        self.try_run(script, arguments).await.unwrap_or_else(|error| panic!("{script}: {error}"))
    }

    async fn try_run(&self, script: &str, arguments: Value) -> Result<Value, String> {
        let script = format!("{PAGE}\n{script}");
        let body = json!({ "script": script, "args": arguments });
        self.try_ask(Method::POST, "/execute/sync", body).await
    }

    /// Waits until an expression is true, and returns its value. Fails with the text of the page.
    pub async fn until(&self, expression: &str) -> Value {
        let limit = Instant::now() + LIMIT;
        let script = format!("return {expression}");
        loop {
            // While one page replaces another, scripts cannot run.
            let said = self.try_run(&script, json!([])).await;
            match &said {
                Ok(Value::Null | Value::Bool(false)) | Err(_) => {}
                Ok(Value::String(text)) if text.is_empty() => {}
                Ok(value) => return value.clone(),
            }
            if Instant::now() > limit {
                let shown = self.try_run("return location.href + '\\n' + words()", json!([])).await;
                let shown =
                    shown.map_or_else(|error| error, |shown| shown.as_str().unwrap().into());
                panic!("never: {expression}\n{said:?}\n{shown}\n{:?}", self.console().await);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Clicks what an expression finds, once it is there, as a pointer would: it must be in reach.
    pub async fn click(&self, expression: &str) {
        let limit = Instant::now() + LIMIT;
        loop {
            let element = self.element(expression).await;
            match self.try_ask(Method::POST, &format!("{element}/click"), json!({})).await {
                Ok(_) => return,
                // The element was drawn anew in between, or something that is going away still
                // covers it.
                Err(error) => assert!(Instant::now() < limit, "{expression}: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Writes into a field.
    pub async fn fill(&self, expression: &str, text: &str) {
        let element = self.element(expression).await;
        self.post(&format!("{element}/clear"), json!({})).await;
        self.post(&format!("{element}/value"), json!({ "text": text })).await;
    }

    async fn element(&self, expression: &str) -> String {
        let found = self.until(expression).await;
        let id = found[ELEMENT].as_str().unwrap_or_else(|| panic!("{expression}: {found}"));
        format!("/element/{id}")
    }

    /// Presses keys one after the other, wherever the focus is.
    pub async fn press(&self, keys: &[&str]) {
        let strokes = keys
            .iter()
            .flat_map(|key| ["keyDown", "keyUp"].map(|kind| json!({ "type": kind, "value": key })));
        self.strike(strokes.collect()).await;
    }

    /// Presses one key while another is down.
    pub async fn press_with(&self, held: &str, key: &str) {
        let strokes = [("keyDown", held), ("keyDown", key), ("keyUp", key), ("keyUp", held)];
        let strokes = strokes.map(|(kind, key)| json!({ "type": kind, "value": key }));
        self.strike(strokes.to_vec()).await;
    }

    /// Writes a text, wherever the focus is.
    pub async fn write(&self, text: &str) {
        let letters: Vec<String> = text.chars().map(String::from).collect();
        self.press(&letters.iter().map(String::as_str).collect::<Vec<_>>()).await;
    }

    async fn strike(&self, strokes: Vec<Value>) {
        let keyboard = json!({ "type": "key", "id": "keyboard", "actions": strokes });
        self.post("/actions", json!({ "actions": [keyboard] })).await;
    }

    /// Presses Tab until the focus is on what an expression finds, as someone without a pointer.
    pub async fn tab_to(&self, expression: &str) {
        self.until(expression).await;
        for _ in 0..60 {
            self.press(&[key::TAB]).await;
            if self.run(&format!("return focus() === ({expression})")).await == true {
                return;
            }
        }
        let focus = self.run("return focus()?.outerHTML").await;
        panic!("Tab does not lead to {expression}; now at {focus}");
    }

    /// A command of the DevTools protocol.
    pub async fn devtools(&self, command: &str, parameters: Value) -> Value {
        self.post("/goog/cdp/execute", json!({ "cmd": command, "params": parameters })).await
    }

    /// The look of the next page; size and theme change at once.
    pub async fn look(&self, look: Look) {
        let size = json!({ "width": look.width, "height": if look.width < 600 { 812 } else { 900 },
            "deviceScaleFactor": 1, "mobile": false });
        self.devtools("Emulation.setDeviceMetricsOverride", size).await;
        // Animations are off, so a picture shows the page in its final state.
        let features = json!({ "features": [
            { "name": "prefers-color-scheme", "value": look.theme },
            { "name": "prefers-reduced-motion", "value": "reduce" },
        ] });
        self.devtools("Emulation.setEmulatedMedia", features).await;
        let agent = self.run("return navigator.userAgent").await;
        let tag = if look.lang == "fr" { "fr-FR" } else { "en-GB" };
        let language = json!({ "userAgent": agent, "acceptLanguage": tag });
        self.devtools("Emulation.setUserAgentOverride", language).await;
    }

    /// Opens a second window and goes there. Returns the handles of both windows.
    pub async fn open_window(&self) -> (String, String) {
        let text = |value: Value| value.as_str().unwrap().to_owned();
        let first = text(self.try_ask(Method::GET, "/window", Value::Null).await.unwrap());
        let made = self.post("/window/new", json!({ "type": "window" })).await;
        let second = text(made["handle"].clone());
        self.go_to(&second).await;
        (first, second)
    }

    pub async fn go_to(&self, window: &str) {
        self.post("/window", json!({ "handle": window })).await;
    }

    /// Goes into the frame that an expression finds, or out of all frames if there is no
    /// expression.
    pub async fn enter(&self, frame: Option<&str>) {
        let frame = match frame {
            Some(expression) => self.until(expression).await,
            None => Value::Null,
        };
        self.post("/frame", json!({ "id": frame })).await;
    }

    /// Writes a picture of the window into the folder `FAREBOX_SCREENSHOTS`, if that is set.
    pub async fn picture(&self, name: &str) {
        let Some(folder) = std::env::var_os("FAREBOX_SCREENSHOTS") else { return };
        let shot = self.devtools("Page.captureScreenshot", json!({ "format": "png" })).await;
        let shot = shot["data"].as_str().unwrap();
        let png = base64::engine::general_purpose::STANDARD.decode(shot).unwrap();
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(std::path::Path::new(&folder).join(format!("{name}.png")), png).unwrap();
    }

    async fn listen(&self) {
        let lines = self.post("/se/log", json!({ "type": "browser" })).await;
        let events = self.post("/se/log", json!({ "type": "performance" })).await;
        let mut heard = self.heard.borrow_mut();
        heard.0.extend(lines.as_array().unwrap().iter().cloned());
        for event in events.as_array().unwrap() {
            let event: Value = serde_json::from_str(event["message"].as_str().unwrap()).unwrap();
            let event = &event["message"];
            if event["method"] == "Network.requestWillBeSent" {
                heard.1.push(event["params"]["request"]["url"].as_str().unwrap().to_owned());
            }
        }
    }

    /// The complaints in the pages' consoles so far. Failed requests are left out, because a test
    /// may cause them on purpose.
    pub async fn console(&self) -> Vec<String> {
        self.listen().await;
        let heard = self.heard.borrow();
        let wrong = |line: &&Value| line["level"] == "SEVERE" || line["level"] == "WARNING";
        let said = heard.0.iter().filter(wrong).filter(|line| line["source"] != "network");
        said.map(|line| format!("{}: {}", line["source"], line["message"])).collect()
    }

    /// The requests that the pages' consoles report as failed, so far.
    pub async fn failed_requests(&self) -> Vec<String> {
        self.listen().await;
        let heard = self.heard.borrow();
        let said = heard.0.iter().filter(|line| line["source"] == "network");
        said.map(|line| line["message"].as_str().unwrap_or_default().to_owned()).collect()
    }

    /// Expects that no page complained, and that no request went anywhere but to these servers.
    pub async fn assert_quiet(&self, servers: &[SocketAddr]) {
        let said = self.console().await;
        assert!(said.is_empty(), "{said:#?}");
        let heard = self.heard.borrow();
        let foreign: Vec<&String> = (heard.1.iter())
            .filter(|url| !["data:", "chrome:", "about:"].iter().any(|kind| url.starts_with(kind)))
            .filter(|url| {
                let host =
                    url.split('/').nth(2).unwrap_or_default().replace("localhost", "127.0.0.1");
                !servers.iter().any(|server| server.to_string() == host)
            })
            .collect();
        assert!(foreign.is_empty() && !heard.1.is_empty(), "{foreign:#?}");
    }
}

/// Starts ChromeDriver on a free port, and returns it with its port. ChromeDriver chooses a port that is free over IPv6,
/// and ends if that port is taken over IPv4; then another is started.
fn start_driver(folder: &Path) -> (Family, u16) {
    let mut command = Command::new("chromedriver");
    command.arg("--port=0").env("TMPDIR", folder).env("HOME", folder);
    let port = |driver: &Family| {
        let said = driver.said();
        let (_, port) = said.rsplit_once("successfully on port ")?;
        port.split('.').next()?.parse::<u16>().ok()
    };
    loop {
        let mut driver = Family::start(&mut command, &folder.join("log"));
        if driver.starts(|driver| port(driver).is_some()) {
            let port = port(&driver).unwrap();
            return (driver, port);
        }
    }
}

async fn ask(
    client: &reqwest::Client,
    method: Method,
    url: &str,
    body: &Value,
) -> Result<Value, String> {
    let mut request = client.request(method.clone(), url);
    if method == Method::POST {
        request = request.json(body);
    }
    let answer = request.send().await.map_err(|error| error.to_string())?;
    let succeeded = answer.status().is_success();
    let mut answer: Value = answer.json().await.map_err(|error| error.to_string())?;
    let value = answer["value"].take();
    if succeeded { Ok(value) } else { Err(value["message"].to_string()) }
}
