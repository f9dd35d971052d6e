use super::*;

fn settings(toml: &str) -> Result<Settings, String> {
    toml::from_str(toml).map_err(|error| error.message().to_owned())
}

const LEAST: &str = "servers = [\"kms1\"]\nca = \"ca\"\ncert = \"cert\"\nkey = \"key\"\n";

fn purpose() -> NewKey {
    NewKey { vm_name: "web01".into(), vm_uuid: uuid::Uuid::nil() }
}

#[test]
fn addresses_are_read_and_shown() {
    for (text, host, port, shown) in [
        ("kms1", "kms1", 5696, "kms1:5696"),
        ("kms1.example.com:443", "kms1.example.com", 443, "kms1.example.com:443"),
        ("192.0.2.1:5697", "192.0.2.1", 5697, "192.0.2.1:5697"),
        ("[2001:db8::1]", "2001:db8::1", 5696, "[2001:db8::1]:5696"),
        ("[2001:db8::1]:9", "2001:db8::1", 9, "[2001:db8::1]:9"),
    ] {
        let address: Address = text.parse().unwrap();
        assert_eq!((address.host(), address.port(), address.to_string().as_str()), (host, port, shown));
    }
    for bad in
        ["", ":5696", "kms1:", "kms1:0", "kms1:65536", "kms1:x", "2001:db8::1", "[::1]5696", "a b", "http://kms1"]
    {
        assert!(bad.parse::<Address>().is_err(), "{bad}");
    }
}

#[test]
fn little_has_to_be_said_and_is_all_that_is_written() {
    let least = settings(LEAST).unwrap();
    let timeouts = least.timeouts();
    let seconds = [timeouts.connect, timeouts.request, timeouts.total].map(|time| time.as_secs());
    assert_eq!(seconds, [2, 5, 30]);
    assert_eq!(least.allowed_versions(), Version::ALL);
    let written = toml::to_string(&least).unwrap();
    assert_eq!(written, "servers = [\"kms1:5696\"]\nca = \"ca\"\ncert = \"cert\"\nkey = \"key\"\n");
}

#[test]
fn all_that_can_be_said_is_written_and_read_again() {
    let all = settings(&format!(
        "{LEAST}connect-timeout-ms = 1\nrequest-timeout-ms = 2\ntotal-timeout-ms = 3\nversions = [\"1.2\", \"1.4\"]\n\
         min-tls = \"1.3\"\ntls = \"1.3-pq\"\npin-sha256 = \"4yiPp1fwKFFNt7lKzcZNGcqCJF6bmbCYmXlvNsjkXZE=\"\n\
         [attributes]\nx-Vendor = \"Example\"\n"
    ))
    .unwrap();
    assert_eq!(all.allowed_versions(), ["1.4", "1.2"].map(|version| version.parse().unwrap()));
    assert_eq!(settings(&toml::to_string(&all).unwrap()), Ok(all));
}

#[test]
fn what_makes_no_sense_is_refused() {
    for (more, expected) in [
        ("[attributes]\nVendor = \"x\"\n", "begins with \"x-\""),
        ("[attributes]\nx- = \"x\"\n", "begins with \"x-\""),
        ("versions = [\"2.0\"]\n", "expected one of 2.1, 1.4"),
        ("timeout = 3\n", "unknown field `timeout`"),
        ("min-tls = \"1.1\"\n", "unknown variant `1.1`, expected `1.2` or `1.3`"),
        ("tls = \"1.3\"\n", "unknown variant `1.3`, expected `1.3-pq`"),
        ("pin-sha256 = \"AAAA\"\n", "expected SHA-256 of a public key in base64"),
        ("pin-sha256 = [\"AAAA\"]\n", "expected SHA-256 of a public key in base64"),
        ("connect-timeout-ms = 0\n", "a timeout of 0 ms, expected 1 to 3600000"),
        ("request-timeout-ms = 3600001\n", "a timeout of 3600001 ms"),
        ("total-timeout-ms = 4294967295\n", "a timeout of 4294967295 ms"),
    ] {
        let flaw = settings(&format!("{LEAST}{more}")).unwrap_err();
        assert!(flaw.contains(expected), "{more}: {flaw}");
    }
    let crowd: Vec<String> = (0..65).map(|number| format!("\"kms{number}\"")).collect();
    let crowd = format!("[{}]", crowd.join(", "));
    for (servers, expected) in [
        (crowd.as_str(), "65 servers, expected at most 64"),
        ("[]", "no server"),
        ("[\"a\", \"a:5696\"]", "server a:5696 is there twice"),
        ("[\"a b\"]", "expected HOST:PORT"),
    ] {
        let flaw = settings(&LEAST.replace("[\"kms1\"]", servers)).unwrap_err();
        assert!(flaw.contains(expected), "{servers}: {flaw}");
    }
}

#[test]
fn keys_are_labelled_as_vsphere_labels_them() {
    let labels = settings(LEAST).unwrap().attributes_of_new(&purpose());
    let names: Vec<&str> = labels.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["x-Component", "x-Identifier", "x-Name", "x-Product", "x-Product_Version", "x-Vendor"]);
    let value = |wanted: &str| labels.iter().find(|(name, _)| name == wanted).unwrap().1.as_str();
    assert_eq!((value("x-Vendor"), value("x-Product")), ("vmcryptfs", "vmcryptfs"));
    assert_eq!((value("x-Component"), value("x-Name")), ("Virtual Machine", "web01"));
    assert_eq!(value("x-Identifier"), "00000000-0000-0000-0000-000000000000");
}

#[test]
fn host_keys_are_labelled_as_those_of_vsphere_hosts() {
    let host = KeyHost { name: "kvm1".into(), hardware: uuid::Uuid::from_u128(7) };
    let labels = settings(LEAST).unwrap().attributes_of_host_key(&host);
    assert_eq!(labels.len(), 6);
    let value = |wanted: &str| labels.iter().find(|(name, _)| name == wanted).unwrap().1.as_str();
    assert_eq!((value("x-Component"), value("x-Name")), ("ESXi Server", "kvm1"));
    assert_eq!(value("x-Identifier"), "00000000-0000-0000-0000-000000000007");
}

#[test]
fn labels_can_be_changed_left_out_and_added() {
    let settings =
        settings(&format!("{LEAST}[attributes]\nx-Vendor = \"V\"\nx-Name = \"\"\nx-Site = \"Graz\"\n")).unwrap();
    let labels = settings.attributes_of_new(&purpose());
    let value = |wanted: &str| labels.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str());
    assert_eq!((value("x-Vendor"), value("x-Name"), value("x-Site")), (Some("V"), None, Some("Graz")));
}

#[test]
fn long_values_are_cut_between_characters() {
    let purpose = NewKey { vm_name: "ü".repeat(200), ..purpose() };
    let labels = settings(LEAST).unwrap().attributes_of_new(&purpose);
    let name = labels.iter().find(|(name, _)| name == "x-Name").unwrap();
    assert_eq!(name.1, "ü".repeat(127));
}
