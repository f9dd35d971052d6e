//! TLS to a server whose public key is known before: names and dates of its certificate decide nothing.

use std::sync::Arc;

use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::ParsedCertificate;
use tokio_rustls::rustls::{ClientConfig, DigitallySignedStruct, Error as TlsError, SignatureScheme, version};
use vmcryptfs::crypto::derive::sha256;
use vmcryptfs::error::{Error, Kind, Result};
use vmcryptfs::provider::kinds::trusted::Pin;

type Judged<T> = std::result::Result<T, TlsError>;

/// A configuration that accepts this key only.
///
/// # Errors
/// `Io` when TLS cannot be set up.
pub(super) fn config(pin: Pin) -> Result<Arc<ClientConfig>> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let failed = |error| Error::with_source(Kind::Io, "setting up TLS", error);
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider));
    let config = config.with_protocol_versions(&[&version::TLS13]).map_err(failed)?;
    let config = config.dangerous().with_custom_certificate_verifier(Arc::new(Pinned { pin, provider }));
    Ok(Arc::new(config.with_no_client_auth()))
}

#[derive(Debug)]
struct Pinned {
    pin: Pin,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Judged<ServerCertVerified> {
        let key = ParsedCertificate::try_from(certificate)?.subject_public_key_info();
        let found = Pin(sha256(&key));
        match found == self.pin {
            true => Ok(ServerCertVerified::assertion()),
            false => Err(TlsError::General(format!(
                "it has the key {found}, expected {}: it is another authority, or not one at all",
                self.pin
            ))),
        }
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Judged<HandshakeSignatureValid> {
        Err(TlsError::General("TLS 1.2, expected 1.3".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Judged<HandshakeSignatureValid> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
