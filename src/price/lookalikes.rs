//! The rules that a path resembles: those that would match it in another ASCII case, or with one
//! trailing slash more or less.
//!
//! To the price table `/API/HD` and `/api/hd/` are other paths than `/api/hd`, and a `/{*rest}` may
//! price them. Many upstreams ignore case or a trailing slash, and serve `/api/hd` for all three.
//! So the rules that a path resembles set its lowest price: no spelling buys a cheaper call.
//!
//! A path resembles a rule whose pattern does not match it as it stands, and would match it in
//! another spelling: with some letters in the other case, with one `/` more or less at its end, or
//! both. `{name}` stands for any one segment and `{*rest}` for any rest, as always, so only the
//! literal segments of a pattern, and the text behind a `{name}`, are compared: `/v1/x/HD` and `/V1/x/hd/` resemble
//! `/v1/{model}/hd`, and `/v1/x/y/hd` does not. A pattern that matches the path as it stands, but
//! lost to a more exact one, is not resembled: the order of the price table applies there.

use std::borrow::Cow;
use std::collections::HashMap;

use crate::price::pattern::{Segment, ends_with};

/// A prefix tree of patterns whose literal segments are in small letters.
#[derive(Debug, Default)]
pub(super) struct Lookalikes {
    literals: HashMap<Box<str>, Lookalikes>,
    /// The patterns with `{name}text`, by that text.
    endings: HashMap<Box<str>, Lookalikes>,
    one: Option<Box<Lookalikes>>,
    /// The places of the patterns whose `{*rest}` starts here. Patterns whose literals differ only
    /// in case share a node.
    rest: Vec<usize>,
    /// The places of the patterns that end here.
    ends: Vec<usize>,
}

impl Lookalikes {
    /// Adds the pattern with these segments, which leads to `place`.
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

    /// Calls `found` with the place of every pattern that matches some spelling of `path`, its own
    /// included.
    pub(super) fn visit(&self, path: &str, found: &mut dyn FnMut(usize)) {
        let lower: Cow<'_, str> = if path.bytes().any(|byte| byte.is_ascii_uppercase()) {
            path.to_ascii_lowercase().into()
        } else {
            path.into()
        };
        self.walk(lower.strip_prefix('/'), found);
    }

    /// Walks on with `path`, the part after the slash, or `None` at the end. Each node is reached
    /// in one way only, so no path makes this visit more nodes than the table has.
    fn walk(&self, path: Option<&str>, found: &mut dyn FnMut(usize)) {
        // At the end both spellings count, with a slash and without, whichever was sent.
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
