//! Events as entries of systemd's journal, over its native protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL): one datagram of
//! `NAME=value` lines. No crate: it is thirty lines, and those that exist bring their own logging.

use std::io::{self, ErrorKind};
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use super::Record;
use crate::error::Error;
use crate::text;

const SOCKET: &str = "/run/systemd/journal/socket";
/// `journalctl MESSAGE_ID=...` finds all events by it.
const MESSAGE_ID: &str = "7d1f2b1e0c6b4f0c9d5a6c3f5b0e8a41";
const PRIORITY_WARNING: &str = "4";
const PRIORITY_INFO: &str = "6";

/// Sends an event to the journal, if it runs, with the hash that its line in the file has. What the journal does not take is
/// still in the file.
pub(super) fn send(record: &Record, hash: Option<&str>) {
    match send_to(Path::new(SOCKET), record, hash) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            let why = Error::io(format!("the journal did not take event {}", record.operation), error);
            tracing::warn!("{}", why.chain());
        }
        _ => {}
    }
}

fn send_to(socket: &Path, record: &Record, hash: Option<&str>) -> io::Result<()> {
    let datagram = UnixDatagram::unbound()?;
    datagram.set_nonblocking(true)?; // a journal that does not answer must not stop a mount
    datagram.send_to(entry(record, hash).as_bytes(), socket).map(drop)
}

/// Values have no line breaks, so that each can be given as a line.
fn entry(record: &Record, hash: Option<&str>) -> String {
    let uuid = record.uuid.map(|uuid| uuid.to_string());
    let priority = if record.succeeded() { PRIORITY_INFO } else { PRIORITY_WARNING };
    let fields = [
        ("MESSAGE", Some(message(record))),
        ("MESSAGE_ID", Some(MESSAGE_ID.to_owned())),
        ("PRIORITY", Some(priority.to_owned())),
        ("SYSLOG_IDENTIFIER", Some("vmcryptfs".to_owned())),
        ("VMCRYPTFS_USER", Some(record.user.clone())),
        ("VMCRYPTFS_LOGIN", record.login.clone()),
        ("VMCRYPTFS_OPERATION", Some(record.operation.clone())),
        ("VMCRYPTFS_RESULT", Some(record.result.clone())),
        ("VMCRYPTFS_PROVIDER", record.provider.clone()),
        ("VMCRYPTFS_KEY_ID", record.key_id.clone()),
        ("VMCRYPTFS_COMPONENT", record.component.clone()),
        ("VMCRYPTFS_UUID", uuid),
        ("VMCRYPTFS_REASON", record.reason.clone()),
        ("VMCRYPTFS_VSPHERE_EVENT", record.vsphere_event.clone()),
        ("VMCRYPTFS_SEQUENCE", record.sequence.map(|sequence| sequence.to_string())),
        ("VMCRYPTFS_HASH", hash.map(str::to_owned)),
    ];
    let line = |(name, value): (&str, Option<String>)| Some(format!("{name}={}\n", text::one_line(&value?)));
    fields.into_iter().filter_map(line).collect()
}

fn message(record: &Record) -> String {
    let about = record.component.as_deref().or(record.provider.as_deref()).unwrap_or_default();
    let reason = record.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
    format!("{} {about} {}{reason}", record.operation, record.result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_datagram_of_lines() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("socket");
        let journal = UnixDatagram::bind(&socket).unwrap();
        let record = Record {
            component: Some("/vms/a\nPRIORITY=0".into()),
            reason: Some("no key".into()),
            ..super::super::tests::record("unlock", "failed")
        };
        send_to(&socket, &record, Some("00ff")).unwrap();
        let mut buffer = [0; 4096];
        let len = journal.recv(&mut buffer).unwrap();
        let sent = std::str::from_utf8(&buffer[..len]).unwrap();
        let lines: Vec<&str> = sent.lines().collect();
        assert!(lines.contains(&"MESSAGE=unlock /vms/a\\x0aPRIORITY=0 failed: no key"), "{sent}");
        assert!(lines.contains(&"PRIORITY=4") && lines.contains(&"VMCRYPTFS_OPERATION=unlock"), "{sent}");
        assert!(!lines.contains(&"PRIORITY=0") && lines.contains(&"VMCRYPTFS_HASH=00ff"), "{sent}");
    }

    #[test]
    fn a_journal_that_is_not_there_is_recognised() {
        let dir = tempfile::tempdir().unwrap();
        let record = super::super::tests::record("unlock", "ok");
        assert_eq!(send_to(&dir.path().join("none"), &record, None).unwrap_err().kind(), ErrorKind::NotFound);
    }
}
