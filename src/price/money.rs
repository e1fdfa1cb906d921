//! Money as integers: prices of packs, the revenue and cost of one call, and currencies.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize, Serializer};

/// The largest [`Price`], in minor units: Stripe's amounts have at most twelve digits.
pub const MAX_MINOR: u64 = 999_999_999_999;

/// The number of decimals of a [`UnitAmount`].
const NANO_DECIMALS: u32 = 9;

/// The price of a pack, in whole minor units as Stripe counts them. The text form is `79.00 EUR`;
/// JSON has `{"amount":7900,"currency":"eur"}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct Price {
    #[serde(rename = "amount")]
    minor: u64,
    currency: Currency,
}

/// The revenue or cost of one call. One call can be worth less than a cent, so this counts
/// billionths of the currency's unit, while [`Price`] counts cents. The text form is `0.0004 EUR`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct UnitAmount {
    nanos: u64,
    currency: Currency,
}

/// The reason why a text is not an amount of money.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MoneyError {
    /// The text is not a decimal, one space and a currency.
    #[error("`{0}` is not an amount of money; write it like \"79.00 EUR\"")]
    Malformed(String),
    /// The currency does not exist.
    #[error("`{0}` is not a currency of ISO 4217, such as EUR or USD")]
    UnknownCurrency(String),
    /// The amount has more decimals than allowed.
    #[error("`{text}` is too fine; it can have {decimals} decimals")]
    TooFine {
        /// The text.
        text: String,
        /// The number of decimals allowed.
        decimals: u32,
    },
    /// The amount is above [`MAX_MINOR`], or above 2^64 billionths.
    #[error("`{0}` is more than can be counted; write a smaller amount")]
    TooLarge(String),
}

impl Price {
    /// A price in minor units, as Stripe sends it; `None` above [`MAX_MINOR`].
    pub fn from_minor(minor: u64, currency: Currency) -> Option<Self> {
        (minor <= MAX_MINOR).then_some(Self { minor, currency })
    }

    /// The amount in minor units: cents for EUR, whole yen for JPY.
    pub const fn minor(self) -> u64 {
        self.minor
    }

    /// The currency.
    pub const fn currency(self) -> Currency {
        self.currency
    }

    /// The amount in billionths of the currency's unit.
    pub(super) fn nanos(self) -> u128 {
        let nanos_per_minor = 10_u64.pow(NANO_DECIMALS - self.currency.decimals());
        u128::from(self.minor) * u128::from(nanos_per_minor)
    }
}

impl UnitAmount {
    /// An amount in billionths of the currency's unit.
    pub const fn from_nanos(nanos: u64, currency: Currency) -> Self {
        Self { nanos, currency }
    }

    /// The amount in billionths of the currency's unit.
    pub const fn nanos(self) -> u64 {
        self.nanos
    }

    /// The amount in minor units as a float, which may be rounded. For metrics only.
    pub fn as_minor_metric(self) -> f64 {
        let nanos_per_minor = 10_u64.pow(NANO_DECIMALS - self.currency.decimals());
        self.nanos as f64 / nanos_per_minor as f64
    }

    /// The currency.
    pub const fn currency(self) -> Currency {
        self.currency
    }
}

impl FromStr for Price {
    type Err = MoneyError;

    fn from_str(text: &str) -> Result<Self, MoneyError> {
        let (decimal, currency) = split(text)?;
        let minor = scaled(text, decimal, currency.decimals())?;
        Self::from_minor(minor, currency).ok_or_else(|| MoneyError::TooLarge(text.to_owned()))
    }
}

impl FromStr for UnitAmount {
    type Err = MoneyError;

    fn from_str(text: &str) -> Result<Self, MoneyError> {
        let (decimal, currency) = split(text)?;
        let nanos = scaled(text, decimal, NANO_DECIMALS)?;
        Ok(Self { nanos, currency })
    }
}

