//! The past, as the screens read it.

use farebox::credits::{Credits, SignedCredits};
use farebox::ledger::{
    CallId, EntryKind, ModelUsage, Movement, Operation, Origin, Outcome, Overrun, Settlement, Usage,
};
use farebox::usage::{Kind, UsageRecord};

use crate::payments::{nth, paid, take};
use crate::test_ledger::{
    Running, TestLedger, account, api_capture, api_hold, credits, eventually, grant,
    on_every_ledger,
};

on_every_ledger!("current_thread":
    usage_is_what_was_captured_by_day_and_route,
    usage_looks_at_the_newest_lines_and_says_where_these_are_not_all,
    metered_usage_is_added_up_by_model_and_kind,
    an_accounts_models_are_bounded_and_of_the_newest_lines,
    the_newest_entries_of_all_accounts_come_first,
    live_holds_tell_their_age_where_their_ids_do,
    activity_adds_up_what_moved_and_what_was_paid,
    accounts_are_found_by_how_their_ids_begin,
    accounts_are_found_by_a_part_of_their_ids,
    entries_of_a_time_are_those_that_were_made_in_it,
);

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;

fn now_ms() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(now.as_millis()).unwrap()
}

/// A call of `who`, charged whole.
async fn call(ledger: &Running, who: &str, route: &str, amount: &str) {
    let hold = ledger.hold(CallId::new(), account(who), credits(amount), route.into()).await;
    hold.unwrap().capture(credits(amount));
}

/// Waits until readers see all that was asked.
async fn durable(ledger: &Running) {
    assert_eq!(ledger.ask(Operation::Audit).await, Outcome::Audited(vec![]));
}

async fn usage_is_what_was_captured_by_day_and_route(fixture: TestLedger) {
    let ledger = fixture.open_with("100").await;
    ledger.post(grant("bob's", "bob", "50")).await.unwrap();
    for (who, route, amount) in
        [("alice", "/a", "1"), ("alice", "/b", "2.5"), ("alice", "/a", "1"), ("bob", "/a", "9")]
    {
        call(&ledger, who, route, amount).await;
    }
    ledger.ask(api_hold("job", "5")).await;
    ledger.ask(api_capture("job", "4")).await;
    // A refund does not undo that the credits were used.
    let refund = Operation::Refund { hold: "job".parse().unwrap(), reason: None };
    assert!(matches!(ledger.ask(refund).await, Outcome::Posted { .. }));
    ledger.call("1").await.unwrap().release();
    durable(&ledger).await;
    let used = ledger.read().usage(&account("alice"), now_ms() - DAY_MS).await.unwrap();
    assert!(used.is_whole);
    let day = now_ms() / DAY_MS;
    assert!(used.days.iter().all(|line| (day - 1..=day).contains(&line.day)), "{used:?}");
    let lines: Vec<_> =
        used.days.iter().map(|line| (&*line.route, line.calls, line.credits)).collect();
    let expected = [("/jobs", 1, "4"), ("/b", 1, "2.5"), ("/a", 2, "2")];
    assert_eq!(lines, expected.map(|(route, calls, amount)| (route, calls, credits(amount))));
    for (who, since_ms) in [("alice", now_ms() + DAY_MS), ("nobody", 0)] {
        let used = ledger.read().usage(&account(who), since_ms).await.unwrap();
        assert!(used.days.is_empty() && used.is_whole, "{who}: {used:?}");
    }
    ledger.stop().await;
}

