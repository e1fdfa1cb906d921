//! Calls that are priced by usage: a route and a model for them, and a way to make them in the embedded
//! ledger of a gateway that is not running.

use std::path::Path;

use farebox::credits::Credits;
use farebox::ledger::{
    CallId, Durability, EntryKind, Ledger, OperationId, Overrun, Posting, Settlement,
};
use farebox::metrics::Metrics;
use farebox::store::SqliteLedger;
use farebox::usage::{Kind, Usage, UsageRecord};

/// The route of [`CHAT_TABLES`].
pub const CHAT: &str = "/v1/chat/completions";

/// A route whose calls are priced by usage, and its only model.
pub const CHAT_TABLES: &str = r#"
[[routes]]
path = "/v1/chat/completions"
methods = ["POST"]
upstream = "ai"
meter = "openai"
price = "models"

[[models]]
match = "m"
input = 250
output = 1000
max_output_tokens = 2000
hold_output_tokens = 100
"#;

/// The price of a token of input in [`CHAT_TABLES`], in micro-credits.
pub const INPUT: i64 = 250;

/// The price of a token of output in [`CHAT_TABLES`], in micro-credits.
pub const OUTPUT: i64 = 1000;

/// A call that is charged by usage.
pub struct MeteredCall<'a> {
    pub account: &'a str,
    pub route: &'a str,
    pub model: Option<&'a str>,
    pub held: &'a str,
    pub charged: &'a str,
    pub used: &'a [(Kind, u64)],
}

/// Gives each account of the calls 100 credits, and makes the calls one after the other in the
/// ledger at `path`.
pub async fn make(path: &Path, calls: &[MeteredCall<'_>]) {
    let metrics = Metrics::new().unwrap();
    let backend = SqliteLedger::open(path, Durability::Strict, metrics.clone()).await.unwrap();
    let reader = backend.reader();
    let (ledger, pipeline) = Ledger::start(backend, reader, metrics);
    let credits = |text: &str| text.parse::<Credits>().unwrap();
    for call in calls {
        let gift = Posting {
            id: OperationId::posting(EntryKind::Grant, &format!("gift-{}", call.account)).unwrap(),
            account: call.account.parse().unwrap(),
            kind: EntryKind::Grant,
            amount: credits("100").signed(),
            reason: Some("a gift".into()),
        };
        ledger.post(gift).await.unwrap();
        let account = call.account.parse().unwrap();
        let hold = ledger.hold(CallId::new(), account, credits(call.held), call.route.into());
        let mut usage = Usage::NONE;
        for (kind, count) in call.used {
            usage.set(*kind, *count).unwrap();
        }
        let record = UsageRecord {
            held: credits(call.held),
            model: call.model.map(Into::into),
            usage,
            prices: "0123456789abcdef".into(),
        };
        hold.await.unwrap().settle(Settlement {
            amount: credits(call.charged),
            overrun: Overrun::Debt,
            usage: Some(record),
        });
    }
    assert!(pipeline.stop().await);
}
