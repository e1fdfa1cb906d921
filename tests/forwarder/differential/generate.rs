//! Exchanges at random, each of them from a seed.

use super::exchange::{Answer, End, Exchange, Plan, Protocol, Request, Then, UNASKED};
use crate::support::message::{Framing, content};
use crate::support::random::Random;

/// How long bodies are, in bytes: around each border of today's gateways.
const LENGTHS: [usize; 12] = [0, 0, 1, 5, 100, 100, 1000, 4096, 20_000, 65_536, 65_537, 100_000];

impl Exchange {
    /// The exchange of this seed.
    pub fn of(seed: u64) -> Self {
        let mut random = Random::of(seed | 1);
        let protocol = if random.below(4) == 0 { Protocol::Http2 } else { Protocol::Http1 };
        let count = random.one_of(&[1, 1, 2, 3]);
        let mut calls = Vec::new();
        for n in 0..count {
            // A client that leaves takes its connection along.
            let is_last = n + 1 == count || protocol == Protocol::Http2;
            calls.push(plan(&mut random, protocol, format!("{seed:x}-{n}"), is_last));
        }
        // This call shows whether the connection was kept, and whether earlier calls have left
        // anything on it.
        if calls.last().is_some_and(|plan| plan.request.end == End::Reads) {
            calls.push(Plan::plain(format!("{seed:x}-last")));
        }
        // An upstream that closes without a word must have closed before the next request is sent.
        let mut before = calls.iter().rev().skip(1);
        let can_wait =
            before.all(|plan| plan.answer.then != Then::ClosesUnasked && plan.answer.cut.is_none());
        // No client sends a request behind one that ends the connection.
        let mut before = calls.iter().rev().skip(1);
        let can_wait =
            can_wait && before.all(|plan| !plan.may_end_connection() && !plan.is_refused());
        let one_way = calls.iter().all(|plan| !plan.says("expect") && !plan.answer.is_tunnel);
        let pipelined = can_wait && one_way && random.below(3) == 0;
        Self { seed, protocol, calls, pipelined }
    }
}

impl Plan {
    /// A request and an answer without anything special.
    fn plain(nonce: String) -> Self {
        let body = content(&nonce, 30);
        let request = Request {
            method: "GET",
            target: "/plain",
            version: "HTTP/1.1",
            fields: Vec::new(),
            framing: Framing::None,
            body: Vec::new(),
            pieces: vec![usize::MAX],
            has_trailers: false,
            end: End::Reads,
        };
        let answer = Answer {
            interim: Vec::new(),
            is_early: false,
            is_tunnel: false,
            head: format!("HTTP/1.1 200 OK\r\nx-echo: {nonce}\r\ncontent-length: 30\r\n\r\n"),
            status: 200,
            framing: Framing::Length(30),
            body,
            pieces: vec![usize::MAX],
            has_trailers: false,
            cut: None,
            malformed: None,
            then: Then::Keeps,
        };
        Self { nonce, request, answer }
    }
}

fn plan(random: &mut Random, protocol: Protocol, nonce: String, is_last: bool) -> Plan {
    let is_tunnel = is_last && protocol == Protocol::Http1 && random.below(40) == 0;
    let request = request(random, protocol, &nonce, is_last, is_tunnel);
    let answer = answer(random, protocol, &nonce, &request, is_tunnel);
    Plan { nonce, request, answer }
}

/// The lengths of the parts of a body. There are a few hundred parts at most: HTTP/2 takes a burst of small frames
/// for an attack, and a hundred thousand chunks would test nothing more.
fn pieces(random: &mut Random, protocol: Protocol, length: usize) -> Vec<usize> {
    let most = random.one_of(&[1, 10, 1000, 20_000, 200_000]);
    let least = length / if protocol == Protocol::Http2 { 20 } else { 300 };
    (0..1 + random.below(4)).map(|_| (1 + random.below(most)).max(least)).collect()
}

/// Fields of requests that somebody may send.
const REQUEST_FIELDS: [(&str, &str); 43] = [
    ("accept", "text/event-stream, */*;q=0.1"),
    ("User-Agent", "a client/1.0 (of a test)"),
    ("x-custom", "one"),
    ("X-Custom", "two, three"),
    ("x-empty", ""),
    ("x-spaces", "a \t b"),
    ("x-bytes", "caf\u{e9} \u{ff}"),
    ("x-long", LONG),
    ("range", "bytes=0-5"),
    ("if-none-match", "*"),
    ("accept-encoding", "gzip, br"),
    ("content-type", "application/json; charset=utf-8"),
    ("content-encoding", "gzip"),
    ("cookie", "a=b; c=\"d e\""),
    ("Cookie", "second=line"),
    ("cookie", "farebox_session=x; kept=yes"),
    ("te", "trailers"),
    ("te", "gzip;q=0.5"),
    ("trailer", "x-sum"),
    ("connection", "keep-alive"),
    ("Connection", "close"),
    ("connection", "x-hop, keep-alive"),
    ("connection", "te, x-custom"),
    ("connection", "x-request-id, host, content-length"),
    ("x-hop", "only for the next one"),
    ("keep-alive", "timeout=5, max=10"),
    ("proxy-connection", "keep-alive"),
    ("proxy-authorization", "Basic eDp5"),
    ("upgrade", "websocket"),
    ("upgrade", "h2c"),
    ("via", "1.1 somebody"),
    ("max-forwards", "5"),
    ("x-forwarded-for", "192.0.2.1"),
    ("x-forwarded-proto", "gopher"),
    ("forwarded", "for=192.0.2.1"),
    ("x-real-ip", "192.0.2.1"),
    ("x_farebox_account", "mallory"),
    ("x-farebox-account", "mallory"),
    ("x-request-id", "mine"),
    ("x-http-method-override", "DELETE"),
    ("cache-control", "no-cache"),
    ("expect", "100-continue"),
    ("Expect", "100-Continue"),
];

