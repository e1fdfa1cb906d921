//! Turns an event, or an object that was read from Stripe, into facts about a payment. This is
//! pure: no I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::value::RawValue;

use super::objects::{Charge, Dispute, Envelope, Refund, Session};
use super::requests::Metadata;
use crate::credits::Credits;
use crate::ledger::{self, Facts, Money, Progress, Sale, Stage};
use crate::metrics::OTHER_EVENTS;

/// The events that can move credits. A webhook needs exactly these.
pub(super) const EVENTS: [&str; 13] = [
    "checkout.session.completed",
    "checkout.session.async_payment_succeeded",
    "checkout.session.async_payment_failed",
    "checkout.session.expired",
    "charge.refunded",
    "refund.created",
    "refund.updated",
    "refund.failed",
    "charge.dispute.created",
    "charge.dispute.updated",
    "charge.dispute.funds_withdrawn",
    "charge.dispute.funds_reinstated",
    "charge.dispute.closed",
];

/// The metric's label for a kind of event. Kinds that Farebox does not read share one label, so that a
/// sender cannot add labels.
pub(super) fn label(kind: &str) -> &'static str {
    EVENTS.into_iter().find(|known| *known == kind).unwrap_or(OTHER_EVENTS)
}

/// True for a kind of event whose object is read: those of [`EVENTS`], and their names in older API versions.
pub(super) fn is_read(kind: &str) -> bool {
    kind.starts_with(DISPUTE) || kind == OLD_REFUND_UPDATE || EVENTS.contains(&kind)
}

/// The prefix of events about disputes.
const DISPUTE: &str = "charge.dispute.";

/// The name of `refund.updated` in older API versions.
const OLD_REFUND_UPDATE: &str = "charge.refund.updated";

/// The facts that an event states about a payment.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Reading {
    pub facts: Facts,
    /// The source of the facts, in words for the ledger's entries.
    pub because: Arc<str>,
}

/// The longest id that is accepted.
const MAX_ID_BYTES: usize = 255;

/// Reads an event; `None` if its kind moves no credits. If another ledger began the session, the
/// facts have no sale.
///
/// # Errors
/// The event is of a kind that is read, but lacks a member or has an impossible one, such as a
/// negative amount of a refund.
pub(super) fn read(
    event: &Envelope<'_>,
    ledger_id: &str,
) -> Result<Option<Reading>, serde_json::Error> {
    let object = event.data.object;
    let (facts, about) = match &*event.kind {
        "checkout.session.completed"
        | "checkout.session.async_payment_succeeded"
        | "checkout.session.async_payment_failed"
        | "checkout.session.expired" => {
            let session: Session = parse(object)?;
            let progress = match &*event.kind {
                "checkout.session.async_payment_failed" => Progress::Failed,
                "checkout.session.expired" => Progress::Expired,
                _ => Progress::Pending,
            };
            (of_session(&session, progress, ledger_id), session.id)
        }
        "charge.refunded" => {
            let charge: Charge = parse(object)?;
            (of_charge(&charge), charge.id)
        }
        "refund.created" | "refund.updated" | "refund.failed" | OLD_REFUND_UPDATE => {
            let refund: Refund = parse(object)?;
            (of_refund(&refund), refund.id)
        }
        kind if kind.starts_with(DISPUTE) => {
            let dispute: Dispute = parse(object)?;
            let stage = match kind {
                "charge.dispute.funds_withdrawn" => Stage::Standing,
                // The dispute is lost, but a part came back: the part that had been refunded before
                // the bank took the whole amount.
                "charge.dispute.funds_reinstated" if dispute.is_lost() => Stage::Lost,
                "charge.dispute.funds_reinstated" => Stage::Won,
                _ => Stage::Inquiry,
            };
            (of_dispute(&dispute, stage), dispute.id)
        }
        _ => return Ok(None),
    };
    if facts.names.iter().any(|name| name.is_empty() || name.len() > MAX_ID_BYTES) {
        return Err(serde::de::Error::custom("an id that is empty or too long"));
    }
    Ok(Some(Reading { facts, because: format!("{} {about}", event.kind).into() }))
}

fn parse<'a, T: serde::Deserialize<'a>>(object: &'a RawValue) -> Result<T, serde_json::Error> {
    serde_json::from_str(object.get())
}

