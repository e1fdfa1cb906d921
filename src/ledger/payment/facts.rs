//! The facts about one payment, and the credits that follow from them.
//!
//! Stripe repeats events, and they arrive in any order. So the facts about a payment form a
//! join-semilattice: facts are only added, and the function that joins them is associative,
//! commutative and idempotent. The same events lead to the same facts, in whatever order and
//! however often they arrive, and [`Facts::due`] depends on nothing but the facts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::account::AccountId;
use crate::credits::Credits;

/// The effect of a dispute on the account that bought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnDispute {
    /// The bought credits are taken back at once, and given back if the dispute is won.
    #[default]
    ClawBack,
    /// The account is frozen until the dispute is over; if it is lost, the credits are then taken back.
    Freeze,
}

/// The sale. It is fixed when the buyer is sent to pay, so a later change of gateway.toml does not
/// affect it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sale {
    /// The checkout session.
    pub session: Arc<str>,
    /// The account that gets the credits.
    pub account: AccountId,
    /// The id of the pack.
    pub pack: Arc<str>,
    /// The credits in the pack.
    #[serde(with = "crate::ledger::payment::micros")]
    pub credits: Credits,
    /// The price of the pack.
    pub price: Money,
    /// Whether an import has already granted the credits. If so, the payment grants none, but its
    /// refunds still take credits back.
    #[serde(default)]
    pub imported: bool,
}

/// An amount of money. The order (by amount first) has one purpose: of two reported amounts,
/// [`Facts::join`] always picks the same one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Money {
    /// The amount in the currency's minor units.
    pub amount: u64,
    /// The currency as Stripe writes it: `eur`.
    pub currency: Arc<str>,
}

/// The progress of a payment. If reports differ, the variant that stands later in this enum counts.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Progress {
    /// The buyer was sent to pay; nothing has been reported since.
    #[default]
    Open,
    /// The buyer did not pay in time.
    Expired,
    /// The buyer has finished the checkout, and the money is on its way.
    Pending,
    /// The money did not arrive.
    Failed,
    /// The money has arrived.
    Paid,
}

impl Progress {
    /// The word that is shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Expired => "expired",
            Self::Pending => "pending",
            Self::Failed => "failed",
            Self::Paid => "paid",
        }
    }
}

/// One refund object of Stripe's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refund {
    /// The amount of the refund.
    pub money: Money,
    /// True if the refund failed: the buyer has not got the money.
    pub failed: bool,
}

/// One dispute of Stripe's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dispute {
    /// The amount in dispute.
    pub money: Money,
    /// The stage of the dispute.
    pub stage: Stage,
    /// The part that the bank has given back, in minor units of `money`. `None` until Stripe reports it. Until then,
    /// the whole amount counts as given back if the dispute is won, and otherwise nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub returned: Option<u64>,
    /// True if the operator has unfrozen the account despite this dispute.
    #[serde(default)]
    pub thawed: bool,
}

impl Dispute {
    /// The money that the dispute costs, in minor units: the amount in dispute, less the part that the
    /// bank has given back.
    fn gone(&self) -> u64 {
        let returned = match (self.returned, self.stage) {
            (Some(returned), _) => returned,
            (None, Stage::Won) => self.money.amount,
            (None, _) => 0,
        };
        self.money.amount.saturating_sub(returned)
    }
}

/// The stage of a dispute. If reports differ, the variant that stands later in this enum counts: a
/// lost dispute can still be won, if the bank gives the money back later, but a won dispute is
/// over. Stripe also reports a dispute as lost if the bank gave back only a part; see
/// [`Dispute::returned`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// The bank asks questions. No money has moved, and the inquiry has no effect on credits.
    Inquiry,
    /// The money is in dispute.
    Standing,
    /// The bank has kept the money.
    Lost,
    /// The bank has given the money back.
    Won,
}

/// All that is known about one payment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Facts {
    /// All of Stripe's ids for the payment: those of its session, payment intent, charge and
    /// disputes.
    pub names: BTreeSet<Arc<str>>,
    /// The sale. `None` if the payment is not Farebox's, or if its sale has not been reported yet.
    pub sale: Option<Sale>,
    /// The progress of the payment.
    pub progress: Progress,
    /// The money that was paid, once it has arrived.
    pub paid: Option<Money>,
    /// The sum of refunds that Stripe reports on the charge, in minor units of the charge's
    /// currency.
    pub refunded: u64,
    /// The charge's currency, once the charge has been reported.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub charged_in: Option<Arc<str>>,
    /// The refunds by their ids.
    pub refunds: BTreeMap<Arc<str>, Refund>,
    /// The disputes by their ids.
    pub disputes: BTreeMap<Arc<str>, Dispute>,
}

/// The totals that follow from a payment's facts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Due {
    /// The credits to be granted.
    pub granted: Credits,
    /// The part of [`Due::granted`] to be taken back; never more than all of it.
    pub taken: Credits,
    /// The disputes that freeze the account.
    pub frozen_by: BTreeSet<Arc<str>>,
}

