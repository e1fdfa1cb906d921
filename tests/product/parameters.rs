//! Query parameters that a route does not have.

use http::Method;

use crate::http::{admin, ask, get};
use crate::support::{TestGateway, Upstream, token};

#[tokio::test]
async fn an_unknown_query_parameter_is_refused_by_name_on_every_own_route() {
    let upstream = Upstream::canned().await;
    let gateway = TestGateway::before(&upstream, "").await;
    gateway.grant("alice", 10).await;
    let alice = token("alice");
    let service = gateway.key("backend", true).await;
    let description = get(&gateway, "/credits/openapi.json", "").await.expect(200);
    let mut asked = 0;
    for (path, item) in description["paths"].as_object().unwrap() {
        // Other sites write the links to pages and files, so these may carry any parameter. Stripe's events are
        // authenticated by their signature.
        let is_page =
            path.ends_with("/account") || path.contains("/ui/") || path.contains("/webhooks/");
        for method in item.as_object().unwrap().keys().filter(|_| !is_page) {
            let credential = if path.contains("/holds") { &service } else { &alice };
            let method: Method = method.to_uppercase().parse().unwrap();
            let path = path.replace("{id}", "x");
            let path = format!("{path}?format=csv&since=2026-01-01&format=x");
            let answer = ask(&gateway, method.clone(), &path, credential, "{}").await;
            let problem = answer.problem(400, "BAD_REQUEST");
            let detail = problem["detail"].as_str().unwrap();
            assert!(detail.contains("`format`, `since`"), "{method} {path}: {detail}");
            asked += 1;
        }
    }
    assert!(asked >= 15, "{asked}");
    let problem = get(&gateway, "/credits/transactions?format=csv", &alice).await;
    let detail = problem.problem(400, "BAD_REQUEST")["detail"].to_string();
    assert!(detail.contains("`limit`") && detail.contains("`cursor`"), "{detail}");
    let french = gateway.client.get(gateway.url("/credits/balance?x=1")).bearer_auth(&alice);
    let french = crate::http::Answer::of(french.header("accept-language", "fr")).await;
    assert!(french.problem(400, "BAD_REQUEST")["detail"].as_str().unwrap().contains("paramètres"));

    // The parameters of a route are taken, in any spelling of a query.
    for known in [
        "transactions?limit=1&cursor=",
        "usage?days=1",
        "balance",
        "balance?",
        "balance?&",
        "packs",
    ] {
        get(&gateway, &format!("/credits/{known}"), &alice).await.expect(200);
    }
    let page = gateway.client.get(gateway.url("/credits/account?paid=1&utm_source=mail"));
    assert_eq!(page.send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn an_unknown_query_parameter_is_refused_on_admin_routes_once_the_token_is_right() {
    let upstream = Upstream::canned().await;
    let gateway = TestGateway::before(&upstream, "").await;
    gateway.grant("alice", 10).await;
    for path in [
        "/admin/accounts",
        "/admin/accounts/alice",
        "/admin/accounts/alice/transactions",
        "/admin/accounts/alice/keys",
        "/admin/entries",
        "/admin/holds",
        "/admin/overview",
        "/admin/stripe/events",
        "/admin/reconcile",
    ] {
        let asked = format!("{path}?fromat=csv");
        let problem = admin(&gateway, Method::GET, &asked, "").await.problem(400, "BAD_REQUEST");
        assert!(problem["detail"].as_str().unwrap().contains("`fromat`"), "{path}: {problem}");
        let stranger = gateway.client.get(gateway.admin_url(&asked)).bearer_auth("wrong");
        assert_eq!(stranger.send().await.unwrap().status(), 401, "{path}");
    }
    let grant = r#"{"credits":5,"id":"x"}"#;
    let path = "/admin/accounts/alice/grants?dry_run=1";
    admin(&gateway, Method::POST, path, grant).await.problem(400, "BAD_REQUEST");
    assert_eq!(gateway.balance("alice").await["balance"], 10, "nothing was granted");
    for probe in ["/healthz?verbose", "/readyz?x=1", "/metrics?format=openmetrics"] {
        assert_eq!(
            gateway.client.get(gateway.admin_url(probe)).send().await.unwrap().status(),
            200
        );
    }
}

/// Every answer has `nosniff`, so browsers go by its declared type alone.
#[tokio::test]
async fn no_answer_of_farebox_s_own_is_sniffed() {
    let upstream = Upstream::canned().await;
    let gateway = TestGateway::before(&upstream, "").await;
    let alice = token("alice");
    for path in [
        "/credits/packs",
        "/credits/balance",
        "/credits/nothing",
        "/nothing",
        "/credits/openapi.json",
    ] {
        let answer = get(&gateway, path, &alice).await;
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "{path}");
    }
    let poor = ask(&gateway, Method::POST, "/api/ai/generate", &alice, "{}").await;
    poor.expect(402);
    assert_eq!(poor.header("x-content-type-options"), "nosniff");
    let listed = admin(&gateway, Method::GET, "/admin/accounts", "").await;
    assert_eq!(listed.header("x-content-type-options"), "nosniff");
    let anonymous = get(&gateway, "/credits/balance", "nobody").await;
    anonymous.expect(401);
    assert_eq!(anonymous.header("x-content-type-options"), "nosniff");
}
