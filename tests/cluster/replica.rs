//! Lists are read from a hot standby of Postgres: what is seen while it lags, and while it is away.

use http::Method;
use serde_json::Value;

use crate::cluster::{Cluster, Durability, PRICE, Plan, ROUTE, in_both_modes};
use crate::support::http::Answer;
use crate::support::process::Process;
use crate::support::{eventually, token};

in_both_modes!(
    a_replica_that_lags_shows_old_lists_and_current_accounts,
    only_lists_are_503_while_the_replica_is_away,
);

async fn with_a_replica(durability: Durability) -> Cluster {
    Cluster::of(&Plan { has_replica: true, ..Plan::new(durability, 2) }).await
}

/// `GET path` of the public listener by `account`.
async fn get(gateway: &Process, path: &str, account: &str) -> Answer {
    Answer::of(gateway.client.get(gateway.url(path)).bearer_auth(token(account))).await
}

/// The lines of the account's own list.
async fn lines(gateway: &Process, account: &str) -> Vec<Value> {
    let page = get(gateway, "/credits/transactions", account).await.expect(200);
    page["transactions"].as_array().unwrap().clone()
}

/// The accounts that the operator finds.
async fn found(gateway: &Process, search: &str) -> usize {
    let path = format!("/admin/accounts?search={search}");
    let page = gateway.admin(Method::GET, &path, "").await.expect(200);
    page["accounts"].as_array().unwrap().len()
}

async fn a_replica_that_lags_shows_old_lists_and_current_accounts(durability: Durability) {
    let mut cluster = with_a_replica(durability).await;
    let replay = |sql: &str| cluster.replica.as_ref().unwrap().sql("postgres", sql);
    replay("SELECT pg_wal_replay_pause()");
    let paused = async || replay("SELECT pg_get_wal_replay_pause_state()") == "paused";
    assert!(eventually(paused).await, "the replica does not pause");

    cluster.grant("erin", 100, "gift-erin").await;
    for member in &cluster.members {
        let gateway = &member.process;
        assert_eq!(gateway.account("erin").await["balance"], 100);
        assert_eq!(get(gateway, "/credits/balance", "erin").await.expect(200)["balance"], 100);
        assert_eq!(lines(gateway, "erin").await, [Value::Null; 0]);
        assert_eq!(found(gateway, "erin").await, 0);
    }
    cluster.gateway(0).post("erin", ROUTE).await.expect(200);

    cluster.replica.as_ref().unwrap().sql("postgres", "SELECT pg_wal_replay_resume()");
    for member in &cluster.members {
        let gateway = &member.process;
        let shown = async || lines(gateway, "erin").await.len() == 2;
        assert!(eventually(shown).await, "the replica's lists stay old");
        assert_eq!(found(gateway, "erin").await, 1);
        assert_eq!(gateway.account("erin").await["balance"], 100 - PRICE);
    }
    cluster.check(&[]).await;
}

async fn only_lists_are_503_while_the_replica_is_away(durability: Durability) {
    let mut cluster = with_a_replica(durability).await;
    let (_, service) = cluster.key(0, "backend", true).await;
    let shown = async || lines(cluster.gateway(0), "alice").await.len() == 1;
    assert!(eventually(shown).await, "the replica does not show the grant");
    cluster.members[0].to_replica.as_ref().unwrap().part();

    let gateway = cluster.gateway(0);
    for path in ["/credits/transactions", "/credits/usage?days=7"] {
        get(gateway, path, "alice").await.problem(503, "LEDGER_UNAVAILABLE");
    }
    for path in [
        "/admin/accounts",
        "/admin/accounts/alice/transactions",
        "/admin/entries",
        "/admin/holds",
        "/admin/overview",
    ] {
        let answer = gateway.admin(Method::GET, path, "").await;
        answer.problem(503, "LEDGER_UNAVAILABLE");
    }

    let granted = gateway.grant("frank", 50, "gift-frank").await;
    assert_eq!(granted["balance_after"], 50, "{granted}");
    gateway.post("frank", ROUTE).await.expect(200);
    let hold = |path: &str, body: &'static str| {
        let request = gateway.client.post(gateway.url(path)).bearer_auth(&service);
        Answer::of(request.header("x-farebox-account", "frank").body(body))
    };
    hold("/credits/holds", r#"{"id":"job-1","credits":10}"#).await.expect(201);
    hold("/credits/holds/job-1/release", "").await.expect(200);
    let balance = get(gateway, "/credits/balance", "frank").await.expect(200);
    assert_eq!(balance["available"], 50 - PRICE, "{balance}");
    assert_eq!(gateway.account("frank").await["available"], 50 - PRICE);
    let ready = gateway.client.get(format!("http://{}/readyz", gateway.admin)).send().await;
    assert_eq!(ready.unwrap().status(), 200);

    // The other gateway has a line of its own.
    let shown = async || lines(cluster.gateway(1), "frank").await.len() == 2;
    assert!(eventually(shown).await, "the lists of the other gateway stay old");
    cluster.members[0].to_replica.as_ref().unwrap().mend();
    let served = async || get(gateway, "/credits/transactions", "frank").await.status == 200;
    assert!(eventually(served).await, "lists stay 503");
    assert_eq!(lines(gateway, "frank").await.len(), 2);
    cluster.granted.insert("frank".to_owned(), 50);
    cluster.check(&[]).await;
}
