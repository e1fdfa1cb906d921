//! Tests of the price table. The last ones compare it with a slow table that is plainly right.

use proptest::prelude::*;

use super::*;
use crate::price::Segment;

fn table(rules: &str) -> PriceTable {
    PriceTable::new(&configs(rules), &["ai"]).unwrap()
}

/// The rules of a table, one a line: `METHODS PATH CREDITS`.
fn configs(rules: &str) -> Vec<RouteConfig> {
    let rules = rules.lines().map(str::trim).filter(|line| !line.is_empty());
    rules.map(|line| config(&line.split(' ').collect::<Vec<_>>())).collect()
}

fn config(rule: &[&str]) -> RouteConfig {
    let [methods, path, credits] = rule else { panic!("METHODS PATH CREDITS: {rule:?}") };
    let methods = match *methods {
        "*" => String::new(),
        listed => format!("methods = ['{}']", listed.replace(',', "', '")),
    };
    let toml = format!("path = '{path}'\nupstream = 'ai'\ncredits = {credits}\n{methods}");
    toml::from_str(&toml).unwrap()
}

/// The credits of a call, or the refusal.
fn price(table: &PriceTable, method: Method, path: &str) -> Result<u64, QuoteRefusal> {
    let path = CanonicalPath::parse(path.as_bytes()).unwrap();
    table.quote(&method, &path).map(|quote| quote.credits.unwrap().micros() / 1_000_000)
}

#[test]
fn the_most_exact_pattern_wins_whatever_the_order() {
    let mut rules = vec![
        "* /{*rest} 1",
        "* /a/{*rest} 2",
        "* /a/{x} 3",
        "* /a/{x}/{*rest} 4",
        "* /a/{x}/c 5",
        "* /a/b/{*rest} 6",
        "* /a/b/c 7",
        "* /a/b 8",
        "* /a/ 9",
    ];
    for _ in 0..rules.len() {
        rules.rotate_left(1);
        let table = table(&rules.join("\n")).with_exact_paths(true);
        for (path, credits) in [
            ("/z", 1),
            ("/z/y/x/", 1),
            ("/a", 1),
            ("/a/", 9),
            ("/a/b", 8),
            ("/a/z", 3),
            ("/a/z/c", 5),
            ("/a/z/d", 4),
            ("/a/b/c", 7),
            ("/a/b/d", 6),
            ("/a/b/", 2),
        ] {
            assert_eq!(price(&table, Method::GET, path), Ok(credits), "{path}");
        }
    }
}

#[test]
fn a_dead_end_falls_back_to_a_less_exact_pattern() {
    let table = table("* /a/{x}/c 1\n* /a/b/{y}/d 2\n* /{*rest} 3");
    assert_eq!(price(&table, Method::GET, "/a/b/c"), Ok(1));
    assert_eq!(price(&table, Method::GET, "/a/b/c/d"), Ok(2));
    assert_eq!(price(&table, Method::GET, "/a/b/c/e"), Ok(3));
}

#[test]
fn a_path_without_a_rule_is_refused_and_never_free() {
    let table = table("POST /a 5\nPOST /b/{*rest} 5");
    for path in ["/", "/a/", "/A", "/A/", "/a/b", "/b", "/b/", "/B/x", "/c"] {
        assert_eq!(price(&table, Method::POST, path), Err(QuoteRefusal::NoRule), "{path}");
    }
    assert_eq!(price(&PriceTable::default(), Method::GET, "/"), Err(QuoteRefusal::NoRule));
}

#[test]
fn a_path_with_a_rule_of_its_own_is_never_served_at_a_wildcards_price() {
    let table = table("POST /a/hd 10\n* /a/{x} 1\nGET /a/{x}/raw 2\n* /{*rest} 0");
    assert_eq!(price(&table, Method::POST, "/a/hd"), Ok(10));
    assert_eq!(price(&table, Method::GET, "/a/hd"), Err(QuoteRefusal::NoRuleForMethod));
    assert_eq!(price(&table, Method::POST, "/a/z/raw"), Err(QuoteRefusal::NoRuleForMethod));
}

