//! A price for each kind of usage, and one for the call itself.

use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::price::metered::unit_price::{Exact, UnitPrice};
use crate::usage::{Kind, Usage};

/// The prices of a call: a price for the call itself, and one for each kind of usage. A kind
/// without a price costs as much as its parent ([`Kind::parent`]). If none of its ancestors has a
/// price either, it costs nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnitPrices {
    request: Option<UnitPrice>,
    kinds: [Option<UnitPrice>; Kind::ALL.len()],
}

impl UnitPrices {
    /// Creates the prices. `kinds` is in the order of [`Kind::ALL`].
    pub(super) const fn new(
        request: Option<UnitPrice>,
        kinds: [Option<UnitPrice>; Kind::ALL.len()],
    ) -> Self {
        Self { request, kinds }
    }

    /// The price of a call, whatever it uses.
    pub fn request(&self) -> Option<UnitPrice> {
        self.request
    }

    /// The price that is set for `kind` itself.
    pub fn written(&self, kind: Kind) -> Option<UnitPrice> {
        // `kinds` is in the order of the enum.
        self.kinds.get(kind as usize).copied().flatten()
    }

    /// The price of `kind`: its own, or its nearest parent's. `None` if neither has one.
    pub fn of(&self, kind: Kind) -> Option<UnitPrice> {
        let mut next = Some(kind);
        while let Some(kind) = next {
            if let Some(price) = self.written(kind) {
                return Some(price);
            }
            next = kind.parent();
        }
        None
    }

    /// The kinds for which a price is set, with that price.
    pub fn iter(&self) -> impl Iterator<Item = (Kind, UnitPrice)> + '_ {
        Kind::ALL.into_iter().filter_map(|kind| Some((kind, self.written(kind)?)))
    }

    /// Whether no price is set.
    pub(super) fn is_empty(&self) -> bool {
        self.request.is_none() && self.iter().next().is_none()
    }

    /// Whether all usage costs nothing.
    pub(in crate::price) fn is_free(&self) -> bool {
        self.request.is_none_or(UnitPrice::is_zero) && self.iter().all(|(_, price)| price.is_zero())
    }

    /// These prices, except that a price which `other` sets is taken from `other`.
    #[must_use]
    pub(super) fn replaced_by(&self, other: &Self) -> Self {
        let mut prices = *self;
        prices.request = other.request.or(prices.request);
        for (mine, theirs) in prices.kinds.iter_mut().zip(other.kinds) {
            *mine = theirs.or(*mine);
        }
        prices
    }

    /// The highest price among the kinds that `can_be` accepts; zero if none of them has a price.
    pub(super) fn dearest(&self, can_be: impl Fn(Kind) -> bool) -> UnitPrice {
        let prices = Kind::ALL.into_iter().filter(|kind| can_be(*kind)).map(|kind| self.of(kind));
        prices.flatten().max().unwrap_or_default()
    }

    /// The exact price of a call that used `usage`, and the used kinds without a price.
    pub(super) fn total(&self, usage: &Usage) -> (Exact, Unpriced) {
        let mut sum = self.request.map_or(Exact::ZERO, Exact::call);
        let mut unpriced = Unpriced::default();
        for (kind, count) in usage.iter() {
            match self.of(kind) {
                Some(price) => sum = sum.plus(Exact::units(price, kind, count)),
                None => unpriced.add(kind),
            }
        }
        (sum, unpriced)
    }
}

/// Writes the prices that are set: `{"request":0.5,"image":4}`.
impl Serialize for UnitPrices {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        if let Some(price) = self.request {
            map.serialize_entry("request", &price)?;
        }
        for (kind, price) in self.iter() {
            map.serialize_entry(kind.as_str(), &price)?;
        }
        map.end()
    }
}

/// Kinds that were used but have no price, so that they were not charged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unpriced(u16);

impl Unpriced {
    fn add(&mut self, kind: Kind) {
        self.0 |= 1 << (kind as u16);
    }

    /// Whether every used kind has a price.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The kinds without a price.
    pub fn iter(self) -> impl Iterator<Item = Kind> {
        Kind::ALL.into_iter().filter(move |kind| self.0 & (1 << (*kind as u16)) != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::price::metered::config::UnitsConfig;

    fn prices(toml: &str) -> UnitPrices {
        toml::from_str::<UnitsConfig>(toml).unwrap().prices()
    }

    fn of(prices: &UnitPrices, kind: Kind) -> String {
        prices.of(kind).map_or("-".into(), |price| price.to_string())
    }

    #[test]
    fn a_kind_without_a_price_costs_as_its_parent() {
        let model = prices("input = 250\ncache_write = '312.5'\noutput = 1000\nimage = 4");
        for (kind, price) in [
            (Kind::Input, "250"),
            (Kind::CachedInput, "250"),
            (Kind::CacheWrite, "312.5"),
            (Kind::CacheWrite1h, "312.5"),
            (Kind::InputAudio, "250"),
            (Kind::InputImage, "250"),
            (Kind::Output, "1000"),
            (Kind::Reasoning, "1000"),
            (Kind::OutputAudio, "1000"),
            (Kind::OutputImage, "1000"),
            (Kind::Image, "4"),
            (Kind::Second, "-"),
            (Kind::Character, "-"),
            (Kind::Search, "-"),
        ] {
            assert_eq!(of(&model, kind), price, "{kind:?}");
        }
        let plain = prices("input = 250");
        assert_eq!(of(&plain, Kind::CacheWrite1h), "250", "from its parent's parent");
        assert_eq!(of(&plain, Kind::Reasoning), "-");
    }

    #[test]
    fn a_replaced_price_passes_to_the_kinds_that_inherit_it() {
        let model = prices("input = 250\ncached_input = 25\noutput = 1000");
        let dearer = model.replaced_by(&prices("input = 500\nrequest = 1"));
        assert_eq!(of(&dearer, Kind::InputAudio), "500");
        assert_eq!(of(&dearer, Kind::CachedInput), "25", "its own price is not named");
        assert_eq!(of(&dearer, Kind::Output), "1000");
        assert_eq!(dearer.request().map(|price| price.to_string()), Some("1".to_owned()));
    }

    #[test]
    fn a_used_kind_without_any_price_is_told_and_costs_nothing() {
        let usage = Usage::NONE.with(Kind::Input, 1000).and_then(|u| u.with(Kind::Search, 2));
        let usage = usage.and_then(|usage| usage.with(Kind::Reasoning, 5)).unwrap();
        let (sum, unpriced) = prices("input = 0").total(&usage);
        assert_eq!((sum, unpriced.is_empty()), (Exact::ZERO, false));
        assert_eq!(unpriced.iter().collect::<Vec<_>>(), [Kind::Reasoning, Kind::Search]);
        let (_, unpriced) = prices("input = 0\noutput = 0\nsearch = 0").total(&usage);
        assert!(unpriced.is_empty(), "a price of 0 is a price");
    }

    #[test]
    fn prices_are_listed_as_numbers() {
        let listed = serde_json::to_string(&prices("image = 4\nrequest = '0.5'\ninput = '312.5'"));
        assert_eq!(listed.unwrap(), r#"{"request":0.5,"input":312.5,"image":4}"#);
    }
}
