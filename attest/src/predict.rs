//! What a host will measure when it boots next, from the files that it will boot. So an update is approved before the
//! reboot, and not after a host was refused.
//!
//! Firmware, boot loaders and stubs differ in what they measure besides those files. A prediction therefore starts from what
//! the running boot has measured: each digest that comes from a file of the running boot is found there, and replaced by
//! that of the new file. What is not found is not guessed.

mod pe;
mod uki;

pub use pe::PeImage;
pub use uki::{SectionOrder, Uki};

use crate::error::{Error, Kind, Result};
use crate::pcr::{Digest, HashAlgorithm, PcrIndex};
use crate::policy::{Approved, ApprovedSet};
use crate::replay::{Measured, Replayed, start_value};

/// The registers that files of the operating system are measured into.
const REGISTERS: [u8; 4] = [4, 9, 11, 12];

/// Files that are booted.
#[derive(Clone, Copy, Debug)]
pub enum BootFiles<'a> {
    /// A unified kernel image with systemd's stub.
    Uki(&'a [u8]),
    /// A kernel with the EFI stub, as firmware or systemd-boot starts it.
    Kernel {
        /// The kernel.
        kernel: &'a [u8],
        /// The initrd, if there is one; several are one after the other.
        initrd: Option<&'a [u8]>,
        /// All of the command line as the kernel gets it (/proc/cmdline), with `initrd=` if the loader adds that.
        command_line: &'a str,
    },
}

/// What will be measured.
#[derive(Clone, Debug)]
pub struct Prediction {
    registers: Vec<PredictedRegister>,
    unpredicted: Vec<(PcrIndex, String)>,
}

/// What will be measured into one register.
#[derive(Clone, Debug)]
pub struct PredictedRegister {
    /// The register.
    pub register: PcrIndex,
    /// All digests in order.
    pub measured: Vec<Approved>,
    /// The value that they give.
    pub value: Digest,
    /// Whether it is another one than now.
    pub changes: bool,
}

/// Something that comes from a file, and the digests that it is measured as.
struct Piece {
    what: &'static str,
    register: u8,
    need: Need,
    /// Each version of loaders, stubs and kernels has one of these forms. Forms of the same piece have the same order.
    forms: Vec<Vec<Approved>>,
}

/// What it means when a piece of the running boot is not found.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Need {
    /// The files are not those of the running boot.
    Always,
    /// It is not measured everywhere.
    Maybe,
    /// The register has something else that cannot be known here.
    IfRegisterIsUsed,
}

/// A digest of the next boot: one that stays, or a new one.
enum Next<'a> {
    Same(&'a Measured),
    New(Approved),
}

/// Predicts what a host measures when it boots `new`, from what it has measured when it booted `old`.
///
/// # Errors
/// `Malformed` when a file is not what it should be. `Invalid` when `old` is not what the running boot has measured, or is
/// of another kind than `new`.
pub fn predict(running: &Replayed, old: &BootFiles<'_>, new: &BootFiles<'_>) -> Result<Prediction> {
    let bank = running.bank();
    let old = old.pieces(bank).map_err(|error| error.within("the files of the running boot"))?;
    let new = new.pieces(bank).map_err(|error| error.within("the files of the next boot"))?;
    if old.first().map(|piece| piece.what) != new.first().map(|piece| piece.what) {
        return Err(Error::new(
            Kind::Invalid,
            "a change between a unified kernel image and a kernel with an initrd cannot be predicted: expected files of the \
             same kind. Boot one host of the new kind, and approve what it measures",
        ));
    }
    let mut prediction = Prediction { registers: Vec::new(), unpredicted: Vec::new() };
    for number in REGISTERS {
        let register = PcrIndex::new(u32::from(number))?;
        let Some(events) = running.events(register) else { continue };
        let mut next: Vec<Next<'_>> = events.iter().map(Next::Same).collect();
        let mut unpredicted = None;
        let is_here =
            |(old, new): &(Option<&Piece>, Option<&Piece>)| old.or(*new).is_some_and(|it| it.register == number);
        for (old, new) in pairs(&old, &new).filter(is_here) {
            if let Some(reason) = replace(&mut next, old, new)? {
                unpredicted.get_or_insert(reason);
            }
        }
        match unpredicted {
            Some(reason) => prediction.unpredicted.push((register, reason)),
            None => prediction.registers.push(PredictedRegister::new(register, bank, next)?),
        }
    }
    Ok(prediction)
}

