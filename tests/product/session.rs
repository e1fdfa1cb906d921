//! The account page's cookie: what it opens, and to whom it does not.

use farebox::config::Secret;
use http::Method;
use serde_json::json;

use crate::http::{Answer, admin, get, plain_client};
use crate::support::h2::{TLS, http2, write_certificate};
use crate::support::{
    ADMIN_TOKEN, JWT_SECRET, TestGateway, Upstream, config_text, config_with, token, token_signed,
};

const PACKS: &str = "[[packs]]\nid = \"p\"\ncredits = 100\nprice = \"19.00 EUR\"\n";

async fn shop() -> (Upstream, TestGateway) {
    let upstream = Upstream::canned().await;
    let text = config_text(upstream.address, PACKS);
    let folder = tempfile::tempdir().unwrap();
    let mut config = crate::support::parse(&text, folder.path());
    config.stripe = Some(farebox::stripe::StripeConfig::sandbox(Some(Secret::new("sk_test_1"))));
    let gateway = farebox::gateway::Gateway::start(&config).await.unwrap();
    let client = plain_client().build().unwrap();
    let gateway = TestGateway { gateway, folder, client };
    gateway.grant("alice", 100).await;
    (upstream, gateway)
}

/// The headers that the page itself sends, as a browser marks them.
fn from_page(request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
    request.header("sec-fetch-site", "same-origin")
}

/// Signs in, and returns the answer.
async fn sign_in(gateway: &TestGateway, credential: &str) -> Answer {
    let request = gateway.client.post(gateway.url("/credits/session")).bearer_auth(credential);
    Answer::of(from_page(request)).await
}

/// The `name=value` that a browser would send back.
fn cookie(answer: &Answer) -> String {
    answer.expect(200);
    answer.header("set-cookie").split(';').next().unwrap().to_owned()
}

async fn ask(
    gateway: &TestGateway,
    method: Method,
    path: &str,
    cookie: &str,
    headers: &[(&str, &str)],
    body: &'static str,
) -> Answer {
    let mut request = gateway.client.request(method, gateway.url(path)).header("cookie", cookie);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    Answer::of(request.body(body)).await
}

const PAGE: &[(&str, &str)] = &[("sec-fetch-site", "same-origin")];

