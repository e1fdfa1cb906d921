//! Every kind of mistake is found, reported under its key, and explained.

use serde::Deserialize;

use super::*;
use crate::price::lookalike_routes;

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    routes: Vec<RouteConfig>,
    #[serde(default)]
    packs: Vec<PackConfig>,
}

fn mistakes(toml: &str) -> Vec<Mistake> {
    let file: File = toml::from_str(toml).unwrap();
    let mut found = check_routes(&file.routes, &["ai", "3d"]);
    found.extend(check_packs(&file.packs, &file.routes, &Rates::default()));
    for mistake in &found {
        assert!(!mistake.hint.is_empty(), "{mistake}");
        assert!(!mistake.message.ends_with('.'), "{mistake}");
    }
    found
}

/// The keys of the mistakes in `routes`. Each route is given as its path, and further lines of
/// TOML.
fn in_routes(routes: &[(&str, &str)]) -> Vec<String> {
    let toml = routes.iter().map(|(path, more)| {
        format!("[[routes]]\npath = '{path}'\nupstream = 'ai'\ncredits = 5\n{more}\n")
    });
    mistakes(&toml.collect::<String>()).into_iter().map(|mistake| mistake.key).collect()
}

/// The keys of the mistakes in `packs`. Each pack is given as its id, its price, and further lines
/// of TOML.
fn in_packs(packs: &[(&str, &str, &str)]) -> Vec<String> {
    let toml = packs.iter().map(|(id, price, more)| {
        let credits = if more.contains("credits") { "" } else { "credits = 100" };
        format!("[[packs]]\nid = '{id}'\nprice = '{price}'\n{credits}\n{more}\n")
    });
    mistakes(&toml.collect::<String>()).into_iter().map(|mistake| mistake.key).collect()
}

#[test]
fn rules_that_agree_pass() {
    let none: [String; 0] = [];
    let rules = [
        ("/a", "methods = ['GET']"),
        ("/a", "methods = ['POST', 'PUT']"),
        ("/a", "methods = ['HEAD']"),
        ("/a/", ""),
        ("/a/{x}", "websocket = true"),
        ("/a/{*rest}", ""),
    ];
    assert_eq!(in_routes(&rules), none);
    assert_eq!(in_packs(&[("p-1", "19.00 EUR", ""), ("p.2", "1 EUR", "best_value = true")]), none);
    assert_eq!(in_packs(&[]), none);
}

#[test]
fn duplicate_routes_are_found_whatever_the_names_of_their_parameters() {
    assert_eq!(in_routes(&[("/a", ""), ("/b", ""), ("/a", "")]), ["routes[2].path"]);
    assert_eq!(in_routes(&[("/a/{x}/b", ""), ("/a/{y}/b", "")]), ["routes[1].path"]);
    assert_eq!(in_routes(&[("/{*x}", ""), ("/{*y}", "methods = ['PUT']")]), ["routes[1].path"]);
    let twice = [("/a", "methods = ['GET', 'POST']"), ("/a", "methods = ['POST']")];
    assert_eq!(in_routes(&twice), ["routes[1].path"]);
}

#[test]
fn rules_that_differ_in_case_or_slash_alone_are_warned_of() {
    let warned = |routes: &[(&str, &str, u8)]| -> Vec<String> {
        let toml = routes.iter().map(|(method, path, credits)| {
            let methods =
                if *method == "*" { String::new() } else { format!("methods = ['{method}']") };
            format!(
                "[[routes]]\npath = '{path}'\nupstream = 'ai'\ncredits = {credits}\n{methods}\n"
            )
        });
        let file: File = toml::from_str(&toml.collect::<String>()).unwrap();
        let found = lookalike_routes(&file.routes);
        assert!(found.iter().all(|found| found.hint.contains("exact_paths")), "{found:?}");
        found.into_iter().map(|found| found.key).collect()
    };
    let none: [String; 0] = [];
    assert_eq!(warned(&[("*", "/a/{x}", 1), ("*", "/A/{y}", 2)]), ["routes[1].path"]);
    assert_eq!(
        warned(&[("*", "/a/{x}/", 1), ("*", "/b", 1), ("*", "/a/{x}", 2)]),
        ["routes[2].path"]
    );
    assert_eq!(warned(&[("*", "/a/{x}", 1), ("*", "/A/{y}", 1)]), none, "one price");
    assert_eq!(warned(&[("GET", "/a/{x}", 1), ("POST", "/A/{y}", 2)]), none);
    assert_eq!(warned(&[("GET", "/a/{x}", 1), ("POST", "/a/{x}", 2)]), none, "one path");
    assert_eq!(warned(&[("*", "/a", 1), ("*", "/A", 2)]), none, "each is priced by itself");
    assert_eq!(warned(&[("*", "/a/b", 1), ("*", "/a/{x}", 2)]), none);
}

