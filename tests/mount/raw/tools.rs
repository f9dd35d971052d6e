//! Other people's readers and writers of VMDKs, and comparisons.

use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;

/// Runs a program in a folder, expects success, and returns what it printed.
pub(crate) fn run(folder: &Path, program: &str, args: &[&str]) -> Vec<u8> {
    let output = Command::new(program).args(args).current_dir(folder).output();
    let output = output.unwrap_or_else(|error| panic!("{program} cannot be run: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {said}");
    output.stdout
}

/// The disk as QEMU reads it.
pub(crate) fn by_qemu(folder: &Path, name: &str) -> Vec<u8> {
    let copy = tempfile::NamedTempFile::new().unwrap();
    let raw = copy.path().to_str().unwrap();
    run(folder, "qemu-img", &["convert", "-U", "-f", "vmdk", "-O", "raw", name, raw]);
    fs::read(raw).unwrap()
}

/// The disk as dissect.hypervisor reads it, with the Python that `VMDK_TEST_PYTHON` names.
pub(crate) fn by_dissect(folder: &Path, name: &str) -> Vec<u8> {
    const SCRIPT: &str = "
import sys
from pathlib import Path
from dissect.hypervisor.disk.vmdk import VMDK
disk = VMDK(Path(sys.argv[1]))
sys.stdout.buffer.write(disk.read_sectors(0, disk.sector_count))
";
    let python = env::var("VMDK_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let output = Command::new(&python).args(["-c", SCRIPT, name]).current_dir(folder).output();
    let output = output.unwrap_or_else(|error| panic!("{python} cannot be run: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{python} failed; scripts/test installs dissect.hypervisor into a Python that VMDK_TEST_PYTHON names: {said}"
    );
    output.stdout
}

/// Compares without printing megabytes.
pub(crate) fn assert_same(found: &[u8], expected: &[u8], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}: length");
    if found != expected {
        let differs = found.iter().zip(expected).position(|(found, expected)| found != expected);
        panic!("{what}: byte {differs:?} differs");
    }
}

/// Data, holes, and an end that is not a grain's.
pub(crate) fn pattern(len: usize, seed: u8) -> Vec<u8> {
    let mut bytes = vec![0; len];
    for (index, chunk) in bytes.chunks_mut(40_000).enumerate().filter(|(index, _)| index % 3 != 1) {
        let mut state = u32::from(seed) << 8 | u32::try_from(index).unwrap();
        chunk.fill_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            u8::try_from(state >> 24).unwrap()
        });
    }
    bytes
}