#[tokio::test]
async fn a_token_becomes_a_cookie_that_scripts_cannot_read_and_other_sites_do_not_send() {
    let (_upstream, gateway) = shop().await;
    let answer = sign_in(&gateway, &token("alice")).await;
    let body = answer.expect(200);
    assert_eq!((&body["account"], &body["may_manage_keys"]), (&json!("alice"), &json!(true)));
    assert!(body["expires_at"].as_str().unwrap().ends_with('Z'), "{body}");
    assert_eq!(answer.header("cache-control"), "no-store");
    let set = answer.header("set-cookie");
    let parts: Vec<&str> = set.split("; ").collect();
    assert!(parts[0].starts_with("__Host-farebox_session="), "{set}");
    for part in ["HttpOnly", "SameSite=Strict", "Path=/", "Secure"] {
        assert!(parts.contains(&part), "{part}: {set}");
    }
    assert!(!set.contains("Domain"), "{set}");
    let seconds = parts.iter().find_map(|part| part.strip_prefix("Max-Age=")).unwrap();
    assert!((3500..=3600).contains(&seconds.parse::<u32>().unwrap()), "{set}");

    let cookie = cookie(&answer);
    for path in ["/credits/balance", "/credits/transactions", "/credits/usage", "/credits/keys"] {
        ask(&gateway, Method::GET, path, &cookie, PAGE, "").await.expect(200);
    }
    let session = ask(&gateway, Method::GET, "/credits/session", &cookie, PAGE, "").await;
    assert_eq!(session.expect(200)["account"], "alice");
    // The answer to a visitor who is not signed in is no error.
    let nobody = ask(&gateway, Method::GET, "/credits/session", "x=y", PAGE, "").await;
    assert_eq!((nobody.status.as_u16(), &*nobody.text), (204, ""));
    ask(&gateway, Method::GET, "/credits/session", "__Host-farebox_session=y", PAGE, "")
        .await
        .problem(401, "UNAUTHENTICATED");
    let bought =
        ask(&gateway, Method::POST, "/credits/buy", &cookie, PAGE, r#"{"pack":"p"}"#).await;
    assert!(bought.expect(200)["checkout_url"].is_string());
    let out = ask(&gateway, Method::DELETE, "/credits/session", &cookie, PAGE, "").await;
    out.expect(204);
    let cleared: Vec<_> = out.headers.get_all("set-cookie").iter().collect();
    for (cookie, name) in cleared.iter().zip(["__Host-farebox_session=;", "farebox_session=;"]) {
        let cookie = cookie.to_str().unwrap();
        assert!(cookie.starts_with(name) && cookie.contains("Max-Age=0"), "{cookie}");
    }
    assert_eq!(cleared.len(), 2);
}

/// The headers behind a proxy that ends TLS: nginx puts an address of its own into `host`, unless it
/// is told otherwise, and says nothing of the scheme.
#[tokio::test]
async fn the_cookie_follows_the_pages_own_scheme_whatever_a_proxy_says() {
    let (_upstream, gateway) = shop().await;
    let signed = async |headers: &[(&str, &str)]| {
        let mut request = gateway.client.post(gateway.url("/credits/session"));
        request = from_page(request.bearer_auth(token("alice")));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = Answer::of(request).await;
        answer.expect(200);
        answer.header("set-cookie").to_owned()
    };
    let https = ("x-farebox-page", "https");
    let http = ("x-farebox-page", "http");
    for headers in [
        &[https, ("host", "127.0.0.1:8080")][..],
        &[https, ("host", "localhost"), ("x-forwarded-proto", "http")],
        &[("host", "127.0.0.1:8080")],
        &[("host", "pay.example.com"), ("x-forwarded-proto", "http")],
    ] {
        let set = signed(headers).await;
        assert!(set.starts_with("__Host-farebox_session=") && set.contains("; Secure"), "{set}");
    }
    for headers in [
        &[http, ("host", "127.0.0.1:8080")][..],
        &[http, ("host", "pay.example.com"), ("x-forwarded-proto", "https")],
    ] {
        let set = signed(headers).await;
        assert!(set.starts_with("farebox_session=") && !set.contains("Secure"), "{set}");
        assert!(set.contains("; Path=/credits"), "{set}");
    }
}

#[tokio::test]
async fn a_cookie_of_the_whole_domain_neither_signs_in_nor_locks_out_over_https() {
    let (_upstream, gateway) = shop().await;
    let alice = cookie(&sign_in(&gateway, &token("alice")).await);
    let planted = format!("farebox_session={}", token("mallory"));
    let https = [("sec-fetch-site", "same-origin"), ("x-farebox-page", "https")];
    let http = [("sec-fetch-site", "same-origin"), ("x-farebox-page", "http")];
    for both in [format!("{planted}; {alice}"), format!("{alice}; {planted}")] {
        for page in [&https[..], &http, PAGE] {
            let answer = ask(&gateway, Method::GET, "/credits/balance", &both, page, "").await;
            assert_eq!(answer.expect(200)["account"], "alice", "{page:?}");
        }
    }
    for page in [&https[..], PAGE] {
        let answer = ask(&gateway, Method::GET, "/credits/balance", &planted, page, "").await;
        answer.problem(401, "UNAUTHENTICATED");
    }
    let answer = ask(&gateway, Method::GET, "/credits/balance", &planted, &http, "").await;
    assert_eq!(answer.expect(200)["account"], "mallory", "over http there is no better cookie");
}

#[tokio::test]
async fn a_session_ends_with_its_token_and_with_its_key() {
    let (_upstream, gateway) = shop().await;
    let exp = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let claims = json!({ "sub": "alice", "exp": exp + 60 });
    let key = jsonwebtoken::EncodingKey::from_secret(JWT_SECRET.as_bytes());
    let short = jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).unwrap();
    let set = sign_in(&gateway, &short).await;
    let seconds = set.header("set-cookie").split("Max-Age=").nth(1).unwrap().to_owned();
    let seconds: u32 = seconds.split(';').next().unwrap().parse().unwrap();
    assert!(seconds <= 90, "with the issuer's leeway: {seconds}");

    let key = gateway.key("alice", false).await;
    let answer = sign_in(&gateway, &key).await;
    assert_eq!(answer.expect(200)["may_manage_keys"], false);
    let cookie = cookie(&answer);
    ask(&gateway, Method::GET, "/credits/balance", &cookie, PAGE, "").await.expect(200);
    let keys = gateway.admin(Method::GET, "/admin/accounts/alice/keys", None).await;
    let id = keys["keys"][0]["id"].as_str().unwrap();
    admin(&gateway, Method::DELETE, &format!("/admin/keys/{id}"), "").await.expect(204);
    let after = ask(&gateway, Method::GET, "/credits/balance", &cookie, PAGE, "").await;
    after.problem(401, "UNAUTHENTICATED");
}