/// The facts of a session. `progress` is used if the session itself does not show that it is paid.
pub(super) fn of_session(session: &Session, progress: Progress, ledger_id: &str) -> Facts {
    let total = session.amount_total.zip(session.currency.clone());
    let total = total.map(|(amount, currency)| Money { amount, currency });
    let is_paid = match session.payment_status.as_deref() {
        Some("paid") => true,
        // A promotion code can leave nothing to pay.
        Some("no_payment_required") => session.amount_total == Some(0),
        _ => false,
    };
    Facts {
        names: names([Some(&session.id), session.payment_intent.as_ref()]),
        sale: sale(session, ledger_id),
        progress: if is_paid { Progress::Paid } else { progress },
        paid: total.filter(|_| is_paid),
        ..Facts::default()
    }
}

/// The sale, from the session's metadata. The ledger may not know the sale, because the event came
/// first or because the ledger was restored from a backup.
fn sale(session: &Session, ledger_id: &str) -> Option<Sale> {
    let metadata = session.metadata.as_ref()?;
    let text = |key: &str| metadata.get(key).map(String::as_str);
    if text(metadata_key::LEDGER) != Some(ledger_id) {
        return None;
    }
    Some(Sale {
        session: session.id.clone(),
        account: text(metadata_key::ACCOUNT)?.parse().ok()?,
        pack: text(metadata_key::PACK)?.into(),
        credits: text(metadata_key::CREDITS)?.parse::<Credits>().ok()?,
        price: Money {
            amount: session.amount_subtotal.or(session.amount_total)?,
            currency: session.currency.clone()?,
        },
        imported: false,
    })
}

/// The names in a session's metadata. With the metadata, an event shows what was sold even if the
/// ledger does not have the sale.
pub(super) mod metadata_key {
    pub const LEDGER: &str = "farebox";
    pub const ACCOUNT: &str = "account";
    pub const PACK: &str = "pack";
    pub const CREDITS: &str = "credits";
}

/// The metadata of a session for this sale.
pub(super) fn metadata(sale: &Sale, ledger_id: &str) -> Metadata {
    [
        (metadata_key::LEDGER, ledger_id.to_owned()),
        (metadata_key::ACCOUNT, sale.account.to_string()),
        (metadata_key::PACK, sale.pack.to_string()),
        (metadata_key::CREDITS, sale.credits.to_string()),
    ]
    .into()
}

/// The facts of a refund.
pub(super) fn of_refund(refund: &Refund) -> Facts {
    let failed = matches!(refund.status.as_deref(), Some("failed" | "canceled"));
    let money = Money { amount: refund.amount, currency: refund.currency.clone() };
    Facts {
        names: names([refund.payment_intent.as_ref(), refund.charge.as_ref(), Some(&refund.id)]),
        refunds: [(refund.id.clone(), ledger::Refund { money, failed })].into(),
        ..Facts::default()
    }
}

/// The facts of a charge: the amount that was refunded, and the refunds if the charge lists them.
fn of_charge(charge: &Charge) -> Facts {
    let mut facts = Facts {
        names: names([charge.payment_intent.as_ref(), Some(&charge.id)]),
        refunded: charge.amount_refunded,
        charged_in: charge.currency.clone(),
        ..Facts::default()
    };
    for refund in charge.refunds.iter().flat_map(|list| &list.data) {
        facts.join(&of_refund(refund));
    }
    facts
}

/// The facts of a dispute. Its event tells one stage, and its status may tell another. The later of
/// the two counts.
pub(super) fn of_dispute(dispute: &Dispute, stage: Stage) -> Facts {
    let by_status = match dispute.status.as_deref() {
        Some("won") => Stage::Won,
        Some("lost") => Stage::Lost,
        Some("prevented") => Stage::Inquiry,
        Some(status) if status.starts_with("warning_") => Stage::Inquiry,
        // This status is from a later API version. The money may be on its way out, so it counts as
        // gone.
        _ => Stage::Standing,
    };
    let money = Money { amount: dispute.amount, currency: dispute.currency.clone() };
    let stage = stage.max(by_status);
    let returned = dispute.returned();
    let told = ledger::Dispute { money, stage, returned, thawed: false };
    let disputes = BTreeMap::from([(dispute.id.clone(), told)]);
    Facts {
        names: names([dispute.payment_intent.as_ref(), dispute.charge.as_ref(), Some(&dispute.id)]),
        disputes,
        ..Facts::default()
    }
}