#[test]
fn head_costs_the_same_as_get() {
    let table = table("GET /a 5\nPOST /a 7\nPOST /b 7\n* /c 9\nHEAD /d 3\nGET,HEAD /e 4");
    assert_eq!(price(&table, Method::HEAD, "/a"), Ok(5));
    assert_eq!(price(&table, Method::HEAD, "/b"), Err(QuoteRefusal::NoRuleForMethod));
    assert_eq!(price(&table, Method::HEAD, "/c"), Ok(9));
    assert_eq!(price(&table, Method::GET, "/d"), Err(QuoteRefusal::NoRuleForMethod));
    assert_eq!(price(&table, Method::HEAD, "/e"), Ok(4));
}

#[test]
fn a_rule_without_methods_covers_all_that_are_forwarded() {
    let table = table("* /a 5");
    let purge = Method::from_bytes(b"PURGE").unwrap();
    for method in [Method::GET, Method::HEAD, Method::DELETE, Method::OPTIONS, purge] {
        assert_eq!(price(&table, method, "/a"), Ok(5));
    }
    for method in [Method::CONNECT, Method::TRACE] {
        assert_eq!(price(&table, method, "/a"), Err(QuoteRefusal::NoRuleForMethod));
    }
}

#[test]
fn a_route_is_known_by_its_place_and_its_pattern() {
    let table = table("GET /a/{x} 1\nPOST /a/{y} 2\n* /b 3");
    for (index, route) in table.routes().iter().enumerate() {
        assert_eq!(route.index, index);
    }
    let path = CanonicalPath::parse(b"/a/7").unwrap();
    let quote = table.quote(&Method::POST, &path).unwrap();
    assert_eq!((quote.route.index, quote.route.label()), (1, "/a/{y}"));
}

#[test]
fn a_config_with_a_mistake_makes_no_table() {
    assert!(PriceTable::new(&configs("* /a 1\n* /a 2"), &["ai"]).is_err());
    assert!(PriceTable::new(&configs("* /a 1"), &["other"]).is_err());
}

/// True if a pattern matches a path, written straight from the definition of patterns.
fn matches(pattern: &[Segment], path: &[&str]) -> bool {
    match (pattern, path) {
        ([], []) => true,
        ([Segment::Rest], [first, ..]) => !first.is_empty(),
        ([Segment::One, pattern @ ..], [first, path @ ..]) => {
            !first.is_empty() && matches(pattern, path)
        }
        ([Segment::Ending(text), pattern @ ..], [first, path @ ..]) => {
            first.len() > text.len() && first.ends_with(&**text) && matches(pattern, path)
        }
        ([Segment::Literal(text), pattern @ ..], [first, path @ ..]) => {
            **text == **first && matches(pattern, path)
        }
        _ => false,
    }
}

/// The exactness of each segment, smaller for more exact ones. All patterns that match one path
/// have the same literals in the same segments.
fn exactness(pattern: &[Segment]) -> Vec<usize> {
    let rank = |segment: &Segment| match segment {
        Segment::Literal(_) => 0,
        Segment::Ending(text) => 100 - text.len(),
        Segment::One => 200,
        Segment::Rest => 300,
    };
    pattern.iter().map(rank).collect()
}

