//! The amounts that are held and charged, compared with amounts that were computed by hand. In the
//! comments, `T` is a million tokens.

use super::*;
use crate::price::metered::config::{ModelConfig, UnitsConfig};
use crate::usage::Limits;

/// The model of the examples.
pub(super) const MODEL: &str = "
match = 'm'
input = 250
cached_input = 25
cache_write = '312.5'
output = 1000
above = [{ input_tokens = 200000, input = 500, output = 1500 }]
max_output_tokens = 8000
max_input_tokens = 400000
image_tokens = 2000
hold_output_tokens = 2048
";

pub(super) fn model(toml: &str) -> Arc<Tariff> {
    Arc::new(Tariff::of_model(&toml::from_str::<ModelConfig>(toml).unwrap()))
}

pub(super) fn units(toml: &str) -> Arc<Tariff> {
    Arc::new(Tariff::of_route(&toml::from_str::<UnitsConfig>(toml).unwrap()))
}

/// A request of 400 bytes that limits its output to 500 tokens and does not stream.
pub(super) fn facts() -> RequestFacts {
    RequestFacts {
        model: Some("m".into()),
        is_stream: false,
        limits: Limits { output_tokens: Some(500), is_kept: true, answers: 1 },
        text_bytes: 400,
        images: 0,
        expands: false,
        input_elsewhere: None,
        writes_cache: false,
        sends_audio: false,
        asks_for_audio: false,
        makes_media: false,
        members: Vec::new(),
    }
}

fn with_limit(output_tokens: Option<u32>) -> RequestFacts {
    RequestFacts { limits: Limits { output_tokens, is_kept: true, answers: 1 }, ..facts() }
}

fn with_member(name: &str, value: Scalar) -> RequestFacts {
    RequestFacts { members: vec![(name.into(), value)], ..facts() }
}

fn text(text: &str) -> Scalar {
    Scalar::Text(text.into())
}

fn credits(text: &str) -> Credits {
    text.parse().unwrap()
}

pub(super) fn quoted(tariff: &Arc<Tariff>, facts: &RequestFacts) -> MeteredQuote {
    quote(tariff, facts, Credits::ZERO).unwrap()
}

fn held(tariff: &Arc<Tariff>, facts: &RequestFacts) -> String {
    quoted(tariff, facts).hold.to_string()
}

pub(super) fn usage(counts: &[(Kind, u64)]) -> Usage {
    counts.iter().fold(Usage::NONE, |usage, (kind, count)| usage.with(*kind, *count).unwrap())
}

#[test]
fn a_request_holds_what_its_input_and_its_output_limit_may_cost() {
    let m = model(MODEL);
    let three = Limits { output_tokens: Some(500), is_kept: true, answers: 3 };
    for (name, facts, hold) in [
        // 200 × 250/T + 500 × 1000/T
        ("max_tokens: 500", facts(), "0.55"),
        // 0.05 + 3 × 0.5
        ("n: 3", RequestFacts { limits: three, ..facts() }, "1.55"),
        // 0.05 + 3000 × 1000/T
        ("max_completion_tokens: 3000", with_limit(Some(3000)), "3.05"),
        // 0.05 + 8000 × 1000/T
        ("max_tokens: 100000", with_limit(Some(100_000)), "8.05"),
        ("no limit", with_limit(None), "8.05"),
        ("no output", with_limit(Some(0)), "0.05"),
        // 200 × 312.5/T + 0.5
        ("cache_control", RequestFacts { writes_cache: true, ..facts() }, "0.5625"),
        // (2000 + 200) × 250/T + 0.5
        ("an image in its place", RequestFacts { images: 1, ..facts() }, "1.05"),
        // (300 000 + 400) / 2 × 250/T + 0.5
        ("its bytes as text", RequestFacts { text_bytes: 300_400, ..facts() }, "38.05"),
        // 400 000 × 500/T + 500 × 1500/T
        (
            "previous_response_id",
            RequestFacts { input_elsewhere: Some("previous_response_id"), ..facts() },
            "200.75",
        ),
        // 201 × 250/T + 0.5: half a token counts as a whole one.
        ("401 bytes", RequestFacts { text_bytes: 401, ..facts() }, "0.55025"),
    ] {
        assert_eq!(held(&m, &facts), hold, "{name}");
        let quote = quoted(&m, &facts);
        assert_eq!(quote.most, quote.hold, "{name}: only a stream's hold grows");
    }
}

