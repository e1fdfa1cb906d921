//! `[stripe]`: the keys, addresses and options for selling credits.

use std::fmt;

use reqwest::Url;
use serde::{Deserialize, Deserializer, de};

use crate::config::{Mistake, Secret};
use crate::ledger::OnDispute;

/// The section `[stripe]`. Without it, packs are shown but cannot be bought.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StripeConfig {
    /// Stripe's API key. A restricted key is enough.
    #[serde(default = "none")]
    pub secret_key: Secret,
    /// The secrets that Stripe signs its events with: one, or two while one is being replaced.
    #[serde(default, deserialize_with = "one_or_many")]
    pub webhook_secret: Vec<Secret>,
    /// The address of Stripe's API. Only tests set another one.
    #[serde(default = "api_base")]
    pub api_base: String,
    /// The page that a buyer returns to after paying.
    #[serde(default)]
    pub success_url: String,
    /// The page that a buyer returns to without paying.
    #[serde(default)]
    pub cancel_url: String,
    /// The effect of a dispute on its account.
    #[serde(default)]
    pub on_dispute: OnDispute,
    /// Options for Stripe's checkout page.
    #[serde(default)]
    pub checkout: CheckoutConfig,
    /// Sells on a page of Farebox's own, on which no money is paid: for the demo, and for trials before
    /// there is a Stripe account. The sandbox needs no other key of this section, and refuses to run
    /// beside a live key of Stripe's.
    #[serde(default)]
    pub sandbox: bool,
}

/// `[stripe.checkout]`: options of Stripe's checkout session.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CheckoutConfig {
    /// Whether Stripe Tax computes the tax.
    pub automatic_tax: bool,
    /// Whether Stripe writes an invoice.
    pub invoice_creation: bool,
    /// Whether buyers may enter a promotion code.
    pub allow_promotion_codes: bool,
    /// The language of the page; `auto` follows the browser.
    pub locale: String,
}

impl Default for CheckoutConfig {
    fn default() -> Self {
        Self {
            automatic_tax: false,
            invoice_creation: false,
            allow_promotion_codes: false,
            locale: "auto".to_owned(),
        }
    }
}

fn api_base() -> String {
    "https://api.stripe.com".to_owned()
}

fn none() -> Secret {
    Secret::new("")
}

/// True for a live key of Stripe's: real money moves with it.
pub fn is_live(secret_key: &Secret) -> bool {
    let key = secret_key.expose();
    key.starts_with("sk_live_") || key.starts_with("rk_live_")
}

impl StripeConfig {
    /// The section that the demo uses, without Stripe. `secret_key` is the key that is set on this
    /// machine, if there is one. The sandbox refuses to start beside a live key.
    pub fn sandbox(secret_key: Option<Secret>) -> Self {
        Self {
            secret_key: secret_key.unwrap_or_else(|| Secret::new("sk_test_sandbox")),
            webhook_secret: Vec::new(),
            api_base: api_base(),
            success_url: String::new(),
            cancel_url: String::new(),
            on_dispute: OnDispute::default(),
            checkout: CheckoutConfig::default(),
            sandbox: true,
        }
    }

    /// True if real money moves.
    pub fn is_live(&self) -> bool {
        is_live(&self.secret_key)
    }

    /// A warning if the sandbox is on.
    pub fn warn(&self) -> Option<Mistake> {
        self.sandbox.then(|| {
            let message = "the sandbox gives credits away: pressing its button counts as paying";
            let hint = "set the keys of Stripe and remove `sandbox` before real customers come";
            Mistake::new("stripe.sandbox", message, hint)
        })
    }

    /// The mistakes in a section with `sandbox = true`, which needs no keys of Stripe's.
    fn check_sandbox(&self) -> Vec<Mistake> {
        let urls = [("success_url", &self.success_url), ("cancel_url", &self.cancel_url)];
        let odd = urls.into_iter().filter(|(_, url)| !url.is_empty() && !is_web_address(url));
        let mut found: Vec<Mistake> = odd.map(|(name, _)| no_web_address(name)).collect();
        if self.is_live() {
            let message = "`sandbox = true` stands beside a live key of Stripe's";
            let hint = "remove `sandbox` to sell, or take the live key away to try things out";
            found.push(Mistake::new("stripe.sandbox", message, hint));
        }
        found
    }