#[test]
fn head_cannot_be_cheaper_than_get() {
    let rules = |head: u8| {
        mistakes(&format!(
            "[[routes]]\npath = '/a'\nupstream = 'ai'\ncredits = {head}\nmethods = ['HEAD']
             [[routes]]\npath = '/a'\nupstream = 'ai'\ncredits = 5\nmethods = ['GET']"
        ))
    };
    assert_eq!(rules(5), []);
    assert_eq!(rules(1)[0].key, "routes[1].credits");
}

#[test]
fn a_route_that_cannot_work_is_found() {
    assert_eq!(in_routes(&[("a", "")]), ["routes[0].path"]);
    assert_eq!(in_routes(&[("/%61", "")]), ["routes[0].path"]);
    for methods in ["[]", "['post']", "['GTE']", "['CONNECT']", "['trace']", "['GET', 'GET']"] {
        let more = format!("methods = {methods}");
        assert_eq!(in_routes(&[("/a", &more)]), ["routes[0].methods"], "{methods}");
    }
    assert_eq!(in_routes(&[("/a", "charge_on = []")]), ["routes[0].charge_on"]);
    for span in ["0s", "99999999h"] {
        let more = format!("read_timeout = '{span}'");
        assert_eq!(in_routes(&[("/a", &more)]), ["routes[0].read_timeout"]);
    }
    let websocket = "websocket = true\nmethods = ['POST']";
    assert_eq!(in_routes(&[("/a", websocket)]), ["routes[0].websocket"]);
}

#[test]
fn an_unknown_upstream_is_found_and_the_known_ones_named() {
    let found = mistakes("[[routes]]\npath = 'a'\nupstream = 'ia'\ncredits = 1");
    assert_eq!(found[0].key, "routes[0].upstream");
    assert!(found[0].hint.contains("ai, 3d"), "{}", found[0]);
    assert_eq!(found[1].key, "routes[0].path", "every mistake is reported at once");
}

#[test]
fn a_pack_that_cannot_be_sold_is_found() {
    assert_eq!(in_packs(&[("", "1 EUR", "")]), ["packs[0].id"]);
    assert_eq!(in_packs(&[("a b", "1 EUR", "")]), ["packs[0].id"]);
    assert_eq!(in_packs(&[("a", "1 EUR", ""), ("a", "2 EUR", "")]), ["packs[1].id"]);
    assert_eq!(in_packs(&[("a", "1 EUR", "credits = 0")]), ["packs[0].credits"]);
    assert_eq!(in_packs(&[("a", "0.00 EUR", "")]), ["packs[0].price"]);
    assert_eq!(in_packs(&[("a", "1 EUR", ""), ("b", "2 USD", "")]), ["packs[1].price"]);
    assert_eq!(in_packs(&[("a", "1.005 KWD", "")]), ["packs[0].price"]);
    assert_eq!(in_packs(&[("a", "1.50 ISK", "")]), ["packs[0].price"]);
    let best = "best_value = true";
    assert_eq!(in_packs(&[("a", "1 EUR", best), ("b", "2 EUR", best)]), ["packs[1].best_value"]);
}

#[test]
fn a_label_is_one_short_line_and_one_for_a_path() {
    let long = format!("label = '{}'", "x".repeat(81));
    assert_eq!(in_routes(&[("/a", &long)]), ["routes[0].label"]);
    assert_eq!(in_routes(&[("/a", r#"label = "two\nlines""#)]), ["routes[0].label"]);
    let get = |label: &str| format!("methods = ['GET']\nlabel = '{label}'");
    let post = |label: &str| format!("methods = ['POST']\nlabel = '{label}'");
    let none: [String; 0] = [];
    assert_eq!(in_routes(&[("/a", &get("Draw")), ("/a", &post("Draw"))]), none);
    assert_eq!(in_routes(&[("/a", &get("")), ("/a", &post("Draw"))]), none);
    assert_eq!(in_routes(&[("/a", &get("Look")), ("/a", &post("Draw"))]), ["routes[1].label"]);
    assert_eq!(in_packs(&[("p", "1 EUR", "badge = 'Most popular'")]), none);
    let long = format!("badge = '{}'", "x".repeat(41));
    assert_eq!(in_packs(&[("p", "1 EUR", &long)]), ["packs[0].badge"]);
}

#[test]
fn own_costs_are_in_the_packs_currency() {
    let found = mistakes(
        "[[routes]]\npath = '/a'\nupstream = 'ai'\ncredits = 1\ncost = '0.04 USD'
         [[packs]]\nid = 'p'\ncredits = 1\nprice = '1 EUR'",
    );
    assert_eq!(found[0].key, "routes[0].cost");
    assert!(found[0].hint.contains("EUR"));
    let found = mistakes(
        "[[routes]]\npath = '/a'\nupstream = 'ai'\nmeter = 'openai'
         price = { image = 4, cost = { image = '0.04 USD' } }
         [[packs]]\nid = 'p'\ncredits = 1\nprice = '1 EUR'",
    );
    assert_eq!(found[0].key, "routes[0].price.cost.image");
}
