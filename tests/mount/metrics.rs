//! What mounts count, as OpenMetrics text.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;
use std::{env, fs};

use crate::host::Host;
use crate::not_run::not_run;

/// Has the parser of Prometheus read a text, and returns its samples: name, labels and value.
fn parsed(text: &str) -> Option<Vec<(String, serde_json::Value, f64)>> {
    const SCRIPT: &str = "
import json, sys
try:
    from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse
except ModuleNotFoundError:
    sys.exit(77)
samples = [sample for family in parse(sys.stdin.read()) for sample in family.samples]
print(json.dumps([[sample.name, sample.labels, sample.value] for sample in samples]))
";
    let python = env::var("VMDK_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let mut child =
        Command::new(&python).args(["-c", SCRIPT]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    if output.status.code() == Some(77) {
        not_run("prometheus-client is not there, which scripts/test installs into the Python of VMDK_TEST_PYTHON");
        return None;
    }
    assert!(output.status.success(), "the parser refuses:\n{text}");
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

fn ask(socket: &Path, request: &str) -> String {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn mount_tells_what_it_counted_by_a_verb_and_over_http() {
    let host = Host::with_vm();
    let socket = Path::new(host.path("metrics.sock"));
    let option = format!("unix:{}", socket.to_str().unwrap());
    fs::write(socket, "mine").unwrap();
    fs::create_dir(host.path("mnt")).unwrap();
    host.refuses(&["mount", host.path("web01"), host.path("mnt"), "--metrics", &option], 9, "not a socket");
    fs::remove_file(socket).unwrap();
    let mount = host.mount("web01", &["--metrics", &option]);
    assert_eq!(fs::metadata(socket).unwrap().permissions().mode() & 0o777, 0o600);
    fs::write(mount.path("file"), "data").unwrap();
    host.run(&["rekey", host.path("web01")]);
    let _hangs = UnixStream::connect(socket).unwrap();
    let text = host.run(&["metrics", mount.root().to_str().unwrap()]);
    let answer = ask(socket, "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(head.contains("Content-Type: application/openmetrics-text; version=1.0.0; charset=utf-8"), "{head}");
    let at = mount.root().to_str().unwrap();
    // Other mounts of this user may be there, of other versions, or stopped.
    let all = String::from_utf8(host.try_run(&["metrics"]).stdout).unwrap();
    for text in [&text, body, &all] {
        let Some(samples) = parsed(text) else { break };
        let value = |name: &str, labels: &[(&str, &str)]| {
            let is = |(found, of, _): &&(String, serde_json::Value, f64)| {
                found == name && of["mountpoint"] == at && labels.iter().all(|(key, value)| of[key] == *value)
            };
            samples.iter().find(is).map(|(.., value)| *value)
        };
        assert!(value("vmcryptfs_request_duration_seconds_count", &[("operation", "create")]) >= Some(1.0), "{text}");
        assert_eq!(value("vmcryptfs_data_bytes_total", &[("direction", "write")]), Some(4.0), "{text}");
        assert!(value("vmcryptfs_request_errors_total", &[("errno", "ENOENT")]) >= Some(1.0), "{text}");
        assert_eq!(value("vmcryptfs_components", &[("state", "unlocked")]), Some(2.0), "{text}");
        assert_eq!(value("vmcryptfs_unlocks_total", &[("result", "ok")]), Some(2.0), "{text}");
        assert!(value("vmcryptfs_key_fetches_total", &[("provider", "local"), ("result", "ok")]) >= Some(1.0));
        let rekeyed = [("operation", "rekey-shallow"), ("result", "ok")];
        assert_eq!(value("vmcryptfs_operation_duration_seconds_count", &rekeyed), Some(1.0), "{text}");
        assert_eq!(value("vmcryptfs_event_failures_total", &[]), Some(0.0), "{text}");
    }
    mount.unmount();
    assert!(!socket.exists(), "it went with the mount");
}