#[test]
fn no_spelling_buys_a_cheaper_call() {
    let table =
        table("POST /api/hd 10\nPOST /v1/{model}/hd 20\nPOST /jobs/{id}/ 7\nPOST /{*rest} 1");
    for (path, credits) in [
        ("/api/hd", 10),
        ("/API/HD", 10),
        ("/api/hd/", 10),
        ("/API/hD/", 10),
        ("/api/%48d", 10),
        ("/api/%48%44/", 10),
        ("/v1/x/hd", 20),
        ("/V1/x/hd", 20),
        ("/v1/x/HD", 20),
        ("/v1/X/hd", 20),
        ("/v1/x/hd/", 20),
        ("/jobs/7/", 7),
        ("/jobs/7", 7),
        ("/JOBS/7", 7),
        // No other path resembles these rules.
        ("/other", 1),
        ("/api/hd/more", 1),
        ("/api/hdx", 1),
        ("/api", 1),
        ("/v1/x/y/hd", 1),
        ("/jobs/", 1),
    ] {
        assert_eq!(price(&table, Method::POST, path), Ok(credits), "{path}");
    }
}

#[test]
fn a_call_costs_the_dearest_of_its_rule_and_those_that_it_resembles() {
    let dear = table("POST /api/hd 10\nPOST /{*rest} 50");
    assert_eq!(price(&dear, Method::POST, "/api/hd"), Ok(10), "an exact path is what it is");
    assert_eq!(price(&dear, Method::POST, "/API/HD"), Ok(50));
    let several = table("* /a/hd 10\n* /a/{x} 30\n* /a/{*rest} 20\n* /{*rest} 1");
    assert_eq!(price(&several, Method::POST, "/A/HD"), Ok(30));
    assert_eq!(price(&several, Method::POST, "/A/x/y"), Ok(20));
    assert_eq!(price(&several, Method::POST, "/a/x"), Ok(30), "less exact rules do not count");
    assert_eq!(price(&table("* /a 5\n* /a/ 1\n* /{x} 9"), Method::POST, "/a/"), Ok(1));
}

#[test]
fn upstream_and_label_of_a_call_are_those_of_the_rule_that_matches() {
    let table = table("* /api/hd 10\n* /{*rest} 0");
    let path = CanonicalPath::parse(b"/API/HD").unwrap();
    let quote = table.quote(&Method::POST, &path).unwrap();
    assert_eq!((quote.route.label(), quote.route.index), ("/{*rest}", 1));
    assert_eq!(quote.credits, Credits::from_whole(10));
}

#[test]
fn a_method_without_a_rule_gets_none_by_another_spelling() {
    let table = table("POST /api/hd 10\nGET /b/hd 3\nPOST /B/hd 4\n* /{*rest} 1");
    for path in ["/api/hd", "/API/HD", "/api/hd/"] {
        assert_eq!(price(&table, Method::GET, path), Err(QuoteRefusal::NoRuleForMethod), "{path}");
        assert_eq!(price(&table, Method::HEAD, path), Err(QuoteRefusal::NoRuleForMethod), "{path}");
    }
    assert_eq!(price(&table, Method::GET, "/b/HD"), Ok(3));
    assert_eq!(price(&table, Method::HEAD, "/b/HD"), Ok(3));
    assert_eq!(price(&table, Method::POST, "/b/HD"), Ok(4));
    assert_eq!(price(&table, Method::PUT, "/b/HD"), Err(QuoteRefusal::NoRuleForMethod));
}

