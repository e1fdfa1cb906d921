//! `[rates]`: the values of the currencies of own costs in the currency of the packs.

use crate::config::Mistake;
use crate::price::metered::config::RatesConfig;
use crate::price::money::{Currency, UnitAmount};

/// Billionths in one unit of a currency.
const NANOS_PER_UNIT: u128 = 1_000_000_000;

/// The value of one unit of each foreign currency.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rates(Vec<(Currency, UnitAmount)>);

impl Rates {
    /// Reads the rates of the config. A line whose key is not a currency is left out, and
    /// [`check_rates`] reports it.
    pub fn new(config: &RatesConfig) -> Self {
        let rates = config.worth.iter();
        Self(rates.filter_map(|(code, worth)| Some((code.parse().ok()?, *worth))).collect())
    }

    /// Converts `amount` into the currency `to`, rounded up to a billionth. `None` without a rate
    /// between the two, or if the amount is too large.
    pub fn convert(&self, amount: UnitAmount, to: Currency) -> Option<UnitAmount> {
        if amount.currency() == to {
            return Some(amount);
        }
        let is_it = |(from, worth): &&(Currency, UnitAmount)| {
            *from == amount.currency() && worth.currency() == to
        };
        let (_, worth) = self.0.iter().find(is_it)?;
        let nanos = u128::from(amount.nanos()) * u128::from(worth.nanos());
        Some(UnitAmount::from_nanos(u64::try_from(nanos.div_ceil(NANOS_PER_UNIT)).ok()?, to))
    }
}

/// The mistakes in `[rates]`. `packs` is the currency of the packs, if there are packs.
pub fn check_rates(config: &RatesConfig, packs: Option<Currency>) -> Vec<Mistake> {
    let mut mistakes = Vec::new();
    for (code, worth) in &config.worth {
        let mut wrong = |message: String, hint: String| {
            mistakes.push(Mistake::new(format!("rates.{code}"), message, hint));
        };
        let home = packs.unwrap_or(worth.currency());
        match code.parse::<Currency>() {
            Ok(from) if from.code() != code => {
                wrong(format!("`{code}` is not written as a currency is"), format!("write {from}"));
            }
            Ok(from) if from == worth.currency() => wrong(
                format!("{from} is worth one {from}"),
                "write its worth in another currency, or remove the line".to_owned(),
            ),
            Ok(_) if worth.nanos() == 0 => {
                wrong(
                    format!("`{code}` cannot be worth nothing"),
                    format!("write it like {code} = \"0.86 {home}\""),
                );
            }
            Ok(from) if from == home => wrong(
                format!("{from} is the currency of the packs, so no cost needs its worth"),
                format!("write it the other way round: {} = \"… {home}\"", worth.currency()),
            ),
            Ok(_) if worth.currency() != home => wrong(
                format!("{worth} is not in the currency of the packs"),
                format!("write what one {code} is worth in {home}"),
            ),
            Ok(_) => {}
            Err(error) => wrong(error.to_string(), "write it like USD = \"0.86 EUR\"".to_owned()),
        }
    }
    mistakes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(toml: &str) -> RatesConfig {
        toml::from_str(toml).unwrap()
    }

    #[test]
    fn a_cost_is_converted_by_its_rate_and_rounded_up() {
        let rates = Rates::new(&rates("USD = '0.86 EUR'\nJPY = '0.0061 EUR'"));
        let convert = |amount: &str, to: &str| {
            let converted = rates.convert(amount.parse().unwrap(), to.parse().unwrap());
            converted.map(|amount| amount.to_string())
        };
        assert_eq!(convert("2.50 USD", "EUR"), Some("2.15 EUR".into()));
        assert_eq!(convert("2.50 EUR", "EUR"), Some("2.50 EUR".into()));
        assert_eq!(convert("0.000000001 USD", "EUR"), Some("0.000000001 EUR".into()));
        assert_eq!(convert("2.50 GBP", "EUR"), None);
        assert_eq!(convert("2.50 EUR", "USD"), None, "no rate runs backwards");
    }

    #[test]
    fn a_rate_that_makes_no_sense_is_found() {
        let eur = "EUR".parse().ok();
        let keys = |toml: &str| -> Vec<String> {
            check_rates(&rates(toml), eur).into_iter().map(|mistake| mistake.key).collect()
        };
        assert_eq!(keys("USD = '0.86 EUR'\nas_of = 2026-11-01"), [""; 0]);
        assert_eq!(keys("usd = '0.86 EUR'"), ["rates.usd"]);
        assert_eq!(keys("US = '0.86 EUR'"), ["rates.US"]);
        assert_eq!(keys("USD = '0 EUR'"), ["rates.USD"]);
        assert_eq!(keys("EUR = '1.1 EUR'"), ["rates.EUR"]);
        assert_eq!(keys("USD = '0.75 GBP'"), ["rates.USD"]);
        assert_eq!(keys("EUR = '1.16 USD'"), ["rates.EUR"], "it is the wrong way round");
    }
}
