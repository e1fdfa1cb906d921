//! The price table of the fuzz run, and the price of a call by it, computed without Farebox's code.

/// The routes beside `POST /api/ai/generate` of 5 credits.
pub const ROUTES: &str = r#"
[[routes]]
path = "/api/ai/generate/hd"
methods = ["POST"]
upstream = "ai"
credits = 10

[[routes]]
path = "/jobs/{id}"
upstream = "ai"
credits = 3

[[routes]]
path = "/leave/{*rest}"
upstream = "ai"
credits = 4
on_client_abort = "release"

[[routes]]
path = "/ws"
methods = ["GET"]
upstream = "ai"
credits = 7
websocket = true

[[routes]]
path = "/free"
upstream = "ai"
credits = 0

[[routes]]
path = "/{*rest}"
upstream = "ai"
credits = 2
"#;

/// The price rule of a route that covers the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    pub credits: i64,
    /// `on_client_abort = "release"`
    pub releases: bool,
}

const fn rule(credits: i64) -> Rule {
    Rule { credits, releases: false }
}

/// The rule of a path as it is written. `Err` if the path has rules, but none for the method.
fn written(method: &str, path: &str) -> Option<Result<Rule, ()>> {
    let only = |listed: &[&str], found| if listed.contains(&method) { Ok(found) } else { Err(()) };
    let segments: Vec<&str> = path.strip_prefix('/')?.split('/').collect();
    Some(match *segments {
        ["api", "ai", "generate"] => only(&["POST"], rule(5)),
        ["api", "ai", "generate", "hd"] => only(&["POST"], rule(10)),
        ["ws"] => only(&["GET", "HEAD"], rule(7)),
        ["free"] => Ok(rule(0)),
        ["jobs", id] if !id.is_empty() => Ok(rule(3)),
        ["leave", first, ..] if !first.is_empty() || segments.len() > 2 => {
            Ok(Rule { credits: 4, releases: true })
        }
        _ => return None,
    })
}

/// The lowest price that a call may have if the upstream was sent this method and path. The
/// upstream may ignore case and a trailing slash. `None` if no rule covers the call.
pub fn price(method: &str, path: &str) -> Option<Rule> {
    if let Some(found) = written(method, path) {
        return found.ok();
    }
    let everything = (path.len() > 1).then_some(rule(2))?;
    let loose = path.strip_suffix('/').unwrap_or(path).to_ascii_lowercase();
    match written(method, &loose) {
        None => Some(everything),
        Some(found) => found
            .ok()
            .map(|found| Rule { credits: found.credits.max(everything.credits), releases: false }),
    }
}
