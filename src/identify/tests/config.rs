//! Mistakes in `[auth]` are named before anything starts.

use std::io::Write;

use super::*;
use crate::identify::tests::signer::{RSA_PRIVATE, RSA_PUBLIC, Signer};

/// The keys of the mistakes in one `[[auth.jwt]]`, and all of their texts as one string.
fn mistakes(jwt: &str) -> (Vec<String>, String) {
    let mistakes = config(&format!("[[jwt]]\n{jwt}")).check();
    let texts: Vec<_> = mistakes.iter().map(ToString::to_string).collect();
    assert!(mistakes.iter().all(|mistake| !mistake.hint.is_empty()));
    (mistakes.into_iter().map(|mistake| mistake.key).collect(), texts.join("\n"))
}

fn pem(contents: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(contents.as_bytes()).unwrap();
    file
}

#[test]
fn the_default_accepts_keys_and_no_tokens() {
    assert_eq!(config("").check(), []);
    assert!(config("").api_keys.enabled);
    let nobody = config("[api_keys]\nenabled = false").check();
    assert_eq!(nobody[0].key, "auth");
}

#[test]
fn each_mistake_is_found_at_its_key() {
    let hs = format!("algorithms = ['HS256']\nsecret = '{SECRET}'");
    let jwks = |url: &str| format!("algorithms = ['RS256']\njwks_url = '{url}'");
    for (jwt, key, says) in [
        ("algorithms = ['HS256']".to_owned(), "", "no key"),
        (format!("{hs}\njwks_url = 'https://x.example'"), "", "several sources"),
        ("algorithms = ['HS256']\nsecret = ''".to_owned(), ".secret", "empty"),
        ("algorithms = ['HS256']\nsecret = 'short'".to_owned(), ".secret", "5 bytes"),
        (
            "algorithms = ['HS256']\nsecret = '-----BEGIN PUBLIC KEY-----'".to_owned(),
            ".secret",
            "PEM",
        ),
        (format!("secret = '{SECRET}'"), ".algorithms", "missing"),
        (format!("algorithms = []\nsecret = '{SECRET}'"), ".algorithms", "missing"),
        (format!("algorithms = ['HS256', 'NONE']\nsecret = '{SECRET}'"), ".algorithms", "anybody"),
        (format!("algorithms = ['hs256']\nsecret = '{SECRET}'"), ".algorithms", "`hs256`"),
        (
            format!("algorithms = ['HS256', 'RS256']\nsecret = '{SECRET}'"),
            ".algorithms",
            "cannot share",
        ),
        (
            "algorithms = ['HS256']\njwks_url = 'https://x.example'".to_owned(),
            ".algorithms",
            "shared secret",
        ),
        (jwks("x.example/jwks.json"), ".jwks_url", "not an address"),
        (jwks("http://x.example/jwks.json"), ".jwks_url", "plain http"),
        (jwks("http://127.0.0.1.x.example/"), ".jwks_url", "plain http"),
        (jwks("ftp://x.example/"), ".jwks_url", "neither"),
        (jwks("https://user:pass@x.example/"), ".jwks_url", "password"),
        (
            "algorithms = ['RS256']\npublic_key_file = '/nowhere.pem'".to_owned(),
            ".public_key_file",
            "cannot be read",
        ),
        (format!("{hs}\nissuer = ''"), ".issuer", "empty"),
        (format!("{hs}\naudience = []"), ".audience", "empty"),
        (format!("{hs}\naudience = ''"), ".audience", "empty"),
        (format!("{hs}\naccount_claim = ''"), ".account_claim", "empty"),
        (format!("{hs}\naccount_prefix = ''"), ".account_prefix", "empty"),
        (format!("{hs}\naccount_prefix = 'a b:'"), ".account_prefix", "visible ASCII"),
        (format!("{hs}\naccount_prefix = 'é:'"), ".account_prefix", "visible ASCII"),
        (format!("{hs}\naccount_prefix = '{}'", "x".repeat(129)), ".account_prefix", "129 bytes"),
        (format!("{hs}\nleeway = '1h'"), ".leeway", "too long"),
        (format!("{hs}\njwks_refresh = '1s'"), ".jwks_refresh", "too often"),
    ] {
        let (keys, texts) = mistakes(&jwt);
        assert_eq!(keys, [format!("auth.jwt[0]{key}")], "{jwt}");
        assert!(texts.contains(says), "{texts}");
        assert!(!texts.contains(SECRET) && !texts.contains("user:pass"));
        // A message is shown without its key, so it must name its subject.
        let subject = if key.is_empty() { "this [[auth.jwt]]" } else { key.trim_matches('.') };
        assert!(texts.lines().next().unwrap().contains(subject), "{texts}");
        let message = texts.split_once(": ").unwrap().1;
        assert!(message.starts_with('`') || message.starts_with("this "), "{texts}");
    }
}

