//! Types of events (TCG PC Client Platform Firmware Profile, section 10.4.1).

use std::fmt;

/// The type that a log gives an event. It is a label: no digest covers it.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct EventType(pub u32);

/// Number, name, and whether the digest is the hash of exactly the bytes that the log has as content.
const TYPES: [(u32, &str, bool); 32] = [
    (0x0000_0000, "EV_PREBOOT_CERT", false),
    (0x0000_0001, "EV_POST_CODE", false),
    (0x0000_0003, "EV_NO_ACTION", false),
    (0x0000_0004, "EV_SEPARATOR", true),
    (0x0000_0005, "EV_ACTION", true),
    (0x0000_0006, "EV_EVENT_TAG", false),
    (0x0000_0007, "EV_S_CRTM_CONTENTS", false),
    (0x0000_0008, "EV_S_CRTM_VERSION", true),
    (0x0000_0009, "EV_CPU_MICROCODE", false),
    (0x0000_000a, "EV_PLATFORM_CONFIG_FLAGS", false),
    (0x0000_000b, "EV_TABLE_OF_DEVICES", false),
    (0x0000_000c, "EV_COMPACT_HASH", false),
    (0x0000_000d, "EV_IPL", false),
    (0x0000_000e, "EV_IPL_PARTITION_DATA", false),
    (0x0000_000f, "EV_NONHOST_CODE", false),
    (0x0000_0010, "EV_NONHOST_CONFIG", false),
    (0x0000_0011, "EV_NONHOST_INFO", false),
    (0x0000_0012, "EV_OMIT_BOOT_DEVICE_EVENTS", true),
    (0x8000_0001, "EV_EFI_VARIABLE_DRIVER_CONFIG", true),
    (0x8000_0002, "EV_EFI_VARIABLE_BOOT", false),
    (0x8000_0003, "EV_EFI_BOOT_SERVICES_APPLICATION", false),
    (0x8000_0004, "EV_EFI_BOOT_SERVICES_DRIVER", false),
    (0x8000_0005, "EV_EFI_RUNTIME_SERVICES_DRIVER", false),
    (0x8000_0006, "EV_EFI_GPT_EVENT", true),
    (0x8000_0007, "EV_EFI_ACTION", true),
    (0x8000_0008, "EV_EFI_PLATFORM_FIRMWARE_BLOB", false),
    (0x8000_0009, "EV_EFI_HANDOFF_TABLES", false),
    (0x8000_000a, "EV_EFI_PLATFORM_FIRMWARE_BLOB2", false),
    (0x8000_000b, "EV_EFI_HANDOFF_TABLES2", false),
    (0x8000_000c, "EV_EFI_VARIABLE_BOOT2", true),
    (0x8000_0010, "EV_EFI_HCRTM_EVENT", true),
    (0x8000_00e0, "EV_EFI_VARIABLE_AUTHORITY", true),
];

impl EventType {
    /// Information that extends no register.
    pub const NO_ACTION: Self = Self(0x0000_0003);
    /// The end of what the firmware measures into a register before it boots something.
    pub const SEPARATOR: Self = Self(0x0000_0004);
    /// Data that has a number to tell what it is.
    pub const EVENT_TAG: Self = Self(0x0000_0006);
    /// What a boot loader measures.
    pub const IPL: Self = Self(0x0000_000d);
    /// A variable that configures Secure Boot.
    pub const VARIABLE_DRIVER_CONFIG: Self = Self(0x8000_0001);
    /// A program that the firmware started; its digest is that of the image.
    pub const BOOT_SERVICES_APPLICATION: Self = Self(0x8000_0003);
    /// A driver of an add-in card or a file; its digest is that of the image.
    pub const BOOT_SERVICES_DRIVER: Self = Self(0x8000_0004);
    /// A driver that stays; its digest is that of the image.
    pub const RUNTIME_SERVICES_DRIVER: Self = Self(0x8000_0005);
    /// Something that the firmware did.
    pub const EFI_ACTION: Self = Self(0x8000_0007);
    /// The certificate or hash by which Secure Boot accepted an image.
    pub const VARIABLE_AUTHORITY: Self = Self(0x8000_00e0);

    /// Its name in the specification.
    pub fn name(self) -> Option<&'static str> {
        self.entry().map(|(_, name, _)| *name)
    }

    /// Whether the digest of such an event is the hash of its content as the log has it. Of the others only the digest
    /// means anything: that of a boot application is the image's, and its content is where it was loaded.
    pub fn digest_is_of_content(self) -> bool {
        self.entry().is_some_and(|(_, _, of_content)| *of_content)
    }

    fn entry(self) -> Option<&'static (u32, &'static str, bool)> {
        TYPES.iter().find(|(number, _, _)| *number == self.0)
    }
}

impl fmt::Display for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "event type {:#010x}", self.0),
        }
    }
}
