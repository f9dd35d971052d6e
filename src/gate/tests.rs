use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use super::*;
use crate::error::{Error, Kind};
use crate::event::{self, Class, Record};
use crate::sys::process::effective_uid;

struct Act {
    fails: bool,
    parts: usize,
    is_counted: bool,
}

impl Operation for Act {
    const NAME: EventName = EventName::RekeyShallow;
    type Outcome = u8;

    fn object(&self) -> Object {
        Object::Folder(PathBuf::from("/vms/web01"))
    }

    fn run(self, trail: &mut Trail, _: OnProgress<'_>) -> Result<u8> {
        trail.event().reason("known on the way");
        for number in 0..self.parts {
            trail.part(&Object::Disk(format!("/vms/web01/{number}").into()), |_| {});
        }
        if self.is_counted {
            trail.counted();
        }
        if self.fails { Err(Error::new(Kind::Busy, "in use")) } else { Ok(7) }
    }
}

#[test]
fn what_passes_the_gate_is_recorded_and_counted_however_it_ends() {
    let dir = tempfile::tempdir().unwrap();
    let (config, log) = (dir.path().join("config.toml"), dir.path().join("events.jsonl"));
    fs::write(&config, format!("[events]\nfile = {log:?}\njournal = false\n")).unwrap();
    fs::set_permissions(&config, Permissions::from_mode(0o600)).unwrap();
    event::use_config(&config);
    assert_eq!(event::settings().unwrap().file.as_deref(), Some(log.as_path()), "no test writes to the host's log");
    let _alone = refusing::keep_out();
    let before = counted();
    let act = |act, principal| super::perform(act, principal, &mut unwatched);
    let perform = |fails, parts, principal| act(Act { fails, parts, is_counted: false }, principal);
    assert_eq!(perform(false, 0, Principal::Process).unwrap(), 7);
    assert_eq!(perform(true, 0, Principal::MountUser(0)).unwrap_err().kind(), Kind::Busy);
    assert_eq!(perform(false, 2, Principal::Peer(effective_uid())).unwrap(), 7);
    assert_eq!(perform(false, 0, Principal::Peer(3_999_999_999)).unwrap_err().kind(), Kind::Denied);
    // One of too many has no event, and counts as what it is.
    assert!(act(Act { fails: true, parts: 0, is_counted: true }, Principal::Process).is_err());
    let text = |class: Class| fs::read_to_string(class.file(&log)).unwrap();
    let records = |class| {
        let (text, name) = (text(class), Act::NAME.word());
        let records = text.lines().map(|line| serde_json::from_str::<Record>(line).unwrap());
        // Other tests may run in the same process.
        records.filter(|record| record.operation == name).collect::<Vec<_>>()
    };
    let mut through_mount = records(Class::Reads);
    let mut records = records(Class::Verbs);
    assert_eq!(through_mount.len(), 1, "what a program asked for through a mount has files of its own");
    records.insert(1, through_mount.remove(0));
    let seen: Vec<_> = records.iter().map(|record| (record.result.as_str(), record.component.as_deref())).collect();
    let (whole, disk) = (Some("/vms/web01"), |number| Some(["/vms/web01/0", "/vms/web01/1"][number]));
    assert_eq!(seen, [("ok", whole), ("failed", whole), ("ok", disk(0)), ("ok", disk(1)), ("failed", whole)]);
    assert_eq!((records[0].reason.as_deref(), records[1].user.as_str()), (Some("known on the way"), "root"));
    assert!(records[4].user == "3999999999" && records[4].reason.as_ref().unwrap().contains("may not"));
    let more = counted().into_iter().map(|(ending, count)| {
        let earlier = before.iter().find(|(other, _)| *other == ending).map_or(0, |(_, count)| *count);
        (ending, count - earlier)
    });
    assert_eq!(more.collect::<Vec<_>>(), [(Ending::Ok, 2), (Ending::Refused, 1), (Ending::Failed, 2)]);
}

/// How often an operation of this name has ended in each way.
fn counted() -> Vec<(Ending, u64)> {
    let all = counts::all().into_iter().filter(|(name, ..)| *name == Act::NAME.word());
    all.map(|(_, ending, count)| (ending, count.by_time.iter().sum())).collect()
}
