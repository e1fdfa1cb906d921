//! Stripe's signature of a webhook: `t=<seconds>,v1=<HMAC-SHA256 of "t.body" in hexadecimal>`.
//!
//! Anybody can send a webhook, so the work for each is limited. The time is checked first, a header
//! may have only a few signatures, and the body is hashed once for each of the seller's secrets,
//! however many signatures there are.

use hmac::{Hmac, Mac as _};
use sha2::Sha256;
use subtle::ConstantTimeEq as _;

use crate::config::Secret;

/// The most, in seconds, that a signature's time may be earlier or later than this machine's.
const TOLERANCE_SECS: i64 = 300;

/// The most signatures of scheme v1 in one header. Stripe sends one for each valid secret: usually one,
/// and two while a secret is being replaced.
const MAX_CANDIDATES: usize = 8;

/// The reason why a webhook's signature is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// The header is missing, or has no time or no signature.
    #[error("there is no usable Stripe-Signature header")]
    Missing,
    /// The header has more signatures than Stripe sends.
    #[error("the Stripe-Signature header has more than {MAX_CANDIDATES} signatures")]
    TooMany,
    /// None of the signatures was made with one of the seller's secrets.
    #[error("no signature was made with one of the webhook secrets")]
    Wrong,
    /// The webhook is a repetition of an old one, or one of the clocks is wrong.
    #[error("the signature is more than 300 seconds old or ahead")]
    Stale,
}

/// A header whose time was accepted and whose signatures are not compared yet.
#[derive(Clone, Debug)]
pub struct Claim {
    /// The time as the sender wrote it. The signature covers this text.
    time: String,
    candidates: Vec<Tag>,
}

/// An HMAC-SHA256.
type Tag = [u8; 32];

impl Claim {
    /// Reads a header, and refuses it if its time is too far from `now_secs`. The body is not needed
    /// yet.
    ///
    /// # Errors
    /// See [`SignatureError`].
    pub fn read(header: Option<&str>, now_secs: i64) -> Result<Self, SignatureError> {
        let (time, candidates) = parse(header.unwrap_or_default())?;
        let at_secs: i64 = time.parse().map_err(|_| SignatureError::Missing)?;
        if now_secs.abs_diff(at_secs) > TOLERANCE_SECS.unsigned_abs() {
            return Err(SignatureError::Stale);
        }
        Ok(Self { time: time.to_owned(), candidates })
    }

    /// Checks the signatures over `payload`, which must be the body exactly as it arrived. Each
    /// secret costs one hash of the body. The comparison takes constant time.
    ///
    /// # Errors
    /// [`SignatureError::Wrong`].
    pub fn verify(&self, payload: &[u8], secrets: &[Secret]) -> Result<(), SignatureError> {
        let signed = |secret: &Secret| {
            keyed(secret, &self.time, payload).is_some_and(|mac| {
                let tag = mac.finalize().into_bytes();
                self.candidates.iter().any(|candidate| candidate.ct_eq(&tag).into())
            })
        };
        if secrets.iter().any(signed) { Ok(()) } else { Err(SignatureError::Wrong) }
    }
}

/// The header that signs `payload` at `now_secs`.
pub fn sign(payload: &[u8], secret: &Secret, now_secs: i64) -> Option<String> {
    let mac = keyed(secret, &now_secs.to_string(), payload)?;
    Some(format!("t={now_secs},v1={}", hex::encode(mac.finalize().into_bytes())))
}

/// The time as it was written, and the signatures of scheme v1. Other schemes are ignored, and so are signatures
/// that are not the 64 hexadecimal digits of a SHA-256.
fn parse(header: &str) -> Result<(&str, Vec<Tag>), SignatureError> {
    let mut time = None;
    let mut candidates = Vec::new();
    for part in header.split(',') {
        match part.trim().split_once('=') {
            Some(("t", at)) => time = Some(at),
            Some(("v1", _)) if candidates.len() == MAX_CANDIDATES => {
                return Err(SignatureError::TooMany);
            }
            Some(("v1", digits)) => {
                let mut tag = [0; 32];
                if hex::decode_to_slice(digits, &mut tag).is_ok() {
                    candidates.push(tag);
                }
            }
            _ => {}
        }
    }
    match time {
        Some(time) if !candidates.is_empty() => Ok((time, candidates)),
        _ => Err(SignatureError::Missing),
    }
}

