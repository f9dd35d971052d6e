"""LUKS images shown by FUSE: what QEMU's own tools, and nbdkit, offer who wants an encrypted image as a file."""

from __future__ import annotations

from pathlib import Path

import fio
from process import call, first_line
from systems.base import FuseSystem
from systems.folders import make_passphrase

# qemu-img times its key derivation, and gives up where the system accounts no CPU time to so short a piece of work.
UNTIMED = "Unable to get accurate CPU usage"
CREATIONS = 10


class LuksImage:
    """A LUKS image made by qemu-img: aes-256, xts, plain64, as its defaults are."""

    def __init__(self, folder: Path, size: int) -> None:
        self.folder = folder
        self.size = size

    def create(self) -> None:
        make_passphrase(self.passphrase_file())
        # The cost of deriving a key from the passphrase plays no part later.
        options = "key-secret=passphrase,iter-time=10"
        create = ["qemu-img", "create", "-q", "-f", "luks", "--object", self.secret(), "-o", options]
        for left in reversed(range(CREATIONS)):
            try:
                call([*create, str(self.path()), str(self.size)])
                return
            except RuntimeError as error:
                if not left or UNTIMED not in str(error):
                    raise

    def path(self) -> Path:
        return self.folder / "disk.luks"

    def passphrase_file(self) -> Path:
        return self.folder / "passphrase"

    def secret(self) -> str:
        """The option by which QEMU's programs learn the passphrase."""
        return f"secret,id=passphrase,file={self.passphrase_file()}"


class LuksSystem(FuseSystem):
    """A LUKS image, shown by some program."""

    encrypts = True

    def __init__(self, folder: Path, size: int, binaries: Path) -> None:
        super().__init__(folder, size, binaries)
        self.image = LuksImage(folder, size)

    def prepare(self) -> None:
        self.image.create()


class QemuStorageDaemon(LuksSystem):
    """qemu-storage-daemon: its LUKS driver and its FUSE export. The mountpoint is the file."""

    name = "qemu-luks"
    tools = FuseSystem.tools | {"qemu-storage-daemon": "qemu-system-common", "qemu-img": "qemu-utils"}

    def make_mountpoint(self) -> None:
        self.mountpoint.touch()

    def target(self) -> Path:
        return self.mountpoint

    def commands(self) -> list[list[str]]:
        return [
            [
                "qemu-storage-daemon",
                "--object",
                self.image.secret(),
                "--blockdev",
                f"driver=file,node-name=file,filename={self.image.path()},aio=threads",
                "--blockdev",
                "driver=luks,node-name=luks,file=file,key-secret=passphrase",
                "--export",
                f"type=fuse,id=export,node-name=luks,mountpoint={self.mountpoint},writable=on",
            ]
        ]

    def version(self) -> str:
        return first_line(["qemu-storage-daemon", "--version"])


class Nbdkit(LuksSystem):
    """nbdkit's LUKS filter, mounted by nbdfuse over four connections."""

    name = "nbdkit-luks"
    tools = FuseSystem.tools | {"nbdkit": "nbdkit", "nbdfuse": "libnbd-bin", "qemu-img": "qemu-utils"}

    def commands(self) -> list[list[str]]:
        passphrase = f"passphrase=+{self.image.passphrase_file()}"
        serve = ["nbdkit", "--foreground", "--unix", str(self._socket())]
        mount = ["nbdfuse", "-C", "4", str(self.target()), "--unix", str(self._socket())]
        return [[*serve, "--filter=luks", "file", str(self.image.path()), passphrase], mount]

    def is_ready(self, started: int) -> bool:
        return self._socket().exists() if started == 1 else super().is_ready(started)

    def version(self) -> str:
        return first_line(["nbdkit", "--version"])

    def _socket(self) -> Path:
        return self.folder / "socket"


def filled_luks(work: Path, size: int) -> tuple[list[str], str]:
    """Makes a LUKS image that holds what other systems are filled with; returns the options that QEMU's programs need
    for its passphrase, and its block driver's."""
    image = LuksImage(work, size)
    image.create()
    plain = work / "filling"
    with plain.open("xb") as file:
        file.truncate(size)
    fio.fill(plain, size)
    luks = f"driver=luks,key-secret=passphrase,file.driver=file,file.filename={image.path()}"
    call(["qemu-img", "convert", "-n", "--object", image.secret(), "--target-image-opts", str(plain), luks])
    plain.unlink()
    return ["--object", image.secret()], luks