const LONG: &str =
    "llllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllllll";

fn request(
    random: &mut Random,
    protocol: Protocol,
    nonce: &str,
    is_last: bool,
    is_tunnel: bool,
) -> Request {
    let is_http1 = protocol == Protocol::Http1;
    let method = random.one_of(&[
        "POST", "POST", "POST", "POST", "GET", "GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS",
        "REPORT",
    ]);
    let target = random.one_of(&["/a", "/a/b.c", "/a%20b?x=1&y=%20%2f", "/a?", "/a?b=/../c//d"]);
    let is_old = is_http1 && random.below(12) == 0;
    let version = if is_old { "HTTP/1.0" } else { "HTTP/1.1" };
    let mut fields = Vec::new();
    for _ in 0..random.one_of(&[0, 1, 2, 4]) {
        let (name, value) = random.one_of(&REQUEST_FIELDS);
        let of_connection = matches!(
            &*name.to_ascii_lowercase(),
            "connection" | "keep-alive" | "proxy-connection" | "upgrade"
        );
        // HTTP/2 allows no connection headers, and only one value of `te` (RFC 9113, 8.2.2).
        if is_http1 || !of_connection && (name != "te" || value == "trailers") {
            fields.push((name, value.to_owned()));
        }
    }
    if is_http1 && random.below(30) == 0 {
        fields.push(("connection", "Upgrade, HTTP2-Settings".to_owned()));
        fields.push(("upgrade", "h2c".to_owned()));
        fields.push(("http2-settings", "AAMAAABkAAQAoAAAAAIAAAAA".to_owned()));
    }
    let takes_no_body = matches!(method, "HEAD" | "GET" | "OPTIONS" | "DELETE");
    let body = content(nonce, random.one_of(&LENGTHS));
    let framing = match random.below(if takes_no_body { 12 } else { 5 }) {
        0 | 1 => Framing::Length(body.len()),
        2 | 3 if !is_old => Framing::Chunked,
        2..=4 if !takes_no_body => Framing::Length(body.len()),
        _ => Framing::None,
    };
    let body = if framing == Framing::None { Vec::new() } else { body };
    if framing == Framing::None {
        // A client that sends no body does not ask whether it may send one.
        fields.retain(|(name, _)| !name.eq_ignore_ascii_case("expect"));
    }
    let end = match random.below(16) {
        0 if is_last && body.len() > 1 => End::LeavesInRequest(random.below(body.len())),
        1 if is_last => End::LeavesInAnswer(random.one_of(&[0, 1, 100, 30_000])),
        _ => End::Reads,
    };
    let mut request = Request {
        method,
        target,
        version,
        fields,
        framing,
        pieces: pieces(random, protocol, body.len()),
        body,
        has_trailers: framing == Framing::Chunked && random.below(6) == 0,
        end,
    };
    if is_tunnel {
        request = Request {
            method: "GET",
            target: "/ws",
            version: "HTTP/1.1",
            fields: vec![
                ("Connection", "keep-alive, Upgrade".to_owned()),
                ("Upgrade", "websocket".to_owned()),
                ("sec-websocket-version", "13".to_owned()),
                ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==".to_owned()),
            ],
            framing: Framing::None,
            body: Vec::new(),
            has_trailers: false,
            end: End::Reads,
            ..request
        };
    }
    request
}

/// Fields of answers.
const ANSWER_FIELDS: [(&str, &str); 26] = [
    ("content-type", "text/event-stream"),
    ("Set-Cookie", "a=b; Path=/"),
    ("set-cookie", "c=d"),
    ("x-custom", "one"),
    ("X-Custom", "two"),
    ("x-empty", ""),
    ("x-bytes", "caf\u{e9}"),
    ("x-long", LONG),
    ("etag", "\"a\""),
    ("location", "http://upstream/elsewhere"),
    ("connection", "x-hop"),
    ("connection", "keep-alive, x-custom"),
    ("x-hop", "only for the gateway"),
    ("keep-alive", "timeout=5"),
    ("proxy-authenticate", "Basic"),
    ("proxy-connection", "keep-alive"),
    ("upgrade", "h2c"),
    ("trailer", "x-sum"),
    ("via", "1.1 behind"),
    ("server", "the upstream"),
    ("date", "Mon, 01 Jan 2001 00:00:00 GMT"),
    ("content-encoding", "gzip"),
    ("x-request-id", "theirs"),
    ("x-credits-cost", "0"),
    ("x-farebox-account", "theirs"),
    ("retry-after", "1"),
];

