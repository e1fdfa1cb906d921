//! A gateway that does not run for a while, and a clock that somebody moves.

use std::path::Path;
use std::time::Duration;

use http::Method;
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::crash::{ACCOUNTS, CLIENTS, GRANT, client, join};
use crate::http::Answer;
use crate::process::{Process, config_on_ports};
use crate::support::clock::Clock;
use crate::support::{Upstream, eventually, token};

/// Longer than a call's hold lives without a renewal, which is a minute.
const PAUSE: Duration = Duration::from_secs(62);

/// A route of 5 credits whose upstream answers when it is told to.
struct Slow {
    upstream: Upstream,
    go: watch::Sender<bool>,
}

impl Slow {
    async fn start() -> Self {
        let (go, gone) = watch::channel(false);
        let slow = axum::Router::new().fallback(move || {
            let mut gone = gone.clone();
            async move {
                gone.wait_for(|gone| *gone).await.unwrap();
                "late"
            }
        });
        Self { upstream: Upstream::start(slow).await, go }
    }

    fn route(&self) -> String {
        format!(
            "[[upstreams]]\nname = \"slow\"\nurl = \"http://{}\"\n\
             [[routes]]\npath = \"/slow\"\nupstream = \"slow\"\ncredits = 5\n",
            self.upstream.address
        )
    }

    /// Calls that wait for the upstream by now.
    async fn calls(
        &self,
        gateway: &Process,
        bearer: &str,
        count: usize,
    ) -> Vec<JoinHandle<Answer>> {
        let call = || gateway.client.post(gateway.url("/slow")).bearer_auth(bearer);
        let calls = (0..count).map(|_| tokio::spawn(Answer::of(call()))).collect();
        assert!(eventually(async || self.upstream.seen().len() == count).await);
        calls
    }

    async fn finish(&self, calls: Vec<JoinHandle<Answer>>) {
        self.go.send(true).unwrap();
        for call in calls {
            call.await.unwrap().expect(200);
        }
    }
}

