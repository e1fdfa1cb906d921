//! The conditions of a `when`: members of the request, each with the value that it must have.

use crate::price::metered::wanted::WantedValue;
use crate::usage::{RequestFacts, Scalar};

/// The member whose value the answer may override.
const SERVICE_TIER: &str = "service_tier";

/// Members of the request that must all have certain values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Condition {
    /// All members except `service_tier`.
    members: Box<[(Box<str>, WantedValue)]>,
    /// The service tier that the call must have.
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

    /// All members, each with the value that it must have.
    pub(super) fn wanted(&self) -> impl Iterator<Item = (&str, &WantedValue)> {
        let members = self.members.iter().map(|(name, value)| (&**name, value));
        members.chain(self.service_tier.iter().map(|value| (SERVICE_TIER, value)))
    }

    /// Whether the request has the members, apart from the service tier.
    pub(super) fn holds_but_for_tier(&self, facts: &RequestFacts) -> bool {
        let has = |name: &str, wanted: &WantedValue| {
            member(facts, name).is_some_and(|value| wanted.equals(value))
        };
        self.members.iter().all(|(name, wanted)| has(name, wanted))
    }

    /// Whether the call has the service tier. True if the condition names none.
    pub(super) fn holds_for_tier(&self, tier: Option<&Scalar>) -> bool {
        let is_it = |wanted: &WantedValue| tier.is_some_and(|tier| wanted.equals(tier));
        self.service_tier.as_ref().is_none_or(is_it)
    }

    /// Whether this condition holds for every request for which `other` holds.
    pub(super) fn includes(&self, other: &Self) -> bool {
        self.wanted().all(|mine| other.wanted().any(|theirs| mine == theirs))
    }
}

/// The service tier that the request asks for.
pub(super) fn asked_tier(facts: &RequestFacts) -> Option<&Scalar> {
    member(facts, SERVICE_TIER)
}

fn member<'f>(facts: &'f RequestFacts, name: &str) -> Option<&'f Scalar> {
    facts.members.iter().find(|(member, _)| **member == *name).map(|(_, value)| value)
}