async fn usage_looks_at_the_newest_lines_and_says_where_these_are_not_all(fixture: TestLedger) {
    let ledger = fixture.open_with("1").await;
    let now = now_ms();
    // One line a second for three days, all of them captures of one credit.
    fixture
        .execute(&format!(
            "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 259200) \
             INSERT INTO entries (account, seq, operation, kind, amount, balance_after, route, \
             reason, created_at) SELECT 'busy', n, 'capture:' || n, 'capture', -1000000, 0, '/a', \
             NULL, {now} - (259200 - n) * 1000 FROM n"
        ))
        .await
        .unwrap();
    let usage = async |since_ms| ledger.read().usage(&account("busy"), since_ms).await.unwrap();
    let calls = |used: &Usage| used.days.iter().map(|line| line.calls).sum::<u64>();
    let all = usage(0).await;
    assert_eq!((all.is_whole, calls(&all)), (false, 250_000));
    let day = usage(now - DAY_MS).await;
    assert_eq!((day.is_whole, calls(&day)), (true, 86_401));
    assert_eq!(day.days[0].credits.to_string(), day.days[0].calls.to_string());
    ledger.stop().await;
}

/// A metered call of `who`, charged `amount` of a hold of 5.
async fn metered(
    ledger: &Running,
    who: &str,
    model: Option<&str>,
    amount: &str,
    used: &[(Kind, u64)],
) {
    let hold = ledger.hold(CallId::new(), account(who), credits("5"), "/v1/chat".into()).await;
    let mut usage = farebox::usage::Usage::NONE;
    for (kind, count) in used {
        usage.set(*kind, *count).unwrap();
    }
    let model = model.map(Into::into);
    let record = UsageRecord { held: credits("5"), model, usage, prices: "0123".into() };
    let (amount, overrun) = (credits(amount), Overrun::Debt);
    hold.unwrap().settle(Settlement { amount, overrun, usage: Some(record) });
}

/// Each model with its calls, its credits, and its usage of each kind.
fn shown(models: &[ModelUsage]) -> Vec<String> {
    let line = |of: &ModelUsage| {
        let used = serde_json::to_string(&of.usage).unwrap();
        format!("{:?} {} {} {used}", of.model, of.calls, of.credits)
    };
    models.iter().map(line).collect()
}

