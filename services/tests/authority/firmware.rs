//! What a host measures when it boots, and the log of that (TCG PC Client Platform Firmware Profile, "Event Logging").

use data_encoding::HEXLOWER;
use vmcryptfs::crypto::derive::sha256;

use crate::tpm::Tpm;

const SEPARATOR: u32 = 4;
const IPL: u32 = 0xd;
const VARIABLE: u32 = 0x8000_0001;
const APPLICATION: u32 = 0x8000_0003;
/// The GUID of EFI's global variables, as it is in events.
const GLOBAL: [u8; 16] = *b"\x61\xdf\xe4\x8b\xca\x93\xd2\x11\xaa\x0d\x00\xe0\x98\x03\x2b\x8c";

/// One boot.
pub(crate) struct Boot {
    log: Vec<u8>,
    /// As tpm2_pcrextend takes it.
    extended: Vec<String>,
}

impl Boot {
    /// Nothing is measured.
    pub(crate) fn empty() -> Self {
        let content = b"Spec ID Event03\0\0\0\0\0\0\x02\0\x02\x01\0\0\0\x0b\0\x20\0\0";
        let len = u32::try_from(content.len()).unwrap().to_le_bytes();
        Self { log: [&[0; 4][..], &3_u32.to_le_bytes(), &[0; 20], &len, content].concat(), extended: Vec::new() }
    }

    /// Its log.
    pub(crate) fn log(self) -> Vec<u8> {
        self.log
    }

    /// A kernel that was booted with Secure Boot.
    pub(crate) fn of(kernel: &str) -> Self {
        let name: Vec<u8> = "SecureBoot".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let (name_len, value_len) = (10_u64.to_le_bytes(), 1_u64.to_le_bytes());
        let mut boot = Self::empty();
        boot.event(7, VARIABLE, &[&GLOBAL[..], &name_len, &value_len, &name, &[1]].concat());
        (0..8).for_each(|register| boot.event(register, SEPARATOR, &[0; 4]));
        boot.event(4, APPLICATION, kernel.as_bytes());
        boot.event(11, IPL, kernel.as_bytes());
        boot.event(12, IPL, b"root=/dev/vda1");
        boot
    }

    fn event(&mut self, register: u32, kind: u32, content: &[u8]) {
        let digest = sha256(content);
        for field in [register, kind, 1] {
            self.log.extend(field.to_le_bytes());
        }
        self.log.extend(0x000b_u16.to_le_bytes());
        self.log.extend(digest);
        self.log.extend(u32::try_from(content.len()).unwrap().to_le_bytes());
        self.log.extend(content);
        self.extended.push(format!("{register}:sha256={}", HEXLOWER.encode(&digest)));
    }

    /// Boots the machine of this TPM; returns its log.
    pub(crate) fn measured_by(self, tpm: &Tpm) -> Vec<u8> {
        tpm.reset();
        let extended: Vec<&str> = self.extended.iter().map(String::as_str).collect();
        tpm.tool("pcrextend", &extended);
        self.log()
    }
}
