//! The interleavings that broke earlier drafts of the protocol, as far as they can be staged from
//! outside. The remaining ones are tested in `redis_loss` (a restart from an old copy that carries
//! the current epoch; a gateway that lost only Postgres) and `lines` (a hold that commits after its
//! caller was told 503; a hold that runs after its release; a commit whose answer is lost).

use std::time::Duration;

use http::Method;

use crate::cluster::{BACK_WITHIN, Cluster, Durability, PRICE, ROUTE, in_both_modes};
use crate::load::Shape;
use crate::support::eventually;
use crate::support::http::Answer;
use crate::support::token;

in_both_modes!(
    one_grant_id_for_two_accounts_at_once_is_one_grant,
    a_grant_that_is_sent_again_after_redis_was_lost_is_one_grant,
    a_gateway_that_was_stopped_brings_what_it_remembers,
    a_strict_hold_outlives_redis_and_its_gateway,
);

/// On two gateways at the same time, with and without the account being known.
async fn one_grant_id_for_two_accounts_at_once_is_one_grant(durability: Durability) {
    let mut cluster = Cluster::start(durability, 2).await;
    for round in 0..20 {
        let accounts = [format!("one-{round}"), format!("two-{round}")];
        let body = format!(r#"{{"credits":100,"id":"gift-{round}"}}"#);
        let grant = async |number: usize| {
            let path = format!("/admin/accounts/{}/grants", accounts[number]);
            cluster.gateway(number).admin(Method::POST, &path, &body).await
        };
        let (one, two) = futures_util::join!(grant(0), grant(1));
        let granted = [&one, &two].map(|answer| answer.status == 200);
        assert_ne!(granted[0], granted[1], "{} {}", one.text, two.text);
        let (refused, account) = if granted[0] { (two, 0) } else { (one, 1) };
        assert_eq!(refused.status, 409, "{}", refused.text);
        // The same grant is sent to both gateways again.
        let (one, two) = futures_util::join!(grant(0), grant(1));
        assert_eq!([one.status == 200, two.status == 200], granted, "{} {}", one.text, two.text);
        cluster.granted.insert(accounts[account].clone(), 100);
    }
    cluster.check(&[]).await;
}

async fn a_grant_that_is_sent_again_after_redis_was_lost_is_one_grant(durability: Durability) {
    let mut cluster = Cluster::start(durability, 2).await;
    let first = cluster.grant("erin", 100, "gift-erin").await;
    cluster.gateway(0).post("erin", ROUTE).await.expect(200);
    cluster.check(&[]).await;
    cluster.redis.flush_all();
    for number in 0..2 {
        let again = async || {
            let path = "/admin/accounts/erin/grants";
            let body = r#"{"credits":100,"id":"gift-erin"}"#;
            cluster.gateway(number).admin(Method::POST, path, body).await
        };
        let mut answer = again().await;
        let answered = eventually(async || {
            answer = again().await;
            answer.status == 200
        });
        assert!(answered.await, "{}", answer.text);
        assert_eq!(answer.json()["id"], first["id"]);
    }
    cluster.check(&[]).await;
}

/// A gateway's calls are in Redis and in its memory, not yet in Postgres, when the gateway is stopped and Redis is
/// lost. Another gateway recovers without the stopped one, which then goes on.
async fn a_gateway_that_was_stopped_brings_what_it_remembers(durability: Durability) {
    let mut cluster = Cluster::start(durability, 2).await;
    let load = cluster.load();
    load.serves_within(BACK_WITHIN).await;
    for member in &cluster.members {
        member.to_postgres.part();
    }
    cluster.some_time(300, 900).await;
    cluster.members[0].pause();
    cluster.redis.flush_all();
    for member in &cluster.members {
        member.to_postgres.mend();
    }
    load.gateway_serves_within(1, 2, BACK_WITHIN).await;
    cluster.members[0].resume();
    load.serves_within(BACK_WITHIN).await;
    let calls = load.stop().await;
    cluster.check(&calls).await;
}

/// In `strict` a hold is in Postgres before its call is forwarded, so the hold outlives the loss of
/// Redis and the gateway while the upstream works. In `relaxed` the hold may be lost, and then
/// nothing is held. In both modes nothing is charged.
async fn a_strict_hold_outlives_redis_and_its_gateway(durability: Durability) {
    const CALLS: i64 = 8;
    let mut cluster = Cluster::start(durability, 2).await;
    cluster.grant("erin", 100, "gift-erin").await;
    let calls: Vec<_> = (0..CALLS)
        .map(|_| {
            let gateway = cluster.gateway(0);
            let request = gateway.client.post(gateway.url(ROUTE)).bearer_auth(token("erin"));
            tokio::spawn(request.header("x-client", 0).header("x-delay-ms", 30_000).send())
        })
        .collect();
    assert!(eventually(async || cluster.upstream.count() as i64 == CALLS).await);
    cluster.redis.kill();
    cluster.kill_gateway(0);
    for call in calls {
        assert!(call.await.unwrap().is_err());
    }
    cluster.redis.restart();
    cluster.restart_gateway(0);
    let load = cluster.load_of(&Shape { clients: 8, ..Shape::default() });
    load.serves_within(BACK_WITHIN).await;
    load.stop().await;
    let shown = cluster.gateway(0).account("erin").await;
    assert_eq!(shown["balance"], 100, "{shown}");
    if durability == Durability::Strict {
        assert_eq!(shown["held"], CALLS * PRICE, "{shown}");
    }
}

/// A call's hold lasts a minute if its gateway does not renew it. A stream that runs for longer
/// keeps its hold, and the hold of a lost gateway expires. This is the slowest test here, and
/// nearly all of it is waiting.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hold_is_renewed_under_a_live_call_and_expires_under_a_dead_one() {
    const MINUTE_AND_MORE: Duration = Duration::from_secs(75);
    let mut cluster = Cluster::start(Durability::Relaxed, 2).await;
    cluster.grant("erin", 100, "gift-erin").await;
    cluster.grant("frank", 100, "gift-frank").await;
    let call = |number: usize, account: &str| {
        let gateway = cluster.gateway(number);
        let request = gateway.client.post(gateway.url(ROUTE)).bearer_auth(token(account));
        let delay = MINUTE_AND_MORE.as_millis() as u64;
        tokio::spawn(request.header("x-client", number).header("x-delay-ms", delay).send())
    };
    let long = call(1, "erin");
    let dead = call(0, "frank");
    assert!(eventually(async || cluster.upstream.count() == 2).await);
    cluster.kill_gateway(0);
    assert!(dead.await.unwrap().is_err());
    cluster.restart_gateway(0);
    assert_eq!(cluster.gateway(1).account("frank").await["held"], PRICE);
    while !long.is_finished() {
        let shown = cluster.gateway(0).account("erin").await;
        let done = shown["balance"] == 100 - PRICE;
        assert!(shown["held"] == PRICE || done, "it runs and nothing is held: {shown}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let answer = long.await.unwrap().unwrap();
    assert_eq!(answer.status(), 200);
    let expired = async || cluster.gateway(1).account("frank").await["held"] == 0;
    assert!(eventually(expired).await, "{}", cluster.gateway(1).account("frank").await);
    assert_eq!(cluster.gateway(1).account("frank").await["balance"], 100);
    cluster.check(&[]).await;
}

/// The same hold of a service, on all gateways at once: one hold, one capture.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_every_gateway_is_told_of_is_held_and_captured_once() {
    let mut cluster = Cluster::start(Durability::Strict, 3).await;
    cluster.grant("erin", 100, "gift-erin").await;
    let (_, key) = cluster.key(0, "erin", true).await;
    for number in 0..3 {
        let known = async || {
            let gateway = cluster.gateway(number);
            let asked = gateway.client.get(gateway.url("/credits/balance")).bearer_auth(&key);
            Answer::of(asked).await.status == 200
        };
        assert!(eventually(known).await);
    }
    let everywhere = async |path: &str, body: &str| {
        let calls = (0..30).map(|number| {
            let gateway = cluster.gateway(number % 3);
            let request = gateway.client.post(gateway.url(path)).bearer_auth(&key);
            tokio::spawn(Answer::of(request.body(body.to_owned())))
        });
        let mut answers = Vec::new();
        for call in calls.collect::<Vec<_>>() {
            answers.push(call.await.unwrap());
        }
        answers
    };
    for answer in everywhere("/credits/holds", r#"{"credits":7,"id":"job-1"}"#).await {
        assert!(answer.status.is_success(), "{}", answer.text);
    }
    assert_eq!(cluster.gateway(0).account("erin").await["held"], 7);
    for answer in everywhere("/credits/holds/job-1/capture", r#"{"credits":5}"#).await {
        answer.expect(200);
    }
    cluster.redis.flush_all();
    let again = async || {
        let answers = everywhere("/credits/holds/job-1/capture", r#"{"credits":5}"#).await;
        answers.iter().all(|answer| answer.status == 200)
    };
    assert!(eventually(again).await);
    let shown = cluster.gateway(1).account("erin").await;
    assert_eq!((shown["balance"].as_i64(), shown["held"].as_i64()), (Some(95), Some(0)), "{shown}");
}