#[test]
fn a_stream_holds_for_its_first_tokens_and_grows_to_its_limit() {
    let m = model(MODEL);
    let stream = |facts: RequestFacts| quoted(&m, &RequestFacts { is_stream: true, ..facts });
    for (limit, hold, most) in [
        // 0.05 + 2048 × 1000/T
        (None, "2.098", "8.05"),
        (Some(5000), "2.098", "5.05"),
        (Some(500), "0.55", "0.55"),
    ] {
        let quote = stream(with_limit(limit));
        assert_eq!((quote.hold, quote.most), (credits(hold), credits(most)), "{limit:?}");
    }
    let quote = stream(with_limit(None));
    for (tokens, held) in [(2048, "2.098"), (4096, "4.146"), (8000, "8.05"), (9000, "8.05")] {
        assert_eq!(quote.held_for(tokens), credits(held), "{tokens}");
        assert_eq!(quote.output_tokens_for(credits(held)), Some(tokens.min(8000)), "{held}");
    }
    // The hold of three answers grows three times as fast.
    let limits = Limits { output_tokens: None, is_kept: true, answers: 3 };
    assert_eq!(stream(RequestFacts { limits, ..facts() }).hold, credits("6.194"));
}

#[test]
fn a_request_without_a_bound_for_its_input_is_refused() {
    let elsewhere = RequestFacts { input_elsewhere: Some("file_id"), ..facts() };
    let unbounded = Err(MeteredRefusal::UnboundedInput { member: "file_id" });
    let hold = |tariff: &Arc<Tariff>| {
        quote(tariff, &elsewhere, Credits::ZERO).map(|quote| quote.hold.to_string())
    };
    assert_eq!(hold(&model("match = 'm'\ninput = 250\noutput = 1000")), unbounded);
    assert_eq!(hold(&model("match = 'm'\noutput = 1000\ncached_input = 1")), unbounded);
    // The price does not depend on the input.
    assert_eq!(hold(&units("image = 4")), Ok("4".to_owned()));
    assert_eq!(hold(&model("match = 'm'\nfree = true")), Ok("0".to_owned()));
}

#[test]
fn a_route_with_prices_of_its_own_holds_for_what_the_request_asks() {
    let images = units("request = '0.5'\nimage = 4");
    let two = RequestFacts {
        limits: Limits { output_tokens: None, is_kept: true, answers: 2 },
        ..facts()
    };
    assert_eq!(held(&images, &two), "8.5");
    // The request limits its images, so `hold` does not count.
    assert_eq!(quote(&images, &two, credits("9")).unwrap().hold, credits("8.5"));
    let seconds = units("second = '0.1'\nrequest = 1");
    assert_eq!(quote(&seconds, &two, credits("9")).unwrap().hold, credits("9"));
    assert_eq!(quote(&seconds, &two, credits("0.5")).unwrap().hold, credits("1"));
    // Each character has at least one byte.
    assert_eq!(held(&units("character = '0.001'"), &facts()), "0.4");
    // Even if no amount can be held in advance, the account needs some credits.
    assert_eq!(held(&seconds_only(), &facts()), "0.000001");
    let searches = RequestFacts { input_elsewhere: Some("web_search"), ..facts() };
    let m = model(&format!("{MODEL}search = 10"));
    assert_eq!(quote(&m, &facts(), credits("300")).unwrap().hold, credits("0.55"));
    assert_eq!(quote(&m, &searches, credits("300")).unwrap().hold, credits("300"));
}

fn seconds_only() -> Arc<Tariff> {
    units("second = '0.1'")
}

#[test]
fn kinds_that_a_request_cannot_cause_are_not_held_for() {
    let m = model(
        "match = 'm'\ninput = 1000000\ninput_audio = 2000000\ninput_image = 3000000\ncache_write_1h = 4000000
         output = 1000000\noutput_audio = 5000000\nmax_input_tokens = 200",
    );
    for (name, facts, hold) in [
        ("text", facts(), "700"),
        ("audio sent", RequestFacts { sends_audio: true, ..facts() }, "900"),
        ("audio asked for", RequestFacts { asks_for_audio: true, ..facts() }, "2700"),
        ("cache", RequestFacts { writes_cache: true, ..facts() }, "1300"),
        ("image", RequestFacts { images: 1, ..facts() }, "1100"),
    ] {
        assert_eq!(held(&m, &facts), hold, "{name}");
    }
}

