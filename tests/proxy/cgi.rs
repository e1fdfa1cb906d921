//! Headers as programs behind real web servers read them, by CGI and by WSGI.

use std::net::SocketAddr;

use crate::support::servers::{Lighttpd, Uwsgi};
use crate::support::{TestGateway, config_text, token};

/// A CGI program that prints its variables, one on each line.
const ENVIRONMENT: &str = "#!/bin/sh\nprintf 'content-type: text/plain\\r\\n\\r\\n'\nenv\n";

/// A WSGI program that does the same.
const WSGI_ENVIRONMENT: &str = r#"
def application(environ, start_response):
    told = "".join(f"{name}={value}\n" for name, value in environ.items() if isinstance(value, str))
    start_response("200 OK", [("content-type", "text/plain")])
    return [told.encode()]
"#;

/// The punctuation that a header's name may have (RFC 9110, 5.6.2), but for `-`.
const MARKS: &str = "!#$%&'*+.^_`|~";

const ROUTE: &str = "[[routes]]\npath = \"/{*rest}\"\nupstream = \"ai\"\ncredits = 1";

/// As most servers do, lighttpd makes `HTTP_X_FAREBOX_ACCOUNT` of all of these.
#[tokio::test]
async fn a_cgi_program_reads_farebox_s_word_on_who_calls_and_no_client_s() {
    let server = Lighttpd::running("/env", ENVIRONMENT);
    only_farebox_says_who_calls(server.address(), '.').await;
}

/// uWSGI distinguishes `.` from `-`, but not `_` from `-`.
#[tokio::test]
async fn a_wsgi_program_reads_farebox_s_word_on_who_calls_and_no_client_s() {
    let server = Uwsgi::running(WSGI_ENVIRONMENT);
    only_farebox_says_who_calls(server.address(), '_').await;
}

/// Asks a server for its program's variables, at `/env`: directly, where names with `taken` in place
/// of `-` pass for Farebox's, and through a gateway, where none does.
async fn only_farebox_says_who_calls(server: SocketAddr, taken: char) {
    let text = config_text(server, ROUTE);
    let url = format!("url = \"http://{server}\"");
    let operators = format!("{url}\nheaders = {{ x-team-key = \"red\" }}");
    let gateway = TestGateway::start(&text.replace(&url, &operators)).await;
    gateway.grant("alice", 100).await;
    // The plain names come first: what replaces them keeps their place, before the others.
    let names =
        ["x-team-key", "x-request-id", "x-farebox-account", "x-credits-cost", "x-real-ip", "proxy"];
    let headers = |mark: char| {
        let disguised = names.map(|name| name.replace('-', &mark.to_string()));
        names.map(str::to_owned).into_iter().chain(disguised).map(|name| (name, "mallory"))
    };

    let direct = gateway.client.get(format!("http://{server}/env"));
    let direct = headers(taken).fold(direct, |asked, (name, value)| asked.header(name, value));
    let told = direct.send().await.unwrap().text().await.unwrap();
    for name in ["HTTP_X_TEAM_KEY", "HTTP_X_FAREBOX_ACCOUNT", "HTTP_X_CREDITS_COST"] {
        // If two headers become one variable, uWSGI joins their values.
        assert!(told.contains(&format!("{name}=mallory")), "without a gateway: {told}");
    }

    for mark in MARKS.chars() {
        let asked = gateway.client.get(gateway.url("/env")).bearer_auth(token("alice"));
        let asked = headers(mark).fold(asked, |asked, (name, value)| asked.header(name, value));
        let answer = asked.send().await.unwrap();
        assert_eq!(answer.status(), 200, "{mark}");
        let told = answer.text().await.unwrap();
        assert!(!told.contains("mallory"), "{mark}: {told}");
        assert!(told.contains("HTTP_X_FAREBOX_ACCOUNT=alice\n"), "{mark}: {told}");
        assert!(told.contains("HTTP_X_TEAM_KEY=red\n"), "{mark}: {told}");
        assert!(!told.contains("HTTP_PROXY="), "{mark}: {told}");
    }
}
