//! The address of an upstream.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, de};

/// Scheme, host and port of an upstream. There is no path: the path of a call comes from the
/// client's request.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UpstreamUrl {
    /// True for `https`.
    pub tls: bool,
    /// A name in lower case, or an IP address; an IPv6 address has no brackets here.
    pub host: String,
    /// The port; if the URL has none, the default port of its scheme.
    pub port: u16,
}

/// The reason why a text is not an upstream's address. The message does not repeat the text, which
/// may contain a password. The part after the semicolon is the hint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UpstreamUrlError {
    /// The text does not start with `http://` or `https://`.
    #[error("this URL has no scheme; start it with http:// or https://")]
    Scheme,
    /// There is a user or password before the host.
    #[error(
        "a user or password does not belong in this URL; send it as a header: headers = {{ authorization = \"Basic …\" }}"
    )]
    UserInfo,
    /// There is something after the port.
    #[error(
        "this URL has a path or a query; write scheme, host and port only: the path comes from the client's request"
    )]
    Path,
    /// The host is absent or not valid.
    #[error(
        "this URL has no valid host; write it like http://127.0.0.1:3000 or https://api.example.com"
    )]
    Host,
    /// The port is not 1 to 65535.
    #[error("this URL has no valid port; a port is 1 to 65535")]
    Port,
}

impl FromStr for UpstreamUrl {
    type Err = UpstreamUrlError;
    fn from_str(text: &str) -> Result<Self, UpstreamUrlError> {
        let (scheme, rest) = text.split_once("://").ok_or(UpstreamUrlError::Scheme)?;
        let tls = match scheme.to_ascii_lowercase().as_str() {
            "http" => false,
            "https" => true,
            _ => return Err(UpstreamUrlError::Scheme),
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.contains('@') {
            return Err(UpstreamUrlError::UserInfo);
        }
        if authority.contains(['/', '?', '#', '\\']) {
            return Err(UpstreamUrlError::Path);
        }
        let (host, port) = split_port(authority)?;
        let port = match port {
            None if tls => 443,
            None => 80,
            Some(digits) => parse_port(digits).ok_or(UpstreamUrlError::Port)?,
        };
        Ok(Self { tls, host, port })
    }
}

fn split_port(authority: &str) -> Result<(String, Option<&str>), UpstreamUrlError> {
    if let Some(rest) = authority.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or(UpstreamUrlError::Host)?;
        let host: Ipv6Addr = host.parse().map_err(|_| UpstreamUrlError::Host)?;
        return match rest.strip_prefix(':') {
            None if rest.is_empty() => Ok((host.to_string(), None)),
            None => Err(UpstreamUrlError::Host),
            Some(port) => Ok((host.to_string(), Some(port))),
        };
    }
    let (host, port) = match authority.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (authority, None),
    };
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    // A DNS name has at most 253 characters.
    if host.is_empty() || host.len() > 253 || !host.bytes().all(letter) {
        return Err(UpstreamUrlError::Host);
    }
    Ok((host.to_ascii_lowercase(), port))
}

fn parse_port(digits: &str) -> Option<u16> {
    let port = digits.parse().ok().filter(|port| *port != 0);
    // `parse` also accepts a sign.
    port.filter(|_| digits.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Writes the URL as in the config, but always with its port.
impl fmt::Display for UpstreamUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tls, host, port } = self;
        let scheme = if *tls { "https" } else { "http" };
        if host.contains(':') {
            write!(f, "{scheme}://[{host}]:{port}")
        } else {
            write!(f, "{scheme}://{host}:{port}")
        }
    }
}

impl<'de> Deserialize<'de> for UpstreamUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scheme_host_and_port_are_read() {
        for (text, printed) in [
            ("http://127.0.0.1:3000", "http://127.0.0.1:3000"),
            ("http://127.0.0.1:3000/", "http://127.0.0.1:3000"),
            ("https://API.example.com", "https://api.example.com:443"),
            ("http://my_service.local", "http://my_service.local:80"),
            ("HTTP://[::1]:8080", "http://[::1]:8080"),
            ("https://[2001:db8::1]", "https://[2001:db8::1]:443"),
        ] {
            let url: UpstreamUrl = text.parse().unwrap();
            assert_eq!(url.to_string(), printed);
            assert_eq!(printed.parse(), Ok(url));
        }
    }

    #[test]
    fn anything_else_in_a_url_is_refused() {
        use UpstreamUrlError::{Host, Path, Port, Scheme, UserInfo};
        for (text, why) in [
            ("", Scheme),
            ("127.0.0.1:3000", Scheme),
            ("ftp://host", Scheme),
            ("http://user:secret@host", UserInfo),
            ("http://host/v1", Path),
            ("http://host//", Path),
            ("http://host?x=1", Path),
            ("http://host#x", Path),
            ("http://", Host),
            ("http://:80", Host),
            ("http://a b", Host),
            ("http://h%6fst", Host),
            ("http://bücher.example", Host),
            ("http://[::1", Host),
            ("http://[::1]80", Host),
            ("http://[host]", Host),
            ("http://host:", Port),
            ("http://host:0", Port),
            ("http://host:+80", Port),
            ("http://host:65536", Port),
            ("http://host:80:80", Port),
        ] {
            assert_eq!(text.parse::<UpstreamUrl>(), Err(why), "{text}");
        }
    }
}
