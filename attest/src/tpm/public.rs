//! Public areas of keys, and the Names that follow from them.

use std::fmt;

use data_encoding::HEXLOWER;

use super::{
    ALG_ECDSA, ALG_NULL, ALG_RSAPSS, ALG_RSASSA, MAX_COORDINATE_LEN, MAX_DIGEST_LEN, MAX_NAME_LEN, MAX_RSA_LEN, Reader,
};
use crate::error::{Error, Result};
use crate::pcr::{Digest, HashAlgorithm};

/// Bytes of the longest `TPMT_PUBLIC` that is read.
const MAX_PUBLIC_LEN: usize = 1024;

const ALG_RSA: u16 = 0x0001;
const ALG_AES: u16 = 0x0006;
const ALG_ECC: u16 = 0x0023;
const ALG_CFB: u16 = 0x0043;

/// What a TPM calls a key: the hash algorithm of its Name, and the digest of its public area.
#[derive(Clone, Eq, Hash, PartialEq)]
pub struct Name(Vec<u8>);

impl Name {
    /// A Name that was read somewhere.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let mut reader = Reader::new(bytes);
        let algorithm = reader.hash("the algorithm of a Name")?;
        Digest::new(algorithm, reader.rest()).map_err(|error| error.within("a Name"))?;
        Ok(Self(bytes.to_vec()))
    }

    pub(crate) fn of(algorithm: HashAlgorithm, parts: &[&[u8]]) -> Self {
        Self([&algorithm.id().to_be_bytes()[..], Digest::of(algorithm, parts).as_bytes()].concat())
    }

    /// Its bytes, as commands and statements of a TPM have them.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// `TPMA_OBJECT`: what a key may do, and where it may be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Attributes(u32);

impl Attributes {
    /// It never leaves its TPM.
    pub const FIXED_TPM: Self = Self(1 << 1);
    /// It never gets another parent.
    pub const FIXED_PARENT: Self = Self(1 << 4);
    /// Its TPM made the private part.
    pub const SENSITIVE_DATA_ORIGIN: Self = Self(1 << 5);
    /// Its password or policy lets a user use it.
    pub const USER_WITH_AUTH: Self = Self(1 << 6);
    /// Only its policy lets an administrator use it.
    pub const ADMIN_WITH_POLICY: Self = Self(1 << 7);
    /// It has to do with nothing but structures that its TPM made.
    pub const RESTRICTED: Self = Self(1 << 16);
    /// It decrypts.
    pub const DECRYPT: Self = Self(1 << 17);
    /// It signs.
    pub const SIGN: Self = Self(1 << 18);
    /// It signs certificates only.
    pub const X509_SIGN: Self = Self(1 << 19);

    /// All that have a name here, with it.
    const NAMED: [(Self, &'static str); 9] = [
        (Self::FIXED_TPM, "fixedTPM"),
        (Self::FIXED_PARENT, "fixedParent"),
        (Self::SENSITIVE_DATA_ORIGIN, "sensitiveDataOrigin"),
        (Self::USER_WITH_AUTH, "userWithAuth"),
        (Self::ADMIN_WITH_POLICY, "adminWithPolicy"),
        (Self::RESTRICTED, "restricted"),
        (Self::DECRYPT, "decrypt"),
        (Self::SIGN, "sign"),
        (Self::X509_SIGN, "x509sign"),
    ];

    /// stClear, noDA, encryptedDuplication, firmwareLimited and svnLimited: they exist, and no rule asks for them.
    const OTHERS: u32 = 1 << 2 | 1 << 8 | 1 << 9 | 1 << 10 | 1 << 11;

    /// Whether it has this attribute.
    pub fn has(self, attribute: Self) -> bool {
        self.0 & attribute.0 == attribute.0
    }

    /// Refuses a key that lacks one of `needed`, or has one of `forbidden`, and names it.
    pub(crate) fn check(self, needed: &[Self], forbidden: &[Self]) -> Result<()> {
        if let Some(lacking) = needed.iter().find(|attribute| !self.has(**attribute)) {
            return Err(Error::refused(format!("its attributes are {self}: expected {lacking} among them")));
        }
        if let Some(wrong) = forbidden.iter().find(|attribute| self.has(**attribute)) {
            return Err(Error::refused(format!("its attributes are {self}: expected them without {wrong}")));
        }
        Ok(())
    }

    fn read(bits: u32) -> Result<Self> {
        let known = Self::NAMED.iter().fold(Self::OTHERS, |all, (attribute, _)| all | attribute.0);
        match bits & !known {
            0 => Ok(Self(bits)),
            reserved => Err(Error::malformed(format!("attributes of a key with reserved bits {reserved:#010x}"))),
        }
    }
}

impl fmt::Display for Attributes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> =
            Self::NAMED.iter().filter(|(attribute, _)| self.has(*attribute)).map(|(_, name)| *name).collect();
        f.write_str(if names.is_empty() { "none" } else { "" })?;
        f.write_str(&names.join("|"))
    }
}

