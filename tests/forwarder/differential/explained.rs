//! Why Farebox may differ from a bare proxy: each kind of difference with its reason.

use super::compare::Difference;
use super::exchange::{End, Exchange, Plan, Protocol, UNASKED};
use super::lane::Call;
use crate::support::message::Framing;

/// A difference, with all that is needed to judge it.
pub struct Case<'a> {
    pub exchange: &'a Exchange,
    pub plan: &'a Plan,
    pub difference: &'a Difference,
    pub bare: &'a Call,
    pub farebox: &'a Call,
    /// One of the two proxies had closed the connection before, and the other had not.
    pub is_after_close: bool,
}

/// A kind of difference.
pub struct Kind {
    pub name: &'static str,
    pub reason: &'static str,
    /// Whether this difference is of the kind.
    pub covers: fn(&Case<'_>) -> bool,
}

impl Case<'_> {
    fn is_at(&self, place: &str) -> bool {
        self.difference.place == place
    }
}

/// Whether an answer was made by the proxy itself.
fn is_own(call: &Call) -> bool {
    call.got.answer.as_ref().is_some_and(|answer| answer.head.all("x-echo").is_empty())
}

fn status(call: &Call) -> Option<u16> {
    call.got.answer.as_ref().map(|answer| answer.status)
}

/// The field that differs, if it is a field of `what`: a request or an answer.
fn field<'a>(case: &Case<'a>, what: &str) -> Option<&'a str> {
    case.difference.place.strip_prefix(what)?.strip_prefix(" field ")
}

/// Whether the answer's head says this of its connection.
fn nominates(plan: &Plan, name: &str) -> bool {
    let head = plan.answer.head.to_ascii_lowercase();
    let lines = head.lines().filter_map(|line| line.strip_prefix("connection:"));
    lines.flat_map(|value| value.split(',')).any(|option| option.trim() == name)
}

