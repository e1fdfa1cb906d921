//! The parsers of other languages read every accepted body in the same way, so no spelling makes a
//! call cheaper.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::{Watched, read_request};
use crate::usage::MeterKind;

const NAMES: [&str; 5] = ["model", "stream", "n", "max_tokens", "max_completion_tokens"];

/// Values, most of which parsers read differently.
const VALUES: [&str; 44] = [
    "1",
    "0",
    "-0",
    "-1",
    "01",
    "1.0",
    "1e0",
    "1E2",
    "1e400",
    "2147483647",
    "2147483648",
    "4294967297",
    "18446744073709551616",
    "0x10",
    "+1",
    "1_000",
    "NaN",
    "Infinity",
    "null",
    "true",
    "false",
    "True",
    "None",
    "\"a\"",
    "\"A\"",
    "\"\"",
    "\"1\"",
    "\"true\"",
    "\"on\"",
    "\"\\u0061\"",
    "\"a\\u0000b\"",
    "\"a\\/b\"",
    "\"\\ud83d\"",
    "\"\\ud83d\\ude00\"",
    "\"\\u212a\"",
    "\"a\tb\"",
    "'a'",
    "[]",
    "[1]",
    "{}",
    "{\"a\":1}",
    "\"a\\\"",
    "/**/1",
    "",
];

/// Spellings that some parsers take for `name`.
fn spellings(name: &str) -> Vec<String> {
    let camel = |name: &str| {
        let mut words = name.split('_');
        let first = words.next().unwrap_or_default().to_owned();
        words.fold(first, |all, word| all + &word[..1].to_uppercase() + &word[1..])
    };
    let first = u32::from(name.as_bytes()[0]);
    vec![
        name.to_owned(),
        name.to_uppercase(),
        camel(name),
        name.replace('_', ""),
        name.replace('_', "-"),
        format!("_{name}"),
        format!("{name} "),
        format!("{name}\\u0000"),
        format!("\\u{first:04x}{}", &name[1..]),
        name.replace('s', "\u{17f}"),
        name.replace('s', "\\u017f"),
        name.replace('k', "\u{212a}"),
        format!("\\ud83d{name}"),
        "__proto__".to_owned(),
    ]
}

fn corpus() -> Vec<Vec<u8>> {
    let mut bodies = vec![
        b"".to_vec(),
        b"\xef\xbb\xbf{\"model\":\"a\"}".to_vec(),
        b"{\"model\":\"a\"}{\"model\":\"b\"}".to_vec(),
        b"{\"model\":\"a\"}\0".to_vec(),
        b"{\"model\":\"a\xff\"}".to_vec(),
        b"{\"model\":\"a\"} // {\"model\":\"b\"}".to_vec(),
        "{\"model\":\"a\"}".encode_utf16().flat_map(u16::to_le_bytes).collect(),
        br#"{"__proto__":{"model":"b","max_tokens":1},"model":"a"}"#.to_vec(),
        br#"{"constructor":{"prototype":{"n":1}},"model":"a","n":3}"#.to_vec(),
        br#"{"a":{"model":"b","n":1},"model":"a","n":3}"#.to_vec(),
        br#"{"x":"\"model\":\"b\"","model":"a"}"#.to_vec(),
    ];
    let base = r#""model":"dear","max_tokens":100,"n":3,"stream":true"#;
    for name in NAMES {
        for spelled in spellings(name) {
            for value in VALUES {
                let member = format!("\"{spelled}\":{value}");
                bodies.push(format!("{{{member}}}").into());
                bodies.push(format!("{{{base},{member}}}").into());
                bodies.push(format!("{{{member},{base}}}").into());
            }
        }
    }
    bodies
}

/// The facts that the price depends on: the model, whether the answer streams, the number of
/// answers, and the output limit.
type Price = (Option<String>, bool, u64, Option<u64>);

fn ours(body: &[u8]) -> Option<Price> {
    let facts = read_request(&MeterKind::OpenAi, body, &Watched::default()).ok()?.facts;
    let limit = facts.limits.output_tokens.map(u64::from);
    Some((facts.model.map(String::from), facts.is_stream, facts.limits.answers.into(), limit))
}

fn price(read: &serde_json::Value) -> Option<Price> {
    let model = read["model"].as_str().map(str::to_owned);
    Some((model, read["stream"].as_bool()?, read["n"].as_u64()?, read["limit"].as_u64()))
}

fn run(program: &Path, script: &str, bodies: &[&Vec<u8>]) -> Option<Vec<serde_json::Value>> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parsers").join(script);
    let started =
        Command::new(program).arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let Ok(mut child) = started else {
        eprintln!("SKIPPED: {} is not on this machine", program.display());
        return None;
    };
    let mut input = child.stdin.take().unwrap();
    let lines: String = bodies.iter().map(|body| STANDARD.encode(body) + "\n").collect();
    let writer = std::thread::spawn(move || input.write_all(lines.as_bytes()));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    let output = String::from_utf8(output.stdout).unwrap();
    Some(output.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
}

/// The Pythons to compare with: the system's, and the one with pydantic if the project has
/// installed the SDKs.
fn pythons() -> Vec<PathBuf> {
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let venv = root.join(target).join("sdk-venv/bin/python");
    [PathBuf::from("python3"), venv]
        .into_iter()
        .filter(|python| !python.is_absolute() || python.exists())
        .collect()
}

#[test]
fn no_other_parser_reads_another_price() {
    let corpus = corpus();
    let accepted: Vec<(&Vec<u8>, Price)> =
        corpus.iter().filter_map(|body| Some((body, ours(body)?))).collect();
    // The comparison is useful only if some bodies of the corpus are accepted, and most are not.
    assert!(accepted.len() > 300 && accepted.len() < corpus.len() / 2, "{}", accepted.len());
    let bodies: Vec<&Vec<u8>> = accepted.iter().map(|(body, _)| *body).collect();
    let mut known = Vec::new();
    let scripts = pythons().into_iter().map(|python| (python, "read.py"));
    for (program, script) in scripts.chain([(PathBuf::from("node"), "read.mjs")]) {
        let Some(answers) = run(&program, script, &bodies) else { continue };
        assert_eq!(answers.len(), bodies.len(), "{script} answers every body");
        for ((body, ours), answer) in accepted.iter().zip(answers) {
            for (parser, read) in answer["read"].as_object().unwrap() {
                let body = String::from_utf8_lossy(body);
                assert_eq!(price(read).as_ref(), Some(ours), "{parser} reads {body}: {read}");
            }
            known = answer["parsers"].as_array().unwrap().clone();
        }
        eprintln!("compared with {known:?} of {}: {} bodies", program.display(), bodies.len());
    }
}