/// Each piece of either boot once, with its counterpart.
fn pairs<'a>(old: &'a [Piece], new: &'a [Piece]) -> impl Iterator<Item = (Option<&'a Piece>, Option<&'a Piece>)> {
    let same = |one: &Piece, other: &Piece| one.what == other.what && one.register == other.register;
    let changed = old.iter().map(move |old| (Some(old), new.iter().find(|new| same(new, old))));
    let added = new.iter().filter(move |new| !old.iter().any(|old| same(old, new)));
    changed.chain(added.map(|new| (None, Some(new))))
}

/// Puts the digests of a piece in the place of those that it has now. Returns why the register cannot be predicted.
fn replace(next: &mut Vec<Next<'_>>, old: Option<&Piece>, new: Option<&Piece>) -> Result<Option<String>> {
    let (Some(old), Some(new)) = (old, new) else {
        let (what, found) = match (old, new) {
            (Some(old), _) => (old.what, "has none in the next boot"),
            (None, new) => (new.map_or("", |new| new.what), "has none in the running boot"),
        };
        return Ok(Some(format!("{what}: the host {found}, so its place is not known")));
    };
    if old.digests().eq(new.digests()) {
        return Ok(None);
    }
    for (from, to) in old.forms.iter().zip(&new.forms) {
        if replace_all(next, from, to) {
            return Ok(None);
        }
    }
    match old.need {
        Need::Maybe => Ok(None),
        Need::IfRegisterIsUsed if next.is_empty() => Ok(None),
        Need::IfRegisterIsUsed => Ok(Some(format!("{}: the running boot has measured something else", old.what))),
        Need::Always => Err(Error::new(
            Kind::Invalid,
            format!(
                "{}: PCR {} of the running boot does not have the digest of the file: expected the files that the host \
                 has booted",
                old.what, old.register
            ),
        )),
    }
}

