//! Logs for tests: made event by event, or recorded from real boots.

use crate::event_log::{EventLog, EventType, Guid};
use crate::pcr::{Digest, HashAlgorithm, PcrSelection, PcrValues};
use crate::replay::Replayed;
use crate::userspace_log::UserspaceLog;

const BANK: HashAlgorithm = HashAlgorithm::Sha256;

/// Bytes of a log with a SHA-256 bank and one of an algorithm that is not known here.
#[derive(Clone)]
pub(crate) struct SampleLog(pub(crate) Vec<u8>);

/// The algorithm that is not known here, and how long its digests are.
pub(crate) const UNKNOWN: (u16, u16) = (0x0099, 7);

pub(crate) fn header(algorithms: &[(u16, u16)]) -> Vec<u8> {
    let mut content = b"Spec ID Event03\0".to_vec();
    content.extend([0, 0, 0, 0, 0, 2, 0, 2]);
    content.extend(u32::try_from(algorithms.len()).unwrap().to_le_bytes());
    for (id, len) in algorithms {
        content.extend(id.to_le_bytes());
        content.extend(len.to_le_bytes());
    }
    content.push(0);
    with_header(EventType::NO_ACTION, &content)
}

pub(crate) fn with_header(event_type: EventType, content: &[u8]) -> Vec<u8> {
    let mut bytes = 0_u32.to_le_bytes().to_vec();
    bytes.extend(event_type.0.to_le_bytes());
    bytes.extend([0; 20]);
    bytes.extend(u32::try_from(content.len()).unwrap().to_le_bytes());
    bytes.extend(content);
    bytes
}

impl SampleLog {
    pub(crate) fn new() -> Self {
        Self(header(&[(BANK.id(), 32), UNKNOWN]))
    }

    /// An event whose digest is the hash of its content.
    pub(crate) fn event(self, register: u32, event_type: EventType, content: &[u8]) -> Self {
        self.digest(register, event_type, &Digest::of(BANK, &[content]), content)
    }

    /// An event with this digest.
    pub(crate) fn digest(mut self, register: u32, event_type: EventType, digest: &Digest, content: &[u8]) -> Self {
        self.0.extend(register.to_le_bytes());
        self.0.extend(event_type.0.to_le_bytes());
        self.0.extend(2_u32.to_le_bytes());
        self.0.extend(UNKNOWN.0.to_le_bytes());
        self.0.extend([0x5a; 7]);
        self.0.extend(BANK.id().to_le_bytes());
        self.0.extend(digest.as_bytes());
        self.0.extend(u32::try_from(content.len()).unwrap().to_le_bytes());
        self.0.extend(content);
        self
    }

    pub(crate) fn separators(mut self, registers: impl IntoIterator<Item = u32>) -> Self {
        for register in registers {
            self = self.event(register, EventType::SEPARATOR, &[0; 4]);
        }
        self
    }

    pub(crate) fn secure_boot(self, value: u8) -> Self {
        self.event(7, EventType::VARIABLE_DRIVER_CONFIG, &secure_boot(value))
    }

    /// The values that a TPM would have after this.
    pub(crate) fn values(&self, selection: &str) -> PcrValues {
        values_of(&EventLog::parse(&self.0).unwrap(), &UserspaceLog::default(), selection)
    }

    pub(crate) fn replayed(&self, selection: &str) -> Replayed {
        let log = EventLog::parse(&self.0).unwrap();
        Replayed::new(&log, &UserspaceLog::default(), &self.values(selection)).unwrap()
    }
}

pub(crate) fn secure_boot(value: u8) -> Vec<u8> {
    variable(Guid::GLOBAL_VARIABLE, "SecureBoot", &[value])
}

pub(crate) fn variable(guid: Guid, name: &str, value: &[u8]) -> Vec<u8> {
    let name: Vec<u16> = name.encode_utf16().collect();
    let mut content = guid.0.to_vec();
    content.extend((name.len() as u64).to_le_bytes());
    content.extend((value.len() as u64).to_le_bytes());
    content.extend(name.iter().flat_map(|unit| unit.to_le_bytes()));
    content.extend(value);
    content
}

/// What registers hold after all events of these logs: what a TPM does, written down once more.
pub(crate) fn values_of(log: &EventLog<'_>, userspace: &UserspaceLog, selection: &str) -> PcrValues {
    let selection: PcrSelection = selection.parse().unwrap();
    let values = selection.iter().map(|register| {
        let mut value = vec![if (17..23).contains(&register.number()) { 0xff } else { 0_u8 }; 32];
        if register.number() == 0 {
            value[31] = log.startup_locality();
        }
        let firmware = log.events().iter().filter(|event| event.extends() && event.register() == Some(register));
        let firmware = firmware.map(|event| event.digest(BANK).unwrap());
        let userspace = userspace.records().iter().filter(|record| record.register() == register);
        for digest in firmware.chain(userspace.map(|record| record.digest(BANK).unwrap())) {
            value = Digest::of(BANK, &[&value, digest.as_bytes()]).as_bytes().to_vec();
        }
        Digest::new(BANK, &value).unwrap()
    });
    PcrValues::new(selection, values.collect()).unwrap()
}

/// A boot that was recorded: its log and the values of its registers. See tests/vectors/boots/README.md.
pub(crate) struct Boot {
    pub(crate) log: &'static [u8],
    values: &'static str,
}

macro_rules! boot {
    ($name:literal) => {
        Boot {
            log: include_bytes!(concat!("../../tests/vectors/boots/", $name, ".log")),
            values: include_str!(concat!("../../tests/vectors/boots/", $name, ".pcrs")),
        }
    };
}

pub(crate) const SECURE_BOOT_ON: Boot = boot!("secure-boot");
pub(crate) const SECURE_BOOT_OFF: Boot = boot!("secure-boot-off");
pub(crate) const OTHER_KERNEL: Boot = boot!("other-kernel");
pub(crate) const OTHER_COMMAND_LINE: Boot = boot!("other-command-line");
pub(crate) const DIRECT_KERNEL: Boot = boot!("direct-kernel");

impl Boot {
    pub(crate) const ALL: [&'static Self; 5] =
        [&SECURE_BOOT_ON, &SECURE_BOOT_OFF, &OTHER_KERNEL, &OTHER_COMMAND_LINE, &DIRECT_KERNEL];

    /// The values that the TPM itself reported.
    pub(crate) fn values(&self, selection: &str) -> PcrValues {
        let selection: PcrSelection = selection.parse().unwrap();
        let lines: Vec<&str> = self.values.lines().collect();
        let values = selection.iter().map(|register| {
            let (number, digits) = lines[usize::from(register.number())].split_once(' ').unwrap();
            assert_eq!(number, register.number().to_string());
            format!("sha256:{digits}").parse().unwrap()
        });
        PcrValues::new(selection, values.collect()).unwrap()
    }

    pub(crate) fn replayed(&self, selection: &str) -> Replayed {
        let log = EventLog::parse(self.log).unwrap();
        Replayed::new(&log, &UserspaceLog::default(), &self.values(selection)).unwrap()
    }
}