#[test]
fn usage_costs_what_its_kinds_do() {
    let m = model(MODEL);
    let quote = quoted(&m, &facts());
    for (name, counts, cost) in [
        (
            "OpenAI: 400 of 1000 tokens cached, 200 of 300 reasoning",
            &[
                (Kind::Input, 600),
                (Kind::CachedInput, 400),
                (Kind::Output, 100),
                (Kind::Reasoning, 200),
            ][..],
            // 600 × 250/T + 400 × 25/T + 300 × 1000/T
            "0.46",
        ),
        (
            "Anthropic: a cache read and written",
            &[
                (Kind::Input, 600),
                (Kind::CachedInput, 400),
                (Kind::CacheWrite, 100),
                (Kind::Output, 300),
            ],
            // 0.15 + 0.01 + 0.03125 + 0.3
            "0.49125",
        ),
        ("at the tier's edge", &[(Kind::Input, 200_000), (Kind::Output, 300)], "50.3"),
        // 200 001 × 500/T + 300 × 1500/T
        ("above the tier's edge", &[(Kind::Input, 200_001), (Kind::Output, 300)], "100.4505"),
        (
            // 1 × 500/T + 200 000 × 25/T: all kinds of input count together, and the price of
            // cached input stays.
            "above by cached input",
            &[(Kind::Input, 1), (Kind::CachedInput, 200_000)],
            "5.0005",
        ),
        ("an hour's cache", &[(Kind::CacheWrite1h, 1000)], "0.3125"),
        ("nothing", &[], "0"),
    ] {
        let charge = quote.charge(&usage(counts), None);
        assert_eq!(
            (charge.credits.to_string(), charge.unpriced.is_empty()),
            (cost.into(), true),
            "{name}"
        );
    }
}

#[test]
fn a_charge_is_rounded_up_once_at_the_end() {
    let small = quoted(&model("match = 'm'\ninput = '0.3'\noutput = '0.3'"), &facts());
    assert_eq!(small.charge(&usage(&[(Kind::Input, 1)]), None).credits.micros(), 1);
    // 0.3 + 0.3 micro-credits are one micro-credit, not two. 0.3 × 10 micro-credits are three.
    let both = usage(&[(Kind::Input, 1), (Kind::Output, 1)]);
    assert_eq!(small.charge(&both, None).credits.micros(), 1);
    assert_eq!(small.charge(&usage(&[(Kind::Input, 10)]), None).credits.micros(), 3);
    assert_eq!(small.charge(&usage(&[(Kind::Input, 11)]), None).credits.micros(), 4);
    let finest = quoted(&units("character = '0.000000001'"), &facts());
    assert_eq!(finest.charge(&usage(&[(Kind::Character, 1000)]), None).credits.micros(), 1);
    assert_eq!(finest.charge(&usage(&[(Kind::Character, 1001)]), None).credits.micros(), 2);
}

#[test]
fn images_are_charged_as_made_and_unpriced_kinds_are_told() {
    let quote = quoted(&units("request = '0.5'\nimage = 4"), &facts());
    let charge = quote.charge(&usage(&[(Kind::Image, 1)]), None);
    assert_eq!(charge.credits, credits("4.5"));
    let charge =
        quote.charge(&usage(&[(Kind::Image, 1), (Kind::Input, 50), (Kind::Output, 9)]), None);
    assert_eq!(charge.credits, credits("4.5"));
    assert_eq!(charge.unpriced.iter().collect::<Vec<_>>(), [Kind::Input, Kind::Output]);
    let free = quoted(&model("match = 'm'\nfree = true"), &facts());
    let charge = free.charge(&usage(&[(Kind::Input, 50)]), None);
    assert!(charge.credits.is_zero() && charge.unpriced.is_empty());
}

