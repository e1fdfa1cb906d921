//! Recognises a request and its sender by hashes. A retry is the same request from the same sender.

use hmac::{Hmac, Mac as _};
use http::{HeaderMap, Method, header};
use sha2::{Digest as _, Sha256};

use super::key::Key;
use crate::identify::Identity;
use crate::ledger::{ClaimId, RequestMark};
use crate::proxy::target::Target;

/// The sender of a request: its account and its credential. Two keys of one account are two senders.
#[derive(Clone, Copy)]
pub(super) struct Sender([u8; 32]);

/// The hash of a request's method, path, query, content type and body.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct RequestHash([u8; 32]);

/// The hash of a request whose body is still arriving.
#[derive(Clone)]
pub(super) struct Hashing(Sha256);

/// Adds a part to a hash. The length comes first, so that different lists of parts have different
/// hashes.
fn add(hash: &mut Sha256, part: &[u8]) {
    hash.update((part.len() as u64).to_be_bytes());
    hash.update(part);
}

/// The HMAC of these parts under the ledger's secret.
fn mac(secret: &[u8; 32], parts: [&[u8]; 3]) -> [u8; 32] {
    // HMAC takes keys of any length.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret) else { return [0; 32] };
    for part in parts {
        mac.update(&(part.len() as u64).to_be_bytes());
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

impl Sender {
    pub fn of(identity: &Identity) -> Self {
        let mut hash = Sha256::new();
        add(&mut hash, b"farebox sender");
        add(&mut hash, identity.account.as_str().as_bytes());
        match &identity.key_id {
            Some(key) => add(&mut hash, key.as_bytes()),
            // Tokens change all the time, so all tokens of an account are one credential.
            None => add(&mut hash, b""),
        }
        Self(hash.finalize().into())
    }

    /// The id of the claim that this sender's calls make under a key.
    pub fn claim(&self, key: &Key) -> ClaimId {
        let mut hash = Sha256::new();
        add(&mut hash, b"farebox idempotency key");
        add(&mut hash, &self.0);
        add(&mut hash, key.as_bytes());
        ClaimId::new(hash.finalize().into())
    }

    /// The id of the claim that a retry without a key makes. An SDK that gives up a call leaves the
    /// call under this id.
    pub fn retry(&self, request: &RequestHash, secret: &[u8; 32]) -> ClaimId {
        ClaimId::new(mac(secret, [b"farebox retry", &self.0, &request.0]))
    }
}

impl Hashing {
    /// Begins the hash with the parts of the head.
    pub fn begin(method: &Method, target: &Target, headers: &HeaderMap) -> Self {
        let mut hash = Sha256::new();
        add(&mut hash, b"farebox request");
        add(&mut hash, method.as_str().as_bytes());
        add(&mut hash, target.path.as_str().as_bytes());
        add(&mut hash, target.query.as_bytes());
        let kinds = headers.get_all(header::CONTENT_TYPE);
        hash.update((kinds.iter().count() as u64).to_be_bytes());
        for kind in kinds {
            add(&mut hash, kind.as_bytes());
        }
        Self(hash)
    }

    /// Adds the next part of the body.
    pub fn body(&mut self, part: &[u8]) {
        self.0.update(part);
    }

    /// Returns the hash of the request, whose body has ended.
    pub fn end(&self) -> RequestHash {
        RequestHash(self.0.clone().finalize().into())
    }
}

impl RequestHash {
    /// The mark by which the ledger recognises the request. The mark does not show what the request
    /// was.
    pub fn mark(&self, secret: &[u8; 32]) -> RequestMark {
        RequestMark::new(mac(secret, [b"farebox request mark", &self.0, &[]]))
    }

    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;
    use crate::identify::CredentialKind;
    use crate::price::CanonicalPath;

    const SECRET: [u8; 32] = [7; 32];

    fn hash(request: (&str, &str, &str, &[&'static str], &[&[u8]])) -> RequestHash {
        let (method, path, query, kinds, body) = request;
        let path = CanonicalPath::parse(path.as_bytes()).unwrap();
        let target = Target { path, query: query.to_owned(), nominated: Vec::new() };
        let mut headers = HeaderMap::new();
        for kind in kinds {
            headers.append(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        }
        let mut hashing = Hashing::begin(&method.parse().unwrap(), &target, &headers);
        body.iter().for_each(|part| hashing.body(part));
        hashing.end()
    }

    #[test]
    fn each_part_of_a_request_tells_it_from_others() {
        let json: &[&str] = &["application/json"];
        let request = hash(("POST", "/a", "", json, &[b"hello"]));
        assert!(request == hash(("POST", "/a", "", json, &[b"he", b"", b"llo"])), "in other parts");
        for other in [
            ("PUT", "/a", "", json, &[&b"hello"[..]][..]),
            ("POST", "/b", "", json, &[b"hello"]),
            ("POST", "/a", "?x=1", json, &[b"hello"]),
            ("POST", "/a", "", &["text/plain"], &[b"hello"]),
            ("POST", "/a", "", &[], &[b"hello"]),
            ("POST", "/a", "", &["application/json", "application/json"], &[b"hello"]),
            ("POST", "/a", "", json, &[b"hello!"]),
            ("POST", "/a", "", json, &[]),
        ] {
            assert!(hash(other) != request, "{other:?}");
            assert!(hash(other).mark(&SECRET) != request.mark(&SECRET), "{other:?}");
        }
        assert!(request.mark(&SECRET) != request.mark(&[8; 32]), "another ledger");
    }

    #[test]
    fn a_sender_is_an_account_and_a_credential() {
        let identity = |account: &str, key: Option<&str>| Identity {
            account: account.parse().unwrap(),
            credential: CredentialKind::ApiKey,
            key_id: key.map(Into::into),
            on_behalf_by: None,
            expires_at_ms: None,
            fresh: false,
        };
        let claim = |account, id, key: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(super::super::key::IDEMPOTENCY_KEY, key.parse().unwrap());
            let key = Key::read(&headers).ok().flatten().unwrap();
            Sender::of(&identity(account, id)).claim(&key)
        };
        let first = claim("alice", Some("k1"), "once");
        assert_eq!(first, claim("alice", Some("k1"), "\"once\""));
        for other in [
            claim("bob", Some("k1"), "once"),
            claim("alice", Some("k2"), "once"),
            claim("alice", None, "once"),
            claim("alice", Some("k1"), "twice"),
        ] {
            assert_ne!(other, first);
        }
        let request = hash(("POST", "/a", "", &[], &[]));
        let alice = Sender::of(&identity("alice", None)).retry(&request, &SECRET);
        assert_ne!(alice, Sender::of(&identity("bob", None)).retry(&request, &SECRET));
        let other = hash(("POST", "/a", "", &[], &[b"x"]));
        assert_ne!(alice, Sender::of(&identity("alice", None)).retry(&other, &SECRET));
    }
}
