//! `farebox serve` in a process of its own, with packs and a Stripe that sells them.

use http::Method;
use serde_json::json;
use tempfile::TempDir;

use crate::process::{Process, config_on_ports};
use crate::support::clock::Clock;
use crate::support::h2::write_certificate;
use crate::support::packs::two_packs;
use crate::support::stripe::Stripe;
use crate::support::{Upstream, token};

pub struct Seller {
    pub process: Process,
    pub stripe: Stripe,
    _folder: TempDir,
}

/// The packs that most tests sell.
pub const PACKS: &str = concat!(
    two_packs!(),
    r#"
[[packs]]
id = "pack-1000"
name = "Pack 1000"
credits = 1000
price = "139.00 EUR"
"#
);

/// The picture behind `logo = "logo.svg"`.
const LOGO: &str = "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 120 40' width='120' \
    height='40'><rect width='120' height='40' rx='8' fill='#7c3aed'/></svg>";

impl Seller {
    /// Sells [`PACKS`], and lets an app of this origin call.
    pub async fn open(origin: &str) -> Self {
        Self::with(&format!("{PACKS}\n[api]\ncors_origins = [\"{origin}\"]\n"), None).await
    }

    /// Opens a seller with these tables in gateway.toml, and by this clock.
    pub async fn with(more: &str, clock: Option<&Clock>) -> Self {
        let (upstream, stripe) = (Upstream::canned().await, Stripe::start().await);
        let stripe_section = stripe.section("");
        let sales = format!("{more}\n[credits]\nlow_balance = 20\n{stripe_section}");
        let text = config_on_ports(upstream.address, &sales);
        let folder = tempfile::tempdir().unwrap();
        write_certificate(folder.path());
        std::fs::write(folder.path().join("logo.svg"), LOGO).unwrap();
        let env = clock.map(Clock::env).unwrap_or_default();
        let env: Vec<(&str, &str)> = env.iter().map(|(name, value)| (&**name, &**value)).collect();
        let process = Process::serve_in(folder.path(), &text, &env);
        Self { process, stripe, _folder: folder }
    }

    /// The account page's address with a token of `account`.
    pub fn link(&self, account: &str) -> String {
        self.process.url(&format!("/credits/account#token={}", token(account)))
    }

    /// Gives credits, for a reason.
    pub async fn grant(&self, account: &str, credits: u64, reason: &str) {
        let id = uuid::Uuid::new_v4().to_string();
        let body = json!({ "credits": credits, "id": id, "reason": reason }).to_string();
        let account =
            percent_encoding::utf8_percent_encode(account, percent_encoding::NON_ALPHANUMERIC);
        let path = format!("/admin/accounts/{account}/grants");
        self.process.admin(Method::POST, &path, &body).await.expect(200);
    }

    /// The address of the operator's page.
    pub fn admin(&self) -> String {
        format!("http://{}/admin/ui", self.process.admin)
    }
}