impl Facts {
    /// Adds the facts in `other`.
    pub fn join(&mut self, other: &Self) {
        self.names.extend(other.names.iter().cloned());
        // If both have a sale, the two are equal: a sale is written once, when its session is made.
        if self.sale.is_none() {
            self.sale.clone_from(&other.sale);
        }
        self.progress = self.progress.max(other.progress);
        if self.paid < other.paid {
            self.paid.clone_from(&other.paid);
        }
        self.refunded = self.refunded.max(other.refunded);
        if self.charged_in < other.charged_in {
            self.charged_in.clone_from(&other.charged_in);
        }
        for (id, refund) in &other.refunds {
            let known = self.refunds.entry(id.clone()).or_insert_with(|| refund.clone());
            if known.money < refund.money {
                known.money.clone_from(&refund.money);
            }
            known.failed |= refund.failed;
        }
        for (id, dispute) in &other.disputes {
            let known = self.disputes.entry(id.clone()).or_insert_with(|| dispute.clone());
            if known.money < dispute.money {
                known.money.clone_from(&dispute.money);
            }
            known.stage = known.stage.max(dispute.stage);
            known.returned = known.returned.max(dispute.returned);
            known.thawed |= dispute.thawed;
        }
    }

    /// Whether money went back to the buyer, or may go back. Facts with such money are stored even before it is known
    /// whether the payment is Farebox's.
    pub fn has_money_back(&self) -> bool {
        self.refunded > 0 || !self.refunds.is_empty() || !self.disputes.is_empty()
    }

    /// The currency of money that went back, if it differs from the currency of the payment; see
    /// `Facts::share`.
    pub fn foreign_currency(&self) -> Option<&Arc<str>> {
        let paid = &self.basis()?.currency;
        let refunds = self.refunds.values().map(|refund| &refund.money.currency);
        let disputes = self.disputes.values().map(|dispute| &dispute.money.currency);
        let charged = self.charged_in.iter().filter(|_| self.refunded > 0);
        refunds.chain(disputes).chain(charged).find(|currency| *currency != paid)
    }

    /// The totals that follow from the facts. All are zero until the payment is paid.
    pub fn due(&self, on_dispute: OnDispute) -> Due {
        let (Some(sale), Progress::Paid) = (&self.sale, self.progress) else {
            return Due::default();
        };
        let standing = |dispute: &Dispute| {
            on_dispute == OnDispute::Freeze && dispute.stage == Stage::Standing && !dispute.thawed
        };
        let frozen_by = (self.disputes.iter().filter(|(_, dispute)| standing(dispute)))
            .map(|(id, _)| id.clone())
            .collect();
        Due { granted: sale.credits, taken: self.taken(sale.credits, on_dispute), frozen_by }
    }

    /// The part of `credits` to be taken back. It is the same fraction as the part of the money
    /// that went back, rounded down to a micro-credit (in the buyer's favour). The fraction is
    /// calculated from the total, so that the rounding of many small refunds does not add up.
    fn taken(&self, credits: Credits, on_dispute: OnDispute) -> Credits {
        let paid = self.basis().map_or(0, |paid| paid.amount);
        if paid == 0 {
            return Credits::ZERO;
        }
        let back = self.refunded_minor().saturating_add(self.disputed_minor(on_dispute));
        let back = back.min(u128::from(paid));
        let micros = u128::from(credits.micros()) * back / u128::from(paid);
        // `back` is at most `paid`, so the result is at most `credits`.
        u64::try_from(micros).ok().and_then(Credits::from_micros).unwrap_or(credits)
    }

    /// The refunded money. Each refund object counts once. If the charge reports a larger sum than
    /// the known refund objects have, that sum counts instead, less the refunds that failed.
    fn refunded_minor(&self) -> u128 {
        let of = |failed: bool| self.refunds.values().filter(move |r| r.failed == failed);
        let sum: u128 = of(false).map(|r| self.share(r.money.amount, &r.money)).sum();
        let failed = of(true).fold(0_u64, |sum, r| sum.saturating_add(r.money.amount));
        let left = self.refunded.saturating_sub(failed);
        let by_charge = match &self.charged_in {
            Some(currency) => {
                self.share(left, &Money { amount: self.refunded, currency: currency.clone() })
            }
            None => u128::from(left),
        };
        sum.max(by_charge)
    }

    /// The money that disputes have cost, in minor units.
    fn disputed_minor(&self, on_dispute: OnDispute) -> u128 {
        let counts = |dispute: &&Dispute| match dispute.stage {
            Stage::Inquiry => false,
            Stage::Standing => on_dispute == OnDispute::ClawBack,
            Stage::Lost | Stage::Won => true,
        };
        let disputes = self.disputes.values().filter(counts);
        disputes.map(|dispute| self.share(dispute.gone(), &dispute.money)).sum()
    }

    /// The amount with which refunds and disputes are compared: the money that was paid, or else
    /// the price of the pack.
    fn basis(&self) -> Option<&Money> {
        self.paid.as_ref().or(self.sale.as_ref().map(|sale| &sale.price))
    }

    /// Converts `part` of `whole` into minor units of the paid currency. If `whole` is in another
    /// currency, the two cannot be compared. Then `whole` counts as the whole payment, and `part`
    /// as the same fraction of it. This may take too many credits, which the operator can grant
    /// again. It would be worse if a buyer kept credits whose money is gone.
    fn share(&self, part: u64, whole: &Money) -> u128 {
        let part = u128::from(part);
        match self.basis() {
            Some(paid) if paid.currency != whole.currency && whole.amount > 0 => {
                u128::from(paid.amount) * part / u128::from(whole.amount)
            }
            _ => part,
        }
    }
}
