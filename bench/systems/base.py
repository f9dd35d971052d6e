"""What is compared: each system shows one file, and says which processes serve it.

A new peer is one class here and its place in `SYSTEMS`. Everything that can differ between systems is in its class;
the runner treats all of them alike.
"""

from __future__ import annotations

import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from mounts import filesystem_type, is_mounted, unmount
from process import Daemon, call, first_line

START_SECONDS = 20.0


class System(ABC):
    """A way to reach one file of a given size. Its folder is its own, to fill as it likes."""

    name: ClassVar[str]
    cargo_package: ClassVar[str | None] = None
    """Built before the run."""
    tools: ClassVar[Mapping[str, str]] = {}
    """Programs that it needs, and the Debian packages that bring them."""

    def __init__(self, folder: Path, size: int, binaries: Path) -> None:
        self.folder = folder
        self.size = size
        self.binaries = binaries

    @abstractmethod
    def start(self) -> Path:
        """Makes what is needed and returns the file that jobs run on."""

    def stop(self) -> None:
        """Ends what `start` began, however far that came."""

    def pids(self) -> list[int]:
        return []

    def last_words(self) -> str:
        """What its processes said, for the report of an error."""
        return ""

    def o_direct(self) -> bool:
        """Whether jobs open the file with O_DIRECT."""
        return True

    def version(self) -> str | None:
        return None


class Raw(System):
    """The backing file itself: what any layer above it can lose."""

    name = "raw"

    def start(self) -> Path:
        return new_file(self.folder / "disk.raw", self.size)

    def o_direct(self) -> bool:
        # Every other system's backing file is read through the page cache. O_DIRECT here would compare them with the
        # disk; only on tmpfs it is the page cache all the same.
        return filesystem_type(self.folder) == "tmpfs"


class FuseSystem(System):
    """A system that is a mount, served by one process in the foreground."""

    def __init__(self, folder: Path, size: int, binaries: Path) -> None:
        super().__init__(folder, size, binaries)
        self.mountpoint = folder / "mnt"
        self._daemon: Daemon | None = None

    @abstractmethod
    def prepare(self) -> None:
        """Makes the backing side."""

    @abstractmethod
    def command(self) -> list[str]:
        """Mounts it on `mountpoint`, without leaving the foreground."""

    def target(self) -> Path:
        return self.mountpoint / "disk.raw"

    def after_mount(self) -> None:
        """Makes the file, where it is made through the mount."""

    def start(self) -> Path:
        self.mountpoint.mkdir()
        self.prepare()
        self._daemon = Daemon(self.command(), self.folder / "log")
        deadline = time.monotonic() + START_SECONDS
        while not is_mounted(self.mountpoint):
            if self._daemon.has_ended() or time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} did not mount: {self._daemon.last_words()}")
            time.sleep(0.02)
        self.after_mount()
        if self.target().stat().st_size != self.size:
            raise RuntimeError(f"{self.name} shows a disk of {self.target().stat().st_size} bytes, not {self.size}")
        return self.target()

    def stop(self) -> None:
        unmount(self.mountpoint)
        if self._daemon is not None:
            self._daemon.stop()

    def pids(self) -> list[int]:
        return [] if self._daemon is None else [self._daemon.pid]

    def last_words(self) -> str:
        return "" if self._daemon is None else self._daemon.last_words()


class Passthrough(FuseSystem):
    """Our own FUSE mount of one file without cryptography: what FUSE costs."""

    name = "passthrough"
    cargo_package = "vmcryptfs-bench"
    tools = {"fusermount3": "fuse3"}

    def prepare(self) -> None:
        new_file(self.folder / "disk.raw", self.size)

    def command(self) -> list[str]:
        return [str(self.binaries / "passthrough"), str(self.folder / "disk.raw"), str(self.mountpoint)]


class Vmcryptfs(FuseSystem):
    """Ours, as it is installed: native provider, aws-lc, sectors of 4096 bytes."""

    name = "vmcryptfs"
    cargo_package = "vmcryptfs"
    tools = {"fusermount3": "fuse3"}

    def prepare(self) -> None:
        self._call("provider", "add", "native", "bench")
        self._call("create", str(self._vm_folder()))
        self._call("create-disk", str(self._vm_folder() / "disk.raw"), "--size", str(self.size))

    def command(self) -> list[str]:
        return self._vmcryptfs("mount", str(self._vm_folder()), str(self.mountpoint), "--foreground")

    def version(self) -> str:
        return first_line([str(self.binaries / "vmcryptfs"), "--version"])

    def _vm_folder(self) -> Path:
        return self.folder / "vm"

    def _vmcryptfs(self, *arguments: str) -> list[str]:
        return [str(self.binaries / "vmcryptfs"), "--config", str(self.folder / "config.toml"), *arguments]

    def _call(self, *arguments: str) -> None:
        call(self._vmcryptfs(*arguments))


class Gocryptfs(FuseSystem):
    """The most used encrypted overlay for Linux, with its default cipher (AES-256-GCM, 4096-byte blocks)."""

    name = "gocryptfs"
    tools = {"gocryptfs": "gocryptfs", "fusermount3": "fuse3"}

    def prepare(self) -> None:
        self._passphrase_file().touch(mode=0o600)
        self._passphrase_file().write_text(secrets.token_hex(16))
        self._cipher_folder().mkdir()
        # The cost of deriving a key from the passphrase plays no part after the mount.
        call(self._gocryptfs("-init", "-scryptn", "10", str(self._cipher_folder())))

    def command(self) -> list[str]:
        return self._gocryptfs("-fg", str(self._cipher_folder()), str(self.mountpoint))

    def after_mount(self) -> None:
        new_file(self.target(), self.size)

    def version(self) -> str:
        return first_line(["gocryptfs", "--version"])

    def _gocryptfs(self, *arguments: str) -> list[str]:
        return ["gocryptfs", "-q", "-nosyslog", "-passfile", str(self._passphrase_file()), *arguments]

    def _passphrase_file(self) -> Path:
        return self.folder / "passphrase"

    def _cipher_folder(self) -> Path:
        return self.folder / "cipher"


SYSTEMS: Mapping[str, type[System]] = {system.name: system for system in (Raw, Passthrough, Vmcryptfs, Gocryptfs)}


def new_file(path: Path, size: int) -> Path:
    with path.open("xb") as file:
        file.truncate(size)
    return path