impl Dispute {
    fn is_lost(&self) -> bool {
        self.status.as_deref() == Some("lost")
    }

    /// The part of the disputed amount that came back, in minor units of the dispute. `None` if the
    /// dispute lists no money that came back.
    ///
    /// If all movements are in the dispute's currency, the part is the amount less the money that
    /// is still withdrawn. The seller's balance may be in another currency, and the exchange rate
    /// may change between two movements. Then all of the amount counts as given back, unless the
    /// dispute is lost: the part is then the share of the withdrawn money that came back.
    fn returned(&self) -> Option<u64> {
        let moves = self.balance_transactions.as_deref()?;
        let sum = |came_back: bool| -> u128 {
            let moves = moves.iter().filter(|moved| (moved.amount > 0) == came_back);
            moves.map(|moved| u128::from(moved.amount.unsigned_abs())).sum()
        };
        let (went, back) = (sum(false), sum(true));
        if back == 0 {
            return None;
        }
        let amount = u128::from(self.amount);
        let returned = if moves.iter().all(|moved| moved.currency == self.currency) {
            amount.saturating_sub(went.saturating_sub(back))
        } else if self.is_lost() && went > 0 {
            // The part is rounded up, in the buyer's favour.
            (amount * back).div_ceil(went)
        } else {
            amount
        };
        u64::try_from(returned.min(amount)).ok()
    }
}

