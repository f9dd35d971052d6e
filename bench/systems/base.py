"""What every system has in common: it shows one file, and says which processes serve it.

The runner treats all systems alike: what can differ between them is in their classes.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from mounts import is_mounted, unmount
from process import Daemon

START_SECONDS = 20.0


class System(ABC):
    """A way to reach one file of a given size. Its folder is its own, to fill as it likes."""

    name: ClassVar[str]
    cargo_package: ClassVar[str | None] = None
    """Built before the run."""
    tools: ClassVar[Mapping[str, str]] = {}
    """Programs that it needs, and the Debian packages that bring them."""
    encrypts: ClassVar[bool] = False
    """Whether what lies on disk is ciphertext."""
    is_ours: ClassVar[bool] = False

    def __init__(self, folder: Path, size: int, binaries: Path) -> None:
        self.folder = folder
        self.size = size
        self.binaries = binaries

    @classmethod
    def missing(cls) -> str | None:
        """Why this machine cannot run it, apart from packages that could be installed."""
        return None

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


class FuseSystem(System):
    """A system that is a mount, served by processes in the foreground, most by one."""

    tools = {"fusermount3": "fuse3"}

    def __init__(self, folder: Path, size: int, binaries: Path) -> None:
        super().__init__(folder, size, binaries)
        self.mountpoint = folder / "mnt"
        self._daemons: list[Daemon] = []

    @abstractmethod
    def prepare(self) -> None:
        """Makes the backing side."""

    @abstractmethod
    def commands(self) -> list[list[str]]:
        """What to start, in this order, to have it mounted on `mountpoint`; none of them leaves the foreground."""

    def target(self) -> Path:
        return self.mountpoint / "disk.raw"

    def make_mountpoint(self) -> None:
        self.mountpoint.mkdir()

    def after_mount(self) -> None:
        """Makes the file, where it is made through the mount."""

    def is_ready(self, started: int) -> bool:
        """Whether the next command can be started, `started` of them running; after the last, whether it is mounted."""
        return is_mounted(self.mountpoint)

    def start(self) -> Path:
        self.make_mountpoint()
        self.prepare()
        for number, command in enumerate(self.commands(), start=1):
            self._daemons.append(Daemon(command, self.folder / f"log{number}"))
            self._wait_until_ready(number)
        self.after_mount()
        if self.target().stat().st_size != self.size:
            raise RuntimeError(f"{self.name} shows a disk of {self.target().stat().st_size} bytes, not {self.size}")
        return self.target()

    def _wait_until_ready(self, started: int) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not self.is_ready(started):
            if self._daemons[-1].has_ended() or time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} did not mount: {self.last_words()}")
            time.sleep(0.02)

    def stop(self) -> None:
        unmount(self.mountpoint)
        for daemon in reversed(self._daemons):
            daemon.stop()

    def pids(self) -> list[int]:
        return [daemon.pid for daemon in self._daemons]

    def last_words(self) -> str:
        return "\n".join(daemon.last_words() for daemon in self._daemons)


def new_file(path: Path, size: int) -> Path:
    with path.open("xb") as file:
        file.truncate(size)
    return path