fn keyed(secret: &Secret, time: &str, payload: &[u8]) -> Option<Hmac<Sha256>> {
    // An HMAC takes a key of any length. The config refuses an empty one.
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.expose().as_bytes()).ok()?;
    mac.update(time.as_bytes());
    mac.update(b".");
    mac.update(payload);
    Some(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &[u8] = br#"{"id":"evt_1"}"#;
    const NOW: i64 = 1_700_000_000;

    fn secrets(texts: &[&str]) -> Vec<Secret> {
        texts.iter().map(|text| Secret::new(*text)).collect()
    }

    fn check(header: &str, now_secs: i64) -> Result<(), SignatureError> {
        check_by(BODY, Some(header), &["whsec_old", "whsec_new"], now_secs)
    }

    fn check_by(
        body: &[u8],
        header: Option<&str>,
        by: &[&str],
        now_secs: i64,
    ) -> Result<(), SignatureError> {
        Claim::read(header, now_secs)?.verify(body, &secrets(by))
    }

    #[test]
    fn any_of_the_secrets_will_do_and_nothing_else() {
        for secret in ["whsec_old", "whsec_new"] {
            let header = sign(BODY, &Secret::new(secret), NOW).unwrap();
            assert_eq!(check(&header, NOW), Ok(()));
            assert_eq!(check_by(b"{}", Some(&header), &[secret], NOW), Err(SignatureError::Wrong));
            let both = header.replace("v1=", "v1=00,v0=11,v1=");
            assert_eq!(check(&both, NOW), Ok(()), "one right signature among others");
        }
        let other = sign(BODY, &Secret::new("whsec_other"), NOW).unwrap();
        assert_eq!(check(&other, NOW), Err(SignatureError::Wrong));
        let later = sign(BODY, &Secret::new("whsec_new"), NOW).unwrap();
        let later = later.replace(&NOW.to_string(), &(NOW + 1).to_string());
        assert_eq!(check(&later, NOW), Err(SignatureError::Wrong), "the time is signed too");
    }

    #[test]
    fn three_hundred_seconds_either_way_are_tolerated() {
        let header = sign(BODY, &Secret::new("whsec_new"), NOW).unwrap();
        for (now, expected) in [
            (NOW + 300, Ok(())),
            (NOW - 300, Ok(())),
            (NOW + 301, Err(SignatureError::Stale)),
            (NOW - 301, Err(SignatureError::Stale)),
        ] {
            assert_eq!(check(&header, now), expected, "{now}");
        }
    }

    #[test]
    fn a_header_without_a_signature_is_refused() {
        let short = "0".repeat(63);
        for header in ["", "t=1", "v1=00", "t=1,v1=zz", "garbage", "t=1 v1=00", "t,v1"] {
            assert_eq!(check(header, 1), Err(SignatureError::Missing), "{header}");
        }
        for digits in [short.as_str(), &format!("{short}00"), &format!("{short}g")] {
            let header = format!("t={NOW},v1={digits}");
            assert_eq!(check(&header, NOW), Err(SignatureError::Missing), "{header}");
        }
        assert_eq!(check_by(BODY, None, &["s"], NOW), Err(SignatureError::Missing));
        let wrong = "0".repeat(64);
        assert_eq!(check(&format!("t=soon,v1={wrong}"), NOW), Err(SignatureError::Missing));
        assert_eq!(check(&format!("t={NOW},v1={wrong}"), NOW), Err(SignatureError::Wrong));
    }

    #[test]
    fn the_time_is_looked_at_before_the_signatures() {
        let wrong = "0".repeat(64);
        let header = format!("t={},v1={wrong}", NOW - 301);
        assert_eq!(Claim::read(Some(&header), NOW).unwrap_err(), SignatureError::Stale);
    }

    #[test]
    fn a_header_with_more_signatures_than_stripe_sends_is_refused_unread() {
        let good = sign(BODY, &Secret::new("whsec_new"), NOW).unwrap();
        let wrong = format!("v1={},", "0".repeat(64));
        let with = |count: usize| good.replace("v1=", &format!("{}v1=", wrong.repeat(count)));
        assert_eq!(check(&with(MAX_CANDIDATES - 1), NOW), Ok(()));
        assert_eq!(check(&with(MAX_CANDIDATES), NOW), Err(SignatureError::TooMany));
        assert_eq!(check(&with(16_000), NOW), Err(SignatureError::TooMany));
    }
}
