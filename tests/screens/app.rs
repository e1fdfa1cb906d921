//! An app's own pages, on an origin that is not the gateway's.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::{Request, State};
use axum::response::{Html, IntoResponse as _, Response};
use http::{StatusCode, header};
use tokio::net::TcpListener;

type Pages = Arc<Mutex<HashMap<String, String>>>;

/// A server of pages and scripts.
pub struct App {
    pub address: SocketAddr,
    pages: Pages,
}

impl App {
    pub async fn start() -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let pages = Pages::default();
        let router = Router::new().fallback(page).with_state(pages.clone());
        tokio::spawn(async move { axum::serve(socket, router).await.unwrap() });
        Self { address, pages }
    }

    /// The app's origin by a name that is another site than the gateway's `127.0.0.1`.
    pub fn origin(&self) -> String {
        format!("http://localhost:{}", self.address.port())
    }

    /// The app's origin on the same site as the gateway, since cookies ignore ports.
    pub fn near_origin(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Serves this text at `path` from now on: as a script if the path ends in `.js`, otherwise as
    /// a page.
    pub fn put(&self, path: &str, text: impl Into<String>) {
        self.pages.lock().unwrap().insert(path.to_owned(), text.into());
    }

    /// Like [`Self::put`], for the text of a page's body.
    pub fn put_body(&self, path: &str, body: &str) {
        let head = "<!doctype html><html lang=en><meta charset=utf-8><title>An app</title>\
            <link rel=icon href=data:,>";
        self.put(path, format!("{head}{body}"));
    }
}

async fn page(State(pages): State<Pages>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    match pages.lock().unwrap().get(&path).cloned() {
        Some(script) if path.ends_with(".js") => {
            ([(header::CONTENT_TYPE, "text/javascript")], script).into_response()
        }
        Some(page) => Html(page).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

/// The folder of the packages that npm has installed from `package.json`.
pub fn node_modules() -> PathBuf {
    let folder = std::env::var_os("FAREBOX_SCREENS_NODE").map(PathBuf::from);
    folder.expect("FAREBOX_SCREENS_NODE is not set: make test-rust does it").join("node_modules")
}
