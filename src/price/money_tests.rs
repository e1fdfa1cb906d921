//! Amounts of money are read and written exactly.

use proptest::prelude::*;

use super::*;

#[test]
fn a_price_is_read_in_the_minor_unit_of_its_currency() {
    for (text, minor, shown) in [
        ("79.00 EUR", 7900, "79.00 EUR"),
        ("79 EUR", 7900, "79.00 EUR"),
        ("79.5 usd", 7950, "79.50 USD"),
        ("0.04 EUR", 4, "0.04 EUR"),
        ("500 JPY", 500, "500 JPY"),
        ("500.00 KRW", 500, "500 KRW"),
        ("1.234 KWD", 1234, "1.234 KWD"),
        ("5 ISK", 500, "5.00 ISK"),
    ] {
        let price: Price = text.parse().unwrap();
        assert_eq!((price.minor(), price.to_string().as_str()), (minor, shown));
    }
}

#[test]
fn a_cost_may_be_finer_than_a_cent() {
    for (text, nanos, shown) in [
        ("0.0004 EUR", 400_000, "0.0004 EUR"),
        ("0.000000001 USD", 1, "0.000000001 USD"),
        ("0.5 JPY", 500_000_000, "0.5 JPY"),
        ("2 EUR", 2_000_000_000, "2.00 EUR"),
    ] {
        let cost: UnitAmount = text.parse().unwrap();
        assert_eq!((cost.nanos(), cost.to_string().as_str()), (nanos, shown));
    }
}

#[test]
fn a_text_that_is_not_money_is_refused() {
    let malformed = |text: &str| MoneyError::Malformed(text.into());
    for text in ["", "79", "79.00EUR", "-1 EUR", "+1 EUR", "1e3 EUR", "1, EUR", ". EUR", "1. EUR"] {
        assert_eq!(text.parse::<Price>(), Err(malformed(text)));
        assert_eq!(text.parse::<UnitAmount>(), Err(malformed(text)));
    }
    let fine = |text: &str, decimals| MoneyError::TooFine { text: text.into(), decimals };
    assert_eq!("0.005 EUR".parse::<Price>(), Err(fine("0.005 EUR", 2)));
    assert_eq!("0.5 JPY".parse::<Price>(), Err(fine("0.5 JPY", 0)));
    let text = "0.0000000001 EUR";
    assert_eq!(text.parse::<UnitAmount>(), Err(fine(text, 9)));
    let large = "10000000000 EUR";
    assert_eq!(large.parse::<Price>(), Err(MoneyError::TooLarge(large.into())));
    let large = "99999999999999999999 EUR";
    assert_eq!(large.parse::<UnitAmount>(), Err(MoneyError::TooLarge(large.into())));
    assert!(matches!("1  EUR".parse::<Price>(), Err(MoneyError::UnknownCurrency(_))));
}

#[test]
fn a_price_is_json_as_stripe_writes_it() {
    let price: Price = "79.00 EUR".parse().unwrap();
    let json = serde_json::to_string(&price).unwrap();
    assert_eq!(json, r#"{"amount":7900,"currency":"eur"}"#);
}

proptest! {
    #[test]
    fn printed_money_reads_back_the_same(
        nanos: u64,
        code in proptest::sample::select(vec!["EUR", "JPY", "KWD", "ISK"]),
    ) {
        let currency = code.parse().unwrap();
        let cost = UnitAmount::from_nanos(nanos, currency);
        prop_assert_eq!(cost.to_string().parse(), Ok(cost));
        let price = Price::from_minor(nanos % (MAX_MINOR + 1), currency).unwrap();
        prop_assert_eq!(price.to_string().parse(), Ok(price));
    }

    #[test]
    fn fuzz_arbitrary_text_never_panics(text: String) {
        let _ = text.parse::<Price>();
        let _ = text.parse::<UnitAmount>();
    }
}

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
