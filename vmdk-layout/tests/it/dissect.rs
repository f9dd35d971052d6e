//! Against `dissect.hypervisor` (PyPI), an independent reader of all sparse formats.
//!
//! `VMDK_TEST_PYTHON` names a Python that has it; without the variable, `python3` is taken.

use std::env;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::images::{Cell, FORMATS, Format, sample, write_disk};
use crate::reader::{assert_same, read_disk};

const SCRIPT: &str = "
import sys
from pathlib import Path
from dissect.hypervisor.disk.vmdk import VMDK
disk = VMDK(Path(sys.argv[1]))
# Its stream interface stumbles over ends that are not aligned to 8 KiB.
sys.stdout.buffer.write(disk.read_sectors(0, disk.sector_count))
";

fn raw_by_dissect(folder: &Path, name: &str) -> Vec<u8> {
    let python = env::var("VMDK_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let output = Command::new(&python).args(["-c", SCRIPT, name]).current_dir(folder).output();
    let output = output.unwrap_or_else(|error| panic!("{python} cannot be run: {error}; these tests need Python"));
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{python} failed; these tests need a Python with dissect.hypervisor from PyPI, named by VMDK_TEST_PYTHON: {complaint}"
    );
    output.stdout
}

#[test]
fn images_of_every_sparse_format_read_as_dissect_reads_them() {
    for format in FORMATS.into_iter().filter(|format| *format != Format::HostedDamaged) {
        let folder = TempDir::new().unwrap();
        let image = sample(format);
        write_disk(folder.path(), "disk", &image, None);
        let expected = image.expected(None);
        assert_same(&read_disk(folder.path(), "disk.vmdk", 65_536).unwrap(), &expected, "ours");
        assert_same(&raw_by_dissect(folder.path(), "disk.vmdk"), &expected, &format!("dissect, {format:?}"));
    }
}

#[test]
fn snapshots_of_every_sparse_format_read_as_dissect_reads_them() {
    for format in [Format::Hosted, Format::Cowd, Format::SeSparse] {
        let folder = TempDir::new().unwrap();
        let mut base = sample(format);
        base.cells.iter_mut().enumerate().for_each(|(index, cell)| *cell = Cell::Data((index % 251) as u8));
        let top = sample(format);
        write_disk(folder.path(), "base", &base, None);
        write_disk(folder.path(), "top", &top, Some(("base.vmdk", 10)));
        let expected = top.expected(Some(&base.expected(None)));
        assert_same(&read_disk(folder.path(), "top.vmdk", 65_536).unwrap(), &expected, "ours");
        assert_same(&raw_by_dissect(folder.path(), "top.vmdk"), &expected, &format!("dissect, {format:?}"));
    }
}
