//! The source of an issuer's keys in the config: a secret, a file or an address.

use std::path::Path;
use std::time::Duration;

use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey};
use reqwest::Url;

use crate::config::Secret;
use crate::identify::config::JwtConfig;
use crate::identify::entry::Entry;

/// The shortest secret, in bytes: as long as the hash of HS256 (RFC 7518, 3.2).
const MIN_SECRET_BYTES: usize = 32;

/// The shortest RSA key in DER, in bytes: longer than a modulus of 2048 bits.
const MIN_RSA_DER_BYTES: usize = 256;

/// The source of an issuer's keys.
pub(super) enum KeySource {
    Fixed(DecodingKey),
    Published { url: Url, refresh: Duration },
}

impl Entry {
    /// The source of keys of this entry, which must have exactly one.
    pub(super) fn keys(
        &mut self,
        jwt: &JwtConfig,
        algorithms: &[Algorithm],
        refresh: Duration,
    ) -> Option<KeySource> {
        match (&jwt.secret, &jwt.public_key_file, &jwt.jwks_url) {
            (Some(secret), None, None) => self.secret(secret, algorithms).map(KeySource::Fixed),
            (None, Some(file), None) => self.public_key(file, algorithms).map(KeySource::Fixed),
            (None, None, Some(url)) => {
                let url = self.jwks_url(url, algorithms)?;
                Some(KeySource::Published { url, refresh })
            }
            (None, None, None) => self.refuse(
                "",
                "has no key to check tokens with",
                "set one of `secret`, `public_key_file` and `jwks_url`",
            ),
            _ => self.refuse(
                "",
                "has several sources of keys",
                "keep one of `secret`, `public_key_file` and `jwks_url`; \
                 keys that overlap are two [[auth.jwt]] entries",
            ),
        }
    }

    fn secret(&mut self, secret: &Secret, algorithms: &[Algorithm]) -> Option<DecodingKey> {
        let text = secret.expose();
        if secret.is_empty() {
            return self.refuse("secret", "is empty", "set the variable that it reads");
        }
        if text.trim_start().starts_with("-----BEGIN") {
            let hint = "put the public key in a file and name it in `public_key_file`";
            return self.refuse("secret", "is a PEM key, which is not a shared secret", hint);
        }
        if let Some(flaw) = flaw(text) {
            let hint = "write it on one line, as the issuer has it: without quotes, and without spaces or line \
                        breaks added by copying (`printf %s`, not `echo`)";
            return self.refuse("secret", flaw, hint);
        }
        if let Some(other) = of_another_family(AlgorithmFamily::Hmac, algorithms) {
            let problem = format!("has {other:?}, which cannot share one entry with `secret`");
            let hint = "a `secret` goes with HS256, HS384 and HS512";
            return self.refuse("algorithms", &problem, hint);
        }
        if text.len() < MIN_SECRET_BYTES {
            let problem = format!("is {} bytes long and could be guessed", text.len());
            let hint = "use at least 32 random bytes, such as `openssl rand -hex 32`";
            return self.refuse("secret", &problem, hint);
        }
        Some(DecodingKey::from_secret(text.as_bytes()))
    }

