//! Attestation keys: that a key, if it is in a TPM, signs only what that TPM says.

use crate::error::{Error, Result};
use crate::pcr::{Digest, HashAlgorithm};
use crate::tpm::{Attestation, Attributes, CreationData, Name, Public, Signature, Statement, Symmetric, usable};

/// What a host sends of how its attestation key was made. The TPM checked the creation ticket before it signed.
#[derive(Clone, Copy, Debug, Default)]
pub struct CreationEvidence<'a> {
    /// `TPM2B_CREATION_DATA`, as TPM2_Create returns it.
    pub data: &'a [u8],
    /// `TPMS_ATTEST` of TPM2_CertifyCreation, by the attestation key of itself.
    pub statement: &'a [u8],
    /// `TPMT_SIGNATURE` of the statement.
    pub signature: &'a [u8],
}

/// An attestation key that [`AttestationKey::check`] accepted. That it is in a certain TPM, or in any, only the answer to a
/// [credential](crate::credential) proves.
#[derive(Clone, Debug)]
pub struct AttestationKey {
    public: Public,
    qualified_name: Name,
}

impl AttestationKey {
    /// Whether the key with this `TPM2B_PUBLIC` may attest.
    ///
    /// A TPM would not sign anything from outside with such a key that looks like a statement of its own.
    ///
    /// # Errors
    /// `Refused` when its attributes are others than those of a restricted signing key that its TPM made and that cannot
    /// leave it, or when the statement is not the key's own, or of another key or other creation data; `Unsupported` when
    /// its algorithms are not accepted; `Malformed` when something does not follow its format.
    pub fn check(public: &[u8], creation: &CreationEvidence<'_>) -> Result<Self> {
        checked(public, creation).map_err(|error| error.within("the attestation key"))
    }

    /// Its public area.
    pub fn public(&self) -> &Public {
        &self.public
    }

    /// Its Name.
    pub fn name(&self) -> Name {
        self.public.name()
    }

    /// The Name that its statements have: its own and those of its parents.
    pub fn qualified_name(&self) -> &Name {
        &self.qualified_name
    }

    /// A key that was checked when its host enrolled.
    pub(super) fn from_record(public: Public, qualified_name: Name) -> Result<Self> {
        may_attest(&public)?;
        Ok(Self { public, qualified_name })
    }
}

fn checked(public: &[u8], evidence: &CreationEvidence<'_>) -> Result<AttestationKey> {
    let public = Public::from_tpm2b(public)?;
    may_attest(&public)?;
    let data = CreationData::from_tpm2b(evidence.data)?;
    Signature::read(evidence.signature)?.verify(&public, evidence.statement)?;
    let statement = Attestation::read(evidence.statement)?;
    let Statement::Creation(creation) = &statement.statement else {
        return Err(Error::refused("its statement is not one of its creation"));
    };
    let name = public.name();
    if creation.name != name {
        return Err(Error::refused(format!("its statement is of the creation of {}: expected {name}", creation.name)));
    }
    let hash = Digest::of(public.name_algorithm(), &[data.as_bytes()]);
    if creation.hash != hash.as_bytes() {
        return Err(Error::refused("its creation data is other than what its statement has the digest of"));
    }
    Ok(AttestationKey { public, qualified_name: statement.signer })
}

/// Whether a key with this public area signs nothing but statements of its TPM.
fn may_attest(public: &Public) -> Result<()> {
    public.attributes().check(
        &[
            Attributes::FIXED_TPM,
            Attributes::FIXED_PARENT,
            Attributes::SENSITIVE_DATA_ORIGIN,
            Attributes::RESTRICTED,
            Attributes::SIGN,
        ],
        &[Attributes::DECRYPT, Attributes::X509_SIGN],
    )?;
    if !matches!(public.name_algorithm(), HashAlgorithm::Sha256 | HashAlgorithm::Sha384) {
        return Err(Error::unsupported(format!(
            "its Name is made with {}: expected sha256 or sha384",
            public.name_algorithm()
        )));
    }
    if public.symmetric() != Symmetric::None {
        return Err(Error::refused("it has a symmetric algorithm: expected none in a signing key"));
    }
    usable(public)
}