    /// The mistakes in this section that can be found without asking Stripe.
    pub fn check(&self) -> Vec<Mistake> {
        if self.sandbox {
            return self.check_sandbox();
        }
        let mut found = Vec::new();
        let mut mistake = |name: &str, message: String, hint: &str| {
            found.push(Mistake::new(format!("stripe.{name}"), message, hint));
        };
        if self.secret_key.expose().trim().is_empty() {
            let hint = "set STRIPE_SECRET_KEY, or remove [stripe]";
            mistake("secret_key", "missing key `secret_key`, or an empty one".to_owned(), hint);
        } else if self.secret_key.expose().starts_with("pk_") {
            let hint = "use the secret key (sk_…) or a restricted one (rk_…)";
            mistake("secret_key", "this is Stripe's publishable key".to_owned(), hint);
        } else if let Some(stray) = self.secret_key.stray() {
            let message = format!("`secret_key` has {stray} in it");
            mistake("secret_key", message, &copied_again("sk_… or rk_…"));
        } else if !self.secret_key.expose().bytes().all(|byte| byte.is_ascii_graphic()) {
            mistake(
                "secret_key",
                "`secret_key` has characters that no HTTP header carries".to_owned(),
                &copied_again("sk_… or rk_…"),
            );
        }
        let blank = |secret: &Secret| secret.expose().trim().is_empty();
        if self.webhook_secret.is_empty() || self.webhook_secret.iter().any(blank) {
            let hint = "Stripe shows it (whsec_…) beside the webhook's address";
            mistake(
                "webhook_secret",
                "missing key `webhook_secret`, or an empty one".to_owned(),
                hint,
            );
        }
        for secret in self.webhook_secret.iter().filter(|secret| !blank(secret)) {
            if let Some(stray) = secret.stray() {
                let message = format!("`webhook_secret` has {stray} in it");
                mistake("webhook_secret", message, &copied_again("whsec_…"));
            } else if !secret.expose().starts_with("whsec_") {
                let hint = "copy the whole signing secret (whsec_…) that Stripe shows beside the \
                            webhook's address; the endpoint's id (we_…) and API keys (sk_…) sign no \
                            events";
                let message = "`webhook_secret` does not begin with whsec_".to_owned();
                mistake("webhook_secret", message, hint);
            }
        }
        for (name, url) in [
            ("api_base", &self.api_base),
            ("success_url", &self.success_url),
            ("cancel_url", &self.cancel_url),
        ] {
            if url.is_empty() {
                mistake(
                    name,
                    format!("missing key `{name}`, or an empty one"),
                    "write a whole URL: https://…",
                );
            } else if !is_web_address(url) {
                let Mistake { message, hint, .. } = no_web_address(name);
                mistake(name, message, &hint);
            }
        }
        if self.api_base.contains(['?', '#']) {
            let hint = "write api_base = \"https://api.stripe.com\"";
            mistake("api_base", "`api_base` has a query or a fragment".to_owned(), hint);
        }
        let letter = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        let locale = &self.checkout.locale;
        if !(2..=10).contains(&locale.len()) || !locale.bytes().all(letter) {
            let hint = "write locale = \"auto\", or a language such as \"fr\" or \"pt-BR\"";
            mistake("checkout.locale", "`locale` is not a language".to_owned(), hint);
        }
        found
    }
}

fn no_web_address(name: &str) -> Mistake {
    let message = format!("`{name}` is not the address of a web page");
    Mistake::new(format!("stripe.{name}"), message, "write a whole URL: https://…")
}

/// The hint for a secret that was probably damaged when it was copied.
fn copied_again(shape: &str) -> String {
    format!(
        "copy it from Stripe again ({shape}), without line breaks, spaces or quotes around it; in a \
         file of variables the value stands plain after `=`"
    )
}

/// True for an http or https URL with a host and without a password.
fn is_web_address(text: &str) -> bool {
    Url::parse(text).is_ok_and(|url| {
        matches!(url.scheme(), "http" | "https")
            && url.has_host()
            && url.username().is_empty()
            && url.password().is_none()
    })
}

fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Secret>, D::Error> {
    struct Secrets;
    impl<'de> de::Visitor<'de> for Secrets {
        type Value = Vec<Secret>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a string or a list of strings")
        }
        fn visit_str<E: de::Error>(self, text: &str) -> Result<Vec<Secret>, E> {
            Ok(vec![Secret::new(text)])
        }
        fn visit_seq<A: de::SeqAccess<'de>>(self, mut list: A) -> Result<Vec<Secret>, A::Error> {
            let mut secrets = Vec::new();
            while let Some(secret) = list.next_element()? {
                secrets.push(secret);
            }
            Ok(secrets)
        }
    }
    deserializer.deserialize_any(Secrets)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOUND: &str = r#"
        secret_key = "sk_test_1"
        webhook_secret = ["whsec_1", "whsec_2"]
        success_url = "https://app.example.com/credits?session={CHECKOUT_SESSION_ID}"
        cancel_url = "https://app.example.com/credits"
    "#;

    #[test]
    fn a_sound_section_is_accepted_with_one_secret_or_two() {
        let two: StripeConfig = toml::from_str(SOUND).unwrap();
        assert_eq!(two.check(), []);
        assert_eq!(two.webhook_secret.len(), 2);
        assert_eq!(two.on_dispute, OnDispute::ClawBack);
        let one = SOUND.replace(r#"["whsec_1", "whsec_2"]"#, r#""whsec_1""#);
        assert_eq!(toml::from_str::<StripeConfig>(&one).unwrap().webhook_secret.len(), 1);
    }

    #[test]
    fn the_sandbox_needs_no_keys_and_never_runs_beside_a_live_one() {
        let keys = |text: &str| {
            let config: StripeConfig = toml::from_str(text).unwrap();
            config.check().into_iter().map(|mistake| mistake.key).collect::<Vec<_>>()
        };
        for sound in
            ["", "secret_key = \"sk_test_1\"", "success_url = \"https://a.example/\"", SOUND]
        {
            assert_eq!(keys(&format!("sandbox = true\n{sound}")), [""; 0], "{sound}");
        }
        for live in ["sk_live_1", "rk_live_1"] {
            let text = format!("sandbox = true\nsecret_key = \"{live}\"");
            assert_eq!(keys(&text), ["stripe.sandbox"]);
        }
        assert_eq!(keys("sandbox = true\ncancel_url = \"/credits\""), ["stripe.cancel_url"]);
        assert_eq!(keys("sandbox = false").len(), 4, "without it all four are needed");
        let config: StripeConfig = toml::from_str("sandbox = true").unwrap();
        assert_eq!(config.warn().unwrap().key, "stripe.sandbox");
    }

    #[test]
    fn empty_and_wrong_values_are_refused() {
        let mut config: StripeConfig = toml::from_str(SOUND).unwrap();
        config.secret_key = Secret::new("pk_live_1");
        config.webhook_secret = vec![Secret::new("")];
        config.api_base = "https://api.stripe.com/?x".to_owned();
        config.success_url = "/credits".to_owned();
        config.cancel_url = "javascript:alert(1)".to_owned();
        config.checkout.locale = "French, please".to_owned();
        let keys: Vec<_> = config.check().into_iter().map(|mistake| mistake.key).collect();
        let names = [
            "secret_key",
            "webhook_secret",
            "success_url",
            "cancel_url",
            "api_base",
            "checkout.locale",
        ];
        assert_eq!(keys, names.map(|name| format!("stripe.{name}")));
    }

    #[test]
    fn a_secret_that_is_not_as_stripe_shows_it_is_refused_with_a_hint() {
        let sound: StripeConfig = toml::from_str(SOUND).unwrap();
        let spoiled = |secret: &str| {
            let whole = [
                format!("{secret}\n"),
                format!("{secret}\r\n"),
                format!(" {secret}"),
                format!("\"{secret}\""),
                format!("'{secret}'"),
            ];
            whole.map(Secret::new)
        };
        for key in spoiled("sk_test_1").into_iter().chain([Secret::new("sk_test_\u{e9}")]) {
            let config = StripeConfig { secret_key: key.clone(), ..sound.clone() };
            let [found] = &config.check()[..] else { panic!("{:?}", key.expose()) };
            assert_eq!(found.key, "stripe.secret_key");
            assert!(found.hint.contains("sk_"), "{found:?}");
        }
        let unlike = ["we_1Abc", "1Abc", "sk_test_1", "WHSEC_1"].map(Secret::new);
        for secret in spoiled("whsec_1").into_iter().chain(unlike) {
            let pair = vec![Secret::new("whsec_2"), secret.clone()];
            let config = StripeConfig { webhook_secret: pair, ..sound.clone() };
            let [found] = &config.check()[..] else { panic!("{:?}", secret.expose()) };
            assert_eq!(found.key, "stripe.webhook_secret");
            assert!(found.hint.contains("whsec_"), "{found:?}");
        }
    }
}