async fn metered_usage_is_added_up_by_model_and_kind(fixture: TestLedger) {
    let ledger = fixture.open_with("100").await;
    ledger.post(grant("bob's", "bob", "50")).await.unwrap();
    let started = now_ms();
    for (model, amount, used) in [
        (Some("gpt-5"), "1.5", &[(Kind::Input, 600), (Kind::Output, 300)][..]),
        (
            Some("GPT-5"),
            "2",
            &[(Kind::Input, 400), (Kind::CachedInput, 7), (Kind::CacheWrite1h, 3)],
        ),
        (
            Some("it's \"a\" model"),
            "0.25",
            &[(Kind::Character, 9), (Kind::Second, 2), (Kind::Search, 1)],
        ),
        (None, "4", &[(Kind::Image, 2), (Kind::OutputImage, 1 << 40)]),
        (None, "6", &[(Kind::OutputImage, 1 << 40)]), // More than its hold.
        (Some("gpt-5"), "0", &[(Kind::Input, 1)]),    // Free, so it leaves no entry.
    ] {
        metered(&ledger, "alice", model, amount, used).await;
    }
    call(&ledger, "alice", "/a", "3").await;
    metered(&ledger, "bob", Some("gpt-5"), "1", &[(Kind::Reasoning, 5)]).await;
    durable(&ledger).await;
    let used = ledger.read().usage(&account("alice"), 0).await.unwrap();
    let alices = [
        format!(r#"None 2 10 {{"output_image":{},"image":2}}"#, 2_u64 << 40),
        r#"Some("gpt-5") 2 3.5 {"input":1000,"cached_input":7,"cache_write_1h":3,"output":300}"#
            .into(),
        r#"Some("it's \"a\" model") 1 0.25 {"second":2,"character":9,"search":1}"#.into(),
    ];
    assert_eq!(shown(&used.models), alices);
    // The same calls are among those by route, whatever they used.
    let calls: u64 = used.days.iter().map(|line| line.calls).sum();
    assert_eq!((calls, used.is_whole), (6, true));
    let all = ledger.read().models(started - 1000).await.unwrap();
    let both = r#"Some("gpt-5") 3 4.5 {"input":1000,"cached_input":7,"cache_write_1h":3,"output":300,"reasoning":5}"#;
    assert_eq!(shown(&all), [alices[0].clone(), both.to_owned(), alices[2].clone()]);
    let later = now_ms() + DAY_MS;
    assert_eq!(ledger.read().models(later).await.unwrap(), []);
    assert_eq!(ledger.read().usage(&account("alice"), later).await.unwrap().models, []);
    ledger.stop().await;
}

async fn an_accounts_models_are_bounded_and_of_the_newest_lines(fixture: TestLedger) {
    let ledger = fixture.open_with("1").await;
    let now = now_ms();
    // One metered line a second for three days. The names of the models are always new, except for
    // one in ten.
    fixture
        .execute(&format!(
            "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 259200) \
             INSERT INTO entries (account, seq, operation, kind, amount, balance_after, route, \
             reason, created_at, held, model, usage, prices) SELECT 'busy', n, 'capture:' || n, \
             'capture', -1000000, 0, '/a', NULL, {now} - (259200 - n) * 1000, 1000000, \
             CASE n % 10 WHEN 0 THEN 'Known' ELSE 'm' || n END, \
             '{{\"input\":3,\"output\":2}}', '0123' FROM n"
        ))
        .await
        .unwrap();
    let used = ledger.read().usage(&account("busy"), 0).await.unwrap();
    assert!(!used.is_whole);
    assert_eq!(used.models.len(), 100);
    let known = &used.models[0];
    assert_eq!(known.model.as_deref(), Some("known"));
    assert_eq!((known.calls, known.usage.of(Kind::Input)), (25_000, 75_000), "of the newest lines");
    assert_eq!(ledger.read().models(0).await.unwrap().len(), 1000);
    ledger.stop().await;
}

async fn the_newest_entries_of_all_accounts_come_first(fixture: TestLedger) {
    let ledger = fixture.open().await;
    assert_eq!(ledger.read().newest(9).await.unwrap(), []);
    for n in 0..6 {
        let who = ["alice", "bob", "carol"][n % 3];
        ledger.post(grant(&format!("g{n}"), who, "1")).await.unwrap();
        // Each entry is made at a moment of its own.
        let before = now_ms();
        eventually("a millisecond has passed", async || now_ms() > before).await;
    }
    durable(&ledger).await;
    let newest = ledger.read().newest(4).await.unwrap();
    let ids: Vec<_> = newest.iter().map(|entry| entry.operation.as_str()).collect();
    assert_eq!(ids, ["grant:g5", "grant:g4", "grant:g3", "grant:g2"]);
    assert_eq!((newest[0].account.as_str(), newest[0].seq), ("carol", 2));
    assert_eq!(ledger.read().newest(100).await.unwrap().len(), 6);
    ledger.stop().await;
}

async fn live_holds_tell_their_age_where_their_ids_do(fixture: TestLedger) {
    let ledger = fixture.open_with("100").await;
    let before = now_ms();
    let hold = async |amount: &str| {
        let id = CallId::new();
        let name = id.hold_id().clone();
        let hold = ledger.hold(id, account("alice"), credits(amount), "/x".into()).await;
        (name, hold.unwrap())
    };
    let (first_id, first) = hold("2").await;
    let made = now_ms();
    eventually("a millisecond has passed", async || now_ms() > made + 1).await;
    let between = now_ms();
    let (second_id, second) = hold("3").await;
    ledger.ask(api_hold("job", "4")).await;
    ledger.ask(api_hold("done", "1")).await;
    ledger.ask(api_capture("done", "1")).await;
    durable(&ledger).await;
    let read = async |before_ms, limit| ledger.read().live_holds(before_ms, limit).await.unwrap();
    let all = read(now_ms() + 1, 10).await;
    let ids: Vec<_> = all.iter().map(|hold| hold.id.as_str()).collect();
    assert_eq!(ids, [first_id.as_str(), second_id.as_str(), "job"]);
    let age = all[0].created_at_ms.unwrap();
    assert!((before..=made).contains(&age), "{before} {age} {made}");
    assert!(all[0].expires_at_ms > before);
    assert_eq!((all[0].origin, all[0].amount), (Origin::Call, credits("2")));
    assert_eq!((&*all[0].route, all[0].account.as_str()), ("/x", "alice"));
    assert_eq!((all[2].origin, all[2].created_at_ms), (Origin::Api, None));
    let old: Vec<_> = read(between, 10).await.into_iter().map(|hold| hold.id).collect();
    assert_eq!(old, [all[0].id.clone(), all[2].id.clone()], "and the API's, whatever their age");
    assert_eq!(read(now_ms() + 1, 2).await, all[..2]);
    let activity = ledger.read().activity(0, between).await.unwrap();
    assert_eq!((activity.live_holds, activity.old_holds), (3, 1));
    first.release();
    second.capture(credits("3"));
    durable(&ledger).await;
    assert_eq!(read(now_ms() + 1, 10).await, all[2..]);
    ledger.stop().await;
}

async fn activity_adds_up_what_moved_and_what_was_paid(fixture: TestLedger) {
    let ledger = fixture.open_with("100").await;
    let hour = now_ms() / HOUR_MS;
    for (who, amount) in [("alice", "1"), ("alice", "2.5")] {
        call(&ledger, who, "/a", amount).await;
    }
    take(&ledger, paid()).await.unwrap();
    take(&ledger, nth(2, &paid())).await.unwrap();
    // An account as full as can be, and another: their sum is beyond what one may have.
    for who in ["rich", "richer"] {
        let most = Credits::from_micros(farebox::credits::MAX_MICROS).unwrap().to_string();
        ledger.post(grant(who, who, &most)).await.unwrap();
    }
    durable(&ledger).await;
    let activity = ledger.read().activity(hour, now_ms()).await.unwrap();
    assert_eq!((activity.accounts, activity.live_holds), (3, 0));
    let of = |kind, is_payment| -> (u64, Vec<SignedCredits>) {
        let fits = |m: &&Movement| m.kind == kind && m.is_payment == is_payment;
        let found: Vec<_> = activity.movements.iter().filter(fits).collect();
        assert!(found.iter().all(|m| (hour..=hour + 1).contains(&m.hour)), "{found:?}");
        (found.iter().map(|m| m.entries).sum(), found.iter().map(|m| m.amount).collect())
    };
    assert_eq!(of(EntryKind::Capture, false), (2, vec!["-3.5".parse().unwrap()]));
    assert_eq!(of(EntryKind::Grant, true), (2, vec!["1000".parse().unwrap()]));
    assert_eq!(of(EntryKind::Grant, false).0, 3);
    let sold: Vec<_> = activity.paid.iter().map(|p| p.facts.paid.clone().unwrap().amount).collect();
    assert_eq!(sold, [7900, 7900]);
    let later = ledger.read().activity(hour + 2, now_ms()).await.unwrap();
    assert_eq!((later.movements.len(), later.paid.len(), later.accounts), (0, 0, 3));
    ledger.stop().await;
}

async fn accounts_are_found_by_how_their_ids_begin(fixture: TestLedger) {
    let ledger = fixture.open().await;
    for who in ["al", "alice", "alicia", "ali~", "b", "a%", "a_c", "A"] {
        ledger.post(grant(who, who, "1")).await.unwrap();
    }
    durable(&ledger).await;
    let found = async |prefix: &str, after: Option<&str>, limit| {
        let after = after.map(account);
        let found = ledger.read().accounts(prefix, after.as_ref(), limit).await.unwrap();
        found.into_iter().map(|view| view.account.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(found("", None, 100).await.len(), 8);
    assert_eq!(found("ali", None, 9).await, ["alice", "alicia", "ali~"]);
    assert_eq!(found("ali", Some("alice"), 1).await, ["alicia"]);
    assert_eq!(found("a%", None, 9).await, ["a%"]);
    assert_eq!(found("a_", None, 9).await, ["a_c"]);
    assert_eq!(found("zz", None, 9).await, [] as [String; 0]);
    ledger.stop().await;
}

async fn accounts_are_found_by_a_part_of_their_ids(fixture: TestLedger) {
    let ledger = fixture.open().await;
    for who in ["alice", "bob-alice", "MALICE", "b%", "b_b", "zed"] {
        ledger.post(grant(who, who, "1")).await.unwrap();
    }
    durable(&ledger).await;
    let found = async |part: &str, after: Option<&str>, limit| {
        let after = after.map(account);
        let found = ledger.read().accounts_with(part, after.as_ref(), limit, 100).await.unwrap();
        assert_eq!(found.looked_until, None, "so few are all looked at");
        found.accounts.into_iter().map(|view| view.account.to_string()).collect::<Vec<_>>()
    };
    // This query leaves out the accounts that begin with the text: another query finds them by their prefix.
    assert_eq!(found("alice", None, 9).await, ["MALICE", "bob-alice"]);
    assert_eq!(found("alice", None, 1).await, ["MALICE"]);
    assert_eq!(found("alice", Some("MALICE"), 9).await, ["bob-alice"]);
    assert_eq!(found("LIC", None, 9).await, ["MALICE", "alice", "bob-alice"]);
    assert_eq!(found("%", None, 9).await, ["b%"]);
    assert_eq!(found("_b", None, 9).await, ["b_b"]);
    assert_eq!(found("nobody", None, 9).await, [] as [String; 0]);

    // A query that looks at few accounts returns how far it came, and the next one goes on from there.
    let mut seen = Vec::new();
    let (mut after, mut steps) = (None, 0);
    loop {
        let found = ledger.read().accounts_with("LIC", after.as_ref(), 9, 2).await.unwrap();
        seen.extend(found.accounts.iter().map(|view| view.account.to_string()));
        steps += 1;
        after = found.looked_until;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(seen, ["MALICE", "alice", "bob-alice"]);
    assert!((3..=4).contains(&steps), "six accounts, two at a time: {steps}");
    ledger.stop().await;
}

async fn entries_of_a_time_are_those_that_were_made_in_it(fixture: TestLedger) {
    let ledger = fixture.open_with("100").await;
    ledger.post(grant("bob's", "bob", "50")).await.unwrap();
    for _ in 0..20 {
        call(&ledger, "alice", "/a", "1").await;
        // Each entry gets a millisecond of its own.
        tokio::time::sleep(std::time::Duration::from_millis(3)).await;
    }
    durable(&ledger).await;
    let all = ledger.read().entries(&account("alice"), None, 100).await.unwrap();
    assert_eq!(all.len(), 21);
    let of = async |time: std::ops::Range<i64>, before, limit| {
        let found = ledger.read().entries_of(&account("alice"), time, before, limit).await.unwrap();
        found.iter().map(|entry| entry.seq).collect::<Vec<_>>()
    };
    let seqs = |fits: &dyn Fn(i64) -> bool| {
        let fit = all.iter().filter(|entry| fits(entry.created_at_ms));
        fit.map(|entry| entry.seq).collect::<Vec<_>>()
    };
    // All ranges between two moments at which entries were made, and ranges beyond both ends.
    let mut moments: Vec<i64> = all.iter().map(|entry| entry.created_at_ms).collect();
    moments.extend([i64::MIN, 0, moments[0] + 1, i64::MAX]);
    for &from in moments.iter().step_by(4) {
        for &to in moments.iter().step_by(3) {
            let expected = seqs(&|at| from <= at && at < to);
            assert_eq!(of(from..to, None, 100).await, expected, "{from}..{to}");
        }
    }
    let newest = all[0].seq;
    assert_eq!(of(0..i64::MAX, Some(newest), 2).await, [all[1].seq, all[2].seq]);
    let none = ledger.read().entries_of(&account("nobody"), 0..5, None, 9).await.unwrap();
    assert_eq!(none, []);
    ledger.stop().await;
}
