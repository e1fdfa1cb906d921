//! The place in a document that a reader has reached, as far as the reader knows the document's
//! shape.

/// The deepest level that a reader can know. Deeper levels are skipped.
const DEEPEST: usize = 12;

/// The objects and lists that are open, by the names that the reader gives them. An object or list
/// without a name is skipped, with all that is in it.
#[derive(Clone, Copy, Debug)]
pub struct Path<N> {
    nodes: [N; DEEPEST],
    known: usize,
    skipped: u32,
}

impl<N: Copy> Path<N> {
    /// Creates a path on which nothing is open. `any` fills the unused levels.
    pub const fn new(any: N) -> Self {
        Self { nodes: [any; DEEPEST], known: 0, skipped: 0 }
    }

    /// Closes everything.
    pub const fn clear(&mut self) {
        (self.known, self.skipped) = (0, 0);
    }

    /// Whether the next value is the whole document.
    pub const fn is_top(&self) -> bool {
        self.known == 0 && self.skipped == 0
    }

    /// The innermost object or list. `None` at the top, and inside a value that is skipped.
    pub fn here(&self) -> Option<N> {
        if self.skipped > 0 {
            return None;
        }
        self.nodes.get(self.known.checked_sub(1)?).copied()
    }

    /// Opens an object or list, which the reader names `node`. `None` skips it, with all that is in
    /// it.
    pub fn open(&mut self, node: Option<N>) {
        match (node, self.nodes.get_mut(self.known)) {
            (Some(node), Some(place)) if self.skipped == 0 => {
                *place = node;
                self.known += 1;
            }
            _ => self.skipped += 1,
        }
    }

    /// Closes the innermost object or list. Returns the reader's name for it.
    pub fn close(&mut self) -> Option<N> {
        let closed = self.here();
        if closed.is_some() {
            self.known -= 1;
        } else {
            self.skipped = self.skipped.saturating_sub(1);
        }
        closed
    }
}
