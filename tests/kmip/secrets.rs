//! Files that hold secrets, damaged in all ways: whatever reads them says what is wrong, and none of what is in them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use data_encoding::{BASE64, HEXLOWER};

use crate::certificates::Issued;
use crate::host::Host;
use crate::site::Site;

/// What may appear nowhere: a secret, and forms that programs print bytes in.
struct Marks(Vec<String>);

impl Marks {
    fn of(secrets: &[&[u8]]) -> Self {
        let forms = |secret: &&[u8]| {
            secret
                .windows(8)
                .flat_map(|part| {
                    let decimal: Vec<String> = part.iter().map(u8::to_string).collect();
                    [String::from_utf8_lossy(part).into_owned(), HEXLOWER.encode(part), decimal.join(", ")]
                })
                .collect::<Vec<_>>()
        };
        Self(secrets.iter().flat_map(forms).filter(|form| !form.contains('\u{fffd}')).collect())
    }

    fn refuse(&self, place: &str, text: &str) {
        if let Some(found) = self.0.iter().find(|mark| text.contains(mark.as_str())) {
            panic!("{place} has {found:?}: {text}");
        }
    }
}

fn put(path: &Path, content: &[u8]) {
    fs::write(path, content).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// Runs verbs that need keys, however they end, and looks at all that they leave behind; returns what they said.
fn told(host: &Host, marks: &Marks, what: &str) -> String {
    let (vm, mountpoint, log) = (host.path("web01"), host.path("mnt"), host.path("log"));
    fs::create_dir_all(mountpoint).unwrap();
    let mut said = String::new();
    for args in [
        &["provider", "list"][..],
        &["provider", "list", "--json"],
        &["provider", "test", "corp"],
        &["provider", "test", "local"],
        &["check", vm],
        &["key", "list", vm],
        &["rekey", vm],
        &["rekey", vm, "--provider", "corp", "--json"],
        &["create", host.path("web02"), "--provider", "corp"],
        &["-vv", "mount", "--log-file", log, vm, mountpoint],
        &["status", mountpoint],
        &["umount", mountpoint],
    ] {
        let output = host.try_run(args);
        said += &String::from_utf8_lossy(&[output.stdout, output.stderr].concat());
    }
    marks.refuse(&format!("output ({what})"), &said);
    marks.refuse(&format!("log ({what})"), &host.log());
    for file in ["events.jsonl", "events-reads.jsonl"] {
        marks.refuse(&format!("{file} ({what})"), &fs::read_to_string(host.path(file)).unwrap_or_default());
    }
    said
}

/// A configuration with the providers `local` and `corp`, which nothing answers for.
fn config(site: &Site, host: &Issued, key: &str) -> String {
    format!(
        "default = \"local\"\n[provider.local]\nkind = \"native\"\nprimary-key = \"keys/local.key\"\nbacked-up = false\n\
         [provider.corp]\nkind = \"kmip\"\nservers = [\"127.0.0.1:1\"]\nca = {:?}\ncert = {:?}\nkey = {key}\n\
         total-timeout-ms = 300\nconnect-timeout-ms = 200\nrequest-timeout-ms = 200\n",
        site.ca.cert(),
        host.cert
    )
}

#[test]
fn damaged_private_key_is_reported_and_not_shown() {
    let site = Site::new();
    let host = Host::with_vm();
    let pem = fs::read_to_string(&site.host.key).unwrap();
    let body: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    let der = BASE64.decode(body.as_bytes()).unwrap();
    let marks = Marks::of(&[body.as_bytes(), &der]);
    host.configure(&config(&site, &site.host, &format!("{:?}", site.host.key)));
    let utf16: Vec<u8> = [0xff, 0xfe].into_iter().chain(pem.encode_utf16().flat_map(u16::to_le_bytes)).collect();
    let forms: [(&str, Vec<u8>); 12] = [
        ("joined into one", pem.replace('\n', "").into()),
        ("joined into one", pem.replace('\n', " ").into()),
        ("the two characters \\n", pem.replace('\n', "\\n").into()),
        ("is cut off", pem[..pem.len() - 20].into()),
        ("no BEGIN", body.clone().into()),
        ("of an unknown kind", format!("-----BEGIN {body}-----\n{body}\n-----END x-----").into()),
        ("not base64", pem.replacen(&body[4..8], "????", 1).into()),
        ("damaged or not of a known kind", pem.replacen(&body[4..8], "AAAA", 1).into()),
        ("does not begin the line", format!("key = {pem}").into()),
        ("the END of something else", pem.replace("END PRIVATE", "END OTHER").into()),
        ("UTF-16", utf16),
        ("DER", der.clone()),
    ];
    for (expected, content) in forms {
        put(&site.host.key, &content);
        let said = told(&host, &marks, expected);
        assert!(said.contains(expected) && said.contains("host1.key"), "{expected}: {said}");
    }
    put(&site.host.key, format!("\u{feff}# UNENCRYPTED\r\n{}", pem.replace('\n', "\r\n")).as_bytes());
    assert!(told(&host, &marks, "CRLF").contains("set aside") || host.run(&["provider", "list"]).contains("corp"));
    let inline = [
        "\"\"\"\n".to_owned() + &pem + "\"\"\"",
        format!("{:?}", pem.replace('\n', "")),
        format!("{body:?}"),
        pem.clone(),
    ];
    for key in inline {
        host.configure(&config(&site, &site.host, &key));
        let said = told(&host, &marks, "in the configuration");
        assert!(said.contains("`key`") || said.contains("config.toml:"), "{said}");
    }
    let files = [&site.ca.cert().display().to_string(), &site.host.cert.display().to_string(), &pem];
    let output = host.try_run(&[
        "provider", "add", "kmip", "new", "--server", "kms", "--ca", files[0], "--cert", files[1], "--key", files[2],
    ]);
    marks.refuse("an option", &String::from_utf8_lossy(&output.stderr));
    told(&host, &marks, "given as an option");
}

#[test]
fn damaged_primary_key_is_reported_and_not_shown() {
    let host = Host::with_vm();
    let file = host.path("config/keys/local.key");
    let whole = fs::read(file).unwrap();
    let marks = Marks::of(&[&whole[32..64]]);
    for at in [0, 9, 12, 20, 40, whole.len() - 1] {
        let mut damaged = whole.clone();
        damaged[at] ^= 1;
        put(Path::new(file), &damaged);
        assert!(told(&host, &marks, "flipped").contains("primary key"));
    }
    for content in [&whole[..50], &whole[16..], &[&whole[..], b"x"].concat()] {
        put(Path::new(file), content);
        told(&host, &marks, "another length");
    }
}

#[test]
fn a_passphrase_is_not_shown_wherever_it_is_put() {
    const SECRET: &str = "correct horse battery staple";
    let host = Host::new();
    let marks = Marks::of(&[SECRET.as_bytes()]);
    let (backup, file) = (host.path("backup"), host.path("passphrase"));
    let long = SECRET.repeat(100);
    let contents: [&[u8]; 3] = [long.as_bytes(), &[SECRET.as_bytes(), b"\xff"].concat(), b""];
    let mut said = String::new();
    let mut run = |args: &[&str]| {
        let output = host.try_run(args);
        assert!(!output.status.success(), "{args:?}");
        said += &String::from_utf8_lossy(&[output.stdout, output.stderr].concat());
    };
    for content in contents {
        put(Path::new(file), content);
        run(&["provider", "backup", "local", backup, "--passphrase-file", file]);
    }
    run(&["provider", "backup", "local", backup, "--passphrase-file", SECRET]);
    put(Path::new(file), SECRET.as_bytes());
    run(&["provider", "restore", "local", file, "--passphrase-file", file]);
    marks.refuse("output", &said);
    marks.refuse("events", &fs::read_to_string(host.path("events.jsonl")).unwrap());
}
