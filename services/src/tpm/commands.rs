//! Codes and handles of the commands that are sent (TCG, TPM 2.0 Library, parts 2 and 3).

use vmcryptfs::provider::tpm::Command;

pub(super) const CREATE_PRIMARY: Command = Command { code: 0x131, called: "CreatePrimary" };
pub(super) const ACTIVATE_CREDENTIAL: Command = Command { code: 0x147, called: "ActivateCredential" };
pub(super) const CERTIFY_CREATION: Command = Command { code: 0x14a, called: "CertifyCreation" };
pub(super) const NV_READ: Command = Command { code: 0x14e, called: "NV_Read" };
pub(super) const POLICY_SECRET: Command = Command { code: 0x151, called: "PolicySecret" };
pub(super) const QUOTE: Command = Command { code: 0x158, called: "Quote" };
pub(super) const NV_READ_PUBLIC: Command = Command { code: 0x169, called: "NV_ReadPublic" };
pub(super) const READ_PUBLIC: Command = Command { code: 0x173, called: "ReadPublic" };
pub(super) const GET_CAPABILITY: Command = Command { code: 0x17a, called: "GetCapability" };
pub(super) const PCR_READ: Command = Command { code: 0x17e, called: "PCR_Read" };
pub(super) const READ_CLOCK: Command = Command { code: 0x181, called: "ReadClock" };

/// The endorsement hierarchy.
pub(super) const RH_ENDORSEMENT: u32 = 0x4000_000b;
/// No algorithm.
pub(super) const ALG_NULL: u16 = 0x0010;
/// The capability "handles".
pub(super) const CAP_HANDLES: u32 = 1;