/// What the children of a storage key are encrypted with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Symmetric {
    /// Nothing: the key is not a storage key.
    None,
    /// AES-128 in cipher feedback mode.
    Aes128Cfb,
    /// AES-256 in cipher feedback mode.
    Aes256Cfb,
}

/// How a key signs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Scheme {
    /// Each command says it.
    None,
    /// RSASSA-PKCS1-v1_5.
    RsaSsa(HashAlgorithm),
    /// RSASSA-PSS.
    RsaPss(HashAlgorithm),
    /// ECDSA.
    Ecdsa(HashAlgorithm),
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("no scheme of its own"),
            Self::RsaSsa(hash) => write!(f, "RSASSA with {hash}"),
            Self::RsaPss(hash) => write!(f, "RSAPSS with {hash}"),
            Self::Ecdsa(hash) => write!(f, "ECDSA with {hash}"),
        }
    }
}

/// A curve of NIST.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Curve {
    /// P-256.
    P256,
    /// P-384.
    P384,
}

impl Curve {
    /// Bytes of a coordinate.
    pub fn coordinate_len(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
        }
    }
}

/// The numbers of a public key.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Key {
    /// RSA with the exponent 65,537.
    Rsa {
        /// The modulus, whose highest bit is set.
        modulus: Vec<u8>,
    },
    /// A point.
    Ecc {
        /// Its curve.
        curve: Curve,
        /// Its coordinates, each as long as the curve's are.
        x: Vec<u8>,
        /// The second one.
        y: Vec<u8>,
    },
}

impl Key {
    /// What it is, for messages: `RSA-2048`, `P-256`.
    pub fn kind(&self) -> String {
        match self {
            Self::Rsa { modulus } => format!("RSA-{}", 8 * modulus.len()),
            Self::Ecc { curve: Curve::P256, .. } => "P-256".to_owned(),
            Self::Ecc { curve: Curve::P384, .. } => "P-384".to_owned(),
        }
    }
}

/// The public area of an RSA or ECC key (`TPMT_PUBLIC`).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Public {
    bytes: Vec<u8>,
    name_algorithm: HashAlgorithm,
    attributes: Attributes,
    symmetric: Symmetric,
    scheme: Scheme,
    key: Key,
}

impl Public {
    /// Reads a `TPMT_PUBLIC`.
    ///
    /// # Errors
    /// `Malformed` when it does not follow its format; `Unsupported` when the key, its curve, size, scheme or a hash
    /// algorithm is not among those that this crate judges.
    pub fn from_tpmt(bytes: &[u8]) -> Result<Self> {
        read(bytes).map_err(|error| error.within("the public area of a key"))
    }

    /// Reads a `TPM2B_PUBLIC`: the same after its length.
    ///
    /// # Errors
    /// As [`Self::from_tpmt`].
    pub fn from_tpm2b(bytes: &[u8]) -> Result<Self> {
        Self::from_tpmt(only_sized(bytes, "the public area of a key", MAX_PUBLIC_LEN)?)
    }

    /// The bytes of the `TPMT_PUBLIC`, as they were read.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The Name that its TPM has for it: computed here, from what was read.
    pub fn name(&self) -> Name {
        Name::of(self.name_algorithm, &[&self.bytes])
    }

    /// The hash algorithm of its Name.
    pub fn name_algorithm(&self) -> HashAlgorithm {
        self.name_algorithm
    }

    /// What it may do, and where it may be.
    pub fn attributes(&self) -> Attributes {
        self.attributes
    }

    /// What its children are encrypted with.
    pub fn symmetric(&self) -> Symmetric {
        self.symmetric
    }

    /// How it signs.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Its numbers.
    pub fn key(&self) -> &Key {
        &self.key
    }
}

/// The content of the `TPM2B` that these bytes are, and nothing after it.
pub(super) fn only_sized<'a>(bytes: &'a [u8], field: &str, most: usize) -> Result<&'a [u8]> {
    let mut reader = Reader::new(bytes);
    let content = reader.sized(field, most)?;
    reader.finish().map_err(|error| error.within(field))?;
    Ok(content)
}