/// Splits `79.00 EUR` into `79.00` and the currency.
fn split(text: &str) -> Result<(&str, Currency), MoneyError> {
    let malformed = || MoneyError::Malformed(text.to_owned());
    let (decimal, code) = text.split_once(' ').ok_or_else(malformed)?;
    Ok((decimal, code.parse()?))
}

/// Reads `decimal` as an integer that counts units of 10^-`decimals`. For example, `1.5` with two
/// decimals is 150. `text` is the whole amount, for the errors.
fn scaled(text: &str, decimal: &str, decimals: u32) -> Result<u64, MoneyError> {
    let (whole, fraction) = decimal.split_once('.').unwrap_or((decimal, "0"));
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(fraction) {
        return Err(MoneyError::Malformed(text.to_owned()));
    }
    let fraction = fraction.trim_end_matches('0');
    let places = usize::try_from(decimals).unwrap_or(usize::MAX);
    let Some(missing) = places.checked_sub(fraction.len()) else {
        return Err(MoneyError::TooFine { text: text.to_owned(), decimals });
    };
    let padding = std::iter::repeat_n(b'0', missing);
    whole
        .bytes()
        .chain(fraction.bytes())
        .chain(padding)
        .try_fold(0_u64, |sum, digit| sum.checked_mul(10)?.checked_add(u64::from(digit - b'0')))
        .ok_or_else(|| MoneyError::TooLarge(text.to_owned()))
}

impl TryFrom<String> for Price {
    type Error = MoneyError;
    fn try_from(text: String) -> Result<Self, MoneyError> {
        text.parse()
    }
}

impl TryFrom<String> for UnitAmount {
    type Error = MoneyError;
    fn try_from(text: String) -> Result<Self, MoneyError> {
        text.parse()
    }
}

impl fmt::Display for Price {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let decimals = self.currency.decimals();
        write_scaled(f, self.minor, decimals, decimals)?;
        write!(f, " {}", self.currency)
    }
}

/// Writes the currency's usual number of decimals, or more if the amount needs them.
impl fmt::Display for UnitAmount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_scaled(f, self.nanos, NANO_DECIMALS, self.currency.decimals())?;
        write!(f, " {}", self.currency)
    }
}

/// Writes `value` / 10^`decimals` exactly, with at least `shown` decimals.
fn write_scaled(
    f: &mut fmt::Formatter<'_>,
    mut value: u64,
    mut decimals: u32,
    shown: u32,
) -> fmt::Result {
    while decimals > shown && value.is_multiple_of(10) {
        value /= 10;
        decimals -= 1;
    }
    if decimals == 0 {
        return write!(f, "{value}");
    }
    let unit = 10_u64.pow(decimals);
    let width = usize::try_from(decimals).unwrap_or_default();
    write!(f, "{}.{:0width$}", value / unit, value % unit)
}

/// A currency of ISO 4217. The text form is `EUR`; JSON has `"eur"`, as Stripe writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Currency(&'static str);

/// The active codes of ISO 4217, without metals, funds and test codes.
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

    /// The number of decimals of Stripe's `amount` in this currency. It is the number in ISO 4217,
    /// with these exceptions: for ISK and UGX Stripe uses two while ISO has none, and for MGA
    /// Stripe uses none while ISO has two. IQD and LYD have two here and three in ISO.
    pub fn decimals(self) -> u32 {
        match self.0 {
            "BIF" | "CLP" | "DJF" | "GNF" | "JPY" | "KMF" | "KRW" | "MGA" | "PYG" | "RWF"
            | "VND" | "VUV" | "XAF" | "XOF" | "XPF" => 0,
            "BHD" | "JOD" | "KWD" | "OMR" | "TND" => 3,
            _ => 2,
        }
    }

    /// Stripe charges only multiples of this amount, in minor units.
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

    /// Reads `EUR`, or `eur` as Stripe writes it.
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
#[path = "money_tests.rs"]
mod tests;
