//! A gateway in a process of its own, with all that its clients need to know.

use std::net::SocketAddr;

use rustls::pki_types::CertificateDer;
use serde_json::json;
use tempfile::TempDir;

use super::prices::ROUTES;
use crate::process::{Process, config_on_ports};
use crate::support::h2::{TLS, write_certificate};
use crate::support::token;

/// Accounts with more credits than a run can spend, and one that runs out.
pub const RICH: [&str; 3] = ["rich-0", "rich-1", "rich-2"];
pub const POOR: &str = "poor";

/// The balance of the rich accounts.
const WEALTH: u64 = 10_000_000;

/// The credits of an account at first, which last for the first moments of a run.
const PITTANCE: u64 = 500;

/// A gateway.
pub struct Side {
    pub process: Process,
    /// The folder of its ledger.
    _folder: TempDir,
    /// The certificate, if it speaks TLS.
    pub certificate: Option<CertificateDer<'static>>,
    /// Header lines that identify a caller.
    pub credentials: Vec<String>,
}

impl Side {
    pub async fn start(upstream: SocketAddr, tls: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut text = config_on_ports(upstream, ROUTES);
        let certificate = tls.then(|| write_certificate(folder.path()));
        if tls {
            text = text.replacen("[server]\n", &format!("[server]\n{TLS}\n"), 1);
        }
        let process = Process::serve(folder.path(), &text);
        for account in RICH {
            process.grant(account, WEALTH, account).await;
        }
        process.grant(POOR, PITTANCE, POOR).await;
        let mut side = Self { process, _folder: folder, certificate, credentials: Vec::new() };
        let key = side.key(RICH[0], false).await;
        let service = side.key("backend", true).await;
        side.credentials = [RICH[0], RICH[1], RICH[2], POOR]
            .map(|account| format!("authorization: Bearer {}", token(account)))
            .to_vec();
        side.credentials.push(format!("x-api-key: {key}"));
        side.credentials
            .push(format!("authorization: Bearer {service}\r\nx-farebox-account: {}", RICH[1]));
        side
    }

    /// The gateway's log lines about a request.
    pub fn told(&self, id: &str) -> String {
        let all = self.process.stdout() + &self.process.stderr();
        all.lines().filter(|line| line.contains(id)).collect::<Vec<_>>().join("\n")
    }

    async fn key(&self, account: &str, service: bool) -> String {
        let body = json!({ "name": "fuzz", "service": service }).to_string();
        let path = format!("/admin/accounts/{account}/keys");
        let key = self.process.admin(http::Method::POST, &path, &body).await.json();
        key["key"].as_str().unwrap().to_owned()
    }
}