/// The prices of a metered rule and of a fixed one cannot be compared, so a path that resembles
/// both is refused.
#[test]
fn a_path_that_resembles_a_metered_rule_has_no_price() {
    let metered = |path: &str| {
        let toml = format!(
            "path = '{path}'\nmethods = ['POST']\nupstream = 'ai'\nmeter = 'openai'\nprice = {{ output = 1 }}"
        );
        toml::from_str::<RouteConfig>(&toml).unwrap()
    };
    let mut rules = configs("POST /a/hd 10\nPOST /{*rest} 1\nGET /{*rest} 1");
    rules.push(metered("/v1/chat"));
    rules.push(metered("/m/{model}:go"));
    rules.push(metered("/A/{*rest}"));
    let table = PriceTable::new(&rules, &["ai"]).unwrap();
    let quote = |method: Method, path: &str| {
        let path = CanonicalPath::parse(path.as_bytes()).unwrap();
        table.quote(&method, &path).map(|quote| (quote.route.index, quote.credits))
    };
    let one = Credits::from_whole(1);
    assert_eq!(quote(Method::POST, "/v1/chat"), Ok((3, None)));
    assert_eq!(quote(Method::POST, "/m/x:go"), Ok((4, None)));
    for path in ["/v1/CHAT", "/v1/chat/", "/V1/chat/", "/m/x:GO", "/m/x:go/", "/M/x:go"] {
        assert_eq!(quote(Method::POST, path), Err(QuoteRefusal::ResemblesMetered), "{path}");
    }
    // The matching rule is metered, and the path resembles a fixed one.
    assert_eq!(quote(Method::POST, "/A/hd"), Err(QuoteRefusal::ResemblesMetered));
    assert_eq!(quote(Method::POST, "/A/x"), Ok((5, None)), "resembles no other rule");
    assert_eq!(quote(Method::POST, "/other"), Ok((1, one)));
    assert_eq!(quote(Method::GET, "/v1/CHAT"), Err(QuoteRefusal::NoRuleForMethod));
    let exact = PriceTable::new(&rules, &["ai"]).unwrap().with_exact_paths(true);
    let path = CanonicalPath::parse(b"/v1/CHAT").unwrap();
    assert_eq!(exact.quote(&Method::POST, &path).unwrap().credits, one);
}

#[test]
fn the_model_of_a_path_is_read_and_replaced() {
    let rule = |path: &str| {
        let toml = format!("path = '{path}'\nupstream = 'ai'\nmeter = 'openai'\nprice = 'models'");
        let table = PriceTable::new(&[toml::from_str(&toml).unwrap()], &["ai"]).unwrap();
        Arc::clone(&table.routes()[0])
    };
    let path = |text: &str| CanonicalPath::parse(text.as_bytes()).unwrap();
    let google = rule("/v1beta/models/{model}:generateContent");
    let asked = path("/v1beta/models/gemini-3:generateContent");
    assert_eq!(google.model_in(&asked).as_deref(), Some("gemini-3"));
    let renamed = |name: &str| google.with_model(&asked, name).map(|path| path.to_string());
    assert_eq!(renamed("g-3.1"), Some("/v1beta/models/g-3.1:generateContent".into()));
    assert_eq!(renamed("a/b?c"), Some("/v1beta/models/a%2Fb%3Fc:generateContent".into()));
    let plain = rule("/m/{model}/x");
    assert_eq!(plain.model_in(&path("/m/a%22b/x")).as_deref(), Some("a\"b"), "decoded");
    for never in ["", ".", ".."] {
        assert_eq!(plain.with_model(&path("/m/a/x"), never), None, "{never:?}");
    }
    assert_eq!(rule("/m/{name}").model_in(&path("/m/a")), None);
}

/// A free rule may leave `charge_on` empty. If a call costs more because its path resembles other
/// rules, it is still charged.
#[test]
fn a_free_rule_charges_for_paths_that_resemble_a_paid_one() {
    let mut configs = configs("* /api/hd 10\n* /{*rest} 0");
    configs[1].charge_on.clear();
    let table = PriceTable::new(&configs, &["ai"]).unwrap();
    let path = CanonicalPath::parse(b"/API/HD").unwrap();
    let quote = table.quote(&Method::POST, &path).unwrap();
    assert!(quote.route.charges_for(200));
}