/// Replaces each run of digests that comes from the running boot. Returns whether there was one.
fn replace_all(next: &mut Vec<Next<'_>>, from: &[Approved], to: &[Approved]) -> bool {
    let mut found = false;
    let mut place = 0;
    while !from.is_empty() && place + from.len() <= next.len() {
        let run = &next[place..place + from.len()];
        let same = |(next, from): (&Next<'_>, &Approved)| matches!(next, Next::Same(it) if it.digest == from.digest);
        if run.iter().zip(from).all(same) {
            next.splice(place..place + from.len(), to.iter().cloned().map(Next::New));
            place += to.len();
            found = true;
        } else {
            place += 1;
        }
    }
    found
}

impl PredictedRegister {
    fn new(register: PcrIndex, bank: HashAlgorithm, next: Vec<Next<'_>>) -> Result<Self> {
        let mut changes = false;
        let measured: Vec<Approved> = next
            .into_iter()
            .map(|next| match next {
                Next::Same(event) => Approved { digest: event.digest, description: event.description.to_string() },
                Next::New(approved) => {
                    changes = true;
                    approved
                }
            })
            .collect();
        let start = start_value(register, bank, 0)?;
        let value = measured.iter().try_fold(start, |value, approved| value.extended(&approved.digest))?;
        Ok(Self { register, measured, value, changes })
    }
}

impl Prediction {
    /// The registers that were predicted: those of PCR 4, 9, 11 and 12 that the running boot was quoted.
    pub fn registers(&self) -> &[PredictedRegister] {
        &self.registers
    }

    /// Registers that change in a way that cannot be known before the boot, and why.
    pub fn unpredicted(&self) -> &[(PcrIndex, String)] {
        &self.unpredicted
    }

    /// The proposal that approves the next boot. Registers that cannot be predicted are not in it.
    ///
    /// # Errors
    /// As for [`ApprovedSet::new`].
    pub fn to_set(&self, name: &str, approved: &str) -> Result<ApprovedSet> {
        let mut set = ApprovedSet::new(name, approved)?;
        for predicted in &self.registers {
            set.push(predicted.register, predicted.measured.clone());
        }
        Ok(set)
    }
}

impl Piece {
    fn digests(&self) -> impl Iterator<Item = Digest> {
        self.forms.iter().flatten().map(|approved| approved.digest)
    }

    fn of_one(what: &'static str, register: u8, need: Need, digest: Digest) -> Self {
        let approved = Approved { digest, description: what.to_owned() };
        Self { what, register, need, forms: vec![vec![approved]] }
    }

    /// A command line, as loaders and kernels measure it: in UTF-16, mostly with the character that ends it.
    fn of_command_line(register: u8, bank: HashAlgorithm, text: &str) -> Self {
        let description = format!("the command line \"{}\"", crate::event_log::printable(text.as_bytes()));
        let form = |text: String| {
            let bytes: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
            vec![Approved { digest: Digest::of(bank, &[&bytes]), description: description.clone() }]
        };
        let texts =
            [format!("{text}\0"), format!("{}\0", text.trim_end()), text.to_owned(), text.trim_end().to_owned()];
        Self {
            what: "the command line",
            register,
            need: Need::IfRegisterIsUsed,
            forms: texts.into_iter().map(form).collect(),
        }
    }
}

impl BootFiles<'_> {
    /// What is measured of these files. The first piece tells the kinds apart.
    fn pieces(&self, bank: HashAlgorithm) -> Result<Vec<Piece>> {
        match self {
            Self::Uki(image) => uki_pieces(&Uki::parse(image)?, bank),
            Self::Kernel { kernel, initrd, command_line } => {
                let image = PeImage::parse(kernel).map_err(|error| error.within("the kernel"))?;
                let mut pieces = vec![
                    Piece::of_one("the kernel", 4, Need::Always, image.authenticode(bank)?),
                    Piece::of_command_line(9, bank, command_line),
                    Piece::of_command_line(12, bank, command_line),
                ];
                pieces.extend(initrd.map(|initrd| of_initrd(initrd, bank)));
                Ok(pieces)
            }
        }
    }
}

fn uki_pieces(uki: &Uki<'_>, bank: HashAlgorithm) -> Result<Vec<Piece>> {
    let sections = SectionOrder::ALL.iter().map(|order| uki.measured(bank, *order)).collect();
    let mut pieces = vec![
        Piece::of_one("the unified kernel image", 4, Need::Always, uki.image().authenticode(bank)?),
        Piece { what: "the sections of the image", register: 11, need: Need::Always, forms: sections },
    ];
    // With Secure Boot, the stub lets the firmware load the kernel without looking at it.
    if let Some(kernel) = uki.section(".linux").and_then(|kernel| PeImage::parse(kernel).ok()) {
        pieces.push(Piece::of_one("the kernel in the image", 4, Need::Maybe, kernel.authenticode(bank)?));
    }
    if let Some(text) = uki.section(".cmdline") {
        let text = std::str::from_utf8(text).map_err(|_| Error::malformed("the section .cmdline is not text"))?;
        pieces.push(Piece::of_command_line(9, bank, text.trim_end_matches('\0')));
    }
    pieces.extend(uki.section(".initrd").map(|initrd| of_initrd(initrd, bank)));
    Ok(pieces)
}

fn of_initrd(initrd: &[u8], bank: HashAlgorithm) -> Piece {
    Piece::of_one("the initrd", 9, Need::IfRegisterIsUsed, Digest::of(bank, &[initrd]))
}

#[cfg(test)]
#[path = "predict/tests.rs"]
mod tests;
