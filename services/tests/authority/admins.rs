//! Who may administer an authority, and what it says of itself.

use std::fs::{self, DirBuilder, Permissions};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::process::Command;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::process::Authority;

/// What the authority answers to a user who asks for the list of hosts.
fn asked_by(authority: &Authority, uid: u32) -> String {
    let script = "$SIG{PIPE} = 'IGNORE'; my $s = IO::Socket::UNIX->new(Peer => 'admin.sock') or die $!; my $m = '{\"ask\":\"hosts\"}'; \
                  print $s pack('V', length $m), $m; $s->flush; read $s, my $len, 4; print <$s>";
    let asked = Command::new("setpriv")
        .args([&format!("--reuid={uid}"), &format!("--regid={uid}"), "--clear-groups"])
        .args(["perl", "-MIO::Socket::UNIX", "-e", script])
        .current_dir(authority.folder()) // those above it may be closed to others
        .output()
        .unwrap();
    format!("{}{}", String::from_utf8_lossy(&asked.stdout), String::from_utf8_lossy(&asked.stderr))
}

#[test]
fn root_and_the_user_of_the_settings_administer_it_and_nobody_else() {
    let mut authority = Authority::made(&["--admin-user", "65533"]);
    authority.start();
    fs::set_permissions(authority.folder(), Permissions::from_mode(0o711)).unwrap();
    assert_eq!(asked_by(&authority, 65533), r#"{"answer":"hosts","hosts":[]}"#);
    let said = asked_by(&authority, 65534);
    assert!(said.contains("Permission denied"), "{said}");
    // Where the mode of its socket is gone, the authority itself refuses.
    fs::set_permissions(authority.folder().join("admin.sock"), Permissions::from_mode(0o777)).unwrap();
    let said = asked_by(&authority, 65534);
    assert!(said.contains("user 65534 may not administer the authority of this machine"), "{said}");
}

#[test]
fn an_authority_says_what_it_lacks_and_there_is_one_of_it() {
    let mut authority = Authority::made(&[]);
    let refused = |args: &[&str]| {
        let output = authority.try_run(args);
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, said) = refused(&["host", "list"]);
    assert!(code == Some(8) && said.contains("is it started"), "{code:?} {said}");
    let (code, said) = refused(&["init", "top", "--url", "https://localhost:6843"]);
    assert!(code == Some(9) && said.contains("there is an authority"), "{code:?} {said}");
    let (code, said) = refused(&["init", "top", "--url", "localhost:6843"]);
    assert!(code == Some(2) && said.contains("expected https://NAME:PORT"), "{code:?} {said}");
    authority.start();
    let (code, said) = {
        let output = authority.try_run(&["start"]);
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    assert!(code == Some(6) && said.contains("runs in another process"), "{code:?} {said}");
    let status = authority.json(&["status"]);
    assert!(status["lacks"][0].as_str().unwrap().contains("has no policy yet"), "{status}");
    let (code, body) = authority.connect().get("/v1/health");
    assert!(code == 503 && String::from_utf8_lossy(&body).contains("has no policy yet"));
    // What was done is not asked for again, not even a moment later.
    let file = authority.write("kvm.toml", "format = 1\nname = \"kvm\"\nbank = \"sha256\"\n");
    authority.run(&["policy", "approve", file.to_str().unwrap()]);
    let status = authority.run(&["status"]);
    assert_eq!(status.lines().filter(|line| line.starts_with("TO DO")).count(), 1, "{status}");
    assert!(status.contains("no TPM is accepted"), "{status}");
    authority.write("config/authority/endorsement-keys", &"ab".repeat(32));
    assert_eq!(authority.json(&["status"])["lacks"], serde_json::json!([]));
    assert_eq!(authority.connect().get("/v1/health").0, 200);
}

#[test]
fn its_own_files_find_room_beside_the_connections_of_strangers() {
    let mut authority = Authority::made(&[]);
    let usual = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(512), ..usual }).unwrap();
    authority.start();
    setrlimit(Resource::Nofile, usual).unwrap();
    let [may, could] = authority.file_limits();
    assert!(may == could && may != "512", "{may} of {could}");
}

#[test]
fn an_init_that_failed_leaves_no_authority_and_can_be_repeated() {
    let authority = Authority::made(&[]);
    fs::remove_dir_all(authority.folder()).unwrap();
    let in_the_way = authority.folder().join("log");
    DirBuilder::new().mode(0o700).create(authority.folder()).unwrap();
    fs::write(&in_the_way, "no folder").unwrap();
    let init = ["init", "top", "--url", "https://localhost:6843"];
    let failed = authority.try_run(&init);
    assert!(!failed.status.success());
    fs::remove_file(in_the_way).unwrap();
    authority.run(&init);
    assert_eq!(authority.json(&["log", "verify"])["entries"], 1);
}
