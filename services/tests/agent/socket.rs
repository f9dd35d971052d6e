//! The socket of an agent: who is served, and what is answered to what is not understood.

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use rustix::process::Signal;
use vmcryptfs::error::Kind;
use vmcryptfs::provider::agent::{Answer, Hello, PROTOCOL, Request};

use crate::host::Host;
use crate::process::{Agent, answer, ask, refused};

#[test]
fn a_host_has_one_agent_which_says_hello_and_ends_by_a_signal() {
    let host = Host::configured("");
    let agent = Agent::start(&host);
    let mut client = agent.connect();
    let Answer::Hello(hello) = ask(&mut client, &Request::Hello(Hello::own())) else { panic!("no hello") };
    assert_eq!((hello.protocol, hello.version.as_str()), (PROTOCOL, env!("CARGO_PKG_VERSION")));
    assert!(!hello.host.is_empty());
    let second = refused(&host);
    let said = String::from_utf8_lossy(&second.stderr);
    assert_eq!(second.status.code(), Some(6), "{said}");
    assert!(said.contains("this host has an agent already"), "{said}");

    // One that is killed leaves its socket, which the next one replaces.
    let socket = agent.socket().to_path_buf();
    assert_eq!(agent.end(Signal::KILL).code(), None);
    assert!(socket.exists());
    let agent = Agent::start(&host);
    ask(&mut agent.connect(), &Request::Hello(Hello::own()));
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(agent.end(Signal::TERM).success());
    assert!(!socket.exists(), "nobody listens there");
    let told: Vec<String> = host
        .events()
        .iter()
        .filter(|event| event["operation"] == "agent")
        .map(|event| event["reason"].as_str().unwrap().to_owned())
        .collect();
    assert!(told.len() == 3 && told[2] == "ended by signal 15", "{told:?}");
}

#[test]
fn what_is_not_a_request_is_answered_with_an_error_and_others_are_served() {
    let host = Host::configured("");
    let agent = Agent::start(&host);
    let mut hung = agent.connect();
    hung.write_all(&[40, 0, 0]).unwrap(); // and no more
    let _silent = agent.connect();
    for (bytes, words) in [
        (&b"\x02\0\0\0{}"[..], "not understood"),
        (b"GET / HTTP/1.1\r\n\r\n", "bytes, expected at most 3145728"),
        (b"\xff\xff\xff\xff", "4294967295 bytes"),
    ] {
        let mut client = agent.connect();
        client.write_all(bytes).unwrap();
        let Some(Answer::Error { kind, message, .. }) = answer(&mut client) else { panic!("{bytes:?}") };
        assert!(kind == Kind::Corrupt && message.contains(words), "{message}");
    }
    ask(&mut agent.connect(), &Request::Hello(Hello::own()));
}

#[test]
fn another_user_is_refused_and_an_event_says_so() {
    let host = Host::configured("");
    let agent = Agent::start(&host);
    // Its own mode keeps others from it. Where that is gone, the agent itself refuses.
    let folder = agent.socket().parent().unwrap();
    for path in [folder, agent.socket()] {
        fs::set_permissions(path, Permissions::from_mode(0o777)).unwrap();
    }
    let script = "my $s = IO::Socket::UNIX->new(Peer => 'agent.sock') or die $!; read $s, my $len, 4; print <$s>";
    let asked = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "perl", "-MIO::Socket::UNIX", "-e", script])
        .current_dir(folder) // those above it may be closed to others
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&asked.stdout);
    assert!(said.contains("user 65534 may not ask the agent of this host"), "{said} {asked:?}");
    let refused = |event: &serde_json::Value| event["operation"] == "agent" && event["result"] == "failed";
    assert_eq!(host.events().iter().filter(|event| refused(event)).count(), 1);
}
