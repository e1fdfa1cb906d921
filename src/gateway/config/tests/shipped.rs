//! Tests that the gateway.toml at the root of the repository does what its comments promise.

use std::path::Path;

use crate::config::Sections;
use crate::gateway::config::parse;
use crate::gateway::config::tests::{SHIPPED, env, read, unset, with_server};

/// The sections that `farebox prices` reads.
fn price_table() -> Sections {
    Sections::ROUTES | Sections::PACKS
}

#[test]
fn the_shipped_file_is_sound() {
    let config = read(SHIPPED, Sections::ALL).unwrap();
    assert_eq!(config.routes.len(), 4);
    assert_eq!(config.packs.len(), 3);
    assert_eq!(config.upstreams[0].url.to_string(), "http://127.0.0.1:3000");
    assert!(config.stripe.is_none());
    let server = config.server.unwrap();
    assert!(server.admin_token.matches(b"from-the-environment-1"));
}

#[test]
fn the_shipped_file_is_sound_with_every_option_switched_on() {
    let option = |line: &str| {
        let rest = line.strip_prefix("# ")?;
        let word = rest.split(' ').next()?;
        let key = rest.starts_with('[') || rest.split_once(" = ").is_some_and(|(k, _)| k == word);
        key.then(|| rest.to_owned())
    };
    // An issuer's keys have three possible sources, of which only one may be set. The file sets one
    // already, so the other two stay commented out.
    let rival = |line: &str| {
        ["public_key_file", "jwks_url"].iter().any(|key| line.contains(&format!("# {key} =")))
    };
    let switched_on = SHIPPED.lines().filter(|line| !rival(line));
    let all: Vec<_> = switched_on.map(|l| option(l).unwrap_or(l.to_owned())).collect();
    let set = |name: &str| {
        let url = match name {
            "DATABASE_URL" | "REPLICA_URL" => "postgres://set.example",
            "STRIPE_WEBHOOK_SECRET" => "whsec_set",
            _ => "https://set.example",
        };
        env(name).or(Some(url.to_owned()))
    };
    let all = parse(&all.join("\n"), Path::new("gateway.toml"), Sections::ALL, &set);
    let config = all.unwrap_or_else(|mistakes| panic!("{mistakes}"));
    assert!(config.stripe.is_some() && config.server.unwrap().tls.is_some());
}

#[test]
fn the_shipped_file_shows_the_defaults() {
    let explicit = read(SHIPPED, Sections::ALL).unwrap();
    let implicit = read(&with_server(""), Sections::ALL).unwrap();
    let bare = "[[upstreams]]\nname = \"ai\"\nurl = \"http://127.0.0.1:3000\"";
    let upstream = read(bare, Sections::UPSTREAMS).unwrap().upstreams;
    assert_eq!(format!("{:?}", explicit.server), format!("{:?}", implicit.server));
    assert_eq!(format!("{:?}", explicit.credits), format!("{:?}", implicit.credits));
    assert_eq!(format!("{:?}", explicit.ledger), format!("{:?}", implicit.ledger));
    assert_eq!(format!("{:?}", explicit.api), format!("{:?}", implicit.api));
    assert_eq!(format!("{:?}", explicit.upstreams), format!("{upstream:?}"));
}

#[test]
fn a_command_asks_only_for_the_variables_of_its_sections() {
    let file = Path::new("gateway.toml");
    assert!(parse(SHIPPED, file, price_table(), &unset).is_ok());
    let missing = parse(SHIPPED, file, Sections::ALL, &unset).unwrap_err();
    let lines: Vec<_> = missing.iter().map(|located| located.line.unwrap()).collect();
    let named = |line: &usize| SHIPPED.lines().nth(line - 1).unwrap().contains("${");
    assert_eq!(lines.len(), 2);
    assert!(lines.iter().all(named));
    assert!(missing.to_string().contains("hint: export JWT_SECRET=…"), "{missing}");
    // A section that the command does not read may have mistakes, but its name must be known.
    let broken = SHIPPED.replace("threads = 0", "threads = \"many\"");
    assert!(parse(&broken, file, price_table(), &unset).is_ok());
    let renamed = SHIPPED.replace("[server]", "[sever]");
    assert!(parse(&renamed, file, price_table(), &unset).is_err());
}
