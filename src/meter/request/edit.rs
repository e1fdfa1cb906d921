//! The changes that a metered body goes upstream with. All other bytes stay as the client sent them.

/// The changes to a body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes<'a> {
    /// The model that the upstream is asked for, in place of the client's.
    pub model: Option<&'a str>,
    /// The upstream is asked for the usage chunk of a stream.
    pub include_usage: bool,
    /// No output limit is above this; where none is present, this one is added.
    pub output_limit: Option<u32>,
}
