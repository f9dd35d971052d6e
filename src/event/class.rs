//! The two classes of events, each with files and a bound of its own: what anyone can cause by reading forged data, or through a
//! mount, never pushes out what was done on purpose.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::EventName;

/// Which files an event goes to.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Class {
    /// What a verb did.
    Verbs,
    /// What was met when components were opened, read and checked, and what programs did through a mount.
    Reads,
}

impl Class {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Verbs, Self::Reads];

    /// That of an operation that no program asked for through a mount.
    #[allow(clippy::too_many_lines, reason = "each name has its line, and none may be forgotten")]
    pub(super) fn of(name: EventName) -> Self {
        match name {
            EventName::FetchKey
            | EventName::Unlock
            | EventName::Check
            | EventName::Info
            | EventName::KeyList
            | EventName::ClusterPush
            | EventName::TrustAttest // each time that what was proved ends
            | EventName::AuthorityEnrol // whoever reaches an authority can have itself refused
            | EventName::AuthorityAttest
            | EventName::AuthorityRelease
            | EventName::Integrity
            | EventName::ProviderNotice
            | EventName::DumpTake // any user can have programs end so
            | EventName::Rollback
            | EventName::Manifest
            | EventName::Claim
            | EventName::ClaimLost
            | EventName::Memory => Self::Reads,
            EventName::AcceptRollback
            | EventName::Agent
            | EventName::Authority
            | EventName::AuthorityHost
            | EventName::AuthorityPolicy
            | EventName::Create
            | EventName::CreateDisk
            | EventName::Mount
            | EventName::Unmount
            | EventName::Lock
            | EventName::Encrypt
            | EventName::Decrypt
            | EventName::Convert
            | EventName::Upgrade
            | EventName::Adopt
            | EventName::RekeyShallow
            | EventName::RekeyDeep
            | EventName::Clone
            | EventName::KeyAdd
            | EventName::KeyRemove
            | EventName::HeaderBackup
            | EventName::HeaderRestore
            | EventName::HeaderRepair
            | EventName::Erase
            | EventName::DiskNames
            | EventName::EventsVerify
            | EventName::ProviderAdd
            | EventName::ProviderTest
            | EventName::ProviderDefault
            | EventName::ProviderRename
            | EventName::ProviderBackup
            | EventName::ProviderRestore
            | EventName::ProviderSeal
            | EventName::ClusterInit
            | EventName::ClusterToken
            | EventName::ClusterJoin
            | EventName::ClusterApprove
            | EventName::ClusterShare
            | EventName::ClusterSync
            | EventName::ClusterRemove
            | EventName::ClusterRotate
            | EventName::TrustEnrol
            | EventName::TrustPropose
            | EventName::ClusterAdminKey
            | EventName::ClusterAdmins
            | EventName::ClusterAcceptBoard
            | EventName::ClusterRetire
            | EventName::DumpSetup
            | EventName::DumpRenew
            | EventName::DumpDecrypt
            | EventName::DumpRecrypt
            | EventName::DumpRemove
            | EventName::ProviderRetire => Self::Verbs,
        }
    }

    /// Its number in a home's manifest (docs/FORMAT.md, section 17).
    pub fn number(self) -> u8 {
        match self {
            Self::Verbs => 1,
            Self::Reads => 2,
        }
    }

    /// The file of this class: that of the verbs is the log's, that of the reads has `-reads` at the end of its stem.
    pub fn file(self, log: &Path) -> PathBuf {
        match self {
            Self::Verbs => log.to_path_buf(),
            Self::Reads => {
                let mut name = log.file_stem().unwrap_or_default().to_owned();
                name.push("-reads");
                if let Some(extension) = log.extension() {
                    name.push(".");
                    name.push(extension);
                }
                log.with_file_name(OsStr::new(&name))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_class_has_a_file_beside_the_other() {
        for (log, reads) in [("/var/log/events.jsonl", "/var/log/events-reads.jsonl"), ("/audit", "/audit-reads")] {
            assert_eq!(Class::Verbs.file(Path::new(log)), Path::new(log));
            assert_eq!(Class::Reads.file(Path::new(log)), Path::new(reads));
        }
    }
}