fn names<const N: usize>(ids: [Option<&Arc<str>>; N]) -> BTreeSet<Arc<str>> {
    ids.into_iter().flatten().cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const LEDGER: &str = "ledger-1";

    fn facts_of(kind: &str, object: &Value) -> Facts {
        match try_read(kind, object) {
            Ok(Some(Reading { facts, .. })) => facts,
            other => panic!("{kind}: {other:?}"),
        }
    }

    fn try_read(kind: &str, object: &Value) -> Result<Option<Reading>, serde_json::Error> {
        let event = json!({ "id": "evt_1", "type": kind, "data": { "object": object } });
        read(&serde_json::from_str(&event.to_string()).unwrap(), LEDGER)
    }

    fn session() -> Value {
        json!({
            "id": "cs_1", "payment_status": "paid", "payment_intent": "pi_1",
            "amount_total": 7900, "amount_subtotal": 7900, "currency": "eur",
            "metadata": {
                "farebox": LEDGER, "account": "alice", "pack": "pack-500", "credits": "500",
            },
        })
    }

    fn with(mut object: Value, key: &str, value: Value) -> Value {
        object[key] = value;
        object
    }

    #[test]
    fn a_session_counts_once_it_is_paid() {
        let kind = "checkout.session.completed";
        let paid = facts_of(kind, &session());
        assert_eq!(paid.progress, Progress::Paid);
        assert_eq!(paid.sale.unwrap().credits, "500".parse().unwrap());
        let unpaid = with(session(), "payment_status", json!("unpaid"));
        let unpaid = facts_of(kind, &unpaid);
        assert_eq!((unpaid.progress, unpaid.paid), (Progress::Pending, None));
        let free = with(session(), "payment_status", json!("no_payment_required"));
        assert_eq!(facts_of(kind, &free).progress, Progress::Pending, "it has a price");
        let free = with(free, "amount_total", json!(0));
        assert_eq!(facts_of(kind, &free).progress, Progress::Paid, "a promotion code");
    }

    #[test]
    fn sessions_that_another_one_made_have_no_sale() {
        let kind = "checkout.session.completed";
        for metadata in [
            Value::Null,
            json!({}),
            json!({ "farebox": "ledger-2", "account": "a", "pack": "p", "credits": "5" }),
            json!({ "farebox": LEDGER, "account": "a b", "pack": "p", "credits": "5" }),
            json!({ "farebox": LEDGER, "account": "a", "pack": "p", "credits": "-5" }),
        ] {
            let facts = facts_of(kind, &with(session(), "metadata", metadata.clone()));
            assert_eq!(facts.sale, None, "{metadata}");
        }
    }

    #[test]
    fn an_id_is_read_whether_or_not_it_is_expanded() {
        let expanded = with(session(), "payment_intent", json!({ "id": "pi_1", "object": "x" }));
        assert_eq!(facts_of("checkout.session.completed", &expanded), {
            facts_of("checkout.session.completed", &session())
        });
    }

    #[test]
    fn the_refunds_of_a_charge_are_those_of_their_own_events() {
        let refund = json!({ "id": "re_1", "amount": 100, "currency": "eur", "charge": "ch_1" });
        let charge = json!({
            "id": "ch_1", "payment_intent": "pi_1", "amount_refunded": 100,
            "refunds": { "data": [refund] },
        });
        let by_charge = facts_of("charge.refunded", &charge);
        let by_itself = facts_of("refund.created", &refund);
        assert_eq!(by_charge.refunds, by_itself.refunds);
        let failed = with(refund, "status", json!("failed"));
        assert!(facts_of("refund.failed", &failed).refunds["re_1"].failed);
    }

    #[test]
    fn a_dispute_is_as_far_as_its_event_or_its_status() {
        for (kind, status, stage) in [
            ("created", "warning_needs_response", Stage::Inquiry),
            ("created", "needs_response", Stage::Standing),
            ("created", "a_status_of_tomorrow", Stage::Standing),
            ("funds_withdrawn", "warning_needs_response", Stage::Standing),
            ("closed", "lost", Stage::Lost),
            ("closed", "won", Stage::Won),
            ("closed", "warning_closed", Stage::Inquiry),
            ("funds_reinstated", "under_review", Stage::Won),
            ("funds_reinstated", "won", Stage::Won),
            ("funds_reinstated", "lost", Stage::Lost),
        ] {
            let dispute = json!({
                "id": "dp_1", "amount": 7900, "currency": "eur", "charge": "ch_1", "status": status,
            });
            let facts = facts_of(&format!("charge.dispute.{kind}"), &dispute);
            assert_eq!(facts.disputes["dp_1"].stage, stage, "{kind} {status}");
        }
    }

    #[test]
    fn what_came_back_of_a_dispute_is_read_from_the_seller_s_balance() {
        let moved = |amount: i64, currency: &str| json!({ "amount": amount, "currency": currency });
        for (what, status, moves, returned) in [
            ("nothing is said", "lost", Value::Null, None),
            ("nothing moved", "lost", json!([]), None),
            ("only withdrawn", "won", json!([moved(-7900, "eur")]), None),
            ("a part", "lost", json!([moved(-7900, "eur"), moved(3950, "eur")]), Some(3950)),
            ("a part, won", "won", json!([moved(-7900, "eur"), moved(3950, "eur")]), Some(3950)),
            ("all", "won", json!([moved(-7900, "eur"), moved(7900, "eur")]), Some(7900)),
            (
                "all, and less was withdrawn",
                "won",
                json!([moved(-50, "eur"), moved(50, "eur")]),
                Some(7900),
            ),
            ("more", "won", json!([moved(-7900, "eur"), moved(8000, "eur")]), Some(7900)),
            (
                "at another rate",
                "won",
                json!([moved(-9000, "usd"), moved(8800, "usd")]),
                Some(7900),
            ),
            (
                "half, in dollars",
                "lost",
                json!([moved(-9000, "usd"), moved(4500, "usd")]),
                Some(3950),
            ),
            ("only back", "lost", json!([moved(4500, "usd")]), Some(7900)),
        ] {
            let dispute = json!({
                "id": "dp_1", "amount": 7900, "currency": "eur", "charge": "ch_1",
                "status": status, "balance_transactions": moves,
            });
            let facts = facts_of("charge.dispute.funds_reinstated", &dispute);
            assert_eq!(facts.disputes["dp_1"].returned, returned, "{what}");
        }
    }

    #[test]
    fn what_cannot_be_is_an_error_and_what_is_not_needed_is_passed_over() {
        let negative = json!({ "id": "re_1", "amount": -100, "currency": "eur" });
        assert!(try_read("refund.created", &negative).is_err());
        assert!(try_read("refund.created", &json!({ "id": "re_1" })).is_err());
        let nameless = json!({ "id": "", "amount": 1, "currency": "eur" });
        assert!(try_read("refund.created", &nameless).is_err());
        assert_eq!(try_read("customer.created", &json!("anything")).unwrap(), None);
    }
}
