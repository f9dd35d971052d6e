//! The ids that vSphere 8.0 has for such events: what monitoring that was made for vSphere looks for.

use super::EventName;
use crate::error::{Error, Kind};
use crate::provider::Trouble;

/// vSphere could not hand a key to the host ("Failed to send keys because of host error").
const SEND_KEY_HOST_ERROR: &str = "com.vmware.vc.host.Crypto.SendKeyError.HostError";
/// "Failed to send keys because keys are missing on key provider".
const SEND_KEY_MISSING: &str = "com.vmware.vc.kms.crypto.SendKeyError.KeyMissingOnKMS";
/// "Failed to send keys because of key provider error".
const SEND_KEY_SERVER_ERROR: &str = "com.vmware.vc.kms.crypto.SendKeyError.KMSClusterError";

const LOCKED_ON_HOST: &str = "com.vmware.vc.vm.Crypto.VMLocked.KeyMissingOnHost";
const LOCKED_KEY_MISSING: &str = "com.vmware.vc.vm.Crypto.VMLocked.KeyMissingOnKMS";
const LOCKED_SERVER_ERROR: &str = "com.vmware.vc.vm.Crypto.VMLocked.KMSClusterError";
const LOCKED_UNATTESTED: &str = "com.vmware.vc.vm.Crypto.VMLocked.TAKeyMissingOnHost";
/// The name is vSphere's.
const LOCKED_AUTHORITY_DOWN: &str = "com.vmware.vc.vm.Crypto.VMLocked.TAKMSClusterUnavaliable";
const UNLOCKED: &str = "com.vmware.vc.vm.Crypto.VMUnlocked";

const OPERATION: &str = "com.vmware.vc.crypto.Operation";
const KEY_GENERATE_FAIL: &str = "com.vmware.vc.kms.crypto.KeyGenerateFail";
const REKEY_FAIL: &str = "com.vmware.vc.vm.crypto.RekeyFail";
const NO_DISK_SPACE: &str = "com.vmware.vc.vm.crypto.NoDiskSpace";
const INTEGRITY_FAILED: &str = "com.vmware.vc.crypto.IntegrityCheckFailed";
const INTEGRITY_PASSED: &str = "com.vmware.vc.crypto.IntegrityCheckPassed";
const UNREACHABLE: &str = "com.vmware.vc.kms.crypto.Unreachable";
const BACKED_UP: &str = "com.vmware.vc.kms.crypto.AllBackedUp";

const HOST_ENABLED: &str = "com.vmware.vc.host.Crypto.Enabled";
const HOST_KEY_UPDATED: &str = "com.vmware.vc.crypto.HostKeyUpdatedEvent";
const NEW_HOST_KEY_MISSING: &str = "com.vmware.vc.host.Crypto.HostKey.NewKey.KeyMissingOnKMS";
const NEW_HOST_KEY_SERVER_ERROR: &str = "com.vmware.vc.host.Crypto.HostKey.NewKey.KMSClusterError";
const DUMP_ENCRYPTED: &str = "esx.problem.application.core.dumped.encrypted";

/// Ids of what succeeded; an unlocked disk has none.
const OF_SUCCESS: [(EventName, &str); 20] = [
    (EventName::Create, OPERATION),
    (EventName::CreateDisk, OPERATION),
    (EventName::Encrypt, OPERATION),
    (EventName::Decrypt, OPERATION),
    (EventName::Convert, OPERATION),
    (EventName::RekeyShallow, OPERATION),
    (EventName::RekeyDeep, OPERATION),
    (EventName::Clone, OPERATION),
    (EventName::Info, OPERATION),
    (EventName::KeyList, OPERATION),
    (EventName::KeyAdd, OPERATION),
    (EventName::KeyRemove, OPERATION),
    (EventName::DumpSetup, HOST_ENABLED),
    (EventName::DumpRenew, HOST_KEY_UPDATED),
    (EventName::DumpTake, DUMP_ENCRYPTED),
    (EventName::DumpDecrypt, OPERATION),
    (EventName::DumpRecrypt, OPERATION),
    (EventName::Unlock, UNLOCKED),
    (EventName::Check, INTEGRITY_PASSED),
    (EventName::ProviderBackup, BACKED_UP),
];

/// Where the fault lies when a KEK is unavailable; vSphere distinguishes these three.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Fault {
    /// On this host: its configuration, its primary key, what it can do.
    Host,
    /// The provider does not have the key, or does not give it out.
    Key,
    /// The provider cannot be reached, or fails.
    Server,
}

impl Fault {
    fn of(error: &Error) -> Self {
        match Trouble::of(error) {
            Some(trouble) if trouble.is_of_server() => Self::Server,
            Some(Trouble::Unsupported) => Self::Server,
            Some(Trouble::Unattested) => Self::Host,
            Some(_) => Self::Key,
            None => Self::Host,
        }
    }
}

/// vSphere's id for an event, if it has one.
pub(super) fn event_id(operation: EventName, failure: Option<&Error>, is_disk: bool) -> Option<&'static str> {
    match failure {
        None => of_success(operation, is_disk),
        Some(error) => of_failure(operation, error, is_disk),
    }
}

fn of_success(operation: EventName, is_disk: bool) -> Option<&'static str> {
    match OF_SUCCESS.iter().find(|(name, _)| *name == operation) {
        Some((EventName::Unlock, _)) if is_disk => None,
        found => found.map(|(_, id)| *id),
    }
}