/// All kinds. The first one that covers a difference counts.
pub const EXPLAINED: &[Kind] = &[
    Kind {
        name: "own words",
        reason: "Farebox says in a problem what Pingora says with a bare status",
        covers: |case| {
            is_own(case.bare)
                && is_own(case.farebox)
                && status(case.bare) == status(case.farebox)
                && (case.is_at("answer body")
                    || case.is_at("answer framing")
                    || field(case, "answer").is_some_and(|name| {
                        ["content-length", "content-type", "content-language", "cache-control"]
                            .contains(&name)
                            || ["x-content-type-options", "server"].contains(&name)
                    }))
        },
    },
    Kind {
        name: "a close in a further line",
        reason: "Pingora reads the first line of `connection` alone, Farebox reads all of them",
        covers: |case| {
            let fields = case.plan.request.fields.iter();
            let lines = fields.filter(|(name, _)| name.eq_ignore_ascii_case("connection"));
            let mut options = lines.flat_map(|(_, value)| value.split(','));
            field(case, "answer") == Some("connection")
                && case.difference.farebox.contains("close")
                && options.any(|option| option.trim().eq_ignore_ascii_case("close"))
        },
    },
    Kind {
        name: "HTTP/1.0 without a length",
        reason: "an answer without a length ends with the connection for HTTP/1.0; Farebox closes it for HEAD as well",
        covers: |case| {
            field(case, "answer") == Some("connection")
                && case.plan.request.version == "HTTP/1.0"
                && case.plan.answer.head.to_ascii_lowercase().contains("transfer-encoding")
                && case.difference.farebox.contains("close")
        },
    },
    Kind {
        name: "the bare proxy breaks down",
        reason: "it leaves the answer out, cuts it or refuses the request, where Farebox has the upstream's answer whole",
        covers: |case| {
            let ends = |call: &Call| call.got.answer.as_ref().map(|answer| answer.end.is_ok());
            let is_broken = ends(case.bare) != Some(true)
                || is_own(case.bare) && status(case.bare).is_some_and(|status| status >= 400);
            is_broken && ends(case.farebox) == Some(true) && !is_own(case.farebox)
        },
    },
    Kind {
        name: "the version of an answer",
        reason: "a proxy sends its own version, not the one of the upstream (RFC 9110, 6.2)",
        covers: |case| {
            let rest = |line: &str| line.split_once(' ').map(|(_, rest)| rest.to_owned());
            case.is_at("answer line")
                && case.difference.farebox.starts_with("HTTP/1.1 ")
                && rest(&case.difference.bare) == rest(&case.difference.farebox)
        },
    },
    Kind {
        name: "another word for the caller",
        reason: "a client may not speak for a proxy, nor under a name that CGI reads as another",
        covers: |case| {
            field(case, "request").is_some_and(|name| {
                ["forwarded", "x-real-ip", "x-http-method-override", "x_farebox_account"]
                    .contains(&name)
            }) && case.difference.farebox == "absent"
        },
    },
    Kind {
        name: "cookies",
        reason: "the session's cookie is a credential, and the others go up in one line",
        covers: |case| field(case, "request") == Some("cookie"),
    },
    Kind {
        name: "farebox's names",
        reason: "an upstream may not speak under Farebox's names",
        covers: |case| {
            field(case, "answer")
                .is_some_and(|name| ["x-credits-cost", "x-farebox-account"].contains(&name))
                && case.difference.farebox == "absent"
        },
    },
    Kind {
        name: "the upstream's connection",
        reason: "what an upstream says of its own connection is not for the client (RFC 9110, 7.6.1)",
        covers: |case| {
            field(case, "answer").is_some_and(|name| {
                ["upgrade", "proxy-connection", "proxy-authenticate", "keep-alive"].contains(&name)
                    || nominates(case.plan, name)
            }) && case.difference.farebox == "absent"
        },
    },
    Kind {
        name: "upgrades",
        reason: "an `upgrade` that `connection` does not name counts for nothing (RFC 9110, 7.8)",
        covers: |case| {
            let is_upgrade = field(case, "request")
                .is_some_and(|name| ["upgrade", "connection"].contains(&name));
            case.plan.says("upgrade") && is_upgrade && case.difference.farebox == "absent"
        },
    },
    Kind {
        name: "bodies of upgrades",
        reason: "a request whose upgrade is not passed on keeps its framing",
        covers: |case| {
            let is_framing = case.is_at("request framing")
                || field(case, "request") == Some("transfer-encoding");
            is_framing && case.plan.lists("connection", "upgrade") && !case.plan.answer.is_tunnel
        },
    },
    Kind {
        name: "old clients",
        reason: "HTTP/1.0 knows neither chunks nor 1xx, and a body without a length just ends",
        covers: |case| {
            let place = case.difference.place.as_str();
            let is_unchunked = place == "answer framing" && case.difference.farebox == "UntilClose"
                || field(case, "answer") == Some("transfer-encoding")
                    && case.difference.farebox == "absent";
            let is_closed = field(case, "answer") == Some("connection")
                && case.difference.farebox == "[\"close\"]"
                && case
                    .farebox
                    .got
                    .answer
                    .as_ref()
                    .is_some_and(|a| a.framing == Framing::UntilClose);
            let is_unasked = field(case, "request") == Some("expect");
            let is_cut = place == "answer end"
                && case
                    .farebox
                    .got
                    .answer
                    .as_ref()
                    .is_some_and(|a| a.framing == Framing::UntilClose);
            let is_silent = place == "interim" && case.difference.farebox == "[]";
            case.plan.request.version == "HTTP/1.0"
                && (is_unchunked || is_closed || is_silent || is_unasked || is_cut)
        },
    },
    Kind {
        name: "tunnels that nobody asked for",
        reason: "an unasked 101 is 502",
        covers: |case| {
            case.plan.answer.malformed == Some(UNASKED) && status(case.farebox) == Some(502)
        },
    },
    Kind {
        name: "unwanted WebSockets",
        reason: "a WebSocket where the route takes none is 400",
        covers: |case| {
            let before = &case.exchange.calls[..case.difference.call];
            let is_first = case.is_at("reused") && before.iter().any(Plan::is_refused);
            is_first || case.plan.is_refused() && status(case.farebox) == Some(400)
        },
    },
    Kind {
        name: "second tries",
        reason: "a request that may have reached the upstream is never sent again",
        covers: |case| {
            let place = case.difference.place.as_str();
            let is_of_request =
                ["arrivals", "reused", "interim"].contains(&place) || place.starts_with("request ");
            is_of_request
                && case.bare.arrivals.len() == 2
                && case.farebox.arrivals.len() == 1
                && case.plan.answer.cut.is_some()
        },
    },
    Kind {
        name: "early answers",
        reason: "whether the rest of the request comes in time decides whether its connection is kept",
        covers: |case| case.plan.answer.is_early && field(case, "answer") == Some("connection"),
    },
    Kind {
        name: "empty bodies",
        reason: "whether the end of a body without bytes comes in time to be told with the head",
        covers: |case| {
            let is_framing = case.is_at("request framing")
                || field(case, "request") == Some("transfer-encoding");
            let is_empty = case.plan.request.body.is_empty();
            is_framing && is_empty && case.exchange.protocol == Protocol::Http2
        },
    },
    Kind {
        name: "resets",
        reason: "a stream of HTTP/2 is reset at once, and what waits to be sent on it is lost",
        covers: |case| {
            case.exchange.protocol == Protocol::Http2
                && (case.plan.answer.cut.is_some() || case.plan.answer.malformed.is_some())
                && case.is_at("answer body")
        },
    },
    Kind {
        name: "small bodies",
        reason: "a small body goes up once it is whole",
        covers: |case| {
            let leaves = matches!(case.plan.request.end, End::LeavesInRequest(_));
            leaves && case.plan.has_small_body() && case.farebox.arrivals.is_empty()
        },
    },
    Kind {
        name: "closed",
        reason: "one of both had closed the connection before, for a reason of this list",
        covers: |case| {
            let is_missing = |call: &Call| call.got.answer.is_none();
            case.is_after_close && (is_missing(case.bare) || is_missing(case.farebox))
        },
    },
    Kind {
        name: "expectations",
        reason: "where Farebox reads the body first it has answered the expectation itself",
        covers: |case| {
            let is_told = case.is_at("interim") && case.difference.farebox.starts_with("[100");
            let is_kept = field(case, "answer") == Some("connection")
                && case.difference.farebox == "[\"keep-alive\"]";
            case.plan.says("expect")
                && case.plan.has_small_body()
                && (is_kept || is_told || field(case, "request") == Some("expect"))
        },
    },
];

/// The kind of a difference.
pub fn kind(case: &Case<'_>) -> Option<usize> {
    EXPLAINED.iter().position(|kind| (kind.covers)(case))
}
