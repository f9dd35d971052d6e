//! What an error of TLS means, in words for an administrator: which certificate, which clock, which setting.

use rustls::pki_types::UnixTime;
use rustls::{AlertDescription, CertificateError, Error, InvalidMessage};

use super::certificate::show_time;
use super::trust::NotPinned;
use crate::provider::Trouble;

/// What this host can do, for messages.
const OFFERED: &str = "this host offers TLS 1.2 and 1.3 with ECDHE and AES-GCM or ChaCha20-Poly1305, no CBC and no key exchange by RSA, and \
     less where `min-tls` or `tls` of its configuration says so";

/// Signature algorithms (DER of the object identifier) that rest on SHA-1 or MD5.
const BROKEN_HASHES: [(&[u8], &str); 4] = [
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x05], "RSA with SHA-1"),
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x04], "RSA with MD5"),
    (&[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x01], "ECDSA with SHA-1"),
    (&[0x2a, 0x86, 0x48, 0xce, 0x38, 0x04, 0x03], "DSA with SHA-1"),
];

/// What an error means, and for whom.
pub(super) fn meaning(error: &Error) -> (Trouble, String) {
    if let Error::InvalidCertificate(reason) = error {
        return (Trouble::Untrusted, format!("the server's certificate is not accepted: {}", of_certificate(reason)));
    }
    if let Error::PeerIncompatible(what) = error {
        return (Trouble::Untrusted, nothing_in_common(&format!("{what:?}")));
    }
    if let Error::InvalidMessage(InvalidMessage::InvalidContentType) = error {
        return (Trouble::Garbled, "the server does not speak TLS on this port".to_owned());
    }
    if let Error::AlertReceived(alert) = error {
        return of_alert(*alert, error);
    }
    (Trouble::Garbled, error.to_string())
}

fn nothing_in_common(detail: &str) -> String {
    format!("the server and this host have no version or cipher of TLS in common ({detail}): {OFFERED}")
}

fn of_alert(alert: AlertDescription, error: &Error) -> (Trouble, String) {
    let about_host = |what: &str| format!("the server does not accept this host's certificate: {what} ({error})");
    let by_name = [
        (
            AlertDescription::UnknownCA,
            "it does not know the authority that issued it, or lacks a certificate between them",
        ),
        (AlertDescription::BadCertificate, "it is damaged, or not of a kind that the server takes"),
        (AlertDescription::UnsupportedCertificate, "it is of a kind that the server does not take"),
        (AlertDescription::CertificateRevoked, "it was revoked"),
        (AlertDescription::CertificateExpired, "it is expired or not yet valid"),
        (AlertDescription::CertificateUnknown, "the server does not say why"),
        (AlertDescription::CertificateRequired, "it was not sent, since it is not of a kind that the server asked for"),
        (AlertDescription::AccessDenied, "the server may not know it as one of a client"),
    ];
    if let Some((_, what)) = by_name.iter().find(|(known, _)| *known == alert) {
        return (Trouble::Untrusted, about_host(what));
    }
    if matches!(
        alert,
        AlertDescription::HandshakeFailure | AlertDescription::ProtocolVersion | AlertDescription::InsufficientSecurity
    ) {
        return (Trouble::Untrusted, nothing_in_common(&error.to_string()));
    }
    if matches!(alert, AlertDescription::CloseNotify | AlertDescription::InternalError) {
        return (Trouble::Faulty, error.to_string());
    }
    (Trouble::Untrusted, format!("the server refused the TLS session: {error}"))
}

/// Why a server's certificate is not accepted.
#[allow(clippy::wildcard_enum_match_arm, reason = "a list of the library's, of which the rest says enough by itself")]
fn of_certificate(reason: &CertificateError) -> String {
    let show = |time: &UnixTime| show_time(i64::try_from(time.as_secs()).unwrap_or(i64::MAX));
    match reason {
        CertificateError::UnknownIssuer => {
            "no certificate in the file `ca` issued it, or the server leaves out one between them".to_owned()
        }
        CertificateError::ExpiredContext { not_after, .. } => format!("it expired at {}", show(not_after)),
        CertificateError::NotValidYetContext { time, not_before } => {
            let (from, now) = (show(not_before), show(time));
            format!("it is not valid before {from}, and by this host's clock it is {now}")
        }
        CertificateError::UnsupportedSignatureAlgorithmContext { signature_algorithm_id, .. }
        | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { signature_algorithm_id, .. } => {
            let broken = BROKEN_HASHES.iter().find(|(id, _)| *id == signature_algorithm_id.as_slice());
            let name = broken.map_or("an algorithm that this host does not know", |(_, name)| name);
            format!("it, or one between it and the file `ca`, is signed by {name}, expected SHA-256 or better")
        }
        CertificateError::InvalidPurposeContext { .. } => "its extended key usage does not name servers".to_owned(),
        CertificateError::Other(other) => match other.0.downcast_ref::<NotPinned>() {
            Some(not_pinned) => not_pinned.to_string(),
            None => of_library(&format!("{other:?}")),
        },
        _ => Error::InvalidCertificate(reason.clone()).to_string(),
    }
}

/// Reasons that have no name of their own there.
fn of_library(reason: &str) -> String {
    if reason.contains("CaUsedAsEndEntity") {
        return "it is one of an authority (CA:TRUE), as self-signed ones of appliances often are: the server needs one of its \
                own (CA:FALSE), issued by an authority whose certificate is in the file `ca`"
            .to_owned();
    }
    if reason.contains("UnsupportedCertVersion") {
        return "it is of X.509 version 1 or 2, expected version 3".to_owned();
    }
    reason.to_owned()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn of(reason: CertificateError) -> String {
        let (trouble, said) = meaning(&Error::InvalidCertificate(reason));
        assert_eq!(trouble, Trouble::Untrusted);
        said
    }

    #[test]
    fn certificates_that_are_not_accepted_say_why() {
        let time = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let early = of(CertificateError::NotValidYetContext { time: time(0), not_before: time(86_400) });
        assert!(
            early.contains("not valid before 1970-01-02T00:00:00Z, and by this host's clock it is 1970-01-01"),
            "{early}"
        );
        assert!(of(CertificateError::UnknownIssuer).contains("file `ca`"));
        let sha1 = CertificateError::UnsupportedSignatureAlgorithmContext {
            signature_algorithm_id: BROKEN_HASHES[0].0.to_vec(),
            supported_algorithms: Vec::new(),
        };
        assert!(of(sha1).contains("signed by RSA with SHA-1, expected SHA-256"));
        assert!(of(CertificateError::Revoked).contains("Revoked"));
    }

    #[test]
    fn alerts_tell_versions_and_ciphers_from_certificates() {
        let of = |alert| meaning(&Error::AlertReceived(alert));
        for alert in [AlertDescription::HandshakeFailure, AlertDescription::ProtocolVersion] {
            let (trouble, said) = of(alert);
            assert_eq!(trouble, Trouble::Untrusted);
            assert!(
                said.contains("no version or cipher of TLS in common") && said.contains("TLS 1.2 and 1.3"),
                "{said}"
            );
        }
        assert!(of(AlertDescription::UnknownCA).1.contains("does not accept this host's certificate"));
        assert_eq!(of(AlertDescription::InternalError).0, Trouble::Faulty);
        let plain = Error::InvalidMessage(InvalidMessage::InvalidContentType);
        assert!(meaning(&plain).1.contains("does not speak TLS"));
    }
}
