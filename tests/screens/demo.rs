//! `farebox demo` in a process of its own, by the lines that it prints.

use http::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::http::Answer;
use crate::process::{Process, command, free_port};

pub struct Demo {
    pub process: Process,
    /// The address of the account page, with a token.
    pub link: String,
    /// The address of the operator's page, and its token.
    pub admin: String,
    pub admin_token: String,
    _folder: TempDir,
}

impl Demo {
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let address = || format!("127.0.0.1:{}", free_port());
        let (listen, admin) = (address(), address());
        let arguments = ["demo", "--listen", &listen, "--admin", &admin];
        let temporary = [("TMPDIR", folder.path().to_str().unwrap())];
        let command = command(folder.path(), &arguments, &temporary);
        let mut process = Process::start(command, listen.parse().unwrap(), admin.parse().unwrap());
        process.wait_until(|demo| demo.stdout().contains("gift-1"));
        let said = process.stdout();
        let words: Vec<&str> = said.split_whitespace().collect();
        let word = |part: &str| {
            words.iter().find(|word| word.contains(part)).unwrap_or_else(|| panic!("{said}"))
        };
        let link = (*word("/account#token=")).to_owned();
        let admin = (*word("/admin/ui")).to_owned();
        let at = words.windows(3).position(|three| three == ["its", "token", "is"]).unwrap();
        let admin_token = words[at + 3].to_owned();
        Self { process, link, admin, admin_token, _folder: folder }
    }

    /// The token of the link.
    pub fn token(&self) -> &str {
        self.link.rsplit_once('=').unwrap().1
    }

    /// Gives an account credits.
    pub async fn grant(&self, account: &str, credits: u64, reason: &str) {
        let body = json!({ "credits": credits, "id": reason, "reason": reason });
        self.ask_admin(Method::POST, &format!("accounts/{account}/grants"), body).await;
    }

    pub async fn ask_admin(&self, method: Method, path: &str, body: Value) -> Value {
        let url = format!("http://{}/admin/{path}", self.process.admin);
        let request = self.process.client.request(method, url).bearer_auth(&self.admin_token);
        Answer::of(request.body(body.to_string())).await.expect(200)
    }

    /// Makes a call of five credits from outside of any browser. Returns its status.
    pub async fn call(&self) -> u16 {
        let request = self.process.client.post(self.process.url("/api/ai/generate"));
        Answer::of(request.bearer_auth(self.token())).await.status.as_u16()
    }
}
