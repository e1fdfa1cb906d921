//! Where in a document a reader stands, as far as it knows the document's shape.

/// The deepest place that a reader knows. Below, the document is skipped.
const DEEPEST: usize = 12;

/// The objects and lists that are open, by the reader's own names for them. The reader skips an object or list that it does
/// not know, with all that is inside.
#[derive(Clone, Copy, Debug)]
pub struct Path<N> {
    nodes: [N; DEEPEST],
    known: usize,
    skipped: u32,
}

impl<N: Copy> Path<N> {
    /// Nothing is open; `any` fills the places that are not in use.
    pub const fn new(any: N) -> Self {
        Self { nodes: [any; DEEPEST], known: 0, skipped: 0 }
    }

    /// Forgets what is open.
    pub const fn clear(&mut self) {
        (self.known, self.skipped) = (0, 0);
    }

    /// True where the next value is the whole document.
    pub const fn is_top(&self) -> bool {
        self.known == 0 && self.skipped == 0
    }

    /// The innermost object or list. `None` at the top, and in what is skipped.
    pub fn here(&self) -> Option<N> {
        if self.skipped > 0 {
            return None;
        }
        self.nodes.get(self.known.checked_sub(1)?).copied()
    }

    /// An object or list opens. `None` skips it.
    pub fn open(&mut self, node: Option<N>) {
        match (node, self.nodes.get_mut(self.known)) {
            (Some(node), Some(place)) if self.skipped == 0 => {
                *place = node;
                self.known += 1;
            }
            _ => self.skipped += 1,
        }
    }

    /// The innermost object or list closes. Returns the reader's name for it.
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