#[test]
fn usage_far_above_the_hold_is_not_believed() {
    let held = credits("0.55");
    for (charge, is_beyond) in [("1.75", false), ("5.5", false), ("5.500001", true), ("6", true)] {
        assert_eq!(
            MeteredQuote::is_beyond_belief(credits(charge), held, 10),
            is_beyond,
            "{charge}"
        );
    }
    assert!(!MeteredQuote::is_beyond_belief(Credits::ZERO, Credits::ZERO, 10));
}

#[test]
fn an_estimate_is_the_input_as_held_and_a_token_for_two_delivered_bytes() {
    let m = model(MODEL);
    let quote = quoted(&m, &facts());
    let cost = |usage: &Usage| quote.charge(usage, None).credits.to_string();
    // 200 × 250/T + 120 × 1000/T
    assert_eq!(cost(&quote.estimate(None, 240)), "0.17");
    // The answer has reported its input: 300 × 250/T + 100 × 25/T + 120 × 1000/T
    let started = usage(&[(Kind::Input, 300), (Kind::CachedInput, 100), (Kind::Output, 1)]);
    assert_eq!(cost(&quote.estimate(Some(&started), 240)), "0.1975");
    // The answer reports more output than was delivered, so its own count is used.
    let told = usage(&[(Kind::Input, 300), (Kind::Reasoning, 150)]);
    assert_eq!(quote.estimate(Some(&told), 240), told);
    let told = usage(&[(Kind::Input, 300), (Kind::Reasoning, 50)]);
    let expected = usage(&[(Kind::Input, 300), (Kind::Reasoning, 50), (Kind::Output, 70)]);
    assert_eq!(quote.estimate(Some(&told), 240), expected);
    // The estimate is at most what the request allows.
    assert_eq!(quote.estimate(None, 1_000_000).of(Kind::Output), 500);
    let image = quoted(&m, &RequestFacts { images: 2, ..facts() });
    let expected = usage(&[(Kind::Input, 200), (Kind::InputImage, 4000)]);
    assert_eq!(image.estimate(None, 0), expected);
}

#[test]
fn the_first_when_that_holds_replaces_the_prices_that_it_names_and_then_the_tier() {
    let m = model(&format!(
        "{MODEL}when = [
            {{ if = {{ service_tier = 'priority', quality = 'hd' }}, output = 4000 }},
            {{ if = {{ service_tier = 'priority' }}, input = 500, output = 2000 }},
            {{ if = {{ quality = 'hd' }}, output = 1200 }},
        ]"
    ));
    let with = |members: &[(&str, &str)]| {
        let members = members.iter().map(|(name, value)| ((*name).into(), text(value)));
        RequestFacts { members: members.collect(), ..facts() }
    };
    let both = [("service_tier", "priority"), ("quality", "hd")];
    let used = usage(&[(Kind::Input, 1000), (Kind::Output, 1000)]);
    let long = usage(&[(Kind::Input, 300_000), (Kind::Output, 1000)]);
    for (name, facts, answered, hold, cost, long_cost) in [
        ("plain", with(&[]), None, "0.55", "1.25", "151.5"),
        ("hd", with(&both[1..]), None, "0.65", "1.45", "151.5"),
        ("priority", with(&both[..1]), None, "1.1", "2.5", "151.5"),
        ("both", with(&both), None, "2.05", "4.25", "151.5"),
        // The answer names the tier that served the call.
        ("downgraded", with(&both[..1]), Some("default"), "1.1", "1.25", "151.5"),
        ("downgraded hd", with(&both), Some("default"), "2.05", "1.45", "151.5"),
        ("upgraded", with(&[]), Some("priority"), "0.55", "2.5", "151.5"),
        ("the same", with(&both[..1]), Some("priority"), "1.1", "2.5", "151.5"),
    ] {
        let quote = quoted(&m, &facts);
        assert_eq!(quote.hold, credits(hold), "{name}");
        assert_eq!(quote.charge(&used, answered).credits, credits(cost), "{name}");
        assert_eq!(quote.charge(&long, answered).credits, credits(long_cost), "{name}");
    }
}

