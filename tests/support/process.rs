//! Runs the real binary: short commands, and a gateway in its own process.
#![allow(dead_code)]

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use http::Method;
use serde_json::Value;

use super::http::{Answer, plain_client};
pub use super::servers::free_port;
use super::{ADMIN_TOKEN, config_text, token};

/// A `farebox` command with these arguments, in `folder`. Only PATH and the variables in `env` are
/// set.
pub fn command(folder: &Path, arguments: &[&str], env: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_farebox"));
    command.args(arguments).current_dir(folder).env_clear();
    command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.envs(env.iter().copied()).stdin(Stdio::null());
    command
}

/// Like [`command`], but file permissions apply to the process even if the tests run as root.
pub fn bound_command(folder: &Path, arguments: &[&str]) -> Command {
    let farebox = command(folder, arguments, &[]);
    if !rustix::process::geteuid().is_root() {
        return farebox;
    }
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set=-all", "--inh-caps=-all"]);
    command.arg(farebox.get_program()).args(farebox.get_args());
    command.current_dir(folder).stdin(Stdio::null());
    command
}

/// Runs a command to its end.
pub fn run(folder: &Path, arguments: &[&str]) -> Output {
    command(folder, arguments, &[]).output().unwrap()
}

/// Runs a command that must succeed, and returns its standard output.
#[track_caller]
pub fn ok(folder: &Path, arguments: &[&str]) -> String {
    let output = run(folder, arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a command that must end with `code`, and returns its standard error.
#[track_caller]
pub fn fails(folder: &Path, arguments: &[&str], code: i32) -> String {
    let output = run(folder, arguments);
    let errors = String::from_utf8(output.stderr).unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}{errors}");
    errors
}

/// The config of [`config_text`], with fixed ports, so that commands can find the gateway.
pub fn config_on_ports(upstream: SocketAddr, more: &str) -> String {
    let mut text = config_text(upstream, more);
    for _ in 0..2 {
        text = text.replacen("127.0.0.1:0\"", &format!("127.0.0.1:{}\"", free_port()), 1);
    }
    text
}

/// The address that a config has for `key`.
pub fn address_of(text: &str, key: &str) -> SocketAddr {
    let line = text.lines().find(|line| line.starts_with(&format!("{key} ="))).unwrap();
    line.split('"').nth(1).unwrap().parse().unwrap()
}

/// A running process. Dropping it kills the process.
pub struct Process {
    child: Child,
    pub public: SocketAddr,
    pub admin: SocketAddr,
    out: Arc<Mutex<String>>,
    err: Arc<Mutex<String>>,
    pub client: reqwest::Client,
}

fn collect(pipe: impl std::io::Read + Send + 'static) -> Arc<Mutex<String>> {
    let text = Arc::new(Mutex::new(String::new()));
    let into = text.clone();
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            let mut text = into.lock().unwrap();
            text.push_str(&line);
            text.push('\n');
        }
    });
    text
}

impl Process {
    /// Writes `text` to `gateway.toml` in `folder`, and runs `farebox serve` on it.
    pub fn serve(folder: &Path, text: &str) -> Self {
        Self::serve_with(folder, text, &[])
    }

    /// Like [`Self::serve`], with more arguments.
    pub fn serve_with(folder: &Path, text: &str, more: &[&str]) -> Self {
        let arguments = [&["serve"], more].concat();
        Self::serve_command(folder, text, &arguments, &[])
    }

    /// Like [`Self::serve`], with variables.
    pub fn serve_in(folder: &Path, text: &str, env: &[(&str, &str)]) -> Self {
        Self::serve_command(folder, text, &["serve"], env)
    }

    /// Runs `farebox serve` on the `gateway.toml` that is in `folder`, without waiting until it
    /// serves.
    pub fn begin_serving(folder: &Path, env: &[(&str, &str)]) -> Self {
        let text = std::fs::read_to_string(folder.join("gateway.toml")).unwrap();
        let command = command(folder, &["serve"], env);
        Self::begin(command, address_of(&text, "listen"), address_of(&text, "admin"))
    }

    fn serve_command(folder: &Path, text: &str, arguments: &[&str], env: &[(&str, &str)]) -> Self {
        std::fs::write(folder.join("gateway.toml"), text).unwrap();
        let command = command(folder, arguments, env);
        Self::start(command, address_of(text, "listen"), address_of(text, "admin"))
    }

    /// Like [`Self::serve`], but file permissions apply to the process even if the tests run as
    /// root.
    pub fn serve_bound(folder: &Path, text: &str) -> Self {
        std::fs::write(folder.join("gateway.toml"), text).unwrap();
        let command = bound_command(folder, &["serve"]);
        Self::start(command, address_of(text, "listen"), address_of(text, "admin"))
    }

