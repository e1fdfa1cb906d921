//! Stripe's signature of a webhook: `t=<seconds>,v1=<HMAC-SHA256 of "t.body" in hexadecimal>`.

use hmac::{Hmac, Mac as _};
use sha2::Sha256;

use crate::config::Secret;

/// How far the signature's time may be from ours, either way.
const TOLERANCE_SECS: i64 = 300;

/// Why an event is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// No header, or nothing in it that could be a signature.
    #[error("there is no usable Stripe-Signature header")]
    Missing,
    /// None of the signatures is by one of our secrets.
    #[error("no signature is by one of the webhook secrets")]
    Wrong,
    /// Replayed, or one of the clocks is wrong.
    #[error("the signature is more than 300 seconds old or ahead")]
    Stale,
}

/// Checks the signature of `payload`, the body as it came, byte for byte. The comparison takes the
/// same time wherever a wrong signature differs.
///
/// # Errors
/// See [`SignatureError`].
pub fn verify(
    payload: &[u8],
    header: Option<&str>,
    secrets: &[Secret],
    now_secs: i64,
) -> Result<(), SignatureError> {
    let (time, signatures) = parse(header.unwrap_or_default()).ok_or(SignatureError::Missing)?;
    let signed = |secret: &Secret| {
        signatures.iter().any(|signature| {
            keyed(secret, time, payload).is_some_and(|mac| mac.verify_slice(signature).is_ok())
        })
    };
    if !secrets.iter().any(signed) {
        return Err(SignatureError::Wrong);
    }
    let at: i64 = time.parse().map_err(|_| SignatureError::Missing)?;
    // Checked after the signature: the time is only believed once it is signed.
    if now_secs.abs_diff(at) > TOLERANCE_SECS.unsigned_abs() {
        return Err(SignatureError::Stale);
    }
    Ok(())
}

/// The header by which `payload` is signed at `now_secs`.
pub fn sign(payload: &[u8], secret: &Secret, now_secs: i64) -> Option<String> {
    let mac = keyed(secret, &now_secs.to_string(), payload)?;
    Some(format!("t={now_secs},v1={}", hex::encode(mac.finalize().into_bytes())))
}

/// The time as it was written, and the signatures of scheme v1; other schemes are passed over.
fn parse(header: &str) -> Option<(&str, Vec<Vec<u8>>)> {
    let mut time = None;
    let mut signatures = Vec::new();
    for part in header.split(',') {
        match part.trim().split_once('=') {
            Some(("t", at)) => time = Some(at),
            Some(("v1", signature)) => signatures.extend(hex::decode(signature)),
            _ => {}
        }
    }
    Some((time?, signatures)).filter(|(_, signatures)| !signatures.is_empty())
}

fn keyed(secret: &Secret, time: &str, payload: &[u8]) -> Option<Hmac<Sha256>> {
    // An HMAC takes a key of any length; the empty one is refused with the config.
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
        verify(BODY, Some(header), &secrets(&["whsec_old", "whsec_new"]), now_secs)
    }

    #[test]
    fn any_of_the_secrets_will_do_and_nothing_else() {
        for secret in ["whsec_old", "whsec_new"] {
            let header = sign(BODY, &Secret::new(secret), NOW).unwrap();
            assert_eq!(check(&header, NOW), Ok(()));
            assert_eq!(
                verify(b"{}", Some(&header), &secrets(&[secret]), NOW),
                Err(SignatureError::Wrong)
            );
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
    fn what_is_no_signature_is_refused() {
        for header in ["", "t=1", "v1=00", "t=1,v1=zz", "garbage", "t=1 v1=00", "t,v1"] {
            assert_eq!(check(header, 1), Err(SignatureError::Missing), "{header}");
        }
        assert_eq!(verify(BODY, None, &secrets(&["s"]), NOW), Err(SignatureError::Missing));
        assert_eq!(check("t=soon,v1=00", NOW), Err(SignatureError::Wrong));
    }
}
