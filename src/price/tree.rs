//! Finds the most exact of the patterns with parameters, segment by segment.

use std::collections::HashMap;

use super::pattern::Segment;

/// A prefix tree of patterns, each leading to a place in a list.
#[derive(Debug, Default)]
pub(super) struct Tree {
    literals: HashMap<Box<str>, Tree>,
    one: Option<Box<Tree>>,
    /// What `{*rest}` leads to from here.
    rest: Option<usize>,
    /// What a pattern that ends here leads to.
    end: Option<usize>,
}

impl Tree {
    /// The place of the pattern with these segments: where it led before, or `place`.
    pub(super) fn entry(&mut self, segments: &[Segment], place: usize) -> usize {
        match segments.split_first() {
            None => *self.end.get_or_insert(place),
            Some((Segment::Rest, _)) => *self.rest.get_or_insert(place),
            Some((Segment::One, after)) => self.one.get_or_insert_default().entry(after, place),
            Some((Segment::Literal(text), after)) => {
                self.literals.entry(text.clone()).or_default().entry(after, place)
            }
        }
    }

    /// Where the most exact pattern for a path leads. `path` is what is left of it after the
    /// slash, or `None` at its end.
    ///
    /// A branch that turns out a dead end is left for the next less exact one. Each node has one
    /// way to it, so no path makes this visit more nodes than the table has.
    pub(super) fn find(&self, path: Option<&str>) -> Option<usize> {
        let Some(path) = path else { return self.end };
        let (segment, after) = match path.split_once('/') {
            Some((segment, after)) => (segment, Some(after)),
            None => (path, None),
        };
        let literal = self.literals.get(segment).and_then(|tree| tree.find(after));
        if literal.is_some() || segment.is_empty() {
            return literal;
        }
        self.one.as_ref().and_then(|tree| tree.find(after)).or(self.rest)
    }
}
