//! What has been heard of one payment, and what it comes to.
//!
//! Stripe's events are repeated and arrive in any order. So what is kept of a payment is a
//! join-semilattice: facts that are only ever added to, each joined with what is known by a
//! function that is associative, commutative and idempotent. Whatever the order and however often,
//! the same events leave the same facts, and [`Facts::due`] is a function of the facts alone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::account::AccountId;
use crate::credits::Credits;

/// What a dispute does to the account that bought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnDispute {
    /// The credits that were bought are taken back, and given back if the dispute is won.
    #[default]
    ClawBack,
    /// The account is frozen until the dispute is over; a lost one is then taken back.
    Freeze,
}

/// What was sold, as it was when the buyer was sent to pay: a later change of gateway.toml changes
/// nothing of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sale {
    /// The checkout session.
    pub session: Arc<str>,
    /// Who gets the credits.
    pub account: AccountId,
    /// Which pack.
    pub pack: Arc<str>,
    /// How many credits.
    #[serde(with = "crate::ledger::rules::facts::micros")]
    pub credits: Credits,
    /// What was asked for them.
    pub price: Money,
    /// An import has granted the credits: the payment itself moves only what is taken back.
    #[serde(default)]
    pub imported: bool,
}

/// An amount in minor units of a currency. Ordered by the amount, for joining.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Money {
    /// Minor units.
    pub amount: u64,
    /// As Stripe writes it: `eur`.
    pub currency: Arc<str>,
}

/// How far a payment has come; the furthest counts.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Progress {
    /// The buyer was sent to pay, and nothing was heard since.
    #[default]
    Open,
    /// The buyer did not pay in time.
    Expired,
    /// The buyer is done, and the money is on its way.
    Pending,
    /// The money did not come.
    Failed,
    /// The money is there.
    Paid,
}

impl Progress {
    /// As it is shown.
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
    /// How much.
    pub money: Money,
    /// It came back: the buyer has not been refunded after all.
    pub failed: bool,
}

/// One dispute of Stripe's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dispute {
    /// How much is disputed.
    pub money: Money,
    /// How far it has come.
    pub stage: Stage,
    /// How much of it the bank has given back, in minor units of `money`. `None` where Stripe has
    /// not said: then all of it once the dispute is won, and nothing before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub returned: Option<u64>,
    /// The operator lifted its freeze.
    #[serde(default)]
    pub thawed: bool,
}

impl Dispute {
    /// How much of the money is gone if it is given up, in minor units: what was disputed, less what
    /// came back.
    fn gone(&self) -> u64 {
        let returned = match (self.returned, self.stage) {
            (Some(returned), _) => returned,
            (None, Stage::Won) => self.money.amount,
            (None, _) => 0,
        };
        self.money.amount.saturating_sub(returned)
    }
}

/// How far a dispute has come; the furthest counts. A lost one can still be won (the bank gives
/// the money back later), a won one is over. How much of the money came back is told beside it:
/// Stripe calls a dispute lost of which only a part did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// A bank asks; no money has moved, and nothing is done about it.
    Inquiry,
    /// The money is in dispute.
    Standing,
    /// The money is gone.
    Lost,
    /// The money is back.
    Won,
}

/// What is known of one payment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Facts {
    /// Under which of Stripe's ids it is known: its session, payment intent, charge, disputes.
    pub names: BTreeSet<Arc<str>>,
    /// What was sold. Without it, the payment is not Farebox's, or not yet known to be.
    pub sale: Option<Sale>,
    /// How far it has come.
    pub progress: Progress,
    /// What was paid, once it was.
    pub paid: Option<Money>,
    /// The sum that its charge says was refunded, in minor units of the charge's currency.
    pub refunded: u64,
    /// The charge's currency, once the charge was heard of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub charged_in: Option<Arc<str>>,
    /// Its refunds by their ids.
    pub refunds: BTreeMap<Arc<str>, Refund>,
    /// Its disputes by their ids.
    pub disputes: BTreeMap<Arc<str>, Dispute>,
}

/// What a payment comes to, in total.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Due {
    /// To be granted.
    pub granted: Credits,
    /// Of those, to be taken back; never more than granted.
    pub taken: Credits,
    /// The disputes that freeze the account.
    pub frozen_by: BTreeSet<Arc<str>>,
}

impl Facts {
    /// Adds what `other` knows.
    pub fn join(&mut self, other: &Self) {
        self.names.extend(other.names.iter().cloned());
        // Both come from the act that made the session, so they say the same.
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

    /// True where money went back, or may: what must be remembered even before the payment is
    /// known to be ours.
    pub fn speaks_of_money_back(&self) -> bool {
        self.refunded > 0 || !self.refunds.is_empty() || !self.disputes.is_empty()
    }

    /// The currency of money that went back, where it is another than was paid: see
    /// `Facts::share`.
    pub fn foreign_currency(&self) -> Option<&Arc<str>> {
        let paid = &self.basis()?.currency;
        let refunds = self.refunds.values().map(|refund| &refund.money.currency);
        let disputes = self.disputes.values().map(|dispute| &dispute.money.currency);
        let charged = self.charged_in.iter().filter(|_| self.refunded > 0);
        refunds.chain(disputes).chain(charged).find(|currency| *currency != paid)
    }

    /// What the payment comes to. Nothing before it is paid.
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

    /// The part of the credits that goes back with the money: in proportion to what was paid,
    /// rounded down to a micro-credit (for the buyer), and all of them when all of it went back.
    /// It is worked out from the total, so that many small refunds do not add up their rounding.
    fn taken(&self, credits: Credits, on_dispute: OnDispute) -> Credits {
        let paid = self.basis().map_or(0, |paid| paid.amount);
        if paid == 0 {
            return Credits::ZERO;
        }
        let back = self.refunded_minor().saturating_add(self.disputed_minor(on_dispute));
        let back = back.min(u128::from(paid));
        let micros = u128::from(credits.micros()) * back / u128::from(paid);
        // At most the credits themselves, because `back` is at most `paid`.
        u64::try_from(micros).ok().and_then(Credits::from_micros).unwrap_or(credits)
    }

    /// Each refund object counts once; where the charge speaks of more than we have seen objects
    /// for, the charge is believed, less what came back.
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

    fn disputed_minor(&self, on_dispute: OnDispute) -> u128 {
        let counts = |dispute: &&Dispute| match dispute.stage {
            Stage::Inquiry => false,
            Stage::Standing => on_dispute == OnDispute::ClawBack,
            Stage::Lost | Stage::Won => true,
        };
        let disputes = self.disputes.values().filter(counts);
        disputes.map(|dispute| self.share(dispute.gone(), &dispute.money)).sum()
    }

    /// What the money that goes back is compared with.
    fn basis(&self) -> Option<&Money> {
        self.paid.as_ref().or(self.sale.as_ref().map(|sale| &sale.price))
    }

    /// How much of what was paid `part` of `whole` is, in minor units of what was paid. In another
    /// currency the whole cannot be compared with it. It counts as everything that was paid, and a
    /// part as that part of it: to keep credits whose money is gone is the greater harm, and an
    /// operator can give back what was too much.
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

/// Credits in a stored document: a count of micro-credits.
pub(crate) mod micros {
    use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

    use crate::credits::Credits;

    pub fn serialize<S: Serializer>(credits: &Credits, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(credits.micros())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Credits, D::Error> {
        let micros = u64::deserialize(deserializer)?;
        Credits::from_micros(micros).ok_or_else(|| D::Error::custom("too many credits"))
    }
}
