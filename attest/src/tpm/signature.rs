//! Signatures of a TPM, and whether they are a key's.

use aws_lc_rs::rsa::PublicKeyComponents;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, EcdsaVerificationAlgorithm, RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_2048_8192_SHA384, RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384, RsaParameters, RsaPssSaltLength,
    UnparsedPublicKey,
};

use super::public::{Curve, Key, Public, Scheme, padded};
use super::{ALG_ECDSA, ALG_RSAPSS, ALG_RSASSA, MAX_COORDINATE_LEN, MAX_RSA_LEN, Reader};
use crate::error::{Error, Result};
use crate::pcr::HashAlgorithm;

/// 65,537.
const EXPONENT: [u8; 3] = [1, 0, 1];

/// The longest salt of RSASSA-PSS, which is what most TPMs use. Those in FIPS mode use one as long as the digest.
const PSS_SHA256_LONGEST: RsaParameters = RSA_PSS_2048_8192_SHA256.with_pss_salt_length(RsaPssSaltLength::Max);
const PSS_SHA384_LONGEST: RsaParameters = RSA_PSS_2048_8192_SHA384.with_pss_salt_length(RsaPssSaltLength::Max);

/// A signature (`TPMT_SIGNATURE`). Nothing says whose it is until [`Self::verify`] does.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Signature {
    scheme: Scheme,
    value: Value,
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum Value {
    Rsa(Vec<u8>),
    Ecdsa { r: Vec<u8>, s: Vec<u8> },
}

impl Signature {
    /// Reads a `TPMT_SIGNATURE`.
    ///
    /// # Errors
    /// `Malformed` when it does not follow its format; `Unsupported` when it is neither RSASSA, RSAPSS nor ECDSA, or has an
    /// unknown hash algorithm.
    pub fn read(bytes: &[u8]) -> Result<Self> {
        read(bytes).map_err(|error| error.within("a signature"))
    }

    /// Its scheme and hash algorithm.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Whether this is `key`'s signature of `message`, made as the key's own scheme says.
    ///
    /// # Errors
    /// `Refused` when it is not, or has another scheme; `Unsupported` when the key's scheme is not one of those that
    /// attestation keys may have.
    pub fn verify(&self, key: &Public, message: &[u8]) -> Result<()> {
        if self.scheme != key.scheme() {
            return Err(Error::refused(format!(
                "a signature by {}: expected {}, as its key says",
                self.scheme,
                key.scheme()
            )));
        }
        let verified = match (verifier(self.scheme, key.key())?, key.key(), &self.value) {
            (Verifier::Rsa(parameters), Key::Rsa { modulus }, Value::Rsa(signature)) => {
                let key = PublicKeyComponents { n: &modulus[..], e: &EXPONENT[..] };
                parameters.iter().any(|parameters| key.verify(parameters, message, signature).is_ok())
            }
            (Verifier::Ecdsa(algorithm), Key::Ecc { curve, x, y }, Value::Ecdsa { r, s }) => {
                let numbers = [fixed(r, *curve)?, fixed(s, *curve)?].concat();
                let point = [&[UNCOMPRESSED][..], x, y].concat();
                UnparsedPublicKey::new(algorithm, point).verify(message, &numbers).is_ok()
            }
            _ => false,
        };
        if verified { Ok(()) } else { Err(Error::refused("the signature is not one of this key, or of other bytes")) }
    }
}

fn read(bytes: &[u8]) -> Result<Signature> {
    let mut reader = Reader::new(bytes);
    let algorithm = reader.u16("its algorithm")?;
    let signature = match algorithm {
        ALG_RSASSA | ALG_RSAPSS => {
            let hash = reader.hash("its hash algorithm")?;
            let scheme = if algorithm == ALG_RSASSA { Scheme::RsaSsa(hash) } else { Scheme::RsaPss(hash) };
            Signature { scheme, value: Value::Rsa(reader.sized("its number", MAX_RSA_LEN)?.to_vec()) }
        }
        ALG_ECDSA => {
            let scheme = Scheme::Ecdsa(reader.hash("its hash algorithm")?);
            let r = reader.sized("its first number", MAX_COORDINATE_LEN)?.to_vec();
            let s = reader.sized("its second number", MAX_COORDINATE_LEN)?.to_vec();
            Signature { scheme, value: Value::Ecdsa { r, s } }
        }
        other => return Err(Error::unsupported(format!("it is of {other:#06x}: expected RSASSA, RSAPSS or ECDSA"))),
    };
    reader.finish()?;
    Ok(signature)
}

enum Verifier {
    /// One of these: the salt's length is not said.
    Rsa(&'static [&'static RsaParameters]),
    Ecdsa(&'static EcdsaVerificationAlgorithm),
}

/// Refuses a key that no signature would be accepted of.
pub(crate) fn usable(key: &Public) -> Result<()> {
    verifier(key.scheme(), key.key()).map(drop)
}

/// The schemes, hash algorithms and keys that go together. A curve signs digests that are as long as its coordinates.
fn verifier(scheme: Scheme, key: &Key) -> Result<Verifier> {
    use HashAlgorithm::{Sha256, Sha384};
    match (scheme, key) {
        (Scheme::RsaSsa(Sha256), Key::Rsa { .. }) => Ok(Verifier::Rsa(&[&RSA_PKCS1_2048_8192_SHA256])),
        (Scheme::RsaSsa(Sha384), Key::Rsa { .. }) => Ok(Verifier::Rsa(&[&RSA_PKCS1_2048_8192_SHA384])),
        (Scheme::RsaPss(Sha256), Key::Rsa { .. }) => {
            Ok(Verifier::Rsa(&[&PSS_SHA256_LONGEST, &RSA_PSS_2048_8192_SHA256]))
        }
        (Scheme::RsaPss(Sha384), Key::Rsa { .. }) => {
            Ok(Verifier::Rsa(&[&PSS_SHA384_LONGEST, &RSA_PSS_2048_8192_SHA384]))
        }
        (Scheme::Ecdsa(Sha256), Key::Ecc { curve: Curve::P256, .. }) => Ok(Verifier::Ecdsa(&ECDSA_P256_SHA256_FIXED)),
        (Scheme::Ecdsa(Sha384), Key::Ecc { curve: Curve::P384, .. }) => Ok(Verifier::Ecdsa(&ECDSA_P384_SHA384_FIXED)),
        _ => Err(Error::unsupported(format!(
            "an {} key that signs by {scheme}: expected RSASSA or RSAPSS with SHA-256 or SHA-384, or ECDSA by P-256 with \
             SHA-256 or by P-384 with SHA-384",
            key.kind()
        ))),
    }
}

/// A number of a signature in as many bytes as a coordinate has.
fn fixed(number: &[u8], curve: Curve) -> Result<Vec<u8>> {
    padded(number, curve.coordinate_len()).ok_or_else(|| {
        Error::malformed(format!(
            "a signature with a number of {} bytes: expected at most {}",
            number.len(),
            curve.coordinate_len()
        ))
    })
}

/// What a point begins with that has both coordinates.
pub(crate) const UNCOMPRESSED: u8 = 4;
