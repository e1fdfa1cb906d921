//! "Did you mean": the known name nearest to one that is not known.

use strsim::osa_distance;

/// The hint for the unknown `name`: the nearest of `known`, or all of them after `intro`.
pub(crate) fn hint(name: &str, known: &[&str], intro: &str) -> String {
    match nearest(name, known) {
        Some(near) => format!("did you mean `{near}`?"),
        None => {
            let all: Vec<String> = known.iter().map(|name| format!("`{name}`")).collect();
            format!("{intro} {}", all.join(", "))
        }
    }
}

/// The known name that is at most a third of its letters away.
fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    if name.len() > 64 {
        return None;
    }
    let name = name.to_lowercase().replace('-', "_");
    let near = known.iter().map(|known| (osa_distance(&name, known), *known)).min()?;
    (near.0 <= near.1.len().div_ceil(3)).then_some(near.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_finger_is_recognised() {
        let known = ["listen", "admin", "admin_token", "threads"];
        for (typed, meant) in [
            ("lisetn", Some("listen")),
            ("Listen", Some("listen")),
            ("admin-token", Some("admin_token")),
            ("thread", Some("threads")),
            ("colour", None),
            ("", None),
        ] {
            assert_eq!(nearest(typed, &known), meant, "{typed}");
        }
        assert_eq!(hint("colour", &known[..2], "known here:"), "known here: `listen`, `admin`");
    }
}