/// Answers that no upstream may send; after each the connection is closed.
const MALFORMED: [&str; 15] = [
    "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello",
    "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\nhello",
    "HTTP/1.1 200 OK\r\ncontent-length: +5\r\n\r\nhello",
    "HTTP/1.1 2x0 OK\r\ncontent-length: 5\r\n\r\nhello",
    "HTTP/1.1 99 Low\r\ncontent-length: 5\r\n\r\nhello",
    "HTTP/1.1\r\n\r\n",
    "garbage\r\n\r\n",
    "\0\0\0\0",
    "HTTP/1.1 200 OK\r\nno colon\r\ncontent-length: 5\r\n\r\nhello",
    "HTTP/1.1 200 OK\r\nx-a: b\0c\r\ncontent-length: 5\r\n\r\nhello",
    "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhelloworld\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n-1\r\n\r\n",
    UNASKED,
];

fn answer(
    random: &mut Random,
    protocol: Protocol,
    nonce: &str,
    request: &Request,
    is_tunnel: bool,
) -> Answer {
    let status = random.one_of(&[
        200, 200, 200, 200, 200, 200, 200, 201, 204, 206, 299, 302, 304, 400, 401, 404, 413, 429,
        500, 502, 503, 599,
    ]);
    let length = random.one_of(&LENGTHS);
    let has_none = matches!(status, 204 | 304);
    let body = if has_none { Vec::new() } else { content(nonce, length) };
    let mut framing = match random.below(5) {
        0 | 1 => Framing::Length(body.len()),
        2 | 3 => Framing::Chunked,
        _ => Framing::UntilClose,
    };
    let mut then = match random.below(12) {
        0 => Then::Closes,
        1 => Then::ClosesUnasked,
        // All of it fits into one write.
        2 if body.len() <= 5000 => Then::SaysMore,
        _ => Then::Keeps,
    };
    let is_old = random.below(20) == 0;
    if is_old && framing == Framing::Chunked || has_none {
        framing = Framing::Length(body.len());
    }
    let ends_with_connection = framing == Framing::UntilClose && request.method != "HEAD";
    if is_old || ends_with_connection && then != Then::ClosesUnasked {
        then = Then::Closes;
    }
    let version = if is_old { "HTTP/1.0" } else { "HTTP/1.1" };
    let reason = random.one_of(&["OK", "OK", "", "Two Words"]);
    let mut head = format!("{version} {status} {reason}\r\nX-Echo: {nonce}\r\n");
    if then == Then::Closes {
        // The first of all `connection` lines: today's Farebox reads no other (`conformance`).
        head += "Connection: close\r\n";
    }
    for _ in 0..random.one_of(&[0, 1, 2, 4]) {
        let (name, value) = random.one_of(&ANSWER_FIELDS);
        head += &format!("{name}: {value}\r\n");
    }
    match framing {
        Framing::Length(length) if !has_none || status == 304 => {
            head += &format!("Content-Length: {length}\r\n");
        }
        Framing::Chunked => head += "Transfer-Encoding: chunked\r\n",
        _ => {}
    }
    head += "\r\n";
    let mut answer = Answer {
        interim: Vec::new(),
        is_early: random.below(12) == 0,
        is_tunnel,
        head,
        status,
        framing,
        pieces: pieces(random, protocol, body.len()),
        body,
        has_trailers: framing == Framing::Chunked && random.below(6) == 0,
        cut: None,
        malformed: None,
        then,
    };
    for status in [100, 102, 103] {
        if random.below(12) == 0 {
            answer.interim.push(status);
        }
    }
    if is_tunnel {
        let head =
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
        answer = Answer {
            head: head.to_owned(),
            status: 101,
            framing: Framing::None,
            interim: Vec::new(),
            is_early: false,
            body: Vec::new(),
            then: Then::Closes,
            has_trailers: false,
            ..answer
        };
    } else if random.below(12) == 0 {
        let plan =
            Plan { nonce: nonce.to_owned(), request: request.clone(), answer: answer.clone() };
        let whole = plan.answer_bytes().len();
        answer.cut = Some(random.below(whole));
        answer.then = Then::ClosesUnasked;
        answer.is_early = false;
    } else if random.below(16) == 0 {
        answer.malformed = Some(random.one_of(&MALFORMED));
        answer.then = Then::ClosesUnasked;
        answer.interim.clear();
        answer.is_early = false;
    }
    answer
}