/// Flaws that careless use of `echo` and `export` leaves in a secret.
#[test]
fn a_secret_that_was_mangled_on_its_way_is_a_mistake() {
    for (secret, says) in [
        (format!("{SECRET}\n"), "line break"),
        (format!("{SECRET}\r\n"), "line break"),
        (format!("{SECRET}\n{SECRET}"), "line break"),
        (format!("\n{SECRET}"), "line break"),
        (format!("{SECRET} "), "space"),
        (format!("\t{SECRET}"), "space"),
        (format!("\"{SECRET}\""), "quotes"),
        (format!("'{SECRET}'"), "quotes"),
        (format!("\u{201c}{SECRET}\u{201d}"), "quotes"),
        (format!("{SECRET}\u{7}"), "control character"),
    ] {
        let quoted = toml::Value::from(secret.as_str());
        let (keys, texts) = mistakes(&format!("algorithms = ['HS256']\nsecret = {quoted}"));
        assert_eq!(keys, ["auth.jwt[0].secret"], "{secret:?}");
        assert!(texts.contains(says), "{secret:?}: {texts}");
        assert!(!texts.contains(SECRET), "{texts}");
    }
    for secret in
        ["a passphrase of several words in it", "it's \"quoted\" somewhere inside, and good"]
    {
        let quoted = toml::Value::from(secret);
        let (keys, _) = mistakes(&format!("algorithms = ['HS256']\nsecret = {quoted}"));
        assert!(keys.is_empty(), "{secret}");
    }
}

/// The keys and hints of the mistakes in issuers with these lines, and of the warnings.
fn of_issuers(lines: &[&str]) -> (Vec<String>, Vec<String>) {
    let entry =
        |more: &&str| format!("[[jwt]]\nalgorithms = ['HS256']\nsecret = '{SECRET}'\n{more}\n");
    let config = config(&lines.iter().map(entry).collect::<String>());
    let keys = |found: Vec<crate::config::Mistake>| {
        assert!(found.iter().all(|found| !found.hint.is_empty()), "{found:?}");
        found.into_iter().map(|found| found.key).collect()
    };
    (keys(config.check()), keys(config.warn()))
}

#[test]
fn no_prefix_of_accounts_begins_another() {
    let none: Vec<String> = Vec::new();
    for good in [["account_prefix = 'a:'", "account_prefix = 'b:'"], ["account_prefix = 'a:'"; 2]] {
        assert_eq!(of_issuers(&good), (none.clone(), none.clone()), "{good:?}");
    }
    for (nested, at) in [
        (["account_prefix = 'a:'", "account_prefix = 'a:b:'"], 1),
        (["account_prefix = 'ab'", "account_prefix = 'a'"], 0),
    ] {
        let keys = of_issuers(&nested).0;
        assert_eq!(keys, [format!("auth.jwt[{at}].account_prefix")], "{nested:?}");
    }
}

#[test]
fn issuers_that_share_their_accounts_are_warned_of() {
    let warnings = |lines: &[&str]| of_issuers(lines).1;
    let none: [&str; 0] = [];
    assert_eq!(warnings(&[""]), none);
    assert_eq!(warnings(&["issuer = 'i'", "issuer = 'i'"]), none, "keys that overlap");
    assert_eq!(warnings(&["", "account_prefix = 'a:'"]), none);
    assert_eq!(warnings(&["", ""]), ["auth.jwt[1]"]);
    assert_eq!(warnings(&["issuer = 'i'", "issuer = 'j'"]), ["auth.jwt[1]"]);
    assert_eq!(warnings(&["issuer = 'i'", ""]), ["auth.jwt[1]"]);
    assert_eq!(warnings(&["", "account_prefix = 'a:'", "issuer = 'j'"]), ["auth.jwt[2]"]);
}

#[test]
fn plain_http_is_for_this_machine() {
    for url in
        ["http://127.0.0.1:1/k", "http://[::1]/k", "http://localhost/k", "https://x.example/k"]
    {
        let (keys, _) = mistakes(&format!("algorithms = ['RS256', 'ES256']\njwks_url = '{url}'"));
        assert!(keys.is_empty(), "{url}");
    }
}

#[test]
fn a_key_file_fits_its_algorithms() {
    use jsonwebtoken::Algorithm::{ES256, ES384};
    let check = |algorithms: &str, contents: &str| {
        let file = pem(contents);
        let path = file.path().display();
        mistakes(&format!("algorithms = {algorithms}\npublic_key_file = '{path}'")).1
    };
    let short = include_str!("../../../tests/keys/rsa-too-short.pub.pem");
    let (p256, p384) = (Signer::new(ES256).public_pem, Signer::new(ES384).public_pem);
    assert_eq!(check("['RS256', 'PS512']", RSA_PUBLIC), "");
    assert_eq!(check("['ES256']", &p256), "");
    assert!(check("['RS256']", RSA_PRIVATE).contains("private key"));
    assert!(check("['RS256']", short).contains("no key for"));
    assert!(check("['ES256']", &p384).contains("no key for"));
    assert!(check("['ES256', 'ES384']", &p256).contains("no key for"));
    assert!(check("['EdDSA']", RSA_PUBLIC).contains("no key for"));
    assert!(check("['RS256']", &p256).contains("no key for"));
    assert!(check("['RS256']", "").contains("no key for"));
    assert!(check("['RS256', 'ES256']", RSA_PUBLIC).contains("cannot share"));
    assert!(check("['HS256']", RSA_PUBLIC).contains("shared secret"));
}

#[test]
fn every_mistake_is_reported_at_once() {
    let both = "[[jwt]]\nalgorithms = ['x']\nsecret = ''\n[[jwt]]\nalgorithms = ['HS256']";
    let keys: Vec<_> = config(both).check().into_iter().map(|mistake| mistake.key).collect();
    assert_eq!(keys, ["auth.jwt[0].algorithms", "auth.jwt[0].secret", "auth.jwt[1]"]);
    assert!(Identifier::new(&config(both), Arc::default()).is_err());
}
