//! The objects and lists of a request that are open while it is read.

use super::members::Role;
use super::place::Place;

/// The member whose value comes next.
#[derive(Clone, Copy)]
pub(super) struct Next<'a> {
    pub role: Role,
    pub name: &'static str,
    pub watched: Option<&'a str>,
}

/// No member, or a member that is not known.
pub(super) const NOTHING: Next<'static> = Next { role: Role::None, name: "", watched: None };

/// An open object or list.
#[derive(Clone, Copy)]
pub(super) struct Frame {
    pub place: Place,
    pub is_list: bool,
    /// One bit for each known member: whether it was present.
    pub seen: u64,
    pub has_type: bool,
    pub has_id: bool,
    pub has_content: bool,
    pub is_base64: bool,
    pub is_image: bool,
    pub is_audio: bool,
    pub data_bytes: usize,
}

/// A frame in which nothing was read yet.
pub(super) const CLOSED: Frame = Frame {
    place: Place::Any,
    is_list: false,
    seen: 0,
    has_type: false,
    has_id: false,
    has_content: false,
    is_base64: false,
    is_image: false,
    is_audio: false,
    data_bytes: 0,
};
