"""What is mounted where, and unmounting it."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from process import call, first_line

UNMOUNT_TRIES = 20


def filesystem_type(path: Path) -> str:
    return first_line(["findmnt", "--noheadings", "--output", "FSTYPE", "--target", str(path)])


def is_mounted(mountpoint: Path) -> bool:
    """Without asking the file system itself, which may be dead."""
    mounts = Path("/proc/self/mounts").read_bytes().splitlines()
    return any(unescape(mount.split(b" ")[1]) == bytes(mountpoint) for mount in mounts)


def unescape(field: bytes) -> bytes:
    """Undoes the octal escapes of /proc/self/mounts."""
    return field.decode("unicode_escape").encode("latin-1")


def unmount(mountpoint: Path) -> None:
    """Unmounts; where something still uses the mount after a while, its name goes and the rest follows."""
    for _ in range(UNMOUNT_TRIES):
        if not is_mounted(mountpoint):
            return
        if subprocess.run(["fusermount3", "-u", str(mountpoint)], capture_output=True).returncode != 0:
            time.sleep(0.1)
    if is_mounted(mountpoint):
        call(["fusermount3", "-u", "-z", str(mountpoint)])
