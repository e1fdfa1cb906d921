//! Compares docs/api.md with the routes, problems and headers that exist, and docs/runbook.md with the lines that
//! Farebox logs.

use std::collections::BTreeSet;

use super::{read, root, rust_below};
use crate::http::Answer;
use crate::support::{TestGateway, Upstream, config_text};

fn page() -> String {
    read(&root().join("docs/api.md"))
}

/// The text of the page below a heading, up to the next of its level.
fn below<'a>(page: &'a str, heading: &str) -> &'a str {
    let (_, rest) =
        page.split_once(&format!("\n## {heading}\n")).unwrap_or_else(|| panic!("{heading}"));
    rest.split_once("\n## ").map_or(rest, |(section, _)| section)
}

/// The code spans of a text.
fn spans(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The first cells of the tables in a section, without the line under their heads.
fn first_cells(section: &str) -> impl Iterator<Item = &str> {
    let rows = section.lines().filter_map(|line| line.strip_prefix("| "));
    rows.filter_map(|row| row.split(" | ").next())
}

/// `GET /path` for each route in the first cells of a section's tables.
fn routes_of(section: &str) -> BTreeSet<String> {
    let spans = first_cells(section).flat_map(spans);
    spans.filter(|span| span.contains(" /")).map(str::to_owned).collect()
}

#[tokio::test]
async fn the_page_of_the_api_has_every_own_route_with_its_parameters() {
    let upstream = Upstream::canned().await;
    let gateway = TestGateway::start(&config_text(upstream.address, "")).await;
    let answer = Answer::of(gateway.client.get(gateway.url("/credits/openapi.json"))).await;
    let description = answer.expect(200);
    let page = page();
    let section = below(&page, "Routes of an account");
    let mut described = BTreeSet::new();
    for (path, operations) in description["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            let route = format!("{} {path}", method.to_uppercase());
            let row = section.lines().find(|line| line.contains(&format!("`{route}`")));
            let row = row.unwrap_or_else(|| panic!("docs/api.md does not have {route}"));
            for parameter in operation["parameters"].as_array().into_iter().flatten() {
                let name = parameter["name"].as_str().unwrap();
                let is_named = parameter["in"] != "query" || row.contains(&format!("`{name}`"));
                assert!(is_named, "docs/api.md: {route} takes `{name}`");
            }
            described.insert(route);
        }
    }
    assert_eq!(routes_of(section), described);
}

/// The text between a Rust function's name and the end of the function, of all files below src/.
fn function(signature: &str) -> String {
    let files = rust_below(&root().join("src"));
    let file = files.iter().find(|(_, text)| text.contains(signature));
    let (_, text) = file.unwrap_or_else(|| panic!("no file has {signature}"));
    let (_, rest) = text.split_once(signature).unwrap();
    rest.split_once("\n}\n").unwrap().0.to_owned()
}

/// The routes that a function adds to a router, as `GET /path`.
fn routes_added_in(function: &str) -> BTreeSet<String> {
    let mut added = BTreeSet::new();
    for statement in function.split(".route(\"").skip(1) {
        let (path, rest) = statement.split_once('"').unwrap();
        // The handlers end with the line.
        let handlers = rest.split('\n').next().unwrap();
        for method in ["get", "post", "delete", "put", "patch"] {
            if handlers.contains(&format!(" {method}("))
                || handlers.contains(&format!(".{method}("))
            {
                added.insert(format!("{} {path}", method.to_uppercase()));
            }
        }
    }
    added
}

#[test]
fn the_page_of_the_api_has_every_route_of_the_admin_listener() {
    let page = page();
    let documented = routes_of(below(&page, "Routes of the operator"));
    let admin = routes_added_in(&function("pub fn admin("));
    let probes = routes_added_in(&function("fn probes("));
    let under_admin = |route: String| match route.contains(" /admin/") {
        true => route,
        false => route.replacen(" /", " /admin/", 1),
    };
    let there: BTreeSet<String> = admin.into_iter().map(under_admin).chain(probes).collect();
    assert!(there.len() > 20, "{there:?}");
    assert_eq!(documented, there);
}

#[test]
fn the_page_of_the_api_has_every_code_of_a_problem() {
    let files = rust_below(&root().join("src"));
    let list = files.iter().find_map(|(_, text)| text.split_once("pub enum Code {")).unwrap().1;
    let names = list.split_once('}').unwrap().0;
    let variants = names.split(',').filter_map(|name| name.split_whitespace().last());
    let code = |name: &str| {
        let mut code = String::new();
        for letter in name.chars() {
            if letter.is_ascii_uppercase() && !code.is_empty() {
                code.push('_');
            }
            code.push(letter.to_ascii_uppercase());
        }
        code
    };
    let codes: BTreeSet<String> = variants.map(code).collect();
    assert!(codes.len() > 10, "{codes:?}");
    let page = page();
    let documented: BTreeSet<String> =
        first_cells(below(&page, "Errors")).flat_map(spans).map(str::to_owned).collect();
    assert_eq!(documented, codes);
}

#[test]
fn the_page_of_the_api_names_every_header_of_farebox() {
    let mut missing = BTreeSet::new();
    let page = page();
    let headers = below(&page, "Headers");
    for (_, text) in rust_below(&root().join("src")) {
        let code = text.split("#[cfg(test)]").next().unwrap();
        for rest in code.split("HeaderName::from_static(\"").skip(1) {
            let name = rest.split('"').next().unwrap();
            let is_ours = ["x-farebox-", "x-credits-", "x-request-", "x-forwarded-", "idempotent-"]
                .iter()
                .any(|prefix| name.starts_with(prefix));
            if is_ours && !headers.contains(&format!("`{name}`")) {
                missing.insert(name.to_owned());
            }
        }
    }
    assert!(missing.is_empty(), "docs/api.md does not explain {missing:?}");
}

/// Quoted in the runbook, and said by others: Redis, the shell, the operator's own commands.
const NOT_OURS: [&str; 2] = ["OOM command not allowed", "No space left on device"];

/// Every text of the sources, with the lines of a long literal joined.
fn all_sources() -> String {
    let mut all = String::new();
    for (_, text) in rust_below(&root().join("src")) {
        let mut parts = text.split("\\\n");
        all.push_str(parts.next().unwrap());
        parts.for_each(|part| all.push_str(part.trim_start()));
    }
    all
}

#[test]
fn every_line_that_the_runbook_quotes_is_one_that_farebox_writes() {
    let (sources, runbook) = (all_sources(), read(&root().join("docs/runbook.md")));
    let (mut seen, mut missing) = (0, Vec::new());
    let prose = runbook.split("```").step_by(2);
    for span in prose.flat_map(|text| text.split('`').skip(1).step_by(2)) {
        let words: Vec<&str> = span.split_whitespace().collect();
        // A sentence, or a part of one: no command, path, key or metric.
        let is_of_a_sentence = |c: char| c.is_ascii_alphabetic() || ",;'… ".contains(c);
        let said = words.join(" ");
        let is_command = ["farebox", "kubectl", "redis-cli"].contains(&words[0]);
        if words.len() < 3 || is_command || !said.chars().all(is_of_a_sentence) {
            continue;
        }
        seen += 1;
        let is_ours = said.split('…').all(|part| sources.contains(part.trim()));
        if !is_ours && !NOT_OURS.contains(&&*said) {
            missing.push(said);
        }
    }
    assert!(seen > 30, "{seen}");
    assert!(missing.is_empty(), "no source says {missing:?}");
}
