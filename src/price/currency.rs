//! Currencies: their codes, and how many decimals an amount in each has.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use super::money::MoneyError;

/// A currency of ISO 4217. Displays as `EUR`, serializes as Stripe writes it: `"eur"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Currency(&'static str);

/// The active codes of ISO 4217 that money is held in (no metals, funds or test codes).
const CODES: &str = "\
    AED AFN ALL AMD ANG AOA ARS AUD AWG AZN BAM BBD BDT BGN BHD BIF BMD BND BOB BRL BSD BTN BWP \
    BYN BZD CAD CDF CHF CLP CNY COP CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP \
    GEL GHS GIP GMD GNF GTQ GYD HKD HNL HTG HUF IDR ILS INR IQD IRR ISK JMD JOD JPY KES KGS KHR \
    KMF KPW KRW KWD KYD KZT LAK LBP LKR LRD LSL LYD MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK \
    MXN MYR MZN NAD NGN NIO NOK NPR NZD OMR PAB PEN PGK PHP PKR PLN PYG QAR RON RSD RUB RWF SAR \
    SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SYP SZL THB TJS TMT TND TOP TRY TTD TWD TZS UAH \
    UGX USD UYU UZS VED VES VND VUV WST XAF XCD XCG XOF XPF YER ZAR ZMW ZWG";

impl Currency {
    /// The code in capitals, `EUR`.
    pub const fn code(self) -> &'static str {
        self.0
    }

    /// Decimals of the minor unit that Stripe's `amount` counts in. ISO 4217's but for three:
    /// Stripe keeps two for ISK and UGX, which have none, and none for MGA.
    pub fn decimals(self) -> u32 {
        match self.0 {
            "BIF" | "CLP" | "DJF" | "GNF" | "JPY" | "KMF" | "KRW" | "MGA" | "PYG" | "RWF"
            | "VND" | "VUV" | "XAF" | "XOF" | "XPF" => 0,
            "BHD" | "JOD" | "KWD" | "OMR" | "TND" => 3,
            _ => 2,
        }
    }

    /// What an amount that Stripe charges must be a multiple of, in minor units.
    pub fn charge_step(self) -> u64 {
        match self.0 {
            "ISK" | "UGX" => 100,
            "BHD" | "JOD" | "KWD" | "OMR" | "TND" => 10,
            _ => 1,
        }
    }
}

impl FromStr for Currency {
    type Err = MoneyError;

    /// Reads `EUR`, or `eur` as in Stripe's answers.
    fn from_str(text: &str) -> Result<Self, MoneyError> {
        let known = CODES.split(' ').find(|code| code.eq_ignore_ascii_case(text));
        known.map(Self).ok_or_else(|| MoneyError::UnknownCurrency(text.to_owned()))
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl Serialize for Currency {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0.to_ascii_lowercase())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_three_capitals_and_listed_once() {
        let codes: Vec<_> = CODES.split(' ').collect();
        assert!(codes.iter().all(|c| c.len() == 3 && c.bytes().all(|b| b.is_ascii_uppercase())));
        assert!(codes.is_sorted_by(|a, b| a < b));
    }

    #[test]
    fn a_currency_is_read_in_either_case_and_only_if_it_exists() {
        let euro: Currency = "eur".parse().unwrap();
        assert_eq!(euro, "EUR".parse().unwrap());
        assert_eq!(serde_json::to_string(&euro).unwrap(), r#""eur""#);
        for bad in ["", "EU", "EUT", "EUR USD", "€"] {
            assert_eq!(bad.parse::<Currency>(), Err(MoneyError::UnknownCurrency(bad.into())));
        }
    }
}
