use super::*;
use crate::error::Kind;

const BANK: HashAlgorithm = HashAlgorithm::Sha256;

/// A record as systemd writes it.
pub(crate) fn record(register: u32, event_type: &str, text: &str, measured: &[u8]) -> String {
    let digest = Digest::of(BANK, &[measured]).to_string();
    let digest = digest.trim_start_matches("sha256:");
    format!(
        "\x1e{{\"pcr\":{register},\"digests\":[{{\"hashAlg\":\"sha256\",\"digest\":\"{digest}\"}}],\"content_type\":\
         \"systemd\",\"content\":{{\"string\":\"{text}\",\"bootId\":\"189c18dd7ba245f38cf49d9ac154b525\",\"timestamp\":\
         1515761,\"eventType\":\"{event_type}\"}}}}\n"
    )
}

#[test]
fn records_of_systemd_are_read() {
    let log = record(11, "phase", "enter-initrd", b"enter-initrd") + &record(15, "volume-key", "cryptsetup:root", b"k");
    let log = UserspaceLog::parse(log.as_bytes()).unwrap();
    let [phase, volume] = log.records() else { panic!("{log:?}") };
    assert_eq!((phase.index(), phase.register().number(), phase.text(BANK)), (1, 11, Some("enter-initrd")));
    assert_eq!(phase.description(BANK).to_string(), "\"enter-initrd\"");
    assert_eq!(volume.text(BANK), None, "its digest is of the key, not of its name");
    assert_eq!(volume.description(BANK).to_string(), "volume-key \"cryptsetup:root\", as the log says");
    assert_eq!(UserspaceLog::parse(b"").unwrap().records().len(), 0);
}

#[test]
fn nv_indexes_and_unknown_algorithms_are_left_out() {
    let log =
        "\x1e{\"nv_index\":1,\"digests\":[]}\n\x1e{\"pcr\":11,\"digests\":[{\"hashAlg\":\"sm3\",\"digest\":\"00\"}]}\n";
    let log = UserspaceLog::parse(log.as_bytes()).unwrap();
    assert_eq!(log.records().len(), 1);
    assert_eq!((log.records()[0].index(), log.records()[0].digest(BANK)), (2, None));
}

#[test]
fn what_is_not_of_the_format_is_refused() {
    let whole = record(11, "phase", "ready", b"ready");
    let digest = "{\"hashAlg\":\"sha256\",\"digest\":\"00\"}";
    let nested = format!("\x1e{{\"x\":{}\n", "[".repeat(100_000));
    for (log, why) in [
        (whole[1..].to_owned(), "expected the character RS"),
        (whole.trim_end().to_owned(), "not complete"),
        (whole.replace("\"pcr\":11", "\"pcr\":16"), "PCR 16: expected PCR 0 to 15"),
        (whole.replace("\"pcr\":11", "\"pcr\":10"), "PCR 10"),
        (whole.replace("\"pcr\":11", "\"pcr\":11,\"pcr\":12"), "duplicate field"),
        (format!("\x1e{{\"pcr\":11,\"digests\":[{digest}]}}\n"), "2 digits: expected 64"),
        (nested, "EOF"),
    ] {
        let error = UserspaceLog::parse(log.as_bytes()).unwrap_err();
        assert_eq!(error.kind(), Kind::Malformed);
        assert!(error.to_string().contains(why), "{why}: {error}");
    }
    let twice = whole.replace("\"digests\":[", "\"digests\":[DIGEST,");
    let digest = whole.split_once('[').unwrap().1.split_once(']').unwrap().0;
    let error = UserspaceLog::parse(twice.replace("DIGEST", digest).as_bytes()).unwrap_err();
    assert!(error.to_string().contains("two digests of sha256"), "{error}");
}
