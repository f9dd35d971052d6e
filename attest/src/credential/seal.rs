//! A secret, sealed to an endorsement key for the Name of another key.

use aws_lc_rs::agreement::{Algorithm, ECDH_P256, ECDH_P384, EphemeralPrivateKey, UnparsedPublicKey, agree_ephemeral};
use aws_lc_rs::cipher::{AES_128, AES_256, EncryptingKey, EncryptionContext, UnboundCipherKey};
use aws_lc_rs::iv::FixedLength;
use aws_lc_rs::rand::{self, SystemRandom};
use aws_lc_rs::rsa::{
    OAEP_SHA256_MGF1SHA256, OAEP_SHA384_MGF1SHA384, OaepAlgorithm, OaepPublicEncryptingKey, PublicEncryptingKey,
};
use zeroize::Zeroizing;

use super::Credential;
use super::derive::{code, kdfa, kdfe};
use crate::error::{Error, Kind, Result};
use crate::identity::spki_of;
use crate::pcr::HashAlgorithm;
use crate::tpm::{Curve, Key, Name, Public, Symmetric, UNCOMPRESSED, Writer};

/// What the seed is sealed for.
const IDENTITY: &str = "IDENTITY";
/// The same as the label of RSA-OAEP, which has its final zero.
const OAEP_LABEL: &[u8] = b"IDENTITY\0";

/// TPM2_MakeCredential: `secret` for the object with this Name, in the TPM with this endorsement key.
pub(super) fn make(endorsement: &Public, name: &Name, secret: &[u8]) -> Result<Credential> {
    let (seed, encrypted_secret) = match endorsement.key() {
        Key::Rsa { .. } => seed_for_rsa(endorsement)?,
        Key::Ecc { curve, x, y } => seed_for_ecc(endorsement.name_algorithm(), *curve, x, y)?,
    };
    let id_object = id_object(endorsement, &seed, name, secret)?;
    Ok(Credential { id_object, encrypted_secret })
}

/// A random seed, encrypted to the key.
fn seed_for_rsa(endorsement: &Public) -> Result<(Zeroizing<Vec<u8>>, Vec<u8>)> {
    let hash = endorsement.name_algorithm();
    let algorithm: &'static OaepAlgorithm = match hash {
        HashAlgorithm::Sha256 => &OAEP_SHA256_MGF1SHA256,
        HashAlgorithm::Sha384 => &OAEP_SHA384_MGF1SHA384,
        HashAlgorithm::Sha1 | HashAlgorithm::Sha512 => return Err(Error::unsupported(format!("RSA-OAEP with {hash}"))),
    };
    let key = PublicEncryptingKey::from_der(&spki_of(endorsement.key()))
        .map_err(|error| Error::refused(format!("its endorsement key is not usable: {error}")))?;
    let key = OaepPublicEncryptingKey::new(key).map_err(|_| failed("RSA-OAEP"))?;
    let mut seed = Zeroizing::new(vec![0; hash.digest_len()]);
    rand::fill(&mut seed).map_err(|_| failed("the random generator"))?;
    let mut encrypted = vec![0; key.ciphertext_size()];
    let encrypted = key.encrypt(algorithm, &seed, &mut encrypted, Some(OAEP_LABEL)).map_err(|_| failed("RSA-OAEP"))?;
    Ok((seed, Writer::default().sized("an encrypted seed", encrypted)?.finish()))
}

/// A seed that follows from a key that is used once, and the public part of that.
fn seed_for_ecc(hash: HashAlgorithm, curve: Curve, x: &[u8], y: &[u8]) -> Result<(Zeroizing<Vec<u8>>, Vec<u8>)> {
    let algorithm: &'static Algorithm = match curve {
        Curve::P256 => &ECDH_P256,
        Curve::P384 => &ECDH_P384,
    };
    let private = EphemeralPrivateKey::generate(algorithm, &SystemRandom::new()).map_err(|_| failed("ECDH"))?;
    let public = private.compute_public_key().map_err(|_| failed("ECDH"))?;
    let Some((&UNCOMPRESSED, point)) = public.as_ref().split_first() else { return Err(failed("ECDH")) };
    let (own_x, own_y) = point.split_at_checked(curve.coordinate_len()).ok_or_else(|| failed("ECDH"))?;
    let peer = UnparsedPublicKey::new(algorithm, [&[UNCOMPRESSED][..], x, y].concat());
    let refused = Error::refused("its endorsement key is not a point of its curve");
    let seed = agree_ephemeral(private, peer, refused, |shared| Ok(kdfe(hash, shared, IDENTITY, [own_x, x])))?;
    let point = Writer::default().sized("a coordinate", own_x)?.sized("a coordinate", own_y)?.finish();
    Ok((seed, Writer::default().sized("a point", &point)?.finish()))
}

/// `TPM2B_ID_OBJECT`: the secret encrypted, and what authenticates that together with the Name.
pub(super) fn id_object(endorsement: &Public, seed: &[u8], name: &Name, secret: &[u8]) -> Result<Vec<u8>> {
    let hash = endorsement.name_algorithm();
    let (cipher, key_len) = match endorsement.symmetric() {
        Symmetric::Aes128Cfb => (&AES_128, 16),
        Symmetric::Aes256Cfb => (&AES_256, 32),
        Symmetric::None => return Err(Error::refused("its endorsement key is not a storage key")),
    };
    let key = kdfa(hash, seed, "STORAGE", [name.as_bytes(), &[]], key_len);
    let mut encrypted = Writer::default().sized("a secret", secret)?.finish();
    let key = UnboundCipherKey::new(cipher, &key).and_then(EncryptingKey::cfb128).map_err(|_| failed("AES-CFB"))?;
    // The key is used once: no other vector is needed.
    let vector = EncryptionContext::Iv128(FixedLength::from([0; 16]));
    key.less_safe_encrypt(&mut encrypted, vector).map_err(|_| failed("AES-CFB"))?;
    let key = kdfa(hash, seed, "INTEGRITY", [&[], &[]], hash.digest_len());
    let integrity = code(hash, &key, &[&encrypted, name.as_bytes()]);
    let object = Writer::default().sized("an HMAC", &integrity)?.raw(&encrypted).finish();
    Ok(Writer::default().sized("a credential", &object)?.finish())
}

fn failed(what: &str) -> Error {
    Error::new(Kind::Failed, format!("{what} failed"))
}

#[cfg(test)]
mod tests;
