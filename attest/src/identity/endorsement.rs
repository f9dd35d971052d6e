//! Endorsement keys: that a vendor's certificate, or a person, vouches for a key being one of a TPM.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

use super::spki;
use crate::error::{Error, Result};
use crate::pcr::HashAlgorithm;
use crate::tpm::{Attributes, Key, Public, Scheme, Symmetric};

/// tcg-kp-EKCertificate, 2.23.133.8.1, as the content of an OBJECT IDENTIFIER.
const EK_CERTIFICATE: &[u8] = &[0x67, 0x81, 0x05, 0x08, 0x01];
/// Certificates that a host may send with its own. Vendors have two or three.
const MAX_CHAIN: usize = 8;
/// Bytes of one certificate.
const MAX_CERTIFICATE_LEN: usize = 8192;

/// The SHA-256 digest of a public key as certificates have it, by which a person names an endorsement key. It is the digest
/// of what `openssl pkey -pubin -outform der` writes. Its text is hexadecimal digits.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// That of a key.
    pub fn of(public: &Public) -> Self {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest(&SHA256, &spki::encode(public.key())).as_ref());
        Self(bytes)
    }

    pub(super) fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for Fingerprint {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bytes = HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or_else(|| {
            Error::malformed(format!("{text:?} is not a fingerprint of a key: expected 64 hexadecimal digits"))
        })
    }
}

/// Why an endorsement key is believed to be one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum EndorsementProof {
    /// A certificate that leads to the root of a vendor.
    Certificate,
    /// It is on the list.
    Listed,
}

/// An endorsement key that [`EndorsementRules::check`] accepted. There is no other way to have one.
#[derive(Clone, Debug)]
pub struct EndorsementKey {
    public: Public,
    fingerprint: Fingerprint,
    proof: EndorsementProof,
}

impl EndorsementKey {
    /// Its public area, whose key is the one that was vouched for.
    pub fn public(&self) -> &Public {
        &self.public
    }

    /// Its fingerprint.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// Why it is believed.
    pub fn proof(&self) -> EndorsementProof {
        self.proof
    }
}

/// What a host sends of its endorsement key.
#[derive(Clone, Copy, Debug, Default)]
pub struct EndorsementEvidence<'a> {
    /// `TPM2B_PUBLIC`, as TPM2_ReadPublic returns it.
    pub public: &'a [u8],
    /// The certificate in DER, if the TPM has one.
    pub certificate: Option<&'a [u8]>,
    /// Certificates between it and a root, in DER and in any order.
    pub chain: &'a [&'a [u8]],
}

/// Which endorsement keys are accepted.
#[derive(Debug, Default)]
pub struct EndorsementRules {
    roots: Vec<TrustAnchor<'static>>,
    intermediates: Vec<CertificateDer<'static>>,
    listed: BTreeSet<Fingerprint>,
}

impl EndorsementRules {
    /// None is, until a root or a key is added.
    pub fn new() -> Self {
        Self::default()
    }

    /// Accepts keys with certificates that lead to this one of a vendor, in DER.
    ///
    /// # Errors
    /// `Malformed` when it is not a certificate.
    pub fn add_root(&mut self, certificate: &[u8]) -> Result<()> {
        let certificate = CertificateDer::from(certificate);
        let anchor = anchor_from_trusted_cert(&certificate)
            .map_err(|error| Error::malformed(format!("a vendor's root is not a certificate: {error}")))?;
        self.roots.push(anchor.to_owned());
        Ok(())
    }

    /// Knows a certificate between those of keys and a root, for TPMs that do not have it. It is not trusted by itself.
    pub fn add_intermediate(&mut self, certificate: &[u8]) {
        self.intermediates.push(CertificateDer::from(certificate.to_vec()));
    }

    /// Accepts this key without a certificate.
    pub fn add_listed(&mut self, key: Fingerprint) {
        self.listed.insert(key);
    }

    /// Whether there is neither a root nor a listed key: then none is accepted.
    pub fn is_empty(&self) -> bool {
        self.roots.is_empty() && self.listed.is_empty()
    }

    /// Whether this is an endorsement key that is accepted at `now`, in seconds of Unix time.
    ///
    /// # Errors
    /// `Refused` when neither a certificate nor the list vouches for it, which names its fingerprint; `Malformed` and
    /// `Unsupported` as [`Public::from_tpm2b`], and when it does not follow one of the templates for endorsement keys.
    pub fn check(&self, evidence: &EndorsementEvidence<'_>, now: u64) -> Result<EndorsementKey> {
        self.checked(evidence, now).map_err(|error| error.within("the endorsement key"))
    }

