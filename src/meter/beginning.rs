//! The beginning that the documents of a stream have in common, which is read only once.
//!
//! The chunks of a chat are the same up to their text: an id, a model, a time, some 200 bytes. The
//! state that a scanner and a meter have after these bytes depends on nothing else. So they note
//! it, and go on from there when another document begins with the same bytes.

use super::json::Place;

/// The longest beginning that is noted, in bytes.
pub const LONGEST: usize = 512;

/// The beginning of the newest document with a text, up to the text.
#[derive(Debug, Default)]
pub struct Beginning {
    bytes: Vec<u8>,
    /// The state of the scanner after these bytes, once two documents have begun with them.
    place: Option<Place>,
}

impl Beginning {
    /// Splits this beginning off `document`. `None` if `document` begins otherwise.
    pub fn split<'a>(&self, document: &'a [u8]) -> Option<(&'a [u8], &'a [u8])> {
        if self.bytes.is_empty() || !document.starts_with(&self.bytes) {
            return None;
        }
        document.split_at_checked(self.bytes.len())
    }

    /// The state of the scanner after the beginning; `None` if it was not noted yet.
    pub const fn place(&self) -> Option<Place> {
        self.place
    }

    /// Notes the state of the scanner after the beginning.
    pub const fn reached(&mut self, place: Place) {
        self.place = Some(place);
    }

    /// Replaces the beginning by that of `document`, which is the document's first part. Its text
    /// begins at the position `text`.
    pub fn replace(&mut self, document: &[u8], text: usize) {
        if let Some(bytes) = document.get(..text).filter(|bytes| bytes.len() <= LONGEST) {
            self.bytes.clear();
            self.bytes.extend_from_slice(bytes);
            self.place = None;
        }
    }
}
