//! What goes wrong between this host and a key server, and what it means: for the key, and for asking again.

use std::net::SocketAddr;
use std::{fmt, io};

use super::tag::Operation;
use super::tls;
use crate::provider::{Failure, KeyState, Trouble};

/// Longest text of a server that is passed on, in characters.
const MAX_SERVER_TEXT: usize = 200;

impl Failure {
    /// What the server sent is not an answer to what it was asked.
    pub(super) fn garbled(message: impl fmt::Display) -> Self {
        Self::new(Trouble::Garbled, format!("the server's answer is not understood: {message}"))
    }

    /// What came under a key id is not an AES-256 key.
    pub(super) fn no_kek(message: impl fmt::Display) -> Self {
        Self::new(Trouble::NotAKek, format!("the server gave {message}, expected an AES-256 key"))
    }

    /// A refusal, by KMIP's result reason (KMIP 1.4 section 9.1.3.2.29; 2.1 section 11.49). Servers send the reasons of
    /// KMIP 2 in replies of KMIP 1.
    pub(super) fn refused(operation: Option<Operation>, reason: Option<u32>, text: Option<&str>) -> Self {
        let (trouble, meaning) = match reason {
            Some(0x01 | 0x37) => (Trouble::Missing, "no such key"),
            Some(0x36) => (Trouble::Destroyed, "the key was destroyed"),
            Some(0x03) => (Trouble::Untrusted, "it does not accept this host's certificate"),
            Some(0x0c | 0x39) => (Trouble::Denied, "permission denied"),
            Some(0x0b | 0x43) => (Trouble::State(KeyState::Unknown), "the key's state does not allow it"),
            Some(0x04..=0x08 | 0x1c..=0x24 | 0x2c | 0x2d | 0x3b..=0x3f) => {
                (Trouble::Unsupported, "it does not support what was asked")
            }
            _ => (Trouble::Faulty, "it failed"),
        };
        let asked = operation.map_or("a request".to_owned(), |operation| format!("{operation:?}"));
        let reason = reason.map_or("none given".to_owned(), |reason| format!("{reason:#x}"));
        let said = text.map(|text| format!(", {:?}", shortened(text))).unwrap_or_default();
        Self::new(trouble, format!("the server refused {asked}: {meaning} (reason {reason}{said})"))
    }

    /// A failed system call or TLS session; TLS hides its errors in those of reading and writing.
    pub(super) fn io(doing: &str, error: &io::Error) -> Self {
        if let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref()) {
            return Self::tls(doing, tls);
        }
        if error.kind() == io::ErrorKind::TimedOut {
            return Self::new(Trouble::Silent, format!("{doing}: no answer in time"));
        }
        if error.kind() == io::ErrorKind::UnexpectedEof {
            return Self::new(Trouble::Unreachable, format!("{doing}: the server closed the connection"));
        }
        Self::new(Trouble::Unreachable, format!("{doing}: {error}"))
    }

    pub(super) fn tls(doing: &str, error: &rustls::Error) -> Self {
        let (trouble, meaning) = tls::meaning(error);
        Self::new(trouble, format!("{doing}: {meaning}"))
    }

    /// What came of all addresses of a server.
    pub(super) fn of_addresses(failures: &[(SocketAddr, Self)]) -> Self {
        let trouble = failures.iter().map(|(_, failure)| failure.trouble()).min_by_key(|trouble| trouble.rank());
        let lines: Vec<String> =
            failures.iter().map(|(address, failure)| format!("{}: {failure}", address.ip())).collect();
        match trouble {
            Some(trouble) => Self::new(trouble, lines.join("; ")),
            None => Self::new(Trouble::Silent, "connecting: no answer in time"),
        }
    }
}

/// A text of a server, with nothing that could trouble a terminal or a log.
pub(super) fn shortened(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(MAX_SERVER_TEXT).collect()
}

#[cfg(test)]
mod tests {
    use rustls::AlertDescription;

    use super::*;

    #[test]
    fn reasons_of_two_real_servers_mean_the_same() {
        let trouble = |reason| Failure::refused(Some(Operation::Get), Some(reason), None).trouble();
        assert_eq!((trouble(0x01), trouble(0x37)), (Trouble::Missing, Trouble::Missing));
        assert_eq!(trouble(0x36), Trouble::Destroyed);
        assert_eq!(trouble(0x0c), Trouble::Denied);
        assert_eq!((trouble(0x43), trouble(0x0b)), (Trouble::State(KeyState::Unknown), trouble(0x43)));
        assert_eq!((trouble(0x04), trouble(0x07)), (Trouble::Unsupported, Trouble::Unsupported));
        assert_eq!((trouble(0x100), trouble(0xdead_beef)), (Trouble::Faulty, Trouble::Faulty));
    }

    #[test]
    fn texts_of_a_server_are_quoted_and_bounded() {
        let text = format!("\x1b[2J\r\n\"{}", "x".repeat(10_000));
        let shown = Failure::refused(None, None, Some(&text)).to_string();
        assert!(shown.len() < 400 && !shown.contains(char::is_control), "{shown}");
    }

    #[test]
    fn a_refused_certificate_is_found_inside_an_error_of_reading() {
        let inside = |tls: rustls::Error| Failure::io("reading", &io::Error::new(io::ErrorKind::InvalidData, tls));
        let alert = rustls::Error::AlertReceived(AlertDescription::UnknownCA);
        assert_eq!(inside(alert).trouble(), Trouble::Untrusted);
        let bad = rustls::Error::InvalidCertificate(rustls::CertificateError::NotValidForName);
        assert_eq!(inside(bad).trouble(), Trouble::Untrusted);
        let silent = Failure::io("reading", &io::Error::from(io::ErrorKind::TimedOut));
        assert_eq!(silent.trouble(), Trouble::Silent);
    }
}