    /// Starts a command and waits until it serves: it then prints `listening on`, or logs that if
    /// its log is JSON.
    pub fn start(command: Command, public: SocketAddr, admin: SocketAddr) -> Self {
        let mut process = Self::begin(command, public, admin);
        process.wait_until(|process| {
            process.stdout().contains("listening on")
                || process.stderr().contains("\"message\":\"serving\"")
        });
        process
    }

    /// Starts a command without waiting until it serves.
    pub fn begin(mut command: Command, public: SocketAddr, admin: SocketAddr) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let out = collect(child.stdout.take().unwrap());
        let err = collect(child.stderr.take().unwrap());
        let client = plain_client().build().unwrap();
        Self { child, public, admin, out, err, client }
    }

    /// Waits until `condition` holds. If it does not in time, panics with the output of the
    /// process.
    #[track_caller]
    pub fn wait_until(&mut self, condition: impl Fn(&Self) -> bool) {
        let limit = Instant::now() + Duration::from_secs(20);
        while !condition(self) {
            let ended = self.child.try_wait().unwrap();
            let late = Instant::now() > limit;
            assert!(ended.is_none() && !late, "{ended:?}\n{}{}", self.stdout(), self.stderr());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn stdout(&self) -> String {
        self.out.lock().unwrap().clone()
    }

    pub fn stderr(&self) -> String {
        self.err.lock().unwrap().clone()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by name, such as `TERM`.
    pub fn signal(&self, name: &str) {
        let pid = self.pid().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    /// Kills the process (SIGKILL), and waits until it has ended.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Asks the process to end (SIGTERM), waits for that, and returns the exit status.
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal("TERM");
        self.ended()
    }

    /// Waits until the process ends by itself.
    pub fn ended(&mut self) -> ExitStatus {
        self.ended_within(Duration::from_secs(20))
    }

    /// Like [`Self::ended`], with another time limit.
    pub fn ended_within(&mut self, limit: Duration) -> ExitStatus {
        let limit = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < limit, "it does not end\n{}", self.stderr());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until all output of the process, which must have ended, has been read.
    pub fn wait_for_logs(&self) {
        let limit = Instant::now() + Duration::from_secs(10);
        // A thread that reads a pipe drops its text when the pipe ends.
        while Arc::strong_count(&self.err) > 1 || Arc::strong_count(&self.out) > 1 {
            assert!(Instant::now() < limit, "the pipes do not end");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// The resident memory in KiB.
    pub fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.public)
    }

    /// Sends `POST path` for `account`.
    pub async fn post(&self, account: &str, path: &str) -> Answer {
        let request = self.client.post(self.url(path)).bearer_auth(token(account));
        Answer::of(request.body("{}")).await
    }

    /// Sends a request to the admin listener.
    pub async fn admin(&self, method: Method, path: &str, body: &str) -> Answer {
        let url = format!("http://{}{path}", self.admin);
        let request = self.client.request(method, url).bearer_auth(ADMIN_TOKEN);
        Answer::of(request.body(body.to_owned())).await
    }

    /// Grants credits under this id.
    pub async fn grant(&self, account: &str, credits: u64, id: &str) -> Value {
        let body = format!(r#"{{"credits":{credits},"id":"{id}"}}"#);
        let path = format!("/admin/accounts/{account}/grants");
        self.admin(Method::POST, &path, &body).await.expect(200)
    }

    /// The account, as the admin listener shows it.
    pub async fn account(&self, account: &str) -> Value {
        self.admin(Method::GET, &format!("/admin/accounts/{account}"), "").await.expect(200)
    }

    /// Every transaction of an account, newest first.
    pub async fn transactions(&self, account: &str) -> Vec<Value> {
        let page = async |cursor: Option<String>| {
            let cursor = cursor.map(|cursor| format!("&cursor={cursor}")).unwrap_or_default();
            let path = format!("/admin/accounts/{account}/transactions?limit=200{cursor}");
            self.admin(Method::GET, &path, "").await.expect(200)
        };
        super::http::pages(page, "transactions").await
    }

    pub async fn assert_reconciled(&self) {
        let report = self.admin(Method::GET, "/admin/reconcile", "").await.expect(200);
        assert_eq!(report["clean"], true, "{report}");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            print_log(&self.stderr());
        }
    }
}

/// Prints the last lines of a gateway's log, without those about single requests, so that a test that fails shows why.
fn print_log(log: &str) {
    let is_told =
        |line: &&str| !line.contains(" credit usage ") && !line.contains(" admin request ");
    let lines: Vec<_> = log.lines().filter(is_told).collect();
    eprintln!(
        "The end of a gateway's log:\n{}",
        lines[lines.len().saturating_sub(60)..].join("\n")
    );
}
