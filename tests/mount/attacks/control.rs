//! The control socket, to which the mount's own user may send anything.

use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::host::{Host, Mount};

fn connect(mount: &Mount<'_>) -> UnixStream {
    let (device, uid) = (fs::metadata(mount.root()).unwrap().dev(), rustix::process::geteuid());
    let folder = match std::env::var_os("XDG_RUNTIME_DIR") {
        _ if uid.is_root() => "/run/vmcryptfs".into(),
        Some(runtime) => std::path::Path::new(&runtime).join("vmcryptfs"),
        None => format!("/tmp/vmcryptfs-{}", uid.as_raw()).into(),
    };
    let stream =
        UnixStream::connect(folder.join(format!("{}-{}.sock", libc::major(device), libc::minor(device)))).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

/// What is answered until the connection ends, which the other side may do before all was sent.
fn answer_to(mut stream: UnixStream, request: &[u8]) -> String {
    let _ = stream.write_all(request);
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    let ended = stream.read_to_end(&mut answer);
    assert!(ended.is_ok() || answer.is_empty(), "half an answer: {ended:?}");
    String::from_utf8(answer).unwrap()
}

#[test]
fn hostile_requests_cost_an_error_each_and_idle_connections_nobody_else() {
    let host = Host::with_vm();
    let mount = host.mount("web01", &[]);
    let nested = [b"{\"ask\":".to_vec(), vec![b'['; 200_000], b"\n".to_vec()].concat();
    let endless = [vec![b' '; 65 << 20], vec![b'\n']].concat();
    let requests: [(&str, &[u8], bool); 5] = [
        ("no JSON", b"GET / HTTP/1.1\n", true),
        ("nested too deep", &nested, true),
        ("not UTF-8", b"{\"ask\":\"\xff\"}\n", false),
        ("of 65 MiB", &endless, false),
        ("a path that is not below the mount", b"{\"ask\":\"lock\",\"path\":\"/etc/shadow\"}\n", true),
    ];
    for (what, request, is_answered) in requests {
        let answer = answer_to(connect(&mount), request);
        assert_eq!(answer.contains("\"answer\":\"error\""), is_answered, "{what}: {answer}");
    }
    let idle: Vec<UnixStream> = (0..200).map(|_| connect(&mount)).collect();
    let began = Instant::now();
    assert_eq!(mount.status()["pid"], mount.pid());
    assert!(began.elapsed() < Duration::from_secs(4), "connections that say nothing are waited for");
    drop(idle);
    fs::write(mount.path("notes.txt"), "the mount lives").unwrap();
    mount.unmount();
}