#[tokio::test]
async fn nobody_signs_a_browser_in_from_elsewhere() {
    let (_upstream, gateway) = shop().await;
    let host = gateway.public().to_string();
    let sent = async |headers: &[(&str, &str)]| {
        let mut request = gateway.client.post(gateway.url("/credits/session"));
        request = request.bearer_auth(token("alice"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Answer::of(request).await
    };
    sent(&[("origin", &format!("http://{host}"))]).await.expect(200);
    for headers in [
        &[][..],
        &[("sec-fetch-site", "cross-site")],
        &[("sec-fetch-site", "same-site")],
        &[("sec-fetch-site", "none")],
        &[("origin", "https://evil.example")],
        &[("origin", "null")],
        &[("sec-fetch-site", "cross-site"), ("origin", &format!("http://{host}"))],
    ] {
        let answer = sent(headers).await;
        answer.problem(403, "FORBIDDEN");
        assert_eq!(answer.header("set-cookie"), "", "{headers:?}");
    }
    let nobody = gateway.client.post(gateway.url("/credits/session"));
    Answer::of(from_page(nobody)).await.problem(401, "UNAUTHENTICATED");
    sign_in(&gateway, "fb_nonsense").await.problem(401, "UNAUTHENTICATED");
    // A cookie makes no new cookie: it would never end.
    let cookie = cookie(&sign_in(&gateway, &token("alice")).await);
    let again = ask(&gateway, Method::POST, "/credits/session", &cookie, PAGE, "").await;
    again.problem(401, "UNAUTHENTICATED");
}

#[tokio::test]
async fn a_page_of_another_site_neither_reads_nor_buys_nor_makes_keys_with_the_cookie() {
    let (_upstream, gateway) = shop().await;
    let cookie = cookie(&sign_in(&gateway, &token("alice")).await);
    let host = gateway.public().to_string();
    for foreign in [
        &[("sec-fetch-site", "cross-site"), ("origin", "https://evil.example")][..],
        &[("sec-fetch-site", "same-site"), ("origin", "https://other.example.com")],
        &[("origin", "https://evil.example")],
        &[("origin", "null")],
    ] {
        let session = ask(&gateway, Method::GET, "/credits/session", &cookie, foreign, "").await;
        assert_eq!((session.status.as_u16(), &*session.text), (204, ""), "{foreign:?}");
        for path in ["/credits/balance", "/credits/keys", "/credits/events"] {
            let answer = ask(&gateway, Method::GET, path, &cookie, foreign, "").await;
            answer.problem(401, "UNAUTHENTICATED");
            assert_eq!(answer.header("access-control-allow-origin"), "");
        }
        for (method, path, body) in [
            (Method::POST, "/credits/buy", r#"{"pack":"p"}"#),
            (Method::POST, "/credits/keys", r#"{"name":"mine"}"#),
            (Method::DELETE, "/credits/keys/key_1", ""),
            (Method::POST, "/credits/check", r#"{"endpoint":"/api/ai/generate"}"#),
            (Method::DELETE, "/credits/session", ""),
        ] {
            let answer = ask(&gateway, method, path, &cookie, foreign, body).await;
            answer.problem(403, "FORBIDDEN");
        }
    }
    // A request that no browser vouches for changes nothing either; a page that a person opens may be read.
    for unsure in [&[][..], &[("sec-fetch-site", "none")]] {
        let body = r#"{"name":"mine"}"#;
        ask(&gateway, Method::POST, "/credits/keys", &cookie, unsure, body)
            .await
            .problem(403, "FORBIDDEN");
        ask(&gateway, Method::GET, "/credits/balance", &cookie, unsure, "").await.expect(200);
    }
    let ours = [("origin", &*format!("http://{host}"))];
    let body = r#"{"name":"mine"}"#;
    ask(&gateway, Method::POST, "/credits/keys", &cookie, &ours, body).await.expect(201);
    let keys = ask(&gateway, Method::GET, "/credits/keys", &cookie, PAGE, "").await.expect(200);
    assert_eq!(keys["keys"].as_array().unwrap().len(), 1, "{keys}");
}

#[tokio::test]
async fn an_allowed_origin_cannot_use_the_cookie_either() {
    let upstream = Upstream::canned().await;
    let more = "[api]\ncors_origins = [\"https://app.example.com\"]";
    let gateway = TestGateway::before(&upstream, more).await;
    let cookie = cookie(&sign_in(&gateway, &token("alice")).await);
    let app = [("sec-fetch-site", "cross-site"), ("origin", "https://app.example.com")];
    let answer = ask(&gateway, Method::GET, "/credits/balance", &cookie, &app, "").await;
    answer.problem(401, "UNAUTHENTICATED");
    assert_eq!(answer.header("access-control-allow-credentials"), "");
}

#[tokio::test]
async fn a_service_key_never_signs_a_browser_in() {
    let (_upstream, gateway) = shop().await;
    let service = gateway.key("backend", true).await;
    sign_in(&gateway, &service).await.problem(403, "FORBIDDEN");
    let by_hand = format!("__Host-farebox_session={service}");
    let headers = [("sec-fetch-site", "same-origin"), ("x-farebox-account", "alice")];
    let answer = ask(&gateway, Method::GET, "/credits/balance", &by_hand, &headers, "").await;
    answer.problem(403, "FORBIDDEN");
    let hold = r#"{"id":"h","credits":1}"#;
    let answer = ask(&gateway, Method::POST, "/credits/holds", &by_hand, &headers, hold).await;
    answer.problem(401, "UNAUTHENTICATED");
}

#[tokio::test]
async fn another_credential_comes_before_the_cookie_and_two_cookies_are_none() {
    let (_upstream, gateway) = shop().await;
    let alice = cookie(&sign_in(&gateway, &token("alice")).await);
    let bob = cookie(&sign_in(&gateway, &token("bob")).await);
    let bearer = format!("Bearer {}", token("carol"));
    let headers = [("sec-fetch-site", "cross-site"), ("authorization", &*bearer)];
    let answer = ask(&gateway, Method::GET, "/credits/balance", &alice, &headers, "").await;
    assert_eq!(answer.expect(200)["account"], "carol");
    let wrong = [("sec-fetch-site", "same-origin"), ("x-api-key", "fb_wrong")];
    let answer = ask(&gateway, Method::GET, "/credits/balance", &alice, &wrong, "").await;
    answer.problem(401, "UNAUTHENTICATED");
    // No browser sends two cookies of that name. A client that does is signed in as no account.
    let both = format!("{alice}; other=1; {bob}");
    let answer = ask(&gateway, Method::GET, "/credits/balance", &both, PAGE, "").await;
    answer.problem(401, "UNAUTHENTICATED");
    let twice = format!("a=b; {alice}; {alice}");
    let answer = ask(&gateway, Method::GET, "/credits/balance", &twice, PAGE, "").await;
    assert_eq!(answer.expect(200)["account"], "alice");
}

#[tokio::test]
async fn on_priced_routes_the_cookie_counts_for_nothing_and_goes_no_further() {
    let (upstream, gateway) = shop().await;
    let cookie = cookie(&sign_in(&gateway, &token("alice")).await);
    let answer = ask(&gateway, Method::POST, "/api/ai/generate", &cookie, PAGE, "{}").await;
    answer.problem(401, "UNAUTHENTICATED");
    assert_eq!(upstream.seen().len(), 0);
    let bearer = format!("Bearer {}", token("alice"));
    let secret = cookie.split_once('=').unwrap().1;
    for (sent, forwarded) in [
        (cookie.clone(), None),
        (format!("theme=dark; {cookie}; lang=fr"), Some("theme=dark; lang=fr")),
        (format!("{cookie};lang=fr"), Some("lang=fr")),
        (format!("farebox_session={}; lang=fr", token("alice")), Some("lang=fr")),
        ("my_farebox_session=1; a=b".to_owned(), Some("my_farebox_session=1; a=b")),
    ] {
        let headers = [("authorization", &*bearer)];
        ask(&gateway, Method::POST, "/api/ai/generate", &sent, &headers, "{}").await.expect(200);
        let seen = upstream.seen().pop().unwrap();
        assert_eq!(seen.header("cookie"), forwarded, "{sent}");
        let leaked = seen.headers.values().any(|value| value.to_str().unwrap().contains(secret));
        assert!(!leaked, "{:?}", seen.headers);
    }
    // The cookie does not open the operator's page either.
    for name in ["__Host-farebox_session", "farebox_session"] {
        let request = gateway.client.get(gateway.admin_url("/admin/accounts"));
        let answer = Answer::of(request.header("cookie", format!("{name}={ADMIN_TOKEN}"))).await;
        answer.problem(401, "UNAUTHENTICATED");
    }
}

#[tokio::test]
async fn over_http_2_the_page_is_known_by_its_origin_too() {
    let folder = tempfile::tempdir().unwrap();
    let certificate = write_certificate(folder.path());
    let upstream = Upstream::canned().await;
    let text = config_with(upstream.address, TLS, "", "");
    let gateway = TestGateway::start_in(folder, &text).await;
    let mut client = http2(gateway.public(), &certificate).await;
    for (origin, status) in [("https://shop.test", 200), ("https://evil.test", 403)] {
        let request = http::Request::post("https://shop.test/credits/session")
            .header("authorization", format!("Bearer {}", token("alice")))
            .header("origin", origin);
        let (answer, _) = client.send_request(request.body(()).unwrap(), true).unwrap();
        let answer = answer.await.unwrap();
        assert_eq!(answer.status(), status, "{origin}");
        let cookie = answer.headers().get("set-cookie").map(|cookie| cookie.to_str().unwrap());
        assert_eq!(cookie.is_some_and(|cookie| cookie.ends_with("; Secure")), status == 200);
    }
}

#[tokio::test]
async fn a_credential_that_no_cookie_holds_is_refused_in_clear_words() {
    let (_upstream, gateway) = shop().await;
    let exp = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let claims = json!({ "sub": "alice", "exp": exp + 600, "groups": "x".repeat(3000) });
    let key = jsonwebtoken::EncodingKey::from_secret(JWT_SECRET.as_bytes());
    let long = jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).unwrap();
    get(&gateway, "/credits/balance", &long).await.expect(200);
    let refused = sign_in(&gateway, &long).await.problem(400, "BAD_REQUEST");
    assert!(refused["detail"].as_str().unwrap().contains("too long"), "{refused}");
}

/// The prefix tells issuers apart; people know themselves by their own names.
#[tokio::test]
async fn a_buyer_is_named_without_the_prefix_of_their_issuer() {
    const SECRET: &str = "another secret of the tests, longer than 32 bytes";
    let upstream = Upstream::canned().await;
    let issuer = format!(
        "[[auth.jwt]]\nalgorithms = [\"HS256\"]\nsecret = \"{SECRET}\"\naccount_prefix = \"acme:\"\n"
    );
    let gateway = TestGateway::start(&config_text(upstream.address, &issuer)).await;
    let bob = token_signed(SECRET, "bob", 3600);
    let signed_in = sign_in(&gateway, &bob).await;
    let session =
        ask(&gateway, Method::GET, "/credits/session", &cookie(&signed_in), PAGE, "").await;
    let by_token = get(&gateway, "/credits/session", &bob).await;
    for answer in [&signed_in, &session, &by_token] {
        let body = answer.expect(200);
        assert_eq!(
            (&body["account"], &body["name"]),
            (&json!("acme:bob"), &json!("bob")),
            "{body}"
        );
    }
    // An account's own key knows no issuer, and another issuer's accounts have no prefix.
    let key = admin(&gateway, Method::POST, "/admin/accounts/acme%3Abob/keys", "{}").await;
    let key = key.expect(201)["key"].as_str().unwrap().to_owned();
    assert_eq!(sign_in(&gateway, &key).await.expect(200)["name"], "bob");
    assert_eq!(sign_in(&gateway, &token("alice")).await.expect(200)["name"], "alice");
    // Operators see the whole id.
    let account = admin(&gateway, Method::GET, "/admin/accounts/acme%3Abob", "").await;
    assert_eq!(account.expect(200)["account"], "acme:bob");
}
