//! Addresses of boards: `folder:/absolute/path`, or `etcd:https://host:2379,https://other:2379`.

use std::fmt;
use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};

use crate::error::{Error, Kind, Result};

const FOLDER: &str = "folder:";
const ETCD: &str = "etcd:";
const DEFAULT_PORT: u16 = 2379;
const MAX_ENDPOINTS: usize = 16;

/// Where a board is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Address {
    /// A folder on a file system that all hosts have mounted.
    Folder(PathBuf),
    /// The members of an etcd, any of which will do.
    Etcd(Vec<Endpoint>),
}

/// One member of an etcd.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Endpoint {
    /// Host name or IP address, as its certificate has it.
    pub host: String,
    /// Port of its clients.
    pub port: u16,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

impl Address {
    /// An address from its text. Nothing is asked for there.
    ///
    /// # Errors
    /// `Invalid`.
    pub fn parse(text: &str) -> Result<Self> {
        if let Some(path) = text.strip_prefix(FOLDER).map(Path::new) {
            return match path.is_absolute() {
                true => Ok(Self::Folder(path.to_path_buf())),
                false => Err(invalid(text)),
            };
        }
        let urls = text.strip_prefix(ETCD).ok_or_else(|| invalid(text))?;
        let endpoints: Vec<Endpoint> = urls.split(',').map(Endpoint::parse).collect::<Result<_>>()?;
        match endpoints.len() {
            0..=MAX_ENDPOINTS => Ok(Self::Etcd(endpoints)),
            len => {
                let message = format!("{len} members of etcd in a board's address, expected at most {MAX_ENDPOINTS}");
                Err(Error::new(Kind::Invalid, message))
            }
        }
    }
}

fn invalid(text: &str) -> Error {
    let message = format!(
        "the board {text:?}, expected {FOLDER} and an absolute path, or {ETCD} and https://HOST:PORT,https://HOST:PORT"
    );
    Error::new(Kind::Invalid, message)
}

impl Endpoint {
    fn parse(url: &str) -> Result<Self> {
        let refused = |expected: &str| {
            Err(Error::new(Kind::Invalid, format!("a member of etcd at {url:?}, expected {expected}")))
        };
        let Some(place) = url.strip_prefix("https://").map(|place| place.strip_suffix('/').unwrap_or(place)) else {
            return refused("https://HOST:PORT: without TLS a board is open to the whole network");
        };
        let (host, port) = match place.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, "")) => (host, None),
            Some((host, rest)) => (host, rest.strip_prefix(':').or(Some(""))),
            None => place.split_once(':').map_or((place, None), |(host, port)| (host, Some(port))),
        };
        let is_host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        let is_right = match place.starts_with('[') {
            true => host.parse::<Ipv6Addr>().is_ok(),
            false => !host.is_empty() && host.chars().all(is_host),
        };
        if !is_right {
            return refused("a host name or an IP address, and nothing after the port");
        }
        match port.map_or(Ok(DEFAULT_PORT), str::parse) {
            Ok(port) if port != 0 => Ok(Self { host: host.to_owned(), port }),
            _ => refused("a port from 1 to 65535"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_written() {
        assert_eq!(Address::parse("folder:/mnt/a b").unwrap(), Address::Folder("/mnt/a b".into()));
        let read = Address::parse("etcd:https://a.example:1,https://10.0.0.1/,https://[fe80::1]:65535,https://[::1]");
        let Address::Etcd(endpoints) = read.unwrap() else { panic!("not etcd") };
        let texts: Vec<String> = endpoints.iter().map(Endpoint::to_string).collect();
        assert_eq!(texts, ["a.example:1", "10.0.0.1:2379", "[fe80::1]:65535", "[::1]:2379"]);
    }

    #[test]
    fn what_is_not_an_address_is_refused() {
        for (text, words) in [
            ("/board", "expected folder: and an absolute path"),
            ("folder:board", "expected folder: and an absolute path"),
            ("consul:https://a", "or etcd:"),
            ("etcd:", "expected https://HOST:PORT"),
            ("etcd:a:2379", "expected https://HOST:PORT"),
            ("etcd:http://a:2379", "without TLS"),
            ("etcd:https://a:2379,", "expected https://HOST:PORT"),
            ("etcd:https://", "expected a host name"),
            ("etcd:https://user@a", "expected a host name"),
            ("etcd:https://a/path", "expected a host name"),
            ("etcd:https://[::1", "expected a host name"),
            ("etcd:https://[a]", "expected a host name"),
            ("etcd:https://[::1]2379", "expected a port"),
            ("etcd:https://a:", "expected a port"),
            ("etcd:https://a:0", "expected a port"),
            ("etcd:https://a:65536", "expected a port"),
            ("etcd:https://a:1:2", "expected a port"),
        ] {
            let error = Address::parse(text).unwrap_err();
            assert_eq!(error.kind(), Kind::Invalid, "{text}");
            assert!(error.chain().contains(words), "{text}: {}", error.chain());
        }
        let many = format!("etcd:{}", vec!["https://a"; 17].join(","));
        assert!(Address::parse(&many).unwrap_err().chain().contains("17 members"));
    }
}
