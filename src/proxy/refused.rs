//! The reason why a call is not forwarded, once its caller and its price are known.

use super::body::Unread;
use super::retries::Replay;
use super::settle;
use crate::problem::Problem;

/// The reason why a call is not forwarded.
pub(in crate::proxy) enum Refused {
    /// The client is sent this problem. The rest of its body may be read.
    Told(Problem),
    /// The client is sent this problem, and no other request is read from its connection.
    Last(Problem),
    /// The client has left.
    Left(pingora_error::BError),
    /// The call is a retry, and the client is sent the answer of the first call.
    Answered(Box<Replay>),
}

impl From<Problem> for Refused {
    fn from(problem: Problem) -> Self {
        Self::Told(problem)
    }
}

impl From<Unread> for Refused {
    fn from(unread: Unread) -> Self {
        match unread {
            Unread::Silent => Self::Last(Problem::request_timeout()),
            Unread::Overloaded => Self::Last(Problem::overloaded()),
            Unread::Failed(error) => match settle::problem_of(&error, false) {
                Some(problem) => Self::Last(problem),
                None => Self::Left(error),
            },
        }
    }
}
