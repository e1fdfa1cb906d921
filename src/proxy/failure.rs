//! The log line of a failed call. The line never contains bytes that an upstream sent. Pingora's
//! errors may: if Pingora cannot read a head, it puts the head into the error, with its cookies.

use std::io;
use std::net::SocketAddr;

use http::Method;
use pingora_error::{BError, Error, ErrorType, ImmutStr};

use super::call::About;
use super::live::Outcome;

/// The most characters of the path in the log line.
const MOST_PATH: usize = 200;

/// A call that failed, with the facts for its log line.
pub(super) struct Failed<'a> {
    pub about: &'a About,
    /// The name of the upstream.
    pub upstream: &'a str,
    pub method: &'a Method,
    pub path: &'a str,
    /// The address to which the request was sent, and whether the connection was an idle one from
    /// the pool. `None` if there was no connection.
    pub sent_to: Option<(SocketAddr, bool)>,
    pub failed_connections: usize,
}

impl Failed<'_> {
    /// Logs the failure. `status` is the status that the client was sent, or 0 if it was sent none.
    pub fn log(&self, error: &Error, outcome: Option<Outcome>, status: u16) {
        tracing::error!(
            upstream = self.upstream,
            address = self.sent_to.map(|(address, _)| address.to_string()),
            connection = self.sent_to.map(|(_, kept)| if kept { "kept" } else { "new" }),
            error = without_bytes(error),
            outcome = outcome.map(Outcome::label),
            status,
            failed_connections = self.failed_connections,
            // The query is left out, because some services take their keys in it.
            request = format!("{} {:.MOST_PATH$}", self.method, self.path),
            request_id = self.about.id.as_str(),
            "a call failed"
        );
    }
}

/// The text of an error and its causes, without texts that may contain bytes of a request or an
/// answer. Texts from opening a connection are safe, and so are texts that are constants of the
/// program.
pub(super) fn without_bytes(error: &Error) -> String {
    let mut said = format!("{} {}", error.esource().as_str(), error.etype().as_str());
    let mut add = |text: &str| {
        if !said.contains(text) {
            said.push_str(": ");
            said.push_str(text);
        }
    };
    let mut next = Some(error);
    while let Some(error) = next {
        let is_of_connecting = is_of_connecting(error.etype());
        add(error.etype().as_str());
        match &error.context {
            Some(ImmutStr::Static(text)) => add(text),
            Some(ImmutStr::Owned(text)) if is_of_connecting => add(text),
            _ => {}
        }
        let cause = error.cause.as_deref();
        next = cause.and_then(|cause| cause.downcast_ref::<BError>()).map(|error| &**error);
        if let Some(cause) = cause.filter(|_| next.is_none())
            && (is_of_connecting || cause.is::<io::Error>())
        {
            add(&cause.to_string());
        }
    }
    said
}

fn is_of_connecting(kind: &ErrorType) -> bool {
    use ErrorType::{
        ConnectError, ConnectNoRoute, ConnectRefused, ConnectTimedout, InvalidCert, SocketError,
        TLSHandshakeFailure, TLSHandshakeTimedout,
    };
    matches!(
        kind,
        ConnectError
            | ConnectNoRoute
            | ConnectRefused
            | ConnectTimedout
            | InvalidCert
            | SocketError
            | TLSHandshakeFailure
            | TLSHandshakeTimedout
    )
}

#[cfg(test)]
mod tests {
    use pingora_error::ErrorSource;

    use super::*;

    #[test]
    fn what_an_upstream_sent_is_not_said() {
        let read = Error::explain(
            ErrorType::InvalidHTTPHeader,
            "buf: HTTP/1.1 200\\r\\nset-cookie: session=hunter2".to_owned(),
        );
        let wrapped = read.into_up().more_context("upstream 10.0.0.1:80 hunter2".to_owned());
        let said = without_bytes(&wrapped);
        assert_eq!(said, "Upstream InvalidHTTPHeader");
        let cause = io::Error::other("connection reset");
        let mut broken = Error::because(ErrorType::ReadError, "hunter2".to_owned(), cause);
        broken.esource = ErrorSource::Upstream;
        assert_eq!(without_bytes(&broken), "Upstream ReadError: connection reset");
    }

    #[test]
    fn where_a_connection_was_refused_is_said() {
        let cause = io::Error::from(io::ErrorKind::ConnectionRefused);
        let refused = Error::because(
            ErrorType::ConnectRefused,
            "Fail to connect to 10.0.0.1:80".to_owned(),
            cause,
        );
        let said = without_bytes(&refused.into_up());
        assert_eq!(
            said,
            "Upstream ConnectRefused: Fail to connect to 10.0.0.1:80: connection refused"
        );
    }
}
