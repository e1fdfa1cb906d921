//! Stripe's own SDK for Python, in a process beside the test: see `stripe_sdk.py`.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

pub struct Sdk {
    child: Child,
    asks: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Sdk {
    pub fn start() -> Self {
        let python = std::env::var_os("FAREBOX_STRIPE_PYTHON").map(PathBuf::from);
        let made = || PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("../stripe-venv/bin/python");
        let python = python.unwrap_or_else(made);
        let hint = "`make stripe-venv` installs Stripe's SDK";
        assert!(python.exists(), "{} is missing: {hint}", python.display());
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/buying/stripe_sdk.py");
        let mut command = Command::new(python);
        let child = command.arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = child.unwrap();
        let asks = child.stdin.take().unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap());
        Self { child, asks, answers }
    }

    pub fn ask(&mut self, ask: Value) -> Value {
        writeln!(self.asks, "{ask}").unwrap();
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|_| panic!("{ask} got {line:?}"))
    }

    /// The `Stripe-Signature` header.
    pub fn sign(&mut self, payload: &str, secret: &str, timestamp: i64) -> String {
        let ask = json!({ "do": "sign", "payload": payload, "secret": secret,
            "timestamp": timestamp });
        self.ask(ask)["header"].as_str().unwrap().to_owned()
    }

    /// The errors that Stripe's own types find in parameters.
    pub fn mistakes(&mut self, operation: &str, parameters: &Value) -> Value {
        let ask = json!({ "do": "check", "operation": operation, "parameters": parameters });
        self.ask(ask)["mistakes"].clone()
    }
}

impl Drop for Sdk {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
