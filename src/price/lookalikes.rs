//! The rules that a path resembles: rules that would match it in another ASCII case, or with one
//! trailing slash more or less.
//!
//! The price table treats `/api/hd`, `/API/HD` and `/api/hd/` as three paths. If only `/api/hd` has
//! a rule of its own, a `/{*rest}` prices the other two. But many upstreams ignore case or a
//! trailing slash, and serve the same resource under all three. So if a pattern with parameters
//! prices a call, the call costs at least as much as every rule that its path resembles. Another
//! spelling of a path never makes a call cheaper.
//!
//! A path resembles a rule if the rule's pattern does not match the path as it is, but matches
//! another spelling of it: with some letters in the other case, with one `/` more or less at its
//! end, or both. `{name}` still stands for any one segment, and `{*rest}` for any rest. So only the
//! literal segments of a pattern, and the text after a `{name}`, are compared. `/v1/x/HD` and
//! `/V1/x/hd/` resemble `/v1/{model}/hd`; `/v1/x/y/hd` does not.
//!
//! A pattern that matches the path as it is does not count as resembled, even if a more exact
//! pattern wins. The order of the price table decides between those two.

use std::borrow::Cow;
use std::collections::HashMap;

use crate::price::pattern::{Segment, ends_with};

/// A prefix tree of patterns, with their literal segments in lower case. Each pattern leads to a
/// place: an index in the price table's list of patterns.
#[derive(Debug, Default)]
pub(super) struct Lookalikes {
    literals: HashMap<Box<str>, Lookalikes>,
    /// The patterns whose next segment is `{name}text`, keyed by the text in lower case.
    endings: HashMap<Box<str>, Lookalikes>,
    one: Option<Box<Lookalikes>>,
    /// The places of the patterns whose `{*rest}` starts here. There can be several, because
    /// patterns whose literals differ only in case share a node.
    rest: Vec<usize>,
    /// The places of the patterns that end here.
    ends: Vec<usize>,
}

impl Lookalikes {
    /// Adds the pattern with these segments at `place`.
    pub(super) fn add(&mut self, segments: &[Segment], place: usize) {
        match segments.split_first() {
            None => self.ends.push(place),
            Some((Segment::Rest, _)) => self.rest.push(place),
            Some((Segment::One, after)) => self.one.get_or_insert_default().add(after, place),
            Some((Segment::Ending(text), after)) => {
                let text = text.to_ascii_lowercase().into();
                self.endings.entry(text).or_default().add(after, place);
            }
            Some((Segment::Literal(text), after)) => {
                let text = text.to_ascii_lowercase().into();
                self.literals.entry(text).or_default().add(after, place);
            }
        }
    }

    /// Calls `found` with the place of every pattern that matches some spelling of `path`,
    /// including the spelling of `path` itself.
    pub(super) fn visit(&self, path: &str, found: &mut dyn FnMut(usize)) {
        let lower: Cow<'_, str> = if path.bytes().any(|byte| byte.is_ascii_uppercase()) {
            path.to_ascii_lowercase().into()
        } else {
            path.into()
        };
        self.walk(lower.strip_prefix('/'), found);
    }

    /// Continues the visit below this node. `path` is the part after the slash, or `None` at the
    /// end. There is only one way through the tree to each node, so no path makes this visit more
    /// nodes than the table has.
    fn walk(&self, path: Option<&str>, found: &mut dyn FnMut(usize)) {
        // At the end of the path, patterns with and without a trailing slash both count.
        let Some(path) = path.filter(|path| !path.is_empty()) else {
            let after_slash = self.literals.get("").map_or(&[][..], |tree| &tree.ends);
            self.ends.iter().chain(after_slash).for_each(|place| found(*place));
            return;
        };
        let (segment, after) = match path.split_once('/') {
            Some((segment, after)) => (segment, Some(after)),
            None => (path, None),
        };
        if let Some(tree) = self.literals.get(segment) {
            tree.walk(after, found);
        }
        for (text, tree) in &self.endings {
            if ends_with(segment, text) {
                tree.walk(after, found);
            }
        }
        if let Some(tree) = &self.one {
            tree.walk(after, found);
        }
        self.rest.iter().for_each(|place| found(*place));
    }
}
