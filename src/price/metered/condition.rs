//! The conditions of a `when`: members of the request, and the value that each must have.

use crate::price::metered::wanted::WantedValue;
use crate::usage::{RequestFacts, Scalar};

/// The member that the answer may decide otherwise than the request asked.
const SERVICE_TIER: &str = "service_tier";

/// Members that must have certain values, all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Condition {
    /// The members but `service_tier`.
    members: Box<[(Box<str>, WantedValue)]>,
    /// The tier of service that the call must have.
    service_tier: Option<WantedValue>,
}

impl Condition {
    pub(super) fn new(wanted: impl IntoIterator<Item = (Box<str>, WantedValue)>) -> Self {
        let mut condition = Self { members: Box::default(), service_tier: None };
        let mut members = Vec::new();
        for (name, value) in wanted {
            if &*name == SERVICE_TIER {
                condition.service_tier = Some(value);
            } else {
                members.push((name, value));
            }
        }
        condition.members = members.into();
        condition
    }

    /// Every member with the value that it must have.
    pub(super) fn wanted(&self) -> impl Iterator<Item = (&str, &WantedValue)> {
        let members = self.members.iter().map(|(name, value)| (&**name, value));
        members.chain(self.service_tier.iter().map(|value| (SERVICE_TIER, value)))
    }

    /// True where the request has the members, whatever its tier of service is.
    pub(super) fn holds_but_for_tier(&self, facts: &RequestFacts) -> bool {
        let has = |name: &str, wanted: &WantedValue| {
            member(facts, name).is_some_and(|value| wanted.equals(value))
        };
        self.members.iter().all(|(name, wanted)| has(name, wanted))
    }

    /// True where the call has the tier of service, or it does not matter.
    pub(super) fn holds_for_tier(&self, tier: Option<&Scalar>) -> bool {
        let is_it = |wanted: &WantedValue| tier.is_some_and(|tier| wanted.equals(tier));
        self.service_tier.as_ref().is_none_or(is_it)
    }

    /// True where every request that `other` holds for is one that this condition holds for.
    pub(super) fn includes(&self, other: &Self) -> bool {
        self.wanted().all(|mine| other.wanted().any(|theirs| mine == theirs))
    }
}

/// The tier of service that the request asks for.
pub(super) fn asked_tier(facts: &RequestFacts) -> Option<&Scalar> {
    member(facts, SERVICE_TIER)
}

fn member<'f>(facts: &'f RequestFacts, name: &str) -> Option<&'f Scalar> {
    facts.members.iter().find(|(member, _)| **member == *name).map(|(_, value)| value)
}