/// Every path that differs from this one only in case or in one trailing slash.
fn respellings(path: &str) -> Vec<String> {
    let mut all = vec![String::new()];
    for letter in path.trim_end_matches('/').chars() {
        let ways = [letter.to_ascii_lowercase(), letter.to_ascii_uppercase()];
        let ways = &ways[..if letter.is_ascii_alphabetic() { 2 } else { 1 }];
        all = all
            .iter()
            .flat_map(|so_far| ways.iter().map(move |way| format!("{so_far}{way}")))
            .collect();
    }
    all.iter().flat_map(|path| [path.clone(), format!("{path}/")]).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    /// A call costs at least the price of every rule that matches another spelling of its path.
    #[test]
    fn no_respelling_is_cheaper_than_the_rules_it_resembles(
        rules in proptest::collection::btree_map(
            "(/(a|A|b|\\{x\\}|\\{x\\}A|\\{x\\}:a)){0,2}(/\\{\\*r\\}|/a|/B|/)".prop_filter("names repeat", |path| {
                path.matches("{x}").count() < 2
            }),
            (0..100u64, proptest::sample::select(vec!["*", "GET", "POST", "GET,POST"])),
            0..10,
        ),
        path in "(/(a|A|b|B|c|c:a|aA)){1,3}/?",
        post: bool,
    ) {
        let lines: Vec<_> =
            rules.iter().map(|(path, (credits, methods))| format!("{methods} {path} {credits}")).collect();
        let table = table(&lines.join("\n"));
        let method = if post { Method::POST } else { Method::GET };
        let reads = |route: &Route, path: &str| {
            matches(route.pattern.segments(), &path.split('/').skip(1).collect::<Vec<_>>())
        };
        let best = table
            .routes()
            .iter()
            .filter(|route| reads(route, &path))
            .min_by_key(|route| exactness(route.pattern.segments()));
        let resembled: Vec<_> = table
            .routes()
            .iter()
            .filter(|route| !reads(route, &path))
            .filter(|route| respellings(&path).iter().any(|other| reads(route, other)))
            .collect();
        let bought = resembled.iter().filter(|route| route.methods.accept(&method));
        let credits = |route: &Route| route.price.fixed().unwrap();
        let dearest = bought.map(|route| credits(route)).max();
        let expected = match best {
            None => Err(QuoteRefusal::NoRule),
            Some(route) if !route.methods.accept(&method) => Err(QuoteRefusal::NoRuleForMethod),
            Some(route) if route.pattern.is_exact() => Ok((route.index, credits(route))),
            Some(_) if !resembled.is_empty() && dearest.is_none() => {
                Err(QuoteRefusal::NoRuleForMethod)
            }
            Some(route) => Ok((route.index, dearest.unwrap_or_default().max(credits(route)))),
        };
        let path = CanonicalPath::parse(path.as_bytes()).unwrap();
        let quote = table.quote(&method, &path);
        prop_assert_eq!(quote.map(|quote| (quote.route.index, quote.credits.unwrap())), expected);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    #[test]
    fn a_more_exact_route_is_never_passed_over(
        rules in proptest::collection::btree_map(
            "(/(a|b|\\{x\\}|\\{x\\}:a|\\{x\\}a)){0,3}(/\\{\\*r\\}|/a|/)".prop_filter("names repeat", |path| {
                path.matches("{x}").count() < 2
            }),
            (1..100u64, proptest::sample::select(vec!["*", "GET", "POST", "GET,POST"])),
            0..12,
        ),
        path in "(/(a|b|c|c:a|ca)){1,4}/?",
        post: bool,
    ) {
        let lines: Vec<_> =
            rules.iter().map(|(path, (credits, methods))| format!("{methods} {path} {credits}")).collect();
        let table = table(&lines.join("\n")).with_exact_paths(true);
        let segments: Vec<_> = path.split('/').skip(1).collect();
        let best = table
            .routes()
            .iter()
            .filter(|route| matches(route.pattern.segments(), &segments))
            .min_by_key(|route| exactness(route.pattern.segments()));
        let method = if post { Method::POST } else { Method::GET };
        let expected = match best {
            None => Err(QuoteRefusal::NoRule),
            Some(route) if !route.methods.accept(&method) => Err(QuoteRefusal::NoRuleForMethod),
            Some(route) => Ok(route.index),
        };
        let path = CanonicalPath::parse(path.as_bytes()).unwrap();
        prop_assert_eq!(table.quote(&method, &path).map(|quote| quote.route.index), expected);
    }
}
