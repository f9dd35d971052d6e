//! What to use for verbs that other programs have, and this one has under another name or not at all.

use clap::builder::StyledStr;
use clap::error::{ContextKind, ContextValue};

/// Words that are not verbs, and what does what they mean. Nothing here destroys anything.
const OTHER_NAMES: &[(&[&str], &str)] = &[
    (
        &["list", "ls", "show", "luksDump", "isLuks"],
        "'vmcryptfs info DATASTORE' lists VM folders and disks, 'vmcryptfs status MOUNTPOINT' those of a mount, 'vmcryptfs provider \
         list' key providers, 'vmcryptfs key list VM_FOLDER' keys",
    ),
    (&["version"], "'vmcryptfs --version' prints the version"),
    (
        &["resize", "grow", "extend", "shrink"],
        "a disk has the length of its file in a mount: 'truncate -s 80G MOUNTPOINT/disk.raw' or 'qemu-img resize -f raw' changes it",
    ),
    (&["unmount", "close", "luksClose"], "'vmcryptfs umount MOUNTPOINT' takes a mount down"),
    (&["open", "luksOpen"], "'vmcryptfs mount FOLDER MOUNTPOINT' shows it decrypted"),
    (
        &["init", "format", "luksFormat", "new"],
        "'vmcryptfs create FOLDER' makes an encrypted VM folder, 'vmcryptfs encrypt FOLDER' makes one of a VM in the clear",
    ),
    (
        &["fsck", "verify", "scrub"],
        "'vmcryptfs check PATH' verifies headers, and with --data all that can prove itself",
    ),
    (
        &["passwd", "luksChangeKey", "rotate", "rotate-key"],
        "'vmcryptfs rekey FOLDER' gives a VM folder a new key, 'vmcryptfs cluster rotate PROVIDER --admin-key FILE' a shared provider",
    ),
    (&["luksAddKey", "add-key"], "'vmcryptfs key add PATH' lets one more key open a component"),
    (
        &["backup", "luksHeaderBackup"],
        "'vmcryptfs header backup COMPONENT FILE' saves a header, 'vmcryptfs provider backup NAME FILE' the primary key of a provider",
    ),
    (
        &["restore", "luksHeaderRestore"],
        "'vmcryptfs header restore COMPONENT FILE' puts a header back, 'vmcryptfs provider restore NAME FILE' the primary key of a provider",
    ),
    (&["log", "logs", "audit"], "'vmcryptfs events' shows key and lock events"),
    (&["import", "register"], "'vmcryptfs adopt DISK' takes a disk into the VM folder that it lies in"),
    (&["copy", "cp"], "'vmcryptfs clone FROM TO' copies a VM folder under keys of its own"),
    (&["benchmark", "bench"], "'vmcryptfs speed' measures the cipher engines"),
    (
        &["man", "completion", "completions"],
        "'vmcryptfs manual pages FOLDER' writes the manual pages, 'vmcryptfs manual completions bash' prints completions",
    ),
];

/// Adds to what clap says of a verb that it does not know what to use in its place.
pub(super) fn advise(error: &mut clap::Error) {
    let is_top = error.get(ContextKind::Usage).is_some_and(|usage| usage.to_string().contains("vmcryptfs [OPTIONS]"));
    let Some(ContextValue::String(word)) = error.get(ContextKind::InvalidSubcommand).filter(|_| is_top) else { return };
    let known = |(words, _): &&(&[&str], &str)| words.iter().any(|known| known.eq_ignore_ascii_case(word));
    let Some((_, advice)) = OTHER_NAMES.iter().find(known) else { return };
    error.remove(ContextKind::SuggestedSubcommand); // one that is spelled alike
    error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![StyledStr::from(*advice)]));
}