fn read(bytes: &[u8]) -> Result<Public> {
    if bytes.len() > MAX_PUBLIC_LEN {
        return Err(Error::malformed(format!("{} bytes: expected at most {MAX_PUBLIC_LEN}", bytes.len())));
    }
    let mut reader = Reader::new(bytes);
    let read_key: fn(&mut Reader<'_>) -> Result<Key> = match reader.u16("its type")? {
        ALG_RSA => rsa,
        ALG_ECC => ecc,
        other => return Err(Error::unsupported(format!("a key of type {other:#06x}: expected RSA or ECC"))),
    };
    let name_algorithm = reader.hash("its Name algorithm")?;
    let attributes = Attributes::read(reader.u32("its attributes")?)?;
    reader.sized("its policy", MAX_DIGEST_LEN)?;
    let symmetric = symmetric(&mut reader)?;
    let scheme = scheme(&mut reader)?;
    let key = read_key(&mut reader)?;
    reader.finish()?;
    Ok(Public { bytes: bytes.to_vec(), name_algorithm, attributes, symmetric, scheme, key })
}

fn symmetric(reader: &mut Reader<'_>) -> Result<Symmetric> {
    let algorithm = reader.u16("its symmetric algorithm")?;
    if algorithm == ALG_NULL {
        return Ok(Symmetric::None);
    }
    let (bits, mode) = (reader.u16("bits of its symmetric key")?, reader.u16("its symmetric mode")?);
    match (algorithm, bits, mode) {
        (ALG_AES, 128, ALG_CFB) => Ok(Symmetric::Aes128Cfb),
        (ALG_AES, 256, ALG_CFB) => Ok(Symmetric::Aes256Cfb),
        _ => Err(Error::unsupported(format!(
            "the symmetric algorithm {algorithm:#06x} with {bits} bits in mode {mode:#06x}: expected AES-128 or AES-256 in CFB"
        ))),
    }
}

fn scheme(reader: &mut Reader<'_>) -> Result<Scheme> {
    match reader.u16("its scheme")? {
        ALG_NULL => Ok(Scheme::None),
        ALG_RSASSA => reader.hash("the hash algorithm of its scheme").map(Scheme::RsaSsa),
        ALG_RSAPSS => reader.hash("the hash algorithm of its scheme").map(Scheme::RsaPss),
        ALG_ECDSA => reader.hash("the hash algorithm of its scheme").map(Scheme::Ecdsa),
        other => Err(Error::unsupported(format!("the scheme {other:#06x}: expected RSASSA, RSAPSS or ECDSA"))),
    }
}

fn rsa(reader: &mut Reader<'_>) -> Result<Key> {
    let bits = reader.u16("bits of its modulus")?;
    let exponent = reader.u32("its exponent")?;
    let modulus = reader.sized("its modulus", MAX_RSA_LEN)?;
    if !matches!(bits, 2048 | 3072 | 4096) {
        return Err(Error::unsupported(format!("an RSA key of {bits} bits: expected 2048, 3072 or 4096")));
    }
    if !matches!(exponent, 0 | 0x1_0001) {
        return Err(Error::unsupported(format!("an RSA key with the exponent {exponent}: expected 65537")));
    }
    if modulus.len() != usize::from(bits) / 8 || modulus[0] < 0x80 {
        return Err(Error::malformed(format!(
            "a modulus of {} bytes that is not a number of {bits} bits",
            modulus.len()
        )));
    }
    Ok(Key::Rsa { modulus: modulus.to_vec() })
}

fn ecc(reader: &mut Reader<'_>) -> Result<Key> {
    let curve = match reader.u16("its curve")? {
        3 => Curve::P256,
        4 => Curve::P384,
        other => return Err(Error::unsupported(format!("the curve {other:#06x}: expected P-256 or P-384"))),
    };
    match reader.u16("its key derivation")? {
        ALG_NULL => {}
        other => return Err(Error::unsupported(format!("the key derivation {other:#06x}: expected none"))),
    }
    let mut coordinate = |field| {
        let found = reader.sized(field, MAX_COORDINATE_LEN)?;
        padded(found, curve.coordinate_len()).ok_or_else(|| {
            Error::malformed(format!("{field} of {} bytes: expected {}", found.len(), curve.coordinate_len()))
        })
    };
    let (x, y) = (coordinate("its first coordinate")?, coordinate("its second coordinate")?);
    Ok(Key::Ecc { curve, x, y })
}

/// The same number in exactly `len` bytes. Some TPMs leave out zeros at its start.
pub(crate) fn padded(number: &[u8], len: usize) -> Option<Vec<u8>> {
    let zeros = len.checked_sub(number.len())?;
    Some([&vec![0; zeros][..], number].concat())
}

/// A Name in a `TPM2B_NAME`.
pub(super) fn name(reader: &mut Reader<'_>, field: &str) -> Result<Name> {
    Name::from_bytes(reader.sized(field, MAX_NAME_LEN)?).map_err(|error| error.within(field))
}