async fn paused(durability: &str) {
    let folder = tempfile::tempdir().unwrap();
    let slow = Slow::start().await;
    let (address, log) = crate::crash::upstream().await;
    let text = config_on_ports(address, &slow.route());
    let text = text.replace("[ledger]", &format!("[ledger]\ndurability = \"{durability}\""));
    let mut gateway = Process::serve(folder.path(), &text);
    for account in ACCOUNTS {
        gateway.grant(account, GRANT, &format!("gift-{account}")).await;
    }
    // `join` expects this grant.
    gateway.grant("dave", 1, "one-more").await;
    let key = gateway.admin(Method::POST, "/admin/accounts/dave/keys", r#"{"service":true}"#);
    let key = key.await.json()["key"].as_str().unwrap().to_owned();
    let hold = gateway.client.post(gateway.url("/credits/holds")).bearer_auth(&key);
    let hold = hold.body(r#"{"credits":7,"id":"job-1","ttl_seconds":3600}"#);
    Answer::of(hold).await.expect(201);
    // All that erin has is held by calls that run.
    gateway.grant("erin", 20, "gift-erin").await;
    let calls = slow.calls(&gateway, &token("erin"), 4).await;
    let clients: Vec<_> =
        (0..CLIENTS).map(|number| tokio::spawn(client(number, gateway.public))).collect();
    let served = || log.lock().unwrap().len();
    assert!(eventually(async || served() >= 300).await);

    gateway.signal("STOP");
    tokio::time::sleep(PAUSE).await;
    let before = served();
    gateway.signal("CONT");
    // A hold that would expire does so within a sweep; these calls pass several.
    assert!(eventually(async || served() >= before + 300).await, "{}", gateway.stderr());
    gateway.post("erin", "/slow").await.problem(402, "INSUFFICIENT_CREDITS");
    assert_eq!(gateway.account("erin").await["held"], 20);
    slow.finish(calls).await;
    let settled = eventually(async || gateway.account("erin").await["held"] == 0);
    assert!(settled.await);
    assert_eq!(gateway.account("erin").await["balance"], 0);
    let metrics = gateway.client.get(format!("http://{}/metrics", gateway.admin)).send().await;
    let metrics = metrics.unwrap().text().await.unwrap();
    let mut expired = metrics.lines().filter(|line| line.contains("outcome=\"expired\""));
    assert!(expired.all(|line| line.ends_with(" 0")), "{metrics}");
    gateway.assert_reconciled().await;
    assert!(gateway.terminate().success(), "{}", gateway.stderr());
    for client in clients {
        if let Ok(Some(refused)) = client.await.unwrap() {
            panic!("{refused}{}", gateway.stderr());
        }
    }

    let gateway = Process::serve(folder.path(), &text);
    gateway.assert_reconciled().await;
    let log = log.lock().unwrap().clone();
    let captured = join(&gateway, &log).await;
    assert_eq!(captured.len(), log.len(), "every call that was served is charged, once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_is_paused_for_longer_than_a_hold_lives_expires_no_live_calls_hold() {
    tokio::join!(paused("strict"), paused("relaxed"));
}

/// A gateway that goes by `clock`.
fn serve_by(clock: &Clock, folder: &Path, text: &str) -> Process {
    let env = clock.env();
    let env: Vec<_> = env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    Process::serve_in(folder, text, &env)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_moved_clock_expires_no_hold_and_dates_the_entries() {
    let folder = tempfile::tempdir().unwrap();
    let slow = Slow::start().await;
    let text = config_on_ports(slow.upstream.address, &slow.route());
    let clock = Clock::new();
    let mut gateway = serve_by(&clock, folder.path(), &text);
    // A token would have run out with the clock; a key does not.
    let key = gateway.admin(Method::POST, "/admin/accounts/alice/keys", r#"{"service":true}"#);
    let key = key.await.json()["key"].as_str().unwrap().to_owned();
    let own = async |path: &str, body: String| {
        let request = gateway.client.post(gateway.url(path)).bearer_auth(&key);
        Answer::of(request.body(body)).await
    };
    gateway.grant("alice", 100, "gift").await;
    let calls = slow.calls(&gateway, &key, 3).await;
    own("/credits/holds", r#"{"credits":7,"id":"job","ttl_seconds":3600}"#.into())
        .await
        .expect(201);
    let held = async || gateway.account("alice").await["held"].clone();
    let day = |entry: &Value| entry["created_at"].as_str().unwrap()[..10].to_owned();

    let mut days = Vec::new();
    for by in ["+3d", "-3d", "+1000d"] {
        clock.is_off_by(by);
        let granted = gateway.grant("alice", 1, &format!("gift{by}")).await;
        days.push(day(&granted));
        // A hold that expires by itself shows that the sweep has passed, and that it came in time.
        let short = format!(r#"{{"credits":1,"id":"short{by}","ttl_seconds":1}}"#);
        own("/credits/holds", short).await.expect(201);
        assert_eq!(held().await, 23);
        assert!(eventually(async || held().await == 22).await, "{by}: {}", gateway.stderr());
    }
    assert!(days[1] < days[0] && days[0] < days[2], "{days:?}");
    clock.is_off_by("-3d");
    slow.finish(calls).await;
    assert!(eventually(async || held().await == 7).await);
    own("/credits/holds/job/capture", r#"{"credits":7}"#.into()).await.expect(200);
    let lines = gateway.transactions("alice").await;
    assert_eq!(gateway.account("alice").await["balance"], 103 - 15 - 7);
    assert_eq!(day(&lines[0]), days[1], "entries carry the wall clock: {lines:#?}");
    assert_eq!(lines.len(), 4 + 3 + 1);
    gateway.assert_reconciled().await;
    assert!(gateway.terminate().success());

    let clock = Clock::new();
    let mut gateway = serve_by(&clock, folder.path(), &text);
    assert_eq!(gateway.transactions("alice").await, lines, "in the order in which they came");
    gateway.assert_reconciled().await;
    assert!(gateway.terminate().success());
}