    fn checked(&self, evidence: &EndorsementEvidence<'_>, now: u64) -> Result<EndorsementKey> {
        let public = Public::from_tpm2b(evidence.public)?;
        follows_template(&public)?;
        let fingerprint = Fingerprint::of(&public);
        let proof = if self.listed.contains(&fingerprint) {
            EndorsementProof::Listed
        } else {
            let within = |error: Error| {
                error.within(format_args!("its fingerprint {fingerprint} is not on the list, and its certificate"))
            };
            self.check_certificate(evidence, &public, now).map_err(within)?;
            EndorsementProof::Certificate
        };
        Ok(EndorsementKey { public, fingerprint, proof })
    }

    fn check_certificate(&self, evidence: &EndorsementEvidence<'_>, public: &Public, now: u64) -> Result<()> {
        let certificate = evidence.certificate.ok_or_else(|| Error::refused("there is none"))?;
        if evidence.chain.len() > MAX_CHAIN {
            return Err(Error::malformed(format!(
                "{} certificates after it: expected at most {MAX_CHAIN}",
                evidence.chain.len()
            )));
        }
        let all = evidence.chain.iter().chain([&certificate]);
        if let Some(long) = all.map(|certificate| certificate.len()).find(|len| *len > MAX_CERTIFICATE_LEN) {
            return Err(Error::malformed(format!("{long} bytes: expected at most {MAX_CERTIFICATE_LEN}")));
        }
        let certificate = CertificateDer::from(certificate);
        let leaf = EndEntityCert::try_from(&certificate)
            .map_err(|error| Error::malformed(format!("it is not a certificate: {error}")))?;
        self.check_chain(&leaf, evidence.chain, now)?;
        if leaf.subject_public_key_info().as_ref() != spki::encode(public.key()) {
            return Err(Error::refused(format!("it is of another key than the {} key here", public.key().kind())));
        }
        Ok(())
    }

    fn check_chain(&self, leaf: &EndEntityCert<'_>, chain: &[&[u8]], now: u64) -> Result<()> {
        let mut intermediates = self.intermediates.clone();
        intermediates.extend(chain.iter().map(|certificate| CertificateDer::from(certificate.to_vec())));
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(now));
        // Vendors' own certificates mostly say no purpose.
        let usage = KeyUsage::required_if_present(EK_CERTIFICATE);
        let algorithms = webpki::ALL_VERIFICATION_ALGS;
        let path = leaf
            .verify_for_usage(algorithms, &self.roots, &intermediates, now, usage, None, None)
            .map_err(|error| Error::refused(format!("it does not lead to the root of a vendor: {error}")))?;
        // The key's certificate must say it. With its issuer as the root it is the only one that is asked.
        let issuer = path.intermediate_certificates().next().map(|issuer| issuer.der());
        let anchor = match &issuer {
            Some(issuer) => anchor_from_trusted_cert(issuer)
                .map_err(|error| Error::malformed(format!("its issuer has no certificate: {error}")))?,
            None => path.anchor().clone(),
        };
        let usage = KeyUsage::required(EK_CERTIFICATE);
        leaf.verify_for_usage(algorithms, &[anchor], &[], now, usage, None, None)
            .map(drop)
            .map_err(|error| Error::refused(format!("it is not one of an endorsement key (2.23.133.8.1): {error}")))
    }
}

/// The TCG's templates L-1, L-2 and H-1 to H-7, of which these are the sizes that are accepted (EK Credential Profile 2.5).
fn follows_template(public: &Public) -> Result<()> {
    public.attributes().check(
        &[
            Attributes::FIXED_TPM,
            Attributes::FIXED_PARENT,
            Attributes::SENSITIVE_DATA_ORIGIN,
            Attributes::ADMIN_WITH_POLICY,
            Attributes::RESTRICTED,
            Attributes::DECRYPT,
        ],
        &[Attributes::SIGN],
    )?;
    let fits = match public.key() {
        Key::Rsa { modulus } => matches!(modulus.len(), 256 | 384),
        Key::Ecc { .. } => true,
    };
    let hash = public.name_algorithm();
    if !fits || !matches!(hash, HashAlgorithm::Sha256 | HashAlgorithm::Sha384) {
        return Err(Error::unsupported(format!(
            "an {} key with the Name algorithm {hash}: expected RSA-2048, RSA-3072, P-256 or P-384 with sha256 or sha384",
            public.key().kind()
        )));
    }
    if public.symmetric() == Symmetric::None || public.scheme() != Scheme::None {
        return Err(Error::refused("it is not a storage key, as the templates say"));
    }
    Ok(())
}
