//! Captures that are given back in parts.

use farebox::ledger::{EntryKind, Operation, OperationId, Outcome, Refusal};

use crate::test_ledger::{
    TestLedger, api_capture, api_hold, conflict, credits, hold_id, on_every_ledger, text,
};

on_every_ledger!("current_thread":
    parts_of_a_capture_are_refunded_each_once_and_together_no_more_than_it,
);

fn refund_part(hold: &str, id: &str, amount: &str) -> Operation {
    let hold = hold_id(hold);
    let id = OperationId::refund_part(&hold, id).unwrap();
    Operation::RefundPart { hold, id, amount: credits(amount), reason: None }
}

async fn parts_of_a_capture_are_refunded_each_once_and_together_no_more_than_it(
    fixture: TestLedger,
) {
    let ledger = fixture.open_with("10").await;
    let left = |left: &str| Outcome::Refused(Refusal::AboveCapture { left: credits(left) });
    let ask = async |operation: Operation| match ledger.ask(operation).await {
        Outcome::Posted { entry, new } => Ok((entry.amount.to_string(), new)),
        other => Err(other),
    };
    let posted = |amount: &str, new| Ok((amount.to_owned(), new));
    ledger.ask(api_hold("job", "4")).await;
    let unknown = Outcome::Refused(Refusal::UnknownCapture);
    assert_eq!(ask(refund_part("job", "a", "1")).await, Err(unknown), "a hold is not a capture");
    // Ids that would be equal if their parts were only joined.
    for hold in ["job", "job-2", "j", "job/refund", "job:a"] {
        ledger.ask(api_hold(hold, "0.5")).await;
        ledger.ask(api_capture(hold, if hold == "job" { "3" } else { "0.5" })).await;
    }
    assert_eq!(ask(refund_part("job", "a", "1")).await, posted("1", true));
    assert_eq!(ask(refund_part("job", "b", "2.000001")).await, Err(left("2")));
    assert_eq!(ask(refund_part("job", "b", "0")).await, Err(Outcome::Refused(Refusal::Zero)));
    assert_eq!(ask(refund_part("job", "b", "1.5")).await, posted("1.5", true));
    for when in ["at once", "after folding"] {
        assert_eq!(ask(refund_part("job", "a", "1")).await, posted("1", false), "{when}");
        assert_eq!(ask(refund_part("job", "a", "0.5")).await, Err(conflict()), "{when}");
        assert_eq!(ask(refund_part("job", "c", "0.6")).await, Err(left("0.5")), "{when}");
        assert_eq!(ask(refund_part("job-2", "a", "0.6")).await, Err(left("0.5")), "another's");
        ledger.fold(i64::MAX).await.unwrap();
    }
    // A refund of everything refunds only what is left.
    let all = Operation::Refund { hold: hold_id("job"), reason: None };
    assert_eq!(ask(all.clone()).await, posted("0.5", true));
    assert_eq!(ask(all.clone()).await, posted("0.5", false));
    assert_eq!(ask(refund_part("job", "c", "0.000001")).await, Err(left("0")));
    assert_eq!(ask(refund_part("job-2", "a", "0.5")).await, posted("0.5", true));
    let nothing = Operation::Refund { hold: hold_id("job-2"), reason: None };
    assert_eq!(ask(nothing).await, Err(left("0")));
    let entries = ledger.entries("alice").await;
    let refunds = entries.iter().filter(|entry| entry.kind == EntryKind::Refund);
    assert!(refunds.clone().all(|entry| entry.operation.hold().unwrap().starts_with("job")));
    assert_eq!(ledger.has("alice").await, text(("8.5", "0")));
    ledger.reconciles().await;
    // Many refunds at once, some under one id, never give back more than was charged.
    let asked = (0..24).map(|n| ledger.ask(refund_part("j", &format!("p-{}", n % 8), "0.1")));
    for outcome in futures_util::future::join_all(asked).await {
        assert!(matches!(outcome, Outcome::Posted { .. }) || outcome == left("0"), "{outcome:?}");
    }
    assert_eq!(ledger.has("alice").await, text(("9", "0")));
    ledger.reconciles().await;
    ledger.stop().await;
}
