//! A thousand clients at once, over three gateways, with credits for exactly `k` of them.

use std::collections::HashSet;

use crate::cluster::{Cluster, Durability, PRICE, ROUTE, in_both_modes};
use crate::support::http::Answer;
use crate::support::token;

in_both_modes!(
    the_last_credit_is_spent_once_by_a_thousand_clients_of_three_gateways,
    fifty_parallel_calls_on_a_balance_for_ten_are_ten,
);

/// Makes `clients` calls at once, spread over all gateways, and returns the ids of the paid ones.
/// All others must be refused for lack of credits.
async fn rush(cluster: &Cluster, account: &str, clients: usize) -> HashSet<String> {
    let bearer = token(account);
    let calls = (0..clients).map(|number| {
        let gateway = cluster.gateway(number % cluster.members.len());
        let request = gateway.client.post(gateway.url(ROUTE)).bearer_auth(&bearer);
        tokio::spawn(Answer::of(request))
    });
    let mut paid = HashSet::new();
    for call in calls.collect::<Vec<_>>() {
        let answer = call.await.unwrap();
        if answer.status == 200 {
            assert!(paid.insert(answer.header("x-request-id").to_owned()));
        } else {
            answer.problem(402, "INSUFFICIENT_CREDITS");
        }
    }
    paid
}

async fn exactly(cluster: &mut Cluster, k: usize, clients: usize) {
    let account = format!("poor-{k}");
    // Four credits more than whole calls: they pay for nothing.
    cluster.grant(&account, k as i64 * PRICE + 4, &format!("gift-{k}")).await;
    let before = cluster.upstream.count();
    let paid = rush(cluster, &account, clients).await;
    assert_eq!(paid.len(), k);
    let served = cluster.upstream.served();
    let served: HashSet<_> = served[before..].iter().map(|call| call.request_id.clone()).collect();
    assert_eq!(served, paid, "a call that was refused reached no upstream");
    assert_eq!(cluster.upstream.count() - before, k);
    cluster.check(&[]).await;
    let shown = cluster.gateway(0).account(&account).await;
    assert_eq!((shown["balance"].as_i64(), shown["held"].as_i64()), (Some(4), Some(0)), "{shown}");
}

async fn the_last_credit_is_spent_once_by_a_thousand_clients_of_three_gateways(
    durability: Durability,
) {
    let mut cluster = Cluster::start(durability, 3).await;
    for k in [1, 10, 137] {
        exactly(&mut cluster, k, 1000).await;
    }
}

async fn fifty_parallel_calls_on_a_balance_for_ten_are_ten(durability: Durability) {
    let mut cluster = Cluster::start(durability, 3).await;
    exactly(&mut cluster, 10, 50).await;
}
