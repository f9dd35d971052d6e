//! Agents that a client must not believe or wait for.

use std::io::Write;
use std::os::unix::net::UnixListener;
use std::thread;

use super::*;
use crate::key::{KeyName, ProviderName};
use crate::provider::agent::Fault;

/// How long the clients of these tests wait.
const SHORT: Duration = Duration::from_millis(300);

type Peer = TimedStream<UnixStream>;

/// What an agent does with a connection.
type Plays = Box<dyn Fn(&mut Peer) + Send>;

/// A client whose agents are these, one for each connection.
fn client(agents: Vec<Plays>) -> (tempfile::TempDir, AgentClient) {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("agent.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    thread::spawn(move || {
        let mut kept = Vec::new();
        for agent in agents {
            let mut peer = TimedStream::new(listener.accept().unwrap().0, Deadline::after(PATIENCE));
            agent(&mut peer);
            kept.push(peer);
        }
        drop(kept);
    });
    (dir, AgentClient::patient(socket, SHORT))
}

fn next(peer: &mut Peer) -> Option<Request> {
    receive(peer, (Deadline::after(PATIENCE), PATIENCE), MAX_REQUEST).unwrap()
}

fn say(peer: &mut Peer, answer: &Answer) {
    peer.set_deadline(Deadline::after(PATIENCE));
    send(peer, answer, MAX_ANSWER).unwrap();
}

fn greet(peer: &mut Peer) {
    assert!(matches!(next(peer), Some(Request::Hello(_))));
    say(peer, &Answer::Hello(Hello::own()));
}

fn key(id: &str) -> KeyName {
    KeyName { provider: "shared".into(), key_id: id.into() }
}

fn fetch(client: &AgentClient) -> Result<(KeyId, LocalKek)> {
    client.kek(&Request::FetchKey { key: key("1") }).map(|found| (found.id, found.kek))
}

fn refuses(client: &AgentClient, words: &str) {
    let begun = Instant::now();
    let error = fetch(client).map(drop).unwrap_err();
    assert_eq!(error.kind(), Kind::KeyUnavailable, "{}", error.chain());
    assert!(error.chain().contains(words), "{words:?}: {}", error.chain());
    assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
}

#[test]
fn a_kek_comes_over_one_connection_and_over_another_one_after_a_restart() {
    let serve = |bytes: u8| {
        move |peer: &mut Peer| {
            greet(peer);
            for _ in 0..2 {
                assert!(matches!(next(peer), Some(Request::FetchKey { .. })));
                say(peer, &Answer::Kek { key: key("1"), wraps: true });
                peer.write_all(&[bytes; KEK_LEN]).unwrap();
            }
            peer.socket().shutdown(std::net::Shutdown::Both).unwrap();
        }
    };
    let (_dir, client) = client(vec![Box::new(serve(7)), Box::new(serve(8))]);
    for bytes in [7, 7, 8, 8] {
        let (id, kek) = fetch(&client).unwrap();
        assert_eq!(id, KeyId::new(ProviderName::new("shared").unwrap(), "1").unwrap());
        assert_eq!(kek.bytes(), [bytes; KEK_LEN]);
    }
}

#[test]
fn a_kek_that_the_agent_waits_for_is_asked_for_until_it_comes_and_a_refusal_says_whose_fault_it_is() {
    let (_dir, client) = client(vec![Box::new(|peer| {
        greet(peer);
        for _ in 0..3 {
            next(peer);
            say(peer, &Answer::Awaited { message: "no answer from h1".into() });
        }
        next(peer);
        say(peer, &Answer::Kek { key: key("1"), wraps: false });
        peer.write_all(&[7; KEK_LEN]).unwrap();
        next(peer);
        let (kind, message) = (Kind::KeyUnavailable, "key 1 is unavailable: no member has it".into());
        say(peer, &Answer::Error { kind, message, fault: Some(Fault::Missing) });
    })]);
    let found = client.kek(&Request::FetchKey { key: key("1") }).unwrap();
    assert_eq!((found.kek.bytes(), found.wraps), ([7; KEK_LEN].as_slice(), false));
    let error = fetch(&client).map(drop).unwrap_err();
    assert_eq!(
        (Trouble::of(&error), error.chain()),
        (Some(Trouble::Missing), "key 1 is unavailable: no member has it".into())
    );
}

#[test]
fn an_agent_that_answers_something_else_is_not_believed() {
    let cases: Vec<(Plays, &str)> = vec![
        (Box::new(|peer| peer.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap()), "expected at most 4194304"),
        (Box::new(|peer| peer.write_all(b"\x02\0\0\0{}").unwrap()), "not understood"),
        (
            Box::new(|peer| {
                let hello = Hello { protocol: 4, version: "9.1".into(), ..Hello::own() };
                say(peer, &Answer::Hello(hello));
            }),
            "version 9.1 and speaks version 4 of the protocol, expected 3",
        ),
        (
            Box::new(|peer| {
                greet(peer);
                next(peer);
                say(peer, &Answer::Status(crate::provider::agent::AgentStatus::default()));
            }),
            "does not fit the request",
        ),
        (
            Box::new(|peer| {
                greet(peer);
                next(peer);
                say(peer, &Answer::Kek { key: key("1"), wraps: true });
                peer.write_all(&[1; KEK_LEN - 1]).unwrap();
                peer.socket().shutdown(std::net::Shutdown::Both).unwrap();
            }),
            "has closed the connection",
        ),
        (
            Box::new(|peer| {
                let message = "the agent serves 256 programs already".into();
                say(peer, &Answer::Error { kind: Kind::Busy, message, fault: None });
            }),
            "serves 256 programs",
        ),
    ];
    for (agent, words) in cases {
        let (_dir, client) = client(vec![agent]);
        refuses(&client, words);
    }
}

#[test]
fn an_agent_that_has_refused_and_closed_before_it_was_asked_is_heard() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("agent.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let refusal = thread::spawn(move || {
        let mut peer = listener.accept().unwrap().0;
        let message = "the agent serves 256 programs already".into();
        let answer = Answer::Error { kind: Kind::Busy, message, fault: None };
        send(&mut peer, &answer, MAX_ANSWER).unwrap();
    });
    let stream = connect_at_once(&socket).unwrap();
    refusal.join().unwrap();
    let stream = TimedStream::new(stream, Deadline::after(PATIENCE));
    let mut connection = Connection { stream, hello: Hello::own(), used: Instant::now() };
    let answer = connection.ask(&Request::Hello(Hello::own()), PATIENCE).unwrap();
    assert!(matches!(answer, Answer::Error { message, .. } if message.contains("256 programs")));
}

#[test]
fn an_agent_that_is_absent_is_told_at_once_and_one_that_hangs_costs_all_keys_together_a_few_seconds() {
    let dir = tempfile::tempdir().unwrap();
    let absent = AgentClient::patient(dir.path().join("agent.sock"), SHORT);
    refuses(&absent, "it does not run: start vmcryptfs-agent");
    assert!(!absent.is_there());

    let (_dir, client) = client(vec![Box::new(|peer| {
        next(peer);
        assert!(next(peer).is_none(), "the client gives up first");
    })]);
    let begun = Instant::now();
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| (0..100).for_each(|_| refuses(&client, "does not answer: is it stopped?")));
        }
    });
    assert!(begun.elapsed() >= SHORT && begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
}
