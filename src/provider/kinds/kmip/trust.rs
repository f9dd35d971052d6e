//! What TLS with a key server must be, beyond what its certificate proves.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use data_encoding::BASE64;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WantsClientCert, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, ConfigBuilder, DigitallySignedStruct, Error, NamedGroup, OtherError, RootCertStore,
    SignatureScheme, version,
};
use serde::{Deserialize, Deserializer, Serialize};

use crate::crypto::derive::sha256;

/// The oldest version of TLS that may be spoken.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub enum MinTls {
    /// TLS 1.2.
    #[default]
    #[serde(rename = "1.2")]
    V1_2,
    /// TLS 1.3.
    #[serde(rename = "1.3")]
    V1_3,
}

/// A form of TLS that is required, and nothing else accepted.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum TlsForm {
    /// TLS 1.3 with the hybrid group X25519MLKEM768: recorded sessions keep KEKs secret from quantum computers as well.
    #[serde(rename = "1.3-pq")]
    PostQuantum,
}

/// SHA-256 of a server's public key (its SubjectPublicKeyInfo in DER).
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pin([u8; 32]);

impl Pin {
    fn of(certificate: &CertificateDer<'_>) -> Result<Self, Error> {
        let key = ParsedCertificate::try_from(certificate)?.subject_public_key_info();
        Ok(Self(sha256(&key)))
    }
}

impl FromStr for Pin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digest = BASE64.decode(text.as_bytes()).ok().and_then(|digest| digest.try_into().ok());
        digest.map(Self).ok_or_else(|| {
            format!(
                "pin {text:?}, expected SHA-256 of a public key in base64: 44 characters, of which the last is \"=\""
            )
        })
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64.encode(&self.0))
    }
}

impl TryFrom<String> for Pin {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Pin> for String {
    fn from(pin: Pin) -> Self {
        pin.to_string()
    }
}

/// Reads one pin, or a list of them.
pub(super) fn pins<'d, D: Deserializer<'d>>(deserializer: D) -> Result<Vec<Pin>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMore {
        One(String),
        More(Vec<String>),
    }
    let texts = match OneOrMore::deserialize(deserializer)? {
        OneOrMore::One(text) => vec![text],
        OneOrMore::More(texts) => texts,
    };
    let pins: Result<_, String> = texts.iter().map(|text| text.parse()).collect();
    pins.map_err(serde::de::Error::custom)
}

/// What is required of each server.
#[derive(Clone, Debug, Default)]
pub(super) struct Required {
    pub(super) min_tls: MinTls,
    pub(super) form: Option<TlsForm>,
    /// Any, if there is none.
    pub(super) pins: Vec<Pin>,
}

impl Required {
    /// The beginning of a configuration that accepts what is required, of servers whose certificates one of `roots` issued.
    pub(super) fn client(&self, roots: RootCertStore) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, String> {
        // That of the one cryptographic library that Cargo.toml gives to rustls.
        let mut provider = CryptoProvider::clone(ClientConfig::builder().crypto_provider());
        let mut versions = match self.min_tls {
            MinTls::V1_2 => vec![&version::TLS13, &version::TLS12],
            MinTls::V1_3 => vec![&version::TLS13],
        };
        if let Some(TlsForm::PostQuantum) = self.form {
            provider.kx_groups.retain(|group| group.name() == NamedGroup::X25519MLKEM768);
            versions = vec![&version::TLS13];
        }
        let provider = Arc::new(provider);
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider));
        let builder = builder.with_protocol_versions(&versions).map_err(|error| error.to_string())?;
        if self.pins.is_empty() {
            return Ok(builder.with_root_certificates(roots));
        }
        let verifier = Pinned::new(roots, &provider, self.pins.clone())?;
        Ok(builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)))
    }
}

/// Accepts what an authority proves, if the server's key is also a known one.
#[derive(Debug)]
struct Pinned {
    by_authority: Arc<WebPkiServerVerifier>,
    pins: Vec<Pin>,
}

impl Pinned {
    fn new(roots: RootCertStore, provider: &Arc<CryptoProvider>, pins: Vec<Pin>) -> Result<Self, String> {
        let by_authority = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider)).build();
        Ok(Self { by_authority: by_authority.map_err(|error| error.to_string())?, pins })
    }
}

/// A server's key that is not one of those in `pin-sha256`.
#[derive(Debug)]
pub(super) struct NotPinned(Pin);

impl fmt::Display for NotPinned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "its key has the pin {}, which is not in `pin-sha256`", self.0)
    }
}

impl std::error::Error for NotPinned {}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        server: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified = self.by_authority.verify_server_cert(server, between, name, ocsp, now)?;
        let pin = Pin::of(server)?;
        match self.pins.contains(&pin) {
            true => Ok(verified),
            false => Err(Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(NotPinned(pin)))))),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.by_authority.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.by_authority.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.by_authority.supported_verify_schemes()
    }
}
