//! Unified kernel images, and how systemd's stub measures their sections into PCR 11.

use super::pe::PeImage;
use crate::error::{Error, Result};
use crate::pcr::{Digest, HashAlgorithm, PcrIndex};
use crate::policy::Approved;
use crate::replay::start_value;

/// Sections that only some boots use, so that their measurement depends on the machine or on the boot entry.
const CHOSEN_AT_BOOT: [&str; 4] = [".profile", ".dtbauto", ".hwids", ".efifw"];

/// Which sections a stub measures, and in which order. The signature of expected values, `.pcrsig`, never is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SectionOrder {
    /// Up to systemd 252: without `.uname` and `.sbat`.
    Systemd252,
    /// Later ones, and the UKI specification.
    Uapi,
}

impl SectionOrder {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Systemd252, Self::Uapi];

    fn sections(self) -> &'static [&'static str] {
        match self {
            Self::Systemd252 => &[".linux", ".osrel", ".cmdline", ".initrd", ".splash", ".dtb", ".pcrpkey"],
            Self::Uapi => {
                &[".linux", ".osrel", ".cmdline", ".initrd", ".ucode", ".splash", ".dtb", ".uname", ".sbat", ".pcrpkey"]
            }
        }
    }
}

/// A unified kernel image.
#[derive(Clone, Debug)]
pub struct Uki<'a> {
    image: PeImage<'a>,
    /// What a stub may measure of it.
    sections: Vec<(&'static str, &'a [u8])>,
}

impl<'a> Uki<'a> {
    /// Reads an image.
    ///
    /// # Errors
    /// `Malformed` when it is not a PE image with a section `.linux`. `Unsupported` when what is measured of it is decided
    /// only when it boots.
    pub fn parse(bytes: &'a [u8]) -> Result<Self> {
        let image = PeImage::parse(bytes)?;
        if let Some(chosen) = CHOSEN_AT_BOOT.iter().find(|name| image.section_names().any(|it| it == name.as_bytes())) {
            return Err(Error::unsupported(format!(
                "the image has a section {chosen}, so what is measured is decided when it boots: boot one host, and approve \
                 what it measures"
            )));
        }
        let mut sections = Vec::new();
        for name in SectionOrder::Uapi.sections() {
            if image.section_names().filter(|it| *it == name.as_bytes()).count() > 1 {
                return Err(Error::unsupported(format!("the image has section {name} more than once: expected once")));
            }
            sections.extend(image.section(name)?.map(|content| (*name, content)));
        }
        if !sections.iter().any(|(name, _)| *name == ".linux") {
            return Err(Error::malformed("the image has no section .linux, so it is not a unified kernel image"));
        }
        Ok(Self { image, sections })
    }

    /// The whole image.
    pub fn image(&self) -> &PeImage<'a> {
        &self.image
    }

    /// The content of a section that stubs measure.
    pub fn section(&self, name: &str) -> Option<&'a [u8]> {
        self.sections.iter().find(|(it, _)| *it == name).map(|(_, content)| *content)
    }

    /// What a stub measures into PCR 11: for each section its name with the zero that ends it, then its content.
    pub fn measured(&self, bank: HashAlgorithm, order: SectionOrder) -> Vec<Approved> {
        let approved = |parts: &[&[u8]], description: String| Approved { digest: Digest::of(bank, parts), description };
        let pair = |name: &&'static str| {
            self.section(name).map(|content| {
                [
                    approved(&[name.as_bytes(), b"\0"], format!("the name of the section {name}")),
                    approved(&[content], format!("the section {name}")),
                ]
            })
        };
        order.sections().iter().filter_map(pair).flatten().collect()
    }

    /// The value of PCR 11 after the stub and these boot phases, as `systemd-measure calculate` prints it.
    ///
    /// # Errors
    /// None that can be reached: all digests are of this bank.
    pub fn pcr_11(&self, bank: HashAlgorithm, order: SectionOrder, phases: &[&str]) -> Result<Digest> {
        let sections = self.measured(bank, order).into_iter().map(|approved| approved.digest);
        let phases = phases.iter().map(|phase| Digest::of(bank, &[phase.as_bytes()]));
        let start = start_value(PcrIndex::new(11)?, bank, 0)?;
        sections.chain(phases).try_fold(start, |value, digest| value.extended(&digest))
    }
}
