//! `farebox demo`: what it prints works when pasted.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::http::Answer;
use crate::process::{Process, command, free_port};
use crate::support::{JWT_SECRET, Upstream, config_text, token};

/// The longest time until the entries of calls that have ended are listed.
const AT_REST_WITHIN: Duration = Duration::from_secs(10);

/// Runs a line as a shell would.
fn paste(line: &str) -> String {
    let curl = Command::new("curl").arg("--version").output();
    assert!(curl.is_ok(), "curl is missing: scripts/setup.sh test installs it");
    let output = Command::new("sh").args(["-c", line]).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Like [`paste`], but repeats a request for the list of entries until the list has the grant and both calls. An
/// entry is on disk a moment after its call has ended.
fn paste_at_rest(line: &str) -> String {
    let began = Instant::now();
    loop {
        let answer = paste(line);
        let is_whole = !line.contains("/credits/transactions")
            || answer.matches(r#""kind":"#).count() == 3
            || began.elapsed() > AT_REST_WITHIN;
        if is_whole {
            return answer;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The links lead to the pages, and the token in the first of them signs its reader in.
fn the_screens_open(said: &str, admin: &str) {
    let link = said.split_whitespace().find(|word| word.contains("/credits/account#token="));
    let (page, token) = link.unwrap().split_once("#token=").unwrap();
    assert!(paste(&format!("curl -sf {page}")).contains("<html"));
    let session = page.replace("/account", "/session");
    let sign_in = format!(
        "curl -sf -X POST {session} -H 'sec-fetch-site: same-origin' -H 'authorization: Bearer {token}'"
    );
    let session: serde_json::Value = serde_json::from_str(&paste(&sign_in)).unwrap();
    assert_eq!((&session["account"], &session["may_manage_keys"]), (&"demo".into(), &true.into()));
    assert!(said.contains(&format!("http://{admin}/admin/ui")), "{said}");
    assert!(paste(&format!("curl -sf http://{admin}/admin/ui")).contains("<html"));
}

/// An answer's status, the names of its headers, and its JSON but for the id of the request.
fn shape_of(answer: &str) -> (String, Vec<String>, serde_json::Value) {
    let answer = answer.replace('\r', "");
    let (head, body) = answer.trim().split_once("\n\n").unwrap();
    let (status, headers) = head.split_once('\n').unwrap();
    let names = headers.lines().map(|line| line.split(':').next().unwrap().to_lowercase());
    let mut names: Vec<String> = names.collect();
    names.sort_unstable();
    let mut json: serde_json::Value = serde_json::from_str(body).unwrap();
    json["request_id"].take();
    (status.to_owned(), names, json)
}

/// The README's example of a 402 is the answer of the demo, as curl shows it.
fn the_readme_shows(refused: &str) {
    let readme =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let shown = readme.split("```\n").find(|block| block.starts_with("HTTP/1.1 402")).unwrap();
    assert_eq!(shape_of(shown), shape_of(refused));
}

/// The question has six words and the answer eight, at 250 and 1 000 credits for a million tokens. They are paid from
/// the twenty credits of the gift.
fn metered_lines_show_usage(reported: &str, without_a_price: &str) {
    let (before, last) = reported.rsplit_once("data: [DONE]").unwrap();
    assert_eq!(last.trim(), "");
    let (_, report) = before.rsplit_once(": farebox ").unwrap_or_else(|| panic!("{reported}"));
    let report: serde_json::Value = serde_json::from_str(report).unwrap();
    let usage = serde_json::json!({ "input": 6, "output": 8 });
    let expected = serde_json::json!({ "cost": 0.0095, "remaining": 19.9905, "usage": usage });
    assert_eq!(report, expected);
    assert!(without_a_price.starts_with("HTTP/1.1 404"), "{without_a_price}");
    assert!(without_a_price.contains("MODEL_NOT_PRICED"), "{without_a_price}");
}

#[test]
fn the_demo_s_lines_work_when_pasted() {
    let folder = tempfile::tempdir().unwrap();
    let (public, admin) = (free_port(), free_port());
    let (listen, admin) = (format!("127.0.0.1:{public}"), format!("127.0.0.1:{admin}"));
    let arguments = ["demo", "--listen", &listen, "--admin", &admin];
    let temporary = [("TMPDIR", folder.path().to_str().unwrap())];
    let command = command(folder.path(), &arguments, &temporary);
    let mut demo = Process::start(command, listen.parse().unwrap(), admin.parse().unwrap());
    demo.wait_until(|demo| demo.stdout().contains("gift-1"));
    let said = demo.stdout();
    assert!(said.contains("fb_"), "{said}");
    let lines: Vec<&str> = (said.lines().map(str::trim))
        .filter(|line| line.starts_with("curl ") || line.starts_with("for "))
        .collect();
    let answers: Vec<String> = lines.iter().map(|line| paste_at_rest(line)).collect();
    let answer = |needle: &str| {
        let found = lines.iter().position(|line| line.contains(needle));
        &answers[found.unwrap_or_else(|| panic!("no line with {needle}: {said}"))]
    };

    the_screens_open(&said, &admin);

    let paid = answer("chat/completions").to_lowercase();
    for header in ["http/1.1 200", "x-credits-cost: 5", "x-credits-remaining: 45", "x-request-id:"]
    {
        assert!(paid.contains(header), "{header}: {paid}");
    }
    assert!(paid.contains("\"object\":\"chat.completion\""), "{paid}");
    let streamed = answer("\"stream\":true");
    assert!(streamed.starts_with("data: ") && streamed.trim_end().ends_with("data: [DONE]"));
    let balance: serde_json::Value = serde_json::from_str(answer("/credits/balance")).unwrap();
    assert_eq!(balance["balance"], 40, "{balance}");
    let lines: serde_json::Value = serde_json::from_str(answer("/credits/transactions")).unwrap();
    assert_eq!(lines["transactions"].as_array().unwrap().len(), 3, "{lines}");
    let codes: Vec<&str> = answer("for i in").lines().collect();
    assert_eq!(codes.iter().filter(|code| **code == "200").count(), 8, "{codes:?}");
    assert_eq!(codes.last(), Some(&"402"), "after enough calls");
    let refused = answers.iter().find(|a| a.contains("INSUFFICIENT_CREDITS")).unwrap();
    assert!(refused.contains("pack-500"), "{refused}");
    the_readme_shows(refused);
    assert!(answer("/grants").contains("20"), "{}", answer("/grants"));
    metered_lines_show_usage(answer("x-credits-report"), answer("a-model-without-a-price"));
    assert!(answer("/credits/prices").contains("demo-large"), "{}", answer("/credits/prices"));
    assert_eq!(demo.terminate().code(), Some(0));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "all of it is gone");
}

/// The prices and packs of somebody's own file, to look at before there is a backend.
#[test]
fn a_demo_with_a_config_shows_that_file_s_prices_and_packs() {
    let folder = tempfile::tempdir().unwrap();
    let listen = format!("127.0.0.1:{}", free_port());
    let admin = format!("127.0.0.1:{}", free_port());
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/gateway.toml");
    let arguments = ["demo", "--config", shipped, "--listen", &listen, "--admin", &admin];
    let temporary = [("TMPDIR", folder.path().to_str().unwrap())];
    let start = command(folder.path(), &arguments, &temporary);
    let mut demo = Process::start(start, listen.parse().unwrap(), admin.parse().unwrap());
    demo.wait_until(|demo| demo.stdout().contains("gift-1"));
    let said = demo.stdout();
    let prices = paste(&format!("curl -sf http://{listen}/credits/prices"));
    assert!(prices.contains("/api/ar/convert-2d-to-3d"), "{prices}");
    assert!(!prices.contains("/v1/chat/completions"), "{prices}");
    let lines: Vec<&str> = (said.lines().map(str::trim))
        .filter(|line| line.starts_with("curl ") || line.starts_with("for "))
        .collect();
    let answers: Vec<String> = lines.iter().map(|line| paste(line)).collect();
    let all = answers.join("\n").to_lowercase();
    for wanted in ["http/1.1 200", "x-credits-cost: 5", "insufficient_credits", "pack-1000"] {
        assert!(all.contains(wanted), "{wanted}: {said} {all}");
    }
    assert_eq!(demo.terminate().code(), Some(0));

    let bad = folder.path().join("bad.toml");
    std::fs::write(&bad, "[[routes]]\npath = \"/a\"\n").unwrap();
    let arguments = ["demo", "--config", bad.to_str().unwrap()];
    let output = command(folder.path(), &arguments, &temporary).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The file's tokens, CORS origins and upstreams are the demo's, beside the demo's own account.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_demo_with_a_config_takes_the_file_s_tokens_origins_and_upstreams() {
    let folder = tempfile::tempdir().unwrap();
    let upstream = Upstream::canned().await;
    let more = "[api]\nprefix = \"/billing\"\ncors_origins = [\"https://app.example.com\"]\n\
                [credits]\nsignup_grant = 7\n\
                [[upstreams]]\nname = \"gone\"\nurl = \"http://127.0.0.1:1\"\n\
                [[upstreams]]\nname = \"demo\"\nurl = \"http://127.0.0.1:1\"\n\
                [[routes]]\npath = \"/gone\"\nupstream = \"gone\"\ncredits = 1\n";
    let text = config_text(upstream.address, more);
    let start = |text: &str, more: &[&str], env: &[(&str, &str)]| {
        std::fs::write(folder.path().join("own.toml"), text).unwrap();
        let (listen, admin) =
            (format!("127.0.0.1:{}", free_port()), format!("127.0.0.1:{}", free_port()));
        let arguments =
            [&["demo", "-c", "own.toml", "--listen", &listen, "--admin", &admin], more].concat();
        let temporary = [&[("TMPDIR", folder.path().to_str().unwrap())], env].concat();
        let command = command(folder.path(), &arguments, &temporary);
        let mut demo = Process::start(command, listen.parse().unwrap(), admin.parse().unwrap());
        demo.wait_until(|demo| demo.stdout().contains("gift-1"));
        demo
    };
    let mut demo = start(&text, &[], &[]);
    let said = demo.stdout();
    let key = said.split_whitespace().find(|word| word.starts_with("fb_")).unwrap();
    let call = async |path: &str, credential: &str| {
        let request = demo.client.post(demo.url(path)).bearer_auth(credential);
        Answer::of(request.header("origin", "https://app.example.com").body("{}")).await
    };
    // A customer of the file's issuer, on the file's upstream, from the file's web app.
    let alice = call("/api/ai/generate", &token("alice")).await;
    alice.expect(200);
    assert_eq!(alice.header("x-credits-remaining"), "2");
    assert_eq!(alice.header("access-control-allow-origin"), "https://app.example.com");
    assert_eq!(upstream.seen().len(), 1);
    call("/api/ai/generate", key).await.expect(200);
    assert_eq!(upstream.seen().len(), 2, "the demo's account calls the same upstream");
    // If no other upstream answers at a path, the demo's own one does.
    call("/gone", key).await.expect(200);
    assert!(said.contains("upstream `gone`") && said.contains("127.0.0.1:1"), "{said}");
    for line in said.lines().map(str::trim).filter(|line| line.starts_with("curl ")) {
        paste(line);
    }
    let balance = demo.client.get(demo.url("/billing/balance")).bearer_auth(key);
    Answer::of(balance).await.expect(200);
    assert_eq!(demo.terminate().code(), Some(0));

    // A secret that is not here leaves its part out, and is asked for by name.
    let text = text.replace(JWT_SECRET, "${SECRET_OF_THE_APP}");
    let mut demo = start(&text, &[], &[]);
    assert!(demo.stdout().contains("SECRET_OF_THE_APP is not set"), "{}", demo.stdout());
    let refused = demo.client.post(demo.url("/api/ai/generate")).bearer_auth(token("alice"));
    Answer::of(refused).await.expect(401);
    assert_eq!(demo.terminate().code(), Some(0));
}
