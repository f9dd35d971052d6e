//! Set-user-id and set-group-id bits, which go when someone changes the file: as on the backing file system, and at once.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use crate::host::Host;

const OWNER: u32 = 41_000;
const GROUP: u32 = 41_007;
const CALLER: u32 = 41_001;
const MODES: [u32; 6] = [0o6777, 0o6767, 0o4767, 0o2767, 0o2777, 0o7777];
/// What is done to a file `$f`.
const CHANGES: [(&str, &str); 7] = [
    ("write", "printf x >> $f"),
    ("reserve", "fallocate -l 20000 $f"),
    ("reserve-kept", "fallocate -n -l 20000 $f"),
    ("punch", "fallocate -p -l 4096 $f"),
    ("cut", "truncate -s 3 $f"),
    ("empty", ": > $f"),
    ("read", "cat $f > /dev/null"),
];

fn mode_of(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn they_go_with_a_change_by_another_user_as_on_the_backing_file_system() {
    if !rustix::process::geteuid().is_root() {
        crate::not_run::not_run("only root can do what this test does");
        return;
    }
    let host = Host::with_vm();
    let mount = host.mount("web01", &["-o", "allow_other"]);
    let plain = Path::new(host.path("plain"));
    fs::create_dir(plain).unwrap();
    for dir in mount.root().ancestors().take(2).chain([plain]) {
        fs::set_permissions(dir, Permissions::from_mode(0o755)).unwrap();
    }
    let groups = format!("--groups={GROUP}");
    for (who, groups) in [("stranger", "--clear-groups"), ("member", groups.as_str())] {
        for ending in ["txt", "raw"] {
            let name = |change: &str, mode: u32| format!("{who}-{change}-{mode:o}.{ending}");
            let files = || CHANGES.iter().flat_map(|(change, _)| MODES.map(|mode| (name(change, mode), mode)));
            for root in [mount.root(), plain] {
                for (file, mode) in files() {
                    fs::write(root.join(&file), vec![7; 9000]).unwrap();
                    chown(root.join(&file), Some(OWNER), Some(GROUP)).unwrap();
                    fs::set_permissions(root.join(&file), Permissions::from_mode(mode)).unwrap();
                    assert_eq!(mode_of(&root.join(&file)), mode, "{file}");
                }
                let work: String = CHANGES
                    .iter()
                    .map(|(change, how)| format!("for f in {who}-{change}-*.{ending}; do {how} || exit 1; done\n"))
                    .collect();
                let done = Command::new("setpriv")
                    .args([&format!("--reuid={CALLER}"), &format!("--regid={CALLER}"), groups, "sh", "-c", &work])
                    .current_dir(root)
                    .status();
                assert!(done.unwrap().success(), "{} as {who}", root.display());
            }
            let modes = |root: &Path| files().map(|(file, _)| (mode_of(&root.join(&file)), file)).collect::<Vec<_>>();
            assert_eq!(modes(mount.root()), modes(plain));
        }
    }
    mount.unmount();
}
