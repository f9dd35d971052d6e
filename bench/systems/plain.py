"""What does not encrypt: the file itself, and FUSE mounts of it. They say what encryption is measured against."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import machine
from mounts import filesystem_type
from process import call
from systems.base import FuseSystem, System, new_file

LIBFUSE_EXAMPLE = Path("/usr/share/doc/libfuse3-dev/examples/passthrough_ll.c")


class Raw(System):
    """The backing file itself: what any layer above it can lose."""

    name = "raw"

    def start(self) -> Path:
        return new_file(self.folder / "disk.raw", self.size)

    def o_direct(self) -> bool:
        # Every other system's backing file is read through the page cache. O_DIRECT here would compare them with the
        # disk; only on tmpfs it is the page cache all the same.
        return filesystem_type(self.folder) == "tmpfs"


class Passthrough(FuseSystem):
    """Our own FUSE mount of one file without cryptography: what FUSE costs."""

    name = "passthrough"
    cargo_package = "vmcryptfs-bench"

    def prepare(self) -> None:
        new_file(self.folder / "disk.raw", self.size)

    def commands(self) -> list[list[str]]:
        return [[str(self.binaries / "passthrough"), str(self.folder / "disk.raw"), str(self.mountpoint)]]


class Libfuse(FuseSystem):
    """libfuse's own passthrough, which its Debian package brings as source: what FUSE costs by the usual library.

    It opens the backing file with the flags of the client, O_DIRECT among them: only on tmpfs is that the page cache.
    """

    name = "libfuse"
    transport: ClassVar[str] = "clone_fd"
    tools = FuseSystem.tools | {"gcc": "gcc", "pkg-config": "pkg-config", str(LIBFUSE_EXAMPLE): "libfuse3-dev"}

    def prepare(self) -> None:
        self._shown_folder().mkdir()
        new_file(self._shown_folder() / "disk.raw", self.size)
        self.make_program()

    def make_program(self) -> None:
        flags = call(["pkg-config", "--cflags", "--libs", "fuse3"]).split()
        call(["gcc", "-O2", str(LIBFUSE_EXAMPLE), "-o", str(self._program()), *flags])

    def commands(self) -> list[list[str]]:
        options = f"source={self._shown_folder()},cache=never,{self.transport}"
        return [[str(self._program()), "-f", "-o", options, str(self.mountpoint)]]

    def version(self) -> str:
        return f"libfuse {call(['pkg-config', '--modversion', 'fuse3']).strip()}"

    def _program(self) -> Path:
        return self.folder / "passthrough_ll"

    def _shown_folder(self) -> Path:
        return self.folder / "shown"


class LibfuseUring(Libfuse):
    """The same by FUSE over io_uring, which the newest libfuse can: what FUSE costs on that transport."""

    name = "libfuse-io-uring"
    transport = "io_uring"
    tools = FuseSystem.tools | {"gcc": "gcc"}

    @classmethod
    def missing(cls) -> str | None:
        return machine.fuse_over_io_uring_missing()

    def make_program(self) -> None:
        self._program().symlink_to(machine.newest_programs() / "passthrough_ll")

    def version(self) -> str:
        said = call([str(self._program()), "--version"])
        return next(line for line in said.splitlines() if "library" in line)
