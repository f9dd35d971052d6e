//! The endorsement key: the TPM's own, which its vendor certifies.

#![allow(clippy::big_endian_bytes, reason = "lengths in DER are big-endian")]

use vmcryptfs::error::{Error, Kind, Result};
use vmcryptfs::provider::tpm::{Authorization, Reader, Writer, parameters_of};

use super::HostTpm;
use super::commands::{CAP_HANDLES, GET_CAPABILITY, NV_READ, NV_READ_PUBLIC, READ_PUBLIC};
use super::template::EndorsementTemplate;

/// Where an endorsement key may be persistent (TCG, TPM v2.0 Provisioning Guidance, 7.8).
const PERSISTENT: [u32; 2] = [0x8101_0001, 0x8101_0002];
/// NV indexes of certificates between the vendor's root and the key's own (EK Credential Profile, 2.2.1.5.1).
const CHAIN: std::ops::RangeInclusive<u32> = 0x01c0_0100..=0x01c0_01ff;
/// How much of an NV index is read at once: each TPM has room for this.
const CHUNK: u16 = 512;
/// Longest NV index that is read, in bytes.
const MAX_NV: u16 = 16 << 10;
/// NV indexes of the chain that are read.
const MAX_CHAIN: u32 = 8;

/// The endorsement key of a TPM.
#[derive(Clone, Debug)]
pub struct Endorsement {
    template: EndorsementTemplate,
    /// `TPM2B_PUBLIC`.
    pub public: Vec<u8>,
    /// Its certificate in DER, if the vendor has put one into the TPM.
    pub certificate: Option<Vec<u8>>,
    /// Certificates in DER, which the vendor has put there as well.
    pub chain: Vec<Vec<u8>>,
}

impl HostTpm {
    /// The endorsement key: one with a certificate, if there is one.
    ///
    /// # Errors
    /// `KeyUnavailable` when the TPM does not answer or refuses, `Denied` when its endorsement hierarchy has a password, `Io`.
    pub fn endorsement(&mut self) -> Result<Endorsement> {
        let (mut template, mut certificate) = (EndorsementTemplate::P256, None);
        for of in EndorsementTemplate::ALL {
            if let Some(found) = self.nv(of.certificate())? {
                (template, certificate) = (of, Some(one_of(&found)?.to_vec()));
                break;
            }
        }
        let chain = if certificate.is_some() { self.chain()? } else { Vec::new() };
        let mut endorsement = Endorsement { template, public: Vec::new(), certificate, chain };
        endorsement.public = match self.persistent(template)? {
            Some((_, public)) => public,
            None => self.with_primary(&template.template(), |_, key| Ok(key.public.clone()))?,
        };
        Ok(endorsement)
    }

    /// Has the key loaded while `work` is done.
    pub(super) fn with_endorsement<T>(
        &mut self,
        of: &Endorsement,
        work: impl FnOnce(&mut Self, u32) -> Result<T>,
    ) -> Result<T> {
        if let Some((handle, _)) = self.persistent(of.template)?.filter(|(_, public)| *public == of.public) {
            return work(self, handle);
        }
        self.with_primary(&of.template.template(), |own, key| match key.public == of.public {
            true => work(own, key.handle),
            false => Err(Error::new(Kind::KeyUnavailable, "this is another TPM than a moment ago")),
        })
    }

    /// A persistent key of this template, and its `TPM2B_PUBLIC`.
    fn persistent(&mut self, template: EndorsementTemplate) -> Result<Option<(u32, Vec<u8>)>> {
        for handle in PERSISTENT {
            let Ok(answer) = self.tpm.command(READ_PUBLIC, &[handle], &[], &[])? else { continue };
            let public = Reader::new(&answer).sized()?;
            if public.starts_with(&template.kind()) {
                return Ok(Some((handle, Writer::default().sized(public).finish())));
            }
        }
        Ok(None)
    }

    /// Certificates of the chain, which may lie one after the other in one index, or go on in the next one.
    fn chain(&mut self) -> Result<Vec<Vec<u8>>> {
        let parameters = Writer::default().u32(CAP_HANDLES).u32(*CHAIN.start()).u32(MAX_CHAIN).finish();
        let Ok(answer) = self.tpm.command(GET_CAPABILITY, &[], &[], &parameters)? else { return Ok(Vec::new()) };
        let mut answer = Reader::new(&answer);
        let (_more, _capability, count) = (answer.u8()?, answer.u32()?, answer.u32()?);
        let mut all = Vec::new();
        for _ in 0..count.min(MAX_CHAIN) {
            let index = answer.u32()?;
            if CHAIN.contains(&index) {
                all.extend(self.nv(index)?.unwrap_or_default());
            }
        }
        let mut chain = Vec::new();
        while let Ok(one) = one_of(&all) {
            chain.push(one.to_vec());
            all.drain(..one.len());
        }
        Ok(chain)
    }

    /// What is in an NV index; `None` where there is none, or nothing was written to it.
    fn nv(&mut self, index: u32) -> Result<Option<Vec<u8>>> {
        let Ok(answer) = self.tpm.command(NV_READ_PUBLIC, &[index], &[], &[])? else { return Ok(None) };
        let mut public = Reader::new(Reader::new(&answer).sized()?);
        let (_index, _name_algorithm, _attributes) = (public.u32()?, public.u16()?, public.u32()?);
        let _policy = public.sized()?;
        let len = public.u16()?;
        if len > MAX_NV {
            return Err(Error::new(
                Kind::Unsupported,
                format!("NV index {index:#x} of the TPM has {len} bytes, expected at most {MAX_NV}"),
            ));
        }
        let mut found = Vec::new();
        while found.len() < usize::from(len) {
            let at = u16::try_from(found.len()).unwrap_or(u16::MAX);
            let parameters = Writer::default().u16(CHUNK.min(len - at)).u16(at).finish();
            let answer = self.tpm.command(NV_READ, &[index, index], &[Authorization::Password], &parameters)?;
            let Ok(answer) = answer else { return Ok(None) };
            let mut part = parameters_of(&mut Reader::new(&answer))?;
            let part = part.sized()?;
            if part.is_empty() {
                return Err(Error::new(Kind::Io, format!("NV index {index:#x} of the TPM ends early")));
            }
            found.extend_from_slice(part);
        }
        Ok(Some(found))
    }
}

/// The certificate at the beginning of these bytes: some vendors fill an index up.
fn one_of(bytes: &[u8]) -> Result<&[u8]> {
    let wrong = || Error::new(Kind::Corrupt, "what is in the TPM in the place of a certificate is not one in DER");
    let [0x30, 0x82, high, low, ..] = bytes else { return Err(wrong()) };
    bytes.get(..4 + usize::from(u16::from_be_bytes([*high, *low]))).ok_or_else(wrong)
}