#[test]
fn a_member_that_two_parsers_may_read_otherwise_is_refused() {
    let m = model(
        "match = 'm'\noutput = 1000\nwhen = [
            { if = { steps = 50 }, output = 2000 },
            { if = { quality = 'hd' }, output = 3000 },
            { if = { fast = true }, output = 4000 },
            { if = { scale = '0.5' }, output = 5000 },
        ]",
    );
    let number = |text: &str| Scalar::Number(text.into());
    let wrong = |member: &str| Err(MeteredRefusal::WrongType { member: member.into() });
    let spelled = |member: &str| Err(MeteredRefusal::Misspelled { member: member.into() });
    for (member, value, hold) in [
        ("steps", number("50"), Ok("1")),
        ("steps", number("5.0e1"), Ok("1")),
        ("steps", number("49"), Ok("0.5")),
        ("steps", text("50"), wrong("steps")),
        ("steps", Scalar::Bool(true), wrong("steps")),
        ("steps", Scalar::Null, Ok("0.5")),
        ("quality", text("hd"), Ok("1.5")),
        ("quality", text("low"), Ok("0.5")),
        ("quality", text("HD"), spelled("quality")),
        ("quality", text(" hd"), spelled("quality")),
        ("quality", number("1"), wrong("quality")),
        ("fast", Scalar::Bool(true), Ok("2")),
        ("fast", Scalar::Bool(false), Ok("0.5")),
        ("fast", text("true"), wrong("fast")),
        ("fast", number("1"), wrong("fast")),
        ("scale", number("0.5"), Ok("2.5")),
        ("scale", number("5e-1"), Ok("2.5")),
        ("other", text("anything"), Ok("0.5")),
    ] {
        let facts = with_member(member, value.clone());
        let held = quote(&m, &facts, Credits::ZERO).map(|quote| quote.hold);
        assert_eq!(held, hold.map(credits), "{member} {value:?}");
    }
}

#[test]
fn a_hold_that_an_account_cannot_pay_may_be_shortened() {
    let m = model(MODEL);
    let limits = Limits { output_tokens: Some(500), is_kept: true, answers: 2 };
    let quote = quoted(&m, &RequestFacts { limits, ..facts() });
    assert_eq!(quote.hold, credits("1.05"));
    assert_eq!(quote.affordable_limit(credits("0.45")), Some(200));
    let shorter = quote.shortened(200);
    assert_eq!((shorter.hold, shorter.most), (credits("0.45"), credits("0.45")));
    assert_eq!(shorter.estimate(None, 1_000_000).of(Kind::Output), 400);
    assert_eq!(quote.affordable_limit(credits("0.0505")), None, "not a token for each answer");
    assert_eq!(quote.affordable_limit(credits("0.01")), None);
    assert_eq!(quoted(&units("image = 4"), &facts()).affordable_limit(credits("1")), None);
}

#[test]
fn a_limit_that_the_provider_may_ignore_bounds_neither_a_charge_nor_a_stream() {
    let m = model(MODEL);
    let limits = Limits { output_tokens: Some(1), is_kept: false, answers: 1 };
    let whole = quoted(&m, &RequestFacts { limits, ..facts() });
    assert_eq!((whole.hold, whole.most), (credits("0.051"), credits("8.05")));
    assert_eq!(whole.believed, whole.most);
    assert_eq!(whole.estimate(None, 1_000_000).of(Kind::Output), 500_000);
    assert_eq!(whole.affordable_limit(credits("0.06")), None);
    let stream = quoted(&m, &RequestFacts { limits, is_stream: true, ..facts() });
    assert_eq!((stream.hold, stream.most), (credits("2.098"), credits("8.05")));
}

#[test]
fn amounts_beyond_all_credits_stop_at_the_largest() {
    let m = model("match = 'm'\ninput = '9007199254.740992'\noutput = '9007199254.740992'");
    let limits = Limits { output_tokens: Some(u32::MAX), is_kept: true, answers: u32::MAX };
    let huge = RequestFacts { limits, text_bytes: u64::MAX, images: u32::MAX, ..facts() };
    let quote = quoted(&m, &huge);
    assert_eq!(quote.hold.micros(), MAX_MICROS);
    let most = usage(&Kind::ALL.map(|kind| (kind, MAX_COUNT)));
    assert_eq!(quote.charge(&most, None).credits.micros(), MAX_MICROS);
    let _ = quote.estimate(Some(&most), u64::MAX);
    let _ = quote.held_for(u64::MAX);
    let _ = quote.output_tokens_for(quote.hold);
}