fn of_failure(operation: EventName, error: &Error, is_disk: bool) -> Option<&'static str> {
    let is = |names: &[EventName]| names.contains(&operation);
    let about_keys = matches!(error.kind(), Kind::KeyUnavailable | Kind::KeyRejected);
    let of_dump = is(&[EventName::DumpDecrypt, EventName::DumpRecrypt]) && error.kind() == Kind::KeyUnavailable;
    if is(&[EventName::FetchKey, EventName::ClusterPush]) || of_dump {
        Some(match Fault::of(error) {
            Fault::Host => SEND_KEY_HOST_ERROR,
            Fault::Key => SEND_KEY_MISSING,
            Fault::Server => SEND_KEY_SERVER_ERROR,
        })
    } else if is(&[EventName::Unlock]) && !is_disk && about_keys {
        Some(match (Trouble::of(error), Fault::of(error)) {
            (Some(Trouble::Unattested), _) => LOCKED_UNATTESTED,
            (Some(Trouble::AuthorityDown), _) => LOCKED_AUTHORITY_DOWN,
            (_, Fault::Host) => LOCKED_ON_HOST,
            (_, Fault::Key) => LOCKED_KEY_MISSING,
            (_, Fault::Server) => LOCKED_SERVER_ERROR,
        })
    } else if is(&[EventName::DumpSetup, EventName::DumpRenew]) && about_keys {
        match Fault::of(error) {
            Fault::Host => None,
            Fault::Key => Some(NEW_HOST_KEY_MISSING),
            Fault::Server => Some(NEW_HOST_KEY_SERVER_ERROR),
        }
    } else if is(&[EventName::Create, EventName::Clone]) && about_keys {
        Some(KEY_GENERATE_FAIL)
    } else if is(&[EventName::RekeyShallow, EventName::RekeyDeep]) {
        Some(REKEY_FAIL)
    } else if is(&[EventName::Check, EventName::Integrity]) {
        Some(INTEGRITY_FAILED)
    } else if is(&[EventName::ProviderTest]) && Trouble::of(error).is_some_and(Trouble::is_of_server) {
        Some(UNREACHABLE)
    } else {
        let is_conversion = is(&[EventName::Encrypt, EventName::Decrypt, EventName::Convert]);
        (is_conversion && error.os_error() == Some(libc::ENOSPC)).then_some(NO_DISK_SPACE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::Failure;

    fn failed(trouble: Trouble) -> Error {
        Error::with_source(Kind::KeyUnavailable, "key corp/1 is unavailable", Failure::new(trouble, "so it is"))
    }

    #[test]
    fn the_three_key_errors_of_vsphere_are_told_apart() {
        let host = Error::new(Kind::KeyUnavailable, "no key provider corp");
        let id = |error: &Error| event_id(EventName::FetchKey, Some(error), false).unwrap();
        assert_eq!(id(&host), SEND_KEY_HOST_ERROR);
        for trouble in [Trouble::Missing, Trouble::Denied, Trouble::Destroyed] {
            assert_eq!(id(&failed(trouble)), SEND_KEY_MISSING, "{trouble:?}");
        }
        for trouble in [Trouble::Silent, Trouble::Unreachable, Trouble::Untrusted, Trouble::Garbled] {
            assert_eq!(id(&failed(trouble)), SEND_KEY_SERVER_ERROR, "{trouble:?}");
        }
    }

    #[test]
    fn host_keys_have_vsphere_events_of_their_own() {
        let id = |name, error: Option<&Error>| event_id(name, error, false);
        assert_eq!(id(EventName::DumpSetup, None), Some(HOST_ENABLED));
        assert_eq!(id(EventName::DumpRenew, None), Some(HOST_KEY_UPDATED));
        for name in [EventName::DumpSetup, EventName::DumpRenew] {
            assert_eq!(id(name, Some(&failed(Trouble::Silent))), Some(NEW_HOST_KEY_SERVER_ERROR));
            assert_eq!(id(name, Some(&failed(Trouble::Missing))), Some(NEW_HOST_KEY_MISSING));
        }
        assert_eq!(id(EventName::DumpDecrypt, Some(&failed(Trouble::Silent))), Some(SEND_KEY_SERVER_ERROR));
        assert_eq!(id(EventName::DumpTake, None), Some(DUMP_ENCRYPTED));
        let full = Error::new(Kind::Io, "too many dumps");
        assert_eq!(id(EventName::DumpTake, Some(&full)), None);
    }

    #[test]
    fn a_vm_is_locked_by_its_home_not_by_its_disks() {
        let error = failed(Trouble::Silent);
        assert_eq!(event_id(EventName::Unlock, Some(&error), false), Some(LOCKED_SERVER_ERROR));
        assert_eq!(event_id(EventName::Unlock, Some(&error), true), None);
        for (trouble, id) in [(Trouble::Unattested, LOCKED_UNATTESTED), (Trouble::AuthorityDown, LOCKED_AUTHORITY_DOWN)]
        {
            assert_eq!(event_id(EventName::Unlock, Some(&failed(trouble)), false), Some(id));
        }
        let id = |trouble| event_id(EventName::FetchKey, Some(&failed(trouble)), false);
        assert_eq!(id(Trouble::Unattested), Some(SEND_KEY_HOST_ERROR));
        assert_eq!(id(Trouble::AuthorityDown), Some(SEND_KEY_SERVER_ERROR));
        assert_eq!(event_id(EventName::Unlock, None, false), Some(UNLOCKED));
        let damaged = Error::new(Kind::Corrupt, "no header copy is whole");
        assert_eq!(event_id(EventName::Unlock, Some(&damaged), false), None);
    }
}