    fn public_key(&mut self, file: &Path, algorithms: &[Algorithm]) -> Option<DecodingKey> {
        const HINT: &str = "name a PEM file with the issuer's public key (`BEGIN PUBLIC KEY`)";
        let family = algorithms.first()?.family();
        if family == AlgorithmFamily::Hmac {
            return self.refuse(
                "algorithms",
                "has HS256, HS384 or HS512, which need a shared secret, not a public key",
                "set `secret`, or use RS256, ES256 or EdDSA",
            );
        }
        if let (Some(first), Some(other)) =
            (algorithms.first(), of_another_family(family, algorithms))
        {
            let problem =
                format!("has {first:?} and {other:?}, which cannot share one `public_key_file`");
            let hint = "a key file goes with one family: RS*/PS*, ES* or EdDSA";
            return self.refuse("algorithms", &problem, hint);
        }
        let pem = match std::fs::read(file) {
            Ok(pem) => pem,
            Err(error) => {
                let problem = format!("names {}, which cannot be read: {error}", file.display());
                return self.refuse("public_key_file", &problem, HINT);
            }
        };
        if pem.windows(11).any(|text| text == b"PRIVATE KEY") {
            let hint = "give the gateway the public key only: `openssl pkey -pubout`";
            return self.refuse("public_key_file", "is a private key", hint);
        }
        let key = match family {
            AlgorithmFamily::Rsa => DecodingKey::from_rsa_pem(&pem),
            AlgorithmFamily::Ec => DecodingKey::from_ec_pem(&pem),
            _ => DecodingKey::from_ed_pem(&pem),
        };
        let fits = |key: &DecodingKey| algorithms.iter().all(|algorithm| suits(key, *algorithm));
        key.ok().filter(fits).or_else(|| {
            let problem =
                format!("names {}, which has no key for these algorithms", file.display());
            self.refuse("public_key_file", &problem, HINT)
        })
    }

    fn jwks_url(&mut self, url: &str, algorithms: &[Algorithm]) -> Option<Url> {
        if algorithms.iter().any(|algorithm| algorithm.family() == AlgorithmFamily::Hmac) {
            let problem =
                "has HS256, HS384 or HS512, and a published key cannot be a shared secret";
            return self.refuse("algorithms", problem, "use RS256, ES256 or EdDSA with `jwks_url`");
        }
        let hint = "write it like https://issuer.example.com/.well-known/jwks.json";
        let Some(url) = Url::parse(url).ok().filter(Url::has_host) else {
            return self.refuse("jwks_url", "is not an address", hint);
        };
        if !url.username().is_empty() || url.password().is_some() {
            return self.refuse("jwks_url", "has a user name or password in it", "remove it");
        }
        match url.scheme() {
            "https" => Some(url),
            "http" if is_loopback(&url) => Some(url),
            "http" => {
                let problem =
                    "is plain http, which lets anybody on the network path replace the keys";
                self.refuse("jwks_url", problem, "use https; http is for this machine only")
            }
            _ => self.refuse("jwks_url", "is neither https nor http", hint),
        }
    }
}

/// The first algorithm that needs another kind of key.
fn of_another_family(family: AlgorithmFamily, algorithms: &[Algorithm]) -> Option<Algorithm> {
    algorithms.iter().copied().find(|algorithm| algorithm.family() != family)
}

/// A flaw that a secret probably got when it was copied. Spaces and quotes in the middle are
/// allowed, because they may be intended.
fn flaw(secret: &str) -> Option<&'static str> {
    const QUOTES: [(char, char); 5] =
        [('"', '"'), ('\'', '\''), ('`', '`'), ('\u{201c}', '\u{201d}'), ('\u{2018}', '\u{2019}')];
    let is_between =
        |(open, close): (char, char)| secret.starts_with(open) && secret.ends_with(close);
    if secret.contains(['\n', '\r']) {
        Some("has a line break in it")
    } else if secret.trim() != secret {
        Some("begins or ends with a space")
    } else if QUOTES.into_iter().any(is_between) {
        Some("is in quotes")
    } else if secret.contains(char::is_control) {
        Some("has a control character in it")
    } else {
        None
    }
}

/// Whether the key can verify this particular algorithm of its family: it has the right curve, or
/// enough bits.
fn suits(key: &DecodingKey, algorithm: Algorithm) -> bool {
    let length = key.try_get_as_bytes().map_or(0, <[u8]>::len);
    match algorithm {
        // An uncompressed point is 0x04 and two coordinates.
        Algorithm::ES256 => length == 65,
        Algorithm::ES384 => length == 97,
        Algorithm::EdDSA => length == 32,
        _ => length > MIN_RSA_DER_BYTES,
    }
}

/// True for `localhost` and the loopback addresses.
pub(super) fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}
